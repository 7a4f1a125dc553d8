"""Chooses the architecture of llama.cpp that computes a model, and the sizes of its layers in the file.

A GGUF file may list heads and neurons layer by layer, but only some of llama.cpp's graphs read the lists: `deci` is
Llama's graph with lists, `openelm` is Qwen 3's. Models whose layers have one size keep their family's architecture.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError
from trimformer.export.gguf.graph_families import (
    GraphFamily,
    activation,
    attention_of,
    graph_family_of,
    head_size,
    is_tied,
    layers_of,
    parts_of_layers,
    rotary,
)
from trimformer.models import find_sublayers
from trimformer.models.plain_config import supports_fewer_heads

QUANTIZED_BLOCK = 32  # length of a quantized block; rows of the down projection have as many values as neurons

_ROPE_TYPES = ("default", "linear", "llama3")  # frequencies that do not depend on the length of the text


FREE = ("deci", "openelm")  # read heads and neurons layer by layer
INTERLEAVED = ("llama", "deci")  # rotary embeddings turn pairs (0, 1), (2, 3), ... instead of halves of a head

# Projections that are one matrix in the file.
_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
FUSED: dict[str, dict[str, tuple[str, ...]]] = {
    "openelm": {"self_attn.qkv_proj": _QKV},
    "gpt2": {"self_attn.qkv_proj": _QKV},
    "phi3": {"self_attn.qkv_proj": _QKV, "mlp.gate_up_proj": ("mlp.gate_proj", "mlp.up_proj")},
}


@dataclass(frozen=True)
class LayerSize:
    """Number of query heads, key-value heads and neurons of a layer."""

    heads: int
    kv_heads: int
    neurons: int


@dataclass(frozen=True)
class Architecture:
    """A model as llama.cpp runs it.

    Attributes:
        name: of the architecture.
        layers: indices of the layers that are written; layers without heads and neurons are left out.
        sizes: of the written layers, units of zeros included.
        notes: what the file has that the model has not, in words.
        rope_factors: divisors of the rotary frequencies [head size / 2]; None where all are 1.
        windows: of each written layer, whether it attends to a sliding window; None: as the graph has them by default.
    """

    name: str
    layers: tuple[int, ...]
    sizes: tuple[LayerSize, ...]
    notes: tuple[str, ...]
    rope_factors: Tensor | None
    windows: tuple[bool, ...] | None = None


def choose_architecture(model: PreTrainedModel) -> Architecture:
    """Chooses the architecture and the layers for a dense or pruned model.

    Raises:
        TrimformerError: llama.cpp has no graph that computes this model.
    """
    family = graph_family_of(model)
    _check_config(model, family)
    layers = parts_of_layers(model)
    channels = head_size(model)
    dense = [_size(parts, channels) for parts in layers]
    kept = [i for i, size in enumerate(dense) if size.kv_heads or size.neurons or _has_bias(layers[i])] or [0]
    sizes = [_padded(dense[i]) for i in kept]
    is_plain = len(set(sizes)) == 1 and sizes[0].kv_heads > 0
    if family.square:
        is_plain &= sizes[0].heads * channels == model.config.hidden_size
    if not family.output_biases and any(map(_has_bias, layers)):
        is_plain = False
        if family.free is None:
            raise TrimformerError(f"llama.cpp's graph '{family.plain}' has no biases of output projections")
    if len(kept) == family.odd_depth:
        raise TrimformerError(
            f"with {len(kept)} layers, llama.cpp's graph '{family.plain}' scales attention differently"
        )
    name = family.plain if is_plain else _free(model, family)
    if not is_plain:
        for position, i in enumerate(kept):
            if not sizes[position].kv_heads and needs_head(layers[i], position == 0, name):
                sizes[position] = LayerSize(1, 1, sizes[position].neurons)
    windows = _windows(model, family, kept)
    notes = _notes([dense[i] for i in kept], sizes, len(dense))
    if windows is not None:
        notes += (
            "layers with a sliding window are in an order of their own, which older versions of llama.cpp ignore",
        )
    return Architecture(name, tuple(kept), tuple(sizes), notes, _rope_factors(model, name), windows)


def check_graph(model: PreTrainedModel, *, same_sizes: bool) -> None:
    """Checks that llama.cpp can run a model, and what pruning makes of it.

    Args:
        model: the dense model.
        same_sizes: whether the layers of the pruned model will have one size.

    Raises:
        TrimformerError: llama.cpp has no graph that computes it.
    """
    choose_architecture(model)
    family = graph_family_of(model)
    if not same_sizes:
        _free(model, family)
    elif family.free is None and family.square and supports_fewer_heads(find_sublayers(model)[0]):
        raise TrimformerError(
            f"--layout plain may remove heads of this {type(model).__name__}, and llama.cpp's graph '{family.plain}' "
            "needs all of them"
        )


def check_timed_graph(model: PreTrainedModel) -> None:
    """Checks that narrower models can be run, too, of which a latency table is made.

    Raises:
        TrimformerError: llama.cpp runs the model with all heads only.
    """
    family = graph_family_of(model)
    if family.square and family.free is None:
        raise TrimformerError(
            f"latency budgets in llama.cpp are not for {type(model).__name__}: the graph '{family.plain}' takes no "
            "fewer heads; prune it by --metric mac or memory"
        )


def pruned_graph(model: PreTrainedModel) -> str:
    """Returns the architecture for layers of different sizes, or the family's own where llama.cpp has none.

    Raises:
        TrimformerError: the class is not one that can be written.
    """
    family = graph_family_of(model)
    try:
        return _free(model, family)
    except TrimformerError:
        return family.plain


def needs_head(parts: Collection[str], is_first: bool, architecture: str) -> bool:
    """Whether a layer without heads is written with one of zeros.

    Args:
        parts: names of the tensors of the layer.
        is_first: whether it is the first layer of the file.
        architecture: of the file.
    """
    return is_first or architecture == "openelm" or "self_attn.o_proj.bias" in parts


def _free(model: PreTrainedModel, family: GraphFamily) -> str:
    """Returns the architecture for layers of different sizes.

    Raises:
        TrimformerError: llama.cpp has none for this model.
    """
    name = type(model).__name__
    reason = None
    if family.free is None:
        reason = f"llama.cpp has no graph for a {name} whose layers differ in size"
        reason += " or lack heads" if family.square else ""
    elif family.tied and not is_tied(model):
        reason = f"llama.cpp's graph '{family.free}' for a {name} whose layers differ in size has no output matrix"
    elif family.free == "openelm" and any(".bias" in key for key, _ in model.named_parameters()):
        reason = f"llama.cpp's graph '{family.free}' for a {name} whose layers differ in size has no biases"
    if reason is not None or family.free is None:
        raise TrimformerError(f"{reason}; prune it with --layout plain")
    return family.free


def _check_config(model: PreTrainedModel, family: GraphFamily) -> None:
    """Checks what the architectures take for granted.

    Raises:
        TrimformerError: the model differs in its activation, its attention or its rotary embeddings.
    """
    config: Any = model.config
    name, attention = type(model).__name__, attention_of(layers_of(model)[0])
    if activation(config) not in family.activations:
        raise TrimformerError(
            f"llama.cpp runs {name} with the activation {' or '.join(family.activations)} only, not "
            f"'{activation(config)}'"
        )
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    if family.window_every is None and window is not None and slides and window < config.max_position_embeddings:
        raise TrimformerError(
            f"this {name} has attention with a sliding window of {window} tokens, which llama.cpp's graph ignores; set "
            f"max_position_embeddings to {window} in its config.json to use it for texts up to that length"
        )
    if getattr(config, "use_bidirectional_attention", False):
        raise TrimformerError(f"this {name} attends to later tokens, which llama.cpp's graph does not")
    if getattr(config, "qk_layernorm", False):
        raise TrimformerError(f"llama.cpp's graph '{family.plain}' has no norms of queries and keys")
    if getattr(config, "add_cross_attention", False):
        raise TrimformerError(f"llama.cpp's graph '{family.plain}' has no cross-attention")
    if getattr(config, "attn_logit_softcapping", None) and "attn_logit_softcapping" not in family.required:
        raise TrimformerError(f"llama.cpp's graph '{family.plain}' has no soft cap of attention")
    missing = [entry for entry in family.required if getattr(config, entry) is None]
    if missing:
        raise TrimformerError(f"this {name} has no {missing[0]}, in place of which llama.cpp puts a number of its own")
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        raise TrimformerError(
            f"this {name} scales attention by the index of the layer, llama.cpp by the head size only"
        )
    if abs(attention.scaling - head_size(model) ** -0.5) > 1e-6:
        raise TrimformerError(f"this {name} scales attention by {attention.scaling:g}, llama.cpp by the head size")
    rope = getattr(config, "rope_parameters", None) or {}
    for part in rope.values() if "full_attention" in rope else [rope]:
        kind = part.get("rope_type", "default")
        supported = ("default",) if family.window_every else _ROPE_TYPES
        if kind not in supported or (part.get("partial_rotary_factor", 1.0) != 1.0 and not family.partial_rotary):
            raise TrimformerError(
                f"rotary embeddings of type '{kind}' cannot be written; supported are {', '.join(supported)}"
                f"{'' if family.partial_rotary else ', over whole heads'}"
            )


def _windows(model: PreTrainedModel, family: GraphFamily, kept: Sequence[int]) -> tuple[bool, ...] | None:
    """Returns which of the written layers attend to a sliding window; None where these are those of the graph."""
    if family.window_every is None:
        return None
    config: Any = model.config
    windows = tuple(config.layer_types[i] == "sliding_attention" for i in kept)
    return None if windows == tuple((i + 1) % family.window_every > 0 for i in range(len(kept))) else windows


def _size(parts: Mapping[str, Tensor], channels: int) -> LayerSize:
    """Returns the size of a layer by the shapes of its weights.

    Raises:
        TrimformerError: query heads cannot be shared out evenly among key-value heads.
    """
    heads, kv_heads = (parts[f"self_attn.{name}_proj.weight"].shape[0] // channels for name in "qk")
    if kv_heads and heads % kv_heads:
        raise TrimformerError(f"{heads} query heads cannot be shared out among {kv_heads} key-value heads")
    return LayerSize(heads, kv_heads, parts["mlp.down_proj.weight"].shape[1])


def _has_bias(parts: Collection[str]) -> bool:
    """Whether a sublayer without units still adds a bias."""
    return "self_attn.o_proj.bias" in parts or "mlp.down_proj.bias" in parts


def written_neurons(neurons: int) -> int:
    """Returns the neurons that a file has for a layer with that many: whole blocks, one at least."""
    return max(1, -(-neurons // QUANTIZED_BLOCK)) * QUANTIZED_BLOCK


def _padded(size: LayerSize) -> LayerSize:
    """Rounds the neurons up to a multiple that is not 0: llama.cpp skips the attention of layers without neurons."""
    neurons = written_neurons(size.neurons)
    return LayerSize(size.heads, size.kv_heads, neurons)


def _notes(dense: list[LayerSize], sizes: list[LayerSize], layers: int) -> tuple[str, ...]:
    """Describes the units of zeros and the layers that are left out."""
    notes = []
    neurons = [new.neurons - old.neurons for old, new in zip(dense, sizes, strict=True) if new.neurons > old.neurons]
    if neurons:
        notes.append(
            f"{len(neurons)} layers have neurons of zeros up to the next multiple of {QUANTIZED_BLOCK}, "
            f"{sum(neurons)} in all, which change nothing"
        )
    heads = sum(new.kv_heads > old.kv_heads for old, new in zip(dense, sizes, strict=True))
    if heads:
        notes.append(f"{heads} layers without heads have one of zeros, which changes nothing")
    if layers > len(sizes):
        notes.append(f"{layers - len(sizes)} layers without heads and neurons are left out")
    return tuple(notes)


def _rope_factors(model: PreTrainedModel, architecture: str) -> Tensor | None:
    """Returns the divisors of the rotary frequencies; None where all are 1.

    Raises:
        TrimformerError: the architecture takes no divisors, or attention is scaled too.
    """
    settings = rotary(model)
    module: Any = getattr(model.base_model, "rotary_emb", None)
    if settings is None or not hasattr(module, "inv_freq"):
        return None  # Gemma 3 has two, both checked to be as they are by default
    powers = torch.arange(0, settings.channels, 2, dtype=torch.float64) / settings.channels
    factors = settings.theta**-powers / module.inv_freq.double().cpu()
    if bool((abs(factors - 1) < 1e-5).all()):
        return None
    if architecture not in INTERLEAVED or module.attention_scaling != 1:
        kind = model.config.rope_parameters["rope_type"]
        raise TrimformerError(f"llama.cpp's graph '{architecture}' has no rotary embeddings of type '{kind}'")
    return factors.float()
