"""Models that find the last token of a text by the padding token have that of the tokenizer."""

import pytest

from tests.conftest import make_model, make_rows, make_tokenizer
from trimformer import TrimformerError, prune
from trimformer.data.batches import make_batches
from trimformer.data.tasks import task_of
from trimformer.data.token_ids import check_padding_token
from trimformer.session.coverage import _padding_warnings

ROWS = [{**row, "sentence": row["sentence"][: 10 + 3 * i]} for i, row in enumerate(make_rows(40))]


def padded_with(token, model):
    model.config.pad_token_id = token
    return model


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
@pytest.mark.parametrize(("padding", "words"), [(5, "has pad_token_id 5"), (None, "has no pad_token_id")])
def test_another_padding_token_is_refused_before_the_work(family, padding, words):
    model = padded_with(padding, make_model(family))
    with pytest.raises(TrimformerError, match=words):
        prune(model, make_tokenizer(), ROWS, 0.9, num_samples=16, device="cpu")


@pytest.mark.parametrize(("family", "head"), [("Bert", "ForSequenceClassification"), ("Llama", "ForCausalLM")])
def test_models_that_do_not_read_the_padding_token_may_have_any(family, head):
    check_padding_token(padded_with(5, make_model(family, head)), make_tokenizer())


@pytest.mark.parametrize(("side", "warned"), [("right", False), ("left", True)])
def test_outputs_that_depend_on_padding_are_warned_of(side, warned):
    tokenizer = make_tokenizer()
    tokenizer.padding_side = side
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    model = padded_with(tokenizer.pad_token_id, make_model("GPT2", initializer_range=0.5))
    features = task_of(model, ROWS).encode(ROWS, tokenizer, model.config)
    lines = _padding_warnings(model, make_batches(features, tokenizer, 32), tokenizer)
    assert bool(lines) == warned
    assert not lines or "set padding_side to 'right'" in lines[0]
