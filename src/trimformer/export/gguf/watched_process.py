"""Kills processes that hang, as llama.cpp's server rarely does when it starts."""

import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECONDS = 60.0  # a process that uses no CPU for so long hangs


@contextmanager
def killed_if_hanging(process: "subprocess.Popen[Any]") -> Iterator[threading.Event]:
    """Kills a process that uses no CPU, while the block waits for it.

    Args:
        process: that runs.

    Yields:
        An event that is set if the process was killed.
    """
    ended, hung = threading.Event(), threading.Event()

    def watch() -> None:
        used: int | None = -1
        while not ended.wait(SECONDS):
            before, used = used, _cpu_ticks(process.pid)
            if used is not None and used == before and process.poll() is None:
                hung.set()
                process.kill()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield hung
    finally:
        ended.set()
        thread.join()


def run_watched(command: Sequence[str], text: str) -> tuple[int, str] | None:
    """Runs a process and kills it once it hangs.

    Args:
        command: words of the command.
        text: standard input.

    Returns:
        The exit code and the standard error; None if it hung.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace") as process:
        try:
            with killed_if_hanging(process) as hung:
                _, errors = process.communicate(text)
        except BaseException:
            process.kill()
            raise
    return None if hung.is_set() else (process.returncode, errors)


def _cpu_ticks(pid: int) -> int | None:
    """Returns the CPU time of a process in clock ticks; None where the system does not report it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[11]) + int(fields[12])  # in user mode and in the kernel
