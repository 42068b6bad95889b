"""The fault lab: rehearse an outage before it happens. See docs/reference/lab.md."""

from __future__ import annotations

from workbench.serve.lab.account import Accepted, LabRequest
from workbench.serve.lab.catalog import FAULTS
from workbench.serve.lab.fault import Fault
from workbench.serve.lab.lab import FaultLab
from workbench.serve.lab.rules import FaultRule

__all__ = ["FAULTS", "Accepted", "Fault", "FaultLab", "FaultRule", "LabRequest"]
