"""The circuits of all models in use: one lock around read, decide and replace, one row per transition.

Calls, tasks and threads share a `Breakers`. The rules are those of decide/breaker.py; here are the clock, the lock
and the log. A circuit's key is (provider, model), never an address: two models behind one address fail apart.

A row is written before the new circuit takes effect. If the log refuses it, the error goes to the caller and
nothing has changed: no transition is made that the log does not know, and the same step can be taken again.
"""

from __future__ import annotations

import threading
from dataclasses import asdict
from typing import Any

from workbench.act.trace import current_span
from workbench.act.world import World
from workbench.decide.breaker import Breaker, Circuit, Permit, State
from workbench.decide.merge import params_of
from workbench.facts import Decision

Key = tuple[str, str]


class Breakers:
    """The circuits of many models under one policy; may be shared by threads and by event loops.

    Nothing here waits for anything but the lock, which is held for microseconds, and for one write of the sink when
    a state changes.
    """

    def __init__(self, policy: Breaker, world: World) -> None:
        self.policy = policy
        self._world = world
        self._lock = threading.Lock()
        self._circuits: dict[Key, Circuit] = {}

    def admit(self, provider: str, model: str) -> Permit | None:
        """A permit for one call, or None when the circuit refuses it; give the permit to `record` or `release`."""
        with self._lock:
            before, now_s = self._settled((provider, model))
            after, permit = self.policy.admit(before, now_s)
            self._replace(before, after, {"event": "call"}, now_s)
            return permit

    def record(self, provider: str, model: str, permit: Permit, *, ok: bool, duration_s: float) -> None:
        """Count the result of an admitted call; the late result of a former state counts nowhere.

        ok: False for what the other side did wrong. The caller's own errors (4xx) are no result: `release` them.
        """
        with self._lock:
            before, now_s = self._settled((provider, model))
            after = self.policy.record(before, permit, ok=ok, duration_s=duration_s, now_s=now_s)
            if _is_news(before, after):
                judged = self.policy.counted(before, ok=ok, duration_s=duration_s, now_s=now_s)
                result = {"event": "result", "permit": asdict(permit), "ok": ok, "duration_s": duration_s}
                self._write(before, after, {**result, **_rates(judged)}, now_s)
            self._circuits[provider, model] = after

    def release(self, provider: str, model: str, permit: Permit) -> None:
        """Give a permit back without a result: the call was cancelled, or failed by the caller's own doing."""
        with self._lock:
            circuit, _ = self._settled((provider, model))
            self._circuits[provider, model] = self.policy.release(circuit, permit)

    def renewed(self, provider: str, model: str, permit: Permit) -> Permit | None:
        """The permit, or one of the circuit's present state where that has changed since; None when it is open."""
        with self._lock:
            circuit, _ = self._settled((provider, model))
        return permit if circuit.epoch == permit.epoch else self.admit(provider, model)

    def tick(self) -> None:
        """Make the transitions that time alone brings, for every circuit; for a timer, when nobody calls."""
        self.circuits()

    def retry_after_s(self, provider: str, model: str) -> float:
        """Seconds until a call may pass: 0 for now, infinity when the circuit is forced open."""
        with self._lock:
            circuit, now_s = self._settled((provider, model))
            return self.policy.retry_after_s(circuit, now_s)

    def reset(self, provider: str | None = None, model: str | None = None) -> None:
        """Close the circuits and forget their results: those of the provider, of the model, or all of them."""
        with self._lock:
            for key in sorted(self._circuits):
                if provider in (None, key[0]) and model in (None, key[1]):
                    before, now_s = self._settled(key)
                    self._replace(before, self.policy.reset(before, now_s), {"event": "reset"}, now_s)

    def force(self, provider: str, model: str, state: State) -> None:
        """Put a circuit into a state; `forced_open`, `disabled` and `metrics_only` stay until `force` or `reset`.

        Raises LLMValidationError validation.config for a state that there is not.
        """
        with self._lock:
            before, now_s = self._settled((provider, model))
            after = self.policy.force(before, state, now_s)
            self._replace(before, after, {"event": "forced", "to": state}, now_s)

    def circuit(self, provider: str, model: str) -> Circuit:
        """The circuit as it is now; a new one for a model that was never called."""
        with self._lock:
            return self._current((provider, model))

    def circuits(self) -> tuple[Circuit, ...]:
        """Every circuit as it is now, ordered by provider and model."""
        with self._lock:
            return tuple(self._current(key) for key in sorted(self._circuits))

    def _current(self, key: Key) -> Circuit:
        circuit, now_s = self._settled(key)
        circuit = self.policy.tick(circuit, now_s)
        if key in self._circuits:
            self._circuits[key] = circuit
        return circuit

    def _settled(self, key: Key) -> tuple[Circuit, float]:
        """The circuit after the transitions that are due, and the time, read under the lock so that it never sinks."""
        now_s = self._world.now_s()
        circuit = self._circuits.get(key)
        if circuit is None:
            return Circuit(provider=key[0], model=key[1], since_s=now_s), now_s
        while (later := self.policy.due(circuit, now_s)) is not None:
            self._replace(circuit, later, {"event": "time"}, now_s)
            circuit = later
        return circuit, now_s

    def _replace(self, before: Circuit, after: Circuit, about: dict[str, Any], now_s: float) -> None:
        if _is_news(before, after):
            self._write(before, after, {**about, **_rates(before)}, now_s)
        self._circuits[before.provider, before.model] = after

    def _write(self, before: Circuit, after: Circuit, about: dict[str, Any], now_s: float) -> None:
        here, world = current_span(), self._world
        who = {"provider": before.provider, "model": before.model}
        world.sink.write(
            Decision(
                span_id=world.new_id(8),
                request_key="",
                kind="breaker",
                policy=self.policy.name,
                version=self.policy.version,
                params=params_of(self.policy),
                inputs={**who, "state": before.state, **about, "now_s": now_s, "circuit": before.as_dict()},
                output={"state": after.state, "since_s": after.since_s},
                duration_us=(world.now_s() - now_s) * 1e6,
                run_id=here.run_id if here else None,
            )
        )


def _is_news(before: Circuit, after: Circuit) -> bool:
    """Whether the step is one to tell: another state, or a threshold reached where nothing may open."""
    return before.state != after.state or after.tripped > before.tripped


def _rates(circuit: Circuit) -> dict[str, Any]:
    return {"failure_rate": circuit.failure_rate, "slow_rate": circuit.slow_rate}
