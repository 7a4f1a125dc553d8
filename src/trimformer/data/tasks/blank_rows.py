"""Rows without any text: left out of calibration, but scored like all others."""

import logging

from trimformer.data.rows import Rows, Selection
from trimformer.data.tasks.base import Task
from trimformer.errors import TrimformerError

logger = logging.getLogger(__name__)


def drop_blank_rows(rows: Rows, task: Task, description: str = "calibration rows") -> Rows:
    """Returns the rows that have a text and logs how many have none.

    Raises:
        TrimformerError: no row has a text.
    """
    indices = [i for i, row in enumerate(rows) if not task.is_blank(row)]
    blank = len(rows) - len(indices)
    _check_some_text(blank, rows, description)
    if not blank:
        return rows
    logger.warning("%d of %d %s have no text and are left out", blank, len(rows), description)
    return Selection(rows, indices)


def count_blank_rows(name: str, rows: Rows, task: Task) -> int:
    """Counts and logs the evaluation rows without a text; they are scored, as any other evaluation would score them.

    Raises:
        TrimformerError: no row has a text.
    """
    blank = sum(map(task.is_blank, rows))
    _check_some_text(blank, rows, f"rows of '{name}'")
    if blank:
        logger.warning("%d of %d rows of '%s' have no text and are scored like all others", blank, len(rows), name)
    return blank


def _check_some_text(blank: int, rows: Rows, description: str) -> None:
    if 0 < len(rows) == blank:
        raise TrimformerError(
            f"all {blank} {description} have no text; name the column with the texts (--text-column, or "
            "text_column=... in Python)"
        )
