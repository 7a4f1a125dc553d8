"""Reads and encodes further rows for a polish; labels are never looked at."""

import logging
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from transformers import PreTrainedModel

from trimformer.data.batches import Features
from trimformer.data.block_options import BlockOptions
from trimformer.data.conversations import needs_answers
from trimformer.data.language_blocks import model_rows
from trimformer.data.model_inputs import encode_rows
from trimformer.data.rows import as_rows
from trimformer.data.splits import find_splits, read_splits
from trimformer.data.tasks import EmbeddingTask, SpanTask, Task, TextTask, task_of
from trimformer.data.tasks.blank_rows import drop_blank_rows
from trimformer.errors import TrimformerError
from trimformer.models.layer_calls import LABEL_KEYS
from trimformer.options.data import DataOptions
from trimformer.options.polish import PolishOptions

logger = logging.getLogger(__name__)

# Fields of a task that name its label columns, with their values for unlabelled rows.
_NO_LABELS: dict[str, Any] = {"label_column": None, "tags_column": None, "score_column": None, "indicator_columns": ()}


def read_polish_data(options: PolishOptions) -> PolishOptions:
    """Replaces the path in the options by the rows of that file or of that folder's training split.

    Raises:
        TrimformerError: the path cannot be read, or the folder has no training split.
    """
    path = options.polish_data
    if path is None:
        return options
    rows, _ = find_splits(read_splits(path), need_train=False)
    if not len(rows):
        raise TrimformerError(f"polish data '{path}' has no 'train' split; name a file")
    return replace(options, polish_data=rows)


def encode_unlabelled(
    model: PreTrainedModel, processor: Any, task: Task, data: Any, blocks: BlockOptions | None = None
) -> list[Features]:
    """Encodes examples for the model's task, without labels; guesses columns that have other names.

    Args:
        model: the model, for its configuration and device.
        processor: its tokenizer or processor.
        task: task of the calibration samples.
        data: the examples.
        blocks: see `draw_polish_inputs`.

    Raises:
        TrimformerError: the examples cannot be read or are of another task.
    """
    try:
        blocks = (blocks or BlockOptions.of(DataOptions(), task=task)).of_all_rows()
        rows = as_rows(data, "polish_data")
        if len(rows) and not all(column in rows[0] for column in blocks.columns or ()):
            blocks = replace(blocks, columns=None)
        if blocks.generate and len(rows) and not blocks.columns and not needs_answers(rows[0]):
            blocks = replace(blocks, generate=None)
            logger.info("polish data are used with the answers that they hold, or as documents: none is generated")
        rows = model_rows(model, processor, rows, blocks)
        if not len(rows):
            raise TrimformerError("it has no rows")
        unlabelled = _unlabelled(task)
        if not all(column in rows[0] for column in _columns(unlabelled)):
            unlabelled = _unlabelled(replace(task_of(model, rows), max_length=task.max_length))
            if not _same_samples(unlabelled, task):
                raise TrimformerError(f"its task is '{unlabelled.name}', but the model's task is '{task.name}'")
        if isinstance(unlabelled, SpanTask):
            rows = [{**row, "answers": None} for row in rows]
        texts = drop_blank_rows(rows, unlabelled, "rows to polish on")
        encoded = encode_rows(unlabelled, texts, model, processor)
    except TrimformerError as error:
        raise TrimformerError(f"polish data cannot be used: {error}") from error
    return without_labels(encoded)


def without_labels(features: Sequence[Features]) -> list[Features]:
    """Returns the samples without their labels."""
    return [{key: value for key, value in sample.items() if key not in LABEL_KEYS} for sample in features]


def _unlabelled(task: Task) -> Task:
    """Returns the task without its label columns."""
    names = {field.name for field in fields(task)}
    return replace(task, **{name: value for name, value in _NO_LABELS.items() if name in names})


def _columns(task: Task) -> list[str]:
    """Returns the names of the columns that the task reads."""
    columns: list[str] = []
    for field in fields(task):
        value = getattr(task, field.name)
        if value and field.name.endswith(("_column", "_columns")):
            columns += [value] if isinstance(value, str) else value
    return columns


def _same_samples(unlabelled: Task, task: Task) -> bool:
    """Returns whether samples of one task can stand beside those of another; texts to embed come in any columns."""
    if isinstance(task, EmbeddingTask):
        return isinstance(unlabelled, EmbeddingTask)
    same = isinstance(unlabelled, TextTask) if isinstance(task, TextTask) else type(unlabelled) is type(task)
    return same and len(_columns(unlabelled)) == len(_columns(_unlabelled(task)))
