"""Checks of a run's inputs against each other: method and labels, budget and costs, latency options and table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

from trimformer.costs.cost_tables import Costs
from trimformer.data.tasks import Task
from trimformer.errors import TrimformerError
from trimformer.evaluation.latency_target import LatencyOptions
from trimformer.models.layer_calls import LABEL_KEYS
from trimformer.options.methods import AnyMethod, Method


def check_given(processor: Any, task: Any) -> None:
    """Raises:
    TrimformerError: one of these is a name, or no such thing.
    """
    if isinstance(processor, str | PathLike):
        raise TrimformerError(
            f"processor is the name '{processor}'; give what AutoTokenizer.from_pretrained or trimformer.load returns"
        )
    if isinstance(task, str):
        raise TrimformerError(f"task is the name '{task}'; give trimformer.data.tasks.find_task('{task}')")
    if task is not None and not isinstance(task, Task):
        raise TrimformerError(f"task is of type {type(task).__name__}; give a Task, or leave it out")


def check_labels(method: AnyMethod, features: Sequence[Mapping[str, Any]]) -> None:
    """Told before any pass.

    Raises:
        TrimformerError: the method reads labels, and the samples have none.
    """
    reads = isinstance(method, Method) and method.objective == "labels" and method.criterion in ("fisher", "obs")
    if reads and not any(key in features[0] for key in LABEL_KEYS):
        raise TrimformerError("this method needs labels and the calibration data has none; use one that needs none")


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
        if asked not in (value, getattr(type(latency)(), key)):
            raise TrimformerError(f"the latency table was measured with {key} {value}, not {asked}; measure another")
    return replace(latency, **setting)
