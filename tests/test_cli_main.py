"""How the command line ends: whatever happens inside becomes a message, a next step and an exit code."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer

from workbench import cli
from workbench.errors import LLMError, LLMRouterError, LLMValidationError


def ended(monkeypatch: pytest.MonkeyPatch, raised: BaseException | int | None, *arguments: str) -> Any:
    """The exit code of `main` when the command raises or returns this."""

    def app(**_: Any) -> int | None:
        if isinstance(raised, BaseException):
            raise raised
        return raised

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    return caught.value.code


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (130, 130, "interrupted"),
        (LLMError("the disk is full", code="storage.full", next_step="free some space"), 1, "next: free some space"),
        (LLMValidationError("no such weight"), 2, "LLMValidationError: no such weight"),
        (LLMRouterError("no such model"), 2, "LLMRouterError: no such model"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (typer.Abort(), 130, "interrupted"),
        (typer.BadParameter("no such option"), 2, "no such option"),
        (PermissionError(13, "Permission denied", "/log"), 1, "Permission denied: /log"),
        (OSError("odd"), 1, "odd: standard output"),
        (RuntimeError("Query interrupted"), 130, "interrupted"),
    ],
)
def test_every_ending_has_a_code_and_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: Any, code: int, told: str
) -> None:
    """On standard error, and nothing on standard output."""
    assert ended(monkeypatch, raised) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert told in shown.err


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (LLMError("full", code="storage.full"), "storage.full"),
        (KeyboardInterrupt(), "interrupted"),
        (typer.BadParameter("odd"), "usage"),
        (PermissionError(13, "no", "/log"), "io"),
        (RuntimeError("interrupted"), "interrupted"),
    ],
)
def test_with_json_every_failure_is_one_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], raised: BaseException, code: str
) -> None:
    """A program reads the code from standard output."""
    ended(monkeypatch, raised, "--json")
    assert json.loads(capsys.readouterr().out)["code"] == code


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody foresaw is not dressed up as a message."""
    monkeypatch.setattr(cli, "app", lambda **_: {}["missing"])
    with pytest.raises(KeyError):
        cli.main([])
    monkeypatch.setattr(cli, "app", lambda **_: (_ for _ in ()).throw(RuntimeError("odd")))
    with pytest.raises(RuntimeError, match="odd"):
        cli.main([])


def test_a_reader_that_has_left_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """`workbench models | head -1` ends with code 1 and no more words."""
    closed: list[bool] = []
    monkeypatch.setattr("sys.stderr.close", lambda: closed.append(True), raising=False)
    assert ended(monkeypatch, BrokenPipeError()) == 1
    assert closed == [True]
