"""Names that data gives to the numbers of its labels."""

import datasets
import pyarrow.parquet
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from torch.utils.data import DataLoader, Subset

from tests.data.media_fixtures import make_pixels
from trimformer.data.class_names import class_names_of
from trimformer.data.rows import Selection, as_rows
from trimformer.data.splits import find_splits, read_splits
from trimformer.errors import TrimformerError

FEATURES = Features(
    {
        "text": Value("string"),
        "label": ClassLabel(names=["ham", "spam"]),
        "tags": Sequence(ClassLabel(names=["O", "B-X"])),
    }
)
DATASET = Dataset.from_dict({"text": ["a"] * 8, "label": [0, 1] * 4, "tags": [[1, 0]] * 8}, features=FEATURES)
NAMES = {"label": ("ham", "spam"), "tags": ("O", "B-X")}


class Pictures(torch.utils.data.Dataset):
    classes = ("cat", "dog")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        from PIL import Image

        return Image.fromarray(make_pixels()), index


SOURCES = {
    "Dataset": lambda: DATASET,
    "IterableDataset": lambda: DATASET.to_iterable_dataset(),
    "with a format": lambda: DATASET.with_format("torch"),
    "Arrow table": lambda: DATASET.data.table,
    "selection": lambda: Selection(Selection(DATASET, [3, 2, 1]), [0, 1]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_rows_keep_the_names_of_a_dataset(name):
    assert class_names_of(as_rows(SOURCES[name]())) == NAMES


def test_a_loader_keeps_the_names_of_its_dataset():
    rows = as_rows(DataLoader(DATASET.remove_columns(["text", "tags"]), batch_size=2))
    assert class_names_of(rows)["labels"] == ("ham", "spam")


def test_images_of_torchvision_keep_the_names_of_their_classes():
    for data in (Pictures(), Subset(Pictures(), [1])):
        assert class_names_of(as_rows(data)) == {"label": ("cat", "dog")}


def test_folders_keep_the_names(tmp_path):
    DATASET.save_to_disk(tmp_path / "saved")
    (tmp_path / "shards").mkdir()
    for i in range(2):
        DATASET.select(range(4 * i, 4 * i + 4)).to_parquet(tmp_path / "shards" / f"train-0000{i}-of-00002.parquet")
    DATASET.to_parquet(tmp_path / "rows.parquet")
    for name in ("saved", "shards", "rows.parquet"):
        splits = read_splits(tmp_path / name)
        train, validation = find_splits(splits)
        for rows in (*splits.values(), train, *validation.values()):
            assert class_names_of(rows) == NAMES, name


def test_shards_that_number_their_classes_otherwise_are_an_error(tmp_path):
    other = Features({**FEATURES, "label": ClassLabel(names=["spam", "ham"])})
    DATASET.to_parquet(tmp_path / "train-00000-of-00002.parquet")
    DATASET.cast(other).to_parquet(tmp_path / "train-00001-of-00002.parquet")
    with pytest.raises(TrimformerError, match="numbers its classes in another order"):
        read_splits(tmp_path)


@pytest.mark.parametrize("metadata", [{}, {b"huggingface": b"{"}, {b"huggingface": b'{"info": {"features": [1]}}'}])
def test_a_schema_without_features_gives_no_names(tmp_path, metadata):
    table = pyarrow.table({"text": ["a"], "label": [1]}).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    assert class_names_of(read_splits(tmp_path / "rows.parquet")["all"]) == {}


def test_rows_without_features_have_no_names():
    assert class_names_of(as_rows([{"text": "a", "label": 1}])) == {}
    assert class_names_of(datasets.Dataset.from_dict({"label": [1]})) == {}
