"""Loads and validates everything a pruning run needs: model, calibration data and unit costs."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.checkpoints.checkpoint_checks import check_finite_weights
from trimformer.checkpoints.save_load import unwrap
from trimformer.checkpoints.token_embeddings import trim_embeddings
from trimformer.checkpoints.vocabulary import check_trimmable, read_vocabulary
from trimformer.costs.backends import check_backend
from trimformer.costs.llama_cpp_memory import cache_tokens
from trimformer.costs.lookup_tables import LatencyTable, check_table
from trimformer.costs.pass_cost import forward_seconds
from trimformer.costs.workloads import LlamaCppRun
from trimformer.data.batches import AUDIO_KEYS, IMAGE_KEYS
from trimformer.data.block_options import BlockOptions
from trimformer.data.outputs import find_problem
from trimformer.data.processor import find_tokenizer
from trimformer.errors import TrimformerError
from trimformer.evaluation.scores import Scored, score
from trimformer.export.gguf.architecture import check_graph, check_timed_graph
from trimformer.importance.calibration_cache import check_calibration_dir
from trimformer.importance.objective import NO_LABELS
from trimformer.models.layer_calls import LABEL_KEYS
from trimformer.models.model_checks import check_model, check_query_heads
from trimformer.options.budgets import BudgetRequest
from trimformer.options.choices import LLAMA_CPP, Metric
from trimformer.options.execution import ExecutionOptions
from trimformer.options.latency import LatencyOptions
from trimformer.options.methods import AnyMethod, Method, polishes
from trimformer.options.quality_target import QualityTarget
from trimformer.options.run import RunOptions
from trimformer.polish.data import PolishInputs, draw_polish_inputs
from trimformer.pruner import Pruner
from trimformer.refit.memory_estimate import warn_of_memory
from trimformer.reports import CoverageReport
from trimformer.session.coverage import count_labels, list_labels, measure_coverage, special_ids
from trimformer.session.draw_samples import draw_samples
from trimformer.session.inputs import Inputs
from trimformer.session.samples import Samples
from trimformer.session.smaller_vocabulary import with_smaller_vocabulary
from trimformer.session.unit_costs import UnitCosts, find_unit_costs, resolve_latency
from trimformer.utils.distributed import broadcast_from_main, is_main, world_size
from trimformer.utils.environment import resolve_device, warn_slow_dtype
from trimformer.utils.packages import check_packages
from trimformer.utils.progress import progress
from trimformer.utils.stage_timer import StageTimer

logger = logging.getLogger(__name__)


@dataclass
class Session:
    """A model that is ready to be pruned, with its samples and unit costs.

    Attributes:
        model: the dense model, on its device.
        processor: the tokenizer or processor of the result.
        samples: samples to calibrate on, to score on and to test a target on.
        unit_costs: what budgets are counted in.
        target: the quality to keep, if one is asked for.
        polishing: samples to polish on, if a method polishes.
        neuron_multiple: the allocations "dp", "ffn" and "plain" keep neurons in multiples of this number.
        execution: memory, precision, seed, progress and timer.
        timer: seconds of each stage so far.
        setup_seconds: seconds of each stage of the set-up.
        coverage: what the samples cannot show.
        tokenizer: the dense model's tokenizer, if it has one.
        unjudged_labels: labels that the samples for the quality target hardly or never show.
        pruners: calibrated pruners with the seconds that led to them, by method.
    """

    model: PreTrainedModel
    processor: Any
    samples: Samples
    unit_costs: UnitCosts
    target: QualityTarget | None
    polishing: PolishInputs | None
    neuron_multiple: int
    execution: ExecutionOptions
    timer: StageTimer
    setup_seconds: Mapping[str, float]
    coverage: CoverageReport
    tokenizer: PreTrainedTokenizerBase | None = None
    unjudged_labels: Sequence[str] = ()
    pruners: dict[AnyMethod, tuple[Pruner, dict[str, float]]] = field(default_factory=dict)

    @cached_property
    def seconds_per_pass(self) -> float:
        """Seconds of a forward pass of the dense model over the calibration samples."""
        return forward_seconds(self.model, self.samples.calibration.batches)

    @cached_property
    def seconds_per_polish_pass(self) -> float:
        """Seconds of a forward pass of the dense model over the samples to polish on, the same in every process."""
        polishing = self.polishing
        assert polishing is not None
        return broadcast_from_main(lambda: forward_seconds(self.model, polishing.batches))

    @cached_property
    def dense_scores(self) -> Scored:
        """Scores and outputs of the dense model on the evaluation sets."""
        return score(self.samples.scored.scorers, self.model, "dense")

    def as_scored(self, model: PreTrainedModel) -> PreTrainedModel:
        """A pruned model as it is scored: language models with all tokens, see `evaluation.language_vocabulary`."""
        return model if self.samples.lost is not None else self.with_kept_tokens(model)

    def with_kept_tokens(self, model: PreTrainedModel) -> PreTrainedModel:
        """A pruned model with only the tokens that are kept."""
        smaller = self.samples.smaller_vocabulary
        return model if smaller is None else trim_embeddings(model, smaller.vocabulary.kept_ids)


def set_up(
    inputs: Inputs,
    methods: Sequence[AnyMethod],
    metric: Metric = "mac",
    target: QualityTarget | None = None,
    options: RunOptions | None = None,
    requests: Sequence[BudgetRequest] = (),
) -> Session:
    """Checks inputs and options against each other, draws the samples and finds the unit costs.

    Args:
        inputs: model, processor and rows. The model is moved to the device, otherwise left as it is.
        methods: the methods that will prune it.
        metric: what budgets count.
        target: the quality to keep; it sets samples aside.
        options: everything else.
        requests: the budgets; latencies out of reach are refused before a latency table is measured.

    Raises:
        TrimformerError: the inputs or options cannot be used.
    """
    options = options or RunOptions()
    execution = options.execution
    options.check(methods, metric)
    calibration_dir = check_calibration_dir(execution.calibration_dir)
    model, processor, latency, texts = _prepare_model(inputs, methods, metric, options)

    timer = StageTimer()
    transformers.set_seed(execution.seed)
    with timer("data"):
        samples = draw_samples(inputs, model, processor, options.data, execution.seed, target, latency.seq_len)
        for method in methods:
            _check_labels(method, samples.calibration.features)
        polishing = _polish_inputs(model, processor, samples, options, latency) if any(map(polishes, methods)) else None
        coverage = measure_coverage(model, processor, samples)
        unjudged_labels = _unjudged_labels(model, processor, samples)
    timer.seconds["data"] += inputs.reading_seconds
    if options.model.vocabulary is not None:
        with timer("vocabulary"):
            samples = with_smaller_vocabulary(model, processor, samples, texts, target)
        if samples.lost is not None and samples.lost.warning:
            coverage = replace(coverage, warnings=[*coverage.warnings, samples.lost.warning])
    unit_costs = find_unit_costs(model, samples, metric, latency, timer, requests, options.gguf)
    setup_seconds = dict(timer.seconds)
    max_memory = execution.max_memory
    if model.device.type == "cuda" and math.isinf(max_memory):
        max_memory = torch.cuda.mem_get_info(model.device)[0] / 2  # files are better than running out of memory
    execution = replace(
        execution, max_memory=max_memory, calibration_dir=calibration_dir, progress=progress, clock=timer
    )
    if is_main():
        warn_of_memory(model, samples.calibration.batches, max_memory=max_memory)
    return Session(
        model=model,
        processor=samples.smaller_vocabulary.vocabulary.tokenizer if samples.smaller_vocabulary else processor,
        samples=samples,
        unit_costs=unit_costs,
        target=target,
        polishing=polishing,
        neuron_multiple=options.model.neuron_multiple,
        execution=execution,
        timer=timer,
        setup_seconds=setup_seconds,
        coverage=coverage,
        tokenizer=find_tokenizer(processor),
        unjudged_labels=unjudged_labels,
    )


def _prepare_model(
    inputs: Inputs, methods: Sequence[AnyMethod], metric: Metric, options: RunOptions
) -> tuple[PreTrainedModel, Any, LatencyOptions, list[str] | None]:
    """Checks model and options against each other and moves the model to its device.

    Returns:
        The model and its processor, how latencies are measured, and the texts whose tokens stay, if some are dropped.

    Raises:
        TrimformerError: the inputs or options cannot be used.
    """
    execution = options.execution
    if options.polish.polish_stoppable and world_size() > 1:
        raise TrimformerError("several processes do not stop together at Ctrl-C; leave out polish_stoppable")
    model, processor = unwrap(inputs.model, inputs.processor)
    check_model(model)
    check_finite_weights(model, "the weights")
    find_problem(model)
    if any(isinstance(method, Method) and method.query_heads for method in methods):
        check_query_heads(model)
    check_llama_cpp(model, methods, metric, options)
    latency = resolve_latency(options.latency)
    if latency.batch_size is None and find_problem(model) == "language":
        latency = replace(latency, batch_size=1)  # the logits of 32 long prompts would need gigabytes
    if latency.seq_len and latency.table is None and model.main_input_name in (*IMAGE_KEYS, *AUDIO_KEYS):
        raise TrimformerError("seq_len is the number of tokens, and this model reads images or sounds; leave it out")
    device = resolve_device(execution.device)
    check_backend(latency.backend, device)
    if execution.bf16 and model.dtype != torch.float32:
        raise TrimformerError(f"bf16 needs a checkpoint in float32, not in {model.dtype}; leave out bf16")
    warn_slow_dtype(model.dtype, device, execution.bf16)
    vocabulary, texts = options.model.vocabulary, None
    if vocabulary is not None:
        if metric == "memory":
            raise TrimformerError(
                "a budget in memory counts all tokens of a language model; leave out vocabulary, or give a constraint"
            )
        texts = read_vocabulary(vocabulary)
        check_trimmable(model, processor)
    model.to(device)  # type: ignore[arg-type]
    if isinstance(latency.table, LatencyTable):
        check_table(latency.table, model, any_setting=latency.any_table)
    return model, processor, latency, texts


def _polish_inputs(
    model: PreTrainedModel, processor: Any, samples: Samples, options: RunOptions, latency: LatencyOptions
) -> PolishInputs:
    """Draws the samples to polish on, which are none of those that score or test a model."""
    tested = [*samples.scored.scorers, *([samples.judged_scorer] if samples.judged_scorer else [])]
    return draw_polish_inputs(
        model,
        processor,
        samples.task,
        samples.calibration.features,
        options.polish,
        options.data.batch_size,
        [sample for scorer in tested for sample in scorer.features],
        BlockOptions.of(options.data, latency.seq_len, samples.task, options.execution.seed),
    )


def check_llama_cpp(model: PreTrainedModel, methods: Sequence[AnyMethod], metric: Metric, options: RunOptions) -> None:
    """Checks that llama.cpp runs a model and what pruning makes of it, where memory is counted or llama.cpp is timed.

    Args:
        model: the dense model.
        methods: the methods that will prune it.
        metric: what budgets count.
        options: everything else.

    Raises:
        TrimformerError: a package is missing, llama.cpp has no graph for the model, or the model takes fewer tokens.
    """
    is_timed = options.latency.backend == LLAMA_CPP
    if metric != "memory" and not is_timed:
        return
    check_packages("GGUF files need", ("gguf",), "gguf")
    check_graph(model, same_sizes=all(isinstance(method, Method) and method.keeps_one_size for method in methods))
    if metric == "memory":
        cache_tokens(model, options.gguf)
    if metric == "latency":
        check_timed_graph(model)
    if is_timed:
        LlamaCppRun.of(model, options.gguf)


def _unjudged_labels(model: PreTrainedModel, processor: Any, samples: Samples) -> list[str]:
    """Returns and logs the labels that the quality target cannot cover, as its samples hardly or never show them."""
    if samples.judged_scorer is None or not is_main():
        return []
    labels, _ = count_labels(model, samples.judged_scorer.batches, special_ids(find_tokenizer(processor)))
    if labels is None or not labels.missing:
        return []
    logger.warning(
        "on the %d samples to judge by, the dense model never or hardly predicts %d of its %d labels (%s): the quality "
        "target does not cover these; add rows in which they occur",
        len(samples.judged_scorer.rows),
        len(labels.missing),
        len(labels.counts),
        list_labels(labels.missing),
    )
    return labels.missing


def _check_labels(method: AnyMethod, features: Sequence[Mapping[str, Any]]) -> None:
    """Checks that a method that reads labels gets some.

    Raises:
        TrimformerError: the method needs labels, and the samples have none.
    """
    needs_labels = isinstance(method, Method) and method.needs_labels
    if needs_labels and not any(key in features[0] for key in LABEL_KEYS):
        raise TrimformerError(NO_LABELS)
