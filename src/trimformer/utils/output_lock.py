"""Locks an output path and writes the output in a hidden work folder until it is complete.

The work folder of `out` is `.out.trimformer-part` in the same directory. If `out` is an existing directory, the work
folder lies inside it, because a mounted directory cannot be replaced. A run holds a lock on a file in its work folder.
The system drops that lock when the process ends, however it ends, so the next run removes an unlocked work folder.

A collection is a directory that a run fills step by step, such as that of a sweep. Its work folder always lies inside
it, so that its lock and that of a run that writes the whole directory exclude each other.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trimformer.errors import TrimformerError, flat
from trimformer.options.checks import shorten
from trimformer.utils.input_paths import is_unicode

if TYPE_CHECKING:
    from filelock import BaseFileLock

Kind = Literal["directory", "file", "collection"]

PART = ".trimformer-part"
_MAX_NAME_BYTES = 255
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Messages of safetensors, torch.save and C++ streams, as OpenVINO writes by, for the same conditions.
_FULL_MESSAGE = re.compile(
    r"os error (28|122|27)\b|no space left|quota exceeded|file too large|PytorchStreamWriter failed|iostream error|"
    r"inline_container.*unexpected pos",
    re.IGNORECASE,
)
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # the file system has no locks


completed: list[str | Path] = []  # outputs that this run has written so far, as named by the user


def describe_completed() -> str:
    """Returns which outputs an interrupted run has completed, for its last message."""
    if not completed:
        return "nothing was written"
    return f"{', '.join(map(str, completed))} {'is' if len(completed) == 1 else 'are'} complete"


class OutputLock:
    """An output path with the work folder that this run locks while it writes there.

    Args:
        path: output path; it must not exist, or be an empty directory if `kind` is "directory". A "collection" may
            contain anything.
        kind: what is written.

    Attributes:
        path: `path` as named by the user.
        place: absolute path without symbolic links.
        exists: the output is an existing directory.
        work: the work folder.

    Raises:
        TrimformerError: nothing can be written at `path`.
    """

    def __init__(self, path: str | Path, kind: Kind) -> None:
        self.path, self.kind = path, kind
        self.exists = False
        self._lock: BaseFileLock | None = None
        self._new_parents: list[Path] = []
        if not isinstance(path, str | os.PathLike):
            raise TrimformerError(f"output {kind} is {shorten(path)}; give a path")
        if not os.fspath(path):
            raise self.refused("has no name; give one")
        try:
            self.place = Path(os.path.realpath(path))
            hidden = hidden_name(self.place.name, PART)
            self._beside, self._inside = self.place.parent / hidden, self.place / hidden
            self.exists = self._check_path()
        except TrimformerError:
            raise
        except (OSError, ValueError) as error:
            raise self.refused(f"cannot be made: {_reason(error)}") from None
        if kind != "file" and not is_unicode(str(self.place)):
            raise self.refused("has a name that is not Unicode, so no tokenizer can be written there; choose another")
        self.work = self._inside if self.exists else self._beside

    def refused(self, reason: str) -> TrimformerError:
        """Returns the error that names this output and why it cannot be written."""
        kind = "file" if self.kind == "file" else "directory"
        return TrimformerError(f"output {kind} '{self.path}' {reason}")

    def _taken(self, state: str) -> TrimformerError:
        """Returns the error that the output exists; removes the work folder of a run killed after it was complete."""
        if self._lock is None:
            with suppress(TrimformerError, OSError):  # the run that wrote it still holds its work folder
                self._remove_leftover_beside()
                if self._inside.is_dir() and not (self._inside / "moved").exists():
                    self._remove_work(self._inside)
        return self.refused(f"{state}; choose another or remove it")

    def _check_path(self) -> bool:
        """Returns whether the output is an existing directory; raises if something else is in the way."""
        path = Path(self.path)
        try:
            path.stat()
        except FileNotFoundError:
            if path.is_symlink():
                raise self.refused(f"is a link to '{os.readlink(path)}', which does not exist") from None
            return self._check_parent(path)
        except NotADirectoryError:
            return self._check_parent(path)
        if self.kind == "file":
            raise self.refused("is a folder; name a file") if path.is_dir() else self._taken("exists already")
        if not path.is_dir():
            raise self.refused(f"cannot be made: '{path}' is {'a file' if path.is_file() else 'not a folder'}")
        if not os.access(path, os.W_OK):
            raise self.refused("cannot be written: no write access to it")
        if not os.access(path, os.R_OK | os.X_OK):
            raise self.refused("cannot be read, so whether it is empty is unknown; give yourself read access to it")
        return True

    def _check_parent(self, path: Path) -> bool:
        """Returns False; raises if the nearest existing parent of `path` cannot hold the output."""
        parent = next(p for p in path.absolute().parents if p.exists() or p.is_symlink())
        if not parent.is_dir():
            reason = "is a file" if parent.is_file() else "is a link that leads nowhere"
            raise self.refused(f"cannot be made: '{parent}' {reason}")
        if self.kind == "file" and parent != path.absolute().parent:
            raise self.refused("is in a folder that does not exist; make it, or name a file elsewhere")
        if not os.access(parent, os.W_OK):
            raise self.refused(f"cannot be written: no write access to '{parent}'")
        return False

    def check_empty(self) -> None:
        """Checks that nothing has been written at the output path in the meantime.

        Raises:
            TrimformerError: the file exists, or the directory is not empty and not a collection.
        """
        if self.kind == "collection":
            return
        if not self.exists and os.path.lexists(self.place):
            if self.kind == "directory" and self.place.is_dir() and not os.listdir(self.place):
                return  # an empty directory made in the meantime is replaced
            state = "is not empty" if self.kind == "directory" else "exists already"
            raise self._taken(state)
        if self.exists:
            names = sorted(set(os.listdir(self.place)) - {self.work.name} - set(self._moved_names()))
            if names:
                hidden = f" (it holds '{names[0]}')" if all(name.startswith(".") for name in names) else ""
                raise self._taken(f"is not empty{hidden}")

    def acquire(self) -> None:
        """Makes and locks the work folder; clears one that a killed run left.

        Raises:
            TrimformerError: another run holds the lock, the output is not empty, or nothing can be written.
        """
        try:
            self._remove_leftover_beside()
            if not self.work.exists():
                self.check_empty()
            self._new_parents += [p for p in self.work.parents if not p.exists()]
            self.work.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._acquire_lock(self.work)
            self._clear()
            self.check_empty()
        except OSError as error:
            self.release()
            raise self.refused(f"cannot be written: {_reason(error)}") from None
        except BaseException:
            self.release()
            raise

    def _remove_leftover_beside(self) -> None:
        """Removes the work folder of a run that was killed after its output was complete."""
        if self._beside.is_dir() and os.path.lexists(self.place):
            self._remove_work(self._beside)

    def _remove_work(self, work: Path) -> None:
        """Removes a work folder that no run has locked; what trimformer did not write stays."""
        lock = self._acquire_lock(work)
        for name in ("moved", "made", "lock"):
            _remove(work / name)
        lock.release()
        with suppress(OSError):
            work.rmdir()

    def remove_leftovers(self) -> None:
        """Removes the work folders and files that killed runs left in a locked collection.

        Raises:
            TrimformerError: a run is writing a member of the collection.
        """
        for work in self.place.glob(f".*{PART}"):
            if work.is_symlink() or work == self.work:
                continue
            if work.is_dir():
                self._remove_work(work)
            else:
                work.unlink()

    def _acquire_lock(self, work: Path) -> "BaseFileLock":
        """Makes the work folder and locks it without waiting."""
        from filelock import FileLock, SoftFileLock, Timeout  # 50 ms that `--help` does not need

        while True:
            if work.is_symlink():
                raise self.refused(f"cannot be written: '{work}' is a link; remove it")
            work.mkdir(mode=0o700, exist_ok=True)
            lock: BaseFileLock = FileLock(work / "lock", timeout=0, mode=0o600, fallback_to_soft=False)
            try:
                try:
                    lock.acquire()
                except OSError as error:
                    if error.errno not in _NO_FLOCK:
                        raise
                    lock = SoftFileLock(work / "holder", timeout=0, mode=0o600)
                    lock.acquire()
                return lock
            except FileNotFoundError:
                continue  # the run that held the lock has just removed its work folder
            except Timeout:
                if (work / "holder").exists():  # it may name a dead process of another machine
                    raise self.refused(f"may be another run's; if none is running, remove '{work}'") from None
                raise self.refused("is being written by another run; wait for it, or choose another") from None

    def _clear(self) -> None:
        """Removes unfinished output: the work folder's files, and those already moved to the output directory."""
        for name in self._moved_names():
            _remove(self.place / name)
        for name in ("moved", "made"):
            _remove(self.work / name)

    def _moved_names(self) -> list[str]:
        """Returns the names that an unfinished move may have put into the output directory."""
        try:
            names = json.loads((self.work / "moved").read_text(encoding="utf-8")) if self.exists else []
        except (OSError, ValueError):
            return []
        return [name for name in names if isinstance(name, str) and Path(name).name == name != self.work.name]

    @contextmanager
    def write(self) -> Iterator[Path]:
        """Yields a path in the work folder; what the body writes there becomes the output if it succeeds.

        Raises:
            TrimformerError: the disk is full, or something has appeared at the output path.
        """
        made = self.work / "made"
        try:
            if self.kind == "directory":
                made.mkdir()
            yield made
            self.check_empty()
            self._publish(made)
            completed.append(self.path)
        except Exception as error:
            if is_full(error) or str(getattr(error, "filename", "")).startswith(str(self.work)):
                raise self.refused(f"cannot be written: {_reason(error)}; nothing was written") from error
            raise
        finally:
            self._clear()

    def _publish(self, made: Path) -> None:
        """Moves the complete output to its path."""
        if self.kind == "file":
            try:
                os.link(made, self.place)  # unlike a rename, it never replaces a file
            except FileExistsError:
                raise self.refused("exists already; choose another or remove it") from None
            except OSError:  # no hard links on this file system
                made.rename(self.place)
        elif not self.exists:
            made.rename(self.place)
        else:
            names = sorted(os.listdir(made), key=lambda name: name == "config.json")  # last: nothing loads without it
            (self.work / "moved").write_text(json.dumps(names), encoding="utf-8")
            for name in names:
                (made / name).rename(self.place / name)
            (self.work / "moved").unlink()

    def release(self) -> None:
        """Removes the work folder and the parent folders made for it that are still empty."""
        if self._lock is not None:
            for name in ("made", "lock"):
                _remove(self.work / name)
            self._lock.release()
            self._lock = None
        with suppress(OSError):  # another run's is not empty
            self.work.rmdir()
        for parent in self._new_parents:
            with suppress(OSError):
                parent.rmdir()
        self._new_parents = []


