"""Functions for a run of several processes, started by `accelerate launch` or `torchrun`, that share the samples.

Every process holds the whole model and a part of the samples. Sums are added up over all processes, the main process
takes decisions that must be the same everywhere, and only it writes. In a single process these functions do nothing.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from trimformer.errors import LostProcess, RemoteError, TrimformerError, flat
from trimformer.utils.packages import check_packages

# Long, because the other processes wait while the main one measures a latency table.
TIMEOUT = timedelta(hours=2)

_FAILURES = "trimformer/failures"  # key of the number of processes that have failed

S = TypeVar("S")
T = TypeVar("T")


def launched() -> bool:
    """Returns whether a launcher started several processes.

    Raises:
        TrimformerError: WORLD_SIZE in the environment is not a number of processes.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if not size.isdecimal() or not int(size):
        raise TrimformerError(f"WORLD_SIZE is '{size}', not a number of processes; unset it, or start with torchrun")
    return int(size) > 1


def join_processes(device: str) -> str:
    """Joins the other processes of the run and silences the log of all but the main one.

    Args:
        device: device named on the command line.

    Returns:
        The device of this process.

    Raises:
        TrimformerError: accelerate is missing, or the launcher's environment variables are missing or wrong.
    """
    if not launched():
        return device
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise TrimformerError(f"WORLD_SIZE is set, but {name} is not; unset it, or start with torchrun")
        if name != "MASTER_ADDR" and not os.environ[name].isdecimal():
            raise TrimformerError(f"{name} is '{os.environ[name]}', not a number; start with torchrun")
    check_packages("several processes need", ("accelerate",), "train")
    from accelerate import PartialState

    cpu = device == "cpu" or not torch.cuda.is_available()
    process_device = str(PartialState(cpu=cpu, timeout=TIMEOUT).device)
    if not is_main():
        logging.getLogger("trimformer").setLevel(logging.ERROR)
    return process_device


def leave_processes() -> None:
    """Leaves the other processes at the end of the run."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_first_failure() -> bool:
    """Counts this process as failed; returns whether it is the first one of the run."""
    if dist.is_initialized():
        with suppress(Exception):  # the process that keeps the count may be gone
            return int(dist.distributed_c10d._get_default_store().add(_FAILURES, 1)) == 1
    return True


def rank() -> int:
    """Returns the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Returns the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Returns whether this is the main process."""
    return rank() == 0


def shard(items: Sequence[T]) -> list[T]:
    """Returns this process's share of the items."""
    return list(items[rank() :: world_size()])


def compute_shared(items: Sequence[S], compute: Callable[[S], T], cost: Callable[[S], float]) -> list[T]:
    """Computes a result for every item, with the work shared among the processes.

    Args:
        items: the same in every process.
        compute: gives the result of an item; tensors in it should be on the CPU.
        cost: relative time that an item takes; the processes get shares of about the same cost.

    Returns:
        The results of all items, in every process.

    Raises:
        TrimformerError: `compute` raised an exception in another process.
    """
    loads, owners = [0.0] * world_size(), [0] * len(items)
    for i in sorted(range(len(items)), key=lambda i: -cost(items[i])):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += cost(items[i])
    mine: dict[int, T] = {}
    with failing_together():
        mine = {i: compute(item) for i, item in enumerate(items) if owners[i] == rank()}
    if world_size() == 1:
        return list(mine.values())
    parts: list[Any] = [None] * world_size()
    with _one_sentence_if_lost():
        dist.all_gather_object(parts, mine)
    return [parts[owners[i]][i] for i in range(len(items))]


@contextmanager
def failing_together() -> Iterator[None]:
    """Runs a block without communication; if it raises in one process, every process raises.

    Raises:
        TrimformerError: the block raised an exception in another process.
    """
    if world_size() == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as failure:
        error = failure
    descriptions: list[Any] = [None] * world_size()
    with _one_sentence_if_lost():
        dist.all_gather_object(descriptions, _describe(error))
    _raise_together(error, descriptions)


def _describe(error: Exception | None) -> tuple[bool, str] | None:
    """Describes an exception for other processes: whether its message is a sentence, and that message."""
    if error is None:
        return None
    if isinstance(error, TrimformerError):
        return True, str(error)
    return False, f"{type(error).__name__}: {flat(error)[:300]}"


def _raise_together(own: Exception | None, descriptions: Sequence[tuple[bool, str] | None]) -> None:
    """Raises this process's exception, else that of the first process that has one.

    Args:
        own: the exception of this process.
        descriptions: one entry per process, see `_describe`.

    Raises:
        RemoteError: another process failed.
    """
    if own is not None:
        raise own
    for number, description in enumerate(descriptions):
        if description is not None:
            is_sentence, message = description
            raise RemoteError(message if is_sentence else f"process {number} of the run failed: {message}")


@contextmanager
def _one_sentence_if_lost() -> Iterator[None]:
    """Turns the errors of a lost process into a `LostProcess`."""
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        reason = flat(error)[:200]
        raise LostProcess(f"another process was lost, so the run ends and nothing is written: {reason}") from error


def sum_over_processes(*tensors: Tensor) -> None:
    """Adds each tensor up over all processes, in place."""
    if world_size() > 1:
        with _one_sentence_if_lost():
            for tensor in tensors:
                dist.all_reduce(tensor)


def gather_rows(rows: Tensor) -> Tensor:
    """Returns the rows of all processes, [all rows, n], in every process.

    Args:
        rows: rows of this process, [rows, n].
    """
    if world_size() == 1:
        return rows
    parts: list[Any] = [None] * world_size()
    with _one_sentence_if_lost():
        dist.all_gather_object(parts, rows.cpu())
    return torch.cat(parts).to(rows.device)


def broadcast_from_main(choose: Callable[[], T]) -> T:
    """Calls `choose` in the main process and returns its result in all processes.

    If `choose` raises, every process raises, so none waits for a result that never comes.

    Args:
        choose: gives the result; tensors in it should be on the CPU.

    Raises:
        TrimformerError: `choose` raised an exception in the main process, which raises that exception itself.
    """
    if world_size() == 1:
        return choose()
    result: T | None = None
    error: Exception | None = None
    if is_main():
        try:
            result = choose()
        except LostProcess:  # nothing can be sent any more
            raise
        except Exception as failure:
            error = failure
    box: list[Any] = [result, _describe(error)]
    with _one_sentence_if_lost():
        dist.broadcast_object_list(box)
    _raise_together(error, [box[1]])
    return box[0]  # type: ignore[no-any-return]


def on_main(act: Callable[[], object]) -> None:
    """Calls `act` in the main process while the others wait; if it raises, every process raises.

    Raises:
        TrimformerError: see `broadcast_from_main`.
    """

    def run() -> None:
        act()

    broadcast_from_main(run)
