"""The calibration cache returns the same result, and never that of another model, data or setting."""

import os
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.commands import prune, run, tree
from tests.conftest import make_batch, make_model
from trimformer import METHODS, Pruner, Run, TrimformerError
from trimformer.cli.main import main
from trimformer.costs.cost_tables import linear_costs
from trimformer.data.sentence_settings import SentenceSettings
from trimformer.data.sentence_transformers import SentenceHead, attach_sentence_head
from trimformer.importance import calibration_cache
from trimformer.importance.calibration_cache import check_calibration_dir
from trimformer.importance.criteria import CRITERIA
from trimformer.models import find_sublayers
from trimformer.refit.updates import UPDATES


@pytest.fixture
def setting():
    model = make_model()
    return (
        model,
        [make_batch(), make_batch(seed=1)],
        linear_costs(find_sublayers(model), "mac", [5.0] * len(find_sublayers(model))),
    )


def never(*_):
    raise AssertionError("calibrated")


@pytest.mark.parametrize("method", ["obs", "kwon2022", "magnitude", "random"])
def test_a_stored_calibration_gives_the_same_model(setting, tmp_path, monkeypatch, method):
    model, batches, costs = setting
    anew = Pruner(model, batches, METHODS[method])(costs, 0.5)
    run_ = Run(calibration_dir=tmp_path / "kept")
    Pruner(model, batches, METHODS[method], run=run_)
    monkeypatch.setitem(CRITERIA, METHODS[method].criterion, never)
    kept = Pruner(model, batches, METHODS[method], run=run_)(costs, 0.5)
    for (name, a), b in zip(anew.model.state_dict().items(), kept.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert kept.predicted == anew.predicted


@pytest.mark.parametrize("other", ["weights", "samples", "seed", "bf16", "objective", "a broken file"])
def test_a_calibration_of_another_setting_is_never_used(setting, tmp_path, other):
    model, batches, _ = setting
    method, options = METHODS["obs"], {"calibration_dir": tmp_path}
    Pruner(model, batches, method, run=Run(**options))
    (first,) = tmp_path.iterdir()
    before = first.read_bytes()
    if other == "weights":
        with torch.no_grad():
            next(model.parameters())[0, 0] += 1
    elif other == "samples":
        batches = batches[:-1]
    elif other == "objective":
        method = replace(method, objective="labels")
    elif other == "a broken file":
        first.write_bytes(before[:-8])
    else:
        options[other] = 1 if other == "seed" else True
    Pruner(model, batches, method, run=Run(**options))
    files = list(tmp_path.iterdir())
    if other == "a broken file":
        assert [file.read_bytes() for file in files] == [before]
    else:
        assert len(files) == 2


def dense_step(weight):
    return lambda x: x @ weight


def normalize(x):
    return torch.nn.functional.normalize(x, dim=-1)


# Two variants each, pooling and later steps, that differ in what neither the weights nor the samples show.
SENTENCE_HEADS: dict[str, list[tuple[Any, ...]]] = {
    "pooling": [(("mean",), ()), (("cls",), ())],
    "normalize": [(("mean",), ()), (("mean",), (normalize,))],
    "dense": [(("mean",), (dense_step(torch.eye(24)),)), (("mean",), (dense_step(2 * torch.eye(24)),))],
    "truncate_dim": [(("mean",), ()), (("mean",), (), SentenceSettings(truncate_dim=5))],
    "activation": [(("mean",), (lambda x: x + 9,)), (("mean",), (lambda x: x + 9, torch.relu))],  # alike on the batch
}


@pytest.mark.parametrize("part", SENTENCE_HEADS)
def test_another_sentence_head_is_calibrated_anew(tmp_path, part):
    for number, (pooling, steps, *settings) in enumerate(SENTENCE_HEADS[part], start=1):
        model, batches = make_model(head="Model"), [make_batch(labels=None)]
        attach_sentence_head(model, SentenceHead(tmp_path, pooling, steps, False, *settings))
        anew = Pruner(model, batches, METHODS["obs"])
        stored = Pruner(model, batches, METHODS["obs"], run=Run(calibration_dir=tmp_path / "stored"))
        assert len(list((tmp_path / "stored").iterdir())) == number
        for a, b in zip(anew.curves, stored.curves, strict=True):
            assert torch.equal(a.order, b.order)
            assert torch.equal(a.error, b.error)


@pytest.mark.parametrize("other", ["composition", "source", "attention", "class", "hook", "a float's last bit"])
def test_whatever_else_curves_depend_on_is_part_of_the_key(setting, tmp_path, monkeypatch, other):
    model, batches, _ = setting
    Pruner(model, batches, METHODS["obs"], run=Run(calibration_dir=tmp_path))
    if other == "composition":
        halves = ({key: value[part] for key, value in batches[0].items()} for part in (slice(2), slice(2, None)))
        batches = [*halves, batches[1]]
    elif other == "source":
        monkeypatch.setattr(calibration_cache, "_source_digest", lambda: "another release")
    elif other == "attention":
        model = make_model(attn_implementation="eager")
    elif other == "class":
        model.__class__ = type("Another", (type(model),), {})
        model.__class__.__name__ = "AnotherForSequenceClassification"
    elif other == "hook":
        model.classifier.register_forward_hook(lambda *call: 2 * call[-1])
    else:
        with torch.no_grad():
            model.classifier.bias[0] = torch.nextafter(model.classifier.bias[0], torch.tensor(9.0))
    Pruner(model, batches, METHODS["obs"], run=Run(calibration_dir=tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


def test_the_key_leaves_random_numbers_as_they_are(setting, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    calibration_cache._fingerprint(setting[0], setting[1], "")
    assert torch.equal(torch.rand(3), expected)


def with_nan(file):
    tensors = load_file(file)
    tensors["error.0"][0] = torch.nan
    save_file(tensors, file)


def with_checksum_and_nan(file):
    with safe_open(file, "pt") as stored:
        metadata = stored.metadata()
    tensors = load_file(file)
    tensors["error.0"][0] = torch.nan
    save_file(tensors, file, metadata=metadata)


def with_a_flipped_bit(file):
    content = bytearray(file.read_bytes())
    content[-40] ^= 1
    file.write_bytes(content)


def without_an_order(file):
    save_file({name: tensor for name, tensor in load_file(file).items() if name != "order.0"}, file)


DAMAGE = {
    "nan": with_nan,
    "nan under the old checksum": with_checksum_and_nan,
    "bit": with_a_flipped_bit,
    "missing": without_an_order,
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("not tensors"),
    "endless header": lambda file: file.write_bytes(b"\xff" * 64),
    "other tensors": lambda file: save_file({"a": torch.ones(1)}, file),
    "folder": lambda file: (file.unlink(), file.mkdir()),
    "fifo": lambda file: (file.unlink(), os.mkfifo(file)),
    "link to nothing": lambda file: (file.unlink(), file.symlink_to("nowhere")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_calibrated_anew_with_a_line_in_the_log(setting, tmp_path, caplog, damage):
    model, batches, _ = setting
    run_ = Run(calibration_dir=tmp_path)
    expected = Pruner(model, batches, METHODS["obs"], run=run_).curves
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    DAMAGE[damage](file)
    for a, b in zip(Pruner(model, batches, METHODS["obs"], run=run_).curves, expected, strict=True):
        assert torch.equal(a.order, b.order)
        assert torch.equal(a.error, b.error)
    assert "is damaged" in caplog.text
    if damage == "folder":
        assert "cannot be stored" in caplog.text
    else:
        assert file.read_bytes() == before


@pytest.mark.parametrize(("place", "message"), [("file", "not a folder"), ("", "give the path"), (3, "give the path")])
def test_an_invalid_folder_is_rejected_early(tmp_path, place, message):
    (tmp_path / "file").touch()
    with pytest.raises(TrimformerError, match=message):
        check_calibration_dir(tmp_path / place if place == "file" else place)
    assert check_calibration_dir(None) is None


@pytest.mark.parametrize("place", ["file/below", "\0", "x" * 300])
def test_a_folder_that_cannot_be_created_is_rejected_before_the_calibration(setting, tmp_path, monkeypatch, place):
    (tmp_path / "file").touch()
    monkeypatch.setitem(CRITERIA, "obs", never)
    with pytest.raises(TrimformerError, match=r"calibration_dir .* cannot be created"):
        Pruner(*setting[:2], METHODS["obs"], run=Run(calibration_dir=tmp_path / place))


def test_an_interrupted_run_resumes_from_its_calibration(model_dir, data, tmp_path, monkeypatch, capsys):
    words = ("prune", model_dir, "--data", data, "--constraint", "0.5")
    assert run(main, *words, "--output", tmp_path / "whole", "--resume") == 0

    def cut_short(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setitem(UPDATES, "full", cut_short)
        assert run(main, *words, "--output", tmp_path / "out", "--resume") == 130
    assert {file.split("/")[0] for file in tree(tmp_path)} & {".out.trimformer-calibration"}
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(CRITERIA, "obs", never)
    assert run(main, *words, "--output", tmp_path / "out") == 0  # a run without --resume uses the folder too
    assert not list(tmp_path.glob(".out*"))
    for name in ("model.safetensors", "head_mask.pt", "neuron_mask.pt"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_without_resume_nothing_is_stored(model_dir, data, tmp_path, monkeypatch):
    def cut_short(*_):
        raise KeyboardInterrupt

    before = tree(tmp_path)
    monkeypatch.setitem(UPDATES, "full", cut_short)
    assert prune(model_dir, data, tmp_path / "out") == 130
    assert tree(tmp_path) == before
