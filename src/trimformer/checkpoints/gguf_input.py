"""Loads a language model from a GGUF file, with its tokenizer, as a plain model of Transformers."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from trimformer.checkpoints.checkpoint_checks import check_finite
from trimformer.errors import TrimformerError, one_sentence
from trimformer.models import find_sublayers
from trimformer.utils.input_paths import check_readable

SUFFIX = ".gguf"


def is_gguf(name: str | Path) -> bool:
    """Returns whether a name is that of an existing GGUF file."""
    return str(name).lower().endswith(SUFFIX) and Path(name).is_file()


def load_gguf(path: str | Path) -> tuple[PreTrainedModel, Any]:
    """Loads model and tokenizer; packed weights become float32, with the precision that the file has.

    Raises:
        TrimformerError: the package gguf is missing, the file cannot be read, or the model cannot be pruned.
    """
    if find_spec("gguf") is None:
        raise TrimformerError(f"reading '{path}' needs the package gguf; pip install 'trimformer[gguf]'")
    check_readable(path, "model file")
    folder, name = Path(path).parent, Path(path).name
    with one_sentence(f"the model file '{path}' cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        packed = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype="float32")
    vars(packed.config).pop("quantization_config", None)  # of the file; the weights in memory are plain
    model_class = getattr(transformers, type(packed).__name__)
    model: PreTrainedModel = model_class(packed.config).eval()
    model.load_state_dict(packed.state_dict())
    model.generation_config = packed.generation_config
    model.config.architectures = [model_class.__name__]
    model.config._name_or_path = str(path)
    find_sublayers(model)
    check_finite(model, f"the weights in '{path}'")
    return model, tokenizer
