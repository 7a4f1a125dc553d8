"""Tiny model directories and data files, and how the command-line tests run and read commands."""

import json
import os
import re
import runpy
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from tests.conftest import WORDS, make_model, make_rows, make_tokenizer
from trimformer import METHODS, Method
from trimformer.cli.main import main
from trimformer.options.methods import AnyMethod

ROOT = Path(__file__).parent.parent

PROBLEMS = ("single_label", "regression", "multi_label", "tokens", "span", "embedding")

_HEADS = {"tokens": "ForTokenClassification", "span": "ForQuestionAnswering", "embedding": "Model"}
_SIZES = {"regression": {"num_labels": 1}, "multi_label": {"problem_type": "multi_label_classification"}}


def small_steps(method: str | AnyMethod = "obs") -> dict[str, int]:
    """`neuron_multiple=4` for a method that uses it, as tiny models have 40 neurons only."""
    method = METHODS.get(method) if isinstance(method, str) else method
    return {"neuron_multiple": 4} if isinstance(method, Method) and method.uses_neuron_multiple else {}


def problem_model(problem: str, family: str = "Bert", **overrides: Any) -> PreTrainedModel:
    """A tiny random model with this kind of output; classifiers have 3 labels, but "single_label" 2."""
    sizes = {"single_label": {"num_labels": 2}, **_SIZES}.get(problem, {})
    return make_model(family, _HEADS.get(problem, "ForSequenceClassification"), **{**sizes, **overrides})


def problem_rows(problem: str, count: int = 40) -> list[dict[str, Any]]:
    """Rows with the columns and the labels that such a model is for."""
    rows = []
    for i, row in enumerate(make_rows(count)):
        words = row["sentence"].split()
        if problem == "span":
            start = row["sentence"].index(words[i % len(words)])
            answer = {"text": [row["sentence"][start:]], "answer_start": [start]}
            rows.append({"id": str(i), "question": "who saw it", "context": row["sentence"], "answers": answer})
        elif problem == "tokens":
            rows.append({"tokens": words, "ner_tags": [WORDS.index(word) % 3 for word in words]})
        elif problem == "embedding":
            rows.append({"sentence": row["sentence"]})
        else:
            label = {"single_label": i % 2, "regression": i / 10 + 0.05, "multi_label": [i % 2, 1, i // 2 % 2]}[problem]
            rows.append({"sentence": row["sentence"], "label": label})
    return rows


def fitting_rows(model: PreTrainedModel, problem: str, count: int = 40) -> list[dict[str, Any]]:
    """Such rows; classes are what the model predicts but for every fifth, numbers are what it predicts."""
    rows, tokenizer = problem_rows(problem, count), make_tokenizer()
    if problem not in ("single_label", "regression"):
        return rows
    for i, row in enumerate(rows):
        with torch.no_grad():
            logits = model(**tokenizer(row["sentence"], return_tensors="pt")).logits[0]
        right = float(logits[0]) if problem == "regression" else int(logits.argmax())
        row["label"] = right if problem == "regression" or i % 5 else 1 - right
    return rows


def save_model(path: Path, problem: str = "single_label", family: str = "Bert", **overrides: Any) -> Path:
    """A model directory; progress bars off, as they write to standard error."""
    transformers.utils.logging.disable_progress_bar()
    problem_model(problem, family, **overrides).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def error_line(text: str) -> str:
    """The one sentence that is all of standard error but for time-stamped log lines."""
    lines = [line for line in text.splitlines() if line.strip() and not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert len(lines) == 1, text
    assert lines[0].startswith("error: "), text
    return lines[0].removeprefix("error: ")


def tree(path: Path) -> set[str]:
    """Everything below a folder, hidden files too."""
    return {str(p.relative_to(path)) for p in path.rglob("*")}


def run(main: Callable[[list[str]], int], *words: object) -> int:
    """Exit code of a command, the argument parser's own included."""
    try:
        return main([str(word) for word in words])
    except SystemExit as error:
        return int(error.code or 0)


def paper_main(words: list[str]) -> int:
    """`main.py`, run as a script."""
    before, sys.argv = sys.argv, ["main.py", *words]
    try:
        runpy.run_path(str(ROOT / "main.py"), run_name="__main__")
    finally:
        sys.argv = before
    return 0


def outputs(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        values = model.eval()(**batch).values()
    return [value for value in values if isinstance(value, torch.Tensor)]


def prune(model: Path, data: Path, out: Path, *words: str) -> int:
    """`trimformer prune` to half of the MACs; later words override."""
    return run(main, "prune", model, "--data", data, "--output", out, "--constraint", "0.5", *words)


def evaluate(capsys: Any, *words: Any) -> dict[str, Any]:
    """The report of `trimformer evaluate`."""
    capsys.readouterr()
    assert run(main, "evaluate", *words) == 0
    return json.loads(capsys.readouterr().out)


def launch(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs a script in two processes, started by torchrun on a free port."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)


def launch_alone(*words: object) -> list[subprocess.CompletedProcess[str]]:
    """Runs a script in two processes that no launcher watches; fails if one takes longer than two minutes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        texts = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(command, process.returncode, *text)
        for process, text in zip(processes, texts, strict=True)
    ]


def script(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
