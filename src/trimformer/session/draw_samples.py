"""Draws and encodes the samples of a run, for calibration, for scores and for the test of a quality target."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedModel

from trimformer.costs.macs import layer_lengths
from trimformer.data.batches import count_samples, make_batches, mean_length, sample_indices
from trimformer.data.block_options import BlockOptions
from trimformer.data.language_blocks import model_rows, were_answered
from trimformer.data.model_inputs import encode_rows
from trimformer.data.outputs import find_problem, max_batch_tokens
from trimformer.data.rows import Rows, Selection, as_rows, is_blocks
from trimformer.data.splits import check_evaluation_sets, find_splits, used_splits
from trimformer.data.tasks import Task
from trimformer.data.tasks.all_rows import check_some_labels
from trimformer.data.tasks.blank_rows import count_blank_rows, drop_blank_rows
from trimformer.data.token_ids import check_causal, check_padding_token, check_token_ids
from trimformer.errors import TrimformerError
from trimformer.evaluation.language import make_scorer
from trimformer.evaluation.quality_test import check_test_samples
from trimformer.evaluation.scores import Scorer
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.options.data import DataOptions
from trimformer.options.quality_target import QualityTarget
from trimformer.session.inputs import Inputs
from trimformer.session.judged_rows import separate_judged
from trimformer.session.samples import CalibrationSamples, Samples, ScoredSamples
from trimformer.session.scored_rows import (
    describe_copies,
    describe_judged,
    describe_scored_rows,
    is_set_aside,
    keep_together,
)
from trimformer.session.task import resolve_task
from trimformer.utils.distributed import shard, world_size

logger = logging.getLogger(__name__)

MAX_SCORED = 2**15  # tokens of an evaluation set of a language model


def draw_samples(
    inputs: Inputs,
    model: PreTrainedModel,
    processor: Any,
    options: DataOptions,
    seed: int,
    target: QualityTarget | None,
    timed_length: int | None = None,
) -> Samples:
    """Draws calibration samples and encodes all that is needed of the data.

    Args:
        inputs: gives the rows and the task.
        model: the model that is pruned.
        processor: its tokenizer or processor.
        options: columns and number of samples.
        seed: of the draws.
        target: the quality to keep; None: no samples are set aside to test it on.
        timed_length: see `BlockOptions.of`.

    Raises:
        TrimformerError: the rows do not fit the task or the model, or there are too few of them.
    """
    blocks = BlockOptions.of(options, timed_length, inputs.task, seed)
    if find_problem(model) == "language":
        options = replace(options, max_length=blocks.length)
    task, train, sets, judged = _find_rows(inputs, model, processor, options, blocks, seed, target)
    are_set_aside = is_set_aside(sets)
    sets = {name: limit_blocks(rows, seed) for name, rows in sets.items()}
    description, warnings = _describe_scored(inputs, options, sets, are_set_aside=are_set_aside)
    if target is not None:
        train, judged, repeats = separate_judged(train, judged, options.samples_of(task.problem), seed, task)
        warnings += repeats
    num_blank = sum(count_blank_rows(name, rows, task) for name, rows in sets.items())
    if judged is not None:
        count_blank_rows("judged", judged, task)
    num_rows, train = len(train), drop_blank_rows(train, task)
    calibration = _calibration_samples(train, num_rows - len(train), task, model, processor, options, seed)
    warnings += describe_copies(calibration.rows, sets, task)
    if judged is not None and inputs.judge_dataset is not None:
        warnings += describe_judged(judged, sets, task)

    def scorer(name: str, rows: Rows) -> Scorer:
        return make_scorer(name, rows, task, model, processor, options.batch_size)

    judged_scorer = scorer("judged", judged) if judged is not None else None
    if target is not None and judged_scorer is not None:
        check_test_samples(target, judged_scorer)
    return Samples(
        task,
        sets=[train, *([judged] if judged else []), *sets.values()],
        calibration=calibration,
        scored=ScoredSamples(
            [scorer(name, rows) for name, rows in sets.items()],
            num_rows=sum(len(rows) for rows in sets.values()),
            num_blank=num_blank,
            description=description,
            warnings=warnings,
        ),
        judged_scorer=judged_scorer,
        is_judge_data=inputs.judge_dataset is not None,
    )


def _find_rows(
    inputs: Inputs,
    model: PreTrainedModel,
    processor: Any,
    options: DataOptions,
    blocks: BlockOptions,
    seed: int,
    target: QualityTarget | None,
) -> tuple[Task, Rows, dict[str, Rows], Rows | None]:
    """Reads all rows and finds their task; rows that share a text are on one side of a split.

    Returns:
        The task, the rows to calibrate on, the evaluation sets by name, and the rows of a quality test, if given.

    Raises:
        TrimformerError: the rows cannot be used.
    """
    train, sets, judged = _read_rows(inputs, model, processor, blocks, seed, needs_judged=target is not None)
    check_evaluation_sets(sets)
    is_drop = target is not None and target.kind == "drop"
    task = resolve_task(inputs.task, options, model, [train, *sets.values()], judged, needs_score=is_drop)
    if judged is not None and is_drop:
        check_some_labels(task, judged, "judge_dataset")
    if is_set_aside(sets):
        (name, aside), *_ = sets.items()
        train, sets[name] = keep_together(train, aside, task)
    return task, train, sets, judged


def _describe_scored(
    inputs: Inputs, options: DataOptions, sets: Mapping[str, Rows], *, are_set_aside: bool
) -> tuple[str, list[str]]:
    """Returns and logs the rows to score on, in words, and returns why their scores may be too high."""
    description, warnings = describe_scored_rows(
        sets, inputs.dataset, options.data, options.eval_data, are_set_aside=are_set_aside
    )
    if any(map(were_answered, sets.values())):
        description += ", answered by the dense model"
    logger.info("scores are on %s", description)
    return description, warnings


def _calibration_samples(
    train: Rows, num_blank: int, task: Task, model: PreTrainedModel, processor: Any, options: DataOptions, seed: int
) -> CalibrationSamples:
    """Draws, encodes and batches the samples to calibrate on, from rows that all have a text.

    Raises:
        TrimformerError: there are too few rows, or the model cannot read them.
    """
    rows = _choose_rows(train, options.samples_of(task.problem), seed)
    features = encode_rows(task, rows, model, processor)
    all_batches = make_batches(features, processor, options.batch_size, model.device, max_batch_tokens(model))
    check_padding_token(model, processor, all_batches)
    batches = _share(all_batches)
    check_token_ids(model, batches)
    check_causal(model, batches)
    mean_tokens = task.average_length or mean_length(features)
    positions = layer_lengths(model, find_sublayers(model), batches[0], features, mean_tokens)
    return CalibrationSamples(
        rows,
        features,
        batches,
        num_blank=num_blank,
        mean_length=mean_tokens if "input_ids" in batches[0] else positions[0].length,
        length_limit=task.length_limit(processor, model.config),
        positions=positions,
    )


def _read_rows(
    inputs: Inputs, model: PreTrainedModel, processor: Any, blocks: BlockOptions, seed: int, *, needs_judged: bool
) -> tuple[Rows, dict[str, Rows], Rows | None]:
    """Reads the rows to calibrate on, the evaluation sets by name and, if given and needed, the rows of a quality test.

    Args:
        inputs: gives the rows.
        model: the model that is pruned.
        processor: its tokenizer or processor.
        blocks: how text becomes blocks of tokens.
        seed: draws the rows to score on where there is no validation split.
        needs_judged: whether there is a quality target.

    Raises:
        TrimformerError: the rows cannot be used.
    """

    def prepared(rows: Rows, options: BlockOptions = blocks) -> Rows:
        return model_rows(model, processor, rows, options)

    def prepared_set(data: Any, name: str, options: BlockOptions = blocks) -> Rows:
        rows = as_rows(data, name)
        try:
            return prepared(rows, options.keeping_answers(rows, name))
        except TrimformerError as error:
            raise TrimformerError(f"{name} cannot be used: {error}") from error

    if inputs.eval_dataset is None:
        splits = inputs.dataset if _are_splits(inputs.dataset) else {"all": inputs.dataset}
        used = used_splits({name: as_rows(rows) for name, rows in splits.items()})
        train, sets = find_splits({name: prepared(rows) for name, rows in used.items()}, seed)
    else:
        given = as_rows(inputs.dataset)
        named = inputs.eval_dataset if _are_sets(inputs.eval_dataset, given) else {"validation": inputs.eval_dataset}
        train = prepared(given)
        sets = {name: prepared_set(rows, "eval_dataset") for name, rows in named.items()}
    judged: Rows | None = None
    if needs_judged and inputs.judge_dataset is not None:
        judged = prepared_set(inputs.judge_dataset, "judge_dataset", blocks.of_all_rows())
    return train, sets, judged


def _choose_rows(train: Rows, num_samples: int, seed: int) -> Rows:
    """Draws the rows to calibrate on.

    Raises:
        TrimformerError: there are too few.
    """
    chosen = sample_indices(len(train), num_samples, seed)
    if len(chosen) < num_samples:
        logger.warning("the data has %d rows to calibrate on, fewer than %d: all are used", len(chosen), num_samples)
    if len(chosen) < 2:
        raise TrimformerError(f"{len(chosen)} calibration samples are too few; give at least 2")
    return Selection(train, chosen)


def limit_blocks(rows: Rows, seed: int) -> Rows:
    """Returns the rows, or a random part of a language model's blocks that has about `MAX_SCORED` tokens."""
    if not is_blocks(rows):
        return rows
    mean = sum(len(row["input_ids"]) for row in rows) / len(rows)
    chosen = sample_indices(len(rows), max(2, round(MAX_SCORED / mean)), seed)
    return Selection(rows, sorted(chosen)) if len(chosen) < len(rows) else rows


