"""The user's data as splits, read from files and folders, and which of them calibrate and which score."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from trimformer.data.files import SUFFIXES, is_data_file, kind_of, read_rows
from trimformer.data.media_folders import read_media
from trimformer.data.rows import Rows, Selection, undecoded
from trimformer.errors import TrimformerError, one_sentence
from trimformer.utils.input_paths import check_readable

_TRAIN_NAMES = ("train", "training")
_SHARD = re.compile(r"-\d+-of-\d+$")  # of a file that holds a part of a split, as on the hub
_VALIDATION_NAMES = ("validation", "dev", "valid", "val", "eval", "test")


def read_splits(path: str | Path) -> dict[str, Rows]:
    """Splits by name.

    They are the files of a folder (`train.jsonl`, `validation.csv`, ..., or the hub's shards, such as
    `train-00000-of-00002.parquet`), a folder written by `datasets.save_to_disk`, a folder of images or sounds (see
    `read_media`), or a single file as the split "all".

    Raises:
        TrimformerError: nothing there can be read.
    """
    check_readable(path, "data file")
    path = Path(path)
    if path.is_file() or (is_data_file(path) and not path.is_dir()):
        return {"all": read_rows(path)}
    if not path.is_dir():
        raise TrimformerError(f"data folder '{path}' does not exist")
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _load_from_disk(path)
    names = (*_TRAIN_NAMES, *_VALIDATION_NAMES)
    files: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        stem = kind_of(file)[0]
        if file.is_file() and is_data_file(file) and stem.startswith(names):
            split = _SHARD.sub("", stem)
            of_split = files.setdefault(split, [])
            if of_split and split == stem:
                raise TrimformerError(f"data folder '{path}' holds both {of_split[0].name} and {file.name}")
            of_split.append(file)
    if files:
        return {split: [row for shard in shards for row in read_rows(shard)] for split, shards in files.items()}
    media = read_media(path, names)
    if not media:
        raise TrimformerError(
            f"data folder '{path}' holds no file named train or validation with one of {', '.join(SUFFIXES)}, and no "
            "images or sounds"
        )
    return media


def read_all(path: str | Path) -> Rows:
    """The rows of a file, or of a folder's validation split, else of its training split.

    Raises:
        TrimformerError: nothing there can be read.
    """
    _, validation = find_splits(read_splits(path), need_train=False)
    return next(iter(validation.values()))


def _load_from_disk(path: Path) -> dict[str, Rows]:
    import datasets

    with one_sentence(f"data folder '{path}' cannot be read"):
        loaded = datasets.load_from_disk(str(path))
    splits = loaded if isinstance(loaded, datasets.DatasetDict) else {"all": loaded}
    return {name: undecoded(rows) for name, rows in splits.items()}


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
        splits = datasets.load_dataset(*source)
    except Exception as error:  # whatever the network, the hub or its cache raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise TrimformerError(f"data set '{source[0]}' cannot be loaded ({reason}); {advice}") from error
    return {name: undecoded(rows) for name, rows in splits.items()}


def check_evaluation_sets(sets: Mapping[str, Rows]) -> None:
    """Raises:
    TrimformerError: a set to score on has no rows.
    """
    if not sets:
        raise TrimformerError("eval_dataset is empty; leave it out to set a fifth of the data aside")
    for name, rows in sets.items():
        if not len(rows):
            raise TrimformerError(f"the set '{name}' of eval_dataset has no rows; leave it out")


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
        if not len(train):
            raise TrimformerError(f"the data has no 'train' split; it has {found}")
        raise TrimformerError(
            f"the data has too few rows to calibrate on: {found}; give at least {2 if validation else 4}"
        )
    if not validation:
        order = np.random.default_rng(seed).permutation(len(train)).tolist()
        cut = max(1, round(len(train) * held_out))
        train, validation = Selection(train, order[cut:]), {"validation": Selection(train, order[:cut])}
    return train, validation
