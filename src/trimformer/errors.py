"""Defines the package's exception and turns other errors into one-sentence messages."""

import reprlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class TrimformerError(ValueError):
    """Bad input or an impossible request; the message is one sentence that names it and says what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


class UnreachableError(TrimformerError):
    """A budget below the smallest that can be reached.

    Attributes:
        name: what is counted.
        asked: the budget.
        smallest: a budget that can be reached, in the same unit.
    """

    def __init__(self, name: str, asked: float, smallest: float) -> None:
        super().__init__(f"{name} {asked:.4g} cannot be reached; the smallest reachable is {smallest:.4g}")
        self.name, self.asked, self.smallest = name, asked, smallest

    def __reduce__(self) -> tuple[type, tuple[str, float, float]]:
        return type(self), (self.name, self.asked, self.smallest)


class RemoteError(TrimformerError):
    """An error of another process of the run, which reports it."""


class LostProcess(TrimformerError):
    """Another process of the run has ended."""


def flat(error: BaseException) -> str:
    """Returns an error's message as one printable line."""
    return one_line(str(error))


def one_line(text: str) -> str:
    """Returns the text without line breaks; escapes characters that cannot be printed."""
    text = " ".join(text.split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def quoted(value: Any, limit: int = 60) -> str:
    """Returns a value of the user as an error message quotes it: its `repr` on one line, cut at `limit` characters."""
    if isinstance(value, str | bytes | bytearray):
        text = one_line(repr(value[:limit]))
        is_whole = len(value) <= limit and len(text) <= limit + 3
        return text if is_whole else f"{one_line(repr(value[: limit // 2]))[:limit]}..."
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = shortener.maxlong = limit + 1
    try:
        text = one_line(shortener.repr(value))
    except Exception:  # such as an integer of more than 4300 digits
        return f"of type {type(value).__name__}"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def listed(names: Iterable[Any], limit: int = 200) -> str:
    """Returns names separated by commas, each cut at 40 characters, as many as fit, and the number of the others."""
    words = [text if len(text := one_line(str(name)[:80])) <= 40 else f"{text[:37]}..." for name in names]
    shown, size = 0, 0
    while shown < len(words) and (shown == 0 or size + len(words[shown]) + 2 <= limit):
        size += len(words[shown]) + 2
        shown += 1
    return ", ".join(words[:shown]) + (f" and {len(words) - shown} more" if shown < len(words) else "")


def in_unicode(text: str) -> str:
    """Returns the text with backslash escapes for what UTF-8 cannot hold, such as undecodable file names."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def one_sentence(failure: str) -> Iterator[None]:
    """Turns any exception of the body into a one-sentence error.

    Args:
        failure: what failed; it begins the sentence, the reason follows.

    Raises:
        TrimformerError: the body raised an exception.
    """
    try:
        yield
    except TrimformerError as error:
        raise TrimformerError(f"{failure}: {flat(error)}") from error
    except Exception as error:
        reason = flat(error)
        if "weights_only" in reason:  # PyTorch advises to load the file unsafely
            reason = "it is damaged, or contains Python objects, which are never loaded"
        if " " not in reason:  # such as a KeyError's key
            reason = f"{type(error).__name__} {reason}"
        raise TrimformerError(f"{failure}: {reason[:300]}") from error
