"""Language models through the public doors: prune, save, load, generate, and keep a quality."""

import json
import math
import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import trimformer
from testing.language import byte_tokenizer, language_model
from tests.allocation.test_queries import batch_of
from tests.commands import error_line, run
from tests.conftest import make_model, make_tokenizer
from trimformer import METHODS
from trimformer.cli.main import main
from trimformer.cli.task_data import load_task_data
from trimformer.costs.cost_tables import linear_costs
from trimformer.data.batches import make_batches
from trimformer.data.block_options import BlockOptions
from trimformer.data.language_blocks import as_blocks, model_rows
from trimformer.data.tasks import LanguageTask
from trimformer.errors import TrimformerError
from trimformer.evaluation.language import make_scorer
from trimformer.models import find_sublayers
from trimformer.options.data import DataOptions
from trimformer.pruner import Pruner
from trimformer.session.draw_samples import draw_samples
from trimformer.session.inputs import Inputs

TOKENIZER = byte_tokenizer()
OPTIONS: dict[str, Any] = {"num_samples": 24, "task": LanguageTask(name="language", max_length=32)}


def documents(count=60, seed=0):
    words = random.Random(seed)
    return [" ".join(words.choices(["the", "cat", "sat", "on", "a", "mat", "dog"], k=30)) for _ in range(count)]


def blocks_of(model, texts, length=32):
    return as_blocks([{"text": text} for text in texts], TOKENIZER, model.config, length=length)


