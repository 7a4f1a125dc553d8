"""Post-training structured pruning for Hugging Face Transformers.

Importing this package lets `AutoModel*.from_pretrained` load pruned directories. Other modules are imported on first
use: a service that only loads models imports neither scipy nor scikit-learn, and `trimformer --help` imports neither
torch nor transformers.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimformer.errors import TrimformerError
from trimformer.options.methods import METHODS, Method
from trimformer.utils.moved_modules import accept_moved_modules
from trimformer.version import __version__

__all__ = [
    "METHODS",
    "Budget",
    "Costs",
    "ExecutionOptions",
    "Family",
    "GgufOptions",
    "LatencyOptions",
    "MaskUnits",
    "Method",
    "Pruned",
    "Pruner",
    "PruningResult",
    "Run",
    "Sublayer",
    "SweepResult",
    "TrimformerError",
    "__version__",
    "find_sublayers",
    "linear_costs",
    "load",
    "model_card",
    "prune",
    "register_family",
    "save",
    "shrink",
    "sweep",
    "trim_vocabulary",
]  # fmt: skip


def _is_command() -> bool:
    """Whether this process is `trimformer`, `python -m trimformer` or our `main.py`, which load models in runs only."""
    words = [*sys.argv[:1], *sys.orig_argv[1:3]]
    if words[1:] == ["-m", "trimformer"] or Path(words[0]).stem == "trimformer":
        return True
    papers = Path(__file__).parents[2] / "main.py"  # of a clone
    return papers.is_file() and Path(words[0]).is_file() and papers.samefile(words[0])


accept_moved_modules()

if TYPE_CHECKING:
    from trimformer.api import prune, sweep
    from trimformer.checkpoints.save_load import load, save
    from trimformer.checkpoints.shrink import shrink
    from trimformer.checkpoints.vocabulary import trim_vocabulary
    from trimformer.costs.cost_tables import Costs, linear_costs
    from trimformer.models import Sublayer, find_sublayers, register_family
    from trimformer.models.masking import MaskUnits
    from trimformer.options.execution import ExecutionOptions, Run
    from trimformer.options.gguf import GgufOptions
    from trimformer.options.latency import LatencyOptions
    from trimformer.pruner import Budget, Pruned, Pruner
    from trimformer.reporting.cards.card import model_card
    from trimformer.results import PruningResult
    from trimformer.sweeping import Family, SweepResult
else:
    _LATER = {
        "Budget": "pruner",
        "Costs": "costs.cost_tables",
        "Family": "sweeping",
        "GgufOptions": "options.gguf",
        "LatencyOptions": "options.latency",
        "MaskUnits": "models.masking",
        "Pruned": "pruner",
        "Pruner": "pruner",
        "PruningResult": "results",
        "ExecutionOptions": "options.execution",
        "Run": "options.execution",
        "Sublayer": "models",
        "SweepResult": "sweeping",
        "find_sublayers": "models",
        "linear_costs": "costs.cost_tables",
        "load": "checkpoints.save_load",
        "model_card": "reporting.cards.card",
        "prune": "api",
        "register_family": "models",
        "save": "checkpoints.save_load",
        "shrink": "checkpoints.shrink",
        "sweep": "api",
        "trim_vocabulary": "checkpoints.vocabulary",
    }

    if not _is_command():
        import_module("trimformer.checkpoints.save_load")

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module 'trimformer' has no attribute '{name}'")
        return getattr(import_module(f"trimformer.{_LATER[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
