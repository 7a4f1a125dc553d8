"""Decodes images (with Pillow) and sounds (with soundfile) from paths, bytes, arrays or objects."""

import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trimformer.errors import TrimformerError, one_sentence, quoted
from trimformer.utils.packages import check_packages

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
SOUND_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")

# Of a recording, in Hz; the work of resampling grows with the ratio of two rates.
_LOWEST_RATE, _HIGHEST_RATE = 100, 1_000_000

# libsndfile's log of a file whose header promises more than there is. Sizes near 2^31 and 2^32 mean an unknown length.
_SHORT = re.compile(r"\b(?:data|SSND|BODY|Data Size|riff|Riff size) *: (\d+) \(should be (\d+)\)")
_LOUDEST = 10.0  # float samples beyond are no fractions of full scale
_UNKNOWN_LENGTH = 2**31 - 2**16


def check_image_package() -> None:
    """Checks that Pillow, which decodes images, is installed; raises `TrimformerError` if not."""
    check_packages("images need", ("PIL",), "vision")


def check_sound_package() -> None:
    """Checks that soundfile, which decodes sounds, is installed; raises `TrimformerError` if not."""
    check_packages("sounds need", ("soundfile",), "audio")


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
    check_image_package()
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
        rate = value.get("sampling_rate")
        value, source_rate = np.asarray(value["array"]), source_rate if rate is None else rate
    value, where = _source(value, f"the sound of {where}")
    if isinstance(value, io.BytesIO | Path):
        wave, source_rate = _decode_sound(value, where)
    elif hasattr(value, "__array__") or isinstance(value, list):
        with one_sentence(f"{where} is not an array of samples"):
            samples = np.asarray(value)
            raw = samples.astype(np.int16) if _is_listed_pcm(samples) else samples
            wave = np.atleast_2d(_as_floats(raw))
        _check_scale(raw, wave, where)
    else:
        raise TrimformerError(f"{where} is of type {type(value).__name__}; give a path, bytes or an array")
    if not wave.size:
        raise TrimformerError(f"{where} is empty")
    if wave.ndim > 2:
        raise TrimformerError(f"{where} has {wave.ndim} dimensions; give [samples] or [channels, samples]")
    if len(wave) > wave.shape[1]:
        raise TrimformerError(
            f"{where} has {len(wave):,} channels of {wave.shape[1]:,} samples; give [channels, samples] (array.T)"
        )
    source_rate = _check_rate(source_rate, where)
    mono = wave.mean(0)
    if not np.isfinite(mono).all():
        raise TrimformerError(f"{where} holds NaN or infinite samples; remove or replace them")
    with one_sentence(f"{where} cannot be resampled from {source_rate} to {target_rate} Hz"):
        return _resample(mono, source_rate, target_rate)


def _is_listed_pcm(samples: NDArray[Any]) -> bool:
    """Returns whether integers are PCM of 16 bits that lost its type, in a list or a file of JSON."""
    pcm = np.iinfo(np.int16)
    return samples.dtype == np.int64 and bool(((samples >= pcm.min) & (samples <= pcm.max)).all())


def _check_scale(samples: NDArray[Any], wave: NDArray[np.float32], where: str) -> None:
    """Checks that samples are floats from -1 to 1, or PCM that was brought there.

    Args:
        samples: as given.
        wave: as floats.
        where: names the sound.

    Raises:
        TrimformerError: they are integers of another size, or floats that can only be unscaled PCM.
    """
    finite = wave[np.isfinite(wave)]
    is_loud = finite.size and float(np.abs(finite).max()) > _LOUDEST
    if is_loud or (samples.size and samples.dtype.kind in "iu" and samples.dtype not in (np.int16, np.int32)):
        raise TrimformerError(
            f"{where} has samples of type {samples.dtype} up to {float(np.abs(finite).max()):g}; give floats from -1 "
            "to 1, or an array of int16"
        )


def _as_floats(wave: NDArray[Any]) -> NDArray[np.float32]:
    """Returns samples as numbers from -1 to 1, as files are decoded, where they are PCM of 16 or 32 bits."""
    scale = -float(np.iinfo(wave.dtype).min) if wave.dtype in (np.int16, np.int32) else 1.0
    return np.asarray(wave / scale, dtype=np.float32)


def _decode_sound(value: io.BytesIO | Path, where: str) -> tuple[NDArray[np.float32], int]:
    """Decodes a file to [channels, samples] and its sampling rate.

    Raises:
        TrimformerError: the file cannot be read, is cut short, or soundfile is not installed.
    """
    check_sound_package()
    import soundfile  # type: ignore[import-untyped]

    with one_sentence(f"{where} cannot be read"), soundfile.SoundFile(value) as file:
        wave, rate = file.read(dtype="float32", always_2d=True).T, int(file.samplerate)
        sizes = [tuple(map(int, match)) for match in _SHORT.findall(file.extra_info)]
        is_short = any(actual < promised < _UNKNOWN_LENGTH for promised, actual in sizes)
        is_mp3, is_ogg = file.format in ("MP3", "MPEG"), file.format == "OGG"
        is_short |= wave.shape[1] < file.frames * (0.9 if is_mp3 else 1)  # the frames of an MP3 are an estimate
    if is_short or (is_ogg and _ends_within_page(value)):
        raise TrimformerError(f"{where} is cut short: it ends before its header says; copy or download it again")
    return wave, rate


def _ends_within_page(value: io.BytesIO | Path) -> bool:
    """Whether an Ogg file ends within its last page, whose header holds the sizes of its parts from byte 27 on."""
    content = value.getvalue() if isinstance(value, io.BytesIO) else value.read_bytes()
    start = content.rfind(b"OggS")
    header = content[start : start + 27]
    sizes = content[start + 27 : start + 27 + header[26]] if len(header) == 27 else b""
    return len(header) < 27 or len(sizes) < header[26] or start + 27 + len(sizes) + sum(sizes) > len(content)


def _check_rate(rate: Any, where: str) -> int:
    """Returns a sampling rate as an integer.

    Raises:
        TrimformerError: the value is no whole number of Hz, or not one of a recording.
    """
    is_number = isinstance(rate, int | float | np.number) and not isinstance(rate, bool)
    if not is_number or not 0 < rate < math.inf or rate != int(rate):
        raise TrimformerError(f"{where} has no valid sampling rate ({quoted(rate)}); give it in Hz as 'sampling_rate'")
    if not _LOWEST_RATE <= rate <= _HIGHEST_RATE:
        raise TrimformerError(
            f"{where} has a sampling rate of {quoted(int(rate))} Hz, which no recording has; its header or "
            f"'sampling_rate' is wrong, so give one from {_LOWEST_RATE} to {_HIGHEST_RATE}"
        )
    return int(rate)


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
        name = f" ({quoted(value['path'], 100)})" if value.get("path") else ""
        if value.get("bytes") is not None:
            return io.BytesIO(value["bytes"]), where + name
        if not name:
            raise TrimformerError(f"{where} is a dictionary without 'bytes' or 'path'; give one of them")
        value = value["path"]
    if isinstance(value, bytes | bytearray):
        return io.BytesIO(value), where
    if isinstance(value, str | Path):
        if not is_file(value):
            raise TrimformerError(f"{where} is {quoted(str(value), 100)}, which is not a file")
        return Path(value), f"{where} ('{value}')"
    return value, where


def is_file(path: str | Path) -> bool:
    """Whether a value names a file; False for one that no file can have, such as a text."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False
