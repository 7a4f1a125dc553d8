"""Ranking criteria: from calibration samples to one removal curve per sublayer. `CRITERIA` lists them by name."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.importance.activations import (
    ChannelStatistics,
    channel_statistics,
    flap_importance,
    layer_angles,
    wanda_importance,
)
from trimformer.importance.fisher import collect_mask_grads, compute_fisher_info
from trimformer.importance.obs import Curve, importance_curve, obs_curve, query_curves
from trimformer.importance.second_moments import SublayerMoments, collect_moments, group_by_memory
from trimformer.models import Sublayer, find_layers, find_sublayers
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
        dense_outputs: outputs of the dense model's projections, as these return them, per sublayer and batch; an entry
            is empty where they are not kept.
        predicts_loss: whether the curves are loss increases, not only an order of removal.
    """

    curves: list[Curve]
    grads: list[Tensor] = field(default_factory=list)
    token_norms: list[list[Tensor]] = field(default_factory=list)
    dense_outputs: list[list[Tensor]] = field(default_factory=list)
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


def obs(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    objective: Objective,
    run: ExecutionOptions,
    *,
    query_heads: bool = False,
    keep_outputs: Collection[int] = (),
) -> Ranking:
    """Ranks units, and query heads within them if wanted, by Optimal Brain Surgeon on second moments.

    Args:
        model: the dense model.
        batches: calibration samples of this process.
        objective: the loss.
        run: execution options.
        query_heads: rank query heads too.
        keep_outputs: positions of the sublayers whose outputs are kept for the refit.
    """
    sublayers = find_sublayers(model)
    curves: dict[int, Curve] = {}
    token_norms: dict[int, list[Tensor]] = {}
    outputs: dict[int, list[Tensor]] = {}
    counts: dict[int, int] = {}
    groups = group_by_memory(sublayers, run.max_memory)
    for k, group in enumerate(groups, start=1):
        desc = "calibrate" if len(groups) == 1 else f"calibrate {k}/{len(groups)}"
        with run.clock("calibrate"), run.precision(model.device):
            moments = collect_moments(
                model,
                run.progress(batches, desc),
                objective=objective,
                seed=run.seed,
                only=group,
                keep_outputs=keep_outputs,
            )
        found = dict(zip(group, moments, strict=True))
        token_norms |= {i: found[i].token_norms for i in group}
        outputs |= {i: found[i].outputs for i in group}
        counts |= {i: found[i].count for i in group}
        curve = partial(_obs_curve, sublayers, found, query_heads=query_heads)
        with run.clock("curves"):
            shared = compute_shared(group, curve, cost=lambda i: sublayers[i].channels ** 3)
            curves |= zip(group, shared, strict=True)
        del moments, found, curve  # their memory is that of the next group
    order = range(len(sublayers))
    # Curves must be per token of the first sublayer, as towers process different numbers of tokens per sample.
    scaled = [curves[i].scaled(counts[i] / max(counts[0], 1)) for i in order]
    norms = [token_norms[i] for i in order]
    return Ranking(scaled, token_norms=norms, dense_outputs=[outputs[i] for i in order], predicts_loss=True)


def _obs_curve(
    sublayers: Sequence[Sublayer], moments: Mapping[int, SublayerMoments], i: int, *, query_heads: bool
) -> Curve:
    """Computes the curve of sublayer i per token that it reads, with curves of fewer query heads if wanted."""
    sublayer, weight = sublayers[i], matrix(sublayers[i].projection).detach()
    curve = obs_curve(moments[i], weight, sublayer.unit_size)
    if query_heads and sublayer.queries_attribute is not None:
        curve.fewer_queries = query_curves(moments[i], weight, sublayer.unit_size, sublayer.queries)
    return curve


def wanda(model: PreTrainedModel, batches: Sequence[Batch], objective: Objective, run: ExecutionOptions) -> Ranking:
    """Ranks units by their weights times the norms of their channels; see `wanda_importance`."""
    return _by_channels(model, batches, run, wanda_importance)


def flap(model: PreTrainedModel, batches: Sequence[Batch], objective: Objective, run: ExecutionOptions) -> Ranking:
    """Ranks units by the fluctuation of their channels; see `flap_importance`."""
    return _by_channels(model, batches, run, flap_importance)


def angle(model: PreTrainedModel, batches: Sequence[Batch], objective: Objective, run: ExecutionOptions) -> Ranking:
    """Ranks layers by the angle by which they turn their input, shared out evenly to their units."""
    with run.clock("calibrate"), run.precision(model.device):
        angles = layer_angles(model, run.progress(batches, "calibrate"))
    with run.clock("curves"):
        sublayers = find_sublayers(model)
        places = {layer: i for i, layer in enumerate(find_layers(model))}
        share = [float(angles[places[s.module]]) / max(s.num_units, 1) for s in sublayers]
        return Ranking([importance_curve(torch.full((s.num_units,), v)) for s, v in zip(sublayers, share, strict=True)])


def _by_channels(
    model: PreTrainedModel,
    batches: Sequence[Batch],
    run: ExecutionOptions,
    importance: Callable[[Sublayer, ChannelStatistics], Tensor],
) -> Ranking:
    with run.clock("calibrate"), run.precision(model.device):
        channels = channel_statistics(model, run.progress(batches, "calibrate"))
    with run.clock("curves"):
        pairs = zip(find_sublayers(model), channels, strict=True)
        return Ranking([importance_curve(importance(s, c).detach()) for s, c in pairs])


CRITERIA: dict[Criterion, RankUnits] = {
    "magnitude": magnitude,
    "random": random,
    "fisher": fisher,
    "wanda": wanda,
    "flap": flap,
    "angle": angle,
    "obs": obs,
}


def magnitude_importance(sublayer: Sublayer) -> Tensor:
    """Computes the sum of squares of all weights of each unit, [units], float64."""
    units = sublayer.num_units
    squares = [matrix(sublayer.projection).double().square().sum(0).view(units, sublayer.unit_size).sum(1)]
    for producer in sublayer.producers:
        rows = matrix(producer.linear).double().square().sum(1)  # [units * rows]
        blocks = rows.split([units * size for size in producer.block_sizes])
        squares += [b.view(units, s).sum(1) for b, s in zip(blocks, producer.block_sizes, strict=True)]
    return torch.stack(squares).sum(0)
