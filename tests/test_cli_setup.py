"""`workbench config show` and `workbench doctor`: what is set, what is missing, and never a key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from workbench import LLMFailoverHandler, Workbench
from workbench.act import vocab
from workbench.cli import main
from workbench.errors import LLMValidationError
from workbench.session import places
from workbench.session.cards import bundled_catalog
from workbench.session.doctor import examine
from workbench.session.settings import SETTINGS

CANARY = "CANARY9f8e7d6c5b4a3210"
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY")


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command inside this process, on a machine without keys, files and logs."""
    monkeypatch.setattr("workbench.session.settings.root", lambda: tmp_path)
    monkeypatch.setattr(places, "root", lambda: tmp_path)
    for name in (*KEYS, "TIKTOKEN_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)

    def call(*args: str | Path) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in args])
        captured = capsys.readouterr()
        code = ended.value.code
        return Said(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call


def findings(said: Said) -> Mapping[str, Mapping[str, str]]:
    """The findings of a doctor's document by name."""
    return {finding["name"]: finding for finding in said.json["findings"]}


# --- config show


def test_config_show_lists_every_setting_with_value_and_origin(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As text and as one JSON document."""
    (tmp_path / "workbench.toml").write_text("[call]\nmax_retries = 5\n[failover]\ngpt4 = ['claude3']\n")
    monkeypatch.setenv("WORKBENCH_TIMEOUT_S", "12")
    said = cli("config", "show", "--json")
    assert (said.code, said.err) == (0, "")
    assert set(said.json) == {"file", "log", "settings", "providers", "aliases", "failover"}
    assert set(said.json["settings"]) == set(SETTINGS)
    assert said.json["settings"]["timeout_s"] == {"value": 12.0, "origin": "WORKBENCH_TIMEOUT_S"}
    assert said.json["settings"]["max_retries"] == {"value": 5, "origin": "workbench.toml [call] max_retries"}
    assert said.json["settings"]["hedge_after_s"] == {"value": None, "origin": "default"}
    assert said.json["file"] == str(tmp_path / "workbench.toml")
    assert said.json["failover"] == {said.json["aliases"]["gpt4"]: [said.json["aliases"]["claude3"]]}
    text = cli("config", "show")
    assert (text.code, text.err) == (0, "")
    rows = [line.split(maxsplit=2) for line in text.out.splitlines()]
    assert ["timeout_s", "12.0", "WORKBENCH_TIMEOUT_S"] in rows
    assert ["stream", "false", "default"] in rows
    assert ["hedge_after_s", "none", "default"] in rows


def test_config_show_says_whether_keys_are_there(cli: Any, monkeypatch: pytest.MonkeyPatch):
    """Set, missing, unusable or not needed, with the variable's name."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("GEMINI_API_KEY", " ")
    keys = {p["name"]: p["key"] for p in cli("config", "show", "--json").json["providers"]}
    assert keys == {
        "openai": "OPENAI_API_KEY: set",
        "anthropic": "ANTHROPIC_API_KEY: missing",
        "gemini": "GEMINI_API_KEY: unusable",
        "ollama": "not needed",
    }
    text = cli("config", "show").out
    assert "OPENAI_API_KEY: set" in text
    assert "https://api.openai.com/v1" in text


def test_sec_secret_log_no_command_shows_a_key(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Keys in variables and files, usable or not, and the values of headers: none of it in any output."""
    (tmp_path / "keys").write_text(CANARY)
    (tmp_path / "workbench.toml").write_text(
        '[providers.p]\nwire = "openai"\nbase_url = "http://example.org"\nkey_file = "keys"\n'
        f'headers = {{ X-Team = "{CANARY}" }}\nquery = {{ version = "{CANARY}" }}\n'
    )
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("ANTHROPIC_API_KEY", f"{CANARY} with a space")
    for args in (("config", "show"), ("doctor",)):
        for flags in ((), ("--json",)):
            said = cli(*args, *flags)
            assert CANARY not in said.out + said.err
            assert "OPENAI_API_KEY: set" in said.out
    (own,) = [p for p in cli("config", "show", "--json").json["providers"] if p["name"] == "p"]
    assert (own["headers"], own["query"], own["key"]) == (["X-Team"], ["version"], f"{tmp_path / 'keys'}: set")


def test_a_configuration_that_cannot_be_used_is_exit_2(cli: Any, tmp_path: Path):
    """The message with its place on stderr, with --json the document on stdout."""
    (tmp_path / "workbench.toml").write_text("[call]\ntimeout_s = 'fast'")
    plain, machine = cli("config", "show"), cli("--json", "config", "show")
    assert (plain.code, plain.out) == (2, "")
    assert "workbench.toml [call] timeout_s is 'fast'" in plain.err
    assert "next: " in plain.err
    assert (machine.code, machine.json["code"]) == (2, "validation.config")


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("cooldown_s", "600", "validation.config"), ("cooldown_s", "0.0001", "validation.config"),
        ("minimum_calls", "20000", "validation.config"), ("permits", "20000", "validation.config"),
        ("cooldown_factor", "2000", "validation.config"), ("budget_run_usd", "1e300", "validation.budget"),
    ],
)  # fmt: skip
def test_a_setting_that_every_call_would_refuse_is_refused_at_once(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, code: str
):
    """By config show, doctor, a workbench and a handler, each by the setting's name, and no log is made."""
    monkeypatch.setenv(f"WORKBENCH_{name.upper()}", value)
    said = cli("config", "show", "--json")
    assert (said.code, said.json["code"]) == (2, code)
    assert name in said.json["message"].lower()
    said = cli("doctor", "--json")
    assert (said.code, findings(said)["config"]["state"]) == (1, "broken")
    for make in (Workbench.open, lambda log: LLMFailoverHandler(["simulated:strong"], log=log)):
        with pytest.raises(LLMValidationError, match=f"(?i){name}") as caught:
            make(tmp_path / "log")
        assert caught.value.code == code
    assert not (tmp_path / "log").exists()


def test_escapes_in_the_configuration_do_not_reach_the_terminal(cli: Any, tmp_path: Path):
    """A folder or short name with control characters is shown, not obeyed."""
    (tmp_path / "workbench.toml").write_text('[aliases]\n"a\\u001b[2J" = "openai:x"')
    assert "\x1b" not in cli("config", "show").err
    for command in (("config", "show"), ("doctor",)):
        said = cli(*command, "--log", tmp_path / "log\x1b[2J")
        assert "\x1b" not in said.out + said.err


# --- doctor


def test_a_fresh_machine_is_healthy_and_everything_optional_has_a_next_step(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Exit code 0 without keys, recordings and vocabulary; nothing was made by looking."""
    monkeypatch.setattr(vocab, "find_spec", lambda name: None)  # as where the extra [tokens] is not installed
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    said = cli("doctor", "--json", "--log", tmp_path / "log")
    assert (said.code, said.json["ok"], said.err) == (0, True, "")
    states = {name: finding["state"] for name, finding in findings(said).items()}
    assert states == {
        "python": "ok", "duckdb": "ok", "suites": "ok", "log": "ok", "config": "ok", "recordings": "missing",
        "vocabulary": "missing", "provider openai": "missing", "provider anthropic": "missing",
        "provider gemini": "missing", "provider ollama": "ok",
    }  # fmt: skip
    for finding in said.json["findings"]:
        assert bool(finding["next_step"]) == (finding["state"] != "ok")
        assert len(finding["next_step"]) <= 160
    assert "OPENAI_API_KEY" in findings(said)["provider openai"]["next_step"]
    assert list(tmp_path.iterdir()) == []
    text = cli("doctor", "--log", tmp_path / "log")
    assert text.code == 0
    assert text.out.count("next: ") == 5
    assert text.out.endswith("everything needed to work offline is there\n")


def test_what_is_there_is_found(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A log, a file, recordings, vocabularies and a key: all ok."""
    if util.find_spec(vocab.CARRIER) is None:
        pytest.skip("the extra [tokens] is not installed")
    Workbench.open(tmp_path / "log").close()
    (tmp_path / "workbench.toml").write_text("[call]\ntimeout_s = 5.0\nidle_s = 2.0")
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "a.parquet").write_text("")
    monkeypatch.setenv("WORKBENCH_RECORDINGS", str(tmp_path / "recordings"))
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    said = cli("doctor", "--json", "--log", tmp_path / "log")
    found = findings(said)
    assert said.code == 0
    for name in ("log", "config", "recordings", "vocabulary", "provider openai"):
        assert (found[name]["state"], found[name]["next_step"]) == ("ok", "")
    assert f"2 of {len(SETTINGS)} settings set" in found["config"]["message"]
    assert "1 files" in found["recordings"]["message"]


def test_a_damaged_vocabulary_is_a_warning(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its file is named; tokens are estimated meanwhile, so that nothing is broken."""
    monkeypatch.setattr(vocab, "find_spec", lambda name: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    file = tmp_path / vocab.origin_of("o200k_base").files[0]
    file.write_bytes(b"not a vocabulary")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    said = cli("doctor", "--json", "--log", tmp_path / "log")
    found = findings(said)["vocabulary"]
    assert (said.code, found["state"]) == (0, "warning")
    assert str(file) in found["message"]
    assert "tokens fetch" in found["next_step"]


@pytest.mark.parametrize(
    ("text", "named"), [("[call]\ntimeout_s = true", "timeout_s"), ("[call", "workbench.toml:1:"), ("[cal]", "'cal'")]
)
def test_a_broken_configuration_is_exit_1(cli: Any, tmp_path: Path, text: str, named: str):
    """The finding has the place and the next step; the other lines are there all the same."""
    (tmp_path / "workbench.toml").write_text(text)
    said = cli("doctor", "--json")
    assert (said.code, said.json["ok"]) == (1, False)
    assert findings(said)["config"]["state"] == "broken"
    assert named in findings(said)["config"]["message"]
    assert findings(said)["config"]["next_step"]
    assert findings(said)["provider openai"]["state"] == "missing"
    plain = cli("doctor")
    assert plain.code == 1
    assert plain.out.endswith("broken: config\n")


def test_a_log_that_cannot_be_used_is_exit_1(cli: Any, tmp_path: Path):
    """A file in its place, a file above it, and a database that is none."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "log" / "spool").mkdir(parents=True)
    (tmp_path / "log" / "workbench.duckdb").write_text("this is no database, but long enough to be looked at")
    for log in (tmp_path / "file", tmp_path / "file" / "log", tmp_path / "log"):
        said = cli("doctor", "--json", "--log", log)
        assert (said.code, findings(said)["log"]["state"]) == (1, "broken")
        assert str(log) in findings(said)["log"]["message"]
        assert findings(said)["log"]["next_step"]


def test_cfg_env_an_empty_key_is_exit_1_and_named(cli: Any, monkeypatch: pytest.MonkeyPatch):
    """It would fail every call of that provider."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "")
    said = cli("doctor", "--json")
    assert (said.code, findings(said)["provider anthropic"]["state"]) == (1, "broken")
    assert "ANTHROPIC_API_KEY is empty" in findings(said)["provider anthropic"]["message"]


def test_what_is_probably_not_meant_is_a_warning(cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A key that would travel unencrypted, and a variable that is no setting; loopback and no key are fine."""
    (tmp_path / "workbench.toml").write_text(
        '[providers.openai]\nbase_url = "http://example.org/v1"\n'
        '[providers.near]\nwire = "openai"\nbase_url = "http://127.0.0.1:1"\nkey_env = "OPENAI_API_KEY"\n'
        '[providers.open]\nwire = "openai"\nbase_url = "http://example.org/v1"\n'
    )
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("WORKBENCH_COLOUR", "blue")
    said = cli("doctor", "--json")
    states = {name: finding["state"] for name, finding in findings(said).items()}
    assert said.code == 0
    assert (states["provider openai"], states["provider near"], states["provider open"]) == ("warning", "ok", "ok")
    assert "unencrypted" in findings(said)["provider openai"]["message"]
    assert "WORKBENCH_COLOUR" in findings(said)["environment"]["message"]


@pytest.mark.parametrize(("version", "state"), [("1.4.2", "broken"), ("2.0.0", "ok"), ("10.1", "ok"), (None, "broken")])
def test_an_old_or_missing_duckdb_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, state: str
):
    """Version 2.0 is the oldest that the log works with."""

    def installed(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", installed)
    found = {finding.name: finding.state for finding in examine(tmp_path / "log", env={})}
    assert found["duckdb"] == state


def test_missing_data_are_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without suites there is nothing to run offline, and without the list of models no configuration."""
    monkeypatch.setattr(places, "PACKAGE", tmp_path / "workbench")
    bundled_catalog.cache_clear()
    found = {finding.name: finding for finding in examine(tmp_path / "log", env={})}
    assert (found["suites"].state, found["config"].state) == ("broken", "broken")
    assert "models.toml" in found["config"].message
    assert found["provider openai"].state == "missing"


@pytest.mark.parametrize("module", ["workbench", "workbench.cli"])
def test_both_modules_are_the_command_line(module: str, tmp_path: Path):
    """`python -m workbench` and `python -m workbench.cli` are the same."""
    environment = {k: v for k, v in os.environ.items() if k not in KEYS}
    done = subprocess.run(
        [sys.executable, "-m", module, "doctor", "--json", "--log", str(tmp_path / "log")],
        capture_output=True, text=True, check=False, timeout=60, env=environment,
    )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)["ok"], done.stderr) == (0, True, "")


def test_help_of_the_new_commands_loads_nothing_heavy():
    """--help answers without the libraries of the log and the tables."""
    heavy = ("numpy", "pandas", "duckdb", "plotly", "scipy", "httpx", "papermill")
    for command in (["config", "show"], ["doctor"], ["config"]):
        script = (
            f"import sys\nfrom workbench.cli import main\ntry: main({[*command, '--help']!r})\n"
            f"except SystemExit as e: assert not e.code\n"
            f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
        )
        environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment
        )
        assert (done.returncode, done.stderr.strip()) == (0, "[]")
        assert "Usage:" in done.stdout
