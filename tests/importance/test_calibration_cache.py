"""The calibration cache returns the same result, and never that of another model, data or setting."""

from dataclasses import replace

import pytest
import torch

from tests.commands import prune, run, tree
from tests.conftest import make_batch, make_model
from trimformer import METHODS, Pruner, Run, TrimformerError
from trimformer.cli.main import main
from trimformer.costs.cost_tables import linear_costs
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
