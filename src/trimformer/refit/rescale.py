"""The paper's mask rescaling: one factor per kept unit, by least squares (section 4.3)."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.checkpoints.shrink import shrink
from trimformer.models import Kind, find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.models.linear import matrix
from trimformer.options.execution import ExecutionOptions
from trimformer.refit.regression_moments import Moments
from trimformer.refit.result import Refit
from trimformer.refit.walk import walk
from trimformer.utils.linalg import lsmr_cupy_solver

Solver = Callable[[Tensor, Tensor], tuple[Tensor, bool]]

MAX_SCALE = 10.0


def rescale_system(
    moments: Moments, weight: Tensor, bias: Tensor | None, unit_size: int, kind: Kind
) -> tuple[Tensor, Tensor]:
    """Normal equations A^T A, A^T b of the scales; A's columns are units' contributions to the output.

    A [tokens * hidden, units] is never built: A^T A = blocksum((W^T W) o (X^T X)). Attention has one
    more column of ones, last.

    Args:
        moments: of the projection's input and target.
        weight: W [hidden, channels] of the projection.
        bias: [hidden] of the projection.
        unit_size: channels per unit.
        kind: of the sublayer.
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
    """Scales the student's kept units, layer by layer from the bottom, so that it follows the teacher.

    The scales are folded into the student's output projections in place. Layer 0's attention is left
    alone. A sublayer whose solve fails, or gives a factor beyond 10, keeps scale 1 and is reported;
    the ones above it are still refitted.

    Args:
        teacher: the dense model.
        student: a shrunk copy of it, changed in place.
        batches: calibration samples.
        teacher_masks: one per sublayer of the teacher (the paper: the masks at sqrt(constraint)).
        first_token_last: fit the last feed-forward on the first token only (sequence classifiers).
        solver: (A^T A, A^T b) -> (solution, success).
        run: see `walk`.

    Returns:
        Scales [units kept] per sublayer, and what became of each sublayer.
    """
    last = len(find_sublayers(student)) - 1

    def first_token(index: int, batch: int, mask: Tensor) -> Tensor:
        return mask & (torch.arange(mask.shape[-1], device=mask.device) == 0) if index == last else mask

    if teacher_masks is not None:
        teacher = copy.deepcopy(teacher)
        shrink(teacher, teacher_masks)
    scales, refits = [], []
    steps = walk(
        teacher,
        student,
        batches,
        token_weights=first_token if first_token_last else None,
        run=run,
        desc="rescale",
    )
    for step in steps:
        sublayer, moments = step.sublayer, step.fit + step.held_out
        projection, size = sublayer.projection, sublayer.unit_size
        weight = matrix(projection)
        before = moments.error(weight, projection.bias)
        scale = torch.ones(sublayer.num_units, dtype=torch.float64, device=sublayer.device)
        note, after = "", before
        if sublayer.num_units == 0:
            note = "nothing kept"
        elif step.index == 0:
            note = "first sublayer: the paper leaves it"
        else:
            system = rescale_system(moments, weight, projection.bias, size, sublayer.kind)
            solution, success = solver(*system)
            solution = solution[: sublayer.num_units]
            if not success:
                note = "the solver did not converge"
            elif not solution.abs().max() <= MAX_SCALE:
                note = f"a scale of {solution.abs().max():.3g} is beyond {MAX_SCALE:g}"
            else:
                scale = solution
                after = moments.error(weight * scale.repeat_interleave(size), projection.bias)
        if not note:
            with torch.no_grad():
                weight.mul_(scale.repeat_interleave(size).to(weight.dtype))
        scales.append(scale.float())
        refits.append(Refit(sublayer.name, sublayer.num_units, not note, before, after, note=note))
    return scales, refits
