"""TokenCounter: what it counts exactly, what it estimates, what fits, what it costs, and what it learns of the log."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from workbench.act.tracer import performance_tracer
from workbench.act.vocab import files_of, folders, origin_of
from workbench.decide.tokens import ENCODINGS, ENOUGH, Ratio, TokenCount, conversation, estimate
from workbench.errors import LLMError, LLMRouterError, LLMValidationError
from workbench.facts import Call, Message, Request, Response, Usage
from workbench.record.log import Log
from workbench.session.tokens import Learnt, TokenCounter

GPT, CLAUDE = "openai:gpt-4o", "anthropic:claude-haiku-4-5"
TALK = (Message(role="system", content="Answer briefly."), Message(role="user", content="How many?"))
needs_vocabulary = pytest.mark.skipif(
    any(all(file.problem for file in files_of(name, folders())) for name in ENCODINGS),
    reason="no vocabulary on this machine: the extra [tokens] is not installed",
)


@pytest.fixture
def counter(tmp_path: Path) -> TokenCounter:
    """One without a vocabulary, as on a machine without the extra; its log is in a folder of its own."""
    return TokenCounter(vocabularies=[], log=tmp_path / "log")


def refused(code: str, kind: type[LLMError] = LLMValidationError) -> Any:
    """That the body raises a typed error of this code."""
    return pytest.raises(kind, check=lambda error: error.code == code and 0 < len(error.next_step) <= 160)


# -- counts


@needs_vocabulary
@pytest.mark.parametrize(
    ("model", "method", "tokens"),
    [
        (None, "exact:o200k_base", 6),
        (GPT, "exact:o200k_base", 6),
        ("gpt4", "exact:o200k_base", 6),  # short for openai:gpt-4.1
        ("openai:gpt-4-turbo", "exact:cl100k_base", 6),
    ],
)
def test_a_text_counts_exactly_where_the_vocabulary_is_known(model: str | None, method: str, tokens: int):
    """OpenAI's cookbook has 6 tokens for it in both encodings; without a model it counts as the newest do."""
    found = TokenCounter().count("tiktoken is great!", model)
    assert found == TokenCount(count=tokens, method=method, low=tokens, high=tokens)


@needs_vocabulary
@pytest.mark.parametrize("model", [CLAUDE, "claude3", "gemini-pro", "ollama:llama3.1", "openai:gpt-6.1-sol", "x:y"])
def test_no_other_vocabulary_counts_for_a_model(model: str):
    """Claude counted as OpenAI's models count would be an estimate, and is one."""
    found = TokenCounter().count("The same words for all of them, one after the other.", model)
    assert found.method.startswith("estimate:")
    assert found.low < found.count < found.high


def test_without_a_vocabulary_the_count_is_a_labelled_estimate(counter: TokenCounter):
    """The family's, with its band."""
    assert counter.count("How many?", GPT) == estimate("How many?", "o200k_base")
    assert counter.count("How many?") == estimate("How many?", "o200k_base")
    assert counter.count("How many?", CLAUDE) == estimate("How many?", "anthropic")


@needs_vocabulary
def test_exact_false_always_estimates():
    """Also where the vocabulary is there."""
    assert TokenCounter(exact=False).count("How many?", GPT).method == "estimate:o200k_base"


def test_exact_true_demands_the_vocabulary(tmp_path: Path):
    """One that is not there, one that is damaged, and one that nobody has."""
    demanding = TokenCounter(exact=True, vocabularies=[tmp_path])
    with refused("tokens.unavailable"):
        demanding.count("How many?", GPT)
    damaged = tmp_path / origin_of("o200k_base").files[0]
    damaged.write_bytes(b"damaged")
    with refused("tokens.unavailable") as caught:
        demanding.count_messages(TALK, GPT)
    assert str(damaged) in caught.value.message
    with refused("tokens.unavailable") as caught:
        demanding.count("How many?", CLAUDE)
    assert "anthropic" in caught.value.message
    assert TokenCounter(vocabularies=[tmp_path]).count("How many?", GPT).method == "estimate:o200k_base"


