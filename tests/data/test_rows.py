"""Converting Python data into rows."""

import datasets
import numpy as np
import pandas
import pyarrow
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as MapDataset

from tests.data.media_fixtures import make_pixels
from trimformer.data.rows import Selection, as_rows
from trimformer.errors import TrimformerError

ROWS = [{"text": "good film", "label": 1}, {"text": "bad", "label": 0}]
COLUMNS = {"text": ["good film", "bad"], "label": [1, 0]}


class Indexed(MapDataset):
    def __len__(self):
        return len(ROWS)

    def __getitem__(self, index):
        return ROWS[index]


def generated():
    yield from ROWS


SOURCES = {
    "dictionaries": ROWS,
    "tuples": [("good film", 1), ("bad", 0)],
    "tuples of numpy": [("good film", np.int64(1)), ("bad", torch.tensor(0))],
    "a generator": generated(),
    "columns": COLUMNS,
    "columns of arrays": {"text": np.array(COLUMNS["text"]), "label": torch.tensor([1, 0])},
    "pandas": pandas.DataFrame(ROWS),
    "pyarrow": pyarrow.table(COLUMNS),
    "Dataset": datasets.Dataset.from_list(ROWS),
    "Dataset of tensors": datasets.Dataset.from_list(ROWS).with_format("torch"),
    "IterableDataset": datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
    "torch": Indexed(),
    "DataLoader": DataLoader(datasets.Dataset.from_list(ROWS), batch_size=2),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_gives_the_same_rows(name):
    rows = as_rows(SOURCES[name])
    assert list(rows) == ROWS
    assert all(type(row["label"]) is int for row in rows)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["a", "b"], [{"text": "a"}, {"text": "b"}]),
        ([("a", "b")], [{"text": "a", "text_pair": "b"}]),
        ([("a", "b", 1)], [{"text": "a", "text_pair": "b", "label": 1}]),
        ([("a", "b", "good")], [{"text": "a", "text_pair": "b", "label": "good"}]),
        ([("a", [0, 1])], [{"text": "a", "label": [0, 1]}]),
        ([("a", 0.5), "b"], [{"text": "a", "label": 0.5}, {"text": "b"}]),
        (pandas.Series(["a"]), [{"text": "a"}]),
        ([], []),
    ],
)
def test_texts_and_tuples_get_columns_by_their_types(items, expected):
    assert as_rows(items) == expected


def test_images_get_columns_too():
    image = Image.fromarray(make_pixels())
    assert as_rows([image, (image, "cat")]) == [{"image": image}, {"image": image, "label": "cat"}]


def test_missing_pandas_values_are_none_and_column_names_are_strings():
    frame = pandas.DataFrame({"text": ["a", None], 0: [1.5, np.nan]})
    assert as_rows(frame) == [{"text": "a", "0": 1.5}, {"text": None, "0": None}]


def test_a_selection_is_returned_unchanged():
    chosen = Selection(ROWS, [1])
    assert as_rows(chosen) is chosen


def test_datasets_are_not_decoded():
    dataset = datasets.Dataset.from_dict({"audio": ["a.wav"]}).cast_column("audio", datasets.Audio())
    for source in (dataset, dataset.to_iterable_dataset()):
        assert next(iter(as_rows(source)))["audio"] == {"bytes": None, "path": "a.wav"}


def test_a_transform_of_the_user_is_kept():
    dataset = datasets.Dataset.from_list(ROWS).with_transform(lambda batch: {"text": ["x"] * len(batch["text"])})
    assert list(as_rows(dataset)) == [{"text": "x"}] * 2


def test_a_loader_of_encoded_batches_is_split_into_rows():
    batches = [{"input_ids": torch.tensor([[3, 4], [5, 1]]), "return_loss": True}, {"input_ids": torch.tensor([[6]])}]
    rows = as_rows(DataLoader(batches, batch_size=None))
    assert [row["input_ids"].tolist() for row in rows] == [[3, 4], [5, 1], [6]]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "mine is None"),
        ("rows.jsonl", "'rows.jsonl', a single str"),
        (7, "of type int"),
        ([1, 2], "row 1 of mine is of type int"),
        (["a", ["b"]], "row 2 of mine is of type list"),
        ([("a", 1, 2)], "a tuple of 3"),
        ({"text": "a"}, "'text' is not a list"),
        ({"text": ["a"], "label": [1, 2]}, "differ in length: text has 1, label has 2"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}), "several datasets .train."),
        (DataLoader([(1, 2)], batch_size=None), "batches of mine are of type"),
    ],
)
def test_any_other_type_is_an_error_that_names_it(data, words):
    with pytest.raises(TrimformerError, match=words) as raised:
        as_rows(data, "mine")
    assert "\n" not in str(raised.value)


def test_columns_that_the_user_hid_stay_hidden():
    rows = [{**row, "input_ids": [7, 8]} for row in ROWS]
    dataset = datasets.Dataset.from_list(rows)
    dataset.set_format("torch", columns=["text", "label"])
    assert list(as_rows(dataset)) == ROWS
    dataset.set_format("torch", columns=["text", "label"], output_all_columns=True)
    assert list(as_rows(dataset)) == rows


def test_lists_that_pytorch_transposes_are_refused():
    rows = [{"input_ids": [3, 4], "label": i} for i in range(2)]  # as many tokens as rows
    with pytest.raises(TrimformerError, match="one entry per position in input_ids"):
        as_rows(DataLoader(datasets.Dataset.from_list(rows), batch_size=2))
    tensors = DataLoader(datasets.Dataset.from_list(rows).with_format("torch"), batch_size=2)
    assert [row["input_ids"].tolist() for row in as_rows(tensors)] == [[3, 4], [3, 4]]
