"""The log, and the outermost layer of every command: exit codes and one sentence for bad input."""

import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout

from trimformer.cli.signals import Terminated, is_main, signals
from trimformer.cli.streams import Patient
from trimformer.errors import TrimformerError, flat
from trimformer.utils import output_lock

logger = logging.getLogger("trimformer")

DEBUG = "TRIMFORMER_DEBUG"  # set, it shows where an unexpected error came from


class KeptLog(logging.Handler):
    """Keeps the log for `log.txt`, which is written with the rest once the run succeeds."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


kept_log = KeptLog()


def set_up_logging() -> None:
    """Our log on standard error and kept for `log.txt`; libraries' chatter silenced."""
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
    """Silences Transformers: whoever runs a command calls it once that is imported."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def guarded(run: Callable[[], int | None]) -> int:
    """Exit code of a command: its own, or 2 with one sentence for bad input, no traceback, whatever happens.

    What standard output cannot take (closed, full, of few letters) ends no run.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    printed, told = Patient(sys.stdout), Patient(sys.stderr)
    try:
        with redirect_stdout(printed), redirect_stderr(told):
            code = _told(run)
            printed.flush()
            if printed.failure and code == 0:
                print(f"error: standard output cannot be written ({printed.failure}); the run is complete", file=told)
                code = 1
            told.flush()
            return code
    finally:
        printed.leave()
        told.leave()


def _told(run: Callable[[], int | None]) -> int:
    """Runs, and tells what ended it."""
    set_up_logging()
    signals.interrupted = signals.terminated = False
    output_lock.completed.clear()
    try:
        with signals.heeded():
            return run() or 0
    except Terminated:
        return _terminated()
    except KeyboardInterrupt as error:
        _say(str(error) or f"interrupted; {output_lock.describe_completed()}")
        return 130
    except Exception as error:
        if signals.interrupted:  # a library caught it, and told it as a trouble of its own
            _say(f"interrupted; {output_lock.describe_completed()}")
            return 130
        if signals.terminated:
            return _terminated()
        if isinstance(error, TrimformerError):
            if _speaks(error):
                _say(f"error: {flat(error)}")
            return 2
        if os.environ.get(DEBUG):
            traceback.print_exc()
        return _unexpected(error)
    finally:
        _leave_processes()


def _terminated() -> int:
    if is_main():
        _say(f"terminated; {output_lock.describe_completed()}")
    return 143


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _speaks(error: TrimformerError) -> bool:
    """Whether this process tells the error: the main one, or any where another was lost."""
    if is_main() or type(error).__name__ == "LostProcess":
        return True
    time.sleep(3)  # the first to leave ends the others: the main one speaks first
    return False


def _leave_processes() -> None:
    processes = sys.modules.get("trimformer.utils.distributed")
    if processes is not None:
        processes.leave()


def _unexpected(error: Exception) -> int:
    """One sentence for what a library raised, and its trace in a file."""
    if _out_of_memory(error):
        _say("error: out of memory; lower --batch-size or --bs, --num-samples or --max-length, or give --max-memory")
        return 2
    if output_lock.is_full(error):
        _say(f"error: a disk, a quota or a limit is full ({flat(error)[:200]}); {output_lock.describe_completed()}")
        return 2
    reason = flat(error)[:300] or "no reason given"
    _say(f"error: unexpected {type(error).__name__}: {reason}; {_where_traced(error)}")
    return 1


def _out_of_memory(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    said = str(error)
    return bool({"MemoryError", "OutOfMemoryError"} & names) or (
        "can't allocate memory" in said or "not enough memory" in said
    )


def _where_traced(error: Exception) -> str:
    try:
        descriptor, name = tempfile.mkstemp(prefix="trimformer-error-", suffix=".txt")  # for the user's eyes only
        with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return f"run it with {DEBUG}=1 to see where"
    return f"where it came from is in {name}"
