"""Free and peak memory."""

import torch

from trimformer.utils import memory
from trimformer.utils.memory import free_memory, peak_memory

CPU = torch.device("cpu")


def container(folder):
    return memory._Container(folder / "max", folder / "current", folder / "stat", ("inactive_file", "active_file"))


def test_free_memory_is_what_the_kernel_says_or_what_a_container_leaves(tmp_path, monkeypatch):
    kernel, inner = tmp_path / "meminfo", tmp_path / "container"
    inner.mkdir()
    monkeypatch.setattr(memory, "_MEMINFO", kernel)
    monkeypatch.setattr(memory, "_CONTAINERS", (container(inner), container(tmp_path / "nothing")))
    assert free_memory(CPU) == float("inf")
    kernel.write_text("MemTotal:  99 kB\nMemAvailable:      50 kB\n")
    assert free_memory(CPU) == 50 * 1024
    (inner / "max").write_text("max\n")
    assert free_memory(CPU) == 50 * 1024
    (inner / "max").write_text("20000\n")
    assert free_memory(CPU) == 20_000
    (inner / "current").write_text("5000\n")
    assert free_memory(CPU) == 15_000
    (inner / "stat").write_text("anon 1000\ninactive_file 2000\nactive_file 1000\n")  # the kernel drops such files
    assert free_memory(CPU) == 18_000
    (inner / "current").write_text("90000\n")
    assert free_memory(CPU) == 0
    assert free_memory(torch.device("meta")) == float("inf")


def test_the_peak_is_some_hundreds_of_megabytes_and_never_falls():
    first = peak_memory(torch.device("cpu"))
    assert first.keys() == {"host"}
    assert 0.05 < first["host"] <= peak_memory(torch.device("cpu"))["host"] < 1000
