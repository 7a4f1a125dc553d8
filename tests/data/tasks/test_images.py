"""Image tasks, with and without texts."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import make_model, make_tokenizer, without_intervals
from tests.data.media_fixtures import clip_model, clip_processor, image_model, image_processor, make_pixels, save_image
from trimformer.data.batches import make_batches, mean_length
from trimformer.data.outputs import predict
from trimformer.data.splits import read_splits
from trimformer.data.tasks import ImageTask, ImageTextTask, task_of
from trimformer.errors import TrimformerError
from trimformer.evaluation.scores import Scorer


def make_rows(count=5, **more):
    return [{"image": Image.fromarray(make_pixels(i, 20 + i)), **more} for i in range(count)]


def test_a_folder_by_class_is_scored_by_its_names(tmp_path):
    for i, name in enumerate(["cat", "cat", "dog", "owl"]):
        save_image(tmp_path / name / f"{i}.png", i)
    (rows,) = read_splits(tmp_path).values()
    model = image_model()
    task = task_of(model, rows)
    scorer = Scorer("v", rows, task, model, image_processor())
    labels = {int(i): int(v) for b in scorer.batches for i, v in zip(b["index"], b["labels"], strict=True)}
    assert [labels[i] for i in range(4)] == [0, 0, 1, 2]
    assert (type(task), task.metric, list(scorer(model)[0])) == (
        ImageTask,
        "accuracy",
        ["accuracy", "macro_f1", "accuracy_ci95"],
    )


def test_inputs_match_the_image_processor():
    rows, model = make_rows(), image_model()
    features = task_of(model, rows).encode(rows, image_processor(), model.config)
    (batch,) = make_batches(features, image_processor(), 8)
    expected = image_processor()([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"][batch["index"].argsort()], expected)
    assert mean_length(features) == 1.0


@pytest.mark.parametrize("column", ["image", "img", "Picture", "mine"])
def test_unlabelled_images_need_only_their_column(column):
    rows, model = [{column: row["image"]} for row in make_rows(2)], image_model()
    named = {"text_columns": ["mine"]} if column == "mine" else {}
    task = task_of(model, rows, **named)
    assert (task.image_column, task.metric) == (column, None)
    assert task.score([], task.encode(rows, image_processor(), model.config), rows) == {}


def test_several_labels_and_numbers_are_scored_too():
    for kind, label, metric in (("multi_label_classification", "cat,owl", "micro_f1"), ("regression", 0.5, "pearson")):
        rows, model = make_rows(3, label=label), image_model(problem_type=kind)
        task = task_of(model, rows)
        scores = Scorer("v", rows, task, model, image_processor())(model)[0]
        assert (task.metric, metric in scores) == (metric, True)


def test_a_bare_encoder_takes_images_without_labels():
    rows, model = make_rows(3, label="cat"), image_model().vit
    task = task_of(model, rows)
    features = task.encode(rows, image_processor(), model.config)
    (output,) = predict(model, make_batches(features, image_processor(), 8))
    assert (output.shape, task.metric, "labels" in features[0]) == ((3, 24), None, False)


def test_a_model_with_one_channel_gets_grey_images():
    rows, model = make_rows(2), image_model(num_channels=1)
    processor = image_processor()
    processor.image_mean, processor.image_std = [0.5], [0.5]
    features = task_of(model, rows).encode(rows, processor, model.config)
    assert features[0]["pixel_values"].shape == (1, 16, 16)


def test_images_and_texts_go_to_both_towers():
    rows, model = [{**row, "caption": "good film " * i} for i, row in enumerate(make_rows(4))], clip_model()
    task = task_of(model, rows)
    features = task.encode(rows, clip_processor(), model.config)
    (batch,) = make_batches(features, clip_processor(), 8)
    assert type(task) is ImageTextTask
    assert set(batch) == {"input_ids", "attention_mask", "pixel_values", "index"}
    assert batch["index"].tolist() == [3, 2, 1, 0]  # by the texts' lengths
    assert predict(model, [batch])[0].shape == (4, 24)


def test_texts_of_pairs_are_truncated_at_the_models_limit():
    rows, model = [{"image": make_pixels(), "text": "film " * 50}], clip_model()
    features = task_of(model, rows).encode(rows, clip_processor(), model.config)
    assert (len(features[0]["input_ids"]), mean_length(features)) == (20, 20.0)


@pytest.mark.parametrize("rows", [[{"image": 1}], [{"caption": "a"}]])
def test_a_dual_model_needs_both_columns(rows):
    with pytest.raises(TrimformerError, match=r"no (image|text) column found among (image|caption).*text_column="):
        task_of(clip_model(), rows)


def test_an_unreadable_image_in_the_middle_is_named(tmp_path):
    rows = [{"image": str(save_image(tmp_path / f"{i}.png"))} for i in range(3)]
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(TrimformerError, match=r"row 2 \('.*1.png'\) cannot be read"):
        task_of(image_model(), rows).encode(rows, image_processor(), image_model().config)


def test_missing_inputs_are_named():
    rows, model = make_rows(2, label="cow"), image_model()
    with pytest.raises(TrimformerError, match=r"no image column found among label.*--text-column"):
        task_of(model, [{"label": 0}])
    with pytest.raises(TrimformerError, match="'cow' in row 1 is unknown"):
        task_of(model, rows).encode(rows, image_processor(), model.config)
    for processor in (make_tokenizer(), None):
        with pytest.raises(TrimformerError, match="need the model's image processor, not"):
            task_of(model, rows[:0] + make_rows(1)).encode(make_rows(1), processor, model.config)


def test_images_of_different_sizes_are_an_error():
    features = [{"pixel_values": np.zeros((3, n, 8), np.float32)} for n in (8, 9)]
    with pytest.raises(TrimformerError, match="the samples' 'pixel_values' differ in size"):
        make_batches(features, image_processor(), 8)


def test_a_batch_of_images_is_bounded_by_its_patches():
    features = [{"pixel_values": np.zeros((3, 32, 32), np.float32)}] * 7  # 5 tokens each
    assert [len(batch["index"]) for batch in make_batches(features, image_processor(), 8, max_tokens=15)] == [3, 3, 1]


def test_perfect_outputs_score_1():
    rows, model = [{**row, "label": i} for i, row in enumerate(make_rows(3))], image_model()
    task = task_of(model, rows)
    features = task.encode(rows, image_processor(), model.config)
    assert set(without_intervals(task.score(list(torch.eye(3)), features, rows)).values()) == {1.0}


def test_a_model_of_texts_does_not_take_images():
    with pytest.raises(TrimformerError, match="no text column found among image"):
        task_of(make_model(), make_rows(1))
