"""Full least-squares refit of the kept weights of every output projection (two streams)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.calibration import Batch
from trimformer.linalg import closed_form_solver
from trimformer.streams import Moments, Progress, Refit, TokenWeights, walk

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)

# Below this share of the target's power the student already equals the teacher; the rest is rounding.
_NEGLIGIBLE = 1e-9


def refit(moments: Moments, weight: Tensor, ridge: float) -> tuple[Tensor, Tensor] | None:
    """Weights and bias of least squared error, drawn towards `weight` by the ridge.

    With centred moments: W' = W + (X^T Y - X^T X W) (X^T X + lambda I)^-1, lambda = ridge * mean diagonal;
    the bias is free.

    Args:
        moments: of the projection's input and target.
        weight: current weights, [hidden, channels].
        ridge: relative to the mean diagonal of the inputs' second moments.

    Returns:
        Weight [hidden, channels] and bias [hidden] in float64; None if the system cannot be solved.
    """
    w = weight.double()
    mean_x, mean_y = moments.x / moments.count, moments.y / moments.count
    if w.shape[1]:
        covariance = moments.xx - torch.outer(mean_x, moments.x)  # [channels, channels]
        gradient = moments.xy - torch.outer(moments.x, mean_y) - covariance @ w.T  # [channels, hidden]
        change, solved = closed_form_solver(covariance, gradient, ridge)
        if not solved:
            return None
        w = w + change.T
    return w, mean_y - w @ mean_x


def reconstruct(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    batches: Sequence[Batch],
    *,
    token_weights: TokenWeights | None = None,
    ridges: Sequence[float] = RIDGES,
    progress: Progress = iter,
) -> list[Refit]:
    """Refits the student's output projections, bias included, from the bottom up, in place.

    Each ridge is tried on seven eighths of the samples; the one of least error on the others is taken,
    and refitted on all, only if it lowers that held-out error.

    Args:
        teacher: the dense model.
        student: a shrunk copy of it, changed in place.
        batches: calibration samples.
        token_weights: see `walk`.
        ridges: candidates, relative to the mean diagonal of the inputs' second moments.
        progress: see `walk`.

    Returns:
        What became of each sublayer; errors are those on held-out samples.
    """
    refits = []
    for step in walk(teacher, student, batches, token_weights=token_weights, progress=progress):
        projection, fit, held_out = step.sublayer.projection, step.fit, step.held_out
        before = held_out.error(projection.weight, projection.bias)
        result = Refit(step.sublayer.name, step.sublayer.num_units, False, before, before)
        refits.append(result)
        if before <= _NEGLIGIBLE * float(held_out.yy / held_out.count):
            result.note = "already equal to the dense model"
            continue
        for ridge in ridges:
            solution = refit(fit, projection.weight, ridge)
            if solution is not None and (error := held_out.error(*solution)) < result.error_after:
                result.error_after, result.ridge, result.accepted = error, ridge, True
        if not result.accepted:
            result.note = "no ridge lowered the held-out error"
            continue
        solution = refit(fit + held_out, projection.weight, float(result.ridge or 0.0))
        if solution is not None:
            assign(projection, *solution)
    return refits


@torch.no_grad()
def assign(projection: torch.nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Gives the projection new weights and a new bias, in its own dtype."""
    projection.weight.copy_(weight)
    projection.bias.copy_(bias)
