"""Whether a batch fits into memory at all, told before anything is measured."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError
from trimformer.models import find_sublayers

_MEMINFO = Path("/proc/meminfo")
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of a container


def check_memory(model: PreTrainedModel, one: Mapping[str, Tensor], batch_size: int) -> None:
    """Refuses what cannot fit: the inputs, and of one layer the residual stream and its widest channels.

    A forward pass takes more than that, so what is let through may still be too much.

    Args:
        model: on its device.
        one: the inputs of a single sample.
        batch_size: samples.

    Raises:
        TrimformerError: there is less memory free.
    """
    width = max((s.hidden_size + s.channels for s in find_sublayers(model)), default=0)
    inputs = sum(value.numel() * value.element_size() for value in one.values())
    needed = batch_size * (inputs + _positions(model, one) * width * model.dtype.itemsize)
    free = free_memory(model.device)
    if needed > free:
        raise TrimformerError(
            f"a batch of {batch_size} takes {needed / 1e9:,.1f} GB at the least, and {free / 1e9:,.1f} GB are free on "
            f"'{model.device}'; lower the batch size (--bs) or the length (--seq-len)"
        )


def _positions(model: PreTrainedModel, one: Mapping[str, Tensor]) -> int:
    """What the layers see of a sample, where that is known without running it."""
    if "input_ids" in one:
        return one["input_ids"].numel()
    config = model.config
    patch = getattr(getattr(config, "vision_config", config), "patch_size", None)
    if "pixel_values" in one and isinstance(patch, int):
        height, width = one["pixel_values"].shape[-2:]
        return (height // patch) * (width // patch)
    return config.max_source_positions if "input_features" in one else 0


def free_memory(device: torch.device) -> float:
    """Bytes that can be had on a device; infinite where that is not known."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + cached)
    return min(_available(), *map(_limit, _LIMITS)) if device.type == "cpu" else float("inf")


def _available() -> float:
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(_MEMINFO), re.MULTILINE)
    return 1024 * float(found[1]) if found else float("inf")


def _limit(path: Path) -> float:
    told = _read(path).strip()
    return float(told) if told.isdigit() else float("inf")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
