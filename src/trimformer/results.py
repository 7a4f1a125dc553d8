"""What a pruning run hands back: the model, and every figure of the run, typed."""

from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.costs.cost_tables import Metric
from trimformer.costs.timing import Timing
from trimformer.data.outputs import Problem
from trimformer.evaluation.changed_predictions import ChangedReport
from trimformer.evaluation.quality_test import CONFIDENCE, Verdict
from trimformer.evaluation.scores import Scores
from trimformer.evaluation.serving import Served
from trimformer.models import Kind
from trimformer.models.masking import units_left
from trimformer.options.methods import AnyMethod
from trimformer.options.quality_target import QualityTarget
from trimformer.polish.result import PolishReport
from trimformer.refit.result import Refit


@dataclass(frozen=True)
class TaskReport:
    """What the model is for: the task's name, the kind of output, and the main score (None without labels)."""

    name: str
    problem: Problem
    score: str | None


@dataclass(frozen=True)
class BudgetReport:
    """What was asked for and what is kept.

    Attributes:
        metric: what is counted.
        constraint: share of the dense cost that was allowed.
        kept: share of it that is left, by the same count.
        asked_ms: for a latency, what that is in milliseconds.
        estimated_ms: what the table says of the pruned model.
        corrected: whether units were selected once more, as the first selection was too slow.
        missed: whether the model is slower than asked for nevertheless, by more than the noise.
    """

    metric: Metric
    constraint: float
    kept: float
    asked_ms: float | None = None
    estimated_ms: float | None = None
    corrected: bool = False
    missed: bool = False


@dataclass(frozen=True)
class QualityTargetReport:
    """The quality that was asked for, and how sure it is that the model keeps it.

    Attributes:
        kind: "drop" of the score, in points, or "divergence".
        asked: how much of it was allowed.
        measured: what was seen of the model, on the samples set aside to judge by.
        bound: what it is below, with this confidence.
        confidence: as a fraction.
        samples: it was judged by.
        metric: the score; None of a divergence without labels.
        tried: what was looked at on the way, in that order; all but the last were refitted on fewer samples.
    """

    kind: str
    asked: float
    measured: float
    bound: float
    confidence: float
    samples: int
    metric: str | None
    tried: list[Verdict]

    @classmethod
    def of(cls, target: QualityTarget, tried: list[Verdict], samples: int, metric: str | None) -> "QualityTargetReport":
        """The last of what was tried is the model that is reported."""
        last = tried[-1]
        return cls(target.kind, target.most, last.measured, last.bound, CONFIDENCE, samples, metric, tried)


@dataclass(frozen=True)
class SampleReport:
    """Samples that were used, and the positions of one on average.

    Attributes:
        calibration: to calibrate on.
        evaluation: to score on.
        seq_len: positions of one.
        blank_dropped: rows without a text that were left out of the calibration.
        blank_scored: those to score on, which count like all others.
    """

    calibration: int
    evaluation: int
    seq_len: float
    blank_dropped: int = 0
    blank_scored: int = 0


@dataclass(frozen=True)
class Size:
    """MACs of one sample, parameters, and bytes of the weights."""

    macs: float
    parameters: int
    bytes: int


@dataclass(frozen=True)
class VocabularyReport:
    """Tokens that are left, of how many, and samples to score on that are made of other tokens for it."""

    tokens: int
    of: int
    changed: int


@dataclass(frozen=True)
class LatencyReport:
    """Both models timed in turns, and pruned / dense turn by turn."""

    batch_size: int
    seq_len: int
    backend: str
    dense_ms: Timing
    pruned_ms: Timing
    ratio: Timing


@dataclass(frozen=True)
class CostReport:
    """What the run cost.

    Attributes:
        seconds: of each stage.
        forward_passes: of the stages of pruning proper, in forward passes of the dense model over the calibration
            samples; "total" is their sum.
        seconds_per_pass: of one such pass.
        peak_gb: most memory held, of the "host" and of the "device".
    """

    seconds: dict[str, float]
    forward_passes: dict[str, float]
    seconds_per_pass: float
    peak_gb: dict[str, float]


@dataclass(frozen=True)
class MachineReport:
    """Where it ran."""

    device: str
    processes: int
    versions: dict[str, str]


@dataclass(repr=False)
class PruningResult:
    """A pruned model and what is known of it. Printed, it is a table.

    Attributes:
        model: shrunk, in evaluation mode.
        masks: one per sublayer of the model that was given: 0 for a removed unit, else its scale.
        task: what the model is for.
        method: how units were chosen and refitted.
        budget: what was asked for and what is kept.
        target: the quality that the budget was chosen to keep, where one was asked for.
        samples: what it was calibrated and scored on.
        cost: what the run cost.
        machine: where it ran.
        refits: what became of each sublayer's refit; empty without an update.
        predicted: the loss increase that each sublayer's curve foretells; empty where there are no curves.
        kinds: of each mask's sublayer, "attention" or "ffn".
        scores: of both models; of several processes only the main one has them, and what follows.
        sizes: "dense" and "pruned".
        latency: of both models.
        serving: ONNX files of both models, where they were asked for.
        processor: what makes the pruned model's inputs: the one that was given, or a tokenizer with fewer tokens.
        vocabulary: what is left of the tokens, where some were dropped.
        polish: what became of the polish, where the method has one.
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
    serving: list[Served] = field(default_factory=list)
    processor: Any = None
    vocabulary: VocabularyReport | None = None
    target: QualityTargetReport | None = None
    polish: PolishReport | None = None

    def __str__(self) -> str:
        from trimformer.reporting.score_table import format_table  # which reads this class

        return format_table(self)

    __repr__ = __str__

    @property
    def changed(self) -> ChangedReport | None:
        """Samples whose prediction changed; None where nothing was scored or outputs say nothing of a sample."""
        return self.scores.changed if self.scores else None

    def figures(self) -> dict[str, Any]:
        """All but the tensors, as plain values for JSON; docs/results.md explains the keys."""
        names = (
            "task", "method", "budget", "target", "samples", "scores", "sizes", "vocabulary", "latency", "serving",
            "polish", "cost", "machine", "changed",
        )  # fmt: skip
        figures = {name: _plain(getattr(self, name)) for name in names}
        if figures["scores"]:
            del figures["scores"]["changed"]  # it stands by itself
        return {
            **figures,
            "sublayers": [self._sublayer(i, units) for i, units in enumerate(units_left(self.masks))],
        }

    def _sublayer(self, i: int, units: int) -> dict[str, Any]:
        return {
            "units": units,
            "of": len(self.masks[i]),
            "heads": self.masks[i].nonzero().flatten().tolist() if self.kinds[i : i + 1] == ["attention"] else None,
            "predicted_loss": self.predicted[i] if self.predicted else None,
            "refit": asdict(self.refits[i]) if self.refits else None,
        }


def _plain(value: Any) -> Any:
    """Reports as dictionaries."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
