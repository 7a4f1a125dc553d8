"""Directories of pruned language models in a process that cannot import trimformer: the same logits and text."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from testing import families
from testing.language import byte_tokenizer, language_model
from tests.conftest import pruned
from tests.test_language_models import OPTIONS, documents
from trimformer import prune, save
from trimformer.models import find_sublayers

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("without us")]

TOKENIZER = byte_tokenizer()
PROMPT = torch.tensor([[0, 40, 41, 42, 43, 44]])  # in the vocabularies of all models

# Own classes of attention, module lists, biases that the family has not; "none": no unit is left anywhere.
STANDALONE = ["Llama", "Qwen3", "Phi3", "StableLm, parallel", "Cohere, norms of heads", "Olmo2", "Gemma2", "Falcon",
              "GPT2 none", "Llama none"]  # fmt: skip

STRANGER = """
import json, sys
from pathlib import Path
sys.modules["trimformer"] = None  # importing it fails
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
prompt = torch.tensor(json.loads(sys.argv[2]))
for home in sorted(Path(sys.argv[1]).iterdir()):
    model = AutoModelForCausalLM.from_pretrained(home, trust_remote_code=home.name.startswith("standalone")).eval()
    with torch.no_grad():
        logits = model(prompt).logits
    text = model.generate(prompt, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=1)
    save_file({"logits": logits.contiguous(), "text": text}, home / "theirs")
"""


def prune_plainly(family, **sizes):
    """Prunes a language model of one width and one number of groups, without some layers."""
    dense = language_model(family, **sizes)
    # Less than a group and 16 neurons in each of three layers (.36), so a layer goes whatever the rounding of a CPU.
    model = prune(dense, TOKENIZER, documents(), 0.3, layout="plain", neuron_multiple=16, **OPTIONS).model
    assert len(find_sublayers(model)) < len(find_sublayers(dense))
    assert len({(s.kind, s.num_units) for s in find_sublayers(model)}) == 2
    return model


def random_without(name):
    family, none = name.removesuffix(" none"), name.endswith(" none")
    dense = families.make(family, families.GENERATORS[family])
    return pruned(dense, [mask * (not none) for mask in families.random_masks(dense)])


MODELS = {
    **{f"standalone {name}": lambda name=name: random_without(name) for name in STANDALONE},
    "standalone flap": lambda: prune(language_model(), TOKENIZER, documents(), 0.6, method="flap", **OPTIONS).model,
    "plain Llama": lambda: prune_plainly("Llama"),
    "plain Qwen3": lambda: prune_plainly("Qwen3", head_dim=8),
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """The logits and texts of our models, and the folder with those of the other process."""
    folder, ours = tmp_path_factory.mktemp("directories"), {}
    for name, make in MODELS.items():
        model = make()
        save(model, TOKENIZER, folder / name, standalone=name.startswith("standalone"))
        with torch.no_grad():
            logits = model(PROMPT).logits
        ours[name] = (
            logits,
            model.generate(PROMPT, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=1),
        )
    words = [sys.executable, "-c", STRANGER, str(folder), json.dumps(PROMPT.tolist())]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env |= {"HF_HOME": str(folder.parent / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=folder.parent, check=False)
    assert done.returncode == 0, done.stderr
    return ours, folder


@pytest.mark.parametrize("name", MODELS)
def test_the_same_logits_and_the_same_text(directories, name):
    ours, folder = directories
    theirs = load_file(folder / name / "theirs")
    logits, text = ours[name]
    assert families.difference(theirs["logits"], logits) < 1e-6
    assert torch.equal(theirs["text"], text)


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("plain")])
def test_a_plain_directory_is_one_of_its_family(directories, name):
    config = json.loads((directories[1] / name / "config.json").read_text())
    assert not {"quantization_config", "transformers_weights", "auto_map"} & set(config)
    assert not list((directories[1] / name).glob("*.py"))
