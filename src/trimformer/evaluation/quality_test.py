"""Tests whether a pruned model meets a quality target, on samples used for nothing else."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from transformers import PreTrainedModel

from trimformer.costs.cost_tables import Floats
from trimformer.errors import TrimformerError
from trimformer.evaluation.bounds import (
    CONFIDENCE,
    GROUPS,
    cluster_means,
    drop_bound,
    jackknife,
    leave_out,
    mean_bound,
    quantile,
    unseen,
)
from trimformer.evaluation.language import LanguageScorer
from trimformer.evaluation.model_outputs import Outputs, unbatch
from trimformer.evaluation.onnx_files import on_cpu, write_onnx_files
from trimformer.evaluation.scores import DO_LABELS_FIT, Scorer
from trimformer.export.onnx.export import MODEL, QUANTIZED
from trimformer.export.onnx.serve import open_session, running_in
from trimformer.options.choices import AnyBackend
from trimformer.options.quality_target import QualityTarget
from trimformer.utils.temp_dirs import temporary_directory

_PROBED_ROWS = 8  # rows, besides one per label, whose outputs are inverted to see how much one row can matter
_PROBED_LABELS = 100
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

    The drop is a paired difference of both models' scores on the same samples. Its standard error is estimated by the
    delete-group jackknife over 50 groups, which works for every score, means or not. `trimformer.evaluation.bounds`
    adds what the samples may not have shown. Rows that share a text count as one sample.

    Args:
        target: the quality target.
        scorer: scorer of the test samples.
        dense: the dense model.
        backend: backend that serves the model; for ONNX the exported file is tested.
        pruned_scorer: scorer with the pruned models' tokenizer, if tokens are dropped.

    Raises:
        TrimformerError: there are too few samples, or the target needs labels and there are none.
    """

    def __init__(
        self,
        target: QualityTarget,
        scorer: Scorer,
        dense: PreTrainedModel,
        backend: AnyBackend = "eager",
        pruned_scorer: Scorer | None = None,
    ) -> None:
        self.target, self._backend = target, backend
        self._scorer, self._pruned_scorer = scorer, pruned_scorer or scorer
        self._check()
        self.samples = scorer.num_independent
        self._references = scorer(dense, "judge dense")[1]
        self.metric = scorer.task.metric
        self._dense = np.zeros(1)
        if target.kind == "drop" and scorer.is_labelled:
            self._dense = self._scores(scorer, self._references)
            self._check_above_guessing()

    def _check(self) -> None:
        """Checks that the samples can test the target; see `check_test_samples`."""
        check_test_samples(self.target, self._scorer)

    def _check_above_guessing(self) -> None:
        """Checks that the dense model's score can drop.

        Raises:
            TrimformerError: it is no better than guessing: the labels do not fit the model, or it does not know them.
        """
        dense = float(self._dense[0])
        if self._scorer.is_guessing({str(self.metric): dense}):
            raise TrimformerError(
                f"the dense model's {self.metric} is {100 * dense:.1f}, no better than guessing, so a drop says "
                f"nothing; {DO_LABELS_FIT} If the model is to stay as it is, give max_divergence"
            )

    def __call__(self, model: PreTrainedModel, constraint: float, *, alpha: float = 1 - CONFIDENCE) -> Verdict:
        """Tests a model, as the exported file if the backend is an ONNX one.

        Args:
            model: the pruned model.
            constraint: constraint it was pruned to, for the verdict.
            alpha: probability with which the bound may be too low.
        """
        outputs = self._outputs(model)
        if self.target.kind != "drop":
            values = self._values(outputs)
            measured, bound = self._in_target_unit(float(values.mean()), mean_bound(values, alpha))
        else:
            drop, error = jackknife(self._dense - self._scores(self._pruned_scorer, outputs))
            measured, bound = 100 * drop, 100 * drop_bound(drop, error, self._largest_change, alpha)
        return Verdict(constraint, measured, bound, bound <= self.target.most)

    def _outputs(self, model: PreTrainedModel) -> Outputs:
        if not self._backend.startswith("onnx"):
            return self._pruned_scorer(model, "judge")[1]
        int8 = self._backend == "onnx-int8"
        with temporary_directory() as folder:
            files = folder / "onnx"
            write_onnx_files(model, files, self._pruned_scorer, int8=int8)
            plain = on_cpu(model)
            with running_in(plain, open_session(files / (QUANTIZED if int8 else MODEL))):
                return self._pruned_scorer(plain, "judge")[1]

    def _divergences(self, outputs: Outputs) -> Floats:
        """Returns one divergence per cluster of rows."""
        scorer = self._pruned_scorer
        values = scorer.divergences(outputs, self._references)
        if isinstance(scorer, LanguageScorer):
            return scorer.independent_values(values)
        return cluster_means(values.numpy(), [self._scorer.clusters[row] for row in scorer.divergence_rows])

    def _values(self, outputs: Outputs) -> Floats:
        """Returns values whose mean is bounded, one per cluster: divergences, or for a perplexity loss changes."""
        if self.target.kind == "divergence":
            return self._divergences(outputs)
        assert isinstance(self._scorer, LanguageScorer)
        return self._scorer.independent_values(self._scorer.loss_changes(outputs, self._references))

    def _in_target_unit(self, *means: float) -> tuple[float, ...]:
        """Returns means of `_values` as the target counts them: changes of the loss as ratios of perplexities."""
        return tuple(map(math.exp, means)) if self.target.kind == "perplexity" else means

    def _scores(self, scorer: Scorer, outputs: Outputs) -> Floats:
        """Returns scores [1 + groups] as fractions: over all rows, and without each group."""
        samples = unbatch(outputs, scorer.batches)
        metric, scored = scorer.metric_of_rows(samples, str(self.metric)), scorer.scored_rows
        clusters = [self._scorer.clusters[row] for row in scored]
        return leave_out(lambda kept: metric([scored[i] for i in kept]), clusters)

    @cached_property
    def _largest_change(self) -> float:
        """The most that the score falls if the outputs of one cluster are inverted, as a fraction.

        It is large for rare classes in a macro-averaged score, of which few rows tell little. For other scores it is
        the share of the largest cluster in all rows.
        """
        scorer, rows = self._scorer, range(len(self._scorer.clusters))
        sizes = np.bincount([self._scorer.clusters[row] for row in scorer.scored_rows])
        share = float(sizes.max()) / len(scorer.scored_rows)
        problem = scorer.task.problem
        if problem in ("span", "regression", "embedding") or (self.metric == "accuracy" and problem != "tokens"):
            return share  # means over rows, and correlations, which have no rare classes
        samples = unbatch(self._references, scorer.batches)
        largest = share
        for probed in self._probed_rows():
            cluster = {row for row in rows if self._scorer.clusters[row] == self._scorer.clusters[probed]}
            changed = [
                -sample if row in cluster else sample for sample, row in zip(samples, scorer.feature_rows, strict=True)
            ]
            score = scorer.score_some(changed, rows)[str(self.metric)]
            largest = max(largest, float(self._dense[0]) - score)
        return largest

    def _probed_rows(self) -> list[int]:
        """Returns the first row with each label, and some others."""
        firsts: dict[float, int] = {}
        for feature, row in zip(self._scorer.features, self._scorer.feature_rows, strict=True):
            labels = np.atleast_1d(np.asarray(feature.get("labels", ())))
            present = labels.nonzero()[0] if self._scorer.task.problem == "multi_label" else np.unique(labels)
            for label in present.tolist():
                firsts.setdefault(label, row)
        others = np.linspace(0, len(self._scorer.rows) - 1, _PROBED_ROWS, dtype=int).tolist()
        return sorted({*list(firsts.values())[:_PROBED_LABELS], *others})


