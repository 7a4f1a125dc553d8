"""Look-up tables of measured latency, and their files."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.costs.cost_tables import Costs, Floats
from trimformer.errors import TrimformerError, one_sentence
from trimformer.models import Kind, Sublayer, find_sublayers
from trimformer.options.checks import POSITIVE
from trimformer.options.choices import ONNX, Backend
from trimformer.utils.environment import describe_device
from trimformer.utils.input_paths import check_readable
from trimformer.utils.outputs import write_directory

FILES: dict[Kind, str] = {"attention": "mha_lut.pt", "ffn": "ffn_lut.pt"}
METADATA = "lut.json"
_LONGER = 1.25  # ratio of sizes of inputs, such as sounds, up to which a table serves


@dataclass
class LatencyTable:
    """Latency of a sublayer within the whole model in ms, by number of units.

    Attributes:
        levels: per kind [units + 1]: entry k is the latency with k units kept; entry 0 of a dropped sublayer.
        fixed: milliseconds of everything but the sublayers: embeddings, pooler, head, overhead.
        setting: model, shape and machine of the measurement; empty if unknown.
        measured: per kind, the levels that were timed: [units, median, low, high, count].
    """

    levels: dict[Kind, Floats]
    fixed: float = 0.0
    setting: dict[str, Any] = field(default_factory=dict)
    measured: dict[Kind, list[list[float]]] = field(default_factory=dict)

    def costs(self, model: PreTrainedModel) -> Costs:
        """The cost of every number of units of each of the model's sublayers, in ms."""
        return Costs([self.levels[s.kind][: s.num_units + 1] for s in find_sublayers(model)], self.fixed, True)


def widest(sublayers: list[Sublayer], kind: Kind) -> int:
    """Returns the largest number of units of the sublayers of a kind."""
    return max(s.num_units for s in sublayers if s.kind == kind)


def describe_setting(model: PreTrainedModel, batch_size: int, seq_len: int, backend: str) -> dict[str, Any]:
    """Returns everything that a table depends on: model, shape, backend and machine."""
    sublayers = find_sublayers(model)
    attention = next(s for s in sublayers if s.kind == "attention")
    return {
        "model_type": model.config.model_type,
        "class": type(model).__name__,
        "layers": len({s.module for s in sublayers}),
        "hidden_size": attention.hidden_size,
        "head_size": attention.unit_size,
        "heads": widest(sublayers, "attention"),
        "neurons": widest(sublayers, "ffn"),
        "attention": model.config._attn_implementation,
        "dtype": "float32" if backend in ONNX else str(model.dtype).removeprefix("torch."),  # see `as_exported`
        "device": describe_device(model.device),
        "backend": backend,
        "batch_size": batch_size,
        "seq_len": seq_len,
    }


def check_table(table: LatencyTable, model: PreTrainedModel, *, any_setting: bool = False) -> None:
    """Checks that a table was measured for this model on this machine.

    Args:
        table: as read.
        model: on its device.
        any_setting: check only the number of units.

    Raises:
        TrimformerError: the table has too few entries, or another model or machine.
    """
    sublayers = find_sublayers(model)
    for kind, levels in table.levels.items():
        units, needed = len(levels) - 1, widest(sublayers, kind)
        if units < needed or (units > needed and not table.setting and not any_setting):
            raise TrimformerError(
                f"the {kind} table {FILES[kind]} has {units} entries; the model's {kind} sublayers have {needed} units"
            )
    if table.setting and not any_setting:
        here = describe_setting(model, 0, 0, table.setting.get("backend", ""))
        for key in ("model_type", "layers", "hidden_size", "head_size", "attention", "dtype", "device"):
            if table.setting.get(key) != here[key] and (key in table.setting or key != "layers"):
                raise TrimformerError(
                    f"the latency table is of {key} '{table.setting.get(key)}', here it is '{here[key]}'; measure "
                    "one with `trimformer lut`, or use this one nevertheless with --any-lut"
                )


