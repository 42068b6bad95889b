"""Simulated models: declared skill, shared errors, latency and price, from a seed.

They exist so that everything can be tried without a key or a network, and are labelled `simulated` wherever
their numbers appear. A known item (one of the suite that is run) is answered correctly with the declared
skill of its task; any other prompt gets a seeded answer. Two models that share an error source fail on the
same items and give the same wrong answer there, in the declared share of cases: this is what makes voting
fail in practice. Of free text a right answer is one of the references, each model in its own choice of them, and a
wrong one is the first reference damaged: words are lost, and some of the others change places with a neighbour. It
still says a part, and a metric gives it a part of the score. Every draw is a hash of (seed, model or source, item or
conversation, sample, purpose), so an answer is the same in every process, in any order of calls, and through the fault
lab, which sees only what a wire format carries. Latency and cost are reported, not waited for or paid.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from statistics import NormalDist
from types import MappingProxyType

from workbench.canonical import canonical_json, clean_text
from workbench.decide.answers import AnswerKind, normalise
from workbench.decide.weights import is_finite
from workbench.errors import LLMProviderError, LLMValidationError
from workbench.facts import TASKS, Item, Message, Request, Response, Usage

LETTERS = "ABCDEFGHIJ"
LOST = (0.2, 0.7)  # of the words of a text, the shares between which a wrong answer loses them, drawn evenly
MOVED = 0.2  # share of the words left that change places with the one before


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a simulated model is like.

    skill: task -> probability of a right answer, in [0, 1], at most 1 - no_answer counts; `general` stands in
        for a task not named. gains: rewriting strategy -> what it adds to the skill, in [-1, 1]; 0 where not named: the
        model does not read the prompt, and is told which strategy it was rewritten with.
    shared: share of items, in [0, 1], on which the model's luck is drawn by its error `source`, not by itself.
    no_answer: probability of a text without an answer. fail: probability of a provider error.
    latency_ms: median; latency_sigma: standard deviation of its logarithm (log-normal).
    prompt_usd_per_mtok, completion_usd_per_mtok: US dollars per million tokens.
    """

    name: str
    skill: Mapping[str, float]
    gains: Mapping[str, float] = field(default_factory=dict)
    source: str = "pool"
    shared: float = 0.5
    no_answer: float = 0.01
    fail: float = 0.0
    latency_ms: float = 400.0
    latency_sigma: float = 0.4
    prompt_usd_per_mtok: float = 0.5
    completion_usd_per_mtok: float = 1.5
    seed: int = 0

    def __post_init__(self) -> None:
        shares = {**{f"skill[{t}]": p for t, p in self.skill.items()}, "shared": self.shared}
        for label, p in {**shares, "no_answer": self.no_answer, "fail": self.fail}.items():
            if not 0 <= p <= 1:
                raise _refused(self.name, f"{label} is {p}, not in [0, 1]")
        if unknown := [t for t in self.skill if t not in TASKS]:
            raise _refused(self.name, f"skill names {unknown[0]!r}, which is not one of {', '.join(TASKS)}")
        for label in ("latency_ms", "latency_sigma", "prompt_usd_per_mtok", "completion_usd_per_mtok"):
            value = getattr(self, label)
            if not (math.isfinite(value) and value >= 0) or (label == "latency_ms" and value == 0):
                raise _refused(self.name, f"{label} is {value}, not a finite number >= 0 (latency above 0)")
        if not isinstance(self.gains, Mapping):
            raise _refused(self.name, f"gains are a {type(self.gains).__name__}, not a mapping from strategy to gain")
        if self.gains:
            from workbench.decide.rewrite import STRATEGIES

            if unknown := [name for name in self.gains if name not in STRATEGIES]:
                raise _refused(self.name, f"gains names {unknown[0]!r}, which is not one of {', '.join(STRATEGIES)}")
        for strategy, gain in self.gains.items():
            if not is_finite(gain) or not -1 <= gain <= 1:
                raise _refused(self.name, f"gains[{strategy}] is {gain!r:.40}, not a number in [-1, 1]")
        object.__setattr__(self, "skill", MappingProxyType(dict(self.skill)))
        object.__setattr__(self, "gains", MappingProxyType(dict(self.gains)))


