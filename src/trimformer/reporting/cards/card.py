"""Builds the model cards of pruned and of exported models."""

import math
import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel

from trimformer.checkpoints.load_guard import is_pruned
from trimformer.errors import TrimformerError, one_line
from trimformer.models import KINDS
from trimformer.models.masking import units_left
from trimformer.options.checks import shorten
from trimformer.options.choices import Format
from trimformer.reporting import figures
from trimformer.reporting.cards.source import Source, shorten_command, source_of
from trimformer.reporting.cards.use import export_lines, kind_tags, library, loading_lines, pipeline_tag
from trimformer.reporting.score_table import describe_pruning, score_sentences, score_table
from trimformer.results import PruningResult
from trimformer.utils.environment import describe_device, versions

# Metrics that have another name on the hub.
_METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}


def model_card(
    result: PruningResult,
    name: str = "pruned",
    *,
    dataset: str | None = None,
    command: Sequence[str] = (),
    standalone: bool = False,
) -> ModelCard:
    """Builds the card of a pruned model, to be saved as `README.md` beside it.

    Args:
        result: of the run.
        name: of the model and its directory.
        dataset: name of the evaluation data; None leaves the scores out of the hub's metadata.
        command: words of the command line; paths are cut to their last part.
        standalone: the directory contains its own modelling code; see `write_standalone`.

    Raises:
        TrimformerError: `result` is not what `trimformer.prune` returned.
    """
    if not isinstance(result, PruningResult):
        raise TrimformerError(f"result is {shorten(result)}; give the PruningResult that trimformer.prune returned")
    source = source_of(result.model)
    lines = [f"{source}, {describe_pruning(result)}. It is an ordinary, smaller model, made by trimformer."]
    table = score_table(result)
    if table:
        lines += [
            "",
            "| | dense | pruned | change |",
            "|---|--:|--:|--:|",
            *(f"| {' | '.join(map(_cell, row.cells))} |" for row in table),
        ]
        lines += ["", *_notes(result)]
    lines += [line for warning in _warnings(result) for line in ("", f"**Note:** {warning}.")]
    use = _code(loading_lines(result.model, name), "python")
    lines += _section("Use", f"{_named(name)} is this directory or its name on the hub.", "", *use)
    if standalone:
        lines += ["", "To load it without trimformer, leave out the import and pass `trust_remote_code=True`."]
    lines += _section("How it was made", _calibration(result), "", *_command(command, source.hub))
    lines += [*_units(result), "", _versions(result.machine.versions)]
    metrics = result.scores.pruned if result.scores and dataset else {}
    return _card(result.model, source, name, ["trimformer", "pruned"], lines, metrics, dataset or "")


def export_card(
    model: PreTrainedModel, name: str, files: Sequence[str], table: str, command: Sequence[str], form: Format = "onnx"
) -> ModelCard:
    """Builds the card of an exported directory.

    Args:
        model: the exported model.
        name: of the directory.
        files: names of the files; the card's code loads the last one.
        table: printed comparison of the files.
        command: words of the command line; paths are cut to their last part.
        form: format of the files.
    """
    source = source_of(model)
    kinds = {"onnx": "ONNX files for ONNX Runtime", "openvino": "OpenVINO files", "gguf": "GGUF files for llama.cpp"}
    lines = [f"{source} as {kinds[form]}, exported by trimformer.", ""]
    difference = "`difference` is the largest difference of any output from PyTorch's"
    lines += _code(table.splitlines())
    lines += ["", f"{difference}; timed on {describe_device(model.device)}."] if form != "gguf" else []
    for title, code in export_lines(model, name, files[-1], form).items():
        lines += _section(title, f"{_named(name)} is this directory.", "", *_code(code, "python"))
    lines += _section("How it was made", *_command(command, source.hub), _versions(versions()))
    return _card(model, source, name, ["trimformer", form, *(["pruned"] if is_pruned(model.config) else [])], lines)


