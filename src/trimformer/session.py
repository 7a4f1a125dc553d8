"""A model with its samples and its prices: calibrated once for each method, pruned to any number of budgets."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.arch import find_sublayers
from trimformer.arch.masking import units_left
from trimformer.asked import Asked, as_the_table, check_method, check_reachable
from trimformer.batches.output import find_problem
from trimformer.batches.tasks import Task
from trimformer.clock import Clock
from trimformer.costs.backends import check_backend
from trimformer.costs.cost import Costs, Metric, linear_costs
from trimformer.costs.lut import LatencyTable, check_table
from trimformer.costs.mac import model_macs
from trimformer.costs.measure import measure_table, random_inputs
from trimformer.costs.yardstick import forward_seconds, peak_memory
from trimformer.environment import describe_device, resolve_device, versions
from trimformer.errors import TrimformerError
from trimformer.methods import AnyMethod, WholeMethod
from trimformer.polish.budget import DEFAULT_BUDGET
from trimformer.polish.data import draw_polishing, polishes
from trimformer.processes import count, decide, is_main
from trimformer.progress import progress
from trimformer.pruner import Budget, Pruned, Pruner
from trimformer.report import (
    BudgetReport,
    CostReport,
    LatencyReport,
    MachineReport,
    PruningResult,
    SampleReport,
    Size,
    TaskReport,
    VocabularyReport,
)
from trimformer.run import Run
from trimformer.samples import draw_samples, with_fewer_tokens
from trimformer.select.allocations import NEURON_MULTIPLE, smallest_constraint
from trimformer.shrinking.checkpoint import file_size, unwrap
from trimformer.shrinking.embeddings import with_rows
from trimformer.shrinking.vocabulary import check_trimmable, read_vocabulary
from trimformer.target import Target
from trimformer.verify.evaluation import Scored, compare, score
from trimformer.verify.judge import Judge
from trimformer.verify.promise import LatencyOptions, LatencyPromise, compare_latency

logger = logging.getLogger(__name__)

PRUNING = ("calibrate", "curves", "search", "shrink", "update", "judge")


@dataclass(frozen=True)
class _Prices:
    """What units cost.

    Attributes:
        metric: what is counted.
        costs: of the units.
        latency: how latency is measured.
        inputs: to time with.
        length: tokens of these.
        is_own: latencies are this machine's, so that a promise of one can be held against measurements.
    """

    metric: Metric
    costs: Costs
    latency: LatencyOptions
    inputs: Mapping[str, Tensor]
    length: int
    is_own: bool = False


@dataclass(frozen=True)
class Started:
    """Seconds by stage when the making of a model began: of its method's calibration, and of all so far."""

    calibration: Mapping[str, float]
    seconds: Mapping[str, float]


