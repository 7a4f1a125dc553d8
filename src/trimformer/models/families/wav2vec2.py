"""wav2vec 2.0, HuBERT, UniSpeech and SEW, with post-norm or pre-norm ("stable layer norm") layers."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from trimformer.errors import TrimformerError
from trimformer.models.sublayer import Sublayer, attention, ffn, producers


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes a post-norm layer."""
    yield from _sublayers(layer, layer.attention.q_proj, layer.feed_forward.intermediate_dense)


def pre_norm(layer: Any) -> Iterator[Sublayer]:
    """Describes a pre-norm layer.

    Raises:
        TrimformerError: the layer has a language adapter.
    """
    if getattr(layer, "adapter_layer", None) is not None:
        raise TrimformerError(
            "layers of this model have language adapters, which cannot be pruned; use a model without them"
        )
    yield from _sublayers(layer, layer.layer_norm, layer.final_layer_norm)


def _sublayers(layer: Any, first: nn.Module, second: nn.Module) -> Iterator[Sublayer]:
    heads, neurons, size = layer.attention, layer.feed_forward, layer.attention.head_dim
    yield attention(producers(size, heads.q_proj, heads.k_proj, heads.v_proj), heads.out_proj, size, entry=first)
    yield ffn(producers(1, neurons.intermediate_dense), neurons.output_dense, entry=second)
