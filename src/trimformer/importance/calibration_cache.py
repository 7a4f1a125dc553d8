"""Stores calibration results in a folder, so that an interrupted or later run can reuse them."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.data.batches import token_mask
from trimformer.data.outputs import find_problem, model_output
from trimformer.data.sentence_transformers import sentence_head_of
from trimformer.errors import TrimformerError, flat
from trimformer.importance.criteria import Ranking
from trimformer.importance.obs import Curve, QueryCurve
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import Batch, forward
from trimformer.models.masking import frozen
from trimformer.utils.distributed import rank, sum_over_processes, world_size
from trimformer.utils.environment import describe_device
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
    sum_over_processes(num_stored)  # all processes calibrate together, or none does
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
    _write(ranking, file)
    return ranking


def _fingerprint(model: PreTrainedModel, batches: Sequence[Batch], setting: str) -> str:
    """Hashes the model, the samples, the setting, and the code, versions and hardware that compute."""
    config = model.config
    texts = (
        setting,
        f"{__version__} {_source_digest()} torch {torch.__version__} transformers {transformers.__version__}",
        f"{describe_device(model.device)} threads {torch.get_num_threads()} processes {world_size()}",
        f"{torch.get_default_dtype()} {torch.get_float32_matmul_precision()}",
        f"{type(model).__module__}.{type(model).__qualname__} {getattr(config, '_attn_implementation', None)}",
        config.to_json_string(),
        *(f"{s.name} {s.num_units} x {s.unit_size} {s.calls_per_pass}" for s in find_sublayers(model)),
    )
    digest = hashlib.sha256("\n".join(texts).encode())
    _add_tensors(digest, [*model.state_dict().items(), *model.named_buffers(), *_outputs(model, batches[0]).items()])
    for batch in batches:
        _add_tensors(digest, sorted(batch.items()))
    return digest.hexdigest()[:32]


@torch.no_grad()
def _outputs(model: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
    """Computes the output that is differentiated; it depends on what no weight or config shows, such as the pooling.

    A sentence head is also applied to random hidden states, as two heads may agree on a batch: ReLU on positive values.
    """
    head = sentence_head_of(model)
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []), frozen(model):
        torch.manual_seed(0)
        outputs = {"output": model_output(model, batch, find_problem(model))}
        if head is not None and not head.is_cross_encoder:
            hidden = forward(model, batch).last_hidden_state
            noise = 10 * torch.randn(hidden.shape).to(hidden)
            outputs["sentence head"] = head(noise, token_mask(batch))
    return outputs


@cache
def _source_digest() -> str:
    """Hashes the package's own source, because its constants change between releases."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _add_tensors(digest: Any, named: Iterable[tuple[str, Tensor]]) -> None:
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def _write(ranking: Ranking, file: Path) -> None:
    """Writes a ranking with its checksum; a failure is only logged, as the run can go on without the file."""
    tensors = {"predicts_loss": torch.tensor(ranking.predicts_loss)}
    for i, curve in enumerate(ranking.curves):
        tensors |= {f"order.{i}": curve.order, f"error.{i}": curve.error}
        for k, narrow in enumerate(curve.fewer_queries):
            tensors |= {
                f"narrow.{i}.{k}.kept": narrow.kept,
                f"narrow.{i}.{k}.order": narrow.curve.order,
                f"narrow.{i}.{k}.error": narrow.curve.error,
            }
    tensors |= {f"grads.{i}": grads for i, grads in enumerate(ranking.grads)}
    for i, batches in enumerate(ranking.token_norms):
        tensors |= {f"norms.{i}.{k}": norms for k, norms in enumerate(batches)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    partial_file = file.with_suffix(".part")
    try:
        save_file(tensors, partial_file, metadata={"sha256": _checksum(tensors)})
        os.replace(partial_file, file)
    except (OSError, SafetensorError) as error:
        logger.warning("calibration cannot be stored in '%s': %s", file, flat(error))


def _checksum(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    _add_tensors(digest, sorted(tensors.items()))
    return digest.hexdigest()


def _read(file: Path, device: torch.device) -> Ranking | None:
    """Reads a stored ranking; None if the file is missing or damaged, so that calibration runs again."""
    if not os.path.lexists(file):
        return None
    try:
        if not file.is_file():
            raise OSError("it is not a file")
        tensors = load_file(file)
        with safe_open(file, "pt") as stored:  # type: ignore[no-untyped-call]
            checksum = (stored.metadata() or {}).get("sha256")
        if checksum != _checksum(tensors):
            raise OSError("its checksum is wrong")
    except (OSError, SafetensorError) as error:
        logger.warning("calibration file '%s' is damaged (%s), so calibration runs again", file, flat(error))
        return None
    sublayers = range(sum(name.startswith("order.") for name in tensors))
    return Ranking(
        [Curve(tensors[f"order.{i}"], tensors[f"error.{i}"], _fewer_queries(tensors, i)) for i in sublayers],
        [tensors[f"grads.{i}"].to(device) for i in sublayers if f"grads.{i}" in tensors],
        [norms for i in sublayers if (norms := _numbered(tensors, f"norms.{i}.", device))],
        predicts_loss=bool(tensors["predicts_loss"]),
    )


def _fewer_queries(tensors: dict[str, Tensor], i: int) -> list[QueryCurve]:
    """Returns the stored curves of a sublayer with fewer query heads."""
    total = sum(name.startswith(f"narrow.{i}.") and name.endswith(".kept") for name in tensors)
    parts = [{key: tensors[f"narrow.{i}.{k}.{key}"] for key in ("kept", "order", "error")} for k in range(total)]
    return [QueryCurve(part["kept"], Curve(part["order"], part["error"])) for part in parts]


def _numbered(tensors: dict[str, Tensor], prefix: str, device: torch.device) -> list[Tensor]:
    """Returns the tensors named by a prefix and a number, in order."""
    total = sum(name.startswith(prefix) for name in tensors)
    return [tensors[f"{prefix}{k}"].to(device) for k in range(total)]
