"""A key shows its origin and never itself, and comes only from a variable or a file outside a repository."""

from __future__ import annotations

import copy
import json
import pickle
import traceback
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from workbench.act.provider import Provider
from workbench.act.secret import MAX_KEY_CHARS, PACKAGE, Secret, read_key
from workbench.errors import LLMValidationError

CANARY = "sk-CANARY-0123456789abcdef"
SECRET = Secret(CANARY, origin="OPENAI_API_KEY")


@dataclass(frozen=True)
class Holder:
    key: Secret


@pytest.mark.parametrize(
    "show",
    [
        repr, str, "{}".format, "{:>60}".format, "{!r:.80}".format, lambda s: f"{s}", lambda s: "%s %r" % (s, s),  # noqa: UP031
        lambda s: repr([s, {"key": s}, Holder(s)]), lambda s: repr(asdict(Holder(s))), lambda s: repr(dir(s)),
        lambda s: repr(copy.copy(s)) + repr(copy.deepcopy({"k": s})) + repr(replace(Holder(s))),
        lambda s: json.dumps({"key": s}, default=str), lambda s: json.dumps([s], default=repr),
    ],
)  # fmt: skip
def test_sec_secret_repr_shows_the_origin_and_never_the_key(show):
    """Every way in which Python shows a value gives the name of the variable at most."""
    assert CANARY not in show(SECRET)
    assert CANARY[3:9] not in show(SECRET)


def test_a_secret_names_its_origin():
    """repr, str and a format with a width are of the origin."""
    assert repr(SECRET) == str(SECRET) == "Secret(OPENAI_API_KEY)"
    assert f"{SECRET:>25}" == "   Secret(OPENAI_API_KEY)"


def test_a_secret_is_no_json_by_itself():
    """The encoder refuses it and its words do not have the key."""
    with pytest.raises(TypeError) as refused:
        json.dumps({"key": SECRET})
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_sec_secret_repr_pickling_is_refused(protocol: int):
    """No protocol writes it down, alone or inside something else; its state cannot be asked for either."""
    for thing in (SECRET, [SECRET], Holder(SECRET)):
        with pytest.raises(LLMValidationError) as refused:
            pickle.dumps(thing, protocol)
        assert refused.value.code == "security.secret"
        assert CANARY not in str(refused.value)
    with pytest.raises(LLMValidationError):
        SECRET.__getstate__()
    assert not hasattr(SECRET, "__dict__")


def test_reveal_gives_the_key_also_after_copying():
    """Copies are the same secret."""
    assert copy.copy(SECRET) is SECRET
    assert copy.deepcopy([SECRET])[0].reveal() == SECRET.reveal() == CANARY


def test_equality_is_of_keys_and_a_secret_is_no_text_and_not_hashable():
    """Two origins of one key are equal; a text never is; nothing can be looked up by it."""
    assert Secret(CANARY, origin="elsewhere") == SECRET
    assert Secret(CANARY + "x") != SECRET
    assert Secret(CANARY) != CANARY
    with pytest.raises(TypeError):
        hash(SECRET)


@pytest.mark.parametrize(
    ("key", "text", "clean"),
    [
        (CANARY, f"401: bad key {CANARY}, again {CANARY}.", "401: bad key [redacted], again [redacted]."),
        (
            "a/b+c=a/b+c=",
            "GET /x?key=a%2Fb%2Bc%3Da%2Fb%2Bc%3D and a/b+c=a/b+c=",
            "GET /x?key=[redacted] and [redacted]",
        ),
        ('0123456789q"\\', '{"echo": "0123456789q\\"\\\\"}', '{"echo": "[redacted]"}'),
        ("test", "Run the test suite.", "Run the test suite."),  # too short to be told from a word
        (".*.*.*.*.*.*", "nothing here at all", "nothing here at all"),
    ],
)
def test_scrub_takes_the_key_out_of_a_text(key: str, text: str, clean: str):
    """As it stands, as a URL and as JSON write it; what it puts in its place is not scrubbed again."""
    assert Secret(key).scrub(text) == clean


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("", "empty"), ("   ", "blank"), ("\n", "blank"), ("sk-CANARY 1", "white space"), (" sk-CANARY", "white space"),
        ("sk-CANARY\n", "white space"), ("sk-\u00a0CANARY", "white space"), ("sk-CANARY\x00", "control"),
        ("sk-CANARY\x7f", "control"), ("sk\u2011CANARY", "non-ASCII"), ("\ufeffsk-CANARY", "non-ASCII"),
        ("sk-CANARY" * MAX_KEY_CHARS, "more than"),
    ],
)  # fmt: skip
def test_cfg_env_an_unusable_key_is_refused_by_the_name_of_its_variable(value: str, word: str):
    """validation.config with the variable's name and what is wrong; neither the message nor the frames have the key."""
    with pytest.raises(LLMValidationError) as refused:
        read_key(env="MY_KEY", environ={"MY_KEY": value})
    error = refused.value
    assert error.code == "validation.config"
    assert "MY_KEY" in error.message
    assert word in error.message
    assert "MY_KEY" in error.next_step
    assert "CANARY" not in "".join(traceback.format_exception(error))
    stack = traceback.TracebackException.from_exception(error, capture_locals=True).stack
    frames = [step.locals or {} for step in stack if step.filename.endswith("act/secret.py")]
    shown = [text for frame in frames for name, text in frame.items() if name not in ("environ", "environment")]
    assert len(frames) == 2
    assert not [text for text in shown if "CANARY" in text]


