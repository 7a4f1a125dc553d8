"""`trimformer lut` and `trimformer bench`: latency measured, of sublayers and of whole models."""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from trimformer.arch import find_sublayers
from trimformer.cli.arguments import output_file, positive_int
from trimformer.costs.backends import Backend, check_backend, prepare
from trimformer.costs.lut import write_table
from trimformer.costs.measure import measure_table, random_inputs
from trimformer.costs.timing import Timing, interleaved
from trimformer.environment import describe_device, resolve_device, versions
from trimformer.errors import TrimformerError, one_sentence
from trimformer.files import check_output
from trimformer.progress import progress
from trimformer.shrinking.checkpoint import load_model

DTYPES = ("float32", "float16", "bfloat16")


def _add_setting(parser: argparse.ArgumentParser) -> None:

    parser.add_argument("--backend", choices=get_args(Backend), default="eager", help="what runs the model")
    parser.add_argument("--dtype", choices=DTYPES, help="default: the checkpoint's own")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def add_lut_arguments(parser: argparse.ArgumentParser, underscores: bool = False) -> None:
    """Flags of `trimformer lut`; with underscores those of the paper's `generate_lut.py`."""
    if underscores:
        parser.add_argument("--model_name", dest="model", required=True, help="model directory or name on the hub")
        parser.add_argument("--output_dir", dest="output", required=True, help="must not exist or be empty")
    else:
        parser.add_argument("model", metavar="MODEL", help="model directory, or name on the hub")
        parser.add_argument("--output", required=True, metavar="DIR", help="must not exist or be empty")
    parser.add_argument("--bs", type=positive_int, required=True, help="batch size")
    parser.add_argument("--seq-len", "--seq_len", type=positive_int, required=True, help="tokens")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for measuring (default: %(default)s)")
    _add_setting(parser)
    parser.set_defaults(run=run_lut)


def add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", metavar="MODEL_DIR", nargs="+")
    parser.add_argument("--bs", type=_wholes, default=[1, 8, 32], help="batch sizes (default: 1,8,32)")
    parser.add_argument("--seq-len", type=_wholes, default=[32, 128], help="tokens (default: 32,128)")
    parser.add_argument("--seconds", type=float, default=5.0, help="time for each shape (default: %(default)s)")
    parser.add_argument("--output", metavar="FILE", help="write the figures to this JSON file")
    _add_setting(parser)
    parser.set_defaults(run=run_bench)


def _wholes(text: str) -> list[int]:
    return [positive_int(part) for part in text.split(",")]


def _load(name: str, arguments: argparse.Namespace) -> PreTrainedModel:
    """A model to be timed. A hub model that has no checkpoint of ours needs only its config: weights take no time."""

    device = resolve_device(arguments.device)
    if Path(name).is_dir():
        model = load_model(name)
    else:
        with one_sentence(f"model '{name}' is no directory, and its config cannot be had from the hub"):
            config = AutoConfig.from_pretrained(name)
        model = AutoModel.from_config(config)
    find_sublayers(model)
    if arguments.dtype:
        model.to(getattr(torch, arguments.dtype))
    return model.to(device).eval()  # type: ignore[arg-type]


def run_lut(arguments: argparse.Namespace) -> None:

    check_output(arguments.output)
    _check_seconds(arguments.seconds)
    table = measure_table(
        _load(arguments.model, arguments),
        arguments.bs,
        arguments.seq_len,
        backend=arguments.backend,
        seconds=arguments.seconds,
        progress=partial(progress, desc="passes"),
    )
    write_table(table, arguments.output)
    setting = table.setting
    print(f"{setting['device']}, {setting['backend']}, {setting['dtype']}, {arguments.bs} x {arguments.seq_len}\n")
    for kind, rows in table.measured.items():
        spread = max((high - low) / 2 / median for _, median, low, high, _ in rows)
        print(f"{kind}: {len(rows)} widths measured, the least certain to ±{100 * spread:.1f} %")
        print("\n".join(f"{int(units):8d} {median:10.3f} ms" for units, median, *_ in rows))
    print(f"everything else: {table.fixed:.3f} ms\n\nwritten to {arguments.output}")


def _check_seconds(seconds: float) -> None:
    if not 0 < seconds < float("inf"):
        raise TrimformerError(f"--seconds {seconds} is not a positive number")


def run_bench(arguments: argparse.Namespace) -> None:

    _check_seconds(arguments.seconds)
    device = resolve_device(arguments.device)
    check_backend(arguments.backend, device)
    output = output_file(arguments.output)
    models = [_load(name, arguments) for name in arguments.models]
    shapes = [(batch, length) for length in arguments.seq_len for batch in arguments.bs]
    inputs = {shape: [random_inputs(model, *shape) for model in models] for shape in shapes}  # checks all shapes
    records: list[dict[str, Any]] = []
    for shape in progress(shapes, "shapes"):
        calls = [prepare(model, given, arguments.backend) for model, given in zip(models, inputs[shape], strict=True)]
        laps = interleaved(calls, device, seconds=arguments.seconds)
        for name, times in zip(arguments.models, laps, strict=True):
            timing, ratio = Timing.of(times), Timing.of([a / b for a, b in zip(laps[0], times, strict=True)])
            batch, length = shape
            records.append(
                {
                    "model": name,
                    "batch_size": batch,
                    "seq_len": length,
                    "ms": timing.median,
                    "low": timing.low,
                    "high": timing.high,
                    "samples_per_second": 1e3 * batch / timing.median,
                    "speedup": ratio.median,
                }
            )
    print(f"{describe_device(device)}, {arguments.backend}, speed-up over {arguments.models[0]}\n")
    print(format_bench(records))
    if output:
        result = {"device": describe_device(device), "backend": arguments.backend, **versions(), "records": records}
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def format_bench(records: list[dict[str, Any]]) -> str:
    """One line per shape and model."""
    width = max(len(record["model"]) for record in records)
    lines = [f"{'shape':>10}  {'model':{width}}  {'ms':>10}  {'±':>7}  {'samples/s':>10}  {'speed-up':>8}"]
    for r in records:
        shape = f"{r['batch_size']} x {r['seq_len']}"
        spread = (r["high"] - r["low"]) / 2
        lines.append(
            f"{shape:>10}  {r['model']:{width}}  {r['ms']:10.2f}  {spread:7.2f}  {r['samples_per_second']:10.1f}"
            f"  {r['speedup']:7.2f}x"
        )
    return "\n".join(lines)
