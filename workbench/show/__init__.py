"""Tables, figures and exports: numbers first, drawing second. Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "chosen_table": "workbench.show.styles",
    "gains_table": "workbench.show.gains",
    "groups_table": "workbench.show.understanding",
    "online_table": "workbench.show.online",
    "plot_cost": "workbench.show.plots",
    "plot_deltas": "workbench.show.plots",
    "plot_gains": "workbench.show.gains",
    "plot_learning": "workbench.show.online",
    "plot_outage": "workbench.show.latency",
    "plot_pairs": "workbench.show.understanding",
    "plot_predicted": "workbench.show.online",
    "plot_reliability": "workbench.show.understanding",
    "plot_scores": "workbench.show.plots",
    "plot_spread": "workbench.show.understanding",
    "plot_style_gains": "workbench.show.styles",
    "plot_timings": "workbench.show.latency",
    "plot_values": "workbench.show.understanding",
    "plot_waterfall": "workbench.show.waterfall",
    "prompt_diff": "workbench.show.prompts",
    "style_gains_table": "workbench.show.styles",
    "timeline": "workbench.show.course",
    "timeline_values": "workbench.show.course",
    "timings_table": "workbench.show.latency",
    "tune_weights": "workbench.show.tune",
    "waterfall_table": "workbench.show.waterfall",
    "waterfall_values": "workbench.show.waterfall",
}
__all__ = [
    "chosen_table",
    "gains_table",
    "groups_table",
    "online_table",
    "plot_cost",
    "plot_deltas",
    "plot_gains",
    "plot_learning",
    "plot_outage",
    "plot_pairs",
    "plot_predicted",
    "plot_reliability",
    "plot_scores",
    "plot_spread",
    "plot_style_gains",
    "plot_timings",
    "plot_values",
    "plot_waterfall",
    "prompt_diff",
    "style_gains_table",
    "timeline",
    "timeline_values",
    "timings_table",
    "tune_weights",
    "waterfall_table",
    "waterfall_values",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench.show' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
