"""The paper's mask rescaling: one factor per kept unit, by least squares (section 4.3)."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.checkpoints.shrink import shrink
from trimformer.data.batches import numbered_batches
from trimformer.models import Kind, find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.models.linear import matrix
from trimformer.options.execution import ExecutionOptions
from trimformer.refit.regression_moments import Moments
from trimformer.refit.result import Refit
from trimformer.refit.sublayer_stage import Step
from trimformer.refit.walk import walk
from trimformer.utils.linalg import lsmr_cupy_solver

Solver = Callable[[Tensor, Tensor], tuple[Tensor, bool]]

MAX_SCALE = 10.0


def rescale_system(
    moments: Moments, weight: Tensor, bias: Tensor | None, unit_size: int, kind: Kind
) -> tuple[Tensor, Tensor]:
    """Builds the normal equations A^T A, A^T b of the scales (section 4.3).

    A's columns are the units' contributions to the output. A [tokens * hidden, units] is never built:
    A^T A = blocksum((W^T W) o (X^T X)). Attention has one more column, of ones, last.

    Args:
        moments: moments of the projection's inputs and targets.
        weight: the projection's weight W, [hidden, channels].
        bias: the projection's bias, [hidden].
        unit_size: channels per unit.
        kind: kind of the sublayer.

    Returns:
        A^T A [units, units] and A^T b [units] in float64, each with one more row for attention.
    """
    w = weight.double()
    hidden, units = w.shape[0], w.shape[1] // unit_size
    b = torch.zeros(hidden, dtype=w.dtype, device=w.device) if bias is None else bias.double()
    normal = ((w.T @ w) * moments.xx).view(units, unit_size, units, unit_size).sum(dim=(1, 3))
    target = (w.T * (moments.xy - torch.outer(moments.x, b))).sum(1).view(units, unit_size).sum(1)
    if kind == "ffn":
        return normal, target
    ones = (w.sum(0) * moments.x).view(units, unit_size).sum(1)  # [units]
    corner = torch.stack([moments.count * hidden, (moments.y - moments.count * b).sum()])
    normal = torch.cat([torch.cat([normal, ones.unsqueeze(1)], 1), torch.cat([ones, corner[:1]]).unsqueeze(0)])
    return normal, torch.cat([target, corner[1:]])


def rescale_mask(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    batches: Sequence[Batch],
    *,
    teacher_masks: Sequence[Tensor] | None = None,
    first_token_last: bool = False,
    solver: Solver = lsmr_cupy_solver,
    run: ExecutionOptions | None = None,
) -> tuple[list[Tensor], list[Refit]]:
    """Scales the student's kept units, layer by layer from the bottom, so that it follows the teacher (section 4.3).

    The scales are folded into the student's output projections in place. Layer 0's attention is left unchanged, as in
    the paper. A sublayer keeps scale 1 if its solve fails or gives a scale beyond 10; later sublayers are still scaled.

    Args:
        teacher: the dense model.
        student: a shrunk copy of the teacher, changed in place.
        batches: calibration samples.
        teacher_masks: masks of the teacher, one per sublayer; the paper uses the masks at sqrt(constraint).
        first_token_last: fit the last feed-forward sublayer on the first token only, for sequence classifiers.
        solver: (A^T A, A^T b) -> (solution, success).
        run: see `walk`.

    Returns:
        Scales [units kept] and the result, each per sublayer.
    """
    batches, last = list(numbered_batches(batches)), len(find_sublayers(student)) - 1

    def first_token(index: int, batch: int, mask: Tensor) -> Tensor:
        return mask & (torch.arange(mask.shape[-1], device=mask.device) == 0) if index == last else mask

    if teacher_masks is not None:
        teacher = copy.deepcopy(teacher)
        shrink(teacher, teacher_masks)
    scales, refits = [], []
    token_weights = first_token if first_token_last else None
    for step in walk(teacher, student, batches, token_weights=token_weights, run=run, desc="rescale"):
        sublayer, moments = step.sublayer, step.fit + step.held_out
        weight, bias = matrix(sublayer.projection), sublayer.projection.bias
        before = after = moments.error(weight, bias)
        scale, note = _find_scales(step, moments, solver)
        if not note:
            channel_scale = scale.repeat_interleave(sublayer.unit_size)  # [channels]
            after = moments.error(weight * channel_scale, bias)
            with torch.no_grad():
                weight.mul_(channel_scale.to(weight.dtype))
        scales.append(scale.float())
        refits.append(Refit(sublayer.name, sublayer.num_units, not note, before, after, note=note))
    return scales, refits


def _find_scales(step: Step, moments: Moments, solver: Solver) -> tuple[Tensor, str]:
    """Returns the scales [units] of one sublayer; or ones, and a note that says why it is not rescaled."""
    sublayer = step.sublayer
    ones = torch.ones(sublayer.num_units, dtype=torch.float64, device=sublayer.device)
    if sublayer.num_units == 0:
        return ones, "nothing kept"
    if step.index == 0:
        return ones, "first sublayer: the paper leaves it"
    weight, bias = matrix(sublayer.projection), sublayer.projection.bias
    solution, success = solver(*rescale_system(moments, weight, bias, sublayer.unit_size, sublayer.kind))
    solution = solution[: sublayer.num_units]
    if not success:
        return ones, "the solver did not converge"
    if not solution.abs().max() <= MAX_SCALE:
        return ones, f"a scale of {solution.abs().max():.3g} is beyond {MAX_SCALE:g}"
    return solution, ""
