"""Tests whether a pruned model meets a quality target, on samples used for nothing else."""

import math
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError
from trimformer.evaluation.bounds import CONFIDENCE, GROUPS, drop_bound, mean_bound, quantile, unseen
from trimformer.evaluation.language import LanguageScorer
from trimformer.evaluation.model_outputs import Outputs
from trimformer.evaluation.onnx_files import on_cpu, write_onnx_files
from trimformer.evaluation.paired_losses import PairedLosses
from trimformer.evaluation.scores import DO_LABELS_FIT, Scorer
from trimformer.export.onnx.export import MODEL, QUANTIZED
from trimformer.export.onnx.serve import open_session, running_in
from trimformer.options.choices import AnyBackend
from trimformer.options.quality_target import QualityTarget
from trimformer.utils.temp_dirs import temporary_directory

PREDICTION_MARGIN = 1.5  # standard errors by which a predicted bound exceeds the expected one, so that most tests pass


@dataclass(frozen=True)
class Verdict:
    """Test result of one model.

    Attributes:
        constraint: constraint the model was pruned to.
        measured: measured drop in points, divergence, or ratio of perplexities.
        bound: upper confidence bound of the measured value.
        keeps: whether the bound meets the target.
    """

    constraint: float
    measured: float
    bound: float
    keeps: bool


class QualityTest:
    """Tests models against a target on one set of samples.

    `trimformer.evaluation.bounds` adds to the measured loss what the samples may not have shown.

    Args:
        target: the quality target.
        scorer: scorer of the test samples.
        dense: the dense model.
        backend: backend that serves the model; for ONNX the exported file is tested.
        pruned_scorer: scorer with the pruned models' tokenizer, if tokens are dropped.

    Raises:
        TrimformerError: there are too few samples, the target needs labels and there are none, or the dense model's
            score cannot drop.
    """

    def __init__(
        self,
        target: QualityTarget,
        scorer: Scorer,
        dense: PreTrainedModel,
        backend: AnyBackend = "eager",
        pruned_scorer: Scorer | None = None,
    ) -> None:
        check_test_samples(target, scorer)
        self._target, self._backend = target, backend
        self._losses = PairedLosses(target, scorer, dense, pruned_scorer)
        metric, score = scorer.task.metric, self._losses.dense_score
        if target.kind == "drop" and scorer.is_guessing({str(metric): score}):
            raise TrimformerError(
                f"the dense model's {metric} is {100 * score:.1f}, no better than guessing, so a drop says "
                f"nothing; {DO_LABELS_FIT} If the model is to stay as it is, give max_divergence"
            )

    def __call__(self, model: PreTrainedModel, constraint: float, *, alpha: float = 1 - CONFIDENCE) -> Verdict:
        """Tests a model, as the exported file if the backend is an ONNX one.

        Args:
            model: the pruned model.
            constraint: constraint it was pruned to, for the verdict.
            alpha: probability with which the bound may be too low.
        """
        outputs, losses = self._outputs(model), self._losses
        if self._target.kind != "drop":
            values = losses.values(outputs)
            measured, bound = losses.in_target_unit(float(values.mean()), mean_bound(values, alpha))
        else:
            drop, error = losses.drop(outputs)
            measured, bound = 100 * drop, 100 * drop_bound(drop, error, losses.largest_change, alpha)
        return Verdict(constraint, measured, bound, bound <= self._target.most)

    def _outputs(self, model: PreTrainedModel) -> Outputs:
        scorer = self._losses.pruned_scorer
        if not self._backend.startswith("onnx"):
            return scorer(model, "judge")[1]
        int8 = self._backend == "onnx-int8"
        with temporary_directory() as folder:
            files = folder / "onnx"
            write_onnx_files(model, files, scorer, int8=int8)
            plain = on_cpu(model)
            with running_in(plain, open_session(files / (QUANTIZED if int8 else MODEL))):
                return scorer(plain, "judge")[1]