class PredictedTest(QualityTest):
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
        super().__init__(target, scorer, dense, pruned_scorer=pruned_scorer)
        self._test_samples, self._alpha = test_samples, alpha

    def _check(self) -> None:
        """Accepts any samples."""

    def _check_above_guessing(self) -> None:
        """Accepts any score, of few samples."""

    def __call__(self, model: PreTrainedModel, constraint: float, **_: object) -> Verdict:
        """Predicts the verdict on a model at a constraint."""
        outputs, share = self._outputs(model), self.samples / self._test_samples
        if self.target.kind != "drop":
            values = self._values(outputs)
            measured, error = float(values.mean()), float(values.std()) / math.sqrt(self._test_samples)
            bound = measured + (quantile(self._alpha) + PREDICTION_MARGIN) * error
            bound += unseen(values, self._test_samples, self._alpha)
            measured, bound = self._in_target_unit(measured, bound)
        elif self._scorer.is_labelled:
            drop, error = jackknife(self._dense - self._scores(self._scorer, outputs))
            measured, bound = self._drop(max(drop, 0.0), error * share**0.5, self._largest_change * share)
        else:
            changed = float(np.sqrt(self._divergences(outputs).clip(0) / 2).mean())  # Pinsker's inequality
            measured, bound = self._drop(0.0, (changed / self._test_samples) ** 0.5, 1 / self._test_samples)
        return Verdict(constraint, measured, bound, bound <= self.target.most)

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
