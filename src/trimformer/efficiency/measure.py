"""Measures look-up tables on the user's own modules.

A pass draws a number of units for every sublayer, shrinks them to it, and walks them in their order with a
stopwatch: each is timed where it will run, its input just made, its weights as warm or cold as in the whole
model. Levels are drawn at random, so that the drift of a noisy machine is noise and not slope. Whole models
of three sizes are timed in between; they tell what the sum over sublayers leaves out.
"""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.isotonic import IsotonicRegression
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.arch import Kind, Sublayer, find_layers, find_sublayers, max_positions
from trimformer.efficiency.backends import Backend, check_backend, prepare
from trimformer.efficiency.cost import Floats
from trimformer.efficiency.lut import LatencyTable, describe_setting, widest
from trimformer.efficiency.timing import Stopwatch, Timing
from trimformer.environment import versions
from trimformer.errors import TrimformerError
from trimformer.masking import LayerInput, collect_layer_inputs, frozen
from trimformer.shrink import keep_units

KINDS: tuple[Kind, ...] = ("attention", "ffn")

PASSES = 4  # drawn together: a narrow one, a wide one, two between
ENOUGH = 12  # measurements of a level
REPEATS = 2  # of a pass, after one to warm up
BEND = 0.02  # relative change of slope, over an interval, that is worth a level in between


