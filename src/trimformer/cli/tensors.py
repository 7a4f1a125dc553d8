"""The tensors of two directories, compared byte by byte."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from trimformer.errors import TrimformerError, one_sentence
from trimformer.utils.input_paths import check_readable

MASKS = ("head_mask.pt", "neuron_mask.pt")
_SHOWN = 3


@dataclass(frozen=True)
class Tensors:
    """Tensors by name, each read when it is asked for."""

    read: Mapping[str, Callable[[], Tensor]]

    @classmethod
    def masks(cls, folder: Path) -> "Tensors":
        """Raises:
        TrimformerError: a mask is missing, or is none.
        """
        made = cls({name: partial(_read_mask, _there(folder, name)) for name in MASKS})
        for read in made.read.values():
            read()  # what is wrong with them is told now
        return made

    @classmethod
    def weights(cls, folder: Path) -> "Tensors":
        """Of all safetensors files, those of a sentence-transformers directory's modules too.

        Raises:
            TrimformerError: there are none, or one cannot be read.
        """
        found: dict[str, Callable[[], Tensor]] = {}
        for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*/*.safetensors")]):
            check_readable(file, "weights file")
            with one_sentence(f"weights '{file}' cannot be read"), safe_open(file, framework="pt") as opened:
                where = "" if file.parent == folder else f"{file.parent.relative_to(folder)}/"
                found |= {where + name: partial(_read_weight, file, name) for name in opened.keys()}  # noqa: SIM118
        if not found:
            raise TrimformerError(f"'{folder}' holds no weights to compare with: its results.json stands by itself")
        return cls(found)

    def differences(self, other: "Tensors") -> list[str]:
        """What is not the same in the other, in lines."""
        lines = [f"{name} only then" for name in self.read if name not in other.read]
        lines += [f"{name} only now" for name in other.read if name not in self.read]
        apart = {name: told for name in self.read if name in other.read if (told := _apart(self, other, name))}
        lines += [f"{name} {told}" for name, told in apart.items()]
        if not lines:
            return []
        more = ["..."] if len(lines) > _SHOWN else []
        return [f"{len(lines)} of {len({**self.read, **other.read})} tensors differ:", *lines[:_SHOWN], *more]


def _apart(one: Tensors, other: Tensors, name: str) -> str:
    """How two tensors differ; empty where they do not."""
    then, now = one.read[name](), other.read[name]()
    if (then.shape, then.dtype) != (now.shape, now.dtype):
        return f"{_kind(then)} then, {_kind(now)} now"
    if torch.equal(_bytes(then), _bytes(now)):
        return ""
    return f"by {float((then.double() - now.double()).abs().max()):.2g} at most"


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _bytes(tensor: Tensor) -> Tensor:
    """So that NaN is NaN, and 0 is not -0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _there(folder: Path, name: str) -> Path:
    file = folder / name
    if not file.is_file():
        raise TrimformerError(f"'{folder}' holds no {name} to compare with: its results.json stands by itself")
    check_readable(file, "mask file")
    return file


def _read_mask(file: Path) -> Tensor:
    with one_sentence(f"mask file '{file}' is not a plain tensor"):
        mask: Any = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(mask, Tensor) or mask.is_quantized or mask.is_complex():
            raise TrimformerError("it holds something else")
        return mask


def _read_weight(file: Path, name: str) -> Tensor:
    with one_sentence(f"weights '{file}' cannot be read"), safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)
