"""A model with its samples and its prices: what may be wrong with them is told here."""

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from trimformer.checkpoints.checkpoint import unwrap
from trimformer.checkpoints.checkpoint_checks import check_finite
from trimformer.checkpoints.token_embeddings import with_rows
from trimformer.checkpoints.vocabulary import check_trimmable, read_vocabulary
from trimformer.costs.backends import check_backend
from trimformer.costs.cost_tables import Metric
from trimformer.costs.lookup_tables import check_table
from trimformer.costs.pass_cost import forward_seconds
from trimformer.data.outputs import find_problem
from trimformer.data.tasks import Task
from trimformer.errors import TrimformerError
from trimformer.evaluation.latency_target import LatencyOptions
from trimformer.evaluation.scores import Scored, score
from trimformer.importance.calibration_cache import check_calibration_dir
from trimformer.models.model_checks import check_model
from trimformer.options.budgets import check_method
from trimformer.options.checks import check_columns_given, check_flags, check_numbers
from trimformer.options.choices import NEURON_MULTIPLE
from trimformer.options.execution import ExecutionOptions
from trimformer.options.methods import AnyMethod
from trimformer.options.polish_budget import DEFAULT_BUDGET
from trimformer.options.quality_target import QualityTarget
from trimformer.polish.data import draw_polish_inputs, polishes
from trimformer.session.calibration_data import draw_samples, with_fewer_tokens
from trimformer.session.checks import as_the_table, check_given, check_labels
from trimformer.session.unit_costs import price
from trimformer.utils.environment import resolve_device
from trimformer.utils.progress import progress
from trimformer.utils.stage_timer import StageTimer


class Prepared:
    """A model with its samples, and what units cost: all that pruning it takes, checked.

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
        polish_stoppable: Ctrl-C ends the polish, not the run.
        num_samples: calibration examples.
        batch_size: for calibration and evaluation.
        neuron_multiple: "dp" allocation keeps multiples of so many neurons.
        seed: for every random choice.
        max_memory: bytes that hidden states may take.
        bf16: calibrate and refit with passes in bfloat16.
        calibration_dir: folder where what calibration finds is kept.
        device: "auto", "cpu", "cuda", ...

    Attributes:
        model: dense.
        processor: of the pruned models.
        data: the samples.
        polishing: more of them, where a method polishes.
        target: the quality that they will be judged by.
        prices: what units cost.
        clock: seconds of all that was done so far.
        shared: of these, what was done for all methods.
        run: memory, precision, seed, progress and clock.
        neuron_multiple: as given.

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
        target: QualityTarget | None = None,
        task: Task | None = None,
        text_column: str | Sequence[str] | None = None,
        label_column: str | None = None,
        metric: Metric = "mac",
        latency: LatencyOptions | None = None,
        vocabulary: str | Path | Sequence[str] | None = None,
        polish_data: Any = None,
        polish_budget: str = DEFAULT_BUDGET,
        polish_stoppable: bool = False,
        num_samples: int = 2048,
        batch_size: int = 32,
        neuron_multiple: int = NEURON_MULTIPLE,
        seed: int = 0,
        max_memory: float = math.inf,
        bf16: bool = False,
        calibration_dir: str | Path | None = None,
        device: str = "auto",
    ) -> None:
        check_numbers(seed=seed, num_samples=num_samples, batch_size=batch_size, neuron_multiple=neuron_multiple)
        check_numbers(max_memory=max_memory)
        kept = check_calibration_dir(calibration_dir)
        check_flags(bf16=bf16, polish_stoppable=polish_stoppable)
        check_columns_given(text_column=text_column, label_column=label_column)
        self.model, processor = unwrap(model, processor)
        check_given(processor, task)
        check_model(self.model)
        check_finite(self.model, "the weights")
        self.target = target
        latency = as_the_table(latency or LatencyOptions())
        check_numbers(batch_size=latency.batch_size, seq_len=latency.seq_len)
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

        self.clock = StageTimer()
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
            for method in methods:
                check_labels(method, self.data.features)
            self.polishing = None
            if any(map(polishes, methods)):
                task, features = self.data.task, self.data.features
                self.polishing = draw_polish_inputs(
                    self.model, processor, task, features, polish_data, polish_budget, batch_size, polish_stoppable
                )
        if vocabulary is not None:
            with self.clock("vocabulary"):
                self.data = with_fewer_tokens(self.model, processor, self.data, texts)
        self.processor = processor if self.data.vocabulary is None else self.data.vocabulary.tokenizer
        self.prices = price(self.model, self.data, metric, latency, self.clock)
        self.shared = dict(self.clock.seconds)
        if target_device.type == "cuda" and math.isinf(max_memory):
            max_memory = torch.cuda.mem_get_info(target_device)[0] / 2  # rather files than a run out of memory
        self.run = ExecutionOptions(max_memory, bf16, seed, kept, progress=progress, clock=self.clock)
        self.neuron_multiple = neuron_multiple

    def finished(self, model: PreTrainedModel) -> PreTrainedModel:
        """A pruned model with the tokens that are kept."""
        return model if self.data.vocabulary is None else with_rows(model, self.data.vocabulary.kept)

    @cached_property
    def seconds_per_pass(self) -> float:
        """Of a forward pass of the dense model over the calibration samples."""
        return forward_seconds(self.model, self.data.batches)

    @cached_property
    def dense(self) -> Scored:
        """The dense model on the evaluation sets."""
        return score(self.data.scorers, self.model, "dense")
