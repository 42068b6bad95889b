"""Going on with a run that was interrupted: what the log has stands, and is paid for once.

- An answer in the log stands. So does a refusal that lies in the request, its content or its length: the same
  request would meet it again. Every other failure, and what was under way, is asked again, under the idempotency key
  that it had: a provider that knows the key charges once.
- Scores are made when all answers are in. A run that was stopped after that keeps its failures too, for what is in
  the log already was made from them.
- A suite, a member or a merge that is no longer what the run began with is refused by name, before anything is asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.canonical import clean_text, text_hash
from workbench.decide.classify import CODES
from workbench.errors import LLMValidationError
from workbench.facts import Failure, Request, Response, Usage
from workbench.study.suite import Suite, references_of
from workbench.study.table import Reader, find_run

STANDS = tuple(code for code, meaning in CODES.items() if meaning.scope in ("request", "content", "context"))
# A final failure stands when it is one of these codes, or when the run was being scored already. An answer does
# always, as long as its text is there.
_STANDS = (
    "a.run_id = ? and (a.ok and a.response_hash in (select hash from texts) "
    "or not a.ok and a.final and (? or a.failure_code in (select unnest(?))))"
)
_LEFT = f"""
with done as (select distinct a.item_id, a.member from every_attempt a where {_STANDS})
select i.item_id, m.member from items i cross join (select unnest(?) as member) m
where i.run_id = ? and not exists (from done d where d.item_id = i.item_id and d.member = m.member)
"""
_OUTCOMES = f"""
select a.item_id, a.member, a.provider, a.model, a.request_key, t.text, a.prompt_tokens, a.completion_tokens,
    a.cached_tokens, a.latency_ms, a.ttft_ms, a.cost_usd, a.finish_reason, a.source, a.served_model, a.request_id,
    a.flags, a.ok, a.failure_kind, a.failure_code, a.failure_message, a.possibly_billed
from every_attempt a left join texts t on t.hash = a.response_hash where {_STANDS}
qualify row_number() over (
    partition by a.item_id, a.member order by a.ok desc, a.final desc, a.start_unix_ns desc, a.span_id) = 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What the log has of a run that goes on.

    status: how it ended the last time, `unfinished` where nobody told. listed: items in the log. scored: scores or
    contributions are in the log, so all answers were in. left: (item_id, member) of what is to be asked.
    """

    run_id: str
    status: str
    spec: Mapping[str, Any]
    models: tuple[str, ...]
    listed: int
    scored: bool
    left: frozenset[tuple[str, str]]
    reader: Reader

    @property
    def kept(self) -> int:
        """Number of answers and standing failures that are not asked again."""
        return self.listed * len(self.models) - len(self.left)

    def outcomes(self) -> dict[tuple[str, str], Response | Failure]:
        """What stands, by item and member, as it was when it was asked."""
        rows = self.reader.rows(_OUTCOMES, [self.run_id, self.scored, list(STANDS)])
        return {(row[0], row[1]): _outcome(*row[2:]) for row in rows}

    def merged(self) -> set[str]:
        """The items whose merge is decided and logged."""
        if not self.scored:
            return set()
        query = "select distinct item_id from decisions where run_id = ? and kind = 'merge'"
        return {item_id for (item_id,) in self.reader.rows(query, [self.run_id])}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What going on with a run did: how it had ended before, answers taken from the log, and answers asked for now."""

    run_id: str
    before: str
    kept: int
    asked: int

    def __str__(self) -> str:
        if self.before == "finished":
            return f"run {self.run_id} is finished: nothing was asked"
        return f"run {self.run_id}, {self.before} before: {self.kept} answers were in the log, {self.asked} were asked"


def read_prior(reader: Reader, run_id: str) -> Prior:
    """What the log has of a run; one query for all that is left to ask.

    Raises LLMValidationError run.unknown, run.not_resumable for what is no run of a suite.
    """
    row = find_run(reader, run_id)
    spec, models = json.loads(row["spec"]), tuple(json.loads(row["models"]))
    if "suite" not in spec or "scores_only" not in spec:
        raise LLMValidationError(
            f"{run_id} is a {row['source']} run named {row['name']}, not the run of a suite",
            code="run.not_resumable",
            next_step="measure or report again; `workbench resume` goes on with what `workbench run` began",
        )
    ((listed, scored),) = reader.rows(
        "select (select count(*) from items where run_id = ?), exists(from contributions where run_id = ?) "
        "or exists(from scores where run_id = ?)",
        [run_id] * 3,
    )
    left = reader.rows(_LEFT, [run_id, scored, list(STANDS), list(models), run_id])
    return Prior(
        run_id=run_id,
        status=str(row["status"]),
        spec=spec,
        models=models,
        listed=listed,
        scored=scored,
        left=frozenset((item_id, member) for item_id, member in left),
        reader=reader,
    )


def _outcome(
    provider: str,
    model: str,
    request_key: str,
    text: str | None,
    prompt_tokens: int | None,
    completion_tokens: int | None,
    cached_tokens: int | None,
    latency_ms: float | None,
    ttft_ms: float | None,
    cost_usd: float | None,
    finish_reason: str | None,
    source: Any,
    served_model: str | None,
    request_id: str | None,
    flags: str | None,
    ok: bool,
    kind: str,
    code: str,
    message: str,
    possibly_billed: bool,
) -> Response | Failure:
    usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cached_tokens=cached_tokens)
    if not ok:
        return Failure(
            kind=kind, code=code, message=message, possibly_billed=possibly_billed, partial=text, request_id=request_id,
            usage=None if usage == Usage() else usage, cost_usd=cost_usd,
        )  # fmt: skip
    return Response(
        request_key=request_key,
        model=model if not provider or model.startswith(f"{provider}:") else f"{provider}:{model}",
        text=text or "",
        usage=usage,
        latency_ms=latency_ms,
        ttft_ms=ttft_ms,
        cost_usd=cost_usd,
        finish_reason=finish_reason,
        source=source,
        served_model=served_model,
        request_id=request_id,
        flags=tuple(flags.split(",")) if flags else (),
    )


