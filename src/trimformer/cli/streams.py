"""Standard output and error as they are found: closed, full, a pipe that nobody reads, of few letters."""

import os
from typing import Any, TextIO


class Patient:
    """A stream whose troubles are kept and told at the end, rather than ending the run that prints.

    Args:
        stream: standard output or error; None where it is closed.

    Attributes:
        failure: why something could not be written; "" where all was, or where the reader of a pipe had enough.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: Any = stream
        self.failure = "" if stream is not None else "it is closed"
        self._broken = stream is None

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            letters = self._stream.encoding or "ascii"
            self.write(text.encode(letters, "backslashreplace").decode(letters))
        except (OSError, ValueError, AttributeError) as error:
            self._fail(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError, AttributeError) as error:
            self._fail(error)

    def leave(self) -> None:
        """Keeps the interpreter from complaining, at its end, of what could not be written."""
        if self._broken and self._stream is not None:
            try:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            except (OSError, ValueError):
                return  # no file stands behind it, so nothing is flushed to one

    def _fail(self, error: Exception) -> None:
        self._broken = True
        if not isinstance(error, BrokenPipeError) and not self.failure:
            self.failure = (getattr(error, "strerror", None) or str(error)).lower()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
