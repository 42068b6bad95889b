"""The clients that `overhead` compares, each used as its own documentation shows it, with nothing switched off.

Each function makes one client for the address of an OpenAI-compatible service; `home` is a folder of its own.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _overhead_dialogue import KEY, MODEL, messages

CONNECTIONS = 512  # more than there are calls at once: nobody waits for a connection
TIMEOUT_S = 30.0
NEVER_REACHED = 1e6  # US dollars


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One way of calling. call: the text that answers call `number`. flush: what is still owed when a batch ends.

    logged: the calls that its log holds, or None without a log.
    """

    call: Callable[[int], Awaitable[str]]
    flush: Callable[[], object] = lambda: None
    logged: Callable[[], int | None] = lambda: None


def workbench(url: str, home: Path, transport: Any = None) -> Client:
    """Ours as a user has it: a log on disk, a price, budgets, a rate limit, every default."""
    from workbench import Workbench
    from workbench.facts import Message, Request

    config = home / "workbench.toml"
    config.write_text(
        f'[providers.openai]\nbase_url = "{url}"\nrequests_per_minute = 1e9\ntokens_per_minute = 1_000_000_000_000\n',
        "utf-8",
    )
    os.environ |= {"WORKBENCH_CONFIG": str(config), "OPENAI_API_KEY": KEY}
    wb = Workbench.open(
        home / "log",
        transport=transport,
        budget_run_usd=NEVER_REACHED,
        budget_model_usd=NEVER_REACHED,
        budget_month_usd=NEVER_REACHED,
    )
    chain = wb.live.chain_of([wb.live.model(f"openai:{MODEL}")])

    async def call(number: int) -> str:
        said = tuple(Message(**message) for message in messages(number))
        return (await chain.complete(Request(messages=said))).text

    def logged() -> int:
        sql = "select count(distinct request_key), count(*) from calls where status = 'ok'"
        ((calls, rows),) = wb.log.rows(sql)
        if calls != rows:
            raise AssertionError(f"{calls} calls are {rows} rows of the log")
        return int(calls)

    return Client(call=call, flush=wb.log.ingest, logged=logged)


def workbench_plain(url: str, home: Path) -> Client:
    """The same over httpx's own connections, with as many of them as raw httpx has."""
    import httpx

    return workbench(url, home, httpx.AsyncHTTPTransport(limits=httpx.Limits(**_limits())))


def _limits() -> dict[str, int]:
    return {"max_connections": CONNECTIONS, "max_keepalive_connections": CONNECTIONS}


def httpx(url: str, home: Path, transport: Any = None) -> Client:
    """A post with httpx and nothing around it."""
    import httpx

    client = httpx.AsyncClient(
        base_url=url,
        headers={"authorization": f"Bearer {KEY}"},
        limits=httpx.Limits(**_limits()),
        timeout=TIMEOUT_S,
        transport=transport,
    )

    async def call(number: int) -> str:
        answer = await client.post("/chat/completions", json={"model": MODEL, "messages": messages(number)})
        answer.raise_for_status()
        return str(answer.json()["choices"][0]["message"]["content"])

    return Client(call=call)


def httpx_aiohttp(url: str, home: Path) -> Client:
    """The same over aiohttp's connections."""
    import aiohttp
    from httpx_aiohttp import AiohttpTransport

    def session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS))

    return httpx(url, home, AiohttpTransport(client=session))


def aiohttp(url: str, home: Path) -> Client:
    """A post with aiohttp and nothing around it."""
    import aiohttp

    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONNECTIONS), headers={"authorization": f"Bearer {KEY}"}
    )

    async def call(number: int) -> str:
        body = {"model": MODEL, "messages": messages(number)}
        async with session.post(f"{url}/chat/completions", json=body, raise_for_status=True) as answer:
            return str((await answer.json())["choices"][0]["message"]["content"])

    return Client(call=call)


def openai(url: str, home: Path) -> Client:
    """OpenAI's own package: retries, typed values, no log."""
    import openai

    client = openai.AsyncOpenAI(api_key=KEY, base_url=url)

    async def call(number: int) -> str:
        answer = await client.chat.completions.create(model=MODEL, messages=messages(number))  # type: ignore[arg-type]
        return answer.choices[0].message.content or ""

    return Client(call=call)


def inspect(url: str, home: Path) -> Client:
    """Inspect's models outside an evaluation: retries, a limit of connections, no log."""
    from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, get_model

    config = GenerateConfig(max_connections=CONNECTIONS)
    model = get_model(f"openai-api/local/{MODEL}", base_url=url, api_key=KEY, config=config)

    async def call(number: int) -> str:
        system, user = messages(number)
        said = [ChatMessageSystem(content=system["content"]), ChatMessageUser(content=user["content"])]
        return str((await model.generate(said)).completion)

    return Client(call=call)


def litellm(url: str, home: Path) -> Client:
    """LiteLLM's function: translation of formats, prices, callbacks, no log."""
    import litellm

    async def call(number: int) -> str:
        answer = await litellm.acompletion(
            model=f"openai/{MODEL}", messages=messages(number), api_base=url, api_key=KEY, timeout=TIMEOUT_S
        )
        return str(answer.choices[0].message.content)

    return Client(call=call)


def router(url: str, home: Path) -> Client:
    """LiteLLM's Router with a fallback: retries, cooldown of what fails, no log."""
    import litellm

    where = {"model": f"openai/{MODEL}", "api_base": url, "api_key": KEY}
    made = litellm.Router(
        model_list=[{"model_name": name, "litellm_params": dict(where)} for name in ("primary", "fallback")],
        fallbacks=[{"primary": ["fallback"]}],
        num_retries=2,
        timeout=TIMEOUT_S,
    )

    async def call(number: int) -> str:
        answer = await made.acompletion(model="primary", messages=messages(number))
        return str(answer.choices[0].message.content)

    return Client(call=call)


CLIENTS: dict[str, Callable[[str, Path], Client]] = {
    "ours": workbench,
    "ours-plain": workbench_plain,
    "httpx-here": httpx,
    "httpx": httpx,
    "httpx-sniffio": httpx,
    "httpx-aiohttp": httpx_aiohttp,
    "aiohttp": aiohttp,
    "openai": openai,
    "inspect": inspect,
    "litellm": litellm,
    "router": router,
}
