"""The one exception that users are meant to read."""

from collections.abc import Iterator
from contextlib import contextmanager


class TrimformerError(ValueError):
    """Bad input or an impossible request, told in one sentence that names it and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def flat(error: BaseException) -> str:
    """What an error says, in one line that can be printed anywhere."""
    return one_line(str(error))


def one_line(text: str) -> str:
    """The text without breaks and control characters."""
    text = " ".join(text.split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def in_unicode(text: str) -> str:
    """The text with what no Unicode file can hold, as in odd names of files, spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Turns whatever a library raises into one sentence."""
    try:
        yield
    except TrimformerError as error:
        raise TrimformerError(f"{what}: {flat(error)}") from error
    except Exception as error:
        reason = flat(error)
        if "weights_only" in reason:  # PyTorch advises to load it unsafely
            reason = "it is broken, or holds objects, which are never loaded"
        if " " not in reason:  # such as a KeyError's key
            reason = f"{type(error).__name__} {reason}"
        raise TrimformerError(f"{what}: {reason[:300]}") from error
