"""What a reader of our directories meets who has no trimformer: another process, in which it cannot be imported."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from testing import families
from tests.checkpoints.sentence_models import TEXTS, sentence_model
from tests.conftest import make_tokenizer, pruned
from trimformer import load, save, shrink

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("without us")]

# Layouts of positions, heads and linear layers; the last have other names on disk; "none": no unit is left anywhere.
MODELS = ["Bert", "DistilBert", "ViT", "MPNet", "DebertaV2", "Llama", "T5", "Bert none", "MPNet none", "GPT2 none",
          "Vivit", "AltCLIP"]  # fmt: skip

STRANGER = """
import json, sys
from pathlib import Path
sys.modules["trimformer"] = None  # importing it fails
import torch, transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

def error(load, path, **flags):
    try:
        load(path, **flags)
    except Exception as error:
        return str(error)

def run(auto, path):
    with torch.no_grad():
        model = auto.from_pretrained(path, trust_remote_code=True).eval()
        return model, model(**load_file(home / "inputs.safetensors"))[0]

said = {}
for home in sorted(path for path in Path(sys.argv[1]).iterdir() if path.name != "sentence"):
    auto = getattr(transformers, next(iter(json.loads((home / "model" / "config.json").read_text())["auto_map"])))
    plain, flags = home / "plain", {"ignore_mismatched_sizes": True}
    said[home.name] = [error(auto.from_pretrained, plain), error(auto.from_pretrained, plain, **flags),
                       error(auto.from_pretrained, home / "model", **flags)]
    model, output = run(auto, home / "model")
    model.save_pretrained(home / "again")
    said[home.name].append(error(auto.from_pretrained, home / "again", **flags))
    save_file({"once": output.contiguous(), "again": run(auto, home / "again")[1].contiguous()}, home / "theirs")
sentences = SentenceTransformer(sys.argv[1] + "/sentence", device="cpu", trust_remote_code=True)
save_file({"embedding": sentences.encode(json.loads(sys.argv[2]), convert_to_tensor=True)}, sys.argv[1] + "/embedding")
print(json.dumps(said))
"""


def write(home, name):
    family, none = name.split(" ")[0], name.endswith(" none")
    dense = families.make(family, families.FAMILIES[family].heads[0])
    model = pruned(dense, [mask * (not none) for mask in families.random_masks(dense)])
    save(model, make_tokenizer(), home / "model", standalone=True)
    save(model, make_tokenizer(), home / "plain")
    inputs = {key: value.contiguous() for key, value in families.inputs(model).items() if key != "index"}
    save_file(inputs, home / "inputs.safetensors")
    with torch.no_grad():
        return model(**inputs)[0]


@pytest.fixture(scope="module")
def met(tmp_path_factory):
    """Our outputs, the folder with theirs, and what they were told."""
    folder = tmp_path_factory.mktemp("directories")
    ours = {name: write(folder / name, name) for name in MODELS}
    model, tokenizer = load(sentence_model(tmp_path_factory.mktemp("sentence")))
    shrink(model, families.random_masks(model))
    save(model, tokenizer, folder / "sentence", standalone=True)
    ours["sentence"] = SentenceTransformer(str(folder / "sentence"), device="cpu").encode(TEXTS, convert_to_tensor=True)
    words = [sys.executable, "-c", STRANGER, str(folder), json.dumps(TEXTS)]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"HF_HOME": str(folder.parent / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=folder.parent, check=False)
    assert done.returncode == 0, done.stderr
    return ours, folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", MODELS)
def test_no_flag_makes_a_random_model(met, name):
    said = met[2][name]
    assert len(said) == 4
    assert all("run `import trimformer`, then load it again" in message for message in said[:2])
    assert "pass-trust_remote_code-or-import-trimformer-to-load-this" in said[2]
    assert "pass-trust_remote_code-or-import-trimformer-to-load-this" in said[3]


@pytest.mark.parametrize("name", MODELS)
def test_a_standalone_directory_gives_the_same_output_and_is_saved_again(met, name):
    theirs = load_file(met[1] / name / "theirs")
    assert families.difference(theirs["once"], met[0][name]) < 1e-6
    assert families.difference(theirs["again"], met[0][name]) < 1e-6


def test_a_standalone_directory_of_sentence_transformers_gives_the_same_embeddings(met):
    theirs = load_file(met[1] / "embedding")["embedding"]
    assert families.difference(theirs, met[0]["sentence"]) < 1e-6
