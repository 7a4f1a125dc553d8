"""Free and peak memory of this process and its machine."""

import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class _Container:
    """Files in which Linux says what a container may use and what it uses, in bytes.

    Attributes:
        limit: bytes that it may use.
        usage: bytes that it uses, files that could be dropped from memory included.
        details: kinds of memory, among them these files.
        files: names of these files in `details`.
    """

    limit: Path
    usage: Path
    details: Path
    files: tuple[str, ...]

    def free(self) -> float:
        """Returns the bytes that are left; infinity if there is no limit."""
        limit, usage = _read(self.limit).strip(), _read(self.usage).strip()
        if not limit.isdigit():
            return float("inf")
        kinds = re.findall(r"^(\w+) (\d+)$", _read(self.details), re.MULTILINE)
        droppable = sum(float(size) for kind, size in kinds if kind in self.files)
        used = float(usage) - droppable if usage.isdigit() else 0.0
        return max(0.0, float(limit) - max(0.0, used))


_V2, _V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")  # two versions of Linux's control groups
_CONTAINERS = (
    _Container(_V2 / "memory.max", _V2 / "memory.current", _V2 / "memory.stat", ("inactive_file", "active_file")),
    _Container(
        _V1 / "memory.limit_in_bytes",
        _V1 / "memory.usage_in_bytes",
        _V1 / "memory.stat",
        ("total_inactive_file", "total_active_file"),
    ),
)


def free_memory(device: torch.device) -> float:
    """Returns the free bytes on a device, or infinity if unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + cached)
    if device.type != "cpu":
        return float("inf")
    return min(_available(), *(container.free() for container in _CONTAINERS))


def peak_memory(device: torch.device) -> dict[str, float]:
    """Returns the peak memory of this process in GB, on the host and on the GPU if it uses one."""
    unit = 1e9 if sys.platform == "darwin" else 1e9 / 1024
    peak = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device) / 1e9
    return peak


def _available() -> float:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read(_MEMINFO), re.MULTILINE)
    return 1024 * float(match[1]) if match else float("inf")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
