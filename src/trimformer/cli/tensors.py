"""Compares the masks and weights of two model directories byte by byte."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from trimformer.checkpoints.load_guard import weight_files
from trimformer.errors import TrimformerError, one_sentence
from trimformer.utils.input_paths import check_readable

MASKS = ("head_mask.pt", "neuron_mask.pt")
_MAX_LINES = 3


@dataclass(frozen=True)
class Tensors:
    """Named tensors on disk.

    Attributes:
        read: by name, a function that reads the tensor.
    """

    read: Mapping[str, Callable[[], Tensor]]

    @classmethod
    def masks(cls, folder: Path) -> "Tensors":
        """Returns the head and neuron masks of a pruned directory.

        Raises:
            TrimformerError: a mask file is missing or does not hold a plain tensor.
        """
        masks = cls({name: partial(_read_mask, _existing(folder, name)) for name in MASKS})
        for read in masks.read.values():
            read()  # a broken file fails here, before the long run
        return masks

    @classmethod
    def weights(cls, folder: Path) -> "Tensors":
        """Returns the tensors of all safetensors files, also those of a sentence-transformers directory's modules.

        Raises:
            TrimformerError: there are no safetensors files, or one cannot be read.
        """
        weights: dict[str, Callable[[], Tensor]] = {}
        for file in weight_files(folder, "*.safetensors", "*/*.safetensors"):
            check_readable(file, "weights file")
            with one_sentence(f"weights '{file}' cannot be read"), safe_open(file, framework="pt") as opened:
                prefix = "" if file.parent == folder else f"{file.parent.relative_to(folder)}/"
                weights |= {prefix + name: partial(_read_weight, file, name) for name in opened.keys()}  # noqa: SIM118
        if not weights:
            raise TrimformerError(f"'{folder}' holds no weights to compare with; reproduce needs the whole directory")
        return cls(weights)

    def differences(self, other: "Tensors") -> list[str]:
        """Returns lines that count and list the tensors that differ from those of `other`, empty if none does."""
        lines = [f"{name} only then" for name in self.read if name not in other.read]
        lines += [f"{name} only now" for name in other.read if name not in self.read]
        changes = {name: _difference(self, other, name) for name in self.read if name in other.read}
        lines += [f"{name} {change}" for name, change in changes.items() if change]
        if not lines:
            return []
        more = ["..."] if len(lines) > _MAX_LINES else []
        return [f"{len(lines)} of {len({**self.read, **other.read})} tensors differ:", *lines[:_MAX_LINES], *more]


def _difference(old: Tensors, new: Tensors, name: str) -> str:
    """Returns how a tensor changed, or "" if its bytes are the same."""
    then, now = old.read[name](), new.read[name]()
    if (then.shape, then.dtype) != (now.shape, now.dtype):
        return f"{_shape_and_dtype(then)} then, {_shape_and_dtype(now)} now"
    if torch.equal(_bytes(then), _bytes(now)):
        return ""
    return f"by {float((then.double() - now.double()).abs().max()):.2g} at most"


def _shape_and_dtype(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _bytes(tensor: Tensor) -> Tensor:
    """Returns the tensor's bytes, in which NaN equals NaN, and 0 differs from -0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _existing(folder: Path, name: str) -> Path:
    """Returns the path of a mask file after checking that it can be read."""
    file = folder / name
    if not file.is_file():
        raise TrimformerError(f"'{folder}' holds no {name} to compare with; reproduce needs the whole directory")
    check_readable(file, "mask file")
    return file


def _read_mask(file: Path) -> Tensor:
    """Reads a mask without executing anything that the file may contain."""
    with one_sentence(f"mask file '{file}' is not a plain tensor"):
        mask: Any = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(mask, Tensor) or mask.is_quantized or mask.is_complex():
            raise TrimformerError("it holds something else")
        return mask


def _read_weight(file: Path, name: str) -> Tensor:
    """Reads one tensor of a safetensors file."""
    with one_sentence(f"weights '{file}' cannot be read"), safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)
