"""Loading the processor of a checkpoint."""

import importlib.util

import pytest
from transformers import AutoConfig

from tests.commands import problem_model, problem_rows
from tests.conftest import make_model, make_tokenizer
from tests.data.media_fixtures import audio_model, clip_model, clip_processor, extractor, image_model, image_processor
from trimformer.data.processor import feature_extractor_of, image_processor_of, load_processor, tokenizer_of
from trimformer.data.rows import as_rows
from trimformer.data.tasks import task_of
from trimformer.errors import TrimformerError

CHECKPOINTS = {
    "tokenizer": (make_model, make_tokenizer, "PreTrainedTokenizerBase"),
    "image processor": (image_model, image_processor, "ViTImageProcessorPil"),
    "feature extractor": (audio_model, extractor, "Wav2Vec2FeatureExtractor"),
    "processor": (clip_model, clip_processor, "CLIPProcessor"),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_directory_gives_the_processor_of_its_model(tmp_path, kind):
    model, processor, name = CHECKPOINTS[kind]
    model().save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    loaded = load_processor(tmp_path, AutoConfig.from_pretrained(tmp_path))
    assert name in [base.__name__ for base in type(loaded).__mro__]


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_missing_processor_is_an_error_and_a_fallback_is_used(tmp_path, kind):
    model, processor, _ = CHECKPOINTS[kind]
    model().save_pretrained(tmp_path / "model")
    config = AutoConfig.from_pretrained(tmp_path / "model")
    with pytest.raises(TrimformerError, match=f"model' has no {kind}") as raised:
        load_processor(tmp_path / "model", config)
    assert "\n" not in str(raised.value)
    processor().save_pretrained(tmp_path / "other")
    loaded = load_processor(tmp_path / "model", config, tmp_path / "other")
    assert type(loaded) is type(load_processor(tmp_path / "other", config))


def test_a_broken_processor_is_one_sentence(tmp_path):
    image_model().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(TrimformerError, match=r"the image processor in .* cannot be loaded"):
        load_processor(tmp_path, AutoConfig.from_pretrained(tmp_path))


@pytest.mark.parametrize(("kind", "extra"), [("image processor", "vision"), ("feature extractor", "audio")])
def test_a_missing_decoder_is_an_error_that_names_its_extra(tmp_path, monkeypatch, kind, extra):
    find_spec, missing = importlib.util.find_spec, {"vision": "PIL", "audio": "soundfile"}[extra]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else find_spec(name))
    CHECKPOINTS[kind][0]().save_pretrained(tmp_path)
    with pytest.raises(TrimformerError, match=rf"trimformer\[{extra}\]"):
        load_processor(tmp_path, AutoConfig.from_pretrained(tmp_path))


def test_parts_are_found_in_a_processor_and_alone():
    both, tokenizer, images, sounds = clip_processor(), make_tokenizer(), image_processor(), extractor()
    assert (tokenizer_of(both), image_processor_of(both)) == (both.tokenizer, both.image_processor)
    for part, right, wrong in (
        (tokenizer_of, tokenizer, images),
        (tokenizer_of, tokenizer, None),
        (image_processor_of, images, tokenizer),
        (feature_extractor_of, sounds, both),
    ):
        assert part(right) is right
        with pytest.raises(TrimformerError, match="need the model's"):
            part(wrong)


@pytest.mark.parametrize("problem", ["single_label", "tokens", "span", "embedding"])
@pytest.mark.parametrize("has_settings", [False, True])
def test_encoding_leaves_the_tokenizer_as_it_was(problem, has_settings):
    tokenizer, model, rows = make_tokenizer(), problem_model(problem), as_rows(problem_rows(problem))
    if has_settings:
        tokenizer.backend_tokenizer.enable_truncation(33)
        tokenizer.backend_tokenizer.enable_padding(pad_id=1, pad_token="[PAD]", length=40)
    before = tokenizer.backend_tokenizer.to_str()
    task_of(model, rows).encode(rows, tokenizer, model.config)
    assert tokenizer.backend_tokenizer.to_str() == before