def test_a_missing_vocabulary_is_looked_for_once(counter: TokenCounter, monkeypatch: pytest.MonkeyPatch):
    """What is not there costs a count nothing; another counter looks again."""
    looked: list[str] = []
    monkeypatch.setattr("workbench.session.tokens.load", lambda name, places: looked.append(name) or _missing())
    for _ in range(3):
        counter.count("a", GPT)
    assert looked == ["o200k_base"]
    TokenCounter(vocabularies=[]).count("a", GPT)
    assert looked == ["o200k_base"] * 2


def _missing() -> None:
    raise LLMValidationError("not there", code="tokens.unavailable")


class GivesUp:
    """A vocabulary that gives up on every text."""

    name = "o200k_base"

    def count(self, text: str) -> int:
        raise LLMValidationError("a million blanks", code="tokens.unavailable")


@pytest.mark.parametrize("exact", [None, True])
def test_a_text_that_the_tokenizer_gives_up_on_is_estimated_or_refused(exact: bool | None, monkeypatch):
    """The other texts of a conversation are still counted, and the whole is an estimate as it is always."""
    monkeypatch.setattr("workbench.session.tokens.load", lambda name, places: GivesUp())
    counter = TokenCounter(exact=exact)
    if exact:
        with refused("tokens.unavailable"):
            counter.count("   a", GPT)
    else:
        assert counter.count("   a", GPT) == estimate("   a", "o200k_base")


@pytest.mark.parametrize("text", ["<|endoftext|><|im_start|>", "\ud800", "\x00", "👩‍👧", "", " " * 5000])
@pytest.mark.parametrize("model", [None, CLAUDE])
def test_every_text_counts(text: str, model: str | None, counter: TokenCounter):
    """Special tokens, half a character, NUL, joined emoji, nothing, blanks; with a vocabulary and without."""
    for one in (counter, TokenCounter()):
        assert bool(text) <= one.count(text, model).count <= len(text.encode("utf-8", "replace")) + 1


@pytest.mark.parametrize(("text", "model"), [(7, None), (None, None), (b"a", None), ("a", 7)])
def test_what_is_no_text_or_name_is_refused(text: Any, model: Any, counter: TokenCounter):
    """Bytes are no text before somebody has said of which encoding."""
    with refused("validation.input"):
        counter.count(text, model)


# -- conversations


@needs_vocabulary
def test_a_conversation_is_an_estimate_of_exact_texts_and_its_frames():
    """3 + 3 tokens, 4 more for each message; between none and twice as many."""
    found = TokenCounter().count_messages(TALK, GPT)
    assert [TokenCounter().count(message.content, GPT).count for message in TALK] == [3, 3]
    assert found == TokenCount(count=14, method="estimate:o200k_base", low=6, high=22)


def test_a_conversation_may_be_messages_a_request_or_one_text(counter: TokenCounter):
    """The same, where they say the same; tools of a request are read too."""
    alone = conversation([estimate("How many?", "anthropic")], "anthropic")
    assert counter.count_messages("How many?", CLAUDE) == alone
    assert counter.count_messages([Message(role="user", content="How many?")], CLAUDE) == alone
    assert counter.count_messages(Request.of("How many?"), CLAUDE) == alone
    told = Request(messages=Request.of("How many?").messages, params={"tools": [{"name": "add"}], "temperature": 0.5})
    more = estimate('[{"name":"add"}]', "anthropic")
    found = counter.count_messages(told, CLAUDE)
    assert (found.count, found.low, found.high) == (
        alone.count + more.count, alone.low + more.low, alone.high + more.high,
    )  # fmt: skip
    assert counter.count_messages([], CLAUDE).count == 0


def test_messages_that_come_one_by_one_are_counted(counter: TokenCounter):
    """From a generator, which can be read once only."""
    assert counter.count_messages((m for m in TALK), CLAUDE) == counter.count_messages(TALK, CLAUDE)  # type: ignore[arg-type]
    assert counter.estimate_cost((m for m in TALK), GPT).low_usd > 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "messages",
    [
        ["How many?"], [{"role": "user", "content": "x"}], [Message(role="u", content=1)], None, 7, {}, TALK[0], b"a",
        Request(messages=(None,)),
    ],
)  # fmt: skip
def test_what_is_no_message_is_refused(messages: Any, counter: TokenCounter):
    """Texts in a list have no role, and nothing is no conversation of 0 tokens."""
    for ask in (counter.count_messages, counter.fits, counter.estimate_cost):
        with refused("validation.messages"):
            ask(messages, GPT)


