"""Typed results of a pruning run: the pruned model and every figure of the run."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.costs.llama_cpp_memory import Memory
from trimformer.costs.timing import Timing
from trimformer.data.outputs import Problem
from trimformer.evaluation.agreement import AgreementReport
from trimformer.evaluation.bounds import CONFIDENCE
from trimformer.evaluation.changed_predictions import ChangedReport
from trimformer.evaluation.gguf_files import ComparedGguf
from trimformer.evaluation.onnx_files import ComparedOnnx
from trimformer.evaluation.quality_test import Verdict
from trimformer.evaluation.scores import Scores
from trimformer.models import Kind
from trimformer.models.masking import units_left
from trimformer.options.choices import Metric, Phase, Quantization
from trimformer.options.methods import AnyMethod
from trimformer.options.quality_target import QualityTarget
from trimformer.polish.result import PolishReport
from trimformer.refit.result import Refit
from trimformer.reporting.score_table import format_table


@dataclass(frozen=True)
class TaskReport:
    """The task of a model.

    Attributes:
        name: name of the task.
        problem: kind of output.
        score: the main score; None without labels.
        labels: how class ids and names were read, in words; None if the rows have none.
    """

    name: str
    problem: Problem
    score: str | None
    labels: str | None = None


@dataclass(frozen=True)
class MemoryReport:
    """Memory of both models in llama.cpp.

    Attributes:
        quantize: type of the GGUF file.
        context: tokens of the key-value cache.
        asked: allowed bytes.
        dense: of the dense model.
        pruned: of the pruned model.
    """

    quantize: Quantization
    context: int
    asked: float
    dense: Memory
    pruned: Memory


MISSED_LATENCY = "the latency budget is missed: the model is slower than allowed, and by more than the timing noise"


@dataclass(frozen=True)
class BudgetReport:
    """The budget and the cost of the pruned model.

    Attributes:
        metric: unit of the cost.
        constraint: allowed fraction of the dense cost.
        kept: fraction of the dense cost that the pruned model has.
        asked_ms: for a latency budget, the allowed latency in ms; None for a quality target.
        estimated_ms: latency of the pruned model in ms, by the latency table. By a table of this machine, its share in
            it times `reference_ms`, or times the dense latency at the end where no milliseconds were asked for.
        corrected: whether units were selected again because the first selection was slower or faster than allowed.
        missed: whether the pruned model exceeds the allowed latency by more than the noise.
        left_over: unused fraction of the allowed latency, both relative to the dense model; None without a measurement,
            or for a quality target.
        reference_ms: smallest dense latency that was seen, at which requested milliseconds are counted.
        memory: of both models in llama.cpp, for a memory budget.
    """

    metric: Metric
    constraint: float
    kept: float
    asked_ms: float | None = None
    estimated_ms: float | None = None
    corrected: bool = False
    missed: bool = False
    left_over: float | None = None
    reference_ms: float | None = None
    memory: MemoryReport | None = None


@dataclass(frozen=True)
class MoreRows:
    """Advice: with about this many `rows` to test on, this smaller `constraint` could have been promised.

    Attributes:
        rows: number of rows, or of documents if the promise rests on documents.
        constraint: fraction of the dense cost.
        unit: what is counted.
    """

    rows: int
    constraint: float
    unit: str = "rows"

    def __str__(self) -> str:
        return f"with about {self.rows:,} test {self.unit}, {self.constraint:.2f} of the cost could have been promised"


@dataclass(frozen=True)
class QualityTargetReport:
    """The quality target and the evidence that the pruned model meets it.

    Attributes:
        kind: "drop" of the score, in points, "divergence", or "perplexity" as a ratio to the dense model's.
        asked: largest value allowed.
        measured: value on the test samples.
        bound: upper confidence bound of the value.
        confidence: of the bound, as a fraction.
        samples: number of test samples.
        metric: name of the score; None for a divergence without labels.
        tried: verdicts of all models tested, in order; the last is that of this model.
        judged_on: the test samples that the value was measured on, in words.
        unjudged_labels: labels that the dense model hardly or never predicts on them; the target does not cover these.
        more_rows: a smaller budget that more test rows could promise; None if none looks good enough.
        few_documents: number of documents of the samples, if too few to generalise to other text; else None.
    """

    kind: str
    asked: float
    measured: float
    bound: float
    confidence: float
    samples: int
    metric: str | None
    tried: list[Verdict]
    judged_on: str = ""
    unjudged_labels: list[str] = field(default_factory=list)
    more_rows: MoreRows | None = None
    few_documents: int | None = None

    @classmethod
    def of(
        cls,
        target: QualityTarget,
        tried: list[Verdict],
        samples: int,
        metric: str | None,
        judged_on: str = "",
        unjudged_labels: Sequence[str] = (),
        more_rows: MoreRows | None = None,
        few_documents: int | None = None,
    ) -> "QualityTargetReport":
        """Builds the report of the last model tried."""
        last, unjudged = tried[-1], list(unjudged_labels)
        measured = (last.measured, last.bound, CONFIDENCE, samples)
        return cls(target.kind, target.most, *measured, metric, tried, judged_on, unjudged, more_rows, few_documents)


@dataclass(frozen=True)
class SampleReport:
    """The number and length of the samples.

    Attributes:
        calibration: number of calibration samples.
        evaluation: number of evaluation samples.
        seq_len: average length of a sample, in positions.
        blank_dropped: number of rows without a text that were left out of the calibration.
        blank_scored: number of evaluation rows without a text; they are scored like all others.
        scored_on: the evaluation rows, in words.
        first_set: name of the first evaluation set, where there are several.
    """

    calibration: int
    evaluation: int
    seq_len: float
    blank_dropped: int = 0
    blank_scored: int = 0
    scored_on: str = ""
    first_set: str | None = None


@dataclass(frozen=True)
class LabelCoverage:
    """Labels that the dense model predicts on a set of samples.

    Attributes:
        unit: "samples" or "tokens".
        counts: number of times that each label is predicted.
        never: labels that are never predicted.
        hardly: labels that are predicted, but too rarely to judge or to calibrate them.
    """

    unit: str
    counts: dict[str, int]
    never: list[str]
    hardly: list[str]

    @property
    def missing(self) -> list[str]:
        """Labels that are never or hardly predicted."""
        return [*self.never, *self.hardly]


@dataclass(frozen=True)
class TextCoverage:
    """Fit of a set of texts to the tokenizer and to the maximum length.

    Attributes:
        samples: number of encoded samples.
        mean_length: mean number of tokens.
        unknown: share of unknown tokens among those that are not special; None without an unknown token.
        full: share of samples that fill the maximum length, so that what follows is cut off.
        empty: number of samples without any token but special ones.
    """

    samples: int
    mean_length: float
    unknown: float | None
    full: float
    empty: int


@dataclass(frozen=True)
class CoverageReport:
    """Coverage of the model's abilities by the samples of the run.

    Attributes:
        labels: labels that the dense model predicts on the calibration samples; None if it predicts no classes.
        predicted_range: smallest and largest prediction on the calibration samples; None but for regression.
        texts: fit of the texts, by set; "calibration" is the first.
        tokens: number of tokens that the tokenizer has; None without a tokenizer.
        embeddings: number of tokens that the model has embeddings for; None without a tokenizer.
        warnings: what the figures of the run do not cover, a sentence each.
    """

    labels: LabelCoverage | None = None
    predicted_range: tuple[float, float] | None = None
    texts: dict[str, TextCoverage] = field(default_factory=dict)
    tokens: int | None = None
    embeddings: int | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Size:
    """Size of a model: MACs per sample, number of parameters, and bytes of the weights."""

    macs: float
    parameters: int
    bytes: int


@dataclass(frozen=True)
class VocabularyReport:
    """Reduction of the vocabulary.

    Attributes:
        tokens: number of tokens kept.
        of: number of tokens before.
        changed: number of evaluation samples that are tokenized differently.
    """

    tokens: int
    of: int
    changed: int


@dataclass(frozen=True)
class LanguageVocabularyReport(VocabularyReport):
    """Reduction of a language model's vocabulary, with what is lost on the first evaluation set; see `LostTokens`."""

    probability: float
    predictions: float
    lengthening: float


