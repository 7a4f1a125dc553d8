"""A real vision transformer on real images, from a folder of images to a smaller directory."""

import json
import os
import shutil

import pytest
from assets import CACHE
from images import images, vit

from trimformer.cli.main import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("real images"),  # its fixtures are made once
    pytest.mark.skipif(
        not (shutil.which("apt-get") or (CACHE / "fashion-mnist").is_dir()),
        reason="Fashion-MNIST comes from Debian's package, which cannot be fetched here",
    ),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of both methods at half of the MACs, from the same 512 images."""
    found = {}
    for method in ("obs", "kwon2022"):
        output = tmp_path_factory.mktemp("vision") / method
        words = ["--data", str(images()), "--constraint", "0.5", "--num-samples", "512", "--method", method]
        assert main(["prune", str(vit()), *words, "--output", str(output)]) == 0
        found[method] = json.loads((output / "results.json").read_text())
        assert {"preprocessor_config.json", "model.safetensors"} <= set(os.listdir(output))
    return found


def test_half_of_a_vision_transformer_is_nearly_as_accurate(results):
    scores = results["obs"]["scores"]
    assert scores["dense"]["accuracy"] > 0.8
    assert scores["pruned"]["accuracy"] > scores["dense"]["accuracy"] - 0.02
    assert results["obs"]["budget"]["kept"] <= 0.5


def test_it_stays_nearer_to_the_dense_model_than_the_papers_way(results):
    assert results["obs"]["scores"]["divergence"] < results["kwon2022"]["scores"]["divergence"] / 2
