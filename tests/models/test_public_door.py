"""`prune`, `export` and `lut` on every family and head, through the functions and the command line that users call."""

from inspect import signature

import numpy as np
import pytest
import torch
from transformers import Wav2Vec2FeatureExtractor

from testing.families import GRID, exists, inputs, make
from tests.commands import run
from tests.conftest import make_tokenizer
from trimformer import TrimformerError, prune
from trimformer.cli.export import random_batches
from trimformer.cli.main import main
from trimformer.costs.random_inputs import random_inputs
from trimformer.data.batches import collate
from trimformer.data.outputs import find_problem, model_output
from trimformer.models import find_sublayers

# One of each kind of input, and heads whose own forward needs particular inputs.
QUICK = {
    ("T5", "ForSequenceClassification"), ("Bros", "Model"), ("Vivit", "Model"), ("Siglip2", "Model"),
    ("CLIP", "Model"), ("Wav2Vec2", "ForSequenceClassification"), ("Bert", "ForMultipleChoice"),
}  # fmt: skip


def every_head(quick):
    """Returns the parameters of a test; all models but the quick ones are marked slow."""
    models = [
        pytest.param(*model, id="-".join(model), marks=() if model in quick else pytest.mark.slow) for model in GRID
    ]
    return pytest.mark.parametrize(("family", "head"), models)


def make_or_skip(family, head):
    if not exists(family, head):
        pytest.skip("this version of transformers has no such model")
    return make(family, head)


@every_head(QUICK)
def test_made_up_inputs_run(family, head):
    model = make_or_skip(family, head)
    for batch in (random_inputs(model, 2, 5), random_inputs(model, 1, 1), *random_batches(model, None)):
        samples = len(batch[model.main_input_name])
        with torch.no_grad():
            output = model_output(model, {**batch, "index": torch.arange(samples)}, find_problem(model))
        assert len(output) == samples
        assert output.isfinite().all()
    for batch in random_batches(model, None):
        assert "attention_mask" not in batch or not batch["attention_mask"].all()


def rows_of(model, count=12):
    """Returns encoded rows without labels."""
    batch = inputs(model, count)
    return [{key: value[i].tolist() for key, value in batch.items() if key != "index"} for i in range(count)]


def processor_for(model):
    """Returns what pads the inputs of the model."""
    if model.main_input_name == "input_values" and not hasattr(model.config, "num_mel_bins"):
        return Wav2Vec2FeatureExtractor(
            return_attention_mask=getattr(model.config, "feat_extract_norm", "layer") == "layer"
        )
    return make_tokenizer()


@every_head({("T5", "ForSequenceClassification"), ("Bros", "Model"), ("Wav2Vec2", "ForSequenceClassification")})
def test_prune(family, head):
    model = make_or_skip(family, head)
    result = prune(model, processor_for(model), rows_of(model), 0.6, batch_size=4, neuron_multiple=4)
    assert result.budget.kept <= 0.6
    before, after = (sum(s.num_units for s in find_sublayers(m)) for m in (model, result.model))
    assert 0 < after < before
    assert result.latency is not None


@every_head(set())
def test_export_and_lut(family, head, tmp_path, capsys):
    model = make_or_skip(family, head)
    processor = processor_for(model)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    assert run(main, "export", tmp_path / "model", "--output", tmp_path / "onnx") == 0
    length = ("--seq-len", 8) if "input_ids" in signature(model.forward).parameters else ()
    words = ("lut", tmp_path / "model", "--bs", 2, *length, "--seconds", 0.1, "--output", tmp_path / "lut")
    code = run(main, *words)
    if code:  # the only models without a table have two towers, and are refused in a sentence
        assert code == 2
        assert "has two towers or layers of several sizes" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["Bros", "LayoutLM"])
def test_random_texts_of_documents_have_boxes(family):
    model = make_or_skip(family, "Model")
    boxes = random_inputs(model, 2, 5)["bbox"]
    assert boxes.shape == (2, 5, 4)
    assert (boxes[..., :2] <= boxes[..., 2:]).all()
    assert boxes.is_floating_point() == (family == "Bros")


def test_exported_sounds_have_the_mask_that_their_processor_gives():
    model = make_or_skip("Wav2Vec2, stable", "ForSequenceClassification")
    assert all("attention_mask" in batch for batch in random_batches(model, processor_for(model)))


def test_samples_without_an_input_are_refused_in_a_sentence():
    with pytest.raises(TrimformerError, match="BrosModel reads 'bbox'"):
        prune(make_or_skip("Bros", "Model"), make_tokenizer(), ["we saw the film", "we love it"] * 4, 0.5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_boxes_are_padded_on_the_side_of_their_tokens(side):
    processor = make_tokenizer()
    processor.padding_side = side
    samples = [{"input_ids": [5] * n, "attention_mask": [1] * n, "bbox": [[1, 2, 3, 4]] * n} for n in (3, 2)]
    batch = collate(samples, processor)
    assert torch.equal(batch["bbox"].any(-1).long(), batch["attention_mask"])


def test_images_and_sounds_are_timed_in_the_sizes_of_the_data():
    model = make_or_skip("Wav2Vec2", "ForSequenceClassification")
    assert random_inputs(model, 2, 1, {"input_values": torch.ones(300)})["input_values"].shape == (2, 300)
    assert random_inputs(model, 2, 1)["input_values"].shape == (2, 16_000)
    model = make_or_skip("ViT", "ForImageClassification")
    assert random_inputs(model, 3, 1, {"pixel_values": torch.ones(3, 16, 16)})["pixel_values"].all()


def test_boxes_are_those_of_the_data_repeated_to_the_length():
    model, boxes = make_or_skip("Bros", "Model"), [[0.1, 0.1, 0.2, 0.2], [0.3, 0.3, 0.4, 0.4]]
    made = random_inputs(model, 2, 5, {"input_ids": [7, 8], "bbox": torch.tensor(boxes)})["bbox"]
    assert made[:, :, 0].tolist() == pytest.approx(np.array([[0.1, 0.3, 0.1, 0.3, 0.1]] * 2))


def test_integers_of_an_example_are_of_the_type_that_batches_have():
    model = make_or_skip("Wav2Vec2", "ForSequenceClassification")
    sound = {"input_values": np.ones(400, np.float32), "attention_mask": np.ones(400, np.int32)}
    made = random_inputs(model, 2, 1, sound)
    assert (made["input_values"].dtype, made["attention_mask"].dtype) == (torch.float32, torch.int64)


def test_made_up_texts_end_as_the_example_does_and_hold_each_end_token_once():
    model = make_or_skip("T5", "ForSequenceClassification")
    ids = random_inputs(model, 30, 12)["input_ids"]
    assert (ids == 2).sum(1).tolist() == [1] * 30
    assert not (ids == 1).any()  # padding
    ids = random_inputs(model, 4, 12, {"input_ids": [7, 8, 9]})["input_ids"]
    assert set(ids[:, 0].tolist()) == {7}
    assert set(ids[:, -1].tolist()) == {9}
