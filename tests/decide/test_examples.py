"""Few-shot examples from history: what is chosen, in which order, and what must never be shown."""

from __future__ import annotations

import copy
import math
import os
import pickle
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.decide import duplicates
from workbench.decide.duplicates import LONGEST, NEAR, near_duplicate
from workbench.decide.examples import (
    BARRED,
    COPY,
    COPY_OF_CHOSEN,
    EXCLUDED,
    LOW_QUALITY,
    MOST,
    POOL,
    SAME_ITEM,
    TOO_LONG,
    ExampleIndex,
    Shot,
    select,
)
from workbench.errors import LLMValidationError

ROOT = Path(__file__).parents[2]


def shot(prompt, *, item=None, quality=1.0):
    """A shot with an answer that names it."""
    return Shot(item, prompt, f"answer to {prompt[:40]}", quality)


def index(*prompts, limit=10_000):
    """An index of prompts, oldest first."""
    return ExampleIndex.of([shot(prompt) for prompt in prompts], limit=limit)


def prompts(selection):
    """The prompts that were chosen."""
    return [taken.shot.prompt for taken in selection.chosen]


def reasons(selection):
    """Prompt -> why it was excluded."""
    return {one.prompt: reason for one, reason in selection.excluded}


# -- the choice

COOKING = ("boil an egg slowly", "fry one egg quickly", "paint the garden fence")


def test_relevance_is_the_cosine_of_words_weighted_by_idf():
    """Three shots of four words: "egg" is in two of them, every other word in one."""
    rare, common = math.log(1 + 3 / 1) ** 2, math.log(1 + 3 / 2) ** 2
    norm = 3 * rare + common
    chosen = select(index(*COOKING), "egg and fence", k=2, relevance=1).chosen
    asked = 2 * rare + common  # "and" is in no shot and counts as a word of one shot
    assert chosen[0].shot.prompt == "paint the garden fence"
    assert chosen[0].relevance == pytest.approx(rare / math.sqrt(4 * rare * asked), abs=1e-6)
    assert chosen[1].relevance == pytest.approx(common / math.sqrt(norm * asked), abs=1e-6)


def test_similarity_to_what_was_taken_is_the_largest_cosine():
    """The first has none before it; the two eggs share one word of four."""
    rare, common = math.log(1 + 3 / 1) ** 2, math.log(1 + 3 / 2) ** 2
    chosen = select(index(*COOKING), "boil eggs or fry egg", k=3, relevance=1).chosen
    assert [taken.shot.prompt for taken in chosen] == ["fry one egg quickly", "boil an egg slowly"]
    assert chosen[0].similarity_to_taken == 0
    assert chosen[1].similarity_to_taken == pytest.approx(common / (3 * rare + common), abs=1e-6)


def test_diversity_prefers_what_is_unlike_those_taken():
    """Of two shots on eggs one is taken, and then the one on tea; relevance alone takes both on eggs."""
    history = index("boiling tea for a guest", "boiling eggs in salted water", "peeling eggs under cold water")
    asked = "eggs in water, boiling"
    assert prompts(select(history, asked, k=2, relevance=1))[1] == "peeling eggs under cold water"
    assert prompts(select(history, asked, k=2, relevance=0.2))[1] == "boiling tea for a guest"


def test_ties_go_to_the_newest():
    """Equal words in another order of history."""
    pair = ["red apples taste of summer", "red cherries smell of rain"]
    for order in (pair, pair[::-1]):
        assert prompts(select(index(*order), "what is red?", k=1)) == [order[-1]]
    assert prompts(select(index(*pair), "what is red?", k=1, relevance=0)) == [pair[-1]]


def test_ties_at_the_edge_of_the_pool_go_to_the_newest_too():
    """Of 40 shots with the same cosine the newest are looked at, whatever the pool holds."""
    many = [f"red {word(i)} {word(i + 300)} {word(i + 600)}" for i in range(40)]
    assert prompts(select(index(*many), "what is red?", k=1)) == [many[-1]]