def test_scores_equal_those_of_transformers_and_do_not_depend_on_the_batch_size():
    model, rows = language_model(), blocks_of(language_model(), documents(4))
    scores = [make_scorer("v", rows, OPTIONS["task"], model, TOKENIZER, size)(model)[0] for size in (1, 5)]
    assert scores[0]["perplexity"] == pytest.approx(scores[1]["perplexity"], rel=1e-5)
    ids = torch.tensor([rows[0]["input_ids"]])
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss  # of all tokens but the first
    first = make_scorer("v", [{**rows[0], "next_tokens": [*rows[0]["next_tokens"][:-1], -100]}], OPTIONS["task"], model,
                        TOKENIZER)(model)[0]  # fmt: skip
    assert first["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_a_language_model_is_pruned_saved_and_generates_as_before(tmp_path):
    model = language_model()
    result = trimformer.prune(model, TOKENIZER, documents(), 0.6, **OPTIONS)
    assert result.budget.kept <= 0.6
    assert result.samples.seq_len <= 32
    assert result.scores.divergence > 0
    assert result.agreement.unit == "tokens"
    trimformer.save(result.model, TOKENIZER, tmp_path / "out")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    prompt = TOKENIZER("the cat", return_tensors="pt")["input_ids"]
    texts = [m.generate(prompt, max_new_tokens=12, do_sample=False).tolist() for m in (result.model, loaded)]
    assert texts[0] == texts[1]


def test_the_report_equals_a_measurement_of_the_saved_model():
    model = language_model()
    held_out = blocks_of(model, documents(12, seed=5))
    result = trimformer.prune(model, TOKENIZER, documents(), 0.5, eval_dataset=held_out, **OPTIONS)
    batch = {key: value for key, value in make_batches(OPTIONS["task"].encode(held_out, TOKENIZER, model.config),
             TOKENIZER, len(held_out))[0].items() if key != "index"}  # fmt: skip
    targets = batch.pop("next_tokens")
    with torch.no_grad():
        old, new = (m(**batch).logits.log_softmax(-1)[targets != -100] for m in (model, result.model))
    picked = targets[targets != -100].unsqueeze(1)
    assert result.scores.pruned["perplexity"] == pytest.approx(math.exp(-new.gather(1, picked).mean()), rel=1e-4)
    assert result.scores.dense["perplexity"] == pytest.approx(math.exp(-old.gather(1, picked).mean()), rel=1e-4)
    kl = (old.exp() * (old - new)).sum(1).mean()
    assert result.scores.divergence == pytest.approx(float(kl), rel=1e-4)
    assert result.agreement.kept == pytest.approx(float((old.argmax(1) == new.argmax(1)).double().mean()))


def test_conversations_calibrate_on_their_answers():
    rows = [
        {"messages": [{"role": "user", "content": text[:20]}, {"role": "assistant", "content": text[20:60]}]}
        for text in documents(40)
    ]
    result = trimformer.prune(language_model(), TOKENIZER, rows, 0.6, num_samples=16)
    assert result.samples.calibration == 16
    assert result.agreement.total < sum(len(text[20:60]) + 8 for text in documents(40))


@pytest.mark.parametrize(("target", "most"), [("max_perplexity", 1.05), ("max_divergence", 0.02)])
@pytest.mark.parametrize("texts", [1, 400])
def test_a_quality_target_is_kept(target, most, texts):
    rows = documents(400) if texts == 400 else ["\n".join(documents(400))]
    result = trimformer.prune(language_model(), TOKENIZER, rows, **{target: most}, **{**OPTIONS, "num_samples": 64})
    assert result.target.measured <= result.target.bound <= most
    assert result.target.samples >= 30
    scope = "these are too few documents to generalise to other text" if texts == 1 else "it holds for data like these"
    assert scope in str(result)
    assert ("of 1 document set aside" in str(result)) == (texts == 1)


def test_the_command_line_prunes_a_text_file(tmp_path):
    model = language_model()
    trimformer.save(model, TOKENIZER, tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n\n".join(documents()))
    flags = ["--data", str(tmp_path / "text.txt"), "--seq-len", "32", "--num-samples", "20"]
    assert run(main, "prune", tmp_path / "model", *flags, "--constraint", "0.6", "--output", tmp_path / "out") == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["task"]["problem"] == "language"
    assert results["samples"]["seq_len"] <= 32
    assert "text-generation" in (tmp_path / "out" / "README.md").read_text()
    assert run(main, "evaluate", tmp_path / "out", "--data", tmp_path / "text.txt", "--max-length", "32") == 0
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert sum(s.num_units for s in find_sublayers(loaded)) < sum(s.num_units for s in find_sublayers(model))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max-drop", "1"], "no score in points"),
        (["--constraint", "0.5", "--seq-len", "4096"], "longer than the model takes"),
        (["--memory-mb", "0.5", "--vocabulary", "used"], "leave out vocabulary"),
        (["--constraint", "0.5", "--label-column", "label"], "has no labels per sample; leave out the label column"),
        (["--constraint", "0.5", "--export", "onnx"], "no key-value cache"),
        (["--constraint", "0.5", "--export", "onnx,gguf-q8_0"], "names files of several runtimes"),
        (["--constraint", "0.5", "--export", "gguf-q4_k"], "'gguf-q4_k' is unknown"),
        (["--constraint", "0.0001"], "smallest reachable"),
    ],
)
def test_bad_requests_are_one_sentence(tmp_path, capsys, flags, message):
    trimformer.save(language_model(), TOKENIZER, tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n\n".join(documents(20)))
    arguments = ["--data", str(tmp_path / "text.txt"), "--num-samples", "8", "--output", str(tmp_path / "out")]
    if "--seq-len" not in flags:
        flags = [*flags, "--seq-len", "32"]
    capsys.readouterr()
    assert run(main, "prune", tmp_path / "model", *arguments, *flags) == 2
    assert message in error_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["greedy", "sample"])
def test_the_dense_model_answers_prompts_that_calibrate_it(how):
    model = language_model()
    rows = [{"prompt": text[:16]} for text in documents(5)]
    blocks = model_rows(model, TOKENIZER, rows, BlockOptions(length=64, generate=how, seed=3))
    assert all(len(row["input_ids"]) < 64 for row in blocks)
    prompt = f"<s>user: {rows[0]['prompt']}</s><s>assistant: "
    ids = blocks[0]["input_ids"]
    size = len(TOKENIZER(prompt)["input_ids"])
    assert TOKENIZER.decode(ids[:size]) == prompt
    assert blocks[0]["next_tokens"][: size - 1] == [-100] * (size - 1)
    if how == "greedy":
        with torch.no_grad():
            assert (
                model(torch.tensor([ids])).logits[0, size - 1 :].argmax(-1).tolist()
                == blocks[0]["next_tokens"][size - 1 :]
            )
    again = model_rows(model, TOKENIZER, rows, BlockOptions(length=64, generate=how, seed=3))
    assert list(again) == list(blocks)


def test_a_polish_lowers_the_divergence_of_unseen_text():
    model = language_model()
    options = {**OPTIONS, "num_samples": 64, "batch_size": 8}
    result = trimformer.prune(
        model, TOKENIZER, documents(120), 0.5, method="obs-polish", polish_budget="40x", **options
    )
    assert result.polish.accepted
    assert result.polish.after < result.polish.before