def test_parameters_that_cannot_be_sent_have_no_count(counter: TokenCounter):
    """A tool with what JSON has no form for."""
    with refused("validation.params"):
        counter.estimate_cost(Request(messages=TALK, params={"tools": [float("nan")]}), GPT)


@pytest.mark.parametrize(
    "options",
    [{"exact": "yes"}, {"exact": 0}, {"vocabularies": "/tmp"}, {"vocabularies": Path("/tmp")}, {"vocabularies": [7]}],
)
def test_options_that_are_none_are_refused(options: Any):
    """A single folder would be taken for a list of folders of one letter each."""
    with refused("validation.config"):
        TokenCounter(**options)


# -- what fits


def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> TokenCounter:
    """A counter with a configuration file of this text."""
    file = tmp_path / "workbench.toml"
    file.write_text(text)
    monkeypatch.setenv("WORKBENCH_CONFIG", str(file))
    return TokenCounter(vocabularies=[], log=tmp_path / "log")


def test_a_prompt_fits_where_the_upper_end_of_its_band_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the reserve for the answer; one token less of window, and it does not."""
    high = TokenCounter(vocabularies=[]).count_messages(TALK, "ollama:phi4").high
    for spare in (0, -1):
        counter = configured(tmp_path, monkeypatch, f'[models."ollama:phi4"]\ncontext_window = {high + 100 + spare}\n')
        found = counter.fits(TALK, "ollama:phi4", 100)
        assert bool(found) == (spare == 0)
        assert (found.left_tokens, found.prompt.high, found.context_window) == (spare, high, high + 100 + spare)


def test_an_unknown_window_fits_nothing_and_says_what_to_do(counter: TokenCounter):
    """Nor does an unknown model, or a reserve that is none."""
    with refused("tokens.unknown_window") as caught:
        counter.fits(TALK, "ollama:phi4")
    assert '[models."ollama:phi4"]' in caught.value.next_step
    with refused("router.unknown_model", LLMRouterError):
        counter.fits(TALK, "nonsense")
    for reserve in (-1, 1.5, True, -(10**5000)):
        with refused("validation.input"):
            counter.fits(TALK, GPT, reserve)  # type: ignore[arg-type]


# -- what it costs


PRICES = '[models."ollama:phi4"]\nprompt_usd_per_mtok = 2.0\ncompletion_usd_per_mtok = 10.0\nmax_output_tokens = 1000\n'


def test_a_cost_is_estimated_from_its_cheapest_to_its_dearest_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """2 US dollars a million tokens of the prompt, 10 of the answer; nothing learnt: the likely answer is longest."""
    counter = configured(tmp_path, monkeypatch, PRICES)
    prompt = counter.count_messages(TALK, "ollama:phi4")
    found = counter.estimate_cost(TALK, "ollama:phi4", max_tokens=500)
    assert found.low_usd == pytest.approx(2e-6 * prompt.low)
    assert found.likely_usd == pytest.approx(2e-6 * prompt.count + 10e-6 * 500)
    assert found.high_usd == pytest.approx(2e-6 * prompt.high + 10e-6 * 500)
    assert (found.method, found.prompt, found.answer_tokens) == ("estimate:other", prompt, 500)
    assert found.price_source == "workbench.toml"
    # Without max_tokens: what the request says, else all that the model gives.
    asked = Request(messages=TALK, params={"max_tokens": 7})
    assert counter.estimate_cost(asked, "ollama:phi4").max_tokens == 7
    assert counter.estimate_cost(TALK, "ollama:phi4").max_tokens == 1000


def test_a_likely_answer_is_the_median_that_was_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No longer than what is asked for."""
    counter = configured(tmp_path, monkeypatch, PRICES)
    ratio = Ratio(factor=1.0, low=0.9, high=1.1, n=30)
    counter.learnt["ollama:phi4"] = Learnt(prompt=ratio, answer_tokens=40)
    found = counter.estimate_cost(TALK, "ollama:phi4")
    assert (found.answer_tokens, found.max_tokens) == (40, 1000)
    assert found.likely_usd == pytest.approx(2e-6 * found.prompt.count + 10e-6 * 40)
    assert counter.estimate_cost(TALK, "ollama:phi4", max_tokens=8).answer_tokens == 8
    counter.learnt["ollama:phi4"] = Learnt(prompt=ratio)
    assert counter.estimate_cost(TALK, "ollama:phi4").answer_tokens == 1000


