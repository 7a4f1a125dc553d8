"""The flags of Transformers' example scripts, for every task this package knows."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig, AutoTokenizer, HfArgumentParser, PreTrainedModel, TrainingArguments

from trimformer.checkpoints.checkpoint_checks import check_config, check_finite, check_layers_loaded
from trimformer.cli.training_flags import check_training
from trimformer.data.files import read_rows
from trimformer.data.processor import check_vocabulary
from trimformer.data.rows import Rows
from trimformer.data.splits import find_splits, load_hub, read_splits
from trimformer.data.tasks import Task, find_task, infer_task
from trimformer.data.tasks.infer_labels import guess_problem, problem_of, set_labels
from trimformer.errors import TrimformerError, one_sentence
from trimformer.evaluation.scores import Scorer
from trimformer.finetuning import finetune, require_train_extra
from trimformer.options.checks import MAX_LENGTH
from trimformer.utils.distributed import is_main
from trimformer.utils.input_paths import check_model_place
from trimformer.utils.outputs import lock_file, lock_output, write_directory

SCORES = "eval_results.json"


@dataclass
class FinetuneArguments:
    """What to train, on what."""

    model_name_or_path: str = field(metadata={"help": "directory or hub name of the model; it may be a pruned one"})
    task_name: str | None = field(default=None, metadata={"help": "cola, sst2, mrpc, stsb, ..., squad, squad_v2"})
    data_dir: str | None = field(default=None, metadata={"help": "folder of train.* and validation.* files"})
    train_file: str | None = field(default=None, metadata={"help": "JSON lines, CSV, TSV or Parquet"})
    validation_file: str | None = field(default=None, metadata={"help": "the same; default: a fifth of train_file"})
    max_seq_length: int | None = field(default=None, metadata={"help": "tokens beyond which a sample is cut"})
    text_column: list[str] | None = field(default=None, metadata={"help": "one text column, or two for pairs"})
    label_column: str | None = field(default=None, metadata={"help": "default: guessed from the usual names"})
    ignore_mismatched_sizes: bool = field(default=False, metadata={"help": "a new head where the labels are others"})


def run(argv: Sequence[str]) -> None:
    """Trains and scores as the flags say; see `FinetuneArguments` and `transformers.TrainingArguments`.

    Raises:
        TrimformerError: the input cannot be used.
    """
    require_train_extra()

    defaults = {"output_dir": "", "save_strategy": "no", "report_to": "none", "disable_tqdm": not sys.stderr.isatty()}
    parser = HfArgumentParser([FinetuneArguments, TrainingArguments], prog="trimformer finetune")  # type: ignore[list-item]
    parser.set_defaults(**defaults)
    with one_sentence("the flags cannot be used"):
        arguments, training = parser.parse_args_into_dataclasses(args=list(argv))
    check_model_place(arguments.model_name_or_path)
    if not training.do_train and not training.do_eval:
        raise TrimformerError("nothing to do: give --do_train, --do_eval or both")
    if arguments.max_seq_length is not None:
        MAX_LENGTH.check(arguments.max_seq_length)
    check_training(training)
    if not training.do_train:
        _score(arguments, training)
        return
    if not training.output_dir:
        raise TrimformerError("--output_dir is missing: where the trained model is to be written")
    with _place(training):
        report = _train(arguments, training)
    if report is not None:
        print(json.dumps(report, indent=2))


@contextmanager
def _place(training: TrainingArguments) -> Iterator[None]:
    """Where the Trainer writes: a folder that becomes the output once complete; but where checkpoints are asked for,
    which must outlive what interrupts the training, the output itself."""
    output = Path(str(training.output_dir))
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
            saved = sorted(folder.name for folder in output.glob("checkpoint-*"))
            told = f"of the training so far there are {', '.join(saved)} in '{output}'" if saved else ""
            raise KeyboardInterrupt(f"interrupted; {told or 'nothing was written'}") from None
        finally:
            with suppress(OSError):
                output.rmdir()  # the Trainer makes it at once; it stays where something is in it


@dataclass
class _Job:
    """A model and what it is trained and scored on."""

    model: PreTrainedModel
    tokenizer: Any
    task: Task
    train: Rows
    validation: dict[str, Rows]

    def scorers(self) -> list[Scorer]:
        return [Scorer(name, rows, self.task, self.model, self.tokenizer) for name, rows in self.validation.items()]


def _score(arguments: FinetuneArguments, training: TrainingArguments) -> None:
    """Scores alone; beside a model that is there already goes a file of the scores."""
    output = Path(training.output_dir or "")
    there = bool(training.output_dir) and output.is_dir()
    with lock_file(output / SCORES if there else None) as write:
        job = _prepare(arguments, training)
        report = {scorer.name: scorer(job.model)[0] for scorer in job.scorers()}
        write(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def _train(arguments: FinetuneArguments, training: TrainingArguments) -> dict[str, Any] | None:
    """Trains and writes the model; its scores, if they are asked for."""
    job = _prepare(arguments, training)
    scorers = job.scorers()
    features = job.task.encode(job.train, job.tokenizer, job.model.config)
    wanted = training.eval_strategy != "no"
    evaluated = next(iter(job.validation.values()))
    eval_features = job.task.encode(evaluated, job.tokenizer, job.model.config) if wanted else None
    finetune(job.model, job.tokenizer, features, training, eval_features)
    if not is_main():
        return None
    # Not `save`: where they are asked for, the Trainer's own checkpoints lie in the directory by now.
    output = Path(str(training.output_dir))
    job.model.save_pretrained(output)
    job.tokenizer.save_pretrained(output)
    if not training.do_eval:
        return None
    report = {scorer.name: scorer(job.model)[0] for scorer in scorers}
    (output / SCORES).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _prepare(arguments: FinetuneArguments, training: TrainingArguments) -> _Job:
    """Reads model and data.

    Raises:
        TrimformerError: they cannot be used, or do not fit each other.
    """
    source = arguments.model_name_or_path
    transformers.set_seed(training.seed)
    train, validation = find_splits(_read(arguments), training.seed, need_train=training.do_train)
    rows = train if training.do_train else next(iter(validation.values()))
    there = Path(source).is_dir()
    told = f"model '{source}' cannot be loaded" if there else f"no model directory '{source}', and none on the hub"
    with one_sentence(told):
        config = AutoConfig.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
    check_vocabulary(tokenizer, Path(source))
    check_config(config, Path(source))
    known = find_task(arguments.task_name) if arguments.task_name else None
    problem, column = problem_of(known) if known else guess_problem(rows, arguments.label_column)
    set_labels(config, problem, column, [*train, *(row for part in validation.values() for row in part)])
    task = known or infer_task(
        problem, config, rows, text_columns=arguments.text_column, label_column=arguments.label_column
    )
    if arguments.max_seq_length:
        task = replace(task, max_length=arguments.max_seq_length)
    model_class = getattr(transformers, task.auto_class)
    advice = "--ignore_mismatched_sizes gives it a new head"
    with one_sentence(f"the weights of '{source}' do not fit {config.num_labels} labels ({advice})"):
        model, info = model_class.from_pretrained(
            source,
            config=config,
            ignore_mismatched_sizes=arguments.ignore_mismatched_sizes,
            output_loading_info=True,
        )
    check_layers_loaded(model, info, Path(source))  # and a family that could not be pruned is refused
    check_finite(model, f"the weights in '{source}'")
    return _Job(model, tokenizer, task, train, validation)


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
