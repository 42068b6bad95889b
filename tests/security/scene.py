"""A real run over loopback with a canary in every place a secret may be in, and all that came of it, as bytes.

The servers give back what they were sent in every part of an answer. Nothing is patched: keys come from variables
and files, the configuration from a file, the proxy from the environment, the notebook runs in a kernel of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import nbformat

from faults.server import FaultServer, Seen, reply, streamed
from faults.shapes import delta, document, event
from security.canaries import CANARIES
from workbench import (
    ErrorContext,
    LLMFailoverHandler,
    MultiModelEnsembler,
    Workbench,
    error_aggregator,
    get_performance_report,
    handle_error,
    safe_execute,
    trace_block,
)
from workbench.act.http import Address
from workbench.act.provider import Provider
from workbench.cli import main
from workbench.errors import LLMError
from workbench.facts import Message, Request
from workbench.record.export import export
from workbench.session.live import Live
from workbench.session.otel import send_spans_sync
from workbench.session.settings import load_settings

V: Mapping[str, str] = {canary.name: canary.value for canary in CANARIES}
COOKIE = f"session={V['header-set-by-the-server']}; Path=/"
WAYS = ("text", "error", "html", "refusal", "ids", "stream")


def wire_of(seen: Seen) -> str:
    """The format in which a request speaks."""
    return "anthropic" if "/messages" in seen.path else "gemini" if "/models/" in seen.path else "openai"


def heard(seen: Seen) -> str:
    """Everything that a request has brought but the messages, as a careless server quotes it."""
    return json.dumps({"path": seen.path, **seen.headers, "params": {k: v for k, v in (seen.body or {}).items()
                       if k not in ("messages", "contents")}})  # fmt: skip


def answers() -> dict[str, Callable[[Seen], Any]]:
    """For each way of giving back what was heard, the answer."""
    cookie = {"set_cookie": COOKIE}

    def problem(said: str, kind: str = "invalid_request_error") -> Any:
        return {"type": "error", "error": {"message": said, "type": kind, "code": 400, "status": "INVALID_ARGUMENT"}}

    def key_of(seen: Seen) -> str:
        names = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
        return next((seen.headers[n].removeprefix("Bearer ") for n in names if n in seen.headers), "none")

    return {
        # Without the parameters: an answer is stored as it is, but for the keys that are known.
        "text": lambda seen: reply(document(wire_of(seen), f"4. You sent {seen.path} {seen.headers}"), **cookie),
        "error": lambda seen: reply(problem(f"{heard(seen)} cookie: {COOKIE}"), 400, **cookie),
        "html": lambda seen: reply(f"<p>{heard(seen)}</p>".encode(), 500, content_type="text/html"),
        "refusal": lambda seen: reply(problem(f"bad key {quote(key_of(seen), safe='')}", "authentication_error"), 401),
        "ids": lambda seen: reply(
            document(wire_of(seen), "4", served=key_of(seen), **ending(seen, f"Stop-{key_of(seen)}")),
            x_request_id=quote(key_of(seen)),
        ),
        "silent": lambda seen: reply(b"down", 500),
        "stream": lambda seen: streamed(
            [delta(wire_of(seen), f"4 {key_of(seen)[:9]}"), delta(wire_of(seen), key_of(seen)[9:])],
            event(problem(heard(seen), "server_error"), "error"),
        ),
    }


def ending(seen: Seen, reason: str) -> dict[str, Any]:
    """The changes to an answer by which it ends for a reason of its own."""
    wire = wire_of(seen)
    if wire == "anthropic":
        return {"stop_reason": reason}
    if wire == "openai":
        message = {"role": "assistant", "content": "4"}
        return {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}
    content = {"role": "model", "parts": [{"text": "4"}]}
    return {"candidates": [{"index": 0, "content": content, "finishReason": reason}]}


class Scene:
    """What was planted, and what was found in each place.

    planted: name of a canary -> where it can be seen that it was really there. places: place -> source -> bytes.
    """

    def __init__(self, folder: Path, server: FaultServer, proxy: FaultServer) -> None:
        self.folder, self.server, self.proxy = folder, server, proxy
        self.log = folder / "log"
        self.spool = b""
        self.planted: dict[str, bytes] = {}
        self.places: dict[str, dict[str, bytes]] = defaultdict(dict)
        self.records = Records()

    def plant(self, where: str, text: object) -> None:
        """Note something that was given to the workbench, or arrived at a server."""
        self.planted[f"{len(self.planted)} {where}"] = str(text).encode("utf-8", "replace")

    def find(self, place: str, source: str, text: object) -> None:
        """Keep something that came out of it."""
        data = text if isinstance(text, bytes) else str(text).encode("utf-8", "replace")
        self.places[place][f"{source} #{len(self.places[place])}"] = data

    def failed(self, source: str, error: BaseException) -> None:
        """Keep an error in all its forms; of one that is not ours only the traceback, which is Python's."""
        if isinstance(error, LLMError):
            self.find("told", source, f"{error} {error!r} {error.__dict__} {error.as_dict()}")
            self.find("told", source, f"{[str(a) for a in error.attempts]} {getattr(error, 'errors', '')}")
        self.find("traceback", source, "".join(traceback.format_exception(error)))

    def variables(self, source: str, error: BaseException) -> None:
        """Keep the variables of our functions that an error has passed through, as tools for debugging show them."""
        told = traceback.TracebackException.from_exception(error, capture_locals=True)
        ours = [frame for frame in told.stack if "/workbench/" in frame.filename and "/tests/" not in frame.filename]
        self.find("traceback", source, "\n".join(f"{frame.name} {frame.locals}" for frame in ours))

    @contextlib.contextmanager
    def failing(self, source: str) -> Iterator[None]:
        """Keep the error that the body ends with; it must end with one."""
        try:
            yield
        except Exception as error:  # whatever it is, it is looked at
            self.failed(source, error)
        else:
            raise AssertionError(f"{source} was to fail")


