"""Learning online over recorded styles: what is seen, what is gained, and whether predictions hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from study.styled import styled_run
from workbench import Workbench
from workbench.decide.choose import ChooseStrategy
from workbench.errors import LLMValidationError
from workbench.study import online
from workbench.study.online import Online, learn_online
from workbench.study.table import RunTable
from workbench.study.timings import Estimate


def planted(n: int = 400, *, helped: float = 0.4, harmed: float = -0.3, seed: int = 0) -> RunTable:
    """Two groups: one in which cot helps, one in which it harms."""
    rng = np.random.default_rng(seed)
    groups = ["helped", "harmed"] * (n // 2)
    base = (rng.random(n) < 0.5).astype(float)
    shift = np.array([helped if g == "helped" else harmed for g in groups])
    cot = (rng.random(n) < 0.5 + shift).astype(float)
    return styled_run({("m", "direct"): base, ("m", "cot"): cot}, groups=groups)


def learned(run: RunTable, **options: object) -> Online:
    return learn_online(run, **{"orders": 5, "samples": 200, **options})  # type: ignore[arg-type]


def test_it_comes_to_choose_what_helps_and_to_leave_what_harms() -> None:
    """In the second half most choices in the one group are cot, and few in the other."""
    found = learned(planted(2000))
    by_name = {group.group: group for group in found.groups}
    assert by_name["helped"].taken > 0.9
    assert by_name["harmed"].taken < 0.2
    assert by_name["harmed"].gain.low > by_name["harmed"].always
    assert found.second_half.value > found.always


def test_hidden_groups_cannot_be_told_apart() -> None:
    """Without groups it takes for all items what helps on the whole, and harms the one group."""
    shown, hidden = learned(planted(2000)), learned(planted(2000), grouped=False)
    assert hidden.second_half.value < shown.second_half.value
    assert not hidden.grouped
    harmed = [next(group for group in found.groups if group.group == "harmed") for found in (shown, hidden)]
    assert harmed[1].taken > 2 * harmed[0].taken


def test_the_numbers_are_those_of_the_same_choices_made_by_hand() -> None:
    """A style that is always right against one that never is: the gain is the share of items it was taken for."""
    run = styled_run({("m", "direct"): np.zeros(200), ("m", "cot"): np.ones(200)}, groups=["g"] * 200)
    found = learned(run, orders=3)
    assert found.always == 1.0
    assert found.share.value == pytest.approx(found.gain.value)
    assert found.curve[-1] == pytest.approx(found.gain.value)
    assert found.second_half.value == pytest.approx(found.groups[0].taken, abs=1e-9)
    assert found.second_half.value > 0.95


def test_equal_seeds_give_equal_choices() -> None:
    """State and draws are values: the same orders, choices and predictions again."""
    assert learned(planted()) == learned(planted())
    assert learned(planted()).gain != learned(planted(), seed=1).gain


def test_only_the_answer_that_was_asked_for_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every score changed that was not chosen, the same is predicted and chosen, item by item."""
    seen: list[tuple[tuple[float, ...], str]] = []

    class Watched(ChooseStrategy):
        def __call__(self, gains, draws=None):
            made = super().__call__(gains, draws)
            seen.append((tuple(gain.mean for gain in gains), made.strategy))
            return made

    monkeypatch.setattr(online, "ChooseStrategy", Watched)
    run = planted(200)
    learned(run, orders=1, seed=4)
    first, seen[:] = list(seen), []
    order = np.random.default_rng(4).permutation(200)
    scores = run.scores.copy()
    column = {"unchanged": run.models.index("m/direct"), "cot": run.models.index("m/cot")}
    for i, (_, chosen) in zip(order, first, strict=True):
        other = column["cot" if chosen == "unchanged" else "unchanged"]
        scores[i, other] = 1 - scores[i, other]
    assert not np.array_equal(scores, run.scores)
    learned(replace(run, scores=scores), orders=1, seed=4)
    assert seen == first


