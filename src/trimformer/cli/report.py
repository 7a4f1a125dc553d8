"""What a pruning run leaves behind for people and scripts: the table, and the files beside the model."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from trimformer.arch import Sublayer, find_sublayers
from trimformer.files import write_directory
from trimformer.pipeline import PruningResult
from trimformer.shrinking.masks import stack_masks

_DIVERGENCE = {"regression": "squared error to dense", "embedding": "1 - cosine to dense"}


def format_table(result: PruningResult) -> str:
    """Dense and pruned side by side, then seconds per stage."""
    rows: list[tuple[str, str, str, str]] = []
    dense, pruned = result.metrics["dense"], result.metrics["pruned"]
    for name in (key for key in dense if not key.endswith("_ci95")):
        interval = f" ±{100 * dense[name + '_ci95']:.2f}" if name + "_ci95" in dense else ""
        change = 100 * (pruned[name] - dense[name])
        rows.append((name, f"{100 * dense[name]:.2f}{interval}", f"{100 * pruned[name]:.2f}", f"{change:+.2f}"))
    divergence = _DIVERGENCE.get(result.info["problem"], "KL to dense (nats)")
    rows.append((divergence, "", f"{result.metrics['divergence']:.4f}", ""))
    latency = result.info["latency"]
    units = {
        "macs": (f"MACs (G, length {result.info['seq_len']:.1f})", 1e9),
        "parameters": ("parameters (M)", 1e6),
        "bytes": ("weights (MB)", 1e6),
        "latency_ms": (f"latency (ms, {latency['batch_size']} x {latency['seq_len']})", 1.0),
    }
    for key, (label, unit) in units.items():
        a, b = result.sizes["dense"][key] / unit, result.sizes["pruned"][key] / unit
        faster = f"{a / b:.2f}x faster" if b <= a else f"{b / a:.2f}x slower"
        ratio = faster if key == "latency_ms" else f"{100 * b / a:.1f} %"
        rows.append((label, f"{a:.3f}" if a < 1 else f"{a:.2f}", f"{b:.3f}" if a < 1 else f"{b:.2f}", ratio))
    if "asked_ms" in latency:
        rows.append(("  asked", "", f"{latency['asked_ms']:.2f}", ""))
        rows.append(("  estimated", "", f"{latency['estimated_ms']:.2f}", ""))
    header = ("", "dense", "pruned", "")
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(4)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, 4))]) for row in (header, *rows)
    ]
    lines.insert(1, "-" * len(lines[0]))
    seconds = ", ".join(f"{stage} {value:.1f}" for stage, value in result.timings.items())
    cost, memory = result.info["forward_passes"], result.info["peak_memory"]
    return "\n".join(
        [
            *lines,
            "",
            f"seconds: {seconds}; {sum(result.timings.values()):.1f} in all",
            f"pruning cost {cost['total']:.1f} forward passes over the calibration samples; peak memory "
            + ", ".join(f"{name.removesuffix('_gb')} {value:.1f} GB" for name, value in memory.items()),
        ]
    )


def results_dict(result: PruningResult, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure of the run, ready for JSON."""
    return {
        **result.info,
        "arguments": dict(arguments),
        "metrics": result.metrics,
        **result.sizes,
        "seconds": result.timings,
        "heads": result.model.config.quantization_config["heads"],
        "neurons": result.model.config.quantization_config["neurons"],
        "sublayers": [_sublayer_dict(result, i, s) for i, s in enumerate(find_sublayers(result.model))],
    }


def _sublayer_dict(result: PruningResult, index: int, sublayer: Sublayer) -> dict[str, Any]:
    return {
        "sublayer": sublayer.name,
        "units": sublayer.num_units,
        "predicted_loss": result.predicted[index] if result.predicted else None,
        "refit": asdict(result.refits[index]) if result.refits else None,
    }


def write_result(
    result: PruningResult,
    tokenizer: PreTrainedTokenizerBase,
    path: str | Path,
    sublayers: list[Sublayer],
    arguments: Mapping[str, Any],
    log: str = "",
) -> None:
    """Writes the shrunk model with `head_mask.pt`, `neuron_mask.pt`, `results.json` and `log.txt` beside it.

    Args:
        result: of the run.
        tokenizer: saved with the model.
        path: a directory that is empty or does not exist; it appears only once complete.
        sublayers: of the model that was pruned; the masks are theirs.
        arguments: of the run, recorded in `results.json`.
        log: text of `log.txt`.

    Raises:
        TrimformerError: the directory is not empty or cannot be written.
    """
    head_mask, neuron_mask = stack_masks(sublayers, result.masks)
    with write_directory(path) as directory:
        result.model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        torch.save(head_mask, directory / "head_mask.pt")
        torch.save(neuron_mask, directory / "neuron_mask.pt")
        text = json.dumps(results_dict(result, arguments), indent=2, default=str)
        (directory / "results.json").write_text(text + "\n", encoding="utf-8")
        (directory / "log.txt").write_text(log, encoding="utf-8")
