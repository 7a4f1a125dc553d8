"""Writes directories and files that appear only once they are complete and never replace existing ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trimformer.utils.output_lock import PART, OutputLock, locked_output


def check_output(path: str | Path) -> Path:
    """Checks that a directory can be written, without locking it, as every process of a run may do.

    Raises:
        TrimformerError: the directory is not empty, or cannot be written.
    """
    OutputLock(path, "directory").check_empty()
    return Path(path)


def check_collection(path: str | Path) -> None:
    """Checks that a directory can be filled step by step, without locking it.

    Raises:
        TrimformerError: the directory cannot be written.
    """
    OutputLock(path, "collection")


@contextmanager
def lock_output(path: str | Path, wanted: bool = True) -> Iterator[None]:
    """Locks an output directory for `write_directory`, so that problems with it show before the work starts.

    A second run to the same output fails immediately. What a killed run left there is removed.

    Args:
        path: a directory that is empty or does not exist.
        wanted: whether this process writes the output; if False, nothing is locked.

    Raises:
        TrimformerError: the directory is not empty, cannot be written, or is being written by another run.
    """
    if not wanted:
        yield
        return
    with locked_output(path, "directory"):
        yield


@contextmanager
def lock_collection(path: str | Path) -> Iterator[None]:
    """Locks a directory whose members are written one by one, and removes what killed runs left in it.

    The directory is made if it is missing, and removed at the end if it is still empty.

    Args:
        path: a directory with any content, or one that does not exist.

    Raises:
        TrimformerError: the directory cannot be written, or another run is writing it or a member of it.
    """
    with locked_output(path, "collection") as lock:
        lock.remove_leftovers()
        yield


@contextmanager
def write_directory(path: str | Path) -> Iterator[Path]:
    """Yields a directory that becomes `path` if the body succeeds and is removed otherwise.

    Raises:
        TrimformerError: `path` is not empty, cannot be written, or is being written by another run.
    """
    with locked_output(path, "directory") as lock, lock.write() as directory:
        yield directory


def replace_file(path: Path, text: str) -> None:
    """Replaces the text of a file in one step, so that a reader sees the old or the new text, never a part."""
    part = path.with_name(f".{path.name}{PART}")
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(path)


@contextmanager
def lock_file(path: str | Path | None) -> Iterator[Callable[[str], None]]:
    """Locks a path for a text file and yields the function that writes it; without a path that does nothing.

    Raises:
        TrimformerError: the file exists, cannot be written, or is being written by another run.
    """
    if path is None:
        yield lambda text: None
        return
    with locked_output(path, "file") as lock:

        def write(text: str) -> None:
            with lock.write() as file:
                file.write_text(text, encoding="utf-8", errors="backslashreplace")

        yield write


def check_file(path: str | Path | None) -> None:
    """Checks that a file can be written, without locking it.

    Raises:
        TrimformerError: the file exists, or cannot be written.
    """
    if path is not None:
        OutputLock(path, "file")
