"""`--resume`: keeps the calibration in a hidden folder next to the output until the output is complete."""

import argparse
import os
import shutil
from pathlib import Path

from trimformer.utils.output_lock import hidden_name

SUFFIX = ".trimformer-calibration"


def calibration_dir(arguments: argparse.Namespace) -> Path | None:
    """Returns the calibration folder if `--resume` is given or an interrupted run left one, else None."""
    folder = _folder_of(arguments.output)
    return folder if arguments.resume or _is_own(folder) else None


def forget_calibration(output: str | Path) -> None:
    """Removes the calibration folder of an output if there is one."""
    shutil.rmtree(_folder_of(output), ignore_errors=True)


def _is_own(folder: Path) -> bool:
    """Returns whether the folder exists and belongs to this user; another user's is not read without `--resume`."""
    return folder.is_dir() and (not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid())


def _folder_of(output: str | Path) -> Path:
    """Returns the path of the calibration folder of an output."""
    resolved = Path(os.path.realpath(output))
    return resolved.parent / hidden_name(resolved.name, SUFFIX)
