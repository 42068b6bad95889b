"""The command `simulate`: the fault lab on a port, until it is stopped."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.output import JsonOption, put, say, wants_json
from workbench.errors import LLMError

if TYPE_CHECKING:
    from workbench.serve.lab import FaultLab

PORT = 8765
RULE_HELP = (
    "MODEL=FAULT[@RATE][*N][/FROM-UNTIL], * for all models; may be given several times, the first that fits wins."
)
ENDS = (signal.SIGINT, signal.SIGTERM)


def simulate(
    context: typer.Context,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = PORT,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than loopback let the network in.")
    ] = "127.0.0.1",
    models: Annotated[str | None, typer.Option(help="Simulated models, comma-separated [all].")] = None,
    faults: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help=RULE_HELP, envvar="WORKBENCH_LAB_FAULTS")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draws of faults with a rate.")] = 0,
    latency: Annotated[float, typer.Option(help="Factor on the models' latency; 0 answers at once.")] = 1.0,
    list_faults: Annotated[bool, typer.Option("--list-faults", help="List the faults and exit.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Serve the simulated models in the formats of OpenAI, Anthropic and Gemini, with faults, until Ctrl-C."""
    as_json = wants_json(context, as_json)
    if list_faults:
        _list(as_json)
        return
    from workbench.serve.lab import FaultLab
    from workbench.session.providers import is_loopback

    names = None if models is None else [name.strip() for name in models.split(",")]
    lab = FaultLab(names, faults=faults or (), port=port, host=host, seed=seed, latency=latency)
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in ENDS}
    try:
        with lab:
            if not is_loopback(host):
                say(f"warning: {host} is not this machine alone: whoever reaches the port can ask the simulated models")
            (say if as_json else typer.echo)(_banner(lab))
            # A wait without a limit of time would not let the handlers of signals run on every platform.
            while not ended.wait(0.5):
                pass
            document = {"url": lab.url, "simulated": True, **lab.accepted.as_dict()}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    put(document, _counts(document), as_json)


def _banner(lab: FaultLab) -> str:
    """What is there, and how to reach it."""
    addresses = ["net-refused", "net-dns", "net-tls-plain"]
    try:
        lab.base_url(fault="net-tls")
        addresses.insert(2, "net-tls")
    except LLMError as error:
        say(f"no address for net-tls: {error.message}; {error.next_step}")
    lines = [
        f"fault lab on {lab.url}: every answer is simulated; Ctrl-C stops it",
        f"models: {', '.join(lab.names)}",
        f"faults: {', '.join(map(str, lab.faults)) or 'none (--faults RULE; MODEL!FAULT for one request)'}",
        f"counts: {lab.url}/lab/counts",
        *(f"{fault}: {lab.base_url(fault=fault)}" for fault in addresses),
        "",
        "# lines for workbench.toml:",
        lab.toml().rstrip(),
    ]
    return "\n".join(lines)


def _counts(document: dict[str, Any]) -> str:
    lines = [f"accepted {document['accepted']} requests of {document['idempotency_keys']} calls"]
    lines += [f"  model {name}: {n}" for name, n in document["by_model"].items()]
    lines += [f"  fault {name}: {n}" for name, n in document["by_fault"].items()]
    return "\n".join(lines)


def _list(as_json: bool) -> None:
    from workbench.serve.lab.catalog import FAULTS, rows
    from workbench.show.tables import Table

    document = [
        {
            "fault": fault.id,
            "layer": fault.layer,
            "does": fault.does,
            "expect": fault.expect,
            "error": fault.error,
            "code": fault.code,
            "way": fault.way,
            "first": fault.first,
            "wires": list(fault.wires),
            "forms": list(fault.forms),
        }
        for fault in FAULTS.values()
    ]
    columns = ("fault", "the lab ...", "formats", "the client ...", "ends with")
    text = "" if as_json else Table(caption=f"{len(FAULTS)} faults", columns=columns, rows=tuple(rows())).text()
    put(document, text, as_json)
