"""Simulated models: declared skill, shared errors, latency and price, the same in every process."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from workbench.act.simulated import PROFILES, Profile, SimulatedModel, damaged, wrong_answers
from workbench.decide.answers import extract, normalise
from workbench.decide.textmetrics import rouge_l
from workbench.errors import LLMProviderError, LLMValidationError
from workbench.facts import Item, Message, Request

ROOT = Path(__file__).parents[2]


def items(n, *, task="reasoning", kind="number"):
    """Synthetic items with references spread over the kind's values."""
    reference = {"number": lambda i: str(i * 7 + 3), "choice": lambda i: "ABCD"[i % 4]}[kind]
    meta = {"answer_kind": kind, "options": ("A", "B", "C", "D") if kind == "choice" else ()}
    return [Item(item_id=f"s{i}", task=task, prompt=f"Question {i}?", reference=reference(i), metadata=meta)
            for i in range(n)]  # fmt: skip


def profile(**more):
    """A profile that always answers, with one skill for everything."""
    return Profile(**{"name": "test", "skill": {"general": 0.7}, "no_answer": 0.0, **more})


def responses(model, asked):
    """The model's responses to items, in order; failures as errors."""

    async def main():
        requests = [Request.of(i.prompt, task=i.task, item_id=i.item_id) for i in asked]
        return await asyncio.gather(*(model.complete(r) for r in requests), return_exceptions=True)

    return asyncio.run(main())


def answers(model, asked):
    """What the workbench reads in the responses."""
    found = zip(asked, responses(model, asked), strict=True)
    return [extract(r.text, i.metadata["answer_kind"], options=i.metadata["options"]) for i, r in found]


def right(model, asked):
    """Whether each response has the item's own answer."""
    gold = [normalise(i.reference, i.metadata["answer_kind"]) for i in asked]
    return [a == g for a, g in zip(answers(model, asked), gold, strict=True)]


def model_of(asked, **more):
    """A model that knows the items."""
    return SimulatedModel(profile(**more), {i.item_id: i for i in asked})


def test_every_answer_is_labelled_simulated():
    """Known item or not, `source` is simulated, and the numbers are filled in."""
    asked = items(1)
    model = model_of(asked)
    known, unknown = responses(model, asked)[0], asyncio.run(model.complete(Request.of("What else?")))
    for response in (known, unknown):
        assert (response.source, response.model) == ("simulated", "simulated:test")
        assert response.latency_ms > response.ttft_ms > 0
        assert response.cost_usd > 0


def test_an_answer_does_not_depend_on_the_order_of_calls():
    """Asked in reverse, alone, or beside others, each item gets the same response."""
    asked = items(50)
    model = model_of(asked, fail=0.1)
    forward = [str(r) for r in responses(model, asked)]
    backward = [str(r) for r in responses(model, asked[::-1])]
    assert forward == backward[::-1]
    assert str(responses(model_of(asked, fail=0.1), asked[7:8])[0]) == forward[7]


def test_an_answer_is_the_same_in_every_process():
    """Other processes with other hash seeds give the same texts, latencies and costs."""
    code = (
        "import asyncio, json\n"
        "from workbench.act.simulated import PROFILES, SimulatedModel\n"
        "from workbench.facts import Item, Message, Request\n"
        "item = Item(item_id='x', task='reasoning', prompt='p', reference='12', metadata={'answer_kind': 'number'})\n"
        "asked = [Request.of('p', item_id='x'), Request.of('é?'), Request.of('q', task='reasoning')]\n"
        "found = [asyncio.run(SimulatedModel(p, {'x': item}).complete(r)) for p in PROFILES.values() for r in asked]\n"
        "print(json.dumps([[r.request_key, r.text, r.latency_ms, r.cost_usd] for r in found]))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "77")
    }
    assert len(seen) == 1
    assert len(json.loads(seen.pop())) == 3 * len(PROFILES)


