"""The progress bar that Transformers users know."""

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

from trimformer.processes import is_main


def progress(items: Iterable[Any], desc: str) -> Iterable[Any]:
    """Shows a bar on a terminal, of the main process, nothing elsewhere."""
    return tqdm(items, desc=desc, disable=None if is_main() else True, leave=False)
