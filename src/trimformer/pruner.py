"""The stages between encoded samples and a pruned model: calibrate once, prune to any number of budgets."""

import copy
import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.arch import find_sublayers
from trimformer.calibration import Batch
from trimformer.efficiency.cost import Costs
from trimformer.errors import TrimformerError
from trimformer.fisher import collect_mask_grads
from trimformer.kprune import kprune
from trimformer.methods import Method
from trimformer.moments import SublayerMoments, collect_moments
from trimformer.objective import find_problem
from trimformer.processes import decide, gathered
from trimformer.progress import progress
from trimformer.reconstruct import reconstruct
from trimformer.rescale import rescale_mask
from trimformer.select import NEURON_MULTIPLE, find_curves, select_masks
from trimformer.shrink import shrink
from trimformer.streams import Refit

logger = logging.getLogger(__name__)

# A shrunk model -> None, or the costs and the constraint to select by instead.
Correct = Callable[[PreTrainedModel], tuple[Costs, float] | None]


@dataclass
class Pruned:
    """A shrunk and refitted model.

    Attributes:
        model: in evaluation mode.
        masks: one per sublayer of the dense model: 0 for a removed unit, else its scale.
        refits: what became of each sublayer's refit; empty without an update.
        predicted: the loss increase that each sublayer's curve foretells; only for "obs".
    """

    model: PreTrainedModel
    masks: list[Tensor]
    refits: list[Refit]
    predicted: list[float] = field(default_factory=list)


class Pruner:
    """Calibrates on creation; each call prunes a copy of the model to one budget.

    Args:
        model: dense, on its device; left as it was.
        batches: calibration samples on that device, this process's part of them.
        method: a point of the grid.
        neuron_multiple: "dp" allocation keeps multiples of so many neurons.
        seed: for label-free losses and the random criterion.
        max_memory: bytes that hidden states may take; see `walk`.
        bf16: run the passes in bfloat16; statistics stay in float32 and float64.
        clock: context managers that time a stage, by its name.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        batches: Sequence[Batch],
        method: Method,
        *,
        neuron_multiple: int = NEURON_MULTIPLE,
        seed: int = 0,
        max_memory: float = math.inf,
        bf16: bool = False,
        clock: Callable[[str], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        self.model, self.batches, self.method = model, batches, method
        self._sublayers, self._clock = find_sublayers(model), clock
        self._max_memory = max_memory
        self._precision = partial(torch.autocast, model.device.type, dtype=torch.bfloat16, enabled=bf16)
        self._grads: list[Tensor] = []
        moments: list[SublayerMoments] = []
        with clock("calibrate"), self._precision():
            shown = progress(batches, "calibrate")
            if method.criterion == "fisher":
                grads = collect_mask_grads(model, shown, objective=method.objective, seed=seed)
                self._grads = [gathered(grad) for grad in grads]
            elif method.criterion == "obs":
                moments = collect_moments(model, shown, objective=method.objective, seed=seed)
        self._token_norms = [m.token_norms for m in moments]
        with clock("curves"):
            self.curves = find_curves(method.criterion, self._sublayers, grads=self._grads, moments=moments, seed=seed)
        if self.curves and not any(curve.error.any() for curve in self.curves):
            raise TrimformerError(
                f"criterion '{method.criterion}' finds no unit to matter: the loss has no gradient at any sublayer; "
                "is the checkpoint fine-tuned, and on data of this kind?"
            )
        self._select = partial(
            select_masks,
            method.allocation,
            self._sublayers,
            self.curves,
            neuron_multiple=neuron_multiple,
        )

    def __call__(self, costs: Costs, constraint: float, correct: Correct | None = None) -> Pruned:
        """Prunes to `constraint`, a fraction in (0, 1] of the dense cost.

        Args:
            costs: what the budget is counted in.
            constraint: what to keep of it.
            correct: looks at the shrunk model, not refitted yet, and may ask for other costs and another
                constraint; then units are selected once more.

        Raises:
            TrimformerError: the constraint cannot be reached.
        """
        if self.method.criterion == "kprune":
            return self._kprune(costs, constraint)
        masks, student = self._shrink(costs, constraint)
        if correct is not None and (corrected := decide(lambda: correct(student))) is not None:
            try:
                masks, student = self._shrink(*corrected)
                costs, constraint = corrected
            except TrimformerError as error:
                logger.warning("the first selection stays, though it misses the budget: %s", error)
        units = [int(mask.count_nonzero()) for mask in masks]
        predicted = []
        if self.method.criterion == "obs":  # other curves rank units, but are no loss
            predicted = [float(curve.error[kept]) for curve, kept in zip(self.curves, units, strict=True)]
        with self._clock("update"), self._precision():
            return replace(self._update(student, masks, costs, constraint), predicted=predicted)

    def select(self, costs: Costs, constraint: float) -> list[Tensor]:
        """One mask of zeros and ones per sublayer, the same in every process.

        Raises:
            TrimformerError: the constraint cannot be reached.
        """
        return decide(lambda: self._select(costs, constraint=constraint, rearrange_grads=self._grads or None))

    def _shrink(self, costs: Costs, constraint: float) -> tuple[list[Tensor], PreTrainedModel]:
        with self._clock("search"):
            masks = self.select(costs, constraint)
        with self._clock("shrink"):
            student = copy.deepcopy(self.model).eval()
            shrink(student, masks)
        return masks, student

    def _kprune(self, costs: Costs, constraint: float) -> Pruned:
        student = copy.deepcopy(self.model).eval()
        with self._clock("update"):
            masks, refits = kprune(
                self.model,
                student,
                self.batches,
                costs,
                constraint=constraint,
                max_memory=self._max_memory,
                progress=partial(progress, desc="kprune"),
            )
        return Pruned(student, masks, refits)

    def _update(self, student: PreTrainedModel, masks: list[Tensor], costs: Costs, constraint: float) -> Pruned:
        if self.method.update == "scale":
            scales, refits = rescale_mask(
                self.model,
                student,
                self.batches,
                teacher_masks=self._select(costs, constraint=constraint**0.5),
                first_token_last=find_problem(student) in ("single_label", "multi_label", "regression"),
                max_memory=self._max_memory,
                progress=partial(progress, desc="rescale"),
            )
            for mask, scale in zip(masks, scales, strict=True):
                mask[mask != 0] = scale.to(mask)
            return Pruned(student, masks, refits)
        refits = []
        if self.method.update == "full":
            norms = self._token_norms
            refits = reconstruct(
                self.model,
                student,
                self.batches,
                token_weights=(lambda s, b: norms[s][b]) if norms else None,
                max_memory=self._max_memory,
                progress=partial(progress, desc="reconstruct"),
            )
        return Pruned(student, masks, refits)
