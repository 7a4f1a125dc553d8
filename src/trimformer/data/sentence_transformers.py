"""Reads the pooling and later modules of sentence-transformers directories.

Pruning then preserves the sentence embedding that is used, not just the hidden states.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.sentence_settings import (
    MODEL_SETTINGS,
    TRANSFORMER_SETTINGS,
    SentenceSettings,
    read_model_settings,
    read_settings,
)
from trimformer.errors import TrimformerError, one_sentence

logger = logging.getLogger(__name__)

MODULES = "modules.json"

# Files of sentence-transformers beside those of the model and its tokenizer.
_FILES = (MODULES, MODEL_SETTINGS, *TRANSFORMER_SETTINGS)

_KINDS = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")

_TOKENIZER_FILES = ("*token*.json", "vocab*", "merges.txt", "*.model", "processor_config.json")

# Files that are written anew beside a pruned or exported model.
_OWN_FILES = (
    "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json",
    "pytorch_model*", "bpe.codes", "chat_template*", "*preprocessor_config.json", "README.md", "head_mask.pt",
    "neuron_mask.pt", "results.json", "sweep.json", "family.json", "report.html", "log.txt", "modeling_trimformer.py",
    "*import-trimformer*.safetensors", "onnx", "openvino", *_TOKENIZER_FILES, *_FILES,
)  # fmt: skip

_EMBEDDING_KEY = "sentence_embedding"  # of what a Dense module reads and writes

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": torch.relu,
    "GELU": F.gelu,
    "Sigmoid": torch.sigmoid,
    "SiLU": F.silu,
}


def _lengths(mask: Tensor) -> Tensor:
    return mask.sum(1, keepdim=True).clamp(min=1).float()


def _last_token(hidden: Tensor, mask: Tensor) -> Tensor:
    last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def _first_token(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.int().argmax(1)]


def _weighted_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = (mask * mask.cumsum(1)).unsqueeze(-1).to(hidden)  # 1, 2, ... from the first token, whatever the padding
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _sum(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask.unsqueeze(-1)).sum(1)


# hidden [batch, length, hidden], mask [batch, length] -> [batch, hidden], by the names of sentence-transformers.
POOLING: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first_token,
    "mean": lambda hidden, mask: _sum(hidden, mask) / _lengths(mask).to(hidden),
    "mean_sqrt_len_tokens": lambda hidden, mask: _sum(hidden, mask) / _lengths(mask).sqrt().to(hidden),
    "max": lambda hidden, mask: hidden.masked_fill(~mask.bool().unsqueeze(-1), -torch.inf).amax(1),
    "weightedmean": _weighted_mean,
    "lasttoken": _last_token,
}


@dataclass(frozen=True, eq=False)
class SentenceHead:
    """Computes sentence embeddings from hidden states, as a sentence-transformers directory specifies.

    Attributes:
        source: the sentence-transformers directory.
        pooling: names of the pooling modes, whose results are concatenated.
        steps: functions applied after the pooling, each [batch, n] -> [batch, m].
        is_cross_encoder: whether the model scores pairs with its own head, so that there is no pooling.
        settings: how texts are prepared and embeddings are compared.
    """

    source: Path
    pooling: tuple[str, ...] = ("mean",)
    steps: tuple[Callable[[Tensor], Tensor], ...] = ()
    is_cross_encoder: bool = False
    settings: SentenceSettings = field(default_factory=SentenceSettings)

    def __call__(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Computes embeddings [batch, dim] from hidden states [batch, length, hidden] and mask [batch, length]."""
        embedding = torch.cat([POOLING[name](hidden, mask) for name in self.pooling], dim=-1)
        for step in self.steps:
            embedding = step(embedding)
        return embedding[:, : self.settings.truncate_dim]

    def copy_files(self, target: Path) -> None:
        """Copies the sentence-transformers files beside a pruned model.

        Args:
            target: a directory that already holds the model and its tokenizer; it becomes the Transformer module.
        """
        for name in _FILES:
            if (self.source / name).is_file() and name != MODULES:
                shutil.copyfile(self.source / name, target / name)
        modules = _read_modules(self.source)
        for module in modules:
            folder = self.source / module["path"]
            if module["kind"] == "Transformer":
                for name in _FILES[1:]:  # old layouts keep them in the Transformer's folder
                    if (folder / name).is_file():
                        shutil.copyfile(folder / name, target / name)
                module["path"] = ""
            elif module["path"] not in ("", ".") and folder.is_dir():
                shutil.copytree(folder, target / module["path"], ignore=_unreadable, dirs_exist_ok=True)
        listed = [{key: value for key, value in module.items() if key != "kind"} for module in modules]
        (target / MODULES).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def is_own_file(name: str) -> bool:
    """Whether trimformer writes a file or folder of this name beside a model."""
    return any(fnmatch(name, pattern) for pattern in _OWN_FILES)


