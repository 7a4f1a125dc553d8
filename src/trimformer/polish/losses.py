"""How far a student is from the dense model, as polish minimises it: outputs by their kind, and hidden states."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trimformer.data.outputs import Problem, divergence
from trimformer.models.layer_calls import Batch


def output_loss(output: Tensor, target: Tensor, batch: Batch, problem: Problem, scale: float) -> Tensor:
    """Scalar: mean divergence of a batch, over the spread of the dense model's outputs where these have a scale.

    Args:
        output: of the student; see `batches.output` for the shapes.
        target: of the dense model.
        batch: of samples.
        problem: kind of output.
        scale: 1, or of numbers their variance.
    """
    return divergence(output.float(), target.float(), batch, problem).mean() / scale


def hidden_loss(
    hidden: Sequence[Tensor], targets: Sequence[Tensor], masks: Sequence[Tensor], variances: Sequence[float]
) -> Tensor:
    """Scalar: squared error over variance, a mean over tokens that are not padding and over layers.

    Args:
        hidden: of the student, [rows, length, hidden] each.
        targets: of the dense model.
        masks: [rows, length] each, true at positions that are not padding.
        variances: of the dense model's hidden states.
    """
    losses = [
        ((x - y).float().square().sum(-1) * mask).sum() / mask.sum() / variance
        for x, y, mask, variance in zip(hidden, targets, masks, variances, strict=True)
    ]
    return torch.stack(losses).mean()
