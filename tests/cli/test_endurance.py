"""Two hundred prunes in one process leave nothing behind: no open file, no memory, no temporary file."""

import gc
import os
import shutil
from pathlib import Path

import pytest

from tests.commands import prune, save_model

PRUNES, SETTLED = 200, 50  # after so many, what is loaded once is loaded, and allocators have what they need

# Resident bytes that may come on top of what 50 prunes hold; allocators never come out at the same page.
LEEWAY = 8 * 2**20

# In turn: what goes to temporary files, what is judged, what has a processor of its own.
WAYS = (
    ("--method", "obs", "--max-memory", "0"),
    ("--method", "kwon2022", "--max-memory", "0"),
    ("--method", "kprune"),
    ("--vocabulary", "used"),
    ("--method", "obs-polish", "--polish-budget", "3x"),
)


def held() -> tuple[int, int]:
    """Open files, and resident bytes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="reads what Linux says of a process")
def test_two_hundred_prunes_leave_nothing_behind(data, tmp_path, monkeypatch):
    model = save_model(tmp_path / "in" / "model", num_hidden_layers=2)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    for done in range(1, PRUNES + 1):
        assert prune(model, data, tmp_path / "out", *WAYS[done % len(WAYS)]) == 0
        shutil.rmtree(tmp_path / "out")
        if done == SETTLED:
            files, memory = held()
    assert held()[0] == files
    assert held()[1] <= memory + LEEWAY
    assert os.listdir(temporary) == []
    assert sorted(os.listdir(tmp_path)) == ["in", "temporary"]
