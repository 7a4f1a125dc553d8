"""Progress bars for loops over batches, layers or steps."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm.auto import tqdm

from trimformer.utils.distributed import is_main

Item = TypeVar("Item")


def progress(items: Iterable[Item], desc: str) -> Iterable[Item]:
    """Iterates with a progress bar; shows it only on a terminal and only in the main process.

    Args:
        items: what to iterate over; with a length, the bar shows the remaining time.
        desc: label of the bar.
    """
    return tqdm(items, desc=desc, disable=None if is_main() else True, leave=False)
