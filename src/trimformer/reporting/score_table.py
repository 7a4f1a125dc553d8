"""The score table of a pruning run, which terminal, report page and model card share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trimformer.evaluation.agreement import AgreementReport
from trimformer.evaluation.gguf_files import ComparedGguf
from trimformer.reporting import figures
from trimformer.reporting.figures import Figure

if TYPE_CHECKING:  # a result prints as its table, so `results` imports this module
    from trimformer.reports import QualityTargetReport, VocabularyReport
    from trimformer.results import PruningResult

INTERVALS = (
    "± is half a 95 % interval: how far chance alone, in which samples were drawn, moves a score; beside a change it "
    "is that of the paired difference"
)
SPELLED = (
    "a lost token counts as the tokens that spell it: perplexity is per token of the dense model, KL compares the next "
    "tokens where one of these begins, and probability that the pruned model gives to lost tokens is not shared out"
)
RARE_LABELS = 4  # labels with the lowest agreement that the terminal shows

_COUNTED = {
    "mac": "MACs of its layers",
    "parameters": "parameters of its layers",
    "latency": "latency, as estimated",
    "memory": "memory in llama.cpp",
}


@dataclass(frozen=True)
class Row:
    """One row of the score table.

    Attributes:
        label: name and unit of the figure.
        dense: the dense model's figure; None if it has none.
        pruned: the pruned model's figure.
        change: from dense to pruned, as text.
    """

    label: str
    dense: Figure | None
    pruned: Figure
    change: str = ""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The row as plain text; only a dense score shows its interval."""
        if self.dense is None:
            return self.label, "", self.pruned.text, self.change
        interval = f" {self.dense.interval}" if self.dense.interval.startswith("±") else ""
        return self.label, self.dense.text + interval, self.pruned.text, self.change


@dataclass(frozen=True)
class ServingTable:
    """The table of the exported files.

    Attributes:
        runtime: what ran the files.
        header: titles of the columns after the first.
        rows: name of each file, and its figures.
        note: what the figures compare.
        facts: what a user of the files has to know, for the terminal too.
    """

    runtime: str
    header: list[str]
    rows: list[tuple[str, list[Figure]]]
    note: str
    facts: str = ""


def score_table(result: "PruningResult") -> list[Row]:
    """Builds a row for every score and size; an empty list if nothing was measured."""
    return [*_score_rows(result), *_size_rows(result)]


def _score_rows(result: "PruningResult") -> list[Row]:
    if result.scores is None:
        return []
    rows = []
    for name in figures.score_names(result.scores.dense):
        dense, pruned = (figures.score(scores, name) for scores in (result.scores.dense, result.scores.pruned))
        change = figures.score_change(name, dense.value, pruned.value, result.change_ci95.get(name))
        rows.append(Row(name, dense, pruned, change))
    label = figures.divergence_label(result.task.problem)
    rows.append(Row(label, None, figures.divergence(result.scores.divergence)))
    agreement = result.agreement
    if agreement is not None:
        label = f"predictions kept, of {agreement.total:,} {agreement.unit}"
        rows.append(Row(label, None, figures.share(agreement.kept)))
        if agreement.others is not None:
            rows.append(Row(others_label(agreement), None, figures.share(agreement.others)))
    if result.scores.neighbours is not None:
        rows.append(Row("nearest neighbours kept", None, figures.share(result.scores.neighbours)))
    return rows


def others_label(agreement: AgreementReport) -> str:
    """Names the predictions that are not the majority label."""
    return "  of assigned labels" if agreement.majority is None else f"  of those other than {agreement.majority[:30]}"


