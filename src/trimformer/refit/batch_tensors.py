"""Lists of one tensor per batch, in memory or in temporary files."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from trimformer.errors import TrimformerError
from trimformer.utils.output_lock import is_full
from trimformer.utils.temp_dirs import temporary_directory


class BatchTensors:
    """One tensor per batch, in memory or in temporary files.

    Args:
        size: number of batches.
        folder: folder of the files; None keeps the tensors in memory.
    """

    def __init__(self, size: int, folder: Path | None) -> None:
        self._folder = folder
        self._items: list[Tensor] = [torch.empty(0)] * size

    @classmethod
    @contextmanager
    def factory(cls, on_disk: bool, size: int) -> Iterator[Callable[[], "BatchTensors"]]:
        """Yields a function that makes lists of `size` tensors; their files are deleted on exit."""
        if not on_disk:
            yield lambda: cls(size, None)
            return
        with temporary_directory() as folder:
            yield lambda: cls(size, Path(tempfile.mkdtemp(dir=folder)))

    def __getitem__(self, i: int) -> Tensor:
        if self._folder is None:
            return self._items[i]
        loaded: Tensor = torch.load(self._folder / f"{i}.pt", weights_only=True)
        return loaded.to(self._items[i].device)

    def __setitem__(self, i: int, item: Tensor) -> None:
        if self._folder is None:
            self._items[i] = item
        else:
            self._items[i] = item.new_empty(0)  # keeps the device
            try:
                torch.save(item.cpu(), self._folder / f"{i}.pt")
            except (OSError, RuntimeError) as error:
                if not is_full(error):
                    raise
                raise TrimformerError(
                    f"temporary files in '{self._folder.parent.parent}' cannot be written: the disk, a quota or a file "
                    "size limit is full; free some space, set TMPDIR to another folder, or allow more memory "
                    "(max_memory, --max-memory)"
                ) from error
