"""Reads and validates the values of text columns."""

import math
import numbers
from typing import Any

from trimformer.data.rows import Rows, numbered
from trimformer.errors import TrimformerError, quoted


def column_texts(rows: Rows, column: str, prompt: str = "") -> list[str]:
    """Returns the texts of a column, each after the prompt.

    Raises:
        TrimformerError: a value is neither a string nor a number.
    """
    name = f"column {quoted(column)}"
    return [prompt + as_text(row[column], f"{name} in row {number}") for number, row in numbered(rows)]


def is_blank(value: Any) -> bool:
    """Returns whether a value is a string of nothing but white space; missing values and other types are not blank."""
    return isinstance(value, str) and not value.strip()


def as_text(value: Any, where: str) -> str:
    """Returns a string unchanged and a finite number as a string.

    Raises:
        TrimformerError: the value has another type, or contains a lone surrogate, which no tokenizer accepts.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            surrogate = ascii(value[error.start])
            raise TrimformerError(
                f"{where} has a lone surrogate, {surrogate}, at character {error.start + 1}; replace or remove it"
            ) from None
        return str(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # of more than 4300 digits
            raise TrimformerError(f"{where} is a number of thousands of digits; write it as a text") from None
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral) and math.isfinite(value):
        return str(value)
    description = f"{value}" if isinstance(value, float | bool) else f"of type {type(value).__name__}"
    raise TrimformerError(f"{where} is {description}, not a text")
