"""Budgets: how small the pruned model must be, or how much quality it must keep."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, get_args

from trimformer.errors import TrimformerError
from trimformer.options.checks import FRACTION, MEGABYTES, MILLISECONDS, shorten
from trimformer.options.choices import Metric
from trimformer.options.option import check_options, option
from trimformer.options.quality_target import QualityTarget, TargetKind

# Options that ask for a quality, with its kind.
_TARGETS: dict[str, TargetKind] = {"max_drop": "drop", "max_divergence": "divergence", "max_perplexity": "perplexity"}


_LARGE_RATIO = 2.0  # of perplexities; few models are of use beyond


def read_ratio(text: str) -> float:
    """Reads a ratio such as "1.1" or "1.10x".

    Raises:
        argparse.ArgumentTypeError: it is no number, or a large one without the x, which may be meant as a perplexity.
    """
    try:
        ratio = float(text.removesuffix("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text[:50]}' is not a ratio such as 1.10x") from None
    if _LARGE_RATIO <= ratio < math.inf and not text.endswith("x"):
        raise argparse.ArgumentTypeError(
            f"{text} is a ratio to the dense model's perplexity; write {text}x if that is meant"
        )
    return ratio


def _decimal(number: float) -> str:
    """Writes a number without an exponent and without zeros at its end, short where six digits are the number."""
    short = f"{number:g}"
    if "e" not in short and math.isclose(float(short), number, rel_tol=1e-12):
        return short
    text = f"{Decimal(repr(float(number))):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True)
class BudgetRequest:
    """One requested budget; exactly one of the three is given.

    Attributes:
        constraint: fraction in (0, 1] of the dense model's cost.
        ms: milliseconds for one batch.
        mb: megabytes of memory.
    """

    constraint: float | None = None
    ms: float | None = None
    mb: float | None = None

    @property
    def name(self) -> str:
        """Short name, for a folder; different budgets have different names."""
        if self.ms is not None:
            return f"{_decimal(self.ms)}ms"
        return f"{_decimal(self.mb)}MB" if self.mb is not None else _decimal(self.constraint or 0.0)

    def describe(self, share: float) -> str:
        """Describes the budget in a sentence, with the share of the dense model's cost that it is."""
        if self.ms is not None:
            return f"a latency of {self.ms:g} ms"
        return f"constraint {share:.4g}" if self.mb is None else f"a memory of {self.mb:g} MB"

    def share_of(self, dense: float) -> float:
        """Returns the budget as a share of a dense cost in ms, bytes, or any unit where the budget is a share."""
        if self.ms is not None:
            return self.ms / dense
        if self.mb is not None:
            return 1e6 * self.mb / dense
        assert self.constraint is not None
        return self.constraint


@dataclass(frozen=True)
class BudgetOptions:
    """One budget, or one quality to keep."""

    constraint: float | None = option(
        None,
        "share of the cost to keep, in (0, 1]",
        python_help="share of the cost that `metric` counts to keep, in (0, 1]; 0.5 where no budget and no quality is "
        "given.",
        read=float,
    )
    latency_ms: float | None = option(
        None,
        "latency to reach, in milliseconds",
        python_help="latency of a batch to reach instead, in milliseconds.",
        read=float,
    )
    memory_mb: float | None = option(
        None,
        "for language models: memory to reach in llama.cpp, weights and cache, in megabytes (1,000,000 bytes)",
        python_help="for language models: memory to reach in llama.cpp instead, weights and key-value cache, in "
        "megabytes (1,000,000 bytes).",
        read=float,
        metavar="MB",
    )
    max_drop: float | None = option(
        None,
        "find the smallest model that loses at most this many points of the task's score, with 95 %% confidence, on "
        "rows set aside",
        python_help="points of the task's main score that the model may lose: finds the smallest model that loses no "
        "more, with 95 % confidence.",
        read=float,
        metavar="POINTS",
    )
    max_divergence: float | None = option(
        None,
        "like --max-drop, but bounds the KL divergence from the dense model; needs no labels",
        python_help="like `max_drop`, but bounds the mean divergence of the outputs from the dense model's; needs no "
        "labels.",
        read=float,
        metavar="NATS",
    )
    max_perplexity: float | None = option(
        None,
        "for language models: like --max-drop, but bounds the perplexity, as a ratio to the dense model's: 1.10x",
        python_help="for language models: like `max_drop`, but bounds the ratio of the perplexity to the dense "
        "model's, such as 1.10.",
        read=read_ratio,
        metavar="RATIO",
    )
    metric: Metric | None = option(
        None,
        "what the constraint counts (default: mac; with --latency-ms latency, with --memory-mb memory)",
        python_help='what the constraint counts: "mac" (default) or "parameters" of the sublayers, or measured '
        '"latency" (default with `latency_ms`) or "memory" in llama.cpp (default with `memory_mb`) of the whole model.',
        choices=get_args(Metric),
    )

    def __post_init__(self) -> None:
        """Checks the values one by one and against each other.

        Raises:
            TrimformerError: a value is out of range, or two budgets are given.
        """
        check_options(self)
        is_given = (self.constraint, self.latency_ms, self.memory_mb) != (None, None, None)
        if self.target is not None and is_given:
            raise TrimformerError(f"give either a budget or the quality to keep, {' or '.join(_TARGETS)}")
        if self.target is None and is_given:
            check_budget(self.constraint, self.latency_ms, self.metric, self.memory_mb)

    @property
    def target(self) -> QualityTarget | None:
        """The quality to keep, where one is asked for."""
        targets = {name: value for name in _TARGETS if (value := getattr(self, name)) is not None}
        if len(targets) > 1:
            raise TrimformerError(f"{' and '.join(list(targets)[:2])} are two targets; give one of them")
        return next((QualityTarget(_TARGETS[name], value) for name, value in targets.items()), None)

    @property
    def is_empty(self) -> bool:
        """Whether neither a budget nor a quality to keep is given."""
        return self.target is None and (self.constraint, self.latency_ms, self.memory_mb) == (None, None, None)

    @property
    def request(self) -> BudgetRequest:
        """The budget."""
        return BudgetRequest(self.constraint, self.latency_ms, self.memory_mb)

    @property
    def resolved_metric(self) -> Metric:
        """What the budget counts, the default resolved."""
        return _counted(self.metric, self.latency_ms, self.memory_mb)


