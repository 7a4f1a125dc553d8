"""What the dense model says of each batch, computed once: its output, and the hidden states that its layers give."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.data.outputs import find_problem, model_output
from trimformer.models.discovery import find_layers
from trimformer.models.layer_calls import Batch, has_attention_mask, hidden_states, model_inputs, position_mask
from trimformer.models.masking import Hooks, frozen
from trimformer.options.execution import ExecutionOptions
from trimformer.refit.batch_tensors import BatchTensors
from trimformer.utils.distributed import add_up

# Hidden states are kept in half the bytes; what that rounds off is a hundredth of what a student is off.
_KEPT = torch.bfloat16

# Bytes that the answers take in memory where nothing is said.
_IN_MEMORY = 4e9


@dataclass
class Seen:
    """A model's answer to a batch.

    Attributes:
        output: see `batches.output`.
        hidden: what each call of a watched layer gave, [rows, length, hidden].
        masks: [rows, length] each, true at positions that are not padding.
    """

    output: Tensor
    hidden: list[Tensor]
    masks: list[Tensor]


class Watch(Hooks):
    """Context manager: runs a model and keeps what its layers give.

    Args:
        model: dense, or shrunk.
        layers: those to be watched.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self._model, self._layers, self._problem = model, layers, find_problem(model)
        self._seen: list[tuple[Tensor, bool]] = []

    def __enter__(self) -> Self:
        for layer in self._layers:
            self._handles.append(layer.register_forward_hook(self._keep, with_kwargs=True))
        return self

    def _keep(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._seen.append((hidden_states(output), has_attention_mask(layer, args[1:], kwargs)))

    def __call__(self, batch: Batch) -> Seen:
        """The model's answer."""
        self._seen.clear()
        output = model_output(self._model, batch, self._problem)
        masks = [position_mask(self._model, batch, hidden, masked) for hidden, masked in self._seen]
        return Seen(output, [hidden for hidden, _ in self._seen], masks)


def matching_teacher_layers(teacher: nn.Module, kept: Sequence[int] | None = None) -> list[nn.Module]:
    """The dense model's layer for each of a student's: the one after which the student should be at the same point.

    Args:
        teacher: the dense model.
        kept: indices of the layers that the student has; what a run of left-out layers did is the work of the one
            below it. None: all.
    """
    layers = find_layers(teacher)
    if kept is None:
        return layers
    return [layers[above - 1] for above in (*kept[1:], len(layers))]


class Targets:
    """The dense model's answers to all batches, in memory or in temporary files.

    Args:
        new: makes a list of tensors, one for each batch.
        like: an answer, for its shapes.
        is_number: the outputs are numbers, which have a scale.
    """

    def __init__(self, new: Callable[[], BatchTensors], like: Seen, is_number: bool) -> None:
        self._output, self._hidden = new(), [new() for _ in like.hidden]
        self._spreads = [_Spread(hidden.shape[-1], hidden.device) for hidden in like.hidden]
        self._numbers = _Spread(1, like.output.device) if is_number else None
        self.scale, self.variances = 1.0, [1.0] * len(like.hidden)

    def __getitem__(self, i: int) -> tuple[Tensor, list[Tensor]]:
        """The output for a batch, and the hidden states of each call, rounded."""
        return self._output[i], [kept[i] for kept in self._hidden]

    def add(self, i: int, seen: Seen) -> None:
        """Keeps the answer to a batch."""
        self._output[i] = seen.output
        if self._numbers is not None:
            self._numbers.add(seen.output.reshape(-1, 1))
        for kept, spread, hidden, mask in zip(self._hidden, self._spreads, seen.hidden, seen.masks, strict=True):
            kept[i] = hidden.to(_KEPT)
            spread.add(hidden[mask])

    def close(self) -> None:
        """When all are there: the variance of hidden states, and the scale of outputs, of all processes together."""
        self.variances = [spread.variance() for spread in self._spreads]
        if self._numbers is not None:
            self.scale = self._numbers.variance()


@contextmanager
def targets_of(
    teacher: PreTrainedModel, batches: Sequence[Batch], run: ExecutionOptions, layers: Sequence[nn.Module] = ()
) -> Iterator[Targets]:
    """Runs the dense model once on every batch; temporary files are gone on exit.

    Args:
        teacher: the dense model.
        batches: of samples.
        run: bounds the memory of what is kept.
        layers: of the dense model, whose hidden states are kept too.
    """
    answers = _answers(teacher, batches, run, layers)
    like = next(answers)
    held = like.output.nbytes + sum(hidden.numel() * _KEPT.itemsize for hidden in like.hidden)
    sizes = [max(value.numel() for value in model_inputs(batch).values()) for batch in batches]
    bound = _IN_MEMORY if math.isinf(run.max_memory) else run.max_memory
    with BatchTensors.factory(held * sum(sizes) / sizes[0] > bound, len(batches)) as new:
        targets = Targets(new, like, find_problem(teacher) == "regression")
        for i, seen in enumerate(chain([like], answers)):
            targets.add(i, seen)
        targets.close()
        yield targets


@torch.no_grad()
def _answers(
    teacher: PreTrainedModel, batches: Sequence[Batch], run: ExecutionOptions, layers: Sequence[nn.Module]
) -> Iterator[Seen]:
    with frozen(teacher), Watch(teacher, layers) as watch, run.precision(teacher.device):
        for batch in run.progress(batches, "dense model's answers"):
            yield watch(batch)


class _Spread:
    """Sums over tokens, for their variance."""

    def __init__(self, width: int, device: torch.device) -> None:
        self._sums = torch.zeros(width + 2, dtype=torch.float64, device=device)  # sum [width], of squares, count

    def add(self, tokens: Tensor) -> None:
        """Adds tokens [tokens, width]."""
        tokens = tokens.float()
        self._sums += torch.cat([tokens.sum(0), tokens.square().sum().view(1), tokens.new_tensor([len(tokens)])])

    def variance(self) -> float:
        """Of all processes together, summed over channels."""
        add_up(self._sums)
        mean, square = self._sums[:-2] / self._sums[-1], self._sums[-2] / self._sums[-1]
        return float((square - mean.square().sum()).clamp(min=1e-12))
