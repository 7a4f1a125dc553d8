"""Directories and files that appear only once complete, where nothing was before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trimformer.utils.output_lock import PART, OutputLock, locked_output


def check_output(path: str | Path) -> Path:
    """Looks whether a directory can be written, as each of several processes may; `lock_output` makes sure.

    Raises:
        TrimformerError: it is not empty, or cannot be written.
    """
    OutputLock(path, "directory").check_empty()
    return Path(path)


@contextmanager
def lock_output(path: str | Path, wanted: bool = True) -> Iterator[None]:
    """Keeps a place for `write_directory`, so that what stands in its way is told before the work.

    Of two runs with one output, one gets it. What a killed run left there is removed.

    Args:
        path: of a directory that is empty or does not exist.
        wanted: whether this process is the one that writes.

    Raises:
        TrimformerError: it is not empty, cannot be written, or another run is writing it.
    """
    if not wanted:
        yield
        return
    with locked_output(path, "directory"):
        yield


@contextmanager
def write_directory(path: str | Path) -> Iterator[Path]:
    """A directory that becomes `path` if the body succeeds, else vanishes.

    Raises:
        TrimformerError: `path` is not empty, cannot be written, or another run is writing it.
    """
    with locked_output(path, "directory") as claim, claim.written() as directory:
        yield directory


def replace_file(path: Path, text: str) -> None:
    """Writes a file that is whole at every moment, old or new; what a killed run left of it is written over."""
    part = path.with_name(f".{path.name}{PART}")
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(path)


@contextmanager
def lock_file(path: str | Path | None) -> Iterator[Callable[[str], None]]:
    """Keeps a place for a text file, and gives what writes it; None: what does nothing.

    Raises:
        TrimformerError: it exists, cannot be written, or another run is writing it.
    """
    if path is None:
        yield lambda text: None
        return
    with locked_output(path, "file") as claim:

        def write(text: str) -> None:
            with claim.written() as file:
                file.write_text(text, encoding="utf-8", errors="backslashreplace")

        yield write


def check_file(path: str | Path | None) -> None:
    """Looks whether a file can be written; `lock_file` makes sure.

    Raises:
        TrimformerError: it exists, or cannot be written.
    """
    if path is not None:
        OutputLock(path, "file")
