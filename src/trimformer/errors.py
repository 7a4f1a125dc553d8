"""The one exception that users are meant to read."""


class TrimformerError(ValueError):
    """Bad input or an impossible request, told in one sentence that names it and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
