"""Phi-3: fused query, key and value projections of different sizes, and fused gate and up projections."""

import copy
from collections.abc import Iterator
from typing import Any

from transformers.models.phi3.modeling_phi3 import Phi3Attention

from trimformer.models.sublayer import Producer, Sublayer, attention, ffn, producers


class KeptHeads(Phi3Attention):  # type: ignore[misc]
    """Attention that reads its own number of heads from its config, which all layers share."""

    kept: list[int]

    @property
    def config(self) -> Any:  # type: ignore[override]
        """A copy of the model's config with the number of query heads of this layer."""
        config = copy.copy(vars(self)["config"])
        groups = config.num_attention_heads // config.num_key_value_heads
        config.num_attention_heads = groups * max(len(self.kept), 1)
        return config


def sublayers(layer: Any) -> Iterator[Sublayer]:
    """Describes a `Phi3DecoderLayer`."""
    heads, size, groups = layer.self_attn, layer.self_attn.head_dim, layer.self_attn.num_key_value_groups
    yield attention(
        (Producer(heads.qkv_proj, size, blocks=(groups, 1, 1)),),
        heads.o_proj,
        size * groups,
        entry=layer.input_layernorm,
        count_attributes={(heads, "num_key_value_heads"): 1},
        head_selector=(heads, KeptHeads),
    )
    neurons = producers(1, layer.mlp.gate_up_proj, blocks=2)
    yield ffn(neurons, layer.mlp.down_proj, entry=layer.post_attention_layernorm)
