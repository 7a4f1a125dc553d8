"""Texts reach the model as `SentenceTransformer.encode` gives them to it."""

import json

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

from tests.checkpoints.sentence_models import TEXTS, sentence_model
from tests.conftest import make_model, make_tokenizer
from trimformer import TrimformerError, load, prune
from trimformer.data.batches import make_batches
from trimformer.data.outputs import predict
from trimformer.data.sentence_settings import SentenceSettings
from trimformer.data.sentence_transformers import POOLING
from trimformer.data.tasks import EmbeddingTask, task_of
from trimformer.evaluation.model_outputs import unbatch
from trimformer.options.data import DataOptions
from trimformer.session.task import resolve_task

LONG = [" ".join([text] * 9) for text in TEXTS]
ROWS = [{"query": a, "passage": b} for a, b in zip(TEXTS, TEXTS[::-1], strict=True)]
PROMPTS = {"query": "the good ", "passage": "WHAT plot : ", "topic": "who is "}


@pytest.fixture
def folder(tmp_path):
    return sentence_model(tmp_path, Normalize())


def edit(folder, name="sentence_bert_config.json", **settings):
    file = folder / name
    known = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(known | settings))


def edit_model(folder, **settings):
    edit(folder, "config_sentence_transformers.json", **settings)


def embed(folder, rows):
    model, tokenizer = load(folder)
    task = task_of(model, rows)
    batches = make_batches(task.encode(rows, tokenizer, model.config), tokenizer, 32)
    return torch.stack(unbatch(predict(model, batches), batches))


def same(ours, theirs):
    torch.testing.assert_close(ours, torch.as_tensor(theirs), atol=1e-5, rtol=1e-4)


SETTINGS = {
    "length": ({"max_seq_length": 12}, {}),
    "length above the tokenizer's": ({"max_seq_length": 60}, {}),
    "lower case": ({"do_lower_case": True}, {}),
    "length of the processor": ({"processing_kwargs": {"text": {"max_length": 9}}}, {}),
    "prompt": ({}, {"prompts": PROMPTS, "default_prompt_name": "topic"}),
    "prompts by name only": ({}, {"prompts": PROMPTS}),
    "fewer dimensions": ({}, {"truncate_dim": 5}),
    "all": (
        {"max_seq_length": 7, "do_lower_case": True},
        {"prompts": PROMPTS, "default_prompt_name": "passage", "truncate_dim": 9},
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_embeddings_are_those_of_encode(folder, case):
    module, model = SETTINGS[case]
    texts = [*(text.upper() for text in TEXTS), *LONG]
    edit(folder, **module)
    edit_model(folder, **model)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"model_max_length": 40}))
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts)
    same(embed(folder, [{"text": text} for text in texts]), theirs)


@pytest.mark.parametrize("default", [None, "topic"])
def test_queries_and_passages_get_the_prompts_of_their_names(folder, default):
    edit_model(folder, prompts=PROMPTS, default_prompt_name=default)
    held = SentenceTransformer(str(folder), device="cpu")
    queries, passages = ([row[name] for row in ROWS] for name in ("query", "passage"))
    theirs = held.encode_query(queries), held.encode(passages, prompt_name="passage")
    ours = embed(folder, ROWS)
    same(ours[: len(ROWS)], theirs[0])
    same(ours[len(ROWS) :], theirs[1])


@pytest.mark.parametrize("prompts", [{"topic": "t: "}, {"query": "", "document": "", "topic": "t: "}])
def test_queries_and_documents_never_get_the_default_prompt(folder, prompts):
    edit_model(folder, prompts=prompts, default_prompt_name="topic")
    held = SentenceTransformer(str(folder), device="cpu")
    queries, passages = [f"{text} one" for text in TEXTS], [f"{text} two" for text in TEXTS]
    ours = embed(folder, [{"query": a, "passage": b} for a, b in zip(queries, passages, strict=True)])
    same(ours[: len(TEXTS)], held.encode_query(queries))
    same(ours[len(TEXTS) :], held.encode_document(passages))
    same(embed(folder, [{"text": text} for text in TEXTS]), held.encode(TEXTS))


def test_columns_without_a_role_get_no_prompt_of_a_role():
    assert SentenceSettings(prompts={"query": "q: "}).prompts_of(["sentence1", "sentence2"]) == ()


def test_what_is_assumed_of_an_embedder_is_told(folder, caplog):
    def told(model, rows):
        caplog.clear()
        resolve_task(None, DataOptions(), model, [rows])
        return caplog.text

    with caplog.at_level("INFO", "trimformer"):
        texts = [{"text": text} for text in TEXTS]
        assert "embeddings are means over tokens" in told(make_model(head="Model"), texts)
        assert "embeddings are means" not in told(load(folder)[0], texts)
        edit_model(folder, prompts=PROMPTS)
        assert "(query, passage, topic), and texts of 'text' get none" in told(load(folder)[0], texts)
        assert "get none" not in told(load(folder)[0], ROWS)


@pytest.mark.parametrize("pooling", POOLING)
def test_pooling_is_theirs_with_padding_on_the_left(tmp_path, pooling):
    folder = sentence_model(tmp_path, pooling=pooling)
    edit(folder, "tokenizer_config.json", padding_side="left")
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    same(embed(folder, [{"text": text} for text in TEXTS]), theirs)


def test_texts_are_cut_on_the_tokenizers_side(folder):
    edit(folder, max_seq_length=8)
    edit(folder, "tokenizer_config.json", truncation_side="left")
    theirs = SentenceTransformer(str(folder), device="cpu").encode(LONG)
    same(embed(folder, [{"text": text} for text in LONG]), theirs)


