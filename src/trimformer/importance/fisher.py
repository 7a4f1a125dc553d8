"""Gradients of the loss with respect to masks, and the Fisher information they estimate (section 4.1)."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.outputs import Problem, find_problem, model_output
from trimformer.errors import TrimformerError
from trimformer.importance.objective import curvature_losses, supervised_losses
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.models.masking import MaskUnits, frozen
from trimformer.options.methods import Objective
from trimformer.utils.distributed import add_up

# What is differentiated: the loss of the labels, a label-free one, or a function of (output, batch) -> [batch].
Loss = Objective | Callable[[Tensor, Batch], Tensor]


def sample_losses(output: Tensor, batch: Batch, problem: Problem, objective: Loss, seed: int = 0) -> Tensor:
    """[batch]: the loss of each sample."""
    if callable(objective):
        return objective(output, batch)
    if objective == "labels":
        return supervised_losses(output, batch, problem)
    return curvature_losses(output, batch, problem, seed)


def collect_mask_grads(
    model: PreTrainedModel,
    batches: Iterable[Batch],
    *,
    objective: Loss = "labels",
    per_sample: bool = True,
    seed: int = 0,
) -> list[Tensor]:
    """Gradients of the loss with respect to every unit's mask, at the dense model.

    Per sample, the mask is a leaf of shape [batch, 1, units] and the loss a sum, so one backward pass
    yields the gradient of every sample, whatever the batch size. Per batch, the loss is the batch's
    mean, as in the public code; its result depends on the batch size.

    Args:
        model: a supported model; left as it was.
        batches: padded samples with labels.
        objective: "labels", "curvature" for a label-free loss, or a function of its own.
        per_sample: one row per sample, else one per batch.
        seed: for the draws of a label-free loss.

    Returns:
        Per sublayer [samples or batches, units], float32, in the order of the batches.

    Raises:
        TrimformerError: a gradient is not finite.
    """
    problem, sublayers = find_problem(model), find_sublayers(model)
    rows: list[list[Tensor]] = [[] for _ in sublayers]
    with frozen(model), torch.enable_grad():
        for batch in batches:
            size = len(batch["index"]) if per_sample else 1
            new_mask = partial(torch.ones, device=batch["index"].device, requires_grad=True)
            masks = [new_mask(size, 1, s.num_units) for s in sublayers]
            with MaskUnits(sublayers, masks):
                losses = sample_losses(model_output(model, batch, problem), batch, problem, objective, seed)
            loss = losses.sum() if per_sample else losses.mean()
            for row, grad in zip(rows, torch.autograd.grad(loss, masks), strict=True):
                row.append(grad.squeeze(1).float())
    grads = [torch.cat(row) for row in rows]
    for sublayer, grad in zip(sublayers, grads, strict=True):
        check_finite(grad, f"gradients of {sublayer.name}")
    return grads


def check_finite(values: Tensor, what: str) -> None:
    """Raises:
    TrimformerError: `values` holds NaN or infinity, in whichever process.
    """
    bad = (~values.isfinite()).any().float()
    add_up(bad)
    if bad:
        raise TrimformerError(f"{what} are not finite; check the checkpoint for NaN, or load it in float32")


def compute_fisher_info(grads: Tensor) -> Tensor:
    """Diagonal of the empirical Fisher information: [samples, units] -> sum of squares [units], float64."""
    return grads.double().square().sum(dim=0)
