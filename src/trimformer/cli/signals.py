"""Ctrl-C and SIGTERM: nothing half-written, and neither is lost where a library catches it.

Some libraries take whatever goes wrong while they are imported for a package that is missing, an interrupt too.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(SystemExit):
    """SIGTERM, by which a launcher ends its processes."""


def is_main() -> bool:
    """Whether of several processes this one speaks: by what the launcher says, as flags come before they join."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


class Signals:
    """What a command does about signals.

    Attributes:
        interrupted: Ctrl-C was pressed, whether or not it arrived where it should.
        terminated: the same of SIGTERM.
    """

    def __init__(self) -> None:
        self.interrupted = self.terminated = False
        self._importing = False

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Both end what runs inside by an exception; what was in force before is again afterwards."""
        before = {}
        if threading.current_thread() is threading.main_thread():
            before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it
                before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Both end the process at once inside, where there is nothing to clear up."""
        self._importing = True
        try:
            yield
        finally:
            self._importing = False

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        if self._importing:
            print("interrupted; nothing was written", file=sys.stderr, flush=True)
            os._exit(130)
        raise KeyboardInterrupt

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.terminated = True
        if self._importing:
            if is_main():
                print("terminated; nothing was written", file=sys.stderr, flush=True)
            os._exit(143)
        raise Terminated(143)


signals = Signals()
