"""Defines `Task`, which encodes rows as model inputs and scores outputs, and column helpers that all tasks share."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig

from trimformer.data.batches import Features
from trimformer.data.outputs import Problem
from trimformer.data.processor import tokenizer_of
from trimformer.data.rows import Rows, numbered
from trimformer.data.tasks.label_reading import LabelReading
from trimformer.errors import TrimformerError, listed, quoted
from trimformer.models import max_positions

NO_LIMIT = sys.maxsize  # as `max_length`: only the tokenizer and the model limit the length


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Base class of all tasks.

    Attributes:
        name: name on the command line and in `results.json`.
        problem: kind of model output.
        max_length: maximum number of tokens per sample; longer samples are truncated.
        average_length: sequence length at which MACs are counted (the paper's value); None: the mean length of the
            calibration samples.
        hub: path and configuration of the data set on the Hugging Face hub.
        metric: main metric, a key of the dictionary that `score` returns; None: the rows are unlabelled.
        prompts: texts that are put before the texts of the first columns, as a sentence-transformers model does.
        reading: how class ids and names are read, decided from all rows of a run; None: decided for each set of rows.
    """

    name: str
    problem: Problem
    max_length: int = 128
    average_length: float | None = None
    hub: tuple[str, str | None] | None = None
    metric: str | None = None
    prompts: tuple[str, ...] = ()
    reading: LabelReading | None = None

    auto_class: ClassVar[str] = ""

    def length_limit(self, processor: Any, config: PreTrainedConfig) -> int:
        """Returns the maximum number of tokens: the smallest of the task's, the tokenizer's and the model's limit.

        Raises:
            TrimformerError: the tokenizer's limit is not a positive number.
        """
        limit = tokenizer_of(processor).model_max_length
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 1:
            raise TrimformerError(
                f"the tokenizer's model_max_length is {limit!r}; set it to a positive number in tokenizer_config.json"
            )
        limit = int(min(limit, NO_LIMIT))
        return min(self.max_length, limit, max_positions(config, self.max_length))

    @abstractmethod
    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """Encodes rows as features for `make_batches`, with labels if the rows have them.

        Args:
            rows: the user's examples.
            processor: the model's tokenizer, image processor or feature extractor, or a processor that contains it.
            config: the model's configuration.

        Raises:
            TrimformerError: a column is missing, a value cannot be read, or a label is unknown to the model.
        """

    def is_blank(self, row: Mapping[str, Any]) -> bool:
        """Returns whether all texts of a row are blank; always False for images and sounds."""
        return False

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns that hold labels, scores or answers; empty if the rows are unlabelled."""
        return ()

    @abstractmethod
    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        """Computes metrics from one output per feature; returns an empty dictionary if the rows have no labels."""


@runtime_checkable
class ScoredByQuery(Protocol):
    """A task whose scores are means over queries, each of which needs all its passages."""

    def row_scores(self, outputs: Sequence[Tensor], rows: Rows) -> dict[str, NDArray[np.float64]]:
        """Returns scores by name, [rows]; NaN in rows that hold no score of a query."""

    def scored_rows(self, rows: Rows) -> list[int]:
        """Returns the indices of the rows that hold a score."""

    @property
    def needs_dense_outputs(self) -> bool:
        """Whether the right passages are the dense model's first ones, which are not known yet."""

    def with_first_passages(self, outputs: Sequence[Tensor], rows: Rows) -> Self:
        """Returns the task whose right passages are the first ones of the dense model, given its outputs."""


def guess_column(usual_names: Sequence[str], columns: Iterable[Any], excluded: Sequence[str] = ()) -> str | None:
    """Returns the first column with one of the usual names, ignoring case and outer spaces; None if there is none."""
    by_name = {str(column).strip().lower(): str(column) for column in columns if column not in excluded}
    return next((by_name[name] for name in usual_names if name in by_name), None)


def missing_column(description: str, columns: Iterable[Any], *, labels: bool = False) -> TrimformerError:
    """Returns the error for a column that is not named and cannot be guessed."""
    name, present = "label" if labels else "text", listed(columns)
    return TrimformerError(
        f"no {description} found among {present}; name it with --{name}-column ({name}_column=... in Python)"
    )


def check_columns(rows: Rows, columns: Sequence[str]) -> None:
    """Checks that every row has a value in every column.

    Raises:
        TrimformerError: there are no rows, or a row lacks a column or has no value there.
    """
    if not len(rows):
        raise TrimformerError("the data has no rows")
    for column in columns:
        for number, row in numbered(rows):
            if row.get(column) is None:
                if column in row:
                    raise TrimformerError(f"column {quoted(column)} is empty in row {number} of the data")
                present = listed(sorted(map(str, row)))
                raise TrimformerError(
                    f"the data has no column {quoted(column)} in row {number}; its columns are {present}"
                )


def check_task(task: Task, problem: Problem) -> Task:
    """Returns the task after checking that it fits the model's kind of output.

    Raises:
        TrimformerError: the task needs another kind of output.
    """
    if task.problem != problem:
        raise TrimformerError(
            f"task '{task.name}' needs a model with '{task.problem}' output, but this model has '{problem}' output"
        )
    return task
