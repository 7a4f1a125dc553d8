"""Decoding images and sounds from paths, bytes, arrays and objects."""

import io
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.data.media_fixtures import RATE, make_pixels, make_wave, save_image, save_sound
from trimformer.data.media import open_image, open_sound
from trimformer.errors import TrimformerError


def test_every_source_of_an_image_gives_the_same_pixels(tmp_path):
    path = save_image(tmp_path / "a.png")
    content = path.read_bytes()
    sources = [path, str(path), content, {"bytes": content, "path": None}, {"bytes": None, "path": str(path)}]
    for value in [*sources, Image.open(path), make_pixels()]:
        assert np.array_equal(np.asarray(open_image(value, "row 1")), make_pixels())


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("RGBA", "png"), ("P", "gif"), ("CMYK", "jpg"), ("1", "png"), ("LA", "png")]
)
def test_every_mode_becomes_rgb(tmp_path, mode, suffix):
    image = open_image(save_image(tmp_path / f"a.{suffix}", mode=mode), "row 1")
    assert (image.mode, image.size) == ("RGB", (30, 20))
    assert np.asarray(image).std() > 1


def test_16_bits_become_8(tmp_path):
    grey = make_pixels()[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 256).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png", "row 1"))[..., 0], grey)


def test_every_source_of_a_sound_gives_the_same_samples(tmp_path):
    path = save_sound(tmp_path / "a.wav")
    content, wave = path.read_bytes(), make_wave()
    sources = [path, content, {"bytes": content}, {"path": path}, {"array": wave, "sampling_rate": RATE}]
    for value in [*sources, save_sound(tmp_path / "b.wav", channels=2), save_sound(tmp_path / "c.flac")]:
        assert open_sound(value, "row 1", RATE) == pytest.approx(wave, abs=1e-4)
    assert open_sound(wave.tolist(), "row 1", RATE, RATE) == pytest.approx(wave)


@pytest.mark.parametrize("rate", [2000, 500, 441])
def test_another_rate_is_resampled(rate):
    tone, expected = (np.sin(2 * np.pi * 20 * np.arange(r) / r).astype(np.float32) for r in (rate, RATE))
    resampled = open_sound({"array": tone, "sampling_rate": rate}, "row 1", RATE)
    assert (len(resampled), resampled.dtype) == (RATE, np.float32)
    assert resampled[50:-50] == pytest.approx(expected[50:-50], abs=0.02)


def empty_wav():
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(0, np.float32), RATE, format="WAV")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"no image", "cannot be read"),
        ({"bytes": b"no image", "path": "cat.png"}, "'cat.png'"),
        ({"bytes": None, "path": None}, "without 'bytes' or 'path'"),
        ("nowhere.png", "'nowhere.png', which is not a file"),
        (7, "of type int"),
        (np.zeros((3, 4, 5)), "is an array that is not an image"),
        (Image.new("F", (2, 2)), "floating-point pixels"),
    ],
)
def test_an_invalid_image_is_an_error_that_names_the_row(value, words):
    with pytest.raises(TrimformerError, match=words) as error:
        open_image(value, "row 5")
    assert "the image of row 5" in str(error.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"no sound", "cannot be read"),
        (empty_wav(), "is empty"),
        (np.zeros(4), "no valid sampling rate .None"),
        ({"array": [0.0], "sampling_rate": 0}, "no valid sampling rate"),
        ({"array": [0.0, float("nan")], "sampling_rate": 900}, "NaN or infinite"),
        ({"array": np.zeros((1, 2, 3)), "sampling_rate": 9}, "3 dimensions"),
        (
            {"array": np.zeros((900, 2)), "sampling_rate": RATE},
            r"900 channels of 2 samples; give \[channels, samples\]",
        ),
        ({"array": [0.0] * 9, "sampling_rate": True}, "no valid sampling rate"),
        ({"array": [0.0] * 9, "sampling_rate": 16000.5}, "no valid sampling rate"),
        ({"array": [0.0] * 9, "sampling_rate": "16000"}, "no valid sampling rate"),
        ({"array": [0.0] * 9, "sampling_rate": 1}, "sampling rate of 1 Hz"),
        ({"array": [0.0] * 9, "sampling_rate": 2**31 - 1}, "sampling rate of 2147483647 Hz"),
        ("a sound, or a text " * 1000, "which is not a file"),
        ("a\0b", "which is not a file"),
        (["a"], "not an array of samples"),
        ({"array": [0, 90000, -90000] * 9, "sampling_rate": RATE}, "samples of type int64 up to 90000"),
        ({"array": [0.0, float("inf")], "sampling_rate": RATE}, "NaN or infinite"),
        ({"array": np.full(9, 128, np.uint8), "sampling_rate": RATE}, "samples of type uint8"),
        ({"array": np.full(9, 9000.0), "sampling_rate": RATE}, "give floats from -1 to 1"),
        (7, "of type int"),
        ("nowhere.wav", "which is not a file"),
    ],
)
def test_an_invalid_sound_is_an_error_that_names_the_row(value, words):
    with pytest.raises(TrimformerError, match=words) as error:
        open_sound(value, "row 5", RATE)
    assert "the sound of row 5" in str(error.value)


