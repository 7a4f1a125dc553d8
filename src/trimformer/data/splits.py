"""Reads data as splits and chooses the calibration and evaluation splits."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from trimformer.data.class_names import class_names_of
from trimformer.data.files import SUFFIXES, is_data_file, names_split, read_rows, stem_and_suffix
from trimformer.data.media_folders import read_media
from trimformer.data.rows import DOCUMENT_SPAN, NamedRows, Rows, Selection, TextLines, disable_decoding, shuffled_rows
from trimformer.errors import TrimformerError, flat, listed, one_sentence
from trimformer.utils.input_paths import check_readable

logger = logging.getLogger(__name__)

_TRAIN_NAMES = ("train", "training")
_SET_ASIDE = 0.2  # share of the training rows that is set aside where there is no validation split
_SHARD = re.compile(r"-(\d+)-of-(\d+)$")  # suffix of sharded files on the hub
_ARROW_ENDS = (b"\xff\xff\xff\xff\x00\x00\x00\x00", b"ARROW1")  # of a stream, of a file
_VALIDATION_NAMES = ("validation", "dev", "valid", "val", "eval", "evaluation", "test", "testing", "tests")


def read_splits(path: str | Path) -> dict[str, Rows]:
    """Reads a file or folder into splits by name.

    Args:
        path: a single file (the split "all"), a folder with one file per split (`train.jsonl`, `validation.csv`) or
            with shards (`train-00000-of-00002.parquet`), a folder written by `datasets.save_to_disk`, a folder of
            text files (the split "all"), or a folder of images or sounds (see `read_media`).

    Raises:
        TrimformerError: the path does not exist, holds no data, or cannot be read.
    """
    if not str(path):
        raise TrimformerError("the data has an empty name; give a file or folder")
    check_readable(path, "data file")
    path = Path(path)
    if path.is_file() or (is_data_file(path) and not path.is_dir()):
        return {"all": read_rows(path)}
    if not path.is_dir():
        raise TrimformerError(f"data folder '{path}' does not exist")
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _load_from_disk(path)
    split_names = (*_TRAIN_NAMES, *_VALIDATION_NAMES)
    files: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        stem = stem_and_suffix(file)[0]
        if file.is_file() and is_data_file(file) and names_split(stem, split_names):
            split = _SHARD.sub("", stem)
            shards = files.setdefault(split, [])
            if shards and split == stem:
                raise TrimformerError(
                    f"data folder '{path}' holds both {shards[0].name} and {file.name}; remove one of them"
                )
            shards.append(file)
    for split, shards in files.items():
        _check_shards(path, split, [stem_and_suffix(file)[0] for file in shards])
    if files:
        return {split: _join(shards) for split, shards in files.items()}
    media = read_media(path, split_names)
    texts = [] if media else sorted(file for file in path.iterdir() if stem_and_suffix(file)[1] == ".txt")
    if texts:
        others = sorted(set(path.iterdir()) - set(texts))
        left_out = [f"{other.name}/" if other.is_dir() else other.name for other in others if other.name[0] != "."]
        if left_out:
            logger.warning("of the folder '%s', only its own text files are read; not %s", path, listed(left_out))
        return {"all": _join(texts)}
    if not media:
        raise TrimformerError(
            f"data folder '{path}' has no images or sounds and no train or validation file; add one of the types "
            f"{', '.join(SUFFIXES)}"
        )
    return media


def _join(shards: list[Path]) -> Rows:
    """Reads the shards of a split.

    Raises:
        TrimformerError: a shard cannot be read, or its class names differ from those of the first.
    """
    parts = [read_rows(shard) for shard in shards]
    names = class_names_of(parts[0])
    for shard, part in zip(shards, parts, strict=True):
        if class_names_of(part) != names:
            raise TrimformerError(
                f"'{shard}' numbers its classes in another order than '{shards[0].name}'; write both in one order"
            )
    texts = [part for part in parts if isinstance(part, TextLines)]
    if len(texts) == len(parts):
        return TextLines(
            (row["text"] for part in texts for row in part), [text for part in texts for text in part.documents]
        )
    return NamedRows(chain.from_iterable(parts), names)


def read_evaluation_sets(path: str | Path) -> dict[str, Rows]:
    """Reads the rows of a file or of a folder's validation splits, or its training split if it has no other.

    Returns:
        The rows by split; a single set is called "validation".

    Raises:
        TrimformerError: the path does not exist, holds no data, or cannot be read.
    """
    _, sets = find_splits(read_splits(path), need_train=False)
    return sets if len(sets) > 1 else {"validation": next(iter(sets.values()))}


def read_evaluation_rows(path: str | Path) -> Rows:
    """Reads the rows of a file or of a folder's first validation split; see `read_evaluation_sets`."""
    (name, rows), *others = read_evaluation_sets(path).items()
    if others:
        left_out = listed(f"'{other}'" for other, _ in others)
        logger.warning("only '%s' of '%s' is read, not %s; name a file of all rows", name, path, left_out)
    return rows