def test_the_price_has_its_source_and_date(counter: TokenCounter):
    """Those of data/models.toml."""
    found = counter.estimate_cost("How many?", "gpt4")
    assert found.model == "openai:gpt-4.1"
    assert "price list" in found.price_source
    assert found.price_date.startswith("20")


def test_an_actual_cost_is_that_of_the_reported_usage(counter: TokenCounter):
    """1,000 tokens at 2.50, of which 400 cached at 1.25, and 100 at 10 US dollars a million: 0.003 US dollars."""
    usage = Usage(prompt_tokens=1000, completion_tokens=100, cached_tokens=400)
    found = counter.actual_cost(usage, GPT)
    assert found.low_usd == found.likely_usd == found.high_usd == pytest.approx(0.0030)
    assert (found.method, found.prompt.count, found.answer_tokens) == ("provider-usage", 1000, 100)
    assert counter.actual_cost(Usage(prompt_tokens=1000, completion_tokens=100), GPT).likely_usd == pytest.approx(
        0.0035
    )


def test_an_unknown_price_is_refused_and_never_0(counter: TokenCounter):
    """Before the call and after it, and where a price ends with the length of the prompt."""
    for ask in (
        lambda: counter.estimate_cost(TALK, "openai:gpt-unlisted"),
        lambda: counter.actual_cost(Usage(prompt_tokens=1, completion_tokens=1), "openai:gpt-unlisted"),
        lambda: counter.actual_cost(Usage(prompt_tokens=10**6, completion_tokens=1), "openai:gpt-6.1-sol"),
    ):
        with refused("budget.unknown_price") as caught:
            ask()
        assert "[models." in caught.value.next_step
    assert counter.estimate_cost(TALK, "openai:gpt-6.1-sol").high_usd > 0


def test_a_price_that_the_upper_end_of_a_band_has_left_is_unknown(counter: TokenCounter):
    """272,000 tokens are the most it holds for, and the prompt may have more."""
    text = "word " * 250_000
    band = counter.count_messages(text, "openai:gpt-6.1-sol")
    assert band.count < 272_000 < band.high
    with refused("budget.unknown_price"):
        counter.estimate_cost(text, "openai:gpt-6.1-sol")


@pytest.mark.parametrize(
    ("usage", "code"),
    [
        (Usage(), "validation.usage"),
        (Usage(prompt_tokens=1), "validation.usage"),
        (Usage(prompt_tokens=-1, completion_tokens=1), "validation.input"),
        (Usage(prompt_tokens=10**400, completion_tokens=1), "validation.usage"),
        (Usage(prompt_tokens=1, completion_tokens=10**400), "validation.usage"),
        (Usage(prompt_tokens=1, completion_tokens=1, cached_tokens=10**400), "validation.usage"),
        (None, "validation.usage"),
    ],
)
def test_a_usage_without_counts_has_no_cost(usage: Usage, code: str, counter: TokenCounter):
    """What is missing is no 0."""
    with refused(code):
        counter.actual_cost(usage, GPT)


def test_lengths_that_are_none_have_no_cost(counter: TokenCounter):
    """Negative, half a token, and more than any model gives."""
    for length in (-1, 0.5, 10**400):
        with refused("validation.input"):
            counter.estimate_cost(TALK, GPT, max_tokens=length)  # type: ignore[arg-type]


# -- what is learnt