@pytest.mark.parametrize("dtype", [np.int16, np.int32])
def test_pcm_is_scaled_as_in_files(dtype):
    wave = np.sin(np.arange(900) / 9)
    pcm = (wave * np.iinfo(dtype).max).astype(dtype)
    arrays = [wave, pcm, *([pcm.tolist()] if dtype == np.int16 else [])]
    first, *others = [open_sound({"array": array, "sampling_rate": RATE}, "row 1", RATE) for array in arrays]
    for other in others:
        np.testing.assert_allclose(first, other, atol=1e-4)


def test_a_truncated_image_is_named_with_its_file(tmp_path):
    path = save_image(tmp_path / "cut.png")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(TrimformerError, match=r"row 5 \('.*cut.png'\) cannot be read"):
        open_image(path, "row 5")


@pytest.mark.parametrize(("package", "extra"), [("PIL", "vision"), ("soundfile", "audio")])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, package, extra):
    monkeypatch.delitem(sys.modules, package, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    opener = {"PIL": lambda: open_image(b"", "row 1"), "soundfile": lambda: open_sound(b"", "row 1", RATE)}[package]
    with pytest.raises(TrimformerError, match=rf"pip install 'trimformer\[{extra}\]'"):
        opener()


def sound_file(form, **options):
    buffer = io.BytesIO()
    soundfile.write(buffer, np.tile(make_wave(16000), 5), 16000, format=form, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_sound_cut_in_the_middle_is_refused(tmp_path, form, share):
    content = sound_file(form)
    path = tmp_path / "cut.wav"
    path.write_bytes(content)
    assert len(open_sound(path, "row 5", 16000)) >= 80000
    path.write_bytes(content[: int(len(content) * share)])
    for value in (path, {"bytes": path.read_bytes(), "path": "cut.wav"}):
        with pytest.raises(TrimformerError, match=r"the sound of row 5 \('.*cut.wav'\) (is cut short|cannot be read)"):
            open_sound(value, "row 5", 16000)


@pytest.mark.parametrize("size", [2**32 - 1, 2**31 - 1])
def test_a_streamed_wav_of_unknown_length_is_read(size):
    content = bytearray(sound_file("WAV"))
    content[40:44] = size.to_bytes(4, "little")
    assert len(open_sound(bytes(content), "row 5", 16000)) == 80000


@pytest.mark.parametrize("rate", [0, 1, 99, 2**31 - 1])
def test_a_header_with_an_impossible_sampling_rate_is_named_with_its_file(tmp_path, rate):
    content = bytearray(sound_file("WAV"))
    content[24:28] = rate.to_bytes(4, "little")
    path = tmp_path / "odd.wav"
    path.write_bytes(content)
    with pytest.raises(TrimformerError, match=r"row 5 \('.*odd.wav'\) (has a sampling rate of|cannot be read)"):
        open_sound(path, "row 5", 16000)


def test_a_sampling_rate_of_zero_in_the_dictionary_is_not_replaced_by_the_columns():
    with pytest.raises(TrimformerError, match=r"no valid sampling rate \(0\)"):
        open_sound({"array": [0.0] * 9, "sampling_rate": 0}, "row 5", RATE, RATE)
