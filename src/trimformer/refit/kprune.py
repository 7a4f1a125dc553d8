"""K-prune (Park, Choi & Kang, ICLR 2024), implemented from its paper for comparison.

Sublayer by sublayer from the bottom, it scores the units on the current student, prunes those below a global threshold
and refits the kept weights by least squares.

A unit's score is (predictive + 2.5e-4 * representational) / MACs, times 64 for a head. The predictive part is half the
mean squared gradient of the unit's mask under the KL divergence from the dense model at temperature 2. The
representational part is the sum over tokens of the unit's squared channels, each times the mean squared weight that
reads it.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.checkpoints.shrink import shrink
from trimformer.costs.cost_tables import Costs
from trimformer.data.outputs import divergence, find_problem, predict
from trimformer.importance.activations import channel_statistics
from trimformer.importance.fisher import collect_mask_grads, compute_fisher_info
from trimformer.models import Sublayer, find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.models.linear import matrix, write_weights
from trimformer.options.execution import ExecutionOptions
from trimformer.refit.reconstruct import refit
from trimformer.refit.regression_moments import Moments
from trimformer.refit.result import Refit
from trimformer.refit.sublayer_stage import Step
from trimformer.refit.walk import walk
from trimformer.utils.distributed import broadcast_from_main, sum_over_processes

TEMPERATURE = 2.0
REPRESENTATIONAL = 2.5e-4
HEAD_FACTOR = 64.0
RIDGE = 1e-6


def kprune(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    batches: Sequence[Batch],
    costs: Costs,
    *,
    constraint: float,
    run: ExecutionOptions | None = None,
) -> tuple[list[Tensor], list[Refit]]:
    """Prunes the student to a share of the dense cost and refits it, in place.

    Args:
        teacher: the dense model.
        student: a copy of the dense model, changed in place.
        batches: calibration samples; their labels are not used.
        costs: costs that are proportional to the number of units.
        constraint: fraction of the dense cost to keep.
        run: see `walk`.

    Returns:
        One mask of zeros and ones and one refit result per sublayer.
    """
    sublayers = find_sublayers(student)
    references = dict(zip(map(id, batches), predict(teacher, batches), strict=True))
    unit_costs, budget = costs.per_unit, costs.budget(constraint)
    masks: list[Tensor] = []
    refits: list[Refit] = []
    for step in walk(teacher, student, batches, run=run, desc="kprune"):
        i = step.index
        scores = _scores(student, sublayers, batches, references, unit_costs)
        keep = broadcast_from_main(partial(_select_best, scores[i:], unit_costs[i:], budget)).to(scores[i].device)
        budget -= unit_costs[i] * float(keep.sum())
        refits.append(_refit_kept(step, keep))
        masks.append(keep.float())
    shrink(student, masks)
    return masks, refits


def _refit_kept(step: Step, keep: Tensor) -> Refit:
    """Refits the projection on the channels of the kept units [units] and sets all its other weights to 0."""
    sublayer, moments = step.sublayer, step.fit + step.held_out
    channels = keep.repeat_interleave(sublayer.unit_size)
    projection, dense = sublayer.projection, matrix(sublayer.projection)
    masked = dense * channels
    before = moments.error(masked, projection.bias)
    has_bias = projection.bias is not None
    solution = refit(_restrict(moments, channels), dense[:, channels], RIDGE, bias=has_bias)
    if solution is not None:
        weight = torch.zeros_like(dense, dtype=torch.float64)
        weight[:, channels] = solution[0]
        write_weights(projection, weight, solution[1])
    else:
        write_weights(projection, masked, projection.bias)
    after = moments.error(dense, projection.bias)
    return Refit(sublayer.name, int(keep.sum()), solution is not None, before, after, RIDGE)


def _scores(
    student: PreTrainedModel,
    sublayers: Sequence[Sublayer],
    batches: Sequence[Batch],
    references: dict[int, Tensor],
    costs: Sequence[float],
) -> list[Tensor]:
    """Returns the scores [units] of every sublayer on the current student."""
    problem = find_problem(student)

    def loss(output: Tensor, batch: Batch) -> Tensor:
        reference = references[id(batch)] / TEMPERATURE
        return TEMPERATURE**2 * divergence(output / TEMPERATURE, reference, batch, problem)

    grads = collect_mask_grads(student, batches, objective=loss)
    scores = []
    statistics = channel_statistics(student, batches)
    for s, grad, channels, cost in zip(sublayers, grads, statistics, costs, strict=True):
        fisher, samples = compute_fisher_info(grad), torch.tensor(float(len(grad)), device=grad.device)
        sum_over_processes(fisher, samples)
        predictive = 0.5 * fisher / samples
        channel = channels.square * channels.tokens * matrix(s.projection).detach().double().square().mean(0)
        score = (predictive + REPRESENTATIONAL * channel.view(-1, s.unit_size).sum(1)) / cost
        scores.append(score * (HEAD_FACTOR if s.kind == "attention" else 1.0))
    return scores


def _select_best(scores: Sequence[Tensor], costs: Sequence[float], budget: float) -> Tensor:
    """Selects units by descending score while they fit the budget; returns the first sublayer's mask [units]."""
    flat = torch.cat(list(scores))
    unit_costs = torch.cat([torch.full_like(s, c) for s, c in zip(scores, costs, strict=True)])
    order = flat.argsort(descending=True, stable=True)
    fits = unit_costs[order].cumsum(0) <= budget
    keep = torch.zeros_like(flat, dtype=torch.bool)
    keep[order[fits]] = True
    return keep[: len(scores[0])].cpu()


def _restrict(moments: Moments, channels: Tensor) -> Moments:
    """Returns the moments of the selected channels; `channels` is a mask [channels]."""
    xx = moments.xx[channels][:, channels]
    return Moments(xx, moments.xy[channels], moments.x[channels], moments.y, moments.yy, moments.count)