def _card(
    model: PreTrainedModel,
    source: Source,
    name: str,
    tags: Sequence[str],
    lines: Sequence[str],
    metrics: dict[str, float] | None = None,
    dataset: str = "",
) -> ModelCard:
    """Puts metadata and lines together."""
    metadata = dict(source.metadata)
    source_tags, base = metadata.pop("tags", []), metadata.pop("base_model", [])
    data = ModelCardData(
        **metadata,
        base_model=base[0] if len(base) == 1 else base or None,
        library_name=library(model),
        pipeline_tag=pipeline_tag(model),
        tags=list(dict.fromkeys([*kind_tags(model), *tags, *source_tags])),
        **_evaluated(metrics or {}, name, dataset, pipeline_tag(model)),
    )
    return ModelCard("\n".join(["---", data.to_yaml(), "---", "", f"# {one_line(name)}", "", *lines, ""]))


def _evaluated(metrics: dict[str, float], name: str, dataset: str, task: str) -> dict[str, Any]:
    """Returns the scores as metadata of the hub."""
    results = [
        EvalResult(
            task_type=task,
            dataset_type=re.sub(r"[^\w.-]+", "-", dataset),
            dataset_name=dataset,
            metric_type=_METRICS.get(key, key),
            metric_name=key,
            metric_value=round(value, 6),
        )
        for key, value in metrics.items()
        if not key.endswith(figures.INTERVAL) and math.isfinite(value)
    ]
    return {"model_name": name, "eval_results": results} if results else {}


def _cell(text: str) -> str:
    """Returns the text of a table's cell, which may hold a label of the model."""
    return text.replace("|", "\\|")


def _notes(result: PruningResult) -> list[str]:
    """Explains how the figures of the table were measured."""
    unit = "" if result.task.problem == "language" else " in percent"
    notes = [f"Scores{unit}, ± half a 95 % interval, on {result.samples.scored_on.replace('`', '')}."]
    notes += score_sentences(result)
    if result.latency:
        latency = result.latency
        notes.append(
            f"Latency is the median over runs of {latency.work}, by `{latency.backend}` on {result.machine.device}."
        )
    return notes


def _warnings(result: PruningResult) -> list[str]:
    """Returns what the figures do not cover; labels come from the model, so their Markdown is made harmless."""
    return [line.replace("`", "'").replace("<", "&lt;") for line in result.warnings]


def _calibration(result: PruningResult) -> str:
    """Describes samples, method and cost in one sentence."""
    method = ", ".join(f"{key} `{value}`" for key, value in result.figures()["method"].items())
    cost = result.cost
    polish = "" if result.polish is None else f" The {result.polish}."
    return (
        f"{result.samples.calibration:,} calibration samples; {method}. It cost {cost.forward_passes['total']:.1f} "
        f"forward passes of the dense model over these, {sum(cost.seconds.values()):.0f} seconds in all.{polish}"
    )


def _units(result: PruningResult) -> list[str]:
    """Lists the units kept in each layer, one line for each kind."""
    pairs = list(zip(result.kinds, units_left(result.masks), map(len, result.masks), strict=True))
    lines = []
    for kind in (kind for kind in KINDS if kind in result.kinds):
        counts = [(units, of) for kind_of_pair, units, of in pairs if kind_of_pair == kind]
        same = len({of for _, of in counts}) == 1
        listing = ", ".join(str(units) if same else f"{units}/{of}" for units, of in counts)
        name = "attention heads" if kind == "attention" else "neurons"
        lines.append(f"- {name} kept in each layer: {listing}" + (f" (of {counts[0][1]})" if same else ""))
    if any(number is not None for number in result.queries):
        heads = [n for kind, n in zip(result.kinds, result.queries, strict=True) if kind == "attention"]
        numbers = ", ".join("all" if number is None else str(number) for number in heads)
        lines.append(f"- query heads of each key-value head, in each layer: {numbers}")
    return lines


def _named(name: str) -> str:
    """Returns a name as Markdown code on one line."""
    shown = one_line(name).replace("`", "'")
    return f"`{shown}`"


def _command(words: Sequence[str], hub: str | None) -> list[str]:
    """Shows the command, without the folders of the machine it ran on."""
    if not words:
        return []
    return [*_code([one_line(shorten_command(words, hub))]), ""]


def _versions(packages: dict[str, str]) -> str:
    return "Versions: " + ", ".join(f"{name} {version}" for name, version in packages.items()) + "."


def _section(title: str, *lines: str) -> list[str]:
    return ["", f"## {title}", "", *lines]


def _code(lines: Sequence[str], language: str = "") -> list[str]:
    return [f"```{language}", *lines, "```"]
