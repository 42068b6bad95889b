"""Any function in a model's place."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import LLMProviderError
from workbench.facts import Request, Response


@dataclass(frozen=True, slots=True)
class FunctionModel:
    """A model whose answers a function gives; its answers count as `live`.

    function: takes the prompt, returns a text or a Response; plain functions run in a thread.
    """

    name: str
    function: Callable[[str], Any] = field(repr=False)

    async def complete(self, request: Request) -> Response:
        """The function's answer; LLMProviderError provider.malformed when it is neither text nor Response."""
        if inspect.iscoroutinefunction(self.function):
            made = await self.function(request.prompt)
        else:
            made = await asyncio.to_thread(self.function, request.prompt)
            if inspect.isawaitable(made):
                made = await made
        if isinstance(made, Response):
            return made
        if not isinstance(made, str):
            raise LLMProviderError(
                f"the function behind {self.name} returned {type(made).__name__}, not a text",
                code="provider.malformed",
                model=self.name,
                next_step="return a str or a workbench.Response",
            )
        return Response(request_key=request.key, model=self.name, text=made, source="live")
