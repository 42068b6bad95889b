"""Live models by name, from the configuration to the rows of the log; the network is a transport that answers."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from workbench import LLMFailoverHandler, LLMRouter, MultiModelEnsembler, Workbench
from workbench.act.admission import Discipline
from workbench.act.world import World
from workbench.errors import LLMError, LLMFailoverError, LLMRouterError, LLMValidationError
from workbench.session.discipline import discipline_of, limits_of
from workbench.session.live import Live
from workbench.session.settings import SETTINGS, Settings, load_settings

KEY = "sk-live-canary-0123456789"
TOML = """
[providers.lab]
wire = "openai"
base_url = "http://lab.test/v1"
auth = "none"
requests_per_minute = 600
concurrency = 4

[models."lab:small"]
prompt_usd_per_mtok = 1.0
completion_usd_per_mtok = 2.0

[models."lab:big"]
prompt_usd_per_mtok = 10.0
completion_usd_per_mtok = 20.0

[aliases]
tiny = "lab:small"
pool = "simulated:strong"

[failover]
"lab:small" = ["lab:big"]
"""


class Lab:
    """A provider in memory: answers what `answers` says for a model, counts and keeps what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []
        self.headers: list[httpx.Headers] = []

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.asked.append(body)
        self.headers.append(request.headers)
        answer = self.answers.get(body["model"], "The answer is 4.")
        if isinstance(answer, int):
            return httpx.Response(answer, json={"error": {"message": f"no, {KEY}", "type": "server_error"}})
        if "input" in body:
            rows = [{"index": n, "embedding": [float(n), 1.0]} for n in range(len(body["input"]))][::-1]
            return httpx.Response(200, json={"data": rows, "usage": {"prompt_tokens": 3, "total_tokens": 3}})
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        choice = {"index": 0, "message": {"content": answer}, "finish_reason": "stop"}
        if not body.get("stream"):
            return httpx.Response(200, json={"id": "r1", "model": body["model"], "choices": [choice], "usage": usage})
        events: list[dict[str, Any]] = [
            {"choices": [{"index": 0, "delta": {"content": f"{word} "}}]} for word in answer.split()
        ]
        events += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": usage}]
        data = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=data.encode())

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self)


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "workbench.toml"
    file.write_text(TOML)
    monkeypatch.setenv("WORKBENCH_CONFIG", str(file))
    return file


def test_a_live_model_runs_a_suite_and_everything_is_in_the_log(configured: Path, log_folder: Path):
    """Each item is one call with its tokens, its cost at the declared price, its request id, and source `live`."""
    lab = Lab()
    with Workbench.open(log_folder, transport=lab.transport, max_retries=0) as wb:
        run = wb.run_sync("question_answering", models=["tiny", "simulated:weak"], merge="majority_voting")
        assert run.table.source == "live+simulated"
        rows = wb.log.rows(
            "select distinct member, model, source, request_id, served_model, cost_usd, attempts, status from calls "
            "where run_id = ? and member = 'tiny'", [run.run_id],
        )  # fmt: skip
        assert rows == [("tiny", "small", "live", "r1", "small", pytest.approx(120e-6), 1, "ok")]
        frame = run.df()
        assert len(lab.asked) == len(frame[frame.model == "tiny"]) == 48
        assert set(frame[frame.model == "tiny"]["source"]) == {"live"}
        assert run.spent["tiny"].cost_usd == pytest.approx(48 * 120e-6)
        assert "tiny" in repr(run)


def test_a_member_of_a_run_answers_alone(configured: Path, log_folder: Path):
    """Its fallback would answer in its name: what it cannot do itself is not asked, and no wrong answer either."""
    lab = Lab(small=401)
    with Workbench.open(log_folder, transport=lab.transport) as wb:
        run = wb.run_sync("question_answering", models=["lab:small", "simulated:weak"])
        assert {body["model"] for body in lab.asked} == {"small"}
        # A refused key puts the model out for the run: only the calls under way at that moment ask it.
        assert len(lab.asked) < 48
        frame = run.df()
        assert set(frame["model"]) == {"simulated:weak"}
        codes = wb.log.rows(
            "select failure_code, count(*) from calls where member = 'lab:small' and run_id = ? group by 1",
            [run.run_id],
        )
        assert codes == [("provider.auth", 48)]


