"""Execution options: memory, precision, seed, device, and how progress is shown."""

import argparse
import math
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimformer.errors import TrimformerError
from trimformer.options.checks import BYTES, SEED, check_flag, check_path, shorten
from trimformer.options.option import check_options, option

if TYPE_CHECKING:
    import torch


def read_size(text: str) -> float:
    """Bytes of "8GB", "500MB" or a plain number.

    Raises:
        argparse.ArgumentTypeError: the text has another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT]?)B?", text.upper())
    if not match:
        raise argparse.ArgumentTypeError(f"'{text[:50]}' is not a size such as 8GB or 500MB")
    return float(match[1]) * 1000 ** " KMGT".index(match[2] or " ")


def _no_progress(items: Iterable[Any], description: str) -> Iterable[Any]:
    return items


def _no_timer(stage: str) -> AbstractContextManager[None]:
    return nullcontext()


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise TrimformerError(f"{name} is {shorten(value)}; give a name such as 'cpu' or 'cuda'")


@dataclass(frozen=True)
class ExecutionOptions:
    """Execution options shared by every stage. Only `bf16` and `seed` change the result, and `device` by rounding.

    Attributes:
        max_memory: bytes that the samples' hidden states and channels may take; beyond, channels are computed twice
            and hidden states go to temporary files. The same number bounds the second moments of calibration; beyond,
            they are collected for a few sublayers at a time, with a pass over the samples for each group. Outputs of
            the dense model that calibration keeps for the refit take only what all these leave.
        bf16: whether passes run in bfloat16; statistics stay in float32 and float64.
        seed: seed of label-free losses and of the random criterion.
        calibration_dir: folder where the result of calibration is kept for later runs; None: nowhere.
        progress: (items, description) -> the items, with a progress bar on a terminal.
        clock: stage name -> context manager that times the stage.
        device: "auto", "cpu", "cuda", ...
    """

    max_memory: float = option(
        math.inf,
        "memory in each process for stored statistics and activations, such as 8GB, weights not counted. Beyond it, "
        "temporary files and further passes over the samples replace memory, with the same result (default: no limit; "
        "on a GPU half of the free memory)",
        python_help="bytes in each process for stored statistics and activations, weights not counted. Beyond it, "
        "temporary files and further passes over the samples replace memory, with the same result. On a GPU the "
        "default is half of its free memory.",
        number=BYTES,
        read=read_size,
        metavar="SIZE",
    )
    bf16: bool = option(
        False,
        "calibrate and refit with passes in bfloat16",
        python_help="calibrate and refit with passes in bfloat16, where the hardware is fast at it; statistics stay in "
        "float32 and float64.",
        check=check_flag,
    )
    seed: int = option(
        0,
        "draws the calibration examples, the fifth that is set aside where there is no validation split, and whatever "
        "else is random; the same seed gives the same result (default: %(default)s)",
        python_help="seed of every random choice.",
        number=SEED,
        metavar="N",
    )
    calibration_dir: Path | str | None = option(
        None,
        "",
        python_help="folder where the result of calibration is kept; another run on the same model and samples, to "
        "whatever budget, takes it from there.",
        check=check_path,
        on_command_line=False,
    )
    progress: Callable[[Iterable[Any], str], Iterable[Any]] = _no_progress
    clock: Callable[[str], AbstractContextManager[None]] = _no_timer
    device: str = option("auto", "auto, cpu, cuda, ...", python_help='"auto", "cpu", "cuda", ...', check=_check_text)

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            TrimformerError: a value cannot be used.
        """
        check_options(self)

    def precision(self, device: "torch.device") -> AbstractContextManager[None]:
        """The autocast context in which passes run."""
        import torch

        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16)


Run = ExecutionOptions  # an earlier name, which stays