def _refused(name: str, problem: str) -> LLMValidationError:
    return LLMValidationError(
        f"profile of simulated:{name}: {problem}",
        code="validation.profile",
        next_step="correct the profile's field and declare the model again",
    )


# Of 200 seeds the one whose shares of right answers on the bundled suites lie nearest to the declared skills:
# 48 items are few, and a strong model that happens to lose to a medium one would confuse more than it teaches.
POOL_SEED = 198
PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        p.name: p
        for p in (
            Profile(
                name="strong",
                skill={"question_answering": 0.86, "reasoning": 0.80, "general": 0.84},
                shared=0.3,
                latency_ms=900.0,
                seed=POOL_SEED,
                prompt_usd_per_mtok=3.0,
                completion_usd_per_mtok=12.0,
            ),
            Profile(
                name="medium",
                skill={"question_answering": 0.70, "reasoning": 0.60, "general": 0.68},
                shared=0.6,
                latency_ms=450.0,
                seed=POOL_SEED,
                prompt_usd_per_mtok=0.6,
                completion_usd_per_mtok=2.4,
            ),
            Profile(
                name="weak",
                skill={"question_answering": 0.52, "reasoning": 0.42, "general": 0.50},
                shared=0.6,
                no_answer=0.03,
                latency_ms=180.0,
                seed=POOL_SEED,
                prompt_usd_per_mtok=0.1,
                completion_usd_per_mtok=0.3,
            ),
        )
    }
)


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """A model with a profile and the key to the items it is asked.

    key: item_id -> item, the answers it can know; prompts outside it get a seeded answer. style: the strategy that the
    key's prompts were rewritten with, if any.
    """

    profile: Profile
    key: Mapping[str, Item] = field(default_factory=dict, repr=False)
    style: str | None = None

    @property
    def name(self) -> str:
        """`simulated:NAME`."""
        return f"simulated:{self.profile.name}"

    async def complete(self, request: Request) -> Response:
        """The seeded answer; LLMProviderError provider.server with the profile's probability of failure."""
        p = self.profile
        item = self.key.get(request.item_id or "")
        if item is not None and item.prompt != request.prompt:
            item = None
        about = f"{item.item_id if item else conversation_key(request.messages)}#{request.sample}"
        if self._draw("fail", about) < p.fail:
            raise LLMProviderError(
                f"{self.name} failed on item {about}, as its profile says it does with probability {p.fail:g}",
                code="provider.server",
                status=503,
                retryable=True,
                model=self.name,
                next_step="retry, or set fail=0 in the profile",
            )
        text = self._text(item, about) if item else self._unknown(about)
        usage = Usage(prompt_tokens=_tokens(request.prompt), completion_tokens=_tokens(text))
        cost = (
            p.prompt_usd_per_mtok * (usage.prompt_tokens or 0)
            + p.completion_usd_per_mtok * (usage.completion_tokens or 0)
        ) / 1e6
        z = NormalDist().inv_cdf(min(max(self._draw("latency", about), 1e-9), 1 - 1e-9))
        latency = p.latency_ms * math.exp(p.latency_sigma * z)
        return Response(
            request_key=request.key,
            model=self.name,
            text=text,
            usage=usage,
            latency_ms=latency,
            ttft_ms=latency * 0.3,
            cost_usd=cost,
            finish_reason="stop",
            source="simulated",
        )

    def _text(self, item: Item, about: str) -> str:
        p = self.profile
        if self._draw("no_answer", about) < p.no_answer:
            return "I am not able to tell from what is given."
        # On a shared item every model of the source uses one and the same draw; each keeps its own skill. Which
        # items are shared is one draw too: what a model shares, the models that share more share with it.
        shared = self._draw("shared", about, shared=True) < p.shared
        luck = self._draw("luck", about, shared=shared)
        skill = p.skill.get(item.task, p.skill.get("general", 0.5)) + p.gains.get(self.style or "", 0.0)
        right = luck * (1 - p.no_answer) < skill and item.reference is not None
        pick = self._draw("wrong", about, shared=shared)
        if item.metadata.get("answer_kind") == "text":
            if right:
                texts = _references(item)
                return texts[int(self._draw("reference", about) * len(texts))]
            return damaged(item, pick, lambda k: self._draw(f"word {k}", about, shared=shared))
        if right:
            return _sentence(item, str(item.reference))
        wrong = wrong_answers(item)
        return _sentence(item, wrong[int(pick * len(wrong))])

    def _unknown(self, about: str) -> str:
        number = int(self._draw("number", about) * 100)
        return f"This is a simulated answer to a prompt outside the suite. The answer is {number}."

    def _draw(self, purpose: str, about: str, *, shared: bool = False) -> float:
        who = f"source:{self.profile.source}" if shared else f"model:{self.profile.name}"
        digest = hashlib.blake2b(f"{self.profile.seed}|{who}|{purpose}|{about}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64


def conversation_key(messages: Sequence[Message]) -> str:
    """SHA-256 (hexadecimal) of what every wire format keeps of a conversation.

    That is all system messages as one text, and the other turns in order; parameters and task are no part of it.
    """
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    turns = [[m.role, m.content] for m in messages if m.role != "system"]
    return hashlib.sha256(clean_text(canonical_json([system, turns])).encode()).hexdigest()


def _tokens(text: str) -> int:
    return max(1, len(text) // 4)  # a declared convention of the simulation, not a count


def wrong_answers(item: Item) -> tuple[str, ...]:
    """Plausible wrong answers to an item, at least one: its other options, or numbers near its reference."""
    kind: AnswerKind = item.metadata.get("answer_kind", "text")
    gold = normalise(item.reference or "", kind)
    offered: list[str] = list(item.metadata.get("options") or ())
    if not offered and kind == "choice":
        offered = list(LETTERS[:4])
    elif not offered and kind == "number" and gold is not None:
        value = Fraction(gold)
        offered = [_decimal(n) for n in (value + 1, value - 1, value * 2, value / 2, value + 10)]
    elif not offered:
        offered = ["unknown", "none of these"]
    return tuple(dict.fromkeys(o for o in offered if normalise(o, kind) not in (None, gold))) or ("0",)


def damaged(item: Item, loss: float, draw: Callable[[int], float]) -> str:
    """The item's reference with words lost and moved, never one of its references; "unknown" where nothing is left.

    loss: in [0, 1), where within LOST the share of lost words lies. draw: number of a word -> its luck in [0, 1). White
    space stays with the word before it. A text of fewer than four words, such as one that is written without spaces,
    loses characters instead.
    """
    reference = item.reference or ""
    words = re.findall(r"(\S+)(\s*)", reference.strip())
    if len(words) < 4:
        words = [(c, "") for c in reference]
    lost = LOST[0] + loss * (LOST[1] - LOST[0])
    said: list[str] = []
    gaps: list[str] = []
    for k, (word, gap) in enumerate(words):
        luck = draw(k)
        if luck < lost:
            continue
        said.append(word)
        gaps.append(gap)
        if luck > 1 - (1 - lost) * MOVED and len(said) > 1:
            said[-2], said[-1] = said[-1], said[-2]
    text = "".join(w + g for w, g in zip(said, gaps, strict=True)).strip()
    right = {normalise(r, "text") for r in _references(item)}
    if normalise(text, "text") not in {None, *right}:
        return text
    return next((w for w in wrong_answers(item) if normalise(w, "text") not in right), "I do not know.")


def _references(item: Item) -> tuple[str, ...]:
    """The texts that are right."""
    further = item.metadata.get("references") if item.metadata.get("metric") is not None else None
    return (item.reference or "", *(further or ()))


def _decimal(value: Fraction) -> str:
    """The number in plain digits; fractions that do not end stay fractions."""
    if value.denominator == 1:
        return str(value.numerator)
    form = f"{float(value):.6f}".rstrip("0")
    return form if Fraction(form) == value else str(value)


def _sentence(item: Item, answer: str) -> str:
    match item.metadata.get("answer_kind"):
        case "choice":
            return f"Weighing the options one by one, the answer is ({answer})."
        case "number":
            return f"Working it out step by step gives {answer}.\nThe answer is {answer}."
        case _:
            return f"The answer is {answer}."
