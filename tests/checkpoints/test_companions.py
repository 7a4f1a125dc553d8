"""Files of a model's directory that are not ours come along, or are named."""

import json
import os
import shutil

import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Normalize
from transformers import AutoProcessor, Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC, Wav2Vec2Processor

from tests.checkpoints.sentence_models import TEXTS, sentence_model
from tests.commands import prune as prune_command
from tests.commands import save_model
from tests.conftest import make_tokenizer
from tests.data.media_fixtures import audio_model, extractor
from trimformer import TrimformerError, load, prune, save
from trimformer.cli.export import _write_beside

# As SetFit writes it, but for the head: whoever unpickles it fails.
HEAD = b"\x80\x04c__main__\nnothing_of_this_name\n."


@pytest.fixture
def folder(tmp_path):
    folder = sentence_model(tmp_path, Normalize())
    (folder / "model_head.pkl").write_bytes(HEAD)
    (folder / "config_setfit.json").write_text('{"labels": ["a", "b"], "normalize_embeddings": false}')
    return folder


def pruned_to(folder, path):
    model, tokenizer = load(folder)
    result = prune(model, tokenizer, TEXTS, 0.7, device="cpu")
    save(result.model, result.processor, path)
    return path


def test_a_setfit_directory_keeps_its_head_and_settings(folder, tmp_path):
    out = pruned_to(folder, tmp_path / "out")
    assert (out / "model_head.pkl").read_bytes() == HEAD
    assert (out / "config_setfit.json").read_bytes() == (folder / "config_setfit.json").read_bytes()


def test_the_commands_keep_them_too(folder, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    assert prune_command(folder, tmp_path / "texts.txt", tmp_path / "out") == 0
    (tmp_path / "onnx").mkdir()
    _write_beside(*load(tmp_path / "out"), tmp_path / "onnx")
    for out in ("out", "onnx"):
        assert (tmp_path / out / "model_head.pkl").read_bytes() == HEAD
        assert (tmp_path / out / "config_setfit.json").is_file()


def test_what_belongs_to_the_dense_weights_stays_behind_and_is_named(tmp_path, caplog):
    folder = save_model(tmp_path / "model")
    for name in ("model.onnx", "tf_model.h5", "training_args.bin", "eval_results.json", "notes.txt", "results.json"):
        (folder / name).write_text("1")
    (folder / "runs").mkdir()
    (folder / "gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe")
    model, tokenizer = load(folder)
    with caplog.at_level("INFO", "trimformer"):
        save(model, tokenizer, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "1"
    assert not (tmp_path / "out" / "results.json").exists()
    [line] = [record.getMessage() for record in caplog.records if "stay behind" in record.getMessage()]
    assert line.endswith("eval_results.json, gone.txt, model.onnx, pipe, runs, tf_model.h5, training_args.bin")


def test_files_of_the_new_model_are_never_replaced_by_old_ones(tmp_path):
    folder = save_model(tmp_path / "model")
    (folder / "vocab.txt").write_text("[PAD]\n")
    (folder / "added_tokens.json").write_text('{"<x>": 99}')
    model, tokenizer = load(folder)
    save(model, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out" / "vocab.txt").exists()
    assert not (tmp_path / "out" / "added_tokens.json").exists()


def test_pipes_and_links_to_nothing_in_a_module_folder_do_no_harm(folder, tmp_path):
    os.mkfifo(folder / "1_Pooling" / "pipe")
    (folder / "1_Pooling" / "link").symlink_to(tmp_path / "nowhere")
    out = pruned_to(folder, tmp_path / "out")
    assert sorted(path.name for path in (out / "1_Pooling").iterdir()) == ["config.json"]


@pytest.mark.parametrize("name", ["README.md", "results.json", "onnx", "tokenizer.json"])
def test_a_module_folder_with_the_name_of_another_file_is_refused_before_the_work(folder, name):
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["path"] = name
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(TrimformerError, match=f"'{name}' has the name of another file"):
        load(folder)


def test_modules_that_share_a_folder_or_have_none_are_written(folder, tmp_path):
    modules = json.loads((folder / "modules.json").read_text())
    for module, path in zip(modules[2:], ["", "1_Pooling"], strict=False):
        module["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    out = pruned_to(folder, tmp_path / "out")
    assert torch.isfinite(next(load(out)[0].parameters())).all()


def test_modules_of_the_models_own_code_are_refused(folder):
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(TrimformerError, match=r"custom_st.Transformer is the model's own code, which is never run"):
        load(folder)


def test_references_to_code_that_is_never_run_are_dropped(tmp_path):
    folder = save_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "modeling_mine.Mine"}
    (folder / "config.json").write_text(json.dumps(config))
    model, tokenizer = load(folder)
    save(model, tokenizer, tmp_path / "out")
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "onnx").mkdir()
    _write_beside(model, tokenizer, tmp_path / "onnx")
    assert "auto_map" not in json.loads((tmp_path / "onnx" / "config.json").read_text())


def test_a_source_that_is_gone_by_the_end_costs_no_model(tmp_path):
    folder = save_model(tmp_path / "model")
    model, _ = load(folder)
    shutil.rmtree(folder)
    save(model, make_tokenizer(), tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_ctc_model_keeps_its_tokenizer(tmp_path):
    model, dense, out = audio_model(Wav2Vec2ForCTC), tmp_path / "dense", tmp_path / "out"
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNO"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    model.save_pretrained(dense)
    Wav2Vec2Processor(extractor(), Wav2Vec2CTCTokenizer(tmp_path / "vocab.json")).save_pretrained(dense)
    loaded, processor = load(dense)
    save(loaded, processor, out)
    ids = AutoProcessor.from_pretrained(dense).tokenizer("A BABE")["input_ids"]
    assert AutoProcessor.from_pretrained(out).tokenizer("A BABE")["input_ids"] == ids