@dataclass(frozen=True)
class LatencyReport:
    """Latency of both models, timed in turns.

    Attributes:
        batch_size: texts, images or sounds that are run together.
        seq_len: tokens of each.
        backend: what ran them.
        dense_ms: of the dense model.
        pruned_ms: of the pruned model.
        ratio: pruned / dense of each turn.
        quantize: type of the GGUF files, in llama.cpp.
        phase: of llama.cpp that was timed.
    """

    batch_size: int
    seq_len: int
    backend: str
    dense_ms: Timing
    pruned_ms: Timing
    ratio: Timing
    quantize: Quantization | None = None
    phase: Phase | None = None

    @property
    def unit(self) -> str:
        """What was timed, as a row's label states it: `32 x 128`, or `decode, q8_0, 512 tokens`."""
        if self.phase is None:
            return f"{self.batch_size} x {self.seq_len}"
        return f"{self.phase}, {self.quantize}, {self.seq_len:,} tokens"

    @property
    def work(self) -> str:
        """What was timed, in words."""
        if self.phase is None:
            return f"{self.batch_size} samples of length {self.seq_len}"
        what = f"a prompt of {self.seq_len:,}" if self.phase == "prefill" else f"one token after {self.seq_len:,}"
        return f"{what} tokens ({self.phase}, {self.quantize})"


@dataclass(frozen=True)
class CostReport:
    """Cost of the run.

    Attributes:
        seconds: duration of each stage.
        forward_passes: duration of each pruning stage in forward passes of the dense model over the calibration
            samples; "total" is their sum.
        seconds_per_pass: duration of one such pass.
        peak_gb: peak memory in GB of the "host" and of the "device".
    """

    seconds: dict[str, float]
    forward_passes: dict[str, float]
    seconds_per_pass: float
    peak_gb: dict[str, float]


@dataclass(frozen=True)
class MachineReport:
    """Machine of the run: device, number of processes, and versions of the packages."""

    device: str
    processes: int
    versions: dict[str, str]


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
