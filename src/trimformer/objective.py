"""What a model's output is for: losses whose gradients rank units, and distances between two outputs.

`Problem` names the kind of output. Every function here takes the output as one tensor:

    single_label, multi_label, regression   logits [batch, labels]
    tokens                                  logits [batch, length, labels]
    span                                    start and end logits [batch, length, 2]
    embedding                               mean-pooled last hidden state [batch, hidden]
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.calibration import Batch, model_inputs, token_mask
from trimformer.errors import TrimformerError

Problem = Literal["single_label", "multi_label", "regression", "tokens", "span", "embedding"]

# Of the curvature of several classes: a model is over-sure of the texts that it was trained on.
TEMPERATURE = 2.0


def find_problem(model: PreTrainedModel) -> Problem:
    """The kind of output of a model, from its class and configuration.

    Raises:
        TrimformerError: the task head is none of those supported.
    """
    name, config = type(model).__name__, model.config
    if name.endswith("ForSequenceClassification"):
        if config.problem_type == "multi_label_classification":
            return "multi_label"
        return "regression" if config.num_labels == 1 or config.problem_type == "regression" else "single_label"
    if name.endswith("ForTokenClassification"):
        return "tokens"
    if name.endswith("ForQuestionAnswering"):
        return "span"
    if model.base_model is model:
        return "embedding"
    raise TrimformerError(
        f"the task head of {name} is not supported; supported are sequence classification, token "
        "classification, question answering, and the bare encoder"
    )


def model_output(model: PreTrainedModel, batch: Batch, problem: Problem) -> Tensor:
    """Runs the model on a batch; the result's shape is the one listed at the top of this file."""
    output: Any = model(**model_inputs(batch))
    if problem == "span":
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    if problem == "embedding":
        mask = token_mask(batch).unsqueeze(-1)  # [batch, length, 1]
        return (output.last_hidden_state * mask).sum(1) / mask.sum(1)
    logits: Tensor = output.logits
    return logits


def _span_log_probs(output: Tensor, batch: Batch) -> Tensor:
    """[batch, length, 2]: log-probabilities of start and end over the tokens that are not padding."""
    return output.masked_fill(~token_mask(batch).unsqueeze(-1), torch.finfo(output.dtype).min).log_softmax(1)


def supervised_losses(output: Tensor, batch: Batch, problem: Problem) -> Tensor:
    """[batch]: each sample's training loss from its labels. Padding and labels of -100 count nothing.

    Raises:
        TrimformerError: the problem has no labels, or the batch brings none.
    """
    if problem == "span" and "start_positions" in batch:
        log_probs = _span_log_probs(output, batch)
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
    log_probs = _span_log_probs(soft, batch) if problem == "span" else soft.log_softmax(-1)
    root = log_probs.detach().div(2).exp()
    losses = TEMPERATURE * signs * root * log_probs.masked_fill(root == 0, 0)  # 0 at a span's padding
    if problem == "tokens":
        losses = losses * token_mask(batch).unsqueeze(-1)
    return losses.flatten(1).sum(1)


def _noise(index: Tensor, length: int, seed: int, normal: bool = False) -> Tensor:
    """[batch, length] random numbers on the CPU, each row a function of the seed and the sample alone."""
    draw = torch.randn if normal else torch.rand
    # The generator reads only the low 32 bits of its seed.
    seeds = [(seed * 0x9E3779B1 + i) % 2**32 for i in index.tolist()]
    return torch.stack([draw(length, generator=torch.Generator().manual_seed(s)) for s in seeds])


def divergence(output: Tensor, reference: Tensor, batch: Batch, problem: Problem) -> Tensor:
    """[batch]: how far an output is from the dense model's, 0 when equal.

    KL(reference || output) in nats for classes (mean over tokens, or over start and end), squared
    error for regression, 1 - cosine for embeddings.
    """
    if problem == "regression":
        return (output - reference).square().mean(1)
    if problem == "embedding":
        return 1 - F.cosine_similarity(output, reference)
    if problem == "multi_label":
        pairs = (torch.stack([torch.zeros_like(logits), logits], -1) for logits in (output, reference))
        return _kl(*(pair.log_softmax(-1) for pair in pairs)).mean(1)
    if problem == "single_label":
        return _kl(output.log_softmax(-1), reference.log_softmax(-1))
    mask = token_mask(batch)
    if problem == "tokens":
        return (_kl(output.log_softmax(-1), reference.log_softmax(-1)) * mask).sum(1) / mask.sum(1)
    return _kl(*(_span_log_probs(o, batch).transpose(1, 2) for o in (output, reference))).mean(1)


def _kl(log_probs: Tensor, reference: Tensor) -> Tensor:
    return F.kl_div(log_probs, reference, reduction="none", log_target=True).sum(-1)
