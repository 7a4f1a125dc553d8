"""Converts Python data (lists, data frames, datasets, loaders) into rows: one mapping of columns per example."""

import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from trimformer.data.class_names import class_names, class_names_of
from trimformer.data.media import is_image
from trimformer.errors import TrimformerError, listed, quoted
from trimformer.models.layer_calls import NEXT_TOKENS

Rows = Sequence[Mapping[str, Any]]

DOCUMENT = "document"  # key of a block of tokens: number of the document or conversation that most of it is from
# Key of a block of tokens: the documents of its first, middle and last token, counted in the order of the stream.
DOCUMENT_SPAN = "document_span"

_RUNS = 20  # of consecutive blocks of tokens


class NamedRows(list[Mapping[str, Any]]):
    """Rows with the class names that their data gives to the numbers of a column.

    Attributes:
        class_names: names by column, ordered by number; see `trimformer.data.class_names`.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], names: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__(rows)
        self.class_names = names


class TextLines(NamedRows):
    """The non-empty lines of text files, as rows with the column `text`.

    Attributes:
        documents: the whole text of each file, which language models read instead of lines.
    """

    def __init__(self, lines: Iterable[str], documents: Sequence[str]) -> None:
        super().__init__(({"text": line} for line in lines), {})
        self.documents = documents


class TextPair(dict[str, Any]):
    """A row from a tuple of two strings: a pair of texts, or a text and its label."""


class Selection(NamedRows):
    """Selected rows of a dataset that remember their row numbers, so that messages name the user's row.

    Args:
        rows: the dataset, or a selection of it.
        indices: positions of the chosen rows in `rows`.
    """

    def __init__(self, rows: Rows, indices: Sequence[int]) -> None:
        numbers = [number for number, _ in numbered(rows)]
        self.numbers = [numbers[i] for i in indices]
        super().__init__((rows[i] for i in indices), class_names_of(rows))


def joined(first: Selection, second: Selection) -> Selection:
    """Returns the rows of two selections of the same data, with their numbers."""
    rows = Selection(first, range(len(first)))
    rows.extend(second)
    rows.numbers += second.numbers
    return rows


def numbered(rows: Rows) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Pairs each row with its number in the user's data, from 1."""
    return zip(row_numbers(rows), rows, strict=True)


def row_numbers(rows: Rows) -> Sequence[int]:
    """Returns the number of each row in the user's data, from 1."""
    return rows.numbers if isinstance(rows, Selection) else range(1, len(rows) + 1)


