"""What is read: whether it is there and can be opened, told before anything is."""

import os
import stat
from pathlib import Path

from trimformer.errors import TrimformerError


def check_model_place(name: str | Path) -> None:
    """Raises:
    TrimformerError: it is no directory, and no name of the hub, which has one slash at most.
    """
    told = os.fspath(name)
    if not told:
        raise TrimformerError("the model directory has no name; give one")
    found = _kind(told, "model directory")
    if found == "directory":
        if not is_unicode(told):
            raise TrimformerError(
                f"model directory '{name}' has a name that is not Unicode, so no tokenizer can be read there; rename it"
            )
        if not os.access(told, os.R_OK | os.X_OK):
            raise TrimformerError(f"model directory '{name}' cannot be read: no access to it")
        return
    if found is not None:
        raise TrimformerError(f"'{name}' is a {found}; give the directory that save_pretrained wrote")
    # Without this, a mistyped folder waits for the network.
    if told.startswith((".", "/", "~")) or told.count("/") > 1 or not told.isprintable() or "\\" in told:
        raise TrimformerError(f"model directory '{name}' does not exist")


def is_unicode(path: str) -> bool:
    """Whether a path can be said in Unicode: tokenizers read and write no other."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_readable(path: str | Path, what: str) -> None:
    """Checks a file that is to be read; what is not there is told by who reads it.

    Raises:
        TrimformerError: it is no plain file, or cannot be opened.
    """
    found = _kind(os.fspath(path), what)
    if found not in (None, "file", "directory"):
        raise TrimformerError(f"{what} '{path}' is a {found}; give a file")
    if found and not os.access(path, os.R_OK):
        raise TrimformerError(f"{what} '{path}' cannot be read: no access to it")


def _kind(path: str, what: str) -> str | None:
    """What is there in words; None: nothing.

    Raises:
        TrimformerError: it cannot be looked at.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            raise TrimformerError(f"{what} '{path}' is a link to '{os.readlink(path)}', which does not exist") from None
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        shown = path if len(path) <= 100 else f"{path[:40]}...{path[-40:]}"
        raise TrimformerError(f"{what} '{shown}' cannot be looked at: {reason.lower()}") from None
    if stat.S_ISDIR(mode):
        return "directory"
    return "file" if stat.S_ISREG(mode) else "device or pipe"