class Records(logging.Handler):
    """Every logging record of every library, as text and as the record's own fields."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []
        self.fields: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.texts.append(f"{record.name} {record.levelname} {logging.Formatter().format(record)}")
        self.fields.append(repr({k: v for k, v in record.__dict__.items() if k not in ("exc_info", "args", "msg")}))


# -- what is planted


def environment(scene: Scene) -> dict[str, str]:
    """The variables of the whole scene."""
    return {
        "WORKBENCH_CONFIG": str(scene.folder / "workbench.toml"),
        "PLAIN_KEY": V["key-env"],
        "KNOWN_KEY": V["key-env-known-look"],
        "CLAUDE_KEY": V["key-anthropic"],
        "GEM_KEY": V["key-gemini"],
        "AZURE_KEY": V["key-azure"],
        "ODD_KEY": V["key-of-odd-characters"],
        "OPENAI_API_KEY": V["key-never-used"],
        "ANTHROPIC_API_KEY": V["key-with-a-space"],
        "AWS_SECRET_ACCESS_KEY": V["env-bystander"],
        "RECEIVER_HEADERS": f"authorization=Bearer%20{V['header-for-opentelemetry']}",
        "http_proxy": f"http://user:{V['proxy-password']}@127.0.0.1:{scene.proxy.port}",
        "https_proxy": f"ftp://user:{V['proxy-password-unusable']}@127.0.0.1:9",
        "no_proxy": "127.0.0.1",
        "PLOTLY_RENDERER": "plotly_mimetype",
    }


def configuration(scene: Scene) -> str:
    """The file with the providers, all on one server."""
    (scene.folder / "keyfile").write_text(V["key-file"])
    (scene.folder / "twolines").write_text(f"{V['key-file-of-two-lines']}\n{V['key-file-of-two-lines']}\n")
    where = scene.server.url("")
    keyed = {
        "plain": ("openai", "bearer", 'key_env = "PLAIN_KEY"'),
        "known": ("openai", "bearer", 'key_env = "KNOWN_KEY"'),
        "filed": ("openai", "bearer", 'key_file = "keyfile"'),
        "claude": ("anthropic", "x-api-key", 'key_env = "CLAUDE_KEY"'),
        "gem": ("gemini", "x-goog-api-key", 'key_env = "GEM_KEY"'),
        "azure": ("openai", "api-key", 'key_env = "AZURE_KEY"'),
        "odd": ("openai", "bearer", 'key_env = "ODD_KEY"'),
        "twice": ("openai", "bearer", 'key_file = "twolines"'),
    }
    parts = [
        f'[providers.{name}]\nwire = "{wire}"\nbase_url = "{where}"\nauth = "{auth}"\n{key}\n'
        for name, (wire, auth, key) in keyed.items()
    ]
    parts.append(
        f'[providers.headed]\nwire = "openai"\nbase_url = "{where}"\nauth = "none"\n'
        f'headers = {{ X-Team = "{V["header-of-a-provider"]}" }}\n'
        f'query = {{ version = "{V["query-of-a-provider"]}" }}\n'
    )
    for name, scheme in (("proxied", "http"), ("tunnelled", "https")):
        parts.append(f'[providers.{name}]\nwire = "openai"\nbase_url = "{scheme}://{name}.test"\nauth = "none"\n')
    return "\n".join(parts)


PROVIDERS = ("plain", "known", "filed", "claude", "gem", "azure", "odd", "headed")
REFUSED = {  # configurations that must not be used, and are not to be shown either
    "key-in-toml": '[providers.p]\nwire = "openai"\nbase_url = "https://h"\napi_key = "{}"\n',
    "key-in-place-of-its-name": '[providers.openai]\nkey_env = "{}"\n',
    "header-authorization-in-toml": '[providers.openai]\nheaders = {{ Authorization = "{}" }}\n',
    "header-bearer-in-toml": '[providers.openai]\nheaders = {{ X-Note = "{}" }}\n',
    "url-password-in-toml": '[providers.openai]\nbase_url = "https://user:{}@h.test/v1"\n',
    "url-query-in-toml": '[providers.openai]\nbase_url = "https://h.test/v1?key={}"\n',
}


# -- what is done


def play(scene: Scene) -> None:
    """Do everything once, and keep what comes of it."""
    scene.plant("cookie", COOKIE)  # sent by the servers
    scene.plant("environment", json.dumps(dict(os.environ), ensure_ascii=False))
    configure(scene)
    asyncio.run(ask(scene))
    functions(scene)
    # Nobody has read the log yet, so that all rows of the calls are still in the spool.
    scene.spool = b"".join(path.read_bytes() for path in sorted((scene.log / "spool").glob("*.spool")))
    scene.find("log", "spool", scene.spool)
    spans(scene)
    tear(scene)
    look(scene)
    command_lines(scene)
    notebook(scene)
    for seen in (*scene.server.seen, *scene.proxy.seen):
        scene.plant("server", f"{seen.path} {json.dumps(seen.headers, ensure_ascii=False)} {seen.raw.decode()}")
    for text in scene.records.texts:
        scene.find("logging", "record", text)
    scene.find("record", "fields", "\n".join(scene.records.fields))


def configure(scene: Scene) -> None:
    """Read the configuration, and those that must be refused."""
    loaded = load_settings()
    scene.find("told", "loaded", loaded)
    for name, text in REFUSED.items():
        file = scene.folder / f"{name}.toml"
        file.write_text(text.format(V[name]))
        scene.plant(name, file.read_text())
        with scene.failing(name):
            load_settings(file=file)
    for name, variable in (
        ("env-nearly-a-setting", "WORKBENCH_BUDGET_RUN_US"),
        ("env-key-in-a-setting", "WORKBENCH_TIMEOUT_S"),
    ):
        scene.plant(name, V[name])
        with scene.failing(name):
            load_settings(env={**os.environ, variable: V[name]})
    for name, scheme in (("url-password-in-python", "https"), ("url-password-of-another-scheme", "ftp")):
        url = f"{scheme}://user:{V[name]}@h.test/v1"
        scene.plant(name, url)
        with scene.failing(name):
            Address(url)
        scene.find("told", name, Provider(name="p", wire="openai", base_url="https://h.test"))
    scene.plant("files", "".join((scene.folder / name).read_text() for name in ("keyfile", "twolines")))


async def ask(scene: Scene) -> None:
    """Every provider in every way, and what cannot be asked."""
    request = Request(
        messages=(Message(role="user", content=f"Is {V['prompt-that-quotes-a-key']} a good key?"),),
        params={
            "user": V["params-user"],
            "extra_headers": {"Authorization": f"Bearer {V['params-header']}"},
        },
        item_id="i1",
    )
    for stream in (False, True):
        async with Workbench.open(scene.log, max_retries=0, stream=stream) as wb:
            scene.find("told", "workbench", f"{wb!r} {wb.live!r} {wb.live.loaded!r}")
            for provider in PROVIDERS:
                for way in WAYS:
                    model = wb.live.model(f"{provider}:{way}")
                    scene.find("told", "model", repr(model))
                    try:
                        response = await wb.live.chain_of([model]).complete(request)
                    except LLMError as error:
                        scene.failed(f"{model.name} stream={stream}", error)
                    else:
                        scene.find("log", f"{model.name} stream={stream}", response)  # the texts are told with it
                await silent(scene, wb, provider)
    for name in ("anthropic:m", "twice:m"):
        with scene.failing(name):
            Live(wb.world).model(name)
    for name in ("proxied:error", "proxied:html", "tunnelled:error"):
        handler = LLMFailoverHandler(name, log=scene.log, max_retries=0)
        with scene.failing(name):
            await handler.execute("How many?")
        await handler.aclose()
    ensembler = MultiModelEnsembler([f"{p}:refusal" for p in PROVIDERS], log=scene.log, max_retries=0)
    with scene.failing("ensemble"):
        await ensembler.get_ensemble_response("How many?")
    await ensembler.aclose()


async def silent(scene: Scene, wb: Workbench, provider: str) -> None:
    """A failure whose answer gives nothing back, so that a variable that shows a key is ours."""
    model = wb.live.model(f"{provider}:silent")
    try:
        await wb.live.chain_of([model]).complete(Request.of("How many?"))
    except LLMError as error:
        scene.variables(model.name, error)
    else:
        raise AssertionError(f"{model.name} was to fail")


def functions(scene: Scene) -> None:
    """Functions of the user's own that raise, under everything that may stand around them."""
    said = {
        "exception-authorization": "401 for Authorization: Bearer {}",
        "exception-url": "GET https://user:{}@internal.test/?x=1 failed",
        "exception-json": '{{"error": {{"request": {{"api_key": "{}"}}}}}}',
    }
    for name, form in said.items():
        text = form.format(V[name])
        scene.plant(name, text)

        def broken(prompt: str = "", text: str = text) -> str:
            raise RuntimeError(text)

        ensembler = MultiModelEnsembler([name], executors={name: broken}, log=scene.log)
        with scene.failing(name):
            ensembler.get_ensemble_response_sync("How many?")
        ensembler.close()
        with scene.failing(name), ErrorContext("c", "o", user_id=V["user-id"]):
            broken()
        with scene.failing(name):
            asyncio.run(wrapped(broken))
        try:
            broken()
        except RuntimeError as error:
            scene.find("told", name, handle_error(error, "c", "o"))
    scene.plant("user-id", V["user-id"])
    cause(scene)
    scene.find("told", "aggregator", error_aggregator.get_recent_errors(100))
    answer = V["answer-of-a-function"]
    scene.plant("answer", answer)
    ensembler = MultiModelEnsembler(["mine"], executors={"mine": lambda prompt: f"It is {answer}."}, log=scene.log)
    ensembler.get_ensemble_response_sync("Which is it?")
    ensembler.close()