class Session:
    """A model with its samples and its prices.

    Args:
        model: see `trimformer.prune`, as the others.
        processor: its tokenizer or processor.
        dataset: examples to calibrate on.
        methods: by which it will be pruned.
        eval_dataset: examples to score on.
        judge_dataset: examples to judge a target by.
        target: the quality that budgets will be judged by; None: no samples are set aside for it.
        task: what the columns mean.
        text_column: the columns of texts.
        label_column: the column of labels.
        metric: what budgets are counted in.
        latency: how latency is measured.
        vocabulary: texts whose tokens are kept.
        polish_data: more examples for a polish.
        polish_budget: what a polish may cost.
        num_samples: calibration examples.
        batch_size: for calibration and evaluation.
        neuron_multiple: "dp" allocation keeps multiples of so many neurons.
        seed: for every random choice.
        max_memory: bytes that hidden states may take.
        bf16: calibrate and refit with passes in bfloat16.
        device: "auto", "cpu", "cuda", ...

    Attributes:
        model: dense.
        processor: of the pruned models.
        data: the samples.
        metric: what budgets are counted in.
        clock: seconds of all that was done so far.

    Raises:
        TrimformerError: the input cannot be used.
    """

    def __init__(
        self,
        model: PreTrainedModel | Any,
        processor: Any,
        dataset: Any,
        methods: Sequence[AnyMethod],
        *,
        eval_dataset: Any = None,
        judge_dataset: Any = None,
        target: Target | None = None,
        task: Task | None = None,
        text_column: str | Sequence[str] | None = None,
        label_column: str | None = None,
        metric: Metric = "mac",
        latency: LatencyOptions | None = None,
        vocabulary: str | Path | Sequence[str] | None = None,
        polish_data: Any = None,
        polish_budget: str = DEFAULT_BUDGET,
        num_samples: int = 2048,
        batch_size: int = 32,
        neuron_multiple: int = NEURON_MULTIPLE,
        seed: int = 0,
        max_memory: float = math.inf,
        bf16: bool = False,
        device: str = "auto",
    ) -> None:
        self.model, processor = unwrap(model, processor)
        self.metric, self.target = metric, target
        latency = as_the_table(latency or LatencyOptions())
        for method in methods:
            check_method(method, metric, bf16)
        target_device = resolve_device(device)
        check_backend(latency.backend, target_device)
        if bf16 and self.model.dtype != torch.float32:
            raise TrimformerError(f"bf16 needs a checkpoint in float32, not in {self.model.dtype}; leave out bf16")
        find_problem(self.model)
        texts = None if vocabulary is None else read_vocabulary(vocabulary)
        if vocabulary is not None:
            check_trimmable(self.model, processor)
        self.model.to(target_device)  # type: ignore[arg-type]
        if latency.table is not None:
            check_table(latency.table, self.model, any_setting=latency.any_table)

        self.clock, self._seed = Clock(), seed
        transformers.set_seed(seed)
        with self.clock("data"):
            self.data = draw_samples(
                self.model,
                processor,
                dataset,
                eval_dataset,
                judge_dataset,
                task,
                num_samples,
                batch_size,
                seed,
                target=target,
                text_columns=[text_column] if isinstance(text_column, str) else text_column,
                label_column=label_column,
            )
            self._polishing = None
            if any(map(polishes, methods)):
                task, features = self.data.task, self.data.features
                self._polishing = draw_polishing(
                    self.model, processor, task, features, polish_data, polish_budget, batch_size
                )
        if vocabulary is not None:
            with self.clock("vocabulary"):
                self.data = with_fewer_tokens(self.model, processor, self.data, texts)
        self.processor = processor if self.data.vocabulary is None else self.data.vocabulary.tokenizer
        self._prices = self._price(latency)
        self._shared = dict(self.clock.seconds)  # by all methods
        if target_device.type == "cuda" and math.isinf(max_memory):
            max_memory = torch.cuda.mem_get_info(target_device)[0] / 2  # rather files than a run out of memory
        self._run = Run(max_memory=max_memory, bf16=bf16, seed=seed, progress=progress, clock=self.clock)
        self._neuron_multiple = neuron_multiple
        self._pruners: dict[AnyMethod, tuple[Pruner, dict[str, float]]] = {}

    def budget(self, method: AnyMethod, asked: Asked) -> Budget:
        """What a model may cost, by the prices of this session.

        Raises:
            TrimformerError: it cannot be reached.
        """
        prices = self._prices
        constraint = asked.constraint if asked.ms is None else asked.ms / prices.costs.dense
        assert constraint is not None
        check_reachable(constraint, self.smallest(method), prices.costs)
        if polishes(method) and self._polishing is not None and prices.metric != "latency":
            self._polishing.check_affordable(constraint)
        promise = None
        if prices.is_own:
            promise = LatencyPromise(
                self.model, prices.costs, constraint, asked.ms, prices.inputs, prices.latency.backend
            )
        return Budget(prices.costs, constraint, promise)

    def smallest(self, method: AnyMethod) -> float:
        """The smallest constraint that a method can reach."""
        allocation = "global" if isinstance(method, WholeMethod) else method.allocation
        return smallest_constraint(allocation, find_sublayers(self.model), self._prices.costs, self._neuron_multiple)

    def pruner(self, method: AnyMethod) -> Pruner:
        """Calibrated, once for each method."""
        return self._calibrated(method)[0]

    def prune(self, method: AnyMethod, asked: Sequence[Asked]) -> list[PruningResult]:
        """Prunes to several budgets at once and reports on each.

        Raises:
            TrimformerError: a budget cannot be reached.
        """
        budgets = [self.budget(method, each) for each in asked]
        start = self.started(method)
        pruned = self.pruner(method).prune_all(budgets)
        seconds = self.since(start)
        return [
            self.report(method, budget, each, ms.ms, seconds)
            for budget, each, ms in zip(budgets, pruned, asked, strict=True)
        ]

    def started(self, method: AnyMethod) -> Started:
        """The moment from which on a model is made by this method, calibrated before if need be."""
        return Started(self._calibrated(method)[1], dict(self.clock.seconds))

    def since(self, start: Started) -> dict[str, float]:
        """Seconds of a model's making, by stage, calibration included."""
        return {**start.calibration, **self.clock.since(start.seconds)}

    def finished(self, model: PreTrainedModel) -> PreTrainedModel:
        """A pruned model with the tokens that are kept."""
        return model if self.data.vocabulary is None else with_rows(model, self.data.vocabulary.kept)

    @property
    def samples(self) -> int:
        """To calibrate on."""
        return len(self.data.features)

    @property
    def judged(self) -> int:
        """Samples to judge a target by."""
        return len(self.data.judged.rows) if self.data.judged else 0

    def judge(self) -> Judge:
        """Who tells whether models keep the target."""
        assert self.target is not None
        data = self.data
        assert data.judged is not None
        return Judge(self.target, data.judged, self.model, self._prices.latency.backend, data.judged_retold)

    def report(
        self,
        method: AnyMethod,
        budget: Budget,
        pruned: Pruned,
        asked_ms: float | None,
        seconds: Mapping[str, float],
    ) -> PruningResult:
        """What is known of a pruned model; the main process measures what takes both models.

        Args:
            method: that pruned it.
            budget: that it keeps.
            pruned: the model.
            asked_ms: the latency that was asked for, if one was.
            seconds: what its making took, by stage.
        """
        data, price = self.data, self._prices
        stages = {stage: seconds[stage] / self.seconds_per_pass for stage in PRUNING if stage in seconds}
        costs = price.costs.of(units_left(pruned.masks))
        result = PruningResult(
            self.finished(pruned.model),
            pruned.masks,
            task=TaskReport(data.task.name, find_problem(self.model), data.task.metric),
            method=method,
            budget=BudgetReport(price.metric, budget.constraint, costs / price.costs.dense),
            samples=SampleReport(len(data.features), data.evaluation, data.seq_len),
            cost=CostReport(
                dict(seconds),
                {**stages, "total": sum(stages.values())},
                self.seconds_per_pass,
                peak_memory(self.model.device),
            ),
            machine=MachineReport(describe_device(self.model.device), count(), versions()),
            refits=pruned.refits,
            predicted=pruned.predicted,
            kinds=[s.kind for s in find_sublayers(self.model)],
            polish=pruned.polish,
            processor=self.processor,
        )
        if is_main():
            before = dict(self.clock.seconds)
            self._verify(result, budget, asked_ms)
            result.cost.seconds.update(self.clock.since(before))
        return result

    def _verify(self, result: PruningResult, budget: Budget, asked_ms: float | None) -> None:
        """Adds what is measured on both models: scores, sizes and latency."""
        data, price, model = self.data, self._prices, self.model
        with self.clock("evaluate"):
            pruned = score(data.retold or data.scorers, result.model, "pruned")
            result.scores = compare(data.scorers, self._dense, pruned, data.retold)
        own = None
        if data.vocabulary is not None:
            own = random_inputs(result.model, price.latency.batch_size, price.length)  # the dense model's are others
            changed = sum(scorer.changed for scorer in data.retold)
            result.vocabulary = VocabularyReport(len(data.vocabulary.kept), data.vocabulary.of, changed)
        with self.clock("timing"):
            seen = compare_latency(model, result.model, price.inputs, price.latency.backend, own)
        result.latency = LatencyReport(
            price.latency.batch_size, price.length, price.latency.backend, seen.dense, seen.pruned, seen.ratio
        )
        kept = {s.layer for s, mask in zip(find_sublayers(model), result.masks, strict=True) if mask.any()}
        left = data.lengths  # of the sublayers that are there still: a plain layout leaves layers out
        if len(find_sublayers(result.model)) < len(left):
            left = [length for s, length in zip(find_sublayers(model), left, strict=True) if s.layer in kept]
        result.sizes = {
            name: Size(
                model_macs(find_sublayers(candidate), lengths),
                sum(p.numel() for p in candidate.parameters()),
                file_size(candidate),
            )
            for name, candidate, lengths in (("dense", model, data.lengths), ("pruned", result.model, left))
        }
        if price.metric == "latency":
            promise = budget.correct
            corrected = promise if isinstance(promise, LatencyPromise) else None
            costs = corrected.costs if corrected else price.costs
            result.budget = replace(
                result.budget,
                asked_ms=asked_ms or budget.constraint * seen.dense.median,
                estimated_ms=costs.of(units_left(result.masks)),
                corrected=bool(corrected and corrected.corrected),
            )

    @cached_property
    def seconds_per_pass(self) -> float:
        """Of a forward pass of the dense model over the calibration samples."""
        return forward_seconds(self.model, self.data.batches)

    @cached_property
    def _dense(self) -> Scored:
        return score(self.data.scorers, self.model, "dense")

    def _calibrated(self, method: AnyMethod) -> tuple[Pruner, dict[str, float]]:
        """The pruner, and the seconds of all that came before it."""
        if method not in self._pruners:
            _ = self.seconds_per_pass  # measured before there is anything else in memory
            before = dict(self.clock.seconds)
            transformers.set_seed(self._seed)
            pruner = Pruner(
                self.model,
                self.data.batches,
                method,
                neuron_multiple=self._neuron_multiple,
                polishing=self._polishing if polishes(method) else None,
                run=self._run,
            )
            self._pruners[method] = pruner, {**self._shared, **self.clock.since(before)}
        return self._pruners[method]

    def _price(self, latency: LatencyOptions) -> _Prices:
        """The costs of units, measured first where they are latencies."""
        data = self.data
        length = latency.seq_len or max(1, min(round(data.seq_len), data.longest))
        inputs = random_inputs(self.model, latency.batch_size, length)
        if self.metric != "latency":
            costs = linear_costs(find_sublayers(self.model), self.metric, data.lengths)
            return _Prices(self.metric, costs, latency, inputs, length)
        with self.clock("table"):
            table = latency.table or decide(lambda: _measure(self.model, latency, length))
        is_own = bool(table.setting) and not latency.any_table
        if not is_own:
            logger.warning("the latency table may be of another machine: its word is taken, nothing is corrected")
        return _Prices(self.metric, table.costs(self.model), latency, inputs, length, is_own)


def _measure(model: PreTrainedModel, latency: LatencyOptions, length: int) -> LatencyTable:
    shown = partial(progress, desc="latency table")
    return measure_table(model, latency.batch_size, length, backend=latency.backend, progress=shown)
