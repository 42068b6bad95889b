"""The views of the log: what readers query, stable while tables change.

    log.X (tables) --> views of the same names, and summaries: costs, monthly_costs, latency, errors, patterns

The last migration builds them all anew, so this is the only place where they stand. Where a view shows numbers it has
a column `source`: `live`, `recorded`, `simulated` or `cache`. Sums and percentiles leave out what is not known (null),
and count it beside. docs/reference/reading.md has every column with its unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Rows of version 1 are calls of one attempt each, made under the model's own name.
_EVERY_ATTEMPT = """
    select * replace (
        coalesce(call_id, span_id) as call_id, coalesce(attempt, 1) as attempt, coalesce(final, true) as final,
        coalesce(member, model) as member, coalesce(attempts, attempt, 1) as attempts,
        coalesce(call_ms, duration_ms) as call_ms, coalesce(possibly_billed, false) as possibly_billed,
        coalesce(status, case when ok then 'ok' when failure_code = 'cancelled' then 'cancelled'
            when failure_code like 'timeout.%' then 'timeout' else 'error' end) as status)
    from log.calls
"""

# What failed has no answer that names its source: then the provider tells, as it does for a run's members.
_SOURCE = (
    "coalesce(source, case when provider in ('simulated', 'recorded', 'cache') then provider else 'live' end) as source"
)

_SPENT = """
        count(*) filter (final) as calls, count(*) filter (attempt > 0) as attempts,
        count(*) filter (ok) as answered, count(*) filter (ok and cost_usd is null) as unpriced,
        sum(prompt_tokens)::bigint as prompt_tokens, sum(cached_tokens)::bigint as cached_tokens,
        sum(completion_tokens)::bigint as completion_tokens,
        sum(cost_usd) as cost_usd, sum(booked_usd) as booked_usd
"""

_RUN_SOURCE = """case when model like 'simulated:%' then 'simulated' when model like 'recorded:%' then 'recorded'
            else r.source end"""


def _percentiles(column: str, name: str, *levels: int) -> str:
    parts = (f"quantile_cont({column}, {level / 100}) as p{level}_{name}" for level in levels)
    return ", ".join(parts)


VIEWS: Mapping[str, str] = MappingProxyType(
    {
        "texts": "from log.texts",
        "runs": """
    select r.*, coalesce(e.status, 'unfinished') as status, e.end_unix_ns, e.items, e.failure, e.cpu_s, e.peak_rss_bytes
    from log.runs r left join (
        from log.run_ends qualify row_number() over (partition by run_id order by end_unix_ns desc nulls last) = 1
    ) e using (run_id)
""",
        "items": "from log.items",
        "every_attempt": _EVERY_ATTEMPT,
        "attempts": "select * exclude (attempts, call_ms) from every_attempt where attempt > 0",
        "calls": "select * exclude (attempt, final) from every_attempt where final",
        "contributions": "from log.contributions",
        "decisions": "from log.decisions",
        "merges": """
    select d.run_id, d.item_id, d.policy as strategy, d.version, d.params, d.output->>'answer' as answer,
        d.output->'tied' as tied, cast(d.output->>'confidence' as double) as confidence,
        cast(d.output->>'agreement' as double) as agreement, d.duration_us, d.request_key, d.span_id, r.source
    from log.decisions d left join log.runs r using (run_id) where d.kind = 'merge'
""",
        "tellings": """
    select telling->>'$[0][0]' as model, telling->>'$[0][1]' as task, telling->>'$[0][2]' as "group",
        telling->>'$[1]' as strategy, try_cast(telling->>'$[2]' as double) as quality,
        make_timestamp(try_cast(telling->>'$[3]' as bigint) // 1000) as told_at, item_id,
        case when starts_with(telling->>'$[0][0]', 'simulated:') then 'simulated'
            when starts_with(telling->>'$[0][0]', 'recorded:') then 'recorded'
            when contains(telling->>'$[0][0]', ':') then 'live' end as source, span_id
    from (select *, inputs->'$.telling' as telling from log.decisions
        where kind = 'learn' and policy = 'tell' and (output->>'$.error') is null)
""",
        "patterns": """
    select model, task, "group", strategy, count(*) as tellings, avg(quality) as quality, min(told_at) as first_told,
        max(told_at) as last_told, source
    from tellings group by model, task, "group", strategy, source
""",
        "scores": f"""
    select s.*, {_RUN_SOURCE} as source from log.scores s left join log.runs r using (run_id)
""",
        "spans": "from log.spans",
        "recorded": "from log.recorded",
        "answers": """
    select c.run_id, c.item_id, c.provider, c.model, c.source, p.text as prompt, t.text as response
    from calls c left join log.texts p on p.hash = c.prompt_hash
    left join log.texts t on t.hash = c.response_hash
""",
        "costs": f"""
    select provider, model, make_timestamp(start_unix_ns // 1000)::date as day, {_SOURCE}, {_SPENT}
    from every_attempt group by provider, model, day, 4
""",
        "monthly_costs": """
    select strftime(day, '%Y-%m') as month, provider, model, source, sum(calls)::bigint as calls,
        sum(attempts)::bigint as attempts, sum(answered)::bigint as answered, sum(unpriced)::bigint as unpriced,
        sum(prompt_tokens)::bigint as prompt_tokens, sum(cached_tokens)::bigint as cached_tokens,
        sum(completion_tokens)::bigint as completion_tokens, sum(cost_usd) as cost_usd, sum(booked_usd) as booked_usd
    from costs group by all
""",
        "latency": f"""
    select provider, model, {_SOURCE}, count(*) filter (ok) as calls, count(*) filter (not ok) as unanswered,
        {_percentiles("case when ok then duration_ms end", "duration_ms", 50, 90, 95, 99)},
        {_percentiles("case when ok then call_ms end", "call_ms", 50, 90, 95, 99)},
        {_percentiles("case when ok then latency_ms end", "latency_ms", 50, 90, 95, 99)},
        {_percentiles("case when ok then ttft_ms end", "ttft_ms", 50, 90, 95, 99)}
    from calls group by provider, model, 3
""",
        "errors": f"""
    with known as (select * replace ({_SOURCE}) from every_attempt)
    select provider, model, source, failure_kind, failure_code, count(*) as failures,
        count(*) filter (final) as calls,
        count(*) / sum(count(*)) over (partition by provider, model, source) as share,
        make_timestamp(min(start_unix_ns) // 1000) as first_seen,
        make_timestamp(max(start_unix_ns) // 1000) as last_seen,
        arg_max(failure_message, start_unix_ns) as example
    from known group by provider, model, source, failure_kind, failure_code, ok qualify not ok
""",
    }
)

# Views are not bound before they are asked, so that the order of dropping does not matter; that of making does.
REBUILT = "".join(f"drop view if exists {name};\n" for name in VIEWS) + "".join(
    f"create view {name} as {sql.strip()};\n" for name, sql in VIEWS.items()
)
