"""Losses of a polish: distances of a student's outputs and hidden states from the dense model's."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trimformer.data.next_tokens import top_divergences
from trimformer.data.outputs import Problem, divergence
from trimformer.models.layer_calls import Batch


def target_divergence(output: Tensor, target: Tensor, batch: Batch, problem: Problem) -> Tensor:
    """Returns the divergence [batch] of the student's output from the stored target; see `TeacherOutputs`."""
    if problem == "language":
        return top_divergences(output, target, batch)
    return divergence(output.float(), target.float(), batch, problem)


def output_loss(output: Tensor, target: Tensor, batch: Batch, problem: Problem, scale: float) -> Tensor:
    """Returns the mean divergence of a batch from the dense model, a scalar.

    Args:
        output: the student's output; see `trimformer.data.outputs` for the shapes.
        target: the dense model's output, as `TeacherOutputs` stores it.
        batch: the batch of samples.
        problem: kind of output.
        scale: divisor: the variance of outputs that are numbers, else 1.
    """
    return target_divergence(output, target, batch, problem).mean() / scale


def hidden_loss(
    hidden: Sequence[Tensor], targets: Sequence[Tensor], masks: Sequence[Tensor], variances: Sequence[float]
) -> Tensor:
    """Returns the squared error of hidden states over their variance, a mean over layers and tokens without padding.

    Args:
        hidden: the student's hidden states, [rows, length, hidden] per layer.
        targets: the dense model's hidden states.
        masks: [rows, length] per layer, true at positions that are not padding.
        variances: variance of the dense model's hidden states, per layer.
    """
    losses = [
        ((x - y).float().square().sum(-1) * mask).sum() / mask.sum() / variance
        for x, y, mask, variance in zip(hidden, targets, masks, variances, strict=True)
    ]
    return torch.stack(losses).mean()
