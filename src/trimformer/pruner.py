"""Calibrates a model once and prunes it to any number of budgets."""

import copy
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from trimformer.allocation.allocations import UnitSelection, select_masks, select_queries
from trimformer.checkpoints.shrink import shrink
from trimformer.costs.cost_tables import Costs
from trimformer.data.batches import numbered_batches
from trimformer.data.next_tokens import with_next_tokens
from trimformer.data.outputs import writes_text
from trimformer.errors import TrimformerError
from trimformer.importance.calibration_cache import cached_ranking
from trimformer.importance.criteria import CRITERIA, Ranking, obs
from trimformer.importance.obs import Curve
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.models.masking import units_left
from trimformer.models.model_checks import check_own_forward, check_query_heads
from trimformer.models.removal import keep_queries
from trimformer.options.checks import FRACTION, POSITIVE, shorten
from trimformer.options.choices import NEURON_MULTIPLE
from trimformer.options.execution import ExecutionOptions
from trimformer.options.methods import AnyMethod, Method, WholeMethod
from trimformer.polish.data import PolishInputs, check_polish_inputs
from trimformer.polish.result import PolishReport
from trimformer.polish.train import polish
from trimformer.refit.kept_outputs import choose_kept_outputs
from trimformer.refit.kprune import kprune
from trimformer.refit.plain_layout import make_plain, try_plain_layout
from trimformer.refit.result import Refit
from trimformer.refit.updates import UPDATES, UpdateInputs
from trimformer.utils.distributed import broadcast_from_main

logger = logging.getLogger(__name__)

# Runs of several threads wait for each other: they share the model's hooks and the process's random numbers.
ONE_RUN = threading.RLock()

# A shrunk model -> None, or other costs and another constraint, by which units are selected again.
Correct = Callable[[PreTrainedModel], tuple[Costs, float] | None]

WHOLE_METHODS = {"kprune": kprune}

MAX_CORRECTIONS = 4  # of a selection, each after a measurement of the shrunk model

# The polish is kept if it lowers the divergence to this share, as a refit on the held-out eighth gains, too: a MPNet
# polished on 512 texts to 0.94 was farther from the dense model than that refit, a MiniLM on 1,482 to 0.86 was nearer.
ACCEPT_BELOW = 0.9


@dataclass(frozen=True)
class Budget:
    """The largest cost of a pruned model.

    Attributes:
        costs: cost of every number of units of each sublayer.
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
        refits: result of each sublayer's refit; empty without an update.
        predicted: loss increase of each sublayer according to its curve; only for "obs".
        polish: result of the polish; None where the method has none.
        queries: per sublayer, true for query heads that stay, [units, queries]; None where all do.
        cost: cost of the model, in the unit of the budget.
    """

    model: PreTrainedModel
    masks: list[Tensor]
    refits: list[Refit]
    predicted: list[float] = field(default_factory=list)
    polish: PolishReport | None = None
    queries: list[Tensor | None] = field(default_factory=list)
    cost: float = 0.0


