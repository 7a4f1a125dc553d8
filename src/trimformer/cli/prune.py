"""`trimformer prune`: a model directory in, a smaller one out."""

import argparse
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from trimformer.arch import find_sublayers
from trimformer.asked import check_budget, check_method
from trimformer.cli.arguments import (
    DataOptions,
    add_calibration_arguments,
    add_data_arguments,
    add_method_arguments,
    add_polish_arguments,
    chosen_method,
    load_task_data,
    positive_int,
)
from trimformer.cli.logs import kept_log
from trimformer.cli.report import write_result
from trimformer.cli.serving import Serving
from trimformer.costs.backends import ONNX, Backend
from trimformer.costs.cost import Metric
from trimformer.costs.lut import FILES, read_table
from trimformer.environment import resolve_device
from trimformer.errors import TrimformerError
from trimformer.files import check_output
from trimformer.methods import DEFAULT_METHOD, METHODS, Method
from trimformer.onnx.export import check_onnx
from trimformer.pipeline import prune
from trimformer.polish.data import check_asked, read_polish_data
from trimformer.processes import is_main, join
from trimformer.select.allocations import NEURON_MULTIPLE
from trimformer.shrinking.checkpoint import load
from trimformer.shrinking.standalone import check_standalone
from trimformer.shrinking.vocabulary import check_trimmable, read_vocabulary
from trimformer.verify.promise import LatencyOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL_DIR", help="fine-tuned checkpoint: a directory, or a name on the hub")
    add_data_arguments(parser)
    parser.add_argument("--constraint", type=float, help="share of the cost to keep, in (0, 1]")
    parser.add_argument("--output", required=True, help="directory of the pruned model; must not exist or be empty")
    parser.add_argument("--metric", choices=get_args(Metric), help="what the constraint counts "
                        "(default: mac; with --latency-ms latency)")  # fmt: skip
    parser.add_argument("--neuron-multiple", type=positive_int, default=NEURON_MULTIPLE, help="keep neurons in such "
                        "multiples, where dp allocates (default: %(default)s)")  # fmt: skip
    parser.add_argument("--standalone", action="store_true", help="write a file of code too, by which the result "
                        "loads without trimformer, given trust_remote_code=True")  # fmt: skip
    parser.add_argument("--vocabulary", metavar="used|FILE", help="drop the tokens that texts never use, from "
                        "tokenizer and model: texts of the data, or of a file with a text a line")  # fmt: skip
    latency = parser.add_argument_group("latency", "what --metric latency keeps to, and what the report measures")
    latency.add_argument("--latency-ms", type=float, help="milliseconds to keep to, instead of --constraint")
    latency.add_argument("--lut", metavar="DIR", help="tables of `trimformer lut`; default: measured before pruning")
    latency.add_argument("--any-lut", action="store_true", help="use tables that were measured elsewhere")
    latency.add_argument("--bs", type=positive_int, default=32, help="batch size (default: %(default)s)")
    latency.add_argument("--seq-len", type=positive_int, help="tokens (default: the samples' average)")
    latency.add_argument("--backend", choices=get_args(Backend), default="eager", help="what runs the model")
    parser.add_argument("--export", choices=ONNX, help="ONNX files too, in the folder onnx: in float32, or also in "
                        "eight bits; the table shows them beside the dense model's")  # fmt: skip
    add_method_arguments(parser, METHODS, DEFAULT_METHOD)
    add_polish_arguments(parser)
    add_calibration_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    arguments.device = join(arguments.device)
    method = chosen_method(arguments)
    arguments.metric = arguments.metric or ("mac" if arguments.latency_ms is None else "latency")
    latency = LatencyOptions(
        ms=arguments.latency_ms,
        batch_size=arguments.bs,
        seq_len=arguments.seq_len,
        backend=arguments.backend,
        table=read_table(*(Path(arguments.lut) / name for name in FILES.values())) if arguments.lut else None,
        any_table=arguments.any_lut,
    )
    check_budget(arguments.constraint, arguments.metric, latency)
    check_method(method, arguments.metric, arguments.bf16)
    check_asked(method, arguments.polish_data, arguments.polish_budget)
    resolve_device(arguments.device)
    check_output(arguments.output)
    if arguments.export:
        if arguments.vocabulary:
            raise TrimformerError(
                "--export compares models of one vocabulary; leave it out and run `trimformer export` on the result"
            )
        check_onnx()
    polish_data = read_polish_data(arguments.polish_data) if arguments.polish_data else None
    vocabulary = arguments.vocabulary
    if vocabulary:
        vocabulary = read_vocabulary(vocabulary) or vocabulary  # a file is read once; None: the data's own texts
    if arguments.standalone and isinstance(method, Method) and method.allocation == "plain":
        raise TrimformerError("--layout plain loads without trimformer as it is; leave out --standalone")
    model, processor = load(arguments.model)
    if arguments.vocabulary:
        check_trimmable(model, processor)
    if arguments.standalone:
        check_standalone(model)
    task, train, validation = load_task_data(DataOptions.of(arguments, arguments.seed), model)
    prune_and_write(
        model,
        processor,
        train,
        arguments.output,
        {key: value for key, value in vars(arguments).items() if key not in ("run", "words")},
        ["trimformer", *arguments.words],
        export=arguments.export,
        standalone=arguments.standalone,
        constraint=arguments.constraint,
        eval_dataset=validation,
        task=task,
        metric=arguments.metric,
        latency=latency,
        vocabulary=vocabulary,
        method=method,
        polish_data=polish_data,
        polish_budget=arguments.polish_budget,
        neuron_multiple=arguments.neuron_multiple,
        num_samples=arguments.num_samples,
        batch_size=arguments.batch_size,
        max_memory=math.inf if arguments.max_memory is None else arguments.max_memory,
        bf16=arguments.bf16,
        seed=arguments.seed,
        device=arguments.device,
    )


def prune_and_write(
    model: Any,
    processor: Any,
    train: Any,
    output: str | Path,
    arguments: Mapping[str, Any],
    command: Sequence[str],
    *,
    export: str | None = None,
    standalone: bool = False,
    **options: Any,
) -> None:
    """Prunes, writes the output directory, with ONNX files if `export` names a kind, and prints the table."""
    with tempfile.TemporaryDirectory() as temporary:
        serving = None
        if export and is_main():  # the dense files first: what cannot be exported is told before the long work
            serving = Serving(model, processor, Path(temporary), export == "onnx-int8", options)
        result = prune(model, processor, train, **options)
        if not is_main():
            return
        beside = (lambda directory: serving.add(result, directory)) if serving else (lambda _: None)
        write_result(
            result,
            result.processor,
            output,
            find_sublayers(model),
            arguments,
            kept_log.lines,
            command,
            beside=beside,
            standalone=standalone,
        )
    print(f"\n{result}\n\nwritten to {output}")
