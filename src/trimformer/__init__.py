"""Post-training structured pruning for Hugging Face Transformers.

Importing this package lets `AutoModel*.from_pretrained` load pruned directories. What only pruning needs is imported
when it is asked for, so a service that loads pays for neither scipy nor scikit-learn.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimformer.arch import Sublayer, find_sublayers, register_family
from trimformer.arch.masking import MaskUnits
from trimformer.errors import TrimformerError
from trimformer.methods import METHODS, Method
from trimformer.run import Run
from trimformer.shrinking.checkpoint import load, save
from trimformer.shrinking.shrink import shrink
from trimformer.version import __version__

__all__ = [
    "METHODS", "Budget", "Family", "LatencyOptions", "MaskUnits", "Method", "Pruned", "Pruner", "PruningResult", "Run",
    "Sublayer", "TrimformerError", "__version__", "find_sublayers", "load", "model_card", "prune", "register_family",
    "save", "shrink", "sweep", "trim_vocabulary",
]  # fmt: skip

if TYPE_CHECKING:
    from trimformer.cards.card import model_card
    from trimformer.family import Family, sweep
    from trimformer.pipeline import prune
    from trimformer.pruner import Budget, Pruned, Pruner
    from trimformer.report import PruningResult
    from trimformer.shrinking.vocabulary import trim_vocabulary
    from trimformer.verify.promise import LatencyOptions
else:
    _LATER = {
        "Budget": "pruner",
        "Family": "family",
        "LatencyOptions": "verify.promise",
        "Pruned": "pruner",
        "Pruner": "pruner",
        "PruningResult": "report",
        "model_card": "cards.card",
        "prune": "pipeline",
        "sweep": "family",
        "trim_vocabulary": "shrinking.vocabulary",
    }

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'trimformer' has no attribute '{name}'")
        return getattr(import_module(f"trimformer.{_LATER[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
