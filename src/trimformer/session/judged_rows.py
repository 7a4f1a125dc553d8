"""Separates the rows that a quality target is tested on from those to calibrate on."""

import logging
from collections.abc import Collection, Sequence

import numpy as np

from trimformer.data.rows import DOCUMENT_SPAN, Rows, Selection, is_blocks, shuffled_rows
from trimformer.data.splits import divide, group_rows, separate_documents
from trimformer.data.tasks import Task
from trimformer.errors import TrimformerError
from trimformer.evaluation.clusters import FEWEST_DOCUMENTS, count_documents, row_clusters
from trimformer.session.scored_rows import hold_text

logger = logging.getLogger(__name__)

_JUDGED_DRAW = 1  # second part of the seed, for this draw only


def separate_judged(
    train: Rows, given: Rows | None, num_samples: int, seed: int, task: Task
) -> tuple[Rows, Rows, list[str]]:
    """Returns the rows to calibrate on, those that a quality target is tested on, and warnings for the report.

    Args:
        train: rows to calibrate on, of which some are set aside if none are given.
        given: rows to test on.
        num_samples: number of rows to calibrate on.
        seed: of the draw.
        task: what the columns mean.

    Raises:
        TrimformerError: every row to calibrate on shares text with given rows.
    """
    judged = given
    if judged is None:
        train, judged = _set_aside(train, num_samples, seed, task)
    if given is None and not is_blocks(train):
        return train, judged, []
    train, repeats = _without_shared(train, judged, task, is_given=given is not None)
    return train, judged, repeats


def _set_aside(train: Rows, num_samples: int, seed: int, task: Task) -> tuple[Rows, Rows]:
    """Splits rows into those to calibrate on and those to test a target on: twice `num_samples`, at most half.

    Rows that share a text stay together.
    """
    order, clusters = shuffled_rows(train, np.random.default_rng([seed, _JUDGED_DRAW])), row_clusters(train, task)
    if is_blocks(train):
        spans = [block.get(DOCUMENT_SPAN, (0, 0, 0)) for block in train]
        cut = {i for i, (first, _, last) in enumerate(spans) if first != last}
        judged, kept = divide_documents(order, 2 * num_samples, clusters, cut)
        if count_documents(train) >= FEWEST_DOCUMENTS:
            judged, kept = separate_documents(judged, kept, train)
    else:
        judged, kept = divide(order, min(2 * num_samples, len(train) // 2), clusters)
    return Selection(train, sorted(kept)), Selection(train, judged)


def divide_documents(
    order: Sequence[int], most: int, documents: Sequence[int], cut: Collection[int] = ()
) -> tuple[list[int], list[int]]:
    """Divides blocks of tokens into test blocks and those to calibrate on, which are of other documents.

    So that many documents are judged, each gives at most a `FEWEST_DOCUMENTS`-th of `most` blocks; its others fill up
    what is missing then, or are left out of both. Judged documents hold at most half of all blocks.

    Args:
        order: positions of the blocks.
        most: largest number of test blocks.
        documents: document of each block.
        cut: positions of blocks that hold parts of other documents, too; they are judged last.
    """
    share, held = max(1, most // FEWEST_DOCUMENTS), 0
    judged: list[int] = []
    others: list[int] = []
    kept: list[int] = []
    for blocks in group_rows(order, documents):
        blocks.sort(key=cut.__contains__)
        part = blocks[:share]
        if len(judged) + len(part) <= most and held + len(blocks) <= len(order) // 2:
            judged += part
            others += blocks[share:]
            held += len(blocks)
        else:
            kept += blocks
    return [*judged, *others[: most - len(judged)]], kept


def _without_shared(train: Rows, judged: Rows, task: Task, *, is_given: bool) -> tuple[Rows, list[str]]:
    """Returns the training rows that are no copies of rows that a target is tested on, and share no passage with them.

    Data that repeat themselves keep all rows, with a warning for the report.

    Args:
        train: rows to calibrate on.
        judged: rows to test on.
        task: what their columns mean.
        is_given: whether they were given for this purpose, rather than set aside.

    Raises:
        TrimformerError: all of them are, and the rows to test on were given.
    """
    kept = [i for i, is_copy in enumerate(hold_text(train, judged, task)) if not is_copy]
    if len(kept) == len(train):
        return train, []
    if is_given and len(kept) < 2:
        raise TrimformerError(
            "every row to calibrate on holds text of the test rows (--judge-data), so none is left; give other test "
            "rows, or leave out --judge-data and rows are set aside"
        )
    lost = len(train) - len(kept)
    if not is_given and 2 * lost > len(train):
        line = (
            f"{lost:,} of {len(train):,} blocks to calibrate on hold text of test blocks, as the data repeat "
            "themselves; they stay, so the promise may be too good for other text"
        )
        return train, [line]
    log = logger.warning if 2 * lost > len(train) else logger.info
    log("%d of %d rows hold text of the test rows and are not calibrated on", lost, len(train))
    return Selection(train, kept), []