def _are_splits(data: Any) -> bool:
    """Whether the data is several sets by name (a `DatasetDict`, a mapping of lists of rows) rather than columns."""

    def are_rows(value: Any) -> bool:
        is_list = isinstance(value, Sequence) and not isinstance(value, str) and bool(value)
        is_table = hasattr(value, "column_names") or hasattr(value, "columns")  # of datasets, of pandas
        return is_table or (is_list and isinstance(value[0], Mapping))

    return isinstance(data, Mapping) and bool(data) and all(map(are_rows, data.values()))


def _are_sets(data: Any, train: Rows) -> bool:
    """Whether the data to score on are several sets by name; of lists of texts, if no name is a column to train on."""
    if not isinstance(data, Mapping) or not data or _are_splits(data):
        return _are_splits(data)
    are_lists = all(isinstance(value, list) and value and isinstance(value[0], str | tuple) for value in data.values())
    return are_lists and not (len(train) and set(data) & set(train[0]))


def _share(batches: list[Batch]) -> list[Batch]:
    """This process's share of the batches.

    Raises:
        TrimformerError: there are fewer batches than processes.
    """
    if len(batches) < world_size():
        raise TrimformerError(
            f"{count_samples(batches)} calibration samples make {len(batches)} batches, too few for {world_size()} "
            "processes; lower the batch size"
        )
    return shard(batches)
