"""Describes the machine: device, threads and library versions."""

import logging
import platform
import re
from pathlib import Path

import torch
import transformers

from trimformer.errors import TrimformerError
from trimformer.version import __version__

logger = logging.getLogger(__name__)


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


def has_fast_products(dtype: torch.dtype, device: torch.device) -> bool:
    """Returns whether a device multiplies matrices of a dtype about as fast as those of float32; True if unknown.

    Where a CPU has no instructions for half-precision products, PyTorch takes many times as long for them.
    """
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return True
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype != torch.float16 or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())


def warn_slow_dtype(dtype: torch.dtype, device: torch.device, bf16: bool = False) -> None:
    """Warns where passes are many times slower than they need to be on a device.

    Args:
        dtype: of the model's weights.
        device: that runs them.
        bf16: whether passes of a model in float32 run in bfloat16.
    """
    if not has_fast_products(dtype, device):
        name = str(dtype).removeprefix("torch.")
        logger.warning(
            "the model is in %s, for which this CPU has no instructions, so passes take many times as long as in "
            "float32; load it in float32 (--dtype float32)",
            name,
        )
    elif bf16 and not has_fast_products(torch.bfloat16, device):
        logger.warning("this CPU has no instructions for bfloat16, so passes are slower with bf16 than without it")


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
