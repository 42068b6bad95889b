"""What every test stands on: no outside network, a clean environment, and the recordings where there are some."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
RECORDINGS = pytest.StashKey[Path | None]()


# -- the environment


def pytest_configure(config: pytest.Config) -> None:
    """Take what a developer's shell has set out of the tests, before anything reads it."""
    # A worker of pytest-xdist starts in an environment that is clean already, and is told.
    told = getattr(config, "workerinput", {}).get("recordings")
    folder = told or os.environ.get("WORKBENCH_RECORDINGS")
    config.stash[RECORDINGS] = Path(folder).resolve() if folder else None
    for name in list(os.environ):
        if name.startswith("WORKBENCH_") or name.lower() in PROXIES:
            del os.environ[name]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist where the recordings are."""
    folder = node.config.stash[RECORDINGS]
    node.workerinput["recordings"] = str(folder) if folder else None


class OutsideNetworkError(RuntimeError):
    """A test tried to leave this machine; not an OSError, so that no code under test takes it for a bad line."""

    def __init__(self, host: object) -> None:
        super().__init__(f"a test asked for {host!r}; tests reach only this machine (fake the transport instead)")


def is_local(host: object) -> bool:
    """Whether a host is this machine's loopback; a name other than localhost never is."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _only_loopback() -> Iterator[None]:
    """Refuse every connection and name look-up beyond loopback and Unix sockets."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse_outside(sock: socket.socket, address: Any) -> None:
        if sock.family in (socket.AF_INET, socket.AF_INET6) and not is_local(address[0]):
            raise OutsideNetworkError(address[0])

    def guarded_connect(sock: socket.socket, address: Any) -> None:
        refuse_outside(sock, address)
        connect(sock, address)

    def guarded_connect_ex(sock: socket.socket, address: Any) -> int:
        refuse_outside(sock, address)
        return connect_ex(sock, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if host is not None and not is_local(host):
            raise OutsideNetworkError(host)
        return getaddrinfo(host, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as notebooks do."""
    return "asyncio"


# -- folders and files


@pytest.fixture
def log_folder(tmp_path: Path) -> Path:
    """Where a test may keep its log; not made yet."""
    return tmp_path / "log"


@pytest.fixture(scope="session")
def recordings(pytestconfig: pytest.Config) -> Path:
    """The folder of the recordings; a test that uses it is skipped without them."""
    folder = pytestconfig.stash[RECORDINGS]
    assert folder is not None, "a test without recordings should have been skipped"
    return folder


@pytest.fixture(autouse=True)
def _recordings_in_the_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set $WORKBENCH_RECORDINGS for the tests marked `recordings`, and for no other."""
    folder = request.config.stash[RECORDINGS]
    if folder is not None and request.node.get_closest_marker("recordings"):
        monkeypatch.setenv("WORKBENCH_RECORDINGS", str(folder))


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium on this machine; a test that uses it is skipped without one."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    return found


# -- which tests can run


def lack_of_recordings(folder: Path | None) -> str | None:
    """Why there are no recordings in a folder, or None when there are."""
    if folder is None:
        return "$WORKBENCH_RECORDINGS is not set"
    return None if any(folder.glob("*.parquet")) else f"$WORKBENCH_RECORDINGS holds no Parquet files: {folder}"


@pytest.hookimpl(tryfirst=True)  # before -m looks at the markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what uses the fixtures `recordings` and `chromium`, and skip what has no recordings."""
    lack = lack_of_recordings(config.stash[RECORDINGS])
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "chromium" in fixtures:
            item.add_marker("browser")
        if "recordings" in fixtures and not item.get_closest_marker("recordings"):
            item.add_marker("recordings")
        if lack and item.get_closest_marker("recordings"):
            item.add_marker(pytest.mark.skip(reason=lack))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many recording tests were not run, so that a short run is not taken for a whole one."""
    lack = lack_of_recordings(config.stash[RECORDINGS])
    skipped = terminalreporter.stats.get("skipped", [])
    missing = sum("recordings" in report.keywords and bool(lack) for report in skipped)
    if missing:
        terminalreporter.write_line(f"{missing} recording tests were not run: {lack}", yellow=True)