@pytest.mark.parametrize("kind", ["number", "choice"])
@pytest.mark.parametrize("skill", [0.0, 0.35, 0.8, 1.0])
@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_the_declared_skill_is_met(kind, skill, shared):
    """The share of right answers, as the workbench reads them, is the declared one within four binomial errors."""
    asked = items(3000, kind=kind)
    share = sum(right(model_of(asked, skill={"general": skill}, shared=shared), asked)) / 3000
    assert abs(share - skill) <= 4 * math.sqrt(skill * (1 - skill) / 3000)


def test_the_declared_skill_counts_texts_without_an_answer():
    """Skill is the probability of a right answer, whatever the share of texts that have none."""
    asked = items(6000)
    model = model_of(asked, skill={"general": 0.6}, no_answer=0.2)
    assert abs(sum(right(model, asked)) / 6000 - 0.6) <= 4 * math.sqrt(0.24 / 6000)
    silent = answers(model, asked).count(None) / 6000
    assert abs(silent - 0.2) <= 4 * math.sqrt(0.16 / 6000)


def test_skill_goes_by_task():
    """A task has its own skill, and `general` stands in for a task that is not named."""
    skill = {"reasoning": 0.2, "general": 0.9}
    for task, expected in (("reasoning", 0.2), ("translation", 0.9)):
        asked = items(2000, task=task)
        share = sum(right(model_of(asked, skill=skill), asked)) / 2000
        assert abs(share - expected) <= 4 * math.sqrt(expected * (1 - expected) / 2000)


def test_models_of_one_error_source_fail_alike():
    """With everything shared, the weaker is right only where the stronger is; both wrong, they say the same."""
    asked = items(1500)
    strong = model_of(asked, name="s", skill={"general": 0.8}, shared=1.0)
    weak = model_of(asked, name="w", skill={"general": 0.5}, shared=1.0)
    of_strong, of_weak = right(strong, asked), right(weak, asked)
    assert not any(w and not s for s, w in zip(of_strong, of_weak, strict=True))
    both_wrong = [not s for s in of_strong]
    pairs = zip(answers(strong, asked), answers(weak, asked), both_wrong, strict=True)
    assert all(a == b for a, b, wrong in pairs if wrong)
    assert sum(both_wrong) > 200


def test_models_of_two_error_sources_fail_independently():
    """With nothing in common, two models are right together as often as chance has it."""
    asked = items(4000)
    one, two = model_of(asked, name="a", source="x", shared=1.0), model_of(asked, name="b", source="y", shared=1.0)
    together = sum(a and b for a, b in zip(right(one, asked), right(two, asked), strict=True)) / 4000
    assert abs(together - 0.49) <= 4 * math.sqrt(0.49 * 0.51 / 4000)


def test_samples_and_seeds_are_new_draws():
    """The second sample of an item, and a model with another seed, have their own luck."""
    asked = items(400)
    model, other = model_of(asked), model_of(asked, seed=1)

    async def second():
        requests = [replace(Request.of(i.prompt, item_id=i.item_id), sample=1) for i in asked]
        return [r.text for r in await asyncio.gather(*(model.complete(r) for r in requests))]

    first = [r.text for r in responses(model, asked)]
    # Independent draws with skill 0.7 and 5 wrong answers agree on about 0.49 + 0.09 / 5 = 51 % of items.
    for texts in (asyncio.run(second()), [r.text for r in responses(other, asked)]):
        same = sum(a == b for a, b in zip(first, texts, strict=True)) / 400
        assert 0.40 < same < 0.62


@pytest.mark.parametrize(
    "request_",
    [Request.of("Who?"), Request.of("Who?", item_id="s0"), Request.of("Question 0?"), Request.of("", item_id="zzz")],
    ids=["unknown prompt", "changed prompt", "no item", "unknown item"],
)
def test_an_unknown_prompt_gets_a_seeded_answer(request_):
    """Any prompt is answered, the same way each time, and the text says that the suite does not hold it."""
    model = model_of(items(1))
    first, again = (asyncio.run(model.complete(request_)) for _ in range(2))
    assert first == again
    assert "outside the suite" in first.text
    assert extract(first.text, "number") is not None


