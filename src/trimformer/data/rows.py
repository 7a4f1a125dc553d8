"""Rows: one mapping of column to value per example, from whatever Python users have."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from trimformer.data.media import is_image
from trimformer.errors import TrimformerError

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


def as_rows(data: Any, name: str = "dataset") -> Rows:
    """Rows of what a Python user has.

    Args:
        data: a list, or any other iterable, of

            - texts: rows with the column `text`;
            - dictionaries: taken as they are;
            - tuples (text, label), (text, text), or (text, text, label): columns `text`, `text_pair`, `label`. Of two
              strings the second is a text, of three the third is a label; what is no string is a label;
            - PIL images, alone or in a tuple with a label: columns `image`, `label`;

            or a data frame (pandas, polars) or pyarrow table, a dictionary of columns, a `datasets.Dataset` or
            `IterableDataset`, or a `DataLoader` whose batches are dictionaries of tensors, which are taken apart.
            What can only be iterated over is read to its end, into memory.
        name: of the data, for messages.

    Raises:
        TrimformerError: it is something else.
    """
    if data is None or isinstance(data, str | bytes):
        what = "None" if data is None else f"'{data[:50]!s}', a single {type(data).__name__}"
        raise TrimformerError(
            f"{name} is {what}; give a list of texts or of dictionaries (trimformer.data.files.read_rows: a file)"
        )
    of_datasets = _of_datasets(data, name)
    if of_datasets is not None:
        return of_datasets
    if isinstance(data, DataLoader):
        return _unbatched(data, name)
    if isinstance(data, Mapping):
        return _from_columns(data, name)
    records = _records(data)
    if records is not None:
        return records
    items = _items(data, name)
    if all(isinstance(item, Mapping) for item in items):
        return items
    return [_row(item, f"row {number} of {name}") for number, item in enumerate(items, start=1)]


def undecoded(dataset: Any) -> Any:
    """A `datasets.Dataset` whose images and sounds stay as they are stored: we decode them, without torchcodec."""
    import datasets

    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, datasets.Image | datasets.Audio) and feature.decode:
            dataset = dataset.cast_column(column, type(feature)(decode=False))
    return dataset


def _of_datasets(data: Any, name: str) -> Rows | None:
    """Rows of what comes from the library `datasets`; None for all else."""
    datasets = sys.modules.get("datasets")  # an import takes seconds, and what it made cannot be here without it
    if datasets is None:
        return None
    if isinstance(data, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise TrimformerError(f"{name} is several data sets ({', '.join(map(str, data))}); give one of them")
    if isinstance(data, datasets.IterableDataset):
        return list(undecoded(data))
    if not isinstance(data, datasets.Dataset):
        return None
    if data.format["type"] == "custom":  # the user's own transform makes the rows
        return data
    return undecoded(data.with_format(None))


def _unbatched(loader: Iterable[Any], name: str) -> Rows:
    """The samples of batches; what a batch holds for all of them together is left out."""
    rows: list[Mapping[str, Any]] = []
    for batch in loader:
        if not isinstance(batch, Mapping):
            raise TrimformerError(
                f"the batches of {name} are of type {type(batch).__name__}; give dictionaries of tensors, as "
                "DataCollatorWithPadding makes them"
            )
        columns = {key: value for key, value in batch.items() if _size(value) is not None}
        rows += _from_columns(columns, f"a batch of {name}")
    return rows


def _from_columns(columns: Mapping[Any, Any], name: str) -> Rows:
    sizes = {str(key): _size(value) for key, value in columns.items()}
    single = next((key for key, size in sizes.items() if size is None), None)
    if single is not None:
        raise TrimformerError(
            f"{name} is a dictionary whose '{single}' is no list; give a list per column, or a list of dictionaries"
        )
    if len(set(sizes.values())) > 1:
        raise TrimformerError(
            f"the columns of {name} differ in length: " + ", ".join(f"{key} has {size}" for key, size in sizes.items())
        )
    values = [value.tolist() if getattr(value, "ndim", 0) == 1 else value for value in columns.values()]
    return [dict(zip(sizes, items, strict=True)) for items in zip(*values, strict=True)]


def _size(column: Any) -> int | None:
    """Items of a list, an array or a tensor; None of anything else."""
    if isinstance(column, str | bytes | Mapping) or getattr(column, "ndim", 1) == 0:
        return None
    return len(column) if hasattr(column, "__len__") and hasattr(column, "__getitem__") else None


def _records(data: Any) -> Rows | None:
    """Rows of a data frame or table, told by its methods so that its library is not needed; missing values are None."""
    for method in ("to_pylist", "to_dicts"):  # pyarrow, polars
        if hasattr(data, method) and hasattr(data, "columns"):
            return list(getattr(data, method)())
    if hasattr(data, "notna") and hasattr(data, "columns"):  # pandas
        names = [str(column) for column in data.columns]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise TrimformerError(f"the data frame has two columns '{twice}'; rename one")
        plain = data.astype(object).where(data.notna(), None)
        plain.columns = [str(column) for column in data.columns]
        return list(plain.to_dict("records"))
    return None


def _items(data: Any, name: str) -> Any:
    if isinstance(data, Sequence):
        return data
    try:
        if hasattr(data, "__len__") and not hasattr(data, "__iter__"):  # such as torch.utils.data.Dataset
            return [data[i] for i in range(len(data))]
        return list(data)
    except TypeError:
        raise TrimformerError(
            f"{name} is of type {type(data).__name__}; give a list of texts or of dictionaries, a data frame, a "
            "datasets.Dataset, or a DataLoader"
        ) from None


def _row(item: Any, where: str) -> Mapping[str, Any]:
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
            return {key: _plain(value) for key, value in zip(columns, item, strict=False)}
    what = f"a tuple of {len(item)}" if isinstance(item, tuple) else f"of type {type(item).__name__}"
    raise TrimformerError(
        f"{where} is {what}; give a text, a dictionary, or a tuple (text, label), (text, text) or (text, text, label)"
    )


def _plain(value: Any) -> Any:
    """Python's own number or list for an array's."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray | Tensor) else value
