"""What may be asked for: budgets and methods, checked before anything is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, get_args

from trimformer.checks import check_budget_numbers
from trimformer.checks import check_constraint as check_constraint
from trimformer.choices import Metric
from trimformer.errors import TrimformerError
from trimformer.methods import AnyMethod, Method, WholeMethod

if TYPE_CHECKING:
    from trimformer.costs.cost import Costs
    from trimformer.verify.promise import LatencyOptions


@dataclass(frozen=True)
class Asked:
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


def check_asked(asked: Asked, metric: Metric) -> None:
    """Raises:
    TrimformerError: no budget is given or two are, or it does not go with the metric.
    """
    check_budget_numbers(asked.constraint, asked.ms, metric)


def check_given(processor: Any, task: Any) -> None:
    """Raises:
    TrimformerError: one of these is a name, or no such thing.
    """
    from trimformer.batches.tasks import Task  # this file is read before anything heavy

    if isinstance(processor, str | PathLike):
        raise TrimformerError(
            f"processor is the name '{processor}'; give what AutoTokenizer.from_pretrained or trimformer.load returns"
        )
    if isinstance(task, str):
        raise TrimformerError(f"task is the name '{task}'; give trimformer.batches.tasks.find_task('{task}')")
    if task is not None and not isinstance(task, Task):
        raise TrimformerError(f"task is of type {type(task).__name__}; give a Task, or leave it out")


def check_labels(method: AnyMethod, features: Sequence[Mapping[str, Any]]) -> None:
    """Told before any pass.

    Raises:
        TrimformerError: the method reads labels, and the samples have none.
    """
    from trimformer.arch.calls import LABEL_KEYS

    reads = isinstance(method, Method) and method.objective == "labels" and method.criterion in ("fisher", "obs")
    if reads and not any(key in features[0] for key in LABEL_KEYS):
        raise TrimformerError("this method needs labels and the calibration data has none; use one that needs none")


def budgets_of(constraints: Sequence[float] | None, latency_ms: Sequence[float] | None, metric: Metric) -> list[Asked]:
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
    asked = [Asked(value) if constraints is not None else Asked(ms=value) for value in values]
    for each in asked:
        check_asked(each, metric)
    return asked


def check_reachable(constraint: float, smallest: float, costs: "Costs") -> None:
    """Raises:
    TrimformerError: not even one unit fits, or the dense model is within the budget already.
    """
    # Rounded up, as what is named here must be reachable.
    unit = f" ({smallest * 1.005 * costs.dense:.3g} ms)" if costs.measured else ""
    if constraint < smallest:
        raise TrimformerError(
            f"constraint {constraint:.4g} leaves no unit; the smallest reachable is {smallest * 1.005:.3g}{unit}"
        )
    if constraint > 1:
        raise TrimformerError(f"the dense model takes {costs.dense:.3g} ms already; ask for less")


def as_the_table(latency: "LatencyOptions") -> "LatencyOptions":
    """The options with the shape and the backend of the table, where one is given that knows them.

    Raises:
        TrimformerError: the options ask for others.
    """
    if latency.table is None or not latency.table.setting:
        return latency
    setting = {key: latency.table.setting[key] for key in ("batch_size", "seq_len", "backend")}
    for key, value in setting.items():
        asked = getattr(latency, key)
        if asked not in (value, getattr(type(latency)(), key)):
            raise TrimformerError(f"the latency table was measured with {key} {value}, not {asked}; measure another")
    return replace(latency, **setting)
