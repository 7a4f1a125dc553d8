"""Runs `main.py`, which has the flags of the paper's code."""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch

from trimformer.checkpoints.gguf_input import is_gguf
from trimformer.checkpoints.save_load import load
from trimformer.cli.prune import prune_and_write
from trimformer.cli.task_data import load_task_data
from trimformer.costs.lookup_tables import LatencyTable, read_table
from trimformer.data.tasks import find_task
from trimformer.errors import TrimformerError
from trimformer.options.budgets import BudgetOptions, check_constraint
from trimformer.options.data import DataOptions
from trimformer.options.execution import ExecutionOptions
from trimformer.options.latency import LatencyOptions
from trimformer.options.methods import find_method
from trimformer.options.output import OutputOptions
from trimformer.options.run import RunOptions
from trimformer.session.inputs import Inputs
from trimformer.utils.distributed import is_main, join_processes
from trimformer.utils.input_paths import check_model_path
from trimformer.utils.outputs import lock_output


def read_luts(arguments: argparse.Namespace) -> LatencyTable | None:
    """Reads the two tables; returns None if they are measured now or not needed.

    Raises:
        TrimformerError: the flags contradict each other, or a table cannot be read.
    """
    tables = bool(arguments.mha_lut or arguments.ffn_lut)
    if arguments.metric == "mac" and tables:
        raise TrimformerError(
            "--mha_lut and --ffn_lut have no effect on --metric mac; leave them out, or give --metric latency"
        )
    if arguments.any_lut and not tables:
        raise TrimformerError("--any_lut accepts the tables of --mha_lut and --ffn_lut; give them too, or leave it out")
    if not tables:
        return None
    if not (arguments.mha_lut and arguments.ffn_lut):
        raise TrimformerError("--metric latency takes both --mha_lut and --ffn_lut, or neither to measure them now")
    return read_table(arguments.mha_lut, arguments.ffn_lut)


def folder_name(model_name: str) -> str:
    """The folder in outputs/ for a model: its name, or the last part of an absolute path.

    Raises:
        TrimformerError: the name leads out of outputs/.
    """
    path = Path(model_name)
    if ".." in path.parts:
        raise TrimformerError(f"--model_name '{model_name}' leads out of outputs/; give it no '..'")
    if not path.name:
        raise TrimformerError(f"--model_name '{model_name}' names no folder in outputs/; give the model's name")
    return path.name if path.is_absolute() else model_name


def run(arguments: argparse.Namespace) -> int:
    """Runs the command; returns its exit code."""
    check_constraint(arguments.constraint)
    name = folder_name(arguments.model_name)
    find_task(arguments.task_name)  # the task also names a folder
    check_model_path(arguments.ckpt_dir)
    latency = LatencyOptions(table=read_luts(arguments), any_table=arguments.any_lut)
    device = join_processes(f"cuda:{arguments.gpu}" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        logging.getLogger("trimformer").info("no CUDA device: --gpu is ignored, the CPU is used")
    setting = Path(arguments.task_name, arguments.metric, str(arguments.constraint), f"seed_{arguments.seed}")
    output = arguments.output_dir if arguments.output_dir is not None else Path("outputs", name, setting)
    with lock_output(output, wanted=is_main()):
        return prune_checkpoint(output, name, arguments, latency, device)


def prune_checkpoint(
    output: str | Path, name: str, arguments: argparse.Namespace, latency: LatencyOptions, device: str
) -> int:
    """Prunes to the flags' budget, writes the output directory, and returns the exit code."""
    if is_gguf(arguments.ckpt_dir):
        raise TrimformerError(f"'{arguments.ckpt_dir}' is a GGUF file; give --ckpt_dir a directory of save_pretrained")
    model, tokenizer = load(arguments.ckpt_dir, tokenizer_name=arguments.model_name)
    data = DataOptions(arguments.data_dir, arguments.task_name, num_samples=arguments.num_samples)
    task, train, validation = load_task_data(data, model, tokenizer, arguments.seed)
    batch_size = 12 if task.problem == "span" else 32
    batch_size = arguments.sample_batch_size or (batch_size // 2 if "large" in name else batch_size)
    options = RunOptions(
        replace(data, batch_size=batch_size),
        latency=latency,
        execution=ExecutionOptions(seed=arguments.seed, device=device),
    )
    return prune_and_write(
        Inputs(model, tokenizer, train, validation, task=task),
        BudgetOptions(arguments.constraint, metric=arguments.metric),
        find_method(arguments.method),
        options,
        output,
        OutputOptions(),
        vars(arguments),
        ["python", "main.py", *sys.argv[1:]],
    )
