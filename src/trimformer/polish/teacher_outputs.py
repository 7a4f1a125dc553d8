"""Outputs and hidden states of the dense model on each batch, computed once and stored."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.data.next_tokens import pack_top
from trimformer.data.outputs import find_problem, model_output
from trimformer.models.discovery import find_layers
from trimformer.models.layer_calls import Batch, has_attention_mask, hidden_states, model_inputs, position_mask
from trimformer.models.masking import Hooks, frozen
from trimformer.options.execution import ExecutionOptions
from trimformer.refit.batch_tensors import BatchTensors
from trimformer.utils.distributed import sum_over_processes

# Halves the bytes of hidden states; the rounding error is a hundredth of a student's error.
_STORED_DTYPE = torch.bfloat16

_DEFAULT_MAX_BYTES = 4e9  # of stored outputs in memory, if the run sets no limit


@dataclass
class RecordedOutputs:
    """Outputs of a model on one batch.

    Attributes:
        output: the model's output; see `trimformer.data.outputs` for the shapes.
        hidden: output of each call of a recorded layer, [rows, length, hidden].
        masks: [rows, length] per call, true at positions that are not padding.
    """

    output: Tensor
    hidden: list[Tensor]
    masks: list[Tensor]


class OutputRecorder(Hooks):
    """Context manager that runs a model and records the outputs of its layers.

    Args:
        model: the dense or a shrunk model.
        layers: layers to record.
    """

    def __init__(self, model: PreTrainedModel, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self._model, self._layers, self._problem = model, layers, find_problem(model)
        self._calls: list[tuple[Tensor, bool]] = []  # hidden states, and whether the layer received a mask

    def __enter__(self) -> Self:
        for layer in self._layers:
            self._handles.append(layer.register_forward_hook(self._record, with_kwargs=True))
        return self

    def _record(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._calls.append((hidden_states(output), has_attention_mask(layer, args[1:], kwargs)))

    def __call__(self, batch: Batch) -> RecordedOutputs:
        """Runs the model on a batch."""
        self._calls.clear()
        output = model_output(self._model, batch, self._problem)
        masks = [position_mask(self._model, batch, hidden, masked) for hidden, masked in self._calls]
        return RecordedOutputs(output, [hidden for hidden, _ in self._calls], masks)


def matching_teacher_layers(teacher: nn.Module, kept: Sequence[int] | None = None) -> list[nn.Module]:
    """Returns, for each layer of a student, the dense model's layer whose output it should match.

    Args:
        teacher: the dense model.
        kept: indices of the dense model's layers that the student has; None for all. A layer below removed layers
            takes over their work, so it should match the output of the last of them.
    """
    layers = find_layers(teacher)
    if kept is None:
        return layers
    return [layers[above - 1] for above in (*kept[1:], len(layers))]


class TeacherOutputs:
    """Outputs of the dense model on all batches, in memory or in temporary files.

    Of language models only the most likely tokens are stored; see `pack_top`.

    Args:
        new_tensors: makes an empty list of tensors, one per batch.
        example: outputs on one batch, for their shapes.
        is_number: the outputs are numbers, which have a scale of their own.

    Attributes:
        scale: variance of the outputs if they are numbers, else 1; set by `finish`.
        variances: variance of each recorded layer's hidden states; set by `finish`.
    """

    def __init__(self, new_tensors: Callable[[], BatchTensors], example: RecordedOutputs, is_number: bool) -> None:
        self._output, self._hidden = new_tensors(), [new_tensors() for _ in example.hidden]
        self._hidden_sums = [_VarianceSums(hidden.shape[-1], hidden.device) for hidden in example.hidden]
        self._output_sums = _VarianceSums(1, example.output.device) if is_number else None
        self.scale, self.variances = 1.0, [1.0] * len(example.hidden)

    def __getitem__(self, i: int) -> tuple[Tensor, list[Tensor]]:
        """Returns the output on a batch and the rounded hidden states of each recorded call."""
        return self._output[i], [stored[i] for stored in self._hidden]

    def add(self, i: int, outputs: RecordedOutputs) -> None:
        """Stores the outputs on a batch."""
        self._output[i] = outputs.output
        if self._output_sums is not None:
            self._output_sums.add(outputs.output.reshape(-1, 1))
        calls = zip(self._hidden, self._hidden_sums, outputs.hidden, outputs.masks, strict=True)
        for stored, sums, hidden, mask in calls:
            stored[i] = hidden.to(_STORED_DTYPE)
            sums.add(hidden[mask])

    def finish(self) -> None:
        """Computes variances and scale over all processes, once all batches are added."""
        self.variances = [sums.variance() for sums in self._hidden_sums]
        if self._output_sums is not None:
            self.scale = self._output_sums.variance()


@contextmanager
def teacher_outputs(
    teacher: PreTrainedModel, batches: Sequence[Batch], run: ExecutionOptions, layers: Sequence[nn.Module] = ()
) -> Iterator[TeacherOutputs]:
    """Runs the dense model once on every batch and yields its outputs; temporary files are deleted on exit.

    Args:
        teacher: the dense model.
        batches: batches of samples.
        run: `max_memory` bounds the outputs in memory.
        layers: layers of the dense model whose hidden states are stored too.
    """
    computed = _compute(teacher, batches, run, layers)
    example = next(computed)
    example_bytes = example.output.nbytes + sum(hidden.numel() * _STORED_DTYPE.itemsize for hidden in example.hidden)
    sizes = [max(value.numel() for value in model_inputs(batch).values()) for batch in batches]
    max_bytes = _DEFAULT_MAX_BYTES if math.isinf(run.max_memory) else run.max_memory
    with BatchTensors.factory(example_bytes * sum(sizes) / sizes[0] > max_bytes, len(batches)) as new_tensors:
        stored = TeacherOutputs(new_tensors, example, find_problem(teacher) == "regression")
        for i, outputs in enumerate(chain([example], computed)):
            stored.add(i, outputs)
        stored.finish()
        yield stored


@torch.no_grad()
def _compute(
    teacher: PreTrainedModel, batches: Sequence[Batch], run: ExecutionOptions, layers: Sequence[nn.Module]
) -> Iterator[RecordedOutputs]:
    with frozen(teacher), OutputRecorder(teacher, layers) as recorder, run.precision(teacher.device):
        for batch in run.progress(batches, "dense model's outputs"):
            outputs = recorder(batch)
            if find_problem(teacher) == "language":  # whole distributions would need gigabytes
                outputs.output = pack_top(outputs.output)
            yield outputs


class _VarianceSums:
    """Sums over tokens from which their variance is computed."""

    def __init__(self, width: int, device: torch.device) -> None:
        # [width + 2]: sum of each channel, sum of squares, count
        self._sums = torch.zeros(width + 2, dtype=torch.float64, device=device)

    def add(self, tokens: Tensor) -> None:
        """Adds tokens [tokens, width]."""
        tokens = tokens.float()
        self._sums += torch.cat([tokens.sum(0), tokens.square().sum().view(1), tokens.new_tensor([len(tokens)])])

    def variance(self) -> float:
        """Returns the variance over the tokens of all processes, summed over channels."""
        sum_over_processes(self._sums)
        mean, square = self._sums[:-2] / self._sums[-1], self._sums[-2] / self._sums[-1]
        return float((square - mean.square().sum()).clamp(min=1e-12))
