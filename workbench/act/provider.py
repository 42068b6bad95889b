"""Where a provider answers, in which protocol, and which key it takes: the value a connection is made from.

A Provider names the places its key may come from and never holds the key itself, so it can be shown, logged and
compared freely.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

from workbench.act.secret import Secret, read_key

Wire = Literal["openai", "anthropic", "gemini"]
Auth = Literal["bearer", "api-key", "x-api-key", "x-goog-api-key", "none"]
WIRES: tuple[Wire, ...] = get_args(Wire)
AUTHS: tuple[Auth, ...] = get_args(Auth)
AUTH_OF_WIRE: Mapping[Wire, Auth] = MappingProxyType(
    {"openai": "bearer", "anthropic": "x-api-key", "gemini": "x-goog-api-key"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """One provider of models.

    name: the part before the colon in `provider:model`. wire: the protocol it speaks. base_url: http(s) address
    that paths are joined to, without a trailing slash. key_env, key_file: where its key is, or None.
    auth: how the key is sent; "none" when it takes no key. headers, query: sent with every request; never keys.
    requests_per_minute, tokens_per_minute, concurrency: limits > 0 to stay below, None where there is none.
    local: it runs on the user's own machines, so that its models cost 0.
    """

    name: str
    wire: Wire
    base_url: str
    key_env: str | None = None
    key_file: str | None = None
    auth: Auth = "bearer"
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    requests_per_minute: float | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    local: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", MappingProxyType(dict(self.headers)))
        object.__setattr__(self, "query", MappingProxyType(dict(self.query)))

    def read_key(self, *, environ: Mapping[str, str] | None = None) -> Secret | None:
        """The provider's key, or None when it takes none.

        Raises LLMValidationError validation.config, naming the variable, when the key is missing or unusable.
        """
        if self.auth == "none":
            return None
        return read_key(env=self.key_env, file=self.key_file, required=True, environ=environ)
