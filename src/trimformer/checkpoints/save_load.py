"""Saves and loads model directories, dense or pruned; `resizer` lets Transformers load the pruned ones."""

import atexit
import copy
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import MODEL_MAPPING, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import GENERATION_CONFIG_NAME

import trimformer.checkpoints.resizer  # noqa: F401  # lets Transformers load pruned directories
from trimformer.checkpoints.checkpoint_checks import (
    WEIGHT_FILES,
    check_class,
    check_config,
    check_finite_weights,
    check_model_size,
    check_no_adapter,
    check_shapes,
    check_unexpected,
    check_weights,
    read_config,
    warn_of_own_code,
)
from trimformer.checkpoints.companions import copy_companions, remember_source
from trimformer.checkpoints.gguf_input import is_gguf, load_gguf
from trimformer.checkpoints.load_guard import write_guard_files
from trimformer.checkpoints.standalone import dense_class, write_standalone
from trimformer.checkpoints.written_checks import check_written, check_written_tokenizer
from trimformer.data.batches import IMAGE_KEYS
from trimformer.data.processor import architecture_of, load_processor
from trimformer.data.sentence_transformers import (
    attach_sentence_head,
    prepare_processor,
    read_sentence_head,
    transformer_folder,
)
from trimformer.errors import TrimformerError, one_sentence, quoted
from trimformer.models import KINDS, find_sublayers
from trimformer.models.mask_tensors import has_finite_numbers, unstack_masks
from trimformer.options.checks import check_flag, shorten
from trimformer.options.loading import LoadOptions
from trimformer.utils.input_paths import check_model_path, check_readable
from trimformer.utils.outputs import write_directory

logger = logging.getLogger(__name__)

# Weights of other libraries, which a download skips.
_IGNORED_FILES = ["*.onnx", "*.h5", "*.msgpack", "*.ot", "*.tflite", "openvino*", "rust_model*"]


def load(
    path: str | Path,
    attn_implementation: str | None = None,
    tokenizer_name: str | None = None,
    model_type: str | None = None,
    dtype: str | torch.dtype | None = None,
) -> tuple[PreTrainedModel, Any]:
    """Loads a model with its task head, together with its tokenizer or processor.

    Args:
        path: local directory or hub name; directories of sentence-transformers work too, and GGUF files.
        attn_implementation: "eager", "sdpa", ...; None: the default of Transformers, as for GGUF files.
        tokenizer_name: source of the tokenizer or processor if the directory has none; none for GGUF files.
        model_type: type of the model if its config.json states none, such as "bert".
        dtype: "float32", "bfloat16" or "float16"; None: that of the checkpoint, float32 for GGUF files.

    Returns:
        The model, and its tokenizer, image processor, feature extractor or processor; see `load_processor`.

    Raises:
        TrimformerError: the directory, its config, its weights or its processor is missing or unusable.
    """
    if is_gguf(path):
        if model_type is not None:
            raise TrimformerError(f"'{path}' states its own model type; leave out --model-type {quoted(model_type)}")
        for name, value in (("attn_implementation", attn_implementation), ("tokenizer_name", tokenizer_name)):
            if value is not None:
                raise TrimformerError(f"'{path}' holds its own tokenizer and takes no options; leave out {name}")
        return load_gguf(path, _dtype(dtype))
    folder = find_directory(path)
    model = load_model(folder, attn_implementation, model_type, dtype)
    model.config._name_or_path = str(path)  # as Transformers does: the name, not the cache folder
    return model, prepare_processor(model, load_processor(transformer_folder(folder), model.config, tokenizer_name))


def unwrap(model: Any, processor: Any) -> tuple[PreTrainedModel, Any]:
    """Returns the model to prune and its processor, also from a SentenceTransformer or CrossEncoder.

    Args:
        model: a `PreTrainedModel`, SentenceTransformer or CrossEncoder; it is not changed.
        processor: its tokenizer or processor; None: that of the SentenceTransformer or CrossEncoder.

    Raises:
        TrimformerError: the model has another type or contains unknown modules.
    """
    if isinstance(model, PreTrainedModel):
        return model, prepare_processor(model, processor)
    class_names = {kind.__name__ for kind in type(model).__mro__}
    if "PeftModel" in class_names:
        raise TrimformerError(f"model is a {type(model).__name__}, an adapter on a model; give its merge_and_unload()")
    if not {"SentenceTransformer", "CrossEncoder"} & class_names:
        raise TrimformerError(
            f"model is a {type(model).__name__}; give a PreTrainedModel, as trimformer.load returns it, or a "
            "SentenceTransformer or CrossEncoder"
        )
    folder = tempfile.mkdtemp(prefix="trimformer-")  # its files are copied when the model is saved
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    model.save_pretrained(folder)
    inner, inner_processor = load(folder)
    original = next(module for module in model.modules() if isinstance(module, PreTrainedModel))
    inner.config._name_or_path = original.config._name_or_path
    return inner, inner_processor if processor is None else prepare_processor(inner, processor)


