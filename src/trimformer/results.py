"""The typed result of a pruning run: the pruned model and every figure of the run."""

from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.evaluation.agreement import AgreementReport
from trimformer.evaluation.changed_predictions import ChangedReport
from trimformer.evaluation.gguf_files import ComparedGguf
from trimformer.evaluation.onnx_files import ComparedOnnx
from trimformer.evaluation.scores import Scores
from trimformer.models import Kind
from trimformer.models.masking import units_left
from trimformer.options.methods import AnyMethod
from trimformer.polish.result import PolishReport
from trimformer.refit.result import Refit
from trimformer.reporting.score_table import format_table
from trimformer.reports import (
    MISSED_LATENCY,
    BudgetReport,
    CostReport,
    CoverageReport,
    LatencyReport,
    MachineReport,
    QualityTargetReport,
    SampleReport,
    Size,
    TaskReport,
    VocabularyReport,
)


@dataclass(repr=False)
class PruningResult:
    """A pruned model and the figures of its run; `str()` gives the score table.

    Attributes:
        model: the pruned model, in evaluation mode.
        masks: one mask [units] per sublayer of the dense model: 0 for a removed unit, else its scale.
        task: task of the model.
        method: how units were selected and refitted.
        budget: the budget and the cost of the pruned model.
        samples: calibration and evaluation samples.
        cost: cost of the run.
        machine: machine of the run.
        refits: refit of each sublayer; empty if the method has no refit.
        predicted: loss increase that each sublayer's curve predicts; empty if the method has no curves.
        kinds: kind of each sublayer, "attention" or "ffn".
        scores: scores of both models; in a distributed run only the main process has these and what follows.
        sizes: of the "dense" and the "pruned" model.
        latency: of both models.
        serving: ONNX files of both models; empty if none were written.
        gguf: GGUF files of both models; empty if none were written.
        gguf_notes: what a user of the pruned model's files has to know.
        processor: tokenizer or processor of the pruned model.
        vocabulary: reduction of the vocabulary; None if it was not reduced.
        target: quality target and its evidence; None without a target.
        polish: result of the polish; None without a polish.
        coverage: coverage of the model's abilities by the samples; None if it was not measured.
        queries: per sublayer, the query heads that every unit keeps; None where it keeps all. May be empty.
        agreement: predictions that stay the same; None without classes or without scores.
        change_ci95: half the 95 % interval of each score's change, by name, from the paired difference.
    """

    model: PreTrainedModel
    masks: list[Tensor]
    task: TaskReport
    method: AnyMethod
    budget: BudgetReport
    samples: SampleReport
    cost: CostReport
    machine: MachineReport
    refits: list[Refit] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    scores: Scores | None = None
    sizes: dict[str, Size] | None = None
    latency: LatencyReport | None = None
    serving: list[ComparedOnnx] = field(default_factory=list)
    gguf: list[ComparedGguf] = field(default_factory=list)
    gguf_notes: list[str] = field(default_factory=list)
    processor: Any = None
    vocabulary: VocabularyReport | None = None
    target: QualityTargetReport | None = None
    polish: PolishReport | None = None
    coverage: CoverageReport | None = None
    agreement: AgreementReport | None = None
    change_ci95: dict[str, float] = field(default_factory=dict)
    queries: list[int | None] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        """What the figures do not cover, and a latency that is missed, a sentence each."""
        missed = [MISSED_LATENCY] if self.budget.missed else []
        return [*(self.coverage.warnings if self.coverage else []), *missed]

    def __str__(self) -> str:
        return format_table(self)

    __repr__ = __str__

    @property
    def changed(self) -> ChangedReport | None:
        """Samples whose prediction changed; None without scores or without predictions of single samples."""
        return self.scores.changed if self.scores else None

    def figures(self) -> dict[str, Any]:
        """Returns all figures as plain values for JSON; docs/results.md explains the keys."""
        names = (
            "task", "method", "budget", "target", "samples", "scores", "sizes", "vocabulary", "latency", "serving",
            "gguf", "gguf_notes", "polish", "cost", "machine", "changed", "coverage", "agreement", "change_ci95",
        )  # fmt: skip
        figures = {name: _plain(getattr(self, name)) for name in names}
        if figures["scores"]:
            del figures["scores"]["changed"]  # has a key of its own
        return {
            **figures,
            "sublayers": [self._sublayer(i, units) for i, units in enumerate(units_left(self.masks))],
        }

    def _sublayer(self, i: int, units: int) -> dict[str, Any]:
        """Returns the figures of one sublayer."""
        return {
            "units": units,
            "of": len(self.masks[i]),
            "queries_per_head": self.queries[i] if self.queries else None,
            "heads": self.masks[i].nonzero().flatten().tolist() if self.kinds[i : i + 1] == ["attention"] else None,
            "predicted_loss": self.predicted[i] if self.predicted else None,
            "refit": asdict(self.refits[i]) if self.refits else None,
        }


def _plain(value: Any) -> Any:
    """Converts reports to dictionaries, also inside lists and dictionaries."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
