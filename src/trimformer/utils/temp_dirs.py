"""Temporary folders that a killed run leaves no longer than until the next run."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trimformer.utils.file_lock import lock

_PREFIX = "trimformer-scratch-"


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """A private folder, where temporary files belong (`TMPDIR`), that is gone on exit; those of killed runs go too."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
        descriptor = os.open(Path(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            with suppress(OSError):  # a file system without locks: nothing there is ever swept, see below
                lock(descriptor)
            yield Path(folder)
        finally:
            os.close(descriptor)


def _sweep(home: Path) -> None:
    """Removes what killed runs of this user left: folders whose lock is there, and nobody's."""
    for folder in home.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()):
                continue
            descriptor = os.open(folder / "lock", os.O_RDWR)
            try:
                lock(descriptor)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