def random_inputs(model: PreTrainedModel, batch_size: int, seq_len: int) -> dict[str, Tensor]:
    """Random tokens without padding.

    Raises:
        TrimformerError: the batch is empty, or the sequences empty or longer than the model takes.
    """
    longest = max_positions(model.config, seq_len)
    if batch_size < 1 or not 1 <= seq_len <= longest:
        raise TrimformerError(
            f"batch size {batch_size} and length {seq_len} cannot be timed; both must be positive, and this model "
            f"takes up to {longest} tokens"
        )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (batch_size, seq_len), generator=generator).to(model.device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def resized(model: PreTrainedModel, units: Sequence[int]) -> PreTrainedModel:
    """A copy with the first so many units of each sublayer, to be timed: it shares what is not shrunk."""
    small = copy.deepcopy(model, memo={id(p): p for p in model.parameters()})
    for sublayer, kept in zip(find_sublayers(small), units, strict=True):
        keep_units(sublayer, torch.arange(kept, device=small.device))
    return small


def run_sublayer(sublayer: Sublayer, hidden: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The hidden states after a sublayer, [batch, length, hidden]."""
    output: Tensor = sublayer.norm(sublayer.projection(sublayer.channels(hidden, attention_mask)) + hidden)
    return output


class _SublayerModule(nn.Module):
    """A sublayer as a module, for backends that compile or export one."""

    def __init__(self, sublayer: Sublayer, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.sublayer = layer, sublayer

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return run_sublayer(self.sublayer, hidden, attention_mask)


def measure_table(
    model: PreTrainedModel,
    batch_size: int,
    seq_len: int,
    *,
    backend: Backend = "eager",
    seconds: float = 60.0,
    seed: int = 0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> LatencyTable:
    """Times the model's sublayers at a grid of widths and fills a table for every width.

    The grid is refined where the latency bends. Between levels the table is linear; it never falls with more
    units, except where the measurements say so beyond their noise (tile effects).

    Args:
        model: on its device; left as it was.
        batch_size: of the random inputs.
        seq_len: of the random inputs.
        backend: what runs the model.
        seconds: upper bound for the passes; compiling and exporting come on top.
        seed: of the levels' order.
        progress: wraps the passes.

    Raises:
        TrimformerError: the shape cannot be run, or the backend cannot run here.
    """
    check_backend(backend, model.device)
    inputs = random_inputs(model, batch_size, seq_len)
    with frozen(model), torch.inference_mode():
        layer_input = next(collect_layer_inputs(model, [inputs]))
        bench = _Bench(model, layer_input, inputs, backend, seed)
        for _ in progress(bench.passes(seconds)):
            pass
    setting = describe_setting(model, batch_size, seq_len, backend)
    fixed, factor = bench.fit_whole()
    levels = {kind: factor * bench.table(kind) for kind in KINDS}
    measured: dict[Kind, list[list[float]]] = {}
    for kind in KINDS:
        timings = [(units, Timing.of(laps)) for units, laps in sorted(bench.laps[kind].items())]
        measured[kind] = [[u, factor * t.median, factor * t.low, factor * t.high, t.count] for u, t in timings]
    return LatencyTable(levels, fixed, {**setting, "versions": versions()}, measured)


class _Bench:
    """The measurements: `laps[kind][units]` for sublayers, `whole` for models of three sizes."""

    def __init__(
        self,
        model: PreTrainedModel,
        layer_input: LayerInput,
        inputs: dict[str, Tensor],
        backend: Backend,
        seed: int,
    ) -> None:
        self.model, self.layer_input, self.backend = model, layer_input, backend
        self.sublayers = find_sublayers(model)
        self.rng, self.watch = np.random.default_rng(seed), Stopwatch(model.device)
        self.laps: dict[Kind, dict[int, list[float]]] = {
            kind: {units: [] for units in first_grid(kind, widest(self.sublayers, kind), backend)} for kind in KINDS
        }
        self._queue: dict[Kind, list[int]] = {kind: [] for kind in KINDS}
        self._prepared: dict[tuple[Kind, int], Callable[[], Any]] = {}
        dense = [s.num_units for s in self.sublayers]
        small = [s.num_units // (8 if s.kind == "ffn" else 4) for s in self.sublayers]
        self.anchors = [dense, [units // 2 for units in dense], small]
        sizes = [model, *(resized(model, anchor) for anchor in self.anchors[1:])]
        self._wholes = [prepare(whole, inputs, backend) for whole in sizes]
        self.whole: list[list[float]] = [[] for _ in sizes]

    def passes(self, seconds: float) -> Iterator[int]:
        """Runs passes until every level is measured often enough and none is wanted between, or time is up."""
        start, count, turn = time.perf_counter(), 0, 0
        while True:
            drawn = {kind: self._draw(kind) for kind in KINDS}
            for i in self.rng.permutation(PASSES).tolist():
                self._run_pass([drawn[s.kind][i].pop() for s in self.sublayers])
                self._run_whole(turn % len(self._wholes))
                turn += 1
                count += 1
                yield count
                if time.perf_counter() - start > seconds and min(map(len, self.whole)) >= 2 and self._least() >= 1:
                    return
            if self.backend == "eager" and self._least() >= PASSES:
                for kind in KINDS:
                    self._refine(kind)
            if self._least() >= ENOUGH:
                return

    def _least(self) -> int:
        """Measurements of the level that has fewest."""
        return min(len(laps) for levels in self.laps.values() for laps in levels.values())

    def _draw(self, kind: Kind) -> list[list[int]]:
        """Levels for the sublayers of a kind in several passes: all levels equally often, a pass of similar widths."""
        capacity = [s.num_units for s in self.sublayers if s.kind == kind]
        queue = self._queue[kind]
        while len(queue) < PASSES * len(capacity):
            queue += self.rng.permutation(list(self.laps[kind])).tolist()
        drawn = sorted(queue[: PASSES * len(capacity)])
        del queue[: PASSES * len(capacity)]
        groups = []
        for i in range(PASSES):
            group = self.rng.permutation(drawn[i * len(capacity) : (i + 1) * len(capacity)]).tolist()
            # A layer that was pruned before cannot be widened.
            fits = [max(u for u in self.laps[kind] if u <= min(g, c)) for g, c in zip(group, capacity, strict=True)]
            groups.append(fits[::-1])  # they are popped from the end
        return groups

    def _stations(self, units: Sequence[int]) -> list[Callable[[Tensor], Any]]:
        """One call for each sublayer, shrunk to so many units."""
        mask = self.layer_input.attention_mask
        if self.backend == "eager":
            small = find_sublayers(resized(self.model, units))
            return [partial(run_sublayer, s, attention_mask=mask) for s in small]
        return [self._compiled(s.kind, kept) for s, kept in zip(self.sublayers, units, strict=True)]

    def _compiled(self, kind: Kind, kept: int) -> Callable[[Tensor], Any]:
        """A sublayer that was compiled or exported once for this level; it has its own input."""
        if (kind, kept) not in self._prepared:
            index = next(i for i, s in enumerate(self.sublayers) if s.kind == kind and s.num_units >= kept)
            small = resized(self.model, [kept if i == index else 0 for i in range(len(self.sublayers))])
            sublayer = find_sublayers(small)[index]
            inputs = {"hidden": self.layer_input.hidden}
            if self.layer_input.attention_mask is not None and kind == "attention":
                inputs["attention_mask"] = self.layer_input.attention_mask
            module = _SublayerModule(sublayer, find_layers(small)[sublayer.layer]).eval()
            self._prepared[kind, kept] = prepare(module, inputs, self.backend)
            self._prepared[kind, kept]()
        call = self._prepared[kind, kept]
        return lambda _: call()

    def _run_pass(self, units: list[int]) -> None:
        stations = self._stations(units)
        laps = []
        for _ in range(1 + REPEATS):
            hidden = self.layer_input.hidden
            self.watch.mark()
            for station in stations:
                output = station(hidden)
                self.watch.mark()
                hidden = output if self.backend == "eager" else hidden
            laps.append(self.watch.laps())
        for sublayer, kept, lap in zip(self.sublayers, units, np.mean(laps[1:], axis=0).tolist(), strict=True):
            self.laps[sublayer.kind][kept].append(lap)

    def _run_whole(self, size: int) -> None:
        self._wholes[size]()
        for _ in range(REPEATS):
            self.watch.mark()
            self._wholes[size]()
            self.watch.mark()
            self.whole[size] += self.watch.laps()

    def _refine(self, kind: Kind) -> None:
        """Adds a level in the middle of each interval over which the slope changes by more than the noise."""
        levels = sorted(self.laps[kind])
        medians = np.array([np.median(self.laps[kind][units]) for units in levels])
        slopes = np.diff(medians) / np.diff(levels)
        for i in range(1, len(levels) - 1):
            # What a line through the neighbours misses at this level, were it not measured.
            width = max(levels[i + 1] - levels[i], levels[i] - levels[i - 1])
            bend = abs(slopes[i] - slopes[i - 1]) * width / 4
            noise = Timing.of(self.laps[kind][levels[i]])
            if bend > max(BEND * medians[i], noise.high - noise.low):
                for a, b in ((levels[i - 1], levels[i]), (levels[i], levels[i + 1])):
                    middle = (a + b) // 2 // 32 * 32
                    if a < middle < b and middle not in self.laps[kind]:
                        self.laps[kind][middle] = []
                        self._queue[kind][:0] = [middle] * PASSES

    def table(self, kind: Kind) -> Floats:
        """[units + 1], milliseconds by the number of units."""
        levels = sorted(units for units, laps in self.laps[kind].items() if laps)
        timings = [Timing.of(self.laps[kind][units]) for units in levels]
        return np.interp(np.arange(levels[-1] + 1), levels, monotone(timings))

    def fit_whole(self) -> tuple[float, float]:
        """(fixed, factor): a whole model takes fixed + factor * the sum over its sublayers."""
        tables = {kind: self.table(kind) for kind in KINDS}
        sums = [sum(tables[s.kind][k] for s, k in zip(self.sublayers, a, strict=True)) for a in self.anchors]
        whole = [float(np.median(laps)) for laps in self.whole]
        return fit_line(sums, whole)


def first_grid(kind: Kind, units: int, backend: Backend) -> list[int]:
    """Widths to begin with: none, one, all, and evenly between; of neurons multiples of 32."""
    parts = 12 if backend == "eager" else 6
    step = max(1, units // parts) if kind == "attention" else max(32, units // parts // 32 * 32)
    return sorted({0, min(1, units), *range(step, units, step), units})


def monotone(timings: Sequence[Timing]) -> Floats:
    """Medians that never fall from level to level, but where the interval of a measurement excludes that."""
    medians = np.array([t.median for t in timings])
    weights = [t.count for t in timings]
    fit = IsotonicRegression().fit_transform(np.arange(len(medians)), medians, sample_weight=weights)
    significant = np.array([not t.low <= f <= t.high and t.count >= PASSES for t, f in zip(timings, fit, strict=True)])
    return np.where(significant, medians, fit)


def fit_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Intercept and slope of least squared relative error, both kept from being negative."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    design = np.stack([1 / b, a / b], axis=1)
    intercept, slope = np.linalg.lstsq(design, np.ones(len(b)), rcond=None)[0]
    if intercept < 0 or slope <= 0:
        return 0.0, float((a / b).sum() / np.square(a / b).sum())
    return float(intercept), float(slope)