def _load_from_disk(path: Path) -> dict[str, Rows]:
    import datasets

    with one_sentence(f"data folder '{path}' cannot be read"):
        for state in sorted(path.glob("**/state.json")):
            _check_arrow_files(state)
        loaded = datasets.load_from_disk(str(path))
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {"all": loaded}
    return {name: disable_decoding(rows) for name, rows in splits.items()}


def _check_shards(path: Path, split: str, names: Sequence[str]) -> None:
    """Checks that all shards of a split are there, from names such as "train-00000-of-00002".

    Raises:
        TrimformerError: a shard is missing, or shards of different sets are mixed.
    """
    numbers = [match.groups() for match in map(_SHARD.search, names) if match]
    if not numbers:
        return
    totals = {int(total) for _, total in numbers}
    if len(totals) > 1:
        raise TrimformerError(
            f"data folder '{path}' mixes shards of '{split}' in {' and '.join(map(str, sorted(totals)))} parts; remove "
            "those of one set"
        )
    missing = sorted(set(range(totals.pop())) - {int(number) for number, _ in numbers})
    if missing:
        raise TrimformerError(
            f"data folder '{path}' lacks shard {missing[0]} of '{split}' ({len(missing)} missing in all, counted from "
            "0); copy or download it again, or give one file"
        )


