"""`trimformer prune --vocabulary`: fewer tokens in what is written, told and scored."""

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import error_line, evaluate, outputs, problem_rows, prune, save_model, tree, write_jsonl
from tests.conftest import WORDS, make_model, make_rows, make_tokenizer
from trimformer import LatencyOptions, load
from trimformer.api import prune as prune_model
from trimformer.costs.backends import prepare as prepared
from trimformer.errors import TrimformerError

USED = ["the", "film", "is", "good", "bad"]


def some_words(count: int = 24) -> list[dict[str, Any]]:
    """Rows of few words; the last ones hold one that the others do not."""
    rows = [{"sentence": " ".join(USED[: 2 + i % 3]), "label": i % 2} for i in range(count)]
    return [*rows, *({"sentence": "the great film", "label": i} for i in range(2))]


def results(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "results.json").read_text())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "data" / "train.jsonl", some_words())
    return write_jsonl(tmp_path / "data" / "validation.jsonl", some_words()).parent


def test_scores_are_those_of_the_same_run_with_all_tokens(model_dir: Path, data: Path, tmp_path: Path) -> None:
    assert prune(model_dir, data, tmp_path / "all") == 0
    assert prune(model_dir, data, tmp_path / "used", "--vocabulary", "used") == 0
    whole, used = results(tmp_path / "all"), results(tmp_path / "used")
    assert used["scores"]["pruned"] == pytest.approx(whole["scores"]["pruned"])
    assert used["scores"]["divergence"] == pytest.approx(whole["scores"]["divergence"], abs=1e-6)
    assert used["vocabulary"] == {"tokens": len(load(tmp_path / "used")[1]), "of": 60, "changed": 0}
    assert whole["vocabulary"] is None
    saved = 60 - used["vocabulary"]["tokens"]
    assert whole["sizes"]["pruned"]["parameters"] - used["sizes"]["pruned"]["parameters"] == saved * 24
    assert whole["sizes"]["pruned"]["bytes"] - used["sizes"]["pruned"]["bytes"] == saved * 24 * 4


