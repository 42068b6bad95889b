"""The workbench: one log folder and the models to try."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from workbench.act.simulated import PROFILES, Profile
from workbench.act.tracer import performance_tracer
from workbench.act.world import World
from workbench.decide.policies import as_merge
from workbench.errors import LLMValidationError
from workbench.facts import Merge
from workbench.record.ledger import FileLedger
from workbench.record.log import Log
from workbench.record.spool import Durability
from workbench.record.transfer import Imported, Recordings, import_files
from workbench.session.bridge import run_sync
from workbench.session.budgets import Budgets
from workbench.session.claims import claimed, close_left_behind
from workbench.session.gains import Gains, finished_run, gains_over, merges_of, pools_of
from workbench.session.later import ledger_in
from workbench.session.live import Live
from workbench.session.magic import remember
from workbench.session.places import default_log
from workbench.session.resolve import Named, members_of, source_of
from workbench.session.resume import interrupted, plan_again
from workbench.session.rewrites import in_styles, styles_of
from workbench.session.run import Run
from workbench.session.settings import Loaded, load_settings
from workbench.session.suites import find_suite
from workbench.study.resume import Resumed, read_prior
from workbench.study.run import Plan, check_plan, execute, member_spec, spec_of
from workbench.study.stats import SPLITS, check_splits, drawn_by
from workbench.study.suite import Suite
from workbench.study.table import find_run

if TYPE_CHECKING:
    import pandas as pd

CONCURRENCY = 16  # items asked at once


class Workbench:
    """One log folder and the models to try; made by `Workbench.open`.

    live: the live models that the configuration names, under one discipline.
    """

    def __init__(
        self,
        log: Log,
        models: Sequence[Named] | None,
        *,
        loaded: Loaded | None = None,
        transport: Any = None,
    ) -> None:
        self.log = log
        self.models = _listed(models)
        self.world = World.real(log)
        self._recordings = Recordings(log)
        self._ledger: FileLedger | None = None
        self.live = Live(self.world, loaded=loaded, transport=transport, ledger=self._accounts)

    @classmethod
    def open(
        cls,
        log: str | os.PathLike[str] | None = None,
        *,
        models: Sequence[Named] | None = None,
        durability: Durability | None = None,
        transport: Any = None,
        loaded: Loaded | None = None,
        **settings: Any,
    ) -> Workbench:
        """A workbench on a log folder, which is made when absent; for `with`, or for `async with` around live models.

        log: the folder; default WORKBENCH_LOG, or data/log.
        models: names (`recorded:RECORDING/*`, `simulated:strong`, `openai:gpt-4.1`), Profiles or Model objects that
            a run takes when it names none.
        durability: "disk" survives a power cut too, at the price of a disk flush a write; None: as configured.
        transport: an `httpx.AsyncBaseTransport` in the place of the network, for live models.
        settings: of docs/reference/settings.md, such as timeout_s=60 or budget_run_usd=5; before WORKBENCH_* variables
            and workbench.toml.
        loaded: the whole configuration in the place of settings, such as `FaultLab.loaded(...)`.
        Runs whose process has died are closed as crashed. Raises LLMError storage.* when the folder cannot be used,
        LLMValidationError validation.config, validation.budget for settings.
        """
        if loaded is not None and settings:
            raise LLMValidationError(
                f"a workbench was given a whole configuration, and {', '.join(settings)} besides",
                code="validation.config",
                next_step="give either, or the settings to what makes the configuration, such as FaultLab.loaded",
            )
        if loaded is None:
            loaded = load_settings(overrides=settings)
        wb = cls(
            Log.open(default_log() if log is None else log, durability=durability or loaded.settings.durability),
            models,
            loaded=loaded,
            transport=transport,
        )
        close_left_behind(wb.log, wb.world)
        performance_tracer.attach(wb.log)
        remember(wb)
        return wb

    def __repr__(self) -> str:
        return f"Workbench({str(self.log.folder)!r})"

    def __enter__(self) -> Workbench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left, and let go of the spool file; connections are closed with their loop, or by `aclose`."""
        performance_tracer.detach(self.log)
        if self._ledger is not None:
            self._ledger.close()
        self.log.close()

    async def __aenter__(self) -> Workbench:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections of the running event loop, write what is left, and let go of the spool file."""
        try:
            await self.live.aclose()
        finally:
            self.close()

    def _accounts(self, limits: Mapping[str, int]) -> FileLedger:
        """The budgets beside the log, which all processes on it share."""
        self._ledger = FileLedger(ledger_in(self.log.folder), limits)
        self._ledger.open()  # what cannot be counted is refused before anything is asked
        return self._ledger

    # -- data

    def import_file(self, file: str | os.PathLike[str]) -> Imported:
        """Import a Parquet recording; malformed rows are named in the result, good ones kept."""
        return self.import_files([file])[0]

    def import_files(self, files: Sequence[str | os.PathLike[str]]) -> list[Imported]:
        """Import several recordings: all of them, or none when one cannot be read at all."""
        if isinstance(files, str | os.PathLike):
            files = [files]
        return import_files(self.log, files)

    def recordings(self) -> Sequence[Mapping[str, Any]]:
        """The imported recordings with their models and prompt styles."""
        return self._recordings.recordings()

    def sql(self, query: str, params: Sequence[Any] | None = None) -> pd.DataFrame:
        """The query's result over a snapshot of the log, as a frame; no handle stays open."""
        return self.log.frame(query, params)

    # -- running

    async def run(
        self,
        name: str,
        *,
        models: Sequence[Named] | None = None,
        merge: Merge | str | None = None,
        score_kind: str | None = None,
        rewrites: Sequence[str] = (),
        concurrency: int = CONCURRENCY,
        resume: bool = False,
    ) -> Run:
        """Ask the models every item of a recording or bundled suite, and merge their answers.

        name: of an imported recording or a bundled suite. models: as for `open`; default all models of the
        recording, or the simulated pool. merge: a policy or the name of a built-in one; None only asks.
        score_kind: for a recording that mixes kinds of score. rewrites: strategies; then every model is asked the
        prompts unchanged and rewritten by each, as MODEL/STRATEGY. concurrency: items asked at once, >= 1.
        resume: go on with the newest run of the same items, models and merge where that one was interrupted, so that
        a cell may be run again after a restart. Raises LLMValidationError, LLMRouterError before anything is asked;
        LLMError run.failed when nothing could be asked, run.locked when that run is under way elsewhere.
        """
        if not isinstance(resume, bool):
            raise LLMValidationError(
                f"resume={resume!r:.200} is neither True nor False",
                code="validation.config",
                next_step="use resume=True for the newest run of the same plan, or wb.resume(RUN) for one by its id",
            )
        plan = self.plan(name, models, merge, score_kind, concurrency, rewrites)
        check_plan(plan)
        if resume:
            close_left_behind(self.log, self.world)
            if (found := interrupted(self.log, plan)) is not None:
                return await self.resume(found, models=models, merge=plan.merge, concurrency=concurrency)
        with claimed(self.log.folder, plan.run_id, now_unix_ns=self.world.unix_ns()):
            await execute(self.world, plan)
        self.log.flush()
        return Run(self.log, plan.run_id, merge=plan.merge)

    def run_sync(self, name: str, **options: Any) -> Run:
        """`run` from synchronous code; works inside a running event loop too."""
        return run_sync(self.run(name, **options))

    async def resume(
        self,
        run_id: Run | str | None = None,
        *,
        models: Sequence[Named] | None = None,
        merge: Merge | str | None = None,
        concurrency: int | None = None,
    ) -> Run:
        """Go on with a run that was interrupted; answers that the log has are not asked for again.

        run_id: a Run or an id; None or "latest" for the newest. models: the objects among its models that no name
        stands for; those given to `open` are known. merge: its policy, where that is not built in. concurrency:
        default as it began.
        A finished run is returned as it is; `.resumed` of the result says what was done.
        Raises LLMValidationError run.unknown, run.not_resumable, run.changed (items, models or merge are not those
        that it began with) and LLMError run.locked (it is under way) before anything is asked.
        """
        if concurrency is not None:
            _check_concurrency(concurrency)
        found = self.get_run(run_id).run_id
        with claimed(self.log.folder, found, now_unix_ns=self.world.unix_ns()):
            prior = read_prior(self.log, found)  # under the claim: somebody else may have gone on with it just now
            asked = 0 if prior.spec["scores_only"] else len(prior.left)
            done = Resumed(run_id=found, before=prior.status, kept=prior.kept, asked=asked)
            if prior.status == "finished":
                return Run(self.log, found, merge=None if merge is None else as_merge(merge), resumed=done)
            plan = plan_again(
                prior,
                self.plan,
                given=[*(self.models or ()), *(_listed(models) or ())],
                profiles=self._profiles(),
                merge=None if merge is None else as_merge(merge),
                concurrency=concurrency,
            )
            check_plan(plan)
            self.live.admission.reset()  # what had put a model out of this run, a key or an account, may be mended
            await execute(self.world, replace(plan, run_id=found), prior=prior)
        self.log.flush()
        return Run(self.log, found, merge=plan.merge, resumed=done)

    def resume_sync(self, run_id: Run | str | None = None, **options: Any) -> Run:
        """`resume` from synchronous code; works inside a running event loop too."""
        return run_sync(self.resume(run_id, **options))

    async def gains(
        self,
        *names: str,
        pools: Sequence[str] = ("all",),
        strategies: Sequence[Merge | str] | None = None,
        splits: int = SPLITS,
        seed: int = 0,
        told: Callable[[str], None] = lambda _: None,
    ) -> Gains:
        """What merging adds to answers: every strategy minus the best single model chosen on the other half.

        names: recordings or suites, run over all their models where there is no such finished run yet; what is not
        imported yet is looked for in WORKBENCH_RECORDINGS. pools: "all", "top:K", "closest:K"; where a recording has no
        more than K models, that pool is left out. strategies: policies or names; None: all that are built in. splits:
        random half splits, >= 2. told: is given a line before each pool.
        Raises as `run` does, and LLMValidationError validation.pool.
        """
        check_splits(splits)
        drawn_by(seed)
        strategies, pools = merges_of(strategies), pools_of(pools)  # a mistake is told before anything is asked
        runs = [await finished_run(self, name) for name in names]
        return gains_over(runs, pools, strategies, splits=splits, seed=seed, told=told)

    def gains_sync(self, *names: str, **options: Any) -> Gains:
        """`gains` from synchronous code; works inside a running event loop too."""
        return run_sync(self.gains(*names, **options))

    async def run_once(self, name: str) -> Run:
        """The newest finished run of all models of a recording or suite; where there is none, the run is made.

        What is not imported yet is looked for in WORKBENCH_RECORDINGS. Raises as `run` does.
        """
        return await finished_run(self, name)

    def run_once_sync(self, name: str) -> Run:
        """`run_once` from synchronous code; works inside a running event loop too."""
        return run_sync(self.run_once(name))

    def get_run(self, run_id: Run | str | None = None) -> Run:
        """A run of the log by its id, or read anew; the newest that is no report when None or "latest"."""
        close_left_behind(self.log, self.world)
        if isinstance(run_id, Run):
            run_id = run_id.run_id
        if run_id in (None, "latest"):
            query = "select run_id from runs where source <> 'report' order by start_unix_ns desc, run_id desc limit 1"
            run_id = next((str(found) for (found,) in self.log.rows(query)), run_id)
        return Run(self.log, str(find_run(self.log, run_id)["run_id"]))

    def plan(
        self,
        name: str,
        models: Sequence[Named] | None = None,
        merge: Merge | str | None = None,
        score_kind: str | None = None,
        concurrency: int = CONCURRENCY,
        rewrites: Sequence[str] = (),
    ) -> Plan:
        """What `run` would do with these arguments; nothing is asked. Raises LLMValidationError, LLMRouterError."""
        _check_concurrency(concurrency)
        policy = None if merge is None else as_merge(merge)
        models = _listed(models)
        rows, suite = find_suite(self._recordings, name, score_kind)
        wanted = models if models is not None else self._default_models(suite)
        key = {item.item_id: item for item in suite.items}
        members = members_of(
            wanted,
            recording=name if rows else None,
            rows=lambda: rows,
            key=key,
            profiles=self._profiles(),
            live=lambda: self.live,
        )
        styles = styles_of(rewrites) if rewrites else ()
        if styles:
            suite, members = in_styles(suite, members, styles)
        sources = sorted({source_of(m) for m in members})
        return Plan(
            run_id=self._new_run_id(suite.name),
            suite=suite,
            members=tuple(members),
            merge=policy,
            source="+".join(sources),
            spec=spec_of(
                suite,
                policy,
                models=[m.name for m in members],
                members=[member_spec(m) for m in members],
                concurrency=concurrency,
                only_score_kind=score_kind,
                rewrites=list(styles[1:]),
            ),
            concurrency=concurrency,
        )

    def _new_run_id(self, name: str) -> str:
        return f"{name}-{datetime.now(UTC).strftime('%Y%m%dT%H%M%S')}-{self.world.new_id(3)}"

    def _profiles(self) -> Mapping[str, Profile]:
        own = {m.name: m for m in self.models or () if isinstance(m, Profile)}
        return {**PROFILES, **own}

    def _default_models(self, suite: Suite) -> Sequence[Named] | None:
        """The models given to `open` that can answer this suite, or None for the suite's own default."""
        if self.models is None:
            return None
        prefix = f"recorded:{suite.name}/"
        return [
            m for m in self.models if not isinstance(m, str) or not m.startswith("recorded:") or m.startswith(prefix)
        ]

    def budget(self) -> Budgets:
        """What was spent and set aside by month, model and run: of all processes on the log, where a limit is set.

        Without a limit: of this object alone. Raises LLMError storage.* when the accounts cannot be read.
        """
        where = "this process" if self._ledger is None else str(self.log.folder)
        return Budgets(accounts=self.live.accounts.balances(), where=where)

    def report(
        self,
        notebook: str | os.PathLike[str] | None = None,
        *,
        run: Run | str | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> Path:
        """Run a report notebook for a run; the path of its self-contained HTML, <out>/<run_id>/index.html.

        notebook: with a cell tagged `parameters` that takes log and run_id; default the benchmark report.
        run: default the newest. out: a folder, default reports/. The execution is a run of the log by itself, of
        source `report`. Raises LLMValidationError data.file and LLMError storage.readonly before a kernel starts;
        LLMError run.failed when a cell fails or exits, run.crashed when its kernel dies, LLMTimeoutError timeout.run
        when a cell does not end; the notebook beside the page keeps its traceback.
        """
        from workbench.session.reports import report_of

        run_id = run.run_id if isinstance(run, Run) else self.get_run(run).run_id
        return report_of(self.log, self.world, self._new_run_id("report"), run_id, notebook=notebook, out=out)


def _listed(models: Sequence[Named] | None) -> Sequence[Named] | None:
    """A text is one model, not its letters."""
    return [models] if isinstance(models, str) else models


def _check_concurrency(concurrency: int) -> None:
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise LLMValidationError(
            f"concurrency {concurrency!r} is not a whole number >= 1",
            code="validation.config",
            next_step="use a number of items to ask at once, such as 16",
        )
