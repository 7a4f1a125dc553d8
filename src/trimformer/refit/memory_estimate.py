"""Estimates the memory that pruning takes, before anything is measured."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from trimformer.data.outputs import find_problem
from trimformer.importance.second_moments import group_by_memory, moment_bytes
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.refit.walk_memory import WalkMemory
from trimformer.utils.memory import free_memory

logger = logging.getLogger(__name__)

# Tensors of the hidden size, and of the channels, that a sublayer holds for its backward pass, or as it runs.
_SAVED = 4
_LOGITS = 4  # float32 tensors of the logits' shape: logits, their gradient, its two products
_CURVE = 4  # float64 matrices of a removal curve: inverse, its successor, updates, factor
_FIT_SQUARES, _FIT_CROSS = 7, 5  # float64 matrices [channels, channels] and [channels, hidden] of a least-squares fit


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of each stage, with the weights of the dense model.

    Attributes:
        weights: weights of the dense model.
        calibrate: forward and backward pass over the calibration samples, with the second moments.
        curves: removal curves from the second moments.
        refit: the walk of the dense model and its pruned copies, with the least-squares fits.
    """

    weights: float
    calibrate: float
    curves: float
    refit: float

    @property
    def total(self) -> float:
        """The largest of all stages."""
        return max(self.calibrate, self.curves, self.refit)


def estimate_memory(
    model: PreTrainedModel,
    tokens: int,
    batch_tokens: int,
    *,
    students: int = 1,
    max_memory: float = math.inf,
    outputs: float = 0.0,
) -> MemoryEstimate:
    """Estimates the peak memory of pruning by the obs method, within a factor of 1.3 (docs/performance.md).

    Nothing is run, so the model may be on the meta device. Pruned copies count as large as the dense model, which they
    are before they shrink. What the allocator keeps of freed memory is not counted.

    Args:
        model: the dense model, in the dtype of its passes.
        tokens: calibration tokens of this process.
        batch_tokens: tokens of the largest batch, with padding.
        students: models that are pruned at once.
        max_memory: see `ExecutionOptions`.
        outputs: bytes of the dense model's outputs that are kept for the refit; see `choose_kept_outputs`.
    """
    sublayers = find_sublayers(model)
    item = model.dtype.itemsize
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    groups = group_by_memory(sublayers, max_memory)
    moments = max(sum(moment_bytes(sublayers[i]) for i in group) for group in groups)
    saved = [_SAVED * batch_tokens * item * (s.hidden_size + s.channels) for s in sublayers]
    logits = _LOGITS * 4 * batch_tokens * _vocabulary(model)
    norms = 4 * tokens * len(sublayers)
    widest = max(s.channels for s in sublayers)
    hidden_size = max(s.hidden_size for s in sublayers)
    stored = WalkMemory.of(tokens * item, hidden_size, students * widest, students, max_memory - outputs)
    return MemoryEstimate(
        weights=weights,
        calibrate=weights + moments + sum(saved) + logits + norms + outputs,
        curves=weights + moments + norms + outputs + 8 * _CURVE * widest**2,
        refit=weights * (1 + students)
        + norms
        + outputs
        + max(saved)
        + stored.in_memory
        + students * 8 * max(_FIT_SQUARES * s.channels**2 + _FIT_CROSS * s.channels * s.hidden_size for s in sublayers),
    )


def warn_of_memory(model: PreTrainedModel, batches: Sequence[Batch], *, max_memory: float = math.inf) -> None:
    """Logs a warning if pruning on batches of text is likely to need more memory than is free.

    Args:
        model: the dense model, on its device.
        batches: calibration samples of this process; other samples than text are passed over.
        max_memory: see `ExecutionOptions`.
    """
    sizes = [batch["input_ids"].numel() for batch in batches if "input_ids" in batch]
    if not sizes:
        return
    peak = estimate_memory(model, sum(sizes), max(sizes), max_memory=max_memory)
    needed, free = peak.total - peak.weights, free_memory(model.device)
    if needed > free:
        logger.warning(
            "pruning takes about %.1f GB beside the model, and %.1f GB are free on '%s'; lower --max-memory, "
            "--num-samples or --batch-size",
            needed / 1e9,
            free / 1e9,
            model.device,
        )


def _vocabulary(model: PreTrainedModel) -> int:
    """Returns the size of the vocabulary that a language model predicts, 0 for other models."""
    return model.config.get_text_config().vocab_size if find_problem(model) == "language" else 0
