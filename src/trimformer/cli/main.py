"""The command line: `trimformer prune | evaluate | finetune | lut | bench`."""

import argparse
import json
import logging
import math
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from trimformer.errors import TrimformerError

logger = logging.getLogger("trimformer")


def build_parser() -> argparse.ArgumentParser:
    from trimformer import __version__
    from trimformer.cli.latency import add_bench_arguments, add_lut_arguments
    from trimformer.costs.backends import Backend
    from trimformer.costs.cost import Metric
    from trimformer.methods import DEFAULT_METHOD, METHODS
    from trimformer.select.allocations import NEURON_MULTIPLE

    parser = argparse.ArgumentParser(prog="trimformer", description="Prune Transformers encoders without retraining.")
    parser.add_argument("--version", action="version", version=f"trimformer {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    prune = commands.add_parser("prune", help="prune a fine-tuned model directory to a budget")
    prune.add_argument("model", metavar="MODEL_DIR", help="fine-tuned checkpoint: a directory, or a name on the hub")
    add_data_arguments(prune)
    prune.add_argument("--constraint", type=float, help="share of the cost to keep, in (0, 1]")
    prune.add_argument("--output", required=True, help="directory of the pruned model; must not exist or be empty")
    prune.add_argument("--metric", choices=get_args(Metric), help="what the constraint counts "
                       "(default: mac; with --latency-ms latency)")  # fmt: skip
    prune.add_argument("--neuron-multiple", type=positive_int, default=NEURON_MULTIPLE, help="keep neurons in such "
                       "multiples, where dp allocates (default: %(default)s)")  # fmt: skip
    latency = prune.add_argument_group("latency", "what --metric latency keeps to, and what the report measures")
    latency.add_argument("--latency-ms", type=float, help="milliseconds to keep to, instead of --constraint")
    latency.add_argument("--lut", metavar="DIR", help="tables of `trimformer lut`; default: measured before pruning")
    latency.add_argument("--any-lut", action="store_true", help="use tables that were measured elsewhere")
    latency.add_argument("--bs", type=positive_int, default=32, help="batch size (default: %(default)s)")
    latency.add_argument("--seq-len", type=positive_int, help="tokens (default: the samples' average)")
    latency.add_argument("--backend", choices=get_args(Backend), default="eager", help="what runs the model")
    add_method_arguments(prune, METHODS, DEFAULT_METHOD)
    add_calibration_arguments(prune)
    prune.set_defaults(run=run_prune)

    evaluate = commands.add_parser("evaluate", help="score a model directory, dense or pruned")
    evaluate.add_argument("model", metavar="MODEL_DIR")
    add_data_arguments(evaluate)
    evaluate.add_argument("--masks", metavar="DIR", help="evaluate under head_mask.pt and neuron_mask.pt of DIR")
    evaluate.add_argument("--reference", metavar="MODEL_DIR", help="dense model to measure the divergence from")
    evaluate.add_argument("--output", help="write the metrics to this JSON file")
    evaluate.add_argument("--batch-size", type=positive_int, default=32)
    evaluate.add_argument("--device", default="auto")
    evaluate.set_defaults(run=run_evaluate, seed=0)  # nothing is drawn: all rows are scored

    lut = commands.add_parser("lut", help="measure latency look-up tables of a model's sublayers")
    add_lut_arguments(lut)
    bench = commands.add_parser("bench", help="compare the latency of model directories")
    add_bench_arguments(bench)

    finetune = commands.add_parser("finetune", help="fine-tune a model, before or after pruning", add_help=False)
    finetune.set_defaults(run=run_finetune)
    return parser


def add_method_arguments(parser: argparse.ArgumentParser, names: Iterable[str], default: str) -> None:
    from trimformer.methods import Allocation, Criterion, Objective, Update

    method = parser.add_argument_group("method", "a preset, and choices of it to replace")
    method.add_argument("--method", default=default, help=f"{', '.join(names)} (default: %(default)s)")
    method.add_argument("--criterion", choices=get_args(Criterion), help="what ranks units")
    method.add_argument("--allocation", choices=get_args(Allocation), help="what shares out the budget")
    method.add_argument("--update", choices=get_args(Update), help="what is refitted")
    method.add_argument(
        "--reconstruct", dest="update", action="store_const", const="full", help="the same as --update full"
    )
    method.add_argument("--objective", choices=get_args(Objective), help="whether the ranking loss reads labels")


def chosen_method(arguments: argparse.Namespace) -> Any:
    """The preset with the choices that replace its own."""
    from dataclasses import replace

    from trimformer.methods import find_method

    choices = {name: getattr(arguments, name) for name in ("criterion", "allocation", "update", "objective")}
    return replace(find_method(arguments.method), **{name: value for name, value in choices.items() if value})


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--data", "--data-dir", "--data_dir", metavar="FILE_OR_DIR", help="JSON lines, CSV, TSV, "
                      "Parquet, a folder of <split> files, or a datasets.save_to_disk folder")  # fmt: skip
    data.add_argument("--task", help="a known task (mrpc, squad, ...); default: told by the model and the columns")
    data.add_argument("--text-column", nargs="+", metavar="NAME", help="one text column, or two for pairs")
    data.add_argument("--label-column", metavar="NAME")
    data.add_argument("--max-length", type=positive_int, help="tokens beyond which a sample is cut (default: "
                      "the model's limit, for questions 384, for a known task its own)")  # fmt: skip