def test_prune_calibrates_on_answers_of_the_dense_model():
    rows = [{"prompt": text[:16]} for text in documents(8)]
    result = trimformer.prune(language_model(), TOKENIZER, rows, 0.6, generate="greedy", num_samples=4)
    assert result.budget.kept <= 0.6
    assert result.samples.calibration == 4


def test_no_more_prompts_are_answered_than_a_run_can_use():
    rows = [{"prompt": f"{i} {text[:16]}"} for i, text in enumerate(documents(60))]
    options = BlockOptions.of(DataOptions(generate="greedy", num_samples=2, max_length=64), seed=1)
    blocks = model_rows(language_model(), TOKENIZER, rows, options)
    assert len(blocks) == 8
    answered = {TOKENIZER.decode(row["input_ids"]).partition("user: ")[2].partition(" ")[0] for row in blocks}
    assert len(answered) == 8
    assert answered != set(map(str, range(8)))


def test_a_polish_reads_the_column_that_is_named(monkeypatch):
    rows = [{"text": "x" * 40, "story": text} for text in documents(40)]
    read = []
    monkeypatch.setattr(
        "trimformer.polish.unlabelled_rows.model_rows", lambda *args: read.append(args[3].columns) or model_rows(*args)
    )
    options = {**OPTIONS, "num_samples": 8, "batch_size": 4, "method": "obs-polish", "polish_budget": "4x"}
    for data in (rows, [{"text": row["story"]} for row in rows]):
        trimformer.prune(language_model(), TOKENIZER, rows, 0.6, text_column="story", polish_data=data, **options)
    assert read == [["story"], None]


@pytest.mark.parametrize("is_answered", [True, False])
def test_sets_with_answers_keep_them_where_the_model_answers_prompts(tmp_path, is_answered):
    rows = [{"prompt": text[:16]} for text in documents(20)]
    scored = [{**row, "completion": "GOLDEN"} if is_answered else row for row in rows[:4]]
    for name, each in (("train", rows[4:]), ("eval", scored)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    files = {"data": str(tmp_path / "train.jsonl"), "eval_data": str(tmp_path / "eval.jsonl")}
    options = DataOptions(**files, generate="greedy", max_length=64, num_samples=8, batch_size=4)
    model = language_model()
    task, train, validation = load_task_data(options, model, TOKENIZER)
    inputs = [Inputs(model, TOKENIZER, train, validation, task=task), Inputs(model, TOKENIZER, rows[4:], scored)]
    for each in inputs:  # from the command line, and from Python
        samples = draw_samples(each, model, TOKENIZER, options, 0, None)
        texts = [TOKENIZER.decode(row["input_ids"]) for row in samples.scored.scorers[0].rows]
        assert len(texts) == 4
        assert all(("GOLDEN" in text) == is_answered for text in texts)
        assert samples.scored.description.endswith("answered by the dense model") != is_answered


def test_encoders_write_no_answers():
    with pytest.raises(TrimformerError, match="writes no answers"):
        model_rows(make_model(), make_tokenizer(), [{"prompt": "a"}], BlockOptions(generate="greedy"))


def test_evaluate_lets_the_dense_model_answer(tmp_path, capsys):
    model = language_model()
    trimformer.save(model, TOKENIZER, tmp_path / "dense")
    pruned = Pruner(model, [batch_of(model)], METHODS["obs"], neuron_multiple=8)
    student = pruned(linear_costs(find_sublayers(model), "mac", 14), 0.5).model
    trimformer.save(student, TOKENIZER, tmp_path / "pruned")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": text[:16]}) + "\n" for text in documents(6)))
    flags = ["--data", tmp_path / "rows.jsonl", "--generate", "greedy", "--max-length", "48"]
    assert run(main, "evaluate", tmp_path / "pruned", *flags) == 2
    assert "name it with --reference" in error_line(capsys.readouterr().err)
    scores = {}
    for name in ("pruned", "dense"):
        assert run(main, "evaluate", tmp_path / name, *flags, "--reference", tmp_path / "dense") == 0
        (scores[name],) = json.loads(capsys.readouterr().out).values()
    assert scores["dense"]["divergence"] == pytest.approx(0, abs=1e-6)
    assert scores["dense"]["perplexity"] < scores["pruned"]["perplexity"]  # of the dense model's own words
