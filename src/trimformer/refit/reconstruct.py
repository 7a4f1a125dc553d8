"""Least-squares refit of a shrunk model's weights: the student gives the inputs, the teacher the targets."""

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
from trimformer.refit.sublayer_stage import Step, TokenWeights
from trimformer.refit.walk import walk
from trimformer.utils.linalg import closed_form_solver

# Weight [hidden, channels], and bias [hidden] or None.
Solution = tuple[Tensor, Tensor | None]

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)

# Errors below this share of the target's power are float32 rounding: the student equals the teacher.
_NEGLIGIBLE = 1e-6


def refit(moments: Moments, weight: Tensor, ridge: float, *, bias: bool = True) -> Solution | None:
    """Fits weight and bias by least squares, with a ridge that penalises the distance from `weight`.

    With centred moments, W' = W + (X^T Y - X^T X W) (X^T X + lambda I)^-1, where lambda = ridge * mean diagonal and the
    bias is not penalised. Without a bias the moments are not centred.

    Args:
        moments: moments of the map's inputs and targets.
        weight: current weight, [hidden, channels].
        ridge: ridge relative to the mean diagonal of the inputs' second moments.
        bias: fit a bias.

    Returns:
        Weight [hidden, channels] and bias [hidden] or None, in float64; None if the system cannot be solved.
    """
    return RidgeSystem(moments, weight, bias=bias).solve(ridge)


class RidgeSystem:
    """The normal equations of `refit`, built once for any number of ridges."""

    def __init__(self, moments: Moments, weight: Tensor, *, bias: bool = True) -> None:
        self._weight, self._bias = weight.double(), bias
        self._mean_x, self._mean_y = moments.x / moments.count, moments.y / moments.count
        self._covariance, cross = moments.xx, moments.xy
        if bias:
            self._covariance = self._covariance - torch.outer(self._mean_x, moments.x)  # [channels, channels]
            cross = cross - torch.outer(moments.x, self._mean_y)
        self._gradient = cross - self._covariance @ self._weight.T  # [channels, hidden]

    def solve(self, ridge: float) -> Solution | None:
        """Solves for one ridge; see `refit`."""
        weight = self._weight
        if weight.shape[1]:
            change, solved = closed_form_solver(self._covariance, self._gradient, ridge)
            if not solved:
                return None
            weight = weight + change.T
        return weight, self._mean_y - weight @ self._mean_x if self._bias else None


def find_minimum(value: Callable[[int], float], count: int) -> int:
    """Returns the index of the smallest of values that fall and then rise, evaluating few of them.

    The search goes downhill from the middle.

    Args:
        value: function of the index; evaluated more than once at some. The first values may be infinite.
        count: number of values.
    """
    best = (count - 1) // 2
    while best + 1 < count and math.isinf(value(best)):
        best += 1
    step = 1 if best + 1 < count and value(best + 1) < value(best) else -1
    while 0 <= best + step < count and value(best + step) < value(best):
        best += step
    return best


def best_refit(
    step: Step, weight: Tensor, bias: Tensor | None, ridges: Sequence[float], *, fit_bias: bool, without_held_out: bool
) -> tuple[Refit, Solution | None]:
    """Fits with several ridges and selects the one with the lowest held-out error.

    The held-out error is assumed to fall and then rise with the ridge.

    Args:
        step: moments of the samples to fit on and of the held-out samples.
        weight: current weight, [hidden, channels].
        bias: current bias, [hidden].
        ridges: candidates, ascending.
        fit_bias: fit a bias too.
        without_held_out: leave the held-out samples out of the final fit, too.

    Returns:
        The result, and the new weight and bias; None in place of these if no ridge lowers the held-out error.
    """
    before = step.held_out.error(weight, bias)
    report = Refit(step.sublayer.name, step.sublayer.num_units, False, before, before)
    if before <= _NEGLIGIBLE * float(step.held_out.yy / step.held_out.count):
        report.note = "already equal to the dense model"
        return report, None
    system = RidgeSystem(step.fit, weight, bias=fit_bias)

    @cache
    def error(i: int) -> float:
        solution = system.solve(ridges[i])
        return math.inf if solution is None else step.held_out.error(*solution)

    best = find_minimum(error, len(ridges))
    if not error(best) < before:
        report.note = "no ridge lowered the held-out error"
        return report, None
    moments = step.fit if without_held_out else step.fit + step.held_out
    solution = refit(moments, weight, ridges[best], bias=fit_bias)
    if solution is None:
        report.note = "the normal equations of all samples could not be solved"
        return report, None
    report.accepted, report.error_after, report.ridge = True, error(best), ridges[best]
    return report, solution


def reconstruct(
    teacher: PreTrainedModel,
    students: Sequence[PreTrainedModel],
    batches: Sequence[Batch],
    *,
    token_weights: TokenWeights | None = None,
    teacher_outputs: Sequence[Sequence[Tensor]] = (),
    ridges: Sequence[float] = RIDGES,
    without_held_out: Collection[int] = (),
    run: ExecutionOptions | None = None,
) -> list[list[Refit]]:
    """Refits students in place, from the bottom up: two linear maps per sublayer.

    First the sublayer's input is aligned: the linear map that takes the student's hidden states nearest to the
    teacher's is folded into the producers (query, key and value, or fc1), so it costs nothing at inference. Then the
    output projection with its bias is refitted to the teacher's residual sum.

    Each ridge is fitted on seven eighths of the samples. The one with the lowest error on the held-out samples is then
    fitted on all samples, if it lowers that error; otherwise the weights stay.

    Args:
        teacher: the dense model.
        students: shrunk copies of the teacher, changed in place; they do not influence one another.
        batches: calibration samples.
        token_weights: weights of tokens in the fits of projections; see `walk`.
        teacher_outputs: what the teacher's projections return, where it is known; see `walk`.
        ridges: candidates, ascending, relative to the mean diagonal of the inputs' second moments.
        without_held_out: positions of students that are fitted without the held-out samples.
        run: see `walk`.

    Returns:
        The result of each sublayer, per student, with errors on the held-out samples.
    """
    alignments: dict[tuple[int, int], Refit] = {}

    def align(step: Step) -> None:
        readers = [p.linear for p in step.sublayer.producers if p.reads_only_hidden]
        identity = torch.eye(len(step.fit.y), device=step.fit.y.device)
        # If only some producers have a bias (all but the key), a shift would not change the others' outputs.
        fit_bias = any(linear.bias is not None for linear in readers)
        report, solution = best_refit(
            step, identity, None, ridges, fit_bias=fit_bias, without_held_out=step.student in without_held_out
        )
        alignments[step.student, step.index] = report
        if solution is not None:
            change, shift = solution
            for linear in readers:
                w = matrix(linear).double()
                bias = None if linear.bias is None or shift is None else linear.bias + w @ shift
                write_weights(linear, w @ change, bias)

    refits: list[list[Refit]] = [[] for _ in students]
    steps = walk(
        teacher,
        students,
        batches,
        token_weights=token_weights,
        teacher_outputs=teacher_outputs,
        align=align,
        run=run,
        desc="reconstruct",
    )
    for step in steps:
        projection = step.sublayer.projection
        weight, bias = matrix(projection), projection.bias
        report, solution = best_refit(
            step, weight, bias, ridges, fit_bias=bias is not None, without_held_out=step.student in without_held_out
        )
        if solution is not None:
            write_weights(projection, *solution)
        report.alignment = alignments.get((step.student, step.index))
        refits[step.student].append(report)
    return refits
