"""The one exception that users are meant to read."""

from collections.abc import Iterator
from contextlib import contextmanager


class TrimformerError(ValueError):
    """Bad input or an impossible request, told in one sentence that names it and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


@contextmanager
def one_sentence(what: str) -> Iterator[None]:
    """Turns whatever a library raises into one sentence."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        if " " not in reason:  # such as a KeyError's key
            reason = f"{type(error).__name__} {reason}"
        raise TrimformerError(f"{what}: {reason[:300]}") from error
