"""Applies masks with forward pre-hooks on the output projections; the model itself is not changed.

A mask has one factor per unit. Multiplying the projection's input by it equals the paper's head and neuron mask
(section 3.1) and works with eager, SDPA and flash attention.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trimformer.models.sublayer import Sublayer


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Sets evaluation mode and turns parameter gradients off; restores all flags on exit."""
    training = {module: module.training for module in model.modules()}
    requires_grad = {parameter: parameter.requires_grad for parameter in model.parameters()}
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag
        for parameter, flag in requires_grad.items():
            parameter.requires_grad_(flag)


def register_mask(module: nn.Module, mask: Tensor, unit_size: int = 1) -> RemovableHandle:
    """Multiplies the module's input by `mask` until the returned handle is removed.

    Args:
        module: the output projection of a sublayer.
        mask: [units], or [batch, 1, units] for one mask per sample. It may require gradients.
        unit_size: input channels per unit.
    """

    def scale_input(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        factors = mask.to(inputs[0]).repeat_interleave(unit_size, dim=-1)
        if factors.dim() == 3:  # a sample may have several rows: the choices of a question, or all its positions
            factors = factors.repeat_interleave(len(inputs[0]) // len(factors), dim=0)
            factors = factors.squeeze(1) if inputs[0].dim() == 2 else factors
        return (inputs[0] * factors, *inputs[1:])

    return module.register_forward_pre_hook(scale_input)


class Hooks:
    """Context manager that removes its hooks on exit, also after an exception."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()


class MaskUnits(Hooks):
    """Context manager that masks the units of sublayers.

    Args:
        sublayers: the sublayers to mask.
        masks: one mask per sublayer, [units] or [batch, 1, units].
    """

    def __init__(self, sublayers: Iterable[Sublayer], masks: Iterable[Tensor]) -> None:
        super().__init__()
        self._pairs = list(zip(sublayers, masks, strict=True))

    def __enter__(self) -> Self:
        for sublayer, mask in self._pairs:
            self._handles.append(register_mask(sublayer.projection, mask, sublayer.unit_size))
        return self


def units_left(masks: Iterable[Tensor]) -> list[int]:
    """Counts the nonzero entries of each mask."""
    return [int(mask.count_nonzero()) for mask in masks]
