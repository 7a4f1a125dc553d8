"""The plain layout: a pruned model that its family's own config describes, so Transformers alone loads it.

Layers without units are removed. In a pre-norm model such a layer only adds its biases, so the layer below takes them
over exactly. In a post-norm model it also normalises twice. The norm below approximates that by one factor and one
shift per channel, fitted by least squares.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimformer.checkpoints.shrink import shrink
from trimformer.data.outputs import find_problem, predict
from trimformer.data.sentence_transformers import attach_sentence_head, sentence_head_of
from trimformer.errors import TrimformerError
from trimformer.models import find_layers, find_sublayers
from trimformer.models.layer_calls import Batch, PaddingTracker, forward, hidden_states
from trimformer.models.masking import frozen
from trimformer.models.plain_config import check_plain_layout, removable_layers, supports_fewer_heads, write_sizes
from trimformer.utils.distributed import sum_over_processes

TOLERANCE = 1e-4  # relative difference of outputs between the model and the one built from its config


def make_plain(student: PreTrainedModel, dense: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Removes the layers without units and writes all sizes into the config, in place.

    Args:
        student: model pruned to one width by the allocation "plain", and refitted.
        dense: the dense model.
        batches: calibration samples.

    Raises:
        TrimformerError: a model built from the config would give other outputs.
    """
    sublayers = find_sublayers(student)
    empty = {s.layer for s in sublayers} - {s.layer for s in sublayers if s.num_units}
    _fold_empty_layers(student, batches, empty)
    layers = find_layers(student)
    for index in empty:
        _remove(student, layers[index])
    vars(student.config).pop("quantization_config", None)
    write_sizes(student, find_sublayers(dense), [s for s in sublayers if s.layer not in empty])
    _check_config(student, batches[0])


