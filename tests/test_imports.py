"""What `import trimformer` costs those who only load."""

import subprocess
import sys

import pytest

import trimformer
from tests.conftest import make_model, make_tokenizer, pruned, random_masks

# Transformers itself brings scipy, so what counts is what comes on top of it.
LOADS = """
import sys
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification
before = set(sys.modules)
import trimformer
AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
trimformer.load(sys.argv[1])
heavy = {"scipy", "sklearn", "seqeval", "pandas", "datasets", "accelerate", "matplotlib", "jinja2"}
print(sorted(name for name in set(sys.modules) - before if name.split(".")[0] in heavy))
"""


@pytest.mark.slow
def test_loading_imports_nothing_that_only_pruning_needs(tmp_path):
    dense = make_model()
    trimformer.save(pruned(dense, random_masks(dense)), make_tokenizer(), tmp_path / "model")
    words = [sys.executable, "-c", LOADS, str(tmp_path / "model")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_every_public_name_is_there():
    assert set(trimformer.__all__) <= set(dir(trimformer))
    assert all(getattr(trimformer, name) is not None for name in trimformer.__all__)


def test_an_unknown_public_name_raises_an_attribute_error():
    with pytest.raises(AttributeError, match="'prunes'"):
        trimformer.prunes  # type: ignore[attr-defined]  # noqa: B018
