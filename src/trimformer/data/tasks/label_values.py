"""Values of label columns: numbers, truth values, lists, and the names that data give to numbers."""

import ast
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from trimformer.data.class_names import class_names_of
from trimformer.data.rows import Rows
from trimformer.data.tasks.model_labels import ModelLabels, is_generic

TRUTH = {"true": 1, "false": 0}

_WHOLE_NUMBER = re.compile(r"-?[0-9]+(\.0+)?")  # pandas writes class ids as 1.0 where some are missing
_LARGEST = (2 - 2**-23) * 2.0**127  # in float32


def column_values(rows: Rows, column: str) -> list[Any]:
    """Returns one value per row, None where the row lacks the column."""
    plain = getattr(rows, "format", {}).get("type", "custom") is None  # a `datasets.Dataset` without a transform
    if plain and column in getattr(rows, "column_names", ()):
        values: list[Any] = list(rows[column])  # type: ignore[call-overload]
        return values
    return [row.get(column) for row in rows]


def split_labels(value: Any, model: ModelLabels) -> Any:
    """Splits a string into labels; one of the model's labels is not split.

    A list is returned with 0 and 1 in place of strings of these numbers or of truth values; any other value unchanged.
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str):
        value = _split(value.strip(), model)
    if not isinstance(value, list | tuple):
        return value
    return [_indicator(item, model) for item in value]


def _indicator(item: Any, model: ModelLabels) -> Any:
    """Returns 0 or 1 for a string of this number or of a truth value that is no label; any other item unchanged."""
    if not isinstance(item, str):
        return item
    text = item.strip().lower()
    if re.fullmatch(r"[01](\.0*)?", text):
        return int(float(text))
    return int(text == "true") if text in ("true", "false") and model.find(item.strip()) is None else item


def _split(text: str, model: ModelLabels) -> Any:
    if text and model.find(text) is not None:
        return [text]
    if text.startswith("["):
        written = _written_list(text)
        return text if written is None else written
    parts = re.split("[,;|]", text)
    return [part.strip() for part in parts if part.strip()] if len(parts) > 1 else text.split()


def _written_list(text: str) -> list[Any] | None:
    """Returns a list that pandas or NumPy has written as a string, such as to a CSV file; None if it is none."""
    if re.fullmatch(r"\[\s*(-?\d+\s+)*-?\d+\s*\]", text):  # numbers as NumPy writes them, without commas
        return [int(item) for item in text[1:-1].split()]
    with suppress(SyntaxError, ValueError, RecursionError, MemoryError):
        value = ast.literal_eval(re.sub(r"""(?<=['"])\s+(?=['"])""", ", ", text))
        return value if isinstance(value, list) else None
    return None


def split_items(value: Any) -> list[Any]:
    """Returns the words or tags of a row; empty if there are none.

    A string is a list as pandas or NumPy writes it, or is split at white space.
    """
    if isinstance(value, str):
        written = _written_list(value.strip())
        return value.split() if written is None else written
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(value) if isinstance(value, list | tuple) else []


def as_number(value: Any) -> float | None:
    """Returns a number that is finite in float32, also one that is written in a string; None for any other value."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) <= _LARGEST else None


def relevance(value: Any) -> float | None:
    """Returns the number of a label, which may be written as true or false; None for other text."""
    return class_number(value) if is_written_truth(value) else as_number(value)


def relevance_values(rows: Rows, column: str) -> list[float | None]:
    """Returns the number of each row's label, or the number that is its class's name, such as "2" of a `ClassLabel`."""
    names = {number: name for number, name in names_of(rows, column).items() if as_number(name) is not None}
    values = [row[column] for row in rows]
    return [relevance(names.get(value, value) if isinstance(value, int) else value) for value in values]


def class_number(value: Any) -> float | None:
    """Returns the number that a label is or is written as; "true" is 1 and "false" 0; None for a name."""
    if is_written_truth(value):
        return TRUTH[value.strip().lower()]
    if isinstance(value, str):
        text = value.strip()
        return as_number(text) if _WHOLE_NUMBER.fullmatch(text) else None
    if isinstance(value, list | tuple | Mapping):
        return None
    number = as_number(value)
    return number if number is None or number == int(number) else None


def is_written_truth(value: Any) -> bool:
    """Returns whether a value is "true" or "false", in any case."""
    return isinstance(value, str) and value.strip().lower() in TRUTH


def is_truth(value: Any) -> bool:
    """Returns whether a label is a truth value, also one that is written in a string."""
    return isinstance(value, bool) or is_written_truth(value)


def names_of(rows: Rows, column: str) -> dict[int, str]:
    """Returns the class names of a column's numbers; empty if they only repeat the numbers."""
    names = dict(enumerate(class_names_of(rows).get(column, ())))
    return {} if is_generic(names) else names