def test_the_last_intervals_are_counted_by_group_and_task() -> None:
    """A group that gains and one that loses, under one name and two task types, are two groups."""
    n = 400
    tasks = ["reasoning", "translation"] * (n // 2)
    base = np.full(n, 0.5)
    shift = np.array([0.4 if t == "reasoning" else -0.4 for t in tasks])
    found = learned(styled_run({("m", "direct"): base, ("m", "cot"): base + shift}, tasks=tasks), caution=0)
    assert {g.group for g in found.groups} == {"reasoning: ", "translation: "}
    assert found.coverage == 1.0
    hidden = learned(planted(2000), grouped=False)
    assert hidden.coverage < 0.5  # one prediction for a group that gains 40 and one that loses 30


def test_shares_and_intervals_of_bins_and_groups_are_those_of_the_items() -> None:
    """A gain of exactly 0.25 on every item has intervals of no width, and what is taken is counted over all choices."""
    base = np.full(120, 0.5)
    found = learned(styled_run({("m", "direct"): base, ("m", "cot"): base + 0.25}))
    assert all(b.measured == Estimate(value=0.25, low=0.25, high=0.25) for b in found.bins)
    (group,) = found.groups
    assert group.gain.value == pytest.approx(0.25 * group.taken, abs=0.02)
    assert found.second_half.value == pytest.approx(0.25 * group.taken)


def test_a_base_that_is_best_leaves_no_gain_to_share() -> None:
    """Its gain is exactly 0, also where adding up the scores would round, and a share of it is not known."""
    rng = np.random.default_rng(0)
    base = rng.random(77)
    found = learned(styled_run({("m", "default"): base, ("m", "concise"): base * 0.7}))
    assert found.always == 0.0
    assert np.isnan(found.share.value)


def test_a_style_called_unchanged_beside_another_base_is_learned_too() -> None:
    """The optimizer's own word for the base is not taken by it."""
    run = styled_run({("m", "cot"): np.zeros(200), ("m", "unchanged"): np.ones(200)})
    found = learned(run, base="cot")
    assert (found.base, found.styles) == ("cot", ("unchanged",))
    assert 0.8 < found.share.value < 1.0
    assert found.bins[-1].predicted > 0.5


def test_several_styles_are_chosen_among() -> None:
    """The one that helps is found among those that do not."""
    rng = np.random.default_rng(0)
    n = 1500
    scores = {("m", s): (rng.random(n) < p).astype(float) for s, p in {"default": 0.4, "a": 0.4, "b": 0.8}.items()}
    found = learned(styled_run(scores))
    assert found.styles == ("a", "b")
    assert found.share.value > 0.8
    assert len(found.bins) > 1


def test_bins_hold_all_predictions_of_the_second_half() -> None:
    """Shares sum to 1, and the calibration error is their weighted distance."""
    found = learned(planted())
    assert sum(b.share for b in found.bins) == pytest.approx(1.0)
    by_hand = sum(b.share * abs(b.predicted - b.measured.value) for b in found.bins)
    assert found.calibration_error == pytest.approx(by_hand)
    assert all(b.measured.low <= b.measured.value <= b.measured.high for b in found.bins)


def test_a_frame_has_the_groups_with_their_source() -> None:
    """One row a group."""
    frame = learned(planted()).df()
    assert set(frame["group"]) == {"helped", "harmed"}
    assert set(frame["source"]) == {"recorded"}


@pytest.mark.parametrize(
    ("options", "code"),
    [({"orders": 0}, "validation.config"), ({"orders": True}, "validation.config"),
     ({"model": "z"}, "validation.models"), ({"caution": -1}, "validation.config"),
     ({"seed": -1}, "stats.seed"), ({"base": "z"}, "validation.styles")],
    ids=str,
)  # fmt: skip
def test_bad_options_are_refused(options: dict, code: str) -> None:
    """Each by its own code, with what to do."""
    with pytest.raises(LLMValidationError) as refused:
        learned(planted(40), **options)
    assert refused.value.code == code


def test_one_of_several_models_must_be_named() -> None:
    """It learns about one model at a time."""
    run = styled_run({(m, s): np.arange(10) % 2 for m in "mn" for s in ("direct", "cot")})
    with pytest.raises(LLMValidationError, match="m, n") as refused:
        learned(run)
    assert refused.value.code == "validation.models"
    assert learned(run, model="n").model == "n"


def test_scores_beyond_0_and_1_are_no_qualities() -> None:
    """They are refused, and not scaled in silence."""
    run = styled_run({("m", "default"): [-3.0, 0.0, -1.0], ("m", "concise"): [0.0, 0.0, 0.0]}, score_kind="mqm")
    with pytest.raises(LLMValidationError) as refused:
        learned(run)
    assert refused.value.code == "validation.score_kind"


@pytest.mark.recordings
@pytest.mark.slow
def test_the_optimizer_keeps_the_gain_on_bbh_and_spares_what_is_harmed(recordings: Path, log_folder: Path) -> None:
    """20 random orders: at least 95 % of the gain of always-cot, harmed tasks bounded, predictions calibrated."""
    with Workbench.open(log_folder) as wb:
        wb.import_file(recordings / "bbh_direct_vs_cot.parquet")
        table = wb.run_sync("bbh_direct_vs_cot").table
    found = learn_online(table)
    assert found.orders == 20
    assert found.share.value >= 0.95
    by_name = {group.group: group for group in found.groups}
    for harmed in ("word_sorting", "ruin_names"):
        assert by_name[harmed].gain.low >= -0.04
        assert by_name[harmed].always < -0.06
    assert found.calibration_error <= 0.05
    hidden = learn_online(table, grouped=False, orders=5)
    assert next(g for g in hidden.groups if g.group == "word_sorting").gain.value < -0.05
