"""Any function in a model's place."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from workbench.act.threads import in_thread
from workbench.errors import LLMProviderError
from workbench.facts import Request, Response


@dataclass(frozen=True, slots=True)
class FunctionModel:
    """A model whose answers a function gives; its answers count as `live`.

    function: takes the prompt, returns a text or a Response; a plain function runs in a thread of
        its own, which is left behind when the call is given up (Python cannot stop it).
    """

    name: str
    function: Callable[[str], Any] = field(repr=False)

    async def complete(self, request: Request) -> Response:
        """The function's answer; LLMProviderError provider.malformed when it is neither text nor Response."""
        if inspect.iscoroutinefunction(self.function):
            made = await self.function(request.prompt)
        else:
            made = await in_thread(partial(self.function, request.prompt), name=f"workbench {self.name}")
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
