"""Checks that a batch can fit into memory, before anything is measured."""

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
    """Checks that the inputs, and the residual stream and widest channels of one layer, fit into memory.

    This is a lower bound: a batch that passes may still be too large.

    Args:
        model: on its device.
        one: the inputs of a single sample.
        batch_size: samples.

    Raises:
        TrimformerError: the batch needs more memory than is free.
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
    """Positions per sample, or 0 if they are only known by running the model."""
    if "input_ids" in one:
        return one["input_ids"].numel()
    config = model.config
    patch = getattr(getattr(config, "vision_config", config), "patch_size", None)
    if "spatial_shapes" in one:  # SigLIP 2: patches
        return one["pixel_values"].shape[1]
    if "pixel_values" in one and isinstance(patch, int):
        height, width = one["pixel_values"].shape[-2:]
        return (height // patch) * (width // patch)
    return config.max_source_positions if "input_features" in one else 0


def free_memory(device: torch.device) -> float:
    """Returns the free bytes on a device, or infinity if unknown."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + cached)
    return min(_available(), *map(_limit, _LIMITS)) if device.type == "cpu" else float("inf")


def _available() -> float:
    match = re.search(r"^MemAvailable:\s+(\d+) kB", _read(_MEMINFO), re.MULTILINE)
    return 1024 * float(match[1]) if match else float("inf")


def _limit(path: Path) -> float:
    limit = _read(path).strip()
    return float(limit) if limit.isdigit() else float("inf")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
