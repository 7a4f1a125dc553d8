"""Measures, before any work, what the samples of a run cannot show: missing labels and texts that do not fit."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.data.batches import INPUT_KEYS, Features
from trimformer.data.outputs import Problem, find_problem, has_classes, model_output, output_mask
from trimformer.data.processor import find_tokenizer
from trimformer.data.tasks import EncodedTask, LanguageTask, SpanTask, Task
from trimformer.data.tasks.sample_labels import label_names
from trimformer.data.token_ids import token_table
from trimformer.models.layer_calls import Batch, model_inputs
from trimformer.models.masking import frozen
from trimformer.reports import CoverageReport, LabelCoverage, TextCoverage
from trimformer.session.samples import Samples
from trimformer.utils.distributed import gather_rows, is_main, sum_over_processes

logger = logging.getLogger(__name__)

FEW = 20  # predictions of a label: fewer are too few to calibrate or judge it
MOST_UNKNOWN = 0.01  # share of unknown tokens
MOST_CUT = 0.05  # share of texts that fill the maximum length
MOST_MOVED = 0.05  # change of an output by padding, as a share of the largest output of a batch
UNEQUAL_LENGTHS = 2.0  # ratio of mean lengths
SPARE_EMBEDDINGS = (128, 0.01)  # embeddings are padded to a multiple of 128, or by a hundredth
_LISTED = 8  # labels named in a sentence


def measure_coverage(model: PreTrainedModel, processor: Any, samples: Samples) -> CoverageReport:
    """Measures what the calibration samples exercise, and logs a sentence for each gap.

    Args:
        model: the dense model.
        processor: its tokenizer or processor.
        samples: the samples of the run; all processes together measure their shares.
    """
    tokenizer, calibration = find_tokenizer(processor), samples.calibration
    labels, predicted_range = count_labels(model, calibration.batches, special_ids(tokenizer), shared=True)
    sets = {"calibration": calibration.features, **{s.name: s.features for s in samples.scored.scorers}}
    if samples.judged_scorer is not None:
        sets.setdefault(samples.judged_scorer.name, samples.judged_scorer.features)
    texts = measure_texts(tokenizer, samples.task, sets, calibration.length_limit)
    warnings = [
        *_label_warnings(labels, len(calibration.features)),
        *text_warnings(model, tokenizer, texts, calibration.batches, calibration.length_limit),
        *_length_warnings(texts),
        *samples.scored.warnings,
    ]
    if is_main():
        for line in warnings:
            logger.warning("%s", line)
    tokens, embeddings = _vocabulary_sizes(model, tokenizer) if texts else (None, None)
    return CoverageReport(labels, predicted_range, texts, tokens, embeddings, warnings)


def measure_texts(
    tokenizer: PreTrainedTokenizerBase | None, task: Task, sets: Mapping[str, Sequence[Features]], longest: int
) -> dict[str, TextCoverage]:
    """Measures how the texts of several sets fit a tokenizer; nothing where the samples are no texts.

    Args:
        tokenizer: that encoded them.
        task: what their columns mean.
        sets: encoded samples by name.
        longest: maximum length in tokens.
    """
    if tokenizer is None or not all("input_ids" in features[0] for features in sets.values()):
        return {}
    is_cut = not isinstance(task, SpanTask | EncodedTask | LanguageTask)
    return {name: text_coverage(features, tokenizer, longest if is_cut else 0) for name, features in sets.items()}


def text_warnings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    texts: Mapping[str, TextCoverage],
    batches: Sequence[Batch],
    longest: int,
) -> list[str]:
    """Returns a sentence for each way in which a tokenizer fits a model or its texts badly.

    Args:
        model: reads the texts.
        tokenizer: that encoded them.
        texts: figures of each set.
        batches: samples, to find whether padding changes the outputs.
        longest: maximum length in tokens.
    """
    return [
        *(_vocabulary_warnings(*_vocabulary_sizes(model, tokenizer)) if texts else []),
        *(line for name, text in texts.items() for line in _text_warnings(name, text, longest)),
        *_padding_warnings(model, batches, tokenizer),
        *_mask_warnings(model, batches, tokenizer),
    ]


def _vocabulary_sizes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[int | None, int | None]:
    """Returns the number of tokens of the tokenizer and of embeddings of the model."""
    table = token_table(model)
    return None if tokenizer is None else len(tokenizer), None if table is None else table.num_embeddings


def special_ids(tokenizer: PreTrainedTokenizerBase | None) -> set[int]:
    """Returns the ids of special tokens other than the unknown one."""
    if tokenizer is None:
        return set()
    roles = ("pad_token_id", "cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id", "mask_token_id")
    return {int(value) for role in roles if (value := getattr(tokenizer, role, None)) is not None}


@torch.no_grad()
def count_labels(
    model: PreTrainedModel, batches: Sequence[Batch], special: Collection[int], *, shared: bool = False
) -> tuple[LabelCoverage | None, tuple[float, float] | None]:
    """Counts the labels that a model predicts, in one forward pass.

    Args:
        model: a model of any head.
        batches: samples; they are moved to the model's device.
        special: ids of special tokens, whose labels do not count.
        shared: whether each process has a share of the batches; the result is that of all of them.

    Returns:
        The labels, and for regression the smallest and largest prediction; None for other outputs.
    """
    problem, names = find_problem(model), label_names(model.config)
    if problem == "regression":
        with frozen(model):
            values = torch.cat([model_output(model, _on(model, batch), problem)[:, 0].float() for batch in batches])
        values = gather_rows(values[:, None]) if shared else values
        return None, (float(values.min()), float(values.max()))
    if not has_classes(model):
        return None, None
    counts = torch.zeros(len(names), dtype=torch.float64, device=model.device)
    special_tokens = torch.tensor(sorted(special), dtype=torch.long, device=model.device)
    with frozen(model):
        for batch in (_on(model, batch) for batch in batches):
            counts += _predicted(model_output(model, batch, problem), batch, problem, special_tokens, len(names))
    if shared:
        sum_over_processes(counts)
    return _label_coverage(counts.long().tolist(), names, problem), None


def _on(model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
    return {key: value.to(model.device) for key, value in batch.items()}


def _predicted(output: Tensor, batch: Batch, problem: Problem, special: Tensor, classes: int) -> Tensor:
    """Counts the predictions of each class in a batch, [classes]."""
    if problem == "multi_label":
        return (output > 0).sum(0)
    labels = output.argmax(-1)
    if problem == "tokens":
        mask = output_mask(output, batch)
        if "input_ids" in batch:
            mask = mask & ~torch.isin(batch["input_ids"], special)
        labels = labels[mask]
    return torch.bincount(labels, minlength=classes)[:classes]


def _label_coverage(counts: Sequence[int], names: Sequence[str], problem: Problem) -> LabelCoverage:
    """Classifies labels: "hardly" is below `FEW` predictions and a tenth of an even share."""
    few = min(float(FEW), sum(counts) / max(len(counts), 1) / 10)
    pairs = list(zip(names, counts, strict=True))
    never = [name for name, count in pairs if not count]
    hardly = [name for name, count in pairs if 0 < count < few]
    return LabelCoverage("tokens" if problem == "tokens" else "samples", dict(pairs), never, hardly)


def text_coverage(features: Sequence[Features], tokenizer: PreTrainedTokenizerBase, limit: int) -> TextCoverage:
    """Measures how texts fit a tokenizer.

    Args:
        features: encoded samples with `input_ids`.
        tokenizer: that encoded them.
        limit: maximum length in tokens; 0 if no text is cut.
    """
    special, unknown = special_ids(tokenizer), getattr(tokenizer, "unk_token_id", None)
    if unknown in special:  # GPT-2's tokenizer has one token for all roles
        unknown = None
    special_tokens = np.array(sorted(special), dtype=np.int64)
    lengths, words, unknowns, empty = [], 0, 0, 0
    for feature in features:
        choices = feature["input_ids"]
        for ids in choices if len(choices) and np.ndim(choices[0]) else [choices]:
            ids = np.asarray(ids, dtype=np.int64)
            real = ids[~np.isin(ids, special_tokens)]
            lengths.append(int((ids != tokenizer.pad_token_id).sum()))
            words += len(real)
            unknowns += int((real == unknown).sum())
            empty += not len(real)
    return TextCoverage(
        samples=len(features),
        mean_length=float(np.mean(lengths)) if lengths else 0.0,
        unknown=None if unknown is None else unknowns / max(words, 1),
        full=float(np.mean([length >= limit for length in lengths])) if limit and lengths else 0.0,
        empty=empty,
    )


def list_labels(names: Sequence[str]) -> str:
    """Lists labels, at most `_LISTED` by name."""
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return ", ".join(name[:50] for name in names[:_LISTED]) + more


def _label_warnings(labels: LabelCoverage | None, samples: int) -> list[str]:
    if labels is None or not labels.missing:
        return []
    return [
        f"on the {samples:,} calibration samples the dense model never or hardly predicts {len(labels.missing):,} of "
        f"its {len(labels.counts):,} labels ({list_labels(labels.missing)}), so pruning may damage these unnoticed; "
        "add samples in which they occur"
    ]


def _mask_warnings(
    model: PreTrainedModel, batches: Sequence[Batch], tokenizer: PreTrainedTokenizerBase | None
) -> list[str]:
    mask = getattr(tokenizer, "mask_token_id", None)
    if not type(model).__name__.endswith("ForMaskedLM"):
        return []
    if mask is not None and any(bool(batch["input_ids"].eq(mask).any()) for batch in batches):
        return []
    return [
        "texts are read unmasked, where most predictions repeat the token itself, so filling in masked tokens loses "
        "more than these figures say; score that by itself"
    ]


def _vocabulary_warnings(tokens: int | None, embeddings: int | None) -> list[str]:
    if tokens is None or embeddings is None:
        return []
    fixed, share = SPARE_EMBEDDINGS
    if embeddings - tokens <= max(fixed, share * embeddings):
        return []
    return [
        f"the tokenizer has {tokens:,} tokens, but the model has embeddings for {embeddings:,}; check that the "
        "tokenizer is the model's own"
    ]


def _text_warnings(name: str, text: TextCoverage, limit: int) -> list[str]:
    where, lines = _texts_of(name), []
    if text.unknown is not None and text.unknown > MOST_UNKNOWN:
        lines.append(
            f"{100 * text.unknown:.1f} % of the tokens of {where} are unknown to the tokenizer; check that it is the "
            "model's own and fits the language of the texts"
        )
    if text.full > MOST_CUT:
        lines.append(
            f"{100 * text.full:.1f} % of {where} fill the maximum length of {limit:,} tokens, and the rest of them is "
            "cut off; raise the maximum length if the model allows it, or split the texts"
        )
    if text.empty:
        lines.append(f"{text.empty:,} of {where} hold no token but special ones; check their content")
    return lines


def _length_warnings(texts: Mapping[str, TextCoverage]) -> list[str]:
    """Compares the mean length of the calibration texts with that of each set that is scored or judged."""
    if not texts:
        return []
    calibration, lines = texts["calibration"].mean_length, []
    for name, other in texts.items():
        shorter, longer = sorted([calibration, other.mean_length])
        if longer > UNEQUAL_LENGTHS * shorter:
            lines.append(
                f"the calibration texts have {calibration:.0f} tokens on average and {_texts_of(name)} "
                f"{other.mean_length:.0f}; calibrate on texts of the length that the model will read"
            )
    return lines


def _texts_of(name: str) -> str:
    """Names the texts of a set."""
    return "the calibration texts" if name == "calibration" else f"the texts of '{name}'"


@torch.no_grad()
def _padding_warnings(
    model: PreTrainedModel, batches: Sequence[Batch], tokenizer: PreTrainedTokenizerBase | None
) -> list[str]:
    """Compares the output of the text with the most padding in a batch with its output alone.

    Models with other inputs than the tokens of one text are left out.
    """
    problem = find_problem(model)
    batch = next((b for b in batches if "attention_mask" in b and not b["attention_mask"].all()), None)
    if batch is None or tokenizer is None or problem not in ("single_label", "multi_label", "regression", "embedding"):
        return []
    inputs = model_inputs(_on(model, batch))
    mask = inputs["attention_mask"]
    lengths = mask.sum(-1)
    if not inputs.keys() <= set(INPUT_KEYS) or mask.dim() != 2 or not lengths.any():
        return []
    row = int(lengths.masked_fill(lengths == 0, mask.shape[1]).argmin())
    alone = {key: value[row : row + 1, mask[row].bool()] for key, value in inputs.items()}
    with frozen(model):
        padded, unpadded = model_output(model, inputs, problem).float(), model_output(model, alone, problem)[0].float()
    moved = float((padded[row] - unpadded).abs().max() / padded.abs().max().clamp(min=1e-9))
    if moved <= MOST_MOVED:
        return []
    side = tokenizer.padding_side
    advice = "; set padding_side to 'right' in tokenizer_config.json" if side == "left" else ""
    change = f"padding a text on the {side} changes its output by {100 * moved:.0f} %"
    return [f"{change}, so scores depend on the other texts of its batch{advice}"]
