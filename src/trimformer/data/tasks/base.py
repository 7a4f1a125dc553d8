"""What a task is: how rows become model inputs, and how outputs become a score."""

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedConfig

from trimformer.data.batches import Features
from trimformer.data.outputs import Problem
from trimformer.data.processor import tokenizer_of
from trimformer.data.rows import Rows, numbered
from trimformer.errors import TrimformerError
from trimformer.models import max_positions

MAX_LISTED = 30  # names are listed in a message

_WHOLE = re.compile(r"-?[0-9]+(\.0+)?")  # pandas writes classes as 1.0 where some are missing

NO_LIMIT = sys.maxsize  # of tokens, but the model's own


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Base of all tasks.

    Attributes:
        name: as users type it.
        problem: kind of output.
        max_length: tokens beyond which a sample is cut.
        average_length: tokens that MACs are counted for (the paper's figure); None: the mean of the
            calibration samples.
        hub: path and configuration of the data set on the Hugging Face hub.
        metric: the main metric, a key of what `score` returns; None: without labels.
    """

    name: str
    problem: Problem
    max_length: int = 128
    average_length: float | None = None
    hub: tuple[str, str | None] | None = None
    metric: str | None = None

    auto_class: ClassVar[str] = ""

    def length_limit(self, processor: Any, config: PreTrainedConfig) -> int:
        """Tokens of the longest sample: the task's, the tokenizer's, or the model's limit, whichever is least.

        Raises:
            TrimformerError: the tokenizer's is no number of tokens.
        """
        limit = tokenizer_of(processor).model_max_length
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 1:
            raise TrimformerError(
                f"the tokenizer's model_max_length is {limit!r}; set it to a number of tokens, in tokenizer_config.json"
            )
        limit = int(min(limit, NO_LIMIT))
        return min(self.max_length, limit, max_positions(config, self.max_length))

    @abstractmethod
    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """Makes features for `make_batches` of rows, labels included where the rows have them.

        Args:
            rows: the user's examples.
            processor: the model's tokenizer, image processor or feature extractor, or what holds it.
            config: of the model.

        Raises:
            TrimformerError: a column is missing, what it holds cannot be read, or a label is not one of the model's.
        """

    def is_blank(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has no text to be read; never of images and sounds."""
        return False

    @abstractmethod
    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        """Metrics of the model's outputs, one per feature; empty where the rows have no labels."""


def guess_column(usual: Sequence[str], columns: Iterable[Any], taken: Sequence[str] = ()) -> str | None:
    """The first of the usual names that is a column's, however it is written; None: there is none."""
    written = {str(column).strip().lower(): str(column) for column in columns if column not in taken}
    return next((written[name] for name in usual if name in written), None)


def missing_column(what: str, columns: Iterable[Any], *, labels: bool = False) -> TrimformerError:
    """The error of a column that cannot be guessed."""
    name = "label" if labels else "text"
    return TrimformerError(
        f"no {what} found among {', '.join(map(str, columns))}; name it with --{name}-column ({name}_column=... in "
        "Python)"
    )


def check_columns(rows: Rows, columns: Sequence[str], what: str = "the data") -> None:
    """Raises:
    TrimformerError: a row lacks a column.
    """
    if not len(rows):
        raise TrimformerError(f"{what} has no rows")
    for column in columns:
        for number, row in numbered(rows):
            if row.get(column) is None:
                if column in row:
                    raise TrimformerError(f"column '{column}' is empty in row {number} of {what}")
                found = ", ".join(sorted(map(str, row)))
                raise TrimformerError(f"{what} has no column '{column}' in row {number}; its columns are {found}")


def class_id(value: Any, config: PreTrainedConfig, where: str) -> int:
    """The model's id of a class given by id or by name.

    Raises:
        TrimformerError: it is neither.
    """
    names: Mapping[str, Any] = config.label2id or {}
    if isinstance(value, str):
        if value in names:
            return int(names[value])
        if not _WHOLE.fullmatch(value):
            known = sorted(map(str, names))
            more = f" and {len(known) - MAX_LISTED} more" if len(known) > MAX_LISTED else ""
            listed = ", ".join(known[:MAX_LISTED]) + more
            raise TrimformerError(f"label '{value}' in {where} is unknown to the model; its labels are {listed}")
    try:
        number = int(value.split(".")[0] if isinstance(value, str) else value)
        is_class = isinstance(value, str) or number == value
    except (TypeError, ValueError, OverflowError):
        number, is_class = 0, False
    if not is_class:
        raise TrimformerError(f"label {value} in {where} is not a class; this model is a classifier")
    if not 0 <= number < (config.num_labels or 0):
        raise TrimformerError(f"label {value} in {where} is outside the model's {config.num_labels} labels")
    return number


def check_task(task: Task, problem: Problem) -> Task:
    """The task, if a model whose output is of this kind can do it.

    Raises:
        TrimformerError: it cannot.
    """
    if task.problem != problem:
        raise TrimformerError(
            f"task '{task.name}' needs a model whose output is '{task.problem}', this one's is '{problem}'"
        )
    return task
