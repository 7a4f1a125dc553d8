"""Directories that appear only once complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimformer.errors import TrimformerError


def check_output(path: str | Path) -> Path:
    """Makes sure that `path` can be written: it does not exist or is empty, and its parent is writable.

    Raises:
        TrimformerError: it is not empty, or cannot be written.
    """
    path = Path(path)
    parent = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not parent.is_dir():
        raise TrimformerError(f"output directory '{path}' cannot be made: '{parent}' is a file")
    if path.exists() and any(path.iterdir()):
        raise TrimformerError(f"output directory '{path}' is not empty; choose another or remove it")
    if not os.access(parent, os.W_OK):
        raise TrimformerError(f"output directory '{path}' cannot be written: no write access to '{parent}'")
    return path


@contextmanager
def write_directory(path: str | Path) -> Iterator[Path]:
    """A temporary directory that becomes `path` if the body succeeds, else vanishes.

    It lies beside `path`; or in it where that exists, which may be a mounted folder that nothing can replace.
    """
    path = check_output(path)
    exists = path.exists()
    home = path if exists else path.parent
    home.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=home, prefix=f".{path.name}-"))
    try:
        yield temporary
        if exists:
            for item in temporary.iterdir():
                item.rename(path / item.name)
            temporary.rmdir()
        else:
            temporary.chmod(0o777 & ~_umask())
            temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def replace_file(path: Path, text: str) -> None:
    """Writes a file that is whole at every moment, old or new."""
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=f".{path.name}-", delete=False, encoding="utf-8"
    ) as file:
        try:
            file.write(text)
            file.flush()
            os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
