"""What a model's output is for, and how far one output is from another.

`Problem` names the kind of output. Every function here takes the output as one tensor:

    single_label, multi_label, regression   logits [batch, labels]; of multiple choice [batch, choices]
    tokens                                  logits [batch, length, labels], of frames too
    span                                    start and end logits [batch, length, 2]
    embedding                               [batch, hidden]; of a model with two towers both, one after the other
"""

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.batches import token_mask
from trimformer.data.sentence_transformers import sentence_head_of
from trimformer.errors import TrimformerError
from trimformer.models.layer_calls import Batch, forward, position_mask
from trimformer.models.masking import frozen

Problem = Literal["single_label", "multi_label", "regression", "tokens", "span", "embedding"]

# Heads by the end of their class's name.
_CLASSIFIERS = ("ForSequenceClassification", "ForImageClassification", "ForAudioClassification", "ForXVector",
                "ForNextSentencePrediction", "ForMultipleChoice", "ForImageClassificationWithTeacher")  # fmt: skip
_PER_TOKEN = ("ForTokenClassification", "ForMaskedLM", "ForCTC", "ForAudioFrameClassification")
_BARE = ("Model", "Encoder", "ModelWithProjection")

# Text encoders whose users take the pooled output; of all others they take the mean over tokens.
_POOLED = ("clip_text_model", "siglip_text_model", "siglip2_text_model")


def find_problem(model: PreTrainedModel) -> Problem:
    """The kind of output of a model, from its class and configuration.

    Raises:
        TrimformerError: the task head is none of those supported, or its config names no kind of labels that is known.
    """
    name, config = type(model).__name__, model.config
    known = (None, "regression", "single_label_classification", "multi_label_classification")
    if getattr(config, "problem_type", None) not in known:
        raise TrimformerError(
            f"the model's problem_type '{config.problem_type}' is unknown; known are {', '.join(filter(None, known))}"
        )
    if name.endswith(_CLASSIFIERS):
        if config.problem_type == "multi_label_classification":
            return "multi_label"
        if name.endswith(("ForMultipleChoice", "ForNextSentencePrediction")):  # their config counts other labels
            return "single_label"
        return "regression" if config.num_labels == 1 or config.problem_type == "regression" else "single_label"
    if name.endswith(_PER_TOKEN):
        return "tokens"
    if name.endswith("ForQuestionAnswering"):
        return "span"
    if name.endswith(_BARE) and not hasattr(model, "decoder"):
        return "embedding"
    raise TrimformerError(
        f"the task head of {name} is not supported; supported are classification of sequences, tokens, images and "
        "audio, question answering, multiple choice, masked language models, CTC, and the bare encoder"
    )


def model_output(model: PreTrainedModel, batch: Batch, problem: Problem) -> Tensor:
    """Runs the model on a batch; the result's shape is the one listed at the top of this file."""
    output: Any = forward(model, batch)
    if problem == "span":
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    if problem == "embedding":
        return _embedding(model, batch, output)
    logits: Tensor = output.logits
    if problem == "tokens" and token_mask(batch).shape != logits.shape[:2]:  # frames of audio: padding says nothing
        logits = logits * position_mask(model, batch, logits).unsqueeze(-1)
    return logits


def _embedding(model: PreTrainedModel, batch: Batch, output: Any) -> Tensor:
    """What a model without a head is used for: what sentence-transformers makes of it, its projected or pooled output,
    of texts and sounds the mean."""
    projected = [output.get(name) for name in ("text_embeds", "image_embeds")]
    if any(value is not None for value in projected):
        return torch.cat([value for value in projected if value is not None], dim=-1)
    head = sentence_head_of(model)
    if head is not None:
        return head(output.last_hidden_state, position_mask(model, batch, output.last_hidden_state))
    pooled = output.get("pooler_output")
    has_text_only = "input_ids" in batch and model.config.model_type not in _POOLED
    if pooled is not None and not has_text_only:
        return pooled
    hidden = output.last_hidden_state
    mask = position_mask(model, batch, hidden).unsqueeze(-1)  # [batch, length, 1]
    return (hidden * mask).sum(1) / mask.sum(1)


def output_mask(output: Tensor, batch: Batch) -> Tensor:
    """[batch, length], true at tokens of the output that count."""
    mask = token_mask(batch)
    return (
        mask if mask.shape == output.shape[:2] else torch.ones(output.shape[:2], dtype=torch.bool, device=output.device)
    )


@torch.no_grad()
def predict(model: PreTrainedModel, batches: Iterable[Batch]) -> list[Tensor]:
    """The model's output for each batch."""
    problem = find_problem(model)
    with frozen(model):
        return [model_output(model, batch, problem) for batch in batches]


def span_log_probs(output: Tensor, batch: Batch) -> Tensor:
    """[batch, length, 2]: log-probabilities of start and end over the tokens that are not padding."""
    return output.masked_fill(~token_mask(batch).unsqueeze(-1), torch.finfo(output.dtype).min).log_softmax(1)


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
    if problem == "tokens":
        mask = output_mask(output, batch)
        return (_kl(output.log_softmax(-1), reference.log_softmax(-1)) * mask).sum(1) / mask.sum(1)
    return _kl(*(span_log_probs(o, batch).transpose(1, 2) for o in (output, reference))).mean(1)


def _kl(log_probs: Tensor, reference: Tensor) -> Tensor:
    return F.kl_div(log_probs, reference, reduction="none", log_target=True).sum(-1)
