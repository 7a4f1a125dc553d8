"""A pruned directory that is loaded without our quantizer ends in an error, whatever the flags."""

import json

import pytest
import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    BitsAndBytesConfig,
    CLIPTextModel,
    pipeline,
)
from transformers.quantizers import auto

from testing import families
from tests.conftest import make_batch, make_model, make_tokenizer, pruned, random_masks
from trimformer import find_sublayers, load, save
from trimformer.checkpoints.load_guard import ENTRY, WHOLE, write_guard_files
from trimformer.models.layer_calls import model_inputs


@pytest.fixture
def model():
    dense = make_model()
    return pruned(dense, random_masks(dense))


@pytest.fixture
def saved(model, tmp_path):
    save(model, make_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def stranger(monkeypatch):
    """Transformers as it is without `import trimformer`."""
    for mapping in (auto.AUTO_QUANTIZER_MAPPING, auto.AUTO_QUANTIZATION_CONFIG_MAPPING):
        monkeypatch.delitem(mapping, "trimformer")


def config_of(path):
    return json.loads((path / "config.json").read_text())


def same(one, other):
    inputs = model_inputs(make_batch())
    with torch.no_grad():
        return torch.equal(one(**inputs)[0], other(**inputs)[0])


@pytest.mark.parametrize("kind", [AutoModelForSequenceClassification, BertForSequenceClassification, AutoModel])
@pytest.mark.parametrize("flags", [{}, {"ignore_mismatched_sizes": True}, {"use_safetensors": False}])
def test_a_stranger_gets_an_error_that_says_what_to_import(saved, stranger, kind, flags):
    with pytest.raises(SafetensorError, match="run `import trimformer`, then load it again"):
        kind.from_pretrained(saved, **flags)
    (saved / WHOLE).unlink()
    with pytest.raises(OSError, match="import-trimformer-to-load-this"):
        kind.from_pretrained(saved, **flags)


def test_the_error_ends_a_strangers_pipeline_at_once(saved, stranger):
    with pytest.raises(SafetensorError, match="run `import trimformer`, then load it again"):
        pipeline("text-classification", model=str(saved))  # other errors it gathers, with all their tracebacks


def test_a_tower_without_widths_of_its_own_is_never_random(tmp_path):
    towers = families.make("CLIP", "Model")
    pruned(towers, families.random_masks(towers)).save_pretrained(tmp_path)
    with pytest.raises(OSError, match="load-the-whole-model"):
        CLIPTextModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    write_guard_files(tmp_path)
    with pytest.raises(SafetensorError, match="load the whole of it, not one of its towers"):
        CLIPTextModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True)
    again = type(towers).from_pretrained(tmp_path)
    assert [s.num_units for s in find_sublayers(again)] != [s.num_units for s in find_sublayers(towers)]


def test_a_loaded_model_is_guarded_again_whoever_saves_it(saved, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(saved).save_pretrained(tmp_path / "again")
    assert ENTRY in config_of(tmp_path / "again")


def test_dense_models_have_no_guard(tmp_path):
    save(make_model(), make_tokenizer(), tmp_path / "model")
    assert ENTRY not in config_of(tmp_path / "model")
    assert not list((tmp_path / "model").glob("*trimformer*"))


def test_directories_from_before_the_guard_load(saved, model):
    config = config_of(saved)
    del config[ENTRY]
    (saved / "config.json").write_text(json.dumps(config))
    assert same(load(saved)[0], model)


def test_a_callers_config_stays_as_it_was_read(saved, model):
    config = AutoConfig.from_pretrained(saved)
    for _ in range(2):
        assert same(AutoModelForSequenceClassification.from_pretrained(saved, config=config), model)
    assert ENTRY in vars(config)


def test_sharded_weights_load(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert same(AutoModelForSequenceClassification.from_pretrained(tmp_path), model)


def test_another_quantization_is_refused_by_a_name_that_users_know(saved):
    with pytest.raises(ValueError, match=r"quantized with TrimformerConfig but you are passing a BitsAndBytesConfig"):
        AutoModel.from_pretrained(saved, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
