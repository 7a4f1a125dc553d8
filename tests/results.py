"""What a pruning run hands back, made by hand."""

from typing import Any

import torch

from tests.conftest import make_model
from trimformer.checkpoints.shrink import shrink
from trimformer.costs.timing import Timing
from trimformer.evaluation.scores import Scores
from trimformer.models import find_sublayers
from trimformer.options.methods import METHODS
from trimformer.refit.result import Refit
from trimformer.reports import BudgetReport, CostReport, LatencyReport, MachineReport, SampleReport, Size, TaskReport
from trimformer.results import PruningResult


def make_result(**options: Any) -> PruningResult:
    """As if half of a model had been removed."""
    model = make_model(**options)
    masks = [torch.arange(s.num_units).lt(s.num_units // 2).float() for s in find_sublayers(model)]
    shrink(model, masks)
    return PruningResult(
        model,
        masks,
        task=TaskReport("text", "single_label", "accuracy"),
        method=METHODS["obs"],
        budget=BudgetReport("mac", 0.5, 0.49),
        samples=SampleReport(32, 8, 12.5),
        cost=CostReport(
            {"data": 0.5, "search": 1.25}, {"search": 4.25, "total": 4.25}, seconds_per_pass=0.3, peak_gb={"host": 1.25}
        ),
        machine=MachineReport("CPU", 1, {}),
        refits=[Refit("layer 0 ffn", 20, True, 2.0, 1.0, ridge=0.1)] * 6,
        scores=Scores(
            {"accuracy": 0.9, "accuracy_ci95": 0.01234, "f1": 0.8},
            {"accuracy": 0.85, "accuracy_ci95": 0.02, "f1": 0.825},
            divergence=0.01236,
        ),
        sizes={"dense": Size(2e9, 20_000_000, 80_000_000), "pruned": Size(1e9, 15_000_000, 60_000_000)},
        kinds=["attention", "ffn"] * 3,
        latency=LatencyReport(32, 13, "eager", ms(30.0), ms(20.0), ms(2 / 3)),
    )


def ms(median: float) -> Timing:
    return Timing(median, median, median, 9)
