"""The stages between encoded samples and a pruned model: calibrate once, prune to any number of budgets."""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.allocation.allocations import select_masks
from trimformer.checkpoints.shrink import shrink
from trimformer.costs.cost_tables import Costs
from trimformer.errors import TrimformerError
from trimformer.importance.calibration_cache import cached_ranking
from trimformer.importance.criteria import CRITERIA, Ranking
from trimformer.importance.obs import Curve
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.models.masking import units_left
from trimformer.options.choices import NEURON_MULTIPLE
from trimformer.options.execution import ExecutionOptions
from trimformer.options.methods import AnyMethod, Method, WholeMethod
from trimformer.polish.data import PolishInputs, check_polish_inputs
from trimformer.polish.result import PolishReport
from trimformer.polish.train import polish
from trimformer.refit.kprune import kprune
from trimformer.refit.plain_layout import make_plain, try_plain_layout
from trimformer.refit.result import Refit
from trimformer.refit.updates import UPDATES, UpdateInputs
from trimformer.utils.distributed import decide

logger = logging.getLogger(__name__)

# A shrunk model -> None, or the costs and the constraint to select by instead.
Correct = Callable[[PreTrainedModel], tuple[Costs, float] | None]

WHOLE_METHODS = {"kprune": kprune}

WORTH = 0.95  # of a divergence: the rest is about what an eighth of the samples more is worth to a refit


@dataclass(frozen=True)
class Budget:
    """What a model may cost.

    Attributes:
        costs: what is counted.
        constraint: fraction in (0, 1] of the dense cost.
        correct: see `Pruner.__call__`.
    """

    costs: Costs
    constraint: float
    correct: Correct | None = None


@dataclass
class Pruned:
    """A shrunk and refitted model.

    Attributes:
        model: in evaluation mode.
        masks: one per sublayer of the dense model: 0 for a removed unit, else its scale.
        refits: what became of each sublayer's refit; empty without an update.
        predicted: the loss increase that each sublayer's curve foretells; only for "obs".
        polish: what became of the polish, where the method has one.
    """

    model: PreTrainedModel
    masks: list[Tensor]
    refits: list[Refit]
    predicted: list[float] = field(default_factory=list)
    polish: PolishReport | None = None


