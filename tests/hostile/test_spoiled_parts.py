"""Files beside a model and its rows, spoiled at random: what reads them returns, or says one sentence."""

import gzip
import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from tests.conftest import make_model
from tests.hostile.test_corruptions import QUICK, THOROUGH, VALUES, edited, spoiled_bytes
from tests.reporting.page.made import make_family
from trimformer.cli.sweep import RECORD, _known
from trimformer.cli.tensors import Tensors
from trimformer.data.files import read_rows, read_texts
from trimformer.data.media import open_image, open_sound
from trimformer.data.sentence_transformers import read_sentence_head
from trimformer.errors import TrimformerError
from trimformer.reporting.cards.card import export_card

MODEL = make_model(head="Model", num_hidden_layers=1)
IDENTITY = {"model": "a", "data": "b", "trimformer": "0", "flags": {"seed": 0}}
CARD = b"""---
license: mit
language: [en, de]
tags: [a, b]
datasets: [glue]
base_model: [who/what]
---
# A model
"""


def sentence_transformers(folder):
    """Files of a SentenceTransformer by name."""
    kinds = ("Transformer", "Pooling", "Dense", "Normalize")
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    settings = {"prompts": {"query": "the "}, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    dense = {"in_features": 24, "out_features": 5, "bias": True, "activation_function": "torch.nn.modules.linear.Tanh"}
    files = {
        "modules.json": modules,
        "config_sentence_transformers.json": {**settings, "truncate_dim": 4},
        "sentence_bert_config.json": {"max_seq_length": 8, "do_lower_case": True, "tokenizer_args": {}},
        "1_Pooling/config.json": {"word_embedding_dimension": 24, "pooling_mode_mean_tokens": True},
        "2_Dense/config.json": dense,
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    save_file(
        {"linear.weight": torch.ones(5, 24), "linear.bias": torch.ones(5)}, folder / "2_Dense" / "model.safetensors"
    )
    return [*files, "2_Dense/model.safetensors"]


def spoil(file, seed, value):
    """Sets an entry of a JSON file, or spoils bytes of any file."""
    good = file.read_bytes()
    file.write_bytes(edited(good, seed, value) if file.suffix == ".json" and seed % 2 else spoiled_bytes(good, seed))


def embedder(folder, seed, value):
    names = sentence_transformers(folder)
    spoil(folder / random.Random(seed).choice(names), seed, value)
    read_sentence_head(folder)


def source_card(folder, seed, value):
    (folder / "README.md").write_bytes(spoiled_bytes(CARD, seed))
    if seed % 2:
        entries = ("license: mit", "language: [en, de]", "tags: [a, b]", "datasets: [glue]", "base_model: [who/what]")
        entry = random.Random(seed).choice(entries)
        text = CARD.decode().replace(entry, f"{entry.split(':')[0]}: {json.dumps(value)}")
        (folder / "README.md").write_bytes(text.encode("utf-8", "replace"))
    MODEL.config._name_or_path = str(folder)
    content = str(export_card(MODEL, "out", ["model.onnx"], "table", ["trimformer", "export", "x"]))
    assert "exported by trimformer" in content


def family(folder, seed, value):
    good = json.dumps({**make_family(), "identity": IDENTITY}).encode()
    (folder / RECORD).write_bytes(edited(good, seed, value) if seed % 2 else spoiled_bytes(good, seed))
    assert "cost" in _known(folder, IDENTITY, [])


def masks(folder, seed, value):
    for name in ("head_mask.pt", "neuron_mask.pt"):
        torch.save(torch.ones(2, 4), folder / name)
    spoil(folder / "head_mask.pt", seed, value)
    read = Tensors.masks(folder)
    read.differences(read)


def gzip_rows(folder, seed, value):
    rows = "".join(json.dumps({"text": f"film {i}", "label": i % 2}) + "\n" for i in range(20)).encode()
    content = gzip.compress(spoiled_bytes(rows, seed) if seed % 2 else rows)
    (folder / "rows.jsonl.gz").write_bytes(content if seed % 2 else spoiled_bytes(content, seed))
    assert len(read_rows(folder / "rows.jsonl.gz")) > 0


def texts(folder, seed, value):
    (folder / "texts.txt").write_bytes(spoiled_bytes("ein Film\nnaïve – 映画\n".encode() * 9, seed))
    assert all(isinstance(text, str) for text in read_texts(folder / "texts.txt"))


def sound(folder, seed, value):
    form = random.Random(seed).choice(["WAV", "FLAC", "OGG"])
    stream = io.BytesIO()
    soundfile.write(stream, np.random.default_rng(0).normal(size=400).clip(-1, 1), 16_000, format=form)
    wave = open_sound(spoiled_bytes(stream.getvalue(), seed), "row 0", 16_000)
    assert wave.dtype == np.float32
    assert np.isfinite(wave).all()
    assert len(wave) <= 10**7


def image(folder, seed, value):
    form = random.Random(seed).choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8)).save(stream, form)
    assert open_image(spoiled_bytes(stream.getvalue(), seed), "row 0").mode == "RGB"


PARTS = {part.__name__: part for part in (embedder, source_card, family, masks, gzip_rows, texts, sound, image)}


def try_spoiled(how_often, name, folder):
    @how_often
    @given(seed=st.integers(0, 2**32), value=VALUES)
    def examples(seed, value):
        place = Path(folder) / str(seed)
        place.mkdir(exist_ok=True)
        sentence = ""
        try:
            PARTS[name](place, seed, value)
        except TrimformerError as error:
            sentence = str(error)
        assert "\n" not in sentence
        assert len(sentence) < 700

    examples()


@pytest.mark.parametrize("name", PARTS)
def test_a_spoiled_part_is_read_or_refused(name, tmp_path):
    try_spoiled(QUICK, name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_many_more_spoiled_parts_are_read_or_refused(name, tmp_path):
    try_spoiled(THOROUGH, name, tmp_path)
