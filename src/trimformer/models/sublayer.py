"""Describes a sublayer by the modules where its input and output can be observed."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import nn

from trimformer.models.linear import Linear, matrix

Kind = Literal["attention", "ffn"]

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, eq=False)
class Producer:
    """A linear layer that computes the channels of a sublayer, or an operand of them (query, key, gate).

    Attributes:
        linear: the layer (query, key, value, fc1, a fused projection, ...).
        size: output rows per unit and block.
        blocks: consecutive blocks of rows, each with all units in order: 3 for fused query, key and value, 2 for
            fused gate and up. A tuple where blocks differ in size, with the multiple of `size` that each has per unit.
        reads_only_hidden: whether its only input is the sublayer's input, so that a linear map can be folded into it.
        reads_hidden: whether the sublayer's input is among its inputs.
        position_rows: rows of relative position embeddings that it projects in each pass.
    """

    linear: Linear
    size: int
    blocks: int | tuple[int, ...] = 1
    reads_only_hidden: bool = True
    reads_hidden: bool = True
    position_rows: int = 0

    @property
    def block_sizes(self) -> tuple[int, ...]:
        """Output rows per unit of each block."""
        multiples = (1,) * self.blocks if isinstance(self.blocks, int) else self.blocks
        return tuple(self.size * multiple for multiple in multiples)

    @property
    def rows(self) -> int:
        """Output rows per unit in all blocks."""
        return sum(self.block_sizes)


@dataclass(frozen=True, eq=False)
class Sublayer:
    """An attention or feed-forward sublayer. Its units are groups of `unit_size` input channels of `projection`.

    A sublayer is never computed in isolation: the layer's own forward runs, and hooks observe these leaf modules.

    Attributes:
        kind: "attention" (a unit is a head, in grouped-query attention a key-value head with its queries) or
            "ffn" (a unit is a neuron).
        producers: the linear layers that compute the channels.
        projection: the output projection; pruning removes its input channels.
        unit_size: channels per unit: the head size, or 1.
        entry: a leaf module whose input is the residual stream before the sublayer: a norm, or a producer.
        output: a leaf module whose output is added to the residual stream; None where that is the projection.
        gain: factor [hidden] applied after the projection (LayerScale).
        multiplier: number by which the layer multiplies the sublayer's output before it adds it to the stream.
        parallel: whether it reads the same residual stream as the sublayer before it (parallel layers).
        pair_products: products of a unit's channels per pair of positions: queries and keys, weights and values.
        position_products: relative positions by which the channels of every position are multiplied.
        calls_per_pass: calls of the layer in one forward pass (more than one where depths share a layer).
        count_attributes: module attributes that store the number of units: (module, name) -> amount per unit.
        head_selector: an attention module that receives a tensor with one entry per head, and its subclass that
            selects the entries of the remaining heads; see `keep_units`.
        head_entries: parameters or module lists of the attention with an entry per head in their first dimension:
            (module, name) -> entries per unit. They keep the first unit's entries where no unit is left.
        runs_empty: whether the layer has to run with one unit of zeros if no unit is left, as it cannot run with none,
            or as a key-value cache asks this layer for its number of tokens.
        queries: query heads of a unit, in grouped-query attention; their rows are those of the first producer.
        queries_attribute: the module and the name of its attribute that `forward()` reads `queries` from; None where
            all units must keep their query heads.
        layer: index of the layer, in execution order.
        module: the layer.
    """

    kind: Kind
    producers: tuple[Producer, ...]
    projection: Linear
    unit_size: int
    entry: nn.Module
    output: nn.Module | None = None
    gain: nn.Parameter | None = None
    multiplier: float = 1.0
    parallel: bool = False
    pair_products: int = 2
    position_products: int = 0
    calls_per_pass: int = 1
    count_attributes: Mapping[tuple[nn.Module, str], int] = field(default_factory=dict)
    head_selector: tuple[nn.Module, type[nn.Module]] | None = None
    head_entries: Mapping[tuple[nn.Module, str], int] = field(default_factory=dict)
    runs_empty: bool = False
    queries: int = 1
    queries_attribute: tuple[nn.Module, str] | None = None
    layer: int = 0
    module: nn.Module = field(default_factory=nn.Identity)

    @property
    def num_units(self) -> int:
        """Number of heads or neurons."""
        return self.channels // self.unit_size

    @property
    def channels(self) -> int:
        """Number of input channels of the output projection."""
        return matrix(self.projection).shape[1]

    def with_queries(self, queries: int) -> "Sublayer":
        """Returns a description of the sublayer with fewer query heads in every unit; its weights are not changed."""
        size = self.unit_size // self.queries * queries
        first, *others = self.producers
        return replace(self, unit_size=size, producers=(replace(first, size=size), *others), queries=queries)

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return matrix(self.projection).shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the output projection."""
        return self.projection.weight.device

    @property
    def name(self) -> str:
        """Name for messages, such as "layer 3 attention"."""
        return f"layer {self.layer} {self.kind}"

    @property
    def has_fixed_unit_count(self) -> bool:
        """Whether `forward()` reads the number of units from an attribute or an argument."""
        return bool(self.count_attributes or self.head_entries) or self.head_selector is not None


def attention(
    producers: tuple[Producer, ...], projection: Linear, head_size: int, entry: nn.Module, **options: Any
) -> Sublayer:
    """Describes an attention sublayer; `options` are further attributes of `Sublayer`."""
    return Sublayer("attention", producers, projection, head_size, entry, **options)


def ffn(producers: tuple[Producer, ...], projection: Linear, entry: nn.Module, **options: Any) -> Sublayer:
    """Describes a feed-forward sublayer; `options` are further attributes of `Sublayer`."""
    return Sublayer("ffn", producers, projection, 1, entry, **options)


def producers(size: int, *linears: Linear, blocks: int = 1) -> tuple[Producer, ...]:
    """Describes linear layers that have `size` rows per unit and block."""
    return tuple(Producer(linear, size, blocks) for linear in linears)


def used_count_attributes(heads: nn.Module, **per_unit: int) -> dict[tuple[nn.Module, str], int]:
    """Selects the attributes that the attention's `forward()` reads; other classes infer sizes from their weights.

    Args:
        heads: the attention module.
        **per_unit: attribute name -> amount per head.

    Returns:
        A value for `Sublayer.count_attributes`.
    """
    names_used = inspect.unwrap(type(heads).forward).__code__.co_names
    return {(heads, name): amount for name, amount in per_unit.items() if name in names_used}
