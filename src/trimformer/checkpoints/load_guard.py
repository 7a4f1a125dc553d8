"""Makes loading a pruned directory without trimformer fail with an error that asks for the import.

Without it, Transformers would warn of an unknown quantization, fail at the shapes, and suggest a flag that makes
every pruned layer random. A pruned config therefore names a weight file that cannot be read: its header holds a
sentence that the error shows, as the last line of a short traceback. `pipeline` does not catch this error, as it does
others, to try again. Where the file is missing, the error shows its name, which says the same. It is missing in
standalone directories, whose weights other engines read from all files that are there. No loading flag avoids the
error. Our own loading removes the entry first (`open_guard`).

Transformers drops the entry when it saves a config, so importing this module adds it to every pruned config on writing.
"""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

QUANT_METHOD = "trimformer"
ENTRY = "transformers_weights"
SHAPES = "trimformer_shapes"  # in the config of a standalone directory
WHOLE = "import-trimformer-to-load-this.safetensors"
STANDALONE = "pass-trust_remote_code-or-import-trimformer-to-load-this.safetensors"
PART = "load-the-whole-model-after-import-trimformer.safetensors"  # a single tower has no widths in its config
SENTENCES = {
    WHOLE: "trimformer pruned this model: run `import trimformer`, then load it again",
    PART: "trimformer pruned this model: load the whole of it, not one of its towers, after `import trimformer`",
}

_to_diff_dict = PreTrainedConfig.to_diff_dict


def is_pruned(config: PreTrainedConfig) -> bool:
    """Whether the config records the widths of a pruned model."""
    widths = getattr(config, "quantization_config", None)
    method = widths.get("quant_method") if isinstance(widths, dict) else getattr(widths, "quant_method", None)
    return method == QUANT_METHOD


def open_guard(config: PreTrainedConfig) -> None:
    """Removes the entry for the unreadable file, so that Transformers finds the weights."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        if part is not None:
            vars(part).pop(ENTRY, None)


def write_guard_files(directory: Path) -> None:
    """Writes the unreadable weight files that a config names; that of a dense or standalone directory has none."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if SHAPES in config:
        return
    for entries in (config, *(part for part in config.values() if isinstance(part, dict))):
        name = entries.get(ENTRY)
        if name in SENTENCES:
            header = json.dumps({"not weights": SENTENCES[name]}).encode()
            (directory / name).write_bytes(len(header).to_bytes(8, "little") + header)


def weight_files(directory: Path, *patterns: str) -> list[Path]:
    """Returns the files of a directory that match the patterns, sorted, without the unreadable ones."""
    return sorted(path for pattern in patterns for path in directory.glob(pattern) if path.name not in SENTENCES)


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
