"""Every task of the paper on a few rows in the hub's exact column layout."""

import json

import datasets
import pytest
import torch

from tests.commands import run, save_model, write_jsonl
from tests.conftest import make_model, make_tokenizer, without_intervals
from trimformer.cli.main import main
from trimformer.data.tasks import TASKS
from trimformer.evaluation.scores import Scorer

GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")

FIRST, SECOND = "it is a good old film", "the new plot is so dull"


def single_rows(column="sentence"):
    return [{column: text, "label": i % 2, "idx": i} for i, text in enumerate([FIRST, SECOND] * 3)]


def pair_rows(first="sentence1", second="sentence2", labels=(1, 0)):
    return [{first: FIRST, second: SECOND, "label": labels[i % len(labels)], "idx": i} for i in range(6)]


def question_rows():
    context, rows = "we saw a great film in the old plot with new actors", []
    for i, answer in enumerate(["a great film", "new actors", "old plot"] * 2):
        answers = {"text": [answer], "answer_start": [context.index(answer)]}
        rows.append({"id": str(i), "title": "film", "context": context, "question": "what is it", "answers": answers})
    return rows


# As at nyu-mll/glue, rajpurkar/squad and rajpurkar/squad_v2
ROWS = {
    "cola": single_rows(),
    "sst2": single_rows(),
    "mrpc": pair_rows(),
    "stsb": pair_rows(labels=(4.25, 0.0, 2.5)),
    "qqp": pair_rows("question1", "question2"),
    "mnli": pair_rows("premise", "hypothesis", (0, 1, 2)),
    "qnli": pair_rows("question", "sentence"),
    "rte": pair_rows(),
    "wnli": pair_rows(),
    "squad": question_rows(),
    "squad_v2": [*question_rows(), {**question_rows()[0], "answers": {"text": [], "answer_start": []}}],
}

PROBLEMS = {"stsb": "regression", "squad": "span", "squad_v2": "span"}

METRICS = {
    "cola": ("matthews", "accuracy"),
    "mrpc": ("accuracy", "f1"),
    "stsb": ("spearman", "pearson"),
    "qqp": ("accuracy", "f1"),
    "squad": ("exact_match", "f1"),
    "squad_v2": ("exact_match", "f1", "has_ans_exact", "has_ans_f1", "no_ans_exact", "no_ans_f1"),
}

# The paper's settings
MAX_LENGTHS = {"cola": 64, "sst2": 64, "squad": 384, "squad_v2": 384}
AVERAGE_LENGTHS = {"mnli": 39.05, "qqp": 30.55, "qnli": 50.97, "sst2": 25.16, "stsb": 31.47, "mrpc": 53.24}


def splits(task):
    names = ["validation_matched", "validation_mismatched"] if task == "mnli" else ["validation"]
    # GLUE's test splits are unlabelled: all -1
    test = {} if task.startswith("squad") else {"test": [{**row, "label": -1} for row in ROWS[task]]}
    return {"train": ROWS[task], **dict.fromkeys(names, ROWS[task]), **test}


@pytest.fixture(params=ROWS)
def task(request):
    return request.param


@pytest.fixture
def model_dir(task, tmp_path):
    return save_model(tmp_path / "model", PROBLEMS.get(task, "single_label"), num_labels=labels_of(task))


def labels_of(task):
    return {"mnli": 3, "stsb": 1}.get(task, 2)


def test_there_are_rows_for_every_task():
    assert set(TASKS) == set(ROWS)
    assert {name: tuple(TASKS[name].hub) for name in GLUE} == {name: ("nyu-mll/glue", name) for name in GLUE}
    assert [TASKS[name].hub[0] for name in ("squad", "squad_v2")] == ["rajpurkar/squad", "rajpurkar/squad_v2"]


def test_lengths_are_the_papers(task):
    assert TASKS[task].max_length == MAX_LENGTHS.get(task, 128)
    if task in AVERAGE_LENGTHS:
        assert TASKS[task].average_length == AVERAGE_LENGTHS[task]
    if task.startswith("squad"):
        assert TASKS[task].average_length == 170


def test_hub_columns_are_scored(task, model_dir, tmp_path, capsys):
    for name, rows in splits(task).items():
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", rows)
    assert run(main, "evaluate", model_dir, "--task", task, "--data-dir", tmp_path / "data") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {name for name in splits(task) if name.startswith("validation")}
    for metrics in report.values():
        assert metrics.pop("samples") == len(ROWS[task])
        assert tuple(without_intervals(metrics)) == METRICS.get(task, ("accuracy",))
        assert all(-1 <= value <= 1 for value in metrics.values())


@pytest.mark.slow
def test_a_model_is_pruned_on_a_saved_dataset(task, model_dir, tmp_path):
    parts = {name: datasets.Dataset.from_list(rows) for name, rows in splits(task).items()}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    words = ("--task", task, "--data", tmp_path / "saved", "--constraint", "0.6", "--output", tmp_path / "out")
    assert run(main, "prune", model_dir, *words, "--method", "kwon2022") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["task"]["name"], results["task"]["score"]) == (task, TASKS[task].metric)
    assert results["task"]["score"] in results["scores"]["pruned"]
    assert ("validation_mismatched_accuracy" in results["scores"]["dense"]) == (task == "mnli")
    average = TASKS[task].average_length
    seq_len = results["samples"]["seq_len"]
    assert seq_len == average if average else 5 < seq_len < 20


def test_hub_and_saved_dataset_give_the_same_scores(task, model_dir, tmp_path, capsys, monkeypatch):
    parts = {name: datasets.Dataset.from_list(rows) for name, rows in splits(task).items()}
    requests = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *words: requests.append(words) or datasets.DatasetDict(parts))
    assert run(main, "evaluate", model_dir, "--task", task) == 0
    assert requests == [TASKS[task].hub]
    from_hub = json.loads(capsys.readouterr().out)
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    assert run(main, "evaluate", model_dir, "--task", task, "--data", tmp_path / "saved") == 0
    assert json.loads(capsys.readouterr().out) == from_hub


@pytest.mark.parametrize("name", [name for name in GLUE if name not in ("cola", "sst2")])
def test_both_texts_of_a_pair_are_read_in_their_order(name):
    task, tokenizer = TASKS[name], make_tokenizer()
    feature = task.encode(ROWS[name], tokenizer, make_model(num_labels=labels_of(name)).config)[0]
    assert tokenizer.decode(feature["input_ids"]) == f"[CLS] {FIRST} [SEP] {SECOND} [SEP]"


@pytest.mark.parametrize("name", [name for name in GLUE if name != "stsb"])
def test_perfect_predictions_score_1(name):
    model = make_model(num_labels=labels_of(name))
    scorer = Scorer("v", ROWS[name], TASKS[name], model, make_tokenizer())
    labels = {int(i): int(v) for b in scorer.batches for i, v in zip(b["index"], b["labels"], strict=True)}
    assert [labels[i] for i in range(len(labels))] == [row["label"] for row in ROWS[name]]
    perfect = [torch.nn.functional.one_hot(torch.tensor(row["label"]), labels_of(name)) for row in ROWS[name]]
    features = TASKS[name].encode(ROWS[name], make_tokenizer(), model.config)
    assert set(without_intervals(TASKS[name].score(perfect, features, ROWS[name])).values()) == {1.0}
