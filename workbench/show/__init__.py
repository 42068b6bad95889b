"""Tables, figures and exports: numbers first, drawing second. Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "plot_cost": "workbench.show.plots",
    "plot_deltas": "workbench.show.plots",
    "plot_scores": "workbench.show.plots",
}
__all__ = ["plot_cost", "plot_deltas", "plot_scores"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench.show' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
