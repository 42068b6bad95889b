"""Settings: where each value comes from, and what is refused with its place."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workbench.decide.retry import RetryPolicy
from workbench.errors import LLMValidationError
from workbench.session import places
from workbench.session.providers import BUILT_IN, as_dict, check_url, is_loopback
from workbench.session.settings import SETTINGS, Loaded, Provider, Settings, config_file, load_settings, markdown

ROOT = Path(__file__).resolve().parents[2]
CANARY = "sk-CANARY-0123456789abcdef"
# Found in no list of key formats: nothing but not showing it keeps it out of a message.
PLAIN_CANARY = "CANARY9f8e7d6c5b4a"


def load(tmp_path: Path, text: str = "", /, env: dict[str, str] | None = None, **overrides: Any) -> Loaded:
    """The configuration of a file with this text, these variables and these arguments."""
    file = tmp_path / "workbench.toml"
    file.write_text(text)
    return load_settings(overrides=overrides, file=file, env=env or {})


def refused(tmp_path: Path, text: str = "", /, **options: Any) -> LLMValidationError:
    """The error of a configuration that cannot be used."""
    with pytest.raises(LLMValidationError) as error:
        load(tmp_path, text, **options)
    assert len(error.value.next_step) <= 160
    assert "CANARY" not in error.value.message + error.value.next_step
    return error.value


# --- precedence and origins


def test_argument_beats_variable_beats_file_beats_default(tmp_path: Path):
    """Each value knows where it came from."""
    text, env = "[call]\ntimeout_s = 3", {"WORKBENCH_TIMEOUT_S": "2"}
    for config, value, origin in (
        (load(tmp_path, text, env=env, timeout_s=1), 1.0, "argument"),
        (load(tmp_path, text, env=env), 2.0, "WORKBENCH_TIMEOUT_S"),
        (load(tmp_path, text), 3.0, "workbench.toml [call] timeout_s"),
        (load(tmp_path), 30.0, "default"),
        (load(tmp_path, text, env={"WORKBENCH_TIMEOUT_S": " "}), 3.0, "workbench.toml [call] timeout_s"),
    ):
        assert (config.settings.timeout_s, config.origins["timeout_s"]) == (value, origin)
    assert set(load(tmp_path).origins) == set(SETTINGS) == {f.name for f in dataclasses.fields(Settings)}


def test_the_defaults_are_the_ones_agreed(tmp_path: Path):
    """The defaults as the design lists them, and nothing else."""
    agreed = {
        "timeout_s": 30.0, "max_retries": 2, "base_delay_s": 0.5, "backoff_factor": 2.0, "max_delay_s": 8.0,
        "max_retry_after_s": 60.0, "retry_capacity": 100.0, "retry_ratio": 0.1, "first_token_s": 10.0, "idle_s": 10.0,
        "stream": False, "hedge_after_s": None, "hedge_ratio": 0.05, "failover_on_content_filter": False,
        "max_output_tokens": None, "max_response_bytes": 16_777_216, "max_connections": None,
        "failure_rate": 0.7, "slow_rate": 1.0,
        "slow_call_s": 60.0, "minimum_calls": 3, "window_calls": 10, "cooldown_s": 30.0, "cooldown_factor": 1.0,
        "max_cooldown_s": 300.0, "permits": 1, "budget_run_usd": None, "budget_model_usd": None,
        "budget_month_usd": None, "allow_unknown_price": False, "durability": "process", "log_level": None,
    }  # fmt: skip
    assert dataclasses.asdict(Settings()) == dataclasses.asdict(load(tmp_path).settings) == agreed
    retry = RetryPolicy()
    for field in dataclasses.fields(RetryPolicy):
        assert getattr(retry, field.name) == agreed[field.name]


def test_every_setting_can_be_given_in_every_way(tmp_path: Path):
    """By argument, by variable and in its table of the file, with the same value of the same type."""
    for name, setting in SETTINGS.items():
        word = "".join(setting.rule.choices[-1:])
        examples: dict[str, tuple[Any, str]] = {
            "number": (1.0, "1.0"), "integer": (2048, "2048"), "flag": (True, "true"), "choice": (word, f'"{word}"'),
        }  # fmt: skip
        own: dict[str, tuple[Any, str]] = {"max_retries": (7, "7"), "max_cooldown_s": (60.0, "60.0")}
        own |= dict.fromkeys(("minimum_calls", "window_calls", "permits"), (20, "20"))
        value, written = own.get(name) or examples[setting.rule.kind]
        found = [
            load(tmp_path, **{name: value}),
            load(tmp_path, env={setting.variable: written.strip('"')}),
            load(tmp_path, f"[{setting.group}]\n{name} = {written}"),
        ]
        assert [(getattr(c.settings, name), type(getattr(c.settings, name))) for c in found] == [
            (value, type(value))
        ] * 3
        assert [c.origins[name] for c in found] == [
            "argument", setting.variable, f"workbench.toml [{setting.group}] {name}",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("WORKBENCH_STREAM", "Yes", True), ("WORKBENCH_STREAM", "on", True), ("WORKBENCH_STREAM", "1", True),
        ("WORKBENCH_STREAM", "OFF", False), ("WORKBENCH_STREAM", "0", False), ("WORKBENCH_TIMEOUT_S", " 2.5e1 ", 25.0),
        ("WORKBENCH_TIMEOUT_S", ".5", 0.5), ("WORKBENCH_MAX_RETRIES", "+3", 3),
        ("WORKBENCH_HEDGE_AFTER_S", "None", None),
        ("WORKBENCH_BUDGET_RUN_USD", "0", 0.0), ("WORKBENCH_DURABILITY", "disk", "disk"),
    ],
)  # fmt: skip
def test_the_text_of_a_variable_is_read(tmp_path: Path, variable: str, text: str, value: Any):
    """Flags in the usual words, numbers, and none for no value, which wins over the file."""
    file = "[call]\nhedge_after_s = 3.0\n"
    settings = load(tmp_path, file, env={variable: text}).settings
    assert getattr(settings, variable.removeprefix("WORKBENCH_").lower()) == value


def test_none_as_an_argument_is_a_value_only_where_it_can_be_one(tmp_path: Path):
    """hedge_after_s=None turns off what the file has set; timeout_s=None is refused."""
    text = "[call]\nhedge_after_s = 3.0\n"
    config = load(tmp_path, text, hedge_after_s=None)
    assert (config.settings.hedge_after_s, config.origins["hedge_after_s"]) == (None, "argument")
    assert "timeout_s is None" in refused(tmp_path, timeout_s=None).message


def test_numpy_numbers_are_numbers(tmp_path: Path):
    """They come out as Python's own."""
    settings = load(tmp_path, timeout_s=np.float32(2.0), max_retries=np.int64(3)).settings
    assert (type(settings.timeout_s), type(settings.max_retries)) == (float, int)
    assert (settings.timeout_s, settings.max_retries) == (2.0, 3)


