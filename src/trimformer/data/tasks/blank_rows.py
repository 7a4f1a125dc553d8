"""Rows without a text: they tell nothing of what a model is used for, and are scored all the same."""

import logging

from trimformer.data.rows import Rows, Selection
from trimformer.data.tasks.base import Task
from trimformer.errors import TrimformerError

logger = logging.getLogger(__name__)


def drop_blank_rows(rows: Rows, task: Task, what: str = "rows to calibrate on") -> Rows:
    """The rows that have a text; how many have none is logged.

    Raises:
        TrimformerError: none has one.
    """
    kept = [i for i, row in enumerate(rows) if not task.is_blank(row)]
    _check(len(kept), len(rows), what)
    if len(kept) == len(rows):
        return rows
    logger.warning("%s without a text, left out: %d of %d", what, len(rows) - len(kept), len(rows))
    return Selection(rows, kept)


def count_blank_rows(name: str, rows: Rows, task: Task) -> int:
    """Rows to score on that have no text, which is logged. They count, as wherever else the model is scored on them.

    Raises:
        TrimformerError: none has one.
    """
    blank = sum(map(task.is_blank, rows))
    _check(len(rows) - blank, len(rows), f"rows of '{name}'")
    if blank:
        logger.warning("rows of '%s' without a text, scored like all others: %d of %d", name, blank, len(rows))
    return blank


def _check(with_text: int, of: int, what: str) -> None:
    if of and not with_text:
        raise TrimformerError(f"all {of} {what} are without a text; is it in another column? name it (text_column)")
