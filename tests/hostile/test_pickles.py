"""A pickle that would run code, put behind every door through which a file comes in: none runs it."""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import trimformer
from tests.commands import problem_rows, run, write_jsonl
from tests.hostile.world import refusal, snapshot, world
from trimformer.checkpoints.save_load import read_masks
from trimformer.cli.main import main
from trimformer.costs.lookup_tables import read_table
from trimformer.errors import TrimformerError


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.fixture
def folder(tmp_path, tmp_path_factory, monkeypatch):
    made = world(tmp_path_factory.mktemp("made"), "single_label", tmp_path / "world")
    monkeypatch.chdir(made)
    return made


@pytest.fixture
def mark(tmp_path):
    path = tmp_path / "mark"
    yield path
    assert not path.exists(), "the pickle was run"


def plain(evil, path):
    path.write_bytes(pickle.dumps(evil))


def zipped(evil, path):
    torch.save(evil, path)


def legacy(evil, path):
    torch.save(evil, path, _use_new_zipfile_serialization=False)


def within(evil, path):
    """Among tensors."""
    torch.save({"a": torch.ones(3), "b": evil}, path)


WAYS = {"plain": plain, "zipped": zipped, "legacy": legacy, "within": within}


def test_the_pickle_is_one(tmp_path):
    path = tmp_path / "mark"
    pickle.loads(pickle.dumps(Evil(path)))
    assert path.exists()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("words", ["evaluate model --data rows.jsonl",
                                   "prune model --data rows.jsonl --constraint 0.5 --output out",
                                   "export model --output out", "lut model --bs 1 --seq-len 4 --output out",
                                   "bench model --bs 1 --seq-len 4",
                                   "evaluate other --data rows.jsonl --reference model"])  # fmt: skip
def test_a_checkpoint_of_pickles_is_refused(folder, mark, way, words, capsys):
    world(folder.parent / "again", "single_label", folder / "copy")
    (folder / "copy" / "model").rename(folder / "other")
    (folder / "model" / "model.safetensors").unlink()
    WAYS[way](Evil(mark), folder / "model" / "pytorch_model.bin")
    before = snapshot(folder)
    sentence = refusal(words.split(), capsys)
    assert "weights_only" not in sentence
    assert snapshot(folder) == before


@pytest.mark.parametrize("way", WAYS)
def test_a_shard_of_pickles_is_refused(folder, mark, way, capsys):
    (folder / "model" / "model.safetensors").unlink()
    index = '{"metadata": {}, "weight_map": {"classifier.bias": "pytorch_model-1.bin"}}'
    (folder / "model" / "pytorch_model.bin.index.json").write_text(index)
    WAYS[way](Evil(mark), folder / "model" / "pytorch_model-1.bin")
    refusal("evaluate model --data rows.jsonl".split(), capsys)


@pytest.mark.parametrize("way", WAYS)
def test_masks_of_pickles_are_refused(folder, mark, way, capsys):
    for name in ("head_mask.pt", "neuron_mask.pt"):
        WAYS[way](Evil(mark), folder / name)
    sentence = refusal("evaluate model --data rows.jsonl --masks .".split(), capsys)
    assert "weights_only" not in sentence
    with pytest.raises(TrimformerError, match="plain tensor"):
        read_masks(folder, trimformer.load(folder / "model")[0])


@pytest.mark.parametrize("way", WAYS)
def test_tables_of_pickles_are_refused(folder, mark, way, capsys):
    for name in ("mha_lut.pt", "ffn_lut.pt"):
        WAYS[way](Evil(mark), folder / name)
    words = "prune model --data rows.jsonl --constraint 0.5 --metric latency --lut . --output out"
    assert "weights_only" not in refusal(words.split(), capsys)
    with pytest.raises(TrimformerError, match="plain tensor"):
        read_table(folder / "mha_lut.pt", folder / "ffn_lut.pt")


@pytest.mark.parametrize(
    "name", ["x.pkl", "x.npy", "x.npz", "x.pt", "x.jsonl", "x.csv", "x.json", "x.parquet", "x.txt.gz"]
)
def test_data_of_pickles_are_refused(folder, mark, name, capsys):
    path = folder / name
    if name.endswith(".npy"):
        np.save(path, np.array([Evil(mark)], dtype=object), allow_pickle=True)
    elif name.endswith(".npz"):
        np.savez(path, a=np.array([Evil(mark)], dtype=object))
    else:
        plain(Evil(mark), path)
    assert name in refusal(["evaluate", "model", "--data", name], capsys)


@pytest.mark.parametrize("name", ["optimizer.pt", "training_args.bin", "tokenizer.pkl", "scheduler.pt"])
def test_what_lies_beside_a_model_is_not_opened(folder, mark, name, capsys):
    plain(Evil(mark), folder / "model" / name)
    assert run(main, "evaluate", "model", "--data", "rows.jsonl") == 0


@pytest.mark.parametrize("key", ["AutoConfig", "AutoModelForSequenceClassification", "AutoTokenizer"])
def test_code_that_a_config_names_is_not_run(folder, mark, key, capsys):
    (folder / "model" / "evil.py").write_text(
        f"import pathlib; pathlib.Path({str(mark)!r}).touch()\nclass Evil: pass\n"
    )
    file = folder / "model" / ("tokenizer_config.json" if key == "AutoTokenizer" else "config.json")
    content = json.loads(file.read_text())
    value = ["evil.Evil", None] if key == "AutoTokenizer" else "evil.Evil"
    file.write_text(json.dumps({**content, "auto_map": {key: value}}))
    assert run(main, "evaluate", "model", "--data", "rows.jsonl") in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


def test_fine_tuning_opens_none_either(folder, mark, capsys):
    (folder / "model" / "model.safetensors").unlink()
    zipped(Evil(mark), folder / "model" / "pytorch_model.bin")
    write_jsonl(folder / "train.jsonl", problem_rows("single_label", 9))
    words = "finetune --model_name_or_path model --train_file train.jsonl --do_train --use_cpu --output_dir out"
    assert "model" in refusal(words.split(), capsys)


def test_a_zip_that_leads_elsewhere_writes_nothing(folder, mark, capsys):
    tensors = load_file(folder / "model" / "model.safetensors")
    (folder / "model" / "model.safetensors").unlink()
    path = folder / "model" / "pytorch_model.bin"
    torch.save(tensors, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../../mark", "x")
    assert run(main, "evaluate", "model", "--data", "rows.jsonl") in (0, 2)