# --- refusals


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("timeout_s", "fast", "a number in (0, 86400]"), ("timeout_s", True, "a number"), ("timeout_s", 0, "(0,"),
        ("timeout_s", math.nan, "a number"), ("timeout_s", math.inf, "a number"), ("timeout_s", -1, "a number"),
        ("timeout_s", 10**400, "a number"), ("timeout_s", 86_401, "a number"), ("timeout_s", [1], "a number"),
        ("timeout_s", 1j, "a number"), ("max_retries", True, "a whole number in [0, 1000]"),
        ("max_retries", 2.0, "a whole number"), ("max_retries", "2", "a whole number"),
        ("max_retries", -1, "[0, 1000]"), ("stream", 1, "true or false"), ("stream", "true", "true or false"),
        ("durability", "ram", "process or disk"), ("durability", 1, "process or disk"), ("failure_rate", 0, "(0, 1]"),
        ("failure_rate", 1.01, "(0, 1]"), ("backoff_factor", 0.5, ">= 1"), ("permits", 0, "[1, 10000]"),
        ("hedge_ratio", 2, "[0, 1]"), ("retry_capacity", 0, "> 0"), ("hedge_after_s", 0, "or none"),
        ("max_response_bytes", 1000, ">= 1024"), ("max_delay_s", -0.1, "[0, 86400]"),
    ],
)  # fmt: skip
def test_cfg_types_a_wrong_value_is_refused_with_its_place_and_what_may_be(
    tmp_path: Path, name: str, value: Any, allowed: str
):
    """The argument is named, what stands there and what may; the same by the value type alone."""
    error = refused(tmp_path, **{name: value})
    assert error.code == "validation.config"
    assert f"argument {name} is " in error.message
    assert allowed in error.message
    assert allowed in error.next_step
    with pytest.raises(LLMValidationError, match=f"setting {name} is "):
        Settings(**{name: value})


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[call]\ntimeout_s = "fast"', "workbench.toml [call] timeout_s is 'fast'"),
        ("[call]\ntimeout_s = nan", "workbench.toml [call] timeout_s is nan"),
        ("[call]\ntimeout_s = 1979-05-27", "workbench.toml [call] timeout_s is "),
        ("[call]\nmax_retries = true", "workbench.toml [call] max_retries is True"),
        ("[breaker]\npermits = 1.5", "workbench.toml [breaker] permits is 1.5"),
        ("call = 5", "workbench.toml [call] is a value of type int"),
        ("[[call]]\ntimeout_s = 5", "workbench.toml [call] is a value of type list"),
    ],
)
def test_cfg_types_a_wrong_value_of_the_file_is_refused_with_its_path(tmp_path: Path, text: str, place: str):
    """File, table and key are in the message."""
    error = refused(tmp_path, text)
    assert error.code == "validation.config"
    assert place in error.message