def is_tokenizer_file(name: str) -> bool:
    """Whether a file of this name belongs to a tokenizer, or joins it with a feature extractor."""
    return any(fnmatch(name, pattern) for pattern in _TOKENIZER_FILES)


def module_folders(path: Path) -> set[str]:
    """Returns the names of the folders of a directory that hold modules of sentence-transformers."""
    if not (path / MODULES).is_file():
        return set()
    return {parts[0] for module in _read_modules(path) if (parts := Path(module["path"]).parts)}


def _unreadable(folder: str, names: list[str]) -> set[str]:
    """Names in a folder that are neither folders nor readable files, such as pipes and links that lead nowhere."""
    paths = [Path(folder) / name for name in names]
    left = {p.name for p in paths if not (p.is_dir() or p.is_file()) or not os.access(p, os.R_OK)}
    if left:
        logger.warning("these entries of '%s' cannot be read and stay behind: %s", folder, ", ".join(sorted(left)))
    return left


def _read_modules(path: Path) -> list[dict[str, Any]]:
    """Reads the modules of a directory in order, and adds the last part of each class name as "kind"."""
    with one_sentence(f"'{path / MODULES}' cannot be read"):
        modules = sorted(json.loads((path / MODULES).read_text(encoding="utf-8")), key=lambda module: module["idx"])
        for module in modules:
            module["kind"] = str(module["type"]).rsplit(".", 1)[-1]
            if Path(module["path"]).is_absolute() or ".." in Path(module["path"]).parts:
                raise ValueError(f"the path '{module['path']}' leads out of the directory")
            parts = Path(module["path"]).parts
            if module["kind"] != "Transformer" and parts and is_own_file(parts[0]):
                raise ValueError(f"the module folder '{module['path']}' has the name of another file; rename it")
            if module["kind"] in _KINDS and not str(module["type"]).startswith("sentence_transformers."):
                raise ValueError(f"the module {module['type']} is the model's own code, which is never run")
    return modules


def transformer_folder(path: Path) -> Path:
    """Returns the folder of the Transformer in a model directory; old sentence-transformers layouts have a subfolder.

    Raises:
        TrimformerError: the first module is not the directory's only Transformer.
    """
    if not (path / MODULES).is_file():
        return path
    modules = _read_modules(path)
    transformers = [module for module in modules if module["kind"] == "Transformer"]
    if len(transformers) != 1 or modules[0] is not transformers[0]:
        kinds = ", ".join(module["kind"] for module in modules)
        raise TrimformerError(
            f"'{path}' is a sentence-transformers model of {kinds}; give one whose first module is its only Transformer"
        )
    return path / transformers[0]["path"]


def read_sentence_head(path: Path) -> SentenceHead | None:
    """Reads the sentence head of a directory; None if it is not a sentence-transformers directory.

    Raises:
        TrimformerError: the directory has an unsupported module or cannot be read.
    """
    if not (path / MODULES).is_file():
        return None
    pooling: tuple[str, ...] | None = None
    steps: list[Callable[[Tensor], Tensor]] = []
    modules = _read_modules(path)[1:]
    for module in modules:
        folder, kind = path / module["path"], module["kind"]
        if kind == "Pooling" and pooling is None:
            pooling = _read_pooling(folder)
        elif kind == "Normalize":
            steps.append(lambda x: F.normalize(x, dim=-1))
        elif kind == "Dense":
            steps.append(_read_dense(folder))
        elif kind != "Dropout":
            raise TrimformerError(
                f"'{path}' has the sentence-transformers module {kind}, which is not supported; supported are "
                "Pooling, Dense, Normalize and Dropout"
            )
    _check_kind(path, [module["kind"] for module in modules])
    settings = read_settings(path, transformer_folder(path))
    return SentenceHead(path.absolute(), pooling or (), tuple(steps), pooling is None, settings)


