"""K-prune (Park, Choi & Kang, ICLR 2024), written from its paper to be compared with: sublayer by sublayer from the
bottom, units are scored on the current student, the cheapest ones under a global threshold are pruned, and the
kept weights are refitted by least squares.

A unit's score is (predictive + 2.5e-4 * representational) / MACs, times 64 for a head. Predictive is half the mean
squared gradient of its mask under KL to the dense model at temperature 2; representational is the sum over
tokens of its squared channels times the mean squared weight that reads each.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.checkpoints.shrink import shrink
from trimformer.costs.cost_tables import Costs
from trimformer.data.outputs import divergence, find_problem, predict
from trimformer.importance.fisher import collect_mask_grads, compute_fisher_info
from trimformer.models import Sublayer, find_sublayers
from trimformer.models.layer_calls import Batch, PaddingTracker, forward
from trimformer.models.linear import matrix, write_weights
from trimformer.models.masking import frozen
from trimformer.options.execution import ExecutionOptions
from trimformer.refit.reconstruct import refit
from trimformer.refit.regression_moments import Moments
from trimformer.refit.result import Refit
from trimformer.refit.walk import walk
from trimformer.utils.distributed import add_up, decide

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
    """Prunes the student, a copy of the teacher, in place.

    Args:
        teacher: the dense model.
        student: a copy of it.
        batches: calibration samples; labels are not read.
        costs: proportional to units.
        constraint: fraction of the dense cost to keep.
        run: see `walk`.

    Returns:
        One mask of zeros and ones per sublayer, and the error of each sublayer's refit.
    """
    sublayers = find_sublayers(student)
    references = dict(zip(map(id, batches), predict(teacher, batches), strict=True))
    unit_costs, budget = costs.per_unit, constraint * costs.dense * (1 + 1e-12)
    masks: list[Tensor] = []
    refits: list[Refit] = []
    for step in walk(teacher, student, batches, run=run, desc="kprune"):
        sublayer, i = step.sublayer, step.index
        scores = _scores(student, sublayers, batches, references, unit_costs)
        keep = decide(partial(_over_threshold, scores[i:], unit_costs[i:], budget)).to(scores[i].device)
        budget -= unit_costs[i] * float(keep.sum())
        channels = keep.repeat_interleave(sublayer.unit_size)
        moments = step.fit + step.held_out
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
        refits.append(Refit(sublayer.name, int(keep.sum()), solution is not None, before, after, RIDGE))
        masks.append(keep.float())
    shrink(student, masks)
    return masks, refits


def _scores(
    student: PreTrainedModel,
    sublayers: Sequence[Sublayer],
    batches: Sequence[Batch],
    references: dict[int, Tensor],
    costs: Sequence[float],
) -> list[Tensor]:
    """One score per unit of every sublayer, on the student as it is."""
    problem = find_problem(student)

    def losses(output: Tensor, batch: Batch) -> Tensor:
        reference = references[id(batch)] / TEMPERATURE
        return TEMPERATURE**2 * divergence(output / TEMPERATURE, reference, batch, problem)

    grads = collect_mask_grads(student, batches, objective=losses)
    scores = []
    for s, grad, squares, cost in zip(sublayers, grads, _square_sums(student, sublayers, batches), costs, strict=True):
        fisher, samples = compute_fisher_info(grad), torch.tensor(float(len(grad)), device=grad.device)
        add_up(fisher, samples, squares)
        predictive = 0.5 * fisher / samples
        channel = squares * matrix(s.projection).detach().double().square().mean(0)
        score = (predictive + REPRESENTATIONAL * channel.view(-1, s.unit_size).sum(1)) / cost
        scores.append(score * (HEAD_FACTOR if s.kind == "attention" else 1.0))
    return scores


@torch.no_grad()
def _square_sums(student: PreTrainedModel, sublayers: Sequence[Sublayer], batches: Sequence[Batch]) -> list[Tensor]:
    """Per sublayer [channels]: sum over tokens that are not padding of the squared input of the projection."""
    sums = [torch.zeros(s.channels, dtype=torch.float64, device=s.device) for s in sublayers]
    with frozen(student), PaddingTracker(student) as watch:

        def add(total: Tensor, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            total += inputs[0][watch.mask].square().sum(0)

        pairs = zip(sublayers, sums, strict=True)
        handles = [s.projection.register_forward_pre_hook(partial(add, total)) for s, total in pairs]
        try:
            for watch.batch in batches:
                forward(student, watch.batch)
        finally:
            for handle in handles:
                handle.remove()
    return sums


def _over_threshold(scores: Sequence[Tensor], costs: Sequence[float], budget: float) -> Tensor:
    """[units of the first sublayer], true for those among the best of all that fit the budget."""
    flat = torch.cat(list(scores))
    price = torch.cat([torch.full_like(s, c) for s, c in zip(scores, costs, strict=True)])
    order = flat.argsort(descending=True, stable=True)
    fits = price[order].cumsum(0) <= budget
    keep = torch.zeros_like(flat, dtype=torch.bool)
    keep[order[fits]] = True
    return keep[: len(scores[0])].cpu()


def _restrict(moments: Moments, channels: Tensor) -> Moments:
    """The moments of some channels alone."""
    xx = moments.xx[channels][:, channels]
    return Moments(xx, moments.xy[channels], moments.x[channels], moments.y, moments.yy, moments.count)
