"""Makes loading a pruned directory without trimformer fail with an error that asks for the import.

Without it, Transformers would warn of an unknown quantization, fail at the shapes, and suggest a flag that makes
every pruned layer random. Two entries of a pruned config prevent that:

- `dtype` holds the advice beside the name of the type. Reading the config without trimformer fails at it, before any
  other message; reading it with trimformer restores the type. Standalone directories keep a plain `dtype`, as their
  config must be readable.
- `transformers_weights` names a weight file that does not exist, and the file's name is the advice. No flag gets past
  it. Our own loading removes the entry first (`open_guard`).

Importing this module adds the entries to every pruned config on writing, whoever writes it.
"""

from typing import Any

from transformers import PreTrainedConfig

QUANT_METHOD = "trimformer"
ENTRY = "transformers_weights"
SHAPES = "trimformer_shapes"  # in the config of a standalone directory
WHOLE = "import-trimformer-to-load-this.safetensors"
STANDALONE = "pass-trust_remote_code-or-import-trimformer-to-load-this.safetensors"
PART = "load-the-whole-model-after-import-trimformer.safetensors"  # a single tower has no widths in its config

ADVICE = "this model was pruned by trimformer; run 'import trimformer' before loading it"

_to_diff_dict = PreTrainedConfig.to_diff_dict
_from_dict: Any = vars(PreTrainedConfig)["from_dict"].__func__


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
        if SHAPES not in written:
            written["dtype"] = f"{written.get('dtype') or ''} ({ADVICE})"
        for name in self.sub_configs:
            if isinstance(written.get(name), dict):
                written[name] = {**written[name], ENTRY: PART}
    return written


def _from_guarded_dict(cls: type[PreTrainedConfig], config_dict: dict[str, Any], **kwargs: Any) -> Any:
    """Builds a config from the content of config.json; restores the type of a pruned one."""
    name = config_dict.get("dtype")
    if isinstance(name, str) and ADVICE in name:
        config_dict = {**config_dict, "dtype": name.split("(")[0].strip() or None}
    return _from_dict(cls, config_dict, **kwargs)


PreTrainedConfig.from_dict = classmethod(_from_guarded_dict)  # type: ignore[assignment, arg-type]
PreTrainedConfig.to_diff_dict = _to_guarded_dict  # type: ignore[method-assign]
