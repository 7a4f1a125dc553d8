"""Writes the output directory of a pruning run."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trimformer.checkpoints.save_load import write_model
from trimformer.errors import in_unicode
from trimformer.models import KINDS, Sublayer
from trimformer.models.mask_tensors import stack_masks
from trimformer.models.masking import units_left
from trimformer.reporting.cards.card import model_card
from trimformer.reporting.cards.source import CARD, last_part
from trimformer.reporting.cards.use import loading_lines
from trimformer.reporting.page.prune import prune_page
from trimformer.results import PruningResult
from trimformer.utils.outputs import write_directory


def results_dict(
    result: PruningResult, sublayers: list[Sublayer], arguments: Mapping[str, Any], command: Sequence[str] = ()
) -> dict[str, Any]:
    """Builds the contents of `results.json`.

    Args:
        result: of the run.
        sublayers: of the dense model, one for each mask.
        arguments: of the run.
        command: words of the command line.
    """
    figures = result.figures()
    for sublayer, entry in zip(sublayers, figures["sublayers"], strict=True):
        entry["sublayer"] = sublayer.name
    counts = list(zip(result.kinds, units_left(result.masks), strict=True))
    heads, neurons = ([units for kind, units in counts if kind == wanted] for wanted in KINDS)
    return {**figures, "heads": heads, "neurons": neurons, "command": list(command), "arguments": dict(arguments)}


def write_result(
    result: PruningResult,
    processor: Any,
    path: str | Path,
    sublayers: list[Sublayer],
    arguments: Mapping[str, Any],
    log: Sequence[str] = (),
    command: Sequence[str] = (),
    *,
    beside: Callable[[Path], None] = lambda _: None,
    standalone: bool = False,
) -> None:
    """Writes the pruned model and the files beside it.

    These are the model card, `head_mask.pt`, `neuron_mask.pt`, `results.json`, `report.html` and `log.txt`.

    Args:
        result: of the run.
        processor: the tokenizer or processor, saved with the model.
        path: a directory that is empty or does not exist; it appears only once complete.
        sublayers: of the dense model, one for each mask.
        arguments: of the run, recorded in `results.json`.
        log: lines of `log.txt` before the table.
        command: words of the command line, for the card and for `trimformer reproduce`.
        beside: writes further files into the directory and may add to the result, before its figures are written.
        standalone: the directory also loads without trimformer; see `write_standalone`.

    Raises:
        TrimformerError: the directory is not empty or cannot be written, or cannot be standalone.
    """
    data = arguments.get("eval_data") or arguments.get("data") or arguments.get("data_dir")
    dataset = in_unicode(last_part(data) if data else result.task.name)
    words = [in_unicode(word) for word in command]
    head_mask, neuron_mask = stack_masks(sublayers, result.masks)
    with write_directory(path) as directory:
        write_model(result.model, processor, directory, standalone=standalone)
        torch.save(head_mask, directory / "head_mask.pt")
        torch.save(neuron_mask, directory / "neuron_mask.pt")
        beside(directory)
        card = model_card(result, last_part(path), dataset=dataset, command=words, standalone=standalone)
        card.save(directory / CARD)
        text = json.dumps(results_dict(result, sublayers, arguments, command), indent=2, default=str)
        (directory / "results.json").write_text(text + "\n", encoding="utf-8")
        loading = loading_lines(result.model, last_part(path))
        page = prune_page(result, sublayers, last_part(path), arguments, loading, words)
        (directory / "report.html").write_text(in_unicode(page), encoding="utf-8")
        (directory / "log.txt").write_text("\n".join([*log, "", str(result), ""]), encoding="utf-8")
