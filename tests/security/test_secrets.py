"""Forty canaries, one real run over loopback, and no secret anywhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from faults.server import FaultServer
from security.canaries import CANARIES, Canary
from security.scene import Scene, answers, configuration, environment, play

pytest.importorskip("opentelemetry.sdk.trace", reason="the extra [otel] is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.long]

every_canary = pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.name)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The run, played once for all canaries."""
    with FaultServer() as server, FaultServer() as proxy, pytest.MonkeyPatch.context() as patch:
        made = Scene(tmp_path_factory.mktemp("secrets"), server, proxy)
        for way, answer in answers().items():
            server.on(way, answer)
            proxy.on(way, answer)
        for name, value in environment(made).items():
            patch.setenv(name, value)
        (made.folder / "workbench.toml").write_text(configuration(made))
        root = logging.getLogger()
        level = root.level
        root.addHandler(made.records)
        root.setLevel(logging.DEBUG)
        try:
            play(made)
        finally:
            root.setLevel(level)
            root.removeHandler(made.records)
        yield made


def found(scene: Scene, canary: Canary, place: str) -> list[str]:
    """The sources in a place that hold the canary in any form, with the words around it."""
    hits = []
    for source, data in scene.places[place].items():
        for form in canary.forms:
            if (at := data.find(form)) >= 0:
                hits.append(f"{place}: {source}: ...{data[max(0, at - 60) : at + 60]!r}")
                break
    return hits


def test_there_are_forty_canaries_and_none_is_like_another():
    """Most are secrets; what is the user's own says why."""
    assert len(CANARIES) == len({canary.core for canary in CANARIES}) == 40
    assert sum(not canary.own for canary in CANARIES) == 29
    assert all(bool(canary.own) == bool(canary.why) for canary in CANARIES)


@every_canary
def test_sec_secret_the_canary_was_really_there(scene: Scene, canary: Canary):
    """It stood in the environment, in a file, in an exception, or on the wire: a test of nothing would pass always."""
    forms = canary.forms - {canary.core[:12].encode(), canary.core[-12:].encode()}
    assert [where for where, data in scene.planted.items() if any(form in data for form in forms)]


@every_canary
def test_sec_secret_log_no_secret_leaves_its_place(scene: Scene, canary: Canary):
    """Not in rows, spool, torn files, exports, tracebacks, reprs, notebook outputs, pages, commands, logging."""
    hits = [hit for place in scene.places if place not in canary.own for hit in found(scene, canary, place)]
    assert not hits, "\n".join(hits[:12])


@every_canary
def test_what_is_the_users_own_is_where_the_table_says(scene: Scene, canary: Canary):
    """The exceptions of the table are real: each canary is found in every place in which it may be."""
    for place in canary.own:
        assert found(scene, canary, place), place
