"""Writes to standard output and error even if they are closed, full or not UTF-8."""

import os
import re
from typing import Any, TextIO

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class TolerantStream:
    """A text stream whose write errors are recorded instead of raised, so that printing never ends a run.

    Args:
        stream: standard output or error; None if it is closed.
        escaped: whether control characters, which names of files may hold, are escaped; line ends and tabs stay.

    Attributes:
        failure: why some text could not be written; "" if all was, or if the reader of a pipe closed it.
    """

    def __init__(self, stream: TextIO | None, *, escaped: bool = False) -> None:
        self._stream: Any = stream
        self._escaped = escaped
        self.failure = "" if stream is not None else "it is closed"
        self._broken = stream is None

    def write(self, text: str) -> int:
        """Writes the text; escapes characters that the stream's encoding lacks."""
        shown = _CONTROL.sub(lambda letter: ascii(letter[0])[1:-1], text) if self._escaped else text
        try:
            self._stream.write(shown)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError, AttributeError) as error:
            self._record(error)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        try:
            self._stream.flush()
        except (OSError, ValueError, AttributeError) as error:
            self._record(error)

    def detach_if_broken(self) -> None:
        """Redirects a broken stream to the null device, so that the interpreter's last flush succeeds."""
        if self._broken and self._stream is not None:
            try:
                null_device = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null_device, self._stream.fileno())
                os.close(null_device)
            except (OSError, ValueError):
                return  # the stream has no file descriptor

    def _record(self, error: Exception) -> None:
        """Keeps the first error, unless it only means that a pipe was closed."""
        self._broken = True
        if not isinstance(error, BrokenPipeError) and not self.failure:
            self.failure = (getattr(error, "strerror", None) or str(error)).lower()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
