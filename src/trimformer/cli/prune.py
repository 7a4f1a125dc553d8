"""`trimformer prune`: a model directory in, a smaller one out."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trimformer.checkpoints.checkpoint import load
from trimformer.checkpoints.standalone import check_standalone
from trimformer.checkpoints.vocabulary import check_trimmable, read_vocabulary
from trimformer.cli.arguments import DataOptions, calibration_options, chosen_method, load_task_data
from trimformer.cli.logs import kept_log
from trimformer.cli.resume import forget_calibration
from trimformer.cli.serving import Serving
from trimformer.costs.lookup_tables import FILES, read_table
from trimformer.data.splits import read_all
from trimformer.errors import TrimformerError
from trimformer.evaluation.latency_target import LatencyOptions
from trimformer.export.onnx.export import check_onnx
from trimformer.models import find_sublayers
from trimformer.options.budgets import check_method
from trimformer.polish.data import check_polish, read_polish_data
from trimformer.pruning import prune
from trimformer.reporting.result_files import write_result
from trimformer.utils.distributed import is_main, join
from trimformer.utils.environment import resolve_device
from trimformer.utils.outputs import lock_output
from trimformer.utils.temp_dirs import temporary_directory

MISSED = 3  # exit code where a latency is not kept


def run(arguments: argparse.Namespace) -> int:
    arguments.device = join(arguments.device)
    with lock_output(arguments.output, is_main()):
        code = _run(arguments)
        if is_main():
            forget_calibration(arguments.output)
        return code


def _run(arguments: argparse.Namespace) -> int:
    method = chosen_method(arguments)
    arguments.metric = arguments.metric or ("mac" if arguments.latency_ms is None else "latency")
    table = read_table(*(Path(arguments.lut) / name for name in FILES.values())) if arguments.lut else None
    if table and table.setting and arguments.bs not in (None, table.setting["batch_size"]):
        raise TrimformerError(
            f"--bs {arguments.bs} is not the batch size of the table in '{arguments.lut}', which is "
            f"{table.setting['batch_size']}; leave out --bs, or measure another table"
        )
    latency = LatencyOptions(
        batch_size=arguments.bs or LatencyOptions.batch_size,
        seq_len=arguments.seq_len,
        backend=arguments.backend,
        table=table,
        any_table=arguments.any_lut,
    )
    check_method(method, arguments.metric, arguments.bf16)
    check_polish([method], arguments.polish_data, arguments.polish_budget, arguments.polish_stoppable)
    resolve_device(arguments.device)
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
    model, processor = load(arguments.model)
    if arguments.vocabulary:
        check_trimmable(model, processor)
    if arguments.standalone:
        check_standalone(model)
    judged = read_all(arguments.judge_data) if arguments.judge_data else None
    task, train, validation = load_task_data(DataOptions.of(arguments, arguments.seed), model)
    return prune_and_write(
        model,
        processor,
        train,
        arguments.output,
        {key: value for key, value in vars(arguments).items() if key not in ("run", "words")},
        ["trimformer", *arguments.words],
        export=arguments.export,
        standalone=arguments.standalone,
        constraint=arguments.constraint,
        latency_ms=arguments.latency_ms,
        max_drop=arguments.max_drop,
        max_divergence=arguments.max_divergence,
        eval_dataset=validation,
        judge_dataset=judged,
        task=task,
        metric=arguments.metric,
        latency=latency,
        vocabulary=vocabulary,
        method=method,
        polish_data=polish_data,
        **calibration_options(arguments),
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
) -> int:
    """Prunes, writes the output directory, with ONNX files if `export` names a kind, and prints the table.

    Returns:
        The exit code: 0, or `MISSED` where the model is slower than was asked for.
    """
    with temporary_directory() as temporary:
        serving = None
        if export and is_main():  # the dense files first: what cannot be exported is told before the long work
            serving = Serving(model, processor, temporary, export == "onnx-int8", options)
        result = prune(model, processor, train, **options)
        if not is_main():
            return 0
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
    if result.budget.missed:
        print("the latency that was asked for is missed: the model is slower by more than the noise", file=sys.stderr)
        return MISSED
    return 0
