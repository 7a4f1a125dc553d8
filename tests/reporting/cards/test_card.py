"""The page of a pruned or exported directory."""

import ast
import re
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import HfApi, ModelCard
from sentence_transformers import CrossEncoder

from tests.checkpoints.sentence_models import sentence_model
from tests.commands import problem_rows, prune, run, save_model, write_jsonl
from tests.conftest import make_model
from tests.data.media_fixtures import audio_model, clip_model, image_model
from tests.results import make_result
from trimformer import model_card
from trimformer.cli.main import main
from trimformer.reporting.cards.use import pipeline_tag

WORDS = ["trimformer", "prune", "/home/me/big", "--data", "a/b/rows.jsonl", "--output=../out/", "--constraint", "0.5"]


def loaded(folder):
    return ModelCard.load(folder / "README.md")


def python(card):
    """The code of a card, block by block."""
    return re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)


def from_source(name, text=None):
    """The card of a model that came from there; a README.md is put into it first."""
    if text is not None:
        Path(name).mkdir(parents=True, exist_ok=True)
        (Path(name) / "README.md").write_text(text)
    result = make_result()
    result.model.config._name_or_path = str(name)
    return model_card(result)


def test_metadata_and_table_hold_the_scores():
    card = ModelCard(str(model_card(make_result(), "small", dataset="rows.jsonl")))
    data = card.data.to_dict()
    assert (data["pipeline_tag"], data["library_name"]) == ("text-classification", "transformers")
    assert data["tags"] == ["trimformer", "pruned"]
    found = [(result.dataset_name, result.metric_type, result.metric_value) for result in card.data.eval_results]  # type: ignore[attr-defined]
    assert found == [("rows.jsonl", "accuracy", 0.85), ("rows.jsonl", "f1", 0.825)]
    assert "| accuracy | 90.00 ±1.23 | 85.00 | -5.00 |" in card.text
    assert "attention heads kept in each layer: 2, 2, 2 (of 4)" in card.text


def test_what_was_not_measured_is_left_out():
    card = model_card(replace(make_result(), scores=None, sizes=None, latency=None), dataset="rows.jsonl")
    assert "model-index" not in card.data.to_dict()
    assert "dense |" not in card.text


def test_paths_of_the_command_are_cut_to_their_last_part():
    text = model_card(make_result(), command=WORDS).text
    assert "trimformer prune big --data rows.jsonl --output=out --constraint 0.5" in text


def test_a_name_on_the_hub_is_the_base_model():
    card = from_source("owner/name")
    assert card.data.base_model == "owner/name"
    assert "https://huggingface.co/owner/name" in card.text


def test_a_folder_is_named_by_its_last_part_and_is_no_base_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    for name in ("owner/name", tmp_path / "owner" / "name"):
        card = from_source(name)
        assert card.data.base_model is None
        assert "`name`" in card.text
        assert str(tmp_path) not in str(card)


def test_a_snapshot_in_the_hubs_cache_has_its_name_on_the_hub(tmp_path):
    card = from_source(tmp_path / "models--owner--name" / "snapshots" / "0a1b", "---\nlicense: mit\n---\n")
    assert (card.data.base_model, card.data.license) == ("owner/name", "mit")


def test_a_model_of_the_hub_brings_its_name_and_its_license_and_no_path_of_the_cache(tmp_path, data, monkeypatch):
    cache = tmp_path / "cache" / "models--owner--name"
    folder = save_model(cache / "snapshots" / ("0a" * 20))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0a" * 20)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert prune("owner/name", Path("in", "rows.jsonl"), Path("out")) == 0
    card = loaded(tmp_path / "out")
    assert (card.data.base_model, card.data.license) == ("owner/name", "mit")
    assert "trimformer prune owner/name --data rows.jsonl" in card.text
    for file in (tmp_path / "out").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes(), file.name


def test_what_the_sources_card_says_of_the_model_is_taken_over_but_not_its_prose(tmp_path):
    text = "---\nlicense: mit\nlanguage: de\ndatasets: [imdb]\ntags: [reviews]\nbase_model: a/b\n---\n\nLong prose.\n"
    card = from_source(tmp_path / "in", text)
    data = card.data.to_dict()
    assert (data["license"], data["language"], data["datasets"], data["base_model"]) == ("mit", "de", ["imdb"], "a/b")
    assert data["tags"] == ["trimformer", "pruned", "reviews"]
    assert "prose" not in card.text


@pytest.mark.parametrize("text", ["---\nlicense: [\n---\n", "---\n- a\n---\n", "No metadata.\n"])
def test_a_card_that_says_nothing_or_cannot_be_read_is_left(tmp_path, text, caplog):
    assert from_source(tmp_path / "in", text).data.license is None
    assert ("cannot be read" in caplog.text) == text.startswith("---")


