"""A pruned model that Transformers loads by itself, given `trust_remote_code=True`.

This source is the beginning of `modeling_trimformer.py` in a standalone directory and must not import trimformer. The
parts of trimformer that the model's layers need, if any, and the model class follow it.
"""

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

NEEDED = (5, 18)  # earlier releases have other module names and attributes


class Standalone:
    """Resizes the modules of a Transformers model as the config's `trimformer_shapes` describe."""

    config: Any
    trimformer_prefix = ""  # of the names in the config, for the base model: that of the base model in the whole one

    @torch.no_grad()
    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        for name, change in config.trimformer_shapes.items():
            if not name.startswith(self.trimformer_prefix):
                continue  # belongs to a head
            module = self.get_submodule(name.removeprefix(self.trimformer_prefix))  # type: ignore[attr-defined]
            for key, shape in change.get("shapes", {}).items():
                setattr(module, key, nn.Parameter(getattr(module, key)[tuple(map(slice, shape))].clone()))
            for key, value in change.get("values", {}).items():
                setattr(module, key, value)
            if change.get("new_bias"):
                module.bias = nn.Parameter(module.weight.new_zeros(len(module.weight)))
                module.has_new_bias = True
            for key, length in change.get("lists", {}).items():
                setattr(module, key, getattr(module, key)[:length])
            if "class" in change:
                module.__class__ = globals()[change["class"]]
            for hook, *arguments in change.get("hooks", []):
                module.register_forward_hook(partial(globals()[hook], *arguments))
            for hook in change.get("pre_hooks", []):
                module.register_forward_pre_hook(globals()[hook])

    @classmethod
    def is_custom_code(cls) -> bool:
        """Returns False, so that weights keep the names on disk of the Transformers class."""
        return False

    @classmethod
    def from_pretrained(cls, name: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """Loads like the base class, but ignores the config entries meant for trimformer."""
        if tuple(map(int, transformers.__version__.split(".")[:2])) < NEEDED:
            raise ImportError(f"this model needs transformers {NEEDED[0]}.{NEEDED[1]} or newer")
        if config is None or isinstance(config, (str, Path)):
            keys = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
            options = {key: kwargs[key] for key in keys if key in kwargs}
            config = cls.config_class.from_pretrained(config or name, **options)  # type: ignore[attr-defined]
        config = copy.deepcopy(config)
        vars(config).pop("transformers_weights", None)
        widths = vars(config).pop("quantization_config", None)
        with_info = kwargs.pop("output_loading_info", False)
        load = super().from_pretrained  # type: ignore[misc]
        model, info = load(name, *args, config=config, output_loading_info=True, **kwargs)
        if lost := [*info["missing_keys"], *info["mismatched_keys"]]:  # Transformers would make them random
            raise OSError(f"the weights in '{name}' do not fit the model, for {len(lost)} of its tensors: {lost[0]}")
        vars(model.config).setdefault("quantization_config", widths)
        return (model, info) if with_info else model

    def save_pretrained(self, directory: Any, *args: Any, **kwargs: Any) -> None:
        """Saves like the base class, and adds the config entry that makes loading without this code fail."""
        super().save_pretrained(directory, *args, **kwargs)  # type: ignore[misc]
        file = Path(directory) / "config.json"
        if file.is_file():  # not all processes write
            entry = "pass-trust_remote_code-or-import-trimformer-to-load-this.safetensors"
            written = {**json.loads(file.read_text(encoding="utf-8")), "transformers_weights": entry}
            file.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
