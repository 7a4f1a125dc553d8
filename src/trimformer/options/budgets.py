"""What may be asked for: budgets and methods, checked before anything is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from trimformer.errors import TrimformerError
from trimformer.options.checks import check_budget_numbers
from trimformer.options.checks import check_constraint as check_constraint
from trimformer.options.choices import Metric
from trimformer.options.methods import AnyMethod, WholeMethod


@dataclass(frozen=True)
class BudgetRequest:
    """A budget as it is asked for: one of the two.

    Attributes:
        constraint: fraction in (0, 1] of the dense model's cost.
        ms: milliseconds of a batch.
    """

    constraint: float | None = None
    ms: float | None = None

    @property
    def name(self) -> str:
        """Short, for a folder."""
        return f"{self.constraint:g}" if self.ms is None else f"{self.ms:g}ms"


def check_method(method: AnyMethod, metric: Metric, bf16: bool) -> None:
    """Raises:
    TrimformerError: the metric is unknown, or the method cannot count in it or compute in this precision.
    """
    if metric not in get_args(Metric):
        raise TrimformerError(f"metric '{metric}' is unknown; known are {', '.join(get_args(Metric))}")
    if isinstance(method, WholeMethod) and metric == "latency":
        raise TrimformerError(f"method '{method.name}' knows no latency table; use the metric 'mac'")
    if isinstance(method, WholeMethod) and bf16:
        raise TrimformerError(f"method '{method.name}' runs in float32 only; leave out bf16")


def check_asked(asked: BudgetRequest, metric: Metric) -> None:
    """Raises:
    TrimformerError: no budget is given or two are, or it does not go with the metric.
    """
    check_budget_numbers(asked.constraint, asked.ms, metric)


def budgets_of(
    constraints: Sequence[float] | None, latency_ms: Sequence[float] | None, metric: Metric
) -> list[BudgetRequest]:
    """The budgets of a sweep, checked.

    Raises:
        TrimformerError: there are none, one is out of range, or they are in no order.
    """
    if (constraints is None) == (latency_ms is None):
        raise TrimformerError("give either constraints or latencies in ms for a sweep")
    values = list(constraints if constraints is not None else latency_ms or [])
    what = "constraints" if constraints is not None else "latencies in ms"
    if not values:
        raise TrimformerError(f"the list of {what} is empty; give one at least")
    if values not in (sorted(set(values)), sorted(set(values), reverse=True)):
        raise TrimformerError(f"the {what} {', '.join(f'{v:g}' for v in values)} are in no order, or one comes twice")
    asked = [BudgetRequest(value) if constraints is not None else BudgetRequest(ms=value) for value in values]
    for each in asked:
        check_asked(each, metric)
    return asked
