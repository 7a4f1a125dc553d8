"""Loads a checkpoint's processor: a tokenizer, image processor, feature extractor, or a combination."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers
from transformers import (
    AutoFeatureExtractor,
    AutoProcessor,
    AutoTokenizer,
    BatchEncoding,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from trimformer.data.media import check_image_package, check_sound_package
from trimformer.errors import TrimformerError, one_sentence

_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model",
    "spiece.model", "tokenizer.model",
)  # fmt: skip
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def find_tokenizer(processor: Any) -> PreTrainedTokenizerBase | None:
    """Returns the tokenizer of a processor, or None if it has none."""
    tokenizer = processor if isinstance(processor, PreTrainedTokenizerBase) else getattr(processor, "tokenizer", None)
    return tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None


def tokenizer_of(processor: Any) -> PreTrainedTokenizerBase:
    """Returns the tokenizer of a processor, or the processor itself if it is one.

    Raises:
        TrimformerError: the processor has no tokenizer.
    """
    tokenizer = find_tokenizer(processor)
    if tokenizer is None:
        raise TrimformerError(
            f"texts need the model's tokenizer, not {_type_name(processor)}; load it with AutoTokenizer.from_pretrained"
        )
    return tokenizer


def check_padding_side(tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that padding comes after a text, as labels and outputs of tokens are counted from the first one.

    Raises:
        TrimformerError: the tokenizer pads on the left.
    """
    if tokenizer.padding_side != "right":
        raise TrimformerError(
            "the tokenizer pads on the left, which shifts the labels and outputs of tokens; set padding_side to "
            "'right' (in tokenizer_config.json)"
        )


def tokenize(tokenizer: PreTrainedTokenizerBase, *texts: Any, **options: Any) -> BatchEncoding:
    """Calls the tokenizer and restores its truncation and padding settings, which are saved with it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)  # None for pure Python tokenizers, which keep no such state
    with one_sentence("the tokenizer cannot encode these texts"):
        if backend is None:
            return tokenizer(*texts, **options)
        truncation, padding = backend.truncation, backend.padding
        try:
            return tokenizer(*texts, **options)
        finally:
            backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
            backend.no_padding() if padding is None else backend.enable_padding(**padding)


def image_processor_of(processor: Any) -> Any:
    """Returns the image processor of a processor, or the processor itself if it is one.

    Raises:
        TrimformerError: the processor has no image processor.
    """
    part = getattr(processor, "image_processor", processor)
    if "pixel_values" not in getattr(part, "model_input_names", ()):
        raise TrimformerError(
            f"images need the model's image processor, not {_type_name(processor)}; load it with "
            "AutoImageProcessor.from_pretrained"
        )
    return part


def feature_extractor_of(processor: Any) -> Any:
    """Returns the feature extractor of a processor, or the processor itself if it is one.

    Raises:
        TrimformerError: the processor has no feature extractor.
    """
    part = getattr(processor, "feature_extractor", processor)
    if not {"input_values", "input_features"} & set(getattr(part, "model_input_names", ())):
        raise TrimformerError(
            f"sounds need the model's feature extractor, not {_type_name(processor)}; load it with "
            "AutoFeatureExtractor.from_pretrained"
        )
    return part


def _type_name(processor: Any) -> str:
    return "None" if processor is None else type(processor).__name__


def is_dual_encoder(config: PreTrainedConfig, main_input: str) -> bool:
    """Whether a model has a text and an image encoder, as CLIP does."""
    return main_input == "input_ids" and all(
        getattr(config, name, None) is not None for name in ("text_config", "vision_config")
    )


def architecture_of(config: PreTrainedConfig) -> str:
    """The name of the model's class according to its config, or "" if the config has none."""
    names: Any = config.architectures
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def load_processor(path: str | Path, config: PreTrainedConfig, fallback: str | Path | None = None) -> Any:
    """Loads the processor of a model directory.

    Args:
        path: a local model directory.
        config: the model's config.
        fallback: a directory or hub name to load the processor from if `path` has none.

    Returns:
        A tokenizer for text models, an image processor for image models, a feature extractor for audio models, or a
        processor with tokenizer and image processor for dual encoders.

    Raises:
        TrimformerError: the processor is missing or unusable, or the package that decodes images or sounds is not
            installed.
    """
    path = Path(path)
    model_class = getattr(transformers, architecture_of(config), None)
    main_input = getattr(model_class, "main_input_name", "input_ids")
    if is_dual_encoder(config, main_input):
        check_image_package()
        processor = _load(AutoProcessor.from_pretrained, path, fallback, _PROCESSOR_FILES, "processor")
        image_processor_of(processor)
        check_vocabulary(tokenizer_of(processor), path)
        return processor
    if main_input == "pixel_values":
        check_image_package()
        return _load(_load_image_processor, path, fallback, _PROCESSOR_FILES, "image processor")
    if main_input in ("input_values", "input_features"):
        check_sound_package()
        return _load(AutoFeatureExtractor.from_pretrained, path, fallback, _PROCESSOR_FILES, "feature extractor")

    def load_tokenizer(source: Any) -> Any:  # a config without a model type would not be read again
        return AutoTokenizer.from_pretrained(source, config=config if source == path else None)

    tokenizer = _load(load_tokenizer, path, fallback, _TOKENIZER_FILES, "tokenizer")
    check_vocabulary(tokenizer, path)
    return tokenizer


def _load_image_processor(source: Any) -> Any:
    from transformers import AutoImageProcessor  # the import needs Pillow

    return AutoImageProcessor.from_pretrained(source)


def _load(
    loader: Callable[[Any], Any], path: Path, fallback: str | Path | None, files: tuple[str, ...], kind: str
) -> Any:
    has_files = any((path / name).is_file() for name in files)
    source = path if fallback is None or has_files else fallback
    if kind != "tokenizer" and source == path and not has_files:
        raise TrimformerError(f"'{path}' has no {kind} ({files[0]}); copy the model's {kind} files into it")
    with one_sentence(f"the {kind} in '{source}' cannot be loaded"):
        return loader(source)


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Checks that the tokenizer has a vocabulary; Transformers makes up an empty one if its files are missing.

    Raises:
        TrimformerError: the tokenizer has no tokens but special ones, or cannot be used.
    """
    with one_sentence(f"the tokenizer in '{path}' cannot be used"):  # such as an unknown token outside the vocabulary
        has_words = len(tokenizer) > len(tokenizer.all_special_ids)
    if not has_words:
        raise TrimformerError(f"'{path}' has no tokenizer; copy the model's tokenizer files into it")
