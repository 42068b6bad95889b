"""Bucket and budgets in any order of events, beside plain models that count in the simplest way."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from workbench.act.ledger import MemoryLedger
from workbench.decide.retry import Bucket, RetryPolicy
from workbench.facts import Failure

SERVER = Failure(kind="LLMProviderError", code="provider.server", message="500", retryable=True, status=500)
SCOPES = ("run:r", "model:m", "month:2026-11")


class RetryStormMachine(RuleBasedStateMachine):
    """Callers of a failing provider that share one bucket, beside a count of calls and retries in exact fractions."""

    @initialize(capacity=st.integers(1, 8), percent=st.integers(0, 50), max_retries=st.integers(0, 5))
    def _open(self, capacity, percent, max_retries):
        self.capacity, self.ratio = capacity, Fraction(percent, 100)
        self.bucket = Bucket(capacity=capacity, ratio=percent / 100)
        self.policy = RetryPolicy(max_retries=max_retries)
        self.tokens = Fraction(capacity)
        self.calls = self.retries = 0
        self.failing = []  # the number of the attempt that each open call is at

    @rule()
    def begin(self):
        """A call begins and earns its share."""
        self.bucket = self.bucket.credit()
        self.tokens = min(Fraction(self.capacity), self.tokens + self.ratio)
        self.calls += 1
        self.failing.append(1)

    @rule(which=st.integers(0, 100), draw=st.floats(0, 1, exclude_max=True))
    def fail(self, which, draw):
        """An attempt fails: it is made again exactly while the model has an attempt and a whole token left."""
        if not self.failing:
            return
        attempt = self.failing.pop(which % len(self.failing))
        step = self.policy(
            attempt=attempt, failure=SERVER, draw=draw, remaining_s=None, tokens=self.bucket.tokens, alternatives=0
        )
        expected = attempt <= self.policy.max_retries and self.tokens >= 1
        assert (step.action == "retry") == expected
        if expected:
            self.bucket = self.bucket.debit()
            self.tokens -= 1
            self.retries += 1
            self.failing.append(attempt + 1)

    @invariant()
    def amplification_is_bounded(self):
        """Retries stay within what the bucket held and what the calls earned; the tokens are the model's."""
        if hasattr(self, "bucket"):
            assert self.retries <= self.capacity + self.ratio * self.calls
            assert self.retries <= self.calls * self.policy.max_retries
            assert abs(Fraction(self.bucket.tokens) - self.tokens) < Fraction(1, 10**9)
            assert 0 <= self.bucket.tokens <= self.capacity


class BudgetMachine(RuleBasedStateMachine):
    """A ledger over three scopes beside dictionaries that are added up again for every question."""

    @initialize(limits=st.lists(st.none() | st.integers(0, 60), min_size=3, max_size=3))
    def _open(self, limits):
        self.limits = dict(zip(SCOPES, limits, strict=True))
        self.ledger = MemoryLedger({scope: limit for scope, limit in self.limits.items() if limit is not None})
        self.open = []  # (scopes, amount) of each call under way
        self.booked = []  # (scopes, actual, uncertain) of each settled call
        self.overran = set()

    def _reserved(self, scope):
        return sum(amount for scopes, amount in self.open if scope in scopes)

    def _spent(self, scope, *, uncertain=(False, True)):
        return sum(actual for scopes, actual, unsure in self.booked if scope in scopes and unsure in uncertain)

    def _fits(self, scope, amount, *, reserved=True):
        limit = self.limits[scope]
        taken = self._spent(scope) + (self._reserved(scope) if reserved else 0)
        return amount == 0 or limit is None or taken + amount <= limit

    @rule(scopes=st.sets(st.sampled_from(SCOPES), min_size=1), amount=st.integers(0, 30))
    def reserve(self, scopes, amount):
        """A call asks for money: it gets it exactly when every scope has it, else hears who refused and why."""
        names = sorted(scopes)
        refusal = self.ledger.reserve(names, amount)
        assert (refusal is None) == all(self._fits(scope, amount) for scope in names)
        if refusal is None:
            self.open.append((names, amount))
            assert all(
                self._spent(scope) + self._reserved(scope) <= self.limits[scope]
                for scope in names
                if amount and self.limits[scope] is not None
            )
            return
        assert not self._fits(refusal.scope, amount)
        assert (refusal.limit, refusal.amount) == (self.limits[refusal.scope], amount)
        assert (refusal.spent, refusal.reserved) == (self._spent(refusal.scope), self._reserved(refusal.scope))
        assert refusal.may_fit_later == all(self._fits(scope, amount, reserved=False) for scope in names)

    @rule(which=st.integers(0, 100), share=st.integers(0, 100), uncertain=st.booleans())
    def settle(self, which, share, uncertain):
        """A call under way ends with what it cost, at most what was set aside."""
        if self.open:
            scopes, amount = self.open.pop(which % len(self.open))
            self._book(scopes, amount, amount * share // 100, uncertain)

    @rule(which=st.integers(0, 100), more=st.integers(1, 10))
    def settle_higher(self, which, more):
        """A call under way costs more than was set aside."""
        if self.open:
            scopes, amount = self.open.pop(which % len(self.open))
            self._book(scopes, amount, amount + more, False)
            self.overran.update(scopes)

    @rule(which=st.integers(0, 100))
    def cancel(self, which):
        """A call is cancelled before it was sent."""
        if self.open:
            scopes, amount = self.open.pop(which % len(self.open))
            self._book(scopes, amount, 0, False)

    def _book(self, scopes, amount, actual, uncertain):
        self.ledger.settle(scopes, amount, actual, uncertain=uncertain)
        self.booked.append((scopes, actual, uncertain))

    @invariant()
    def the_books_agree(self):
        """Each account is what adding up again gives; only a booked overrun takes spending over a limit."""
        for scope, limit in getattr(self, "limits", {}).items():
            account = self.ledger.balance(scope)
            assert account.limit == limit
            assert account.spent == self._spent(scope)
            assert account.uncertain == self._spent(scope, uncertain=(True,))
            assert account.reserved == self._reserved(scope)
            if limit is not None and scope not in self.overran:
                assert account.spent + account.reserved <= limit
                assert account.overrun == 0


RetryStormMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
BudgetMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30)


class TestRetryStorm(RetryStormMachine.TestCase):
    """Retry-storm: in any order of calls and failures, retries stay within the bucket."""


class TestBudgets(BudgetMachine.TestCase):
    """Bud-race, bud-actual-higher: in any order of reservations, settlements and cancellations the books agree."""
