"""Gradients of the loss with respect to masks, and the Fisher information (Kwon et al., section 4.1)."""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.batches import numbered_batches
from trimformer.data.outputs import Problem, find_problem, model_output
from trimformer.errors import TrimformerError
from trimformer.importance.objective import curvature_losses, supervised_losses
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.models.masking import MaskUnits, frozen
from trimformer.options.methods import Objective
from trimformer.utils.distributed import failing_together, sum_over_processes

# The loss to differentiate: that of the labels, the label-free one, or a function (output, batch) -> [batch].
Loss = Objective | Callable[[Tensor, Batch], Tensor]


def sample_losses(output: Tensor, batch: Batch, problem: Problem, objective: Loss, seed: int = 0) -> Tensor:
    """Computes the loss of each sample, [batch]."""
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
    """Computes the gradients of the loss with respect to every unit's mask, at the dense model.

    With `per_sample`, each sample has its own mask (a leaf tensor [batch, 1, units]) and the loss is a sum, so one
    backward pass gives the gradient of every sample, independent of the batch size. Otherwise the loss is the mean
    of the batch, as in the paper's public code, and the result depends on the batch size.

    Args:
        model: a supported model; not changed.
        batches: padded samples, with labels if the objective needs them.
        objective: "labels", "curvature" for the label-free loss, or a function (output, batch) -> [batch].
        per_sample: whether to return one row per sample, or one per batch.
        seed: seed of the random numbers of the label-free loss.

    Returns:
        Per sublayer [samples or batches, units], float32, in the order of the batches.

    Raises:
        TrimformerError: a gradient is not finite.
    """
    problem, sublayers = find_problem(model), find_sublayers(model)
    rows: list[list[Tensor]] = [[] for _ in sublayers]
    with frozen(model), torch.enable_grad(), failing_together():
        for batch in numbered_batches(batches):
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
        check_finite_in_all_processes(grad, f"gradients of {sublayer.name}")
    return grads


def check_finite_in_all_processes(values: Tensor, name: str) -> None:
    """Checks that values are finite in all processes.

    Raises:
        TrimformerError: `values` has NaN or infinity in any process.
    """
    has_invalid = (~values.isfinite()).any().float()
    sum_over_processes(has_invalid)
    if has_invalid:
        raise TrimformerError(f"{name} are not finite; check the checkpoint for NaN, or load it in float32")


def compute_fisher_info(grads: Tensor) -> Tensor:
    """Computes the diagonal of the empirical Fisher information, [units] float64, from gradients [samples, units]."""
    return grads.double().square().sum(dim=0)
