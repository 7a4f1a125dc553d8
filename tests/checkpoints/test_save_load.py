import json
import os
import shutil
from itertools import product

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, SwinConfig, SwinModel, pipeline

from testing.families import make
from testing.language import byte_tokenizer, language_model
from tests.conftest import FAMILIES, HEADS, make_batch, make_model, make_tokenizer
from trimformer.checkpoints.save_load import file_size, load, load_model, read_masks, save, unwrap
from trimformer.checkpoints.shrink import shrink
from trimformer.errors import TrimformerError
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import model_inputs
from trimformer.models.mask_tensors import stack_masks


def pruned_model(family="Bert", head="ForSequenceClassification", **overrides):
    model = make_model(family, head, **overrides)
    generator = torch.Generator().manual_seed(0)
    masks = [torch.rand(s.num_units, generator=generator).sub(0.3).clamp(min=0) for s in find_sublayers(model)]
    masks[0][:], masks[3][:] = 0, 0
    shrink(model, masks)
    return model


def outputs(model):
    with torch.no_grad():
        values = model(**model_inputs(make_batch())).values()
    return [v for v in values if isinstance(v, torch.Tensor)]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(outputs(one), outputs(other), strict=True))


def auto(head):
    return getattr(transformers, f"AutoModel{head.removeprefix('Model')}")


@pytest.fixture
def model():
    return pruned_model()


@pytest.fixture
def saved(model, tmp_path):
    path = tmp_path / "model"
    save(model, make_tokenizer(), path)
    return path


@pytest.mark.parametrize(("family", "head"), list(product(FAMILIES, HEADS)))
def test_reloaded_by_transformers_the_output_is_exactly_the_same(family, head, tmp_path):
    model = pruned_model(family, head)
    save(model, make_tokenizer(), tmp_path / "model")
    again = auto(head).from_pretrained(tmp_path / "model")
    assert type(again) is type(model)
    assert not again.training
    assert same(again, model)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bare_encoder_of_a_checkpoint_with_a_head_loads(family, tmp_path):
    model = pruned_model(family)
    save(model, make_tokenizer(), tmp_path / "model")
    bare = AutoModel.from_pretrained(tmp_path / "model")
    assert torch.equal(outputs(bare)[0], outputs(model.base_model)[0])


@pytest.mark.parametrize(("family", "head"), list(product(FAMILIES, HEADS)))
def test_load_gives_the_models_own_class_and_tokenizer(family, head, tmp_path):
    model = pruned_model(family, head)
    save(model, make_tokenizer(), tmp_path / "model")
    again, tokenizer = load(tmp_path / "model")
    assert type(again) is type(model)
    assert same(again, model)
    assert tokenizer("the film")["input_ids"] == make_tokenizer()("the film")["input_ids"]


def test_dense_models_save_and_load_too(tmp_path):
    model = make_model()
    save(model, make_tokenizer(), tmp_path / "model")
    assert same(load(tmp_path / "model")[0], model)
    assert "quantization_config" not in json.loads((tmp_path / "model" / "config.json").read_text())


def test_nothing_of_the_quantizer_stays_on_a_reloaded_model(saved):
    again = AutoModelForSequenceClassification.from_pretrained(saved)
    for module in (again, again.base_model):
        assert not getattr(module, "is_quantized", False)
        assert not hasattr(module, "hf_quantizer")
        assert not getattr(module, "quantization_method", None)
        assert not getattr(module.config, "_is_quantized", False)


def test_reloaded_models_can_be_halved_and_cast(saved):
    again = AutoModelForSequenceClassification.from_pretrained(saved)
    assert {p.dtype for p in again.half().parameters()} == {torch.float16}
    again = AutoModelForSequenceClassification.from_pretrained(saved, dtype=torch.bfloat16)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert again(**model_inputs(make_batch())).logits.isfinite().all()


def test_half_precision_survives_saving(model, tmp_path):
    save(model.half(), make_tokenizer(), tmp_path / "model")
    assert load(tmp_path / "model")[0].dtype == torch.float16


def test_saved_again_and_reloaded_it_is_the_same(saved, model, tmp_path):
    again, tokenizer = load(saved)
    save(again, tokenizer, tmp_path / "again")
    twice, _ = load(tmp_path / "again")
    assert same(twice, model)
    configs = [json.loads((path / "config.json").read_text()) for path in (saved, tmp_path / "again")]
    assert configs[0] == configs[1]


