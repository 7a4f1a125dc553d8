"""Checks that a directory that was just written can be loaded, before it appears under its name."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from trimformer.checkpoints.load_guard import is_pruned, weight_files
from trimformer.checkpoints.shrink import resize_by
from trimformer.checkpoints.standalone import FILE, dense_class
from trimformer.data.processor import find_tokenizer, tokenize
from trimformer.errors import TrimformerError, one_sentence
from trimformer.utils.temp_dirs import temporary_directory

# Upper case, accents, digits, punctuation, white space, other scripts and bytes that few vocabularies hold.
_TEXTS = ("It's 3.14% off: a naïve CAFÉ in the Straße!\n\tDon't  go", "你好，世界 🙂 https://a.b/c?d=e#f", "")


def check_written(model: PreTrainedModel, directory: Path, *, standalone: bool = False) -> None:
    """Checks that the written config describes exactly the tensors of the model, by names and shapes.

    The described model is built on the meta device, so this needs neither memory nor time. Classes that are not from
    Transformers are not checked, as only their owners know how they are built.

    Args:
        model: the model that was written.
        directory: the written directory.
        standalone: also check the modelling code in the directory.

    Raises:
        TrimformerError: the directory would not load as this model.
    """
    if dense_class(model) is not type(model):
        return
    with one_sentence("the model would not load again, so nothing is written"):
        config = type(model.config).from_pretrained(directory)
        if getattr(config, "model_type", ""):
            AutoConfig.from_pretrained(directory)  # by its model type, as every loader finds it
        config.dtype = model.dtype  # in the file it is a name, which some layers (Apertus) cannot read
        with torch.device("meta"):
            skeleton = type(model)(config)
            widths: Any = getattr(config, "quantization_config", None)
            if is_pruned(config):
                resize_by(skeleton, widths)
            _check_tensors(model, skeleton)
            _check_file(skeleton, directory)
            if standalone:
                _check_tensors(model, _standalone_class(directory, type(model).__name__)(config))


def _check_tensors(model: PreTrainedModel, skeleton: PreTrainedModel) -> None:
    """Compares names and shapes of all tensors, and the values of tensors that loading ties to each other.

    Raises:
        TrimformerError: they differ.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    described = {name: tuple(tensor.shape) for name, tensor in skeleton.state_dict().items()}
    kind = type(model).__name__
    for name in sorted(shapes.keys() ^ described.keys()):
        holder, other = ("the model", "its config") if name in shapes else ("its config", "the model")
        raise TrimformerError(
            f"{holder} has the tensor {name}, {other} has not, as a part of {kind} was replaced by another module; "
            f"keep the modules of {kind}"
        )
    for name, shape in shapes.items():
        if described[name] != shape:
            raise TrimformerError(
                f"{name} is {shape}, but {described[name]} by the model's config; write the sizes into the config"
            )
    tensors = model.state_dict()
    for name, source in getattr(skeleton, "all_tied_weights_keys", {}).items():
        if name in tensors and source in tensors and not torch.equal(tensors[name], tensors[source]):
            raise TrimformerError(
                f"{name} differs from {source}, but loading makes them equal; set tie_word_embeddings to False in the "
                "config"
            )


def _check_file(skeleton: PreTrainedModel, directory: Path) -> None:
    """Compares the number of values in the files with that of the model; names on disk may differ from those in memory.

    Raises:
        TrimformerError: values are missing, as those of tensors that share memory, but are not tied by the config.
    """
    written = 0
    for path in weight_files(directory, "*.safetensors"):
        with safe_open(path, framework="pt") as file:
            written += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    tied = set(getattr(skeleton, "all_tied_weights_keys", {}))
    needed = sum(tensor.numel() for name, tensor in skeleton.state_dict().items() if name not in tied)
    if written < needed:
        raise TrimformerError(
            f"its files hold {written:,} values, but loading needs {needed:,}; does the config say which are tied?"
        )


def check_tokenizer_reloads(model: PreTrainedModel, processor: Any) -> None:
    """Writes a tokenizer beside the model's config and checks it, before long work whose result is to be written.

    Raises:
        TrimformerError: see `check_written_tokenizer`.
    """
    with temporary_directory() as folder:
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        check_written_tokenizer(processor, folder)


def check_written_tokenizer(processor: Any, directory: Path) -> None:
    """Checks that the written tokenizer reads texts as the one in memory does, once `AutoTokenizer` loads it.

    Transformers chooses the class by the model's type, and attributes set in memory may have no place in the files.

    Args:
        processor: the tokenizer, or the processor that may hold one.
        directory: the written directory, with the model's config.

    Raises:
        TrimformerError: the tokenizer does not load, or reads texts otherwise.
    """
    tokenizer = find_tokenizer(processor)
    if tokenizer is None:
        return
    with one_sentence("the tokenizer would not load again, so nothing is written"):
        loaded = AutoTokenizer.from_pretrained(directory)
        expected, found = (tokenize(each, list(_TEXTS), verbose=False)["input_ids"] for each in (tokenizer, loaded))
    if found != expected:
        raise TrimformerError(
            f"AutoTokenizer would load the {type(tokenizer).__name__} as a {type(loaded).__name__} that reads texts "
            "otherwise, so nothing is written; give the tokenizer that AutoTokenizer loads from the model's directory"
        )


def _standalone_class(directory: Path, name: str) -> Any:
    """Returns a class of the modelling code in a standalone directory, which trimformer has just written."""
    spec = importlib.util.spec_from_file_location(f"trimformer_written.{FILE}", directory / f"{FILE}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)