def test_two_unknown_prompts_get_different_answers():
    """The seeded answers of many prompts spread over their range instead of being one constant."""
    model = model_of([])
    texts = {asyncio.run(model.complete(Request.of(f"Prompt {k}"))).text for k in range(100)}
    assert len(texts) > 40  # 100 draws of 100 numbers hit about 63 of them


def test_a_seeded_answer_depends_on_what_a_wire_format_carries_and_on_nothing_else():
    """Parameters, task and the place of system messages change nothing; each turn, its role and the sample do."""
    model = model_of([])

    def said(*turns, **more):
        messages = tuple(Message(role=role, content=content) for role, content in turns)
        return asyncio.run(model.complete(Request(messages=messages, **more))).text

    system, ask, told = ("system", "Be brief."), ("user", "Who?"), ("assistant", "Me.")
    base = said(system, ask)
    assert said(system, ask, params={"temperature": 0.5}, task="reasoning", item_id="x") == base
    assert said(ask, system) == base
    assert said(("system", "a"), ("system", "b"), ask) == said(("system", "a\n\nb"), ask)
    others = [said(ask), said(system, ask, told, ask), said(system, ("user", "Who? ")), said(system, ask, sample=1)]
    others += [said(ask, told, ask), said(told, ask, ask), said(("user", "Be brief."), ask)]
    # Of 8 independent draws from 100 numbers at least six are distinct with probability 0.998; the seed fixes them.
    assert len({base, *others}) >= 6


@pytest.mark.parametrize(
    "reference",
    ["0", "2", "-1", "0.5", "7", "1,234", "99999", "1000000", "1234570", "123456789", "1e30", "1/3", "$5", "50%"],
)
def test_a_wrong_number_is_a_number_and_never_the_right_one(reference):
    """Every number offered as wrong is read as a number, and as another one than the reference."""
    item = Item(item_id="x", task="reasoning", prompt="p", reference=reference, metadata={"answer_kind": "number"})
    wrong = {normalise(w, "number") for w in wrong_answers(item)}
    assert wrong
    assert not wrong & {None, normalise(reference, "number")}


@pytest.mark.parametrize(
    ("reference", "options"),
    [("yes", ("Yes", "No")), ("valid", ()), ("nan", ()), ("Infinity", ()), ("unknown", ())],
    ids=str,
)
def test_a_wrong_label_is_never_the_right_one(reference, options):
    """A label is missed for one that is read as another label, also where the reference looks like a number."""
    meta = {"answer_kind": "label", "options": options}
    wrong = wrong_answers(Item(item_id="x", task="general", prompt="p", reference=reference, metadata=meta))
    assert wrong
    assert normalise(reference, "label") not in {normalise(w, "label") for w in wrong}


def test_wrong_options_are_the_items_own():
    """A choice is missed for another of its options; without options, for another letter."""
    item = Item(item_id="x", task="general", prompt="p", reference="B", metadata={"answer_kind": "choice"})
    assert wrong_answers(item) == ("A", "C", "D")
    with_options = replace(item, metadata={"answer_kind": "choice", "options": ("A", "B", "E")})
    assert wrong_answers(with_options) == ("A", "E")


def texts(n, *, metric="rouge_l", further=1):
    """Synthetic items whose references are sentences of 24 words; every further one is worded otherwise."""
    made = []
    for i in range(n):
        first, *more = [" ".join(f"w{i}x{k}v{v}" for k in range(24)) + "." for v in range(1 + further)]
        meta = {"answer_kind": "text", "options": (), "metric": metric, "references": tuple(more)}
        made.append(Item(item_id=f"t{i}", task="summarization", prompt=f"Sum up {i}.", reference=first, metadata=meta))
    return made


def said(model, asked):
    """The texts of a model that never fails."""
    return [r.text for r in responses(model, asked)]


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_a_right_text_is_one_of_the_references_as_often_as_the_skill_says(shared):
    """A text is right where it equals a reference, the first or a further one, about as often each."""
    asked = texts(2000)
    found = said(model_of(asked, skill={"general": 0.6}, shared=shared), asked)
    first = sum(text == i.reference for text, i in zip(found, asked, strict=True)) / 2000
    further = sum(text in i.metadata["references"] for text, i in zip(found, asked, strict=True)) / 2000
    for share in (first, further):
        assert abs(share - 0.3) <= 4 * math.sqrt(0.3 * 0.7 / 2000)