def word(number):
    """A word for a number, in letters that share no long stretch with those of another number."""
    return "".join(random.Random(number).choices("abcdefghijklmnopqrstuvwxyz", k=9))


def test_a_shot_without_a_common_word_is_not_chosen():
    """Fewer than k, or none: what has nothing to do with the query teaches nothing."""
    assert prompts(select(index(*COOKING), "who sells a fence?", k=3)) == ["paint the garden fence"]
    assert select(index(*COOKING), "Wie geht es?").chosen == ()
    assert select(index(), "anything").chosen == ()
    assert select(index("?!", *COOKING), "!?").chosen == ()


def test_any_number_is_a_word():
    """Sums are like other sums, however they are written."""
    history = index("paint the fence", "12 + 30", "a song of love")
    assert prompts(select(history, "7 - 5")) == ["12 + 30"]
    assert prompts(select(history, "٧ - ٥")) == ["12 + 30"]


def test_words_are_compared_without_case_and_compatibility_forms():
    """As Unicode folds them: ß and SS, full width, precomposed and combining accents; soft hyphens part nothing."""
    for asked, found in (("STRASSE", "Straße"), ("ＣＡＦÉ", "cafe\u0301"), ("soft", "so\u00adft"), ("😀", "ha😀ha")):
        history = index(f"{found} today", "else here")
        assert prompts(select(history, f"why {asked}, of all?")) == [f"{found} today"], asked


@pytest.mark.parametrize(
    ("history", "asked", "found"),
    [
        (("法国的首都在哪里", "今天天气很好"), "首都是什么", "法国的首都在哪里"),
        (("東京の天気はどう", "猫が好きです"), "明日の天気", "東京の天気はどう"),
        (("한국의수도는어디", "날씨가좋다"), "수도가 뭐야", "한국의수도는어디"),
        (("กรุงเทพอยู่ที่ไหน", "แมวกินปลา"), "อยากไปกรุงเทพพรุ่งนี้", "กรุงเทพอยู่ที่ไหน"),
    ],
)
def test_scripts_without_spaces_are_compared_by_pairs_of_characters(history, asked, found):
    """Chinese, Japanese, Korean and Thai find what shares two characters in a row."""
    assert prompts(select(index(*history), asked)) == [found]


@given(st.integers(0, 10**9))
@settings(max_examples=60)
def test_the_choice_is_that_of_the_definition(seed):
    """A second implementation, in sets and loops, takes the same shots with the same numbers."""
    draw = random.Random(seed)
    vocabulary = [word(i) for i in range(30)]
    texts = [" ".join(draw.choices(vocabulary, weights=range(1, 31), k=draw.randint(2, 9))) for _ in range(25)]
    asked, balance, k = " ".join(draw.choices(vocabulary, k=6)), draw.choice([0, 0.3, 0.7, 1]), draw.randint(2, 5)
    got = select(index(*texts), asked, k=k, relevance=balance).chosen
    counts = Counter(w for text in texts for w in set(text.split()))

    def cosine(one, other):
        def weight(words):
            return sum(round(1e6 * math.log(1 + 25 / max(1, counts[w])) ** 2) for w in words)

        one, other = set(one.split()), set(other.split())
        return weight(one & other) / math.sqrt(weight(one) * weight(other))

    rest = [text for text in reversed(texts) if cosine(text, asked) and not near_duplicate(text, asked)]
    for taken in got:
        before = [other.shot.prompt for other in got[: got.index(taken)]]
        rest = [text for text in rest if not any(near_duplicate(text, other) for other in before)]
        worth = {
            text: balance * cosine(text, asked) - (1 - balance) * max((cosine(text, b) for b in before), default=0)
            for text in rest
        }
        # Two ways of adding may differ in the last digit, so that equal worths are told apart only to 12 digits.
        assert worth[taken.shot.prompt] == pytest.approx(max(worth.values()), abs=1e-12)
        assert taken.relevance == pytest.approx(cosine(taken.shot.prompt, asked), abs=1e-12)
        assert taken.similarity_to_taken == pytest.approx(
            max((cosine(taken.shot.prompt, b) for b in before), default=0), abs=1e-12
        )
        rest.remove(taken.shot.prompt)
    assert len(got) == k or not [text for text in rest if not any(near_duplicate(text, t.shot.prompt) for t in got)]


