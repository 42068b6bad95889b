"""The chaos matrix: every wire fault x every strategy, over real sockets, through the objects that users hold.

A lab has a few ill models, which are always wrong, and two well ones, which are always right. In each round every ill
model gets a fault, and every object asks once; the objects and their connections stay, so that what one fault leaves
behind would be seen in the next. A cell is one call; by its prompt its rows are found in the log. verdict.py says what
is wrong with it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.chaos.expected import ADDRESSES, DEADLINE, EVERY, HEAVY, WAITS_S, forms_of, wires_of
from workbench import FaultLab, LLMFailoverHandler, MultiModelEnsembler, Profile
from workbench.act.provider import Wire
from workbench.facts import EnsembleResponse, Item, Request, Response
from workbench.study.suite import Suite

Strategy = Literal["single", "failover", "majority_voting", "weighted_consensus", "best_of_n"]
Form = Literal["whole", "stream", "pieces"]
Held = LLMFailoverHandler | MultiModelEnsembler
STRATEGIES: tuple[Strategy, ...] = ("single", "failover", "majority_voting", "weighted_consensus", "best_of_n")
CHAINS: tuple[Strategy, ...] = ("single", "failover")
DEADLINE_S, SLACK_S, IDLE_S = 3.0, 0.25, 0.5
# Faults that no limit of time has to do with have so much of it that a busy machine is not taken for one.
AMPLE_S = 60.0
LANES = 7
GOOD_WEATHER = ""
WELL = ("well-a", "well-b")
PRICES = {"prompt_usd_per_mtok": 1.0, "completion_usd_per_mtok": 2.0}
PROVIDERS: dict[str, str] = {"openai": "lab", "anthropic": "lab-anthropic", "gemini": "lab-gemini"}
# Circuits and the retry budget stay out of it: the objects meet hundreds of faults in a row.
SETTINGS: dict[str, Any] = {
    "max_retries": 2, "base_delay_s": 0.05, "idle_s": AMPLE_S, "first_token_s": AMPLE_S,
    "minimum_calls": 10_000, "window_calls": 10_000, "retry_capacity": 1e6,
}  # fmt: skip
LASTING = {*DEADLINE, *WAITS_S, "sse-stall"} - HEAVY
PRESSED = LASTING | HEAVY
SHARE_S = 1.0  # of a silent stream, where another model is left to be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One call. pieces: as a stream that the caller reads; stream: as one that is put together for the caller.

    pressed: the time is short, for a limit of it decides what the caller sees.
    """

    number: int
    fault: str
    strategy: Strategy
    wire: Wire = "openai"
    form: Form = "whole"
    lane: int = 0
    pressed: bool = False

    def __str__(self) -> str:
        return f"{self.fault or 'good weather'} x {self.strategy} ({self.wire}, {self.form})"

    @property
    def prompt(self) -> str:
        """A question that nobody else asks."""
        return f"Cell {self.number} asks: how much is {self.number} and {self.number} together?"

    @property
    def right(self) -> str:
        """What a well model answers."""
        return _sentence(2 * self.number)

    @property
    def wrong(self) -> str:
        """What the ill model answers where its answer arrives."""
        return _sentence(wrong_number(self.number))

    @property
    def first(self) -> str:
        """The ill model."""
        provider = f"lab-{self.fault}" if self.fault in ADDRESSES else PROVIDERS[self.wire]
        return f"{provider}:ill-{self.lane}"

    @property
    def models(self) -> list[str]:
        """Who is asked, the ill one first."""
        others = {"single": (), "failover": WELL[:1]}.get(self.strategy, WELL)
        return [self.first, *(f"{PROVIDERS[self.wire]}:{name}" for name in others)]

    @property
    def deadline_s(self) -> float:
        """How long the call may take."""
        return DEADLINE_S if self.pressed else AMPLE_S

    @property
    def place(self) -> tuple[str, Strategy, bool, bool]:
        """Cells with the same place are calls of one object."""
        return self.first, self.strategy, self.form != "whole", self.pressed


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a cell brought. said: the pieces that were handed out; took_s: of the slower call where there are two."""

    cell: Cell
    response: Response | EnsembleResponse | None = None
    error: BaseException | None = None
    said: list[str] = field(default_factory=list)
    took_s: float = 0.0
    calls: int = 1

    @property
    def text(self) -> str | None:
        """What the caller has got as the answer."""
        if self.error is not None:
            return None
        return "".join(self.said) if self.response is None else self.response.text


def wrong_number(number: int) -> int:
    """What the ill models say that cell comes to."""
    return 2 * number + 50_000


def _sentence(number: int) -> str:
    return f"Working it out step by step gives {number}.\nThe answer is {number}."


# -- which cells there are


def rounds(
    *,
    wires: Sequence[Wire] = ("openai", "anthropic", "gemini"),
    strategies: Sequence[Strategy] = STRATEGIES,
    others: Sequence[Strategy] = ("single",),
    forms: Sequence[Form] = ("whole", "stream", "pieces"),
    faults: Iterable[str] = EVERY,
) -> list[list[Cell]]:
    """Every cell that makes sense, by round; the first ones are good weather, in which every object opens its log.

    strategies: with the format of OpenAI. others: with the other formats. Pieces are read of single models and chains.
    """
    wanted = list(faults)
    lasting = [f for f in wanted if f in LASTING]
    quick = [f for f in wanted if f not in {*lasting, *HEAVY, *ADDRESSES}]
    apart = [f for f in wanted if f in ADDRESSES]
    fair = [GOOD_WEATHER] * LANES
    groups = [(False, fair), *([(True, fair)] if PRESSED & {*wanted} else [])]
    for pressed, found in ((False, apart), (True, lasting), (False, quick)):
        groups += [(pressed, found[at : at + LANES]) for at in range(0, len(found), LANES)]
    groups += [(True, [f]) for f in wanted if f in HEAVY]
    made: list[list[Cell]] = []
    number = 0
    for pressed, group in groups:
        made.append([])
        for lane, fault in enumerate(group):
            for wire in (w for w in wires if w in wires_of(fault)):
                for strategy in strategies if wire == "openai" else others:
                    for form in (f for f in forms if (f != "whole") in forms_of(fault)):
                        if form != "pieces" or strategy in CHAINS:
                            number += 1
                            about: Any = {"wire": wire, "form": form, "lane": lane, "pressed": pressed}
                            made[-1].append(Cell(number=number, fault=fault, strategy=strategy, **about))
    return made


# -- the place


@dataclass(slots=True, kw_only=True)
class Arena:
    """A running lab, a log folder, and the objects that ask."""

    lab: FaultLab
    log: Path
    held: dict[tuple[str, Strategy, bool, bool], Held] = field(default_factory=dict)

    def made(self, cell: Cell) -> Held:
        """The object that a user would hold, made at its first cell."""
        if cell.place not in self.held:
            settings = {**SETTINGS, "timeout_s": cell.deadline_s, "stream": cell.form != "whole", "log": self.log}
            if cell.pressed:
                settings["idle_s"] = IDLE_S
                if cell.strategy == "failover":
                    settings["first_token_s"] = SHARE_S
            if cell.strategy in CHAINS:
                self.held[cell.place] = LLMFailoverHandler(cell.models, **settings)
            else:
                by_weight = cell.strategy == "weighted_consensus"
                weights = dict(zip(cell.models, (1.5, 1.0, 1.0), strict=True)) if by_weight else None
                self.held[cell.place] = MultiModelEnsembler(cell.models, weights, strategy=cell.strategy, **settings)
        return self.held[cell.place]

    async def run(self, wanted: Sequence[Sequence[Cell]]) -> list[Outcome]:
        """All cells, round by round: objects side by side, the calls of each object one after the other."""
        found: list[Outcome] = []
        try:
            for cells in wanted:
                faults = {f"ill-{c.lane}": c.fault for c in cells if c.fault and c.fault not in ADDRESSES}
                self.lab.set_faults(faults)
                by_object: dict[object, list[Cell]] = {}
                for cell in cells:
                    by_object.setdefault(cell.place, []).append(cell)
                made = [(self.made(of[0]), of) for of in by_object.values()]
                gate = asyncio.Semaphore(_at_once({c.fault for c in cells}))
                for several in await asyncio.gather(*(_one_by_one(held, of, gate) for held, of in made)):
                    found += several
        finally:
            for held in self.held.values():
                await held.aclose()
        return found


@contextmanager
def arena(folder: Path, wanted: Sequence[Sequence[Cell]]) -> Iterator[Arena]:
    """A place for these cells; WORKBENCH_CONFIG is as before afterwards."""
    items = [
        Item(
            item_id=f"cell-{c.number}",
            task="general",
            prompt=c.prompt,
            reference=str(2 * c.number),
            metadata={"answer_kind": "number", "options": (str(wrong_number(c.number)),)},
        )
        for cells in wanted
        for c in cells
    ]
    sure: dict[str, Any] = {"no_answer": 0.0, "shared": 0.0, **PRICES}
    ill = [Profile(name=f"ill-{lane}", skill={"general": 0.0}, **sure) for lane in range(LANES)]
    well = [Profile(name=name, skill={"general": 1.0}, **sure) for name in WELL]
    suite = Suite(name="cells", kind="suite", items=tuple(items))
    with FaultLab([*ill, *well], suites=[suite], latency=0) as lab, configured(lab, folder), unknown_names():
        yield Arena(lab=lab, log=folder / "log")


@contextmanager
def unknown_names() -> Iterator[None]:
    """Names under `invalid` are not known, for the length of the body, whatever this machine asks for them."""
    look_up = socket.getaddrinfo

    def known(host: Any, *args: Any, **options: Any) -> Any:
        if host in ("name.invalid", b"name.invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, *args, **options)

    socket.getaddrinfo = known
    try:
        yield
    finally:
        socket.getaddrinfo = look_up


@contextmanager
def configured(lab: FaultLab, folder: Path) -> Iterator[None]:
    """A configuration with the lab in it is in force for the length of the body."""
    lines = []
    for name, provider in lab.providers(*ADDRESSES).items():
        lines += [f"[providers.{name}]", f'wire = "{provider.wire}"', f'base_url = "{provider.base_url}"']
        lines += ['auth = "none"']
        for model, profile in lab.profiles.items():
            window = 8000 if model.startswith("ill") else 4000 if model == WELL[0] else 32_000
            lines += [f'[models."{name}:{model}"]', f"context_window = {window}"]
            lines += [f"prompt_usd_per_mtok = {profile.prompt_usd_per_mtok}"]
            lines += [f"completion_usd_per_mtok = {profile.completion_usd_per_mtok}"]
    path, before = folder / "workbench.toml", os.environ.get("WORKBENCH_CONFIG")
    path.write_text("\n".join(lines), encoding="utf-8")
    os.environ["WORKBENCH_CONFIG"] = str(path)
    try:
        yield
    finally:
        del os.environ["WORKBENCH_CONFIG"]
        if before is not None:
            os.environ["WORKBENCH_CONFIG"] = before


def _at_once(faults: set[str]) -> int:
    """How many objects may ask side by side: what keeps a loop busy for longer than a deadline allows is no fault."""
    # The first call of an object opens the log, and nothing else runs on the loop meanwhile.
    if faults & {GOOD_WEATHER, *ADDRESSES}:
        return 1
    # Lasting faults end all at once, at the deadline, and each has some milliseconds of work to do then.
    return 3 if faults & HEAVY else 24 if faults & LASTING else 40


async def _one_by_one(held: Held, cells: Sequence[Cell], gate: asyncio.Semaphore) -> list[Outcome]:
    found = []
    for cell in cells:
        async with gate:
            found.append(await called(cell, held))
    return found


async def called(cell: Cell, held: Held) -> Outcome:
    """One cell, whatever becomes of it; a fault of kept connections needs a call before."""
    found = Outcome(cell=cell)
    for number in range(2 if cell.fault == "net-keepalive-lie" else 1):
        found.calls, found.said, start_s = number + 1, [], time.monotonic()
        try:
            await _call(cell, held, found)
        except Exception as error:
            found.error = error
        found.took_s = max(found.took_s, time.monotonic() - start_s)
    return found


async def _call(cell: Cell, held: Held, found: Outcome) -> None:
    if isinstance(held, MultiModelEnsembler):
        found.response = await held.get_ensemble_response(cell.prompt, answer_kind="number")
    elif cell.form != "pieces":
        found.response = await held.execute(Request.of(cell.prompt))
    else:
        async with aclosing(held.stream(cell.prompt)) as pieces:
            async for piece in pieces:
                found.said.append(piece)
