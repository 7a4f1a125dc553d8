"""Measures tokens per second of GGUF files in llama.cpp, in turns."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from trimformer.costs import timing
from trimformer.costs.timing import Timing
from trimformer.export.gguf.timed_file import TimedFile, TokenTimes

GENERATED = 32  # tokens whose decoding is timed, after each prompt
_MIN_TURNS, _MAX_TURNS = 3, 101


@dataclass(frozen=True)
class TokenSpeed:
    """Speed of one file.

    Attributes:
        ms: of a token.
        speedup: over the first file, turn by turn.
    """

    ms: Timing
    speedup: Timing

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second, by the median."""
        return 1e3 / self.ms.median


def time_files(
    files: Sequence[Path], prompt: Sequence[int], *, threads: int, seconds: float
) -> list[dict[str, TokenSpeed]]:
    """Times files in turns, each in a process of its own that keeps it loaded.

    Args:
        files: to time.
        prompt: token ids.
        threads: for computing.
        seconds: approximate duration, after a first turn that is not counted; at least 3 turns.

    Returns:
        For each file, the speed of "prefill", the prompt's tokens, and of "decode", one token after another behind it.

    Raises:
        TrimformerError: llama.cpp cannot run a file.
    """
    laps = time_in_turns(files, prompt, GENERATED, threads=threads, seconds=seconds)
    return [
        {
            phase: TokenSpeed(
                Timing.of([getattr(lap, phase) for lap in times]),
                Timing.of([getattr(a, phase) / getattr(b, phase) for a, b in zip(laps[0], times, strict=True)]),
            )
            for phase in TokenTimes._fields
        }
        for times in laps
    ]


def time_in_turns(
    files: Sequence[Path],
    prompt: Sequence[int],
    generated: int,
    *,
    threads: int,
    seconds: float,
    keep_prompt: bool = False,
    least: int = _MIN_TURNS,
) -> list[list[TokenTimes]]:
    """Times files in turns, each in a process of its own that keeps it loaded.

    Args:
        files: to time.
        prompt: token ids.
        generated: tokens to generate after the prompt.
        threads: for computing.
        seconds: approximate duration, after a first turn that is not counted.
        keep_prompt: see `TimedFile.time`.
        least: turns at the least.

    Returns:
        Times [files, turns]; entries of one turn are measured at about the same time.

    Raises:
        TrimformerError: llama.cpp cannot run a file.
    """
    laps: list[list[TokenTimes]] = [[] for _ in files]
    with ExitStack() as stack:
        context = len(prompt) + generated + 8
        timed = [stack.enter_context(TimedFile(path, context, threads)) for path in files]
        for file in timed:
            file.time(prompt, generated)
        start = timing.now()
        for turn in range(_MAX_TURNS):
            if turn >= least and timing.now() - start > seconds:
                break
            for times, file in zip(laps, timed, strict=True):
                times.append(file.time(prompt, generated, keep_prompt=keep_prompt))
    return laps
