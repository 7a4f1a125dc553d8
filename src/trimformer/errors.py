"""Defines the package's exception and turns other errors into one-sentence messages."""

from collections.abc import Iterator
from contextlib import contextmanager


class TrimformerError(ValueError):
    """Bad input or an impossible request; the message is one sentence that names it and says what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


def flat(error: BaseException) -> str:
    """Returns an error's message as one printable line."""
    return one_line(str(error))


def one_line(text: str) -> str:
    """Returns the text without line breaks; escapes characters that cannot be printed."""
    text = " ".join(text.split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


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
