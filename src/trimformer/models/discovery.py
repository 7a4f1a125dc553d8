"""Finds the layers of a model by class name, and their sublayers."""

from dataclasses import replace
from typing import Any

from torch import nn
from transformers import DynamicCache

from trimformer.errors import TrimformerError
from trimformer.models.families import POSITIONS_AFTER_PADDING, find_family, reason_to_refuse, supported_layers
from trimformer.models.linear import Linear, matrix
from trimformer.models.sublayer import Sublayer
from trimformer.options.checks import shorten


def find_sublayers(model: nn.Module) -> list[Sublayer]:
    """Finds all sublayers in execution order: attention and feed-forward of each layer, tower after tower.

    Raises:
        TrimformerError: the model has no layer that can be pruned, such as a mixture of experts, or a layer's shapes
            contradict the config.
    """
    if not isinstance(model, nn.Module):
        raise TrimformerError(f"model is {shorten(model)}; give a PreTrainedModel, as trimformer.load returns it")
    all_sublayers: list[Sublayer] = []
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
                f"a layer of class {type(module).__name__} is not built as expected ({error}); use another version of "
                "transformers, as this one may be too old or too new"
            ) from error
        for sublayer in sublayers:
            _check_shapes(sublayer)
        index += bool(sublayers)
        all_sublayers += sublayers
    all_sublayers = _mark_cache_layers(model, all_sublayers)
    if not all_sublayers:
        _check_unknown_layers(model)
        raise TrimformerError(
            f"{type(model).__name__} (model type '{getattr(getattr(model, 'config', None), 'model_type', None)}') has "
            f"no layer that can be pruned; known are {', '.join(supported_layers())}"
        )
    return all_sublayers


def _mark_cache_layers(model: Any, sublayers: list[Sublayer]) -> list[Sublayer]:
    """Marks the attention sublayers that a key-value cache asks for its number of tokens, in models that generate text.

    Positions are counted in layer 0, and masks are as long as the first layer with full attention and the first with a
    sliding window say. A layer without heads would stay at 0 tokens.
    """
    can_generate = getattr(model, "can_generate", None)
    if can_generate is None or not can_generate() or model.config.is_encoder_decoder:
        return sublayers
    is_sliding = DynamicCache(config=model.config).is_sliding
    asked = {0, *(is_sliding.index(kind) for kind in (False, True) if kind in is_sliding)}
    return [replace(s, runs_empty=True) if s.kind == "attention" and _cache_index(s) in asked else s for s in sublayers]


def _cache_index(sublayer: Sublayer) -> int | None:
    """Returns the index of an attention's keys and values in a cache; None if it has none."""
    indices = (getattr(module, "layer_idx", None) for module in sublayer.module.modules())
    return next((index for index in indices if index is not None), None)


def find_layers(model: nn.Module) -> list[nn.Module]:
    """Finds the layers that contain the model's sublayers, in execution order.

    Raises:
        TrimformerError: see `find_sublayers`.
    """
    return list(dict.fromkeys(s.module for s in find_sublayers(model)))


def max_positions(config: Any, default: int) -> int:
    """Returns the longest sequence, in tokens, that a model accepts; `default` if its config sets no limit."""
    config = config.get_text_config()
    pad = getattr(config, "pad_token_id", None)
    offset = (2 if pad is None else pad + 1) if config.model_type in POSITIONS_AFTER_PADDING else 0
    return (getattr(config, "max_position_embeddings", None) or default + offset) - offset


def _check_unknown_layers(model: nn.Module) -> None:
    """Checks whether layers of unknown classes are of a kind that is never pruned.

    Raises:
        TrimformerError: they are; the message names the class.
    """
    for layers in model.modules():
        for layer in layers if isinstance(layers, nn.ModuleList) else ():
            reason = reason_to_refuse(layer)
            if reason is not None:
                raise TrimformerError(f"layers of class {type(layer).__name__} cannot be pruned: {reason}")


def _check_layer(layer: Any) -> None:
    """Checks that a layer is configured as an encoder layer without chunking.

    Raises:
        TrimformerError: the layer cannot be pruned with this config.
    """
    name = type(layer).__name__
    cross = getattr(layer, "add_cross_attention", False)
    skips_decoders = hasattr(layer, "layer")  # T5's family does so itself
    if cross or (getattr(layer, "is_decoder", False) and not skips_decoders):
        raise TrimformerError(
            f"{name} of this model is configured as a decoder; give a model that uses it as an encoder"
        )
    if getattr(layer, "chunk_size_feed_forward", 0):
        raise TrimformerError("the model's config sets chunk_size_feed_forward; set it to 0 before pruning")


def _check_shapes(sublayer: Sublayer) -> None:
    """Checks that the sublayer's matrices consist of whole units.

    Raises:
        TrimformerError: a module is not linear, or its shape does not match the number of units.
    """

    def size(linear: Linear, dim: int) -> int:
        if getattr(linear, "weight", None) is None or linear.weight.dim() != 2:
            raise TrimformerError(f"{sublayer.name} has a {type(linear).__name__} where a linear layer is expected")
        return matrix(linear).shape[dim]

    channels, units = size(sublayer.projection, 1), size(sublayer.projection, 1) // sublayer.unit_size
    fits = all(size(p.linear, 0) == units * p.rows for p in sublayer.producers)
    if channels != units * sublayer.unit_size or not fits:
        raise TrimformerError(
            f"the output projection of {sublayer.name} has {channels} input channels, which do not match units of "
            f"{sublayer.unit_size} or the sublayer's other matrices; make the config's head size and number of heads "
            "those of the weights"
        )
