"""Finds the source of a model: its name on the hub and the metadata of its card."""

import logging
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, try_to_load_from_cache
from transformers import PreTrainedModel

from trimformer.errors import flat, one_line

logger = logging.getLogger(__name__)

CARD = "README.md"

_COPIED = ("license", "license_name", "license_link", "language", "datasets")

_HUB_NAME = re.compile(r"(?!.*(?:--|\.\.))(?:\w(?:[\w.-]*\w)?/)?\w(?:[\w.-]*\w)?", re.ASCII)

_SNAPSHOT = re.compile(r"models--([^/\\]+)[/\\]snapshots[/\\]")  # of the hub's cache


@dataclass(frozen=True)
class Source:
    """The source of a pruned or exported model.

    Attributes:
        hub: its name on the hub; None for a local folder.
        folder: last part of its path; empty if unknown.
        metadata: of its card, as far as it applies to the new model; `base_model` holds names on the hub.
    """

    hub: str | None = None
    folder: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Returns the source as Markdown."""
        links = ", ".join(f"[{name}](https://huggingface.co/{name})" for name in self.metadata.get("base_model", []))
        if self.hub or not self.folder:
            return links or "A model"
        folder = one_line(self.folder).replace("`", "'")
        return f"`{folder}`, derived from {links}," if links else f"`{folder}`"


def source_of(model: PreTrainedModel) -> Source:
    """Finds where a model was loaded from; the result contains no absolute path."""
    name = str(getattr(model.config, "_name_or_path", "") or "")
    if not name:
        return Source()
    snapshot = _SNAPSHOT.search(f"{name}/")
    hub = snapshot[1].replace("--", "/") if snapshot else None
    card: Any = Path(name) / CARD
    if not Path(name).is_dir():
        hub = hub or (name if _HUB_NAME.fullmatch(name) else None)
        card = try_to_load_from_cache(hub, CARD) if hub else None
    data = _read(Path(card)) if isinstance(card, str | Path) and Path(card).is_file() else {}
    metadata = {key: value for key in _COPIED if (value := _plain(data.get(key)))}
    metadata["tags"] = _listed(data.get("tags"))
    # A folder has no page on the hub, but its own base model may have one.
    candidates = [hub] if hub else _listed(data.get("base_model"))
    folder = last_part(name)
    base = [name for name in candidates if _HUB_NAME.fullmatch(name) and not Path(name).is_dir()]
    return Source(hub, folder, {**metadata, **({"base_model": base} if base else {})})


def last_part(path: str | Path) -> str:
    """Returns the name of a file or folder; relative paths such as `..` are resolved."""
    name = Path(path).name
    return name if name not in ("", "..") else Path(path).resolve().name


def shorten_command(words: Sequence[str], hub: str | None = None) -> str:
    """Returns a command line without the folders of the machine it ran on.

    Args:
        words: of the command line.
        hub: name on the hub that is shown whole.
    """
    return shlex.join(
        word if word == hub else re.sub(r"^(--[\w-]+=)?(.*[/\\])", r"\1", word.rstrip("/")) for word in words
    )


def _listed(value: Any) -> list[str]:
    """Returns the strings of a list; a card may give one string instead, or anything else."""
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str) and item.strip()]


def _plain(value: Any) -> Any:
    """Returns a string or the strings of a list, for the metadata of another card; None for any other value."""
    return _listed(value) or None if isinstance(value, list) else value if isinstance(value, str) else None


def _read(card: Path) -> dict[str, Any]:
    """Reads the metadata of a card; an unreadable card gives a warning and no metadata."""
    try:
        return ModelCard.load(card).data.to_dict()
    except Exception as error:  # of YAML, of encodings, of the hub's own checks
        reason = flat(error)[:200]
        logger.warning(
            "the model card of '%s' cannot be read; its metadata is ignored: %s", card.resolve().parent.name, reason
        )
        return {}