def test_the_fallback_is_charged_for_what_it_answered(configured: Path, log_folder: Path):
    """The handler takes the chain of the file: a dead model costs nothing, the answer its own price."""
    lab = Lab(small=401)
    handler = LLMFailoverHandler("tiny", log=log_folder, transport=lab.transport)
    response = asyncio.run(handler.execute("hello"))
    handler.close()
    assert (response.model, response.cost_usd) == ("lab:big", pytest.approx(1200e-6))
    with Workbench.open(log_folder) as wb:
        seen = wb.log.rows("select model, status, booked_usd, final from attempts order by attempt")
        assert seen == [("small", "error", 0.0, False), ("big", "ok", pytest.approx(1200e-6), True)]
        assert wb.log.rows("select member, model, attempts, status from calls") == [("lab:small", "big", 2, "ok")]


def test_a_limit_of_tokens_is_sent_and_reserved(configured: Path, log_folder: Path):
    """With max_output_tokens the worst case is small enough for a small budget, and no answer can exceed it."""
    lab = Lab()
    with Workbench.open(log_folder, transport=lab.transport, max_output_tokens=50, budget_run_usd=0.09) as wb:
        run = wb.run_sync("question_answering", models=["lab:big"])
        assert {body["max_tokens"] for body in lab.asked} == {50}
        assert len(lab.asked) == 48
        [(booked, cost)] = wb.log.rows(
            "select sum(booked_usd), sum(cost_usd) from every_attempt where run_id = ?", [run.run_id]
        )
        assert booked == pytest.approx(cost) == pytest.approx(48 * 1200e-6)


def test_a_budget_ends_a_run_before_it_is_overspent(configured: Path, log_folder: Path):
    """What does not fit is refused item by item, what was spent stays below the limit, and with more it goes on."""
    lab = Lab(big="The answer is 4.")
    with Workbench.open(log_folder, transport=lab.transport, budget_run_usd=0.12) as wb:
        with pytest.raises(LLMError, match=r"budget\.exceeded") as caught:
            wb.run_sync("question_answering", models=["lab:big"])
        assert caught.value.code == "run.failed"
        codes = dict(wb.log.rows("select failure_code, count(*) from calls group by 1"))
        assert set(codes) == {None, "budget.exceeded"}
        assert sum(codes.values()) == 48
        assert codes[None] == len(lab.asked)
        [(cost,)] = wb.log.rows("select sum(cost_usd) from calls")
        assert 0 < cost <= 0.12
        refused = wb.log.rows("select distinct status, attempts from calls where failure_code = 'budget.exceeded'")
        assert refused == [("refused", 0)]
    with Workbench.open(log_folder, transport=lab.transport, budget_run_usd=12) as wb:
        run = wb.resume_sync()
        assert (run.table.status, run.resumed.kept, len(lab.asked)) == ("finished", codes[None], 48)


