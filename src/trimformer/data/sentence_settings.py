"""Reads how a sentence-transformers directory prepares texts: length limit, lower case, prompts, similarity.

`SentenceTransformer.encode` follows these settings, so calibration, scores, counts and timing follow them too. A
setting that is not followed here is refused.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as Normalizers
from transformers import PreTrainedTokenizerBase

from trimformer.errors import TrimformerError, one_sentence

MODEL_SETTINGS = "config_sentence_transformers.json"

# Settings of the Transformer module; sentence-transformers reads the first of these files that exists.
TRANSFORMER_SETTINGS = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")

# Names of the prompts for queries and for documents; the latter in the order in which they are looked for.
_QUERY_PROMPT = "query"
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")

# Columns whose texts are queries; the other columns beside them hold documents.
QUERY_COLUMNS = ("anchor", "query", "question")

_TASKS = ("feature-extraction", "sequence-classification")
# Arguments of models that do not change embeddings, or hardly.
_HARMLESS = ("trust_remote_code", "attn_implementation", "add_pooling_layer", "use_cache", "low_cpu_mem_usage",
             "device_map", "use_safetensors")  # fmt: skip
_NOT_FOLLOWED = ("query_length", "document_length", "query_expansion", "tokenizer_name_or_path")


@dataclass(frozen=True)
class SentenceSettings:
    """How sentence-transformers prepares texts and compares embeddings.

    Attributes:
        max_length: maximum number of tokens, special tokens included; None: the tokenizer's and the model's limits.
        lower_case: whether texts are lowered before they are tokenized.
        prompts: texts that are put before a text, by name.
        default_prompt: name of the prompt that `encode` uses; None: no prompt.
        similarity: function that compares two embeddings, one of `SIMILARITIES`.
        truncate_dim: number of leading dimensions of an embedding that are used; None: all.
    """

    max_length: int | None = None
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    similarity: str = "cosine"
    truncate_dim: int | None = None

    def prompts_of(self, columns: Sequence[str], *, has_roles: bool = True) -> tuple[str, ...]:
        """Returns the prompt of each text column; an empty tuple if no column has one.

        Texts get the default prompt, as from `encode`. A column named query, question or anchor gets the prompt for
        queries, as from `encode_query`, and the columns beside it get that for documents; neither gets the default.

        Args:
            columns: names of the columns.
            has_roles: whether queries and documents have prompts of their own; a CrossEncoder has only the default one.
        """
        is_query = [column.strip().lower() in QUERY_COLUMNS for column in columns]
        if has_roles and any(is_query):
            query = self.prompts.get(_QUERY_PROMPT, "")
            document = next((self.prompts[name] for name in _DOCUMENT_PROMPTS if self.prompts.get(name)), "")
            prompts = tuple(query if flag else document for flag in is_query)
        else:
            prompts = (self.prompts.get(self.default_prompt or "", ""),) * len(columns)
        return prompts if any(prompts) else ()

    def prepare(self, processor: Any) -> Any:
        """Returns a tokenizer with the length limit and lower case; the same object if nothing changes."""
        if not isinstance(processor, PreTrainedTokenizerBase):
            return processor
        lower = self.lower_case and not _lowers(processor)
        if not lower and self.max_length in (None, processor.model_max_length):
            return processor
        tokenizer = copy.deepcopy(processor)
        if self.max_length is not None:
            tokenizer.model_max_length = self.max_length
        if lower:
            if not tokenizer.is_fast:
                raise TrimformerError(
                    f"sentence-transformers lowers the texts of this model (do_lower_case), which needs a fast "
                    f"tokenizer, not {type(tokenizer).__name__}"
                )
            backend: Any = tokenizer.backend_tokenizer
            backend.normalizer = Normalizers([Lowercase(), *([backend.normalizer] if backend.normalizer else [])])
        return tokenizer


def _lowers(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a fast tokenizer has a step that lowers texts."""
    normalizer: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    steps = list(normalizer) if type(normalizer).__name__ == "Sequence" else [normalizer]
    return any(isinstance(step, Lowercase) for step in steps)


