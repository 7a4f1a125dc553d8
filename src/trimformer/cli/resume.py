"""`--resume`: what calibration found stays beside the output, hidden, until that is complete."""

import argparse
import os
import shutil
from pathlib import Path

from trimformer.utils.output_lock import hidden_name

SUFFIX = ".trimformer-calibration"


def calibration_dir(arguments: argparse.Namespace) -> Path | None:
    """The folder, where `--resume` asks for one or a run that was cut short left one."""
    folder = _place(arguments.output)
    return folder if arguments.resume or _is_ours(folder) else None


def forget_calibration(output: str | Path) -> None:
    """Removes the folder, where there is one."""
    shutil.rmtree(_place(output), ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether it is there, and this user's: in a folder that many may write to, others' is not read unasked."""
    return folder.is_dir() and (not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid())


def _place(output: str | Path) -> Path:
    place = Path(os.path.realpath(output))
    return place.parent / hidden_name(place.name, SUFFIX)
