"""Typed reports that a pruning result is made of, one class for each part of `results.json`."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from trimformer.costs.llama_cpp_memory import Memory
from trimformer.costs.timing import Timing
from trimformer.data.outputs import Problem
from trimformer.evaluation.bounds import CONFIDENCE
from trimformer.evaluation.quality_test import Verdict
from trimformer.options.choices import Metric, Phase, Quantization
from trimformer.options.quality_target import QualityTarget


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