def test_a_generation_config_that_transformers_would_not_write_stays_as_it_is(tmp_path):
    model = language_model()
    model.generation_config.temperature = 0.5  # without sampling, as in many published checkpoints
    save(model, byte_tokenizer(), tmp_path / "saved")
    assert model.generation_config.temperature == 0.5
    loaded, _ = load(tmp_path / "saved")
    assert loaded.generation_config.to_dict() == model.generation_config.to_dict()


def test_a_moved_directory_loads(saved, model, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(saved, tmp_path / "elsewhere" / "other name")
    assert same(AutoModelForSequenceClassification.from_pretrained(moved), model)


def test_a_reloaded_model_is_pruned_again(saved, tmp_path):
    again, tokenizer = load(saved)
    shrink(again, [(torch.arange(s.num_units) % 2 == 0).float() for s in find_sublayers(again)])
    save(again, tokenizer, tmp_path / "again")
    twice, _ = load(tmp_path / "again")
    assert same(twice, again)
    assert file_size(twice) == file_size(again) < file_size(load(saved)[0])


def test_a_pipeline_runs_it(saved, model):
    classify = pipeline("text-classification", model=str(saved), device="cpu")
    with torch.no_grad():
        best = model(**make_tokenizer()("the film is good", return_tensors="pt")).logits.softmax(-1).max()
    assert classify("the film is good")[0]["score"] == pytest.approx(float(best), abs=1e-5)


def test_a_reloaded_model_trains(saved):
    again, _ = load(saved)
    batch = make_batch()
    labels, inputs = batch["labels"], model_inputs(batch)
    losses = []
    optimizer = torch.optim.SGD(again.parameters(), lr=0.05)
    for _ in range(4):
        loss = again(**inputs, labels=labels).loss
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)


def test_file_size_is_what_the_weights_take_on_disk(saved, model):
    assert file_size(model) == sum(t.nbytes for t in load_file(saved / "model.safetensors").values())