def test_cfg_types_a_number_beyond_what_python_prints_is_refused(tmp_path: Path):
    """The message does without its digits."""
    assert "beyond all bounds, not a whole number" in refused(tmp_path, max_retries=10**5000).message


@pytest.mark.parametrize("text", ["fast", "nan", "inf", "1_0", "0x10", "1,5", "--1", "none", "1e99999"])
def test_cfg_types_a_wrong_text_of_a_variable_is_refused_by_its_name(tmp_path: Path, text: str):
    """The variable is named, with its text and what may be."""
    error = refused(tmp_path, env={"WORKBENCH_TIMEOUT_S": text})
    assert error.code == "validation.config"
    assert "WORKBENCH_TIMEOUT_S is " in error.message
    assert "a number in (0, 86400]" in error.message


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"timeout": "fast"}, ["'timeout'", "'timeout_s'"]), ({"retries": True}, ["'retries'", "'max_retries'"]),
        ({"zzz": 1}, ["'zzz'", "timeout_s"]), ({"env": {"WORKBENCH_TIMEOUT": "3"}}, ["WORKBENCH_TIMEOUT_S"]),
        ({"env": {"WORKBENCH_BUDGET_USD": "3"}}, ["WORKBENCH_BUDGET_USD", "WORKBENCH_BUDGET_RUN_USD"]),
    ],
)  # fmt: skip
def test_cfg_types_an_unknown_key_is_refused_with_the_closest_one(
    tmp_path: Path, options: dict[str, Any], named: list[str]
):
    """Arguments and variables that are no settings."""
    error = refused(tmp_path, **options)
    assert error.code == "validation.config"
    assert [name for name in named if name not in error.message + error.next_step] == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[call]\ntimeout = 5", ["[call]", "'timeout'", "'timeout_s'"]),
        ("timeout_s = 5", ["workbench.toml", "timeout_s"]),
        ("[cal]\ntimeout_s = 5", ["'cal'", "'call'"]), ("[breaker]\ntimeout_s = 5", ["[breaker]", "timeout_s"]),
        ("[providers.openai]\nurl = 5", ["[providers.openai]", "'url'", "'base_url'"]),
    ],
)  # fmt: skip
def test_cfg_types_an_unknown_key_of_the_file_is_refused_with_the_closest_one(
    tmp_path: Path, text: str, named: list[str]
):
    """A key of another table is unknown too."""
    error = refused(tmp_path, text)
    assert [name for name in named if name not in error.message + error.next_step] == []


def test_variables_of_other_programs_are_left_alone(tmp_path: Path):
    """What is like no setting is not ours to refuse."""
    env = {"WORKBENCH_HOME": "/x", "WORKBENCH_LOG": "/x", "WORKBENCH_RECORDINGS": "/x", "MY_TIMEOUT_S": "x"}
    assert load(tmp_path, env=env).settings == Settings()


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, "3", True, [3]])
@pytest.mark.parametrize("name", ["budget_run_usd", "budget_model_usd", "budget_month_usd"])
def test_bud_nan_a_budget_that_is_none_is_refused(tmp_path: Path, name: str, value: Any):
    """NaN, infinite, negative, text, boolean: validation.budget."""
    error = refused(tmp_path, **{name: value})
    assert error.code == "validation.budget"
    assert name in error.message
    assert refused(tmp_path, "[budget]\nbudget_run_usd = nan").code == "validation.budget"
    assert refused(tmp_path, env={"WORKBENCH_BUDGET_RUN_USD": "nan"}).code == "validation.budget"