def test_a_missing_key_is_told_before_anything_is_asked(log_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """cfg-env: the variable to set is named, and no request leaves."""
    monkeypatch.setenv("OPENAI_API_KEY", "  ")
    lab = Lab()
    with Workbench.open(log_folder, transport=lab.transport) as wb:
        with pytest.raises(LLMValidationError, match="OPENAI_API_KEY") as caught:
            wb.run_sync("question_answering", models=["openai:gpt-4.1"])
        assert caught.value.code == "validation.config"
    assert lab.asked == []


def test_router_unknown_names_the_closest_model(log_folder: Path):
    """router-unknown: a name that nobody knows is refused with the closest one."""
    with Workbench.open(log_folder) as wb, pytest.raises(LLMRouterError) as caught:
        wb.run_sync("question_answering", models=["gpt-4.1-mimi"])
    assert caught.value.code == "router.unknown_model"
    assert "gpt-4.1-mini" in caught.value.next_step


def test_the_key_goes_into_one_header_and_nowhere_else(
    log_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A provider that quotes the key in its refusal does not bring it into the log, an error or a repr."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    lab = Lab(**{"gpt-4.1": 400})
    handler = LLMFailoverHandler(["gpt4"], log=log_folder, transport=lab.transport)
    with pytest.raises(Exception, match="redacted") as caught:
        asyncio.run(handler.execute("hello"))
    handler.close()
    assert lab.headers[0]["authorization"] == f"Bearer {KEY}"
    seen = [repr(handler.chain), repr(caught.value), str(caught.value.__notes__), caplog.text]
    files = [f.read_bytes().decode("latin-1") for f in log_folder.rglob("*") if f.is_file()]
    assert not [text for text in [*seen, *files] if KEY in text]


def test_short_names_and_chains_come_from_the_file(configured: Path):
    """An alias leads to its model, and a chain to what takes over; a simulated model may stand in for a live one."""
    live = Live(World.virtual())
    assert live.with_fallbacks("tiny") == ("lab:small", "lab:big")
    assert live.model("tiny").name == "lab:small"
    assert live.knows("tiny")
    assert not live.knows("pool")
    assert not live.knows("nobody:x")


def test_a_simulated_alias_is_a_member(configured: Path, log_folder: Path):
    """The alias is the member's name, its answers count as simulated."""
    with Workbench.open(log_folder) as wb:
        run = wb.run_sync("question_answering", models=["pool"])
        assert run.table.source == "simulated"
        assert run.table.models == ("pool",)


def test_the_ensembler_takes_live_models(configured: Path, log_folder: Path):
    """Aliases are members under their own names; the merge has their answers."""
    lab = Lab(small="The answer is 4.", big="The answer is 5.")
    weights = {"tiny": 0.3, "lab:big": 0.7}
    ensembler = MultiModelEnsembler(["tiny", "lab:big"], weights, log=log_folder, transport=lab.transport)
    merged = asyncio.run(ensembler.get_ensemble_response("What is 2 + 2, as a number?", answer_kind="number"))
    ensembler.close()
    assert merged.answer == "5"
    assert {part.model for part in merged.contributions} == {"tiny", "lab:big"}


def test_naming_models_makes_no_folder(configured: Path, log_folder: Path):
    """The log is opened by the first call, not by a name."""
    MultiModelEnsembler(["tiny"], log=log_folder).close()
    LLMFailoverHandler(["tiny"], log=log_folder).close()
    assert not log_folder.exists()


def test_the_failover_handler_answers_opens_and_resets(configured: Path, log_folder: Path):
    """Its circuit opens after three failures, refuses at once with the time to wait, and closes on reset."""
    lab = Lab(big=500)
    handler = LLMFailoverHandler(["lab:big"], log=log_folder, transport=lab.transport, base_delay_s=0.0)
    with pytest.raises(Exception, match="500"):
        asyncio.run(handler.execute("hello"))
    assert [(c.provider, c.model, c.state) for c in handler.circuits] == [("lab", "big", "open")]
    with pytest.raises(LLMFailoverError) as caught:
        asyncio.run(handler.execute("hello"))
    assert caught.value.code == "failover.all_open"
    assert 29 < caught.value.retry_after <= 30
    assert len(lab.asked) == 3
    lab.answers.clear()
    with pytest.raises(LLMRouterError, match="lab:big"):
        handler.reset("lab:bug")
    handler.reset("lab:big")
    assert asyncio.run(handler.execute("hello")).text == "The answer is 4."
    handler.close()


def test_the_failover_handler_streams(configured: Path, log_folder: Path):
    """The pieces are the answer, in order."""

    async def main() -> list[str]:
        async with aclosing(handler.stream("hello")) as pieces:
            return [piece async for piece in pieces]

    handler = LLMFailoverHandler(["lab:big"], log=log_folder, transport=Lab(big="one two").transport)
    assert asyncio.run(main()) == ["one ", "two "]
    handler.close()


@pytest.mark.parametrize("models", [[], ["lab:small", "tiny"]], ids=["none", "twice"])
def test_a_chain_needs_different_models(configured: Path, log_folder: Path, models: list[str]):
    """No model and the same model twice are refused by name."""
    with pytest.raises(LLMValidationError) as caught:
        LLMFailoverHandler(models, log=log_folder)
    assert caught.value.code == "validation.models"


def test_executors_stand_in_a_chain(log_folder: Path):
    """A function answers in the place of the model of its name; an empty question is refused."""

    def broken(prompt: str) -> str:
        raise ConnectionError(prompt)

    handler = LLMFailoverHandler(["a", "b"], executors={"a": broken, "b": str.upper}, log=log_folder, max_retries=0)
    response = asyncio.run(handler.execute("hello"))
    assert (response.text, response.model) == ("HELLO", "b")
    with pytest.raises(LLMValidationError, match="empty"):
        asyncio.run(handler.execute(" "))
    handler.close()


def test_embeddings_come_in_the_order_of_the_texts(configured: Path):
    """One vector a text, ordered by the provider's indexes; the call is logged, counted and priced as any other."""
    lab, world = Lab(), World.virtual()
    live = Live(world, transport=lab.transport)
    embedder = live.embedder("lab:small")
    found = world.run(embedder.embed(["x", "y", "z"]))
    assert [tuple(v) for v in found] == [(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]
    assert lab.asked == [{"model": "small", "input": ["x", "y", "z"]}]
    [row] = [f for f in world.sink.facts if type(f).__name__ == "Call"]
    assert (row.status, row.response.usage.prompt_tokens, row.response.cost_usd) == ("ok", 3, pytest.approx(3e-6))


@pytest.mark.parametrize("texts", ["text", [""], [1]], ids=["a text", "an empty one", "a number"])
def test_embed_refuses_what_is_no_list_of_texts(configured: Path, texts: Any):
    """A single text is not a list of its letters."""
    world = World.virtual()
    with pytest.raises(LLMValidationError):
        world.run(Live(world, transport=Lab().transport).embedder("lab:small").embed(texts))


def test_settings_by_argument_come_before_the_file(configured: Path, monkeypatch: pytest.MonkeyPatch):
    """Argument, then environment, then file, then default."""
    configured.write_text(TOML + "\n[call]\ntimeout_s = 7\nmax_retries = 5\nidle_s = 3\n")
    monkeypatch.setenv("WORKBENCH_MAX_RETRIES", "4")
    discipline = Live(World.virtual(), loaded=load_settings(overrides={"timeout_s": 9})).admission.discipline
    assert (discipline.timeout_s, discipline.retry.max_retries, discipline.idle_s) == (9.0, 4, 3.0)
    assert discipline.first_token_s == 10.0


def test_the_level_of_the_loggers_is_a_setting(log_folder: Path):
    """It is set where it is given, and left alone where it is not."""
    logger = logging.getLogger("workbench")
    before = logger.level
    try:
        Workbench.open(log_folder).close()
        assert logger.level == before
        Workbench.open(log_folder, log_level="debug").close()
        assert logger.level == logging.DEBUG
    finally:
        logger.setLevel(before)


def test_the_defaults_of_settings_are_those_of_the_discipline():
    """Two places hold the numbers, and they are the same numbers."""
    assert discipline_of(Settings()) == Discipline()


def test_every_value_that_a_setting_may_have_can_be_used():
    """Both ends of each range go through the policies of calls: the two tables of ranges agree."""
    for name, setting in SETTINGS.items():
        rule = setting.rule
        if rule.kind not in ("number", "integer") or rule.low is None:
            continue
        low: float = math.nextafter(rule.low, math.inf) if rule.above else rule.low
        high: float = 1e300 if rule.high is None else rule.high
        for value in (low, high):
            own = {name: int(value) if rule.kind == "integer" else value}
            if name == "cooldown_s":
                own["max_cooldown_s"] = SETTINGS["max_cooldown_s"].rule.high or 0
            if name == "max_cooldown_s":
                own["cooldown_s"] = SETTINGS["cooldown_s"].rule.low or 0
            discipline_of(Settings(**own))
            limits_of(Settings(**own))


def test_budgets_are_limits_in_micro_dollars():
    """0.29 US dollars are 290000; what is not set limits nothing."""
    assert limits_of(Settings()) == {}
    found = limits_of(Settings(budget_run_usd=0.29, budget_model_usd=1, budget_month_usd=0))
    assert found == {"run:*": 290_000, "model:*": 1_000_000, "month:*": 0}


@pytest.mark.parametrize(("ratio", "paid"), [(0.0, 0), (0.05, 6)], ids=["none", "some"])
def test_a_hedge_ratio_of_0_sends_no_second_call(ratio: float, paid: int):
    """Twenty calls at 0.05 earn one beside the five at hand; at 0 there is none, not even at the beginning."""
    shared = Live(World.virtual(), loaded=load_settings(overrides={"hedge_ratio": ratio})).admission
    at_hand = sum(shared.pay_hedge() for _ in range(10))
    for _ in range(20):
        shared.begin()
    assert at_hand + sum(shared.pay_hedge() for _ in range(10)) == paid


def test_threads_share_one_discipline_and_one_set_of_connections(log_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Eight threads that ask at the same moment get the same objects, and the connections are made once."""
    count = 8
    here, everybody, made = threading.Barrier(count), threading.Event(), []

    class SlowHttp:
        def __init__(self, **options: Any) -> None:
            made.append(options)
            everybody.wait(10)  # until every thread has asked, so that whoever is let in makes one too

    monkeypatch.setattr("workbench.act.http.Http", SlowHttp)
    found: list[tuple[int, int, int]] = []
    arrived: list[int] = []

    def ask() -> None:
        here.wait(10)
        arrived.append(1)
        if len(arrived) == count:
            everybody.set()
        live = wb.live
        found.append((id(live), id(live.admission), id(live.http)))

    with Workbench.open(log_folder) as wb:
        threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert (len(found), len(set(found)), len(made)) == (count, 1, 1)


@pytest.mark.parametrize("durability", ["process", "disk"])
@pytest.mark.parametrize("kind", ["handler", "ensembler", "router", "workbench"])
def test_durability_is_the_configured_one_everywhere(
    configured: Path, log_folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, durability: str
):
    """With `disk` written rows are flushed to the disk, with `process` they are not; set by the environment."""
    flushed: list[int] = []
    monkeypatch.setattr("os.fdatasync", flushed.append, raising=False)
    monkeypatch.setenv("WORKBENCH_DURABILITY", durability)
    if kind == "handler":
        handler = LLMFailoverHandler(["simulated:strong"], log=log_folder)
        asyncio.run(handler.execute("1 + 1?"))
        handler.close()
    elif kind == "ensembler":
        ensembler = MultiModelEnsembler(["simulated:strong"], log=log_folder)
        asyncio.run(ensembler.get_ensemble_response("1 + 1?"))
        ensembler.close()
    elif kind == "router":
        router = LLMRouter(["lab:small", "lab:big"], log=log_folder)
        router.select_model("1 + 1?")
        router.close()
    else:
        with Workbench.open(log_folder) as wb:
            wb.run_sync("question_answering", models=["simulated:strong"])
    assert bool(flushed) is (durability == "disk")


@asynccontextmanager
async def lab_on_loopback(name_it: Callable[[str], Any]) -> AsyncIterator[asyncio.Event]:
    """A provider that keeps its connection; the event is set when the other side has closed it.

    name_it: is given a configuration with its address.
    """
    closed = asyncio.Event()
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    choice = {"index": 0, "message": {"content": "The answer is 4."}, "finish_reason": "stop"}
    body = json.dumps({"id": "r1", "model": "small", "choices": [choice], "usage": usage}).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readline():
            length = 0
            while request not in (b"\r\n", b""):
                if request.lower().startswith(b"content-length:"):
                    length = int(request.split(b":")[1])
                request = await reader.readline()
            await reader.readexactly(length)
            writer.write(head + body)
        writer.close()
        closed.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    name_it(TOML.replace("http://lab.test", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    try:
        yield closed
    finally:
        server.close()
        await server.wait_closed()


def test_aclose_closes_the_connections_of_the_running_loop(configured: Path, log_folder: Path):
    """Of a workbench, a handler and an ensembler, while the loop goes on; the rows are in the log."""

    async def main() -> None:
        async with lab_on_loopback(configured.write_text) as closed:
            async with Workbench.open(log_folder) as wb:
                run = await wb.run("question_answering", models=["lab:small"], concurrency=1)
                assert not closed.is_set()
            await asyncio.wait_for(closed.wait(), 5)
            assert len(run.df()) == 48
        async with lab_on_loopback(configured.write_text) as closed:
            async with aclosing(LLMFailoverHandler(["lab:small"], log=log_folder)) as handler:
                assert (await handler.execute("hello")).text == "The answer is 4."
                assert not closed.is_set()
            await asyncio.wait_for(closed.wait(), 5)
        async with lab_on_loopback(configured.write_text) as closed:
            async with aclosing(MultiModelEnsembler(["lab:small"], log=log_folder)) as ensembler:
                assert (await ensembler.get_ensemble_response("2 + 2?", answer_kind="number")).answer == "4"
                assert not closed.is_set()
            await asyncio.wait_for(closed.wait(), 5)

    asyncio.run(main())
    with Workbench.open(log_folder) as wb:
        assert wb.log.rows("select count(*) from calls where source = 'live' and ok") == [(50,)]


@pytest.mark.parametrize("kind", [LLMFailoverHandler, MultiModelEnsembler])
def test_aclose_of_what_was_never_used_makes_nothing(log_folder: Path, kind: Any):
    """Without a call there is neither a connection nor a log."""
    asyncio.run(kind(["simulated:strong"], log=log_folder).aclose())
    assert not log_folder.exists()


def test_what_calls_models_shows_which(configured: Path, log_folder: Path):
    """A notebook shows the names, not an address in memory."""
    assert repr(LLMFailoverHandler(["tiny"], log=log_folder)) == "LLMFailoverHandler(lab:small -> lab:big)"
    assert repr(MultiModelEnsembler(["tiny", "lab:big"])) == "MultiModelEnsembler(tiny, lab:big; weighted_consensus)"
    assert repr(LLMRouter(["tiny"], log=log_folder)) == "LLMRouter(tiny)"
