"""Post-training structured pruning for Hugging Face Transformers.

Importing this package lets `AutoModel*.from_pretrained` load pruned directories.
"""

__version__ = "0.1.0"

from trimformer.errors import TrimformerError
from trimformer.methods import METHODS, Method
from trimformer.pipeline import PruningResult, prune
from trimformer.shrinking.checkpoint import load, save

__all__ = ["METHODS", "Method", "PruningResult", "TrimformerError", "__version__", "load", "prune", "save"]