def test_a_wrong_text_keeps_a_part_of_the_reference():
    """It is made of words of the first reference, has lost some 20 to 70 % of them, and scores between the ends."""
    asked = texts(1000)
    found = said(model_of(asked, skill={"general": 0.0}), asked)
    kept = []
    for text, item in zip(found, asked, strict=True):
        words, whole = text.split(), item.reference.split()
        assert set(words) < set(whole)
        assert len(set(words)) == len(words)
        kept.append(len(words) / len(whole))
        assert 0 < rouge_l(text, item.reference) < 1
    # Evenly drawn between 0.2 and 0.7 the share lost is 0.45 on average, with a standard deviation of 0.144 over
    # items and sqrt(0.45 * 0.55 / 24) = 0.10 within one: together 0.176.
    assert abs(sum(kept) / 1000 - 0.55) <= 4 * 0.176 / math.sqrt(1000)
    in_order = [t.split() == [w for w in i.reference.split() if w in t.split()] for t, i in zip(found, asked)]  # noqa: B905
    assert 0.05 < sum(in_order) / 1000 < 0.5  # about 13 words are left, and a fifth of them is moved


def test_wrong_texts_of_one_error_source_are_the_same():
    """With everything shared two models give the same wrong text; with nothing, each its own."""
    asked = texts(200)
    pairs = {}
    for shared in (0.0, 1.0):
        one, two = (said(model_of(asked, name=n, skill={"general": 0.0}, shared=shared), asked) for n in "ab")
        pairs[shared] = sum(a == b for a, b in zip(one, two, strict=True))
    assert pairs == {0.0: 0, 1.0: 200}


def test_a_model_words_what_it_knows_in_its_own_way():
    """Two models that share their luck choose between the references each for itself."""
    asked = texts(400)
    one, two = (said(model_of(asked, name=n, skill={"general": 1.0}, shared=1.0), asked) for n in "ab")
    same = sum(a == b for a, b in zip(one, two, strict=True)) / 400
    assert abs(same - 0.5) <= 4 * 0.5 / math.sqrt(400)


def test_a_text_stands_alone():
    """No phrase leads it, line breaks stay, and a text without a metric has one reference."""
    program = "def f(x):\n    if x:\n        return x + 1\n    return 0"
    meta = {"answer_kind": "text", "references": ("other",)}
    item = Item(item_id="x", task="code_generation", prompt="p", reference=program, metadata=meta)
    assert {said(model_of([item], skill={"general": 1.0}, seed=k), [item])[0] for k in range(20)} == {program}
    wrong = [said(model_of([item], skill={"general": 0.0}, seed=k), [item])[0] for k in range(20)]
    assert any("\n" in text for text in wrong)
    assert program not in wrong


@pytest.mark.parametrize(
    "reference", ["Ja", "no", "unknown", "x", "", None, "只有一个很长的词没有空格", "a a a a a", "\n\n", "…"]
)
@pytest.mark.parametrize("further", [(), ("unknown",)])
def test_a_wrong_text_is_never_a_right_one(reference, further):
    """Whatever is lost, an answer is left, and none of the references; a text without spaces loses characters."""
    meta = {"answer_kind": "text", "metric": "chrf", "references": further}
    item = Item(item_id="x", task="translation", prompt="p", reference=reference, metadata=meta)
    right = {normalise(r, "text") for r in (reference or "", *further)}
    for seed in range(200):
        chance = random.Random(seed)
        text = damaged(item, chance.random(), lambda k: chance.random())  # noqa: B023
        assert normalise(text, "text") not in {None, *right}
    if reference and len(reference) > 10:
        assert set(text) <= set(reference)


