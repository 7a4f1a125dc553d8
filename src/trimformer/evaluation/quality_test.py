"""Tests whether a pruned model meets a quality target, on samples used for nothing else."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.costs.backends import Backend
from trimformer.costs.cost_tables import Floats
from trimformer.errors import TrimformerError
from trimformer.evaluation.scores import Scorer, unbatch
from trimformer.evaluation.serving import on_cpu, write_served
from trimformer.export.onnx.export import MODEL, QUANTIZED
from trimformer.export.onnx.serve import open_session, served
from trimformer.options.quality_target import QualityTarget
from trimformer.utils.temp_dirs import temporary_directory

CONFIDENCE = 0.95
GROUPS = 50
_Z = float(t.ppf(CONFIDENCE, GROUPS - 1))


@dataclass(frozen=True)
class Verdict:
    """Test result of one model.

    Attributes:
        constraint: constraint the model was pruned to.
        measured: measured drop in points, or divergence.
        bound: upper confidence bound of the drop or divergence.
        keeps: whether the bound meets the target.
    """

    constraint: float
    measured: float
    bound: float
    keeps: bool


class QualityTest:
    """Tests models against a target on one set of samples.

    The drop is a paired difference of both models' scores on the same samples. Its standard error is estimated by the
    delete-group jackknife over 50 groups, which works for every score, means or not. Wilson's correction widens the
    bound for models that change few predictions or none.

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
        backend: Backend = "eager",
        pruned_scorer: Scorer | None = None,
    ) -> None:
        self.target, self.samples, self._backend = target, len(scorer.rows), backend
        self._scorer, self._pruned_scorer = scorer, pruned_scorer or scorer
        check_test_samples(target, scorer)
        self._references = scorer(dense, "judge dense")[1]
        self.metric = scorer.task.metric
        self._dense = self._scores(scorer, self._references) if target.kind == "drop" else np.zeros(1)

    def __call__(self, model: PreTrainedModel, constraint: float, *, as_served: bool = True) -> Verdict:
        """Tests a model.

        Args:
            model: the pruned model.
            constraint: constraint it was pruned to, for the verdict.
            as_served: test the exported file if the backend is an ONNX one.
        """
        outputs = self._outputs(model, as_served and self._backend.startswith("onnx"))
        if self.target.kind == "divergence":
            divergences = self._pruned_scorer.divergences(outputs, self._references).numpy()
            measured, error = jackknife(leave_out(lambda kept: float(divergences[kept].mean()), len(divergences)))
            bound = measured + _Z * error
        else:
            measured, error = jackknife(self._dense - self._scores(self._pruned_scorer, outputs))
            bound = 100 * upper_bound(measured, error, self.samples)
            measured *= 100
        return Verdict(constraint, measured, bound, bound <= self.target.most)

    def _outputs(self, model: PreTrainedModel, as_served: bool) -> list[Tensor]:
        if not as_served:
            return self._pruned_scorer(model, "judge")[1]
        int8 = self._backend == "onnx-int8"
        with temporary_directory() as folder:
            files = folder / "onnx"
            write_served(model, files, self._pruned_scorer, int8=int8)
            plain = on_cpu(model)
            with served(plain, open_session(files / (QUANTIZED if int8 else MODEL))):
                return self._pruned_scorer(plain, "judge")[1]

    def _scores(self, scorer: Scorer, outputs: Sequence[Tensor]) -> Floats:
        """Returns scores [1 + groups] as fractions: over all rows, and without each group."""
        samples = unbatch(outputs, scorer.batches)
        return leave_out(lambda kept: scorer.score_some(samples, kept)[str(self.metric)], self.samples)


def min_samples(target: QualityTarget) -> int:
    """Returns the smallest number of samples with which a model that changes no prediction passes the test."""
    return max(2 * GROUPS, math.ceil(100 * _Z**2 / target.most) if target.kind == "drop" else 0)


def check_test_samples(target: QualityTarget, scorer: Scorer) -> None:
    """Checks that the samples can test the target.

    Raises:
        TrimformerError: there are too few samples, or the target needs labels and there are none.
    """
    samples = len(scorer.rows)
    if target.kind == "drop" and not scorer.is_labelled:
        raise TrimformerError("max_drop needs labels, and the data have none; give max_divergence instead")
    if samples < min_samples(target):
        asked = f"a drop of {target.most:g} points" if target.kind == "drop" else "a divergence"
        raise TrimformerError(
            f"{samples} samples are set aside to judge by, too few to promise {asked} with {100 * CONFIDENCE:.0f} % "
            f"confidence: it takes {min_samples(target)} at least; give more rows"
        )


def leave_out(estimate: Callable[[Sequence[int]], float], samples: int, groups: int = GROUPS) -> Floats:
    """Returns an estimate [1 + groups]: over all samples, and without each group in turn.

    Args:
        estimate: function of the indices of samples.
        samples: number of samples, which are in random order.
        groups: number of groups.
    """
    order = np.arange(samples)
    kept = [order, *(order[order % groups != group] for group in range(groups))]
    return np.array([estimate(each.tolist()) for each in kept])


def jackknife(estimates: Floats) -> tuple[float, float]:
    """Returns the estimate over all samples and its delete-group jackknife standard error.

    Args:
        estimates: see `leave_out`; may be a difference of two of its results.
    """
    without = estimates[1:]
    share = (len(without) - 1) / len(without)
    return float(estimates[0]), math.sqrt(share * float(np.square(without - without.mean()).sum()))


def upper_bound(difference: float, error: float, samples: int) -> float:
    """Returns the one-sided upper Wilson bound of a mean difference of scores in [0, 1], at `CONFIDENCE`.

    Args:
        difference: measured difference of the means.
        error: standard error of the difference.
        samples: number of samples.
    """
    return difference + _Z**2 / (2 * samples) + _Z * math.sqrt(error**2 + _Z**2 / (4 * samples**2))
