"""From what the log keeps of a run back to the arguments that it was started with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workbench.act.simulated import Profile
from workbench.decide.policies import POLICIES, policy
from workbench.errors import LLMRouterError
from workbench.facts import Merge
from workbench.session.resolve import Named
from workbench.session.rewrites import before_styles, styles_of
from workbench.study.resume import Prior, changed, check_same, is_same
from workbench.study.run import Plan
from workbench.study.table import Reader

LOST = ("router.unknown_suite", "router.unknown_model", "router.ambiguous_model")


def plan_again(
    prior: Prior,
    planned: Callable[..., Plan],
    *,
    given: Sequence[Named] = (),
    profiles: Mapping[str, Profile],
    merge: Merge | None = None,
    concurrency: int | None = None,
) -> Plan:
    """The plan that the run began with, made again.

    planned: makes a plan of (name, models, merge, score_kind, concurrency, rewrites). given: objects among the models,
    which no name stands for. merge: in the place of the run's, for one that is not built in.
    Raises LLMValidationError run.changed, which names what differs or is gone.
    """
    spec = prior.spec
    then = spec.get("merge")
    if merge is None and then is not None:
        if then["policy"] not in POLICIES:
            raise changed(prior.run_id, f"its merge {then['policy']!r} is not built in: give the policy as merge=")
        merge = policy(then["policy"], then["params"])
    try:
        plan = planned(
            spec["suite"],
            _models(prior, given, profiles),
            merge,
            spec.get("only_score_kind"),
            spec.get("concurrency") or 16 if concurrency is None else concurrency,
            spec.get("rewrites") or (),
        )
    except LLMRouterError as error:
        if error.code not in LOST:
            raise
        raise changed(prior.run_id, f"for something is gone: {error.message}") from error
    check_same(prior, plan.suite, plan.spec)
    return plan


def _models(prior: Prior, given: Sequence[Named], profiles: Mapping[str, Profile]) -> list[Named]:
    """The run's models by name, or the objects that have their names."""
    objects: dict[str, Named] = {}
    for named in given:
        if isinstance(named, Profile):
            objects[f"simulated:{named.name}"] = named
        elif not isinstance(named, str):
            objects[named.name] = named
    for about in prior.spec.get("members") or ():
        kept: dict[str, Any] | None = about.get("profile")
        if kept is not None and kept["name"] not in profiles:  # of a cell that is not run again, or a command line
            objects.setdefault(f"simulated:{kept['name']}", Profile(**kept))
    styles = styles_of(prior.spec["rewrites"]) if prior.spec.get("rewrites") else ()
    names = before_styles(prior.models, styles) if styles else prior.models
    return [objects.get(name, name) for name in names]


def interrupted(reader: Reader, plan: Plan) -> str | None:
    """The id of the newest run that began with the same plan, if it has not finished; None otherwise."""
    rows = reader.rows(
        "select run_id, status, spec from runs where name = ? and source <> 'report' and models::varchar[] = ? "
        "and spec->>'suite_sha256' = ? order by start_unix_ns desc, run_id desc",
        [plan.suite.name, [m.name for m in plan.members], plan.spec["suite_sha256"]],
    )
    for run_id, status, spec in rows:
        if is_same(json.loads(spec), plan.spec):
            return None if status == "finished" else str(run_id)
    return None
