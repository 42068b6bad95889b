"""From names to members: styles, patterns, suggestions, and who is taken when nobody is named."""

from __future__ import annotations

import pytest

from workbench.act.recorded import RecordedModel
from workbench.act.simulated import PROFILES, Profile, SimulatedModel
from workbench.act.world import World
from workbench.errors import LLMRouterError, LLMValidationError
from workbench.facts import Item, Recorded
from workbench.session.live import Live
from workbench.session.resolve import members_of, other_member, recorded_members


def no_live() -> Live:
    """The live models of a configuration without a file."""
    return Live(World.virtual())


KEY = {"i1": Item(item_id="i1", task="general", prompt="?", reference="yes")}


def row(model: str, style: str = "default", item: str = "i1") -> Recorded:
    return Recorded(
        recording="rec", task="general", item_id=item, prompt="?", reference="yes", model=model, prompt_style=style,
        response="yes", score=1.0, score_kind="correct", prompt_tokens=None, completion_tokens=None, latency_ms=None,
        cost_usd=None,
    )  # fmt: skip


ROWS = [row("gpt"), row("gpt-mini"), row("llama", "cot"), row("llama", "direct"), row("odd[1]")]


def names(chosen: list[str] | None) -> list[tuple[str, str | None, str | None]]:
    return [(m.name, m.recorded_as, m.style) for m in recorded_members("rec", ROWS, chosen)]


def test_all_models_of_a_recording_are_taken_when_none_is_named():
    """A model with several styles is one member per style, named with it; the others keep their bare names."""
    assert [n for n, _, _ in names(None)] == ["gpt", "gpt-mini", "llama/cot", "llama/direct", "odd[1]"]


def test_a_member_remembers_its_name_and_style_in_the_file():
    """Scores are found by the file's own words."""
    assert names(["llama/cot"]) == [("llama/cot", "llama", "cot")]
    (member,) = recorded_members("rec", ROWS, ["recorded:rec/gpt/default"])
    assert isinstance(member.model, RecordedModel)
    assert (member.name, member.model.name) == ("gpt", "recorded:rec/gpt/default")


def test_an_exact_name_is_never_a_pattern():
    """gpt is gpt alone, and a name with brackets means itself."""
    assert [n for n, _, _ in names(["gpt"])] == ["gpt"]
    assert [n for n, _, _ in names(["odd[1]"])] == ["odd[1]"]


def test_a_pattern_takes_each_model_once_in_the_order_of_the_file():
    """Overlapping patterns do not repeat a model."""
    assert [n for n, _, _ in names(["gpt*", "*mini"])] == ["gpt", "gpt-mini"]


def test_an_ambiguous_name_lists_the_styles():
    """A model in two styles has to be named with one."""
    with pytest.raises(LLMRouterError, match="llama/cot, llama/direct") as caught:
        names(["llama"])
    assert (caught.value.code, caught.value.model) == ("router.ambiguous_model", "llama")
    assert "'llama/cot'" in caught.value.next_step


def test_an_unknown_name_lists_all_and_proposes_the_closest():
    """The message has every choice, the next step the likeliest."""
    with pytest.raises(LLMRouterError, match="gpt, gpt-mini, llama/cot, llama/direct") as caught:
        names(["gpt-mimi"])
    assert (caught.value.code, caught.value.next_step) == ("router.unknown_model", "did you mean 'gpt-mini'?")


def test_a_recorded_name_of_another_recording_is_unknown():
    """recorded:OTHER/gpt does not mean this recording's gpt."""
    with pytest.raises(LLMRouterError) as caught:
        names(["recorded:other/gpt"])
    assert caught.value.code == "router.unknown_model"


def test_simulated_models_know_the_key_of_the_suite():
    """A member is made from the profile of that name, with the items it may know."""
    member = other_member("simulated:weak", KEY, PROFILES, no_live)
    assert isinstance(member.model, SimulatedModel)
    assert (member.name, member.model.profile, member.model.key) == ("simulated:weak", PROFILES["weak"], KEY)


def test_a_profile_is_a_simulated_model_under_its_own_name():
    """The name always says that it is simulated."""
    assert other_member(Profile(name="mine", skill={}), KEY, PROFILES, no_live).name == "simulated:mine"


@pytest.mark.parametrize("thing", [3, None, object(), "".join, type("Nameless", (), {"complete": len})()])
def test_what_is_no_model_is_refused(thing: object):
    """Something without a name or without complete() is validation.models."""
    with pytest.raises(LLMValidationError) as caught:
        other_member(thing, KEY, PROFILES, no_live)  # type: ignore[arg-type]
    assert caught.value.code == "validation.models"


def test_a_suite_without_names_is_answered_by_the_simulated_pool():
    """Strong, medium and weak; and nothing is read of any recording."""
    found = members_of(None, recording=None, rows=lambda: pytest.fail("no rows are needed"), key=KEY, live=no_live)
    assert [m.name for m in found] == ["simulated:strong", "simulated:medium", "simulated:weak"]


def test_members_stand_in_the_order_named():
    """Recorded and simulated members mix in the order in which they were written."""
    found = members_of(["simulated:weak", "llama/*", "gpt"], recording="rec", rows=lambda: ROWS, key=KEY, live=no_live)
    assert [m.name for m in found] == ["simulated:weak", "llama/cot", "llama/direct", "gpt"]


def test_the_same_member_twice_is_refused():
    """A model has one vote, however often it is named."""
    with pytest.raises(LLMValidationError, match="'gpt' is named twice") as caught:
        members_of(["gpt", "recorded:rec/gpt"], recording="rec", rows=lambda: ROWS, key=KEY, live=no_live)
    assert caught.value.code == "validation.models"
