"""What every later stage knows of a model: its sublayers, told by the leaf modules in which they can be watched."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import nn

from trimformer.models.linear import Linear, matrix

Kind = Literal["attention", "ffn"]

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, eq=False)
class Producer:
    """A linear layer whose output rows are channels of a sublayer, or what its channels are made of.

    Attributes:
        linear: the layer (query, key, value, fc1, a fused projection, ...).
        size: rows that belong to one unit in one block.
        blocks: equal runs of rows, each with all units in order: 3 for fused query, key and value, 2 for
            fused gate and up.
        reads_only_hidden: whether its only input is the sublayer's input, so that a linear map can be folded into it.
    """

    linear: Linear
    size: int
    blocks: int = 1
    reads_only_hidden: bool = True


@dataclass(frozen=True, eq=False)
class Sublayer:
    """An attention or feed-forward sublayer. Its units are groups of `unit_size` input channels of `projection`.

    It is never computed by itself: the layer's own forward runs, and these leaves are watched in it.

    Attributes:
        kind: "attention" (a unit is a head, in grouped-query attention a key-value head with its queries) or
            "ffn" (a unit is a neuron).
        producers: what makes the channels.
        projection: the output projection; its input channels are what pruning removes.
        unit_size: channels per unit: the head size, or 1.
        entry: a leaf whose input is the residual stream before the sublayer: a norm, or a producer.
        output: a leaf whose output is added to the stream; None: the projection itself.
        gain: factor, [hidden], between the projection and what is added (LayerScale).
        parallel: reads the same stream as the sublayer before it, whose output is added with its own (parallel layers).
        calls_per_pass: calls of the layer in one forward pass (more than one where layers share their weights).
        count_attributes: module attributes that say how many units there are: (module, name) -> amount per unit.
        head_selector: an attention that is handed a tensor with an entry per head, and the class that picks the entries
            of heads that are left; see `keep_units`.
        layer: index of the layer in the order in which they run.
        module: the layer itself.
    """

    kind: Kind
    producers: tuple[Producer, ...]
    projection: Linear
    unit_size: int
    entry: nn.Module
    output: nn.Module | None = None
    gain: nn.Parameter | None = None
    parallel: bool = False
    calls_per_pass: int = 1
    count_attributes: Mapping[tuple[nn.Module, str], int] = field(default_factory=dict)
    head_selector: tuple[nn.Module, type[nn.Module]] | None = None
    layer: int = 0
    module: nn.Module = field(default_factory=nn.Identity)

    @property
    def num_units(self) -> int:
        return self.channels // self.unit_size

    @property
    def channels(self) -> int:
        return matrix(self.projection).shape[1]

    @property
    def hidden_size(self) -> int:
        return matrix(self.projection).shape[0]

    @property
    def device(self) -> torch.device:
        return self.projection.weight.device

    @property
    def name(self) -> str:
        return f"layer {self.layer} {self.kind}"

    @property
    def has_fixed_unit_count(self) -> bool:
        """Whether the layer's forward is told how many units there are, and takes no other number."""
        return bool(self.count_attributes) or self.head_selector is not None


def attention(
    producers: tuple[Producer, ...], projection: Linear, head_size: int, entry: nn.Module, **more: Any
) -> Sublayer:
    """An attention sublayer; see `Sublayer` for `more`."""
    return Sublayer("attention", producers, projection, head_size, entry, **more)


def ffn(producers: tuple[Producer, ...], projection: Linear, entry: nn.Module, **more: Any) -> Sublayer:
    """A feed-forward sublayer; see `Sublayer` for `more`."""
    return Sublayer("ffn", producers, projection, 1, entry, **more)


def producers(size: int, *linears: Linear, blocks: int = 1) -> tuple[Producer, ...]:
    """Producers that have `size` rows for a unit in each block."""
    return tuple(Producer(linear, size, blocks) for linear in linears)


def used_count_attributes(heads: nn.Module, **per_unit: int) -> dict[tuple[nn.Module, str], int]:
    """Those of an attention's counts that its forward goes by; others take what the matrices give.

    Args:
        heads: the attention.
        **per_unit: attribute -> amount for each unit.
    """
    read = inspect.unwrap(type(heads).forward).__code__.co_names
    return {(heads, name): amount for name, amount in per_unit.items() if name in read}