# -- what is excluded

ASKED = "tell me about eggs"


def test_the_item_itself_is_never_shown():
    """Whatever its text; without an id nothing is taken for it."""
    history = ExampleIndex.of([shot("boil the eggs", item="i1"), shot("fry two eggs", item="i2"), shot("my eggs")])
    got = select(history, ASKED, item_id="i1")
    assert prompts(got) == ["my eggs", "fry two eggs"]
    assert reasons(got) == {"boil the eggs": SAME_ITEM}
    assert len(select(history, ASKED, item_id="other").chosen) == len(select(history, ASKED).chosen) == 3


def test_excluded_items_and_low_quality_are_named():
    """With the item itself: each has its reason, and the item's comes before the others."""
    history = ExampleIndex.of(
        [
            shot("boil the eggs", item="i1", quality=0.1),
            shot("fry two eggs", item="i2"),
            shot("peel some eggs", quality=0.49),
            shot("beat cold eggs", quality=0.5),
        ]
    )
    got = select(history, ASKED, item_id="i1", exclude={"i2", "unknown"})
    assert prompts(got) == ["beat cold eggs"]
    assert reasons(got) == {"boil the eggs": SAME_ITEM, "fry two eggs": BARRED, "peel some eggs": LOW_QUALITY}
    assert len(select(history, ASKED, min_quality=0).chosen) == 4


def test_near_duplicates_of_the_query_and_of_each_other_are_left_out():
    """Each is named; of two copies the newer is shown."""
    history = index(
        "How do I boil eggs?", "Which pan fries eggs best", "which pan fres eggs best?", "do eggs boil over"
    )
    got = select(history, "how do i  BOIL eggs", k=4)
    assert sorted(prompts(got)) == ["do eggs boil over", "which pan fres eggs best?"]
    assert reasons(got) == {"How do I boil eggs?": COPY, "Which pan fries eggs best": COPY_OF_CHOSEN}


