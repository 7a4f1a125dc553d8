"""Searches the smallest model that keeps a quality target.

The budget is predicted on calibration samples only; at most three models are tested on the test rows. The allowed
error is shared out among these, so the promise holds with 95 % confidence however many are tested.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import replace

from trimformer.allocation.predict_constraint import predict_constraint
from trimformer.data.language_blocks import were_answered
from trimformer.data.rows import Selection
from trimformer.errors import TrimformerError
from trimformer.evaluation.bounds import TRIALS
from trimformer.evaluation.clusters import FEWEST_DOCUMENTS, count_documents
from trimformer.evaluation.language import LanguageScorer, make_scorer
from trimformer.evaluation.language_vocabulary import LanguageVocabularyScorer
from trimformer.evaluation.quality_test import PredictedTest, QualityTest, Verdict, rows_to_promise
from trimformer.evaluation.scores import rows_of_features
from trimformer.options.budgets import BudgetRequest
from trimformer.options.methods import AnyMethod
from trimformer.pruner import Pruned
from trimformer.reports import MoreRows, QualityTargetReport
from trimformer.results import PruningResult
from trimformer.session.measure import report
from trimformer.session.prune_to import budget_for, pruner_for, seconds_since, smallest_reachable, start_pruning
from trimformer.session.samples import Samples
from trimformer.session.setup import Session
from trimformer.utils.distributed import broadcast_from_main, on_main

logger = logging.getLogger(__name__)

# A candidate is refitted on a quarter of the calibration samples, or on up to a half where that is fewer than these;
# the others predict its quality.
QUICK_SAMPLES = 256
_MARGIN = 1.01  # over the smallest reachable constraint
_MOST_ROWS = 20  # times the test rows, beyond which advice to give more is of no use


def prune_to_quality(session: Session, method: AnyMethod) -> PruningResult:
    """Prunes to the smallest budget that keeps the target.

    Candidates are refitted on some calibration samples and predict, on the others, the smallest budget that passes the
    test. The model of that budget is refitted on all samples and tested; if it fails, two larger budgets are tried.

    Raises:
        TrimformerError: no budget keeps the target.
    """
    target = session.target
    assert target is not None
    start = start_pruning(session, method)
    with session.timer("judge"):
        test: list[QualityTest] = []  # of the main process only
        on_main(lambda: test.append(_quality_test(session)))
    predicted, lower = _predict(session, method)
    tried: list[Verdict] = []
    for power, alpha in TRIALS:
        constraint = predicted**power
        budget = budget_for(session, method, BudgetRequest(constraint))
        pruned = pruner_for(session, method).prune_all([budget])[0]
        tried.append(_verdict(session, test, pruned, constraint, alpha))
        lower = [*([] if tried[-1].keeps else [tried[-1]]), *lower]
        if tried[-1].keeps:
            result = report(session, method, budget, pruned, BudgetRequest(constraint), seconds_since(session, start))
            advice, documents = _more_rows(session, lower), _documents(session)
            result.target = QualityTargetReport.of(
                target,
                tried,
                _independent_samples(session),
                result.task.score,
                f"{_describe_samples(session)} {_source(session)}",
                session.unjudged_labels,
                advice,
                few_documents=documents if 0 < documents < FEWEST_DOCUMENTS else None,
            )
            if advice is not None:
                logger.info("%s", advice)
            return result
        if predicted == 1:
            break
    best, advice = tried[-1], _more_rows(session, lower)
    raise TrimformerError(
        f"no model was found that keeps the {target.kind} within {target.most:g}: at {best.constraint:.3f} of the "
        f"cost it is {best.measured:.3g}, and below {best.bound:.3g} with 95 % confidence on "
        f"{_describe_samples(session)}; allow more, or give more test rows{f' ({advice})' if advice else ''}"
    )


def _verdict(session: Session, test: list[QualityTest], pruned: Pruned, constraint: float, alpha: float) -> Verdict:
    """Tests a model in the main process; the others receive its verdict."""
    with session.timer("judge"):
        verdict: Verdict = broadcast_from_main(
            lambda: test[0](session.as_scored(pruned.model), constraint, alpha=alpha)
        )
    logger.info("at %.3f of the cost: %.4f, below %.4f", constraint, verdict.measured, verdict.bound)
    return verdict


def _predict(session: Session, method: AnyMethod) -> tuple[float, list[Verdict]]:
    """Predicts the smallest budget that passes the test.

    Returns:
        The budget, and predicted verdicts of smaller budgets. No test sample is used.
    """
    target, samples = session.target, session.samples
    assert target is not None
    every = max(2, min(4, len(samples.calibration.features) // QUICK_SAMPLES))
    unused = [batch for k, batch in enumerate(samples.calibration.batches) if k % every] or samples.calibration.batches
    with session.timer("judge"):
        indices = [i for batch in unused for i in batch["index"].tolist()]
        screen: list[Callable[[Pruned, float], Verdict]] = []
        on_main(lambda: screen.append(_screen(session, _effective_samples(session), indices)))
    verdicts: list[Verdict] = []

    def excess(constraint: float) -> float:
        budget = budget_for(session, method, BudgetRequest(constraint))
        pruned = pruner_for(session, method).prune_all([replace(budget, correct=None)], every=every)[0]
        with session.timer("judge"):
            verdicts.append(broadcast_from_main(lambda: screen[0](pruned, constraint)))
        verdict = verdicts[-1]
        logger.info("predicted at %.3f of the cost: %s %.4f", constraint, target.kind, verdict.measured)
        return verdict.bound - target.most

    lowest = min(1.0, _MARGIN * smallest_reachable(session, method))
    predicted = predict_constraint(excess, lowest)
    smaller = sorted((v for v in verdicts if v.constraint < predicted), key=lambda v: v.constraint)
    return predicted, smaller


def _screen(session: Session, test_samples: int, indices: list[int]) -> Callable[[Pruned, float], Verdict]:
    """Returns a function that predicts a candidate's verdict from the calibration samples of these indices."""
    samples, judged = session.samples, session.samples.judged_scorer
    assert session.target is not None
    assert judged is not None
    rows = Selection(samples.calibration.rows, _whole_rows(samples, indices))
    scorer = make_scorer("calibration", rows, samples.task, session.model, judged.processor, judged.batch_size)
    pruned_scorer = None
    if isinstance(scorer, LanguageScorer) and samples.smaller_vocabulary is not None:
        pruned_scorer = LanguageVocabularyScorer(scorer, samples.smaller_vocabulary.vocabulary, session.model)
    screen = PredictedTest(session.target, scorer, session.model, test_samples, TRIALS[0][1], pruned_scorer)
    return lambda pruned, constraint: screen(pruned.model, constraint)


