"""A comparison as a notebook shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.study.compare import Compared

if TYPE_CHECKING:
    import pandas as pd


class Comparison:
    """What `Run.compare` and `Run.what_if` return."""

    def __init__(self, found: Compared) -> None:
        self.found = found

    def as_dict(self) -> dict[str, Any]:
        return self.found.as_dict()
