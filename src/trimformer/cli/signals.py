"""Turns Ctrl-C and SIGTERM into exceptions, so that a command can clean up, and remembers them.

A signal is remembered because a library may catch the exception: some treat any error while they are imported, even an
interrupt, as a missing package. And it is raised again where Python drops it: no exception leaves a destructor or the
callback of a weak reference.
"""

import _thread
import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

INTERRUPTED, TERMINATED = 130, 143  # exit codes
SECONDS_TO_RAISE_AGAIN = 0.05  # by then, the callback that dropped the exception has returned


class Terminated(SystemExit):
    """Raised by SIGTERM, the signal with which a launcher ends its processes."""


def is_main_by_environment() -> bool:
    """Returns whether this is the main process, from the launcher's variables.

    Errors in flags are printed before the process joins the others.
    """
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


class Signals:
    """Turns signals into exceptions and remembers them.

    Attributes:
        interrupted: Ctrl-C was pressed, even if a library caught the exception.
        terminated: SIGTERM arrived, even if a library caught the exception.
    """

    def __init__(self) -> None:
        self.interrupted = self.terminated = False
        self._importing = False

    @contextmanager
    def as_exceptions(self) -> Iterator[None]:
        """Lets both signals raise an exception in the body; restores the previous handlers afterwards."""
        previous = {}
        report_dropped = sys.unraisablehook
        if threading.current_thread() is threading.main_thread():
            previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # background jobs ignore it
                previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)

        def raise_again(dropped: "sys.UnraisableHookArgs") -> None:
            """Replaces `sys.unraisablehook`, which prints the exceptions that Python drops."""
            numbers = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}
            if dropped.exc_type in numbers:
                # Not `threading.Thread`, whose lock the interrupted code may hold.
                _thread.start_new_thread(self._raise_soon, (numbers[dropped.exc_type],))
            else:
                report_dropped(dropped)

        sys.unraisablehook = raise_again
        try:
            yield
        finally:
            sys.unraisablehook = report_dropped
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def importing(self) -> Iterator[None]:
        """Lets both signals end the process at once in the body, which only imports: nothing needs cleaning up."""
        self._importing = True
        try:
            yield
        finally:
            self._importing = False

    def _raise_soon(self, number: signal.Signals) -> None:
        """Lets the main thread handle the signal once more, unless the handlers are gone by then."""
        time.sleep(SECONDS_TO_RAISE_AGAIN)
        if signal.getsignal(number) in (self._interrupt, self._terminate):
            _thread.interrupt_main(number)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Handles SIGINT."""
        self.interrupted = True
        if self._importing:
            print("interrupted; nothing was written", file=sys.stderr, flush=True)
            os._exit(INTERRUPTED)
        raise KeyboardInterrupt

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """Handles SIGTERM."""
        self.terminated = True
        if self._importing:
            if is_main_by_environment():
                print("terminated; nothing was written", file=sys.stderr, flush=True)
            os._exit(TERMINATED)
        raise Terminated(TERMINATED)


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code.

    After a signal, the interpreter is not finalized: native threads that the signal left at work may crash it then.
    """
    if code in (INTERRUPTED, TERMINATED):
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # closed, or the reader of a pipe is gone
                stream.flush()
        os._exit(code)
    sys.exit(code)


signals = Signals()
