"""Audio tasks: classification, regression, multi-label, embeddings, and unlabelled audio for per-frame heads."""

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
from trimformer.data.tasks.sample_labels import LabelTask, add_labels, label_fields, label_names
from trimformer.errors import TrimformerError, one_sentence

AUDIO_COLUMNS = ("audio", "sound", "speech", "wav", "waveform", "audio_path", "path", "file")


@dataclass(frozen=True, kw_only=True)
class AudioTask(LabelTask):
    """One sound per row, with at most one label (or list of labels).

    The feature extractor receives one sound at a time, so that padding does not affect its normalisation.

    Attributes:
        audio_column: column of paths, bytes, or arrays with their sampling rate; see `open_sound`. Plain arrays take
            their rate from the column `sampling_rate`.
    """

    audio_column: str = "audio"

    auto_class: ClassVar[str] = "AutoModelForAudioClassification"

    def length_limit(self, processor: Any, config: PreTrainedConfig) -> int:
        """Returns the task's own limit: only the feature extractor truncates sounds."""
        return self.max_length

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """See `Task.encode`."""
        check_columns(rows, [self.audio_column])
        labels = self.read_labels(rows, config)
        extractor, min_samples = feature_extractor_of(processor), _min_samples(config)
        rate = int(extractor.sampling_rate)
        features = []
        for number, row in numbered(rows):
            where = f"row {number}"
            wave = open_sound(row[self.audio_column], where, rate, row.get("sampling_rate"))
            if len(wave) < min_samples:
                raise TrimformerError(
                    f"the sound of {where} is too short: it has {len(wave)} samples at {rate} Hz, but the model needs "
                    f"{min_samples}"
                )
            with one_sentence(f"the feature extractor fails at {where}"):
                extracted = extractor(wave, sampling_rate=rate, return_tensors="np")
            features.append({key: extracted[key][0] for key in (*AUDIO_KEYS, "attention_mask") if key in extracted})
        return add_labels(features, labels)


def _min_samples(config: PreTrainedConfig) -> int:
    """Returns the number of audio samples that the model's convolutions need to produce one frame."""
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
    """Creates a task for the user's own rows; columns that are not named are guessed from the usual names.

    Raises:
        TrimformerError: no audio column is named and none can be guessed.
    """
    column = columns[0] if columns else guess_column(AUDIO_COLUMNS, rows[0])
    if column is None:
        raise missing_column("audio column", rows[0])
    labels = label_fields(problem, rows, label_names(config), label_column, [column])
    return AudioTask(name="audio", audio_column=column, max_length=NO_LIMIT, **labels)