async def wrapped(function: Callable[[], Any]) -> Any:
    """The function under safe_execute."""
    return await safe_execute(function, "c", "o", max_retries=1, base_delay=0.0)


def cause(scene: Scene) -> None:
    """An exception whose cause has the secret."""
    text = f"api_key={V['exception-cause']}"
    scene.plant("exception-cause", text)

    def broken() -> None:
        try:
            raise ValueError(text)
        except ValueError as error:
            raise RuntimeError("it broke") from error

    with scene.failing("cause"):
        asyncio.run(wrapped(broken))


def spans(scene: Scene) -> None:
    """Metadata of spans, in the log and in the tracer's own report."""
    about = {
        "api_key": V["metadata-named"],
        "note": f"use {V['metadata-known-look']} for it",
        "deep": {"token": V["metadata-named"]},
    }
    scene.plant("metadata", about)
    with Workbench.open(scene.log) as wb:
        run = wb.run_sync("question_answering", models=["simulated:strong", "simulated:weak"], merge="majority_voting")
        with trace_block("c", "op", about):
            pass
        from workbench.act.trace import span

        with span(wb.world, "c", "inner", about):
            pass
        wb.log.flush()
        scene.find("told", "run", f"{run!r} {run._repr_html_()} {run.compare()!r}")
    scene.find("told", "performance", json.dumps(get_performance_report(), default=str))


