"""Records and repeats the calls of a model's layers, and observes leaf modules inside them.

Layers always run by their own `forward()`, with the arguments that the model passed, so no forward is reimplemented.
A sublayer whose output is known is *replayed*: its projection returns that output, its producers return zeros.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel

from trimformer.errors import TrimformerError
from trimformer.models.discovery import find_sublayers
from trimformer.models.masking import Hooks
from trimformer.models.sublayer import Producer, Sublayer

Batch = Mapping[str, Tensor]

LABEL_KEYS = ("labels", "start_positions", "end_positions")
NEXT_TOKENS = "next_tokens"  # [batch, length]: for language models, the token to predict at each position, or -100
NON_INPUT_KEYS = (*LABEL_KEYS, NEXT_TOKENS, "index")


@dataclass
class LayerCall:
    """One call of a layer within a forward pass.

    Attributes:
        layer: the layer.
        args: positional arguments after the hidden states.
        kwargs: keyword arguments.
        mask: [batch, length], true at positions that are not padding.
        first_hidden: hidden states [batch, length, hidden] that enter the first layer of a tower; None elsewhere.
    """

    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    mask: Tensor
    first_hidden: Tensor | None

    def __call__(self, hidden: Tensor) -> Tensor:
        """Runs the layer on hidden states [batch, length, hidden] and returns its output of that shape."""
        return hidden_states(self.layer(hidden, *self.args, **self.kwargs))

    def with_layer(self, layer: nn.Module) -> Self:
        """Returns the same call for a layer of another model."""
        return replace(self, layer=layer)


def hidden_states(output: Any) -> Tensor:
    """Returns the hidden states of a layer's output, which may be a tuple."""
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden


def by_position(rows: Tensor, mask: Tensor) -> Tensor:
    """Returns a leaf's rows as [batch, length, n], which some layers flatten to [batch * length, n] (OPT's FFN).

    Args:
        rows: input or output of a leaf module, either shape.
        mask: [batch, length], of the call.
    """
    return rows.unflatten(0, mask.shape) if rows.dim() == 2 else rows


class StopForward(Exception):
    """Ends a forward pass early, once everything needed was recorded."""


def model_inputs(batch: Batch) -> dict[str, Tensor]:
    """Returns the arguments of the model's forward: the batch without labels and sample index."""
    return {key: value for key, value in batch.items() if key not in NON_INPUT_KEYS}


def forward(model: nn.Module, batch: Batch) -> Any:
    """Runs a model on a batch, without a decoder's key-value cache; sounds and pixels take the model's dtype."""
    has_cache = getattr(model.config, "use_cache", None) and not getattr(model.config, "is_encoder_decoder", False)
    dtype: Any = model.dtype
    inputs = {key: v.to(dtype) if v.is_floating_point() else v for key, v in model_inputs(batch).items()}
    return model(**inputs, **({"use_cache": False} if has_cache else {}))


def position_mask(model: nn.Module, batch: Batch, hidden: Tensor, has_mask: bool = True) -> Tensor:
    """Returns a mask [rows, length], true at positions of hidden states that are not padding.

    Args:
        model: the model that is running.
        batch: its batch.
        hidden: hidden states [rows, length, hidden] of one of its layers.
        has_mask: whether the layer receives an attention mask; without one it attends to all positions.
    """
    mask = batch.get("attention_mask")
    if mask is None or not has_mask:
        return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    mask = mask.reshape(-1, mask.shape[-1])
    if mask.shape[1] != hidden.shape[1]:  # audio: the mask covers samples, the layers process frames
        to_frame_mask = getattr(model, "_get_feature_vector_attention_mask", None)
        if to_frame_mask is None:
            return torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        mask = to_frame_mask(hidden.shape[1], mask)
    return mask.bool()


