"""A server for each test; connections that outlive it are somebody's leak."""

from __future__ import annotations

import gc
import os
import ssl
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from faults.server import FaultServer


@pytest.fixture
def server() -> Iterator[FaultServer]:
    """A running fault server."""
    with FaultServer() as running:
        yield running


@pytest.fixture(scope="package", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Every test looks for leaks with a full collection: keep what was there before out of it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="package", autouse=True)
def _one_set_of_authorities() -> Iterator[None]:
    """Read the list of authorities once for each SSL_CERT_FILE and not for each test: it takes 40 ms."""
    make, made = httpx.create_ssl_context, dict[tuple[Any, ...], ssl.SSLContext]()

    def once(*args: Any, **options: Any) -> ssl.SSLContext:
        key = (os.environ.get("SSL_CERT_FILE"), args, tuple(sorted(options.items())))
        if key not in made:
            made[key] = make(*args, **options)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("httpx._transports.default.create_ssl_context", once, raising=False)
        patch.setattr("httpx._config.create_ssl_context", once)
        yield
