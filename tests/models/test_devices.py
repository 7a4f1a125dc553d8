"""Stages run on a device without memory, in another process: tensors that meet on two devices are an error there."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

STAGES = """
import sys
sys.path.insert(0, sys.argv[1])
from testing.devices import check_stages, register
register()
check_stages(sys.argv[2:])
"""

# An encoder and a language model: rows of `testing.families`, with the class's suffix or name.
MODELS = ["Bert:ForSequenceClassification", "Llama:LlamaForCausalLM"]


@pytest.mark.slow
def test_no_stage_mixes_devices():
    words = [sys.executable, "-c", STAGES, str(ROOT), *MODELS]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines() == [f"{model} passed" for model in MODELS]
