"""Tokens per second in llama.cpp, for `trimformer bench --backend llama.cpp`."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from trimformer.checkpoints.save_load import load
from trimformer.cli.flags.export import quantizations
from trimformer.costs.random_inputs import Prompt
from trimformer.costs.token_speed import GENERATED, time_files
from trimformer.errors import TrimformerError
from trimformer.export.gguf.architecture import choose_architecture
from trimformer.export.gguf.export import GgufFile, export_gguf
from trimformer.models import max_positions
from trimformer.utils.progress import progress
from trimformer.utils.temp_dirs import temporary_directory


def gguf_records(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the figures of each length, model and type of file.

    Raises:
        TrimformerError: llama.cpp cannot run a model, or a length is longer than a model takes.
    """
    types = quantizations(arguments.quantize)
    prompts = {length: Prompt(length) for length in arguments.seq_len}
    files: list[tuple[str, str, GgufFile]] = []
    with temporary_directory() as folder:
        for i, name in enumerate(arguments.models):
            model, tokenizer = load(name, model_type=arguments.model_type)
            choose_architecture(model)
            longest = max_positions(model.config, max(arguments.seq_len) + GENERATED)
            for length in arguments.seq_len:
                if length + GENERATED > longest:
                    raise TrimformerError(
                        f"'{name}' takes {longest} tokens, fewer than a prompt of {length} and {GENERATED} generated; "
                        "give a smaller --seq-len"
                    )
                prompts[length].fit(model)
            (folder / str(i)).mkdir()
            written = export_gguf(model.float().eval(), tokenizer, Path(folder) / str(i), types, verified=False)
            files += [(name, kind, file) for kind, file in zip(types, written.files, strict=True)]
        return [
            record
            for length in progress(arguments.seq_len, "lengths")
            for record in _records(files, prompts[length].ids, arguments.seconds)
        ]


def _records(files: list[tuple[str, str, GgufFile]], prompt: list[int], seconds: float) -> list[dict[str, Any]]:
    """Returns the figures of each file for one prompt."""
    speeds = time_files([file.path for _, _, file in files], prompt, threads=torch.get_num_threads(), seconds=seconds)
    return [
        {
            "model": name,
            "type": kind,
            "seq_len": len(prompt),
            "bytes": file.size,
            **{
                phase: {**asdict(speed.ms), "tokens_per_second": speed.tokens_per_second,
                        "speedup": speed.speedup.median}
                for phase, speed in speed_of.items()
            },
        }
        for (name, kind, file), speed_of in zip(files, speeds, strict=True)
    ]  # fmt: skip


def format_token_speeds(records: list[dict[str, Any]]) -> str:
    """Formats one line per length, model and type."""
    width = max(len(record["model"]) for record in records)
    lines = [
        f"{'tokens':>6}  {'model':{width}}  {'type':5}  {'MB':>8}  {'prefill, tokens/s':>17}  {'speed-up':>8}  "
        f"{'decode, tokens/s':>17}  {'speed-up':>8}"
    ]
    for record in records:
        speeds = [
            f"{record[phase]['tokens_per_second']:17.1f}  {record[phase]['speedup']:7.2f}x"
            for phase in ("prefill", "decode")
        ]
        lines.append(
            f"{record['seq_len']:6d}  {record['model']:{width}}  {record['type']:5}  {record['bytes'] / 1e6:8.1f}  "
            + "  ".join(speeds)
        )
    return "\n".join(lines)
