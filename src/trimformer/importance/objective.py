"""Losses whose gradients rank units, with and without labels, on the outputs of `trimformer.data.outputs`."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.batches import IGNORED, sample_generators
from trimformer.data.next_tokens import curvature_gradient, mean_token_losses
from trimformer.data.outputs import Problem, find_problem, model_output, output_mask, span_log_probs
from trimformer.errors import TrimformerError
from trimformer.models import find_layers
from trimformer.models.layer_calls import Batch, hidden_states
from trimformer.models.masking import frozen

# Softens the predictions of several classes, as a model is overconfident on the samples it was trained on.
TEMPERATURE = 2.0

NO_LABELS = "this method needs labels, but the calibration data has none; choose a label-free method such as obs"


def reads_first_token(model: PreTrainedModel, batch: Batch) -> bool:
    """Returns whether the output depends only on the last layer's first position, as in BERT's classifiers."""
    problem, last_layer = find_problem(model), find_layers(model)[-1]
    layer_outputs: list[Tensor] = []

    def make_leaf(_: Any, inputs: Any, output: Any) -> Any:
        hidden = hidden_states(output).detach().requires_grad_()
        layer_outputs.append(hidden)
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    handle = last_layer.register_forward_hook(make_leaf)
    try:
        with frozen(model), torch.enable_grad():
            model_output(model, batch, problem).sum().backward()
    finally:
        handle.remove()
    gradient = layer_outputs[-1].grad
    return gradient is not None and not gradient[:, 1:].any()


def supervised_losses(output: Tensor, batch: Batch, problem: Problem) -> Tensor:
    """Computes each sample's training loss from its labels, [batch]; ignores padding and labels of -100.

    Raises:
        TrimformerError: the batch has no labels for this problem.
    """
    if problem == "span" and "start_positions" in batch:
        log_probs = span_log_probs(output, batch)
        positions = torch.stack([batch["start_positions"], batch["end_positions"]], dim=-1)  # [batch, 2]
        return -log_probs.gather(1, positions.unsqueeze(1)).mean(dim=(1, 2))
    if problem == "language":
        return mean_token_losses(output, batch)
    if "labels" not in batch or problem == "embedding":
        raise TrimformerError(NO_LABELS)
    labels = batch["labels"]
    if problem == "single_label":
        return F.cross_entropy(output, labels, reduction="none")
    if problem == "tokens":
        losses = F.cross_entropy(output.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        return losses.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)
    target = labels.view_as(output).to(output.dtype)
    if problem == "regression":
        return F.mse_loss(output, target, reduction="none").mean(1)
    return F.binary_cross_entropy_with_logits(output, target, reduction="none").mean(1)


def curvature_losses(output: Tensor, batch: Batch, problem: Problem, seed: int = 0) -> Tensor:
    """Computes losses [batch] whose expected squared gradients are the Gauss-Newton curvature, without labels.

    With random signs e and constant sqrt(p_y), the expected squared gradient of sum_y e_y sqrt(p_y) log p_y is
    diag(p) - p p^T. That of -log p_y with y drawn from p is the same, but has a higher variance: a confident model
    nearly always draws a class with almost no gradient. To lower it further, p is softened by `TEMPERATURE`.
    The signs depend only on the seed and the sample index, not on the batches or their order. Several regression
    outputs need signs too: the squared gradient of their plain sum is (sum g)(sum g)^T, where opposite outputs cancel,
    not sum g g^T. One regression output and two classes need no signs and no softening: the gradients of z and of
    (z1 - z0) sqrt(p0 p1), with constant p, are exact.
    """
    if problem == "regression" and output.shape[1] == 1:
        return output.sum(1)
    if problem == "single_label" and output.shape[1] == 2:
        weight = output.detach().softmax(-1).prod(-1).sqrt()
        return (output[:, 1] - output[:, 0]) * weight
    if problem == "language":
        return (curvature_gradient(output, batch, seed, TEMPERATURE) * output).sum((1, 2))
    noise = _noise(batch["index"], output[0].numel(), seed, normal=problem == "embedding").view_as(output).to(output)
    if problem == "embedding":
        return (noise * output).sum(1)
    signs = (noise - 0.5).sign()
    if problem == "multi_label":
        p = output.detach().sigmoid()
        return (signs * (p * (1 - p)).sqrt() * output).sum(1)
    if problem == "regression":
        return (signs * output).sum(1)
    soft = output / TEMPERATURE
    log_probs = span_log_probs(soft, batch) if problem == "span" else soft.log_softmax(-1)
    root = log_probs.detach().div(2).exp()
    losses = TEMPERATURE * signs * root * log_probs.masked_fill(root == 0, 0)  # 0 at padding
    if problem == "tokens":
        losses = losses * output_mask(output, batch).unsqueeze(-1)
    return losses.flatten(1).sum(1)


def _noise(index: Tensor, length: int, seed: int, normal: bool = False) -> Tensor:
    """Draws random numbers [batch, length] on the CPU; each row depends on the seed and the sample index only."""
    draw = torch.randn if normal else torch.rand
    return torch.stack([draw(length, generator=generator) for generator in sample_generators(index, seed)])
