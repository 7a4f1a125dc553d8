"""Several processes that share the calibration samples, started by `accelerate launch` or `torchrun`.

Each holds the whole model and its part of the samples; sums are added up over all, what has to be the same
everywhere is decided by the main process, and only that one writes. With one process nothing here does anything.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from trimformer.errors import TrimformerError

# Processes wait for the main one while it measures a latency table.
TIMEOUT = timedelta(hours=2)

S = TypeVar("S")
T = TypeVar("T")


def launched() -> bool:
    """Whether a launcher started several processes.

    Raises:
        TrimformerError: what it set in the environment is not that of a launcher.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal() or not int(size):
        raise TrimformerError(f"WORLD_SIZE is '{size}', no number of processes; unset it, or start by torchrun")
    return int(size) > 1


def join(device: str) -> str:
    """Joins the other processes; only the main one goes on logging.

    Args:
        device: as asked for on the command line.

    Returns:
        This process's own device.

    Raises:
        TrimformerError: accelerate is missing, or the environment is not that of a launcher.
    """
    if not launched():
        return device
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise TrimformerError(f"WORLD_SIZE is set, but not {name}; unset it, or start by torchrun")
        if name != "MASTER_ADDR" and not os.environ[name].isdecimal():
            raise TrimformerError(f"{name} is '{os.environ[name]}', no number; start by torchrun")
    try:
        from accelerate import PartialState
    except ImportError as error:
        raise TrimformerError("several processes need accelerate: pip install 'trimformer[train]'") from error
    cpu = device == "cpu" or not torch.cuda.is_available()
    own = str(PartialState(cpu=cpu, timeout=TIMEOUT).device)
    if not is_main():
        logging.getLogger("trimformer").setLevel(logging.ERROR)
    return own


def leave() -> None:
    """Leaves the other processes, at the end of the run."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def part(items: Sequence[T]) -> list[T]:
    """This process's share of the items."""
    return list(items[rank() :: count()])


def each(items: Sequence[S], compute: Callable[[S], T], cost: Callable[[S], float]) -> list[T]:
    """The results for all items, on every process; each computes a share of about the same cost.

    Tensors in the results should be on the CPU.
    """
    loads, owners = [0.0] * count(), [0] * len(items)
    for i in sorted(range(len(items)), key=lambda i: -cost(items[i])):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += cost(items[i])
    mine = {i: compute(item) for i, item in enumerate(items) if owners[i] == rank()}
    parts: list[Any] = [mine] * count()
    if count() > 1:
        with _together():
            dist.all_gather_object(parts, mine)
    return [parts[owners[i]][i] for i in range(len(items))]


class LostProcess(TrimformerError):
    """Another process is gone."""


@contextmanager
def _together() -> Iterator[None]:
    """A process that is gone ends the others with one sentence."""
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LostProcess(f"another process was lost, so the run ends and nothing is written: {reason}") from error


def add_up(*tensors: Tensor) -> None:
    """Adds each tensor up over all processes, in place."""
    if count() > 1:
        with _together():
            for tensor in tensors:
                dist.all_reduce(tensor)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes [all rows, n], on every one."""
    if count() == 1:
        return rows
    parts: list[Any] = [None] * count()
    with _together():
        dist.all_gather_object(parts, rows.cpu())
    return torch.cat(parts).to(rows.device)


def decide(choose: Callable[[], T]) -> T:
    """What the main process chooses, on all processes; an error that it meets is raised on all.

    Tensors in it should be on the CPU.
    """
    if count() == 1:
        return choose()
    box: list[Any] = [None, None]
    if is_main():
        try:
            box[0] = choose()
        except TrimformerError as error:
            box[1] = str(error)
    with _together():
        dist.broadcast_object_list(box)
    if box[1] is not None:
        raise TrimformerError(box[1])
    return box[0]  # type: ignore[no-any-return]
