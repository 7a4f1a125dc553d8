"""Several processes give what one gives: two real ones, started by `torchrun` on this machine."""

import json
import os
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from tests.commands import launch, launch_alone, prune, script, tree
from tests.conftest import make_batch, make_model
from trimformer import TrimformerError
from trimformer.cli.main import guarded
from trimformer.errors import LostProcess, RemoteError
from trimformer.importance.fisher import collect_mask_grads
from trimformer.importance.second_moments import collect_moments
from trimformer.utils import distributed
from trimformer.utils.outputs import write_directory

OF_ANY_METHOD = ("--batch-size", "4", "--device", "cpu")
WORDS = (*OF_ANY_METHOD, "--neuron-multiple", "4")


@pytest.fixture(autouse=True)
def one_thread():
    """As the launched processes have: the number of threads changes the rounding of float32 sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_same(one, two):
    """Two output directories hold the same masks and weights."""
    for name in ("head_mask.pt", "neuron_mask.pt"):
        masks = [torch.load(out / name, weights_only=True) for out in (one, two)]
        assert torch.equal(masks[0] != 0, masks[1] != 0)
        torch.testing.assert_close(*masks, atol=1e-5, rtol=1e-5)
    weights = [load_file(out / "model.safetensors") for out in (one, two)]
    torch.testing.assert_close(*weights, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_two_processes_prune_as_one_does_and_one_of_them_writes(model_dir, data, tmp_path):
    words = ["prune", model_dir, "--data", data, "--output", tmp_path / "two", "--constraint", "0.5", *WORDS]
    done = launch("-m", "trimformer", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written to") == 1
    assert prune(model_dir, data, tmp_path / "one", *WORDS) == 0
    assert_same(tmp_path / "one", tmp_path / "two")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    found = [json.loads((tmp_path / out / "results.json").read_text()) for out in ("one", "two")]
    assert [results["machine"]["processes"] for results in found] == [1, 2]
    assert found[0]["scores"]["pruned"] == found[1]["scores"]["pruned"]
    for one, two in zip(*(results["sublayers"] for results in found), strict=True):
        assert two["predicted_loss"] == pytest.approx(one["predicted_loss"], rel=1e-4)
        assert two["refit"]["error_after"] == pytest.approx(one["refit"]["error_after"], rel=1e-4)


SEVERAL = """
import sys
from trimformer.errors import LostProcess, RemoteError
from trimformer.importance.fisher import collect_mask_grads
from trimformer.importance.second_moments import collect_moments
from trimformer.utils import distributed
from trimformer.cli.main import main

leave, distributed.leave_processes = distributed.leave_processes, lambda: None  # all runs in one pair of processes
*words, output = sys.argv[1:]
codes = [main([*words, "--method", m, "--output", f"{output}-{m}"]) for m in ("kwon2022", "kprune")]
leave()
sys.exit(max(codes))
"""


@pytest.mark.slow
def test_two_processes_prune_as_one_does_by_every_method(model_dir, data, tmp_path):
    words = ["prune", model_dir, "--data", data, "--constraint", "0.5", *OF_ANY_METHOD]
    done = launch(script(tmp_path / "several.py", SEVERAL), *words, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    for method in ("kwon2022", "kprune"):
        assert prune(model_dir, data, tmp_path / method, *OF_ANY_METHOD, "--method", method) == 0
        assert_same(tmp_path / method, tmp_path / f"two-{method}")


@pytest.mark.slow
def test_bad_input_is_reported_by_one_process_only(model_dir, data, tmp_path):
    words = ["prune", model_dir, "--data", data, "--output", tmp_path / "out", "--constraint", "2", *WORDS]
    done = launch("-m", "trimformer", *words)
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: constraint 2.0 is outside (0, 1]; 0.5 keeps half of the dense model's cost"
    ]
    assert not (tmp_path / "out").exists()


LOSE_ONE = """
import os, sys
from trimformer.importance import criteria
from trimformer.cli.main import main

