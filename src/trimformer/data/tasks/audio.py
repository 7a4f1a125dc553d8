"""Sounds: classification, regression, multi-label, embeddings, and unlabelled sounds for heads of frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from trimformer.data.batches import AUDIO_KEYS, Features
from trimformer.data.media import open_sound
from trimformer.data.outputs import Problem
from trimformer.data.processor import feature_extractor_of
from trimformer.data.rows import Rows, numbered
from trimformer.data.tasks.base import NO_LIMIT, check_columns, guess_column, missing_column
from trimformer.data.tasks.sample_labels import LabelTask, label_fields, label_names, with_labels
from trimformer.errors import TrimformerError, one_sentence

AUDIO_COLUMNS = ("audio", "sound", "speech", "wav", "waveform", "audio_path", "path", "file")


@dataclass(frozen=True, kw_only=True)
class AudioTask(LabelTask):
    """One sound per row, and at most one label (or list of labels).

    The feature extractor sees each sound alone, so that one is not normalised with another's padding.

    Attributes:
        audio_column: of paths, of bytes, or of arrays with their rates; see `open_sound`. The rate of plain arrays is
            the column `sampling_rate`.
    """

    audio_column: str = "audio"

    auto_class: ClassVar[str] = "AutoModelForAudioClassification"

    def length_limit(self, processor: Any, config: PreTrainedConfig) -> int:
        """There is none: sounds are taken whole, or as the feature extractor cuts them."""
        return self.max_length

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        check_columns(rows, [self.audio_column])
        labels = self.labels(rows, config)
        extractor, least = feature_extractor_of(processor), _least_samples(config)
        features = []
        for number, row in numbered(rows):
            where, rate = f"row {number}", int(extractor.sampling_rate)
            wave = open_sound(row[self.audio_column], where, rate, row.get("sampling_rate"))
            if len(wave) < least:
                raise TrimformerError(
                    f"the sound of {where} is too short: it has {len(wave)} samples at {rate} a second, and the model "
                    f"needs {least}"
                )
            with one_sentence(f"the feature extractor fails at {where}"):
                made = extractor(wave, sampling_rate=rate, return_tensors="np")
            features.append({key: made[key][0] for key in (*AUDIO_KEYS, "attention_mask") if key in made})
        return with_labels(features, labels)


def _least_samples(config: PreTrainedConfig) -> int:
    """Samples from which a model's convolutions make one frame."""
    samples = 1
    kernels, strides = getattr(config, "conv_kernel", None), getattr(config, "conv_stride", None)
    if isinstance(kernels, list | tuple) and isinstance(strides, list | tuple):
        for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
            samples = (samples - 1) * stride + kernel
    return samples


def audio_task(
    problem: Problem,
    config: PreTrainedConfig,
    rows: Rows,
    *,
    columns: Sequence[str] | None = None,
    label_column: str | None = None,
) -> AudioTask:
    """A task for the user's own rows; columns not named are guessed from the usual names.

    Raises:
        TrimformerError: no column of sounds is named and none can be guessed.
    """
    column = columns[0] if columns else guess_column(AUDIO_COLUMNS, rows[0])
    if column is None:
        raise missing_column("audio column", rows[0])
    found = label_fields(problem, rows, label_names(config), label_column, [column])
    return AudioTask(name="audio", audio_column=column, max_length=NO_LIMIT, **found)