class LayerObserver(Hooks):
    """Context manager that runs a callback before every call of some layers.

    Args:
        layers: the layers to observe.
        callback: takes the layer, its hidden states, the other positional arguments, and the keyword arguments.
    """

    def __init__(
        self,
        layers: Iterable[nn.Module],
        callback: Callable[[nn.Module, Tensor, tuple[Any, ...], dict[str, Any]], None],
    ) -> None:
        super().__init__()
        self._layers, self._callback = list(layers), callback

    def __enter__(self) -> Self:
        for layer in self._layers:
            self._handles.append(layer.register_forward_pre_hook(self._hook, with_kwargs=True))
        return self

    def _hook(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args:
            self._callback(layer, args[0], args[1:], kwargs)
        else:
            rest = {key: value for key, value in kwargs.items() if key != "hidden_states"}
            self._callback(layer, kwargs["hidden_states"], (), rest)


@cache
def _parameters(layer_class: type[nn.Module]) -> list[str]:
    return list(inspect.signature(layer_class.forward).parameters)[2:]  # after self and the hidden states


def named_arguments(layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a layer's arguments by name; `args` are those after the hidden states."""
    return {**dict(zip(_parameters(type(layer)), args, strict=False)), **kwargs}  # type: ignore[arg-type]


def has_attention_mask(layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Returns whether a layer receives an attention mask."""
    return named_arguments(layer, args, kwargs).get("attention_mask") is not None


class PaddingTracker(LayerObserver):
    """Context manager that tracks which positions of the running layer are not padding.

    Args:
        model: the model to run.

    Attributes:
        batch: the current batch; set it before each forward pass.
        mask: [batch, length], true at positions that are not padding, for the layer that was called last.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(dict.fromkeys(s.module for s in find_sublayers(model)), self._update_mask)
        self._model = model
        self.batch: Batch = {}
        self.mask = torch.empty(0)

    def _update_mask(self, layer: nn.Module, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.mask = position_mask(self._model, self.batch, hidden, has_attention_mask(layer, args, kwargs))


@torch.no_grad()
def record_calls(model: nn.Module, batch: Batch) -> list[LayerCall]:
    """Records the calls of a model's layers for a batch, in the order of `find_sublayers`.

    All sublayers are replayed with zeros, so this is cheap. Within a tower the order is that of execution.

    Args:
        model: a model in evaluation mode.
        batch: a batch of samples.

    Raises:
        TrimformerError: the model changes the hidden states between its layers.
    """
    sublayers = find_sublayers(model)
    layers = list(dict.fromkeys(s.module for s in sublayers))
    num_calls = sum({id(s.module): s.calls_per_pass for s in sublayers}.values())
    parents = {id(child): parent for parent in model.modules() for child in parent.children()}
    calls: list[LayerCall] = []
    last_output: Tensor | None = None

    def record(layer: nn.Module, hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        continues = hidden is last_output
        if calls and not continues and parents[id(layer)] is parents[id(calls[-1].layer)]:
            raise TrimformerError(
                f"{type(model).__name__} changes the hidden states between its layers (with a convolution?), so it "
                "cannot be refitted layer by layer; choose another model"
            )
        mask = position_mask(model, batch, hidden, has_attention_mask(layer, args, kwargs))
        # Some heads drop `use_cache` (Falcon's for questions); a layer that is called again must not add to a cache.
        args, kwargs = tuple(map(_drop_cache, args)), {key: _drop_cache(value) for key, value in kwargs.items()}
        calls.append(LayerCall(layer, args, kwargs, mask, None if continues else hidden))
        if len(calls) == num_calls:
            raise StopForward

    def keep_output(_: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal last_output
        last_output = hidden_states(output)

    handles = [layer.register_forward_hook(keep_output) for layer in layers]
    outputs = [(s, partial(_zeros, s.hidden_size)) for s in sublayers]
    try:
        with suppress(StopForward), LayerObserver(layers, record), replay_sublayers(outputs):
            forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    index = {id(layer): i for i, layer in enumerate(layers)}
    return sorted(calls, key=lambda call: index[id(call.layer)])


def count_positions(model: PreTrainedModel, batches: Sequence[Batch]) -> list[int]:
    """Returns the positions that each sublayer reads in all batches, padding included, extrapolated from the first."""
    sublayers = find_sublayers(model)
    if not batches:
        return [0] * len(sublayers)
    sizes = [batch[model.main_input_name].numel() for batch in batches]
    of_layer = {id(call.layer): call.mask.numel() for call in record_calls(model, batches[0])}
    return [sum(sizes) * of_layer[id(s.module)] // sizes[0] for s in sublayers]


def _drop_cache(argument: Any) -> Any:
    return None if isinstance(argument, Cache) else argument


def _zeros(width: int, x: Tensor) -> Tensor:
    return x.new_zeros(*x.shape[:-1], width)  # in memory of its own, as a layer may change it in place (Falcon, OLMo)


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replaces a module's forward within the context; one that the module had of its own comes back."""
    before = vars(module).get("forward")
    vars(module)["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = before


@contextmanager
def replay_sublayers(outputs: Iterable[tuple[Sublayer, Callable[[Tensor], Tensor]]]) -> Iterator[None]:
    """Skips the computation of sublayers: producers return zeros, projections return a given output.

    Args:
        outputs: sublayers, each with a function from its projection's input (zeros) to its projection's output.
    """
    with ExitStack() as stack:
        for sublayer, output in outputs:
            for producer in sublayer.producers:
                zeros = partial(_zeros, _placeholder_width(sublayer, producer))
                stack.enter_context(replaced_forward(producer.linear, zeros))
            stack.enter_context(replaced_forward(sublayer.projection, output))
        yield


def _placeholder_width(sublayer: Sublayer, producer: Producer) -> int:
    """Returns the width of a replayed producer's output: that of one unit where the layer accepts any number."""
    units = sublayer.num_units if sublayer.has_fixed_unit_count else 1
    return max(units, 1) * producer.rows


class LeafRecorder(Hooks):
    """Context manager that records the inputs or outputs of a leaf module and may stop the forward pass there.

    Args:
        leaf: a module that takes and returns a single tensor.
        outputs: whether to record outputs instead of inputs.
        stop: end the pass at this call of the leaf (1: the first); 0: never.

    Attributes:
        leaf: the module.
        tensors: one entry per call.
    """

    def __init__(self, leaf: nn.Module, *, outputs: bool = False, stop: int = 0) -> None:
        super().__init__()
        self.leaf, self._outputs, self.stop = leaf, outputs, stop
        self.tensors: list[Tensor] = []

    def __enter__(self) -> Self:
        if self._outputs:
            # A copy, as a layer may add to the output in place (Falcon).
            hook = self.leaf.register_forward_hook(lambda _, inputs, output: self._record(output.clone()))
            self._handles.append(hook)
        else:
            self._handles.append(self.leaf.register_forward_pre_hook(lambda _, inputs: self._record(inputs[0])))
        return self

    def _record(self, tensor: Tensor) -> None:
        self.tensors.append(tensor)
        if len(self.tensors) == self.stop:
            raise StopForward
