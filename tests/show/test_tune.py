"""The sliders' object without a browser: positions, what it shows, and its static twin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workbench import LLMValidationError, WeightedConsensus, Workbench, show
from workbench.session.run import Run

STRONG, MEDIUM, WEAK = "simulated:strong", "simulated:medium", "simulated:weak"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with Workbench.open(tmp_path_factory.mktemp("tune") / "log") as wb:
        yield wb.run_sync("question_answering")


def test_a_position_reads_as_the_comparison_of_its_merge(run: Run):
    """The shown difference is that of `what_if` with the present merge."""
    tuner = show.tune_weights(run, weights={STRONG: 2.0, MEDIUM: 1.0, WEAK: 1.0})
    assert tuner.setting.weights == {MEDIUM: 0.5, STRONG: 1.0, WEAK: 0.5}  # the sliders end at 1
    assert isinstance(tuner.merge, WeightedConsensus)
    told = run.what_if(tuner.merge).found.strategies[0]
    assert tuner.reading.delta == pytest.approx(told.delta)
    tuner.move(strategy="majority_voting")
    assert tuner.reading.delta == pytest.approx(run.what_if("majority_voting").found.strategies[0].delta)


def test_moving_a_slider_moves_the_numbers_and_the_other_way_round(run: Run):
    """Widgets and code are two ways to the same position."""
    tuner = show.tune_weights(run)
    box = tuner.widget
    assert tuner.widget is box
    controls, shown = box.children
    strategy, threshold, *sliders = controls.children
    assert [slider.tooltip for slider in sliders] == [MEDIUM, STRONG, WEAK]
    sliders[1].value = 0.25
    assert tuner.setting.weights[STRONG] == 0.25
    assert tuner._repr_html_() == shown.value
    tuner.move(weights={STRONG: 0.75}, threshold=0.6)
    assert (sliders[1].value, threshold.value) == (0.75, 0.6)
    strategy.value = "best_of_n"
    assert all(slider.disabled for slider in sliders)
    assert tuner.setting.strategy == "best_of_n"
    assert "best_of_n" in shown.value


def test_a_position_that_cannot_be_is_told_and_left_alone(run: Run):
    """All sliders at 0: the panel says why and what to do, and the last good position stays."""
    tuner = show.tune_weights(run)
    controls, shown = tuner.widget.children
    before = tuner.reading
    for slider in controls.children[2:]:
        slider.value = 0.0
    assert "weights are zero" in shown.value
    assert tuner.reading.setting.weights[WEAK] > 0
    controls.children[3].value = 1.0
    assert "weights are zero" not in shown.value
    assert tuner.reading != before
    with pytest.raises(LLMValidationError):
        tuner.move(weights={"stranger": 1.0})
    with pytest.raises(LLMValidationError):
        show.tune_weights(run, strategy="none")


def test_it_shows_itself_with_and_without_widgets(run: Run):
    """The bundle has the view, and a text and a page that need none; the page says source, interval and verdict."""
    tuner = show.tune_weights(run)
    bundle = tuner._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/html"] == tuner._repr_html_()
    page = bundle["text/html"]
    assert "source simulated" in page
    assert tuner.reading.verdict in page
    assert page.count("<circle") == 1
    assert "<script" not in page
    assert repr(tuner).startswith(f"weighted_consensus({MEDIUM} 1, {STRONG} 1, {WEAK} 1): ")
    assert bundle["text/plain"] == repr(tuner)


def test_names_cannot_inject_markup(run: Run):
    """A model's name is text."""
    tuner = show.tune_weights(run)
    object.__setattr__(tuner._tuner.table, "source", "<script>alert(1)</script>")
    try:
        assert "<script" not in tuner._repr_html_()
    finally:
        object.__setattr__(tuner._tuner.table, "source", "simulated")


def test_reading_a_position_makes_no_call(run: Run):
    """The log has as many calls after a hundred positions as before."""
    count = "select count(*) from calls"
    before = run.log.rows(count)
    tuner = show.tune_weights(run)
    for k in range(1, 100):
        tuner.move(weights={WEAK: k / 100})
    assert run.log.rows(count) == before


@pytest.mark.parametrize("given", [None, 5, "latest", object()], ids=["none", "number", "text", "object"])
def test_what_is_no_run_has_no_sliders(given: object):
    """A run id alone is none: `wb.get_run` gives the run."""
    with pytest.raises(LLMValidationError) as caught:
        show.tune_weights(given)
    assert caught.value.code == "validation.run"
