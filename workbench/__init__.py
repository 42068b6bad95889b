"""A Jupyter-first experimentation workbench for multi-LLM pipelines.

It tells the truth with error bars: merges of recorded, live or simulated models are compared with the best
single model on the same items, and every call is in a log that DuckDB can query. Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench import show as show
    from workbench.act.aggregate import ErrorAggregator as ErrorAggregator
    from workbench.act.aggregate import check_health as check_health
    from workbench.act.aggregate import error_aggregator as error_aggregator
    from workbench.act.context import ErrorContext as ErrorContext
    from workbench.act.context import error_context as error_context
    from workbench.act.context import handle_error as handle_error
    from workbench.act.judge import PairwiseJudge as PairwiseJudge
    from workbench.act.performance import PerformanceMetric as PerformanceMetric
    from workbench.act.performance import PerformanceStats as PerformanceStats
    from workbench.act.retry import retry_with_backoff as retry_with_backoff
    from workbench.act.safety import safe_execute as safe_execute
    from workbench.act.simulated import Profile as Profile
    from workbench.act.trace import trace_block as trace_block
    from workbench.act.trace import trace_block_async as trace_block_async
    from workbench.act.traced import trace_performance as trace_performance
    from workbench.act.tracer import PerformanceTracer as PerformanceTracer
    from workbench.act.tracer import get_performance_report as get_performance_report
    from workbench.act.tracer import performance_tracer as performance_tracer
    from workbench.decide.adaptive import AdaptiveWeights as AdaptiveWeights
    from workbench.decide.assemble import Passage as Passage
    from workbench.decide.clarity import clarity as clarity
    from workbench.decide.merge import BestOfN as BestOfN
    from workbench.decide.merge import MajorityVoting as MajorityVoting
    from workbench.decide.merge import WeightedConsensus as WeightedConsensus
    from workbench.decide.prompt import PromptTemplate as PromptTemplate
    from workbench.decide.prompt import Slot as Slot
    from workbench.decide.rewrite import rewrite as rewrite
    from workbench.decide.strategies.auto import Auto as Auto
    from workbench.decide.strategies.cascade import Cascade as Cascade
    from workbench.decide.strategies.fields import FieldWise as FieldWise
    from workbench.decide.strategies.latent import DawidSkene as DawidSkene
    from workbench.decide.strategies.latent import OneCoin as OneCoin
    from workbench.decide.strategies.mbr import MinimumBayesRisk as MinimumBayesRisk
    from workbench.decide.strategies.mbr import TextStacking as TextStacking
    from workbench.decide.strategies.selection import EnsembleSelection as EnsembleSelection
    from workbench.decide.strategies.selective import Selective as Selective
    from workbench.decide.strategies.selector import Selector as Selector
    from workbench.decide.strategies.single import BestSingle as BestSingle
    from workbench.decide.strategies.soft import SoftVote as SoftVote
    from workbench.decide.strategies.weighted import LogOdds as LogOdds
    from workbench.decide.strategies.weighted import Stacking as Stacking
    from workbench.decide.tasks import detect as detect
    from workbench.decide.tokens import TokenCount as TokenCount
    from workbench.errors import LLMError as LLMError
    from workbench.errors import LLMFailoverError as LLMFailoverError
    from workbench.errors import LLMOrchestratorError as LLMOrchestratorError
    from workbench.errors import LLMProviderError as LLMProviderError
    from workbench.errors import LLMRateLimitError as LLMRateLimitError
    from workbench.errors import LLMRouterError as LLMRouterError
    from workbench.errors import LLMTimeoutError as LLMTimeoutError
    from workbench.errors import LLMValidationError as LLMValidationError
    from workbench.facts import EnsembleResponse as EnsembleResponse
    from workbench.facts import Item as Item
    from workbench.facts import Message as Message
    from workbench.facts import ModelContribution as ModelContribution
    from workbench.facts import Request as Request
    from workbench.facts import Response as Response
    from workbench.serve.lab import FaultLab as FaultLab
    from workbench.session.comparison import Comparison as Comparison
    from workbench.session.ensembler import MultiModelEnsembler as MultiModelEnsembler
    from workbench.session.failover import LLMFailoverHandler as LLMFailoverHandler
    from workbench.session.gains import Gains as Gains
    from workbench.session.metrics import EnsembleMetrics as EnsembleMetrics
    from workbench.session.optimized import OptimizedQuery as OptimizedQuery
    from workbench.session.optimizer import QueryOptimizer as QueryOptimizer
    from workbench.session.prompts import PromptEngineer as PromptEngineer
    from workbench.session.router import LLMRouter as LLMRouter
    from workbench.session.run import Run as Run
    from workbench.session.styles import promises_of as promises_of
    from workbench.session.tokens import TokenCounter as TokenCounter
    from workbench.session.workbench import Workbench as Workbench

_HOMES = {
    "AdaptiveWeights": "workbench.decide.adaptive",
    "Auto": "workbench.decide.strategies.auto",
    "BestOfN": "workbench.decide.merge",
    "BestSingle": "workbench.decide.strategies.single",
    "Cascade": "workbench.decide.strategies.cascade",
    "Comparison": "workbench.session.comparison",
    "DawidSkene": "workbench.decide.strategies.latent",
    "EnsembleMetrics": "workbench.session.metrics",
    "EnsembleResponse": "workbench.facts",
    "EnsembleSelection": "workbench.decide.strategies.selection",
    "ErrorAggregator": "workbench.act.aggregate",
    "ErrorContext": "workbench.act.context",
    "FaultLab": "workbench.serve.lab",
    "FieldWise": "workbench.decide.strategies.fields",
    "Gains": "workbench.session.gains",
    "Item": "workbench.facts",
    "LLMError": "workbench.errors",
    "LLMFailoverError": "workbench.errors",
    "LLMFailoverHandler": "workbench.session.failover",
    "LLMOrchestratorError": "workbench.errors",
    "LLMProviderError": "workbench.errors",
    "LLMRateLimitError": "workbench.errors",
    "LLMRouter": "workbench.session.router",
    "LLMRouterError": "workbench.errors",
    "LLMTimeoutError": "workbench.errors",
    "LLMValidationError": "workbench.errors",
    "LogOdds": "workbench.decide.strategies.weighted",
    "MajorityVoting": "workbench.decide.merge",
    "Message": "workbench.facts",
    "MinimumBayesRisk": "workbench.decide.strategies.mbr",
    "ModelContribution": "workbench.facts",
    "MultiModelEnsembler": "workbench.session.ensembler",
    "OneCoin": "workbench.decide.strategies.latent",
    "OptimizedQuery": "workbench.session.optimized",
    "PairwiseJudge": "workbench.act.judge",
    "Passage": "workbench.decide.assemble",
    "PerformanceMetric": "workbench.act.performance",
    "PerformanceStats": "workbench.act.performance",
    "PerformanceTracer": "workbench.act.tracer",
    "Profile": "workbench.act.simulated",
    "PromptEngineer": "workbench.session.prompts",
    "PromptTemplate": "workbench.decide.prompt",
    "QueryOptimizer": "workbench.session.optimizer",
    "Request": "workbench.facts",
    "Response": "workbench.facts",
    "Run": "workbench.session.run",
    "Selective": "workbench.decide.strategies.selective",
    "Selector": "workbench.decide.strategies.selector",
    "Slot": "workbench.decide.prompt",
    "SoftVote": "workbench.decide.strategies.soft",
    "Stacking": "workbench.decide.strategies.weighted",
    "TextStacking": "workbench.decide.strategies.mbr",
    "TokenCount": "workbench.decide.tokens",
    "TokenCounter": "workbench.session.tokens",
    "WeightedConsensus": "workbench.decide.merge",
    "Workbench": "workbench.session.workbench",
    "check_health": "workbench.act.aggregate",
    "clarity": "workbench.decide.clarity",
    "detect": "workbench.decide.tasks",
    "error_aggregator": "workbench.act.aggregate",
    "error_context": "workbench.act.context",
    "get_performance_report": "workbench.act.tracer",
    "handle_error": "workbench.act.context",
    "performance_tracer": "workbench.act.tracer",
    "promises_of": "workbench.session.styles",
    "retry_with_backoff": "workbench.act.retry",
    "rewrite": "workbench.decide.rewrite",
    "safe_execute": "workbench.act.safety",
    "show": "workbench.show",
    "trace_block": "workbench.act.trace",
    "trace_block_async": "workbench.act.trace",
    "trace_performance": "workbench.act.traced",
}
__version__ = "0.1.0"
__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    home = import_module(_HOMES[name])
    value = home if name == "show" else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def load_ipython_extension(ipython: Any) -> None:
    """Make `%%wbsql`, `%trace` and `%%trace` known; called by `%load_ext workbench`."""
    import_module("workbench.session.magic").register(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Take the magics away again; called by `%unload_ext workbench`."""
    import_module("workbench.session.magic").unregister(ipython)
