"""Audio tasks: encoding, padding and scores."""

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2ForCTC, Wav2Vec2Model, WhisperFeatureExtractor

from tests.data.media_fixtures import RATE, audio_model, extractor, image_processor, make_wave, save_sound
from trimformer.costs.random_inputs import random_inputs
from trimformer.data.batches import make_batches, mean_length
from trimformer.data.outputs import predict
from trimformer.data.splits import read_splits
from trimformer.data.tasks import AudioTask, task_of
from trimformer.errors import TrimformerError
from trimformer.evaluation.scores import Scorer

LENGTHS = (300, 600, 450)


def make_rows(**more):
    return [{"audio": make_wave(n, n), "sampling_rate": RATE, **more} for n in LENGTHS]


def test_a_folder_by_class_is_scored_by_its_names(tmp_path):
    for i, name in enumerate(["cat", "dog", "dog", "owl"]):
        save_sound(tmp_path / name / f"{i}.wav", 300 + 100 * i, rate=(RATE, 2 * RATE)[i % 2], channels=1 + i % 2)
    (rows,) = read_splits(tmp_path).values()
    model = audio_model()
    task = task_of(model, rows)
    scorer = Scorer("v", rows, task, model, extractor())
    assert (type(task), task.metric) == (AudioTask, "accuracy")
    assert sorted(len(f["input_values"]) for f in scorer.features) == [200, 300, 300, 500]
    assert list(scorer(model)[0]) == ["accuracy", "macro_f1", "accuracy_ci95"]


@pytest.mark.parametrize("mask", [True, False])
def test_padding_matches_the_feature_extractor(mask):
    rows, model = make_rows(), audio_model()
    features = task_of(model, rows).encode(rows, extractor(mask=mask), model.config)
    batches = make_batches(features, extractor(mask=mask), 8)
    if not mask:  # padding would change the output of a model that does not mask it, so nothing is padded
        assert [batch["input_values"].shape for batch in batches] == [(1, len(rows[i]["audio"])) for i in (1, 2, 0)]
        batches = batches[:1]
    (batch,) = batches
    waves = [rows[i]["audio"] for i in batch["index"]]
    expected = extractor()(waves, sampling_rate=RATE, padding=True, return_tensors="pt")  # normalised one by one
    assert torch.allclose(batch["input_values"], expected["input_values"], atol=1e-5)
    assert ("attention_mask" in batch) == mask
    assert not mask or torch.equal(batch["attention_mask"], expected["attention_mask"].long())
    assert batch["index"].tolist() == ([1, 2, 0] if mask else [1])  # by length
    assert mean_length(features) == 1.0


@pytest.mark.parametrize(("head", "shape"), [(Wav2Vec2ForCTC, (3, 59, 20)), (Wav2Vec2Model, (3, 24))])
def test_frames_and_embeddings_need_no_labels(head, shape):
    rows, model = make_rows(label="cat"), audio_model(head)
    task = task_of(model, rows)
    features = task.encode(rows, extractor(), model.config)
    (output,) = predict(model, make_batches(features, extractor(), 8))
    assert (output.shape, task.metric, "labels" in features[0]) == (shape, None, False)
    assert task.score(list(output), features, rows) == {}


def test_spectrograms_are_stacked():
    rows, model = make_rows(), audio_model()
    processor = WhisperFeatureExtractor(sampling_rate=RATE, chunk_length=2, feature_size=8)
    features = task_of(model, rows).encode(rows, processor, model.config)
    (batch,) = make_batches(features, processor, 8)
    assert batch["input_features"].shape == (3, 8, 12)


def test_a_batch_of_sounds_is_bounded_by_its_frames():
    features = [{"input_values": make_wave(640)}] * 5  # 2 frames each
    assert [len(batch["index"]) for batch in make_batches(features, extractor(), 8, max_tokens=4)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"audio": make_wave(5), "sampling_rate": RATE}, "too short: it has 5 samples .* needs 20"),
        ({"audio": make_wave()}, "row 2 has no valid sampling rate"),
        ({"audio": None}, "'audio' is empty in row 2"),
        ({"audio": {"bytes": b"no sound", "path": "a.wav"}}, r"row 2 \('a.wav'\) cannot be read"),
    ],
)
def test_a_bad_sound_is_named_with_its_row(row, words):
    rows, model = [*make_rows()[:1], row], audio_model()
    with pytest.raises(TrimformerError, match=words):
        task_of(model, rows).encode(rows, extractor(), model.config)


def test_missing_inputs_are_named():
    with pytest.raises(TrimformerError, match=r"no audio column found among label.*--text-column"):
        task_of(audio_model(), [{"label": 0}])
    with pytest.raises(TrimformerError, match="need the model's feature extractor, not ViTImageProcessor"):
        task_of(audio_model(), make_rows()).encode(make_rows(), image_processor(), audio_model().config)
    sounds = [{"input_values": np.zeros(n, np.float32), "attention_mask": np.ones(n)} for n in (8, 9)]
    with pytest.raises(TrimformerError, match="'input_values' cannot be padded to one length"):
        make_batches(sounds, None, 8)
    with pytest.raises(TrimformerError, match="Wav2Vec2ForCTC has no labels"):
        task_of(audio_model(Wav2Vec2ForCTC), make_rows(label=1), label_column="label")


def test_models_of_halves_hear_sounds():
    model = audio_model()
    rows = make_rows()
    task = task_of(model, rows)
    batches = make_batches(task.encode(rows, extractor(), model.config), extractor(), 8)
    whole = predict(model, batches)
    halves = predict(model.to(torch.bfloat16), batches)
    assert all(torch.allclose(a.float(), b.float(), atol=0.1) for a, b in zip(whole, halves, strict=True))
    assert random_inputs(model, 2, 5)["input_values"].dtype == torch.bfloat16
