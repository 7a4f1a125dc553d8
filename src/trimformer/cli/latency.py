"""`trimformer lut` and `trimformer bench`: measure the latency of sublayers and of whole models."""

import argparse
import inspect
import json
import logging
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from trimformer.checkpoints.save_load import load_model
from trimformer.cli.flags.latency import BATCH_SIZES, SEQ_LENS
from trimformer.cli.flags.latency import add_lut_arguments as add_lut_arguments
from trimformer.cli.token_speeds import format_token_speeds, gguf_records
from trimformer.costs.backends import check_backend, prepare
from trimformer.costs.lookup_tables import write_table
from trimformer.costs.measure_latency import measure_table
from trimformer.costs.random_inputs import random_inputs
from trimformer.costs.timing import Timing, interleaved
from trimformer.data.batches import numbered_batches
from trimformer.errors import TrimformerError
from trimformer.export.gguf.export import check_gguf
from trimformer.models.layer_calls import count_positions
from trimformer.options.choices import LLAMA_CPP
from trimformer.utils.environment import describe_device, resolve_device, versions
from trimformer.utils.outputs import lock_file, lock_output
from trimformer.utils.progress import progress

logger = logging.getLogger(__name__)


def _load(name: str, arguments: argparse.Namespace) -> PreTrainedModel:
    """Loads a model to time."""
    device = resolve_device(arguments.device)
    model = load_model(name, model_type=arguments.model_type, dtype=arguments.dtype)
    return model.to(device).eval()  # type: ignore[arg-type]


def run_lut(arguments: argparse.Namespace) -> None:
    """Measures latency tables, writes them and prints them."""
    with lock_output(arguments.output):
        text = _measure(arguments)
    print(f"{text}\n\nwritten to {arguments.output}")


def _measure(arguments: argparse.Namespace) -> str:
    """Writes the tables and returns the text to print."""
    model = _load(arguments.model, arguments)
    length = _table_length(model, arguments.seq_len)
    table = measure_table(
        model,
        arguments.bs,
        length,
        backend=arguments.backend,
        seconds=arguments.seconds,
        progress=partial(progress, desc="passes"),
    )
    write_table(table, arguments.output)
    setting = table.setting
    lines = [f"{setting['device']}, {setting['backend']}, {setting['dtype']}, {arguments.bs} x {length}\n"]
    for kind, rows in table.measured.items():
        spread = max((high - low) / 2 / median for _, median, low, high, _ in rows)
        lines.append(f"{kind}: {len(rows)} widths measured, the least certain to ±{100 * spread:.1f} %")
        lines += [f"{int(units):8d} {median:10.3f} ms" for units, median, *_ in rows]
    return "\n".join([*lines, f"everything else: {table.fixed:.3f} ms"])


def _table_length(model: PreTrainedModel, asked: int | None) -> int:
    """Returns the length of the samples to time: tokens of texts, or positions of images and sounds.

    Raises:
        TrimformerError: tokens are not given for a model of texts.
    """
    if "input_ids" in inspect.signature(model.forward).parameters:
        if asked is None:
            raise TrimformerError("--seq-len is missing; give the tokens of a text")
        return asked
    if asked is not None:
        logger.warning("--seq-len is the number of tokens, and this model reads images or sounds; it has no effect")
    inputs = random_inputs(model, 1, 1)
    return count_positions(model, list(numbered_batches([inputs])))[0]


def run_bench(arguments: argparse.Namespace) -> None:
    """Times models in turns and prints a table."""
    with lock_file(arguments.output) as write:
        if arguments.backend == LLAMA_CPP:
            check_gguf()
            device, records = torch.device("cpu"), gguf_records(arguments)
        else:
            device = resolve_device(arguments.device)
            check_backend(arguments.backend, device)
            records = _records(arguments, device)
        result = {"device": describe_device(device), "backend": arguments.backend, **versions(), "records": records}
        write(json.dumps(result, indent=1) + "\n")
    print(f"{describe_device(device)}, {arguments.backend}, speed-up over {arguments.models[0]}\n")
    print(format_token_speeds(records) if arguments.backend == LLAMA_CPP else format_bench(records))


def _records(arguments: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Returns the figures of each shape and model."""
    models = [_load(name, arguments) for name in arguments.models]
    shapes = [(batch, length) for length in arguments.seq_len for batch in arguments.bs or BATCH_SIZES]
    inputs = {shape: [random_inputs(model, *shape) for model in models] for shape in shapes}  # checks all shapes
    if not any("input_ids" in batch for batches in inputs.values() for batch in batches):
        if arguments.seq_len != SEQ_LENS:
            raise TrimformerError("--seq-len is the number of tokens, and these models read images or sounds")
        shapes = [(batch, length) for batch, length in shapes if length == SEQ_LENS[0]]  # all lengths are the same
    records: list[dict[str, Any]] = []
    for shape in progress(shapes, "shapes"):
        calls = [prepare(model, batch, arguments.backend) for model, batch in zip(models, inputs[shape], strict=True)]
        laps = interleaved(calls, device, seconds=arguments.seconds)
        for name, batch_inputs, times in zip(arguments.models, inputs[shape], laps, strict=True):
            timing, ratio = Timing.of(times), Timing.of([a / b for a, b in zip(laps[0], times, strict=True)])
            batch, length = shape
            records.append(
                {
                    "model": name,
                    "batch_size": batch,
                    "seq_len": length if "input_ids" in batch_inputs else None,
                    "ms": timing.median,
                    "low": timing.low,
                    "high": timing.high,
                    "samples_per_second": 1e3 * batch / timing.median,
                    "speedup": ratio.median,
                }
            )
    return records


def format_bench(records: list[dict[str, Any]]) -> str:
    """Formats one line per shape and model."""
    width = max(len(record["model"]) for record in records)
    lines = [f"{'shape':>10}  {'model':{width}}  {'ms':>10}  {'±':>7}  {'samples/s':>10}  {'speed-up':>8}"]
    for r in records:
        shape = str(r["batch_size"]) if r["seq_len"] is None else f"{r['batch_size']} x {r['seq_len']}"
        spread = (r["high"] - r["low"]) / 2
        lines.append(
            f"{shape:>10}  {r['model']:{width}}  {r['ms']:10.2f}  {spread:7.2f}  {r['samples_per_second']:10.1f}"
            f"  {r['speedup']:7.2f}x"
        )
    return "\n".join(lines)
