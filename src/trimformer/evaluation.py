"""Running a model over samples, scoring it, and comparing it with the dense model."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.calibration import Batch, num_samples
from trimformer.masking import frozen
from trimformer.objective import Problem, divergence, find_problem, model_output


@torch.no_grad()
def predict(model: PreTrainedModel, batches: Sequence[Batch]) -> list[Tensor]:
    """The model's output for each batch; see `trimformer.objective` for its shape."""
    problem = find_problem(model)
    with frozen(model):
        return [model_output(model, batch, problem) for batch in batches]


def unbatch(outputs: Sequence[Tensor], batches: Sequence[Batch]) -> list[Tensor]:
    """One output per sample on the CPU, in the order of the features; tokens keep their padding."""
    samples: list[Tensor] = [torch.empty(0)] * num_samples(batches)
    for output, batch in zip(outputs, batches, strict=True):
        for sample, index in zip(output.float().cpu(), batch["index"].tolist(), strict=True):
            samples[index] = sample
    return samples


def mean_divergence(
    outputs: Sequence[Tensor], references: Sequence[Tensor], batches: Sequence[Batch], problem: Problem
) -> float:
    """Mean over samples of the distance of the outputs from the dense model's; see `divergence`."""
    total = sum(
        float(divergence(output.float(), reference.float(), batch, problem).double().sum())
        for output, reference, batch in zip(outputs, references, batches, strict=True)
    )
    return total / num_samples(batches)
