"""Every input that a model reads is passed on, or the data are refused."""

import pytest
import torch

from testing.families import exists, make
from tests.commands import problem_model
from tests.conftest import make_model, make_rows, make_tokenizer
from trimformer import TrimformerError, prune
from trimformer.data.model_inputs import check_inputs
from trimformer.data.tasks import task_of
from trimformer.evaluation.scores import Scorer

ENCODED = [{"input_ids": [0, 5, 6, 2], "attention_mask": [1, 1, 1, 1], "label": i % 3} for i in range(8)]


def test_ordinary_rows_pass():
    model, tokenizer = make_model(), make_tokenizer()
    check_inputs(model, tokenizer, make_rows(), are_encoded=False)
    check_inputs(model, tokenizer, ENCODED, are_encoded=True)
    check_inputs(
        model, tokenizer, [{**row, "offset_mapping": 0, "return_loss": True} for row in ENCODED], are_encoded=True
    )


def test_positions_of_their_own_are_refused():
    model, tokenizer = make_model(), make_tokenizer()
    rows = [{**row, "position_ids": [0, 1, 2, 3]} for row in ENCODED]
    check_inputs(model, tokenizer, rows, are_encoded=True)
    rows[-1]["position_ids"] = [0, 1, 0, 1]
    with pytest.raises(TrimformerError, match=r"BertForSequenceClassification reads position_ids\. The rows"):
        prune(model, tokenizer, rows, 0.5, eval_dataset=ENCODED)
    with pytest.raises(TrimformerError, match="reads position_ids"):
        prune(model, tokenizer, ENCODED, 0.5, eval_dataset=rows)


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_positions_as_the_model_counts_them_pass(family):
    model, tokenizer = make_model(family), make_tokenizer()
    start = 0 if family == "Bert" else 2  # after the padding token's id, 1
    usual = [start + i for i in range(4)]
    rows = [{**row, "position_ids": usual} for row in ENCODED]
    padded = {"input_ids": [1, 5, 6, 1], "attention_mask": [0, 1, 1, 0], "position_ids": [7, start, start + 1, 9]}
    for more in ({}, {"position_ids": None}, {"position_ids": torch.tensor(usual)}, padded):
        check_inputs(model, tokenizer, [*rows, {**ENCODED[0], **more}], are_encoded=True)
    for other in ([start + 1 + i for i in range(4)], [start, start, start + 1, start + 2]):
        with pytest.raises(TrimformerError, match="reads position_ids"):
            check_inputs(model, tokenizer, [*ENCODED, {**ENCODED[0], "position_ids": other}], are_encoded=True)


def test_positions_of_choices_count_one_by_one():
    model, tokenizer = make_model(head="ForMultipleChoice"), make_tokenizer()
    row = {"input_ids": [[5, 6, 7], [8, 9]], "position_ids": [[0, 1, 2], [0, 1]], "label": 0}
    check_inputs(model, tokenizer, [row], are_encoded=True)
    with pytest.raises(TrimformerError, match="reads position_ids"):
        check_inputs(model, tokenizer, [{**row, "position_ids": [[0, 1, 2], [3, 4]]}], are_encoded=True)


def test_packed_rows_of_language_models_are_refused():
    rows = [{"input_ids": [5, 6, 7, 8], "position_ids": [0, 1, 0, 1]} for _ in range(8)]
    with pytest.raises(TrimformerError, match="LlamaForCausalLM reads position_ids"):
        prune(make("Llama", "ForCausalLM"), make_tokenizer(), rows, 0.5)


class Shaped(type(make_tokenizer())):  # type: ignore[misc]
    """A tokenizer that gives one more input, as RoCBert's gives the shapes of characters."""

    def __call__(self, *args, **kwargs):
        encoded = super().__call__(*args, **kwargs)
        encoded["inputs_embeds"] = encoded["input_ids"]
        return encoded


def test_what_the_tokenizer_gives_is_passed_on_or_refused():
    tokenizer = make_tokenizer()
    tokenizer.__class__ = Shaped
    with pytest.raises(TrimformerError, match=r"reads inputs_embeds\. Its tokenizer gives it"):
        check_inputs(make_model(), tokenizer, make_rows(), are_encoded=False)


def test_boxes_are_never_made_up():
    if not exists("LayoutLM", "ForTokenClassification"):
        pytest.skip("this version of transformers has no such model")
    model = make("LayoutLM", "ForTokenClassification")
    rows = [{"tokens": ["good", "film"], "ner_tags": [0, 1], "bboxes": [[1, 2, 3, 4]] * 2} for _ in range(8)]
    encoded = [{"input_ids": [5, 6]} for _ in range(8)]
    for given in (rows, encoded, [{**row, "bbox": [[1, 2, 3, 4]] * 2} for row in encoded[:-1]] + encoded[-1:]):
        with pytest.raises(TrimformerError, match="LayoutLMForTokenClassification reads 'bbox'"):
            prune(model, make_tokenizer(), given, 0.5)


@pytest.mark.parametrize("problem", ["tokens", "span"])
def test_encoded_rows_of_a_tagger_are_not_padded_on_the_left(problem):
    model, tokenizer = problem_model(problem), make_tokenizer()
    tokenizer.padding_side = "left"
    rows = [{"input_ids": [5] * (2 + i % 3)} for i in range(8)]
    with pytest.raises(TrimformerError, match="pads on the left"):
        Scorer("rows", rows, task_of(model, rows), model, tokenizer)


def test_other_models_may_be_padded_on_the_left():
    model, tokenizer = make_model(), make_tokenizer()
    tokenizer.padding_side = "left"
    scorer = Scorer("rows", ENCODED, task_of(model, ENCODED), model, tokenizer)
    assert all(torch.isfinite(output).all() for output in scorer(model)[1])
