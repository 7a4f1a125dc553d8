"""What every later stage knows of a model: its sublayers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

Kind = Literal["attention", "ffn"]


@dataclass(frozen=True, eq=False)
class Sublayer:
    """An attention or feed-forward sublayer: `norm(projection(channels(hidden)) + hidden)`.

    Its units (heads or neurons) are groups of `unit_size` consecutive input channels of `projection`.

    Attributes:
        kind: "attention" (a unit is a head) or "ffn" (a unit is a neuron).
        layer: index of the layer, from the bottom.
        projection: the output projection; its input channels are what pruning removes.
        producers: linear layers whose output rows are those channels (query, key, value; or fc1).
        norm: what follows the residual sum (identity where the family normalises first).
        channels: maps (hidden [batch, length, hidden], attention mask) to the projection's input
            [batch, length, channels].
        unit_size: channels per unit: the head size, or 1.
        empty: called when no unit is left, so that what makes the channels is not run for nothing; ONNX Runtime
            refuses attention without heads.
    """

    kind: Kind
    layer: int
    projection: nn.Linear
    producers: tuple[nn.Linear, ...]
    norm: nn.Module
    channels: Callable[[Tensor, Tensor | None], Tensor]
    unit_size: int
    empty: Callable[[], None] = lambda: None

    @property
    def num_units(self) -> int:
        return self.projection.in_features // self.unit_size

    @property
    def name(self) -> str:
        return f"layer {self.layer} {self.kind}"


@dataclass(frozen=True)
class Family:
    """An adapter: where the sublayers of one model family are.

    Attributes:
        model_types: values of `config.model_type` that it covers.
        layers: base model -> its layers, bottom first.
        sublayers: (layer, index) -> its sublayers in the order they run.
    """

    model_types: tuple[str, ...]
    layers: Callable[[Any], nn.ModuleList]
    sublayers: Callable[[Any, int], Iterator[Sublayer]]