def _whole_rows(samples: Samples, indices: list[int]) -> list[int]:
    """Returns the rows all of whose samples are among some samples; if there are none, the rows with any of them.

    Args:
        samples: gives the calibration samples; a row has several if it holds several texts, or a long one.
        indices: indices of the samples.
    """
    rows = rows_of_features(samples.calibration.features, len(samples.calibration.rows))
    partly = list(dict.fromkeys(rows[i] for i in indices))
    others = {rows[i] for i in set(range(len(rows))).difference(indices)}
    return [row for row in partly if row not in others] or partly


def _more_rows(session: Session, smaller: list[Verdict]) -> MoreRows | None:
    """Returns how many test rows could promise the smallest budget that looks good enough; None if no budget does."""
    assert session.target is not None
    rows, documents = _independent_samples(session), _documents(session)
    unit = "documents" if documents >= FEWEST_DOCUMENTS else "rows"
    for verdict in sorted(smaller, key=lambda verdict: verdict.constraint):
        needed = rows_to_promise(session.target, verdict, rows)
        if needed is not None and rows < needed <= _MOST_ROWS * rows:
            return MoreRows(needed, verdict.constraint, unit)
    return None


def _quality_test(session: Session) -> QualityTest:
    """Returns the test of the session's target."""
    samples, backend = session.samples, session.unit_costs.latency.backend
    assert session.target is not None
    assert samples.judged_scorer is not None
    pruned_scorer = samples.smaller_vocabulary.judged_scorer if samples.smaller_vocabulary else None
    return QualityTest(session.target, samples.judged_scorer, session.model, backend, pruned_scorer)


def _independent_samples(session: Session) -> int:
    """Returns the number of independent samples that the target is tested on."""
    return session.samples.judged_scorer.num_independent if session.samples.judged_scorer else 0


def _effective_samples(session: Session) -> int:
    """Returns the number of independent samples that have the tested ones' noise, to predict a verdict.

    The blocks of a document are alike to a degree that the calibration samples, mostly one block of each, do not show;
    the number is taken to be the geometric mean of blocks and documents.
    """
    judged = session.samples.judged_scorer
    assert judged is not None
    blocks = len(judged.rows) if isinstance(judged, LanguageScorer) else judged.num_independent
    return round(math.sqrt(judged.num_independent * blocks))


def _documents(session: Session) -> int:
    """Returns the number of documents that the tested blocks of tokens are of; 0 if it is not known."""
    judged = session.samples.judged_scorer
    return count_documents(judged.rows) if isinstance(judged, LanguageScorer) else 0


def _describe_samples(session: Session) -> str:
    """Names the samples that the target is tested on, with their documents where they are blocks of tokens."""
    judged, documents = session.samples.judged_scorer, _documents(session)
    if judged is None or not documents:
        return f"{_independent_samples(session):,} samples"
    return f"{len(judged.rows):,} blocks of {documents:,} document{'s' * (documents > 1)}"


def _source(session: Session) -> str:
    """Names the origin of the samples that the target is tested on."""
    judged = session.samples.judged_scorer
    answered = ", answered by the dense model" if judged is not None and were_answered(judged.rows) else ""
    return ("of the judge data" if session.samples.is_judge_data else "set aside from the calibration data") + answered
