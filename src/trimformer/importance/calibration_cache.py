"""What calibration found, kept in a folder: a run that was cut short, or another one, need not find it again."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.errors import TrimformerError, flat
from trimformer.importance.criteria import Ranking
from trimformer.importance.obs import Curve
from trimformer.models.layer_calls import Batch
from trimformer.utils.distributed import add_up, rank, world_size
from trimformer.version import __version__

logger = logging.getLogger(__name__)


def check_calibration_dir(folder: str | Path | None) -> Path | None:
    """Raises:
    TrimformerError: it is no path, or something else is there.
    """
    if folder is None:
        return None
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise TrimformerError(f"calibration_dir is {folder!r}; give the path of a folder")
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise TrimformerError(f"calibration_dir '{folder}' is no folder; choose another")
    return Path(folder)


def cached_ranking(
    folder: Path, model: PreTrainedModel, batches: Sequence[Batch], setting: str, find: Callable[[], Ranking]
) -> Ranking:
    """The ranking of this model by these samples: the one in the folder, or what `find` gives, which is kept there.

    Its file goes by a fingerprint of all that it depends on, so one of another model or other samples is never read.

    Args:
        folder: made if need be; private to the user.
        model: dense.
        batches: this process's part of the calibration samples.
        setting: whatever else the ranking depends on.
        find: makes it.

    Raises:
        TrimformerError: nothing can be written there.
    """
    file = folder / f"calibration-{_fingerprint(model, batches, setting)}-{rank()}.safetensors"
    ranking = _read(file, model.device)
    known = torch.tensor(float(ranking is not None), device=model.device)
    add_up(known)  # all processes calibrate together, or none does
    if ranking is not None and known == world_size():
        logger.info("what calibration found is in %s: taken from there", file)
        return ranking
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, ValueError) as error:
        raise TrimformerError(f"calibration_dir {str(folder)!r} cannot be made: {flat(error)}") from None
    ranking = find()
    part = file.with_suffix(".part")
    save_file(_tensors(ranking), part)
    os.replace(part, file)
    return ranking


def _fingerprint(model: PreTrainedModel, batches: Sequence[Batch], setting: str) -> str:
    """Of the model's config and weights, all samples' tensors, the setting and the versions that computed."""
    digest = hashlib.sha256()
    versions = (__version__, torch.__version__, transformers.__version__, torch.get_num_threads(), world_size())
    for text in (setting, versions, model.device, model.config.to_json_string()):
        digest.update(f"{text}\n".encode())
    named = [*model.state_dict().items(), *((k, v) for batch in batches for k, v in sorted(batch.items()))]
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _tensors(ranking: Ranking) -> dict[str, Tensor]:
    found = {"foretells": torch.tensor(ranking.predicts_loss)}
    for i, curve in enumerate(ranking.curves):
        found |= {f"order.{i}": curve.order, f"error.{i}": curve.error}
    found |= {f"grads.{i}": grads for i, grads in enumerate(ranking.grads)}
    found |= {f"norms.{i}.{k}": norms for i, each in enumerate(ranking.token_norms) for k, norms in enumerate(each)}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}


def _read(file: Path, device: torch.device) -> Ranking | None:
    """None where there is none, or none that can be read: then it is found anew."""
    try:
        tensors = load_file(file)
        sublayers = range(sum(name.startswith("order.") for name in tensors))
        return Ranking(
            [Curve(tensors[f"order.{i}"], tensors[f"error.{i}"]) for i in sublayers],
            [tensors[f"grads.{i}"].to(device) for i in sublayers if f"grads.{i}" in tensors],
            [norms for i in sublayers if (norms := _numbered(tensors, f"norms.{i}.", device))],
            bool(tensors["foretells"]),
        )
    except (OSError, SafetensorError, KeyError):
        return None


def _numbered(tensors: dict[str, Tensor], prefix: str, device: torch.device) -> list[Tensor]:
    """Those of a prefix and a number, in order."""
    total = sum(name.startswith(prefix) for name in tensors)
    return [tensors[f"{prefix}{k}"].to(device) for k in range(total)]
