"""Work folders: where an output grows, hidden beside its place, until it is complete.

The work folder of `out` is `.out.trimformer-part` beside it; where `out` is a directory already, in it, as that may
be a mounted folder that nothing can replace. It holds a file that its process keeps locked. The system lets go of the
lock however the process ends, so a work folder without one is what a killed run left: the next run clears it.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from trimformer.errors import TrimformerError
from trimformer.utils.file_lock import lock
from trimformer.utils.input_paths import is_unicode

logger = logging.getLogger("trimformer")

Kind = Literal["directory", "file"]

PART = ".trimformer-part"
_LONGEST = 255  # bytes of a name
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries say the same: safetensors, torch.save, and what they were told.
_SAYS_FULL = re.compile(
    r"os error (28|122|27)\b|no space left|quota exceeded|file too large|PytorchStreamWriter failed", re.IGNORECASE
)
# Of file systems that know no locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


complete: list[str | Path] = []  # outputs of this run so far, as they were asked for


def told() -> str:
    """What a run that is cut short has written."""
    if not complete:
        return "nothing was written"
    return f"{', '.join(map(str, complete))} {'is' if len(complete) == 1 else 'are'} complete"


class OutputLock:
    """A place for an output, and the work folder of this run.

    Attributes:
        path: as it was asked for.
        place: the same without links, absolute.
        exists: the place is an empty directory.
        work: the work folder.
    """

    def __init__(self, path: str | Path, kind: Kind) -> None:
        """Raises:
        TrimformerError: nothing can be made at that place.
        """
        self.path, self.kind = path, kind
        self.exists = False
        if not os.fspath(path):
            raise self.refused("has no name; give one")
        try:
            self.exists = self._look()
        except TrimformerError:
            raise
        except (OSError, ValueError) as error:
            raise self.refused(f"cannot be made: {_reason(error)}") from None
        self.place = Path(os.path.realpath(path))
        if kind == "directory" and not is_unicode(str(self.place)):
            raise self.refused("has no name in Unicode, so no tokenizer can be written there; choose another")
        self.work = (self.place if self.exists else self.place.parent) / hidden_name(self.place.name, PART)
        self._descriptor: int | None = None
        self._parents: list[Path] = []

    def refused(self, why: str) -> TrimformerError:
        """The error that says why nothing can be written there."""
        return TrimformerError(f"output {self.kind} '{self.path}' {why}")

    def _look(self) -> bool:
        """Whether there is a directory; what else stands in the way is an error."""
        path = Path(self.path)
        try:
            path.stat()
        except FileNotFoundError:
            if path.is_symlink():
                raise self.refused(f"is a link to '{os.readlink(path)}', which does not exist") from None
            return self._look_above(path)
        except NotADirectoryError:
            return self._look_above(path)
        if self.kind == "file":
            told = "is a folder; name a file" if path.is_dir() else "exists already; choose another or remove it"
            raise self.refused(told)
        if not path.is_dir():
            raise self.refused(f"cannot be made: '{path}' is {'a file' if path.is_file() else 'no folder'}")
        if not os.access(path, os.W_OK):
            raise self.refused("cannot be written: no write access to it")
        return True

    def _look_above(self, path: Path) -> bool:
        parent = next(p for p in path.absolute().parents if p.exists() or p.is_symlink())
        if not parent.is_dir():
            told = "is a file" if parent.is_file() else "is a link that leads nowhere"
            raise self.refused(f"cannot be made: '{parent}' {told}")
        if self.kind == "file" and parent != path.absolute().parent:
            raise self.refused("is in a folder that does not exist; make it, or name a file elsewhere")
        if not os.access(parent, os.W_OK):
            raise self.refused(f"cannot be written: no write access to '{parent}'")
        return False

    def check_empty(self) -> None:
        """Raises:
        TrimformerError: something is there by now.
        """
        if not self.exists and os.path.lexists(self.place):
            told = "is not empty" if self.kind == "directory" else "exists already"
            if self.kind == "directory" and self.place.is_dir() and not os.listdir(self.place):
                return  # made in between, and nothing in it: it is replaced
            raise self.refused(f"{told}; choose another or remove it")
        if self.exists:
            found = sorted(set(os.listdir(self.place)) - {self.work.name} - set(self._moved()))
            if found:
                hidden = f" (it holds '{found[0]}')" if all(name.startswith(".") for name in found) else ""
                raise self.refused(f"is not empty{hidden}; choose another or remove it")

    def take(self) -> None:
        """Makes the work folder, or clears the one that a killed run left.

        Raises:
            TrimformerError: another run holds it, the place is not empty, or nothing can be written.
        """
        try:
            self._sweep_beside()
            if not self.work.exists():
                self.check_empty()
            self._parents = [p for p in self.work.parents if not p.exists()]
            self.work.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._locked(self.work)
            self._clear()
        except OSError as error:
            self.release()
            raise self.refused(f"cannot be written: {_reason(error)}") from None
        except BaseException:
            self.release()
            raise
        try:
            self.check_empty()
        except BaseException:
            self.release()
            raise

    def _sweep_beside(self) -> None:
        """Removes the work folder of a run that was killed after its output was complete."""
        beside = self.place.parent / self.work.name
        if self.exists and beside.is_dir():
            descriptor = self._locked(beside)
            for name in ("moved", "made", "lock"):
                _remove(beside / name)
            beside.rmdir()
            os.close(descriptor)

    def _locked(self, work: Path) -> int:
        """The descriptor of the folder's lock, which is this run's from now on; makes the folder."""
        file = work / "lock"
        while True:
            if work.is_symlink():
                raise self.refused(f"cannot be written: '{work}' is a link; remove it")
            with suppress(FileExistsError):
                work.mkdir(mode=0o700)
            try:
                descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
            except FileNotFoundError:
                continue  # the run that held it has just ended
            try:
                lock(descriptor)
                if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                    return descriptor
                os.close(descriptor)
            except FileNotFoundError:
                os.close(descriptor)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    os.close(descriptor)
                    raise self.refused("is being written by another run; wait for it, or choose another") from None
                if (work / "made").exists():
                    os.close(descriptor)
                    raise self.refused(f"may be another run's; if none is running, remove '{work}'") from None
                logger.warning("no locks on the file system of '%s': give no two runs one output", self.path)
                return descriptor

    def _clear(self) -> None:
        """Removes what a killed run left, in the work folder and, of what it was moving, in the place."""
        for name in self._moved():
            _remove(self.place / name)
        for name in ("moved", "made"):
            _remove(self.work / name)

    def _moved(self) -> list[str]:
        """What a run had begun to move to the place, and was killed."""
        try:
            names = json.loads((self.work / "moved").read_text(encoding="utf-8")) if self.exists else []
        except (OSError, ValueError):
            return []
        return [name for name in names if isinstance(name, str) and Path(name).name == name != self.work.name]

    @contextmanager
    def written(self) -> Iterator[Path]:
        """A path in the work folder that becomes the output if the body succeeds.

        Raises:
            TrimformerError: the disk is full, or something is at the place by now.
        """
        made = self.work / "made"
        try:
            if self.kind == "directory":
                made.mkdir()
            yield made
            self.check_empty()
            self._publish(made)
            complete.append(self.path)
        except Exception as error:
            if is_full(error) or str(getattr(error, "filename", "")).startswith(str(self.work)):
                raise self.refused(f"cannot be written: {_reason(error)}; nothing was written") from error
            raise
        finally:
            self._clear()

    def _publish(self, made: Path) -> None:
        if self.kind == "file":
            try:
                os.link(made, self.place)
            except FileExistsError:
                raise self.refused("exists already; choose another or remove it") from None
            except OSError:  # no links on this file system
                made.rename(self.place)
        elif not self.exists:
            made.rename(self.place)
        else:
            names = sorted(os.listdir(made), key=lambda name: name == "config.json")  # without it nothing loads
            (self.work / "moved").write_text(json.dumps(names), encoding="utf-8")
            for name in names:
                (made / name).rename(self.place / name)
            (self.work / "moved").unlink()

    def release(self) -> None:
        """Removes the work folder, and the parents made for it that are empty still."""
        if self._descriptor is not None:
            for name in ("made", "lock"):
                _remove(self.work / name)
            os.close(self._descriptor)
            self._descriptor = None
        with suppress(OSError):  # another run's is not empty
            self.work.rmdir()
        for parent in self._parents:
            with suppress(OSError):
                parent.rmdir()
        self._parents = []


_held: ContextVar[tuple[OutputLock, ...]] = ContextVar("held", default=())


@contextmanager
def locked_output(path: str | Path, kind: Kind) -> Iterator[OutputLock]:
    """The claim that this run holds on a place, or a new one, let go of at the end.

    Raises:
        TrimformerError: nothing can be written there, or another run is writing there.
    """
    claim = OutputLock(path, kind)
    for held in _held.get():
        if held.place == claim.place:
            held.check_empty()
            yield held
            return
    claim.take()
    token = _held.set((*_held.get(), claim))
    try:
        yield claim
    finally:
        _held.reset(token)
        claim.release()


def is_full(error: BaseException) -> bool:
    """Whether it says that a disk, a quota or a limit is full."""
    return getattr(error, "errno", None) in _FULL or (
        not isinstance(error, TrimformerError) and bool(_SAYS_FULL.search(str(error)))
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return "no space left on the device" if is_full(error) else " ".join(str(error).split())[:200]


def hidden_name(name: str, suffix: str) -> str:
    """Of what lies beside an output for a while, no longer than names may be."""
    whole = f".{name}{suffix}"
    if len(os.fsencode(whole)) <= _LONGEST:
        return whole
    return f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}{suffix}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
