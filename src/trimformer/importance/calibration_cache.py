"""Stores calibration results in a folder, so that an interrupted or later run can reuse them."""

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
    """Checks the path of the calibration folder, which need not exist.

    Raises:
        TrimformerError: the value is not a path, or the path exists and is not a folder.
    """
    if folder is None:
        return None
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise TrimformerError(f"calibration_dir is {folder!r}; give the path of a folder")
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise TrimformerError(f"calibration_dir '{folder}' is not a folder; choose another path")
    return Path(folder)


def cached_ranking(
    folder: Path, model: PreTrainedModel, batches: Sequence[Batch], setting: str, calibrate: Callable[[], Ranking]
) -> Ranking:
    """Returns the stored ranking of this model on these samples; computes and stores it if there is none.

    The file name contains a fingerprint of everything the ranking depends on, so a ranking of another model or of other
    samples is never used.

    Args:
        folder: created if missing, readable by the user only.
        model: the dense model.
        batches: calibration samples of this process.
        setting: text that identifies everything else the ranking depends on.
        calibrate: computes the ranking.

    Raises:
        TrimformerError: the folder cannot be created.
    """
    file = folder / f"calibration-{_fingerprint(model, batches, setting)}-{rank()}.safetensors"
    ranking = _read(file, model.device)
    num_stored = torch.tensor(float(ranking is not None), device=model.device)
    add_up(num_stored)  # all processes calibrate together, or none does
    if ranking is not None and num_stored == world_size():
        logger.info("calibration is read from %s", file)
        return ranking
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, ValueError) as error:
        raise TrimformerError(
            f"calibration_dir {str(folder)!r} cannot be created: {flat(error)}; choose another folder"
        ) from None
    ranking = calibrate()
    partial_file = file.with_suffix(".part")
    save_file(_tensors(ranking), partial_file)
    os.replace(partial_file, file)
    return ranking


def _fingerprint(model: PreTrainedModel, batches: Sequence[Batch], setting: str) -> str:
    """Hashes the model's config and weights, the samples, the setting, and the versions and threads that compute."""
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
    tensors = {"foretells": torch.tensor(ranking.predicts_loss)}
    for i, curve in enumerate(ranking.curves):
        tensors |= {f"order.{i}": curve.order, f"error.{i}": curve.error}
    tensors |= {f"grads.{i}": grads for i, grads in enumerate(ranking.grads)}
    for i, batches in enumerate(ranking.token_norms):
        tensors |= {f"norms.{i}.{k}": norms for k, norms in enumerate(batches)}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _read(file: Path, device: torch.device) -> Ranking | None:
    """Reads a stored ranking; None if the file is missing or damaged, so that calibration runs again."""
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
    """Returns the tensors named by a prefix and a number, in order."""
    total = sum(name.startswith(prefix) for name in tensors)
    return [tensors[f"{prefix}{k}"].to(device) for k in range(total)]
