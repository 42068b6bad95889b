"""PromptEngineer: the prompt that is sent is the prompt that is shown, and the log knows what it was made of."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from workbench.act.simulated import PROFILES
from workbench.canonical import text_hash
from workbench.decide.assemble import Passage, TokenBudget
from workbench.decide.library import template_for
from workbench.decide.prompt import PromptTemplate, Slot
from workbench.decide.tokens import TokenCount
from workbench.errors import LLMError, LLMFailoverError, LLMProviderError, LLMRouterError, LLMValidationError
from workbench.facts import Message, Request, Response
from workbench.session.failover import LLMFailoverHandler
from workbench.session.optimizer import QueryOptimizer
from workbench.session.prompts import PromptEngineer
from workbench.session.settings import load_settings
from workbench.session.tokens import TokenCounter

ASK = PromptTemplate("ask", "{{ query }} ({{ style }})", (Slot("query"), Slot("style")))


@dataclass
class Optimizer:
    """Stands in for a QueryOptimizer."""

    told: list[float] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def optimize_query(self, query: str) -> Any:
        self.asked.append(query)
        return SimpleNamespace(optimized_query=f"{query} Please.", task_type="reasoning", strategies=("clarify",))

    def update_weights(self, result_quality: float) -> None:
        self.told.append(result_quality)


class Slow(Optimizer):
    """One whose methods are coroutines."""

    async def optimize_query(self, query: str) -> Any:
        return super().optimize_query(query)

    async def update_weights(self, result_quality: float) -> None:
        super().update_weights(result_quality)


@dataclass
class Echo:
    """A model that answers with what it was asked, and keeps the requests."""

    name: str = "test:echo"
    requests: list[Request] = field(default_factory=list)

    async def complete(self, request: Request) -> Response:
        self.requests.append(request)
        return Response(request_key=request.key, model=self.name, text=request.prompt, source="live")


class Words:
    """A counter whose numbers can be seen: one token for each word; of `own:banded` one more at most."""

    def count(self, text: str, model: str | None = None) -> TokenCount:
        n = len(text.split())
        return TokenCount(count=n, method="words", low=n, high=n + (model == "own:banded"))


class Unshown:
    """A value whose repr and text raise."""

    def __repr__(self) -> str:
        raise RuntimeError("not for you")

    __str__ = __repr__


@pytest.fixture
def engineer(log_folder: Path) -> Iterator[PromptEngineer]:
    """One that rewrites nothing and counts words."""
    made = PromptEngineer([ASK], enable_query_optimization=False, counter=Words(), log=log_folder)
    yield made
    made.close()


def rows(engineer: PromptEngineer, sql: str) -> list[Any]:
    return engineer._log.open().rows(sql)


def refusal(call: Any, *given: Any, **named: Any) -> LLMValidationError:
    with pytest.raises(LLMValidationError) as caught:
        call(*given, **named)
    assert 0 < len(caught.value.next_step) <= 160
    return caught.value


# -- prompts


def test_a_query_becomes_the_prompt_of_its_task(engineer):
    """Which the query tells by its cues; the template is named with its version."""
    prompt = engineer.engineer_prompt("Translate into French: good morning", target_language="French")
    template = template_for("translation")
    assert (prompt.task, prompt.template, prompt.version) == ("translation", "translation", template.version)
    assert "translation" in {cue.task for cue in prompt.cues}
    assert prompt.render() == template.render(query=prompt.query, target_language="French")
    assert prompt.messages == (Message(role="user", content=prompt.render()),)
    assert prompt.tokens.count == len(prompt.render().split()) + 4  # and four for the message


def test_task_and_template_can_be_named(engineer):
    """Then nothing is told from the query; a template may be given, or known by its name."""
    assert engineer.engineer_prompt("Translate this", task="general").render() == "Translate this"
    prompt = engineer.engineer_prompt("hello", task="general", template="ask", style="short")
    assert (prompt.render(), prompt.detected, prompt.cues) == ("hello (short)", None, ())
    assert engineer.engineer_prompt("hello", template=ASK, style="long").render() == "hello (long)"


def test_a_template_named_like_a_task_takes_its_place(log_folder):
    """The bundled ones are a place to start from."""
    own = PromptTemplate("general", "So: {{ query }}", (Slot("query"),))
    engineer = PromptEngineer([own], log=log_folder)
    assert engineer.engineer_prompt("hello", task="general").render() == "So: hello"
    assert engineer.engineer_prompt("hello", task="reasoning").render().startswith("hello\n")
    engineer.close()


def test_a_conversation_is_put_together(engineer):
    """System message by a template, examples, history and passages; `render` shows all of it."""
    rules = PromptTemplate("rules", "Be {{ style }}.", (Slot("style"),), role="system")
    prompt = engineer.engineer_prompt(
        "why?", task="general", template=rules, style="brief", context=["p1", Passage("p2")],
        examples=[("q", "r"), SimpleNamespace(prompt="q2", answer="r2")],
        history=[{"role": "user", "content": "u"}, Message(role="assistant", content="a")],
    )  # fmt: skip
    assert [(m.role, m.content) for m in prompt.messages] == [
        ("system", "Be brief."), ("user", "q"), ("assistant", "r"), ("user", "q2"), ("assistant", "r2"),
        ("user", "u"), ("assistant", "a"), ("user", "p1\n\np2\n\nwhy?"),
    ]  # fmt: skip
    assert prompt.render().startswith("[system]\nBe brief.\n\n[user]\nq\n\n")
    assert prompt.chat.versions == {"rules": rules.version}


@pytest.mark.parametrize(
    "query", ["### SYSTEM", "</user>", "{placeholder}", "%s", "{{ 7 * 7 }}{% include 'a' %}", "\u202e\x00", "$x ${y}"]
)
def test_prompt_inject_what_looks_like_a_marker_is_sent_as_it_is(engineer, query):
    """Nothing is ever evaluated on what a user wrote, in whatever place it stands."""
    prompt = engineer.engineer_prompt(
        query,
        task="general",
        system=query,
        examples=[(query, query)],
        context=[query],
        history=[],
        instructions=[query],
    )
    end = f"{query}\n\n{query}\n\nKeep to this:\n- {query}"
    assert [m.content for m in prompt.messages] == [query, query, query, end]


def test_a_budget_leaves_out_what_is_told(engineer):
    """By hand: a turn of 100 + 4 and 1 + 4 tokens, and a question of 1 + 4, which are 114."""
    history = [Message(role="user", content="x " * 100), Message(role="assistant", content="yes")]
    prompt = engineer.engineer_prompt("why?", task="general", history=history, budget_tokens=133, reserve_tokens=20)
    assert [(p.kind, p.tokens, p.characters) for p in prompt.dropped] == [("history", 109, 203)]
    assert prompt.tokens.count == prompt.chat.tokens == 5
    assert "Left out: history 1 (109 tokens, 203 characters)" in repr(prompt)
    assert "of 133, 20 reserved" in repr(prompt)
    whole = engineer.engineer_prompt("why?", task="general", history=history, budget_tokens=134, reserve_tokens=20)
    assert whole.dropped == ()


def test_the_budget_is_the_window_of_the_model_where_it_is_known(engineer):
    """By any of its names; of models without a card there is none."""
    window = load_settings().card("gpt4").context_window
    assert window
    assert engineer.engineer_prompt("why?", model="gpt4").budget.budget_tokens == window
    assert engineer.engineer_prompt("why?", model="gpt4", budget_tokens=900).budget.budget_tokens == 900
    for model in ("simulated:strong", "ollama:own", None):
        assert engineer.engineer_prompt("why?", model=model).budget.budget_tokens is None


def test_prompts_must_fit_at_the_upper_end_of_their_count(engineer):
    """Six tokens of a banded question are seven to the budget."""
    options = {"task": "general", "model": "own:banded", "reserve_tokens": 0}
    assert engineer.engineer_prompt("why not?", **options, budget_tokens=7).dropped == ()
    assert refusal(engineer.engineer_prompt, "why not?", **options, budget_tokens=6).code == "validation.budget_tokens"
    assert engineer.engineer_prompt("why not?", **{**options, "model": "own:exact"}, budget_tokens=6).dropped == ()


def test_by_default_tokens_are_counted_for_the_model(log_folder):
    """By the family of its full name, as TokenCounter does, with the band shown."""
    engineer = PromptEngineer(log=log_folder)
    for model, family in [("ollama:llama3.1", "llama"), ("claude3", "anthropic"), (None, "o200k_base")]:
        prompt = engineer.engineer_prompt("why?", model=model)
        assert prompt.tokens == TokenCounter().count_messages(prompt.messages, model)
        assert prompt.tokens.method == f"estimate:{family}"
        assert f"{prompt.tokens.count} tokens (estimate:{family}, {prompt.tokens.low} to" in repr(prompt)
    engineer.close()


def test_a_counter_of_texts_is_enough(engineer):
    """Then a conversation has the tokens of its texts and four for each message."""
    prompt = engineer.engineer_prompt("why not?", system="Be brief.", task="general")
    assert prompt.tokens.count == 2 + 2 + 2 * 4


def test_a_counter_that_fails_on_a_cut_text_is_told(log_folder):
    """As what it is, and not as a budget that is too small."""

    class Broken(Words):
        def count(self, text: str, model: str | None = None) -> TokenCount:
            n = -1 if "was cut to fit" in text else len(text)
            return TokenCount(count=n, method="own", low=n, high=n)

    engineer = PromptEngineer(counter=Broken(), log=log_folder)
    context = [Passage("x" * 900, cut=True)]
    error = refusal(engineer.engineer_prompt, "why?", context=context, budget_tokens=500, reserve_tokens=0)
    assert error.code == "validation.count"
    engineer.close()


@pytest.mark.parametrize("found", [None, 5, {"high": 3}])
@pytest.mark.parametrize("method", ["count", "count_messages"])
def test_a_counter_that_gives_no_count_is_told(log_folder, method, found):
    """By its type, whether it counts a text or the whole."""
    counter = Words()
    setattr(counter, method, lambda *_, **__: found)
    engineer = PromptEngineer(counter=counter, log=log_folder)
    error = refusal(engineer.engineer_prompt, "why?")
    assert error.code == "validation.count"
    assert type(found).__name__ in error.message
    engineer.close()


class Empty(Optimizer, Words):
    """An optimizer and a counter that has nothing in it yet."""

    def __len__(self) -> int:
        return 0


def test_what_is_brought_is_used_also_where_it_is_empty(log_folder):
    """It is not taken for nothing, and exchanged for another one."""
    brought = Empty()
    engineer = PromptEngineer(optimizer=brought, counter=brought, log=log_folder)
    assert engineer.optimizer is brought
    assert engineer.engineer_prompt("why?").tokens.method == "estimate:other"
    assert brought.asked == []
    engineer.optimize_and_process_sync("why?", str.upper)
    assert brought.asked == ["why?"]
    engineer.close()


@pytest.mark.parametrize(("given", "code"), [("optimizer", "validation.optimizer"), ("counter", "validation.counter")])
def test_what_cannot_do_its_work_is_refused_at_once(log_folder, given, code):
    """Not in the middle of a run."""
    assert refusal(PromptEngineer, log=log_folder, **{given: object()}).code == code


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"query": " "}, "validation.query"),
        ({"query": " ", "task": "reasoning"}, "validation.query"),
        ({"query": None, "task": "general"}, "validation.query"),
        ({"task": "poetry"}, "validation.task"),
        ({"task": "poetry", "template": "ask", "style": "s"}, "validation.task"),
        ({"template": "aks"}, "validation.template"),
        ({"template": 3}, "validation.template"),
        ({"template": PromptTemplate("t", "no slot")}, "validation.template"),
        ({"template": PromptTemplate("t", "{{ query }}{{ context }}", (Slot("query"), Slot("context")))},
         "validation.template"),
        ({"template": PromptTemplate("t", "a", role="system"), "system": "b"}, "validation.template"),
        ({"template": "ask"}, "validation.slot"),
        ({"task": "general", "style": "unknown slot"}, "validation.slot"),
        ({"task": "summarization", "max_words": "ten"}, "validation.slot"),
        ({"examples": ["a"]}, "validation.messages"),
        ({"history": "a"}, "validation.messages"),
        ({"model": 5}, "validation.input"),
        ({"task": Unshown()}, "validation.task"),
        ({"template": Unshown()}, "validation.template"),
        ({"budget_tokens": -1}, "validation.budget_tokens"),
        ({"budget_tokens": 3}, "validation.budget_tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_prompt_is_refused(engineer, options, code):
    """By a typed error with what to do; it is a failed span of the log."""
    assert refusal(engineer.engineer_prompt, **{"query": "why?", **options}).code == code
    [(ok, failure)] = rows(engineer, "select ok, failure_code from spans where component = 'prompt_engineer'")
    assert (ok, failure) == (False, code)


@pytest.mark.parametrize("templates", [ASK, "ask", ["ask"], None, [Unshown()], [ASK, PromptTemplate("ask", "x")]])
def test_templates_are_given_in_a_list(log_folder, templates):
    """Of PromptTemplates of different names; no log is made for a refusal, nor before the first prompt."""
    assert refusal(PromptEngineer, templates, log=log_folder).code == "validation.template"
    PromptEngineer([ASK, ASK], log=log_folder).close()
    assert not log_folder.exists()


def test_a_prompt_shows_itself(engineer):
    """With task, template, version and cues; markup in it is shown and not obeyed."""
    prompt = engineer.engineer_prompt("Translate <script>alert(1)</script> into German", context=["<img src=x>"])
    assert f"template translation {prompt.version[:12]}" in repr(prompt)
    assert "Cues: " in repr(prompt)
    html = prompt._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;script&gt;" in html


# -- the log


def test_every_prompt_is_in_the_log_with_the_version_of_its_template(engineer):
    """A decision with hashes only, from which what was left out can be found again; and a span."""
    secret = "a query that stays out of decisions and spans"
    history = [Message(role="user", content="x" * 400)]
    prompt = engineer.engineer_prompt(secret, template="ask", style="s", history=history, budget_tokens=20)
    [(policy, key, params, inputs, output)] = rows(
        engineer, "select policy, request_key, params, inputs, output from decisions where kind = 'prompt'"
    )
    told = json.loads(inputs)
    assert (policy, key) == ("token_budget", prompt.request().key)
    assert (told["template"], told["template_version"]) == ("ask", ASK.version)
    assert (told["query"], told["prompt"]) == (text_hash(secret), prompt.prompt_hash)
    assert told["task"] == prompt.task
    # JSON gives lists for tuples, and the policy takes them: deciding again needs no text.
    assert list(TokenBudget(**json.loads(params))(**told)) == json.loads(output) == [0]
    [(attributes,)] = rows(engineer, "select attributes from spans where operation = 'engineer_prompt'")
    assert json.loads(attributes)["template_version"] == ASK.version
    assert secret not in params + inputs + output + attributes


def test_a_refusal_for_its_budget_is_a_decision_too(engineer):
    """With the parts that did not fit."""
    refusal(engineer.engineer_prompt, "why?", task="general", budget_tokens=4)
    [(inputs, output)] = rows(engineer, "select inputs, output from decisions where kind = 'prompt'")
    assert json.loads(inputs)["parts"] == [["question", 5]]
    assert json.loads(output) == {"error": "validation.budget_tokens"}


def test_a_call_is_found_by_the_hash_of_its_prompt(engineer):
    """The decision and the row of the call name the same prompt and the same request, the text stands there once."""
    done = engineer.optimize_and_process_sync("What is 17 + 4?", "simulated:strong", system="Be brief.")
    assert done.response.model == "simulated:strong"
    found = rows(
        engineer,
        "select c.model, d.inputs->>'template_version' from decisions d join calls c "
        "on c.prompt_hash = d.inputs->>'prompt' and c.request_key = d.request_key where d.kind = 'prompt'",
    )
    assert found == [("strong", done.prompt.version)]


# -- and what comes back


@pytest.mark.anyio
async def test_a_function_is_given_what_render_shows(engineer):
    """A plain one in a thread of its own, an asynchronous one on the loop."""
    threads = []

    def plain(text: str) -> str:
        threads.append(threading.current_thread())
        return text

    async def later(text: str) -> str:
        threads.append(threading.current_thread())
        return text

    for function in (plain, later):
        done = await engineer.optimize_and_process("why?", function, system="Be brief.", task="general")
        assert done.response == done.prompt.render() == "[system]\nBe brief.\n\n[user]\nwhy?"
        assert (done.optimized, done.quality) == (None, None)
    assert threads[0] is not threading.current_thread()
    assert threads[1] is threading.current_thread()


@pytest.mark.anyio
async def test_a_model_is_sent_the_messages(engineer):
    """With the parameters of the request, and the task; a model object, a profile, a name and a chain all do."""
    echo = Echo()
    done = await engineer.optimize_and_process(
        "why?", echo, system="Be brief.", task="general", params={"temperature": 0}
    )
    assert done.response.text == "why?"
    assert echo.requests == [done.prompt.request({"temperature": 0})]
    assert (echo.requests[0].messages, echo.requests[0].task) == (done.prompt.messages, "general")
    for model in (PROFILES["weak"], "simulated:weak", LLMFailoverHandler(["simulated:weak"]).chain):
        done = await engineer.optimize_and_process("why?", model)
        assert done.response.model == "simulated:weak"


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Optimizer, Slow])
async def test_an_optimizer_is_asked_first(log_folder, kind):
    """Its text becomes the prompt, and its task decides the template unless the caller names one."""
    optimizer = kind()
    engineer = PromptEngineer(optimizer=optimizer, log=log_folder)
    done = await engineer.optimize_and_process("why?", Echo())
    assert done.prompt.query == done.optimized.optimized_query == "why? Please."
    assert (done.prompt.task, done.prompt.detected) == ("reasoning", None)
    named = await engineer.optimize_and_process("why?", Echo(), task="general")
    assert named.prompt.render() == "why? Please."
    assert (optimizer.asked, optimizer.told) == (["why?", "why?"], [])
    found = rows(engineer, "select attributes->'strategies' from spans where operation = 'optimize_and_process'")
    assert [json.loads(strategies) for (strategies,) in found] == [["clarify"]] * 2
    engineer.close()


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [Optimizer, Slow])
async def test_an_optimizer_learns_from_the_score(log_folder, kind):
    """Once for each query, as the score says it; the score is given the response."""
    optimizer = kind()
    engineer = PromptEngineer(optimizer=optimizer, log=log_folder)

    async def later(response: Response) -> float:
        return float(len(response.text))

    done = await engineer.process_with_feedback("why?", Echo(), lambda r: r.text.startswith("why? Please.") / 2)
    assert (done.quality, optimizer.told) == (0.5, [0.5])
    await engineer.process_with_feedback("why?", Echo(), later, task="general")
    assert optimizer.told == [0.5, 12.0]
    found = rows(engineer, "select attributes->>'quality' from spans where operation = 'process_with_feedback'")
    assert [float(q) for (q,) in found] == [0.5, 12.0]
    engineer.close()


@pytest.mark.anyio
async def test_an_optimizer_is_told_what_it_takes(log_folder):
    """Which query a quality is about, its answer, and for which model and task the query is."""
    told = []

    class Knows(Optimizer):
        def optimize_query(self, query: str, *, task: str | None = None, model: str | None = None) -> Any:
            made = super().optimize_query(query)
            told.append((task, model, made))
            return made

        def update_weights(self, result_quality: float, *, of: Any = None, answer: str | None = None) -> None:
            told.append((result_quality, of, answer))

    engineer = PromptEngineer(optimizer=Knows(), log=log_folder)
    done = await engineer.process_with_feedback("why?", "simulated:weak", lambda _: 0.5, task="general")
    await engineer.process_with_feedback("why?", lambda _: 3, lambda _: 1)
    assert told[0][:2] == ("general", "simulated:weak")
    assert told[1] == (0.5, told[0][2], done.response.text)
    assert (told[2][:2], told[3]) == ((None, None), (1.0, told[2][2], None))
    engineer.close()


@pytest.mark.anyio
async def test_an_optimizer_is_told_what_it_takes_by_any_name(log_folder):
    """With **more it takes all; of a function of C nobody knows, and it is told nothing."""
    given = []
    keen = SimpleNamespace(
        optimize_query=lambda query, **more: given.append(sorted(more)) or Optimizer().optimize_query(query),
        update_weights=str,
    )
    engineer = PromptEngineer(optimizer=keen, log=log_folder)
    done = await engineer.process_with_feedback("why?", Echo(), lambda _: 0.5, task="general", model="gpt4")
    assert (given, done.quality) == ([["model", "task"]], 0.5)
    engineer.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "made",
    [
        None, "text", SimpleNamespace(optimized_query="x", task_type="general"),
        SimpleNamespace(optimized_query=5, task_type="general", strategies=()),
        SimpleNamespace(optimized_query="x", task_type="general", strategies="clarify"),
        SimpleNamespace(optimized_query="x", task_type="general", strategies=[5]),
    ],
)  # fmt: skip
async def test_an_optimizer_that_gives_no_rewriting_is_told(log_folder, made):
    """Before anybody is asked."""
    optimizer, echo = Optimizer(), Echo()
    optimizer.optimize_query = lambda query: made
    engineer = PromptEngineer(optimizer=optimizer, log=log_folder)
    with pytest.raises(LLMValidationError) as caught:
        await engineer.optimize_and_process("why?", echo)
    assert (caught.value.code, echo.requests) == ("validation.optimizer", [])
    engineer.close()


@pytest.mark.anyio
async def test_queries_at_once_learn_each_from_its_own_answer(log_folder):
    """Many tasks on one loop, and several threads beside it."""
    engineer = PromptEngineer(log=log_folder)

    async def ask(n: int) -> Any:
        async def answer(text: str) -> str:
            await asyncio.sleep(0)
            return text

        return await engineer.process_with_feedback(f"Is {n} odd?", answer, lambda text: f"Is {n} odd?" in text)

    def beside(n: int) -> None:
        done = engineer.process_with_feedback_sync(f"Is {n} odd?", str.upper, lambda text: f"IS {n} ODD?" in text)
        found.append(done.quality)

    found: list[float] = []
    threads = [threading.Thread(target=beside, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    done = await asyncio.gather(*map(ask, range(100, 120)))
    for thread in threads:
        thread.join()
    assert [one.quality for one in done] == [1.0] * 20
    assert found == [1.0] * 4
    assert engineer.optimizer.evidence.told == 24
    assert {one.optimized.original_query for one in done} == {f"Is {n} odd?" for n in range(100, 120)}
    engineer.close()


@pytest.mark.anyio
async def test_an_answer_is_kept_where_nothing_can_be_learned_from_it(log_folder):
    """It was paid for: what the score or the optimizer refuses has it as .partial."""

    class Strict(Optimizer):
        def update_weights(self, result_quality: float) -> None:
            raise LLMValidationError("no", code="validation.feedback")

    class Broken(Optimizer):
        def update_weights(self, result_quality: float) -> None:
            raise KeyError(result_quality)

    for kind, score, code in (
        (Strict, lambda _: 1 / 0, "execution.failed"),
        (Strict, lambda _: 2, "validation.feedback"),
        (Broken, lambda _: 2, "execution.failed"),
    ):
        engineer = PromptEngineer(optimizer=kind(), log=log_folder)
        with pytest.raises(LLMError) as caught:
            await engineer.process_with_feedback("why?", Echo(), score)
        assert caught.value.code == code
        assert caught.value.partial.text.startswith("why? Please.")
        engineer.close()


@pytest.mark.anyio
async def test_by_default_the_optimizer_is_a_query_optimizer(log_folder):
    """It learns from the scores, and its decisions are in the same log."""
    engineer = PromptEngineer(log=log_folder)
    assert isinstance(engineer.optimizer, QueryOptimizer)
    done = await engineer.process_with_feedback("Is 7 a prime number?", Echo(), lambda _: 1.0)
    assert done.prompt.query == done.optimized.optimized_query
    assert engineer.optimizer.evidence.told == 1
    kinds = {kind for (kind,) in rows(engineer, "select kind from decisions")}
    assert {"optimize", "prompt", "learn"} <= kinds
    engineer.close()


@pytest.mark.anyio
async def test_without_optimization_nothing_is_rewritten_and_nothing_learned(log_folder):
    """By the switch; the score is told all the same."""
    optimizer = Optimizer()
    engineer = PromptEngineer(optimizer=optimizer, enable_query_optimization=False, log=log_folder)
    done = await engineer.process_with_feedback("why?", Echo(), lambda _: 1, task="general")
    assert (done.prompt.render(), done.optimized, done.quality) == ("why?", None, 1.0)
    assert (optimizer.asked, optimizer.told) == ([], [])
    engineer.enable_query_optimization = True
    await engineer.process_with_feedback("why?", Echo(), lambda _: 1)
    assert (optimizer.asked, optimizer.told) == (["why?"], [1.0])
    engineer.close()


@pytest.mark.anyio
@pytest.mark.parametrize("found", ["good", None, float("nan"), [1.0]])
async def test_a_score_that_is_no_number_is_refused(log_folder, found):
    """After the response, and nothing is learned from it."""
    optimizer = Optimizer()
    engineer = PromptEngineer(optimizer=optimizer, log=log_folder)
    with pytest.raises(LLMValidationError) as caught:
        await engineer.process_with_feedback("why?", Echo(), lambda _: found)
    assert caught.value.code == "validation.score"
    assert optimizer.told == []
    engineer.close()


@pytest.mark.anyio
async def test_right_and_wrong_are_scores(log_folder):
    """As 1 and 0."""
    optimizer = Optimizer()
    engineer = PromptEngineer(optimizer=optimizer, log=log_folder)
    for right in (True, False):
        await engineer.process_with_feedback("why?", Echo(), lambda _, right=right: right)
    assert optimizer.told == [1.0, 0.0]
    engineer.close()


@pytest.mark.anyio
async def test_a_score_that_is_no_function_is_refused_before_anything_is_asked(engineer):
    """Nobody pays for an answer that nothing can be said about."""
    echo = Echo()
    with pytest.raises(LLMValidationError) as caught:
        await engineer.process_with_feedback("why?", echo, 0.5)
    assert (caught.value.code, echo.requests) == ("validation.score", [])


@pytest.mark.anyio
async def test_what_fails_is_typed(engineer):
    """A function's exception is the cause of an LLMError, and a model's error comes as the model's; both are spans."""

    def broken(text: str) -> str:
        raise KeyError(text)

    class Broken(Echo):
        async def complete(self, request: Request) -> Response:
            raise LLMProviderError("no", code="http.bad_request", model=self.name)

    with pytest.raises(LLMError) as caught:
        await engineer.optimize_and_process("why?", broken)
    assert caught.value.code == "execution.failed"
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises((LLMProviderError, LLMFailoverError)):
        await engineer.optimize_and_process("why?", Broken())
    found = rows(engineer, "select ok from spans where operation = 'optimize_and_process'")
    assert found == [(False,), (False,)]


@pytest.mark.anyio
async def test_what_cannot_be_asked_is_refused_before_anything_is_made(engineer, log_folder):
    """An unknown model, and what is neither model nor function."""
    with pytest.raises(LLMRouterError):
        await engineer.optimize_and_process("why?", "gpt-zzz")
    for process in (None, 3, ["simulated:strong"]):
        with pytest.raises(LLMValidationError) as caught:
            await engineer.optimize_and_process("why?", process)
        assert caught.value.code == "validation.process"
    assert not log_folder.exists()


@pytest.mark.anyio
async def test_the_synchronous_forms_work_inside_a_running_loop(log_folder):
    """As in a cell of a notebook; the engineer can be closed with its connections."""
    optimizer = Optimizer()
    engineer = PromptEngineer(optimizer=optimizer, log=log_folder)
    assert engineer.optimize_and_process_sync("why?", str.upper, task="general").response == "WHY? PLEASE."
    assert engineer.process_with_feedback_sync("why?", str.upper, len, task="general").quality == 12.0
    assert optimizer.told == [12.0]
    assert "translation" in repr(engineer)
    await engineer.aclose()
