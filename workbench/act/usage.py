"""What the process has used of the machine: processor time and memory."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows has no such module
    resource = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessUsage:
    """Processor seconds (user and system, all threads) and the largest resident memory in bytes; None where unknown.

    Of the process itself, without its children. The memory is the largest so far, whenever it was.
    """

    cpu_s: float | None
    peak_rss_bytes: int | None

    def since(self, start: ProcessUsage) -> ProcessUsage:
        """What was used after `start`: the difference of the seconds, >= 0; the memory stays the largest so far."""
        if self.cpu_s is None or start.cpu_s is None:
            return ProcessUsage(cpu_s=None, peak_rss_bytes=self.peak_rss_bytes)
        return ProcessUsage(cpu_s=max(0.0, self.cpu_s - start.cpu_s), peak_rss_bytes=self.peak_rss_bytes)


def usage_now() -> ProcessUsage:
    """What the process has used since it began; None for both where the system does not tell, as on Windows."""
    if resource is None:
        return ProcessUsage(cpu_s=None, peak_rss_bytes=None)
    used = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kibibytes elsewhere: getrusage(2)
    return ProcessUsage(cpu_s=used.ru_utime + used.ru_stime, peak_rss_bytes=used.ru_maxrss * unit)
