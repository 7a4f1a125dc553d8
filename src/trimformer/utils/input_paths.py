"""Checks that input paths exist and are readable before any work starts."""

import os
import stat
from pathlib import Path

from trimformer.errors import TrimformerError
from trimformer.options.checks import shorten


def check_model_path(name: str | Path) -> None:
    """Checks a model's directory, or its name on the hub, which has at most one slash.

    Raises:
        TrimformerError: the directory is missing or cannot be read, and the name cannot be one of the hub.
    """
    if not isinstance(name, str | os.PathLike):
        raise TrimformerError(f"model directory is {shorten(name)}; give a path, or a name on the hub")
    path = os.fspath(name)
    if not path:
        raise TrimformerError("the model directory has no name; give one")
    kind = _file_kind(path, "model directory")
    if kind == "directory":
        if not is_unicode(path):
            raise TrimformerError(
                f"model directory '{name}' has a name that is not Unicode, so no tokenizer can be read there; rename it"
            )
        if not os.access(path, os.R_OK | os.X_OK):
            raise TrimformerError(f"model directory '{name}' cannot be read: no access to it")
        return
    if kind == "file" and path.lower().endswith(".gguf"):
        return
    if kind is not None:
        raise TrimformerError(f"'{name}' is a {kind}; give the directory that save_pretrained wrote")
    # Otherwise Transformers looks a mistyped folder up on the network.
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or not path.isprintable() or "\\" in path:
        raise TrimformerError(f"model directory '{name}' does not exist")


def is_unicode(path: str) -> bool:
    """Returns whether a path is valid Unicode; tokenizers can read and write no other."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_readable(path: str | Path, label: str) -> None:
    """Checks that an input file can be opened; a missing file is left to the code that reads it.

    Args:
        path: path of the file.
        label: what the file is, for the message.

    Raises:
        TrimformerError: the path is a device or a pipe, or cannot be opened.
    """
    kind = _file_kind(os.fspath(path), label)
    if kind not in (None, "file", "directory"):
        raise TrimformerError(f"{label} '{path}' is a {kind}; give a file")
    if kind and not os.access(path, os.R_OK):
        raise TrimformerError(f"{label} '{path}' cannot be read: no access to it")


def _file_kind(path: str, label: str) -> str | None:
    """Returns "directory", "file" or "device or pipe", or None if the path does not exist.

    Raises:
        TrimformerError: the path is a link to nothing, or the system refuses to look it up.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if os.path.islink(path):
            raise TrimformerError(
                f"{label} '{path}' is a link to '{os.readlink(path)}', which does not exist"
            ) from None
        return None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        shown = path if len(path) <= 100 else f"{path[:40]}...{path[-40:]}"
        raise TrimformerError(f"{label} '{shown}' cannot be opened: {reason.lower()}") from None
    if stat.S_ISDIR(mode):
        return "directory"
    return "file" if stat.S_ISREG(mode) else "device or pipe"
