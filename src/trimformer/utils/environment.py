"""Where a figure was taken: device, threads, versions."""

import platform
import re
from pathlib import Path

import torch
import transformers

from trimformer.errors import TrimformerError
from trimformer.version import __version__


def resolve_device(device: str) -> torch.device:
    """ "auto" is the GPU where there is one.

    Raises:
        TrimformerError: the device does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        if resolved.type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(1, device=resolved).cpu()
    except (RuntimeError, AssertionError, TypeError, ValueError, NotImplementedError, ImportError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise TrimformerError(f"device '{device}' cannot be used here: {reason}") from error
    if resolved.type == "cuda" and resolved.index is not None:
        torch.cuda.set_device(resolved)  # events and synchronisation are the current device's
    return resolved


def describe_device(device: torch.device) -> str:
    """The device in words, with the threads PyTorch uses on a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", cpu_info.read_text()) if cpu_info.is_file() else []
    return f"{names[0] if names else platform.processor()} CPU, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Of what can move a figure."""
    import numpy
    import scipy
    import tokenizers

    libraries = (torch, transformers, tokenizers, numpy, scipy)  # those that only pruning needs are there by now
    return {
        "trimformer": __version__,
        **{library.__name__: library.__version__ for library in libraries},
        "python": platform.python_version(),
    }
