"""Searches the smallest model that keeps a quality target."""

import logging
from collections.abc import Sequence
from dataclasses import replace

from trimformer.allocation.smallest_budget import budgets_within_target
from trimformer.errors import TrimformerError
from trimformer.evaluation.quality_test import QualityTest, Verdict
from trimformer.options.budgets import BudgetRequest
from trimformer.options.methods import AnyMethod
from trimformer.pruner import Pruned
from trimformer.results import PruningResult, QualityTargetReport
from trimformer.session.measure import report
from trimformer.session.prune_to import budget_for, pruner_for, seconds_since, smallest_reachable, started
from trimformer.session.setup import Session
from trimformer.utils.distributed import decide, on_main

logger = logging.getLogger(__name__)

QUICK_SAMPLES = 256  # calibration samples that a candidate is refitted on before it is chosen
_MARGIN = 1.01  # over the smallest reachable constraint


def prune_to_quality(session: Session, method: AnyMethod) -> PruningResult:
    """Prunes to the smallest budget that keeps the target.

    Candidates are refitted on few samples; the chosen one is refitted on all of them and tested again. Budgets are
    taken to be ordered: where one keeps the target, so do all larger ones.

    Raises:
        TrimformerError: no budget keeps the target.
    """
    target = session.target
    assert target is not None
    tried: list[Verdict] = []
    start = started(session, method)
    with session.timer("judge"):
        test: list[QualityTest] = []  # of the main process only
        on_main(lambda: test.append(_quality_test(session)))
    every = max(1, min(4, len(session.data.features) // QUICK_SAMPLES))

    def try_model(pruned: Pruned, constraint: float, *, as_served: bool) -> Verdict:
        with session.timer("judge"):
            # Only the main process runs the test; the others receive its verdict.
            verdict = decide(lambda: test[0](session.finish(pruned.model), constraint, as_served=as_served))
        logger.info(
            "at %.3f of the cost: %s %.4f, below %.4f", constraint, target.kind, verdict.measured, verdict.bound
        )
        tried.append(verdict)
        return verdict

    fully_refitted: dict[float, Pruned] = {}  # candidates refitted on all samples, which are final

    def excess(constraint: float) -> float:
        budget = budget_for(session, method, BudgetRequest(constraint))
        pruned = pruner_for(session, method).prune_all([replace(budget, correct=None)], every=every)[0]
        if every == 1 and budget.correct is None:
            fully_refitted[constraint] = pruned
        return try_model(pruned, constraint, as_served=False).bound - target.most

    candidates = budgets_within_target(excess, min(1.0, _MARGIN * smallest_reachable(session, method)))
    for constraint in [*candidates, *_larger(candidates)]:
        budget = budget_for(session, method, BudgetRequest(constraint))
        pruned = fully_refitted.get(constraint) or pruner_for(session, method).prune_all([budget])[0]
        if try_model(pruned, constraint, as_served=True).keeps:
            result = report(session, method, budget, pruned, None, seconds_since(session, start))
            result.target = QualityTargetReport.of(
                target,
                tried,
                _tested_samples(session),
                result.task.score,
                f"{_tested_samples(session):,} samples {_source(session)}",
                session.unjudged_labels,
            )
            return result
    best = max(tried, key=lambda verdict: verdict.constraint)
    raise TrimformerError(
        f"no model was found that keeps the {target.kind} within {target.most:g}: at {best.constraint:.3f} of the "
        f"cost it is {best.measured:.3g}, and below {best.bound:.3g} with 95 % confidence on "
        f"{_tested_samples(session):,} samples; allow more, or give more rows to judge by"
    )


def _quality_test(session: Session) -> QualityTest:
    """The test of the session's target."""
    data, backend = session.data, session.unit_costs.latency.backend
    assert session.target is not None
    assert data.judged is not None
    return QualityTest(session.target, data.judged, session.model, backend, data.judged_retold)


def _tested_samples(session: Session) -> int:
    """Number of samples that the target is tested on."""
    return len(session.data.judged.rows) if session.data.judged else 0


def _larger(budgets: Sequence[float]) -> list[float]:
    """Two larger budgets to try where none of the candidates keeps the quality after all."""
    largest = max(budgets, default=1.0)
    return [largest**0.5, largest**0.25] if largest < 1 else []


def _source(session: Session) -> str:
    """Names the origin of the samples that the target is tested on."""
    return "of the judge data" if session.data.is_judge_data else "set aside of the calibration data"
