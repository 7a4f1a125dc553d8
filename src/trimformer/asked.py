"""What may be asked for: budgets and methods, checked before anything is read."""

from dataclasses import dataclass, replace
from typing import get_args

from trimformer.costs.cost import Costs, Metric
from trimformer.errors import TrimformerError
from trimformer.methods import AnyMethod, WholeMethod
from trimformer.verify.judge import Target
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


def check_constraint(constraint: float) -> None:
    """Raises:
    TrimformerError: it is not in (0, 1].
    """
    if not 0 < constraint <= 1:
        raise TrimformerError(f"constraint {constraint} is outside (0, 1]; 0.5 keeps half of the dense model's cost")


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
    if (asked.constraint is None) == (asked.ms is None):
        raise TrimformerError("give either a constraint or a latency in ms")
    if asked.constraint is not None:
        check_constraint(asked.constraint)
    if asked.ms is not None and not (metric == "latency" and 0 < asked.ms < float("inf")):
        raise TrimformerError(f"a latency of {asked.ms} ms needs the metric 'latency', and to be a positive number")


def target_of(max_drop: float | None, max_divergence: float | None) -> Target | None:
    """The quality to keep, where one is asked for.

    Raises:
        TrimformerError: two are given, or one that is no positive number.
    """
    if max_drop is not None and max_divergence is not None:
        raise TrimformerError("max_drop and max_divergence are two targets; give one of them")
    if max_drop is not None:
        return Target("drop", max_drop)
    return None if max_divergence is None else Target("divergence", max_divergence)


def check_reachable(constraint: float, smallest: float, costs: Costs) -> None:
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


def as_the_table(latency: LatencyOptions) -> LatencyOptions:
    """The options with the shape and the backend of the table, where one is given that knows them.

    Raises:
        TrimformerError: the options ask for others.
    """
    if latency.table is None or not latency.table.setting:
        return latency
    setting = {key: latency.table.setting[key] for key in ("batch_size", "seq_len", "backend")}
    for key, value in setting.items():
        asked = getattr(latency, key)
        if asked not in (value, getattr(LatencyOptions(), key)):
            raise TrimformerError(f"the latency table was measured with {key} {value}, not {asked}; measure another")
    return replace(latency, **setting)
