"""Decodes images (with Pillow) and sounds (with soundfile) from paths, bytes, arrays or objects."""

import io
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimformer.errors import TrimformerError, one_sentence

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")

_PACKAGES = {"PIL": ("images need Pillow", "vision"), "soundfile": ("sounds need soundfile", "audio")}


def require_decoder(package: str) -> None:
    """Checks that the package that decodes images (PIL) or sounds (soundfile) is installed.

    Raises:
        TrimformerError: the package is not installed.
    """
    if find_spec(package) is None:
        need, extra = _PACKAGES[package]
        raise TrimformerError(f"{need}; install it with: pip install 'trimformer[{extra}]'")


def is_image(value: Any) -> bool:
    """Whether a value is a PIL image, without importing Pillow."""
    return any(base.__module__.startswith("PIL.") for base in type(value).__mro__)


def open_image(value: Any, where: str) -> Any:
    """Opens an image as a PIL image in RGB.

    16-bit pixels are reduced to 8 bits; of an animated image the first frame is used.

    Args:
        value: a path, the bytes of a file, a dictionary with one of them (as `datasets` stores images), a PIL image, or
            a uint8 array [height, width] or [height, width, channels].
        where: description of the row, for error messages.

    Raises:
        TrimformerError: the image cannot be read, or Pillow is not installed.
    """
    require_decoder("PIL")
    from PIL import Image, ImageOps

    value, where = _source(value, f"the image of {where}")
    if hasattr(value, "__array__") and not is_image(value):
        with one_sentence(f"{where} is an array that is not an image; give a uint8 array [height, width, channels]"):
            value = Image.fromarray(np.asarray(value))
    if not is_image(value) and not isinstance(value, io.BytesIO | Path):
        raise TrimformerError(f"{where} is of type {type(value).__name__}; give a path, bytes or a PIL image")
    with one_sentence(f"{where} cannot be read"):
        image = value if is_image(value) else Image.open(value)
        image.load()
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise TrimformerError(f"{where} has floating-point pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow would clip 16-bit pixels at 255
        pixels = np.asarray(image).astype(np.int64)
        image = Image.fromarray((pixels // 256 if pixels.max() > 255 else pixels).clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def open_sound(value: Any, where: str, target_rate: int, source_rate: int | None = None) -> NDArray[np.float32]:
    """Opens a sound as one channel [samples] at the model's sampling rate.

    Channels are averaged. Other sampling rates are resampled with `scipy.signal.resample_poly`.

    Args:
        value: a path, the bytes of a file, a dictionary with one of them, an array [samples] or [channels, samples], or
            a dictionary with `array` and `sampling_rate`.
        where: description of the row, for error messages.
        target_rate: sampling rate of the model, in Hz.
        source_rate: sampling rate of an array, in Hz.

    Raises:
        TrimformerError: the sound cannot be read, is empty or has no sampling rate, or soundfile is not installed.
    """
    if isinstance(value, Mapping) and value.get("array") is not None:
        value, source_rate = np.asarray(value["array"]), value.get("sampling_rate") or source_rate
    value, where = _source(value, f"the sound of {where}")
    if isinstance(value, io.BytesIO | Path):
        require_decoder("soundfile")
        import soundfile  # type: ignore[import-untyped]

        with one_sentence(f"{where} cannot be read"):
            wave, source_rate = soundfile.read(value, dtype="float32", always_2d=True)
        wave = wave.T
    elif hasattr(value, "__array__") or isinstance(value, list):
        with one_sentence(f"{where} is not an array of samples"):
            wave = np.atleast_2d(np.asarray(value, dtype=np.float32))
    else:
        raise TrimformerError(f"{where} is of type {type(value).__name__}; give a path, bytes or an array")
    if not wave.size:
        raise TrimformerError(f"{where} is empty")
    if wave.ndim > 2:
        raise TrimformerError(f"{where} has {wave.ndim} dimensions; give [samples] or [channels, samples]")
    if not isinstance(source_rate, int | float | np.number) or not 0 < source_rate < math.inf:
        raise TrimformerError(f"{where} has no valid sampling rate ({source_rate}); give it in Hz as 'sampling_rate'")
    mono = wave.mean(0)
    if not np.isfinite(mono).all():
        raise TrimformerError(f"{where} holds NaN or infinite samples; remove or replace them")
    return _resample(mono, int(source_rate), target_rate)


def _resample(wave: NDArray[np.float32], source_rate: int, target_rate: int) -> NDArray[np.float32]:
    if source_rate == target_rate:
        return wave
    from scipy.signal import resample_poly

    divisor = math.gcd(source_rate, target_rate)
    return resample_poly(wave, target_rate // divisor, source_rate // divisor).astype(np.float32)


def _source(value: Any, where: str) -> tuple[Any, str]:
    """Returns what to decode (a path, a byte stream or the value itself) and its description with the file's name.

    Raises:
        TrimformerError: the file does not exist, or a dictionary holds neither bytes nor a path.
    """
    if isinstance(value, Mapping):
        name = f" ('{value['path']}')" if value.get("path") else ""
        if value.get("bytes") is not None:
            return io.BytesIO(value["bytes"]), where + name
        if not name:
            raise TrimformerError(f"{where} is a dictionary without 'bytes' or 'path'; give one of them")
        value = value["path"]
    if isinstance(value, bytes | bytearray):
        return io.BytesIO(value), where
    if isinstance(value, str | Path):
        if not Path(value).is_file():
            raise TrimformerError(f"{where} is '{value}', which is not a file")
        return Path(value), f"{where} ('{value}')"
    return value, where