def _check_kind(path: Path, kinds: Sequence[str]) -> None:
    """Checks that a directory is a SentenceTransformer that pools first, or a CrossEncoder with its model's own head.

    Args:
        path: the directory.
        kinds: of the modules after the Transformer.

    Raises:
        TrimformerError: it is of another kind.
    """
    owner = read_model_settings(path).get("model_type")
    changing = [kind for kind in kinds if kind != "Dropout"]
    if owner not in (None, "SentenceTransformer", "CrossEncoder"):
        raise TrimformerError(f"'{path}' is a {str(owner)[:100]} of sentence-transformers, which is not supported")
    if owner == "CrossEncoder" and changing:
        raise TrimformerError(
            f"'{path}' is a CrossEncoder that scores pairs by its modules {', '.join(changing)}; supported are those "
            "that score them by the head of their model"
        )
    if "Pooling" in changing and changing[0] != "Pooling":
        raise TrimformerError(f"'{path}' has the module {changing[0]} before the Pooling, which is not supported")
    if "Pooling" not in changing and (changing or owner == "SentenceTransformer"):
        raise TrimformerError(f"'{path}' is an embedder without the module Pooling, which is not supported")


def _read_pooling(folder: Path) -> tuple[str, ...]:
    with one_sentence(f"'{folder / 'config.json'}' cannot be read"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if not isinstance(config, Mapping):
            raise ValueError(f"it holds a {type(config).__name__}, not an object of names and values")
    if not config.get("include_prompt", True):
        raise TrimformerError(f"'{folder}' excludes prompts from pooling; set include_prompt to true")
    mode = config.get("pooling_mode")
    if mode is None:  # older directories have one switch per mode
        switches = {
            "cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens",
            "mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "weightedmean": "weightedmean_tokens",
            "lasttoken": "lasttoken",
        }  # fmt: skip
        names = tuple(name for name, switch in switches.items() if config.get(f"pooling_mode_{switch}"))
    else:
        names = tuple(map(str, mode)) if isinstance(mode, list) else (str(mode),)
    unknown = [name for name in names if name not in POOLING]
    if unknown or not names:
        raise TrimformerError(
            f"pooling '{', '.join(unknown)[:100] or mode}' of '{folder}' is unknown; known are {', '.join(POOLING)}"
        )
    return names


def _read_dense(folder: Path) -> Callable[[Tensor], Tensor]:
    with one_sentence(f"the dense module in '{folder}' cannot be read"):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
        weight, bias = tensors["linear.weight"], tensors.get("linear.bias")
        activation = _ACTIVATIONS[str(config.get("activation_function", "Tanh")).rsplit(".", 1)[-1]]
        keys = {config.get(f"module_{side}_name") for side in ("input", "output")}
        if not keys <= {None, _EMBEDDING_KEY}:
            raise ValueError(f"it reads or writes another tensor than {_EMBEDDING_KEY}, which is not supported")
        has_residual, residual = bool(config.get("use_residual")), tensors.get("residual.weight")

    def dense(x: Tensor) -> Tensor:
        output = activation(F.linear(x, weight.to(x), None if bias is None else bias.to(x)))
        if has_residual:
            output = output + (x if residual is None else F.linear(x, residual.to(x)))
        return output

    return dense


def attach_sentence_head(model: PreTrainedModel, head: SentenceHead | None) -> None:
    """Stores a sentence head on a model; copies of the model keep it."""
    if head is not None:
        vars(model)["sentence_head"] = head


def sentence_head_of(model: PreTrainedModel) -> SentenceHead | None:
    """Returns the sentence head stored on a model, or None."""
    return vars(model).get("sentence_head")


def prepare_processor(model: PreTrainedModel, processor: Any) -> Any:
    """Returns a tokenizer that cuts and lowers texts as the model's sentence-transformers directory specifies.

    The tokenizer that is given is not changed. Models without a sentence head get theirs back.
    """
    head = sentence_head_of(model)
    return processor if head is None else head.settings.prepare(processor)


def prompts_of(model: PreTrainedModel) -> list[str]:
    """Returns all prompts of a model's sentence-transformers directory; an empty list without one."""
    head = sentence_head_of(model)
    return [] if head is None else [prompt for prompt in head.settings.prompts.values() if prompt]