def test_words_are_lost_and_moved_by_their_luck():
    """Luck under the share loses a word, the highest fifth of the rest changes place with the one before."""
    item = Item(item_id="x", task="general", prompt="p", reference="a b c d e", metadata={"answer_kind": "text"})
    # At loss 0 a share of 0.2 is lost, and luck above 1 - 0.8 * 0.2 = 0.84 moves a word.
    lucks = [0.5, 0.19, 0.21, 0.85, 0.83]
    assert damaged(item, 0.0, lucks.__getitem__) == "a d c e"
    # At loss 1 it is 0.7, and 1 - 0.3 * 0.2 = 0.94.
    assert damaged(item, 1.0, [0.95, 0.71, 0.69, 0.95, 0.5].__getitem__) == "a d b"


def test_failures_come_with_the_declared_probability():
    """The declared share of calls fails, as a retryable provider error, and always on the same items."""
    asked = items(3000)
    model = model_of(asked, fail=0.15)
    errors = [r for r in responses(model, asked) if isinstance(r, BaseException)]
    assert all(isinstance(e, LLMProviderError) and e.retryable and e.code == "provider.server" for e in errors)
    assert abs(len(errors) / 3000 - 0.15) <= 4 * math.sqrt(0.15 * 0.85 / 3000)
    assert not any(isinstance(r, BaseException) for r in responses(model_of(asked, fail=0.0), asked))


def test_latency_has_the_declared_median_and_spread():
    """Half of the latencies lie below the declared median, and 68 % within one sigma of its logarithm."""
    asked = items(4000)
    latencies = [r.latency_ms for r in responses(model_of(asked, latency_ms=400.0, latency_sigma=0.5), asked)]
    # The median of n log-normal draws has the relative error 1.2533 * sigma / sqrt(n).
    assert median(latencies) == pytest.approx(400.0, rel=4 * 1.2533 * 0.5 / math.sqrt(4000))
    within = sum(abs(math.log(x / 400.0)) < 0.5 for x in latencies) / 4000
    assert abs(within - 0.6827) <= 4 * math.sqrt(0.6827 * 0.3173 / 4000)
    fixed = responses(model_of(asked, latency_ms=250.0, latency_sigma=0.0), asked[:20])
    assert {r.latency_ms for r in fixed} == {250.0}


def test_cost_is_tokens_times_price():
    """The cost follows from the reported tokens and the declared prices per million."""
    asked = items(5)
    for r in responses(model_of(asked, prompt_usd_per_mtok=3.0, completion_usd_per_mtok=12.0), asked):
        expected = (3.0 * r.usage.prompt_tokens + 12.0 * r.usage.completion_tokens) / 1_000_000
        assert r.cost_usd == pytest.approx(expected)


@pytest.mark.parametrize(
    "bad",
    [
        {"skill": {"general": 1.2}},
        {"skill": {"reasoning": -0.1}},
        {"skill": {"reasoning": math.nan}},
        {"skill": {"resoning": 0.5}},
        {"shared": 1.5},
        {"no_answer": -0.2},
        {"fail": math.nan},
        {"latency_ms": 0.0},
        {"latency_ms": math.inf},
        {"latency_sigma": -1.0},
        {"latency_sigma": math.inf},
        {"prompt_usd_per_mtok": -1.0},
        {"completion_usd_per_mtok": math.nan},
    ],
    ids=str,
)
def test_a_bad_profile_is_refused_by_name(bad):
    """A value that is no probability, task, latency or price is refused when the profile is declared."""
    with pytest.raises(LLMValidationError, match="simulated:test") as caught:
        profile(**bad)
    assert caught.value.code == "validation.profile"
    assert next(iter(bad)).removeprefix("latency_") in caught.value.message


def test_the_built_in_models_are_ordered_as_their_names_say():
    """Strong, medium and weak differ in this order in skill, price and latency."""
    strong, medium, weak = (PROFILES[name] for name in ("strong", "medium", "weak"))
    for task in ("question_answering", "reasoning", "general"):
        assert strong.skill[task] > medium.skill[task] > weak.skill[task]
    assert strong.completion_usd_per_mtok > medium.completion_usd_per_mtok > weak.completion_usd_per_mtok
    assert strong.latency_ms > medium.latency_ms > weak.latency_ms
