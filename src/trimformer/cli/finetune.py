"""The flags of Transformers' example scripts, for every task this package knows."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import transformers
from transformers import AutoConfig, AutoTokenizer, HfArgumentParser, TrainingArguments

from trimformer.arch import find_sublayers
from trimformer.batches.data import Rows, find_splits, load_hub, read_rows, read_splits
from trimformer.batches.tasks import find_task, infer_task
from trimformer.batches.tasks.labels import guess_problem, known_problem, set_labels
from trimformer.errors import TrimformerError, one_sentence
from trimformer.files import check_output
from trimformer.places import check_model_place
from trimformer.processes import is_main
from trimformer.training import finetune, require_train_extra
from trimformer.verify.evaluation import Scorer


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
    source = arguments.model_name_or_path
    check_model_place(source)
    if not training.do_train and not training.do_eval:
        raise TrimformerError("nothing to do: give --do_train, --do_eval or both")
    if training.do_train:
        if not training.output_dir:
            raise TrimformerError("--output_dir is missing: where the trained model is to be written")
        if not training.resume_from_checkpoint:
            check_output(training.output_dir)
    transformers.set_seed(training.seed)
    train, validation = find_splits(_read(arguments), training.seed, need_train=training.do_train)
    rows = train if training.do_train else next(iter(validation.values()))
    with one_sentence(f"model '{source}' cannot be loaded"):
        config = AutoConfig.from_pretrained(source)
        tokenizer = AutoTokenizer.from_pretrained(source)
    known = find_task(arguments.task_name) if arguments.task_name else None
    problem, column = known_problem(known) if known else guess_problem(rows, arguments.label_column)
    set_labels(config, problem, column, [*train, *(row for part in validation.values() for row in part)])
    columns = {"text_columns": arguments.text_column, "label_column": arguments.label_column}
    task = known or infer_task(problem, config, rows, **columns)
    if arguments.max_seq_length:
        task = replace(task, max_length=arguments.max_seq_length)
    model_class = getattr(transformers, task.auto_class)
    advice = "--ignore_mismatched_sizes gives it a new head"
    with one_sentence(f"the weights of '{source}' do not fit {config.num_labels} labels ({advice})"):
        model = model_class.from_pretrained(
            source, config=config, ignore_mismatched_sizes=arguments.ignore_mismatched_sizes
        )
    find_sublayers(model)  # a family that could not be pruned is refused before any training
    scorers = [Scorer(name, rows, task, model, tokenizer) for name, rows in validation.items()]
    if training.do_train:
        features = task.encode(train, tokenizer, config)
        wanted = training.eval_strategy != "no"
        eval_features = task.encode(next(iter(validation.values())), tokenizer, config) if wanted else None
        finetune(model, tokenizer, features, training, eval_features)
        if not is_main():
            return
        # Not `save`: where they are asked for, the Trainer's own checkpoints lie in the directory by now.
        model.save_pretrained(training.output_dir)
        tokenizer.save_pretrained(training.output_dir)
    if training.do_eval:
        report = {scorer.name: scorer(model)[0] for scorer in scorers}
        print(json.dumps(report, indent=2))
        if training.output_dir and Path(training.output_dir).is_dir():
            (Path(training.output_dir) / "eval_results.json").write_text(json.dumps(report, indent=2) + "\n")


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
