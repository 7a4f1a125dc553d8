"""Samples encoded elsewhere give the same batches as their texts."""

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

from tests.conftest import make_model, make_rows, make_tokenizer
from tests.data.media_fixtures import RATE, audio_model, extractor, image_model, image_processor, make_pixels, make_wave
from trimformer.data.batches import make_batches
from trimformer.data.rows import as_rows
from trimformer.data.tasks import EncodedTask, task_of
from trimformer.errors import TrimformerError
from trimformer.evaluation.scores import Scorer

MODEL = make_model()
TEXTS = make_rows(10, labels=3)


def tokenised(padding=False, side="right"):
    tokenizer = make_tokenizer()
    tokenizer.padding_side = side
    encode = {"padding": "max_length", "max_length": 20} if padding else {}
    return [{**tokenizer(row["sentence"], **encode), "label": row["label"]} for row in TEXTS]


def batches_of(rows, model=MODEL, processor=None):
    rows = as_rows(rows)
    task = task_of(model, rows)
    processor = processor or make_tokenizer()
    return task, make_batches(task.encode(rows, processor, model.config), processor, 4)


FORMATS = {
    "lists": tokenised(),
    "padded": tokenised(padding=True),
    "padded on the left": tokenised(padding=True, side="left"),
    "Dataset": datasets.Dataset.from_list(tokenised(padding=True)),
    "Dataset of tensors": datasets.Dataset.from_list(tokenised(padding=True)).with_format("torch"),
    "Dataset with its texts": datasets.Dataset.from_list([{**b, **a} for a, b in zip(tokenised(), TEXTS, strict=True)]),
    "DataLoader": DataLoader(tokenised(), batch_size=3, collate_fn=DataCollatorWithPadding(make_tokenizer())),
}


@pytest.mark.parametrize("name", FORMATS)
def test_encoded_samples_give_the_batches_of_their_texts(name):
    task, batches = batches_of(FORMATS[name])
    _, expected = batches_of(TEXTS)
    assert (type(task), task.metric) == (EncodedTask, "accuracy")
    for batch, other in zip(batches, expected, strict=True):
        assert {k: v.tolist() for k, v in batch.items()} == {k: v.tolist() for k, v in other.items()}


def test_padding_is_stripped_from_token_labels():
    model, tokenizer = make_model(head="ForTokenClassification"), make_tokenizer()
    rows = [{**tokenizer("good " * n), "labels": [-100, *[n % 3] * n, -100]} for n in (1, 4)]
    loader = DataLoader(rows, batch_size=2, collate_fn=DataCollatorForTokenClassification(tokenizer))
    task, (batch,) = batches_of(loader, model)
    assert batch["labels"].tolist() == [[-100, 1, 1, 1, 1, -100], [-100, 1, -100, -100, -100, -100]]
    outputs = [torch.nn.functional.one_hot(torch.tensor([1] * n), 3).float() for n in (3, 6)]
    features = task.encode(as_rows(loader), tokenizer, model.config)
    assert task.score(outputs, features, [])["accuracy"] == 1.0


@pytest.mark.parametrize("side", ["right", "left"])
def test_span_positions_shift_with_the_stripped_padding(side):
    model, tokenizer = make_model(head="ForQuestionAnswering"), make_tokenizer()
    tokenizer.padding_side = side
    encoded = tokenizer("good film", padding="max_length", max_length=9)
    start = encoded["input_ids"].index(tokenizer.convert_tokens_to_ids("film"))
    task, (batch,) = batches_of([{**encoded, "start_positions": start, "end_positions": start}] * 2, model)
    assert (batch["input_ids"].shape, batch["start_positions"].tolist()) == ((2, 4), [2, 2])
    assert task.metric is None


def test_encoded_rows_may_have_different_numbers_of_choices():
    model, tokenizer = make_model(head="ForMultipleChoice"), make_tokenizer()
    rows = [{"input_ids": [[5, 6], [7], [8, 9]][: 2 + i % 2], "label": i % 2} for i in range(6)]
    scorer = Scorer("rows", rows, task_of(model, rows), model, tokenizer)
    assert scorer(model)[0].keys() == {"accuracy", "accuracy_ci95"}
    with pytest.raises(TrimformerError, match="label 7 in row 2 is none of its 3 choices"):
        scorer.task.encode([rows[0], {**rows[1], "label": 7}], tokenizer, model.config)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_choices_is_stripped(side):
    model, tokenizer = make_model(head="ForMultipleChoice"), make_tokenizer()
    tokenizer.padding_side = side
    texts = ["good", "good film"], ["it", "it was"]
    padded = {**tokenizer(*texts, padding="max_length", max_length=20), "label": 1}
    bare = {**tokenizer(*texts), "label": 1}
    (one,), (other,) = (batches_of([row], model)[1] for row in (padded, bare))
    assert one["input_ids"].shape[-1] < 20
    assert all(torch.equal(one[key], other[key]) for key in other)


def test_choices_images_and_sounds_stay_unchanged():
    choice, tokenizer = make_model(head="ForMultipleChoice"), make_tokenizer()
    rows = [{**tokenizer(["good", "good film"], ["it", "it"]), "label": 1}]
    assert batches_of(rows, choice)[1][0]["input_ids"].shape == (1, 2, 6)
    images = image_processor()([make_pixels(), make_pixels(1)], return_tensors="pt")
    (batch,) = batches_of(DataLoader([images], batch_size=None), image_model(), image_processor())[1]
    assert torch.equal(batch["pixel_values"], images["pixel_values"])
    sounds = extractor()([make_wave(90), make_wave(70)], sampling_rate=RATE, padding=True, return_tensors="pt")
    (batch,) = batches_of(DataLoader([sounds], batch_size=None), audio_model(), extractor())[1]
    assert all(torch.equal(batch[key], sounds[key].to(batch[key].dtype)) for key in sounds)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"input_ids": [[3, 4]], "label": 0}, "'input_ids' of row 2 is not a list of token ids"),
        ({"input_ids": [], "label": 0}, "'input_ids' of row 2 is not a list"),
        ({"input_ids": ["a"], "label": 0}, "'input_ids' of row 2 does not hold numbers"),
        ({"input_ids": [3] * 65, "label": 0}, "row 2 has 65 tokens, but the model accepts 64"),
        ({"input_ids": [3]}, "no column 'label' in row 2"),
        ({"input_ids": [3], "label": 7}, "label 7 in row 2 is outside"),
        ({"label": 0}, "no column 'input_ids' in row 2"),
    ],
)
def test_bad_samples_are_named(row, words):
    with pytest.raises(TrimformerError, match=words):
        batches_of([{"input_ids": [3, 4], "label": 1}, row])


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (1, "row 1 is not a list"),
        ([0], "2 tokens but 1 labels"),
        ([0, 9], "outside"),
        (["a", 0], "unknown to the model"),
    ],
)
def test_bad_labels_of_tokens_are_named(labels, words):
    with pytest.raises(TrimformerError, match=words):
        batches_of([{"input_ids": [3, 4], "labels": labels}], make_model(head="ForTokenClassification"))


def test_encoded_images_without_the_main_input_are_an_error():
    with pytest.raises(TrimformerError, match="no column 'pixel_values' in row 1"):
        batches_of([{"input_ids": [3], "x": np.zeros(2)}], image_model(), image_processor())