def _size_rows(result: "PruningResult") -> list[Row]:
    if result.sizes is None or result.latency is None:
        return []
    dense, pruned, latency, budget = result.sizes["dense"], result.sizes["pruned"], result.latency, result.budget
    rows = [
        _ratio_row(f"MACs (G, length {result.samples.seq_len:.1f})", dense.macs, pruned.macs, 1e9),
        _ratio_row("parameters (M)", dense.parameters, pruned.parameters, 1e6),
        _ratio_row("weights (MB)", dense.bytes, pruned.bytes, 1e6),
    ]
    memory = budget.memory
    if memory is not None:
        label = f"memory in llama.cpp (MB, {memory.quantize}, {memory.context:,} tokens)"
        rows.append(_ratio_row(label, memory.dense.total, memory.pruned.total, 1e6))
        rows.append(Row("  allowed", None, figures.scaled(memory.asked, 1e6, memory.dense.total)))
    if result.vocabulary is not None:
        tokens, total = result.vocabulary.tokens, result.vocabulary.of
        change = figures.share(tokens / total).text
        rows.append(Row("vocabulary (tokens)", figures.count(total), figures.count(tokens), change))
        rows += _lost_rows(result.vocabulary)
    dense_ms, pruned_ms = (figures.milliseconds(t.median, t.low, t.high) for t in (latency.dense_ms, latency.pruned_ms))
    change = figures.speed_change(dense_ms.value, pruned_ms.value)
    rows.append(Row(f"latency (ms, {latency.unit})", dense_ms, pruned_ms, change))
    if budget.asked_ms is not None and budget.estimated_ms is not None:
        rows.append(Row("  allowed", None, figures.scaled(budget.asked_ms)))
        rows.append(Row("  estimated", None, figures.scaled(budget.estimated_ms)))
    if budget.left_over is not None:
        rows.append(Row("  left over", None, figures.share(budget.left_over)))
    return rows


def _lost_rows(vocabulary: "VocabularyReport") -> list[Row]:
    """Returns what a language model loses with its tokens; empty for other models."""
    lost = ("probability", "predictions", "lengthening")
    probability, predictions, lengthening = (getattr(vocabulary, name, None) for name in lost)
    if probability is None or predictions is None or lengthening is None:
        return []
    return [
        Row("  next-token probability lost", None, figures.small_share(probability)),
        Row("  most likely next tokens lost", None, figures.small_share(predictions)),
        Row("  tokens of the scored text", None, Figure(lengthening, f"{lengthening:.3f}x")),
    ]


def score_notes(result: "PruningResult") -> list[str]:
    """Returns sentences on how scores were measured where that is not what one expects."""
    notes = [SPELLED] if result.vocabulary is not None and _lost_rows(result.vocabulary) else []
    first = result.samples.first_set
    if first is not None:
        notes.append(f"divergence, kept predictions and scores without the name of a set are of '{first}'")
    return notes


def describe_pruning(result: "PruningResult") -> str:
    """Describes in half a sentence what is left of the cost, and how the model was made."""
    polished = result.polish is not None and result.polish.accepted
    training = "and polished without labels" if polished else "without retraining"
    return f"pruned to {figures.share(result.budget.kept).text} of the {_COUNTED[result.budget.metric]}, {training}"


def score_sentences(result: "PruningResult") -> list[str]:
    """Returns `score_notes` as whole sentences, for text."""
    return [f"{note[0].upper()}{note[1:]}." for note in score_notes(result)]


def _ratio_row(label: str, dense: float, pruned: float, unit: float) -> Row:
    change = figures.share(pruned / dense).text
    return Row(label, figures.scaled(dense, unit), figures.scaled(pruned, unit, dense), change)


def serving_table(result: "PruningResult") -> ServingTable | None:
    """Builds the table of the exported files; None if there are none."""
    if result.gguf:
        return _gguf_table(result.gguf, result.gguf_notes)
    if not result.serving:
        return None
    first = result.serving[0]
    name = next(iter(figures.score_names(first.scores)), None)
    has_neighbours = first.neighbours is not None
    shape = f"ms, {result.latency.unit}" if result.latency else "ms"
    header = [
        *([name] if name else []),
        figures.divergence_label(result.task.problem),
        *(["neighbours kept"] if has_neighbours else []),
        "MB",
        shape,
        "speed-up",
    ]
    # One precision a column: that of its smallest value.
    smallest, fastest = min(file.bytes for file in result.serving), min(file.ms.median for file in result.serving)
    rows = [
        (
            file.name,
            [
                *([figures.score(file.scores, name)] if name else []),
                figures.divergence(file.divergence),
                *([figures.share(file.neighbours)] if file.neighbours is not None else []),
                figures.scaled(file.bytes, 1e6, smallest),
                figures.milliseconds(file.ms.median, file.ms.low, file.ms.high, fastest),
                figures.speedup(file.speedup.median, file.speedup.low, file.speedup.high),
            ],
        )
        for file in result.serving
    ]
    note = (
        "Divergence and speed-up compare with the dense model in float32. All files are timed in turns; intervals are "
        "95 %."
    )
    return ServingTable("ONNX Runtime", header, rows, note)