def find_directory(name: str | Path) -> Path:
    """Returns a local model directory; downloads the model from the hub if there is none.

    Raises:
        TrimformerError: neither a directory nor a hub model has this name.
    """
    check_model_path(name)
    if Path(name).is_dir():
        return Path(name)
    with one_sentence(f"model directory '{name}' does not exist, and the hub has no such model"):
        return Path(snapshot_download(str(name), ignore_patterns=_IGNORED_FILES))


def load_model(
    path: str | Path,
    attn_implementation: str | None = None,
    model_type: str | None = None,
    dtype: str | torch.dtype | None = None,
) -> PreTrainedModel:
    """Loads a model without its tokenizer; see `load`."""
    given: dict[str, Any] = {"attn_implementation": attn_implementation, "dtype": _dtype(dtype)}
    keywords = {name: value for name, value in given.items() if value is not None}
    root = find_directory(path)
    path = transformer_folder(root)
    head = read_sentence_head(root)
    if not any(path.iterdir()):
        raise TrimformerError(f"model directory '{path}' is empty")
    check_no_adapter(path)
    if not (path / "config.json").is_file():
        raise TrimformerError(f"'{path}' has no config.json; give a directory written by save_pretrained")
    check_weights(path)
    for file in ("config.json", *WEIGHT_FILES):
        check_readable(path / file, "file")
    config = read_config(path, LoadOptions(model_type).model_type)
    check_config(config, path)
    is_embedder = head is not None and not head.is_cross_encoder
    model_class = (_bare_class(config) if is_embedder else None) or _named_class(config, path)
    warn_of_own_code(config, model_class, path)
    model = _load_weights(model_class, config, path, keywords)
    attach_sentence_head(model, head)
    remember_source(model, root)
    return model


def _named_class(config: PreTrainedConfig, path: Path) -> Any:
    """Returns the class that a config names.

    Raises:
        TrimformerError: it names none that Transformers has, or one of another model type.
    """
    architecture = architecture_of(config)
    model_class: Any = getattr(transformers, architecture, None)
    if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
        base = getattr(_bare_class(config), "__name__", "BertModel")
        stated = f"names the unknown architecture '{architecture}'" if architecture else "names no architecture"
        raise TrimformerError(
            f"config.json of '{path}' {stated}; write the model's class into it, such as "
            f'"architectures": ["{base.removesuffix("Model")}ForSequenceClassification"], or ["{base}"] for an encoder '
            "without a head"
        )
    check_class(model_class, config, path)
    return model_class


def _bare_class(config: PreTrainedConfig) -> Any:
    """Returns the class of a model without a task head, as sentence-transformers loads it; None if there is none."""
    base: Any = MODEL_MAPPING.get(type(config), None)
    if base is not None and getattr(config, "is_encoder_decoder", False):
        return getattr(transformers, f"{base.__name__.removesuffix('Model')}EncoderModel", base)
    return base


def _dtype(name: str | torch.dtype | None) -> torch.dtype | None:
    """Returns the dtype of a name as `LoadOptions` takes it."""
    checked = LoadOptions(dtype=None if name is None else str(name).removeprefix("torch.")).dtype
    return None if checked is None else getattr(torch, checked)


