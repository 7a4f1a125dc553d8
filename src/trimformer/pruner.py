"""The stages between encoded samples and a pruned model: calibrate once, prune to any number of budgets."""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.arch import find_sublayers
from trimformer.arch.calls import Batch
from trimformer.costs.cost import Costs
from trimformer.curves.fisher import collect_mask_grads
from trimformer.curves.moments import SublayerMoments, collect_moments
from trimformer.curves.objective import reads_first_token
from trimformer.errors import TrimformerError
from trimformer.methods import Method
from trimformer.processes import decide, gathered
from trimformer.run import Run
from trimformer.select.allocations import NEURON_MULTIPLE, find_curves, select_masks
from trimformer.shrinking.shrink import shrink
from trimformer.update.kprune import kprune
from trimformer.update.reconstruct import reconstruct
from trimformer.update.rescale import rescale_mask
from trimformer.update.walk import Refit

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
        run: memory, precision, seed, progress and clock.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        batches: Sequence[Batch],
        method: Method,
        *,
        neuron_multiple: int = NEURON_MULTIPLE,
        run: Run | None = None,
    ) -> None:
        self.model, self.batches, self.method = model, batches, method
        self._sublayers, self._run = find_sublayers(model), run or Run()
        clock, seed = self._run.clock, self._run.seed
        self._grads: list[Tensor] = []
        moments: list[SublayerMoments] = []
        with clock("calibrate"), self._run.precision(model.device):
            shown = self._run.progress(batches, "calibrate")
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
        with self._run.clock("update"), self._run.precision(self.model.device):
            return replace(self._update(student, masks, costs, constraint), predicted=predicted)

    def select(self, costs: Costs, constraint: float) -> list[Tensor]:
        """One mask of zeros and ones per sublayer, the same in every process.

        Raises:
            TrimformerError: the constraint cannot be reached.
        """
        return decide(lambda: self._select(costs, constraint=constraint, rearrange_grads=self._grads or None))

    def _shrink(self, costs: Costs, constraint: float) -> tuple[list[Tensor], PreTrainedModel]:
        with self._run.clock("search"):
            masks = self.select(costs, constraint)
        with self._run.clock("shrink"):
            student = copy.deepcopy(self.model).eval()
            shrink(student, masks)
        return masks, student

    def _kprune(self, costs: Costs, constraint: float) -> Pruned:
        student = copy.deepcopy(self.model).eval()
        with self._run.clock("update"):
            masks, refits = kprune(self.model, student, self.batches, costs, constraint=constraint, run=self._run)
        return Pruned(student, masks, refits)

    def _update(self, student: PreTrainedModel, masks: list[Tensor], costs: Costs, constraint: float) -> Pruned:
        if self.method.update == "scale":
            scales, refits = rescale_mask(
                self.model,
                student,
                self.batches,
                teacher_masks=self._select(costs, constraint=constraint**0.5),
                first_token_last=decide(lambda: reads_first_token(self.model, self.batches[0])),
                run=self._run,
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
                token_weights=(lambda s, b, _: norms[s][b]) if norms else None,
                run=self._run,
            )
        return Pruned(student, masks, refits)
