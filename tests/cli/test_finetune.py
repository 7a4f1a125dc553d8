"""The `finetune` command: every kind of data, checkpoints, interruptions and errors."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, Trainer, TrainingArguments

from tests.commands import PROBLEMS, error_line, problem_model, problem_rows, run, save_model, tree, write_jsonl
from tests.conftest import make_rows, make_tokenizer
from trimformer import TrimformerError
from trimformer.cli.main import main
from trimformer.data.tasks import TextTask
from trimformer.finetuning import finetune
from trimformer.models import find_sublayers

ROOT = Path(__file__).parent.parent.parent
QUICK = ("--num_train_epochs", "1", "--learning_rate", "0.01", "--use_cpu")


@pytest.fixture
def base(tmp_path):
    """A bare encoder without a task head."""
    return save_model(tmp_path / "base", "embedding")


def train(model, out, *words, rows=None):
    """Fine-tunes on all but the last 8 `rows` and scores on those 8."""
    if rows is not None:
        folder = out.parent / f"{out.name}-data"
        files = [write_jsonl(folder / "train.jsonl", rows[:-8]), write_jsonl(folder / "validation.jsonl", rows[-8:])]
        words = ("--train_file", files[0], "--validation_file", files[1], *words)
    flags = ("--model_name_or_path", model, "--output_dir", out, "--do_train", "--do_eval")
    return run(main, "finetune", *flags, *QUICK, *words)


def named(rows, column="label", names=("bad", "good", "so-so")):
    def name(value):
        return [names[v] for v in value] if isinstance(value, list) else names[value]

    return [{**row, column: name(row[column])} for row in rows]


def pairs():
    return [{"premise": r["sentence"], "hypothesis": "it is good", "label": r["label"]} for r in make_rows(24, 3)]


KINDS = {
    "numbers": (problem_rows("single_label", 24), 2, {"accuracy", "f1"}),
    "names": (named(make_rows(24, 3)), 3, {"accuracy", "macro_f1"}),
    "pairs": (pairs(), 3, {"accuracy", "macro_f1"}),
    "regression": (problem_rows("regression", 24), 1, {"pearson", "spearman"}),
    "multi-hot": (problem_rows("multi_label", 24), 3, {"micro_f1", "macro_f1"}),
    "lists of names": (named([{"text": "a", "label": [i % 3]} for i in range(24)]), 3, {"micro_f1", "macro_f1"}),
    "tags": (problem_rows("tokens", 24), 3, {"f1", "accuracy"}),
    "named tags": (named(problem_rows("tokens", 24), "ner_tags", ("O", "B-X", "I-X")), 3, {"precision", "recall"}),
    "spans": (problem_rows("span", 24), 2, {"exact_match", "f1"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_is_trained_saved_and_scored_alike(base, tmp_path, capsys, kind):
    rows, num_labels, metrics = KINDS[kind]
    assert train(base, tmp_path / "out", rows=rows) == 0
    report = json.loads(capsys.readouterr().out)
    assert metrics <= set(report["validation"])
    assert json.loads((tmp_path / "out" / "eval_results.json").read_text()) == report
    assert AutoConfig.from_pretrained(tmp_path / "out").num_labels == num_labels
    assert run(main, "evaluate", tmp_path / "out", "--data", tmp_path / "out-data") == 0
    evaluated = json.loads(capsys.readouterr().out)["validation"]
    assert {**report["validation"], "samples": 8} == pytest.approx(evaluated)


def test_names_of_labels_are_kept_in_the_config(base, tmp_path):
    assert train(base, tmp_path / "out", rows=named(make_rows(24, 3))) == 0
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert config.label2id == {"bad": 0, "good": 1, "so-so": 2}


def test_training_learns(base, tmp_path, capsys):
    rows = [{"text": "good" if i % 2 else "bad film", "label": i % 2} for i in range(48)]
    assert train(base, tmp_path / "out", "--num_train_epochs", "5", rows=rows) == 0
    assert json.loads(capsys.readouterr().out)["validation"]["accuracy"] == 1.0


def test_halves_are_trained_in_float32(monkeypatch, tmp_path):
    model, seen, train = problem_model("single_label").to(torch.bfloat16), [], Trainer.train

    def watched(self, **options):
        seen.extend(parameter.dtype for parameter in self.model.parameters())
        return train(self, **options)

    monkeypatch.setattr(Trainer, "train", watched)
    task = TextTask(name="t", text_columns=("sentence",), problem="single_label", label_column="label")
    features = task.encode(problem_rows("single_label", 16), make_tokenizer(), model.config)
    arguments = TrainingArguments(str(tmp_path), num_train_epochs=1, report_to="none", use_cpu=True)
    finetune(model, make_tokenizer(), features, arguments)
    assert set(seen) == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p != "embedding"])
def test_a_pruned_model_is_trained_and_keeps_its_widths(tmp_path, problem):
    model, rows = save_model(tmp_path / "model", problem), problem_rows(problem, 24)
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    words = ("--data", data, "--output", tmp_path / "pruned", "--constraint", "0.4")
    assert run(main, "prune", model, *words) == 0
    assert train(tmp_path / "pruned", tmp_path / "out", rows=rows) == 0
    configs = [AutoConfig.from_pretrained(tmp_path / name) for name in ("pruned", "out")]
    assert configs[0].quantization_config == configs[1].quantization_config
    assert len(set(configs[1].quantization_config["neurons"])) > 1
    again = ("--data", data, "--output", tmp_path / "again", "--constraint", "0.8")
    assert run(main, "prune", tmp_path / "out", *again) == 0


def test_scoring_without_training_writes_nothing(tmp_path, capsys):
    model = save_model(tmp_path / "model", "tokens")
    rows = [{"tokens": ["a", "film"], "ner_tags": [0, 1]}] * 4  # the model's third label does not occur
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    before = tree(tmp_path)
    words = ("--model_name_or_path", model, "--validation_file", data, "--do_eval")
    assert run(main, "finetune", *words) == 0
    assert "accuracy" in json.loads(capsys.readouterr().out)["validation"]
    assert tree(tmp_path) == before


def test_the_problem_type_of_an_earlier_training_is_replaced(tmp_path):
    scorer = save_model(tmp_path / "model", "regression")
    rows = problem_rows("single_label", 24)
    assert train(scorer, tmp_path / "out", "--ignore_mismatched_sizes", rows=rows) == 0
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.num_labels, config.problem_type) == (2, "single_label_classification")


def test_other_labels_are_an_error_that_names_the_flag_for_a_new_head(tmp_path, capsys):
    model, rows = save_model(tmp_path / "model"), named(make_rows(24, 3))
    capsys.readouterr()
    assert train(model, tmp_path / "out", rows=rows) == 2
    assert "--ignore_mismatched_sizes" in error_line(capsys.readouterr().err)
    assert train(model, tmp_path / "out", "--ignore_mismatched_sizes", rows=rows) == 0
    assert AutoConfig.from_pretrained(tmp_path / "out").num_labels == 3


def test_only_a_head_can_be_replaced(tmp_path, capsys):
    model = save_model(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    rows = problem_rows("single_label", 24)
    assert train(model, tmp_path / "out", "--ignore_mismatched_sizes", rows=rows) == 2
    assert "only a head can be replaced" in error_line(capsys.readouterr().err)


def test_the_model_is_saved_beside_the_trainers_checkpoints(base, tmp_path, capsys):
    words = ("--save_strategy", "epoch", "--eval_strategy", "epoch", "--load_best_model_at_end")
    assert train(base, tmp_path / "out", *words, rows=problem_rows("single_label", 24)) == 0
    assert {"model.safetensors", "tokenizer.json", "checkpoint-2"} <= tree(tmp_path / "out")
    resumed = ("--resume_from_checkpoint", tmp_path / "out" / "checkpoint-2", "--num_train_epochs", "2")
    assert train(base, tmp_path / "out", *resumed, rows=problem_rows("single_label", 24)) == 0
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    (other := tmp_path / "other").mkdir()
    (other / "model.safetensors").write_bytes(before[::-1])
    capsys.readouterr()
    assert train(base, other, *resumed, rows=problem_rows("single_label", 24)) == 2
    assert "is not in the output directory" in error_line(capsys.readouterr().err)
    assert (other / "model.safetensors").read_bytes() == before[::-1]


def test_trainer_flags_take_effect(base, tmp_path):
    words = ("--max_steps", "3", "--per_device_train_batch_size", "2", "--warmup_steps", "1", "--save_steps", "3")
    words += ("--save_strategy", "steps", "--gradient_accumulation_steps", "2", "--lr_scheduler_type", "cosine")
    assert train(base, tmp_path / "out", *words, rows=problem_rows("single_label", 24)) == 0
    state = json.loads((tmp_path / "out" / "checkpoint-3" / "trainer_state.json").read_text())
    assert (state["global_step"], state["train_batch_size"]) == (3, 2)


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)])
def test_the_seed_determines_the_weights(base, tmp_path, seeds):
    rows = problem_rows("single_label", 24)
    for i, seed in enumerate(seeds):
        assert train(base, tmp_path / str(i), "--seed", seed, rows=rows) == 0
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in "01")
    assert (first == second) == (seeds[0] == seeds[1])


def test_standard_output_is_the_report_alone_and_training_is_logged(base, tmp_path, capsys):
    assert train(base, tmp_path / "out", rows=problem_rows("single_label", 24)) == 0
    captured = capsys.readouterr()
    assert list(json.loads(captured.out)) == ["validation"]
    assert "training on 16 samples" in captured.err
    assert "train_loss" in captured.err


def test_a_predefined_task_has_its_own_metrics(base, tmp_path, capsys):
    rows = [{"sentence1": r["premise"], "sentence2": r["hypothesis"], "label": r["label"] % 2} for r in pairs()]
    assert train(base, tmp_path / "out", "--task_name", "mrpc", rows=rows) == 0
    assert set(json.loads(capsys.readouterr().out)["validation"]) == {"accuracy", "accuracy_ci95", "f1"}


@pytest.mark.slow
def test_run_glue_is_the_same_command(base, tmp_path):
    data = write_jsonl(tmp_path / "train.jsonl", problem_rows("single_label", 20))
    words = ["--model_name_or_path", base, "--train_file", data, "--output_dir", tmp_path / "out", "--do_train"]
    command = [sys.executable, ROOT / "run_glue.py", *map(str, words), "--max_seq_length", "16", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")


MIXED = [{"text": "a film", "label": label} for label in ["good", 1] * 8]
HALF_LISTS = [{"text": "a film", "label": label} for label in [[0, 1], 1] * 8]
HALF_LABELLED = [{"text": "a film", "label": i % 2} for i in range(16)]
OBJECTS = [{"text": "a film", "label": {"stars": 1}}] * 16

BAD = {
    "neither": (["--do_train=False", "--do_eval=False"], None, ["--do_train", "--do_eval"]),
    "predictions": (["--do_predict"], None, ["--do_predict"]),
    "no output": (["--output_dir="], None, ["--output_dir"]),
    "full output": (["--output_dir", "base"], None, ["base", "not empty"]),
    "no such model": (["--model_name_or_path", "./nowhere"], None, ["./nowhere", "does not exist"]),
    "no model there": (["--model_name_or_path", "data"], None, ["data", "cannot be loaded"]),
    "no such file": (["--train_file", "no.jsonl"], None, ["no.jsonl", "does not exist"]),
    "no such task": (["--task_name", "nli"], None, ["'nli'", "mnli"]),
    "other columns": (["--task_name", "mrpc"], None, ["'sentence1'", "sentence"]),
    "no such column": (["--label_column", "stars"], None, ["'stars'", "sentence, label"]),
    "unknown flag": (["--frobnicate", "3"], None, ["--frobnicate"]),
    "flags that clash": (["--load_best_model_at_end", "--eval_strategy=no", "--save_strategy=epoch"], None, ["flags"]),
    "mixed labels": ([], MIXED, ["'label'", "mixes"]),
    "lists and single labels": ([], HALF_LISTS, ["'label'", "mixes"]),
    "some labels": ([], [*HALF_LABELLED, {"text": "a film"}], ["'label'", "row 17"]),
    "an empty label": ([], [*HALF_LABELLED, {"text": "a film", "label": None}], ["'label'", "row 17"]),
    "objects": ([], OBJECTS, ["'label'", "neither names nor numbers"]),
    "no labels": ([], [{"text": "a film"}] * 16, ["no label column", "--label-column"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_nothing_is_written(base, tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    flags, rows, words = BAD[name]
    data = write_jsonl(tmp_path / "data" / "train.jsonl", rows or problem_rows("single_label", 24))
    before = tree(tmp_path)
    capsys.readouterr()
    assert train(base, Path("out"), "--train_file", data, *flags) == 2
    message = error_line(capsys.readouterr().err)
    assert all(word in message for word in words), message
    assert tree(tmp_path) == before


def test_a_model_is_scored_with_its_own_labels_only(tmp_path, capsys):
    model = save_model(tmp_path / "model")
    data = write_jsonl(tmp_path / "validation.jsonl", named(problem_rows("single_label", 8)))
    capsys.readouterr()
    assert run(main, "finetune", "--model_name_or_path", model, "--validation_file", data, "--do_eval") == 2
    assert "label 'bad' in row 1 is unknown to the model" in error_line(capsys.readouterr().err)


def test_label_smoothing_is_for_labels(tmp_path):
    rows = [{"input_ids": [5, 6], "start_positions": 0, "end_positions": 1}] * 4
    arguments = TrainingArguments(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(TrimformerError, match="label_smoothing_factor has no effect"):
        finetune(problem_model("span"), make_tokenizer(), rows, arguments)


def encoded(rows):
    task = TextTask(name="t", problem="single_label", text_columns=("sentence",), label_column=None)
    return task.encode(rows, make_tokenizer(), problem_model("single_label").config)


def test_samples_without_labels_are_an_error(tmp_path):
    with pytest.raises(TrimformerError, match="no labels"):
        finetune(problem_model("single_label"), make_tokenizer(), encoded(make_rows(4)), TrainingArguments(tmp_path))


def test_without_the_extra_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(TrimformerError, match=r"pip install 'trimformer\[train\]'"):
        finetune(problem_model("single_label"), make_tokenizer(), [], TrainingArguments(tmp_path))


def test_the_function_trains_in_place_and_ends_in_evaluation_mode(tmp_path):
    model, features = problem_model("single_label"), encoded(make_rows(8))
    before = find_sublayers(model)[0].projection.weight.detach().clone()
    samples = [{**feature, "labels": i % 2} for i, feature in enumerate(features)]
    finetune(model, make_tokenizer(), samples, TrainingArguments(tmp_path, max_steps=2, report_to="none", use_cpu=True))
    assert not torch.equal(find_sublayers(model)[0].projection.weight, before)
    assert not model.training


def interrupt_at(monkeypatch, step):
    """Raises KeyboardInterrupt in the given training step."""
    from transformers import Trainer

    real, steps = Trainer.training_step, []

    def training_step(self, *arguments, **options):
        steps.append(1)
        if len(steps) == step:
            raise KeyboardInterrupt
        return real(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "training_step", training_step)


def test_an_interrupted_training_leaves_nothing(base, tmp_path, capsys, monkeypatch):
    interrupt_at(monkeypatch, 2)
    assert train(base, tmp_path / "out", rows=problem_rows("single_label", 24)) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert "out" not in tree(tmp_path)
    assert not [name for name in tree(tmp_path) if "trimformer-part" in name]


def test_an_interrupted_training_names_the_checkpoints_it_leaves(base, tmp_path, capsys, monkeypatch):
    interrupt_at(monkeypatch, 3)
    words = ("--save_strategy", "steps", "--save_steps", "1", "--per_device_train_batch_size", "4")
    assert train(base, tmp_path / "out", *words, rows=problem_rows("single_label", 24)) == 130
    stderr = capsys.readouterr().err
    assert "checkpoint-1, checkpoint-2" in stderr
    assert "nothing was written" not in stderr
    assert {name for name in tree(tmp_path / "out") if "/" not in name} == {"checkpoint-1", "checkpoint-2"}
    assert not [name for name in tree(tmp_path) if "trimformer-part" in name]


def test_a_training_that_diverges_saves_nothing(base, tmp_path, capsys):
    words = ("--learning_rate", "10", "--max_grad_norm", "0", "--optim", "sgd", "--num_train_epochs", "40")
    code = train(base, tmp_path / "out", *words, rows=problem_rows("regression", 24))
    if code:
        assert code == 2
        assert "diverged" in error_line(capsys.readouterr().err)
        assert not (tmp_path / "out").exists()
    else:
        pytest.fail("it did not diverge")
