"""Makes loading a pruned directory without trimformer fail with an error that asks for the import.

Without it, Transformers would warn of an unknown quantization, fail at the shapes, and suggest a flag that makes
every pruned layer random. A pruned config therefore names a weight file that does not exist, and the error that
shows its name says what to do. No loading flag avoids it. Our own loading removes the entry first (`open_guard`).

Transformers drops the entry when it saves a config, so importing this module adds it to every pruned config on writing.
"""

from typing import Any

from transformers import PreTrainedConfig

QUANT_METHOD = "trimformer"
ENTRY = "transformers_weights"
SHAPES = "trimformer_shapes"  # in the config of a standalone directory
WHOLE = "import-trimformer-to-load-this.safetensors"
STANDALONE = "pass-trust_remote_code-or-import-trimformer-to-load-this.safetensors"
PART = "load-the-whole-model-after-import-trimformer.safetensors"  # a single tower has no widths in its config

_to_diff_dict = PreTrainedConfig.to_diff_dict


def is_pruned(config: PreTrainedConfig) -> bool:
    """Whether the config records the widths of a pruned model."""
    widths = getattr(config, "quantization_config", None)
    method = widths.get("quant_method") if isinstance(widths, dict) else getattr(widths, "quant_method", None)
    return method == QUANT_METHOD


def open_guard(config: PreTrainedConfig) -> None:
    """Removes the entry for the nonexistent file, so that Transformers finds the weights."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is not None:
            vars(part).pop(ENTRY, None)


def _to_guarded_dict(self: PreTrainedConfig) -> dict[str, Any]:
    """Returns the content of config.json; pruned configs get the guard entry."""
    written: dict[str, Any] = _to_diff_dict(self)
    if is_pruned(self):
        written[ENTRY] = STANDALONE if SHAPES in written else WHOLE
        for name in self.sub_configs:
            if isinstance(written.get(name), dict):
                written[name] = {**written[name], ENTRY: PART}
    return written


PreTrainedConfig.to_diff_dict = _to_guarded_dict  # type: ignore[method-assign]