class Pruner:
    """Calibrates on creation; each call prunes a copy of the model to one budget.

    Args:
        model: dense, on its device; left as it was.
        batches: calibration samples on that device, this process's part of them.
        method: a point of the grid, or a method of one piece.
        neuron_multiple: "dp" allocation keeps multiples of so many neurons.
        polishing: samples to polish on, and what that may cost; needed where the method polishes.
        run: memory, precision, seed, progress and clock.

    Raises:
        TrimformerError: there is nothing to polish on, no unit matters, a figure is not finite, or a plain config
            cannot say sizes of this model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        batches: Sequence[Batch],
        method: AnyMethod,
        *,
        neuron_multiple: int = NEURON_MULTIPLE,
        polishing: PolishInputs | None = None,
        run: ExecutionOptions | None = None,
    ) -> None:
        self.model, self.batches, self.method = model, batches, method
        self._run, self._neuron_multiple, self._polishing = run or ExecutionOptions(), neuron_multiple, polishing
        self._ranking = Ranking([])
        if isinstance(method, WholeMethod):
            return
        check_polish_inputs(method, polishing)
        if method.allocation == "plain":
            try_plain_layout(model, batches[0])
        self._ranking = self._calibrate(method)
        if not any(curve.error.any() for curve in self._ranking.curves):
            raise TrimformerError(
                f"criterion '{method.criterion}' finds no unit to matter: the loss has no gradient at any sublayer; "
                "is the checkpoint fine-tuned, and on data of this kind?"
            )

    def _calibrate(self, method: Method) -> Ranking:
        run, find = self._run, partial(CRITERIA[method.criterion], self.model, self.batches, method.objective)
        if run.calibration_dir is None:
            return find(run)
        setting = f"{method.criterion} {method.objective} seed {run.seed} {'bf16' if run.bf16 else ''}"
        return cached_ranking(Path(run.calibration_dir), self.model, self.batches, setting, lambda: find(run))

    @property
    def curves(self) -> list[Curve]:
        """One per sublayer; none of a method of one piece."""
        return self._ranking.curves

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
        return self.prune_all([Budget(costs, constraint, correct)])[0]

    def prune_all(self, budgets: Sequence[Budget], *, every: int = 1) -> list[Pruned]:
        """Prunes to several budgets. All models are refitted together, so that the dense model runs but once.

        What becomes of one does not depend on the others; the memory that refitting takes grows with their number.

        Args:
            budgets: what to prune to.
            every: refit on each `every`-th batch only, for a quick look at what would come out.

        Raises:
            TrimformerError: a constraint cannot be reached.
        """
        if isinstance(self.method, WholeMethod):
            return [self._in_one_piece(self.method, budget.costs, budget.constraint) for budget in budgets]
        shrunk = [self._within(budget) for budget in budgets]
        students = [student for student, _, _ in shrunk]
        masks = [each for _, each, _ in shrunk]
        reached = [budget for _, _, budget in shrunk]
        predicted: list[list[float]] = [[] for _ in budgets]
        if self._ranking.predicts_loss:
            predicted = [self._foretold(units_left(each)) for each in masks]
        twins = [copy.deepcopy(student) for student in students] if self._needs_twins else []
        given = UpdateInputs(
            self.model,
            [*students, *twins],
            self.batches[::every],
            masks + masks[: len(twins)],
            [norms[::every] for norms in self._ranking.token_norms],
            teacher_masks_of=lambda k: self.select(reached[k].costs, reached[k].constraint ** 0.5),
            run=self._run,
            without_held_out=range(len(students), len(students) + len(twins)),
        )
        with self._run.clock("update"), self._run.precision(self.model.device):
            refits = UPDATES[self.method.update](given)[: len(students)]
            if self.method.allocation == "plain":
                for student in given.students:
                    make_plain(student, self.model, self.batches)
        reports: list[PolishReport | None] = [None] * len(students)
        if self._polishing is not None:
            for k, tried in enumerate(twins or students):
                reports[k] = report = self._polish(self._polishing, tried, masks[k])
                students[k] = tried if report.accepted else students[k]
        return [Pruned(*each) for each in zip(students, masks, refits, predicted, reports, strict=True)]

    @property
    def _needs_twins(self) -> bool:
        """Whether what is polished is refitted apart: samples that a refit has seen are no judges of it."""
        polishing, method = self._polishing, self.method
        return polishing is not None and polishing.only_calibration and method.update == "full"  # type: ignore[union-attr]

    def _within(self, budget: Budget) -> tuple[PreTrainedModel, list[Tensor], Budget]:
        """A shrunk copy, its masks, and the budget that they keep, corrected where that was asked for."""
        masks, student = self._shrink(budget.costs, budget.constraint)
        correct = budget.correct
        if correct is not None and (corrected := decide(lambda: correct(student))) is not None:
            try:
                masks, student = self._shrink(*corrected)
                budget = Budget(*corrected)
            except TrimformerError as error:
                logger.warning("the first selection stays, though it misses the budget: %s", error)
        return student, masks, budget

    def _foretold(self, units: Sequence[int]) -> list[float]:
        return [float(curve.error[kept]) for curve, kept in zip(self.curves, units, strict=True)]

    def select(self, costs: Costs, constraint: float) -> list[Tensor]:
        """One mask of zeros and ones per sublayer, the same in every process.

        Raises:
            TrimformerError: the constraint cannot be reached, or the method selects as it goes.
        """
        if isinstance(self.method, WholeMethod):
            raise TrimformerError(f"method '{self.method.name}' selects units as it refits; call the pruner")
        allocation = self.method.allocation
        return decide(
            lambda: select_masks(
                allocation,
                find_sublayers(self.model),
                self.curves,
                costs,
                constraint=constraint,
                rearrange_grads=self._ranking.grads or None,
                neuron_multiple=self._neuron_multiple,
            )
        )

    def _shrink(self, costs: Costs, constraint: float) -> tuple[list[Tensor], PreTrainedModel]:
        with self._run.clock("search"):
            masks = self.select(costs, constraint)
        with self._run.clock("shrink"):
            student = copy.deepcopy(self.model).eval()
            shrink(student, masks)
        return masks, student

    def _polish(self, given: PolishInputs, student: PreTrainedModel, masks: Sequence[Tensor]) -> PolishReport:
        kept = None
        if self.method.allocation == "plain":  # type: ignore[union-attr]
            kept = sorted({s.layer for s, mask in zip(find_sublayers(self.model), masks, strict=True) if mask.any()})
        with self._run.clock("polish"):
            return polish(
                self.model,
                student,
                given.batches,
                given.held_out,
                budget=given.budget,
                kept_layers=kept,
                accept_below=WORTH if self._needs_twins else 1.0,
                run=self._run,
            )

    def _in_one_piece(self, method: WholeMethod, costs: Costs, constraint: float) -> Pruned:
        student = copy.deepcopy(self.model).eval()
        with self._run.clock("update"):
            masks, refits = WHOLE_METHODS[method.name](
                self.model, student, self.batches, costs, constraint=constraint, run=self._run
            )
        return Pruned(student, masks, refits)
