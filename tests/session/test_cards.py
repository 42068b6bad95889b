"""Limits and prices: every figure has a source, and what is not known is None."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from workbench.decide.budget import price_of
from workbench.errors import LLMError, LLMRouterError, LLMValidationError
from workbench.facts import ModelCard
from workbench.session.cards import bundled_catalog
from workbench.session.providers import BUILT_IN
from workbench.session.settings import Loaded, load_settings

PRICES = ("prompt_usd_per_mtok", "completion_usd_per_mtok", "cached_usd_per_mtok")


def loaded(tmp_path: Path, text: str = "") -> Loaded:
    """The configuration with a file of this text."""
    file = tmp_path / "workbench.toml"
    file.write_text(text)
    return load_settings(file=file, env={})


def refused(tmp_path: Path, text: str) -> LLMError:
    """The error of a file of this text."""
    with pytest.raises(LLMValidationError) as error:
        loaded(tmp_path, text)
    assert error.value.code == "validation.config"
    assert len(error.value.next_step) <= 160
    return error.value


def test_every_bundled_card_has_limits_prices_a_source_and_a_date():
    """15 to 25 models of three providers; a cached token is never dearer than a fresh one."""
    catalog = bundled_catalog()
    assert 15 <= len(catalog.cards) <= 25
    assert {name.partition(":")[0] for name in catalog.cards} == {"openai", "anthropic", "gemini"}
    for name, card in catalog.cards.items():
        assert card.name == name
        assert card.source
        assert re.fullmatch(r"20\d\d-\d\d-\d\d", card.date)
        assert card.context_window >= card.max_output_tokens >= 4096
        assert all(math.isfinite(getattr(card, price)) and getattr(card, price) > 0 for price in PRICES)
        assert card.cached_usd_per_mtok <= card.prompt_usd_per_mtok <= card.completion_usd_per_mtok
        assert (card.prices_up_to_tokens or 1) < card.context_window


def test_bundled_short_names_lead_to_listed_models():
    """gpt4, claude3 and gemini-pro are models of the three providers that are in the list."""
    catalog = bundled_catalog()
    assert {alias: name.partition(":")[0] for alias, name in catalog.aliases.items()} == {
        "gpt4": "openai", "claude3": "anthropic", "gemini-pro": "gemini",
    }  # fmt: skip
    assert set(catalog.aliases.values()) <= set(catalog.cards)


def test_an_unlisted_model_of_a_known_provider_has_a_card_of_unknowns(tmp_path: Path):
    """It can be called; nothing about it is made up, its price least of all."""
    assert loaded(tmp_path).card("openai:brand-new") == ModelCard(name="openai:brand-new")
    assert loaded(tmp_path).card("openai:ft:gpt-4o:me:x").prompt_usd_per_mtok is None


def test_a_model_of_a_local_provider_costs_nothing(tmp_path: Path):
    """ollama and what says local = true: price 0; on another machine the price is unknown until it is said."""
    card = loaded(tmp_path).card("ollama:llama3")
    assert [getattr(card, price) for price in PRICES] == [0.0, 0.0, 0.0]
    assert card.context_window is None
    assert card.source
    away = '[providers.ollama]\nbase_url = "http://gpu-box:11434/v1"\n'
    assert loaded(tmp_path, away).card("ollama:llama3").prompt_usd_per_mtok is None
    assert loaded(tmp_path, f"{away}local = true").card("ollama:llama3").prompt_usd_per_mtok == 0.0
    proxied = '[providers.openai]\nbase_url = "http://127.0.0.1:8080/v1"'
    assert loaded(tmp_path, proxied).card("openai:brand-new").prompt_usd_per_mtok is None
    priced = '[models."ollama:llama3"]\nprompt_usd_per_mtok = 0.2'
    assert loaded(tmp_path, priced).card("ollama:llama3").prompt_usd_per_mtok == 0.2


def test_prices_of_prompts_beyond_their_length_are_unknown(tmp_path: Path):
    """A model that charges more for long prompts has its price up to that length and none beyond it."""
    cards = loaded(tmp_path).cards
    card = next(card for card in cards.values() if card.prices_up_to_tokens is not None)
    limit = card.prices_up_to_tokens
    assert price_of(card, limit).prompt_usd_per_mtok == card.prompt_usd_per_mtok
    assert price_of(card, limit + 1) is None
    own = loaded(tmp_path, f'[models."{card.name}"]\nprompt_usd_per_mtok = 7').card(card.name)
    assert price_of(own, limit + 1).prompt_usd_per_mtok == 7.0


def test_the_file_changes_single_figures_and_says_so(tmp_path: Path):
    """What it does not name stays; the source names both."""
    card = loaded(tmp_path, '[models."openai:gpt-4o"]\nprompt_usd_per_mtok = 1\n').card("openai:gpt-4o")
    before = bundled_catalog().cards["openai:gpt-4o"]
    assert (card.prompt_usd_per_mtok, card.completion_usd_per_mtok) == (1.0, before.completion_usd_per_mtok)
    assert card.source == f"{before.source}; workbench.toml: prompt_usd_per_mtok"
    new = loaded(tmp_path, '[models."openai:mine"]\ncontext_window = 8192').card("openai:mine")
    assert new == ModelCard(name="openai:mine", context_window=8192, source="workbench.toml")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[models."openai:x"]\nprompt_usd_per_mtok = -1', ["prompt_usd_per_mtok", "[0, 1e9]"]),
        ('[models."openai:x"]\nprompt_usd_per_mtok = 1e10', ["prompt_usd_per_mtok", "[0, 1e9]"]),
        ('[models."openai:x"]\nprompt_usd_per_mtok = nan', ["prompt_usd_per_mtok", "nan"]),
        ('[models."openai:x"]\nprompt_usd_per_mtok = true', ["prompt_usd_per_mtok", "True"]),
        ('[models."openai:x"]\ncontext_window = 0', ["context_window", ">= 1"]),
        ('[models."openai:x"]\ncontext_window = 1.5', ["context_window", "1.5"]),
        ('[models."openai:x"]\nprompt_usd = 1', ["prompt_usd", "prompt_usd_per_mtok"]),
        ('[models]\n"openai:x" = 5', ["openai:x", "not a table"]),
        ("models = 5", ["[models]", "not a table"]),
        ('[models."opnai:x"]\ncontext_window = 1', ["opnai:x", "openai"]),
        ('[models."gpt-4o"]\ncontext_window = 1', ["gpt-4o", "provider:model"]),
        ('[models."openai:"]\ncontext_window = 1', ["provider:model"]),
        ('[aliases]\n"a:b" = "openai:x"', ["a:b", "colon"]),
        ('[aliases]\na = "gpt4"', ["'gpt4'", "provider:model"]),
        ("[aliases]\na = 5", ["provider:model"]),
        ('[aliases]\na = "nobody:x"', ["nobody:x", "unknown provider"]),
    ],
)
def test_figures_and_names_that_are_none_are_refused(tmp_path: Path, text: str, named: list[str]):
    """The place, what stands there, and what may."""
    error = refused(tmp_path, text)
    for name in named:
        assert name in error.message + error.next_step


def test_a_name_without_a_known_provider_has_no_card(tmp_path: Path):
    """router.unknown_model with the closest name."""
    for name, hint in (("gpt5", "gpt4"), ("opnai:gpt-4o", "openai:gpt-4o"), ("openai:", "openai")):
        with pytest.raises(LLMRouterError) as error:
            loaded(tmp_path).card(name)
        assert error.value.code == "router.unknown_model"
        assert hint in error.value.next_step


def test_short_names_of_the_file_win_and_lead_anywhere(tmp_path: Path):
    """An alias may name a live, simulated or recorded model; other names are their own."""
    text = '[aliases]\ngpt4 = "openai:gpt-4o"\nfast = "simulated:weak"\n'
    config = loaded(tmp_path, text)
    assert [config.resolve(n) for n in ("gpt4", "fast", "openai:x")] == ["openai:gpt-4o", "simulated:weak", "openai:x"]
    assert config.card("gpt4") == config.cards["openai:gpt-4o"]


# --- failover


def test_failover_chains_are_written_out(tmp_path: Path):
    """Short names become models; the order is kept; a chain may share members with another."""
    text = '[failover]\ngpt4 = ["claude3", "simulated:weak"]\n"gemini:x" = ["claude3"]'
    config = loaded(tmp_path, text)
    claude = config.aliases["claude3"]
    assert dict(config.failover) == {config.aliases["gpt4"]: (claude, "simulated:weak"), "gemini:x": (claude,)}
    assert dict(loaded(tmp_path).failover) == {}


@pytest.mark.parametrize(
    ("text", "circle"),
    [
        ('"openai:a" = ["openai:a"]', ["openai:a -> openai:a"]),
        ('"openai:a" = ["openai:b"]\n"openai:b" = ["openai:a"]', ["openai:a -> openai:b", "openai:b -> openai:a"]),
        (
            '"openai:a" = ["openai:x", "openai:b"]\n"openai:b" = ["openai:c"]\n"openai:c" = ["openai:y", "openai:a"]',
            ["openai:a -> openai:b", "openai:b -> openai:c", "openai:c -> openai:a"],
        ),
        ('gpt4 = ["openai:b"]\n"openai:b" = ["gpt4"]', ["openai:gpt-4.1 -> openai:b", "openai:b -> openai:gpt-4.1"]),
    ],
)
def test_fo_cycle_a_chain_that_leads_back_is_refused(tmp_path: Path, text: str, circle: list[str]):
    """Directly, over others, and through short names; the message has the circle in the order of taking over."""
    error = refused(tmp_path, f"[failover]\n{text}")
    path = error.message.partition("in a circle: ")[2]
    assert path.split(" -> ")[0] == path.split(" -> ")[-1]
    steps = set(zip(path.split(" -> ")[:-1], path.split(" -> ")[1:], strict=True))
    assert steps == {tuple(step.split(" -> ")) for step in circle}


@pytest.mark.parametrize(
    "text",
    [
        '"openai:a" = "openai:b"', '"openai:a" = []', '"openai:a" = [5]', '"openai:a" = ["b"]', 'a = ["openai:b"]',
        '"openai:a" = ["openai:b", "openai:b"]', 'gpt4 = ["openai:b"]\n"openai:gpt-4.1" = ["openai:b"]',
        '"openai:a" = ["nobody:b"]',
    ],
)  # fmt: skip
def test_a_chain_that_is_none_is_refused(tmp_path: Path, text: str):
    """Not a list, empty, not models, a model twice, an unknown provider."""
    assert "[failover]" in refused(tmp_path, f"[failover]\n{text}").message


def test_long_chains_are_no_circle(tmp_path: Path):
    """Five thousand models in a row are read without an end of the stack."""
    rows = "\n".join(f'"openai:m{k}" = ["openai:m{k + 1}"]' for k in range(5000))
    assert len(loaded(tmp_path, f"[failover]\n{rows}").failover) == 5000


def test_the_values_cannot_be_changed(tmp_path: Path):
    """Cards, short names and chains are read-only views."""
    config: Any = loaded(tmp_path)
    for mapping in (config.cards, config.aliases, config.failover, config.providers, config.origins, BUILT_IN):
        with pytest.raises(TypeError):
            mapping["x"] = 1
