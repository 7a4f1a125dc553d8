import pytest
import torch
from conftest import FAMILIES, make_batch, make_model
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from trimformer.arch import find_layers, find_sublayers, supported_families
from trimformer.calibration import model_inputs
from trimformer.errors import TrimformerError
from trimformer.masking import collect_layer_inputs

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sublayers_composed_equal_the_model(family, attention):
    model = make_model(family, "Model", attn_implementation=attention)
    inputs = model_inputs(make_batch())
    hidden, mask = next(collect_layer_inputs(model, [inputs]))
    with torch.no_grad():
        for s in find_sublayers(model):
            hidden = s.norm(s.projection(s.channels(hidden, mask)) + hidden)
        torch.testing.assert_close(hidden, model(**inputs).last_hidden_state)


@pytest.mark.parametrize("family", FAMILIES)
def test_units_account_for_every_channel_of_projection_and_producers(family):
    sublayers = find_sublayers(make_model(family))
    assert [(s.layer, s.kind) for s in sublayers] == [(i, kind) for i in range(3) for kind in ("attention", "ffn")]
    assert [s.num_units for s in sublayers] == [4, 40] * 3
    for s in sublayers:
        assert {p.out_features for p in s.producers} == {s.num_units * s.unit_size} == {s.projection.in_features}


def test_every_head_of_a_family_shows_the_same_layers():
    for head in ("Model", "ForTokenClassification", "ForQuestionAnswering"):
        model = make_model("Roberta", head)
        assert find_layers(model) is model.base_model.encoder.layer


def test_unsupported_model_type_is_an_error_that_lists_the_families():
    model = GPT2Model(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=9))
    with pytest.raises(TrimformerError) as error:
        find_sublayers(model)
    assert "gpt2" in str(error.value)
    assert all(family in str(error.value) for family in supported_families())


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"is_decoder": True}, "decoder"),
        ({"is_decoder": True, "add_cross_attention": True}, "decoder"),
        ({"chunk_size_feed_forward": 2}, "chunk_size_feed_forward"),
    ],
)
def test_setups_that_break_the_residual_form_are_rejected(settings, word):
    with pytest.raises(TrimformerError, match=word):
        find_sublayers(BertModel(BertConfig(**SMALL, **settings)))
