"""Tuning by hand: sliders for the weights of a vote, and what they give, from the recorded answers and without a call.

Numbers first: a `Reading` of study/tune.py. It is drawn as HTML with a small SVG, which a notebook shows beside the
sliders, an exported page without them, and which a test reads.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any, Protocol

from workbench.decide.merge import WeightedConsensus
from workbench.errors import LLMError, LLMValidationError
from workbench.show.plots import BLUE, COLOURS
from workbench.show.tables import CAPTION, NOTE, TABLE, escape
from workbench.study.summary import difference, interval, number, unit_name
from workbench.study.table import RunTable
from workbench.study.tune import STRATEGIES, Reading, Setting, Tuner

STEP = 0.05
WIDTH, HEIGHT, EDGE = 460, 54, 12
REACH = 0.1  # of 0/1 scores: the chart shows at least 10 points to either side


class HasTable(Protocol):
    """A run, or whatever has its table."""

    @property
    def table(self) -> RunTable:
        """The run's answers and scores."""


class WeightTuner:
    """Sliders per model, a strategy and a threshold; the accuracy with its interval follows them.

    In a notebook it shows itself; where widgets cannot be shown it is a table of the present setting. `setting`,
    `reading` and `merge` are those of the sliders' present position.
    """

    def __init__(
        self, run: HasTable, *, weights: Mapping[str, float] | None = None, strategy: str = WeightedConsensus.name
    ) -> None:
        if not isinstance(table := getattr(run, "table", None), RunTable):
            raise LLMValidationError(
                f"a {type(run).__name__} is not a run", code="validation.run", next_step="pass what wb.get_run() gives"
            )
        self._tuner = Tuner(table)
        start = self._tuner.start(weights)
        self.setting = Setting(strategy=strategy, weights=_up_to_one(start.weights))
        self.reading = self._tuner.read(self.setting)
        self._box: Any = None
        self._controls: dict[str, Any] = {}
        self._moving = False

    @property
    def merge(self) -> Any:
        """The merge at the present position, for `wb.run(..., merge=...)` or `run.what_if(...)`."""
        return self.setting.merge

    def move(
        self,
        *,
        weights: Mapping[str, float] | None = None,
        strategy: str | None = None,
        threshold: float | None = None,
    ) -> Reading:
        """Another position: what is given is changed, and a threshold of None or 0 keeps every answer.

        Raises LLMValidationError validation.weights, validation.strategy, validation.threshold; the position stays.
        """
        setting = Setting(
            strategy=strategy or self.setting.strategy,
            weights={**self.setting.weights, **(weights or {})},
            threshold=threshold or None,
        )
        self.reading = self._tuner.read(setting)
        self.setting = setting
        self._show()
        return self.reading

    def _repr_html_(self) -> str:
        return reading_html(self.reading, self._tuner)

    def __repr__(self) -> str:
        r, unit = self.reading, self._tuner.table.unit
        weights = ", ".join(f"{model} {weight:g}" for model, weight in r.setting.weights.items())
        return (
            f"{r.setting.strategy}({weights}): {number(r.score, unit)}, {difference(r.delta, unit)} "
            f"{interval(r.low, r.high, unit)} {unit_name(unit)} against {self._tuner.best_single}: {r.verdict}"
        )

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        shown: dict[str, Any] = {"text/plain": repr(self), "text/html": self._repr_html_()}
        return {**shown, **self.widget._repr_mimebundle_(), **shown}

    @property
    def widget(self) -> Any:
        """The sliders and the numbers, as one ipywidgets box; made once."""
        if self._box is None:
            self._box = self._made()
        return self._box

    def _made(self) -> Any:
        import ipywidgets as ipw

        look: dict[str, Any] = {"style": {"description_width": "150px"}, "layout": ipw.Layout(width="400px")}
        slide: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": STEP, "readout_format": ".2f", **look}
        self._controls = {
            "strategy": ipw.Dropdown(options=list(STRATEGIES), description="strategy", **look),
            "threshold": ipw.FloatSlider(
                description="quality threshold", tooltip="answers of a known quality below it have no vote", **slide
            ),
            **{
                f"of {model}": ipw.FloatSlider(description=_short(model), tooltip=model, **slide)
                for model in self.setting.weights
            },
            "shown": ipw.HTML(),
        }
        self._show()
        for name, control in self._controls.items():
            if name != "shown":
                control.observe(self._moved, names="value")
        *controls, shown = self._controls.values()
        column = ipw.VBox(controls, layout=ipw.Layout(flex="0 0 auto", margin="8px 16px 0 0"))
        shown.layout = ipw.Layout(flex="1 1 480px")
        return ipw.HBox([column, shown], layout=ipw.Layout(flex_flow="row wrap"))

    def _show(self, problem: str = "") -> None:
        """Let the controls and the numbers show the present position."""
        if not self._controls:
            return
        weighted = self.setting.strategy == WeightedConsensus.name
        self._moving = True
        try:
            if not problem:  # else the sliders stay where the user has put them
                self._controls["strategy"].value = self.setting.strategy
                self._controls["threshold"].value = self.setting.threshold or 0.0
                for model, weight in self.setting.weights.items():
                    self._controls[f"of {model}"].value = weight
            for model in self.setting.weights:
                self._controls[f"of {model}"].disabled = not weighted
            told = f'<p style="{NOTE}"><b>{escape(problem)}</b></p>' if problem else ""
            self._controls["shown"].value = told + self._repr_html_()
        finally:
            self._moving = False

    def _moved(self, _: object) -> None:
        """A user has moved a control."""
        if self._moving:
            return
        try:
            self.move(
                weights={model: self._controls[f"of {model}"].value for model in self.setting.weights},
                strategy=self._controls["strategy"].value,
                threshold=self._controls["threshold"].value,
            )
        except LLMError as error:
            self._show(f"{error.message}; {error.next_step}")


