"""Deciding again from the log: the same answers, the same merges, or a list of what drifted.

Answers are read again from the stored responses, merges are made again from the logged contributions and
parameters, and from the stored responses where they may look at texts. A policy that draws, looks at a clock or
keeps state shows up here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from workbench.act.journal import encode
from workbench.decide.merge import BestOfN, MajorityVoting, WeightedConsensus
from workbench.decide.policies import POLICIES, policy
from workbench.errors import LLMError, LLMValidationError
from workbench.facts import Merge, ModelContribution
from workbench.study.suite import answer_in
from workbench.study.table import Reader, contribution, find_run

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 10
BLIND = frozenset({MajorityVoting.name, WeightedConsensus.name, BestOfN.name})  # they look at answers alone
Given = tuple[str, float | None, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """What deciding again found: how many merges and answers were checked, and how many differ.

    examples: up to 10 mappings of kind, item_id, logged and now.
    """

    run: str
    merges: int
    merges_drifted: int
    answers: int
    answers_drifted: int
    examples: tuple[dict[str, Any], ...]

    @property
    def drifts(self) -> int:
        """Number of decisions that came out differently."""
        return self.merges_drifted + self.answers_drifted

    def df(self) -> pd.DataFrame:
        """The examples as a frame: kind, item_id, model, logged, now."""
        import pandas as pd

        return pd.DataFrame(list(self.examples), columns=["kind", "item_id", "model", "logged", "now"])

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, with `drifts`."""
        return {**asdict(self), "drifts": self.drifts}


def drift(reader: Reader, run_id: str | None, policies: Sequence[Merge] = ()) -> Drift:
    """Decide every logged merge of the run again and read every answer again.

    policies: merges of the caller's own, used for the logged decisions that carry their name.
    Raises LLMValidationError run.unknown, or replay.unknown_policy for a policy that is neither built in nor given.
    """
    run_id = str(find_run(reader, run_id)["run_id"])
    merges, merge_drifts = _merges(reader, run_id, {p.name: p for p in policies})
    answers, answer_drifts = _answers(reader, run_id)
    return Drift(
        run=run_id,
        merges=merges,
        merges_drifted=len(merge_drifts),
        answers=answers,
        answers_drifted=len(answer_drifts),
        examples=tuple([*merge_drifts, *answer_drifts][:EXAMPLES]),
    )


def _merges(reader: Reader, run_id: str, own: Mapping[str, Merge]) -> tuple[int, list[dict[str, Any]]]:
    rows = reader.rows(
        "select item_id, policy, params, inputs, output from decisions where run_id = ? and kind = 'merge' "
        "order by item_id",
        [run_id],
    )
    given = _responses(reader, run_id) if {name for _, name, *_ in rows} - (BLIND - own.keys()) else {}
    drifted = []
    for item_id, name, params, inputs, output in rows:
        logged_parts = [contribution(*c) for c in json.loads(inputs)["contributions"]]
        parts = [_with(c, given.get((item_id, c.model))) for c in logged_parts]
        try:
            now = encode(_policy(name, json.loads(params), own)(parts))
        except LLMError as error:
            if error.code == "replay.unknown_policy":
                raise
            now = {"error": error.code}
        logged = json.loads(output)
        if now != logged:
            drifted.append({"kind": "merge", "item_id": item_id, "logged": logged, "now": now})
    missing = reader.rows(
        "select i.item_id from items i join runs r using (run_id) where i.run_id = ? and r.status = 'finished' "
        "and json_extract(r.spec, '$.merge.policy') is not null and i.item_id not in "
        "(select item_id from decisions where run_id = ? and kind = 'merge') order by i.position",
        [run_id, run_id],
    )
    drifted += [{"kind": "merge", "item_id": i, "logged": None, "now": "no decision in the log"} for (i,) in missing]
    return len(rows) + len(missing), drifted


def _responses(reader: Reader, run_id: str) -> dict[tuple[str, str], Given]:
    """Text, cost_usd and latency_ms of every response, by item and member."""
    rows = reader.rows(
        "select c.item_id, c.member, t.text, c.cost_usd, c.latency_ms from calls c "
        "join texts t on t.hash = c.response_hash where c.run_id = ? and c.ok order by c.start_unix_ns, c.span_id",
        [run_id],
    )
    return {(item_id, member): (text, usd, ms) for item_id, member, text, usd, ms in rows}


def _with(part: ModelContribution, given: Given | None) -> ModelContribution:
    """The contribution with what its response has in the log."""
    if part.response is None or given is None:
        return part
    text, usd, ms = given
    return replace(part, response=replace(part.response, text=text, cost_usd=usd, latency_ms=ms))


def _policy(name: str, params: Mapping[str, Any], own: Mapping[str, Merge]) -> Merge:
    if name in own:
        return own[name]
    if name in POLICIES:
        return policy(name, params)
    raise LLMValidationError(
        f"the run was merged by {name!r}, which is not one of the built-in strategies {', '.join(POLICIES)}",
        code="replay.unknown_policy",
        next_step="replay it from Python: wb.get_run(RUN).replay(policy)",
    )


def _answers(reader: Reader, run_id: str) -> tuple[int, list[dict[str, Any]]]:
    rows = reader.rows(
        "select c.item_id, c.model, c.answer, t.text, i.metadata from contributions c "
        "join items i on i.run_id = c.run_id and i.item_id = c.item_id "
        "left join calls k on k.run_id = c.run_id and k.item_id = c.item_id and k.member = c.model and k.ok "
        "left join texts t on t.hash = k.response_hash "
        "where c.run_id = ? and c.failure_code is null order by c.item_id, c.model",
        [run_id],
    )
    drifted = []
    for item_id, model, logged, text, metadata in rows:
        now = answer_in(text, json.loads(metadata))
        if text is None or now != logged:
            found = "no response in the log" if text is None else now
            drifted.append({"kind": "answer", "item_id": item_id, "model": model, "logged": logged, "now": found})
    return len(rows), drifted
