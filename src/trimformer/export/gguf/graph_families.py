"""How each model class is written: llama.cpp's graphs for it, and its tensors by the names that Llama gives them.

Everything else in this folder knows one layout of modules, Llama's: `self_attn.q_proj`, `mlp.down_proj`, and so on.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError

Parts = Iterator[tuple[str, Tensor]]

_SILU = ("silu", "swish")
_GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")  # the same function, by its approximation with tanh


class Rotary(NamedTuple):
    """Rotary position embeddings.

    Attributes:
        theta: base of the frequencies.
        channels: of a head that are rotated.
        window_theta: base in layers with a sliding window; None where all layers have one base.
    """

    theta: float
    channels: int
    window_theta: float | None = None


def layers_of(model: PreTrainedModel) -> Any:
    """Returns the layers of a model."""
    base: Any = model.base_model
    return base.h if hasattr(base, "h") else base.layers


def attention_of(layer: Any) -> Any:
    """Returns the attention module of a layer."""
    return layer.attn if hasattr(layer, "attn") else layer.self_attn


def head_size(model: PreTrainedModel) -> int:
    """Returns the channels of a head."""
    size: int = attention_of(layers_of(model)[0]).head_dim
    return size


def activation(config: Any) -> str:
    """Returns the name of the function that a config applies to neurons."""
    names = ("hidden_act", "hidden_activation", "activation_function")
    return str(next(getattr(config, name) for name in names if hasattr(config, name)))


def rotary(model: PreTrainedModel) -> Rotary | None:
    """Returns the rotary position embeddings of a model; None where positions have embeddings of their own."""
    parameters = getattr(model.config, "rope_parameters", None)
    if parameters is None:
        return None
    windowed = parameters.get("sliding_attention")
    parameters = parameters.get("full_attention", parameters)
    channels = int(head_size(model) * parameters.get("partial_rotary_factor", 1.0))
    return Rotary(parameters["rope_theta"], channels, windowed and windowed["rope_theta"])


def is_tied(model: PreTrainedModel) -> bool:
    """Whether the output matrix is that of the token embeddings."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _outer(model: Any) -> Parts:
    """Yields embeddings, last norm and output matrix."""
    yield "model.embed_tokens.weight", model.get_input_embeddings().weight
    base = model.base_model
    names = ("norm", "final_layernorm", "ln_f")
    norm = next(getattr(base, name) for name in names if hasattr(base, name))
    yield from ((f"model.norm.{name}", tensor) for name, tensor in norm.named_parameters())
    if hasattr(base, "wpe"):
        yield "transformer.wpe.weight", base.wpe.weight
    output = model.get_output_embeddings()
    if not is_tied(model) or output.bias is not None:  # graphs that add a bias want a matrix of the output, too
        yield "lm_head.weight", output.weight
    if output.bias is not None:
        yield "lm_head.bias", output.bias


def _layer(layer: Any) -> Parts:
    """Yields the tensors of a layer that has Llama's modules."""
    return iter(layer.named_parameters())


def _gemma_outer(model: Any) -> Parts:
    return _plus_one(_outer(model))


def _gemma_layer(layer: Any) -> Parts:
    return _plus_one(_layer(layer))


def _plus_one(parts: Iterable[tuple[str, Tensor]]) -> Parts:
    """Adds 1 to the weights of norms, as Gemma does when it runs, and llama.cpp does not."""
    return ((name, tensor + 1 if "norm." in name else tensor) for name, tensor in parts)


def _gpt2_layer(layer: Any) -> Parts:
    """Yields the tensors of a `GPT2Block`, whose matrices are transposed and whose query, key and value are fused."""
    names = {"ln_1": "input_layernorm", "attn.c_proj": "self_attn.o_proj", "ln_2": "post_attention_layernorm",
             "mlp.c_fc": "mlp.up_proj", "mlp.c_proj": "mlp.down_proj"}  # fmt: skip
    for name, tensor in layer.named_parameters():
        module, kind = name.rsplit(".", 1)
        tensor = tensor.T if tensor.dim() == 2 else tensor
        if module == "attn.c_attn":
            yield from ((f"self_attn.{x}_proj.{kind}", part) for x, part in zip("qkv", tensor.chunk(3), strict=True))
        else:
            yield f"{names[module]}.{kind}", tensor