if os.environ["RANK"] == "1":
    criteria.compute_shared = lambda *_, **__: os._exit(1)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_process_that_is_lost_ends_the_run_and_nothing_is_written(model_dir, data, tmp_path):
    lose_one = script(tmp_path / "lose_one.py", LOSE_ONE)
    before = tree(tmp_path)
    done = launch(lose_one, "prune", model_dir, "--data", data, "--output", tmp_path / "out", "--constraint", 1, *WORDS)
    assert done.returncode != 0
    assert "written to" not in done.stdout
    assert tree(tmp_path) == before


def test_the_launchers_signal_leaves_nothing_half_written(tmp_path):
    def write():
        with write_directory(tmp_path / "out") as folder:
            (folder / "half").touch()
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert guarded(write) == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(tmp_path.iterdir())


@given(items=st.lists(st.integers()), count=st.integers(1, 5))
def test_every_item_is_in_one_shard(items, count):
    parts = []
    for rank in range(count):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            patch.setattr(distributed, "world_size", lambda: count)
            parts.append(distributed.shard(items))
    assert sorted(item for part in parts for item in part) == sorted(items)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(costs=st.lists(st.integers(0, 9)), count=st.integers(2, 5))
def test_every_item_is_computed_once_and_the_shares_cost_about_the_same(costs, count):
    shares = []

    def gather(parts, mine):
        if mine is None:  # no error
            parts[:] = [None] * count
        else:
            shares.append(mine)
            parts[:] = [dict(enumerate(costs))] * count

    for rank in range(count):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            patch.setattr(distributed, "world_size", lambda: count)
            patch.setattr(torch.distributed, "all_gather_object", gather)
            assert distributed.compute_shared(costs, lambda cost: cost, cost=float) == costs
    assert sorted(i for share in shares for i in share) == list(range(len(costs)))
    loads = [sum(share.values()) for share in shares]
    assert max(loads) - min(loads) <= max(costs, default=0)


def test_a_process_alone_does_everything_itself():
    rows = torch.ones(2, 3)
    distributed.sum_over_processes(rows)
    assert torch.equal(rows, torch.ones(2, 3))
    assert distributed.gather_rows(rows) is rows
    assert distributed.shard("abc") == ["a", "b", "c"]
    assert distributed.compute_shared("abc", str.upper, cost=ord) == ["A", "B", "C"]
    assert distributed.broadcast_from_main(lambda: 7) == 7
    assert (distributed.rank(), distributed.world_size(), distributed.is_main(), distributed.launched()) == (
        0,
        1,
        True,
        False,
    )
    assert distributed.join_processes("cuda:7") == "cuda:7"

    def refuse():
        raise TrimformerError("no")

    with pytest.raises(TrimformerError, match="no"):
        distributed.broadcast_from_main(refuse)
    distributed.leave_processes()


def test_an_error_between_processes_is_a_lost_process():
    for error in (RuntimeError("Connection\n closed by peer"), ConnectionResetError("gone")):
        with pytest.raises(LostProcess, match="nothing is written"), distributed._one_sentence_if_lost():
            raise error


def as_process(patch, rank, broadcast=None, gather=None):
    """Pretends to be one of two processes."""
    patch.setattr(distributed, "rank", lambda: rank)
    patch.setattr(distributed, "world_size", lambda: 2)
    if broadcast:
        patch.setattr(torch.distributed, "broadcast_object_list", broadcast)
    if gather:
        patch.setattr(torch.distributed, "all_gather_object", gather)


@pytest.mark.parametrize(
    ("error", "message"),
    [(TrimformerError("no"), "^no$"), (KeyError("a"), "^process 0 of the run failed: KeyError: 'a'$")],
)
def test_any_error_of_the_main_process_reaches_the_others(monkeypatch, error, message):
    def fail():
        raise error

    sent = []
    as_process(monkeypatch, 0, broadcast=lambda box: sent.append(list(box)))
    for call in (distributed.broadcast_from_main, distributed.on_main):
        with pytest.raises(type(error)) as raised:
            call(fail)
        assert raised.value is error  # with its traceback
    as_process(monkeypatch, 1, broadcast=lambda box: box.__setitem__(slice(None), sent.pop()))
    for call in (distributed.broadcast_from_main, distributed.on_main):
        with pytest.raises(RemoteError, match=message):
            call(fail)


