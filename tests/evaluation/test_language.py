"""Intervals of language models' scores: over blocks of different lengths, of one block, and of targets beyond."""

import math

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from testing.language import byte_tokenizer, language_model
from testing.models import enlarged
from tests.commands import run
from trimformer.cli.main import main
from trimformer.data.rows import DOCUMENT
from trimformer.data.tasks import LanguageTask
from trimformer.data.token_ids import check_causal
from trimformer.errors import TrimformerError
from trimformer.evaluation.bounds import mean_bound, unseen
from trimformer.evaluation.clusters import FEWEST_DOCUMENTS
from trimformer.evaluation.language import LanguageScorer
from trimformer.models.layer_calls import NEXT_TOKENS

TASK = LanguageTask(name="language", max_length=64)


def scorer_of(model, lengths):
    rows = [{"input_ids": [2 + i % 200 for i in range(n)], NEXT_TOKENS: [3 + i % 200 for i in range(n)]}
            for n in lengths]  # fmt: skip
    return LanguageScorer("validation", rows, TASK, model, byte_tokenizer())


def test_lengths_of_blocks_are_no_noise():
    model = language_model()
    torch.nn.init.zeros_(model.get_output_embeddings().weight)  # every token costs the same
    scores, _ = scorer_of(model, [4, 60, 5, 31])(model)
    assert scores["perplexity"] == pytest.approx(model.config.vocab_size)
    assert scores["perplexity_ci95"] < 1e-3


def test_the_interval_of_a_mean_per_token_is_that_of_a_ratio():
    scorer = scorer_of(language_model(), [4, 60, 5, 31])
    counts, sums = np.array([4, 60, 5, 31.0]), torch.tensor([9.0, 100, 3, 70], dtype=torch.float64)
    values = scorer.independent_values(sums / counts.mean())
    ratio = float(sums.sum()) / counts.sum()
    assert float(values.mean()) == pytest.approx(ratio)
    residuals = sums.numpy() - ratio * counts  # the delta method
    assert float(values.std(ddof=1)) == pytest.approx(residuals.std(ddof=1) / counts.mean())


@pytest.mark.parametrize(("documents", "independent"), [(FEWEST_DOCUMENTS, FEWEST_DOCUMENTS), (29, 29 * 4)])
def test_blocks_of_one_document_are_one_value_unless_documents_are_few(documents, independent):
    scorer = scorer_of(language_model(), [8 + i % 5 for i in range(4 * documents)])
    noise = np.random.default_rng(0)
    for i, row in enumerate(scorer.rows):
        row |= {DOCUMENT: i // 4, "input_ids": noise.integers(2, 200, len(row["input_ids"])).tolist()}
    counts = np.array([len(row["input_ids"]) for row in scorer.rows])
    sums = counts * np.repeat(noise.random(documents), 4)
    values = scorer.independent_values(torch.tensor(sums / counts.mean()))
    assert len(values) == independent
    assert values.mean() == pytest.approx(sums.sum() / counts.sum())
    if documents == independent:  # the delta method, of a ratio of sums over documents
        residuals = (sums - sums.sum() / counts.sum() * counts).reshape(documents, 4).sum(1)
        assert values.std(ddof=1) == pytest.approx(residuals.std(ddof=1) / counts.mean() / 4)


def test_one_block_has_no_interval():
    model = language_model()
    scorer = scorer_of(model, [20])
    scores, outputs = scorer(model)
    assert scores.keys() == {"perplexity"}
    assert scorer.change_interval(outputs, outputs) is None


def test_a_bound_is_never_below_what_was_measured():
    values = -np.abs(np.random.default_rng(0).standard_normal(200)) - 1
    assert unseen(values, 200, 0.05) == 0
    assert mean_bound(values) > values.mean()
    assert math.isfinite(mean_bound(values))


def test_a_token_to_predict_that_the_model_does_not_have_is_refused():
    model = language_model()
    rows = [{"input_ids": [2, 3], NEXT_TOKENS: [3, model.config.vocab_size]}]
    with pytest.raises(TrimformerError, match="token id 258 to predict, but the model predicts only 258 tokens"):
        LanguageScorer("validation", rows, TASK, model, byte_tokenizer())


def test_evaluate_refuses_a_model_that_sees_the_next_token(tmp_path, capsys):
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    model = enlarged(BertLMHeadModel(BertConfig(vocab_size=300, **sizes)).eval())
    for part in (model, byte_tokenizer()):
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("some words to score\n" * 40)
    flags = ["--data", tmp_path / "texts.txt", "--max-length", "32", "--output", tmp_path / "scores.json"]
    assert run(main, "evaluate", tmp_path / "model", *flags) == 2
    assert "sees the tokens that it is to predict" in capsys.readouterr().err


def test_a_model_that_sees_the_next_token_is_refused():
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    batches = [{"input_ids": torch.arange(2, 22).view(2, 10), NEXT_TOKENS: torch.arange(3, 23).view(2, 10)}]
    for is_decoder in (True, False):
        config = BertConfig(vocab_size=30, is_decoder=is_decoder, **sizes)
        model = enlarged(BertLMHeadModel(config).eval())
        if is_decoder:
            check_causal(model, batches)
        else:
            with pytest.raises(TrimformerError, match="BertLMHeadModel sees the tokens that it is to predict"):
                check_causal(model, batches)