def read_settings(path: Path, transformer: Path) -> SentenceSettings:
    """Reads the settings of a sentence-transformers directory.

    Args:
        path: the directory.
        transformer: folder of its Transformer module, which is the directory itself except in old layouts.

    Raises:
        TrimformerError: a file cannot be read, a setting is invalid, or trimformer does not follow it.
    """
    files = [folder / name for name in TRANSFORMER_SETTINGS for folder in (transformer, path)]
    file = next((file for file in files if file.is_file()), files[0])
    module, model = _read(file), read_model_settings(path)
    _check_followed(module, file)
    lengths = [module.get("max_seq_length"), _options(module, file).get("model_max_length")]
    lengths += [_option(_option(module, "processing_kwargs", file), "text", file).get("max_length")]
    limits = [_integer(length, "max_seq_length", file) for length in lengths if length is not None]
    lower_case = module.get("do_lower_case") or False
    if not isinstance(lower_case, bool):
        raise TrimformerError(f"do_lower_case in '{file}' is {lower_case!r}; set it to true or false")
    return SentenceSettings(min(limits, default=None), lower_case, **_named_settings(model, path / MODEL_SETTINGS))


def read_model_settings(path: Path) -> Mapping[str, Any]:
    """Reads `config_sentence_transformers.json` of a directory; an empty mapping if there is none."""
    return _read(path / MODEL_SETTINGS)


def _named_settings(model: Mapping[str, Any], file: Path) -> dict[str, Any]:
    prompts = {name: prompt for name, prompt in _option(model, "prompts", file).items() if prompt is not None}
    wrong = next((name for name, prompt in prompts.items() if not isinstance(prompt, str)), None)
    if wrong is not None:
        raise TrimformerError(f"the prompt '{wrong}' in '{file}' is {str(prompts[wrong])[:100]}, not a text")
    default = model.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise TrimformerError(
            f"default_prompt_name in '{file}' is {str(default)[:100]!r}, which is not among its prompts; set it to one "
            "of them, or to null"
        )
    similarity, size = model.get("similarity_fn_name"), model.get("truncate_dim")
    return {
        "prompts": prompts,
        "default_prompt": default,
        "similarity": similarity if similarity in SIMILARITIES else "cosine",
        "truncate_dim": None if size is None else _integer(size, "truncate_dim", file),
    }


def _check_followed(module: Mapping[str, Any], file: Path) -> None:
    """Checks that no setting changes the texts in a way that trimformer does not follow.

    Raises:
        TrimformerError: such a setting exists.
    """
    ignored = [name for name in _NOT_FOLLOWED if module.get(name) is not None]
    kwargs = _option(module, "processing_kwargs", file)
    text = _option(kwargs, "text", file)
    ignored += [f"processing_kwargs.{name}" for name, value in kwargs.items() if name != "text" and value]
    ignored += [f"processing_kwargs.text.{name}" for name in text if name not in ("max_length", "padding")]
    ignored += [name for name in _options(module, file) if name not in ("model_max_length", "trust_remote_code")]
    for name in ("config_args", "config_kwargs", "model_args", "model_kwargs"):
        ignored += [
            f"{name}.{key}"
            for key, value in _option(module, name, file).items()
            if key not in _HARMLESS and value not in (None, "auto")
        ]
    modalities = _option(module, "modality_config", file)
    if "message" in modalities:
        ignored.append("modality_config.message")
    output = _option(modalities, "text", file).get("method_output_name", "last_hidden_state")
    if output not in ("last_hidden_state", "logits"):  # the latter of a CrossEncoder's own head
        ignored.append(f"modality_config.text.method_output_name {str(output)[:100]!r}")
    if module.get("transformer_task") not in (None, *_TASKS):
        ignored.append(f"transformer_task {str(module['transformer_task'])[:100]}")
    if ignored:
        raise TrimformerError(
            f"'{file}' sets {', '.join(ignored)}, which trimformer does not follow, so it would prune another model, "
            "or for other inputs, than sentence-transformers uses; remove the setting if the model is used without it"
        )


def _options(module: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Options of the tokenizer's constructor, under their present and their earlier name."""
    return {**_option(module, "tokenizer_args", file), **_option(module, "processor_kwargs", file)}


def _option(settings: Mapping[str, Any], name: str, file: Path) -> Mapping[str, Any]:
    value = settings.get(name) or {}
    if not isinstance(value, Mapping):
        raise TrimformerError(f"{name} in '{file}' is {str(value)[:100]!r}, not an object of names and values")
    return value


def _integer(value: Any, name: str, file: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise TrimformerError(f"{name} in '{file}' is {str(value)[:100]!r}; set it to a positive whole number")
    return value


def _read(file: Path) -> Mapping[str, Any]:
    """Reads a file of settings; an empty mapping if it does not exist."""
    if not file.exists():
        return {}
    with one_sentence(f"'{file}' cannot be read"):
        settings = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(settings, Mapping):
            raise ValueError(f"it holds a {type(settings).__name__}, not an object of names and values")
    return settings