# --- the file


def test_the_file_is_the_named_one_else_the_repositorys_else_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """WORKBENCH_CONFIG wins; without it workbench.toml at its place, and without that only defaults."""
    monkeypatch.setattr("workbench.session.settings.root", lambda: tmp_path)
    assert load_settings(env={}).file is None
    assert load_settings(env={"WORKBENCH_CONFIG": ""}).file is None
    usual, named = tmp_path / "workbench.toml", tmp_path / "mine.toml"
    usual.write_text("[call]\nmax_retries = 5")
    named.write_text("[call]\nmax_retries = 6")
    assert (load_settings(env={}).settings.max_retries, load_settings(env={}).file) == (5, usual)
    mine = load_settings(env={"WORKBENCH_CONFIG": str(named)})
    assert (mine.settings.max_retries, mine.origins["max_retries"]) == (6, "mine.toml [call] max_retries")
    monkeypatch.setenv("WORKBENCH_CONFIG", str(named))
    assert load_settings().file == named


def test_the_file_is_looked_for_at_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In a checkout the working directory does not matter; installed it is the place."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workbench.toml").write_text("")
    assert config_file({}) in (None, ROOT / "workbench.toml")
    monkeypatch.setattr(places, "PACKAGE", tmp_path / "site-packages" / "workbench")
    assert config_file({}) == tmp_path / "workbench.toml"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[call\n", 1), ("[call]\ntimeout_s = \n", 2), ("[call]\ntimeout_s = 1\ntimeout_s = 2\n", 3),
        ("\n\n[call]\nx = [1,\n", 4), ('a = "never closed', 1), ("[a]\n[a]", 2), ("{json: 1}", 1), ("\x00", 1),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int):
    """file:line, so that an editor can jump there."""
    error = refused(tmp_path, text)
    assert error.code == "validation.config"
    assert f"{tmp_path / 'workbench.toml'}:{line}: " in error.message


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path):
    """A named file that is not there, a folder, and bytes that are no text."""
    (tmp_path / "latin.toml").write_bytes("# caf\xe9".encode("latin-1"))
    for file in (tmp_path / "none.toml", tmp_path, tmp_path / "latin.toml"):
        for options in ({"file": file, "env": {}}, {"env": {"WORKBENCH_CONFIG": str(file)}}):
            with pytest.raises(LLMValidationError, match="cannot be read") as error:
                load_settings(**options)
            assert (error.value.code, str(file) in error.value.message) == ("validation.config", True)


def test_a_mark_of_utf_8_at_the_beginning_is_no_error(tmp_path: Path):
    """Some editors write one."""
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbf[call]\ntimeout_s = 4")
    assert load_settings(file=tmp_path / "a.toml", env={}).settings.timeout_s == 4.0


# --- providers


def test_four_providers_are_built_in(tmp_path: Path):
    """Their addresses, protocols, keys and ways of sending them."""
    found = {name: (p.wire, p.base_url, p.key_env, p.auth, p.local) for name, p in load(tmp_path).providers.items()}
    assert found == {
        "openai": ("openai", "https://api.openai.com/v1", "OPENAI_API_KEY", "bearer", False),
        "anthropic": ("anthropic", "https://api.anthropic.com", "ANTHROPIC_API_KEY", "x-api-key", False),
        "gemini": (
            "gemini", "https://generativelanguage.googleapis.com/v1beta", "GEMINI_API_KEY", "x-goog-api-key", False,
        ),
        "ollama": ("openai", "http://127.0.0.1:11434/v1", None, "none", True),
    }  # fmt: skip
    assert all(check_url(p.base_url, "here").hostname for p in BUILT_IN.values())


