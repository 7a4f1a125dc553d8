"""`trimformer evaluate`: scores a model directory, dense or pruned, or a dense one under masks."""

import argparse
import json
import logging
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from trimformer.checkpoints.save_load import load, load_model, read_masks
from trimformer.cli.option_flags import read_options
from trimformer.cli.record import RESULTS
from trimformer.cli.task_data import load_task_data
from trimformer.data.outputs import find_problem
from trimformer.data.processor import find_tokenizer
from trimformer.data.rows import Rows
from trimformer.data.tasks import ScoredByQuery
from trimformer.data.tasks.blank_rows import count_blank_rows
from trimformer.data.token_ids import check_causal
from trimformer.errors import TrimformerError
from trimformer.evaluation.language import make_scorer
from trimformer.evaluation.scores import DO_LABELS_FIT, Scorer
from trimformer.models import find_sublayers
from trimformer.models.masking import MaskUnits
from trimformer.options.data import DataOptions
from trimformer.session.coverage import measure_texts, text_warnings
from trimformer.session.scored_rows import describe_scored_rows
from trimformer.utils.environment import resolve_device, warn_slow_dtype
from trimformer.utils.outputs import lock_file

logger = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> None:
    """Scores a model and prints the scores as JSON."""
    with lock_file(arguments.output) as write:
        text = json.dumps(_scores(arguments), indent=2)
        write(text + "\n")
    print(text)


def _scores(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the scores by split."""
    device = resolve_device(arguments.device)
    model, processor = load(arguments.model, model_type=arguments.model_type, dtype=arguments.dtype)
    reference = _load_reference(arguments, model) if arguments.reference else None
    for moved in (model, reference):
        if moved is not None:
            moved.to(device)  # type: ignore[arg-type]
            warn_slow_dtype(moved.dtype, device)
    options = read_options(DataOptions, arguments)
    if options.generate and reference is None:
        raise TrimformerError("--generate lets the dense model answer the prompts; name it with --reference")
    task, _, validation = load_task_data(options, model, processor, need_train=False, author=reference)
    masks = read_masks(arguments.masks, model) if arguments.masks else None
    masking = MaskUnits(find_sublayers(model), [m.to(device) for m in masks]) if masks else nullcontext()
    if isinstance(task, ScoredByQuery) and task.needs_dense_outputs and reference is None and masks is None:
        raise TrimformerError(
            "no passage is known to be right for a query, so the one that the dense model finds first counts; name the "
            "dense model with --reference"
        )
    report: dict[str, Any] = {}
    warnings = describe_scored_rows(validation, None, options.data, options.eval_data, are_set_aside=False)[1]
    warnings += [*_calibrated_rows(arguments.model, options, validation), *_lost_tokens(model)]
    for name, rows in validation.items():
        count_blank_rows(name, rows, task)
        scorer = make_scorer(name, rows, task, reference or model, processor, arguments.batch_size)
        for checked in filter(None, (model, reference)):
            check_causal(checked, scorer.batches)
        with masking:
            scores, outputs = scorer(model)
            report[name] = {"samples": len(scorer.scored_rows), **scores}
            if reference is not None:
                report[name]["divergence"] = scorer.divergence(outputs, scorer(reference)[1])
            warnings += _set_warnings(scorer, model, scores)
    warnings = list(dict.fromkeys(warnings))
    for line in warnings:
        logger.warning("%s", line)
    return {**report, "warnings": warnings} if warnings else report


def _set_warnings(scorer: Scorer, model: PreTrainedModel, scores: Mapping[str, float]) -> list[str]:
    """Returns what is wrong with the texts of a set, the tokenizer or the scores."""
    task, processor = scorer.task, scorer.processor
    longest, tokenizer = task.length_limit(processor, model.config), find_tokenizer(processor)
    texts = measure_texts(tokenizer, task, {scorer.name: scorer.features}, longest)
    warnings = text_warnings(model, tokenizer, texts, scorer.batches, longest)
    if scorer.is_guessing(scores):
        warnings.append(
            f"the {task.metric} of '{scorer.name}' is {100 * scores[str(task.metric)]:.1f}, no better than guessing; "
            f"{DO_LABELS_FIT}"
        )
    return warnings


def _lost_tokens(model: PreTrainedModel) -> list[str]:
    """Returns a warning if a language model lost tokens, which its perplexity does not count."""
    if not getattr(model.config, "lost_tokens", False) or find_problem(model) != "language":
        return []
    return [
        "the model lost tokens, so its perplexity is over its own tokens and cannot be compared with that of another "
        "model; if it was pruned, the report of that counts lost tokens against it"
    ]


def _calibrated_rows(model: str, options: DataOptions, validation: Mapping[str, Rows]) -> list[str]:
    """Returns a warning if a model was pruned with this data, of which no split is for validation."""
    file = Path(model, RESULTS)
    if options.data is None or not file.is_file() or not {"train", "training", "all"} & set(validation):
        return []
    used: list[Any] = []
    with suppress(ValueError, KeyError, TypeError, AttributeError, OSError):  # written by another program or version
        arguments = json.loads(file.read_text(encoding="utf-8"))["arguments"]
        used = [arguments.get("data"), arguments.get("polish_data")]
    if Path(options.data).resolve() not in (Path(path).resolve() for path in used if isinstance(path, str)):
        return []
    return [
        f"the model was pruned with '{options.data}', so rows that it was calibrated on are among those scored here; "
        "give other rows"
    ]


def _load_reference(arguments: argparse.Namespace, model: PreTrainedModel) -> PreTrainedModel:
    """Loads the dense model.

    Raises:
        TrimformerError: its outputs cannot be compared with those of `model`.
    """
    reference = load_model(arguments.reference, model_type=arguments.model_type, dtype=arguments.dtype)
    kinds = [(find_problem(m), m.config.num_labels, getattr(m.config, "vocab_size", None)) for m in (model, reference)]
    if kinds[0] != kinds[1]:
        raise TrimformerError(
            f"--reference '{arguments.reference}' is not the dense model of this one: its head or vocabulary differs"
        )
    return reference
