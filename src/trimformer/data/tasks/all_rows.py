"""Decisions that need all rows of all sets: their columns, which rows have labels, and how the labels are read.

Rows are drawn at random later; what is decided here does not depend on the draw.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from transformers import PreTrainedConfig

from trimformer.data.rows import Rows, TextPair, numbered
from trimformer.data.tasks.base import Task, check_columns
from trimformer.data.tasks.encoded import EncodedTask
from trimformer.data.tasks.label_reader import LabelReader, check_every_label
from trimformer.data.tasks.label_reading import decide_reading
from trimformer.data.tasks.label_values import column_values
from trimformer.data.tasks.multiple_choice import LABEL_COLUMNS as CHOICE_LABEL_COLUMNS
from trimformer.data.tasks.sample_labels import LABEL_COLUMNS, LabelTask, label_names
from trimformer.data.tasks.text import TextTask, text_task
from trimformer.data.tasks.token_classification import TAG_COLUMNS, TokenTask, token_task
from trimformer.errors import TrimformerError, quoted

logger = logging.getLogger(__name__)

AnyTask = TypeVar("AnyTask", bound=Task)

_LABELS = {"answers", *LABEL_COLUMNS, *TAG_COLUMNS, *CHOICE_LABEL_COLUMNS}
_REPEATED = 10  # times that each of a few second items occurs, if they are labels and not texts


def sample_row(sets: Sequence[Rows]) -> dict[str, Any]:
    """Returns one row with the columns of the first row of the data, and the columns of labels that any row has.

    Each value is the first that is not missing. Columns of labels without any value are left out.
    """
    _, first = min(numbered(sets[0]), key=lambda pair: pair[0])
    row = dict.fromkeys(first)
    for i, rows in enumerate(sets):
        columns = getattr(rows, "column_names", None)  # a `datasets.Dataset`: all rows have the same columns
        for other in rows:
            for name, value in other.items():
                if _is_label(name):
                    row[name] = value if _is_missing(row.get(name), True) else row[name]
                elif i == 0 and name in first and row[name] is None:
                    row[name] = value
            if columns is not None and all(row.get(name) is not None for name in columns if i == 0 or _is_label(name)):
                break
    return {name: value for name, value in row.items() if not (_is_label(name) and _is_missing(value, True))}


@cache
def _is_label(name: Any) -> bool:
    return str(name).strip().lower() in _LABELS


def _is_missing(value: Any, blank: bool) -> bool:
    """Whether a label is missing: None, NaN, or, if `blank` counts, a string without letters."""
    if isinstance(value, str):
        return blank and not value.strip()
    return value is None or (isinstance(value, float) and value != value)


def check_labelled(task: Task, sets: Sequence[Rows]) -> None:
    """Checks that either all rows of all sets have a label or none has.

    Raises:
        TrimformerError: some rows have a label and some have none.
    """
    blank = task.problem not in ("multi_label", "tokens")  # there a blank string is an empty list
    for column in task.label_columns:
        labelled = []
        for rows in sets:
            missing = [_is_missing(value, blank) for value in column_values(rows, column)]
            if all(missing) and not any(column in row for row in rows):
                continue
            if any(missing) or not len(rows):
                check_columns(rows, [column])
                number, row = list(numbered(rows))[missing.index(True)]
                raise TrimformerError(
                    f"column {quoted(column)} is {quoted(row[column])} in row {number} of the data, no label or "
                    "number; label all rows, or leave this one out"
                )
            labelled.append(rows)
        if 0 < len(labelled) < len(sets):
            raise TrimformerError(
                f"some splits of the data have the column {quoted(column)}, others do not; label all or none"
            )


def check_some_labels(task: Task, rows: Rows, name: str) -> None:
    """Checks that rows to test a drop on have labels, where the other rows of the task have some.

    Raises:
        TrimformerError: the rows have no column of labels.
    """
    columns = task.label_columns
    if columns and not any(row.get(column) is not None for row in rows for column in columns):
        raise TrimformerError(
            f"max_drop needs labels, and {name} has no column {quoted(columns[0])}; add it, or give max_divergence "
            "instead"
        )


def settle_labels(task: AnyTask, config: PreTrainedConfig, sets: Sequence[Rows]) -> AnyTask:
    """Decides from all rows how labels are read, checks each label, and logs the reading.

    Args:
        task: the task.
        config: the model's configuration.
        sets: all sets of rows; sets without labels are passed over.

    Returns:
        The task with its `reading`; the same task if its labels are no classes or numbers.

    Raises:
        TrimformerError: a label is unknown to the model, or the labels contradict each other.
    """
    column = _class_column(task)
    labelled = [rows for rows in sets if column and any(row.get(column) is not None for row in rows)]
    if column is None or not labelled:
        return task
    known_names = task.class_names if isinstance(task, LabelTask) else ()
    reading = decide_reading(task.problem, config, column, labelled, known_names, isinstance(task, EncodedTask))
    for rows in labelled:
        check_every_label(LabelReader(task.problem, config, rows, column, reading), rows, column)
    if reading != task.reading:
        logger.info("labels: %s", reading.description)
    return replace(task, reading=reading)


def _class_column(task: Task) -> str | None:
    """Returns the column of class ids, class names or numbers; None if the task has none."""
    if isinstance(task, EncodedTask) and task.choices:
        return None
    if isinstance(task, LabelTask):
        return None if task.indicator_columns else task.label_column
    return task.tags_column if isinstance(task, TokenTask) else None


def second_items_as_labels(task: Task, config: PreTrainedConfig, sets: Sequence[Rows], head: str) -> Task:
    """Returns the task that reads tuples of two strings as texts with labels, if all second strings are labels.

    Args:
        task: the task inferred from the columns, which takes the second string for a text.
        config: the model's configuration.
        sets: all sets of rows.
        head: name of the model's class.

    Raises:
        TrimformerError: most second strings are labels but not all, or a few texts unknown to the model repeat.
    """
    is_pair = isinstance(task, TextTask) and task.text_columns == ("text", "text_pair") and not task.label_column
    is_tagged = isinstance(task, TextTask) and task.problem == "tokens" and head.endswith("ForTokenClassification")
    if not (is_pair or is_tagged) or not all(isinstance(row, TextPair) for rows in sets for row in rows):
        return task
    if task.problem not in ("single_label", "multi_label", "regression", "tokens"):
        return task
    labelled: Task = (
        token_task(config, sets[0], words_column="text", tags_column="text_pair", max_length=task.max_length)
        if is_tagged
        else text_task(
            task.problem,
            sets[0],
            text_columns=["text"],
            label_column="text_pair",
            label_names=label_names(config),
            max_length=task.max_length,
        )
    )
    seconds = [str(row["text_pair"]) for rows in sets for row in rows]
    readable = _readable(seconds, labelled, config, sets)
    unknown = next((text for text in seconds if not readable[text]), None)
    if unknown is None:
        logger.info("the second item of every tuple is a label of the model: it is read as the label")
        return replace(labelled, prompts=task.prompts[:1])
    known = sum(readable[text] for text in seconds)
    few = 2 <= len(readable) <= (config.num_labels or 0) and len(seconds) >= _REPEATED * len(readable)
    if 2 * known > len(seconds) or few:
        raise TrimformerError(
            f"the second items of the tuples look like labels, but {quoted(unknown)} is none of the model's labels; "
            "correct it, or give pairs of texts as dictionaries with 'text' and 'text_pair'"
        )
    return task


def _readable(texts: Sequence[str], task: Task, config: PreTrainedConfig, sets: Sequence[Rows]) -> Mapping[str, bool]:
    """Whether each text can be read as a label of the task."""
    column = "text_pair"
    try:
        reading = decide_reading(task.problem, config, column, sets)
        reader = LabelReader(task.problem, config, sets[0], column, reading)
    except TrimformerError:
        return dict.fromkeys(texts, False)
    readable = {}
    for text in dict.fromkeys(texts):
        items = text.split() if task.problem == "tokens" else [text]
        try:
            for item in items:
                (reader.class_id if task.problem == "tokens" else reader.read)(item, column)
            readable[text] = bool(items)
        except TrimformerError:
            readable[text] = False
    return readable
