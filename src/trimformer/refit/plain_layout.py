"""A pruned model made plain: layers without units are left out, and its own config says the rest.

Then nothing of ours is needed to load it. In pre-norm models a layer without units adds its biases and nothing else,
which the layer below takes over. In post-norm models it also norms twice; the norm below takes over what of that is
one factor and one shift for each channel, by least squares.
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
from trimformer.utils.distributed import add_up

TOLERANCE = 1e-4  # relative, between what is written and what was measured


def make_plain(student: PreTrainedModel, dense: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """Leaves out the layers that have no units and writes all sizes into the config, in place.

    Args:
        student: pruned to one width, and refitted; see the allocation "plain".
        dense: what it was pruned from.
        batches: calibration samples.

    Raises:
        TrimformerError: the config cannot say it after all: a model made by it computes something else.
    """
    sublayers = find_sublayers(student)
    empty = {s.layer for s in sublayers} - {s.layer for s in sublayers if s.num_units}
    _hand_down(student, batches, empty)
    layers = find_layers(student)
    for index in empty:
        _remove(student, layers[index])
    vars(student.config).pop("quantization_config", None)
    write_sizes(student, find_sublayers(dense), [s for s in sublayers if s.layer not in empty])
    _check(student, batches[0])


def try_plain_layout(model: PreTrainedModel, batch: Batch) -> None:
    """Tries on a copy whether layers of the model can be narrowed and left out, before the long work.

    Args:
        model: dense.
        batch: of samples.

    Raises:
        TrimformerError: its config cannot say such sizes.
    """
    sublayers = find_sublayers(model)
    check_plain_layout(model, sublayers)
    removable, masks = removable_layers(sublayers), []
    for s in sublayers:
        mask = torch.ones(s.num_units)
        if s.kind == "ffn" or supports_fewer_heads(s):
            mask[(s.num_units + 1) // 2 :] = 0
        masks.append(mask * (s.layer not in removable[-1:]))
    student = copy.deepcopy(model).eval()
    shrink(student, masks)
    make_plain(student, model, [batch])


def _hand_down(student: PreTrainedModel, batches: Sequence[Batch], empty: set[int]) -> None:
    """Gives what runs of layers without units do to the layer below each of them."""
    layers = find_layers(student)
    for _, run in groupby(enumerate(sorted(empty)), key=lambda pair: pair[1] - pair[0]):  # neighbours together
        indices = [layer for _, layer in run]
        below = layers[indices[0] - 1]
        sums = _Sums(student, layers[indices[0]], layers[indices[-1]], below)
        with frozen(student), torch.no_grad(), sums:
            for batch in batches:
                sums.batch = batch
                forward(student, batch)
        factor, shift = sums.fit()
        _apply(student, indices[0] - 1, sums.norm, factor, shift)


class _Sums(PaddingTracker):
    """Context manager: sums over tokens of what goes into a run of layers, x, and what comes out of it, y, by channel.

    Attributes:
        norm: the norm of the layer below that makes x; None where there is none, as in pre-norm models.
    """

    def __init__(self, model: PreTrainedModel, bottom: nn.Module, top: nn.Module, below: nn.Module) -> None:
        super().__init__(model)
        self._bottom, self._top, self._below = bottom, top, below
        self._norms: dict[nn.Module, Tensor] = {}
        self._x, self._sums = torch.empty(0), torch.zeros(0)
        self.norm: Any = None

    def __enter__(self) -> "_Sums":
        super().__enter__()
        hidden = find_sublayers(self._model)[0].hidden_size
        for module in self._below.modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.shape == (hidden,):
                self._handles.append(module.register_forward_hook(self._see_norm))
        self._handles.append(self._below.register_forward_hook(self._see_input))
        self._handles.append(self._top.register_forward_hook(self._see_output))
        return self

    def _see_norm(self, module: nn.Module, _: Any, output: Tensor) -> None:
        self._norms[module] = output

    def _see_input(self, _: nn.Module, inputs: Any, output: Any) -> None:
        self._x = hidden_states(output)
        if not len(self._sums):
            makers = [m for m, made in self._norms.items() if torch.equal(made, self._x)]
            self.norm = makers[-1] if makers else None
        self._norms.clear()

    def _see_output(self, _: nn.Module, inputs: Any, output: Any) -> None:
        x, y = self._x[self.mask].double(), hidden_states(output)[self.mask].double()  # [tokens, hidden]
        ones = torch.ones_like(x)
        parts = torch.stack([part.sum(0) for part in (ones, x, y, x * x, x * y)])
        self._sums = parts if not len(self._sums) else self._sums + parts

    def fit(self) -> tuple[Tensor, Tensor]:
        """(factor, shift) of each channel, [hidden], that take x nearest to y; the factor is 1 without a norm."""
        add_up(self._sums)
        count, x, y, xx, xy = self._sums
        variance = xx / count - (x / count).square()
        covariance = xy / count - (x / count) * (y / count)
        factor = torch.where(variance > 1e-12, covariance / variance.clamp(min=1e-12), 1.0)
        if self.norm is None:
            factor = torch.ones_like(factor)
        return factor, (y - factor * x) / count


@torch.no_grad()
def _apply(student: PreTrainedModel, layer: int, norm: Any, factor: Tensor, shift: Tensor) -> None:
    """Folds a factor and a shift of each channel into the end of a layer."""
    if norm is not None:
        norm.weight.mul_(factor.to(norm.weight))
        if getattr(norm, "bias", None) is not None:
            norm.bias.mul_(factor.to(norm.bias)).add_(shift.to(norm.bias))
        return
    if shift.abs().max() < 1e-9:
        return
    last = next(s for s in reversed(find_sublayers(student)) if s.layer == layer)
    is_last = last.output is None or last.gain is not None  # nothing but a factor follows it
    if not is_last or last.projection.bias is None:
        raise TrimformerError(f"layers of {type(student).__name__} cannot be left out; use the layout 'free'")
    gain = torch.ones_like(shift) if last.gain is None else last.gain.double()
    last.projection.bias.add_(torch.where(gain.abs() < 1e-6, 0.0, shift / gain).to(last.projection.bias))


def _remove(model: PreTrainedModel, layer: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and (found := [i for i, m in enumerate(module) if m is layer]):
            del module[found[0]]
            return
    raise TrimformerError(f"layers of {type(model).__name__} are in no list, and none can be left out")


def _check(student: PreTrainedModel, batch: Batch) -> None:
    """Raises:
    TrimformerError: a model that the config makes, with these weights, is another.
    """
    refusal = TrimformerError(
        f"the config of {type(student).__name__} cannot say these sizes: a model made by it computes something else; "
        "use the layout 'free'"
    )
    try:
        config = type(student.config).from_dict(student.config.to_dict())  # as it will be read
        config._attn_implementation = student.config._attn_implementation
        with _default_dtype(student.dtype):
            made = type(student)(config).eval()
        made.load_state_dict(student.state_dict())
    except (RuntimeError, ValueError) as error:
        raise refusal from error
    made.to(student.device)  # type: ignore[arg-type]
    attach_sentence_head(made, sentence_head_of(student))
    assert find_problem(made) == find_problem(student)
    [expected], [found] = predict(student, [batch]), predict(made, [batch])
    if not torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * float(expected.abs().max())):
        raise refusal


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
