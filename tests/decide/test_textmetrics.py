"""Text metrics: the values of sacrebleu and rouge-score, for one pair and for all pairs of many candidates."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.decide import textmetrics
from workbench.decide.textmetrics import METRICS, bleu, chrf, pairwise, rouge_l, rouge_n, token_f1
from workbench.errors import LLMValidationError

# (hypothesis, references, (chrF, BLEU, ROUGE-1, ROUGE-2, ROUGE-L)) as sacrebleu 2.6.0 and rouge-score 0.1.2 give them:
# sentence_chrf, sentence_bleu, and RougeScorer(use_stemmer=False).score_multi. tests/oracles scores 1,000 more pairs.
FROZEN = [
    (
        "the cat sat on the mat",
        ["the cat sat on a mat"],
        (72.084831731, 53.728496591, 0.833333333, 0.600000000, 0.833333333),
    ),
    (
        "The quick brown fox jumps over the lazy dog.",
        ["The quick brown dog jumps on the log."],
        (59.235978435, 19.304869755, 0.705882353, 0.266666667, 0.588235294),
    ),
    (
        "red green blue black",
        ["blue black red green"],
        (81.092032967, 45.180100180, 1.000000000, 0.666666667, 0.500000000),
    ),
    (
        "Same text, same score.",
        ["Same text, same score."],
        (100.000000000, 100.000000000, 1.000000000, 1.000000000, 1.000000000),
    ),
    ("", ["something"], (0.000000000, 0.000000000, 0.000000000, 0.000000000, 0.000000000)),
    ("something", [""], (0.000000000, 0.000000000, 0.000000000, 0.000000000, 0.000000000)),
    ("", [""], (0.000000000, 0.000000000, 0.000000000, 0.000000000, 0.000000000)),
    (" \t\n\u3000", ["a"], (0.000000000, 0.000000000, 0.000000000, 0.000000000, 0.000000000)),
    ("a", ["a"], (100.000000000, 100.000000000, 1.000000000, 0.000000000, 1.000000000)),
    ("a", ["b"], (0.000000000, 0.000000000, 0.000000000, 0.000000000, 0.000000000)),
    ("Paris", ["paris"], (54.333333333, 0.000000000, 1.000000000, 0.000000000, 1.000000000)),
    ("!?...", ["..?!"], (31.626506024, 25.406637408, 0.000000000, 0.000000000, 0.000000000)),
    (
        "It cost 1,234.5 dollars, not 1234.5.",
        ["It costs 1,234.50 dollars; not 1,234.5!"],
        (55.345411032, 7.809849842, 0.631578947, 0.352941176, 0.631578947),
    ),
    (
        "from 2019-2020 well-known state-\nof-the-art x.5 a..5 .7",
        ["from 2019 - 2020 well known state-of-the-art x.5 a . .5 0.7"],
        (88.802841220, 42.571108669, 0.965517241, 0.888888889, 0.965517241),
    ),
    (
        "&quot;AT&amp;T&quot; &lt;b&gt; &amp;lt; <skipped>",
        ['"AT&T" <b> < skipped'],
        (33.332761284, 89.483931681, 0.533333333, 0.000000000, 0.533333333),
    ),
    (
        "Der schnelle braune Fuchs springt über den faulen Hund.",
        ["Der flinke braune Fuchs sprang über die faulen Hunde."],
        (58.353264094, 11.044795567, 0.555555556, 0.125000000, 0.555555556),
    ),
    (
        "Die Straße ist naß und größer",
        ["DIE STRASSE ist nass, und größer"],
        (38.083649260, 15.207218223, 0.666666667, 0.307692308, 0.666666667),
    ),
    (
        "今天天气很好，我们去公园吧。",
        ["今天天氣很好，我們去公園玩吧。"],
        (26.160276839, 0.000000000, 0.000000000, 0.000000000, 0.000000000),
    ),
    (
        "東京は日本の首都です。 It has 14 million people.",
        ["日本の首都は東京です。 14 million people live there."],
        (52.649527399, 26.269098944, 0.600000000, 0.500000000, 0.600000000),
    ),
    (
        "I ❤️ 🍕 and 👩\u200d👩\u200d👧 families 😀😀",
        ["I ❤ 🍕🍕 and 👩\u200d👧 family 😀"],
        (57.238993393, 7.809849842, 0.666666667, 0.500000000, 0.666666667),
    ),
    (
        "def add(a, b):\n    return a + b  # sum\n",
        ["def add(x, y):\n\treturn x+y\n"],
        (52.168515060, 19.104081614, 0.400000000, 0.153846154, 0.400000000),
    ),
    (
        "the the the the the the the",
        ["the cat is on the mat", "there is a cat on the mat"],
        (14.232426848, 7.809849842, 0.307692308, 0.000000000, 0.307692308),
    ),
    (
        "Open the window so that the cold air comes in and the room is cool",
        [
            "Open the windows, so that cold air comes into the room",
            "The window is open and the cold air cools the room",
            "Let the cold air in so that the room is cool and fresh",
        ],
        (72.140771510, 38.233014078, 0.785714286, 0.538461538, 0.692307692),
    ),
    (
        "one two three",
        ["one two", "three four five six", "one two three four"],
        (75.881255021, 100.000000000, 0.857142857, 0.800000000, 0.857142857),
    ),
    (
        "nul\x00byte and \ud800 lone",
        ["nul\x00 byte, and \ud800\udc00 lone"],
        (55.750323593, 11.521590992, 1.000000000, 1.000000000, 1.000000000),
    ),
    (
        "don't won't 'tis rock'n'roll O’Neill",
        ["do n't won't tis rock 'n' roll O'Neill"],
        (78.141916332, 5.862502027, 0.857142857, 0.842105263, 0.857142857),
    ),
    (
        "Привет, мир! Как дела?",
        ["Привет мир, как твои дела?"],
        (38.336313052, 16.515821590, 0.000000000, 0.000000000, 0.000000000),
    ),
    ("aaaaaaaaaa", ["aaaaa"], (73.292843073, 0.000000000, 0.000000000, 0.000000000, 0.000000000)),
    (
        "x_1 = $5 @user #tag ~/path ^caret `code` {json: [1, 2]} 50% 3/4",
        ["x_1=$5 @user #tag ~/path `code` {json:[1,2]} 50 % 3 / 4"],
        (91.367470057, 72.989261621, 0.962962963, 0.880000000, 0.962962963),
    ),
]

SYMMETRIC = ("rouge_1", "rouge_2", "rouge_l", "token_f1")
every_metric = pytest.mark.parametrize("name", METRICS)

# Few distinct words and characters, so that n-grams repeat; what the tokenisers treat apart; and any text at all.
WORDS = [
    "the",
    "cat",
    "Cat",
    "a",
    "1,234.5",
    "x-1",
    "3-4",
    "&quot;",
    "..",
    "don't",
    "世界",
    "😀",
    "\ud800",
    "\x00",
    "-\n",
]
texts = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join),
    st.text(st.sampled_from("aab 1.,-\n\u3000世😀\x00\ud800'&"), max_size=40),
    st.text(max_size=20),
)


def grams(symbols, n):
    """The bag of n-grams, one at a time."""
    return Counter(tuple(symbols[i : i + n]) for i in range(len(symbols) - n + 1))


def chrf_by_counting(hypothesis, reference):
    """The definition: precision and recall of every order, averaged over the orders that both texts have."""
    given, wanted = ("".join(text.split()) for text in (hypothesis, reference))
    shares = []
    for n in range(1, 7):
        one, two = grams(given, n), grams(wanted, n)
        if one and two:
            common = (one & two).total()
            shares.append((common / one.total(), common / two.total()))
    if not any(p for p, _ in shares):
        return 0.0
    precision, recall = (sum(column) / len(shares) for column in zip(*shares, strict=True))
    return 100 * 5 * precision * recall / (4 * precision + recall)


def common_length(one, two):
    """Length of the longest common subsequence, cell by cell."""
    row = [0] * (len(two) + 1)
    for token in one:
        above, row = row, [0]
        for j, other in enumerate(two):
            row.append(above[j] + 1 if token == other else max(above[j + 1], row[j]))
    return row[-1]


@pytest.fixture
def small_blocks(monkeypatch):
    """Tables and integers of a few entries, so that short texts are cut into many."""
    monkeypatch.setattr(textmetrics, "ENTRIES", 3)
    monkeypatch.setattr(textmetrics, "LCS_BITS", 3)


# -- values


@pytest.mark.parametrize(("hypothesis", "references", "expected"), FROZEN)
def test_values_are_those_of_sacrebleu_and_rouge_score(hypothesis, references, expected):
    """For one reference and for several, in five metrics."""
    found = [chrf(hypothesis, references), bleu(hypothesis, references)]
    found += [rouge_n(hypothesis, references, 1), rouge_n(hypothesis, references, 2), rouge_l(hypothesis, references)]
    assert found == pytest.approx(expected, rel=0, abs=1e-9)


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        ("The Eiffel Tower, Paris", "the Eiffel tower", 0.8),  # 2 common of 3 and 2: 4/5
        ("x x y", "x z", 0.4),  # one x is matched: 2 * 1 / (3 + 2)
        ("x x y", "x x x", 2 / 3),
        ("a theatre", "theatre", 1.0),
        ("don't", "dont", 1.0),  # punctuation goes without a space
        ("well-known", "well known", 0.0),
        ("“the” cat", "“” cat", 0.4),  # only ASCII punctuation goes, and an article leaves a space: “ ” cat
        ("An the a", "the", 0.0),  # no tokens on either side
        ("", "x", 0.0),
        ("42", ["43", "The 42.", "4 2"], 1.0),
    ],
)
def test_token_f1_by_hand(hypothesis, reference, expected):
    """Case, punctuation and articles do not count, and tokens count as often as both texts have them."""
    assert token_f1(hypothesis, reference) == pytest.approx(expected, rel=0, abs=1e-12)


def test_bleu_clips_at_the_largest_count_of_any_reference():
    """The references are pooled: every word is in one of them, so that BLEU is more than its best single value."""
    # Orders: 3/3, 1/2 ("b c" alone is in a reference), and 1/2 of 1/1 smoothed. Lengths 2 and 2 are no longer than 3.
    assert bleu("a b c", ["x a", "b c"]) == pytest.approx(100 * (1 * 1 / 2 * 1 / 2) ** (1 / 3))
    assert max(bleu("a b c", "x a"), bleu("a b c", "b c")) < bleu("a b c", ["x a", "b c"])
    assert bleu("d d d", ["d d", "d"]) < bleu("d d d", ["d d d e", "d"])


@given(texts, texts)
@example("世" * 40 + "界", "世" * 9 + "界" * 3)  # code points whose 6-grams do not fit in 64 bits
def test_chrf_is_its_definition(hypothesis, reference):
    """An implementation that counts n-gram by n-gram finds the same."""
    assert chrf(hypothesis, reference) == pytest.approx(chrf_by_counting(hypothesis, reference), rel=0, abs=1e-9)


def test_chrf_of_thousands_of_distinct_characters():
    """N-grams are renumbered when they outgrow 64 bits, as often as needed."""
    chance = np.random.default_rng(0)
    one, two = ("".join(map(chr, chance.integers(0x10000, 0x10A00, 3000))) for _ in range(2))
    mixed = one[:1000] + two[1000:2000] + one[2000:]
    assert chrf(mixed, one) == pytest.approx(chrf_by_counting(mixed, one), rel=0, abs=1e-9)


@given(st.lists(st.sampled_from("abcd"), max_size=20), st.lists(st.sampled_from("abcd"), max_size=20))
def test_rouge_is_its_definition(hypothesis, reference):
    """Words counted one by one, and the longest common subsequence cell by cell, give the same F1."""
    given, wanted = " ".join(hypothesis), " ".join(reference)
    for n in range(1, 10):
        one, two = grams(hypothesis, n), grams(reference, n)
        total = one.total() + two.total()
        expected = 2 * (one & two).total() / total if total else 0.0
        assert rouge_n(given, wanted, n) == pytest.approx(expected, rel=0, abs=1e-12)
    total = len(hypothesis) + len(reference)
    expected = 2 * common_length(hypothesis, reference) / total if total else 0.0
    assert rouge_l(given, wanted) == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.usefixtures("small_blocks")
def test_the_size_of_blocks_changes_nothing():
    """Matches are the same when n-grams and words are worked off three at a time."""
    chance = np.random.default_rng(0)
    for _ in range(100):
        one, two = ("".join(chance.choice(list("abc "), chance.integers(0, 40))) for _ in range(2))
        assert chrf(one, two) == pytest.approx(chrf_by_counting(one, two), rel=0, abs=1e-9)
        words = [list(text.replace(" ", "")) for text in (one, two)]
        expected = 2 * common_length(*words) / max(len(words[0]) + len(words[1]), 1)
        assert rouge_l(*map(" ".join, words)) == pytest.approx(expected, rel=0, abs=1e-12)


@every_metric
@settings(max_examples=50)
@given(text=texts, other=texts)
def test_scores_are_within_0_and_1(name, text, other):
    """A text has with itself 1, or 0 when it has nothing that the metric counts; no two texts leave the range."""
    assert METRICS[name](text, text) in (0.0, 1.0)
    assert 0 <= METRICS[name](text, other) <= 1
    assert METRICS[name](f"word and {text}", f"word and {text}") == 1


@every_metric
@settings(max_examples=50)
@given(text=texts, others=st.lists(texts, min_size=1, max_size=4))
def test_references_count_in_no_order(name, text, others):
    """Several references give what they give in reverse; all but BLEU the best of them; BLEU keeps an exact match."""
    score = METRICS[name](text, others)
    assert score == METRICS[name](text, others[::-1])
    if name != "bleu":
        assert score == max(METRICS[name](text, other) for other in others)
    assert METRICS[name](text, [*others, text]) >= METRICS[name](text, text)


# -- all pairs


@every_metric
@settings(max_examples=40)
@given(candidates=st.lists(texts, max_size=5))
@example(candidates=["the cat", "the cat", "", " ", "the\tcat", "a", "\x00", "\ud800"])
def test_pairwise_is_every_pair_scored_alone(name, candidates):
    """Row is the hypothesis, column the reference; equal texts and empty ones included."""
    expected = [[METRICS[name](h, r) for r in candidates] for h in candidates]
    found = pairwise(candidates, name)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.reshape(expected, (len(candidates),) * 2), rtol=0, atol=1e-12)
    if name in SYMMETRIC:
        assert np.array_equal(found, found.T)


def test_chrf_and_bleu_tell_the_hypothesis_from_the_reference():
    """chrF weighs recall more than precision; BLEU punishes what is too short otherwise than what is too long."""
    # "ab" for "abc": precision 1, recall (2/3 + 1/2) / 2 = 7/12; 5 * 7/12 / (4 + 7/12) = 7/11. The other way 7/8.
    np.testing.assert_allclose(pairwise(["ab", "abc"]), [[1, 7 / 11], [7 / 8, 1]], rtol=0, atol=1e-12)
    # Six tokens for seven: all match, exp(1 - 7/6). Seven for six: (6/7 * 5/6 * 4/5 * 3/4)**(1/4).
    expected = [[1, np.exp(-1 / 6)], [(3 / 7) ** 0.25, 1]]
    found = pairwise(["the cat sat on the mat", "the cat sat on the mat today"], "bleu")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_pairwise_computes_equal_texts_once(monkeypatch):
    """The work is for the distinct texts, and the result for all."""
    seen = []

    def table(texts):
        seen.append(list(texts))
        return np.array([[1.0, 0.25], [0.5, 1.0]])

    monkeypatch.setattr(textmetrics, "_TABLES", {"chrf": table})
    assert pairwise(["b", "a", "b"]).tolist() == [[1.0, 0.25, 1.0], [0.5, 1.0, 0.5], [1.0, 0.25, 1.0]]
    assert seen == [["b", "a"]]


@every_metric
def test_the_table_of_no_texts_is_empty(name):
    """No candidates, no pairs."""
    assert pairwise([], name).shape == (0, 0)


@pytest.mark.parametrize("kind", ["one letter", "letters", "words", "full stops"])
def test_memory_grows_with_the_length(kind):
    """Two long texts take at most some 100 bytes a character, and those that repeat one n-gram too."""
    n, chance = 30_000, np.random.default_rng(0)
    one, two = {
        "one letter": ("a" * n, "a" * (n - 7)),
        "letters": ["".join(map(chr, chance.integers(97, 123, n))) for _ in range(2)],
        "words": ["".join(chance.choice(list("abcd "), n)) for _ in range(2)],
        "full stops": ("." * n, ". ." * (n // 3)),
    }[kind]
    for name in ("chrf", "bleu", "rouge_2", "token_f1"):
        tracemalloc.start()
        METRICS[name](one, two)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 150 * (len(one) + len(two))


def test_memory_of_many_texts_is_bounded(monkeypatch):
    """A whole table of 200 texts with 20,000 shared n-grams would take 32 MB; in parts it does not."""
    monkeypatch.setattr(textmetrics, "CELLS", 1 << 18)
    chance = np.random.default_rng(0)
    parts = ["".join(map(chr, chance.integers(97, 123, 100))) for _ in range(200)]
    candidates = [one + two for one, two in zip(parts, parts[1:] + parts[:1], strict=True)]
    tracemalloc.start()
    table = pairwise(candidates)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert table[0, 1] == pytest.approx(chrf_by_counting(*candidates[:2]) / 100, rel=0, abs=1e-12)
    assert peak < 16e6


def test_memory_of_the_longest_common_subsequence_is_bounded(monkeypatch):
    """Masks of 16,384 distinct words would take 16 MB in one piece; in blocks of 2,048 they take 0.3 MB."""
    monkeypatch.setattr(textmetrics, "LCS_BITS", 2048)
    words = [str(i) for i in range(16_384)]
    long, short = " ".join(words), " ".join(words[: len(words) // 2])
    tracemalloc.start()
    assert rouge_l(long, short) == pytest.approx(2 / 3)  # 2 * n/2 / (n + n/2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6


# -- what is refused


@every_metric
@pytest.mark.parametrize(
    ("hypothesis", "reference", "place"),
    [
        (None, "x", "hypothesis"),
        (b"x", "x", "hypothesis"),
        ("x", None, "references"),
        ("x", b"x", "references"),
        ("x", ["x", 5], r"references\[1\]"),
        ("x", [], "no reference"),
    ],
)
def test_what_is_no_text_is_refused_by_its_place(name, hypothesis, reference, place):
    """None, bytes, numbers and a missing reference."""
    with pytest.raises(LLMValidationError, match=place) as caught:
        METRICS[name](hypothesis, reference)
    assert caught.value.code == "validation.text"
    assert 0 < len(caught.value.next_step) <= 160


@every_metric
@pytest.mark.parametrize(
    ("candidates", "place"), [(["a", None], r"texts\[1\]"), ("abc", "texts"), ({"a", "b"}, "texts"), (None, "texts")]
)
def test_pairwise_refuses_what_is_no_list_of_texts(name, candidates, place):
    """A single string is no list of its characters, and a set has no order."""
    with pytest.raises(LLMValidationError, match=place) as caught:
        pairwise(candidates, name)
    assert caught.value.code == "validation.text"


@pytest.mark.parametrize("metric", ["chrF", "", "meteor", None, ["chrf"]])
def test_an_unknown_metric_is_refused(metric):
    """The error lists the names and proposes one."""
    with pytest.raises(LLMValidationError, match="chrf, bleu, rouge_1, rouge_2, rouge_l, token_f1") as caught:
        pairwise(["a"], metric)
    assert caught.value.code == "validation.metric"
    assert any(name in caught.value.next_step for name in METRICS)


@pytest.mark.parametrize("n", [0, 10, -1, 1.0, True, None, "1"])
def test_rouge_n_refuses_another_order(n):
    """Orders are whole numbers from 1 to 9, as in rouge-score."""
    with pytest.raises(LLMValidationError, match="ROUGE-N") as caught:
        partial(rouge_n, "a", "a")(n)
    assert caught.value.code == "validation.order"
