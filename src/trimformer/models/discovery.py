"""Finds a model's layers by their class, and the sublayers in them."""

from dataclasses import replace
from typing import Any

from torch import nn

from trimformer.errors import TrimformerError
from trimformer.models.families import POSITIONS_AFTER_PADDING, find_family, supported_layers
from trimformer.models.linear import Linear, matrix
from trimformer.models.sublayer import Sublayer


def find_sublayers(model: nn.Module) -> list[Sublayer]:
    """All sublayers in the order in which they run: attention and feed-forward of each layer, tower after tower.

    Raises:
        TrimformerError: the model has no layer that can be pruned, or one whose shapes contradict its config.
    """
    found: list[Sublayer] = []
    index = 0
    for module in model.modules():
        family = find_family(type(module).__name__)
        if family is None:
            continue
        _check_layer(module)
        try:
            sublayers = [replace(s, layer=index, module=module) for s in family(module)]
        except AttributeError as error:
            raise TrimformerError(
                f"a layer of class {type(module).__name__} is not built as expected ({error}); this version of "
                "transformers may be too old or too new"
            ) from error
        for sublayer in sublayers:
            _check_shapes(sublayer)
        index += bool(sublayers)
        found += sublayers
    if not found:
        raise TrimformerError(
            f"{type(model).__name__} (model type '{getattr(getattr(model, 'config', None), 'model_type', None)}') has "
            f"no layer that can be pruned; known are {', '.join(supported_layers())}"
        )
    return found


def find_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that hold the model's sublayers, in the order in which they run.

    Raises:
        TrimformerError: as `find_sublayers`.
    """
    return list(dict.fromkeys(s.module for s in find_sublayers(model)))


def max_positions(config: Any, default: int) -> int:
    """Tokens of the longest sequence that a model takes; `default` where its config names no limit."""
    config = getattr(config, "text_config", config)
    offset = 2 if config.model_type in POSITIONS_AFTER_PADDING else 0
    return (getattr(config, "max_position_embeddings", None) or default + offset) - offset


def _check_layer(layer: Any) -> None:
    """Raises:
    TrimformerError: the layer is set up in a way that cannot be pruned.
    """
    name = type(layer).__name__
    cross = getattr(layer, "add_cross_attention", False)
    if cross or (getattr(layer, "is_decoder", False) and not hasattr(layer, "layer")):  # T5 says so of its blocks
        raise TrimformerError(f"this model's {name} is set up as a decoder; only encoders of its kind can be pruned")
    if getattr(layer, "chunk_size_feed_forward", 0):
        raise TrimformerError("the model's config sets chunk_size_feed_forward; set it to 0 before pruning")


def _check_shapes(sublayer: Sublayer) -> None:
    """Raises:
    TrimformerError: the sublayer's matrices are not those of whole units.
    """

    def size(linear: Linear, dim: int) -> int:
        if getattr(linear, "weight", None) is None or linear.weight.dim() != 2:
            raise TrimformerError(f"{sublayer.name} has a {type(linear).__name__} where a linear layer is expected")
        return matrix(linear).shape[dim]

    channels, units = size(sublayer.projection, 1), size(sublayer.projection, 1) // sublayer.unit_size
    found = [(size(p.linear, 0), units * p.size * p.blocks) for p in sublayer.producers]
    if channels != units * sublayer.unit_size or any(there != expected for there, expected in found):
        raise TrimformerError(
            f"{sublayer.name} has {channels} channels in its output projection, which are not units of "
            f"{sublayer.unit_size}, or its other matrices have another number of them; the config's head size or "
            "number of heads is not that of the weights"
        )
