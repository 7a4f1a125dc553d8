"""Whether a pruned model keeps a promise of quality, on samples that chose neither units nor the final score."""

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
    """What was seen of one model.

    Attributes:
        constraint: that it was pruned to.
        measured: its drop in points, or its divergence.
        bound: below which it is, with the confidence of the target.
        keeps: whether the bound is within what is allowed.
    """

    constraint: float
    measured: float
    bound: float
    keeps: bool


class QualityTest:
    """Holds models against a target, on one set of samples.

    The drop is a paired difference: both models' scores over the same samples. Its standard error comes of leaving out
    a fiftieth of the samples in turn (the delete-group jackknife), which serves every score, means or not; Wilson's
    shift is added, so that a model which changes few samples, or none, is not believed to be safer than they can tell.

    Args:
        target: what is to be kept.
        scorer: of the samples.
        dense: the model to compare with.
        backend: what serves the model; of ONNX the exported file is judged.
        retold: the samples by the tokenizer that pruned models will have, where tokens are dropped.

    Raises:
        TrimformerError: there are too few samples, or no labels where they are needed.
    """

    def __init__(
        self,
        target: QualityTarget,
        scorer: Scorer,
        dense: PreTrainedModel,
        backend: Backend = "eager",
        retold: Scorer | None = None,
    ) -> None:
        self.target, self.samples, self._backend = target, len(scorer.rows), backend
        self._scorer, self._retold = scorer, retold or scorer
        check_test_samples(target, scorer)
        self._references = scorer(dense, "judge dense")[1]
        self.metric = scorer.task.metric
        self._dense = self._scores(scorer, self._references) if target.kind == "drop" else np.zeros(1)

    def __call__(self, model: PreTrainedModel, constraint: float, *, as_served: bool = True) -> Verdict:
        """Judges a model.

        Args:
            model: pruned to this constraint.
            constraint: for the verdict.
            as_served: judge the exported file, where the backend is one of ONNX.
        """
        outputs = self._outputs(model, as_served and self._backend.startswith("onnx"))
        if self.target.kind == "divergence":
            apart = self._retold.divergences(outputs, self._references).numpy()
            measured, error = jackknife(leave_out(lambda kept: float(apart[kept].mean()), len(apart)))
            bound = measured + _Z * error
        else:
            measured, error = jackknife(self._dense - self._scores(self._retold, outputs))
            bound = 100 * upper_bound(measured, error, self.samples)
            measured *= 100
        return Verdict(constraint, measured, bound, bound <= self.target.most)

    def _outputs(self, model: PreTrainedModel, as_served: bool) -> list[Tensor]:
        if not as_served:
            return self._retold(model, "judge")[1]
        int8 = self._backend == "onnx-int8"
        with temporary_directory() as folder:
            files = folder / "onnx"
            write_served(model, files, self._retold, int8=int8)
            plain = on_cpu(model)
            with served(plain, open_session(files / (QUANTIZED if int8 else MODEL))):
                return self._retold(plain, "judge")[1]

    def _scores(self, scorer: Scorer, outputs: Sequence[Tensor]) -> Floats:
        """[1 + groups], as fractions: of all rows, and without each group of them."""
        samples = unbatch(outputs, scorer.batches)
        return leave_out(lambda kept: scorer.score_some(samples, kept)[str(self.metric)], self.samples)


def fewest(target: QualityTarget) -> int:
    """How many samples it takes at least: of fewer, even a model that changes none is not known to keep it."""
    return max(2 * GROUPS, math.ceil(100 * _Z**2 / target.most) if target.kind == "drop" else 0)


def check_test_samples(target: QualityTarget, scorer: Scorer) -> None:
    """Raises:
    TrimformerError: nothing can be promised on so few samples, or they lack the labels that it takes.
    """
    samples = len(scorer.rows)
    if target.kind == "drop" and not scorer.is_labelled:
        raise TrimformerError("max_drop needs labels, and the data have none; give max_divergence instead")
    if samples < fewest(target):
        asked = f"a drop of {target.most:g} points" if target.kind == "drop" else "a divergence"
        raise TrimformerError(
            f"{samples} samples are set aside to judge by, too few to promise {asked} with {100 * CONFIDENCE:.0f} % "
            f"confidence: it takes {fewest(target)} at least; give more rows"
        )


def leave_out(estimate: Callable[[Sequence[int]], float], samples: int, groups: int = GROUPS) -> Floats:
    """[1 + groups]: an estimate over all samples, and without each group of them in turn.

    Args:
        estimate: of the samples with these numbers.
        samples: how many there are, in random order.
        groups: how many parts they are divided into.
    """
    order = np.arange(samples)
    kept = [order, *(order[order % groups != group] for group in range(groups))]
    return np.array([estimate(each.tolist()) for each in kept])


def jackknife(estimates: Floats) -> tuple[float, float]:
    """The estimate over all samples and its standard error.

    Args:
        estimates: see `leave_out`; of a difference, that of both sides.
    """
    without = estimates[1:]
    share = (len(without) - 1) / len(without)
    return float(estimates[0]), math.sqrt(share * float(np.square(without - without.mean()).sum()))


def upper_bound(difference: float, error: float, samples: int) -> float:
    """What a mean difference of scores in [0, 1] is below, with `CONFIDENCE`; Wilson's interval at one end.

    Args:
        difference: of the means, seen on the samples.
        error: its standard error.
        samples: how many.
    """
    return difference + _Z**2 / (2 * samples) + _Z * math.sqrt(error**2 + _Z**2 / (4 * samples**2))
