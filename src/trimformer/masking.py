"""Masks as forward pre-hooks on the output projections: nothing of the model itself is changed.

A mask holds one factor per unit. Multiplying the projection's input by it is the paper's head and
neuron mask (section 3.1), and works alike with eager, SDPA and flash attention.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from trimformer.arch import Sublayer, find_layers, find_sublayers


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with no parameter gradients; on exit every flag is what it was."""
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
        return (inputs[0] * factors, *inputs[1:])

    return module.register_forward_pre_hook(scale_input)


def hijack_input(module: nn.Module, captured: list[Tensor]) -> RemovableHandle:
    """Appends the module's first input to `captured` at each call until the handle is removed."""

    def capture(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        captured.append(inputs[0])

    return module.register_forward_pre_hook(capture)


class Hooks:
    """Context manager that removes its hooks on exit, after an exception too."""

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
    """Context manager: masks on the sublayers inside, none left behind after.

    Args:
        sublayers: where to put the masks.
        masks: one mask per sublayer, [units] or [batch, 1, units].
    """

    def __init__(self, sublayers: Iterable[Sublayer], masks: Iterable[Tensor]) -> None:
        super().__init__()
        self._pairs = list(zip(sublayers, masks, strict=True))

    def __enter__(self) -> Self:
        for sublayer, mask in self._pairs:
            self._handles.append(register_mask(sublayer.projection, mask, sublayer.unit_size))
        return self


class MaskNeurons(MaskUnits):
    """Context manager: masks the neurons of every feed-forward sublayer.

    Args:
        model: a supported model.
        neuron_mask: one mask per layer: [layers, neurons], or a list of [neurons].
    """

    def __init__(self, model: PreTrainedModel, neuron_mask: Tensor | Sequence[Tensor]) -> None:
        super().__init__([s for s in find_sublayers(model) if s.kind == "ffn"], neuron_mask)


class MaskHeads(MaskUnits):
    """Context manager: masks the heads of every attention sublayer; see `MaskNeurons`."""

    def __init__(self, model: PreTrainedModel, head_mask: Tensor | Sequence[Tensor]) -> None:
        super().__init__([s for s in find_sublayers(model) if s.kind == "attention"], head_mask)


def apply_neuron_mask(model: PreTrainedModel, neuron_mask: Tensor | Sequence[Tensor]) -> list[RemovableHandle]:
    """Puts `neuron_mask` on the model until the returned handles are removed; see `MaskNeurons`."""
    ffn = [s for s in find_sublayers(model) if s.kind == "ffn"]
    return [register_mask(s.projection, mask) for s, mask in zip(ffn, neuron_mask, strict=True)]


class LayerInput(NamedTuple):
    """What a layer was called with: hidden states [batch, length, hidden] and its attention mask."""

    hidden: Tensor
    attention_mask: Tensor | None


class _StopForward(Exception):
    pass


@torch.no_grad()
def collect_layer_inputs(
    model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]], layer: int = 0
) -> Iterator[LayerInput]:
    """Yields the input of one layer for each batch; the forward pass stops there.

    The model is left exactly as it was: no hook stays and no flag changes.

    Args:
        model: a supported model.
        batches: keyword arguments of the model's forward.
        layer: index of the layer from the bottom.
    """
    module = find_layers(model)[layer]
    signature = inspect.signature(module.forward)
    captured: list[LayerInput] = []

    def capture(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = signature.bind_partial(*args, **kwargs).arguments
        captured.append(LayerInput(arguments["hidden_states"], arguments.get("attention_mask")))
        raise _StopForward

    for batch in batches:
        with frozen(model):
            handle = module.register_forward_pre_hook(capture, with_kwargs=True)
            try:
                model(**batch)
            except _StopForward:
                pass
            finally:
                handle.remove()
        yield captured.pop()


def dense_masks(sublayers: Iterable[Sublayer]) -> list[Tensor]:
    """Masks of ones, one per sublayer, on the sublayer's own device."""
    return [torch.ones(s.num_units, device=s.projection.weight.device) for s in sublayers]


def stack_masks(sublayers: Sequence[Sublayer], masks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The paper's `head_mask` [layers, heads] and `neuron_mask` [layers, neurons].

    Layers of a model that was shrunk before may differ in width; absent units are zeros at the end.
    """

    def stack(kind: str) -> Tensor:
        rows = [m.detach().float().cpu() for s, m in zip(sublayers, masks, strict=True) if s.kind == kind]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    return stack("attention"), stack("ffn")


def unstack_masks(sublayers: Sequence[Sublayer], head_mask: Tensor, neuron_mask: Tensor) -> list[Tensor]:
    """One mask per sublayer from the paper's two tensors; inverse of `stack_masks`."""
    rows = {"attention": iter(head_mask), "ffn": iter(neuron_mask)}
    return [next(rows[s.kind])[: s.num_units] for s in sublayers]
