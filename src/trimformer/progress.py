"""The progress bar that Transformers users know."""

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def progress(items: Iterable[Any], desc: str) -> Iterable[Any]:
    """Shows a bar on a terminal, nothing elsewhere."""
    return tqdm(items, desc=desc, disable=None, leave=False)