def number_alike(values: Iterable[Hashable]) -> list[int]:
    """Numbers equal values alike, from 0 by first appearance."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


def is_blocks(rows: Rows) -> bool:
    """Returns whether the rows are blocks of tokens, as language models read them."""
    return bool(len(rows)) and isinstance(rows[0], Mapping) and NEXT_TOKENS in rows[0]


def shuffled_rows(rows: Rows, generator: np.random.Generator) -> list[int]:
    """Returns the positions of the rows in random order.

    Consecutive blocks of tokens are often of one document, so these are shuffled in `_RUNS` runs: parts that are split
    off share at most the documents at the ends of runs.
    """
    if not is_blocks(rows):
        return generator.permutation(len(rows)).tolist()
    runs = np.array_split(np.arange(len(rows)), min(_RUNS, len(rows)))
    return np.concatenate([runs[i] for i in generator.permutation(len(runs))]).tolist()


def as_rows(data: Any, name: str = "dataset") -> Rows:
    """Converts data into rows.

    Args:
        data: a list, or any other iterable, of

            - texts: column `text`;
            - dictionaries: used unchanged;
            - tuples (text, label), (text, text) or (text, text, label): columns `text`, `text_pair` and `label`. A
              second item that is a string is called `text_pair`, and is read as the label if it is a label in all rows;
              a third item is always a label;
            - PIL images, alone or in a tuple with a label: columns `image`, `label`;

            or a data frame (pandas, polars), a pyarrow table, a dictionary of columns, a `datasets.Dataset` or
            `IterableDataset`, or a `DataLoader` whose batches are dictionaries of tensors, which are split into rows.
            Iterables are read into memory.
        name: the name of the data, for error messages.

    Raises:
        TrimformerError: the data has another type.
    """
    if data is None or isinstance(data, str | bytes):
        value = "None" if data is None else f"{quoted(data)}, a single {type(data).__name__}"
        raise TrimformerError(
            f"{name} is {value}; give a list of texts or dictionaries (trimformer.data.files.read_rows reads a file)"
        )
    dataset_rows = _rows_of_dataset(data, name)
    if dataset_rows is not None:
        return dataset_rows
    if isinstance(data, DataLoader):
        return _rows_of_loader(data, name)
    if isinstance(data, Mapping):
        return _rows_of_columns(data, name)
    table_rows = _rows_of_table(data)
    if table_rows is not None:
        return table_rows
    items = _list_items(data, name)
    if all(isinstance(item, Mapping) for item in items):
        return items
    rows = [_row_of_item(item, f"row {number} of {name}") for number, item in enumerate(items, start=1)]
    return NamedRows(rows, {"label": names}) if (names := class_names(data)) else rows


def disable_decoding(dataset: Any) -> Any:
    """Turns off decoding in a `datasets.Dataset`: trimformer decodes images and sounds itself, without torchcodec."""
    import datasets

    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image | datasets.Audio) and feature.decode:
            dataset = dataset.cast_column(column, type(feature)(decode=False))
    return dataset


def _rows_of_dataset(data: Any, name: str) -> Rows | None:
    """Rows of an object from the `datasets` library; None for any other object."""
    datasets = sys.modules.get("datasets")  # the import takes seconds; its objects exist only if it was imported
    if datasets is None:
        return None
    if isinstance(data, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise TrimformerError(f"{name} holds several datasets ({listed(data)}); give one of them")
    if isinstance(data, datasets.IterableDataset):
        return NamedRows(disable_decoding(data), class_names_of(data))
    if not isinstance(data, datasets.Dataset):
        return None
    if data.format["type"] == "custom":  # keep the user's transform
        return data
    columns = None if data.format["output_all_columns"] else data.format["columns"]  # others are hidden by the user
    return disable_decoding(data.with_format(None, columns=columns))


def _rows_of_loader(loader: Iterable[Any], name: str) -> Rows:
    """Splits batches into samples; batch values without one entry per sample are dropped."""
    rows: list[Mapping[str, Any]] = []
    is_default = getattr(loader, "collate_fn", None) is default_collate
    for batch in loader:
        if not isinstance(batch, Mapping):
            raise TrimformerError(
                f"the batches of {name} are of type {type(batch).__name__}; give dictionaries of tensors, such as "
                "those of DataCollatorWithPadding"
            )
        columns = {key: value for key, value in batch.items() if _num_items(value) is not None}
        if is_default and (lists := [key for key, value in columns.items() if _is_list_of_others(value)]):
            raise TrimformerError(
                f"the batches of {name} hold one entry per position in {listed(lists)}, as PyTorch collates lists; "
                "give the dataset the format 'torch' (set_format), or the DataLoader a collator such as "
                "DataCollatorWithPadding"
            )
        rows += _rows_of_columns(columns, f"a batch of {name}")
    names = class_names_of(getattr(loader, "dataset", None))
    if "labels" not in names and "label" in names:  # data collators rename the column
        names = {**names, "labels": names["label"]}
    return NamedRows(rows, names)


def _is_list_of_others(value: Any) -> bool:
    """Whether a value is a list, and not of texts."""
    return isinstance(value, list) and not all(isinstance(item, str) for item in value)


def _rows_of_columns(columns: Mapping[Any, Any], name: str) -> Rows:
    sizes = {str(key): _num_items(value) for key, value in columns.items()}
    scalar = next((key for key, size in sizes.items() if size is None), None)
    if scalar is not None:
        raise TrimformerError(
            f"{name} is a dictionary whose {quoted(scalar)} is not a list; give a list per column, or a list of "
            "dictionaries"
        )
    if len(set(sizes.values())) > 1:
        lengths = listed(f"{key} has {size}" for key, size in sizes.items())
        raise TrimformerError(f"the columns of {name} differ in length: {lengths}")
    values = [value.tolist() if getattr(value, "ndim", 0) == 1 else value for value in columns.values()]
    return [dict(zip(sizes, items, strict=True)) for items in zip(*values, strict=True)]


def _num_items(column: Any) -> int | None:
    """Number of items of a list, array or tensor; None for any other value."""
    if isinstance(column, str | bytes | Mapping) or getattr(column, "ndim", 1) == 0:
        return None
    return len(column) if hasattr(column, "__len__") and hasattr(column, "__getitem__") else None


def _rows_of_table(data: Any) -> Rows | None:
    """Rows of a data frame or table, with None for missing values; None for any other object.

    Types are recognized by their methods, so that no library has to be imported.
    """
    for method in ("to_pylist", "to_dicts"):  # pyarrow, polars
        if hasattr(data, method) and hasattr(data, "columns"):
            return NamedRows(getattr(data, method)(), class_names_of(data))
    if hasattr(data, "notna") and hasattr(data, "columns"):  # pandas
        names = [str(column) for column in data.columns]
        if len(set(names)) < len(names):
            duplicate = next(name for name in names if names.count(name) > 1)
            raise TrimformerError(f"the data frame has two columns {quoted(duplicate)}; rename one")
        frame = data.astype(object).where(data.notna(), None)
        frame.columns = names
        return list(frame.to_dict("records"))
    return None


def _list_items(data: Any, name: str) -> Sequence[Any]:
    if isinstance(data, Sequence):
        return data
    if isinstance(data, Set):
        raise TrimformerError(f"{name} is a set, whose order changes from run to run; give a list")
    try:
        if hasattr(data, "__len__") and not hasattr(data, "__iter__"):  # such as torch.utils.data.Dataset
            return [data[i] for i in range(len(data))]
        return list(data)
    except TypeError:
        raise TrimformerError(
            f"{name} is of type {type(data).__name__}; give a list of texts or dictionaries, a data frame, a "
            "datasets.Dataset, or a DataLoader"
        ) from None


def _row_of_item(item: Any, where: str) -> Mapping[str, Any]:
    if isinstance(item, Mapping):
        return item
    if isinstance(item, str):
        return {"text": item}
    if is_image(item):
        return {"image": item}
    if isinstance(item, tuple) and item and is_image(item[0]) and len(item) <= 2:
        return dict(zip(("image", "label"), item, strict=False))
    if isinstance(item, tuple) and item and isinstance(item[0], str) and len(item) <= 3:
        is_pair = len(item) > 1 and isinstance(item[1], str)
        columns = ("text", "text_pair", "label") if is_pair else ("text", "label")
        if len(item) <= len(columns):
            row = {key: _python_value(value) for key, value in zip(columns, item, strict=False)}
            return TextPair(row) if is_pair and len(item) == 2 else row
    kind = f"a tuple of {len(item)} items" if isinstance(item, tuple) else f"of type {type(item).__name__}"
    raise TrimformerError(
        f"{where} is {kind}; give a text, a dictionary, or a tuple (text, label), (text, text) or (text, text, label)"
    )


def _python_value(value: Any) -> Any:
    """Converts NumPy and torch values to Python numbers and lists."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else value
