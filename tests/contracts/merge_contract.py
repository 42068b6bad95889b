"""What every Merge must do, as checks that take a factory.

A factory makes the merge for given weights: `make({"a": 1.0, "b": 0.0})`. A merge with weights of its own takes
them from there; any other ignores the argument, because every contribution carries its weight as well. Use the
checks on your own merge in one line:

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_merge(check): check(lambda weights: MyMerge())

Each check raises AssertionError and says with which contributions the promise broke. The contributions come from
a fixed seed, and neither pytest nor hypothesis is needed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from workbench.errors import LLMError, LLMOrchestratorError, LLMValidationError
from workbench.facts import EnsembleResponse, Failure, Merge, ModelContribution, Response

Factory = Callable[[Mapping[str, float]], Merge]
Parts = list[ModelContribution]

MODELS = ("a:large", "a:small", "b:one", "b:two", "c:x", "d:y")
ANSWERS = ("10", "9", "no", "yes")
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 1 / 3, 1.0, 1.0, 2.0, 7.5)
QUALITIES = (None, 0.0, 0.2, 0.5, 0.7, 0.9, 1.0)
CASES = 300


def ignores_order(make: Factory) -> None:
    """The order of the contributions changes nothing."""
    chance = random.Random(1)
    for parts in _cases():
        first = _outcome(make, parts)
        shuffled = chance.sample(parts, len(parts))
        _same(first, _outcome(make, shuffled), f"another order of {_show(parts)}")


def returns_the_unanimous_answer(make: Factory) -> None:
    """Where all agree, their answer wins with confidence 1, or 0 < confidence < 1 when the filter left some out."""
    for parts in _cases(answers=("yes",), failures=False):
        if isinstance(merged := _outcome(make, parts), str):
            assert merged == "ensemble.all_filtered", f"{merged} for unanimous {_show(parts)}"
            continue
        if not any(c.votes and c.weight > 0 for c in merged.contributions):
            continue  # only members without weight passed the filter
        assert merged.answer == "yes", f"unanimous {_show(parts)} gave {merged.answer!r}"
        assert merged.agreement == 1.0, f"unanimous {_show(parts)} has agreement {merged.agreement}"
        if all(c.status == "kept" for c in merged.contributions):
            assert merged.confidence == 1.0, f"unanimous {_show(parts)} has confidence {merged.confidence}"


def ignores_a_zero_weight(make: Factory) -> None:
    """A member of weight 0 changes nothing: the outcome is the one without it."""
    for parts in _cases():
        for silent in [c for c in parts if c.weight == 0]:
            without = _outcome(make, [c for c in parts if c is not silent])
            merged = _outcome(make, parts)
            if isinstance(without, str) and not isinstance(merged, str):
                assert merged.answer is None, f"only {silent.model} of weight 0 is left in {_show(parts)}, and it won"
            else:
                _same(without, merged, f"without {silent.model} of weight 0 in {_show(parts)}")


def keeps_its_winner_when_a_supporter_grows(make: Factory) -> None:
    """The winner still wins after the weight of one of its supporters has grown."""
    for parts in _cases():
        merged = _outcome(make, parts)
        if isinstance(merged, str) or merged.answer is None:
            continue
        supporters = [c for c in merged.contributions if c.votes and c.weight > 0 and c.answer == merged.answer]
        for supporter in supporters:
            for weight in (supporter.weight + 0.05, supporter.weight * 3 + 1):
                grown = [replace(c, weight=weight) if c.model == supporter.model else c for c in parts]
                after = _outcome(make, grown)
                found = after if isinstance(after, str) else after.answer
                assert found == merged.answer, (
                    f"{merged.answer!r} lost to {found!r} when {supporter.model} grew to {weight}: {_show(parts)}"
                )


def refuses_an_empty_input_by_name(make: Factory) -> None:
    """No contributions at all are refused as `validation.models`."""
    refused = _refusal(make({"a:large": 1.0}), [])
    assert isinstance(refused, LLMValidationError), f"an empty input gave {refused!r}"
    assert refused.code == "validation.models", f"an empty input is refused as {refused.code}: {refused.message}"


def is_deterministic(make: Factory) -> None:
    """One merge asked twice, and two merges made alike, give equal responses."""
    for parts in _cases():
        merge = make(_weights(parts))
        first, again, other = _call(merge, parts), _call(merge, parts), _outcome(make, parts)
        assert first == again == other, f"the same contributions gave {first}, {again} and {other}: {_show(parts)}"


def answers_only_from_contributions(make: Factory) -> None:
    """Winners come sorted from kept members, the first is the answer, and the text is of one who gave it."""
    for parts in _cases():
        if isinstance(merged := _outcome(make, parts), str):
            continue
        given = {c.answer for c in merged.contributions if c.votes}
        assert set(merged.tied) <= given, f"{set(merged.tied) - given} was given by nobody in {_show(parts)}"
        assert list(merged.tied) == sorted(set(merged.tied)), f"tied is {merged.tied} for {_show(parts)}"
        first = merged.tied[0] if merged.tied else None
        assert merged.answer == first, f"answer {merged.answer!r} is not the first of {merged.tied}: {_show(parts)}"
        texts = {c.response.text for c in merged.contributions if c.response and c.votes and c.answer == first}
        assert first is None or merged.text in texts, f"{merged.text!r} is no text of {first!r} in {_show(parts)}"
        names = sorted(c.model for c in merged.contributions)
        assert names == sorted(c.model for c in parts), f"contributions of {names} for {_show(parts)}"


def keeps_its_numbers_in_the_unit_interval(make: Factory) -> None:
    """0 <= confidence <= agreement <= 1: confidence divides the same support by all who were asked."""
    for parts in _cases():
        if not isinstance(merged := _outcome(make, parts), str):
            assert 0 <= merged.confidence <= merged.agreement + 1e-12 <= 1 + 2e-12, (
                f"confidence {merged.confidence}, agreement {merged.agreement} for {_show(parts)}"
            )
            assert (merged.answer is None) == (merged.agreement == 0), f"{merged.agreement} for {_show(parts)}"


def gives_no_vote_to_a_missing_answer(make: Factory) -> None:
    """A member that responded without an answer changes neither winners nor agreement."""
    for parts in _cases(failures=False, answers=ANSWERS):
        for model, weight in (("e:mute", 1.0), ("0:mute", 5.0)):
            without, merged = _outcome(make, parts), _outcome(make, [*parts, _part(model, None, None, weight)])
            if isinstance(without, str) and not isinstance(merged, str):
                assert merged.answer is None, f"only {model} without an answer is left in {_show(parts)}, and it won"
            else:
                _same(without, merged, f"{model} in {_show(parts)}", asked=False)


def gives_no_vote_to_the_failed(make: Factory) -> None:
    """A member that failed or came late changes nothing but confidence; all failed is `ensemble.all_failed`."""
    failure = Failure(kind="LLMProviderError", code="provider.server", message="503")
    for parts in _cases(failures=False, answers=ANSWERS):
        for status in ("failed", "late", "kept"):
            lost = replace(_part("e:lost", "zzz", None, 5.0), response=None, failure=failure, status=status)
            _same(_outcome(make, parts), _outcome(make, [*parts, lost]), f"{status} in {_show(parts)}", asked=False)
        failed = [replace(c, response=None, answer=None, failure=failure, status="failed") for c in parts]
        refused = _refusal(make(_weights(failed)), failed)
        assert isinstance(refused, LLMOrchestratorError), f"all failed gave {refused!r}: {_show(failed)}"
        assert refused.code == "ensemble.all_failed", f"all failed is refused as {refused.code}"
        assert refused.errors == (failure,) * len(parts), f"errors are {refused.errors}"


CHECKS: tuple[Callable[[Factory], None], ...] = (
    ignores_order,
    returns_the_unanimous_answer,
    ignores_a_zero_weight,
    keeps_its_winner_when_a_supporter_grows,
    refuses_an_empty_input_by_name,
    is_deterministic,
    answers_only_from_contributions,
    keeps_its_numbers_in_the_unit_interval,
    gives_no_vote_to_a_missing_answer,
    gives_no_vote_to_the_failed,
)


def _cases(answers: Sequence[str | None] = (*ANSWERS, None), failures: bool = True) -> Iterator[Parts]:
    """Contributions of one to six models; at least one of them has a positive weight and responded."""
    chance = random.Random(0)
    for _ in range(CASES):
        models = chance.sample(MODELS, chance.randint(1, len(MODELS)))
        parts = [_part(m, chance.choice(answers), chance.choice(QUALITIES), chance.choice(WEIGHTS)) for m in models]
        if all(c.weight == 0 for c in parts):
            parts[0] = replace(parts[0], weight=1.0)
        if failures and len(parts) > 1 and chance.random() < 0.3:
            failure = Failure(kind="LLMTimeoutError", code="timeout.deadline", message="too late")
            parts[-1] = replace(parts[-1], response=None, answer=None, quality=None, failure=failure, status="failed")
        yield parts


def _part(model: str, answer: str | None, quality: float | None, weight: float) -> ModelContribution:
    said = f"{model} says {answer}" if answer is not None else f"{model} does not say"
    response = Response(request_key="k", model=model, text=said, source="simulated")
    return ModelContribution(model=model, response=response, answer=answer, quality=quality, weight=weight)


def _weights(parts: Sequence[ModelContribution]) -> dict[str, float]:
    return {c.model: c.weight for c in parts}


def _refusal(merge: Merge, parts: Parts) -> EnsembleResponse | LLMError:
    """The typed refusal that is expected, or the response that came instead."""
    try:
        return merge(parts)
    except LLMError as error:
        return error


def _call(merge: Merge, parts: Parts) -> EnsembleResponse | str:
    """The response, or the code of a typed refusal."""
    found = _refusal(merge, parts)
    return found.code if isinstance(found, LLMError) else found


def _outcome(make: Factory, parts: Parts) -> EnsembleResponse | str:
    if not any(c.weight > 0 for c in parts):
        return "validation.weights"  # a merge with weights of its own could not even be made
    return _call(make(_weights(parts)), parts)


def _same(one: EnsembleResponse | str, two: EnsembleResponse | str, what: str, *, asked: bool = True) -> None:
    """Assert equal outcomes; `asked=False` leaves out confidence, which counts everybody who was asked."""
    if isinstance(one, str) or isinstance(two, str):
        assert one == two, f"{one} became {two}: {what}"
        return
    assert one.tied == two.tied, f"winners {one.tied} became {two.tied}: {what}"
    assert one.answer is None or one.text == two.text, f"text {one.text!r} became {two.text!r}: {what}"
    assert math.isclose(one.agreement, two.agreement, abs_tol=1e-6), (
        f"agreement {one.agreement} became {two.agreement}: {what}"
    )
    if asked:
        assert math.isclose(one.confidence, two.confidence, abs_tol=1e-6), (
            f"confidence {one.confidence} became {two.confidence}: {what}"
        )


def _show(parts: Parts) -> str:
    return "; ".join(f"{c.model}={c.answer} q={c.quality} w={c.weight:g} {c.status}" for c in parts)