def try_plain_layout(model: PreTrainedModel, batch: Batch) -> None:
    """Tries the plain layout on a copy of the dense model, so that it fails before the long work.

    Args:
        model: the dense model.
        batch: one batch of calibration samples.

    Raises:
        TrimformerError: the model's config cannot express narrower or fewer layers.
    """
    sublayers = find_sublayers(model)
    check_plain_layout(model, sublayers)
    removable, masks = removable_layers(sublayers), []
    for s in sublayers:
        mask = torch.ones(s.num_units)
        if s.kind == "ffn" or supports_fewer_heads(s):
            mask[(s.num_units + 1) // 2 :] = 0
        masks.append(mask * (s.layer not in removable[:1]))  # layers may compute by their index, which falls above it
    student = copy.deepcopy(model).eval()
    shrink(student, masks)
    make_plain(student, model, [batch])


def _fold_empty_layers(student: PreTrainedModel, batches: Sequence[Batch], empty: set[int]) -> None:
    """Folds the effect of each run of adjacent layers without units into the layer below the run."""
    layers = find_layers(student)
    for _, run in groupby(enumerate(sorted(empty)), key=lambda pair: pair[1] - pair[0]):
        indices = [layer for _, layer in run]
        sums = _AffineSums(student, layers[indices[0] - 1], layers[indices[-1]])
        with frozen(student), torch.no_grad(), sums:
            for batch in batches:
                sums.batch = batch
                forward(student, batch)
        factor, shift = sums.fit()
        _fold_affine(student, indices[0] - 1, sums.norm, factor, shift)


class _AffineSums(PaddingTracker):
    """Context manager that sums, per channel over tokens, the input x and the output y of a run of layers.

    Args:
        model: the model; its `batch` is set before each forward pass.
        below: the layer below the run, whose output is x.
        top: the last layer of the run, whose output is y.

    Attributes:
        norm: the norm in the layer below whose output is x; None in pre-norm models.
    """

    def __init__(self, model: PreTrainedModel, below: nn.Module, top: nn.Module) -> None:
        super().__init__(model)
        self._below, self._top = below, top
        self._norms: dict[nn.Module, Tensor] = {}
        self._x, self._sums = torch.empty(0), torch.zeros(0)
        self.norm: Any = None

    def __enter__(self) -> "_AffineSums":
        super().__enter__()
        hidden = find_sublayers(self._model)[0].hidden_size
        for module in self._below.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.shape == (hidden,):
                self._handles.append(module.register_forward_hook(self._record_norm))
        self._handles.append(self._below.register_forward_hook(self._record_input))
        self._handles.append(self._top.register_forward_hook(self._record_output))
        return self

    def _record_norm(self, module: nn.Module, _: Any, output: Tensor) -> None:
        self._norms[module] = output

    def _record_input(self, _: nn.Module, inputs: Any, output: Any) -> None:
        self._x = hidden_states(output)
        if not len(self._sums):
            sources = [norm for norm, normed in self._norms.items() if torch.equal(normed, self._x)]
            self.norm = sources[-1] if sources else None
        self._norms.clear()

    def _record_output(self, _: nn.Module, inputs: Any, output: Any) -> None:
        x, y = self._x[self.mask].double(), hidden_states(output)[self.mask].double()  # [tokens, hidden]
        ones = torch.ones_like(x)
        parts = torch.stack([part.sum(0) for part in (ones, x, y, x * x, x * y)])
        self._sums = parts if not len(self._sums) else self._sums + parts

    def fit(self) -> tuple[Tensor, Tensor]:
        """Fits factor and shift, both [hidden], from x to y by least squares; without a norm the factor is 1."""
        sum_over_processes(self._sums)
        count, x, y, xx, xy = self._sums
        variance = xx / count - (x / count).square()
        covariance = xy / count - (x / count) * (y / count)
        factor = torch.where(variance > 1e-12, covariance / variance.clamp(min=1e-12), 1.0)
        if self.norm is None:
            factor = torch.ones_like(factor)
        return factor, (y - factor * x) / count


@torch.no_grad()
def _fold_affine(student: PreTrainedModel, layer: int, norm: Any, factor: Tensor, shift: Tensor) -> None:
    """Folds a factor and a shift per channel, both [hidden], into the norm or last projection of a layer."""
    if norm is not None:
        norm.weight.mul_(factor.to(norm.weight))
        if getattr(norm, "bias", None) is not None:
            norm.bias.mul_(factor.to(norm.bias)).add_(shift.to(norm.bias))
        return
    if shift.abs().max() < 1e-9:
        return
    last = next(s for s in reversed(find_sublayers(student)) if s.layer == layer)
    foldable = last.output is None or last.gain is not None  # at most a factor follows the projection
    if not foldable or last.projection.bias is None:
        raise TrimformerError(f"layers of {type(student).__name__} cannot be removed; use the layout 'free'")
    gain = torch.ones_like(shift) if last.gain is None else last.gain.double()
    last.projection.bias.add_(torch.where(gain.abs() < 1e-6, 0.0, shift / gain).to(last.projection.bias))


def _remove(model: PreTrainedModel, layer: nn.Module) -> None:
    """Removes a layer from the module list that holds it."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and (positions := [i for i, m in enumerate(module) if m is layer]):
            del module[positions[0]]
            for index in range(positions[0], len(module)):
                _renumber(module[index])
            return
    raise TrimformerError(
        f"layers of {type(model).__name__} are not in a list, so none can be removed; use the layout 'free'"
    )


def _renumber(layer: nn.Module) -> None:
    """Lowers the index under which a layer's parts find their keys and values in a cache."""
    for part in layer.modules():
        if isinstance(getattr(part, "layer_idx", None), int):
            part.layer_idx -= 1  # type: ignore[assignment, operator]


def _check_config(student: PreTrainedModel, batch: Batch) -> None:
    """Builds a model from the config, loads the student's weights and compares the outputs on a batch.

    Raises:
        TrimformerError: the outputs differ, or the weights do not fit.
    """
    refusal = TrimformerError(
        f"the config of {type(student).__name__} cannot express these sizes: a model built from it gives other "
        "outputs; use the layout 'free'"
    )
    try:
        config = type(student.config).from_dict(student.config.to_dict())  # as it is read from disk
        config._attn_implementation = student.config._attn_implementation
        with _default_dtype(student.dtype):
            rebuilt = type(student)(config).eval()
        rebuilt.load_state_dict(student.state_dict())
    except (RuntimeError, ValueError) as error:
        raise refusal from error
    rebuilt.to(student.device)  # type: ignore[arg-type]
    attach_sentence_head(rebuilt, sentence_head_of(student))
    assert find_problem(rebuilt) == find_problem(student)
    [expected], [output] = predict(student, [batch]), predict(rebuilt, [batch])
    if not torch.allclose(output, expected, rtol=TOLERANCE, atol=TOLERANCE * float(expected.abs().max())):
        raise refusal


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
