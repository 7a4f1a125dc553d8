"""Scores language models: perplexity, and agreement with the dense model's next-token distributions.

Logits are never kept: a model's outputs are computed again, batch by batch, whenever two models are compared.
"""

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.costs.cost_tables import Floats
from trimformer.data.batches import IGNORED
from trimformer.data.next_tokens import compare_tokens, token_losses
from trimformer.data.rows import Rows
from trimformer.data.tasks import LanguageTask, Task
from trimformer.evaluation.agreement import AgreementReport
from trimformer.evaluation.bounds import cluster_means, quantile
from trimformer.evaluation.model_outputs import Outputs, RerunOutputs, unbatch
from trimformer.evaluation.scores import Scorer
from trimformer.models.layer_calls import NEXT_TOKENS, Batch
from trimformer.utils.progress import progress

_LARGEST = 700.0  # exponents beyond overflow float64


class LanguageOutputs(RerunOutputs):
    """Outputs of a language model with its losses; see `RerunOutputs`.

    Attributes:
        losses: loss of each block, [blocks]; their mean is the mean loss per token.
        comparison: outputs of another model, and each block's KL divergence from it and share of kept predictions,
            [blocks, 2]; None before the first comparison.
    """

    def __init__(self, model: PreTrainedModel, batches: Sequence[Batch], name: str) -> None:
        super().__init__(model, batches, name)
        self.losses = torch.empty(0)
        self.comparison: tuple[Outputs, Tensor] | None = None


class LanguageScorer(Scorer):
    """Scorer of blocks of tokens; see `Scorer`. A sample is a block."""

    def __call__(self, model: PreTrainedModel, desc: str = "evaluate") -> tuple[dict[str, float], Outputs]:
        """Returns the model's perplexity with half its 95 % interval, and its outputs as `LanguageOutputs`."""
        outputs = LanguageOutputs(model, self.batches, self.name)
        sums = [token_losses(outputs[i], batch) for i, batch in enumerate(progress(self.batches, desc))]
        outputs.losses = self._per_token(sums)
        perplexity = _exp(float(outputs.losses.mean()))
        half = self._half_interval(outputs.losses)
        return {"perplexity": perplexity, **({} if half is None else {"perplexity_ci95": perplexity * half})}, outputs

    @cached_property
    def token_counts(self) -> Tensor:
        """Number of counted tokens of each block, [blocks] in float64."""
        counts = [sum(token != IGNORED for token in sample[NEXT_TOKENS]) for sample in self.features]
        return torch.tensor(counts, dtype=torch.float64)

    def _per_token(self, sums: Sequence[Tensor]) -> Tensor:
        """Divides sums per block by the mean number of counted tokens; takes one tensor [blocks, ...] per batch."""
        return torch.stack(unbatch(sums, self.batches)).double() / self.token_counts.mean()

    def independent_values(self, values: Tensor) -> Floats:
        """Returns one independent value per document, or per block of few documents; their mean is the mean per token.

        The mean over tokens is a ratio of two sums, so a block deviates by its sum less its tokens times the mean. The
        values themselves would count the lengths of conversations as noise.

        Args:
            values: sums per block, divided by the mean number of counted tokens, [blocks].
        """
        without_lengths = values + values.mean() * (1 - self.token_counts / self.token_counts.mean())
        return cluster_means(without_lengths.numpy(), self.clusters)

    def _half_interval(self, values: Tensor) -> float | None:
        """Returns half the 95 % interval of the mean of such values; None for a single one."""
        independent = self.independent_values(values)
        if len(independent) < 2:
            return None
        error = float(independent.std(ddof=1)) / math.sqrt(len(independent))
        return quantile(0.025, len(independent) - 1) * error

    def _compare(self, outputs: Outputs, references: Outputs) -> Tensor:
        """Returns each block's KL divergence and share of kept predictions, [blocks, 2]."""
        assert isinstance(outputs, LanguageOutputs)
        if outputs.comparison is None or outputs.comparison[0] is not references:
            sums = [
                compare_tokens(outputs[i], references[i], batch)
                for i, batch in enumerate(progress(self.batches, "compare"))
            ]
            outputs.comparison = references, self._per_token(sums)
        return outputs.comparison[1]

    def divergences(self, outputs: Outputs, references: Outputs) -> Tensor:
        """Returns each block's KL divergence, [blocks]; their mean is the mean per token."""
        return self._compare(outputs, references)[:, 0]

    def agreement(self, outputs: Outputs, references: Outputs) -> AgreementReport:
        """Returns the share of positions at which both models find the same next token most likely."""
        kept = float(self._compare(outputs, references)[:, 1].mean())
        return AgreementReport("tokens", int(self.token_counts.sum()), kept, None, None, [])

    def loss_changes(self, outputs: Outputs, references: Outputs) -> Tensor:
        """Returns the change of each block's loss, [blocks]; exp(mean) is the ratio of the perplexities."""
        assert isinstance(outputs, LanguageOutputs)
        assert isinstance(references, LanguageOutputs)
        return outputs.losses - references.losses

    def change_interval(self, outputs: Outputs, references: Outputs) -> float | None:
        """Returns half the 95 % interval of the perplexity's change, from the paired difference of the losses."""
        assert isinstance(outputs, LanguageOutputs)
        half = self._half_interval(self.loss_changes(outputs, references))
        return None if half is None else _exp(float(outputs.losses.mean())) * half


def make_scorer(
    name: str, rows: Rows, task: Task, model: PreTrainedModel, processor: object, batch_size: int = 32
) -> Scorer:
    """Makes the scorer of a task; see `Scorer` for the arguments."""
    kind = LanguageScorer if isinstance(task, LanguageTask) else Scorer
    return kind(name, rows, task, model, processor, batch_size)


def _exp(loss: float) -> float:
    return math.exp(min(loss, _LARGEST))
