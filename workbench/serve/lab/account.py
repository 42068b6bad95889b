"""What the lab has counted: every request that it has read to its end, and what became of it."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from workbench.act.provider import Wire
from workbench.serve.lab.http1 import Asked

LOG_ROWS = 100_000  # a lab may run for days, and a row has some 600 bytes; idempotency keys that are remembered, too
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabRequest:
    """One request that was read to its end.

    at_s, left_s: seconds since the lab was started or reset, when it was read and when the client left before the
    end of the answer. model: as it was asked. attempt: of the call, by its idempotency key, or of the model where it
    has none, from 1. fault: the id of the fault that was applied. status: that was sent, None where none was.
    answered: the answer was sent to its end.
    """

    at_s: float
    method: str
    path: str
    model: str
    wire: Wire
    stream: bool
    attempt: int
    idempotency_key: str
    fault: str | None
    status: int | None
    answered: bool
    left_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """How many questions were accepted: in all, by idempotency key (the empty one for none), model and fault.

    A question is what a model of the lab can be asked, whatever becomes of it. keys: how many there were; by_key has
    the last LOG_ROWS of them.
    """

    total: int
    keys: int
    by_key: Counter[str]
    by_model: Counter[str]
    by_fault: Counter[str]

    def as_dict(self) -> dict[str, Any]:
        """The counts as plain JSON values; of the keys how many there were."""
        return {
            "accepted": self.total,
            "idempotency_keys": self.keys,
            "by_model": dict(sorted(self.by_model.items())),
            "by_fault": dict(sorted(self.by_fault.items())),
        }


@dataclass(slots=True)
class Entry:
    """A request while it is answered. is_question: a model of the lab can be asked this."""

    asked: Asked
    wire: Wire
    model: str = ""
    stream: bool = False
    attempt: int = 1
    fault: str | None = None
    status: int | None = None
    is_question: bool = False

    def frozen(self, start_s: float) -> LabRequest:
        """The entry as it is now; start_s: monotonic."""
        asked = self.asked
        return LabRequest(
            at_s=asked.at_s - start_s,
            method=asked.method,
            path=asked.path,
            model=self.model,
            wire=self.wire,
            stream=self.stream,
            attempt=self.attempt,
            idempotency_key=asked.key,
            fault=self.fault,
            status=self.status,
            answered=asked.answered,
            left_s=None if asked.left_s is None else asked.left_s - start_s,
        )


class Account:
    """The requests since the start or the last reset; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything, and begin the time again."""
        with self._lock:
            self.start_s = time.monotonic()
            self._entries: deque[Entry] = deque(maxlen=LOG_ROWS)
            self._attempts: OrderedDict[tuple[str, str], int] = OrderedDict()
            self._keyless: Counter[str] = Counter()  # attempts of models, never forgotten
            self._total = self._without_key = self._keys = 0
            self._by_key: OrderedDict[str, int] = OrderedDict()
            self._by_model: Counter[str] = Counter()
            self._by_fault: Counter[str] = Counter()

    def add(self, entry: Entry) -> None:
        """Take a request in, once it is known what is asked and what the answer will be."""
        with self._lock:
            self._entries.append(entry)
            if not entry.is_question:
                return
            self._total += 1
            if entry.asked.key:
                self._keys += _counted(self._by_key, entry.asked.key) == 1
            else:
                self._without_key += 1
            self._by_model[entry.model] += 1
            if entry.fault is not None:
                self._by_fault[entry.fault] += 1

    def attempt(self, model: str, key: str) -> int:
        """The number of this attempt: of the call that the key stands for, or of the model without one."""
        with self._lock:
            if key:
                return _counted(self._attempts, (model, key))
            self._keyless[model] += 1
            return self._keyless[model]

    @property
    def log(self) -> tuple[LabRequest, ...]:
        """The requests in the order in which they were read, the last LOG_ROWS of them."""
        with self._lock:
            return tuple(entry.frozen(self.start_s) for entry in self._entries)

    @property
    def accepted(self) -> Accepted:
        """The counts of the questions to models."""
        with self._lock:
            return Accepted(
                total=self._total,
                keys=self._keys,
                by_key=Counter(self._by_key) + Counter({"": self._without_key}),
                by_model=Counter(self._by_model),
                by_fault=Counter(self._by_fault),
            )


def _counted(found: OrderedDict[Key, int], key: Key) -> int:
    """The key's count with one more; the key longest unused is forgotten where there are too many."""
    found[key] = found.get(key, 0) + 1
    found.move_to_end(key)
    if len(found) > LOG_ROWS:
        found.popitem(last=False)
    return found[key]