def call_key(run_id: str, member: str, request: Request) -> str:
    """The idempotency key of a run's call: 32 hexadecimal digits, the same whenever the run asks this again."""
    about = "\0".join((run_id, request.item_id or "", member, request.key))
    return hashlib.sha256(clean_text(about).encode()).hexdigest()[:32]


# -- what must not have changed


def suite_digest(suite: Suite) -> str:
    """SHA-256 (hexadecimal) of all that a suite asks and compares with."""
    # Texts joined, not JSON: the items of a large suite are looked at each time a run goes on.
    parts = [
        f"{i.item_id}\x1e{i.task}\x1e{len(i.prompt)}\x1e{i.prompt}\x1e{i.reference}\x1e{i.metadata.get('answer_kind')}"
        f"\x1e{i.metadata.get('options') or ''}"
        for i in suite.items
    ]
    if suite.metric is not None:
        parts += [repr((suite.metric, *references_of(i))) for i in suite.items]
    for style, asked in sorted(suite.prompts.items()):
        parts += [f"{style}\x1e{item_id}\x1e{prompt}" for item_id, prompt in asked.items()]
    return hashlib.sha256("\x1d".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def check_same(prior: Prior, suite: Suite, spec: Mapping[str, Any]) -> None:
    """Refuse to go on with another suite, other members or another merge than the run began with.

    spec: of the plan that would go on. Raises LLMValidationError run.changed, which names what differs.
    """
    now = json.loads(json.dumps(dict(spec), default=repr))
    for name, differs in (("suite", _suites), ("members", _members), ("merge", _merges)):
        if what := differs(prior, suite, prior.spec, now):
            raise changed(prior.run_id, f"its {name} changed: {what}")


def changed(run_id: str, what: str) -> LLMValidationError:
    """The refusal to go on with a run."""
    return LLMValidationError(
        f"run {run_id} cannot go on, {what}",
        code="run.changed",
        next_step="bring back what it began with (models=, merge=, the recording), or start a new run",
    )


Differs = Callable[["Prior", Suite, Mapping[str, Any], Mapping[str, Any]], str]


def _suites(prior: Prior, suite: Suite, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    for name in ("suite", "kind", "score_kind", "extracted", "metric", "scores_only"):
        if then.get(name) != now.get(name):
            return f"{name} was {then.get(name)!r} and is {now.get(name)!r}"
    digest = then.get("suite_sha256")
    if digest is not None and digest == now.get("suite_sha256"):
        return ""
    if prior.listed and (what := _items(prior, suite)):
        return what
    # The log does not keep the prompts of every style; the digest does. A run of an older version has none.
    return "" if digest is None else "what its items are asked in one of the prompt styles"


def _items(prior: Prior, suite: Suite) -> str:
    """The first difference between the items in the log and those of the suite, or an empty string."""
    rows = prior.reader.rows(
        "select item_id, task, prompt_hash, reference, metadata from items where run_id = ? order by position",
        [prior.run_id],
    )
    known = {row[0]: row[1:] for row in rows}
    ids = [item.item_id for item in suite.items]
    if gone := [item_id for item_id in known if item_id not in set(ids)]:
        return f"item {gone[0]!r} is not there any more ({len(known)} items then, {len(ids)} now)"
    for item in suite.items:
        if item.item_id not in known:
            return f"item {item.item_id!r} is new ({len(known)} items then, {len(ids)} now)"
        task, prompt_hash, reference, metadata = known[item.item_id]
        about = json.loads(json.dumps(dict(item.metadata), default=repr))
        pairs = (
            ("task", task, item.task),
            ("prompt", prompt_hash, text_hash(clean_text(item.prompt))),
            ("reference", reference, None if item.reference is None else clean_text(item.reference)),
            ("answer kind", json.loads(metadata).get("answer_kind"), about.get("answer_kind")),
            ("options", json.loads(metadata).get("options"), about.get("options")),
            ("list of references", json.loads(metadata).get("references"), about.get("references")),
        )
        for name, was, new in pairs:
            if was != new:
                return f"item {item.item_id!r} has another {name}"
    return "" if list(known) == ids else "its items stand in another order"


def _members(prior: Prior, suite: Suite, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [str(m["name"]) for m in now["members"]]
    if list(prior.models) != names:
        return f"they were {', '.join(prior.models)} and are {', '.join(names)}"
    for was, new in zip(then.get("members") or (), now["members"], strict=False):
        if different := [key for key in new if was.get(key) != new[key]]:
            return f"{new['name']} had the {different[0]} {was.get(different[0])!r:.80}, now {new[different[0]]!r:.80}"
    return ""


def _merges(prior: Prior, suite: Suite, then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    was, new = then.get("merge"), now.get("merge")
    return "" if was == new else f"it was {_shown(was)} and is {_shown(new)}"


def _shown(merge: Mapping[str, Any] | None) -> str:
    return "none" if merge is None else f"{merge['policy']} {json.dumps(merge['params'])}"


def is_same(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two specs ask the same items of the same members and merge them alike."""
    same = json.loads(json.dumps(dict(now), default=repr))
    return all(then.get(key) == same.get(key) for key in ("suite", "suite_sha256", "members", "merge", "score_kind"))


__all__: Sequence[str] = [
    "Prior", "Resumed", "call_key", "changed", "check_same", "is_same", "read_prior", "suite_digest",
]  # fmt: skip