def test_any_error_in_a_share_of_the_work_reaches_all(monkeypatch):
    def fail_on_b(item):
        return {"a": 1, "b": None}[item] or 1 / 0

    sent = {}

    def gather(parts, mine):
        sent[distributed.rank()] = mine
        parts[:] = [sent.get(0, mine), sent.get(1, mine)]

    as_process(monkeypatch, 1, gather=gather)
    with pytest.raises(ZeroDivisionError):
        distributed.compute_shared("ab", fail_on_b, cost=lambda _: 1)
    as_process(monkeypatch, 0, gather=gather)
    with pytest.raises(RemoteError, match="process 1 of the run failed: ZeroDivisionError: division by zero"):
        distributed.compute_shared("ab", fail_on_b, cost=lambda _: 1)


@pytest.mark.parametrize("collect", [collect_moments, collect_mask_grads])
def test_any_error_of_one_process_in_calibration_reaches_all(monkeypatch, collect):
    def fail(*_):
        raise MemoryError("too large")

    def gather(parts, mine):
        parts[:] = [mine, (False, "MemoryError: too large")]

    as_process(monkeypatch, 0, gather=gather)
    model = make_model(num_hidden_layers=1)
    with pytest.raises(RemoteError, match="process 1 of the run failed: MemoryError: too large"):
        collect(model, [make_batch()])
    with pytest.raises(MemoryError):
        collect(model, [make_batch()], objective=fail)


FAIL_ON_MAIN = """
import sys
from trimformer.evaluation import quality_test
from trimformer.session import measure
from trimformer.cli.main import main

def fail(*_, **__):
    raise KeyError("broken")

measure._measure = fail
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_an_unexpected_error_of_the_main_process_ends_all(model_dir, data, tmp_path):
    words = ["prune", model_dir, "--data", data, "--output", tmp_path / "out", "--constraint", "0.5", *WORDS]
    done = launch(script(tmp_path / "fail.py", FAIL_ON_MAIN), *words)
    assert done.returncode != 0
    assert "unexpected KeyError: 'broken'" in done.stderr
    assert not (tmp_path / "out").exists()


FAIL_ON_ONE = """
import os, sys
from trimformer.cli import exported_files
from trimformer.cli.main import main
from trimformer.errors import TrimformerError
from trimformer.importance import second_moments
from trimformer.refit import regression_moments

def fail(*_, **__):
    raise TrimformerError("stopped here") if place == "walk" else KeyError("stopped here")

place, rank, *words = sys.argv[1:]
owner, name = {
    "export": (exported_files, "write_onnx_files"),
    "calibrate": (second_moments, "sample_losses"),
    "walk": (regression_moments.MomentSums, "add"),
}[place]
if os.environ["RANK"] == rank:
    setattr(owner, name, fail)
sys.exit(main(words))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("place", "rank"), [("export", "0"), ("calibrate", "1"), ("walk", "0"), ("walk", "1")])
def test_an_error_of_one_process_is_printed_once_and_ends_all_without_a_launcher(
    model_dir, data, tmp_path, place, rank
):
    words = ["prune", model_dir, "--data", data, "--output", tmp_path / "out", "--constraint", "0.5", *WORDS]
    export = ["--export", "onnx"] if place == "export" else []
    before = tree(tmp_path)
    file = script(tmp_path.parent / f"{tmp_path.name}-fail.py", FAIL_ON_ONE)
    done = launch_alone(file, place, rank, *words, *export)  # it would wait for two hours
    assert all(process.returncode in (1, 2) for process in done)
    errors = [line for process in done for line in process.stderr.splitlines() if line.startswith("error: ")]
    stopped = [line for line in errors if "stopped here" in line]
    assert len(stopped) == 1, errors
    assert stopped[0] in done[int(rank)].stderr
    assert all("another process was lost" in line for line in errors if line not in stopped), errors  # under load
    assert tree(tmp_path) == before
