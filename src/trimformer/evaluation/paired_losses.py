"""What a model loses against the dense one, sample by sample, in the unit of a quality target."""

import math
from functools import cached_property

import numpy as np
from transformers import PreTrainedModel

from trimformer.costs.cost_tables import Floats
from trimformer.evaluation.bounds import cluster_means, jackknife, leave_out
from trimformer.evaluation.language import LanguageScorer
from trimformer.evaluation.model_outputs import Outputs, unbatch
from trimformer.evaluation.scores import Scorer
from trimformer.options.quality_target import QualityTarget

_PROBED_ROWS = 8  # rows, besides one per label, whose outputs are inverted to see how much one row can matter
_PROBED_LABELS = 100


class PairedLosses:
    """Losses of models against the dense one on the same samples.

    A drop is a paired difference of both models' scores. Its standard error is estimated by the delete-group jackknife
    over 50 groups, which works for every score, means or not. Rows that share a text count as one sample.

    Args:
        target: the quality target, which gives the kind of loss.
        scorer: scorer of the samples.
        dense: the dense model.
        pruned_scorer: scorer with the pruned models' tokenizer, if tokens are dropped.
    """

    def __init__(
        self, target: QualityTarget, scorer: Scorer, dense: PreTrainedModel, pruned_scorer: Scorer | None = None
    ) -> None:
        self._kind, self._scorer = target.kind, scorer
        self.pruned_scorer = pruned_scorer or scorer
        self._references = scorer(dense, "judge dense")[1]
        self._metric = str(scorer.task.metric)
        self._dense = np.zeros(1)
        if target.kind == "drop" and scorer.is_labelled:
            self._dense = self._scores(scorer, self._references)

    @property
    def dense_score(self) -> float:
        """The dense model's score as a fraction; 0 where no drop of it is measured."""
        return float(self._dense[0])

    def drop(self, outputs: Outputs) -> tuple[float, float]:
        """Returns the drop of a model's score and its standard error, as fractions."""
        return jackknife(self._dense - self._scores(self.pruned_scorer, outputs))

    def divergences(self, outputs: Outputs) -> Floats:
        """Returns one divergence per cluster of rows."""
        scorer = self.pruned_scorer
        values = scorer.divergences(outputs, self._references)
        if isinstance(scorer, LanguageScorer):
            return scorer.independent_values(values)
        return cluster_means(values.numpy(), [self._scorer.clusters[row] for row in scorer.divergence_rows])

    def values(self, outputs: Outputs) -> Floats:
        """Returns values whose mean is bounded, one per cluster: divergences, or for a perplexity loss changes."""
        if self._kind == "divergence":
            return self.divergences(outputs)
        assert isinstance(self._scorer, LanguageScorer)
        return self._scorer.independent_values(self._scorer.loss_changes(outputs, self._references))

    def in_target_unit(self, *means: float) -> tuple[float, ...]:
        """Returns means of `values` as the target counts them: changes of the loss as ratios of perplexities."""
        return tuple(map(math.exp, means)) if self._kind == "perplexity" else means

    def _scores(self, scorer: Scorer, outputs: Outputs) -> Floats:
        """Returns scores [1 + groups] as fractions: over all rows, and without each group."""
        samples = unbatch(outputs, scorer.batches)
        score, scored = scorer.metric_of_rows(samples, self._metric), scorer.scored_rows
        clusters = [self._scorer.clusters[row] for row in scored]
        return leave_out(lambda kept: score([scored[i] for i in kept]), clusters)

    @cached_property
    def largest_change(self) -> float:
        """The most that the score falls if the outputs of one cluster are inverted, as a fraction.

        It is large for rare classes in a macro-averaged score, of which few rows tell little. For other scores it is
        the share of the largest cluster in all rows.
        """
        scorer, rows = self._scorer, range(len(self._scorer.clusters))
        sizes = np.bincount([scorer.clusters[row] for row in scorer.scored_rows])
        share = float(sizes.max()) / len(scorer.scored_rows)
        problem = scorer.task.problem
        if problem in ("span", "regression", "embedding") or (self._metric == "accuracy" and problem != "tokens"):
            return share  # means over rows, and correlations, which have no rare classes
        samples = unbatch(self._references, scorer.batches)
        largest = share
        for probed in self._probed_rows():
            cluster = {row for row in rows if scorer.clusters[row] == scorer.clusters[probed]}
            changed = [
                -sample if row in cluster else sample for sample, row in zip(samples, scorer.feature_rows, strict=True)
            ]
            score = scorer.score_some(changed, rows)[self._metric]
            largest = max(largest, self.dense_score - score)
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
