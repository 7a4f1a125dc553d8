"""A standalone directory where trimformer is there: loaded by us, or by its own code, it is the same model."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from testing import families
from tests.commands import prune
from tests.conftest import make_batch, make_model, make_tokenizer, pruned, random_masks
from trimformer import TrimformerError, find_sublayers, load, save, shrink
from trimformer.checkpoints import standalone_template
from trimformer.models.layer_calls import model_inputs


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture
def model():
    dense = make_model()
    return pruned(dense, random_masks(dense, emptied=(0, 3)))


@pytest.fixture
def saved(model, tmp_path):
    save(model, make_tokenizer(), tmp_path / "model", standalone=True)
    return tmp_path / "model"


def by_its_code(path):
    return AutoModelForSequenceClassification.from_pretrained(path, trust_remote_code=True)


def same(one, other):
    inputs = model_inputs(make_batch())
    with torch.no_grad():
        return torch.equal(one(**inputs)[0], other(**inputs)[0])


def config_of(path):
    return json.loads((path / "config.json").read_text())


def test_it_loads_by_its_code_and_by_ours(saved, model):
    assert same(by_its_code(saved), model)
    for ours in (load(saved)[0], AutoModelForSequenceClassification.from_pretrained(saved)):
        assert type(ours) is BertForSequenceClassification
        assert same(ours, model)


def test_loaded_by_us_and_saved_it_is_an_ordinary_directory(saved, model, tmp_path):
    save(*load(saved), tmp_path / "again")
    save(model, make_tokenizer(), tmp_path / "plain")
    assert config_of(tmp_path / "again") == config_of(tmp_path / "plain")


def test_loaded_by_its_code_and_saved_it_stays_standalone(saved, model, tmp_path):
    save(by_its_code(saved), make_tokenizer(), tmp_path / "again")
    assert config_of(tmp_path / "again") == config_of(saved)
    assert same(by_its_code(tmp_path / "again"), model)


def test_loaded_by_its_code_it_is_pruned_again(saved, tmp_path):
    again = by_its_code(saved)
    shrink(again, [(torch.arange(s.num_units) % 2 == 0).float() for s in find_sublayers(again)])
    assert type(again) is BertForSequenceClassification
    save(again, make_tokenizer(), tmp_path / "again", standalone=True)
    assert same(by_its_code(tmp_path / "again"), again)
    assert same(load(tmp_path / "again")[0], again)


def test_loading_information_comes_along(saved, model):
    again, info = AutoModelForSequenceClassification.from_pretrained(
        saved, trust_remote_code=True, output_loading_info=True
    )
    assert same(again, model)
    assert not any(info.values())


def test_its_code_refuses_weights_that_would_stay_random(saved):
    weights = load_file(saved / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    with pytest.raises(OSError, match=r"for 1 of its tensors: bert.encoder.layer.1.output.dense.weight"):
        by_its_code(saved)


def test_its_code_needs_the_transformers_that_we_need():
    needed = ".".join(map(str, standalone_template.NEEDED))
    assert f'"transformers>={needed},' in (Path(__file__).parents[2] / "pyproject.toml").read_text()


def test_its_code_refuses_an_older_transformers(saved, monkeypatch):
    monkeypatch.setattr(transformers, "__version__", "4.57.3")
    with pytest.raises(ImportError, match=r"needs transformers 5\.18 or newer"):
        by_its_code(saved)


def test_all_auto_classes_of_the_architecture_are_named(tmp_path):
    dense = make_model(head="Model")
    save(pruned(dense, random_masks(dense)), make_tokenizer(), tmp_path / "model", standalone=True)
    named = config_of(tmp_path / "model")["auto_map"]
    assert {"AutoModel", "AutoModelForTextEncoding"} <= set(named)
    assert set(named.values()) == {"modeling_trimformer.BertModel"}


def pruned_family(family):
    dense = families.make(family, "Model")
    return pruned(dense, families.random_masks(dense))


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (make_model, "nothing was removed"),
        (lambda: type("Mine", (BertForSequenceClassification,), {})(make_model().config), "Mine is not one"),
        (lambda: pruned_family("SiglipText"), "loaded by no AutoModel class"),
    ],
)
def test_what_cannot_be_standalone_is_refused_and_nothing_is_written(tmp_path, made, words):
    with pytest.raises(TrimformerError, match=words):
        save(made(), make_tokenizer(), tmp_path / "model", standalone=True)
    assert not (tmp_path / "model").exists()


def test_the_command_writes_one(tmp_path, model_dir, data):
    assert prune(model_dir, data, tmp_path / "out", "--standalone", "--num-samples", "8") == 0
    assert same(by_its_code(tmp_path / "out"), load(tmp_path / "out")[0])