@dataclass(frozen=True)
class SweepBudgetOptions:
    """The budgets of a sweep."""

    constraints: Sequence[float] | None = option(
        None,
        "shares of the cost to keep: 0.7,0.5,0.3 or FIRST:LAST:STEP, such as 0.9:0.1:0.1",
        python_help="shares of the cost to keep.",
        read=str,
        metavar="LIST",
    )
    latency_ms: Sequence[float] | None = option(
        None,
        "latencies to reach, in milliseconds: 20,10,5",
        python_help="latencies of a batch to reach instead, in milliseconds.",
        read=str,
        metavar="LIST",
    )
    metric: Metric | None = option(
        None,
        "what the constraints count (default: mac; with --latency-ms latency)",
        python_help="see `trimformer.prune`.",
        choices=get_args(Metric),
    )

    def __post_init__(self) -> None:
        """Checks the list.

        Raises:
            TrimformerError: there is no budget, one is out of range, or they are not sorted.
        """
        check_options(self)
        _ = self.requests

    @property
    def requests(self) -> list[BudgetRequest]:
        """The budgets, in their order."""
        if (self.constraints is None) == (self.latency_ms is None):
            raise TrimformerError("give either constraints or latencies in ms for a sweep")
        kind = "latencies in ms" if self.constraints is None else "constraints"
        values = self.latency_ms if self.constraints is None else self.constraints
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise TrimformerError(f"the {kind} of a sweep are {shorten(values)}; give a list of numbers")
        if not values:
            raise TrimformerError(f"the list of {kind} is empty; give one at least")
        for value in values:
            constraint, latency_ms = (None, value) if self.constraints is None else (value, None)
            check_budget(constraint, latency_ms, self.metric)
        if list(values) not in (sorted(set(values)), sorted(set(values), reverse=True)):
            raise TrimformerError(
                f"the {kind} {', '.join(f'{v:g}' for v in values)} are not sorted; sort them, and name each once"
            )
        return [BudgetRequest(ms=v) if self.constraints is None else BudgetRequest(v) for v in values]

    @property
    def resolved_metric(self) -> Metric:
        """What the budgets count, the default resolved."""
        return _counted(self.metric, self.latency_ms)


def _counted(metric: Metric | None, latency_ms: Any, memory_mb: Any = None) -> Metric:
    """Returns what a budget counts: the metric, or the default of its kind."""
    if latency_ms is not None:
        return metric or "latency"
    return metric or ("mac" if memory_mb is None else "memory")


def check_budget(constraint: Any, latency_ms: Any, metric: str | None, memory_mb: Any = None) -> None:
    """Checks one budget.

    Raises:
        TrimformerError: no budget is given or two are, it is out of range, or the metric does not fit it.
    """
    if memory_mb is not None:
        if constraint is not None or latency_ms is not None:
            raise TrimformerError("give either a constraint, a latency in ms or a memory in MB")
        if metric not in (None, "memory"):
            raise TrimformerError(f"a memory of {shorten(memory_mb)} MB needs the metric 'memory', not '{metric}'")
        MEGABYTES.check(memory_mb, "memory_mb")
        return
    if (constraint is None) == (latency_ms is None):
        raise TrimformerError("give either a constraint or a latency in ms")
    if constraint is not None:
        check_constraint(constraint)
        return
    if metric not in (None, "latency"):
        raise TrimformerError(f"a latency of {latency_ms} ms needs the metric 'latency', not '{metric}'")
    try:
        MILLISECONDS.check(latency_ms, "latency_ms")
    except TrimformerError:
        raise TrimformerError(f"latency_ms is {shorten(latency_ms)}; give a positive number of milliseconds") from None


def check_constraint(constraint: Any) -> None:
    """Checks a share of the cost.

    Raises:
        TrimformerError: it is not in (0, 1].
    """
    try:
        FRACTION.check(constraint, "constraint")
    except TrimformerError:
        raise TrimformerError(
            f"constraint {shorten(constraint)} is outside (0, 1]; 0.5 keeps half of the dense model's cost"
        ) from None