_held_locks: ContextVar[tuple[OutputLock, ...]] = ContextVar("held_locks", default=())


@contextmanager
def locked_output(path: str | Path, kind: Kind) -> Iterator[OutputLock]:
    """Locks an output path while the body runs; reuses the lock if this run already holds it.

    Raises:
        TrimformerError: nothing can be written at `path`, or another run is writing there.
    """
    lock = _collection(path) if kind == "collection" else OutputLock(path, kind)
    for held in _held_locks.get():
        if held.place == lock.place:
            held.check_empty()
            yield held
            return
    lock.acquire()
    token = _held_locks.set((*_held_locks.get(), lock))
    try:
        yield lock
    finally:
        _held_locks.reset(token)
        lock.release()


def _collection(path: str | Path) -> OutputLock:
    """Returns the lock of a collection, not acquired; makes the directory, which `release` removes if still empty.

    Raises:
        TrimformerError: nothing can be written at `path`, or another run is about to write the whole directory.
    """
    whole = OutputLock(path, "directory")
    if whole.exists:
        return OutputLock(path, "collection")
    whole.acquire()
    made = [whole.place, *whole._new_parents]
    try:
        whole.place.mkdir(exist_ok=True)
    except OSError as error:
        raise whole.refused(f"cannot be made: {_reason(error)}") from None
    finally:
        whole.release()
    lock = OutputLock(path, "collection")
    lock._new_parents = made
    return lock


def is_full(error: BaseException) -> bool:
    """Returns whether an error means that a disk, a quota or a file size limit is full."""
    return getattr(error, "errno", None) in _FULL or (
        not isinstance(error, TrimformerError) and bool(_FULL_MESSAGE.search(str(error)))
    )


def _reason(error: BaseException) -> str:
    """Returns the short reason of an error, for use within a sentence."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return "no space left on the device" if is_full(error) else flat(error)[:200]


def hidden_name(name: str, suffix: str) -> str:
    """Returns `.{name}{suffix}`; a hash replaces the name if the result would be too long for a file name."""
    hidden = f".{name}{suffix}"
    if len(os.fsencode(hidden)) <= _MAX_NAME_BYTES:
        return hidden
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}{suffix}"


def _remove(path: Path) -> None:
    """Removes a file, a link or a folder if it exists and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
