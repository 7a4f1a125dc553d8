"""Adapters, one file per model family. Each module here that defines `FAMILY` is found by itself."""

import importlib
import pkgutil
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from trimformer.arch.sublayer import Family, Kind, Sublayer
from trimformer.errors import TrimformerError

__all__ = ["Family", "Kind", "Sublayer", "find_layers", "find_sublayers", "max_positions", "supported_families"]

_FAMILIES: dict[str, Family] = {}
for _module in pkgutil.iter_modules(__path__, prefix=f"{__name__}."):
    _family = getattr(importlib.import_module(_module.name), "FAMILY", None)
    if _family is not None:
        _FAMILIES.update(dict.fromkeys(_family.model_types, _family))


def supported_families() -> list[str]:
    """Model types (`config.model_type`) that can be pruned."""
    return sorted(_FAMILIES)


def _find_family(config: object) -> Family:
    model_type = getattr(config, "model_type", None)
    if model_type not in _FAMILIES:
        raise TrimformerError(
            f"model type '{model_type}' is not supported; supported are {', '.join(supported_families())}"
        )
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise TrimformerError(f"this '{model_type}' model is set up as a decoder; only encoders can be pruned")
    if getattr(config, "chunk_size_feed_forward", 0):
        raise TrimformerError("the model's config sets chunk_size_feed_forward; set it to 0 before pruning")
    return _FAMILIES[model_type]


def max_positions(config: Any, default: int) -> int:
    """Tokens of the longest sequence that a model takes; `default` where its config names no limit."""
    offset = 2 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0  # their first position is 2
    return getattr(config, "max_position_embeddings", default + offset) - offset


def find_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The model's layers, bottom first.

    Raises:
        TrimformerError: the model's family is not supported.
    """
    return _find_family(model.config).layers(model.base_model)


def find_sublayers(model: PreTrainedModel) -> list[Sublayer]:
    """All sublayers in the order in which they run: attention and feed-forward of each layer.

    Raises:
        TrimformerError: the model's family is not supported.
    """
    family = _find_family(model.config)
    layers = family.layers(model.base_model)
    return [sublayer for index, layer in enumerate(layers) for sublayer in family.sublayers(layer, index)]
