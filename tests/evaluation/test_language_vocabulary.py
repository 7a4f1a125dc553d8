"""Language models that lost tokens: scores that do not flatter them, and figures of what they cannot write."""

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import trimformer
from testing.language import language_model
from tests.export.gguf.tokenizers import KINDS, wrapped
from trimformer.checkpoints.vocabulary import vocabulary_of_texts
from trimformer.data.language_blocks import as_blocks
from trimformer.data.tasks import LanguageTask
from trimformer.errors import TrimformerError
from trimformer.evaluation.language import LanguageScorer
from trimformer.evaluation.language_vocabulary import LanguageVocabularyScorer, measure_lost
from trimformer.models import find_sublayers
from trimformer.models.masking import MaskUnits

TASK = LanguageTask(name="language", max_length=24)
KEPT = ["abcab cabba", "The quick fox"]
TEXTS = ["abcab cabba abba bacca", "aab bba cca abc abab caca", "acbacb bacbac aabbcc abcabc"] * 6


@cache
def tokenizer(kind: str) -> Any:
    return wrapped(KINDS[kind]())


def model_for(kind: str, family: str = "Llama", head: str = "ForCausalLM", **overrides: Any) -> Any:
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return language_model(family, head, vocab_size=len(tokenizer(kind)) + 5, **{**ids, **overrides})


def scorers(kind: str, model: Any, kept: list[str], texts: list[str] = TEXTS) -> tuple[Any, Any, Any]:
    rows = as_blocks([{"text": text} for text in texts], tokenizer(kind), model.config, length=24)
    dense = LanguageScorer("text", rows, TASK, model, tokenizer(kind), 4)
    vocabulary = vocabulary_of_texts(model, tokenizer(kind), kept)
    return dense, LanguageVocabularyScorer(dense, vocabulary, model), vocabulary


def log_probabilities(model: Any, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


@pytest.mark.parametrize("kind", ["gpt-2", "llama", "t5"])
def test_scores_equal_those_computed_token_by_token(kind: str) -> None:
    model, names = model_for(kind), {index: token for token, index in tokenizer(kind).get_vocab().items()}
    dense, small, vocabulary = scorers(kind, model, KEPT)
    # A lost token becomes what the smaller tokenizer makes of its characters.
    spelled = {i: [i] for i in vocabulary.kept_ids}
    for lost in set(names) - set(vocabulary.kept_ids):
        pieces = vocabulary.tokenizer.backend_tokenizer.model.tokenize(names[lost])
        spelled[lost] = [vocabulary.kept_ids[piece.id] for piece in pieces]
    masks = [torch.ones(s.num_units) for s in find_sublayers(model)]
    masks[1][::2] = 0
    losses, divergences, same, lost_shares, lost_predictions, count = 0.0, 0.0, 0, 0.0, 0, 0
    for block in dense.features:
        stream = [*block["input_ids"], block["next_tokens"][-1]]
        old = log_probabilities(model, stream[:-1])
        with MaskUnits(find_sublayers(model), masks):
            for i, target in enumerate(block["next_tokens"]):
                if target == -100:  # the start of a document
                    continue
                read = [piece for token in stream[: i + 1] for piece in spelled[token]]
                new = log_probabilities(model, [*read, *spelled[target]])[len(read) - 1 :]
                losses -= sum(float(new[k, piece]) for k, piece in enumerate(spelled[target]))
                probabilities = old[i, : len(names)].softmax(-1)  # rows without a token write nothing
                first = torch.zeros(len(old[i]))
                for token in names:
                    first[spelled[token][0]] += probabilities[token]
                kept = vocabulary.kept_ids
                divergences += float((first[kept] * (first[kept].log() - new[0, kept])).sum())
                same += int(old[i].argmax()) == kept[int(new[0, kept].argmax())]
                others = [token for token in range(vocabulary.dense_size) if token not in set(kept)]
                lost_shares += float(old[i].exp()[others].sum())
                lost_predictions += int(old[i].argmax()) in others
                count += 1
    references = dense(model)[1]
    with MaskUnits(find_sublayers(model), masks):
        scores, outputs = small(model)
        assert scores["perplexity"] == pytest.approx(math.exp(losses / count), rel=1e-4)
    assert small.changed > 0
    lost = measure_lost(dense, vocabulary, model, tokenizer(kind))
    assert (lost.probability, lost.predictions) == pytest.approx((lost_shares / count, lost_predictions / count))
    assert lost.lengthening > 1
    # Outputs are computed again when they are compared, so the masks must be there, and not for the references.
    references = [references[k] for k in range(len(dense.batches))]
    with MaskUnits(find_sublayers(model), masks):
        assert small.divergence(outputs, references) == pytest.approx(divergences / count, rel=1e-3)
        assert small.agreement(outputs, references).kept == pytest.approx(same / count)


def test_tokens_that_the_text_does_not_use_make_no_score_better() -> None:
    model = model_for("gpt-2")
    dense, small, vocabulary = scorers("gpt-2", model, TEXTS)
    assert len(vocabulary.kept_ids) < len(tokenizer("gpt-2"))
    assert small.changed == 0
    (before, references), (after, outputs) = dense(model), small(model)
    assert after["perplexity"] == pytest.approx(before["perplexity"], rel=1e-5)
    lost = measure_lost(dense, vocabulary, model, tokenizer("gpt-2"))
    assert lost.lengthening == 1
    assert 0 < lost.probability < small.divergence(outputs, references)
    # The model that is saved shares the lost probability out, so it gives the same text more.
    trimmed, _ = trimformer.trim_vocabulary(model, tokenizer("gpt-2"), TEXTS)
    new = {old: i for i, old in enumerate(vocabulary.kept_ids)}
    ids = dense.features[0]["input_ids"]
    saved, scored = log_probabilities(trimmed, [new[i] for i in ids]), log_probabilities(model, ids)
    assert (saved > scored[:, vocabulary.kept_ids]).all()


def test_a_block_that_gets_too_long_is_refused() -> None:
    model = model_for("gpt-2", max_position_embeddings=24)
    with pytest.raises(TrimformerError, match="give shorter blocks with --seq-len"):
        scorers("gpt-2", model, KEPT)


def test_an_id_that_is_no_token_is_refused() -> None:
    model = model_for("gpt-2")
    rows = [{"input_ids": [5, len(tokenizer("gpt-2")) + 1, 7], "next_tokens": [8, 7, 9]}] * 2
    dense = LanguageScorer("text", rows, TASK, model, tokenizer("gpt-2"), 4)
    vocabulary = vocabulary_of_texts(model, tokenizer("gpt-2"), KEPT)
    with pytest.raises(TrimformerError, match="is no token of the tokenizer"):
        LanguageVocabularyScorer(dense, vocabulary, model)
