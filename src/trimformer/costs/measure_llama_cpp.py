"""Measures latency tables in llama.cpp, on a few GGUF files of the model.

A sublayer takes a constant and a time for each row of its matrices, in both phases. So nine whole models determine a
table: the dense one; those whose feed-forward or attention sublayers have half of their width or the least; one
of half the width in both; one without half of its layers; one without attention, where llama.cpp runs it; and one
without any unit. They keep the first units of each sublayer, the embeddings and the vocabulary's matrix, and are timed
in turns, each as a fraction of the dense model in the same turn. Constants and slopes, one slope below half of the
width and one above, fit the medians by least squares of the relative error, none of them negative.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from transformers import PreTrainedModel

from trimformer.costs.cost_tables import Floats
from trimformer.costs.latency_bench import check_uniform, resized
from trimformer.costs.llama_cpp_memory import model_memory
from trimformer.costs.lookup_tables import LatencyTable, describe_setting, widest
from trimformer.costs.workloads import LlamaCppRun
from trimformer.export.gguf.architecture import (
    FREE,
    QUANTIZED_BLOCK,
    LayerSize,
    choose_architecture,
    needs_head,
    pruned_graph,
    written_neurons,
)
from trimformer.export.gguf.graph_families import parts_of_layers
from trimformer.models import KINDS, Kind, find_sublayers
from trimformer.options.choices import LLAMA_CPP
from trimformer.utils.environment import versions
from trimformer.utils.memory import free_memory

logger = logging.getLogger(__name__)

_MEMORY = 0.5  # share of the free memory that the files may take together, which all stay loaded
_LEAST_LAYERS = 4


@dataclass(frozen=True)
class _Widths:
    """Splits the time of a sublayer into that of its least width, and those of two ranges of wider ones.

    Attributes:
        knots: the least width, a middle one and the largest one.
    """

    knots: tuple[int, int, int]

    def parts(self, width: int) -> Floats:
        """Returns the shares of the three parts in a sublayer of a width; none in a sublayer that is not there."""
        least, middle, most = self.knots
        above = [(width - a) / (b - a) if b > a else 0.0 for a, b in ((least, middle), (middle, most))]
        return np.asarray([1.0, *np.clip(above, 0.0, 1.0)]) * (width > 0)


def measure_llama_cpp_table(model: PreTrainedModel, run: LlamaCppRun, *, seconds: float = 60.0) -> LatencyTable:
    """Times a few models in llama.cpp and fills a table for every width.

    A level without neurons is that of the smallest width in a file. A model from which whole layers are left out takes
    less than its sublayers together.

    Args:
        model: the dense model; it is not changed.
        run: what is timed.
        seconds: approximate time of the turns; at least 7. Writing and loading the files come on top.

    Raises:
        TrimformerError: llama.cpp cannot run the model, or its layers differ in shape.
    """
    check_uniform(model, [])
    sublayers = find_sublayers(model)
    heads, neurons = widest(sublayers, "attention"), widest(sublayers, "ffn")
    widths: dict[Kind, _Widths] = {
        "attention": _Widths((1, (heads + 1) // 2, max(heads, 1))),
        "ffn": _Widths((QUANTIZED_BLOCK, written_neurons(neurons // 2), written_neurons(neurons))),
    }
    graph = pruned_graph(model)
    designs = _designs(model, heads, neurons, timed_layers(model, run), free=graph in FREE)
    rows: list[Floats] = []

    def models() -> Iterator[PreTrainedModel]:
        for units in designs:
            small = resized(model, units)
            rows.append(_parts(choose_architecture(small).sizes, widths))
            yield small

    laps = np.asarray(run.time(models(), seconds))
    ratios = np.median(laps / laps[0], axis=1)
    parts, _ = nnls(np.stack(rows) / ratios[:, None], np.ones(len(ratios)))
    worst = np.abs(np.stack(rows) @ parts / ratios - 1).max()
    logger.info("the latency table fits the %d timed models to %.1f %%", len(ratios), 100 * worst)

    empty = int(needs_head(parts_of_layers(model)[0], False, graph))
    written: dict[Kind, list[int]] = {
        "attention": [max(units, empty) for units in range(heads + 1)],
        "ffn": [written_neurons(units) for units in range(neurons + 1)],
    }
    levels = {
        kind: np.asarray([widths[kind].parts(width) @ parts[1 + 3 * i : 4 + 3 * i] for width in written[kind]])
        for i, kind in enumerate(KINDS)
    }
    # From fractions of the dense latency to milliseconds; the sum for the dense model is what was measured.
    scale = float(np.median(laps[0])) / LatencyTable(levels, float(parts[0])).costs(model).dense
    setting = describe_setting(model, 1, run.tokens, LLAMA_CPP)
    setting |= {"quantize": run.quantize, "phase": run.phase, "versions": versions()}
    return LatencyTable({kind: scale * levels[kind] for kind in KINDS}, scale * float(parts[0]), setting)


def _designs(model: PreTrainedModel, heads: int, neurons: int, layers: int, *, free: bool) -> list[list[int]]:
    """Returns the units of each sublayer of the models to time, the dense one first.

    Args:
        model: the dense model.
        heads: most units of its attention sublayers.
        neurons: most units of its feed-forward sublayers.
        layers: to keep in all but the dense model.
        free: whether layers may be without attention.
    """
    half = (heads + 1) // 2, neurons // 2
    sizes = [(heads, half[1]), (heads, 0), (half[0], neurons), (1, neurons), half, *([(0, neurons)] if free else [])]
    sublayers = find_sublayers(model)

    def units(size: tuple[int, int], kept: int) -> list[int]:
        of_kind = dict(zip(KINDS, size, strict=True))
        return [min(of_kind[s.kind], s.num_units) if s.layer < kept else 0 for s in sublayers]

    dense = [s.num_units for s in sublayers]
    designs = [
        dense,
        *(units(size, layers) for size in sizes),
        units((heads, neurons), layers // 2),
        units((1, 0), 1),
    ]
    return [list(design) for design in dict.fromkeys(map(tuple, designs))]


def timed_layers(model: PreTrainedModel, run: LlamaCppRun) -> int:
    """Returns the layers of the models beside the dense one: all, or as many as fit into memory with all files."""
    layers = max(s.layer for s in find_sublayers(model)) + 1
    bytes_together = 9 * model_memory(model, run.quantize, run.tokens).total
    share = _MEMORY * free_memory(torch.device("cpu")) / bytes_together
    return min(layers, max(_LEAST_LAYERS, int(share * layers)))


def _parts(sizes: Sequence[LayerSize], widths: dict[Kind, _Widths]) -> Floats:
    """Returns what a file consists of: everything but the layers once, and the parts of its sublayers by kind."""
    attention = sum((widths["attention"].parts(size.kv_heads) for size in sizes), np.zeros(3))
    ffn = sum((widths["ffn"].parts(size.neurons) for size in sizes), np.zeros(3))
    return np.concatenate([[1.0], attention, ffn])
