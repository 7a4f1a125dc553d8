"""A standalone directory where trimformer is there: loaded by us, or by its own code, it is the same model."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, BertForSequenceClassification

from testing import families
from testing.language import byte_tokenizer, language_model
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


def with_all_heads(dense):
    """A copy with every head and, in each layer, other numbers of neurons."""
    masks = [torch.ones(s.num_units) for s in find_sublayers(dense)]
    for i, mask in enumerate(masks[1::2]):
        mask[: 3 * i + 1] = 0
    return pruned(dense, masks)


@pytest.mark.parametrize("make", [language_model, make_model])
def test_with_all_heads_its_base_model_loads_by_its_code_too(tmp_path, make):
    model = with_all_heads(make())
    save(model, byte_tokenizer(), tmp_path / "model", standalone=True)
    base = AutoModel.from_pretrained(tmp_path / "model", trust_remote_code=True).eval()
    ids = torch.arange(4, 12)[None]
    with torch.no_grad():
        assert torch.equal(base(ids)[0], model.base_model(ids)[0])
    base.save_pretrained(tmp_path / "base")
    again = AutoModel.from_pretrained(tmp_path / "base", trust_remote_code=True)
    assert all(torch.equal(one, other) for one, other in zip(base.parameters(), again.parameters(), strict=True))


def test_an_engine_makes_the_base_model_of_its_config_alone(tmp_path):
    """As vLLM's Transformers backend does, which then fills in the weights."""
    model = with_all_heads(language_model())
    save(model, byte_tokenizer(), tmp_path / "model", standalone=True)
    config = AutoConfig.from_pretrained(tmp_path / "model", trust_remote_code=True, quantization_config=None)
    with torch.device("meta"):
        made = AutoModel.from_config(config, trust_remote_code=True)
    shapes = {name: parameter.shape for name, parameter in model.base_model.named_parameters()}
    assert {name: parameter.shape for name, parameter in made.named_parameters()} == shapes
    widths = [(layer.mlp.up_proj.out_features, layer.mlp.down_proj.in_features) for layer in made.layers]
    assert widths == [(s.num_units,) * 2 for s in find_sublayers(model) if s.kind == "ffn"]


def test_with_fewer_heads_engines_get_no_base_model(saved):
    assert "AutoModel" not in config_of(saved)["auto_map"]


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