def check_inputs(table: LatencyTable, inputs: Mapping[str, Tensor]) -> None:
    """Checks that a table was measured on inputs of about the sizes that are to be timed: choices, sounds, images.

    Raises:
        TrimformerError: an input has another size, by more than `_LONGER`.
    """
    for name, shape in input_shapes(inputs).items():
        measured = table.setting.get("inputs", {}).get(name, shape)
        sizes = sorted((math.prod(shape), math.prod(measured)))
        if sizes[1] > _LONGER * sizes[0]:
            raise TrimformerError(
                f"the latency table was measured with '{name}' of shape {measured} per sample, and the data have "
                f"{shape}; leave it out, to measure one on the data, or use this one nevertheless with --any-lut"
            )


def input_shapes(inputs: Mapping[str, Tensor]) -> dict[str, list[int]]:
    """Returns the shape of each input without the batch."""
    return {name: list(value.shape[1:]) for name, value in inputs.items()}


def write_table(table: LatencyTable, path: str | Path) -> None:
    """Writes `mha_lut.pt`, `ffn_lut.pt` (entry k - 1 for k units, float64, ms) and `lut.json` to a new directory.

    Raises:
        TrimformerError: the directory is not empty or cannot be written.
    """
    metadata = {
        "dropped_ms": {kind: float(levels[0]) for kind, levels in table.levels.items()},
        "fixed_ms": table.fixed,
        "setting": table.setting,
        "measured": {
            kind: [dict(zip(("units", "ms", "low", "high", "count"), row, strict=True)) for row in rows]
            for kind, rows in table.measured.items()
        },
    }
    with write_directory(path) as directory:
        for kind, name in FILES.items():
            torch.save(torch.from_numpy(table.levels[kind][1:].copy()), directory / name)
        (directory / METADATA).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")


def read_table(mha_lut: str | Path, ffn_lut: str | Path) -> LatencyTable:
    """Reads the two files, and `lut.json` where it lies beside them; the public code's tables come without.

    Raises:
        TrimformerError: a file is missing, is not a list of numbers, or contains latencies that are not positive.
    """
    paths: dict[Kind, Path] = {"attention": Path(mha_lut), "ffn": Path(ffn_lut)}
    table = LatencyTable({kind: np.concatenate([[0.0], _read(path)]) for kind, path in paths.items()})
    metadata = paths["attention"].parent / METADATA
    if metadata.is_file() and paths["attention"].parent == paths["ffn"].parent:
        with one_sentence(f"'{metadata}' cannot be read"):
            content = json.loads(metadata.read_text(encoding="utf-8"))
            for kind, levels in table.levels.items():
                levels[0] = float(content["dropped_ms"][kind])
            table.fixed, table.setting = float(content["fixed_ms"]), dict(content["setting"])
            if not all(0 <= ms < np.inf for ms in (table.fixed, *(levels[0] for levels in table.levels.values()))):
                raise ValueError("latencies that are not positive numbers")
            _check_setting(table.setting)
            table.measured = {
                kind: [list(map(float, row.values())) for row in rows] for kind, rows in content["measured"].items()
            }
    return table


def _check_setting(setting: dict[str, Any]) -> None:
    """Checks the entries of a setting that are read back.

    Raises:
        ValueError: an entry is missing or invalid.
    """
    if not setting:
        return
    if not {"batch_size", "seq_len", "backend"} <= setting.keys():
        raise ValueError("the setting names no batch_size, seq_len and backend")
    for shape in setting.get("inputs", {}).values():
        if not isinstance(shape, list) or not all(isinstance(size, int) for size in shape):
            raise ValueError("the shapes of the inputs are no lists of integers")
    POSITIVE.check(setting["batch_size"], "batch_size")
    POSITIVE.check(setting["seq_len"], "seq_len")
    if setting["backend"] not in get_args(Backend):
        raise ValueError(f"the setting names the backend {setting['backend']!r}, of which no tables are read")


def _read(path: Path) -> Floats:
    check_readable(path, "latency table")
    if not path.is_file():
        raise TrimformerError(f"latency table '{path}' does not exist; make it with `trimformer lut`")
    with one_sentence(f"latency table '{path}' is not a plain tensor or list of numbers"):
        values = torch.as_tensor(torch.load(path, map_location="cpu", weights_only=True), dtype=torch.float64).numpy()
    if values.ndim != 1 or not len(values):
        raise TrimformerError(
            f"latency table '{path}' has shape {values.shape}; it should be a list, one entry per unit"
        )
    if not (np.isfinite(values) & (values > 0)).all():
        raise TrimformerError(f"latency table '{path}' has entries that are not positive numbers; measure it again")
    return values
