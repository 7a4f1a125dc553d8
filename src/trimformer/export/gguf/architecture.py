"""Chooses the architecture of llama.cpp that computes a model, and the sizes of its layers in the file.

A GGUF file may list heads and neurons layer by layer, but only some of llama.cpp's graphs read the lists: `deci` is
Llama's graph with lists, `openelm` is Qwen 3's. Models whose layers have one size keep their family's architecture.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError

NEURON_MULTIPLE = 32  # length of a quantized block; rows of the down projection have as many values as neurons

_ROPE_TYPES = ("default", "linear", "llama3")  # frequencies that do not depend on the length of the text


@dataclass(frozen=True)
class Family:
    """Architectures of llama.cpp for a model class.

    Attributes:
        plain: for layers of one size.
        free: for layers of different sizes; None where llama.cpp has no such graph.
        tied: whether `free` takes its output matrix from the embeddings.
        strict: whether `plain` needs heads as wide together as the residual stream, and has no biases of outputs.
    """

    plain: str
    free: str | None
    tied: bool = False
    strict: bool = False


FAMILIES = {
    "LlamaForCausalLM": Family("llama", "deci"),
    "MistralForCausalLM": Family("llama", "deci"),
    "Qwen2ForCausalLM": Family("qwen2", "deci", strict=True),
    "Qwen3ForCausalLM": Family("qwen3", "openelm", tied=True),
}

FREE = ("deci", "openelm")  # read heads and neurons layer by layer
INTERLEAVED = ("llama", "deci")  # rotary embeddings turn pairs (0, 1), (2, 3), ... instead of halves of a head


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
    """

    name: str
    layers: tuple[int, ...]
    sizes: tuple[LayerSize, ...]
    notes: tuple[str, ...]
    rope_factors: Tensor | None


def choose_architecture(model: PreTrainedModel) -> Architecture:
    """Chooses the architecture and the layers for a dense or pruned model.

    Raises:
        TrimformerError: llama.cpp has no graph that computes this model.
    """
    family = _family(model)
    _check_config(model)
    layers: Any = model.model.layers
    dense = [_size(layer) for layer in layers]
    kept = [i for i, size in enumerate(dense) if size.kv_heads or size.neurons or _has_bias(layers[i])] or [0]
    sizes = [_padded(dense[i]) for i in kept]
    is_plain = len(set(sizes)) == 1 and sizes[0].kv_heads > 0
    if family.strict:
        is_plain &= sizes[0].heads * layers[0].self_attn.head_dim == model.config.hidden_size
        is_plain &= not any(map(_has_bias, layers))
    name = family.plain if is_plain else _free(model, family)
    if not is_plain:
        for position, i in enumerate(kept):
            if not sizes[position].kv_heads and needs_head(layers[i], position == 0, name):
                sizes[position] = LayerSize(1, 1, sizes[position].neurons)
    notes = _notes([dense[i] for i in kept], sizes, len(dense))
    return Architecture(name, tuple(kept), tuple(sizes), notes, _rope_factors(model, name))


def check_graph(model: PreTrainedModel, *, same_sizes: bool) -> None:
    """Checks that llama.cpp can run a model, and what pruning makes of it.

    Args:
        model: the dense model.
        same_sizes: whether the layers of the pruned model will have one size.

    Raises:
        TrimformerError: llama.cpp has no graph that computes it.
    """
    choose_architecture(model)
    if not same_sizes:
        _free(model, _family(model))


def pruned_graph(model: PreTrainedModel) -> str:
    """Returns the architecture for layers of different sizes, or the family's own where llama.cpp has none.

    Raises:
        TrimformerError: the class is not one that can be written.
    """
    family = _family(model)
    try:
        return _free(model, family)
    except TrimformerError:
        return family.plain


def needs_head(layer: Any, is_first: bool, architecture: str) -> bool:
    """Whether a layer without heads is written with one of zeros."""
    return is_first or architecture == "openelm" or layer.self_attn.o_proj.bias is not None


