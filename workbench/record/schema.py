"""Tables of the log, their keys, and the migrations that build them.

Base tables live in the schema `log`; readers use the views of the same names in `main` (record/views.py), which stay
put when a table changes. A row is identified by its table's key: the same row ingested twice is stored once. There are
no secondary indexes. `MIGRATIONS[n]` takes a log from version n to n + 1; what released ones do to tables is never
edited. The last one builds the views anew.
"""

from __future__ import annotations

from types import MappingProxyType

from workbench.record.views import REBUILT

COLUMNS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "runs": ("run_id", "name", "source", "models", "spec", "start_unix_ns"),
        "run_ends": ("run_id", "status", "end_unix_ns", "items", "failure", "cpu_s", "peak_rss_bytes"),
        "items": ("run_id", "item_id", "position", "task", "prompt_hash", "reference", "metadata"),
        "calls": (
            "span_id", "trace_id", "run_id", "item_id", "provider", "model", "request_key", "prompt_hash",
            "params", "sample", "source", "start_unix_ns", "duration_ms", "latency_ms", "ttft_ms",
            "prompt_tokens", "completion_tokens", "cost_usd", "finish_reason", "response_hash", "ok",
            "failure_kind", "failure_code", "failure_message", "call_id", "attempt", "final", "member", "status",
            "possibly_billed", "request_id", "served_model", "cached_tokens", "flags", "idempotency_key",
            "attempts", "call_ms", "booked_usd",
        ),
        "contributions": (
            "run_id", "item_id", "model", "answer", "quality", "quality_source", "weight", "status", "failure_code",
        ),
        "decisions": (
            "span_id", "run_id", "item_id", "request_key", "kind", "policy", "version", "params", "inputs",
            "output", "duration_us",
        ),
        "scores": ("run_id", "item_id", "model", "scorer", "value"),
        "spans": (
            "span_id", "trace_id", "parent_id", "run_id", "component", "operation", "start_unix_ns",
            "duration_ms", "ok", "failure_kind", "failure_code", "failure_message", "attributes",
        ),
        "texts": ("hash", "text"),
    }
)  # fmt: skip

KEYS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "runs": ("run_id",),
        "run_ends": ("run_id", "end_unix_ns"),
        "items": ("run_id", "item_id"),
        "calls": ("span_id", "start_unix_ns"),
        "contributions": ("run_id", "item_id", "model"),
        "decisions": ("span_id",),
        "scores": ("run_id", "item_id", "model", "scorer"),
        "spans": ("span_id", "start_unix_ns"),
        "texts": ("hash",),
    }
)

