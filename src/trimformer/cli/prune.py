"""`trimformer prune`: reads a model directory and writes a smaller one."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trimformer.api import prune_model
from trimformer.checkpoints.save_load import load
from trimformer.checkpoints.standalone import check_standalone
from trimformer.checkpoints.vocabulary import check_trimmable, read_vocabulary
from trimformer.checkpoints.written_checks import check_tokenizer_reloads
from trimformer.cli.exported_files import ExportedFiles, export_dense
from trimformer.cli.flags.prune import read
from trimformer.cli.logs import kept_log
from trimformer.cli.resume import forget_calibration
from trimformer.cli.task_data import load_task_data
from trimformer.costs.backends import check_backend
from trimformer.data.splits import read_evaluation_rows
from trimformer.data.tasks.all_rows import check_some_labels
from trimformer.export.gguf.architecture import check_graph
from trimformer.export.gguf.export import check_gguf
from trimformer.export.onnx.export import check_exportable, check_onnx
from trimformer.models import find_sublayers
from trimformer.options.budgets import BudgetOptions
from trimformer.options.methods import AnyMethod, Method
from trimformer.options.output import OutputOptions
from trimformer.options.run import RunOptions
from trimformer.polish.unlabelled_rows import read_polish_data
from trimformer.reporting.cards.source import last_part
from trimformer.reporting.result_files import write_result
from trimformer.reports import MISSED_LATENCY
from trimformer.session.inputs import Inputs
from trimformer.session.setup import check_llama_cpp
from trimformer.session.unit_costs import resolve_latency
from trimformer.utils.distributed import is_main, join_processes, on_main
from trimformer.utils.environment import resolve_device
from trimformer.utils.outputs import lock_output
from trimformer.utils.stage_timer import StageTimer
from trimformer.utils.temp_dirs import temporary_directory

MISSED = 3  # exit code where the latency budget is not kept


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    arguments.device = join_processes(arguments.device)
    with lock_output(arguments.output, is_main()):
        code = _run(arguments)
        if is_main():
            forget_calibration(arguments.output)
        return code


def _run(arguments: argparse.Namespace) -> int:
    flags = read(arguments)
    arguments.metric = flags.budget.resolved_metric
    options = replace(flags.options, latency=resolve_latency(flags.options.latency))
    check_backend(options.latency.backend, resolve_device(options.execution.device))
    if flags.output.onnx:
        check_onnx()
    if flags.output.gguf:
        check_gguf()
    options = replace(options, polish=read_polish_data(options.polish))
    vocabulary = options.model.vocabulary
    if vocabulary is not None:  # a file is read once; without one the texts are the data's own
        texts = read_vocabulary(vocabulary) or vocabulary
        options = replace(options, model=replace(options.model, vocabulary=texts))
    model, processor = load(arguments.model, model_type=arguments.model_type, dtype=arguments.dtype)
    check_tokenizer_reloads(model, processor)
    model.to(resolve_device(options.execution.device))  # type: ignore[arg-type]
    if vocabulary is not None:
        check_trimmable(model, processor)
    if flags.output.onnx:
        check_exportable(model)
    if flags.output.gguf:
        check_graph(model, same_sizes=isinstance(flags.method, Method) and flags.method.keeps_one_size)
    check_llama_cpp(model, [flags.method], arguments.metric, options)
    if flags.output.standalone:
        check_standalone(model)
    judged = read_evaluation_rows(arguments.judge_data) if arguments.judge_data is not None else None
    timer = StageTimer()
    with timer("rows"):
        task, train, validation = load_task_data(
            options.data, model, processor, options.execution.seed, timed_length=options.latency.seq_len
        )
    if judged is not None and flags.budget.target is not None and flags.budget.target.kind == "drop":
        check_some_labels(task, judged, f"--judge-data '{arguments.judge_data}'")
    return prune_and_write(
        Inputs(model, processor, train, validation, judged, task, timer.seconds["rows"]),
        flags.budget,
        flags.method,
        options,
        arguments.output,
        flags.output,
        {key: value for key, value in vars(arguments).items() if key not in ("run", "words")},
        ["trimformer", *arguments.words],
    )


def prune_and_write(
    inputs: Inputs,
    budget: BudgetOptions,
    method: AnyMethod,
    options: RunOptions,
    path: str | Path,
    output: OutputOptions,
    arguments: Mapping[str, Any],
    command: Sequence[str],
) -> int:
    """Prunes, writes the output directory and prints the table.

    Args:
        inputs: model, processor and rows, with the task and the evaluation sets by name.
        budget: the budget, or the quality to keep.
        method: the method.
        options: all other options.
        path: the output directory.
        output: what is written there.
        arguments: the flags, for `results.json`.
        command: the words of the command.

    Returns:
        The exit code: 0, or `MISSED` where the model misses its latency budget.
    """
    with temporary_directory() as temporary:
        exported: list[ExportedFiles] = []  # of the main process only
        timer = StageTimer()
        if output.export:  # the dense files first, so that a failing export ends before the long work
            with timer("export"):
                size, name = options.data.batch_size, last_part(path)
                on_main(lambda: exported.append(export_dense(inputs, temporary, output, size, name)))
        result = prune_model(inputs, budget, method, options)
        if not is_main():
            return 0

        def add_files(directory: Path) -> None:
            if exported:
                with timer("export"):
                    exported[0].add(result, directory)
                result.cost.seconds.update(timer.seconds)

        write_result(
            result,
            result.processor,
            path,
            find_sublayers(inputs.model),
            arguments,
            kept_log.lines,
            command,
            beside=add_files,
            standalone=output.standalone,
        )
    print(f"\n{result}\n\nwritten to {path}")
    if result.budget.missed:
        print(MISSED_LATENCY, file=sys.stderr)
        return MISSED
    return 0