def test_a_shot_too_long_to_be_read_as_a_whole_is_never_shown():
    """A copy could hide in the part that is not read."""
    padding = "filler " * (LONGEST // 7)
    history = index("boil the eggs", f"eggs {padding}"[: LONGEST + 1], f"eggs {padding}"[:LONGEST])
    got = select(history, ASKED)
    assert sorted(map(len, prompts(got))) == [len("boil the eggs"), LONGEST]
    assert list(reasons(got).values()) == [TOO_LONG]


def test_copies_do_not_use_up_the_choice():
    """More copies of the query than any pool holds, all closer to it than the two shots that may be shown."""
    asked = "how many eggs does the farmer sell on a rainy market day"
    copies = [f"{asked} {'!' * i}" for i in range(6 * POOL)]
    got = select(index("eggs and spoons", "the farmer has a horse", *copies), asked, k=2)
    assert sorted(prompts(got)) == ["eggs and spoons", "the farmer has a horse"]
    assert [reason for _, reason in got.excluded] == [COPY] * len(copies)


def test_what_is_named_as_excluded_is_bounded():
    """The guard's refusals first, then the newest of what the caller barred."""
    low = [shot(f"eggs {word(i)}", quality=0.1) for i in range(3 * EXCLUDED)]
    got = select(ExampleIndex.of([*low, shot("boil eggs"), shot("eggs, fried")]), "boil eggs!", k=1)
    assert prompts(got) == ["eggs, fried"]
    assert got.excluded[0][1] == COPY
    assert len(got.excluded) == EXCLUDED
    assert [one for one, _ in got.excluded[1:]] == low[:-EXCLUDED:-1]


def test_only_what_is_as_relevant_is_named_as_excluded():
    """With a full pool, shots of low quality that are further away than all of it are of no interest."""
    near = [shot(f"boil eggs {word(i)}") for i in range(POOL)]
    history = ExampleIndex.of([shot(f"boil {word(99)}", quality=0), *near, shot(f"boil eggs {word(98)}", quality=0)])
    assert reasons(select(history, "boil eggs now please", k=1)) == {f"boil eggs {word(98)}": LOW_QUALITY}


# -- the guard

EGGS = "Ann has 12 eggs and sells 5 of them on Monday. How many eggs does Ann have left?"
CAPITAL = "Question:\nWhich city is the capital of Australia?\nOptions:\nA. Sydney\nB. Canberra\nC. Melbourne\nD. Perth"


@pytest.mark.parametrize(
    "planted",
    [
        EGGS.upper(),
        EGGS.replace(" ", "   \n"),
        EGGS.replace(" ", "\u00a0"),
        EGGS.replace(".", "").replace("?", "!!"),
        f"Please answer. {EGGS} Thank you!",
        "Ann has 12 egs and sells 5 of tehm on Mondey. How many eggs does Ann have left?",
        "Ann\u200b has １２ eggs and sells ５ of them on Mon\u00adday. How many eggs does Ann have left?",
        f"Bob has 3 dogs. How many legs? 12\n\n{EGGS}",
        EGGS[:-12],
        EGGS[12:],
        "How many eggs does Ann have left? Ann has 12 eggs and sells 5 of them on Monday.",
        "On Monday Ann, who has 12 eggs, sells 5 of them. How many eggs does Ann have left?",
    ],
)
def test_a_copy_is_found(planted):
    """Other case, space, punctuation, politeness, typos, width, a part, a longer text, sentences in another order."""
    assert near_duplicate(EGGS, planted)
    assert near_duplicate(planted, EGGS)
    assert prompts(select(index(planted, "Ann sells a house"), EGGS)) == ["Ann sells a house"]


@pytest.mark.parametrize(
    "other",
    [
        EGGS.replace("12", "30").replace("5", "8"),
        EGGS.replace("5", "8"),
        "Ann has 12 horses and rides 5 of them on Monday. How many saddles does Ann need?",
        "How many eggs does Ann have left?",
    ],
)
def test_another_question_passes(other):
    """Other numbers in the same words, another matter with the same numbers, a question that lacks its facts."""
    expected = other == "How many eggs does Ann have left?"  # a part of the query that is all of the other
    assert near_duplicate(EGGS, other) is expected
    assert near_duplicate(other, EGGS) is expected


def test_options_in_another_order_are_a_copy():
    """Their letters move, too."""
    moved = CAPITAL.replace(
        "A. Sydney\nB. Canberra\nC. Melbourne\nD. Perth", "A. Perth\nB. Melbourne\nC. Canberra\nD. Sydney"
    )
    assert near_duplicate(CAPITAL, moved)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("1,000 eggs cost 2.5", "1000 eggs cost 2,5", True),
        ("1, 2, 3: what is next in this row?", "1,2,3: what is next in this row?", True),
        ("2+2", "What is 2 + 2?", True),
        ("2+2", "What is 12 + 25?", False),
        ("What is 12 + 7?", "What is 12 + 9?", False),
        ("hi", "Say hi to Bob", True),
        ("hi", "Think of this thing", False),
        ("?!", "...", True),
        ("", "a", False),
        ("What is the capital of France?", "What is the capital of Mongolia?", False),
        ("What is the capital of France?", "What is the capitol of Frnace?", True),
        ("法国的首都是哪里？", "请问，法国的首都是哪里", True),
        ("法国的首都是哪里？", "日本的首都是什么？", False),
        ("Где находится столица Франции?", "ГДЕ   находится столица франции", True),
        ("What does 😀 mean?", "What does 😡 mean?", False),
        ("\ud800" * 9, "\ud800" * 9 + "x", True),
    ],
)
def test_short_texts_numbers_and_other_scripts(one, other, expected):
    """Digits alone are compared as whole words; separators inside of a number do not count."""
    assert near_duplicate(one, other) is expected
    assert near_duplicate(other, one) is expected


