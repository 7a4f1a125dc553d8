"""The flags of Transformers' example scripts, for every task this package knows."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import transformers
from transformers import AutoConfig, AutoTokenizer, HfArgumentParser

from trimformer.checkpoint import check_output, save
from trimformer.data import Rows, find_splits, load_hub, read_rows, read_splits
from trimformer.errors import TrimformerError
from trimformer.evaluation import Scorer
from trimformer.finetune import finetune, require_train_extra
from trimformer.tasks import find_task, infer_task
from trimformer.tasks.labels import guess_problem, known_problem, set_labels


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


def run(argv: Sequence[str]) -> None:
    """Trains and scores as the flags say; see `FinetuneArguments` and `transformers.TrainingArguments`.

    Raises:
        TrimformerError: the input cannot be used.
    """
    require_train_extra()
    from transformers import TrainingArguments

    defaults = {"output_dir": "", "save_strategy": "no", "report_to": "none", "disable_tqdm": None}
    parser = HfArgumentParser([FinetuneArguments, TrainingArguments], prog="trimformer finetune")
    parser.set_defaults(**defaults)
    arguments, training = parser.parse_args_into_dataclasses(args=list(argv))
    if not training.do_train and not training.do_eval:
        raise TrimformerError("nothing to do: give --do_train, --do_eval or both")
    if training.do_train:
        if not training.output_dir:
            raise TrimformerError("--output_dir is missing: where the trained model is to be written")
        check_output(training.output_dir)
    transformers.set_seed(training.seed)
    train, validation = find_splits(_read(arguments), training.seed, need_train=training.do_train)
    rows = train if training.do_train else next(iter(validation.values()))
    try:
        config = AutoConfig.from_pretrained(arguments.model_name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TrimformerError(f"model '{arguments.model_name_or_path}' cannot be loaded: {reason}") from error
    known = find_task(arguments.task_name) if arguments.task_name else None
    problem, column = known_problem(known) if known else guess_problem(rows, arguments.label_column)
    set_labels(config, problem, column, [*train, *(row for part in validation.values() for row in part)])
    columns = {"text_columns": arguments.text_column, "label_column": arguments.label_column}
    task = known or infer_task(problem, config, rows, **columns)
    if arguments.max_seq_length:
        task = replace(task, max_length=arguments.max_seq_length)
    model_class = getattr(transformers, task.auto_class)
    model = model_class.from_pretrained(arguments.model_name_or_path, config=config)
    scorers = [Scorer(name, rows, task, model, tokenizer) for name, rows in validation.items()]
    if training.do_train:
        finetune(model, tokenizer, task.encode(train, tokenizer, config), training)
        save(model, tokenizer, training.output_dir)
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