def _family(model: PreTrainedModel) -> Family:
    """Returns the family of a model class.

    Raises:
        TrimformerError: the class is not one that can be written.
    """
    name = type(model).__name__
    if name not in FAMILIES:
        raise TrimformerError(
            f"GGUF files of {name} are not supported; they are written for {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[name]


def _free(model: PreTrainedModel, family: Family) -> str:
    """Returns the architecture for layers of different sizes.

    Raises:
        TrimformerError: llama.cpp has none for this model.
    """
    name = type(model).__name__
    reason = None
    if family.free is None:
        reason = f"llama.cpp has no graph for a {name} whose layers differ in size"
    elif family.tied and not is_tied(model):
        reason = f"llama.cpp's graph '{family.free}' for a {name} whose layers differ in size has no output matrix"
    elif family.free == "openelm" and any(".bias" in key for key, _ in model.named_parameters()):
        reason = f"llama.cpp's graph '{family.free}' for a {name} whose layers differ in size has no biases"
    if reason is not None or family.free is None:
        raise TrimformerError(f"{reason}; prune it with --layout plain")
    return family.free


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the output matrix is that of the token embeddings."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _check_config(model: PreTrainedModel) -> None:
    """Checks what the architectures take for granted.

    Raises:
        TrimformerError: the model differs in its activation, its attention or its rotary embeddings.
    """
    config: Any = model.config
    name, attention = type(model).__name__, model.model.layers[0].self_attn
    if config.hidden_act not in ("silu", "swish"):
        raise TrimformerError(f"llama.cpp runs {name} with the activation 'silu' only, not '{config.hidden_act}'")
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    if window is not None and slides and window < config.max_position_embeddings:
        raise TrimformerError(
            f"this {name} has attention with a sliding window of {window} tokens, which llama.cpp's graph ignores; set "
            f"max_position_embeddings to {window} in its config.json to use it for texts up to that length"
        )
    if abs(attention.scaling - attention.head_dim**-0.5) > 1e-6:
        raise TrimformerError(f"this {name} scales attention by {attention.scaling:g}, llama.cpp by the head size")
    rope = config.rope_parameters
    kind = rope.get("rope_type", "default")
    if kind not in _ROPE_TYPES or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise TrimformerError(
            f"rotary embeddings of type '{kind}' cannot be written; supported are {', '.join(_ROPE_TYPES)}, over whole "
            "heads"
        )


def _size(layer: Any) -> LayerSize:
    """Returns the size of a layer by the shapes of its weights.

    Raises:
        TrimformerError: query heads cannot be shared out evenly among key-value heads.
    """
    attention, size = layer.self_attn, layer.self_attn.head_dim
    heads, kv_heads = (linear.weight.shape[0] // size for linear in (attention.q_proj, attention.k_proj))
    if kv_heads and heads % kv_heads:
        raise TrimformerError(f"{heads} query heads cannot be shared out among {kv_heads} key-value heads")
    return LayerSize(heads, kv_heads, layer.mlp.down_proj.weight.shape[1])


def _has_bias(layer: Any) -> bool:
    """Whether a sublayer without units still adds a bias."""
    return layer.self_attn.o_proj.bias is not None or layer.mlp.down_proj.bias is not None


def written_neurons(neurons: int) -> int:
    """Returns the neurons that a file has for a layer with that many: whole blocks, one at least."""
    return max(1, -(-neurons // NEURON_MULTIPLE)) * NEURON_MULTIPLE


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
            f"{len(neurons)} layers have neurons of zeros up to the next multiple of {NEURON_MULTIPLE}, "
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
    rotary: Any = model.model.rotary_emb
    size = model.model.layers[0].self_attn.head_dim
    powers = torch.arange(0, size, 2, dtype=torch.float64) / size
    theta = model.config.rope_parameters["rope_theta"]
    factors = theta**-powers / rotary.inv_freq.double().cpu()
    if bool((abs(factors - 1) < 1e-5).all()):
        return None
    if architecture not in INTERLEAVED or rotary.attention_scaling != 1:
        kind = model.config.rope_parameters["rope_type"]
        raise TrimformerError(f"llama.cpp's graph '{architecture}' has no rotary embeddings of type '{kind}'")
    return factors.float()
