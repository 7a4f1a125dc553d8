"""Multiply-accumulates (MACs) and parameters of sublayers.

Counted as the paper does (section 3.1): layers only, for one sample of mean length; embeddings, pooler and task head
are left out. A layer that is called at several depths counts at each of them, its parameters once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trimformer.data.batches import AUDIO_KEYS, IMAGE_KEYS, Features, mean_choices
from trimformer.errors import TrimformerError, flat
from trimformer.models import Sublayer
from trimformer.models.layer_calls import Batch, LayerCall, record_calls
from trimformer.models.linear import matrix
from trimformer.models.masking import frozen

MEASURED_SOUNDS = 16  # lengths of sounds whose frames are counted; those of others are interpolated


@dataclass(frozen=True)
class Positions:
    """Positions that a sublayer processes per sample.

    Attributes:
        length: positions of a sequence, which attend to each other.
        sequences: sequences of a sample: the choices of a question, otherwise 1.
    """

    length: float
    sequences: float = 1.0


# Positions per sample: the same number for all sublayers, or an entry for each.
Lengths = float | Sequence[float | Positions]


def unit_macs(sublayer: Sublayer, positions: float | Positions) -> float:
    """Returns the MACs of one unit of the sublayer, read off its linear layers."""
    if not isinstance(positions, Positions):
        positions = Positions(positions)
    length = positions.length
    rows = sum(matrix(p.linear).shape[1] * p.rows for p in sublayer.producers if p.reads_hidden)
    macs = length * (rows + sublayer.unit_size * sublayer.hidden_size)
    if sublayer.kind == "attention":
        macs += sublayer.pair_products * length**2 * sublayer.unit_size
        macs += length * sublayer.position_products * sublayer.unit_size
    # Relative positions are projected once per pass, whatever the number of sequences; a pass is taken as one sample.
    once = sum(matrix(p.linear).shape[1] * p.rows * p.position_rows for p in sublayer.producers)
    return sublayer.calls_per_pass * (positions.sequences * macs + once)


def unit_parameters(sublayer: Sublayer) -> int:
    """Returns the parameters of one unit of the sublayer: producer rows with their biases, and projection columns."""
    rows = sum((matrix(p.linear).shape[1] + (p.linear.bias is not None)) * p.rows for p in sublayer.producers)
    return rows + sublayer.unit_size * sublayer.hidden_size


def per_sublayer(lengths: Lengths, sublayers: Sequence[Sublayer]) -> list[float | Positions]:
    """Returns one entry for each sublayer."""
    return [float(lengths)] * len(sublayers) if isinstance(lengths, Real) else list(lengths)  # type: ignore[arg-type]


def model_macs(sublayers: Sequence[Sublayer], lengths: Lengths) -> float:
    """Returns the MACs of all sublayers as they are now, for one sample."""
    return sum(
        s.num_units * unit_macs(s, length)
        for s, length in zip(sublayers, per_sublayer(lengths, sublayers), strict=True)
    )


def layer_lengths(
    model: nn.Module, sublayers: Sequence[Sublayer], batch: Batch, features: Sequence[Features], seq_len: float
) -> list[Positions]:
    """Returns the positions that each sublayer processes per sample, averaged over the samples, [sublayers].

    Layers that process the text get `seq_len`, those of images the positions that they process in `batch`, and those of
    sounds the mean over `features`, without padding.

    Args:
        model: the dense model.
        sublayers: its sublayers.
        batch: any of the samples, padded.
        features: all encoded samples.
        seq_len: tokens of a text, on average.

    Raises:
        TrimformerError: the model's forward does not accept the samples.
    """
    try:
        calls = _calls_by_layer(model, batch)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, TrimformerError):
            raise
        raise TrimformerError(
            f"{type(model).__name__} cannot run these samples: {flat(error)[:300]}; give rows with all its inputs"
        ) from error
    text_layers = _text_layers(model, batch, calls)
    frames = _mean_frames(model, batch, features)
    positions = {}
    for layer, call in calls.items():
        rows, length = call.mask.shape
        if layer in text_layers:
            positions[layer] = Positions(seq_len, mean_choices(features) if batch["input_ids"].dim() == 3 else 1.0)
        else:
            positions[layer] = Positions(frames.get(layer, float(length)), rows / len(batch["index"]))
    return [positions[s.module] for s in sublayers]


def _calls_by_layer(model: nn.Module, batch: Batch) -> dict[nn.Module, LayerCall]:
    with frozen(model):
        return {call.layer: call for call in record_calls(model, batch)}


def _text_layers(model: nn.Module, batch: Batch, calls: dict[nn.Module, LayerCall]) -> set[nn.Module]:
    """Finds the layers that process the text.

    Where a batch has images too, a text may be as long as an image: the text's layers are those that a shorter text
    changes.
    """
    if "input_ids" not in batch:
        return set()
    ids = batch["input_ids"]
    layers = {layer for layer, call in calls.items() if call.mask.shape[1] == ids.shape[-1]}
    other_inputs = {*IMAGE_KEYS, *AUDIO_KEYS} & batch.keys()
    if not other_inputs or not layers or ids.shape[-1] < 2:
        return layers
    shorter = {
        name: value[:, :-1] if name not in other_inputs and value.shape[:2] == ids.shape else value
        for name, value in batch.items()
    }
    shorter_calls = _calls_by_layer(model, shorter)
    return {layer for layer in layers if shorter_calls[layer].mask.shape[1] != ids.shape[-1]}


def _mean_frames(model: nn.Module, batch: Batch, features: Sequence[Features]) -> dict[nn.Module, float]:
    """Returns the mean number of frames that each layer processes of sounds; empty if these do not differ in length.

    Frames are counted on single sounds of up to `MEASURED_SOUNDS` lengths, and interpolated in between.
    """
    key = next((name for name in AUDIO_KEYS if name in batch), None)
    if key is None:
        return {}
    sounds = [_unpadded(sample, key) for sample in features]
    lengths = np.array([len(sound) for sound in sounds])
    unique = np.unique(lengths)
    if len(unique) == 1 and unique[0] == batch[key].shape[1]:
        return {}
    chosen = np.unique(unique[np.linspace(0, len(unique) - 1, MEASURED_SOUNDS).round().astype(int)])
    measured: list[int] = []
    frames: dict[nn.Module, list[int]] = {}
    for length in chosen:
        sound = torch.as_tensor(sounds[int(np.flatnonzero(lengths == length)[0])]).to(batch[key])
        inputs = {key: sound.unsqueeze(0), "index": batch["index"][:1]}
        if "attention_mask" in batch:
            inputs["attention_mask"] = torch.ones_like(sound.unsqueeze(0), dtype=torch.long)
        try:
            calls = _calls_by_layer(model, inputs)
        except (RuntimeError, ValueError):  # too short for the convolutions without padding
            continue
        measured.append(length)
        for layer, call in calls.items():
            frames.setdefault(layer, []).append(call.mask.shape[1])
    return {layer: float(np.interp(lengths, measured, counts).mean()) for layer, counts in frames.items()}


def _unpadded(sample: Features, key: str) -> NDArray[Any]:
    """Returns the sound of a sample without the padding that its attention mask marks."""
    sound = np.asarray(sample[key])
    mask = sample.get("attention_mask")
    return sound if mask is None or len(mask) != len(sound) else sound[np.asarray(mask, dtype=bool)]
