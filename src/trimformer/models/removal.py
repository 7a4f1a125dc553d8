"""Physical removal of units from one sublayer of any family."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from trimformer.models.linear import matrix, replace_weights
from trimformer.models.sublayer import Producer, Sublayer


def unit_channels(units: Tensor, unit_size: int) -> Tensor:
    """Returns the channel indices of units, [units * unit_size]."""
    return (units.unsqueeze(1) * unit_size + torch.arange(unit_size, device=units.device)).flatten()


def unit_rows(producer: Producer, units: Tensor, num_units: int) -> Tensor:
    """Returns the row indices of units in a producer, block by block, [units * rows]."""
    blocks, start = [], 0
    for size in producer.block_sizes:
        blocks.append(start + unit_channels(units, size))
        start += num_units * size
    return torch.cat(blocks)


@torch.no_grad()
def keep_units(sublayer: Sublayer, units: Tensor) -> None:
    """Removes all other units from the sublayer, in place: rows of its producers, columns of its projection.

    A sublayer without units outputs its projection's bias. If its layer cannot run with zero units, or if a key-value
    cache counts the tokens of this layer, the producers output one unit of zeros, which the projection drops again.

    Args:
        sublayer: changed in place.
        units: indices of the units to keep, [kept], ascending, on any device but meta. It may be empty.
    """
    num_units, kept_units = sublayer.num_units, units.tolist()
    units = units.to(sublayer.device)
    for producer in sublayer.producers:
        linear, index = producer.linear, unit_rows(producer, units, num_units)
        replace_weights(linear, matrix(linear)[index], None if linear.bias is None else linear.bias[index])
    columns = matrix(sublayer.projection)[:, unit_channels(units, sublayer.unit_size)]
    replace_weights(sublayer.projection, columns, None)
    for (module, name), per_unit in sublayer.count_attributes.items():
        setattr(module, name, max(len(units), 1) * per_unit)
    for (module, name), per_unit in sublayer.head_entries.items():
        _keep_entries(module, name, unit_channels(torch.tensor(kept_units or [0], device="cpu"), per_unit))
    if sublayer.head_selector is not None:
        module, selector_class = sublayer.head_selector
        dense_heads: list[int] = getattr(module, "kept", list(range(num_units)))
        module.kept = [dense_heads[i] for i in kept_units]  # type: ignore[assignment]
        module.__class__ = selector_class
    if num_units and not len(units):
        always = sublayer.has_fixed_unit_count or sublayer.runs_empty
        for producer in sublayer.producers:
            producer.linear.register_forward_hook(partial(_one_unit_of_zeros, producer.rows, always))
        sublayer.projection.register_forward_pre_hook(_no_channels)


def _keep_entries(module: nn.Module, name: str, entries: Tensor) -> None:
    """Replaces a parameter or module list of a module by these entries of it."""
    old = getattr(module, name)
    if isinstance(old, nn.ModuleList):
        setattr(module, name, nn.ModuleList(old[i] for i in entries.tolist()))
    else:
        setattr(module, name, nn.Parameter(old[entries], requires_grad=old.requires_grad))


@torch.no_grad()
def keep_queries(sublayer: Sublayer, kept: Tensor) -> None:
    """Removes query heads from the units of grouped-query attention, in place: the same number from every unit.

    The sublayer's description is out of date afterwards; find the sublayers again.

    Args:
        sublayer: attention whose units have several query heads.
        kept: true for query heads that stay, [units, queries], with as many in each row.
    """
    assert sublayer.queries_attribute is not None
    heads = kept.flatten().nonzero().flatten().to(sublayer.device)
    index = unit_channels(heads, sublayer.unit_size // sublayer.queries)
    linear = sublayer.producers[0].linear
    replace_weights(linear, matrix(linear)[index], None if linear.bias is None else linear.bias[index])
    replace_weights(sublayer.projection, matrix(sublayer.projection)[:, index], None)
    module, name = sublayer.queries_attribute
    setattr(module, name, int(kept[0].sum()))


def kept_heads(sublayer: Sublayer) -> list[int] | None:
    """Returns the dense indices of the remaining heads; None if the family has no tensor with an entry per head."""
    if sublayer.head_selector is None:
        return None
    return getattr(sublayer.head_selector[0], "kept", list(range(sublayer.num_units)))


def _one_unit_of_zeros(width: int, always: bool, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Any:
    if always or output.is_cuda:  # GPU kernels may reject attention without heads
        return output.new_zeros(*output.shape[:-1], width)
    return None


def _no_channels(_: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    return (inputs[0].new_zeros(*inputs[0].shape[:-1], 0),)
