"""Reading the user's files into rows: one mapping of column to value per example."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trimformer.errors import TrimformerError, one_sentence

Rows = Sequence[Mapping[str, Any]]


class Selection(list[Mapping[str, Any]]):
    """Some rows of a data set that know their numbers there, so that messages name the user's own row.

    Args:
        rows: the data set, or a selection of it.
        indices: positions of the chosen rows in `rows`.
    """

    def __init__(self, rows: Rows, indices: Sequence[int]) -> None:
        numbers = [number for number, _ in numbered(rows)]
        self.numbers = [numbers[i] for i in indices]
        super().__init__(rows[i] for i in indices)


def numbered(rows: Rows) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The rows with their numbers in the user's data, from 1."""
    return zip(rows.numbers if isinstance(rows, Selection) else range(1, len(rows) + 1), rows, strict=True)


SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

_TRAIN_NAMES = ("train", "training")
_SHARD = re.compile(r"-\d+-of-\d+$")  # of a file that holds a part of a split, as on the hub
_VALIDATION_NAMES = ("validation", "dev", "valid", "val", "eval", "test")


def read_rows(path: str | Path) -> Rows:
    """Rows of one file: JSON lines (or one JSON list), CSV, TSV or Parquet.

    Raises:
        TrimformerError: the file is missing, empty, not UTF-8, not of a known type, or broken.
    """
    path = Path(path)
    if not path.is_file():
        raise TrimformerError(f"data file '{path}' does not exist")
    if path.suffix not in SUFFIXES:
        raise TrimformerError(f"data file '{path}' is of no known type; known are {', '.join(SUFFIXES)}")
    try:
        rows = _PARSERS[path.suffix](path)
    except UnicodeDecodeError as error:
        raise TrimformerError(f"data file '{path}' is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (csv.Error, OSError, ValueError) as error:
        raise TrimformerError(f"data file '{path}' cannot be read: {error}") from error
    if not rows:
        raise TrimformerError(f"data file '{path}' is empty")
    return rows


def _read_json(path: Path) -> Rows:
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        rows = []
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise ValueError(f"line {number} is not JSON ({error.msg})") from error
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not a JSON object")
    return rows


def _read_csv(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True))
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values():
            raise ValueError(f"row {number} has more or fewer fields than the header")
    return rows


def _read_parquet(path: Path) -> Rows:
    import pyarrow.parquet

    rows: Rows = pyarrow.parquet.read_table(path).to_pylist()
    return rows


_PARSERS = {".jsonl": _read_json, ".json": _read_json, ".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}


def read_splits(path: str | Path) -> dict[str, Rows]:
    """Splits by name: the files of a folder (`train.jsonl`, `validation.csv`, ..., or the hub's shards, such as
    `train-00000-of-00002.parquet`), a folder written by `datasets.save_to_disk`, or a single file as the split "all".

    Raises:
        TrimformerError: nothing there can be read.
    """
    path = Path(path)
    if path.is_file() or path.suffix in SUFFIXES:
        return {"all": read_rows(path)}
    if not path.is_dir():
        raise TrimformerError(f"data folder '{path}' does not exist")
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _load_from_disk(path)
    files: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        if file.suffix in SUFFIXES and file.stem.startswith((*_TRAIN_NAMES, *_VALIDATION_NAMES)):
            split = _SHARD.sub("", file.stem)
            of_split = files.setdefault(split, [])
            if of_split and split == file.stem:
                raise TrimformerError(f"data folder '{path}' holds both {of_split[0].name} and {file.name}")
            of_split.append(file)
    if not files:
        raise TrimformerError(
            f"data folder '{path}' holds no file named train or validation with one of {', '.join(SUFFIXES)}"
        )
    return {split: [row for shard in shards for row in read_rows(shard)] for split, shards in files.items()}


def _load_from_disk(path: Path) -> dict[str, Rows]:
    import datasets

    with one_sentence(f"data folder '{path}' cannot be read"):
        loaded = datasets.load_from_disk(str(path))
    return dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"all": loaded}


def load_hub(task: str, source: tuple[str, str | None] | None) -> dict[str, Rows]:
    """Splits of a data set on the Hugging Face hub.

    Args:
        task: its name here, for messages.
        source: the data set's path on the hub and its configuration.

    Raises:
        TrimformerError: the hub cannot be reached, or the task is not there.
    """
    import datasets

    advice = "give a folder with the same columns (train.jsonl, validation.jsonl, ...) with --data_dir"
    if source is None:
        raise TrimformerError(f"task '{task}' is not on the hub; {advice}")
    try:
        return dict(datasets.load_dataset(*source))
    except Exception as error:  # whatever the network, the hub or its cache raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrimformerError(f"data set '{source[0]}' cannot be loaded ({reason}); {advice}") from error


def find_splits(
    splits: Mapping[str, Rows], seed: int = 0, *, held_out: float = 0.2, need_train: bool = True
) -> tuple[Rows, dict[str, Rows]]:
    """Rows to calibrate on and rows to score on.

    Without a validation split, a fixed random share `held_out` of the training rows is set aside; if
    no training rows are needed, all rows are scored. A task may have several validation splits, such as
    MNLI's `validation_matched` and `validation_mismatched`.

    Raises:
        TrimformerError: there is no training split, or it is too small to be split.
    """
    train = next((splits[name] for name in (*_TRAIN_NAMES, "all") if name in splits), [])
    prefix = next((p for p in _VALIDATION_NAMES if any(name.startswith(p) for name in splits)), None)
    validation = {name: rows for name, rows in splits.items() if prefix and name.startswith(prefix)}
    if not need_train:
        return train, validation or {"all": train}
    if len(train) < (2 if validation else 4):
        found = ", ".join(f"{name} ({len(rows)})" for name, rows in sorted(splits.items()))
        raise TrimformerError(f"the data has no 'train' split of a usable size; it has {found}")
    if not validation:
        order = np.random.default_rng(seed).permutation(len(train)).tolist()
        cut = max(1, round(len(train) * held_out))
        train, validation = Selection(train, order[cut:]), {"validation": Selection(train, order[:cut])}
    return train, validation
