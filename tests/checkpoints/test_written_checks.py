"""A directory that nothing could load never appears."""

import pytest
from torch import nn
from transformers import BertTokenizer, ByT5Tokenizer, CLIPImageProcessor

from testing import families
from testing.language import language_model
from tests.conftest import make_model, make_rows, make_tokenizer, pruned, random_masks
from tests.export.gguf.tokenizers import KINDS, wrapped
from trimformer import TrimformerError, load, prune, save
from trimformer.checkpoints.standalone import _auto_classes as auto_classes
from trimformer.checkpoints.written_checks import check_tokenizer_reloads, check_written


def with_layers(model):
    model.classifier = nn.Sequential(nn.Linear(24, 8), nn.Linear(8, 3))


def wider(model):
    model.classifier = nn.Linear(24, 7)


def without_bias(model):
    model.classifier = nn.Linear(24, 3, bias=False)


def extra(model):
    model.adapter = nn.Linear(3, 3)


def longer(model):
    model.bert.embeddings.position_embeddings = nn.Embedding(99, 24)


CHANGES = {
    with_layers: r"the tensor classifier\.",
    wider: r"classifier.weight is \(7, 24\), but \(3, 24\) by the model's config",
    without_bias: "its config has the tensor classifier.bias, the model has not",
    extra: "the model has the tensor adapter.bias, its config has not",
    longer: r"position_embeddings.weight is \(99, 24\)",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("standalone", [False, True])
@pytest.mark.parametrize("smaller", [False, True])
def test_a_model_that_its_config_does_not_describe_is_refused(tmp_path, change, smaller, standalone):
    model = make_model()
    change(model)
    if smaller or standalone:
        model = pruned(model, random_masks(model))
    with pytest.raises(TrimformerError, match=f"would not load again, so nothing is written: .*{CHANGES[change]}"):
        save(model, make_tokenizer(), tmp_path / "out", standalone=standalone)
    assert list(tmp_path.iterdir()) == []


def test_a_pruned_model_with_another_head_is_refused_too(tmp_path):
    model = make_model()
    with_layers(model)
    result = prune(model, make_tokenizer(), make_rows(), 0.7, device="cpu")
    with pytest.raises(TrimformerError, match="would not load again"):
        save(result.model, result.processor, tmp_path / "out")


def test_tensors_that_loading_would_tie_are_refused_unless_they_are_equal(tmp_path):
    model = make_model(head="ForMaskedLM")
    save(model, make_tokenizer(), tmp_path / "tied")
    model.cls.predictions.decoder.weight = nn.Parameter(model.cls.predictions.decoder.weight.detach() + 1)
    with pytest.raises(TrimformerError, match=r"decoder.weight differs from .*word_embeddings.weight"):
        save(model, make_tokenizer(), tmp_path / "out")
    model.config.tie_word_embeddings = False
    with pytest.raises(TrimformerError, match="values, but loading needs"):  # the bias of the decoder is shared still
        save(model, make_tokenizer(), tmp_path / "out")
    model.cls.predictions.decoder.bias = nn.Parameter(model.cls.predictions.decoder.bias.detach().clone())
    save(model, make_tokenizer(), tmp_path / "out")
    assert not load(tmp_path / "out")[0].cls.predictions.decoder.weight.equal(model.get_input_embeddings().weight)


@pytest.mark.slow
@pytest.mark.parametrize("family", families.FAMILIES)
def test_every_family_passes_dense_pruned_and_standalone(tmp_path, family):
    dense = families.make(family, families.FAMILIES[family].heads[0])
    smaller = pruned(dense, families.random_masks(dense))
    for model, standalone in ((dense, False), (smaller, bool(auto_classes(smaller)))):
        path = tmp_path / str(model is dense)
        save(model, CLIPImageProcessor(), path, standalone=standalone)  # no tokenizer suits all families
        check_written(model, path, standalone=standalone)


def test_a_tokenizer_that_loads_as_one_that_reads_otherwise_is_refused(tmp_path):
    tokenizer = wrapped(KINDS["t5"]())
    model = language_model("Qwen2", vocab_size=len(tokenizer))  # Transformers makes a Qwen2Tokenizer of any tokenizer
    for check in (
        lambda: save(model, tokenizer, tmp_path / "out"),
        lambda: check_tokenizer_reloads(model, tokenizer),
    ):
        with pytest.raises(TrimformerError, match="as a Qwen2Tokenizer that reads texts otherwise"):
            check()
    assert list(tmp_path.iterdir()) == []
    check_tokenizer_reloads(language_model("Llama", vocab_size=len(tokenizer)), tokenizer)


@pytest.mark.parametrize("kind", ["added token", "no lower case", "CLIP", "ByT5"])
def test_tokenizers_as_people_have_them_pass(kind):
    model, tokenizer = make_model(), make_tokenizer()
    if kind == "added token":
        tokenizer.add_tokens(["<new>"])
    if kind == "no lower case":
        tokenizer = BertTokenizer(vocab=dict(tokenizer.get_vocab()), do_lower_case=False)
    if kind == "CLIP":
        model, tokenizer = families.make("CLIP", "Model"), CLIPImageProcessor()  # without a tokenizer
    if kind == "ByT5":
        model, tokenizer = families.make("T5", "EncoderModel"), ByT5Tokenizer()
    check_tokenizer_reloads(model, tokenizer)
