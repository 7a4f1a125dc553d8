"""Runs models, and measures the divergence of their outputs from the dense model's.

`Problem` names the kind of output. Every function here takes the output as one tensor:

    single_label, multi_label, regression   logits [batch, labels]; for multiple choice [batch, choices]
    tokens                                  logits [batch, length, labels]; of audio frames, 0 at padding
    span                                    start and end logits [batch, length, 2]
    embedding                               [batch, hidden]; for a dual encoder both embeddings, concatenated
    language                                logits of the next token [batch, length, vocabulary]
"""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.batches import MAX_TOKENS, token_mask
from trimformer.data.next_tokens import MAX_LOGITS, token_divergences
from trimformer.data.sentence_transformers import sentence_head_of
from trimformer.errors import TrimformerError
from trimformer.models.layer_calls import Batch, forward, position_mask
from trimformer.models.masking import frozen

Problem = Literal["single_label", "multi_label", "regression", "tokens", "span", "embedding", "language"]

# Supported task heads, by the suffix of the model's class name.
_CLASSIFIERS = ("ForSequenceClassification", "ForImageClassification", "ForAudioClassification", "ForXVector",
                "ForNextSentencePrediction", "ForMultipleChoice", "ForImageClassificationWithTeacher")  # fmt: skip
_PER_TOKEN = ("ForTokenClassification", "ForMaskedLM", "ForCTC", "ForAudioFrameClassification")
_GENERATORS = ("ForCausalLM", "LMHeadModel")
_HEADLESS = ("Model", "Encoder", "ModelWithProjection")

PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")  # of configs

_MAX_PROBABILITIES = 2**24  # of a divergence per token, in memory at once

# Text encoders that are used through their pooled output; others through the mean over tokens.
_POOLED = ("clip_text_model", "siglip_text_model", "siglip2_text_model")


def find_problem(model: PreTrainedModel) -> Problem:
    """Finds the kind of a model's output from its class and config.

    Raises:
        TrimformerError: the task head is not supported, or the config's `problem_type` is unknown.
    """
    name, config = type(model).__name__, model.config
    if getattr(config, "problem_type", None) not in PROBLEM_TYPES:
        raise TrimformerError(
            f"the model's problem_type '{config.problem_type}' is unknown; set it to one of "
            f"{', '.join(filter(None, PROBLEM_TYPES))}"
        )
    if name.endswith(_CLASSIFIERS):
        if config.problem_type == "multi_label_classification":
            return "multi_label"
        if name.endswith(("ForMultipleChoice", "ForNextSentencePrediction")):  # their num_labels means something else
            return "single_label"
        return "regression" if config.num_labels == 1 or config.problem_type == "regression" else "single_label"
    if name.endswith(_PER_TOKEN):
        return "tokens"
    if name.endswith("ForQuestionAnswering"):
        return "span"
    if writes_text(model):
        return "language"
    if name.endswith(_HEADLESS) and not hasattr(model, "decoder"):
        return "embedding"
    raise TrimformerError(
        f"the task head of {name} is not supported; supported are classification of sequences, tokens, images and "
        "audio, question answering, multiple choice, causal and masked language models, CTC, and the bare encoder"
    )


def writes_text(model: PreTrainedModel) -> bool:
    """Returns whether a model is a causal language model, whatever else is known of it."""
    return type(model).__name__.endswith(_GENERATORS)


