"""Prunes the model of a session to budgets, calibrating once for each method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import transformers

from trimformer.allocation.allocations import smallest_constraint
from trimformer.errors import TrimformerError
from trimformer.evaluation.latency_target import LatencyTarget
from trimformer.models import find_sublayers
from trimformer.options.budgets import BudgetRequest
from trimformer.options.methods import AnyMethod, Method, WholeMethod, polishes
from trimformer.pruner import Budget, Pruner
from trimformer.results import PruningResult
from trimformer.session.measure import report
from trimformer.session.setup import Session
from trimformer.session.unit_costs import UnitCosts


@dataclass(frozen=True)
class StartTimes:
    """Seconds by stage that were spent before a model is pruned.

    Attributes:
        calibration: seconds of the method's calibration, set-up included.
        total: seconds of the whole session so far.
    """

    calibration: Mapping[str, float]
    total: Mapping[str, float]


def prune_to(session: Session, method: AnyMethod, requests: Sequence[BudgetRequest]) -> list[PruningResult]:
    """Prunes to several budgets at once and measures each result.

    Raises:
        TrimformerError: a budget cannot be reached.
    """
    budgets = [budget_for(session, method, request) for request in requests]
    start = start_pruning(session, method)
    pruned = pruner_for(session, method).prune_all(budgets)
    seconds = seconds_since(session, start)
    return [
        report(session, method, budget, model, request, seconds)
        for budget, model, request in zip(budgets, pruned, requests, strict=True)
    ]


def budget_for(session: Session, method: AnyMethod, request: BudgetRequest) -> Budget:
    """The budget of a request, in the unit costs of the session.

    Raises:
        TrimformerError: the budget cannot be reached.
    """
    costs = session.unit_costs.costs
    constraint = request.share_of(costs.dense)
    only_neurons = isinstance(method, Method) and method.allocation == "ffn"
    lost = "no neurons beside all heads" if only_neurons else "no unit"
    _check_budget_reachable(request, constraint, smallest_reachable(session, method), session.unit_costs, lost)
    if polishes(method) and session.polishing is not None and session.unit_costs.metric != "latency":
        share = (constraint * costs.dense - costs.fixed) / (costs.dense - costs.fixed)  # of the layers
        session.polishing.check_affordable(share, lambda: session.seconds_per_polish_pass)
    latency_target = None
    if session.unit_costs.is_local:
        latency_target = LatencyTarget(session.model, costs, constraint, request.ms, session.unit_costs.workload)
    return Budget(costs, constraint, latency_target)


def smallest_reachable(session: Session, method: AnyMethod) -> float:
    """The smallest constraint that a method can reach."""
    allocation = "global" if isinstance(method, WholeMethod) else method.allocation
    sublayers = find_sublayers(session.model)
    return smallest_constraint(allocation, sublayers, session.unit_costs.costs, session.neuron_multiple)


def _check_budget_reachable(
    request: BudgetRequest, constraint: float, smallest: float, unit_costs: UnitCosts, lost: str
) -> None:
    """Checks that a constraint lies between the smallest model and the dense one.

    Raises:
        TrimformerError: the constraint is below the smallest model, which leaves `lost`, or above the dense model.
    """
    # Rounded up, so that the named constraint is itself reachable.
    dense, unit = unit_costs.costs.dense, {"latency": "ms", "memory": "MB"}.get(unit_costs.metric)
    dense = dense / 1e6 if unit == "MB" else dense
    least = f" ({smallest * 1.005 * dense:.3g} {unit})" if unit else ""
    if constraint < smallest:
        name = request.describe(constraint)
        raise TrimformerError(f"{name} leaves {lost}; the smallest reachable is {smallest * 1.005:.3g}{least}")
    if constraint > 1:
        raise TrimformerError(f"the dense model takes {dense:.3g} {unit} already; ask for less")


def pruner_for(session: Session, method: AnyMethod) -> Pruner:
    """The pruner of a method, calibrated at the first call."""
    return _calibrated(session, method)[0]


def start_pruning(session: Session, method: AnyMethod) -> StartTimes:
    """Calibrates the method if needed and returns the seconds that were spent before a model is pruned."""
    return StartTimes(_calibrated(session, method)[1], dict(session.timer.seconds))


def seconds_since(session: Session, start: StartTimes) -> dict[str, float]:
    """Seconds by stage that a model took, calibration included."""
    return {**start.calibration, **session.timer.since(start.total)}


def _calibrated(session: Session, method: AnyMethod) -> tuple[Pruner, dict[str, float]]:
    """The pruner, and the seconds of the stages before it."""
    if method not in session.pruners:
        for other, _ in session.pruners.values():
            other.release_outputs()
        _ = session.seconds_per_pass  # measured while nothing else is in memory
        before = dict(session.timer.seconds)
        transformers.set_seed(session.execution.seed)
        pruner = Pruner(
            session.model,
            session.samples.calibration.batches,
            method,
            neuron_multiple=session.neuron_multiple,
            polishing=session.polishing if polishes(method) else None,
            run=session.execution,
        )
        session.pruners[method] = pruner, {**session.setup_seconds, **session.timer.since(before)}
    return session.pruners[method]
