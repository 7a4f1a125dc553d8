"""Sets up the log, and turns every error of a command into one sentence and an exit code."""

import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout

from trimformer.cli.signals import INTERRUPTED, TERMINATED, Terminated, is_main_by_environment, signals
from trimformer.cli.streams import TolerantStream
from trimformer.errors import RemoteError, TrimformerError, flat
from trimformer.utils import output_lock

logger = logging.getLogger("trimformer")

DEBUG = "TRIMFORMER_DEBUG"  # environment variable that prints the traceback of an unexpected error


class KeptLog(logging.Handler):
    """Collects the log lines for `log.txt`, which is written with the other results.

    Attributes:
        lines: formatted log lines of the run so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Adds a log line."""
        self.lines.append(self.format(record))


kept_log = KeptLog()


def set_up_logging() -> None:
    """Logs to standard error and to `kept_log`, and silences other libraries."""
    logger.setLevel(logging.INFO)
    logger.handlers.clear()
    kept_log.lines.clear()
    formatter = logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for handler in (logging.StreamHandler(), kept_log):
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    if "transformers" in sys.modules:
        quieten()


def quieten() -> None:
    """Silences Transformers; call it after a command has imported it."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def guarded(run: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit code; bad input gives one sentence without a traceback, and code 2.

    Standard output that is closed, full or not UTF-8 does not end the run.

    Args:
        run: the command; returns its exit code, or None for 0.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    output, errors = TolerantStream(sys.stdout, escaped=True), TolerantStream(sys.stderr)
    try:
        with redirect_stdout(output), redirect_stderr(errors):
            code = _run_with_exit_code(run)
            output.flush()
            if output.failure and code == 0:
                print(f"error: standard output cannot be written ({output.failure}); the run is complete", file=errors)
                code = 1
            errors.flush()
            return code
    finally:
        output.detach_if_broken()
        errors.detach_if_broken()


def _run_with_exit_code(run: Callable[[], int | None]) -> int:
    """Runs a command; prints a sentence for any exception and returns the exit code."""
    set_up_logging()
    signals.interrupted = signals.terminated = False
    output_lock.completed.clear()
    try:
        with signals.as_exceptions():
            return run() or 0
    except Terminated:
        return _report_terminated()
    except KeyboardInterrupt as error:
        _print_error(str(error) or f"interrupted; {output_lock.describe_completed()}")
        return INTERRUPTED
    except Exception as error:
        if signals.interrupted:  # a library caught the interrupt and raised its own error
            _print_error(f"interrupted; {output_lock.describe_completed()}")
            return INTERRUPTED
        if signals.terminated:
            return _report_terminated()
        reports = _reports(error)
        if isinstance(error, TrimformerError):
            if reports:
                _print_error(f"error: {flat(error)}")
            return 2
        if not reports:
            return 1
        if os.environ.get(DEBUG):
            traceback.print_exc()
        return _report_unexpected(error)
    finally:
        _leave_processes()


def _report_terminated() -> int:
    """Prints in the main process that SIGTERM ended the run; returns the exit code."""
    if is_main_by_environment():
        _print_error(f"terminated; {output_lock.describe_completed()}")
    return TERMINATED


def _print_error(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _reports(error: Exception) -> bool:
    """Returns whether this process prints the error: the first process to fail does."""
    distributed = sys.modules.get("trimformer.utils.distributed")
    if distributed is not None and distributed.world_size() > 1:
        reports = not isinstance(error, RemoteError) and distributed.is_first_failure()
    else:  # an error in flags, which all processes have
        reports = is_main_by_environment()
    if not reports:
        time.sleep(3)  # the first process to end stops the others, so the one that prints must do so before
    return reports


def _leave_processes() -> None:
    """Leaves the other processes of the run, if it imported `torch.distributed` at all."""
    distributed = sys.modules.get("trimformer.utils.distributed")
    if distributed is not None:
        distributed.leave_processes()


def _report_unexpected(error: Exception) -> int:
    """Prints one sentence for another library's error, with the file of its traceback; returns the exit code."""
    if _is_out_of_memory(error):
        _print_error(
            "error: out of memory; lower --batch-size or --bs, --num-samples or --max-length, or give --max-memory"
        )
        return 2
    if output_lock.is_full(error):
        _print_error(
            f"error: a disk, a quota or a file size limit is full ({flat(error)[:200]}); "
            f"{output_lock.describe_completed()}"
        )
        return 2
    reason = flat(error)[:300] or "no reason given"
    _print_error(f"error: unexpected {type(error).__name__}: {reason}; {_write_traceback(error)}")
    return 1


def _is_out_of_memory(error: Exception) -> bool:
    """Returns whether the error means that the CPU's or the GPU's memory is full."""
    names = {kind.__name__ for kind in type(error).__mro__}
    message = str(error)
    return bool({"MemoryError", "OutOfMemoryError"} & names) or (
        "can't allocate memory" in message or "not enough memory" in message
    )


def _write_traceback(error: Exception) -> str:
    """Writes the traceback to a file that only the user can read, and returns the words that name it."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="trimformer-error-", suffix=".txt")
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return f"run it with {DEBUG}=1 to see the traceback"
    return f"the traceback is in {name}"
