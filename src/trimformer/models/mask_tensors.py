"""Converts between the paper's two mask tensors and one mask per sublayer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimformer.errors import TrimformerError
from trimformer.models import Kind, Sublayer
from trimformer.options.checks import shorten


def check_masks(sublayers: Sequence[Sublayer], masks: Any) -> None:
    """Checks that there is one mask per sublayer, with a finite number for each unit.

    Args:
        sublayers: the model's sublayers.
        masks: one per sublayer, [units].

    Raises:
        TrimformerError: masks are missing, or one is not an ordinary tensor of finite numbers of this length.
    """
    if not isinstance(masks, Sequence) or isinstance(masks, str | bytes):
        raise TrimformerError(f"masks is {shorten(masks)}; give a list of tensors, one per sublayer")
    if len(masks) != len(sublayers):
        raise TrimformerError(f"there are {len(masks)} masks for {len(sublayers)} sublayers; give one mask for each")
    for sublayer, mask in zip(sublayers, masks, strict=True):
        if not isinstance(mask, Tensor):
            raise TrimformerError(f"the mask of {sublayer.name} is {shorten(mask)}; give a tensor, [units]")
        if tuple(mask.shape) != (sublayer.num_units,):
            size = len(mask) if mask.dim() == 1 else f"shape {tuple(mask.shape)}, not"
            raise TrimformerError(f"the mask of {sublayer.name} has {size} entries for {sublayer.num_units} units")
        if not has_finite_numbers(mask):
            raise TrimformerError(f"the mask of {sublayer.name} holds values that are not finite numbers")


def has_finite_numbers(mask: Tensor) -> bool:
    """Returns whether a tensor is an ordinary one, in memory, of finite real numbers."""
    if mask.layout != torch.strided or mask.is_meta or mask.is_complex() or mask.is_quantized:
        return False
    return bool(torch.isfinite(mask).all())


def stack_masks(sublayers: Sequence[Sublayer], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stacks masks into the paper's `head_mask` [layers, heads] and `neuron_mask` [layers, neurons], float32.

    Where layers differ in width, as in a model that is pruned already, rows are padded with zeros at the end.
    """

    def stack(kind: Kind) -> Tensor:
        rows = [m.detach().float().cpu() for s, m in zip(sublayers, masks, strict=True) if s.kind == kind]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    return stack("attention"), stack("ffn")


def unstack_masks(sublayers: Sequence[Sublayer], head_mask: Tensor, neuron_mask: Tensor) -> list[Tensor]:
    """Splits the paper's two tensors into one mask [units] per sublayer; inverse of `stack_masks`."""
    rows = {"attention": iter(head_mask), "ffn": iter(neuron_mask)}
    return [next(rows[s.kind])[: s.num_units] for s in sublayers]
