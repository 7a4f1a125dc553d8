"""Layers run by their own forward, with what the real model gave them, and watched at their leaves.

Nothing of a family's forward is written again. A sublayer that needs not be computed is *replayed*: its projection
answers with what is known, and what makes its channels answers with zeros.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from trimformer.errors import TrimformerError
from trimformer.models.discovery import find_sublayers
from trimformer.models.masking import Hooks
from trimformer.models.sublayer import Producer, Sublayer

Batch = Mapping[str, Tensor]

LABEL_KEYS = ("labels", "start_positions", "end_positions")
NON_INPUT_KEYS = (*LABEL_KEYS, "index")


@dataclass
class LayerCall:
    """One call of a layer within a forward pass.

    Attributes:
        layer: what was called.
        args: its positional arguments after the hidden states.
        kwargs: its keyword arguments.
        mask: [batch, length], true at positions that are not padding.
        first_hidden: hidden states [batch, length, hidden] that enter the first layer of a tower; None elsewhere.
    """

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    mask: Tensor
    first_hidden: Tensor | None

    def __call__(self, hidden: Tensor) -> Tensor:
        """The layer's output for these hidden states."""
        return hidden_states(self.layer(hidden, *self.args, **self.kwargs))

    def with_layer(self, layer: nn.Module) -> "LayerCall":
        """The same call of another model's layer."""
        return LayerCall(layer, self.args, self.kwargs, self.mask, self.first_hidden)


def hidden_states(output: Any) -> Tensor:
    """The hidden states of a layer's output, which may be a tuple."""
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden


class StopForward(Exception):
    """Ends a forward pass where all that was wanted has been seen."""


def model_inputs(batch: Batch) -> dict[str, Tensor]:
    """What the model's forward takes: no labels, no sample index."""
    return {key: value for key, value in batch.items() if key not in NON_INPUT_KEYS}


def forward(model: nn.Module, batch: Batch) -> Any:
    """Runs a model on a batch, without the cache of keys and values that decoders would keep."""
    cached = getattr(model.config, "use_cache", None) and not getattr(model.config, "is_encoder_decoder", False)
    return model(**model_inputs(batch), **({"use_cache": False} if cached else {}))


def position_mask(model: nn.Module, batch: Batch, hidden: Tensor, has_mask: bool = True) -> Tensor:
    """[rows, length], true at positions of hidden states that are not padding.

    Args:
        model: whose layers see the hidden states.
        batch: of samples.
        hidden: [rows, length, hidden].
        has_mask: whether the layer is given a mask at all; else it attends everywhere, and all positions count.
    """
    mask = batch.get("attention_mask")
    if mask is None or not has_mask:
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    mask = mask.reshape(-1, mask.shape[-1])
    if mask.shape[1] != hidden.shape[1]:  # audio: the mask is of samples, the layers see frames
        of_frames = getattr(model, "_get_feature_vector_attention_mask", None)
        if of_frames is None:
            return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        mask = of_frames(hidden.shape[1], mask)
    return mask.bool()


