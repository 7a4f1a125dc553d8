"""Describes the machine: device, threads and library versions."""

import platform
import re
from pathlib import Path

import torch
import transformers

from trimformer.errors import TrimformerError
from trimformer.version import __version__


def resolve_device(device: str) -> torch.device:
    """Returns the device of a name; "auto" is the GPU if there is one, else the CPU.

    Raises:
        TrimformerError: this machine cannot use the device.
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
    """Returns the model name of a device; for a CPU also the number of threads that PyTorch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpu_info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", cpu_info.read_text()) if cpu_info.is_file() else []
    return f"{names[0] if names else platform.processor()} CPU, {torch.get_num_threads()} threads"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the libraries that can change a result."""
    import numpy
    import scipy
    import tokenizers

    libraries = (torch, transformers, tokenizers, numpy, scipy)
    return {
        "trimformer": __version__,
        **{library.__name__: library.__version__ for library in libraries},
        "python": platform.python_version(),
    }
