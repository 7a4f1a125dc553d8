"""The task of a run: the named one, or the one inferred from the model and the rows."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from trimformer.data.outputs import find_problem
from trimformer.data.rows import Rows
from trimformer.data.sentence_settings import QUERY_COLUMNS
from trimformer.data.tasks import EmbeddingTask, Task, TextTask, find_task, follow_settings, task_of
from trimformer.data.tasks.all_rows import check_labelled, sample_row, second_items_as_labels, settle_labels
from trimformer.data.tasks.base import check_task
from trimformer.data.tasks.embedding import describe_embeddings, without_classes
from trimformer.data.tasks.label_values import relevance
from trimformer.data.tasks.multiple_choice import settle_choices
from trimformer.data.tasks.reranking import settle_candidates
from trimformer.data.tasks.retrieval import RetrievalTask, settle_answers
from trimformer.data.tasks.text import PASSAGE_COLUMNS, TEXT_COLUMNS
from trimformer.errors import TrimformerError, listed
from trimformer.options.data import DataOptions

logger = logging.getLogger(__name__)

_GRADES = 5  # different numbers that a column of relevance may hold


def named_task(options: DataOptions, model: PreTrainedModel) -> Task | None:
    """The known task that the options name, if they name one.

    Raises:
        TrimformerError: there is no such task, or it does not fit the model's head.
    """
    problem = find_problem(model)
    return check_task(find_task(options.task), problem) if options.task else None


def resolve_task(
    task: Task | None,
    options: DataOptions,
    model: PreTrainedModel,
    sets: Sequence[Rows],
    judged: Rows | None = None,
    *,
    needs_score: bool = False,
) -> Task:
    """The task of a run. The command line and Python infer it by this one rule, from all rows.

    Args:
        task: a task that is known already; None: inferred.
        options: columns and longest text.
        model: gives head and labels.
        sets: all sets of rows, the ones to calibrate on first.
        judged: rows to test a quality target on; they may have no labels where the others have.
        needs_score: whether embedders of texts without scores are scored by the order of the dense model.

    Raises:
        TrimformerError: the columns do not fit the model, only some rows have labels, or a label cannot be read.
    """
    every_set = [*sets, *([] if judged is None else [judged])]
    task = _infer(options, model, sets, every_set) if task is None else follow_settings(task, model)
    check_labelled(task, sets)
    if judged is not None:
        check_labelled(task, [judged])
    task = settle_candidates(settle_answers(task, every_set, needs_score=needs_score), every_set)
    task = settle_choices(task, every_set)
    settled = settle_labels(task, model.config, every_set)
    if settled.reading is not None and settled.problem != "regression":
        _check_outputs(model)
    return replace(settled, max_length=options.max_length) if options.max_length else settled


def _infer(options: DataOptions, model: PreTrainedModel, sets: Sequence[Rows], every_set: Sequence[Rows]) -> Task:
    """Infers the task from the columns of all rows."""
    row = [sample_row(sets)] if len(sets[0]) else sets[0]
    # Any set may have questions without an answer.
    rows = [*row, *chain.from_iterable(every_set)] if find_problem(model) == "span" else row
    task = task_of(model, rows, text_columns=options.text_columns, label_column=options.label_column)
    task = task if options.label_column else without_classes(task, every_set)
    describe_embeddings(task, model)
    if not options.text_columns:
        _name_columns(task, rows[0], sets[0])
    if options.text_columns or options.label_column:
        return task
    return second_items_as_labels(task, model.config, sets, type(model).__name__)


def _name_columns(task: Task, row: Mapping[str, Any], rows: Rows) -> None:
    """Logs which columns are read where others hold text, too, or a relevance.

    Args:
        task: what the columns mean.
        row: a row with all columns.
        rows: the rows to calibrate on.
    """
    if not isinstance(task, TextTask | EmbeddingTask):
        return
    usual = {*TEXT_COLUMNS, *QUERY_COLUMNS, *PASSAGE_COLUMNS}
    read = {*task.text_columns, *task.label_columns}
    graded = list[str]()
    if isinstance(task, RetrievalTask):
        graded = [name for name in row if name not in read and _is_graded([other.get(name) for other in rows])]
    if graded:
        logger.warning(
            "every row counts as a query with its right passage, as %s is not read; if it says which passages are "
            "right, name it with --label-column (label_column)",
            listed(graded),
        )
    others = [name for name, value in row.items()
              if name not in read and str(name).strip().lower() in usual and isinstance(value, str)]  # fmt: skip
    if others:
        logger.warning(
            "only the texts of %s are read, and %s not; name the columns to read with --text-column (text_column)",
            listed(task.text_columns),
            listed(others),
        )


def _is_graded(values: Sequence[Any]) -> bool:
    """Whether the values of a column may say how relevant a passage is: few different numbers."""
    numbers = {number for value in values if (number := relevance(value)) is not None}
    return 2 <= len(numbers) <= _GRADES


def _check_outputs(model: PreTrainedModel) -> None:
    """Checks that a classifier has as many outputs as its config has labels, where its head is a linear layer.

    Raises:
        TrimformerError: the numbers differ.
    """
    if not type(model).__name__.endswith(("ForSequenceClassification", "ForTokenClassification")):
        return
    head = next((head for name in ("classifier", "score") if (head := getattr(model, name, None)) is not None), None)
    linear = head if isinstance(head, nn.Linear) else getattr(head, "out_proj", None)
    count = model.config.num_labels
    if isinstance(linear, nn.Linear) and linear.out_features != count:
        raise TrimformerError(
            f"the model has {linear.out_features} outputs, but id2label in its config names {count} labels; give each "
            "output one name"
        )