def test_the_file_changes_single_fields_and_adds_providers(tmp_path: Path):
    """A built-in keeps what is not named; a new one takes its way of sending the key from its protocol."""
    text = """
    [providers.openai]
    requests_per_minute = 500
    [providers.ollama]
    key_env = "OLLAMA_KEY"
    [providers.azure]
    wire = "openai"
    base_url = "https://example.openai.azure.com/openai/v1/"
    key_env = "AZURE_KEY"
    auth = "api-key"
    query = { "api-version" = "preview" }
    headers = { "X-Team" = "research" }
    tokens_per_minute = 1000
    concurrency = 4
    [providers.vllm]
    wire = "openai"
    base_url = "http://[::1]:8000/v1"
    [providers.claude-proxy]
    wire = "anthropic"
    base_url = "http://10.0.0.7"
    key_file = "keys/claude"
    """
    found = load(tmp_path, text).providers
    assert found["openai"] == dataclasses.replace(BUILT_IN["openai"], requests_per_minute=500.0)
    assert found["ollama"].auth == "bearer"
    assert found["azure"] == Provider(
        name="azure", wire="openai", base_url="https://example.openai.azure.com/openai/v1", key_env="AZURE_KEY",
        auth="api-key", query={"api-version": "preview"}, headers={"X-Team": "research"}, tokens_per_minute=1000,
        concurrency=4,
    )  # fmt: skip
    assert (found["vllm"].auth, found["vllm"].local) == ("none", False)
    assert (found["claude-proxy"].auth, found["claude-proxy"].key_file) == ("x-api-key", str(tmp_path / "keys/claude"))
    assert as_dict(found["azure"])["headers"] == {"X-Team": "research"}


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://example.org", "//example.org/v1", "example.org/v1", "https://", "https:///v1",
        "https://user@example.org", "https://user:CANARY@example.org/v1", "https://:CANARY@example.org",
        "http://169.254.169.254/latest", "http://[fe80::1]", "http://[fd00:ec2::254]/", "http://[::ffff:169.254.169.254]",
        "http://metadata.google.internal/x", "http://0x7f000001", "http://2130706433/v1", "http://0177.0.0.1",
        "http://127.1", "http://0.0.0.0:80", "http://[::]", "https://example.org:99999", "https://example.org:x",
        "https://[::1", "https://example.org/v1?key=CANARY", "https://example.org/#x", "https://exa mple.org",
        "https://example.org\\@evil.org", "https://ex\u00e4mple.org", "javascript:alert(1)", "https://example.org/<x>",
    ],
)  # fmt: skip
def test_sec_ssrf_an_address_that_must_not_be_asked_is_refused(tmp_path: Path, url: str):
    """By its form alone, without a look-up; the message does not repeat it, since it may have a password in it."""
    written = url.replace("\\", "\\\\")
    error = refused(tmp_path, f'[providers.openai]\nbase_url = "{written}"')
    assert error.code == "security.url"
    assert "workbench.toml [providers.openai] base_url" in error.message


@pytest.mark.parametrize(
    "url", ["https://example.org", "HTTPS://Example.org:8443/v1", "http://localhost:1", "http://192.168.1.5/v1",
            "http://[2001:db8::1]:80/x", "http://gpu-box/v1", "https://a.b2/v1"],
)  # fmt: skip
def test_other_addresses_are_accepted(tmp_path: Path, url: str):
    """Private networks too: servers of one's own live there."""
    assert load(tmp_path, f'[providers.openai]\nbase_url = "{url}"').providers["openai"].base_url == url


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_told_by_its_form(host: str):
    """Other machines are not it, whatever they call themselves."""
    assert is_loopback(host)
    assert not is_loopback("localhost.example.org")
    assert not is_loopback("10.0.0.1")


