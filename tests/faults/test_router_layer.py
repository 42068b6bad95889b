"""The catalogue's layer `router`: a choice that cannot be made says why, and no history is no zero."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench import LLMRouter
from workbench.decide.route import ByFigures, Candidate, Need
from workbench.errors import LLMRouterError, LLMValidationError
from workbench.facts import ModelCard


def card(name: str, window: int | None = None, price: float | None = None, **more: float) -> Candidate:
    return Candidate(
        card=ModelCard(
            name=name, context_window=window, prompt_usd_per_mtok=price, completion_usd_per_mtok=price
        ), **more,
    )  # fmt: skip


SMALL, BIG, UNKNOWN = card("p:small", 8_000, 1.0), card("p:big", 200_000, 10.0), card("p:new")


def test_router_unknown_gives_the_closest_name(log_folder: Path):
    """A name that nobody knows, before any log is made."""
    with pytest.raises(LLMRouterError) as caught:
        LLMRouter(["gpt-zzz", "gpt4"], log=log_folder)
    assert caught.value.code == "router.unknown_model"
    assert "gpt-zzz" in caught.value.message
    assert not log_folder.exists()


def test_router_none_says_which_constraint_removed_which_model():
    """No money and no window are enough: each model stands there with what removed it."""
    need = Need(prompt_tokens=100, max_tokens=100, max_cost_usd=0.0)
    with pytest.raises(LLMRouterError) as caught:
        ByFigures()([SMALL, BIG, UNKNOWN], need)
    assert caught.value.code == "router.no_candidate"
    for told in (
        "p:small: max_cost_usd=0 (worst case 0.0002 USD)",
        "p:big: max_cost_usd=0",
        "p:new: max_cost_usd=0 (unk",
    ):
        assert told in caught.value.message
    with pytest.raises(LLMRouterError, match=r"p:small: min_context=1000000000 \(window 8000\).*p:new.*unknown window"):
        ByFigures()([SMALL, UNKNOWN], Need(min_context=10**9))
    assert len(caught.value.next_step) <= 160
    with pytest.raises(LLMRouterError, match="there are none"):
        ByFigures()([], Need())


def test_router_stats_empty_is_no_division_by_zero(log_folder: Path):
    """The first call ever, routed by latency: models without history come first, in the order given."""
    router = LLMRouter(["ollama:b", "ollama:a"], log=log_folder)
    assert router.select_model("hello", prefer="latency") == "ollama:b"
    router.close()


@pytest.mark.parametrize(
    ("prefer", "candidates", "chosen"),
    [
        ("listed", [BIG, SMALL], "p:big"),
        ("cost", [BIG, SMALL, UNKNOWN], "p:small"),
        ("cost", [UNKNOWN, BIG], "p:big"),
        ("latency", [card("p:a", latency_ms=300.0), card("p:b", latency_ms=200.0)], "p:b"),
        ("latency", [card("p:a", latency_ms=300.0), card("p:b")], "p:b"),
    ],
)
def test_the_preferred_of_those_that_fit_is_chosen(prefer, candidates, chosen):
    """As listed, by worst-case cost, or by measured latency; unknown prices come last, unknown latencies first."""
    route = ByFigures(prefer=prefer)(candidates, Need(prompt_tokens=10, max_tokens=10))
    assert route.models == (chosen,)
    assert route.propensity == 1.0


def test_figures_and_removed_models_are_part_of_the_route():
    """Costs by hand: 1,000 + 500 tokens at 1 and at 10 US dollars a million."""
    need = Need(prompt_tokens=1000, max_tokens=500, max_cost_usd=1.0, min_context=1)
    route = ByFigures(prefer="cost")([BIG, SMALL, UNKNOWN], need)
    assert route.scores == {"p:big": pytest.approx(0.015), "p:small": pytest.approx(0.0015)}
    assert "removed: p:new" in route.reason


def test_every_choice_is_in_the_log(log_folder: Path):
    """With what was asked, the figures of all, and a span; latencies come from the log's own calls."""
    router = LLMRouter(["ollama:a", "ollama:b"], log=log_folder)
    assert router.select_model("hello", prefer="cost", max_cost_usd=1.0) == "ollama:a"
    with pytest.raises(LLMRouterError):
        router.select_model("hello", min_context=10)
    log = router._log.open()
    rows = log.rows("select kind, policy, output->>'reason', output->>'error' from decisions order by duration_us")
    assert {(kind, policy) for kind, policy, *_ in rows} == {("route", "by_figures")}
    assert {error for *_, error in rows} == {None, "router.no_candidate"}
    assert log.rows("select count(*) from spans where component = 'llm_router'") == [(2,)]
    router.close()


@pytest.mark.parametrize("models", ["gpt4", []])
def test_a_router_needs_a_list_of_models(log_folder: Path, models):
    """One text is no list, and no model is no choice."""
    with pytest.raises(LLMValidationError) as caught:
        LLMRouter(models, log=log_folder)
    assert caught.value.code == "validation.models"


def test_odd_needs_are_refused():
    """NaN, negative amounts and unknown preferences."""
    for options in ({"max_cost_usd": float("nan")}, {"min_context": -1}, {"max_cost_usd": "1"}):
        with pytest.raises(LLMValidationError):
            Need(**options)
    with pytest.raises(LLMValidationError, match="listed, cost, latency"):
        ByFigures(prefer="best")
