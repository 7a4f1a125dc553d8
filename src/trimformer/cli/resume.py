"""`--resume`: keeps the calibration in a hidden folder next to the output until the output is complete."""

import argparse
import os
import re
from contextlib import suppress
from pathlib import Path

from trimformer.errors import TrimformerError
from trimformer.utils.output_lock import hidden_name

SUFFIX = ".trimformer-calibration"
_FILE = re.compile(r"calibration-[0-9a-f]+-\d+\.\w+")  # see importance/calibration_cache.py


def calibration_dir(arguments: argparse.Namespace) -> Path | None:
    """Returns the calibration folder if `--resume` is given or an interrupted run left one, else None.

    Raises:
        TrimformerError: `--resume` is given, and the folder is a link or holds what trimformer did not write.
    """
    if "\0" in arguments.output:
        return None  # no such path can exist; the check of the output refuses it
    folder = _folder_of(arguments.output)
    foreign = _foreign_entry(folder)
    if arguments.resume and foreign is not None:
        raise TrimformerError(
            f"--resume keeps its files in '{folder}', but {foreign}, which trimformer did not write; remove it"
        )
    return folder if arguments.resume or (_is_own(folder) and foreign is None) else None


def forget_calibration(output: str | Path) -> None:
    """Removes the calibration files of an output, and their folder if nothing else is in it."""
    folder = _folder_of(output)
    if not _is_own(folder) or _foreign_entry(folder) is not None:
        return
    with suppress(OSError):
        for entry in folder.iterdir():
            entry.unlink()
        folder.rmdir()


def _is_own(folder: Path) -> bool:
    """Returns whether the folder exists and belongs to this user; another user's is not read without `--resume`."""
    return folder.is_dir() and (not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid())


def _foreign_entry(folder: Path) -> str | None:
    """Returns why the folder is not trimformer's alone, in words; None if it is.

    A link is never followed: it may lead to another's files.
    """
    if os.path.islink(folder):
        return "that is a link"
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name) if folder.is_dir() else []
    except OSError:
        return "that cannot be read"
    for entry in entries:
        if not _FILE.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
            return f"it holds '{entry.name}'"
    return None


def _folder_of(output: str | Path) -> Path:
    """Returns the path of the calibration folder of an output."""
    resolved = Path(os.path.realpath(output))
    return resolved.parent / hidden_name(resolved.name, SUFFIX)