class Pruner:
    """Calibrates on creation; each call prunes a copy of the model to one budget.

    Calibrations and calls of several threads run one after the other.

    Args:
        model: the dense model, on its device; it is not changed.
        batches: calibration samples of this process, on the same device: dictionaries of a model's inputs, such as a
            tokenizer returns, with labels if the method needs them. Random numbers depend on the positions of samples,
            which are counted from 0 unless the batches hold them as `index`; several processes must give it.
        method: a point of the grid, or a whole method such as kprune.
        neuron_multiple: the allocations "dp", "ffn" and "plain" keep neurons in multiples of this number.
        polishing: samples and budget of the polish; needed if the method polishes.
        run: memory, precision, seed, progress and timer.

    Raises:
        TrimformerError: there are no batches, `method` is not a method, it polishes without samples or removes query
            heads that the model does not have, no unit affects the loss, a gradient is not finite, or a plain config
            cannot express this model's sizes.
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
        if not isinstance(method, Method | WholeMethod):
            raise TrimformerError(
                f"method is {shorten(method)}; give a trimformer.Method, or one of trimformer.METHODS"
            )
        POSITIVE.check(neuron_multiple, "neuron_multiple")
        check_own_forward(model)
        if writes_text(model):
            batches = list(map(with_next_tokens, batches))
        self.model, self.batches, self.method = model, list(numbered_batches(batches)), method
        if not self.batches:
            raise TrimformerError("there are no batches to calibrate on; give at least one")
        self._run, self._neuron_multiple, self._polishing = run or ExecutionOptions(), neuron_multiple, polishing
        self._ranking = Ranking([])
        if isinstance(method, WholeMethod):
            return
        check_polish_inputs(method, polishing)
        if method.query_heads:
            check_query_heads(model)
        with ONE_RUN:
            if method.allocation == "plain":
                try_plain_layout(model, self.batches[0])
            self._ranking = self._calibrate(method)
        if not any(curve.error.any() for curve in self._ranking.curves):
            raise TrimformerError(
                f"criterion '{method.criterion}' cannot rank units: the loss has no gradient at any sublayer; "
                "check that the checkpoint is fine-tuned, on data of this kind"
            )

    def _calibrate(self, method: Method) -> Ranking:
        run, criterion = self._run, CRITERIA[method.criterion]
        if method.criterion == "obs":
            is_refitted = method.update == "full"
            kept = choose_kept_outputs(self.model, self.batches, run.max_memory) if is_refitted else ()
            criterion = partial(obs, query_heads=method.query_heads, keep_outputs=kept)
        rank_units = partial(criterion, self.model, self.batches, method.objective)
        if run.calibration_dir is None:
            return rank_units(run)
        parts = (method.criterion, method.objective, f"seed {run.seed}", "bf16" if run.bf16 else "")
        setting = " ".join([*parts, *(["query heads"] if method.query_heads else [])])
        return cached_ranking(Path(run.calibration_dir), self.model, self.batches, setting, lambda: rank_units(run))

    @property
    def curves(self) -> list[Curve]:
        """Removal curves, one per sublayer; empty for a whole method."""
        return self._ranking.curves

    def __call__(self, costs: Costs, constraint: float, correct: Correct | None = None) -> Pruned:
        """Prunes to `constraint`, a fraction in (0, 1] of the dense cost.

        Args:
            costs: cost of every number of units of each sublayer.
            constraint: fraction of the dense cost to keep.
            correct: takes the shrunk model before its refit and may return other costs and another constraint; units
                are then selected again.

        Raises:
            TrimformerError: the constraint cannot be reached.
        """
        return self.prune_all([Budget(costs, constraint, correct)])[0]

    def prune_all(self, budgets: Sequence[Budget], *, every: int = 1) -> list[Pruned]:
        """Prunes to several budgets; all models are refitted together, so the dense model runs only once.

        The result for one budget does not depend on the others. The memory of the refit grows with their number.

        Args:
            budgets: the budgets, one per result.
            every: refit on every `every`-th batch only, for a quick estimate of the result.

        Raises:
            TrimformerError: a constraint cannot be reached.
        """
        with ONE_RUN:
            return self._prune_all(budgets, every)

    def _prune_all(self, budgets: Sequence[Budget], every: int) -> list[Pruned]:
        """See `prune_all`."""
        if not budgets:
            return []
        for budget in budgets:
            FRACTION.check(budget.constraint, "constraint")
        if isinstance(self.method, WholeMethod):
            return [self._prune_whole(self.method, budget.costs, budget.constraint) for budget in budgets]
        shrunk = [self._shrink_to(budget) for budget in budgets]
        students = [student for student, _, _ in shrunk]
        polish_students = [copy.deepcopy(student) for student in students] if self._needs_polish_students else []
        refits = self._refit(shrunk, polish_students, every)
        reports = self._polish_all(students, polish_students, refits, [s.masks for _, s, _ in shrunk])
        return [
            Pruned(
                student,
                selection.masks,
                refit,
                predicted=selection.predicted if self._ranking.predicts_loss else [],
                polish=report,
                queries=selection.queries,
                cost=selection.cost,
            )
            for student, (_, selection, _), refit, report in zip(students, shrunk, refits, reports, strict=True)
        ]

    def _refit(
        self,
        shrunk: Sequence[tuple[PreTrainedModel, UnitSelection, Budget]],
        polish_students: Sequence[PreTrainedModel],
        every: int,
    ) -> list[list[Refit]]:
        """Refits all students together and returns their reports, those of the students to polish last.

        Args:
            shrunk: students, with their units and budgets.
            polish_students: copies of the same students to be polished, or none.
            every: refit on every `every`-th batch only.
        """
        masks = [selection.masks for _, selection, _ in shrunk]
        reached = [budget for _, _, budget in shrunk]
        inputs = UpdateInputs(
            self.model,
            [*(student for student, _, _ in shrunk), *polish_students],
            self.batches[::every],
            masks + masks[: len(polish_students)],
            [norms[::every] for norms in self._ranking.token_norms],
            [outputs[::every] for outputs in self._ranking.dense_outputs],
            teacher_masks_of=lambda k: self.select(reached[k].costs, reached[k].constraint ** 0.5),
            run=self._run,
            without_held_out=range(len(shrunk), len(shrunk) + len(polish_students)),
        )
        assert isinstance(self.method, Method)
        with self._run.clock("update"), self._run.precision(self.model.device):
            refits = UPDATES[self.method.update](inputs)
            if self.method.allocation == "plain":
                for student in inputs.students:
                    make_plain(student, self.model, self.batches)
        return refits

    def _polish_all(
        self,
        students: list[PreTrainedModel],
        polish_students: Sequence[PreTrainedModel],
        refits: list[list[Refit]],
        masks: Sequence[list[Tensor]],
    ) -> list[PolishReport | None]:
        """Polishes students, if the method does, and returns a report for each.

        Args:
            students: refitted students; those with an accepted polished copy are replaced by it.
            polish_students: the copies to polish; without any, the students themselves are polished.
            refits: of the students, then of the copies; of the copies, only those of accepted ones stay.
            masks: of the students.
        """
        copied = refits[len(students) :]
        del refits[len(students) :]
        if self._polishing is None:
            return [None] * len(students)
        self.release_outputs()  # the polish may need their memory
        reports: list[PolishReport | None] = []
        for k, candidate in enumerate(polish_students or students):
            report = self._polish(self._polishing, candidate, masks[k])
            if report.accepted and polish_students:
                students[k], refits[k] = candidate, copied[k]
            reports.append(report)
        return reports

    @property
    def output_bytes(self) -> int:
        """Bytes of the dense model's outputs that are kept for refits."""
        return sum(output.nbytes for outputs in self._ranking.dense_outputs for output in outputs)

    def release_outputs(self) -> None:
        """Frees the dense model's outputs; refits then run the dense model, and give the same."""
        self._ranking = replace(self._ranking, dense_outputs=[])

    @property
    def _needs_polish_students(self) -> bool:
        """Whether the polished model has a refit of its own, because held-out samples must not be used by the refit."""
        polishing, method = self._polishing, self.method
        return polishing is not None and polishing.holds_out_calibration and method.update == "full"  # type: ignore[union-attr]

    def _shrink_to(self, budget: Budget) -> tuple[PreTrainedModel, UnitSelection, Budget]:
        """Returns a shrunk copy, its units, and the budget that they keep, which may be a corrected one."""
        selection, student = self._shrink(budget.costs, budget.constraint)
        correct = budget.correct
        for _ in range(MAX_CORRECTIONS if correct else 0):
            assert correct is not None
            corrected = broadcast_from_main(partial(correct, student))
            if corrected is None:
                break
            try:
                selection, student = self._shrink(*corrected)
                budget = Budget(*corrected)
            except TrimformerError as error:
                logger.warning("the last selection is kept, because a smaller one is not possible: %s", error)
                break
        return student, selection, budget

    def select(self, costs: Costs, constraint: float) -> list[Tensor]:
        """Selects units; returns one mask of zeros and ones per sublayer, the same in every process.

        Raises:
            TrimformerError: the constraint cannot be reached, or the method selects units during its refit.
        """
        if isinstance(self.method, WholeMethod):
            raise TrimformerError(f"method '{self.method.name}' selects units during its refit; call the pruner")
        allocation = self.method.allocation
        return broadcast_from_main(
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

    def _select_units(self, costs: Costs, constraint: float) -> UnitSelection:
        """Selects units, and query heads if the method removes some and the costs tell what they save."""
        method = self.method
        assert isinstance(method, Method)
        if method.query_heads and any(costs.narrow):
            sublayers = find_sublayers(self.model)
            return broadcast_from_main(
                lambda: select_queries(sublayers, self.curves, costs, constraint, self._neuron_multiple)
            )
        masks = self.select(costs, constraint)
        units = units_left(masks)
        predicted = [float(curve.error[k]) for curve, k in zip(self.curves, units, strict=True)]
        return UnitSelection(masks, [None] * len(masks), costs.of(units), predicted)

    def _shrink(self, costs: Costs, constraint: float) -> tuple[UnitSelection, PreTrainedModel]:
        with self._run.clock("search"):
            selection = self._select_units(costs, constraint)
        with self._run.clock("shrink"):
            student = copy.deepcopy(self.model).eval()
            for sublayer, kept in zip(find_sublayers(student), selection.queries, strict=True):
                if kept is not None:
                    keep_queries(sublayer, kept)
            shrink(student, selection.masks)
        return selection, student

    def _polish(self, inputs: PolishInputs, student: PreTrainedModel, masks: Sequence[Tensor]) -> PolishReport:
        kept_layers = None
        if self.method.allocation == "plain":  # type: ignore[union-attr]
            pairs = zip(find_sublayers(self.model), masks, strict=True)
            kept_layers = sorted({s.layer for s, mask in pairs if mask.any()})
        with self._run.clock("polish"):
            return polish(
                self.model,
                student,
                inputs.batches,
                inputs.held_out,
                budget=inputs.budget,
                kept_layers=kept_layers,
                accept_below=ACCEPT_BELOW if self._needs_polish_students else 1.0,
                run=self._run,
            )

    def _prune_whole(self, method: WholeMethod, costs: Costs, constraint: float) -> Pruned:
        student = copy.deepcopy(self.model).eval()
        with self._run.clock("update"):
            masks, refits = WHOLE_METHODS[method.name](
                self.model, student, self.batches, costs, constraint=constraint, run=self._run
            )
        if not any(mask.any() for mask in masks):
            raise TrimformerError(f"constraint {constraint:.4g} leaves no unit; give a larger one")
        return Pruned(student, masks, refits, cost=costs.of(units_left(masks)))