def test_one_number_in_ten_may_differ():
    """A table of ten numbers with one changed is the same table; with two it is another one."""
    row = [str(n) for n in range(101, 111)]
    table = "Add up all of the numbers that stand in this table: " + " ".join(row)
    assert near_duplicate(table, table.replace("105", "999"))
    assert not near_duplicate(table, table.replace("105", "999").replace("103", "888"))


def test_four_fifths_in_one_piece_are_a_copy_whatever_the_rest_says():
    """Also with an end or a beginning in other words; not with a number in it that is another one."""
    fact = "The market in the old town opens at dawn and sells bread, cheese and flowers"
    assert near_duplicate(f"{fact}. Who bakes it?", f"{fact} and rare mushrooms")
    assert near_duplicate(f"Look here: {fact}", f"Nobody knows why: {fact}")
    assert not near_duplicate(fact.replace("dawn", "7"), fact.replace("dawn", "8"))
    assert not near_duplicate(f"{fact}. Who bakes it?", f"{fact[:40]} so that {word(1)} {word(2)} {word(3)}")


@given(st.text(max_size=40), st.text(max_size=40))
def test_the_guard_is_symmetric_and_a_text_is_a_copy_of_itself(one, other):
    """For any characters."""
    assert near_duplicate(one, other) == near_duplicate(other, one)
    assert near_duplicate(one, one)
    assert near_duplicate(one, f"  {one.lower()} ! ") or one.lower().casefold() != one.casefold()


# -- the index as a value

LINES = [f"{word(i % 37)} {word(i % 11)} {word(i)} eggs {i}" for i in range(60)]


def same_choice(one, other):
    """Whether two indexes choose the same for some queries, to the last bit."""
    asked = ["eggs", f"eggs {word(3)} {word(5)}", f"{word(1)} {word(2)} 7"]
    return all(select(one, query, k=5) == select(other, query, k=5) for query in asked)


@pytest.mark.parametrize("limit", [1, 7, 25, 100])
def test_an_index_that_grew_is_the_index_of_its_shots(limit):
    """Also after it dropped the oldest again and again, and took what nobody reads any more out of its memory."""
    grown = ExampleIndex.of([], limit=limit)
    for number, line in enumerate(LINES, 1):
        grown = grown.added(shot(line))
        assert [one.prompt for one in grown.shots] == LINES[max(0, number - limit) : number]
        assert len(grown) == min(limit, number)
    again = ExampleIndex.of(grown.shots, limit=limit)
    assert again == grown
    assert same_choice(again, grown)


def test_adding_leaves_the_index_as_it_was():
    """Values made of one value know nothing of each other, in whatever order they are made and used."""
    base = index(*LINES[:20], limit=22)
    before = [select(base, "eggs", k=5), base.shots]
    left, right = base.added(shot("left eggs")), base.added(shot("right eggs"))
    later = left.added(shot("later eggs")).added(shot("latest eggs"))
    assert [select(base, "eggs", k=5), base.shots] == before
    for made, last in ((left, ["left eggs"]), (right, ["right eggs"]), (later, ["left", "later", "latest"])):
        expected = [*LINES[:20], *[text if " " in text else f"{text} eggs" for text in last]][-22:]
        assert [one.prompt for one in made.shots] == expected
        assert same_choice(made, index(*expected, limit=22))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 59)), min_size=1, max_size=40))
@settings(max_examples=25)
def test_a_tree_of_values_is_the_indexes_of_their_shots(steps):
    """Any earlier value can be grown again."""
    made = [ExampleIndex.of([], limit=8)]
    for parent, line in steps:
        made.append(made[parent % len(made)].added(shot(LINES[line])))
    for value in made[-5:]:
        assert same_choice(value, ExampleIndex.of(value.shots, limit=8))