def tune_weights(
    run: HasTable, *, weights: Mapping[str, float] | None = None, strategy: str = WeightedConsensus.name
) -> WeightTuner:
    """Sliders that merge the recorded answers of a run again; no call is made.

    weights: where the sliders start; None: all equal. strategy: weighted_consensus, majority_voting or best_of_n.
    Raises LLMValidationError validation.weights, validation.strategy, validation.no_text, data.no_scores.
    """
    return WeightTuner(run, weights=weights, strategy=strategy)


def reading_html(reading: Reading, tuner: Tuner) -> str:
    """A reading as HTML: score and difference in words, the interval as a picture, the weights as shares."""
    table, unit, setting = tuner.table, tuner.table.unit, reading.setting
    colour = COLOURS[reading.verdict]
    single = float(tuner.singles[:, tuner.best].mean())
    head = (
        f"{setting.strategy}: {number(reading.score, unit)} on {len(tuner.rows)} items, source {table.source}. "
        f"Best single model {tuner.best_single}: {number(single, unit)}."
    )
    told = f"{difference(reading.delta, unit)} {interval(reading.low, reading.high, unit)} {unit_name(unit)}"
    counts = (
        f"Items: better on {reading.better}, worse on {reading.worse}; {reading.tied * 100:.0f} % tied"
        + (f", {reading.undecided} without a winner" if reading.undecided else "")
        + f". 95 % interval of {tuner.samples:,} paired bootstrap samples. These items are the ones the sliders are "
        "moved on: what looks best here is less on others (fit_weights tells by how much)."
    )
    total = sum(setting.weights.values())
    weighted = setting.strategy == WeightedConsensus.name
    rows = "".join(
        f'<tr><td style="padding:1px 10px 1px 0">{escape(model)}</td>'
        f'<td style="padding:1px 10px;text-align:right">{weight / total * 100:.0f} %</td></tr>'
        for model, weight in (setting.weights.items() if weighted else ())
    )
    below = f"Answers of a known quality below {setting.threshold:g} do not vote. " if setting.threshold else ""
    return (
        f'<div class="workbench-tune"><p style="{CAPTION}">{escape(head)}</p>'
        f'<p style="margin:2px 0"><b style="color:{colour}">{escape(told)}: {reading.verdict}</b></p>'
        f"{_svg(reading, unit)}"
        f'<p style="{NOTE}">{escape(below + counts)}</p>'
        + (f'<table style="{TABLE}">{rows}</table>' if rows else "")
        + "</div>"
    )


def _svg(reading: Reading, unit: str) -> str:
    """The difference with its interval, on an axis that keeps its place while it can; 0 is the best single model."""
    reach = max(REACH if unit == "fraction" else 0.0, abs(reading.low), abs(reading.high)) * 1.1 or 1.0
    colour = COLOURS[reading.verdict]

    def x(value: float) -> float:
        return EDGE + (value / reach + 1) / 2 * (WIDTH - 2 * EDGE)

    ends = "".join(
        f'<text x="{x(at):.1f}" y="{HEIGHT - 4}" font-size="10" fill="currentColor" text-anchor="middle">'
        f"{html.escape(text)}</text>"
        for at, text in (
            (-reach / 1.1, difference(-reach / 1.1, unit)),
            (0.0, "best single model"),
            (reach / 1.1, difference(reach / 1.1, unit)),
        )
    )
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="difference with 95 % interval">'
        f'<line x1="{EDGE}" x2="{WIDTH - EDGE}" y1="22" y2="22" stroke="currentColor" stroke-opacity="0.25"/>'
        f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="6" y2="38" stroke="{BLUE}" stroke-dasharray="3 3"/>'
        f'<line x1="{x(reading.low):.1f}" x2="{x(reading.high):.1f}" y1="22" y2="22" stroke="{colour}" '
        f'stroke-width="3"/><circle cx="{x(reading.delta):.1f}" cy="22" r="6" fill="{colour}"/>{ends}</svg>'
    )


def _up_to_one(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights with 1 as the largest, which is where the sliders end."""
    top = max(weights.values())
    return {model: weight / top for model, weight in weights.items()}


def _short(model: str) -> str:
    return model if len(model) <= 32 else f"{model[:14]}…{model[-17:]}"
