"""Checks that the packages of an extra are installed."""

import importlib.util
from collections.abc import Sequence

from trimformer.errors import TrimformerError


def check_packages(need: str, names: Sequence[str], extra: str) -> None:
    """Checks that packages are installed.

    Args:
        need: what needs them, the subject of the error's sentence with its verb, as in "ONNX files need".
        names: names of the packages, as they are imported.
        extra: the extra of trimformer that installs them.

    Raises:
        TrimformerError: a package is missing.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise TrimformerError(f"{need} {' and '.join(missing)}: pip install 'trimformer[{extra}]'")
