"""What may be asked for: budgets and methods, checked before anything is read."""

from typing import get_args

from trimformer.costs.cost import Costs, Metric
from trimformer.errors import TrimformerError
from trimformer.methods import AnyMethod, WholeMethod
from trimformer.verify.promise import LatencyOptions


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


def check_budget(constraint: float | None, metric: Metric, latency: LatencyOptions) -> None:
    """Raises:
    TrimformerError: no budget is given or two are, or it does not go with the metric.
    """
    if (constraint is None) == (latency.ms is None):
        raise TrimformerError("give either a constraint or a latency in ms")
    if constraint is not None:
        check_constraint(constraint)
    if latency.ms is not None and not (metric == "latency" and 0 < latency.ms < float("inf")):
        raise TrimformerError(f"a latency of {latency.ms} ms needs the metric 'latency', and to be a positive number")


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