class LayerObserver(Hooks):
    """Context manager: `see` is called before every call of a layer that holds sublayers.

    Args:
        layers: what to watch.
        see: (layer, hidden states, arguments after them, keyword arguments).
    """

    def __init__(
        self, layers: Iterable[nn.Module], see: Callable[[nn.Module, Tensor, tuple[Any, ...], dict[str, Any]], None]
    ) -> None:
        super().__init__()
        self._layers, self._see = list(layers), see

    def __enter__(self) -> Self:
        for layer in self._layers:
            self._handles.append(layer.register_forward_pre_hook(self._hook, with_kwargs=True))
        return self

    def _hook(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args:
            self._see(layer, args[0], args[1:], kwargs)
        else:
            rest = {key: value for key, value in kwargs.items() if key != "hidden_states"}
            self._see(layer, kwargs["hidden_states"], (), rest)


@cache
def _parameters(layer_class: type[nn.Module]) -> list[str]:
    return list(inspect.signature(layer_class.forward).parameters)[2:]  # after self and the hidden states


def named_arguments(layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A layer's arguments by name; `args` are those after the hidden states."""
    return {**dict(zip(_parameters(type(layer)), args, strict=False)), **kwargs}  # type: ignore[arg-type]


def has_attention_mask(layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a layer is given an attention mask."""
    return named_arguments(layer, args, kwargs).get("attention_mask") is not None


class PaddingTracker(LayerObserver):
    """Context manager that knows which positions of the layer that runs are no padding.

    Args:
        model: to be run on `batch`, which is set before each pass.

    Attributes:
        batch: of the pass.
        mask: [batch, length] of the layer that was called last.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(dict.fromkeys(s.module for s in find_sublayers(model)), self._keep_mask)
        self._model = model
        self.batch: Batch = {}
        self.mask = torch.empty(0)

    def _keep_mask(self, layer: nn.Module, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.mask = position_mask(self._model, self.batch, hidden, has_attention_mask(layer, args, kwargs))


@torch.no_grad()
def record_calls(model: nn.Module, batch: Batch) -> list[LayerCall]:
    """The calls of the model's layers for a batch, in the order of `find_sublayers`.

    That is the order in which they happen, but for towers: which of two runs first is their model's affair.

    Sublayers are replayed with zeros on the way, so this costs next to nothing.

    Args:
        model: in evaluation mode.
        batch: of samples.

    Raises:
        TrimformerError: the model works on the hidden states between its layers.
    """
    sublayers = find_sublayers(model)
    layers = list(dict.fromkeys(s.module for s in sublayers))
    visits = sum({id(s.module): s.calls_per_pass for s in sublayers}.values())
    owner = {id(child): parent for parent in model.modules() for child in parent.children()}
    calls: list[LayerCall] = []
    last: list[Any] = [None]  # the latest output of a layer

    def see(layer: nn.Module, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        goes_on = hidden is last[0]
        if calls and not goes_on and owner[id(layer)] is owner[id(calls[-1].layer)]:
            raise TrimformerError(
                f"{type(model).__name__} works on the hidden states between its layers (a convolution?); such models "
                "cannot be refitted layer by layer"
            )
        mask = position_mask(model, batch, hidden, has_attention_mask(layer, args, kwargs))
        calls.append(LayerCall(layer, args, kwargs, mask, None if goes_on else hidden))
        if len(calls) == visits:
            raise StopForward

    def keep(_: nn.Module, inputs: Any, output: Any) -> None:
        last[0] = hidden_states(output)

    handles = [layer.register_forward_hook(keep) for layer in layers]
    nothing = [(s, partial(_zeros, s.hidden_size)) for s in sublayers]
    try:
        with suppress(StopForward), LayerObserver(layers, see), replay_sublayers(nothing):
            forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    index = {id(layer): i for i, layer in enumerate(layers)}
    return sorted(calls, key=lambda call: index[id(call.layer)])


def _zeros(width: int, x: Tensor) -> Tensor:
    return x.new_zeros(()).expand(*x.shape[:-1], width)


@contextmanager
def replay_sublayers(answers: Iterable[tuple[Sublayer, Callable[[Tensor], Tensor]]]) -> Iterator[None]:
    """Leaves the work of sublayers out: their producers make zeros, their projections give the answers.

    Args:
        answers: sublayers, and what their projection says to the zeros that reach it.
    """
    leaves: list[nn.Module] = []
    try:
        for sublayer, answer in answers:
            for producer in sublayer.producers:
                vars(producer.linear)["forward"] = partial(_zeros, _shown(sublayer, producer))
                leaves.append(producer.linear)
            vars(sublayer.projection)["forward"] = answer
            leaves.append(sublayer.projection)
        yield
    finally:
        for leaf in leaves:
            vars(leaf).pop("forward", None)


def _shown(sublayer: Sublayer, producer: Producer) -> int:
    """Channels that a layer is shown in place of a producer's: those of one unit where it takes any number."""
    units = sublayer.num_units if sublayer.has_fixed_unit_count else 1
    return max(units, 1) * producer.size * producer.blocks


class LeafRecorder(Hooks):
    """Context manager: keeps the inputs, or the outputs, of one leaf, and may stop the pass there.

    Args:
        leaf: a module that takes one tensor and gives one.
        outputs: keep what it gives, not what it takes.
        stop: end the pass at this call of the leaf (1: the first); 0: never.
    """

    def __init__(self, leaf: nn.Module, *, outputs: bool = False, stop: int = 0) -> None:
        super().__init__()
        self._leaf, self._outputs, self.stop = leaf, outputs, stop
        self.tensors: list[Tensor] = []

    def __enter__(self) -> "LeafRecorder":
        if self._outputs:
            self._handles.append(self._leaf.register_forward_hook(lambda _, inputs, output: self._see(output)))
        else:
            self._handles.append(self._leaf.register_forward_pre_hook(lambda _, inputs: self._see(inputs[0])))
        return self

    def _see(self, tensor: Tensor) -> None:
        self.tensors.append(tensor)
        if len(self.tensors) == self.stop:
            raise StopForward