def test_a_cross_encoder_scores_pairs_cut_and_prompted_as_it_does(tmp_path):
    make_model(num_labels=1).save_pretrained(tmp_path / "plain")
    make_tokenizer().save_pretrained(tmp_path / "plain")
    cross = CrossEncoder(str(tmp_path / "plain"), max_length=9, activation_fn=torch.nn.Identity())
    cross.save_pretrained(str(tmp_path / "cross"))
    edit_model(tmp_path / "cross", prompts={"ask": "what is "}, default_prompt_name="ask")
    pairs = list(zip(LONG, LONG[::-1], strict=True))
    theirs = CrossEncoder(str(tmp_path / "cross"), device="cpu").predict(pairs)
    same(embed(tmp_path / "cross", [{"query": a, "passage": b} for a, b in pairs])[:, 0], theirs)


def test_calibration_and_counts_stop_at_the_length_of_encode(folder):
    edit(folder, max_seq_length=10)
    result = prune(*load(folder), LONG, 0.7, device="cpu")
    assert result.samples.seq_len <= 10
    assert result.latency.seq_len <= 10


def test_the_settings_hold_for_a_tokenizer_of_the_users_own_which_stays_as_it_was(folder):
    edit(folder, max_seq_length=10)
    own = make_tokenizer()
    result = prune(load(folder)[0], own, LONG, 0.7, device="cpu")
    assert result.samples.seq_len <= 10
    assert own.model_max_length == 64


def test_a_task_of_the_users_own_gets_the_prompt_too(folder):
    edit_model(folder, prompts=PROMPTS, default_prompt_name="topic")
    model, tokenizer = load(folder)
    rows = [{"mine": text} for text in TEXTS]
    lengths = [
        prune(model, tokenizer, rows, 0.7, task=EmbeddingTask(name="mine", text_columns=("mine",), prompts=prompts),
              device="cpu").samples.seq_len
        for prompts in ((), ("the ",))
    ]  # fmt: skip
    assert lengths[0] == lengths[1] + 1


def test_scores_use_the_models_similarity(folder):
    edit_model(folder, similarity_fn_name="euclidean")
    rows = [{"sentence1": "the film", "sentence2": "a plot", "score": 0.5}, {"sentence1": "a", "sentence2": "b"}]
    task = task_of(load(folder)[0], rows)
    outputs = [torch.tensor([1.0, 0.0])] * 3 + [torch.tensor([x, 0.0]) for x in (1.0, 3.0, 9.0)]
    scored = [{"score": score} for score in (0.9, 0.5, 0.1)]
    assert task.score(outputs, [], scored)["spearman"] == pytest.approx(1)


REFUSED = {
    "lists": ("sentence_bert_config.json", [1], "holds a list"),
    "no JSON": ("config_sentence_transformers.json", "{", "cannot be read"),
    "length in words": ("sentence_bert_config.json", {"max_seq_length": "long"}, "max_seq_length .* is 'long'"),
    "no length": ("sentence_bert_config.json", {"max_seq_length": 0}, "set it to a positive whole number"),
    "case": ("sentence_bert_config.json", {"do_lower_case": "no"}, "do_lower_case .* set it to true or false"),
    "prompts": ("config_sentence_transformers.json", {"prompts": ["query: "]}, "prompts in .* not an object"),
    "a number for a prompt": ("config_sentence_transformers.json", {"prompts": {"q": 3}}, "prompt 'q' .* not a text"),
    "no such prompt": ("config_sentence_transformers.json", {"default_prompt_name": "x"}, "'x', which is not among"),
    "a pooling of lists": ("1_Pooling/config.json", [1], "holds a list"),
    "lists of pooling modes": ("1_Pooling/config.json", {"pooling_mode": [["mean"]]}, "pooling .* is unknown"),
    "a list for a name": ("config_sentence_transformers.json", {"default_prompt_name": []}, r"'\[\]', which is not"),
    "expansion": ("sentence_bert_config.json", {"query_expansion": {"length": 32}}, "sets query_expansion, which"),
    "template": ("sentence_bert_config.json", {"processing_kwargs": {"chat_template": {"x": 1}}}, "chat_template"),
    "layers": ("sentence_bert_config.json", {"config_args": {"num_hidden_layers": 2}}, "config_args.num_hidden_layers"),
    "dtype": ("sentence_bert_config.json", {"model_kwargs": {"dtype": "float16"}}, "model_kwargs.dtype"),
    "side": ("sentence_bert_config.json", {"processing_kwargs": {"text": {"truncation": "only_first"}}}, "truncation"),
    "tokenizer": ("sentence_bert_config.json", {"tokenizer_args": {"do_lower_case": True}}, "sets do_lower_case"),
    "dimensions": ("config_sentence_transformers.json", {"truncate_dim": -1}, "truncate_dim"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_broken_settings_and_those_that_are_not_followed_are_refused(folder, case):
    name, content, words = REFUSED[case]
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(TrimformerError, match=words):
        load(folder)


def test_a_smaller_vocabulary_keeps_the_tokens_of_all_prompts(folder):
    edit_model(folder, prompts={"query": "great story ", "topic": "much "})
    result = prune(*load(folder), ["the film"] * 5, 0.7, vocabulary=["the film"], device="cpu")
    kept = set(result.processor.get_vocab())
    assert {"great", "story", "much", "film"} <= kept
    assert "hate" not in kept
