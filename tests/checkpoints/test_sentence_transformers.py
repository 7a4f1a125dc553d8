"""sentence-transformers in and out: what its directory says is what is pruned for, and it comes out whole."""

import json
import shutil
from itertools import pairwise

import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, StaticEmbedding

from tests.checkpoints.sentence_models import TEXTS, sentence_model
from tests.conftest import make_model, make_tokenizer, random_masks
from trimformer import TrimformerError, load, prune, save, shrink
from trimformer.data.batches import collate
from trimformer.data.outputs import model_output


def embed(model, tokenizer):
    """Our embedding of the texts."""
    samples = [dict(tokenizer(text)) for text in TEXTS]
    batch = {**collate(samples, tokenizer), "index": torch.arange(len(TEXTS))}
    with torch.no_grad():
        return model_output(model, batch, "embedding")


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
@pytest.mark.parametrize("more", [False, True])
def test_our_embedding_is_theirs_before_and_after(tmp_path, pooling, more):
    dense = [Dense(24, 24, use_residual=True), Dense(24, 8, use_residual=True, activation_function=torch.nn.GELU())]
    after = [Dense(24, 24), *dense, Normalize()] if more else []
    folder = sentence_model(tmp_path, *after, pooling=pooling)
    model, tokenizer = load(folder)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(embed(model, tokenizer), theirs, atol=1e-5, rtol=1e-4)
    shrink(model, random_masks(model))
    save(model, tokenizer, tmp_path / "pruned")
    theirs = SentenceTransformer(str(tmp_path / "pruned"), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(embed(model, tokenizer), theirs, atol=1e-5, rtol=1e-4)


def test_a_sentence_transformer_in_hand_is_pruned_and_left_as_it_was(tmp_path):
    folder = sentence_model(tmp_path, Normalize())
    held = SentenceTransformer(str(folder), device="cpu")
    before = held.encode(TEXTS, convert_to_tensor=True)
    result, loaded = prune(held, None, TEXTS, constraint=0.7), prune(*load(folder), TEXTS, constraint=0.7)
    assert torch.equal(held.encode(TEXTS, convert_to_tensor=True), before)
    for a, b in zip(result.model.state_dict().values(), loaded.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    save(result.model, held.tokenizer, tmp_path / "pruned")
    pruned = SentenceTransformer(str(tmp_path / "pruned"), device="cpu")
    assert pruned.similarity_fn_name == "dot"


def test_what_is_no_model_is_told():
    with pytest.raises(TrimformerError, match="model is a str; give a PreTrainedModel"):
        prune("a/model", None, TEXTS)


def test_prompts_similarity_and_modules_come_out_as_they_went_in(tmp_path):
    folder = sentence_model(tmp_path, Normalize())
    result = prune(*load(folder), TEXTS, constraint=0.7)
    save(result.model, make_tokenizer(), tmp_path / "pruned")
    before, after = (SentenceTransformer(str(path), device="cpu") for path in (folder, tmp_path / "pruned"))
    assert after.prompts["query"] == before.prompts["query"] == "the "
    assert after.similarity_fn_name == before.similarity_fn_name == "dot"
    assert [type(module) for module in after] == [type(module) for module in before]
    assert after.max_seq_length == before.max_seq_length


def test_an_old_layout_with_a_folder_for_the_transformer_is_taken(tmp_path):
    folder = sentence_model(tmp_path, Normalize())
    (folder / "0_Transformer").mkdir()
    for file in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.move(folder / file, folder / "0_Transformer" / file)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    model, tokenizer = load(folder)
    save(model, tokenizer, tmp_path / "pruned")
    theirs = SentenceTransformer(str(tmp_path / "pruned"), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(embed(model, tokenizer), theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("labels", [1, 3])
def test_a_cross_encoder_keeps_its_activation(tmp_path, labels):
    make_model(num_labels=labels).save_pretrained(tmp_path / "plain")
    make_tokenizer().save_pretrained(tmp_path / "plain")
    CrossEncoder(str(tmp_path / "plain"), activation_fn=torch.nn.Identity()).save_pretrained(str(tmp_path / "cross"))
    model, tokenizer = load(tmp_path / "cross")
    shrink(model, random_masks(model))
    save(model, tokenizer, tmp_path / "pruned")
    cross = CrossEncoder(str(tmp_path / "pruned"), device="cpu")
    assert type(cross.activation_fn) is torch.nn.Identity
    pairs = list(pairwise(TEXTS))
    with torch.no_grad():
        logits = torch.stack([model(**tokenizer(*pair, return_tensors="pt")).logits[0] for pair in pairs])
    scores = torch.as_tensor(cross.predict(pairs)).view_as(logits)
    torch.testing.assert_close(scores, logits, atol=1e-5, rtol=1e-4)


def edit(folder, change):
    modules = json.loads((folder / "modules.json").read_text())
    change(modules)
    (folder / "modules.json").write_text(json.dumps(modules))


REFUSED = {
    "an unknown module": (lambda m: m[1].update(type="x.WeightedLayerPooling"), "module WeightedLayerPooling"),
    "two transformers": (lambda m: m.append({**m[0], "idx": 9}), "whose first module is its only Transformer"),
    "a way out": (lambda m: m[1].update(path="../elsewhere"), "leads out of the directory"),
}


def test_a_dense_module_that_names_no_activation_has_that_of_sentence_transformers(tmp_path):
    folder = sentence_model(tmp_path, Dense(24, 8))
    config = json.loads((folder / "2_Dense" / "config.json").read_text())
    del config["activation_function"]
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config))
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(embed(*load(folder)), theirs, atol=1e-5, rtol=1e-4)


OTHER_MODELS = {
    "it reads or writes another tensor": lambda model: model[2].__dict__.update(module_output_name="scores"),
    "has the module Dense before the Pooling": lambda model: model.__setattr__("_modules", reordered(model, 0, 2, 1)),
    "an embedder without the module Pooling": lambda model: model.__setattr__("_modules", reordered(model, 0)),
}


def reordered(model, *order):
    return {str(new): model[old] for new, old in enumerate(order)}


@pytest.mark.parametrize("words", OTHER_MODELS)
def test_an_embedding_that_is_computed_otherwise_is_refused(tmp_path, words):
    model = SentenceTransformer(str(sentence_model(tmp_path, Dense(24, 8))), device="cpu")
    OTHER_MODELS[words](model)
    model.save_pretrained(str(tmp_path / "other"))
    with pytest.raises(TrimformerError, match=words):
        load(tmp_path / "other")


@pytest.mark.parametrize(
    ("kind", "words"), [("CrossEncoder", "scores pairs by its modules Pooling"), ("ColBERT", "is a ColBERT of")]
)
def test_another_kind_of_model_is_refused(tmp_path, kind, words):
    folder = sentence_model(tmp_path)
    settings = json.loads((folder / "config_sentence_transformers.json").read_text())
    (folder / "config_sentence_transformers.json").write_text(json.dumps({**settings, "model_type": kind}))
    with pytest.raises(TrimformerError, match=words):
        load(folder)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_known_is_refused_by_name(tmp_path, case):
    change, words = REFUSED[case]
    folder = sentence_model(tmp_path)
    edit(folder, change)
    with pytest.raises(TrimformerError, match=words):
        load(folder)


def test_static_embeddings_are_refused_by_name(tmp_path):
    SentenceTransformer(modules=[StaticEmbedding(make_tokenizer(), embedding_dim=8)]).save_pretrained(str(tmp_path))
    with pytest.raises(TrimformerError, match="StaticEmbedding"):
        load(tmp_path)


def test_an_unknown_pooling_is_refused(tmp_path):
    folder = sentence_model(tmp_path)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "attention"}))
    with pytest.raises(TrimformerError, match=r"pooling 'attention' .* is unknown; known are cls"):
        load(folder)


@pytest.mark.parametrize("family", ["Bert", "MPNet"])
@pytest.mark.parametrize("weights", ["all", "encoder"])
def test_an_embedder_is_the_bare_model_whatever_head_its_config_names(tmp_path, family, weights):
    folder = sentence_model(tmp_path, Normalize(), family=family, attn_implementation="eager")
    if weights == "all":
        make_model(family, "ForMaskedLM", seed=1, attn_implementation="eager").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [f"{family}ForMaskedLM"]}))
    model, tokenizer = load(folder)
    assert type(model).__name__ == f"{family}Model"
    theirs = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(embed(model, tokenizer), theirs, atol=1e-5, rtol=1e-4)
    save(model, tokenizer, tmp_path / "out")
    again = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(again, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("content", [{}, {"architectures": ["Nonsense"]}])
def test_an_embedder_needs_no_architecture(tmp_path, content):
    folder = sentence_model(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config | content))
    assert type(load(folder)[0]).__name__ == "BertModel"
