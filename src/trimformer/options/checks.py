"""The numbers that may be given, each declared once: for the command line and for functions of Python."""

import argparse
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trimformer.errors import TrimformerError

_MANY = 2**31 - 1


@dataclass(frozen=True)
class Number:
    """A parameter that is a number.

    Attributes:
        name: of the parameter in Python.
        low: smallest value.
        high: largest value.
        whole: it is a whole number.
        above: `low` itself is no value.
    """

    name: str
    low: float = 1
    high: float = _MANY
    whole: bool = True
    above: bool = False

    @property
    def what(self) -> str:
        """The values in words."""
        kind = "whole number" if self.whole else "number"
        if self.whole and self.low == 1 and self.high == _MANY:
            return f"a positive {kind}, up to {_MANY}"
        if self.above and self.low == 0 and self.high >= 1e300:
            return f"a positive {kind}"
        return f"a {kind} {'above' if self.above else 'from'} {self.low:g} to {self.high}"

    def check(self, value: Any) -> Any:
        """The value as Python's own number.

        Raises:
            TrimformerError: it is no such number.
        """
        kind = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            raise TrimformerError(f"{self.name} is {_shown(value)}; give {self.what}")
        plain = int(value) if isinstance(value, numbers.Integral) else float(value)
        if not (self.low < plain if self.above else self.low <= plain) or not plain <= self.high:
            raise TrimformerError(f"{self.name} is {plain}; give {self.what}")
        return plain

    def read(self, text: str) -> Any:
        """The same of a word of the command line.

        Raises:
            argparse.ArgumentTypeError: it is no such number.
        """
        try:
            return self.check(int(text) if self.whole else float(text))
        except ValueError:  # a TrimformerError is one
            raise argparse.ArgumentTypeError(f"'{text[:50]}' is not {self.what}") from None


SEED = Number("seed", 0, 2**32 - 1)  # what NumPy takes
NUM_SAMPLES = Number("num_samples")
BATCH_SIZE = Number("batch_size")
NEURON_MULTIPLE = Number("neuron_multiple")
SEQ_LEN = Number("seq_len")
MAX_LENGTH = Number("max_length")
MAX_MEMORY = Number("max_memory", 0, math.inf, whole=False)
CONSTRAINT = Number("constraint", 0, 1, whole=False, above=True)
LATENCY_MS = Number("latency_ms", 0, 1e300, whole=False, above=True)
MAX_DROP = Number("max_drop", 0, 99, whole=False, above=True)
MAX_DIVERGENCE = Number("max_divergence", 0, 1e300, whole=False, above=True)
SECONDS = Number("seconds", 0, 1e9, whole=False, above=True)
GPU = Number("gpu", 0, 1023)
POSITIVE = Number("the number")

_PARAMETERS = {number.name: number for number in list(globals().values()) if isinstance(number, Number)}


def check_numbers(**given: Any) -> None:
    """Checks parameters by their names; None is one that was not given.

    Raises:
        TrimformerError: one is not such a number.
    """
    for name, value in given.items():
        if value is not None:
            _PARAMETERS[name].check(value)


def check_budget_numbers(constraint: Any, latency_ms: Any, metric: str | None) -> None:
    """Raises:
    TrimformerError: no budget is given or two are, it is no such number, or it does not go with the metric.
    """
    if (constraint is None) == (latency_ms is None):
        raise TrimformerError("give either a constraint or a latency in ms")
    if constraint is not None:
        check_constraint(constraint)
        return
    if metric not in (None, "latency"):
        raise TrimformerError(f"a latency of {latency_ms} ms needs the metric 'latency', not '{metric}'")
    try:
        LATENCY_MS.check(latency_ms)
    except TrimformerError:
        raise TrimformerError(
            f"a latency of {_shown(latency_ms)} ms needs the metric 'latency', and to be a positive number"
        ) from None


def check_constraint(constraint: Any) -> None:
    """Raises:
    TrimformerError: it is not in (0, 1].
    """
    try:
        CONSTRAINT.check(constraint)
    except TrimformerError:
        raise TrimformerError(
            f"constraint {_shown(constraint)} is outside (0, 1]; 0.5 keeps half of the dense model's cost"
        ) from None


def check_flags(**given: Any) -> None:
    """Raises:
    TrimformerError: one of these is neither True nor False.
    """
    for name, value in given.items():
        if not isinstance(value, bool):
            raise TrimformerError(f"{name} is {_shown(value)}; give True or False")


def check_columns_given(**given: Any) -> None:
    """Raises:
    TrimformerError: one of these is neither a column's name, nor some of them, nor None.
    """
    for name, value in given.items():
        named = [value] if isinstance(value, str) else value
        if named is None:
            continue
        if not isinstance(named, Sequence) or not named or not all(isinstance(column, str) for column in named):
            raise TrimformerError(f"{name} is {_shown(value)}; give the name of a column, or a list of names")


def _shown(value: Any) -> str:
    told = " ".join(repr(value).split())
    return told if len(told) <= 60 else f"of type {type(value).__name__}"
