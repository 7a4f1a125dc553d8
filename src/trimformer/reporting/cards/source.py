"""Where a model comes from, and what its own card says of it."""

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, try_to_load_from_cache
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

CARD = "README.md"

_CARRIED = ("license", "license_name", "license_link", "language", "datasets")

_HUB_NAME = re.compile(r"(?!.*(?:--|\.\.))(?:\w(?:[\w.-]*\w)?/)?\w(?:[\w.-]*\w)?", re.ASCII)

_SNAPSHOT = re.compile(r"models--([^/\\]+)[/\\]snapshots[/\\]")  # of the hub's cache


@dataclass(frozen=True)
class Source:
    """The model that another was made of.

    Attributes:
        hub: its name on the hub; None where it lay in a folder.
        folder: the last part of that folder; empty where nothing is known.
        metadata: of its card, what holds for the other model too; `base_model` are names on the hub.
    """

    hub: str | None = None
    folder: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        links = ", ".join(f"[{name}](https://huggingface.co/{name})" for name in self.metadata.get("base_model", []))
        if self.hub or not self.folder:
            return links or "A model"
        return f"`{self.folder}`, made of {links}," if links else f"`{self.folder}`"


def source_of(model: PreTrainedModel) -> Source:
    """Where a model was loaded from; never an absolute path."""
    name = str(getattr(model.config, "_name_or_path", "") or "")
    if not name:
        return Source()
    found = _SNAPSHOT.search(f"{name}/")
    hub = found[1].replace("--", "/") if found else None
    card: Any = Path(name) / CARD
    if not Path(name).is_dir():
        hub = hub or (name if _HUB_NAME.fullmatch(name) else None)
        card = try_to_load_from_cache(hub, CARD) if hub else None
    data = _read(Path(card)) if isinstance(card, str | Path) and Path(card).is_file() else {}
    metadata = {key: data[key] for key in _CARRIED if data.get(key)}
    metadata["tags"] = _listed(data.get("tags"))
    # A folder has no page; what it was made of may have one.
    named = [hub] if hub else _listed(data.get("base_model"))
    base = [each for each in named if _HUB_NAME.fullmatch(each) and not Path(each).is_dir()]
    return Source(hub, last_part(name), {**metadata, **({"base_model": base} if base else {})})


def last_part(path: str | Path) -> str:
    """What a file or folder is called, however its path is written."""
    name = Path(path).name
    return name if name not in ("", "..") else Path(path).resolve().name


def _listed(value: Any) -> list[str]:
    """A list that a card may give as one string."""
    return [value] if isinstance(value, str) else list(value or [])


def _read(card: Path) -> dict[str, Any]:
    """The metadata of a card; none, with a warning, of one that cannot be read."""
    try:
        return ModelCard.load(card).data.to_dict()
    except Exception as error:  # of YAML, of encodings, of the hub's own checks
        reason = " ".join(str(error).split())[:200]
        logger.warning(
            "the card of '%s' cannot be read, nothing is taken from it: %s", card.resolve().parent.name, reason
        )
        return {}
