"""What a pruning run hands back: the model, and every figure of the run, typed."""

from collections.abc import Sequence
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

DIVERGENCE = {"regression": "squared error to dense", "embedding": "1 - cosine to dense"}


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


def format_table(result: PruningResult) -> str:
    """Dense and pruned side by side, then what the run cost."""
    rows = table_rows(result)
    header = ("", "dense", "pruned", "change")
    lines = aligned([header, *rows])
    cost = result.cost
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in cost.seconds.items())
    memory = ", ".join(f"{name} {value:.1f} GB" for name, value in cost.peak_gb.items())
    passes = cost.forward_passes["total"]
    return "\n".join(
        [
            *(lines if result.scores else []),
            *(["", INTERVALS] if any("±" in row[1] for row in rows) else []),
            *_serving_lines(result),
            *_target_lines(result.target),
            "",
            f"seconds: {seconds}; {sum(cost.seconds.values()):.1f} in all",
            f"pruning cost {passes:.1f} forward passes over the calibration samples; peak memory {memory}",
            *([] if result.polish is None else [str(result.polish)]),
        ]
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table, the first row's with a rule below it; names stand to the left, all else to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _target_lines(target: QualityTargetReport | None) -> list[str]:
    if target is None:
        return []
    what, unit = (f"drop of {target.metric}", " points") if target.kind == "drop" else ("divergence", "")
    form = ".2f" if target.kind == "drop" else ".4f"
    return [
        "",
        f"{what}: {target.measured:{form}}{unit} on {target.samples:,} samples set aside to judge by, below "
        f"{target.bound:{form}} with {100 * target.confidence:.0f} % confidence; {target.asked:g} was allowed",
    ]


def _serving_lines(result: PruningResult) -> list[str]:
    """A line for each ONNX file."""
    if not result.serving or result.latency is None:
        return []
    metric = next((name for name in result.serving[0].scores if not name.endswith("_ci95")), None)
    shape = f"ms, {result.latency.batch_size} x {result.latency.seq_len}"
    divergence = DIVERGENCE.get(result.task.problem, "KL to dense")
    names = ["in ONNX Runtime", *([metric] if metric else []), divergence, "MB", shape, "speed-up"]
    rows = [names]
    for s in result.serving:
        score = [f"{100 * s.scores[metric]:.2f}"] if metric else []
        apart = f"{max(0.0, s.divergence):.4f}"
        rows.append([s.name, *score, apart, f"{s.bytes / 1e6:.1f}", f"{s.ms.median:.2f}", f"{s.speedup.median:.2f}x"])
    return ["", *aligned(rows)]


INTERVALS = "± is half a 95 % interval: how far chance alone, in which samples were drawn, moves a score"

Row = tuple[str, str, str, str]


def table_rows(result: PruningResult) -> list[Row]:
    """(what, dense, pruned, change) of every score and size; empty where nothing was measured."""
    return [*_score_rows(result), *_size_rows(result)]


def _score_rows(result: PruningResult) -> list[Row]:
    if result.scores is None:
        return []
    dense, pruned, rows = result.scores.dense, result.scores.pruned, []
    for name in (key for key in dense if not key.endswith("_ci95")):
        interval = f" ±{100 * dense[name + '_ci95']:.2f}" if name + "_ci95" in dense else ""
        change = 100 * (pruned[name] - dense[name])
        rows.append((name, f"{100 * dense[name]:.2f}{interval}", f"{100 * pruned[name]:.2f}", f"{change:+.2f}"))
    divergence = DIVERGENCE.get(result.task.problem, "KL to dense (nats)")
    rows.append((divergence, "", f"{result.scores.divergence:.4f}", ""))
    if result.scores.neighbours is not None:
        rows.append(("nearest neighbours kept", "", f"{100 * result.scores.neighbours:.1f}", ""))
    return rows


def _size_rows(result: PruningResult) -> Sequence[Row]:
    if result.sizes is None or result.latency is None:
        return []
    dense, pruned, latency = result.sizes["dense"], result.sizes["pruned"], result.latency
    budget = result.budget
    rows = [
        _ratio_row(f"MACs (G, length {result.samples.seq_len:.1f})", dense.macs / 1e9, pruned.macs / 1e9),
        _ratio_row("parameters (M)", dense.parameters / 1e6, pruned.parameters / 1e6),
        _ratio_row("weights (MB)", dense.bytes / 1e6, pruned.bytes / 1e6),
    ]
    if result.vocabulary is not None:
        tokens, of = result.vocabulary.tokens, result.vocabulary.of
        rows.append(("vocabulary (tokens)", f"{of:,}", f"{tokens:,}", f"{100 * tokens / of:.1f} %"))
    a, b = latency.dense_ms.median, latency.pruned_ms.median
    faster = f"{a / b:.2f}x faster" if b <= a else f"{b / a:.2f}x slower"
    rows.append((f"latency (ms, {latency.batch_size} x {latency.seq_len})", _number(a, a), _number(b, a), faster))
    if budget.asked_ms is not None and budget.estimated_ms is not None:
        rows.append(("  asked", "", f"{budget.asked_ms:.2f}", ""))
        rows.append(("  estimated", "", f"{budget.estimated_ms:.2f}", ""))
    return rows


def _ratio_row(label: str, dense: float, pruned: float) -> Row:
    return (label, _number(dense, dense), _number(pruned, dense), f"{100 * pruned / dense:.1f} %")


def _number(value: float, scale: float) -> str:
    return f"{value:.3f}" if scale < 1 else f"{value:.2f}"
