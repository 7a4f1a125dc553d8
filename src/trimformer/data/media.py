"""Images and sounds as files, bytes, arrays or objects, decoded by Pillow and soundfile."""

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


def require(package: str) -> None:
    """Raises:
    TrimformerError: the package that decodes images (PIL) or sounds (soundfile) is not installed.
    """
    if find_spec(package) is None:
        what, extra = _PACKAGES[package]
        raise TrimformerError(f"{what}: pip install 'trimformer[{extra}]'")


def is_image(value: Any) -> bool:
    """Whether it is an image of Pillow's; tells without importing it."""
    return any(base.__module__.startswith("PIL.") for base in type(value).__mro__)


def open_image(value: Any, where: str) -> Any:
    """An image in RGB, as a PIL image.

    Args:
        value: a path, bytes of a file, a dictionary with one of them (as `datasets` stores images), a PIL image, or an
            array of bytes [height, width] or [height, width, channels]. 16 bits are brought to 8; of a moving image the
            first frame is taken.
        where: whose image it is, for messages.

    Raises:
        TrimformerError: it cannot be read, or Pillow is missing.
    """
    require("PIL")
    from PIL import Image, ImageOps

    value, where = _source(value, f"the image of {where}")
    if hasattr(value, "__array__") and not is_image(value):
        with one_sentence(f"{where} is an array that is no image; give bytes [height, width, channels]"):
            value = Image.fromarray(np.asarray(value))
    if not is_image(value) and not isinstance(value, io.BytesIO | Path):
        raise TrimformerError(f"{where} is of type {type(value).__name__}; give a path, bytes or a PIL image")
    with one_sentence(f"{where} cannot be read"):
        image = value if is_image(value) else Image.open(value)
        image.load()
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise TrimformerError(f"{where} has fractions as pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # Pillow would cut 16 bits off at 255
        pixels = np.asarray(image).astype(np.int64)
        image = Image.fromarray((pixels // 256 if pixels.max() > 255 else pixels).clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def open_sound(value: Any, where: str, rate: int, own_rate: int | None = None) -> NDArray[np.float32]:
    """A sound as one channel [samples] at the rate that the model takes.

    Channels are averaged. A sound at another rate is resampled by `scipy.signal.resample_poly`.

    Args:
        value: a path, bytes of a file, a dictionary with one of them, or a dictionary with `array` ([samples], or
            [channels, samples]) and `sampling_rate`, or such an array.
        where: whose sound it is, for messages.
        rate: samples per second that the model takes.
        own_rate: samples per second of an array.

    Raises:
        TrimformerError: it cannot be read, is empty or has no rate, or soundfile is missing.
    """
    if isinstance(value, Mapping) and value.get("array") is not None:
        value, own_rate = np.asarray(value["array"]), value.get("sampling_rate") or own_rate
    value, where = _source(value, f"the sound of {where}")
    if isinstance(value, io.BytesIO | Path):
        require("soundfile")
        import soundfile  # type: ignore[import-untyped]

        with one_sentence(f"{where} cannot be read"):
            wave, own_rate = soundfile.read(value, dtype="float32", always_2d=True)
        wave = wave.T
    elif hasattr(value, "__array__") or isinstance(value, list):
        with one_sentence(f"{where} is no array of samples"):
            wave = np.atleast_2d(np.asarray(value, dtype=np.float32))
    else:
        raise TrimformerError(f"{where} is of type {type(value).__name__}; give a path, bytes, or an array with a rate")
    if not wave.size:
        raise TrimformerError(f"{where} is empty")
    if wave.ndim > 2:
        raise TrimformerError(f"{where} has {wave.ndim} dimensions; give [samples] or [channels, samples]")
    if not isinstance(own_rate, int | float | np.number) or not 0 < own_rate < math.inf:
        raise TrimformerError(f"{where} has no sampling rate, but {own_rate}; give it as 'sampling_rate'")
    mono = wave.mean(0)
    if not np.isfinite(mono).all():
        raise TrimformerError(f"{where} holds samples that are no numbers")
    return _resampled(mono, int(own_rate), rate)


def _resampled(wave: NDArray[np.float32], rate: int, wanted: int) -> NDArray[np.float32]:
    if rate == wanted:
        return wave
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    return resample_poly(wave, wanted // common, rate // common).astype(np.float32)


def _source(value: Any, where: str) -> tuple[Any, str]:
    """What is to be read, and how to call it in a message, with the file's name where there is one.

    Raises:
        TrimformerError: a file does not exist, or a dictionary holds neither bytes nor a path.
    """
    if isinstance(value, Mapping):
        name = f" ('{value['path']}')" if value.get("path") else ""
        if value.get("bytes") is not None:
            return io.BytesIO(value["bytes"]), where + name
        if not name:
            raise TrimformerError(f"{where} is a dictionary without 'bytes' and 'path'; give one of them")
        value = value["path"]
    if isinstance(value, bytes | bytearray):
        return io.BytesIO(value), where
    if isinstance(value, str | Path):
        if not Path(value).is_file():
            raise TrimformerError(f"{where} is '{value}', which is no file")
        return Path(value), f"{where} ('{value}')"
    return value, where