NEW = '[providers.p]\nwire = "openai"\nbase_url = "https://example.org"\n'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[providers.p]\nbase_url = "https://example.org"', ["[providers.p]", "wire"]),
        ('[providers.p]\nwire = "openai"', ["[providers.p]", "base_url"]),
        ('[providers.p]\nwire = "grpc"\nbase_url = "https://x.org"', ["wire", "openai or anthropic or gemini"]),
        ("[providers.p]\nwire = 5", ["wire", "openai or anthropic or gemini"]),
        ('[providers]\nopenai = "CANARY"', ["[providers.openai]", "not a table"]),
        ("providers = 5", ["[providers]", "not a table"]),
        (f'{NEW}auth = "basic"', ["auth", "bearer"]),
        (f'{NEW}auth = "bearer"', ["auth", "key_env"]),
        (f"{NEW}requests_per_minute = 0", ["requests_per_minute", "> 0"]),
        (f"{NEW}tokens_per_minute = 1.5", ["tokens_per_minute", ">= 1"]),
        (f"{NEW}concurrency = true", ["concurrency", ">= 1"]),
        (f'{NEW}local = "yes"', ["local", "true or false"]),
        (f"{NEW}headers = 5", ["headers", "not a table"]),
        (f'{NEW}headers = {{ "X Y" = "1" }}', ["headers", "HTTP"]),
        (f"{NEW}headers = {{ X = 1 }}", ["headers X", "text"]),
        (f'{NEW}headers = {{ X = "a\\nHost: evil" }}', ["headers X", "printable"]),
        (f'{NEW}query = {{ X = "\u00e4" }}', ["query X", "ASCII"]),
        (NEW.replace("providers.p", "providers.simulated"), ["[providers.simulated]", "name"]),
        (NEW.replace("providers.p", 'providers."a:b"'), ["a:b", "name"]),
        (NEW.replace("providers.p", "providers.Big"), ["Big", "lower-case"]),
        (NEW.replace("https://example.org", ""), ["base_url"]),
    ],
)  # fmt: skip
def test_a_provider_that_cannot_be_used_is_refused(tmp_path: Path, text: str, named: list[str]):
    """validation.config with the place and what may stand there."""
    error = refused(tmp_path, text)
    assert error.code == "validation.config"
    assert [name for name in named if name not in error.message + error.next_step] == []


@pytest.mark.parametrize(
    "line",
    [
        *(f'{key} = "{PLAIN_CANARY}"' for key in ("api_key", "key", "token", "apikey", "password", "secret")),
        f'key_env = "{CANARY}"', 'key_env = "CANARY 1"', "key_env = ['CANARY']", f'key_file = "{CANARY}"',
        *(f'headers = {{ "{h}" = "{PLAIN_CANARY}" }}' for h in ("Authorization", "x-api-key", "Cookie", "Auth-Token")),
        f'headers = {{ X-Note = "{CANARY}" }}', f'headers = {{ X-Note = "Bearer {PLAIN_CANARY}" }}',
        *(f'query = {{ {q} = "{PLAIN_CANARY}" }}' for q in ("key", "api-key", "access_token", "sig")),
        f'base_url = ["{PLAIN_CANARY}"]', f'base_url = "https://{PLAIN_CANARY}@x.org\\n"',
    ],
)  # fmt: skip
def test_sec_secret_a_key_in_the_file_is_refused_and_not_repeated(tmp_path: Path, line: str):
    """Wherever people put one; the message has no part of it."""
    text = NEW.replace('base_url = "https://example.org"\n', "") if line.startswith("base_url") else NEW
    error = refused(tmp_path, text + line)
    assert error.code in ("validation.config", "security.url")
    assert "[providers.p]" in error.message


# --- the table and its page


def test_the_page_has_the_table_that_the_code_makes():
    """docs/reference/settings.md between its two marks."""
    page = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    assert page.partition("<!-- settings -->\n")[2].partition("\n<!-- /settings -->")[0] == markdown()


def test_the_pages_example_is_a_valid_file(tmp_path: Path):
    """What people copy can be read, and does what the page says."""
    page = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    config = load(tmp_path, page.partition("```toml\n")[2].partition("```")[0])
    assert config.settings.budget_run_usd == 2.5
    assert config.card("mine").prompt_usd_per_mtok == 2.5
    assert config.failover["azure:my-deployment"] == ("openai:gpt-4.1", "anthropic:claude-haiku-4-5")


def test_every_setting_says_what_it_means():
    """One line each, and a variable of its own."""
    assert all(setting.help.endswith(".") and "\n" not in setting.help for setting in SETTINGS.values())
    assert len({setting.variable for setting in SETTINGS.values()}) == len(SETTINGS)


def test_loading_settings_loads_nothing_heavy():
    """No numpy, pandas, duckdb, pydantic or HTTP client: settings are read by every command that calls."""
    script = (
        "import sys\nfrom workbench.session.settings import load_settings\nload_settings(env={})\n"
        "print([m for m in ('numpy', 'pandas', 'duckdb', 'pydantic', 'httpx') if m in sys.modules])"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
