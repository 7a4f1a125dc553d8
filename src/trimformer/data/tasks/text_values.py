"""What a column of texts may hold."""

import math
import numbers
from typing import Any

from trimformer.data.rows import Rows, numbered
from trimformer.errors import TrimformerError


def column_texts(rows: Rows, column: str) -> list[str]:
    """The texts of a column.

    Raises:
        TrimformerError: a row holds something else.
    """
    return [as_text(row[column], f"column '{column}' in row {number}") for number, row in numbered(rows)]


def is_blank(value: Any) -> bool:
    """Whether it is a text of nothing but spaces; what is missing, or no text, is not."""
    return isinstance(value, str) and not value.strip()


def as_text(value: Any, where: str) -> str:
    """A text, or a number as one.

    Raises:
        TrimformerError: it is neither, or holds halves of letters (lone surrogates), which no tokenizer takes.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = ascii(value[error.start])
            raise TrimformerError(f"{where} holds half a letter, {half}, at character {error.start + 1}") from None
        return str(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    shown = f"{value}" if isinstance(value, float | bool) else f"of type {type(value).__name__}"
    raise TrimformerError(f"{where} is {shown}, not a text")
