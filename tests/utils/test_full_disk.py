"""A full disk is one sentence wherever it is met: spilled tensors, latency tables, commands."""

import subprocess
import sys

import pytest
import torch

from trimformer.errors import TrimformerError
from trimformer.refit.batch_tensors import BatchTensors
from trimformer.utils.output_lock import is_full

LIMITED = """
import resource, sys
import numpy as np
import torch
from trimformer.costs.lookup_tables import LatencyTable, write_table
from trimformer.errors import TrimformerError
from trimformer.export.openvino.export import check_room
from trimformer.refit.batch_tensors import BatchTensors
from trimformer.utils.outputs import write_directory
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
def spill():
    with BatchTensors.factory(True, 1) as make:
        make()[0] = torch.ones(1000)
def table():
    levels = {"attention": np.ones(5), "ffn": np.ones(41)}
    write_table(LatencyTable(levels), "out")
def openvino():
    with write_directory("files") as folder:
        check_room(folder / "openvino_model.bin", 1000)
for attempt in (spill, table, openvino):
    try:
        attempt()
    except TrimformerError as error:
        print(error)
"""


@pytest.mark.slow
def test_a_file_size_limit_is_one_sentence_for_spilled_tensors_tables_and_openvino(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED], cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert "temporary files in" in lines[0]
    assert "--max-memory" in lines[0]
    assert "output directory 'out' cannot be written" in lines[1]
    assert "output directory 'files' cannot be written: file too large; nothing was written" in lines[2]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "message",
    ["basic_ios::clear: iostream error", "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"],
)
def test_messages_of_c_streams_mean_a_full_disk(message):
    assert is_full(RuntimeError(message))
    assert not is_full(RuntimeError("PytorchStreamReader failed reading zip archive"))


def test_an_error_that_is_not_of_a_full_disk_stays(monkeypatch):
    def fail(*_):
        raise RuntimeError("another reason")

    monkeypatch.setattr(torch, "save", fail)
    with BatchTensors.factory(True, 1) as make, pytest.raises(RuntimeError, match="another reason") as caught:
        make()[0] = torch.ones(1)
    assert not isinstance(caught.value, TrimformerError)
