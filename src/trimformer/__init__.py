"""Post-training structured pruning for Hugging Face Transformers.

Importing this package lets `AutoModel*.from_pretrained` load pruned directories.
"""

from trimformer.arch import Sublayer, find_sublayers, register_family
from trimformer.arch.masking import MaskUnits
from trimformer.cards.card import model_card
from trimformer.errors import TrimformerError
from trimformer.methods import METHODS, Method
from trimformer.pipeline import prune
from trimformer.pruner import Pruned, Pruner
from trimformer.report import PruningResult
from trimformer.run import Run
from trimformer.shrinking.checkpoint import load, save
from trimformer.shrinking.shrink import shrink
from trimformer.verify.promise import LatencyOptions
from trimformer.version import __version__

__all__ = [
    "METHODS", "LatencyOptions", "MaskUnits", "Method", "Pruned", "Pruner", "PruningResult", "Run", "Sublayer",
    "TrimformerError", "__version__", "find_sublayers", "load", "model_card", "prune", "register_family", "save",
    "shrink",
]  # fmt: skip