def test_saving_over_something_is_an_error_and_leaves_it(saved, model):
    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    with pytest.raises(TrimformerError, match="not empty"):
        save(model, make_tokenizer(), saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_saving_over_a_file_is_an_error_and_leaves_it(model, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TrimformerError, match="file"):
        save(model, make_tokenizer(), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_saving_makes_parents_and_accepts_an_empty_directory(model, tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for path in (tmp_path / "a" / "b", tmp_path / "c" / "d"):
        save(model, make_tokenizer(), path)
        assert same(load(path)[0], model)
        assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_directory_is_as_readable_as_any_other(saved, tmp_path):
    (tmp_path / "plain").mkdir()
    assert saved.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_saving_that_fails_midway_leaves_nothing_behind(model, tmp_path, monkeypatch, error):
    tokenizer = make_tokenizer()

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(tokenizer, "save_pretrained", fail)
    with pytest.raises(type(error)):
        save(model, tokenizer, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def edit_config(path, **changes):
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def replace_by(path, kind):
    shutil.rmtree(path)
    if kind != "missing":
        path.mkdir()


def keep_only(path, *names):
    for file in path.iterdir():
        if file.name not in names:
            file.unlink()


def cut(path, size):
    with (path / "model.safetensors").open("r+b") as file:
        file.truncate(size)


def other_weights(path):
    """Those of the bare encoder: the classifier is missing."""
    make_model(head="Model").save_pretrained(path)
    edit_config(path, architectures=["BertForSequenceClassification"])


TINY_SWIN = {"image_size": 8, "patch_size": 2, "embed_dim": 4, "depths": [1], "num_heads": [2]}

BROKEN = {
    "missing directory": (lambda path: replace_by(path, "missing"), "does not exist"),
    "empty directory": (lambda path: replace_by(path, "empty"), "is empty"),
    "no config": (lambda path: (path / "config.json").unlink(), "no config.json"),
    "an adapter beside the weights": (
        lambda path: (path / "adapter_config.json").write_text("{}"),
        r"holds an adapter \(adapter_config.json\) beside whole weights, .*merge_and_unload",
    ),
    "an adapter alone": (
        lambda path: [
            (path / "adapter_config.json").write_text('{"base_model_name_or_path": "acme/base"}'),
            *((path / name).unlink() for name in ("config.json", "model.safetensors")),
        ],
        "holds only an adapter of 'acme/base' .*merge_and_unload",
    ),
    "an adapter with a config, without its own": (
        lambda path: (path / "model.safetensors").rename(path / "adapter_model.safetensors"),
        r"holds only an adapter \(adapter_model.safetensors\), not a whole model",
    ),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "no weights"),
    "no tokenizer": (lambda path: keep_only(path, "config.json", "model.safetensors"), "tokenizer"),
    "config is not JSON": (lambda path: (path / "config.json").write_text("{"), "config"),
    "weights cut short": (lambda path: cut(path, 5000), "weights"),
    "weights of zero bytes": (lambda path: cut(path, 0), "weights"),
    "weights are garbage": (lambda path: (path / "model.safetensors").write_bytes(b"x" * 999), "weights"),
    "other vocabulary": (lambda path: edit_config(path, vocab_size=77), "weights"),
    "other widths": (
        lambda path: edit_config(
            path, quantization_config={"quant_method": "trimformer", "heads": [4] * 3, "neurons": [40] * 3}
        ),
        "weights",
    ),
    "widths of too few layers": (
        lambda path: edit_config(
            path, quantization_config={"quant_method": "trimformer", "heads": [4], "neurons": [40]}
        ),
        "weights",
    ),
    "widths left out": (lambda path: edit_config(path, quantization_config={"quant_method": "trimformer"}), "weights"),
    "unknown architecture": (lambda path: edit_config(path, architectures=["BertForNothing"]), "BertForNothing"),
    "no architecture": (lambda path: edit_config(path, architectures=None), "architecture"),
    "missing keys": (other_weights, "classifier"),
    "unsupported family": (
        lambda path: SwinModel(
            SwinConfig(image_size=8, patch_size=2, embed_dim=4, depths=[1], num_heads=[2])
        ).save_pretrained(path),
        "SwinLayer cannot be pruned: its windows",
    ),
    "unknown family": (lambda path: edit_config(path, model_type="nonsense"), "nonsense"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_load_errors_are_one_sentence_that_names_the_path(saved, case):
    damage, words = BROKEN[case]
    damage(saved)
    with pytest.raises(TrimformerError, match=words) as error:
        load(saved)
    assert str(saved) in str(error.value)
    assert "\n" not in str(error.value)


WIDTHS = {"quant_method": "trimformer", "heads": [4] * 3, "neurons": [40] * 3}


@pytest.mark.parametrize("entries", [{"vocab_size": 77}, {"quantization_config": WIDTHS}])
def test_transformers_too_refuses_pruned_weights_that_do_not_fit_the_config(saved, entries):
    edit_config(saved, **entries)
    with pytest.raises((TrimformerError, RuntimeError), match="match"):
        AutoModelForSequenceClassification.from_pretrained(saved)


def test_an_output_that_cannot_be_written_is_an_error(model, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(TrimformerError, match="cannot be written"):
        save(model, make_tokenizer(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_filled_where_it_is(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path.stat().st_ino
    save(model, make_tokenizer(), ".")  # as a mounted folder, which nothing can replace
    assert tmp_path.stat().st_ino == place
    assert (tmp_path / "config.json").is_file()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
    load(tmp_path)


def test_a_name_of_the_hub_is_downloaded(saved, monkeypatch):
    monkeypatch.setattr(
        "trimformer.checkpoints.save_load.snapshot_download", lambda name, **_: {"user/model": str(saved)}[name]
    )
    load("user/model")
    with pytest.raises(TrimformerError, match="'user/other' does not exist, and the hub has no such model"):
        load("user/other")


@pytest.mark.parametrize("name", ["./here", "/nowhere/at/all", "a/b/c"])
def test_what_cannot_be_a_name_of_the_hub_is_not_looked_for_there(name, monkeypatch):
    monkeypatch.setattr(
        "trimformer.checkpoints.save_load.snapshot_download", lambda *_, **__: pytest.fail("asked the hub")
    )
    with pytest.raises(TrimformerError, match=f"'{name}' does not exist$"):
        load(name)


def test_an_output_inside_a_file_is_an_error(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrimformerError, match="is a file"):
        save(model, make_tokenizer(), tmp_path / "file" / "model")


def write_masks(path, heads, neurons):
    torch.save(heads, path / "head_mask.pt")
    torch.save(neurons, path / "neuron_mask.pt")
    return path


def test_masks_are_read_as_they_were_written(tmp_path):
    sublayers = find_sublayers(model := pruned_model())
    masks = [torch.rand(s.num_units) for s in sublayers]
    read = read_masks(write_masks(tmp_path, *stack_masks(sublayers, masks)), model)
    assert all(torch.equal(a, b) for a, b in zip(read, masks, strict=True))


@pytest.mark.parametrize(
    ("neurons", "words"),
    [(torch.ones(3, 39), "shape"), (torch.ones(2, 40), "shape"), ([1, 2], "shape"), (ValueError, "plain tensor")],
)
def test_masks_that_do_not_fit_are_an_error_that_names_the_file(tmp_path, neurons, words):
    with pytest.raises(TrimformerError, match=rf"neuron_mask.pt.*{words}") as error:
        read_masks(write_masks(tmp_path, torch.ones(3, 4), neurons), make_model())
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["head_mask.pt", "neuron_mask.pt"])
def test_a_mask_file_that_is_missing_is_named(tmp_path, name):
    (write_masks(tmp_path, torch.ones(3, 4), torch.ones(3, 40)) / name).unlink()
    with pytest.raises(TrimformerError, match=name):
        read_masks(tmp_path, make_model())


def test_a_model_of_peft_is_named_as_one():
    peft = type("PeftModelForSequenceClassification", (type("PeftModel", (), {}),), {})
    with pytest.raises(TrimformerError, match=r"PeftModelForSequenceClassification, an adapter .*merge_and_unload"):
        unwrap(peft(), None)


OLD_CONFIGS = {
    "a type by its architecture": (["model_type"], {}, r"no model_type; give --model-type bert .*into config.json$"),
    "no type": (["model_type", "architectures"], {}, r"no model_type; give the type .*such as --model-type bert"),
    "no architecture": (["architectures"], {}, r'names no architecture; .* \["BertForSequenceClassification"\], or'),
    "another architecture": ([], {"architectures": ["X"]}, "names the unknown architecture 'X'; write"),
}


@pytest.mark.parametrize("case", OLD_CONFIGS)
def test_an_old_config_is_refused_with_what_to_write(tmp_path, case):
    without, changes, words = OLD_CONFIGS[case]
    save(make_model(), make_tokenizer(), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    config = {key: value for key, value in config.items() if key not in without} | changes
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    with pytest.raises(TrimformerError, match=words):
        load(tmp_path / "m")


def test_a_given_model_type_loads_an_old_checkpoint_as_its_modern_self(tmp_path):
    save(model := make_model(), make_tokenizer(), tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    config = json.loads(file.read_text())
    with pytest.raises(TrimformerError, match="states the model type 'bert'; leave out --model-type 'roberta'"):
        load(tmp_path / "m", model_type="roberta")
    file.write_text(json.dumps({key: value for key, value in config.items() if key != "model_type"}))
    with pytest.raises(TrimformerError, match=r"no model type 'bertt'; did you mean bert\?"):
        load(tmp_path / "m", model_type="bertt")
    loaded, tokenizer = load(tmp_path / "m", model_type="bert")
    assert same(loaded, model)

    save(loaded, tokenizer, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["model_type"] == "bert"


def test_code_of_its_own_is_said_and_the_librarys_model_is_loaded(tmp_path, caplog):
    model, tokenizer = make_model(), make_tokenizer()
    save(model, tokenizer, tmp_path / "plain")
    entries = json.loads((tmp_path / "plain" / "config.json").read_text())
    load(tmp_path / "plain")
    assert "auto_map" not in caplog.text
    entries["auto_map"] = {"AutoModelForSequenceClassification": "modeling_own.OwnModel"}
    (tmp_path / "plain" / "config.json").write_text(json.dumps(entries))
    loaded, _ = load(tmp_path / "plain")
    assert type(loaded) is type(model)
    assert "names code of its own (auto_map), which is not run" in caplog.text


def test_a_pooler_that_gives_the_embedding_of_images_must_be_there(tmp_path):
    model = make("ViT", "Model")
    model.save_pretrained(tmp_path / "vit")
    weights = load_file(tmp_path / "vit" / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "vit" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrimformerError, match="lack the pooler that gives ViTModel its embedding"):
        load_model(tmp_path / "vit")


def test_weights_without_the_head_of_their_config_load_as_the_bare_encoder(tmp_path, caplog):
    save(make_model(head="Model"), make_tokenizer(), tmp_path / "m")
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    assert type(load(tmp_path / "m")[0]).__name__ == "BertModel"
    assert "lacks the head of BertForMaskedLM: BertModel is loaded" in caplog.text
