"""Lists the tensors of a GGUF file: renamed, padded with units of zeros, and rearranged for llama.cpp."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError
from trimformer.export.gguf.architecture import FUSED, INTERLEAVED, Architecture, LayerSize
from trimformer.export.gguf.graph_families import graph_family_of, head_size, parts_of_layers

POSITIONS = "position_embd.weight"  # embeddings of positions


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

    layers, channels = parts_of_layers(model), head_size(model)
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture.name], len(architecture.layers))

    def renamed(name: str) -> str:
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None:
            raise TrimformerError(f"llama.cpp's graph '{architecture.name}' has no place for the tensor {name}")
        return new

    for name, tensor in graph_family_of(model).outer_parts(model):
        yield _whole(renamed(name), tensor)
    if architecture.rope_factors is not None:
        yield _whole("rope_freqs.weight", architecture.rope_factors)
    for position, (index, size) in enumerate(zip(architecture.layers, architecture.sizes, strict=True)):
        tensors = dict(layer_tensors(layers[index], size, channels, architecture.name))
        for name, part in _fused(tensors, architecture.name):
            yield part._replace(name=renamed(f"model.layers.{position}.{name}"))


def _whole(name: str, tensor: Tensor) -> NamedTensor:
    return NamedTensor(name, tuple(tensor.shape), lambda: tensor)


def _fused(tensors: dict[str, NamedTensor], architecture: str) -> Iterator[tuple[str, NamedTensor]]:
    """Yields the tensors of a layer with the projections joined that are one matrix in the file."""
    for joined, modules in FUSED.get(architecture, {}).items():
        for kind in ("weight", "bias"):
            parts = [tensors.pop(f"{module}.{kind}") for module in modules if f"{module}.{kind}" in tensors]
            if parts:
                shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
                yield f"{joined}.{kind}", NamedTensor(joined, shape, partial(_joined, parts))
    yield from tensors.items()


def _joined(parts: list[NamedTensor]) -> Tensor:
    return torch.cat([part.make() for part in parts])


def layer_tensors(
    parts: Mapping[str, Tensor], size: LayerSize, channels: int, architecture: str
) -> Iterator[tuple[str, NamedTensor]]:
    """Yields the tensors of a layer by their names within it.

    Args:
        parts: names and tensors of the layer, as Llama names them.
        size: in the file.
        channels: of a head.
        architecture: of the file.
    """
    rows = {"q_proj": size.heads * channels, "k_proj": size.kv_heads * channels, "v_proj": size.kv_heads * channels,
            "gate_proj": size.neurons, "up_proj": size.neurons}  # fmt: skip
    columns = {"o_proj": size.heads * channels, "down_proj": size.neurons}
    heads = {"q_proj": size.heads, "k_proj": size.kv_heads} if architecture in INTERLEAVED else {}
    for name, parameter in parts.items():
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
