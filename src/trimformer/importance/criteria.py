"""Ranking criteria: from calibration samples to one removal curve per sublayer. `CRITERIA` lists them by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.importance.fisher import collect_mask_grads, compute_fisher_info
from trimformer.importance.obs import Curve, importance_curve, obs_curve
from trimformer.importance.second_moments import collect_moments
from trimformer.models import Sublayer, find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.models.linear import matrix
from trimformer.options.execution import ExecutionOptions
from trimformer.options.methods import Criterion, Objective
from trimformer.utils.distributed import compute_shared, gather_rows


@dataclass(frozen=True)
class Ranking:
    """The result of a criterion for a model.

    Attributes:
        curves: one removal curve per sublayer; they serve every budget.
        grads: mask gradients [samples, units] per sublayer, for the paper's rearrangement; empty for other criteria.
        token_norms: token weights for the refit, per sublayer and batch; empty if all tokens weigh the same.
        predicts_loss: whether the curves are loss increases, not only an order of removal.
    """

    curves: list[Curve]
    grads: list[Tensor] = field(default_factory=list)
    token_norms: list[list[Tensor]] = field(default_factory=list)
    predicts_loss: bool = False


# (model, batches, objective, execution options) -> ranking
RankUnits = Callable[[PreTrainedModel, Sequence[Batch], Objective, ExecutionOptions], Ranking]


def magnitude(model: PreTrainedModel, batches: Sequence[Batch], objective: Objective, run: ExecutionOptions) -> Ranking:
    """Ranks units by the sum of their squared weights; ignores the samples."""
    with run.clock("curves"):
        return Ranking([importance_curve(magnitude_importance(s).detach()) for s in find_sublayers(model)])


def random(model: PreTrainedModel, batches: Sequence[Batch], objective: Objective, run: ExecutionOptions) -> Ranking:
    """Ranks units at random, by the run's seed."""
    generator = torch.Generator().manual_seed(run.seed)
    with run.clock("curves"):
        scores = [torch.rand(s.num_units, generator=generator) for s in find_sublayers(model)]
        return Ranking([importance_curve(score) for score in scores])


def fisher(model: PreTrainedModel, batches: Sequence[Batch], objective: Objective, run: ExecutionOptions) -> Ranking:
    """Ranks units by squared mask gradients (Kwon et al., section 4.1)."""
    with run.clock("calibrate"), run.precision(model.device):
        batches_shown = run.progress(batches, "calibrate")
        grads = [gather_rows(g) for g in collect_mask_grads(model, batches_shown, objective=objective, seed=run.seed)]
    with run.clock("curves"):
        return Ranking([importance_curve(compute_fisher_info(grad)) for grad in grads], grads)


def obs(model: PreTrainedModel, batches: Sequence[Batch], objective: Objective, run: ExecutionOptions) -> Ranking:
    """Ranks units by Optimal Brain Surgeon on second moments."""
    sublayers = find_sublayers(model)
    with run.clock("calibrate"), run.precision(model.device):
        moments = collect_moments(model, run.progress(batches, "calibrate"), objective=objective, seed=run.seed)

    def curve(i: int) -> Curve:
        per_token = obs_curve(moments[i], matrix(sublayers[i].projection).detach(), sublayers[i].unit_size)
        # Curves must be per token of the first sublayer, as towers process different numbers of tokens per sample.
        return replace(per_token, error=per_token.error * (moments[i].count / max(moments[0].count, 1)))

    with run.clock("curves"):
        curves = compute_shared(range(len(sublayers)), curve, cost=lambda i: sublayers[i].channels ** 3)
    return Ranking(curves, token_norms=[m.token_norms for m in moments], predicts_loss=True)


CRITERIA: dict[Criterion, RankUnits] = {"magnitude": magnitude, "random": random, "fisher": fisher, "obs": obs}


def magnitude_importance(sublayer: Sublayer) -> Tensor:
    """Computes the sum of squares of all weights of each unit, [units], float64."""
    units = sublayer.num_units
    squares = [matrix(sublayer.projection).double().square().sum(0).view(units, sublayer.unit_size).sum(1)]
    for producer in sublayer.producers:
        rows = matrix(producer.linear).double().square().sum(1)  # [blocks * units * size]
        squares.append(rows.view(producer.blocks, units, producer.size).sum((0, 2)))
    return torch.stack(squares).sum(0)
