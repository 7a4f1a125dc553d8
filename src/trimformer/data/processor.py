"""The checkpoint's own processor: tokenizer, image processor, feature extractor, or all in one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoProcessor,
    AutoTokenizer,
    BatchEncoding,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from trimformer.data.media import require
from trimformer.errors import TrimformerError, one_sentence

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model",
    "spiece.model", "tokenizer.model",
)  # fmt: skip
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def tokenizer_of(processor: Any) -> PreTrainedTokenizerBase:
    """The tokenizer: the processor itself, or what it holds.

    Raises:
        TrimformerError: there is none.
    """
    part = processor if isinstance(processor, PreTrainedTokenizerBase) else getattr(processor, "tokenizer", None)
    if not isinstance(part, PreTrainedTokenizerBase):
        raise TrimformerError(
            f"texts need the model's tokenizer, not {_name(processor)}; load it with AutoTokenizer.from_pretrained"
        )
    return part


def tokenize(tokenizer: PreTrainedTokenizerBase, *texts: Any, **options: Any) -> BatchEncoding:
    """Calls the tokenizer, and leaves its own truncation and padding as they were: they are saved with it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # those in Python keep no such state
    with one_sentence("the tokenizer cannot read these texts"):
        if backend is None:
            return tokenizer(*texts, **options)
        truncation, padding = backend.truncation, backend.padding
        try:
            return tokenizer(*texts, **options)
        finally:
            backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
            backend.no_padding() if padding is None else backend.enable_padding(**padding)


def image_processor_of(processor: Any) -> Any:
    """The image processor: the processor itself, or what it holds.

    Raises:
        TrimformerError: there is none.
    """
    part = getattr(processor, "image_processor", processor)
    if "pixel_values" not in getattr(part, "model_input_names", ()):
        raise TrimformerError(
            f"images need the model's image processor, not {_name(processor)}; load it with "
            "AutoImageProcessor.from_pretrained"
        )
    return part


def feature_extractor_of(processor: Any) -> Any:
    """The feature extractor: the processor itself, or what it holds.

    Raises:
        TrimformerError: there is none.
    """
    part = getattr(processor, "feature_extractor", processor)
    if not {"input_values", "input_features"} & set(getattr(part, "model_input_names", ())):
        raise TrimformerError(
            f"sounds need the model's feature extractor, not {_name(processor)}; load it with "
            "AutoFeatureExtractor.from_pretrained"
        )
    return part


def _name(processor: Any) -> str:
    return "None" if processor is None else type(processor).__name__


def is_dual_encoder(config: PreTrainedConfig, main_input: str) -> bool:
    """Whether a model takes an image and a text at once, as CLIP does."""
    return main_input == "input_ids" and all(
        getattr(config, name, None) is not None for name in ("text_config", "vision_config")
    )


def architecture_of(config: PreTrainedConfig) -> str:
    """The name of the model's class, as its config has it; "" where it has none."""
    names: Any = config.architectures
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def load_processor(path: str | Path, fallback: str | Path | None = None) -> Any:
    """Loads what makes a model's inputs, as its directory has it.

    Args:
        path: a local model directory.
        fallback: a directory, or a name on the hub, to take it from where this one has none.

    Returns:
        A tokenizer for models of text, an image processor for those of images, a feature extractor for those of
        sounds, and the processor that holds both for those of images and texts.

    Raises:
        TrimformerError: it is missing or unusable, or what decodes images or sounds is not installed.
    """
    path = Path(path)
    with one_sentence(f"the config of '{path}' cannot be read"):
        config = AutoConfig.from_pretrained(path)
    model_class = getattr(transformers, architecture_of(config), None)
    main_input = getattr(model_class, "main_input_name", "input_ids")
    if is_dual_encoder(config, main_input):
        require("PIL")
        processor = _load(AutoProcessor.from_pretrained, path, fallback, _PROCESSOR_FILES, "processor")
        image_processor_of(processor)
        check_vocabulary(tokenizer_of(processor), path)
        return processor
    if main_input == "pixel_values":
        require("PIL")
        return _load(_image_processor, path, fallback, _PROCESSOR_FILES, "image processor")
    if main_input in ("input_values", "input_features"):
        require("soundfile")
        return _load(AutoFeatureExtractor.from_pretrained, path, fallback, _PROCESSOR_FILES, "feature extractor")
    tokenizer = _load(AutoTokenizer.from_pretrained, path, fallback, _TOKENIZER_FILES, "tokenizer")
    check_vocabulary(tokenizer, path)
    return tokenizer


def _image_processor(source: Any) -> Any:
    from transformers import AutoImageProcessor  # its import needs Pillow

    return AutoImageProcessor.from_pretrained(source)


def _load(
    loader: Callable[[Any], Any], path: Path, fallback: str | Path | None, files: tuple[str, ...], what: str
) -> Any:
    source = path if fallback is None or any((path / name).is_file() for name in files) else fallback
    if what != "tokenizer" and source == path and not any((path / name).is_file() for name in files):
        raise TrimformerError(f"'{path}' has no {what} ({files[0]}); copy the files of the model's own into it")
    with one_sentence(f"the {what} in '{source}' cannot be loaded"):
        return loader(source)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Raises:
    TrimformerError: the tokenizer is what Transformers makes up where there are no files.
    """
    with one_sentence(f"the tokenizer in '{path}' cannot be used"):  # such as one whose unknown token it does not know
        has_words = len(tokenizer) > len(tokenizer.all_special_ids)
    if not has_words:
        raise TrimformerError(f"'{path}' has no tokenizer; copy the files of the model's own into it")
