"""Times sublayers of a model at random widths, and whole models of three sizes, relative to the dense model.

The dense model is timed before and after every pass. A load of the machine slows both, and cancels in their ratio.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.costs import timing
from trimformer.costs.backends import as_exported, prepare
from trimformer.costs.cost_tables import Floats
from trimformer.costs.latency_fits import PASSES, first_grid, fit_line, monotone
from trimformer.costs.lookup_tables import widest
from trimformer.costs.timing import Stopwatch, Timing
from trimformer.data.batches import numbered_batches
from trimformer.errors import TrimformerError
from trimformer.models import KINDS, Kind, Sublayer, find_sublayers
from trimformer.models.layer_calls import LayerCall, forward, record_calls
from trimformer.models.removal import keep_units
from trimformer.options.choices import ONNX, Backend

ENOUGH = 12  # measurements per level
REPEATS = 2  # measured runs per pass, after a warm-up
BEND = 0.02  # relative change of slope, over an interval, that is worth a level in between


def resized(model: PreTrainedModel, units: Sequence[int]) -> PreTrainedModel:
    """Copies a model with the first units of each sublayer, for timing; other parameters are shared."""
    small = copy.deepcopy(model, memo={id(p): p for p in model.parameters()})
    for sublayer, kept in zip(find_sublayers(small), units, strict=True):
        keep_units(sublayer, torch.arange(kept))
    return small


def check_uniform(model: PreTrainedModel, calls: Sequence[LayerCall]) -> None:
    """Checks that one table per kind of sublayer can describe the model.

    Raises:
        TrimformerError: the model has two towers, or layers of several shapes.
    """
    sublayers = find_sublayers(model)
    shapes = [{(s.hidden_size, s.unit_size, s.calls_per_pass) for s in sublayers if s.kind == kind} for kind in KINDS]
    if sum(call.first_hidden is not None for call in calls) > 1 or any(len(of_kind) > 1 for of_kind in shapes):
        raise TrimformerError(
            f"{type(model).__name__} has two towers or layers of several sizes, for which there is no latency table; "
            "use the metric 'mac', or prune each tower by itself"
        )


def _boundary(before: Sublayer, after: Sublayer) -> nn.Module:
    """Returns the module that runs first in the second of two sublayers."""
    return after.producers[0].linear if after.entry is before.entry else after.entry


class _OneLayer(nn.Module):
    """A layer as a module that takes only hidden states, for backends that compile or export it."""

    def __init__(self, call: LayerCall) -> None:
        super().__init__()
        self.layer, self._call = call.layer, call

    def forward(self, hidden: Tensor) -> Tensor:
        return self._call(hidden)


class LatencyBench:
    """Collects measurements as fractions of the dense model's latency.

    Attributes:
        laps: of sublayers, by kind and number of units.
        whole: of whole models of three sizes; the first is the dense model.
        dense_ms: milliseconds of the dense model, before and after each pass.
    """

    def __init__(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], backend: Backend, seed: int) -> None:
        model, inputs = as_exported(model, inputs) if backend in ONNX else (model, inputs)
        self.model, self.inputs, self.backend = model, inputs, backend
        self.sublayers = find_sublayers(model)
        (batch,) = numbered_batches([{**inputs}])
        self.calls = record_calls(model, batch)
        check_uniform(model, self.calls)
        start = self.calls[0].first_hidden
        assert start is not None
        self.hidden = start
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
        self.dense_ms: list[float] = []

    def passes(self, seconds: float) -> Iterator[int]:
        """Runs passes until every level has enough measurements and no level is added, or time is up."""
        start, count = timing.now(), 0
        self.dense_ms.append(self._time_whole(0))
        while True:
            drawn = {kind: self._draw(kind) for kind in KINDS}
            for i in self.rng.permutation(PASSES).tolist():
                self._run_pass([drawn[s.kind][i].pop() for s in self.sublayers], 1 + count % (len(self._wholes) - 1))
                count += 1
                yield count
                if timing.now() - start > seconds and min(map(len, self.whole)) >= 2 and self._least() >= 1:
                    return
            if self.backend == "eager" and self._least() >= PASSES:
                for kind in KINDS:
                    self._refine(kind)
            if self._least() >= ENOUGH:
                return

    def _least(self) -> int:
        """Returns the smallest number of measurements of any level."""
        return min(len(laps) for levels in self.laps.values() for laps in levels.values())

    def _draw(self, kind: Kind) -> list[list[int]]:
        """Draws levels for the sublayers of a kind: all equally often, with similar widths in one pass."""
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

    def _run_pass(self, units: list[int], size: int) -> None:
        """Times sublayers of these widths, the whole model of a size, and the dense model."""
        run = self._whole_pass(units) if self.backend == "eager" else self._single_layers(units)
        laps = np.mean([run() for _ in range(1 + REPEATS)][1:], axis=0)
        whole_ms = self._time_whole(size)
        self.dense_ms.append(self._time_whole(0))
        reference = sum(self.dense_ms[-2:]) / 2  # before and after
        for sublayer, kept, lap in zip(self.sublayers, units, (laps / reference).tolist(), strict=True):
            self.laps[sublayer.kind][kept].append(lap)
        self.whole[size].append(whole_ms / reference)
        self.whole[0].append(1.0)

    def _whole_pass(self, units: Sequence[int]) -> Callable[[], list[float]]:
        """Returns a timed pass through a model of these widths: milliseconds per sublayer, summed over its calls."""
        small = resized(self.model, units).eval()
        sublayers = find_sublayers(small)
        layers: dict[nn.Module, list[int]] = {}
        for i, sublayer in enumerate(sublayers):
            layers.setdefault(sublayer.module, []).append(i)

        def mark(*_: Any) -> None:
            self.watch.mark()

        for layer, indices in layers.items():  # the copy is thrown away with its hooks
            layer.register_forward_pre_hook(mark)
            for a, b in pairwise(indices):
                _boundary(sublayers[a], sublayers[b]).register_forward_pre_hook(mark)
            layer.register_forward_hook(mark)

        def run() -> list[float]:
            forward(small, self.inputs)
            laps = iter([*self.watch.laps(), 0.0])
            times = [0.0] * len(sublayers)
            for indices in layers.values():
                for _ in range(sublayers[indices[0]].calls_per_pass):
                    for i in indices:
                        times[i] += next(laps)
                    next(laps)  # between this layer and the next
            return times

        return run

    def _single_layers(self, units: Sequence[int]) -> Callable[[], list[float]]:
        """Returns a timed pass through single layers with one sublayer each, prepared once per width."""
        calls = [self._prepare_layer(s.kind, kept) for s, kept in zip(self.sublayers, units, strict=True)]

        def run() -> list[float]:
            self.watch.mark()
            for call in calls:
                call()
                self.watch.mark()
            return self.watch.laps()

        return run

    def _prepare_layer(self, kind: Kind, kept: int) -> Callable[[], Any]:
        if (kind, kept) not in self._prepared:
            index = next(i for i, s in enumerate(self.sublayers) if s.kind == kind and s.num_units >= kept)
            small = resized(self.model, [kept if i == index else 0 for i in range(len(self.sublayers))])
            layer = find_sublayers(small)[index].module
            call = next(call for call in self.calls if call.layer is self.sublayers[index].module)
            module = _OneLayer(call.with_layer(layer)).eval()
            self._prepared[kind, kept] = prepare(module, {"hidden": self.hidden}, self.backend, small)
            self._prepared[kind, kept]()
        return self._prepared[kind, kept]

    def _time_whole(self, size: int) -> float:
        """Returns the mean milliseconds of the whole model of a size."""
        self._wholes[size]()
        self.watch.mark()
        for _ in range(REPEATS):
            self._wholes[size]()
            self.watch.mark()
        return float(np.mean(self.watch.laps()))

    def _refine(self, kind: Kind) -> None:
        """Adds a level inside each interval where the slope changes by more than the noise."""
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

    def timings(self, kind: Kind) -> list[tuple[int, Timing]]:
        """Returns the measured widths of a kind with their fractions of the dense latency."""
        measured = {units: np.array(laps) for units, laps in sorted(self.laps[kind].items()) if laps}
        if self.backend != "eager":  # each was timed in a layer whose other sublayer is empty
            empty = float(np.median(measured[0])) / 2
            measured = {units: np.maximum(laps - empty, 1e-6) for units, laps in measured.items()}
        return [(units, Timing.of(laps.tolist())) for units, laps in measured.items()]

    def table(self, kind: Kind) -> Floats:
        """Returns fractions of the dense latency by number of units, [units + 1]."""
        levels, timings = zip(*self.timings(kind), strict=True)
        return np.interp(np.arange(levels[-1] + 1), levels, monotone(timings))

    def fit_whole(self) -> tuple[float, float]:
        """Fits (fixed, factor): a whole model takes fixed + factor * the sum over its sublayers."""
        tables = {kind: self.table(kind) for kind in KINDS}
        sums = [sum(tables[s.kind][k] for s, k in zip(self.sublayers, a, strict=True)) for a in self.anchors]
        whole = [float(np.median(laps)) for laps in self.whole]
        return fit_line(sums, whole)
