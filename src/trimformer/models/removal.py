"""Physical removal of units from one sublayer, whatever its family."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trimformer.models.linear import matrix, replace_weights
from trimformer.models.sublayer import Producer, Sublayer


def unit_channels(units: Tensor, unit_size: int) -> Tensor:
    """Indices of the channels of units, [units * unit_size]."""
    return (units.unsqueeze(1) * unit_size + torch.arange(unit_size, device=units.device)).flatten()


def unit_rows(producer: Producer, units: Tensor, num_units: int) -> Tensor:
    """Indices of a producer's rows that belong to units, block by block."""
    block = unit_channels(units, producer.size)
    starts = torch.arange(producer.blocks, device=units.device) * (num_units * producer.size)
    return (starts.unsqueeze(1) + block).flatten()


@torch.no_grad()
def keep_units(sublayer: Sublayer, units: Tensor) -> None:
    """Keeps only these units of the sublayer, in place: rows of its producers, columns of its projection.

    A sublayer that loses all of them answers with its projection's bias. A layer that does not run without units is
    shown one of zeros; no later result depends on it, so every family runs, and exporters leave the rest out.

    Args:
        sublayer: changed in place.
        units: indices of the units to keep, in order, [kept], on any device that holds values. It may be empty.
    """
    num_units, names = sublayer.num_units, units.tolist()
    units = units.to(sublayer.device)
    for producer in sublayer.producers:
        linear, index = producer.linear, unit_rows(producer, units, num_units)
        replace_weights(linear, matrix(linear)[index], None if linear.bias is None else linear.bias[index])
    columns = matrix(sublayer.projection)[:, unit_channels(units, sublayer.unit_size)]
    replace_weights(sublayer.projection, columns, None)
    for (module, name), per_unit in sublayer.count_attributes.items():
        setattr(module, name, max(len(units), 1) * per_unit)
    if sublayer.head_selector is not None:
        module, narrowed = sublayer.head_selector
        before: list[int] = getattr(module, "kept", list(range(num_units)))
        module.kept = [before[i] for i in names]  # type: ignore[assignment]
        module.__class__ = narrowed
    if num_units and not len(units):
        for producer in sublayer.producers:
            width = producer.size * producer.blocks
            producer.linear.register_forward_hook(partial(_one_unit_of_zeros, width, sublayer.has_fixed_unit_count))
        sublayer.projection.register_forward_pre_hook(_no_channels)


def kept_heads(sublayer: Sublayer) -> list[int] | None:
    """The heads of the dense model that are left, where the family has tensors with an entry for each of them."""
    if sublayer.head_selector is None:
        return None
    return getattr(sublayer.head_selector[0], "kept", list(range(sublayer.num_units)))


def _one_unit_of_zeros(width: int, needed: bool, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
    if needed or output.is_cuda:  # kernels of GPUs may not take attention without heads
        return output.new_zeros(*output.shape[:-1], width)
    return None


def _no_channels(_: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    return (inputs[0].new_zeros(*inputs[0].shape[:-1], 0),)
