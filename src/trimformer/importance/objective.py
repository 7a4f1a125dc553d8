"""Losses whose gradients rank units, with and without labels. Outputs are those of `trimformer.data.outputs`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.outputs import Problem, find_problem, model_output, output_mask, span_log_probs
from trimformer.errors import TrimformerError
from trimformer.models import find_layers
from trimformer.models.layer_calls import Batch, hidden_states
from trimformer.models.masking import frozen

# Of the curvature of several classes: a model is over-sure of the texts that it was trained on.
TEMPERATURE = 2.0


def reads_first_token(model: PreTrainedModel, batch: Batch) -> bool:
    """Whether the output depends on nothing but the first position of the last layer, as in BERT's classifiers."""
    problem, last = find_problem(model), find_layers(model)[-1]
    seen: list[Tensor] = []

    def watch(_: Any, inputs: Any, output: Any) -> Any:
        hidden = hidden_states(output).detach().requires_grad_()
        seen.append(hidden)
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    handle = last.register_forward_hook(watch)
    try:
        with frozen(model), torch.enable_grad():
            model_output(model, batch, problem).sum().backward()
    finally:
        handle.remove()
    gradient = seen[-1].grad
    return gradient is not None and not gradient[:, 1:].any()


def supervised_losses(output: Tensor, batch: Batch, problem: Problem) -> Tensor:
    """[batch]: each sample's training loss from its labels. Padding and labels of -100 count nothing.

    Raises:
        TrimformerError: the problem has no labels, or the batch brings none.
    """
    if problem == "span" and "start_positions" in batch:
        log_probs = span_log_probs(output, batch)
        positions = torch.stack([batch["start_positions"], batch["end_positions"]], dim=-1)  # [batch, 2]
        return -log_probs.gather(1, positions.unsqueeze(1)).mean(dim=(1, 2))
    if "labels" not in batch or problem == "embedding":
        raise TrimformerError("this method needs labels and the calibration data has none; use one that needs none")
    labels = batch["labels"]
    if problem == "single_label":
        return F.cross_entropy(output, labels, reduction="none")
    if problem == "tokens":
        losses = F.cross_entropy(output.transpose(1, 2), labels, ignore_index=-100, reduction="none")
        return losses.sum(1) / (labels != -100).sum(1).clamp(min=1)
    target = labels.view_as(output).to(output.dtype)
    if problem == "regression":
        return F.mse_loss(output, target, reduction="none").mean(1)
    return F.binary_cross_entropy_with_logits(output, target, reduction="none").mean(1)


def curvature_losses(output: Tensor, batch: Batch, problem: Problem, seed: int = 0) -> Tensor:
    """[batch]: losses whose squared gradients are, in expectation, the Gauss-Newton curvature.

    No labels are read. With random signs e, the squared gradient of sum_y e_y sqrt(p_y) log p_y, sqrt(p_y)
    constant, is on average diag(p) - p p^T. So is that of -log p_y with y drawn from p, but a model that is
    sure nearly always draws a class without a gradient, and the rare others make up the whole sum. For the same
    reason p is taken at `TEMPERATURE`. The signs depend only on the seed and the sample, not on batches or
    order. Two classes need neither: the gradient of (z1 - z0) sqrt(p0 p1), p constant, is exact, and softening
    it changes nothing that could be measured.
    """
    if problem == "regression":
        return output.sum(1)
    if problem == "single_label" and output.shape[1] == 2:
        weight = output.detach().softmax(-1).prod(-1).sqrt()
        return (output[:, 1] - output[:, 0]) * weight
    noise = _noise(batch["index"], output[0].numel(), seed, normal=problem == "embedding").view_as(output).to(output)
    if problem == "embedding":
        return (noise * output).sum(1)
    signs = (noise - 0.5).sign()
    if problem == "multi_label":
        p = output.detach().sigmoid()
        return (signs * (p * (1 - p)).sqrt() * output).sum(1)
    soft = output / TEMPERATURE
    log_probs = span_log_probs(soft, batch) if problem == "span" else soft.log_softmax(-1)
    root = log_probs.detach().div(2).exp()
    losses = TEMPERATURE * signs * root * log_probs.masked_fill(root == 0, 0)  # 0 at a span's padding
    if problem == "tokens":
        losses = losses * output_mask(output, batch).unsqueeze(-1)
    return losses.flatten(1).sum(1)


def _noise(index: Tensor, length: int, seed: int, normal: bool = False) -> Tensor:
    """[batch, length] random numbers on the CPU, each row a function of the seed and the sample alone."""
    draw = torch.randn if normal else torch.rand
    # The generator reads only the low 32 bits of its seed.
    seeds = [(seed * 0x9E3779B1 + i) % 2**32 for i in index.tolist()]
    return torch.stack([draw(length, generator=torch.Generator().manual_seed(s)) for s in seeds])
