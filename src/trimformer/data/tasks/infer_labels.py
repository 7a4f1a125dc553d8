"""What fine-tuning must know before there is a task head: the kind of labels, and which there are."""

import math
from typing import Any

from transformers import PreTrainedConfig

from trimformer.data.outputs import Problem
from trimformer.data.processor import architecture_of
from trimformer.data.rows import Rows
from trimformer.data.tasks.base import Task, guess_column, missing_column
from trimformer.data.tasks.sample_labels import LABEL_COLUMNS
from trimformer.data.tasks.text import TextTask
from trimformer.data.tasks.token_classification import TAG_COLUMNS, WORD_COLUMNS
from trimformer.errors import TrimformerError

MAX_CLASSES = 100_000  # an id beyond makes a head that no memory holds

_HEADS = ("ForSequenceClassification", "ForTokenClassification")


def problem_of(task: Task) -> tuple[Problem, str | None]:
    """Kind of output and label column of a task of the table."""
    return task.problem, task.label_column if isinstance(task, TextTask) else None


def guess_problem(rows: Rows, label_column: str | None = None) -> tuple[Problem, str | None]:
    """Kind of output and label column that the columns tell: answers make spans, word lists make tokens;
    else lists of labels make multi-label, fractions regression, and anything else classes.

    Raises:
        TrimformerError: no column of labels is named and none can be guessed.
    """
    columns = list(rows[0])
    if {"question", "context", "answers"} <= set(columns):
        return "span", None
    is_tokens = any(name in columns and not isinstance(rows[0][name], str) for name in WORD_COLUMNS)
    usual = TAG_COLUMNS if is_tokens else LABEL_COLUMNS
    if label_column is not None and label_column not in columns:
        raise TrimformerError(f"the data has no column '{label_column}'; its columns are {', '.join(columns)}")
    label_column = label_column or guess_column(usual, columns)
    if label_column is None:
        raise missing_column("label column", columns, labels=True)
    if is_tokens:
        return "tokens", label_column
    values = [row[label_column] for row in rows]
    if any(isinstance(value, list) for value in values):
        if not all(isinstance(value, list) for value in values):
            raise TrimformerError(
                f"column '{label_column}' mixes lists of labels and single ones; use one or the other"
            )
        return "multi_label", label_column
    return "regression" if any(_is_fraction(value) for value in values) else "single_label", label_column


def _is_fraction(value: Any) -> bool:
    try:
        return math.isfinite(number := float(value)) and not number.is_integer()
    except (TypeError, ValueError, OverflowError):
        return False


def set_labels(config: PreTrainedConfig, problem: Problem, column: str | None, rows: Rows) -> None:
    """Gives the config the labels found in the rows; those it has stay if the rows' are among them.

    Args:
        config: changed in place.
        problem: kind of output.
        column: of the labels; None where there are none to name.
        rows: of all splits.

    Raises:
        TrimformerError: the rows mix label names and numbers.
    """
    # What an earlier fine-tuning left must not decide.
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
    lists = [value.split() if isinstance(value, str) else value for value in values] if _has_lists(problem) else []
    items = [item for value in lists for item in value] if lists else values
    if not all(isinstance(item, str | int | float) for item in items):
        raise TrimformerError(f"column '{column}' holds labels that are neither names nor numbers")
    found = set(items)
    named = {isinstance(item, str) and not item.lstrip("-").isdigit() for item in found}
    if len(named) > 1:
        raise TrimformerError(f"column '{column}' mixes label names and numbers; use one or the other")
    if named == {True}:
        names = sorted(found)
        if set(names) <= set(config.label2id or {}):
            return
    else:
        _check_ids(found, column)
        multi_hot = problem == "multi_label" and found <= {0, 1} and len({len(value) for value in lists}) == 1
        count = len(lists[0]) if multi_hot else max((int(item) for item in found), default=0) + 1
        present = config.num_labels or 0
        has_head = architecture_of(config).endswith(_HEADS)
        if present == count or (present > count and has_head and not multi_hot):
            return
        names = [f"LABEL_{i}" for i in range(max(count, 2))]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}


def _check_ids(found: set[Any], column: str) -> None:
    """Raises:
    TrimformerError: labels that are numbers are no ids of classes.
    """
    for item in found:
        number = float(item) if not isinstance(item, int) else item
        if not 0 <= number < MAX_CLASSES or number != int(number):
            raise TrimformerError(
                f"column '{column}' holds the label {item}; number classes from 0 on, to {MAX_CLASSES - 1} at most"
            )


def _has_lists(problem: Problem) -> bool:
    return problem in ("multi_label", "tokens")
