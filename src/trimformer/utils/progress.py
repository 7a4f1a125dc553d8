"""The progress bar that Transformers users know: one for a whole run, or one for a loop that runs by itself."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from trimformer.utils.distributed import is_main

# What a stage does, in plain words.
WORDS = {
    "data": "reading the data",
    "vocabulary": "counting tokens",
    "table": "measuring latencies",
    "calibrate": "collecting statistics",
    "curves": "ranking heads and neurons",
    "search": "sharing out the budget",
    "shrink": "cutting",
    "update": "refitting what is kept",
    "polish": "training on what the dense model says",
    "judge": "judging the quality",
    "evaluate": "scoring the models",
    "timing": "timing the models",
}

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


class _Whole:
    """One bar over all stages of a run.

    Args:
        plan: how long a stage takes each time that it runs, in any unit.
    """

    def __init__(self, plan: Mapping[str, Sequence[float]]) -> None:
        self._plan = {stage: list(lengths) for stage, lengths in plan.items()}
        self._end = 0.0
        total = sum(map(sum, plan.values()))
        self._bar = tqdm(total=total, bar_format=_FORMAT, disable=None if is_main() else True, leave=False)

    def begin(self, stage: str) -> None:
        """A stage starts; one that was not planned takes no room on the bar."""
        lengths = self._plan.get(stage)
        self._end = self._bar.n + (lengths.pop(0) if lengths else 0.0)
        self._bar.set_description(WORDS.get(stage, stage))

    def follow(self, items: Iterable[Any]) -> Iterator[Any]:
        """A loop of the current stage; it moves half of the way to its end, as others may follow."""
        size = len(items) if isinstance(items, Sized) else 0
        step = (self._end - self._bar.n) / 2 / size if size else 0.0
        for item in items:
            yield item
            self._bar.update(max(0.0, min(step, self._end - self._bar.n)))

    def end(self) -> None:
        """The stage is over."""
        self._bar.update(max(0.0, self._end - self._bar.n))

    def close(self) -> None:
        self._bar.close()


_current: list[_Whole] = []


@contextmanager
def whole_run(plan: Mapping[str, Sequence[float]]) -> Iterator[None]:
    """Within it there is one bar for all; its stages are those that `stage` tells of."""
    _current.append(_Whole(plan))
    try:
        yield
    finally:
        _current.pop().close()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """A stage of the whole run, where there is one."""
    whole = _current[-1] if _current else None
    if whole is not None:
        whole.begin(name)
    yield
    if whole is not None:
        whole.end()


def progress(items: Iterable[Any], desc: str) -> Iterable[Any]:
    """Shows a bar on a terminal, of the main process, nothing elsewhere; within a whole run that one's goes on."""
    if _current:
        return _current[-1].follow(items)
    return tqdm(items, desc=desc, disable=None if is_main() else True, leave=False)