def test_a_key_that_is_no_text_is_refused():
    """A number is not a key."""
    with pytest.raises(LLMValidationError, match="is a int, not a text"):
        Secret(42)  # type: ignore[arg-type]


def test_a_key_comes_from_its_variable_before_its_file(tmp_path: Path):
    """The variable wins; without it the file's line is the key, with or without an end of line or a mark of UTF-8."""
    file = tmp_path / "key"
    for text in ("from-file", "from-file\n", "from-file\r\n", "\ufefffrom-file\n"):
        file.write_bytes(text.encode())
        key = read_key(env="MY_KEY", file=file, environ={})
        assert key is not None
        assert (key.reveal(), key.origin) == ("from-file", str(file))
    key = read_key(env="MY_KEY", file=file, environ={"MY_KEY": "from-variable"})
    assert key is not None
    assert (key.reveal(), key.origin) == ("from-variable", "MY_KEY")


def test_the_process_environment_is_read_by_default(monkeypatch: pytest.MonkeyPatch):
    """Without `environ` the key is what the shell has set."""
    monkeypatch.setenv("MY_KEY", CANARY)
    assert read_key(env="MY_KEY") == SECRET


def test_a_missing_key_is_none_or_an_error_that_names_its_places(tmp_path: Path):
    """None where a key is optional; where it is required the variable and the file are named."""
    assert read_key(env="MY_KEY", environ={}) is None
    assert read_key(file=tmp_path / "none", environ={}) is None
    for options, named in (
        ({"env": "MY_KEY"}, ["MY_KEY"]),
        ({"env": "MY_KEY", "file": tmp_path / "none"}, ["MY_KEY", str(tmp_path / "none")]),
        ({}, ["neither"]),
    ):
        with pytest.raises(LLMValidationError) as refused:
            read_key(**options, required=True, environ={})
        assert refused.value.code == "validation.config"
        assert all(name in refused.value.message for name in named)


def test_a_key_file_inside_a_repository_is_refused(tmp_path: Path):
    """Below a folder with .git, in this checkout, and through a link that leads there; before the file is read."""
    (tmp_path / "repo" / ".git").mkdir(parents=True)
    (tmp_path / "repo" / "deep").mkdir()
    inside = tmp_path / "repo" / "deep" / "key"
    inside.write_text(CANARY)
    link = tmp_path / "link"
    link.symlink_to(inside)
    for file in (inside, link, PACKAGE.parent / "data" / "key"):
        with pytest.raises(LLMValidationError, match="inside the repository") as refused:
            read_key(file=file, environ={})
        assert refused.value.code == "validation.config"
        assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "empty"), (b"two\nlines", "white space"), (b"\xff\xfe\x00", "not UTF-8"), (b"x" * 10_000, "more than")],
)
def test_a_key_file_that_holds_no_key_is_refused_by_its_name(tmp_path: Path, content: bytes, word: str):
    """Empty, several lines, not a text, or far too long: the file is named."""
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(LLMValidationError, match=word) as refused:
        read_key(file=file, environ={})
    assert str(file) in refused.value.message


def test_a_folder_in_a_key_files_place_is_refused(tmp_path: Path):
    """What cannot be read is a typed error."""
    with pytest.raises(LLMValidationError, match="cannot be read"):
        read_key(file=tmp_path, environ={})


def test_a_provider_reads_its_key_and_one_without_a_key_needs_none():
    """The provider knows where; a missing key is refused by the variable's name, auth none asks for nothing."""
    provider = Provider(name="p", wire="openai", base_url="https://example.org", key_env="P_KEY")
    key = provider.read_key(environ={"P_KEY": CANARY})
    assert key == SECRET
    with pytest.raises(LLMValidationError, match="P_KEY"):
        provider.read_key(environ={})
    assert replace(provider, auth="none").read_key(environ={}) is None
