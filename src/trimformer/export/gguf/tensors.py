"""Lists the tensors of a GGUF file: renamed, padded with units of zeros, and rearranged for llama.cpp."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError
from trimformer.export.gguf.architecture import INTERLEAVED, Architecture, LayerSize, is_tied


class NamedTensor(NamedTuple):
    """A tensor of the file, made when it is written."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]


def list_tensors(model: PreTrainedModel, architecture: Architecture) -> Iterator[NamedTensor]:
    """Lists the tensors of a file.

    Args:
        model: in any floating dtype.
        architecture: as chosen for the model.

    Raises:
        TrimformerError: the architecture has no place for one of the model's tensors.
    """
    import gguf

    inner: Any = model.model
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture.name], len(architecture.layers))

    def renamed(name: str) -> str:
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None:
            raise TrimformerError(f"llama.cpp's graph '{architecture.name}' has no place for the tensor {name}")
        return new

    yield _whole(renamed("model.embed_tokens.weight"), inner.embed_tokens.weight)
    yield _whole(renamed("model.norm.weight"), inner.norm.weight)
    if not is_tied(model):
        yield _whole(renamed("lm_head.weight"), model.get_output_embeddings().weight)
    if architecture.rope_factors is not None:
        yield _whole("rope_freqs.weight", architecture.rope_factors)
    for position, (index, size) in enumerate(zip(architecture.layers, architecture.sizes, strict=True)):
        prefix = f"model.layers.{position}."
        parts = dict(layer_tensors(inner.layers[index], size, architecture.name))
        if architecture.name == "openelm":
            fused = [parts.pop(f"self_attn.{name}_proj.weight") for name in "qkv"]
            rows = sum(part.shape[0] for part in fused)
            yield NamedTensor(f"blk.{position}.attn_qkv.weight", (rows, *fused[0].shape[1:]), partial(_joined, fused))
        for name, part in parts.items():
            yield part._replace(name=renamed(prefix + name))


def _whole(name: str, tensor: Tensor) -> NamedTensor:
    return NamedTensor(name, tuple(tensor.shape), lambda: tensor)


def _joined(parts: list[NamedTensor]) -> Tensor:
    return torch.cat([part.make() for part in parts])


def layer_tensors(layer: Any, size: LayerSize, architecture: str) -> Iterator[tuple[str, NamedTensor]]:
    """Yields the tensors of a layer by their names within it."""
    head_size = layer.self_attn.head_dim
    rows = {"q_proj": size.heads * head_size, "k_proj": size.kv_heads * head_size, "v_proj": size.kv_heads * head_size,
            "gate_proj": size.neurons, "up_proj": size.neurons}  # fmt: skip
    columns = {"o_proj": size.heads * head_size, "down_proj": size.neurons}
    heads = {"q_proj": size.heads, "k_proj": size.kv_heads} if architecture in INTERLEAVED else {}
    for name, parameter in layer.named_parameters():
        module, kind = name.split(".")[-2:]
        if not size.heads and (name.startswith("self_attn.") or module == "input_layernorm"):
            continue  # the loader counts tensors, and a layer without heads has no norm before them
        shape = list(parameter.shape)
        if module in rows:
            shape[0] = rows[module]
        if module in columns and kind == "weight":
            shape[1] = columns[module]
        make = partial(_rearranged, parameter, tuple(shape), heads.get(module))
        yield name, NamedTensor(name, tuple(shape), make)


def _rearranged(parameter: Tensor, shape: tuple[int, ...], heads: int | None) -> Tensor:
    """Pads a tensor with zeros at its end, and interleaves the halves of each of its `heads` heads."""
    missing = [new - old for new, old in zip(shape, parameter.shape, strict=True)]
    tensor = pad(parameter.detach(), [n for size in reversed(missing) for n in (0, size)])
    if heads is None:
        return tensor
    return tensor.reshape(heads, 2, -1, *shape[1:]).transpose(1, 2).reshape(shape)