def max_batch_tokens(model: PreTrainedModel) -> int:
    """Returns the most tokens of a batch: fewer for language models, whose logits are their largest tensors."""
    if find_problem(model) != "language":
        return MAX_TOKENS
    return max(1, min(MAX_TOKENS, MAX_LOGITS // model.config.get_text_config().vocab_size))


def has_classes(model: PreTrainedModel) -> bool:
    """Returns whether a model predicts classes that have names, per sample or per token.

    The outputs of masked language models and CTC are tokens, those of multiple choice are positions.
    """
    problem, name = find_problem(model), type(model).__name__
    if problem == "tokens":
        return not name.endswith(("ForMaskedLM", "ForCTC"))
    return problem in ("single_label", "multi_label") and not name.endswith("ForMultipleChoice")


def model_output(model: PreTrainedModel, batch: Batch, problem: Problem) -> Tensor:
    """Runs the model on a batch; the module's docstring lists the shape of the result by problem."""
    output: Any = forward(model, batch)
    if problem == "span":
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    if problem == "embedding":
        return _embedding(model, batch, output)
    logits: Tensor = output.logits
    if problem == "tokens" and token_mask(batch).shape != logits.shape[:2]:  # audio frames
        logits = logits.masked_fill(~position_mask(model, batch, logits).unsqueeze(-1), 0)
    return logits


def _embedding(model: PreTrainedModel, batch: Batch, output: Any) -> Tensor:
    """Computes the embedding [batch, hidden] that a model without a task head is used for.

    The first that exists of: projected embeddings, the sentence-transformers embedding, the pooled output (images and
    some text encoders), the mean over non-padding positions.
    """
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


def embeds_by_mean(model: PreTrainedModel) -> bool:
    """Whether a model without a task head embeds a text by the mean over its tokens, as nothing says otherwise."""
    has_own = type(model).__name__.endswith("WithProjection") or hasattr(model.config, "vision_config")
    is_pooled = has_own or model.config.model_type in _POOLED
    return model.main_input_name == "input_ids" and sentence_head_of(model) is None and not is_pooled


def output_mask(output: Tensor, batch: Batch) -> Tensor:
    """Boolean mask [batch, length], true at the positions of per-token outputs that are not padding."""
    mask = token_mask(batch)
    if mask.shape == output.shape[:2]:
        return mask
    return (output != 0).any(-1)  # audio frames: `model_output` sets those of padding to 0


def predict(model: PreTrainedModel, batches: Iterable[Batch]) -> list[Tensor]:
    """Runs the model on every batch without gradients."""
    return list(stream_outputs(model, batches))


def stream_outputs(model: PreTrainedModel, batches: Iterable[Batch]) -> Iterator[Tensor]:
    """Yields the model's output on each batch, without gradients."""
    problem = find_problem(model)
    for batch in batches:
        with torch.no_grad(), frozen(model):
            output = model_output(model, batch, problem)
        yield output


def span_log_probs(output: Tensor, batch: Batch) -> Tensor:
    """Log-probabilities [batch, length, 2] of start and end over the non-padding tokens."""
    return output.masked_fill(~token_mask(batch).unsqueeze(-1), torch.finfo(output.dtype).min).log_softmax(1)


def divergence(output: Tensor, reference: Tensor, batch: Batch, problem: Problem) -> Tensor:
    """Divergence [batch] of an output from a reference output, usually the dense model's; 0 if they are equal.

    KL(reference || output) in nats for classes (mean over labels, tokens, or start and end), mean squared error for
    regression, 1 - cosine similarity for embeddings.
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
    if problem == "language":
        return token_divergences(output, reference, batch)
    if problem == "tokens":
        mask = output_mask(reference, batch)
        count = _rows_at_once(output)
        chunks = zip(output.split(count), reference.split(count), strict=True)
        values = torch.cat([_kl(new.log_softmax(-1), old.log_softmax(-1)) for new, old in chunks])  # [batch, length]
        return (values * mask).sum(1) / mask.sum(1).clamp(min=1)
    return _kl(*(span_log_probs(o, batch).transpose(1, 2) for o in (output, reference))).mean(1)


def _rows_at_once(output: Tensor) -> int:
    """Returns how many samples' probabilities are computed at once, to bound the memory of large vocabularies."""
    return max(1, _MAX_PROBABILITIES * len(output) // max(1, output.numel()))


def _kl(log_probs: Tensor, reference: Tensor) -> Tensor:
    return F.kl_div(log_probs, reference, reduction="none", log_target=True).sum(-1)