def test_the_written_directory_scores_as_reported(model_dir: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    assert prune(model_dir, data, tmp_path / "out", "--vocabulary", "used") == 0
    told = results(tmp_path / "out")["scores"]["pruned"]["accuracy"]
    assert evaluate(capsys, tmp_path / "out", "--data", data)["validation"]["accuracy"] == pytest.approx(told)


def test_a_dropped_word_is_scored_as_what_it_becomes(model_dir: Path, data: Path, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "texts.gz", "wt") as file:
        file.write(" ".join(USED) + "\n")
    assert prune(model_dir, data, tmp_path / "out", "--vocabulary", str(tmp_path / "texts.gz")) == 0
    assert results(tmp_path / "out")["vocabulary"]["changed"] == 2
    assert "great" not in load(tmp_path / "out")[1].get_vocab()


@pytest.mark.parametrize("problem", ["tokens", "span", "embedding", "regression"])
def test_other_tasks_lose_tokens_without_a_change_of_scores(problem: Any, tmp_path: Path) -> None:
    model, data = (
        save_model(tmp_path / "model", problem),
        write_jsonl(tmp_path / "data.jsonl", problem_rows(problem, 40)),
    )
    assert prune(model, data, tmp_path / "all") == 0
    assert prune(model, data, tmp_path / "used", "--vocabulary", "used") == 0
    whole, used = results(tmp_path / "all"), results(tmp_path / "used")
    assert used["scores"]["pruned"] == pytest.approx(whole["scores"]["pruned"])
    assert used["scores"]["divergence"] == pytest.approx(whole["scores"]["divergence"], rel=1e-4)


def test_token_outputs_are_compared_where_the_tokens_stay(data: Path) -> None:
    rows = [{"tokens": row["sentence"].split(), "ner_tags": [0] * len(row["sentence"].split())} for row in some_words()]
    model, tokenizer = make_model(head="ForTokenClassification"), make_tokenizer()
    found = prune_model(model, tokenizer, rows, eval_dataset=rows, vocabulary=[" ".join(USED)], num_samples=8)
    assert found.vocabulary is not None
    assert found.vocabulary.changed == 2
    assert found.scores is not None
    assert 0 <= found.scores.divergence < float("inf")


def test_masked_language_models_are_compared_on_the_tokens_that_stay() -> None:
    rows = [{"text": row["sentence"]} for row in some_words()]
    model, tokenizer = make_model(head="ForMaskedLM"), make_tokenizer()
    whole, used = (prune_model(model, tokenizer, rows, vocabulary=v, num_samples=8) for v in (None, "used"))
    assert used.scores.divergence < 2 * whole.scores.divergence + 0.1
    assert used.vocabulary.changed == 0


def test_no_sample_without_dropped_tokens_is_refused_for_token_outputs() -> None:
    rows = [{"tokens": ["the", "plot"], "ner_tags": [0, 1]}] * 8
    with pytest.raises(TrimformerError, match="every sample of 'validation' holds tokens that the vocabulary drops"):
        prune_model(
            make_model(head="ForTokenClassification"), make_tokenizer(), rows, vocabulary=["film"], num_samples=4
        )


def test_the_model_and_tokenizer_that_were_given_keep_all_tokens() -> None:
    model, tokenizer = make_model(), make_tokenizer()
    before = tokenizer.backend_tokenizer.to_str()
    found = prune_model(model, tokenizer, make_rows(20), vocabulary=["the film"], num_samples=8)
    assert model.config.vocab_size == 60
    assert tokenizer.backend_tokenizer.to_str() == before
    assert len(found.processor) < len(tokenizer) == 4 + len(WORDS)


def test_the_result_holds_the_processor_without_a_vocabulary_too() -> None:
    tokenizer = make_tokenizer()
    assert prune_model(make_model(), tokenizer, make_rows(20), num_samples=8).processor is tokenizer


def test_a_standalone_directory_has_fewer_tokens_too(model_dir: Path, data: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    assert prune(model_dir, data, tmp_path / "out", "--vocabulary", "used", "--standalone") == 0
    model, tokenizer = load(tmp_path / "out")
    batch = dict(tokenizer(["the film is good"], return_tensors="pt"))
    alone = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", trust_remote_code=True)
    assert torch.equal(outputs(alone, batch)[0], outputs(model, batch)[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"\n \n", "is empty; give one text per line"),
        (b"\xff\xfd\xfd", "is not UTF-8 (byte 0)"),
        (b"\xff\xfe\x00", "is not UTF-16 (byte 2)"),
    ],
)
def test_a_file_without_texts_is_refused(
    content: bytes | None, message: str, model_dir: Path, data: Path, tmp_path: Path, capsys: Any
) -> None:
    if content is not None:
        (tmp_path / "texts").write_bytes(content)
    before = tree(tmp_path)
    assert prune(model_dir, data, tmp_path / "out", "--vocabulary", str(tmp_path / "texts")) == 2
    assert message in error_line(capsys.readouterr().err)
    assert tree(tmp_path) == before


def test_onnx_files_of_two_vocabularies_are_refused(model_dir: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    assert prune(model_dir, data, tmp_path / "out", "--vocabulary", "used", "--export", "onnx") == 2
    assert "run `trimformer export` on the result" in error_line(capsys.readouterr().err)


def test_encoded_data_tell_no_vocabulary() -> None:
    rows = [{"input_ids": [4, 5, 6], "labels": i % 3} for i in range(12)]
    with pytest.raises(TrimformerError, match="the data are encoded already"):
        prune_model(make_model(), make_tokenizer(), rows, vocabulary="used", num_samples=4)


def test_both_models_are_timed_on_as_many_texts_where_the_vocabulary_is_smaller(monkeypatch: Any) -> None:
    timed: list[dict[str, Any]] = []

    def prepare(model: Any, inputs: Any, backend: Any) -> Any:
        timed.append(dict(inputs))
        return prepared(model, inputs, backend)

    monkeypatch.setattr("trimformer.costs.workloads.prepare", prepare)
    words = [" ".join(USED[i % 3 :]) for i in range(24)]
    rows = [{"question": a, "choices": [b, a, b, a], "label": 0} for a, b in pairwise(words)]
    latency = LatencyOptions(batch_size=2)
    prune_model(make_model(head="ForMultipleChoice"), make_tokenizer(), rows, 0.5, vocabulary="used", latency=latency)
    dense, pruned = (inputs["input_ids"] for inputs in timed)
    assert dense.shape == pruned.shape == (2, 4, dense.shape[-1])
    assert pruned.max() < dense.max()
    assert (pruned[..., 0] == 0).all()  # the special tokens that begin and end a text
    assert pruned[..., -1].unique().numel() == 1


def test_a_file_of_rows_is_no_list_of_texts(model_dir: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a film"}\n')
    assert prune(model_dir, data, tmp_path / "out", "--vocabulary", str(tmp_path / "rows.jsonl")) == 2
    assert "holds rows, not lines of text" in error_line(capsys.readouterr().err)
