"""Keeps a pruned directory from loading where nothing knows its widths.

Without trimformer, Transformers only warns of the unknown quantization, fails at the shapes, and suggests a flag by
which every pruned layer becomes random. So a pruned config names a file of weights that does not exist, and its name
says what to do: loading ends at it, whatever the flags. Our own loading takes the name out (`open_guard`).

Transformers drops the name whenever it saves a config. So it is not kept in the config but written with it: importing
this module makes every pruned config do so, whoever saves the model.
"""

from typing import Any

from transformers import PreTrainedConfig

QUANT_METHOD = "trimformer"
ENTRY = "transformers_weights"
SHAPES = "trimformer_shapes"  # in the config of a standalone directory
WHOLE = "import-trimformer-to-load-this.safetensors"
STANDALONE = "pass-trust_remote_code-or-import-trimformer-to-load-this.safetensors"
PART = "load-the-whole-model-after-import-trimformer.safetensors"  # one tower has no widths of its own

_to_diff_dict = PreTrainedConfig.to_diff_dict


def is_pruned(config: PreTrainedConfig) -> bool:
    """Whether the config holds widths of ours."""
    widths = getattr(config, "quantization_config", None)
    method = widths.get("quant_method") if isinstance(widths, dict) else getattr(widths, "quant_method", None)
    return method == QUANT_METHOD


def open_guard(config: PreTrainedConfig) -> None:
    """Takes out the file that does not exist, so that the weights are found."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is not None:
            vars(part).pop(ENTRY, None)


def _guarded(self: PreTrainedConfig) -> dict[str, Any]:
    """What is written as config.json."""
    written: dict[str, Any] = _to_diff_dict(self)
    if is_pruned(self):
        written[ENTRY] = STANDALONE if SHAPES in written else WHOLE
        for name in self.sub_configs:
            if isinstance(written.get(name), dict):
                written[name] = {**written[name], ENTRY: PART}
    return written


PreTrainedConfig.to_diff_dict = _guarded  # type: ignore[method-assign]
