"""The log, and the outermost layer of every command: exit codes and one sentence for bad input."""

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable

import transformers

from trimformer import processes
from trimformer.errors import TrimformerError

logger = logging.getLogger("trimformer")


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
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")


def guarded(run: Callable[[], None]) -> int:
    """Exit code of a command: 2 with one sentence for bad input, no traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    set_up_logging()
    # A launcher ends its processes by this signal; raised as an exception, it leaves nothing half-written.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run()
    except TrimformerError as error:
        if processes.is_main() or isinstance(error, processes.LostProcess):
            print(f"error: {error}", file=sys.stderr)
        else:
            time.sleep(3)  # the first to leave ends the others: the main one speaks first
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    finally:
        processes.leave()
    return 0