def test_an_index_can_be_copied_compared_and_saved():
    """By its shots and its limit; nothing about it can be changed."""
    made = index(*LINES[:9], limit=9)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other == made
        assert hash(other) == hash(made)
        assert same_choice(other, made)
    assert made != index(*LINES[:9], limit=10)
    assert made != index(*LINES[:8], limit=9)
    assert made != LINES
    assert repr(made) == "ExampleIndex(9 shots, limit=9)"
    with pytest.raises(AttributeError):
        made.limit = 3


def test_more_shots_than_the_limit_leave_the_last():
    """As if they had been added one by one."""
    assert [one.prompt for one in index(*LINES, limit=5).shots] == LINES[-5:]


def test_a_choice_is_the_same_in_every_process():
    """Whatever the seed of Python's own hashes."""
    code = (
        "from workbench.decide.examples import *\n"
        "shots = [Shot(None, f'{a} eggs {b} {a * 3}', 'x', 1.0) for a in 'abcdefghij' for b in ('red', 'green')]\n"
        "print(select(ExampleIndex.of(shots), 'green eggs of a red hen', k=8))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=True, timeout=60,
        ).stdout
        for seed in ("0", "1", "4711")
    }  # fmt: skip
    assert len(outputs) == 1
    assert "green" in outputs.pop()


# -- refusals


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ((None, " \n", "a", 1.0), "prompt"),
        ((None, "p", "", 1.0), "answer"),
        ((None, None, "a", 1.0), "prompt"),
        ((7, "p", "a", 1.0), "item"),
        ((None, "p", "a", 1.01), "quality"),
        ((None, "p", "a", math.nan), "quality"),
        ((None, "p", "a", True), "quality"),
        ((None, "p", "a", "1"), "quality"),
    ],
)
def test_an_example_without_prompt_answer_or_quality_is_refused(fields, found):
    """By name of what is wrong with it."""
    with pytest.raises(LLMValidationError, match=found) as refused:
        Shot(*fields)
    assert refused.value.code == "validation.example"


def test_only_shots_are_indexed():
    """A pair of texts is none."""
    for make in (lambda: ExampleIndex.of([("p", "a")]), lambda: index().added("p")):
        with pytest.raises(LLMValidationError, match="not a Shot") as refused:
            make()
        assert refused.value.code == "validation.example"


@pytest.mark.parametrize("query", ["", " \t\n", None, 7, b"eggs"])
def test_a_blank_query_is_refused(query):
    """There is nothing to be relevant to."""
    with pytest.raises(LLMValidationError) as refused:
        select(index("eggs"), query)
    assert refused.value.code == "validation.query"


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0}, {"k": MOST + 1}, {"k": 2.0}, {"k": True}, {"item_id": 7},
        {"min_quality": -0.1}, {"min_quality": math.nan}, {"min_quality": "1"},
        {"relevance": 1.1}, {"relevance": None}, {"relevance": False},
        {"exclude": "i1"}, {"exclude": 7}, {"exclude": [7]}, {"exclude": [None]},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(options):
    """Also a text where a collection of items belongs, which would exclude its letters."""
    with pytest.raises(LLMValidationError) as refused:
        select(index("eggs"), "eggs", **options)
    assert refused.value.code == "validation.config"
    assert len(refused.value.next_step) <= 160


@pytest.mark.parametrize("limit", [0, -1, 1.5, None, True])
def test_a_limit_below_one_is_refused(limit):
    """An index without room would forget what it is told."""
    with pytest.raises(LLMValidationError) as refused:
        ExampleIndex.of([], limit=limit)
    assert refused.value.code == "validation.config"


# -- time


def seconds(task, repeats=3):
    """The least processor time of a task over some repetitions."""
    taken = []
    for _ in range(repeats):
        start = time.process_time()
        task()
        taken.append(time.process_time() - start)
    return min(taken)


