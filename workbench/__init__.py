"""A Jupyter-first experimentation workbench for multi-LLM pipelines.

It tells the truth with error bars: merges of recorded, live or simulated models are compared with the best
single model on the same items, and every call is in a log that DuckDB can query. Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench import show as show
    from workbench.act.simulated import Profile as Profile
    from workbench.decide.merge import BestOfN as BestOfN
    from workbench.decide.merge import MajorityVoting as MajorityVoting
    from workbench.decide.merge import WeightedConsensus as WeightedConsensus
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
    from workbench.facts import ModelContribution as ModelContribution
    from workbench.facts import Request as Request
    from workbench.facts import Response as Response
    from workbench.session.comparison import Comparison as Comparison
    from workbench.session.ensembler import MultiModelEnsembler as MultiModelEnsembler
    from workbench.session.run import Run as Run
    from workbench.session.workbench import Workbench as Workbench

_HOMES = {
    "BestOfN": "workbench.decide.merge",
    "Comparison": "workbench.session.comparison",
    "EnsembleResponse": "workbench.facts",
    "Item": "workbench.facts",
    "LLMError": "workbench.errors",
    "LLMFailoverError": "workbench.errors",
    "LLMOrchestratorError": "workbench.errors",
    "LLMProviderError": "workbench.errors",
    "LLMRateLimitError": "workbench.errors",
    "LLMRouterError": "workbench.errors",
    "LLMTimeoutError": "workbench.errors",
    "LLMValidationError": "workbench.errors",
    "MajorityVoting": "workbench.decide.merge",
    "ModelContribution": "workbench.facts",
    "MultiModelEnsembler": "workbench.session.ensembler",
    "Profile": "workbench.act.simulated",
    "Request": "workbench.facts",
    "Response": "workbench.facts",
    "Run": "workbench.session.run",
    "WeightedConsensus": "workbench.decide.merge",
    "Workbench": "workbench.session.workbench",
    "show": "workbench.show",
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
