"""What is prepared, calibrated once for each method and pruned to any number of budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import transformers

from trimformer.allocation.allocations import smallest_constraint
from trimformer.evaluation.latency_target import LatencyTarget
from trimformer.evaluation.quality_test import QualityTest
from trimformer.models import find_sublayers
from trimformer.options.budgets import BudgetRequest
from trimformer.options.methods import AnyMethod, WholeMethod
from trimformer.polish.data import polishes
from trimformer.pruner import Budget, Pruner
from trimformer.results import (
    PruningResult,
)
from trimformer.session.checks import check_reachable
from trimformer.session.measure import report
from trimformer.session.setup import Prepared


@dataclass(frozen=True)
class Started:
    """Seconds by stage when the making of a model began: of its method's calibration, and of all so far."""

    calibration: Mapping[str, float]
    seconds: Mapping[str, float]


class Session(Prepared):
    """Prunes what is prepared; see `Prepared` for the arguments."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._pruners: dict[AnyMethod, tuple[Pruner, dict[str, float]]] = {}

    def budget(self, method: AnyMethod, asked: BudgetRequest) -> Budget:
        """What a model may cost, by the prices of this session.

        Raises:
            TrimformerError: it cannot be reached.
        """
        prices = self.prices
        constraint = asked.constraint if asked.ms is None else asked.ms / prices.costs.dense
        assert constraint is not None
        check_reachable(constraint, self.smallest(method), prices.costs)
        if polishes(method) and self.polishing is not None and prices.metric != "latency":
            self.polishing.check_affordable(constraint)
        promise = None
        if prices.is_own:
            promise = LatencyTarget(
                self.model, prices.costs, constraint, asked.ms, prices.inputs, prices.latency.backend
            )
        return Budget(prices.costs, constraint, promise)

    def smallest(self, method: AnyMethod) -> float:
        """The smallest constraint that a method can reach."""
        allocation = "global" if isinstance(method, WholeMethod) else method.allocation
        return smallest_constraint(allocation, find_sublayers(self.model), self.prices.costs, self.neuron_multiple)

    def pruner(self, method: AnyMethod) -> Pruner:
        """Calibrated, once for each method."""
        return self._calibrated(method)[0]

    def prune(self, method: AnyMethod, asked: Sequence[BudgetRequest]) -> list[PruningResult]:
        """Prunes to several budgets at once and reports on each.

        Raises:
            TrimformerError: a budget cannot be reached.
        """
        budgets = [self.budget(method, each) for each in asked]
        start = self.started(method)
        pruned = self.pruner(method).prune_all(budgets)
        seconds = self.since(start)
        return [
            report(self, method, budget, each, ms.ms, seconds)
            for budget, each, ms in zip(budgets, pruned, asked, strict=True)
        ]

    def started(self, method: AnyMethod) -> Started:
        """The moment from which on a model is made by this method, calibrated before if need be."""
        return Started(self._calibrated(method)[1], dict(self.clock.seconds))

    def since(self, start: Started) -> dict[str, float]:
        """Seconds of a model's making, by stage, calibration included."""
        return {**start.calibration, **self.clock.since(start.seconds)}

    @property
    def samples(self) -> int:
        """To calibrate on."""
        return len(self.data.features)

    @property
    def judged(self) -> int:
        """Samples to judge a target by."""
        return len(self.data.judged.rows) if self.data.judged else 0

    def judge(self) -> QualityTest:
        """Who tells whether models keep the target."""
        assert self.target is not None
        data = self.data
        assert data.judged is not None
        return QualityTest(self.target, data.judged, self.model, self.prices.latency.backend, data.judged_retold)

    def _calibrated(self, method: AnyMethod) -> tuple[Pruner, dict[str, float]]:
        """The pruner, and the seconds of all that came before it."""
        if method not in self._pruners:
            _ = self.seconds_per_pass  # measured before there is anything else in memory
            before = dict(self.clock.seconds)
            transformers.set_seed(self.run.seed)
            pruner = Pruner(
                self.model,
                self.data.batches,
                method,
                neuron_multiple=self.neuron_multiple,
                polishing=self.polishing if polishes(method) else None,
                run=self.run,
            )
            self._pruners[method] = pruner, {**self.shared, **self.clock.since(before)}
        return self._pruners[method]