def call(number: int, messages: Sequence[Message], tokens: int | None, **changes: Any) -> Call:
    """A live call that was answered with so many tokens reported for its prompt."""
    given = {
        "provider": "anthropic",
        "model": "claude-haiku-4-5",
        "params": {},
        "flags": (),
        "source": "live",
        **changes,
    }
    request = Request(messages=tuple(messages), params=given["params"])
    response = Response(
        request_key=request.key, model=CLAUDE, text="42", source=given["source"], flags=given["flags"],
        usage=Usage(prompt_tokens=tokens, completion_tokens=given.get("completion", 10 + number)),
    )  # fmt: skip
    return Call(
        span_id=f"{number:016x}", trace_id="t", run_id=None, item_id=None, provider=given["provider"],
        model=given["model"], request=request, response=response, failure=None, start_unix_ns=number, duration_ms=1.0,
        call_id=f"{number:016x}",
    )  # fmt: skip


def user(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def test_the_log_teaches_what_a_model_reports_for_its_prompts(counter: TokenCounter, log_folder: Path):
    """25 calls, each of 1.5 times the estimate: the ratio is 1.5 from end to end, and counts follow it."""
    prompts = [f"Question {n}: " + "how many of these words are there? " * n for n in range(1, 26)]
    likely = [conversation([estimate(prompt, "anthropic")], "anthropic").count for prompt in prompts]
    log = Log.open(log_folder)
    log.write(*(call(n, user(p), 2 * e) for n, (p, e) in enumerate(zip(prompts, likely, strict=True))))
    log.close()
    before = counter.count_messages(prompts[9], "claude3")
    found = counter.learn("claude3")
    assert found == {CLAUDE: Learnt(prompt=Ratio(factor=2.0, low=2.0, high=2.0, n=25), answer_tokens=22)}
    after = counter.count_messages(prompts[9], "claude3")
    assert (before.count, after.count, after.low, after.high) == (
        likely[9], 2 * likely[9], 2 * likely[9] - 2, 2 * likely[9] + 2,
    )  # fmt: skip
    text = estimate(prompts[9], "anthropic")
    assert counter.count(prompts[9], CLAUDE).count == 2 * text.count
    assert counter.count(prompts[9], GPT) == estimate(prompts[9], "o200k_base")
    counter.close()


def test_what_does_not_show_what_a_prompt_has_is_left_out(counter: TokenCounter, log_folder: Path):
    """Estimated and cut usage, another model, another source, tools, no count, and the older of two equal prompts."""
    log = Log.open(log_folder)
    log.write(
        call(0, user("one"), 100),
        call(1, user("one"), 100),
        call(2, user("two"), 200, completion=None),
        call(3, user("x1"), 9, flags=("usage_estimated",)),
        call(4, user("x2"), 9, flags=("text_redacted", "usage_capped")),
        call(5, user("x3"), 9, flags=("model_mismatch",)),
        call(6, user("x4"), 9, source="simulated"),
        call(7, user("x5"), 9, params={"tools": [{"name": "add"}]}),
        call(8, user("x6"), None),
        call(9, user("x7"), 0),
        call(10, user("three"), 300, params={"temperature": 0.5, "stop": "x"}, flags=("finish_unknown",)),
        call(11, user("four"), 7, provider="ollama", model="llama3.1:8b"),
    )
    log.close()
    found = counter.learn()
    assert {name: known.prompt.n for name, known in found.items()} == {CLAUDE: 3, "ollama:llama3.1:8b": 1}
    # 11 of the newer `one`, 20 of `three`, none of `two`: the lower of the middle ones.
    assert found[CLAUDE].answer_tokens == 11
    assert counter.learn("openai:gpt-4o") == {}
    assert set(counter.learnt) == {CLAUDE, "ollama:llama3.1:8b"}


def test_every_message_of_a_conversation_is_counted(counter: TokenCounter, log_folder: Path):
    """As the log keeps it; a prompt that only begins like one is a text."""
    likely = [conversation([estimate(m.content, "anthropic") for m in TALK], "anthropic").count]
    odd = ['[["not", "a conversation"', '[["one text"]]', '[["a", 7]]', '[["' + "[" * 50_000, '[["a", ' + "[" * 50_000]
    likely += [conversation([estimate(text, "anthropic")], "anthropic").count for text in odd]
    log = Log.open(log_folder)
    log.write(*(call(n, messages, 3 * likely[n]) for n, messages in enumerate([TALK, *map(user, odd)])))
    log.close()
    assert counter.learn()[CLAUDE].prompt == Ratio(factor=3.0, low=3.0, high=3.0, n=6)


def test_a_log_of_others_may_hold_anything(counter: TokenCounter, log_folder: Path):
    """Parameters that are no mapping teach nothing, and a report of 2^60 tokens is as far off as it is."""
    log = Log.open(log_folder)
    log.write(call(0, user("one"), 2**60), call(1, user(""), 5), call(2, user('[["", ""]]'), 5))
    log.write(*(call(n, user(f"x{n}"), 9, params=given) for n, given in ((3, {}), (4, {"a": None}))))
    log.close()
    found = counter.learn()[CLAUDE]
    assert found.prompt.n == 5
    assert found.prompt.high > 1e16
    assert counter.count("How many?", CLAUDE).high > 10**16
    counter._log.open().rows = lambda *_: [(CLAUDE, "one", text, 9, 1) for text in ("null", "[]", "7", '"a"')]  # type: ignore[method-assign]
    assert counter.learn() == {}
    counter.close()


def test_few_calls_make_the_band_wider_and_never_narrower(counter: TokenCounter, log_folder: Path):
    """One call that agrees with the estimate proves nothing."""
    prompt = "How many of these words are there? " * 20
    own = counter.count_messages(prompt, CLAUDE)
    log = Log.open(log_folder)
    log.write(call(0, user(prompt), own.count))
    log.close()
    assert counter.learn()[CLAUDE].prompt.n < ENOUGH
    found = counter.count_messages(prompt, CLAUDE)
    assert found.low <= own.low
    assert found.high >= own.high


def test_what_was_learnt_is_saved_and_loaded_as_json(counter: TokenCounter):
    """The other counter has the same counts; so has one that is given the values themselves."""
    counter.learnt[CLAUDE] = Learnt(prompt=Ratio(factor=1.1, low=1.0, high=1.3, n=40), answer_tokens=12)
    counter.learnt["x:y"] = Learnt(prompt=Ratio(factor=1.0, low=1.0, high=1.0, n=0))
    for learnt in (json.loads(json.dumps(counter.as_dict())), counter.learnt):
        other = TokenCounter(vocabularies=[], learnt=learnt)
        assert other.learnt == counter.learnt
        assert other.count("How many?", CLAUDE) == counter.count("How many?", CLAUDE)
    assert "claude" in repr(counter)


SOUND = {"factor": 1.0, "low": 0.9, "high": 1.1, "n": 4}


@pytest.mark.parametrize(
    "learnt",
    [
        7, {"x:y": 7}, {"x:y": {}}, {"x:y": {"prompt": {"factor": 1}, "answer_tokens": 1}},
        {"x:y": {"prompt": {**SOUND, "low": 2.0}, "answer_tokens": 1}}, {7: {"prompt": SOUND, "answer_tokens": 1}},
        {"x:y": {"prompt": {**SOUND, "high": 1e308}, "answer_tokens": 1}},
        *({"x:y": {"prompt": SOUND, "answer_tokens": tokens}} for tokens in ("1", 1.5, -1, True)),
    ],
)  # fmt: skip
def test_what_was_not_learnt_is_refused(learnt: Any):
    """Whatever the file had in it."""
    with refused("validation.learnt"):
        TokenCounter(learnt=learnt)
    with refused("validation.learnt"):
        Learnt(prompt=7)  # type: ignore[arg-type]


# -- around it


def test_counting_makes_no_log(counter: TokenCounter, log_folder: Path):
    """Nor does asking what fits and what it costs."""
    counter.count("How many?", GPT)
    counter.fits(TALK, GPT)
    counter.estimate_cost(TALK, GPT)
    counter.close()
    assert not log_folder.exists()


def test_what_is_asked_of_it_is_traced(counter: TokenCounter):
    """All but the counts themselves, which are too cheap for it."""
    operations = ("fits", "estimate_cost", "actual_cost")

    def calls() -> list[int]:
        return [performance_tracer.get_stats("token_counter", operation).count for operation in operations]

    before = calls()
    counter.fits(TALK, GPT)
    counter.estimate_cost(TALK, GPT)
    counter.actual_cost(Usage(prompt_tokens=1, completion_tokens=1), GPT)
    assert calls() == [n + 1 for n in before]
