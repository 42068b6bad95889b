"""Conversations: what stands in them, and what goes when there is too much."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.decide.assemble import (
    BETWEEN,
    CUT,
    DROPPED_FIRST,
    LEAST,
    ChatPrompt,
    Passage,
    TokenBudget,
    assemble,
    fit,
)
from workbench.decide.tokens import estimated_prompt, estimated_tokens
from workbench.errors import LLMValidationError
from workbench.facts import Message


def said(role: str, content: str) -> Message:
    return Message(role=role, content=content)


def refusal(call: object, *given: object, **named: object) -> LLMValidationError:
    assert callable(call)
    with pytest.raises(LLMValidationError) as caught:
        call(*given, **named)
    assert 0 < len(caught.value.next_step) <= 160
    return caught.value


@dataclass
class Shot:
    prompt: str
    answer: str


HISTORY = [said("user", "u1"), said("assistant", "a1"), said("user", "u2"), said("assistant", "a2")]
PARTS = assemble(
    "why?", system="be brief", examples=[("q1", "r1"), Shot("q2", "r2")], context=["p1", Passage("p2")], history=HISTORY
)


def words(text: str) -> int:
    return len(text.split())


# -- what stands in it


def test_the_parts_stand_in_the_order_of_a_conversation():
    """System, examples as turns, history, then the passages before the question in one message."""
    chat = fit(PARTS, None, None, words, versions={"t": "v1"})
    assert [(m.role, m.content) for m in chat.messages] == [
        ("system", "be brief"),
        ("user", "q1"), ("assistant", "r1"), ("user", "q2"), ("assistant", "r2"),
        ("user", "u1"), ("assistant", "a1"), ("user", "u2"), ("assistant", "a2"),
        ("user", "p1\n\np2\n\nwhy?"),
    ]  # fmt: skip
    assert (chat.dropped, chat.versions) == ((), {"t": "v1"})


def test_turns_alternate_after_the_system_message():
    """Many models take no two messages of the user in a row."""
    roles = [m.role for m in fit(PARTS, None, None, words).messages[1:]]
    assert all(a != b for a, b in pairwise(roles))


def test_a_turn_begins_with_each_message_of_the_user():
    """What stands before the first of them is a turn too; mappings are messages, as other libraries write them."""
    history = [
        said("assistant", "hello"),
        {"role": "user", "content": "u1"},
        said("assistant", "a1"),
        said("assistant", "a1 again"),
        said("user", "unanswered"),
    ]
    turns = [[m.content for m in part.messages] for part in assemble("why?", history=history) if part.kind == "history"]
    assert turns == [["hello"], ["u1", "a1", "a1 again"], ["unanswered"]]


def test_a_question_alone_is_one_message():
    """Rendered, it is that text; several messages stand under their roles."""
    alone = fit(assemble("why {{ x }} %s?", system=""), None, None, words)
    assert alone.messages == (said("user", "why {{ x }} %s?"),)
    assert alone.render() == "why {{ x }} %s?"
    assert fit(assemble("why?", system="be brief"), None, None, words).render() == "[system]\nbe brief\n\n[user]\nwhy?"


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"question": " \n"}, "validation.query"),
        ({"question": None}, "validation.query"),
        ({"system": 3}, "validation.messages"),
        ({"system": 0}, "validation.messages"),
        ({"system": []}, "validation.messages"),
        ({"examples": "ab"}, "validation.messages"),
        ({"examples": ["ab"]}, "validation.messages"),
        ({"examples": [("a", "b", "c")]}, "validation.messages"),
        ({"examples": [("a", None)]}, "validation.messages"),
        ({"context": "one"}, "validation.messages"),
        ({"context": [3]}, "validation.messages"),
        ({"context": [Passage(None)]}, "validation.messages"),
        ({"context": [Passage("a", cut="no")]}, "validation.messages"),
        ({"history": said("user", "a")}, "validation.messages"),
        ({"history": ["a"]}, "validation.messages"),
        ({"history": [said("system", "a")]}, "validation.messages"),
        ({"history": [{"role": "user"}]}, "validation.messages"),
        ({"history": [{"role": "user", "content": 3}]}, "validation.messages"),
    ],
)
def test_what_is_no_text_is_refused(options, code):
    """By name, before anything is counted."""
    assert refusal(assemble, **{"question": "why?", **options}).code == code


class Odd(str):
    """A text that says something else when it is formatted, and is equal to every other."""

    def __format__(self, spec: str) -> str:
        return "formatted"

    def __add__(self, other: str) -> str:
        return "added"

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def test_what_is_rendered_is_what_is_sent():
    """Of a subclass of text only its characters, and half a character as U+FFFD, which is what the wire makes of it."""
    history = [{"role": "assistant", "content": Odd("h\ud800")}, Message(role="user", content=Odd("u"))]
    parts = assemble(Odd("why?"), system=Odd("s"), examples=[(Odd("q"), "r")], context=[Odd("p")], history=history)
    chat = fit(parts, None, None, words)
    assert [m.content for m in chat.messages] == ["s", "q", "r", "h\ufffd", "u", "p\n\nwhy?"]
    assert all(type(m.content) is type(m.role) is str for m in chat.messages)
    assert chat.render().startswith("[system]\ns\n\n[user]\nq\n\n[assistant]\nr\n\n[assistant]\nh\ufffd")
    assert refusal(assemble, "why?", history=[said(Odd("tool"), "a")]).code == "validation.messages"


class Unshown:
    """A value whose repr raises."""

    def __repr__(self) -> str:
        raise RuntimeError("not for you")


@pytest.mark.parametrize("value", [10**5000, Unshown()], ids=["huge", "unshown"])
def test_what_cannot_be_shown_is_refused_like_anything_else(value):
    """Python prints no whole number of 5,000 digits, and a repr may raise anything."""
    for options in (
        {"system": value}, {"examples": [value]}, {"examples": [(value, "a")]}, {"context": [value]},
        {"history": [value]}, {"history": [said(value, "a")]}, {"history": [said("user", value)]},
    ):  # fmt: skip
        assert refusal(assemble, "why?", **options).code == "validation.messages"
    assert refusal(TokenBudget, value if isinstance(value, Unshown) else -value).code == "validation.budget_tokens"
    assert refusal(TokenBudget, first=value).code == "validation.budget_tokens"
    assert refusal(TokenBudget, first=(value, 1, 2)).code == "validation.budget_tokens"
    found = value if isinstance(value, Unshown) else -value
    assert refusal(fit, PARTS, 10, 0, lambda _: found).code == "validation.count"
    assert refusal(fit, PARTS, 10, 0, lambda _: 10**5000).code == "validation.budget_tokens"
    assert refusal(fit, PARTS, 10, 10**5000, words).code == "validation.budget_tokens"


def test_sec_secret_a_refusal_quotes_no_secret():
    """Where a value is shown, what looks like a key is not."""
    key = "sk-" + "a1B2c3D4" * 3
    for options in ({"examples": [key]}, {"history": [said("system", key)]}, {"context": [{"x": key}]}):
        message = refusal(assemble, "why?", **options).message
        assert "[redacted]" in message
        assert key[:10] not in message


# -- the budget

# Words and four tokens a message: system 6, examples 10 each, turns 10 each, passages 1 each, question 5: 53 in all.


@pytest.mark.parametrize(
    ("budget", "dropped", "tokens"),
    [
        (53, [], 53),
        (52, [("history", 0)], 43),
        (43, [("history", 0)], 43),
        (42, [("history", 0), ("history", 1)], 33),
        (32, [("history", 0), ("history", 1), ("passage", 1)], 32),
        (31, [("history", 0), ("history", 1), ("passage", 1), ("passage", 0)], 31),
        (30, [("history", 0), ("history", 1), ("passage", 1), ("passage", 0), ("example", 1)], 21),
        (11, [("history", 0), ("history", 1), ("passage", 1), ("passage", 0), ("example", 1), ("example", 0)], 11),
    ],
)
def test_parts_go_in_order_until_the_rest_fits(budget, dropped, tokens):
    """Worked out by hand: old turns, then the last passages, then the last examples."""
    chat = fit(PARTS, budget, 0, words)
    assert [(part.kind, part.position) for part in chat.dropped] == dropped
    assert chat.tokens == tokens
    assert chat.messages[0] == said("system", "be brief")
    assert chat.messages[-1].content.endswith("why?")


def test_what_was_dropped_is_told_with_its_size():
    """Tokens and characters of each part, and the tokens of what stayed by kind."""
    chat = fit(PARTS, 32, 0, words)
    assert [(p.kind, p.tokens, p.characters, p.cut) for p in chat.dropped] == [
        ("history", 10, 4, False), ("history", 10, 4, False), ("passage", 1, 2, False),
    ]  # fmt: skip
    assert chat.counts == {"system": 6, "example": 20, "passage": 1, "question": 5}


def test_the_reserve_is_kept_for_the_answer():
    """It is taken from the budget; by default a quarter of it, 4,096 at most."""
    assert fit(PARTS, 63, 10, words).dropped == ()
    assert len(fit(PARTS, 62, 10, words).dropped) == 1
    assert [TokenBudget(n).room for n in (None, 0, 100, 128_000)] == [None, 0, 75, 123_904]


def test_the_order_of_kinds_is_the_callers():
    """Examples may go before the history."""
    chat = fit(PARTS, 52, 0, words, first=("example", "passage", "history"))
    assert [(part.kind, part.position) for part in chat.dropped] == [("example", 1)]


@pytest.mark.parametrize(("budget", "reserve"), [(10, 0), (0, 0), (100, 90), (5, 10)])
def test_a_budget_that_the_question_does_not_fit_is_refused(budget, reserve):
    """With what they have, and what there was; 11 tokens is what system message and question take."""
    error = refusal(fit, PARTS, budget, reserve, words)
    assert error.code == "validation.budget_tokens"
    assert f"have 11 tokens, and budget_tokens={budget} less reserve_tokens={reserve}" in error.message


@pytest.mark.parametrize(
    "options",
    [
        {"budget_tokens": -1},
        {"budget_tokens": 1.5},
        {"budget_tokens": True},
        {"budget_tokens": 10, "reserve_tokens": -1},
        {"budget_tokens": 10, "reserve_tokens": "3"},
        {"first": ("history",)},
        {"first": ("history", "history", "example")},
        {"first": 3},
        {"first": (1, 2, 3)},
    ],
)
def test_a_budget_that_is_none_is_refused(options):
    """Negative and broken numbers, and an order that leaves out a kind."""
    assert refusal(TokenBudget, **options).code == "validation.budget_tokens"


@pytest.mark.parametrize("found", [-1, 1.0, None, True])
def test_a_count_that_is_none_is_refused(found):
    """Rather than to fit by it."""
    assert refusal(fit, PARTS, 10, 0, lambda _: found).code == "validation.count"


def test_the_choice_can_be_made_again_from_its_numbers():
    """Without any text: kinds and tokens are all that it is made of, whatever else the log was told."""
    parts = [(part.kind, part.tokens(words)) for part in PARTS]
    assert TokenBudget(42, 0)(parts, task="general") == (3, 4)
    assert TokenBudget()(parts) == ()


# -- cutting a passage

LONG = " ".join(["word"] * 400)


def test_a_passage_is_cut_only_where_that_is_allowed():
    """As much as fits, under a marker that can be seen; else it is left out as a whole."""
    whole = fit(assemble("why?", context=[LONG]), 100, 0, words)
    assert (whole.messages[0].content, whole.dropped[0].cut) == ("why?", False)
    cut = fit(assemble("why?", context=[Passage(LONG, cut=True)]), 100, 0, words)
    head, _, question = cut.messages[0].content.rpartition(BETWEEN)
    assert head.endswith(CUT)
    assert LONG.startswith(head.removesuffix(CUT))
    assert question == "why?"
    # The question takes 5 and the marker 10 of 100 tokens, which leaves 85 words, and all but the end of another.
    assert len(head.removesuffix(CUT)) == 85 * 5
    assert cut.tokens == 100
    kept = 85 * 5
    assert [(p.kind, p.tokens, p.characters, p.cut) for p in cut.dropped] == [("passage", 305, len(LONG) - kept, True)]


@pytest.mark.parametrize("budget", range(80, 100))
def test_as_much_of_a_passage_stays_as_fits(budget):
    """One character more would be a token too many, wherever the cut falls."""
    chat = fit(assemble("why?", context=[Passage(LONG, cut=True)]), budget, 0, len)
    assert (chat.tokens, chat.dropped[0].cut) == (8, False)
    chat = fit(assemble("why?", context=[Passage(LONG, cut=True)]), budget * 5, 0, len)
    assert (chat.tokens, chat.dropped[0].cut) == (budget * 5, True)


def test_only_the_first_passage_that_has_to_go_is_cut():
    """Those behind it are left out, those before it stay as they are."""
    context = [Passage(text, cut=True) for text in ("first", LONG, "last")]
    chat = fit(assemble("why?", context=context), 100, 0, words)
    assert [(p.position, p.cut) for p in chat.dropped] == [(2, False), (1, True)]
    assert chat.messages[0].content.startswith("first\n\nword word")
    assert "last" not in chat.messages[0].content


def test_too_little_of_a_passage_is_not_worth_keeping():
    """Below LEAST characters it is left out, and a short one is never cut."""
    assert (
        fit(assemble("why?", context=[Passage(LONG, cut=True)]), 15 + LEAST // 5 - 1, 0, words).dropped[0].cut is False
    )
    assert fit(assemble("why?", context=[Passage(LONG, cut=True)]), 15 + LEAST // 5, 0, words).dropped[0].cut is True
    short = " ".join(["w"] * (LEAST // 2))
    assert fit(assemble("why?", context=[Passage(short, cut=True)]), 90, 0, words).dropped[0].cut is False


def test_what_may_be_cut_stays_whole_when_it_fits():
    """And goes with everything behind it when even examples have to go."""
    parts = assemble("why?", context=[Passage(LONG, cut=True)], examples=[("a b c d", "e f g h")])
    assert LONG in fit(parts, 500, 0, words).messages[-1].content
    # The example takes 16 and the question 5: without the passage there are still 21 tokens.
    assert [(p.kind, p.cut) for p in fit(parts, 20, 0, words).dropped] == [("passage", False), ("example", False)]


# -- for all conversations

TEXT = st.text(st.sampled_from("ab é\n"), min_size=1, max_size=30)
PASSAGES = st.one_of(TEXT, st.builds(Passage, st.text("ab ", min_size=LEAST, max_size=3 * LEAST), st.booleans()))
CHATS = st.builds(
    assemble,
    TEXT.filter(str.strip),
    system=st.one_of(st.none(), TEXT),
    examples=st.lists(st.tuples(TEXT, TEXT), max_size=3),
    context=st.lists(PASSAGES, max_size=3),
    history=st.lists(st.builds(said, st.sampled_from(["user", "assistant"]), TEXT), max_size=5),
)


def fitted(parts: object, budget: int, reserve: int = 0) -> ChatPrompt | None:
    try:
        return fit(parts, budget, reserve, estimated_tokens)
    except LLMValidationError as error:
        if error.code != "validation.budget_tokens":
            raise
        return None


@given(CHATS, st.integers(0, 600), st.integers(0, 100))
def test_what_is_kept_fits_the_budget_and_is_as_it_was(parts, budget, reserve):
    """In the order it had, byte for byte; only what was allowed is cut, and all that is missing is told."""
    chat = fitted(parts, budget, reserve)
    if chat is None:
        return
    assert chat.tokens <= budget - reserve
    assert estimated_prompt(chat.messages) <= budget - reserve
    gone = {(p.kind, p.position): p for p in chat.dropped}
    kept = [p for p in parts if (p.kind, p.position) not in gone or gone[p.kind, p.position].cut]
    last = []
    expected = []
    for part in kept:
        lost = gone.get((part.kind, part.position))
        if part.kind not in ("passage", "question"):
            expected += part.messages
        elif lost is None:
            last.append(part.messages[0].content)
        else:
            assert part.cut
            text = part.messages[0].content
            last.append(text[: -lost.characters] + CUT)
    assert chat.messages == (*expected, said("user", BETWEEN.join(last)))
    assert {p.kind for p in kept} >= {p.kind for p in parts if p.kind in ("system", "question")}
    assert sum(part.tokens(estimated_tokens) for part in parts) == chat.tokens + sum(p.tokens for p in chat.dropped)


@given(CHATS, st.integers(0, 600), st.integers(0, 600))
def test_a_larger_budget_never_keeps_less(parts, one, other):
    """Part by part, and of a cut passage; the same twice over gives the same."""
    small, large = (fitted(parts, budget) for budget in sorted((one, other)))
    assert small == fitted(parts, min(one, other))
    if small is None:
        return
    assert large is not None
    lost, lost_of_small = ({(p.kind, p.position): p.characters for p in chat.dropped} for chat in (large, small))
    assert lost.keys() <= lost_of_small.keys()
    assert all(characters <= lost_of_small[place] for place, characters in lost.items())
    assert small.tokens <= large.tokens


@pytest.mark.parametrize("piece", ["a", "\n", "🙂", "\ud800", "[", '"', "`", "ÿ"])
def test_a_huge_conversation_is_fitted_in_linear_work(piece):
    """With twice the text the counter is shown twice as many characters; no clock is needed."""

    def characters(size: int) -> int:
        seen = 0

        def count(text: str) -> int:
            nonlocal seen
            seen += len(text)
            return estimated_tokens(text)

        history = [said(role, piece) for _ in range(size // 1000) for role in ("user", "assistant")]
        parts = assemble(piece * 10 + "?", context=[Passage(piece * size, cut=True)], history=history)
        assert fit(parts, 2_000, 0, count).dropped[-1].cut
        return seen

    assert characters(1_000_000) <= 2 * characters(500_000)


def test_many_turns_take_linear_time():
    """Twice the turns, less than four times the time, best of three."""

    def seconds(turns: int) -> float:
        history = [said(role, "text") for _ in range(turns) for role in ("user", "assistant")]
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            chat = fit(assemble("why?", history=history), 100, 0, estimated_tokens)
            best = min(best, time.process_time() - start)
        assert chat.tokens <= 100
        return best

    assert seconds(6_000) < 4 * seconds(3_000) + 0.02


def test_every_kind_but_two_can_go():
    """So that a kind that is added is thought about here."""
    assert {part.kind for part in PARTS} == {*DROPPED_FIRST, "system", "question"}
