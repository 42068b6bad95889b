"""The workbench: one log folder and the models to try."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from workbench.act.simulated import PROFILES, Profile
from workbench.act.world import World
from workbench.decide.merge import as_merge
from workbench.decide.weights import closest
from workbench.errors import LLMRouterError, LLMValidationError
from workbench.facts import Merge, Recorded
from workbench.record.log import Log
from workbench.record.spool import Durability
from workbench.record.transfer import Imported, Recordings, import_files
from workbench.session.bridge import run_sync
from workbench.session.places import default_log, suites
from workbench.session.resolve import Named, members_of
from workbench.session.run import Run
from workbench.study.run import Plan, check_plan, execute, spec_of
from workbench.study.suite import Suite, read_suite, suite_of
from workbench.study.table import find_run

if TYPE_CHECKING:
    import pandas as pd


class Workbench:
    """One log folder and the models to try; made by `Workbench.open`."""

    def __init__(self, log: Log, models: Sequence[Named] | None) -> None:
        self.log = log
        self.models = models
        self.world = World.real(log)
        self._recordings = Recordings(log)

    @classmethod
    def open(
        cls,
        log: str | os.PathLike[str] | None = None,
        *,
        models: Sequence[Named] | None = None,
        durability: Durability = "process",
    ) -> Workbench:
        """A workbench on a log folder, which is made when absent.

        log: the folder; default WORKBENCH_LOG, or data/log.
        models: names (`recorded:RECORDING/*`, `simulated:strong`), Profiles or Model objects that a run takes
            when it names none. durability: "disk" survives a power cut too, at the price of a disk flush a write.
        Raises LLMError storage.* when the folder cannot be used.
        """
        return cls(Log.open(default_log() if log is None else log, durability=durability), models)

    def __repr__(self) -> str:
        return f"Workbench({str(self.log.folder)!r})"

    def __enter__(self) -> Workbench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left and let go of the spool file."""
        self.log.close()

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
        concurrency: int = 16,
    ) -> Run:
        """Ask the models every item of a recording or bundled suite, and merge their answers.

        name: of an imported recording or a bundled suite. models: as for `open`; default all models of the
        recording, or the simulated pool. merge: a policy or the name of a built-in one; None only asks.
        score_kind: for a recording that mixes kinds of score. concurrency: items asked at once, >= 1.
        Raises LLMValidationError, LLMRouterError before anything is asked.
        """
        plan = self._plan(name, models, merge, score_kind, concurrency)
        check_plan(plan)
        await execute(self.world, plan)
        self.log.flush()
        return Run(self.log, plan.run_id, merge=plan.merge)

    def run_sync(self, name: str, **options: Any) -> Run:
        """`run` from synchronous code; works inside a running event loop too."""
        return run_sync(self.run(name, **options))

    def get_run(self, run_id: str | None = None) -> Run:
        """A run of the log by its id; the newest when None or "latest"."""
        return Run(self.log, str(find_run(self.log, run_id)["run_id"]))

    def _plan(
        self,
        name: str,
        models: Sequence[Named] | None,
        merge: Merge | str | None,
        score_kind: str | None,
        concurrency: int,
    ) -> Plan:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise LLMValidationError(
                f"concurrency {concurrency!r} is not a whole number >= 1",
                code="validation.config",
                next_step="use a number of items to ask at once, such as 16",
            )
        policy = None if merge is None else as_merge(merge)
        if isinstance(models, str):
            models = [models]
        rows, suite = self._suite(name, score_kind)
        wanted = models if models is not None else self._default_models(suite)
        key = {item.item_id: item for item in suite.items}
        members = members_of(
            wanted, recording=name if rows else None, rows=lambda: rows, key=key, profiles=self._profiles()
        )
        sources = sorted({"simulated" if m.name.startswith("simulated:") else "recorded" if m.recorded_as else "live"
                          for m in members})  # fmt: skip
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        return Plan(
            run_id=f"{suite.name}-{stamp}-{self.world.new_id(3)}",
            suite=suite,
            members=tuple(members),
            merge=policy,
            source="+".join(sources),
            spec=spec_of(suite, policy, models=[m.name for m in members], concurrency=concurrency),
            concurrency=concurrency,
        )

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

    def _suite(self, name: str, score_kind: str | None) -> tuple[Sequence[Recorded], Suite]:
        bundled = suites()
        recorded = [str(r["recording"]) for r in self.recordings()]
        if name in recorded:
            rows = self._recordings.recorded(name)
            return rows, suite_of(name, rows, score_kind=score_kind)
        if name in bundled and score_kind not in (None, "correct"):
            raise LLMValidationError(
                f"{name} has scores of kind 'correct' only, not {score_kind!r}",
                code="validation.score_kind",
                next_step="leave score_kind out for a bundled suite",
            )
        if name in bundled:
            return (), read_suite(bundled[name])
        hint = closest(str(name), [*recorded, *bundled])
        raise LLMRouterError(
            f"unknown recording or suite {name!r}; recordings: {', '.join(recorded) or 'none'}; "
            f"suites: {', '.join(bundled)}",
            code="router.unknown_suite",
            next_step=f"did you mean {hint!r}?" if hint else "import it: workbench import FILE.parquet",
        )

    def report(
        self,
        notebook: str | os.PathLike[str] | None = None,
        *,
        run: Run | str | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> Path:
        """Run a report notebook for a run; the path of its self-contained HTML, <out>/<run_id>/index.html.

        notebook: with a cell tagged `parameters` that takes log and run_id; default the benchmark report.
        run: default the newest. out: default reports/.
        Raises LLMError run.failed when a cell fails; the notebook beside the page keeps its traceback.
        """
        from workbench.session.reports import make_report

        run_id = run.run_id if isinstance(run, Run) else self.get_run(run).run_id
        return make_report(self.log.folder, run_id, notebook=notebook, out=out)