def add_calibration_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-samples", type=positive_int, default=2048, help="calibration examples (default: 2048)")
    parser.add_argument("--batch-size", type=positive_int, default=32, help="samples in a batch, as long as they have "
                        "no more than 4,096 tokens (default: 32)")  # fmt: skip
    parser.add_argument("--max-memory", type=memory, metavar="SIZE", help="what the samples' hidden states and "
                        "channels may take in each process, such as 8GB; beyond, channels are computed twice "
                        "and hidden states go to temporary files")  # fmt: skip
    parser.add_argument("--bf16", action="store_true", help="calibrate and refit with passes in bfloat16")
    parser.add_argument("--seed", type=non_negative_int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive whole number")
    return int(text)


def memory(text: str) -> float:
    """Bytes of "8GB", "500MB" or a plain number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 8GB or 500MB")
    return float(match[1]) * 1000 ** " KMGT".index(match[2] or " ")


def non_negative_int(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 up")
    return int(text)


def run_prune(arguments: argparse.Namespace) -> None:
    from trimformer.costs.lut import FILES, read_table
    from trimformer.environment import resolve_device
    from trimformer.files import check_output
    from trimformer.pipeline import check_budget, check_method
    from trimformer.processes import join
    from trimformer.shrinking.checkpoint import load
    from trimformer.verify.promise import LatencyOptions

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
    resolve_device(arguments.device)
    check_output(arguments.output)
    model, tokenizer = load(arguments.model)
    task, train, validation = load_task_data(arguments, model)
    prune_and_write(
        model,
        tokenizer,
        train,
        arguments.output,
        vars_of(arguments),
        constraint=arguments.constraint,
        eval_dataset=validation,
        task=task,
        metric=arguments.metric,
        latency=latency,
        method=method,
        neuron_multiple=arguments.neuron_multiple,
        num_samples=arguments.num_samples,
        batch_size=arguments.batch_size,
        max_memory=math.inf if arguments.max_memory is None else arguments.max_memory,
        bf16=arguments.bf16,
        seed=arguments.seed,
        device=arguments.device,
    )


def prune_and_write(
    model: Any, tokenizer: Any, train: Any, output: str | Path, arguments: Mapping[str, Any], **options: Any
) -> None:
    """Prunes, prints the table, and writes the output directory."""
    from trimformer.arch import find_sublayers
    from trimformer.cli.report import format_table, write_result
    from trimformer.pipeline import prune
    from trimformer.processes import is_main

    result = prune(model, tokenizer, train, **options)
    if not is_main():
        return
    table = format_table(result)
    log = "\n".join([*kept_log.lines, "", table, ""])
    write_result(result, tokenizer, output, find_sublayers(model), arguments, log)
    print(f"\n{table}\n\nwritten to {output}")


def output_file(name: str | None) -> Path | None:
    """A file to be written at the end of a run, if one is named; its folder must be there now."""
    path = Path(name) if name else None
    if path and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise TrimformerError(f"output file '{path}' is a folder, or in one that does not exist; name a file")
    return path


def run_evaluate(arguments: argparse.Namespace) -> None:
    from contextlib import nullcontext

    from trimformer.arch import find_sublayers
    from trimformer.arch.masking import MaskUnits
    from trimformer.environment import resolve_device
    from trimformer.shrinking.checkpoint import load, read_masks
    from trimformer.verify.evaluation import Scorer

    device = resolve_device(arguments.device)
    output = output_file(arguments.output)
    model, tokenizer = load(arguments.model)
    reference = load_reference(arguments.reference, model).to(device) if arguments.reference else None
    task, _, validation = load_task_data(arguments, model, need_train=False)
    masks = read_masks(arguments.masks, model) if arguments.masks else None
    model.to(device)  # type: ignore[arg-type]
    masking = MaskUnits(find_sublayers(model), [m.to(device) for m in masks]) if masks else nullcontext()
    report: dict[str, Any] = {}
    for name, rows in validation.items():
        scorer = Scorer(name, rows, task, model, tokenizer, arguments.batch_size)
        with masking:
            metrics, outputs = scorer(model)
        report[name] = {"samples": len(rows), **metrics}
        if reference is not None:
            report[name]["divergence"] = scorer.divergence(outputs, scorer(reference)[1])
    text = json.dumps(report, indent=2)
    print(text)
    if output:
        output.write_text(text + "\n", encoding="utf-8")


def load_reference(path: str, model: Any) -> Any:
    """The dense model; its outputs must be comparable."""
    from trimformer.batches.output import find_problem
    from trimformer.shrinking.checkpoint import load

    reference = load(path)[0]
    kinds = [(find_problem(m), m.config.num_labels, m.config.vocab_size) for m in (model, reference)]
    if kinds[0] != kinds[1]:
        raise TrimformerError(
            f"--reference '{path}' is not the dense model of this one: its head or vocabulary differs"
        )
    return reference


def run_finetune(arguments: argparse.Namespace) -> None:
    from trimformer.cli.finetune import run

    run(arguments.rest)


def load_task_data(arguments: argparse.Namespace, model: Any, need_train: bool = True) -> tuple[Any, Any, Any]:
    """Task, training rows, and validation rows by split, as the data arguments say."""
    from dataclasses import replace

    from trimformer.batches.data import find_splits, load_hub, read_splits
    from trimformer.batches.output import find_problem
    from trimformer.batches.tasks import find_task, infer_task
    from trimformer.batches.tasks.base import check_task

    problem = find_problem(model)
    if arguments.task and (arguments.text_column or arguments.label_column):
        raise TrimformerError("--task gives the columns; leave out --text-column and --label-column")
    task = check_task(find_task(arguments.task), problem) if arguments.task else None
    if arguments.data is not None:
        splits = read_splits(arguments.data)
    elif task is not None:
        splits = load_hub(task.name, task.hub)
    else:
        raise TrimformerError("no data: give a file or folder with --data, or a known task with --task")
    train, validation = find_splits(splits, arguments.seed, need_train=need_train)
    if task is None:
        columns = {"text_columns": arguments.text_column, "label_column": arguments.label_column}
        task = infer_task(problem, model.config, next(iter(validation.values())), **columns)
    if arguments.max_length:
        task = replace(task, max_length=arguments.max_length)
    return task, train, validation


def vars_of(arguments: argparse.Namespace) -> dict[str, Any]:
    return {key: value for key, value in vars(arguments).items() if key != "run"}


class KeptLog(logging.Handler):
    """Keeps the log for `log.txt`, which is written with the rest once the run succeeds."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


kept_log = KeptLog()


def set_up_logging() -> None:
    """Our log on standard error and kept for `log.txt`; libraries' chatter silenced."""
    import transformers

    logger.setLevel(logging.INFO)
    logger.handlers.clear()
    kept_log.lines.clear()
    formatter = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for handler in (logging.StreamHandler(), kept_log):
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")


def guarded(run: Callable[[], None]) -> int:
    """Exit code of a command: 2 with one sentence for bad input, no traceback."""
    from trimformer import processes

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    set_up_logging()
    # A launcher ends its processes by this signal; raised as an exception, it leaves nothing half-written.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run()
    except TrimformerError as error:
        if processes.is_main() or isinstance(error, processes.LostProcess):
            print(f"error: {error}", file=sys.stderr)
        else:
            time.sleep(3)  # the first to leave ends the others: the main one speaks first
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    finally:
        processes.leave()
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    arguments, rest = build_parser().parse_known_args(argv)
    if arguments.command == "finetune":
        arguments.rest = rest  # parsed by Transformers' own parser
    elif rest:
        build_parser().error(f"unrecognized arguments: {' '.join(rest)}")
    return guarded(lambda: arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