def _load_weights(model_class: Any, config: PreTrainedConfig, path: Path, keywords: dict[str, Any]) -> PreTrainedModel:
    """Loads the weights of a directory into a class of Transformers and checks that they fit.

    Args:
        model_class: a class of Transformers.
        config: of the model.
        path: the directory.
        keywords: of `from_pretrained`.

    Raises:
        TrimformerError: the model cannot be built or pruned, or its weights do not fit its config.
    """
    with one_sentence(f"the config of '{path}' describes no model that can be built"), torch.device("meta"):
        skeleton = model_class(copy.deepcopy(config))
    try:
        find_sublayers(skeleton)
    except TrimformerError as error:  # before the weights are read
        raise TrimformerError(f"the model in '{path}' cannot be pruned: {error}") from error
    check_model_size(skeleton, path)
    with one_sentence(f"the weights in '{path}' cannot be loaded"):
        # Mismatched shapes are reported below, in one sentence.
        model, info = model_class.from_pretrained(
            path, output_loading_info=True, ignore_mismatched_sizes=True, **keywords
        )
    check_shapes(info["mismatched_keys"], path)
    # Old checkpoints may lack the pooler, which only some heads use.
    missing = [name for name in sorted(info["missing_keys"]) if not name.startswith("pooler.")]
    head = {name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")}
    if head and head <= set(missing) and model_class.__name__.endswith("ForMaskedLM"):
        bare = _bare_class(config)
        logger.warning("'%s' lacks the head of %s: %s is loaded", path, model_class.__name__, bare.__name__)
        return _load_weights(bare, config, path, keywords)
    if missing:
        raise TrimformerError(
            f"the weights in '{path}' lack {missing[0]} ({len(missing)} missing in all); "
            "is it a fine-tuned checkpoint of this architecture?"
        )
    if any(name.startswith("pooler.") for name in info["missing_keys"]) and model.main_input_name in IMAGE_KEYS:
        raise TrimformerError(
            f"the weights in '{path}' lack the pooler that gives {model_class.__name__} its embedding; give a "
            "checkpoint that has it, or one with a head"
        )
    check_unexpected(info["unexpected_keys"], skeleton, path)
    check_finite_weights(model, f"the weights in '{path}'")
    return model


def write_model(model: PreTrainedModel, processor: Any, directory: Path, *, standalone: bool = False) -> None:
    """Writes the config, weights, processor files and files beside them into a directory, and checks that it loads."""
    if vars(model).get("lost_tokens"):
        words: Any = model.get_input_embeddings()
        if len(processor) > words.num_embeddings:
            raise TrimformerError(
                f"the tokenizer has {len(processor)} tokens, the model {words.num_embeddings}, as it lost some; save "
                "it with the tokenizer that lost them too (the result's `processor`)"
            )
    _save_weights(model, directory)
    processor.save_pretrained(directory)
    copy_companions(model, directory)
    if dense_class(model) is type(model):
        _drop_code_references(directory)
    if standalone:
        write_standalone(model, directory)
    check_written(model, directory, standalone=standalone)
    check_written_tokenizer(processor, directory)
    write_guard_files(directory)


def _save_weights(model: PreTrainedModel, directory: Path) -> None:
    """Writes configs and weights; a generation config that Transformers reads but does not write stays as it is."""
    generation: Any = getattr(model, "generation_config", None)
    try:
        if generation is not None:
            generation.validate(strict=True)
    except ValueError:  # such as a temperature without sampling, as in many published checkpoints
        model.generation_config = GenerationConfig()
        try:
            model.save_pretrained(directory)
        finally:
            model.generation_config = generation
        generation.to_json_file(directory / GENERATION_CONFIG_NAME)
    else:
        model.save_pretrained(directory)


def _drop_code_references(directory: Path) -> None:
    """Removes `auto_map` from the configs: the classes are those of Transformers, and code of a model is never run."""
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        file = directory / name
        if file.is_file() and "auto_map" in (config := json.loads(file.read_text(encoding="utf-8"))):
            del config["auto_map"]
            file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def save(model: PreTrainedModel, processor: Any, path: str | Path, *, standalone: bool = False) -> None:
    """Writes a model and its tokenizer or processor as an ordinary directory.

    Args:
        model: dense or pruned.
        processor: its tokenizer or processor.
        path: an empty or new directory; it appears only when complete.
        standalone: let a pruned model also load without trimformer, with `trust_remote_code=True`.

    Raises:
        TrimformerError: the directory is not empty or cannot be written, the model lost tokens that the tokenizer has,
            or this model cannot be saved as a standalone directory.
    """
    if not isinstance(model, PreTrainedModel):
        raise TrimformerError(f"model is {shorten(model)}; give a PreTrainedModel, as trimformer.load returns it")
    if isinstance(processor, type) or not hasattr(processor, "save_pretrained"):
        raise TrimformerError(f"processor is {shorten(processor)}; give the model's tokenizer or processor")
    check_flag("standalone", standalone)
    with write_directory(path) as directory:
        write_model(model, processor, directory, standalone=standalone)


def read_masks(path: str | Path, model: PreTrainedModel) -> list[Tensor]:
    """Reads one mask per sublayer from the files `head_mask.pt` and `neuron_mask.pt` of a directory.

    Raises:
        TrimformerError: a file is missing, is not a plain tensor, or does not fit the model.
    """
    tensors = []
    for name in ("head_mask.pt", "neuron_mask.pt"):
        file = Path(path) / name
        if not file.is_file():
            raise TrimformerError(f"mask file '{file}' does not exist")
        check_readable(file, "mask file")
        with one_sentence(f"mask file '{file}' is not a plain tensor"):
            tensors.append(torch.load(file, map_location="cpu", weights_only=True))
    sublayers = find_sublayers(model)
    expected = [[s.num_units for s in sublayers if s.kind == kind] for kind in KINDS]
    for tensor, units, name in zip(tensors, expected, ("head_mask.pt", "neuron_mask.pt"), strict=True):
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != (len(units), max(units)):
            shape = tuple(getattr(tensor, "shape", ()))
            raise TrimformerError(f"{name} in '{path}' has shape {shape}; the model needs {(len(units), max(units))}")
        if not has_finite_numbers(tensor):
            raise TrimformerError(
                f"{name} in '{path}' holds values that are not finite numbers; masks are 0, 1 or factors"
            )
    return unstack_masks(sublayers, *tensors)


def file_size(model: PreTrainedModel) -> int:
    """Returns the bytes of the model's weights in a checkpoint; tied weights count once."""
    tensors = {t.data_ptr() or id(t): t for t in model.state_dict().values()}
    return sum(t.numel() * t.element_size() for t in tensors.values())
