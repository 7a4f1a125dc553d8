"""Infers the kind of problem and the set of labels from the rows, for fine-tuning a model without a task head."""

import math
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig

from trimformer.data.outputs import Problem
from trimformer.data.processor import architecture_of
from trimformer.data.rows import Rows
from trimformer.data.tasks.base import Task, guess_column, missing_column
from trimformer.data.tasks.model_labels import ModelLabels
from trimformer.data.tasks.sample_labels import LABEL_COLUMNS
from trimformer.data.tasks.text import TextTask
from trimformer.data.tasks.token_classification import TAG_COLUMNS, WORD_COLUMNS
from trimformer.errors import TrimformerError, listed, quoted

MAX_CLASSES = 100_000  # a larger class id is taken for an error; a head of that size would not fit in memory

_HEADS = ("ForSequenceClassification", "ForTokenClassification")


def problem_of(task: Task) -> tuple[Problem, str | None]:
    """Returns the kind of output and the label column of a known task."""
    return task.problem, task.label_column if isinstance(task, TextTask) else None


def guess_problem(rows: Rows, label_column: str | None = None) -> tuple[Problem, str | None]:
    """Guesses the kind of output and the label column from the columns of the rows.

    Questions with contexts and answers are question answering (span), lists of words are token classification. In
    other rows, lists of labels are multi-label, labels that are fractions are regression, and all else is single-label
    classification.

    Raises:
        TrimformerError: the named label column is missing, none can be guessed, or it mixes lists and single labels.
    """
    columns = list(rows[0])
    if {"question", "context", "answers"} <= set(columns):
        return "span", None
    is_tokens = any(name in columns and not isinstance(rows[0][name], str) for name in WORD_COLUMNS)
    usual = TAG_COLUMNS if is_tokens else LABEL_COLUMNS
    if label_column is not None and label_column not in columns:
        raise TrimformerError(f"the data has no column {quoted(label_column)}; its columns are {listed(columns)}")
    label_column = label_column or guess_column(usual, columns)
    if label_column is None:
        raise missing_column("label column", columns, labels=True)
    if is_tokens:
        return "tokens", label_column
    values = [row[label_column] for row in rows if row.get(label_column) is not None]
    if any(isinstance(value, list) for value in values):
        if not all(isinstance(value, list) for value in values):
            raise _mixed_labels(label_column)
        return "multi_label", label_column
    return "regression" if any(_is_fraction(value) for value in values) else "single_label", label_column


def _is_fraction(value: Any) -> bool:
    try:
        return math.isfinite(number := float(value)) and not number.is_integer()
    except (TypeError, ValueError, OverflowError):
        return False


def set_labels(
    config: PreTrainedConfig, problem: Problem, column: str | None, rows: Rows, names: Sequence[str] = ()
) -> None:
    """Sets the labels of a configuration to those in the rows; keeps its labels if they include those of the rows.

    Args:
        config: the model's configuration, changed in place.
        problem: kind of output.
        column: column of labels; None: the labels have no names (question answering).
        rows: rows of all splits.
        names: names that the data, or a known task, gives to its class numbers; they replace other names of the model,
            unless the model's names are generic (LABEL_0, ...).

    Raises:
        TrimformerError: the labels mix names and numbers, are neither, or are not valid class ids.
    """
    # The problem type of an earlier fine-tuning must not override that of the data.
    config.problem_type = None
    if problem == "multi_label":
        config.problem_type = "multi_label_classification"
    if problem == "regression":
        config.num_labels, config.problem_type = 1, "regression"
    if problem == "span":
        config.num_labels = 2  # start and end
    if column is None or problem == "regression":
        return
    values = [row[column] for row in rows if row.get(column) is not None]
    has_lists = problem in ("multi_label", "tokens")
    list_types = (list, str) if has_lists else (list,)  # a string in a list's place is split
    if any(isinstance(value, list_types) != has_lists for value in values):
        raise _mixed_labels(column)
    lists = [value.split() if isinstance(value, str) else value for value in values] if has_lists else []
    items = [item for value in lists for item in value] if lists else values
    if not all(isinstance(item, str | int | float) for item in items):
        raise TrimformerError(f"column {quoted(column)} holds labels that are neither names nor numbers")
    labels = set(items)
    is_name = {isinstance(label, str) and not label.lstrip("-").isdigit() for label in labels}
    if len(is_name) > 1:
        raise TrimformerError(f"column {quoted(column)} mixes label names and numbers; use one or the other")
    model = ModelLabels(config)
    if is_name == {True}:
        names = sorted(labels)
        if all(model.find(name) is not None for name in names):
            return
    elif names and not model.is_generic:
        if all(model.find(name) is not None for name in names):
            return
    elif model.numbers and {float(label) for label in labels} <= set(model.numbers):
        return
    else:
        _check_class_ids(labels, column)
        multi_hot = problem == "multi_label" and labels <= {0, 1} and len({len(value) for value in lists}) == 1
        count = len(lists[0]) if multi_hot else max((int(label) for label in labels), default=0) + 1
        config_count = config.num_labels or 0
        has_head = architecture_of(config).endswith(_HEADS)
        if config_count == count or (config_count > count and has_head and not multi_hot):
            return
        names = [f"LABEL_{i}" for i in range(max(count, 2))]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}


def _mixed_labels(column: str) -> TrimformerError:
    return TrimformerError(f"column {quoted(column)} mixes lists of labels and single labels; use one or the other")


def _check_class_ids(labels: set[Any], column: str) -> None:
    """Checks that labels are class ids.

    Raises:
        TrimformerError: a label is not an integer from 0 to `MAX_CLASSES` - 1.
    """
    for label in labels:
        number = float(label) if not isinstance(label, int) else label
        if not 0 <= number < MAX_CLASSES or number != int(number):
            raise TrimformerError(
                f"column {quoted(column)} has the label {quoted(label)}; number the classes from 0 to at most "
                f"{MAX_CLASSES - 1}"
            )