@pytest.mark.parametrize(
    ("model", "tag"),
    [
        (lambda: make_model(head="ForTokenClassification"), "token-classification"),
        (lambda: make_model(head="ForMaskedLM"), "fill-mask"),
        (lambda: make_model(head="ForMultipleChoice"), "multiple-choice"),
        (lambda: make_model(head="Model"), "feature-extraction"),
        (image_model, "image-classification"),
        (audio_model, "audio-classification"),
        (clip_model, "zero-shot-image-classification"),
    ],
)
def test_the_hubs_task_is_told_by_the_head(model, tag):
    assert pipeline_tag(model()) == tag


@pytest.mark.parametrize("problem", ["single_label", "tokens", "span", "embedding"])
def test_the_lines_of_the_card_run(tmp_path, monkeypatch, problem):
    rows = write_jsonl(tmp_path / "in" / "own.jsonl", problem_rows(problem))
    assert prune(save_model(tmp_path / "in" / "model", problem), rows, tmp_path / "out") == 0
    monkeypatch.chdir(tmp_path)
    (code,) = python(loaded(tmp_path / "out"))
    Path("use.py").write_text(code)
    runpy.run_path("use.py")


@pytest.mark.parametrize("kind", ["embedder", "cross-encoder"])
def test_a_sentence_model_has_the_tags_and_the_lines_of_its_library(tmp_path, monkeypatch, data, kind):
    if kind == "embedder":
        folder, tag = sentence_model(tmp_path), "sentence-similarity"
    else:
        save_model(tmp_path / "plain", num_labels=1)
        CrossEncoder(str(tmp_path / "plain"), device="cpu").save_pretrained(str(tmp_path / "model"))
        folder, tag = tmp_path / "model", "text-ranking"
    assert prune(folder, data, tmp_path / "out") == 0
    card = loaded(tmp_path / "out")
    assert (card.data.library_name, card.data.pipeline_tag) == ("sentence-transformers", tag)
    assert "sentence-transformers" in card.data.tags
    monkeypatch.chdir(tmp_path)
    Path("use.py").write_text(python(card)[0])
    runpy.run_path("use.py")


def test_the_card_goes_along_when_the_folder_is_uploaded(model_dir, data, tmp_path, monkeypatch):
    assert prune(model_dir, data, tmp_path / "out") == 0
    sent = []

    def create_commit(self, *, operations, **_):
        sent.extend(operations)
        return SimpleNamespace(commit_url="", pr_url=None)

    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    monkeypatch.setattr(HfApi, "_validate_yaml", lambda *_, **__: None)  # asks the hub
    monkeypatch.setattr("huggingface_hub.hf_api.is_xet_available", lambda: False)  # one commit, by the call above
    huggingface_hub.upload_folder(repo_id="me/small", folder_path=tmp_path / "out")
    (readme,) = [operation for operation in sent if operation.path_in_repo == "README.md"]
    with readme.as_file() as file:
        assert ModelCard(file.read().decode()).data.to_dict()["tags"] == ["trimformer", "pruned"]


def test_the_card_of_an_export_runs_its_file(model_dir, tmp_path, monkeypatch):
    (model_dir / "README.md").write_text("---\nlicense: mit\n---\n")
    assert run(main, "export", model_dir, "--output", tmp_path / "out") == 0
    card = loaded(tmp_path / "out")
    assert (card.data.license, card.data.tags) == ("mit", ["trimformer", "onnx"])
    assert f"trimformer export {model_dir.name} --output out" in card.text
    monkeypatch.chdir(tmp_path)
    Path("use.py").write_text(python(card)[0])
    assert runpy.run_path("use.py")["outputs"][0].shape == (1, 2)


ODD = ["base_model: [null]", "base_model: 7", "base_model: {a: b}", "tags: [[a]]", "tags: 3", "license: [[mit]]",
       "language: {a: 1}", "datasets: [1, null]", "tags: true\nbase_model: ''"]  # fmt: skip


@pytest.mark.parametrize("metadata", ODD)
def test_odd_metadata_of_the_source_does_not_stop_a_card(tmp_path, metadata):
    card = from_source(tmp_path / "source", f"---\n{metadata}\n---\n")
    assert ModelCard(str(card)).data.to_dict()["tags"] == ["trimformer", "pruned"]


@pytest.mark.parametrize("name", ['x"); import os; os.abort(); ("', "a\nimport os; os.abort()", "`code` \x1b[31m"])
def test_an_odd_name_is_text_in_the_card_and_never_code(name):
    card = ModelCard(str(model_card(make_result(), name)))
    [code] = python(card)
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    assert len(calls) == 1
    assert any(ast.literal_eval(keyword.value) == name for keyword in calls[0].keywords)
    assert "\x1b" not in card.text
    assert not any(line.startswith("import os") for line in card.text.splitlines())