def _check_arrow_files(state: Path) -> None:
    """Checks the files that `save_to_disk` wrote beside its `state.json`; `datasets` reads a cut one without an error.

    Raises:
        TrimformerError: a file is missing or cut short.
    """
    names = [str(entry["filename"]) for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    _check_shards(state.parent, state.parent.name, [Path(name).stem for name in names])
    for name in names:
        file = state.parent / name
        if not file.is_file():
            raise TrimformerError(f"'{name}', which state.json names, is missing; copy or download it again")
        with open(file, "rb") as content:
            content.seek(max(0, file.stat().st_size - 8))
            end = content.read()
        if not end.endswith(_ARROW_ENDS):
            raise TrimformerError(f"'{name}' is cut short; copy or download it again")


def load_hub(task: str, source: tuple[str, str | None] | None) -> dict[str, Rows]:
    """Loads the splits of a dataset from the Hugging Face hub.

    Args:
        task: the name of the task, for error messages.
        source: the dataset's path on the hub and its configuration, or None if it is not on the hub.

    Raises:
        TrimformerError: the dataset is not on the hub or cannot be loaded.
    """
    import datasets

    advice = "give a folder with the same columns (train.jsonl, validation.jsonl, ...) with --data_dir"
    if source is None:
        raise TrimformerError(f"task '{task}' is not on the hub; {advice}")
    try:
        splits = datasets.load_dataset(*source)
    except Exception as error:  # network, hub and cache raise many types
        reason = flat(error)[:200] or type(error).__name__
        raise TrimformerError(f"dataset '{source[0]}' cannot be loaded ({reason}); {advice}") from error
    return {name: disable_decoding(rows) for name, rows in splits.items()}


def check_evaluation_sets(sets: Mapping[str, Rows]) -> None:
    """Checks that every evaluation set has rows.

    Raises:
        TrimformerError: there is no evaluation set, or one of them has no rows.
    """
    if not sets:
        raise TrimformerError("eval_dataset is empty; leave it out to hold out a fifth of the data")
    for name, rows in sets.items():
        if not len(rows):
            raise TrimformerError(f"the set '{name}' of eval_dataset has no rows; fill it or leave it out")


def group_rows(order: Sequence[int], clusters: Sequence[int]) -> list[list[int]]:
    """Returns the rows of each cluster, in an order."""
    members: dict[int, list[int]] = {}
    for i in order:
        members.setdefault(clusters[i], []).append(i)
    return list(members.values())


def divide(order: Sequence[int], cut: int, clusters: Sequence[int]) -> tuple[list[int], list[int]]:
    """Divides rows into about the first `cut` of an order and the others, with the rows of a cluster on one side.

    Args:
        order: positions of the rows.
        cut: largest size of the first part. If that would stay less than half full, the smallest cluster left is added.
        clusters: cluster of each row. If all rows are one cluster, they are divided singly.
    """
    groups = group_rows(order, clusters)
    if len(groups) < 2:
        return [*order[:cut]], [*order[cut:]]
    chosen: list[int] = []
    others: list[list[int]] = []
    for rows in groups:
        if len(chosen) + len(rows) <= cut:
            chosen += rows
        else:
            others.append(rows)
    if 2 * len(chosen) < cut and len(others) > 1:
        smallest = min(range(len(others)), key=lambda k: len(others[k]))
        chosen += others.pop(smallest)
    return chosen, [i for rows in others for i in rows]


def separate_documents(first: Sequence[int], second: Sequence[int], blocks: Rows) -> tuple[list[int], list[int]]:
    """Drops blocks so that no document is in both parts; no document may have its middle in both.

    Blocks that edges cut hold parts of several documents. A block of the first part is left out if it holds a part of a
    document of the second, and a block of the second if it shares one with what is left. Where more than half of a part
    would be left out, as every block holds parts of others, both stay as they are.

    Args:
        first: positions of blocks.
        second: positions of other blocks.
        blocks: all blocks.
    """
    if not all(DOCUMENT_SPAN in blocks[i] for i in (*first, *second)):
        return [*first], [*second]
    spans = {i: blocks[i][DOCUMENT_SPAN] for i in (*first, *second)}
    documents = {i: set(range(span[0], span[2] + 1)) for i, span in spans.items()}
    of_second = {spans[i][1] for i in second}
    left = [i for i in first if not documents[i] & of_second]
    touched = set().union(*(documents[i] for i in left))
    others = [i for i in second if not documents[i] & touched]
    if 2 * len(left) < len(first) or 2 * len(others) < len(second):
        return [*first], [*second]
    return left, others


def used_splits(splits: Mapping[str, Rows], *, need_train: bool = True) -> dict[str, Rows]:
    """Returns the splits that `find_splits` chooses from; all if it finds no training split, which its error lists."""
    training, names = _used_names(splits)
    if training is None and need_train:
        return dict(splits)
    if training is not None and (need_train or not names):
        names = [training, *names]
    return {name: splits[name] for name in names or splits}


def _used_names(splits: Mapping[str, Rows]) -> tuple[str | None, list[str]]:
    """Returns the name of the training split, if there is one, and those of the validation splits."""
    train = next((name for name in (*_TRAIN_NAMES, "all") if name in splits), None)
    prefix = next((p for p in _VALIDATION_NAMES if any(names_split(name, [p]) for name in splits)), None)
    names = [name for name in splits if prefix and names_split(name, [prefix])]
    return train, sorted(names, key=lambda name: name != prefix)


def find_splits(splits: Mapping[str, Rows], seed: int = 0, *, need_train: bool = True) -> tuple[Rows, dict[str, Rows]]:
    """Chooses the training rows (for calibration) and the validation splits (for evaluation).

    There can be several validation splits, such as MNLI's `validation_matched` and `validation_mismatched`.

    Args:
        splits: rows by split name.
        seed: of the random choice of the rows that are set aside where there is no validation split.
        need_train: whether training rows are needed; if not, nothing is set aside and all rows are for evaluation.

    Returns:
        The training rows, and the validation rows by split name.

    Raises:
        TrimformerError: there is no training split, or it has too few rows.
    """
    training, names = _used_names(splits)
    train: Rows = [] if training is None else splits[training]
    validation = {name: splits[name] for name in names}
    if not need_train:
        return train, validation or {training or "all": train}
    if len(train) < (2 if validation else 4):
        row_counts = listed(f"{name} ({len(rows)})" for name, rows in sorted(splits.items()))
        if not len(train):
            raise TrimformerError(f"the data has no 'train' split, only {row_counts}; add one")
        raise TrimformerError(
            f"the data has too few rows to calibrate on: {row_counts}; give at least {2 if validation else 4}"
        )
    if not validation:
        order = shuffled_rows(train, np.random.default_rng(seed))
        cut = max(1, round(len(train) * _SET_ASIDE))
        train, validation = Selection(train, order[cut:]), {"validation": Selection(train, order[:cut])}
    return train, validation