_V1 = """
create schema log;
create table log.schema_version(version integer, applied_unix_ns bigint);
create table log.spool_files(name varchar, read_bytes bigint);
create table log.texts(hash varchar, text varchar);
create table log.runs(
    run_id varchar, name varchar, source varchar, models json, spec json, start_unix_ns bigint);
create table log.run_ends(run_id varchar, status varchar, end_unix_ns bigint, items bigint, failure json);
create table log.items(
    run_id varchar, item_id varchar, position bigint, task varchar, prompt_hash varchar, reference varchar,
    metadata json);
create table log.calls(
    span_id varchar, trace_id varchar, run_id varchar, item_id varchar, provider varchar, model varchar,
    request_key varchar, prompt_hash varchar, params json, sample integer, source varchar,
    start_unix_ns bigint, duration_ms double, latency_ms double, ttft_ms double, prompt_tokens bigint,
    completion_tokens bigint, cost_usd double, finish_reason varchar, response_hash varchar, ok boolean,
    failure_kind varchar, failure_code varchar, failure_message varchar);
create table log.contributions(
    run_id varchar, item_id varchar, model varchar, answer varchar, quality double, quality_source varchar,
    weight double, status varchar, failure_code varchar);
create table log.decisions(
    span_id varchar, run_id varchar, item_id varchar, request_key varchar, kind varchar, policy varchar,
    version varchar, params json, inputs json, output json, duration_us double);
create table log.scores(run_id varchar, item_id varchar, model varchar, scorer varchar, value double);
create table log.spans(
    span_id varchar, trace_id varchar, parent_id varchar, run_id varchar, component varchar,
    operation varchar, start_unix_ns bigint, duration_ms double, ok boolean, failure_kind varchar,
    failure_code varchar, failure_message varchar, attributes json);
create table log.recorded(
    recording varchar, task varchar, item_id varchar, prompt_hash varchar, reference varchar, model varchar,
    prompt_style varchar, response_hash varchar, score double, score_kind varchar, prompt_tokens bigint,
    completion_tokens bigint, latency_ms double, cost_usd double);

create view texts as from log.texts;
create view runs as
    select r.*, coalesce(e.status, 'unfinished') as status, e.end_unix_ns, e.items, e.failure
    from log.runs r left join log.run_ends e using (run_id);
create view items as from log.items;
create view calls as from log.calls;
create view contributions as from log.contributions;
create view decisions as from log.decisions;
create view merges as
    select run_id, item_id, policy as strategy, params, output->>'answer' as answer, output->'tied' as tied,
        cast(output->>'confidence' as double) as confidence, cast(output->>'agreement' as double) as agreement,
        duration_us
    from log.decisions where kind = 'merge';
create view scores as from log.scores;
create view spans as from log.spans;
create view recorded as from log.recorded;
create view answers as
    select c.run_id, c.item_id, c.provider, c.model, c.source, p.text as prompt, t.text as response
    from log.calls c left join log.texts p on p.hash = c.prompt_hash
    left join log.texts t on t.hash = c.response_hash;
"""

# Calls of version 1 were one attempt each, made under the model's own name.
_V2 = """
drop view answers;
drop view calls;
alter table log.calls add column call_id varchar;
alter table log.calls add column attempt integer;
alter table log.calls add column final boolean;
alter table log.calls add column member varchar;
alter table log.calls add column status varchar;
alter table log.calls add column possibly_billed boolean;
alter table log.calls add column request_id varchar;
alter table log.calls add column served_model varchar;
alter table log.calls add column cached_tokens bigint;
alter table log.calls add column flags varchar;
alter table log.calls add column idempotency_key varchar;
alter table log.calls add column attempts integer;
alter table log.calls add column call_ms double;
alter table log.calls add column booked_usd double;

create view every_attempt as
    select * replace (
        coalesce(call_id, span_id) as call_id, coalesce(attempt, 1) as attempt, coalesce(final, true) as final,
        coalesce(member, model) as member, coalesce(attempts, attempt, 1) as attempts,
        coalesce(call_ms, duration_ms) as call_ms, coalesce(possibly_billed, false) as possibly_billed,
        coalesce(status, case when ok then 'ok' when failure_code = 'cancelled' then 'cancelled'
            when failure_code like 'timeout.%' then 'timeout' else 'error' end) as status)
    from log.calls;
create view attempts as select * exclude (attempts, call_ms) from every_attempt where attempt > 0;
create view calls as
    select * exclude (attempt, final) from every_attempt where final;
create view answers as
    select c.run_id, c.item_id, c.provider, c.model, c.source, p.text as prompt, t.text as response
    from calls c left join log.texts p on p.hash = c.prompt_hash
    left join log.texts t on t.hash = c.response_hash;
"""

# A run that is taken up again ends again: its key holds the moment of the end. The columns of calls are there already,
# but for logs of the first hour of version 2.
_V3 = """
alter table log.calls add column if not exists attempts integer;
alter table log.calls add column if not exists call_ms double;
alter table log.calls add column if not exists booked_usd double;
alter table log.run_ends add column cpu_s double;
alter table log.run_ends add column peak_rss_bytes bigint;
"""

# What optimizers were told has views of its own; no table changes.
_V4 = ""

MIGRATIONS: tuple[str, ...] = (_V1, _V2, _V3, _V4 + REBUILT)
VERSION = len(MIGRATIONS)
