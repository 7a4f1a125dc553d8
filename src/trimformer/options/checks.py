"""Checks of single values: numbers in a range, flags, column names. Importing this costs nothing."""

import argparse
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimformer.errors import TrimformerError, quoted

_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Number:
    """The range of a numeric option.

    Attributes:
        low: smallest value.
        high: largest value.
        whole: whether it is an integer.
        open: whether `low` itself is excluded.
    """

    low: float = 1
    high: float = _LARGEST
    whole: bool = True
    open: bool = False

    @property
    def description(self) -> str:
        """The range in words."""
        kind = "whole number" if self.whole else "number"
        if self.whole and self.low == 1 and self.high == _LARGEST:
            return f"a positive {kind}, up to {_LARGEST}"
        if self.open and self.low == 0 and self.high >= 1e300:
            return f"a positive {kind}"
        return f"a {kind} {'above' if self.open else 'from'} {self.low:g} to {self.high}"

    def check(self, value: Any, name: str) -> Any:
        """The value as Python's own int or float.

        Args:
            value: what was given.
            name: of the option, for the error.

        Raises:
            TrimformerError: the value is not a number in this range.
        """
        kind = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            raise TrimformerError(f"{name} is {shorten(value)}; give {self.description}")
        plain = int(value) if isinstance(value, numbers.Integral) else float(value)
        if not (self.low < plain if self.open else self.low <= plain) or not plain <= self.high:
            raise TrimformerError(f"{name} is {quoted(plain)}; give {self.description}")
        return plain

    def read(self, text: str) -> Any:
        """Reads a word of the command line.

        Raises:
            argparse.ArgumentTypeError: the word is not a number in this range.
        """
        try:
            return self.check(int(text) if self.whole else float(text), "the number")
        except ValueError:  # a TrimformerError is a ValueError
            raise argparse.ArgumentTypeError(f"'{text[:50]}' is not {self.description}") from None


POSITIVE = Number()
SEED = Number(0, 2**32 - 1)  # the range that NumPy accepts
BYTES = Number(0, math.inf, whole=False)
MILLISECONDS = Number(0, 1e300, whole=False, open=True)
MEGABYTES = Number(0, 1e300, whole=False, open=True)
FRACTION = Number(0, 1, whole=False, open=True)


def check_flag(name: str, value: Any) -> None:
    """Checks that a value is True or False.

    Raises:
        TrimformerError: the value is something else.
    """
    if not isinstance(value, bool):
        raise TrimformerError(f"{name} is {shorten(value)}; give True or False")


def check_column_names(name: str, value: Any) -> None:
    """Checks that a value is a column name or a list of column names.

    Raises:
        TrimformerError: the value is something else.
    """
    columns = [value] if isinstance(value, str) else value
    named = isinstance(columns, Sequence) and all(isinstance(column, str) and column for column in columns)
    if not named or not columns:
        raise TrimformerError(f"{name} is {shorten(value)}; give the name of a column, or a list of names")


def check_column(name: str, value: Any) -> None:
    """Checks that a value is the name of one column.

    Raises:
        TrimformerError: the value is something else, or empty.
    """
    if not isinstance(value, str) or not value:
        raise TrimformerError(f"{name} is {shorten(value)}; give the name of one column")


def check_name(name: str, value: Any) -> None:
    """Checks that a value is a text that is not empty.

    Raises:
        TrimformerError: the value is something else.
    """
    if not isinstance(value, str) or not value:
        raise TrimformerError(f"{name} is {shorten(value)}; give a name")


def check_path(name: str, value: Any) -> None:
    """Checks that a value is a path.

    Raises:
        TrimformerError: the value is something else, or empty.
    """
    if not isinstance(value, str | Path) or not str(value):
        raise TrimformerError(f"{name} is {shorten(value)}; give a path")


def shorten(value: Any) -> str:
    """A value as an error message quotes it: on one line, and only its type where it is long."""
    text = quoted(value)
    return text if not text.endswith("...") else f"of type {type(value).__name__}"