def _gguf_table(files: Sequence[ComparedGguf], notes: Sequence[str]) -> ServingTable:
    smallest = min(file.bytes for file in files)
    header = ["tokens as PyTorch", "KL to PyTorch (nats)", "tokens as dense", "KL to dense (nats)", "MB"]
    rows = [
        (
            file.name,
            [
                figures.share(file.equal / file.tokens),
                figures.divergence(file.divergence),
                figures.share(file.dense_equal / file.tokens),
                figures.divergence(file.dense_divergence),
                figures.scaled(file.bytes, 1e6, smallest),
            ],
        )
        for file in files
    ]
    note = (
        f"Shares of the {min(file.tokens for file in files):,} greedy tokens or more that llama.cpp generates after a "
        "few texts: those that the same model, and the dense one, ranks first in PyTorch in float32."
    )
    facts = f"Of the pruned model's files: {'; '.join(notes)}." if notes else ""
    return ServingTable("llama.cpp", header, rows, note, facts)


def format_table(result: "PruningResult") -> str:
    """Formats a result for the terminal: the score table, then what the run cost."""
    rows = [row.cells for row in score_table(result)]
    cost = result.cost
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in cost.seconds.items())
    memory = ", ".join(f"{name} {value:.1f} GB" for name, value in cost.peak_gb.items())
    passes = cost.forward_passes["total"]
    return "\n".join(
        [
            *(format_columns([("", "dense", "pruned", "change"), *rows]) if result.scores else []),
            *(["", INTERVALS] if any("±" in row[1] for row in rows) else []),
            *(line for note in score_notes(result) for line in ("", note)),
            *_serving_lines(serving_table(result)),
            *_agreement_lines(result.agreement),
            *_target_lines(result.target),
            *(["", *(f"warning: {line}" for line in result.warnings)] if result.warnings else []),
            "",
            f"seconds: {seconds}; {sum(cost.seconds.values()):.1f} in all",
            f"pruning cost {passes:.1f} forward passes over the calibration samples; peak memory {memory}",
            *([] if result.polish is None else [str(result.polish)]),
        ]
    )


def format_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns a table's columns: the first to the left, the others to the right; a rule follows the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _serving_lines(table: ServingTable | None) -> list[str]:
    if table is None:
        return []
    rows = [[name, *(figure.text for figure in row)] for name, row in table.rows]
    facts = ["", table.facts] if table.facts else []
    return ["", *format_columns([[f"in {table.runtime}", *table.header], *rows]), *facts]


def _agreement_lines(agreement: AgreementReport | None) -> list[str]:
    """Returns a line on the labels that lose most predictions; empty for up to two labels."""
    if agreement is None or len(agreement.labels) < 3:
        return []
    worst = sorted(agreement.labels, key=lambda label: label.kept / max(label.dense, 1))
    named = [f"{x.label[:30]} {100 * x.kept / x.dense:.1f} % of {x.dense:,}" for x in worst if x.dense][:RARE_LABELS]
    return ["", f"labels kept least: {', '.join(named)}"]


def _target_lines(target: "QualityTargetReport | None") -> list[str]:
    if target is None:
        return []
    label, unit = {
        "drop": (f"drop of {target.metric}", " points"),
        "perplexity": ("perplexity", "x that of the dense model"),
    }.get(target.kind, (target.kind, ""))
    form = ".4f" if target.kind == "divergence" else ".2f"
    return [
        "",
        f"{label}: {target.measured:{form}}{unit} on {target.samples:,} test samples, below "
        f"{target.bound:{form}} with {100 * target.confidence:.0f} % confidence; {target.asked:g} was allowed",
        *target_scope(target),
    ]


def target_scope(target: "QualityTargetReport") -> list[str]:
    """Returns a sentence on what a quality target was judged on and does not cover, and advice on more rows."""
    if not target.judged_on:
        return []
    advice = [str(target.more_rows)] if target.more_rows is not None else []
    labels = target.unjudged_labels
    scope = f"judged on {target.judged_on}; it holds for data like these"
    if target.few_documents is not None:
        scope = f"judged on {target.judged_on}; these are too few documents to generalise to other text"
    if labels:
        scope += f", and not for the labels that hardly or never occur there: {', '.join(labels)}"
    return [scope, *advice]
