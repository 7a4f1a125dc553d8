"""Finds the names that data gives to the numbers of its label columns.

They come from the `ClassLabel` features of `datasets` (in a dataset in hand, a saved folder, a loader's dataset, or the
schema of a Parquet file or Arrow table) and from the `classes` of torchvision's datasets.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


def class_names_of(data: Any) -> Mapping[str, tuple[str, ...]]:
    """Returns the class names of rows, a dataset or an Arrow table by column, ordered by number; empty if unnamed."""
    if data is None:
        return {}
    names = getattr(data, "class_names", None)
    if isinstance(names, Mapping):
        return names
    features = getattr(data, "features", None)
    if features is None:
        features = _features_of_schema(getattr(data, "schema", None))
    if not isinstance(features, Mapping):
        return {}
    by_column = {column: _names(feature) for column, feature in features.items()}
    return {str(column): names for column, names in by_column.items() if names}


def class_names(data: Any) -> tuple[str, ...]:
    """Returns the `classes` of a torchvision dataset, or of the dataset that a `Subset` of torch selects from."""
    while data is not None and not hasattr(data, "classes"):
        data = getattr(data, "dataset", None)
    names = getattr(data, "classes", None)
    return tuple(names) if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else ()


def _features_of_schema(schema: Any) -> Any:
    """Returns the features that `datasets` writes into the metadata of an Arrow schema; None if there are none."""
    metadata = getattr(schema, "metadata", None)
    if not isinstance(metadata, Mapping) or b"huggingface" not in metadata:
        return None
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        return json.loads(metadata[b"huggingface"])["info"]["features"]
    return None


def _names(feature: Any) -> tuple[str, ...]:
    """Returns the names of a `ClassLabel`, of a list of them, or of what either is in a schema's metadata."""
    if isinstance(feature, list | tuple):
        return _names(feature[0]) if len(feature) == 1 else ()
    if isinstance(feature, Mapping):
        inner, names, is_class = feature.get("feature"), feature.get("names"), feature.get("_type") == "ClassLabel"
    else:
        inner, names = getattr(feature, "feature", None), getattr(feature, "names", None)
        is_class = type(feature).__name__ == "ClassLabel"
    if is_class:
        return tuple(map(str, names)) if isinstance(names, list | tuple) else ()
    return _names(inner) if inner is not None else ()
