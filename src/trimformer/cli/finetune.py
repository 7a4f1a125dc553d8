"""The `finetune` command: trains and scores a model for any supported task, with the Trainer's own flags."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer, HfArgumentParser, PreTrainedModel, TrainingArguments

from trimformer.checkpoints.checkpoint_checks import (
    check_config,
    check_finite_weights,
    check_layers_loaded,
    check_no_adapter,
)
from trimformer.cli.training_flags import check_training_flags
from trimformer.data.class_names import class_names_of
from trimformer.data.files import read_rows
from trimformer.data.model_inputs import encode_rows
from trimformer.data.processor import check_vocabulary
from trimformer.data.rows import Rows
from trimformer.data.splits import find_splits, load_hub, read_splits
from trimformer.data.tasks import Task, find_task, infer_task
from trimformer.data.tasks.all_rows import check_labelled, sample_row, settle_labels
from trimformer.data.tasks.infer_labels import guess_problem, problem_of, set_labels
from trimformer.errors import TrimformerError, one_sentence
from trimformer.evaluation.scores import Scorer
from trimformer.finetuning import check_train_extra, finetune
from trimformer.options.checks import POSITIVE
from trimformer.utils.distributed import is_main
from trimformer.utils.input_paths import check_model_path
from trimformer.utils.outputs import lock_file, lock_output, write_directory

SCORES = "eval_results.json"


@dataclass
class FinetuneArguments:
    """Flags for the model and the data; `transformers.TrainingArguments` has those for the training."""

    model_name_or_path: str = field(metadata={"help": "directory or hub name of the model, dense or pruned"})
    task_name: str | None = field(default=None, metadata={"help": "cola, sst2, mrpc, stsb, ..., squad, squad_v2"})
    data_dir: str | None = field(default=None, metadata={"help": "folder of train.* and validation.* files"})
    train_file: str | None = field(default=None, metadata={"help": "JSON lines, CSV, TSV or Parquet"})
    validation_file: str | None = field(default=None, metadata={"help": "same formats; default: a fifth of train_file"})
    max_seq_length: int | None = field(default=None, metadata={"help": "maximum number of tokens per sample"})
    text_column: list[str] | None = field(default=None, metadata={"help": "one text column, or two for pairs"})
    label_column: str | None = field(default=None, metadata={"help": "default: guessed from the usual names"})
    ignore_mismatched_sizes: bool = field(default=False, metadata={"help": "replace the head if the labels differ"})


def run(argv: Sequence[str]) -> None:
    """Trains and scores a model; the flags are those of `FinetuneArguments` and `transformers.TrainingArguments`.

    Raises:
        TrimformerError: a flag, the model or the data cannot be used.
    """
    check_train_extra()
    defaults = {"output_dir": "", "save_strategy": "no", "report_to": "none", "disable_tqdm": not sys.stderr.isatty()}
    parser = HfArgumentParser([FinetuneArguments, TrainingArguments], prog="trimformer finetune")  # type: ignore[list-item]
    parser.set_defaults(**defaults)
    with one_sentence("the flags cannot be used"):
        arguments, training = parser.parse_args_into_dataclasses(args=list(argv))
    check_model_path(arguments.model_name_or_path)
    if training.do_predict:
        raise TrimformerError("--do_predict writes nothing here; leave it out, or give --do_eval for scores")
    if not training.do_train and not training.do_eval:
        raise TrimformerError("nothing to do: give --do_train, --do_eval or both")
    if arguments.max_seq_length is not None:
        POSITIVE.check(arguments.max_seq_length, "max_length")
    check_training_flags(training)
    _check_sources(arguments)
    if not training.do_train:
        _score(arguments, training)
        return
    if not training.output_dir:
        raise TrimformerError("--output_dir is missing; name the directory to write the trained model to")
    with _output_directory(training):
        report = _train(arguments, training)
    if report is not None:
        print(json.dumps(report, indent=2))


def _check_sources(arguments: FinetuneArguments) -> None:
    """Checks that no flag that names data is without effect.

    Raises:
        TrimformerError: two flags name the data, or columns are named for a task that fixes them.
    """
    if arguments.data_dir and (arguments.train_file or arguments.validation_file):
        raise TrimformerError("--data_dir has its own files; leave out --train_file and --validation_file")
    if arguments.task_name and (arguments.text_column or arguments.label_column):
        raise TrimformerError("--task_name gives the columns; leave out --text_column and --label_column")


@contextmanager
def _output_directory(training: TrainingArguments) -> Iterator[None]:
    """Protects the output directory during training.

    Without checkpoints, the Trainer writes to a temporary directory that becomes the output on success. With
    checkpoints, which must survive an interruption, it writes to the output directory itself, under a lock.
    """
    output = Path(str(training.output_dir))
    if not training.process_index:
        _check_resumed(training.resume_from_checkpoint, output)
    if training.process_index or training.resume_from_checkpoint:
        yield
        return
    if str(training.save_strategy) in ("no", "SaveStrategy.NO"):
        with write_directory(output) as directory:
            training.output_dir = str(directory)
            yield
        return
    with lock_output(output):
        try:
            yield
        except KeyboardInterrupt:
            checkpoints = ", ".join(sorted(folder.name for folder in output.glob("checkpoint-*")))
            left = f"'{output}' contains {checkpoints}" if checkpoints else "nothing was written"
            raise KeyboardInterrupt(f"interrupted; {left}") from None
        finally:
            with suppress(OSError):
                output.rmdir()  # the Trainer creates it at the start; this fails unless it is empty


def _check_resumed(checkpoint: str | None, output: Path) -> None:
    """Checks that training goes on in the folder of its checkpoint, as it replaces what is there.

    Raises:
        TrimformerError: the output directory holds files, but not this checkpoint.
    """
    if checkpoint is None or not output.is_dir() or Path(checkpoint).parent.resolve() == output.resolve():
        return
    if any(output.iterdir()):
        raise TrimformerError(
            f"'{checkpoint}' is not in the output directory '{output}', whose files training would replace; give the "
            "directory of the checkpoint, or an empty one"
        )


@dataclass
class _Setup:
    """The model, the task and the data to train and score on."""

    model: PreTrainedModel
    tokenizer: Any
    task: Task
    train: Rows
    validation: dict[str, Rows]

    def scorers(self) -> list[Scorer]:
        return [Scorer(name, rows, self.task, self.model, self.tokenizer) for name, rows in self.validation.items()]


def _score(arguments: FinetuneArguments, training: TrainingArguments) -> None:
    """Scores without training; writes the scores to a file too if the output directory exists."""
    output = Path(training.output_dir or "")
    has_output = bool(training.output_dir) and output.is_dir()
    with lock_file(output / SCORES if has_output else None) as write:
        setup = _prepare(arguments, training)
        report = {scorer.name: scorer(setup.model)[0] for scorer in setup.scorers()}
        write(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def _train(arguments: FinetuneArguments, training: TrainingArguments) -> dict[str, Any] | None:
    """Trains and writes the model; returns its scores if `--do_eval` is set."""
    setup = _prepare(arguments, training)
    model, tokenizer, task = setup.model, setup.tokenizer, setup.task
    scorers = setup.scorers()
    features = encode_rows(task, setup.train, model, tokenizer)
    eval_features = None
    if training.eval_strategy != "no":
        eval_features = task.encode(next(iter(setup.validation.values())), tokenizer, model.config)
    finetune(model, tokenizer, features, training, eval_features)
    if not is_main():
        return None
    # `checkpoints.save` refuses a directory that is not empty, and the Trainer's checkpoints may already be there.
    output = Path(str(training.output_dir))
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    if not training.do_eval:
        return None
    report = {scorer.name: scorer(model)[0] for scorer in scorers}
    (output / SCORES).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _prepare(arguments: FinetuneArguments, training: TrainingArguments) -> _Setup:
    """Loads the model and the data.

    Raises:
        TrimformerError: the model or the data cannot be used, or the weights do not fit the labels of the data.
    """
    source = arguments.model_name_or_path
    transformers.set_seed(training.seed)
    train, validation = find_splits(_read(arguments), training.seed, need_train=training.do_train)
    sets = [*([train] if training.do_train else []), *validation.values()]
    rows = [sample_row(sets), *sets[0]]  # the first row has all columns
    check_no_adapter(Path(source))
    is_local = Path(source).is_dir()
    failure = f"model '{source}' cannot be loaded" if is_local else f"'{source}' is neither a directory nor on the hub"
    with one_sentence(failure):
        config = AutoConfig.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
    check_vocabulary(tokenizer, Path(source))
    check_config(config, Path(source))
    named_task = find_task(arguments.task_name) if arguments.task_name else None
    problem, column = problem_of(named_task) if named_task else guess_problem(rows, arguments.label_column)
    if training.do_train:  # else the model's own labels are read
        names = class_names_of(sets[0]).get(column or "", getattr(named_task, "class_names", ()))
        set_labels(config, problem, column, [*train, *(row for split in validation.values() for row in split)], names)
    # Any set may have questions without an answer.
    every_row = [*rows, *chain.from_iterable(sets[1:])] if problem == "span" else rows
    task = named_task or infer_task(
        problem, config, every_row, text_columns=arguments.text_column, label_column=arguments.label_column
    )
    check_labelled(task, sets)
    task = settle_labels(task, config, sets)
    if arguments.max_seq_length:
        task = replace(task, max_length=arguments.max_seq_length)
    model_class = getattr(transformers, task.auto_class)
    advice = "--ignore_mismatched_sizes replaces the head"
    with one_sentence(f"the weights of '{source}' do not fit {config.num_labels} labels ({advice})"):
        model, info = model_class.from_pretrained(
            source,
            config=config,
            ignore_mismatched_sizes=arguments.ignore_mismatched_sizes,
            output_loading_info=True,
        )
    check_layers_loaded(model, info, Path(source))  # also rejects families that cannot be pruned
    check_finite_weights(model, f"the weights in '{source}'")
    return _Setup(model, tokenizer, task, train, validation)


def _read(arguments: FinetuneArguments) -> dict[str, Rows]:
    if arguments.data_dir:
        return read_splits(arguments.data_dir)
    files = {"train": arguments.train_file, "validation": arguments.validation_file}
    if any(files.values()):
        return {split: read_rows(file) for split, file in files.items() if file}
    if arguments.task_name is None:
        raise TrimformerError("no data: give --task_name, --data_dir or --train_file")
    task = find_task(arguments.task_name)
    return load_hub(task.name, task.hub)
