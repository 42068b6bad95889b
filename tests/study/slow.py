"""Models that take their time, questions for them, and a chain of one."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.act.admission import Admission, Discipline
from workbench.act.failover import Chain
from workbench.act.ledger import MemoryLedger
from workbench.act.world import World
from workbench.decide.retry import RetryPolicy
from workbench.errors import LLMProviderError
from workbench.facts import Item, Model, ModelCard, Request, Response, Usage

USD_PER_MTOK = 10.0


@dataclass(slots=True)
class Slow:
    """Answers after its seconds; fails for the items named; 100 tokens each way, 0.002 USD an answer."""

    name: str
    world: World
    takes_s: float
    says: str = "the answer is 4"
    broken: frozenset[str] = frozenset()
    at_once: int = 0
    most: int = 0
    asked_s: list[float] = field(default_factory=list)

    @property
    def card(self) -> ModelCard:
        return ModelCard(
            name=self.name,
            max_output_tokens=100,
            prompt_usd_per_mtok=USD_PER_MTOK,
            completion_usd_per_mtok=USD_PER_MTOK,
        )

    async def complete(self, request: Request) -> Response:
        self.asked_s.append(self.world.now_s())
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await self.world.sleep(self.takes_s)
        finally:
            self.at_once -= 1
        if request.item_id in self.broken:
            raise LLMProviderError("down", code="provider.server", retryable=True, next_step="wait")
        usage = Usage(prompt_tokens=100, completion_tokens=100)
        cost = 200 * USD_PER_MTOK / 1e6
        return Response(
            request_key=request.key, model=self.name, text=self.says, usage=usage, cost_usd=cost, source="simulated"
        )


def items(n: int, reference: str = "4") -> list[Item]:
    return [
        Item(
            item_id=f"q{i}", task="reasoning", prompt=f"{i}: 2+2?", reference=reference,
            metadata={"answer_kind": "number", "options": ()},
        )
        for i in range(n)
    ]  # fmt: skip


def alone(world: World, model: Model) -> Chain:
    """A chain of one model, without retries, with accounts of its own."""
    discipline = Discipline(retry=RetryPolicy(max_retries=0))
    return Chain(Admission(world, discipline, ledger=MemoryLedger({})), (model,))
