"""Describes the rows that a run is scored on, and warns where the model may have been trained on them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimformer.data.rows import Rows, Selection, is_blocks, joined
from trimformer.data.shared_passages import hold_passages
from trimformer.data.splits import divide
from trimformer.data.tasks import Task
from trimformer.errors import in_unicode
from trimformer.evaluation.clusters import row_clusters, row_inputs

_TRAIN = "train"
_FEW = 0.05  # share of scored rows that may be calibrated on, too: short texts occur twice by themselves


def describe_scored_rows(
    sets: Mapping[str, Rows], dataset: Any, path: str | None, eval_path: str | None = None, *, are_set_aside: bool
) -> tuple[str, list[str]]:
    """Describes the rows to score on.

    Args:
        sets: the evaluation sets by name.
        dataset: the calibration data as given; the split name of a `datasets.Dataset` is used.
        path: path given on the command line; None when called from Python.
        eval_path: path of separate evaluation data, if given.
        are_set_aside: whether the rows were drawn from the calibration data.

    Returns:
        The rows in words, and a warning if their file or split is called train.
    """
    unit = "blocks of tokens" if is_blocks(next(iter(sets.values()))) else "rows"
    if eval_path is not None:
        text = f"{sum(map(len, sets.values())):,} {unit} of '{in_unicode(Path(eval_path).name)}'"
        is_train = _is_train(Path(eval_path).name)
    elif are_set_aside:
        source, is_train = _source(dataset, path)
        text = f"{len(next(iter(sets.values()))):,} {unit} set aside from {source}"
    else:
        text = ", ".join(f"{len(rows):,} {unit} of '{name}'" for name, rows in sets.items())
        is_train = any(_is_train(name) or _is_train(getattr(rows, "split", None)) for name, rows in sets.items())
    if not is_train:
        return text, []
    return text, [
        f"scores are on {text}: if the model was trained on these rows, the scores of the dense and the "
        "pruned model are too high; give rows that it has not seen, such as a validation file or split"
    ]


def hold_text(rows: Rows, others: Rows, task: Task) -> list[bool]:
    """Returns for each row whether it is a copy of another row, or a block of tokens that holds a passage of one."""
    known = set(row_inputs(others, task))
    flags = [row in known for row in row_inputs(rows, task)] if known else [False] * len(rows)
    if is_blocks(rows):
        flags = [a or b for a, b in zip(flags, hold_passages(rows, others), strict=True)]
    return flags


def describe_copies(calibration: Rows, sets: Mapping[str, Rows], task: Task) -> list[str]:
    """Returns a warning if many of the rows to score on are copies of calibration rows, or share passages with them."""
    ending = "hold text that is calibrated on, so their scores may be too high; give other rows"
    return _describe_shared(calibration, sets, task, ending)


def describe_judged(judged: Rows, sets: Mapping[str, Rows], task: Task) -> list[str]:
    """Returns a warning if many of the rows to score on are also among those that the quality target is tested on."""
    ending = (
        "are also among those that the quality target is tested on, so they had a part in the choice of the model; "
        "give other rows"
    )
    return _describe_shared(judged, sets, task, ending)


def _describe_shared(others: Rows, sets: Mapping[str, Rows], task: Task, ending: str) -> list[str]:
    """Returns a warning that ends in `ending` if many of the rows to score on hold text of other rows."""
    scored = [flag for rows in sets.values() for flag in hold_text(rows, others, task)]
    count = sum(scored)
    return [f"{count:,} of {len(scored):,} rows to score on {ending}"] if count > _FEW * len(scored) else []


def is_set_aside(sets: Mapping[str, Rows]) -> bool:
    """Whether the rows to score on were drawn from the calibration data, which had no split of their own."""
    return len(sets) == 1 and isinstance(next(iter(sets.values())), Selection)


def _source(dataset: Any, path: str | None) -> tuple[str, bool]:
    """Returns the name of the data that rows were set aside from, and whether it is called train."""
    if path is not None:
        is_train = _is_train(Path(path).name) or (Path(path).is_dir() and any(_is_train(p.name) for p in _inside(path)))
        return f"'{in_unicode(Path(path).name)}'", is_train
    split = getattr(dataset, "split", None)
    if split is None and isinstance(dataset, Mapping):
        split = next((name for name in dataset if _is_train(name)), None)
    return (f"the split '{split}'", _is_train(split)) if split is not None else ("the data", False)


def _inside(path: str) -> list[Path]:
    try:
        return list(Path(path).iterdir())
    except OSError:
        return []


def _is_train(name: Any) -> bool:
    return name is not None and str(name).lower().startswith(_TRAIN)


def keep_together(train: Rows, aside: Rows, task: Task) -> tuple[Rows, Rows]:
    """Divides rows that were set aside one by one again, so that they share no text with the others.

    Rows that are divided so already stay as they are.

    Returns:
        The rows to calibrate on and those set aside; as they are if no two rows share a text.
    """
    if not isinstance(train, Selection) or not isinstance(aside, Selection):
        return train, aside
    rows = joined(aside, train)
    clusters = row_clusters(rows, task)
    if max(clusters) + 1 == len(rows):
        return train, aside
    chosen, kept = divide(range(len(rows)), len(aside), clusters)
    return Selection(rows, kept), Selection(rows, chosen)