HOSTILE = {
    "one letter": "a",
    "brackets": "([{",
    "quotes": "\"'",
    "emoji": "😀",
    "newlines": "\n",
    "digits": "7",
    "numbers": "1 ",
    "marks": "\u0301\u0323",
    "expanding": "\ufdfa",
    "surrogates": "\ud800",
    "ideographs": "法国",
    "words": "eggs are ",
    "bytes": bytes(range(256)).decode("latin-1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_take_bounded_time(name):
    """A megabyte costs what the part costs that is read, and that part is read in linear time."""
    made = HOSTILE[name] * (1_000_000 // len(HOSTILE[name]))
    history = index("eggs are a 7 😀 法国", f"eggs {made[: LONGEST // 2]}", "x" + made[: LONGEST // 2])

    def work(length):
        text = f"eggs {made[:length]}"
        return lambda: (select(history, text), near_duplicate(text, text[5:] + "y"), history.added(shot(text)))

    whole, half = seconds(work(1_000_000)), seconds(work(500_000))
    assert whole < 4 * half + 0.02
    assert seconds(work(LONGEST)) < 4 * seconds(work(LONGEST // 2)) + 0.02
    assert whole < 1


@pytest.fixture(scope="module")
def large():
    """An index of 10,000 shots of some 40 words, 2,000 of them in use, as common as words are."""
    draw = random.Random(7)
    vocabulary = [word(i) for i in range(2000)]
    odds = [1 / rank for rank in range(1, 2001)]
    lines = [" ".join(draw.choices(vocabulary, odds, k=40)) for _ in range(10_300)]
    return lines, index(*lines[:10_000])


@pytest.mark.slow
def test_a_choice_among_ten_thousand_is_not_ten_times_one_among_a_thousand(large):
    """The number of entries read is bounded; what is left grows with the scores that are compared."""
    lines, history = large
    small = index(*lines[9_000:10_000])
    asked = [line[:500] for line in lines[10_000:10_100]]

    def choose(among):
        return lambda: [select(among, query) for query in asked]

    assert seconds(choose(history)) < 4 * seconds(choose(small))


@pytest.mark.slow
def test_adding_one_to_ten_thousand_does_not_cost_ten_thousand(large):
    """It costs less than five times what adding to an empty index costs, also while the oldest are dropped."""
    lines, history = large

    def grow(start):
        def task():
            made = start
            for line in lines[10_000:]:
                made = made.added(shot(line))

        return task

    # The first value made of an index shares its memory; later ones would copy it, so each is grown once.
    assert seconds(grow(history.added(shot("one more"))), 1) < 5 * seconds(grow(index()), 3)


# -- planted copies of real questions

OPTION = re.compile(r"^([A-J])\. (.*)$", re.M)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def typos(draw, text):
    """One in 40 letters left out, doubled, replaced, or swapped with the next character; at least one."""
    chars = list(text)
    places = [i for i, char in enumerate(chars[:-1]) if char.isalpha()]
    for i in draw.sample(places, max(1, len(places) // 40)):
        if draw.random() < 0.25:
            chars[i], chars[i + 1] = chars[i + 1], chars[i]
        else:
            chars[i] = draw.choice(["", chars[i] * 2, draw.choice(LETTERS)])
    return "".join(chars)


def reordered(draw, text):
    """The options shuffled, the letters before them in place."""
    options = [option for _, option in OPTION.findall(text)]
    draw.shuffle(options)
    return OPTION.sub(lambda found: f"{found[1]}. {options.pop()}", text)


def polite(draw, text):
    """With courtesies before and behind."""
    before = draw.choice(["Please answer this: ", "Hello! I need some help with the following question.\n\n", ""])
    return before + text + draw.choice([" Thank you!", "\nThanks in advance for your help."])


def cased(draw, text):
    """In another case."""
    return draw.choice([str.upper, str.lower, str.title, str.swapcase])(text)


def spaced(draw, text):
    """With other white space."""
    return "".join(draw.choice([" ", "  ", "\n", "\t "]) if char == " " else char for char in text) + "\n"


def mostly(draw, text):
    """At least four fifths of it, from the start or to the end, with words around."""
    least = -(-len(text) * 4 // 5)
    if draw.random() < 0.5:
        end = text.find(" ", least)
        return f"Consider this: {text if end < 0 else text[:end]} What follows?"
    start = text.rfind(" ", 0, len(text) - least)
    return f"Consider this: {text[max(0, start) :]} What follows?"


PLANTED = {
    "typos": typos,
    "case": cased,
    "space": spaced,
    "no space": lambda draw, text: text.replace(" ", ""),
    "punctuation": lambda draw, text: re.sub(r"[.,;:'\"]", "", text).replace("?", " ???") + " .",
    "politeness": polite,
    "options": reordered,
    "part": mostly,
    "inside": lambda draw, text: f"Q: How many legs have 7 spiders?\nA: 56\n\nQ: {text}\nA:",
    "all": lambda draw, text: polite(draw, cased(draw, spaced(draw, typos(draw, reordered(draw, text))))),
}


def renumbered(draw, text):
    """Every number replaced by another one of as many digits."""
    return re.sub(r"\d+", lambda found: str((int(found[0]) + draw.randint(1, 8)) % 10 ** len(found[0])), text)


@pytest.fixture(scope="module")
def questions(recordings):
    """Recording -> item id -> prompt."""
    found = {}
    for name in ("gsm8k_openai2021", "mmlu_pro"):
        query = "select item_id, any_value(prompt) from read_parquet(?) group by all order by item_id"
        found[name] = dict(duckdb.connect().execute(query, [str(recordings / f"{name}.parquet")]).fetchall())
    return found


def recall(texts):
    """Kind of copy -> share of texts of which the guard finds a planted one."""
    return {
        kind: sum(near_duplicate(text, plant(random.Random(f"{kind} {text}"), text)) for text in texts) / len(texts)
        for kind, plant in PLANTED.items()
    }


@pytest.mark.recordings
@pytest.mark.slow
def test_the_threshold_is_the_largest_that_finds_planted_copies(questions, monkeypatch):
    """On a third of the even half: 99.5 % of each kind, and with a threshold of 0.1 more fewer of those with it all."""
    half = {name: list(prompts.values())[::6] for name, prompts in questions.items()}
    assert min(share for texts in half.values() for share in recall(texts).values()) >= 0.995
    monkeypatch.setattr(duplicates, "NEAR", NEAR + 0.1)
    assert recall(half["mmlu_pro"])["all"] < 0.995


@pytest.mark.recordings
@pytest.mark.slow
def test_planted_copies_of_other_questions_are_found(questions):
    """On the odd half, on which no threshold was set: 99 % of each kind, and hardly a question with new numbers."""
    for name, prompts in questions.items():
        texts = list(prompts.values())[1::2]
        found = recall(texts[::3])
        assert min(found.values()) >= 0.99, (name, found)
        other = [(text, renumbered(random.Random(text), text)) for text in texts]
        changed = [near_duplicate(text, new) for text, new in other if text != new]
        assert sum(changed) <= 0.01 * len(changed), name


@pytest.mark.recordings
@pytest.mark.slow
def test_hardly_a_distinct_question_is_taken_for_a_copy(questions):
    """With the 20 closest to each question of the odd half, at most 3 in 1,000; some are copies in the source."""
    for name, prompts in questions.items():
        history = ExampleIndex.of([shot(text, item=item) for item, text in prompts.items()])
        refused = shown = 0
        for item, text in list(prompts.items())[1::4]:
            got = select(history, text, k=20, item_id=item, relevance=1)
            refused += sum(reason == COPY for _, reason in got.excluded)
            shown += len(got.chosen)
        assert shown > 3000
        assert refused <= 0.003 * (refused + shown), (name, refused, shown)
