"""Least-squares refit of a shrunk model's weights on two streams: teacher and student."""

import math
from collections.abc import Callable, Collection, Sequence
from functools import cache

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.models.layer_calls import Batch
from trimformer.models.linear import matrix, write_weights
from trimformer.options.execution import ExecutionOptions
from trimformer.refit.regression_moments import Moments
from trimformer.refit.result import Refit
from trimformer.refit.walk import Step, TokenWeights, walk
from trimformer.utils.linalg import closed_form_solver

# Weight [hidden, channels] and bias [hidden], or None without.
Solution = tuple[Tensor, Tensor | None]

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)

# Below this share of the target's power the student already equals the teacher: the rest is float32 rounding.
_NEGLIGIBLE = 1e-6


def refit(moments: Moments, weight: Tensor, ridge: float, *, bias: bool = True) -> Solution | None:
    """Weights and bias of least squared error, drawn towards `weight` by the ridge.

    With centred moments: W' = W + (X^T Y - X^T X W) (X^T X + lambda I)^-1, lambda = ridge * mean diagonal;
    the bias is free. Without a bias the moments are not centred.

    Args:
        moments: of the projection's input and target.
        weight: current weights, [hidden, channels].
        ridge: relative to the mean diagonal of the inputs' second moments.
        bias: whether there is one.

    Returns:
        Weight [hidden, channels] and bias [hidden] or None, in float64; None if the system cannot be solved.
    """
    return System(moments, weight, bias=bias).solve(ridge)


class System:
    """The equations of `refit`, for any number of ridges."""

    def __init__(self, moments: Moments, weight: Tensor, *, bias: bool = True) -> None:
        self._weight, self._bias = weight.double(), bias
        self._mean_x, self._mean_y = moments.x / moments.count, moments.y / moments.count
        self._covariance, cross = moments.xx, moments.xy
        if bias:
            self._covariance = self._covariance - torch.outer(self._mean_x, moments.x)  # [channels, channels]
            cross = cross - torch.outer(moments.x, self._mean_y)
        self._gradient = cross - self._covariance @ self._weight.T  # [channels, hidden]

    def solve(self, ridge: float) -> Solution | None:
        """See `refit`."""
        changed = self._weight
        if changed.shape[1]:
            change, solved = closed_form_solver(self._covariance, self._gradient, ridge)
            if not solved:
                return None
            changed = changed + change.T
        return changed, self._mean_y - changed @ self._mean_x if self._bias else None


def lowest(value: Callable[[int], float], count: int) -> int:
    """Index of the smallest of values that fall and then rise, from the middle on downhill, so few are looked at.

    Args:
        value: by the index; asked for the same one more than once. The first ones may be infinite.
        count: of values.
    """
    best = (count - 1) // 2
    while best + 1 < count and math.isinf(value(best)):
        best += 1
    step = 1 if best + 1 < count and value(best + 1) < value(best) else -1
    while 0 <= best + step < count and value(best + step) < value(best):
        best += step
    return best


def best_refit(
    step: Step, weight: Tensor, bias: Tensor | None, ridges: Sequence[float], *, may_shift: bool, without_held_out: bool
) -> tuple[Refit, Solution | None]:
    """Tries ridges on the samples to fit on and takes the one of least error on the held-out ones, which is taken to
    fall and then rise with the ridge.

    Args:
        step: of the walk.
        weight: current weights, [hidden, channels].
        bias: current bias, [hidden].
        ridges: candidates, ascending.
        may_shift: whether a bias may be fitted.
        without_held_out: leave the held-out samples out of the last refit too.

    Returns:
        The report, and weight and bias refitted on all samples; None where no ridge lowers the held-out error.
    """
    before = step.held_out.error(weight, bias)
    report = Refit(step.sublayer.name, step.sublayer.num_units, False, before, before)
    if before <= _NEGLIGIBLE * float(step.held_out.yy / step.held_out.count):
        report.note = "already equal to the dense model"
        return report, None
    system = System(step.fit, weight, bias=may_shift)

    @cache
    def error(i: int) -> float:
        solution = system.solve(ridges[i])
        return math.inf if solution is None else step.held_out.error(*solution)

    best = lowest(error, len(ridges))
    if not error(best) < before:
        report.note = "no ridge lowered the held-out error"
        return report, None
    report.error_after, report.ridge = error(best), ridges[best]
    moments = step.fit if without_held_out else step.fit + step.held_out
    solution = refit(moments, weight, ridges[best], bias=may_shift)
    report.accepted = solution is not None
    return report, solution


def reconstruct(
    teacher: PreTrainedModel,
    students: Sequence[PreTrainedModel],
    batches: Sequence[Batch],
    *,
    token_weights: TokenWeights | None = None,
    ridges: Sequence[float] = RIDGES,
    without_held_out: Collection[int] = (),
    run: ExecutionOptions | None = None,
) -> list[list[Refit]]:
    """Refits students, from the bottom up, in place: two linear maps for each sublayer.

    The output projection, bias included, is refitted to the teacher's residual sum. Before that, what the
    sublayer reads is aligned: the linear map that takes the student's hidden states nearest to the teacher's
    is folded into the producers (query, key, value; or fc1), so that it costs nothing.

    Each ridge is tried on seven eighths of the samples; the one of least error on the others is taken,
    and refitted on all, only if it lowers that held-out error.

    Args:
        teacher: the dense model.
        students: shrunk copies of it, changed in place; what becomes of one does not depend on the others.
        batches: calibration samples.
        token_weights: see `walk`; for the projections.
        ridges: candidates, ascending, relative to the mean diagonal of the inputs' second moments.
        without_held_out: positions of students that are refitted without the held-out samples.
        run: see `walk`.

    Returns:
        For each student, what became of each sublayer; errors are those on held-out samples.
    """
    alignments: dict[tuple[int, int], Refit] = {}

    def align(step: Step) -> None:
        readers = [p.linear for p in step.sublayer.producers if p.reads_only_hidden]
        identity = torch.eye(len(step.fit.y), device=step.fit.y.device)
        # Where only some have a bias (all but the key), the others' would change nothing.
        may_shift = any(linear.bias is not None for linear in readers)
        report, solution = best_refit(
            step, identity, None, ridges, may_shift=may_shift, without_held_out=step.student in without_held_out
        )
        alignments[step.student, step.index] = report
        if solution is not None:
            change, shift = solution
            for linear in readers:
                w = matrix(linear).double()
                bias = None if linear.bias is None or shift is None else linear.bias + w @ shift
                write_weights(linear, w @ change, bias)

    refits: list[list[Refit]] = [[] for _ in students]
    for step in walk(teacher, students, batches, token_weights=token_weights, align=align, run=run, desc="reconstruct"):
        projection = step.sublayer.projection
        weight, bias = matrix(projection), projection.bias
        report, solution = best_refit(
            step, weight, bias, ridges, may_shift=bias is not None, without_held_out=step.student in without_held_out
        )
        if solution is not None:
            write_weights(projection, *solution)
        report.alignment = alignments.get((step.student, step.index))
        refits[step.student].append(report)
    return refits