class PredictedTest:
    """Predicts the verdicts of a test from samples that the test does not use.

    Without labels, a drop is predicted from the divergence, which limits the share of changed predictions. A
    prediction decides only which model is tested.

    Args:
        target: the quality target.
        scorer: scorer of any number of samples.
        dense: the dense model.
        test_samples: number of samples of the test.
        alpha: allowed probability of error of the test.
        pruned_scorer: scorer with the tokens that are left, if a language model loses some.
    """

    def __init__(
        self,
        target: QualityTarget,
        scorer: Scorer,
        dense: PreTrainedModel,
        test_samples: int,
        alpha: float,
        pruned_scorer: Scorer | None = None,
    ) -> None:
        self._target, self._is_labelled, self._samples = target, scorer.is_labelled, scorer.num_independent
        self._test_samples, self._alpha = test_samples, alpha
        self._losses = PairedLosses(target, scorer, dense, pruned_scorer)

    def __call__(self, model: PreTrainedModel, constraint: float) -> Verdict:
        """Predicts the verdict on a model at a constraint."""
        losses, share = self._losses, self._samples / self._test_samples
        outputs = losses.pruned_scorer(model, "judge")[1]
        if self._target.kind != "drop":
            values = losses.values(outputs)
            measured, error = float(values.mean()), float(values.std()) / math.sqrt(self._test_samples)
            bound = measured + (quantile(self._alpha) + PREDICTION_MARGIN) * error
            bound += unseen(values, self._test_samples, self._alpha)
            measured, bound = losses.in_target_unit(measured, bound)
        elif self._is_labelled:
            drop, error = losses.drop(outputs)
            measured, bound = self._drop(max(drop, 0.0), error * share**0.5, losses.largest_change * share)
        else:
            changed = float(np.sqrt(losses.divergences(outputs).clip(0) / 2).mean())  # Pinsker's inequality
            measured, bound = self._drop(0.0, (changed / self._test_samples) ** 0.5, 1 / self._test_samples)
        return Verdict(constraint, measured, bound, bound <= self._target.most)

    def _drop(self, drop: float, error: float, largest_change: float) -> tuple[float, float]:
        """Returns a predicted drop and its bound, in points."""
        return 100 * drop, 100 * (drop_bound(drop, error, largest_change, self._alpha) + PREDICTION_MARGIN * error)


def rows_to_promise(target: QualityTarget, verdict: Verdict, rows: int) -> int | None:
    """Returns about how many test rows would promise the target for a model, to two digits; None if no number would.

    Args:
        target: the quality target.
        verdict: verdict on the model; the width of its bound falls with the root of the number of rows.
        rows: number of rows of the verdict.
    """
    slack = target.most - verdict.measured
    if slack <= 0 or verdict.keeps:
        return None
    needed = rows * ((verdict.bound - verdict.measured) / slack) ** 2
    unit = 10 ** max(0, math.floor(math.log10(needed)) - 1)
    return math.ceil(needed / unit) * unit


def min_samples(target: QualityTarget) -> int:
    """Returns the smallest number of samples with which a model that changes no prediction passes the test."""
    return max(2 * GROUPS, math.ceil(100 * quantile(1 - CONFIDENCE) ** 2 / target.most) if target.kind == "drop" else 0)


def check_test_samples(target: QualityTarget, scorer: Scorer) -> None:
    """Checks that the samples can test the target.

    Raises:
        TrimformerError: there are too few samples, or the target needs labels and there are none.
    """
    if target.kind == "perplexity" and not isinstance(scorer, LanguageScorer):
        raise TrimformerError("max_perplexity is for language models; give max_drop or max_divergence instead")
    if target.kind == "drop" and isinstance(scorer, LanguageScorer):
        raise TrimformerError("a language model has no score in points; give max_perplexity or max_divergence instead")
    if target.kind == "drop" and not scorer.is_labelled:
        raise TrimformerError("max_drop needs labels, and the data have none; give max_divergence instead")
    rows = len(scorer.scored_rows)
    samples = len(scorer.distinct_samples) if isinstance(scorer, LanguageScorer) else scorer.num_independent
    if samples < min_samples(target):
        promise = f"a drop of {target.most:g} points" if target.kind == "drop" else f"a {target.kind}"
        texts = "" if samples == rows else f" of {rows} rows, those that share a text counted once,"
        raise TrimformerError(
            f"{samples} test samples{texts} are too few to promise {promise} with {100 * CONFIDENCE:.0f} % confidence; "
            f"give at least {min_samples(target)}"
        )