def _phi_layer(layer: Any) -> Parts:
    """Yields the tensors of a `PhiDecoderLayer`."""
    names = {"self_attn.dense": "self_attn.o_proj", "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}
    for name, tensor in layer.named_parameters():
        module, kind = name.rsplit(".", 1)
        yield f"{names.get(module, module)}.{kind}", tensor


def _phi3_layer(layer: Any) -> Parts:
    """Yields the tensors of a `Phi3DecoderLayer`, whose fused matrices are query, key and value, and gate and up."""
    attention = layer.self_attn
    queries = attention.o_proj.weight.shape[1]
    keys = (attention.qkv_proj.weight.shape[0] - queries) // 2
    for name, tensor in layer.named_parameters():
        module, kind = name.rsplit(".", 1)
        if module == "self_attn.qkv_proj":
            parts = tensor.split((queries, keys, keys))
            yield from ((f"self_attn.{x}_proj.{kind}", part) for x, part in zip("qkv", parts, strict=True))
        elif module == "mlp.gate_up_proj":
            yield from ((f"mlp.{x}_proj.{kind}", part) for x, part in zip(("gate", "up"), tensor.chunk(2), strict=True))
        else:
            yield name, tensor


@dataclass(frozen=True)
class GraphFamily:
    """Architectures of llama.cpp for a model class, and what their graphs take for granted.

    Attributes:
        plain: for layers of one size.
        free: for layers of different sizes; None where llama.cpp has no such graph.
        tied: whether `free` takes its output matrix from the embeddings.
        square: whether `plain` needs query heads that are together as wide as the residual stream.
        output_biases: whether `plain` has biases of the output projections.
        activations: names in configs of the function that the graph applies to neurons.
        window_every: period of the layers that attend to all tokens, as in 6 for every sixth layer; the others have a
            sliding window. None where the graph has no windows.
        partial_rotary: whether the graph rotates a part of the channels of a head if the file says so.
        required: entries of the config that must be set, because the graph replaces None by a number.
        odd_depth: number of layers at which the graph scales attention in another way.
        outer_parts: the tensors outside of the layers, of a model.
        layer_parts: the tensors of a layer.
    """

    plain: str
    free: str | None = None
    tied: bool = False
    square: bool = False
    output_biases: bool = True
    activations: tuple[str, ...] = _SILU
    window_every: int | None = None
    partial_rotary: bool = False
    required: tuple[str, ...] = ()
    odd_depth: int | None = None
    outer_parts: Callable[[Any], Parts] = _outer
    layer_parts: Callable[[Any], Parts] = _layer


_GEMMA = GraphFamily(
    "gemma", output_biases=False, activations=_GELU, outer_parts=_gemma_outer, layer_parts=_gemma_layer
)

GRAPH_FAMILIES = {
    "LlamaForCausalLM": GraphFamily("llama", "deci"),
    "MistralForCausalLM": GraphFamily("llama", "deci"),
    "Qwen2ForCausalLM": GraphFamily("qwen2", "deci", square=True, output_biases=False),
    "Qwen3ForCausalLM": GraphFamily("qwen3", "openelm", tied=True),
    "GemmaForCausalLM": _GEMMA,
    "Gemma2ForCausalLM": replace(
        _GEMMA,
        plain="gemma2",
        window_every=2,
        required=("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"),
        odd_depth=46,
    ),
    "Gemma3ForCausalLM": replace(_GEMMA, plain="gemma3", window_every=6, required=("sliding_window",), odd_depth=62),
    "PhiForCausalLM": GraphFamily("phi2", square=True, activations=_GELU, partial_rotary=True, layer_parts=_phi_layer),
    "Phi3ForCausalLM": GraphFamily("phi3", square=True, output_biases=False, layer_parts=_phi3_layer),
    "GPT2LMHeadModel": GraphFamily("gpt2", square=True, activations=_GELU, layer_parts=_gpt2_layer),
}


def graph_family_of(model: PreTrainedModel) -> GraphFamily:
    """Returns the family of a model.

    Raises:
        TrimformerError: models of this class cannot be written.
    """
    name = type(model).__name__
    if name not in GRAPH_FAMILIES:
        raise TrimformerError(
            f"GGUF files of {name} are not supported; they are written for {', '.join(sorted(GRAPH_FAMILIES))}"
        )
    return GRAPH_FAMILIES[name]


def parts_of_layers(model: PreTrainedModel) -> list[dict[str, Tensor]]:
    """Returns the tensors of each layer, by the names that Llama gives them."""
    family = graph_family_of(model)
    return [dict(family.layer_parts(layer)) for layer in layers_of(model)]
