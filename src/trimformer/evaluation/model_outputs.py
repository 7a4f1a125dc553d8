"""Outputs of a model on all batches of an evaluation set: kept in memory, or computed again whenever they are read."""

from collections.abc import Iterable, Sequence
from typing import Any, overload

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.batches import count_samples
from trimformer.data.outputs import stream_outputs
from trimformer.errors import TrimformerError
from trimformer.models.layer_calls import Batch, model_inputs
from trimformer.utils.progress import progress

MAX_STORED = 2**26  # numbers of one model's outputs per token of a vocabulary that are kept in memory
VOCABULARY = 1000  # outputs per token from which they are those of a vocabulary

Outputs = Sequence[Tensor]  # one per batch, on the CPU


class RerunOutputs(Sequence[Tensor]):
    """Outputs that are computed again at every access, so that only one batch of them is in memory.

    The model must stay as it is while they are read. A forward that replaces the model's own, as in `running_in`, is
    remembered.

    Args:
        model: the model to run.
        batches: its batches.
        name: name of the evaluation set, for errors.
    """

    def __init__(self, model: PreTrainedModel, batches: Sequence[Batch], name: str) -> None:
        self._model, self._batches, self._name = model, batches, name
        self._forward: Any = vars(model).get("forward")

    def on(self, batches: Sequence[Batch]) -> "RerunOutputs":
        """Returns the model's outputs on other batches."""
        other = RerunOutputs(self._model, batches, self._name)
        other._forward = self._forward
        return other

    def __len__(self) -> int:
        return len(self._batches)

    @overload
    def __getitem__(self, i: int) -> Tensor: ...
    @overload
    def __getitem__(self, i: slice) -> list[Tensor]: ...
    def __getitem__(self, i: int | slice) -> Tensor | list[Tensor]:
        """Runs the model on one batch, or on some."""
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        batch, before = self._batches[i], vars(self._model).get("forward")
        try:
            _set_forward(self._model, self._forward)
            output = next(_cpu_outputs(self._model, [batch]))
        finally:
            _set_forward(self._model, before)
        _check_finite(self._model, self._name, [output], [batch])
        return output


def model_outputs(
    model: PreTrainedModel, batches: Sequence[Batch], name: str, *, may_rerun: bool, desc: str = "evaluate"
) -> Outputs:
    """Runs a model on all batches and returns its outputs per batch.

    Args:
        model: the model to run.
        batches: its batches; they are moved to the model's device.
        name: name of the evaluation set, for errors.
        may_rerun: return `RerunOutputs` if the outputs are those of a vocabulary, and more than `MAX_STORED` numbers.
        desc: label of the progress bar.

    Raises:
        TrimformerError: an output is not finite; it would otherwise score like a bad model.
    """
    outputs: list[Tensor] = []
    for output in _cpu_outputs(model, progress(batches, desc)):
        if may_rerun and not outputs and output.shape[-1] >= VOCABULARY:
            sizes = [max(value.numel() for value in model_inputs(batch).values()) for batch in batches]
            if output.numel() * sum(sizes) / sizes[0] > MAX_STORED:
                return RerunOutputs(model, batches, name)
        outputs.append(output)
    _check_finite(model, name, outputs, batches)
    return outputs


def unbatch(outputs: Iterable[Tensor], batches: Sequence[Batch]) -> list[Tensor]:
    """Returns one output per sample on the CPU, in the order of the features; token outputs keep their padding."""
    samples: list[Tensor] = [torch.empty(0)] * count_samples(batches)
    for output, batch in zip(outputs, batches, strict=True):
        for sample, index in zip(output.float().cpu(), batch["index"].tolist(), strict=True):
            samples[index] = sample
    return samples


def _cpu_outputs(model: PreTrainedModel, batches: Iterable[Batch]) -> Any:
    device = model.device
    moved = ({key: value.to(device) for key, value in batch.items()} for batch in batches)
    return (output.cpu() for output in stream_outputs(model, moved))


def _set_forward(model: PreTrainedModel, forward: Any) -> None:
    """Replaces the model's forward; None restores that of its class."""
    if forward is None:
        vars(model).pop("forward", None)
    else:
        vars(model)["forward"] = forward


def _check_finite(model: PreTrainedModel, name: str, outputs: Sequence[Tensor], batches: Sequence[Batch]) -> None:
    """Checks that outputs are finite.

    Raises:
        TrimformerError: an output is NaN or infinite.
    """
    bad = sum(int(_overflows(output, batch).sum()) for output, batch in zip(outputs, batches, strict=True))
    if bad:
        advice = "bfloat16 or float32" if model.dtype == torch.float16 else "a higher precision, or repair its weights"
        raise TrimformerError(
            f"the model's outputs are not finite for {bad} of {count_samples(batches)} samples of '{name}': it "
            f"overflows in {str(model.dtype).removeprefix('torch.')}; save it in {advice}"
        )


def _overflows(output: Tensor, batch: Batch) -> Tensor:
    """Returns whether each sample's output is NaN or infinite, [batch]; span heads may mask tokens with -inf."""
    bad = output.isnan() | (output == torch.inf)
    mask = batch.get("attention_mask")
    if mask is not None and output.dim() == 3 and mask.shape == output.shape[:2]:
        bad &= mask.bool().unsqueeze(-1)  # outputs at padding do not count
    return bad.flatten(1).any(1)
