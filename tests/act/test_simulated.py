"""Simulated models: declared skill, shared errors, latency and price, the same in every process."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from workbench.act.simulated import PROFILES, Profile, SimulatedModel, wrong_answers
from workbench.decide.answers import extract, normalise
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
