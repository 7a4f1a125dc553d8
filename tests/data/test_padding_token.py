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


def batches_of(model, tokenizer, rows=ROWS):
    features = task_of(model, rows).encode(rows, tokenizer, model.config)
    return make_batches(features, tokenizer, 32)


@pytest.mark.parametrize("family", ["Bert", "T5"])
def test_models_that_pool_another_token_may_have_any_padding_token(family):
    model, tokenizer = padded_with(5, make_model(family)), make_tokenizer()
    check_padding_token(model, tokenizer, batches_of(model, tokenizer))


def test_padding_on_the_left_or_none_hides_no_token():
    model, tokenizer = padded_with(5, make_model("Llama")), make_tokenizer()
    check_padding_token(model, tokenizer, batches_of(model, tokenizer, ROWS[:1] * 8))
    tokenizer.padding_side = "left"
    check_padding_token(model, tokenizer, batches_of(model, tokenizer))


def test_a_smaller_vocabulary_may_number_the_padding_token_anew():
    tokenizer = make_tokenizer()
    tokenizer.pad_token = "who"  # not among the first ids
    model = padded_with(tokenizer.pad_token_id, make_model("Llama", vocab_size=len(tokenizer)))
    result = prune(model, tokenizer, ROWS[:30], 0.9, vocabulary="used", num_samples=16, device="cpu")
    assert result.model.config.pad_token_id == result.processor.pad_token_id != tokenizer.pad_token_id


@pytest.mark.parametrize(("side", "warned"), [("right", False), ("left", True)])
def test_outputs_that_depend_on_padding_are_warned_of(side, warned):
    tokenizer = make_tokenizer()
    tokenizer.padding_side = side
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    model = padded_with(tokenizer.pad_token_id, make_model("GPT2", initializer_range=0.5))
    lines = _padding_warnings(model, batches_of(model, tokenizer), tokenizer)
    assert bool(lines) == warned
    assert not lines or "set padding_side to 'right'" in lines[0]


def test_models_of_other_inputs_are_not_asked():
    model, tokenizer = make_model("Llama"), make_tokenizer()
    (batch, *_) = batches_of(model, tokenizer)
    assert _padding_warnings(model, [{**batch, "bbox": batch["input_ids"]}], tokenizer) == []
    assert _padding_warnings(model, [{**batch, "attention_mask": batch["attention_mask"] * 0}], tokenizer) == []
