import pytest
import torch
from transformers import BertConfig, BertModel, SwinConfig, SwinModel

from testing import families
from tests.conftest import FAMILIES, make_batch, make_model
from trimformer.errors import TrimformerError
from trimformer.models import find_layers, find_sublayers, max_positions
from trimformer.models.layer_calls import forward, record_calls
from trimformer.models.linear import matrix

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 9}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_running_the_layers_one_by_one_equals_the_model(family, attention):
    model = make_model(family, "Model", attn_implementation=attention)
    batch = make_batch()
    hidden = None
    with torch.no_grad():
        for call in record_calls(model, batch):
            hidden = call(call.first_hidden if hidden is None else hidden)
        torch.testing.assert_close(hidden, forward(model, batch).last_hidden_state)


@pytest.mark.parametrize("family", FAMILIES)
def test_units_account_for_every_channel_of_projection_and_producers(family):
    sublayers = find_sublayers(make_model(family))
    assert [(s.layer, s.kind) for s in sublayers] == [(i, kind) for i in range(3) for kind in ("attention", "ffn")]
    assert [s.num_units for s in sublayers] == [4, 40] * 3
    for s in sublayers:
        assert {len(matrix(p.linear)) for p in s.producers} == {s.num_units * s.unit_size} == {s.channels}


def test_every_head_of_a_family_has_the_same_layers():
    for head in ("Model", "ForTokenClassification", "ForQuestionAnswering"):
        model = make_model("Roberta", head)
        assert find_layers(model) == list(model.base_model.encoder.layer)


def test_a_model_without_known_layers_is_an_error_that_lists_them():
    with pytest.raises(TrimformerError, match=r"Linear.*has no layer that can be pruned; known are .*BertLayer"):
        find_sublayers(torch.nn.Linear(2, 2))


def test_a_layer_that_cannot_be_pruned_is_rejected_with_the_reason():
    model = SwinModel(SwinConfig(image_size=8, patch_size=2, embed_dim=4, depths=[1], num_heads=[2], window_size=2))
    with pytest.raises(TrimformerError, match="SwinLayer cannot be pruned: its windows"):
        find_sublayers(model)


def test_a_config_with_a_wrong_head_size_is_rejected():
    model = make_model()
    model.bert.encoder.layer[1].attention.self.attention_head_size = 7
    with pytest.raises(TrimformerError, match=r"layer 1 attention has 24 input channels.* not match units of 7"):
        find_sublayers(model)


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


@pytest.mark.parametrize("family", ["Esm", "Roberta", "MPNet", "Bert"])
def test_the_longest_input_is_accepted_and_a_longer_one_is_not(family):
    model = families.make(family, "Model")
    longest = max_positions(model.config, 10_000)
    ids = torch.full((1, longest + 1), 5)
    with torch.no_grad():
        model(input_ids=ids[:, 1:], attention_mask=torch.ones_like(ids[:, 1:]))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
