"""Temporary folders; the next run removes those that a killed run left."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

_PREFIX = "trimformer-scratch-"


@contextmanager
def temporary_directory() -> Iterator[Path]:
    """Yields a private temporary folder (in `TMPDIR`) and removes it on exit, with those that killed runs left."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
        lock = _lock(Path(folder))
        try:
            with suppress(OSError):  # without locks, `_remove_abandoned` removes nothing either
                lock.acquire()
            yield Path(folder)
        finally:
            lock.release()


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / "lock", timeout=0, mode=0o600, fallback_to_soft=False)


def _remove_abandoned(home: Path) -> None:
    """Removes this user's temporary folders whose lock file exists and is not locked."""
    for folder in home.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()):
                continue
            if (folder / "lock").is_file():
                with _lock(folder):
                    shutil.rmtree(folder, ignore_errors=True)