def tear(scene: Scene) -> None:
    """Every line of the spool once more, with a wrong checksum, in a file that its writer has left."""
    lines = scene.spool.splitlines(keepends=True)
    torn = [b"00000000" + line[8:] for line in lines if b"#columns" not in line]
    assert sum(b"calls" in line for line in torn) > len(PROVIDERS) * len(WAYS)
    header = next(line for line in lines if b"#columns" in line)
    (scene.log / "spool" / "0-dead.spool").write_bytes(header + b"".join(torn))


def look(scene: Scene) -> None:
    """Rows, files and exports of the log, and what a receiver of traces gets."""
    with Workbench.open(scene.log) as wb:
        for (table,) in wb.log.rows("select table_name from duckdb_tables() where schema_name = 'log'"):
            scene.find("log", f"rows of {table}", wb.log.rows(f"select * from log.{table}"))
        for form in ("csv", "jsonl", "parquet", "duckdb"):
            export(wb.log, scene.folder / f"export-{form}", format=form)
        with FaultServer() as collector:
            collector.on(
                "",
                reply(b"", 200),
            )
            send_spans_sync(wb.log, collector.url(""), headers_env="RECEIVER_HEADERS", again=True)
            for seen in collector.seen:
                scene.plant("opentelemetry", seen.headers)
                scene.find("otel", "request", seen.raw)
            collector.on("", lambda seen: reply({"message": json.dumps(seen.headers)}, 401))
            with scene.failing("otel"):
                send_spans_sync(wb.log, collector.url(""), headers_env="RECEIVER_HEADERS", again=True, max_retries=0)
        name = "url-password-for-opentelemetry"
        scene.plant(name, V[name])
        with scene.failing(name):
            send_spans_sync(wb.log, f"http://user:{V[name]}@127.0.0.1:4318")
    assert any(b"calls" in path.read_bytes() for path in (scene.log / "torn").iterdir())
    for path in sorted(scene.folder.rglob("*")):
        if path.is_file() and (scene.log in path.parents or "export-" in str(path)):
            scene.find("log", f"file {path.relative_to(scene.folder)}", path.read_bytes())
    with duckdb.connect() as con:
        for path in sorted((scene.folder / "export-parquet").glob("*.parquet")):
            scene.find("log", f"rows of {path.name}", con.execute(f"from '{path}'").fetchall())


def command_lines(scene: Scene) -> None:
    """Every command that shows something, as text and as JSON."""
    log = ("--log", str(scene.log))
    calls = (
        ("config", "show"), ("doctor",), ("models",), ("budget", *log), ("log", "status", *log),
        ("log", "verify", *log), ("compare", *log), ("replay", *log),
        ("sql", "select * exclude (prompt_hash, params) from calls", *log),
        ("run", "question_answering", "--models", "twice:m", *log),
    )  # fmt: skip
    for arguments in calls:
        for flags in ((), ("--json",)):
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
                main([*arguments, *flags])
            assert out.getvalue() + err.getvalue(), arguments
            scene.find(
                "told", f"workbench {' '.join(arguments[:2])} {' '.join(flags)}", out.getvalue() + err.getvalue()
            )


CELLS = (
    """import traceback
from workbench import LLMFailoverHandler, Workbench""",
    "note = {note!r}  # a key that somebody has typed into a cell",
    """wb = Workbench.open(log, max_retries=0)
wb""",
    "wb.live.loaded",
    "[wb.live.model(name) for name in ('plain:error', 'claude:error', 'gem:error', 'odd:error')]",
    """run = wb.get_run(run_id)
run""",
    """handler = LLMFailoverHandler('known:text', log=log)
_ = await handler.execute('How many?')
wb.sql('select * exclude (prompt_hash, params) from calls')""",
    """for name in ('plain:error', 'filed:refusal', 'gem:html', 'azure:error', 'odd:error', 'odd:refusal'):
    try:
        await LLMFailoverHandler(name, log=log, max_retries=0).execute('How many?')
    except Exception:
        traceback.print_exc()""",
    "run.compare()",
    "await LLMFailoverHandler('claude:error', log=log, max_retries=0).execute('How many?')",
)


def notebook(scene: Scene) -> None:
    """A notebook in a kernel of its own: its outputs, its failing cell, and its page."""
    name = "notebook-cell"
    scene.plant(name, V[name])
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    book = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    parameters = nbformat.v4.new_code_cell("log = run_id = ''", metadata={"tags": ["parameters"]})
    cells = [cell.replace("{note!r}", repr(V[name])) for cell in CELLS]
    book.cells = [parameters, *(nbformat.v4.new_code_cell(cell) for cell in cells)]
    source = scene.folder / "scene.ipynb"
    nbformat.write(book, source)
    with Workbench.open(scene.log) as wb:
        with scene.failing("report"):
            wb.report(source, out=scene.folder / "failed")
        book.cells = book.cells[:-1]
        nbformat.write(book, source)
        page = wb.report(source, out=scene.folder / "reports")
    scene.find("told", "page", page.read_bytes())
    executed = [*(scene.folder / "failed").rglob("*.ipynb"), *(scene.folder / "reports").rglob("*.ipynb")]
    assert len(executed) == 2
    for path in executed:
        made = nbformat.read(path, as_version=4)
        outputs = [output for cell in made.cells for output in cell.get("outputs", [])]
        # A traceback in a notebook shows the lines of its own cells; those are the user's.
        scene.find("told", path.name, json.dumps([o for o in outputs if o.output_type != "error"], ensure_ascii=False))
        scene.find("told", path.name, json.dumps([o for o in outputs if o.output_type == "error"], ensure_ascii=False))
        assert any("Workbench(" in json.dumps(o) for o in outputs)
        scene.find("source", path.name, json.dumps([cell.source for cell in made.cells], ensure_ascii=False))
