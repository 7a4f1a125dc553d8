"""The two functions that most users call: `prune`, to one budget or quality, and `sweep`, to several budgets."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from trimformer.data.tasks import Task
from trimformer.errors import TrimformerError
from trimformer.options.budgets import BudgetOptions, BudgetRequest, SweepBudgetOptions
from trimformer.options.choices import NEURON_MULTIPLE, Metric
from trimformer.options.data import DataOptions
from trimformer.options.execution import ExecutionOptions
from trimformer.options.gguf import GgufOptions
from trimformer.options.latency import LatencyOptions
from trimformer.options.methods import (
    DEFAULT_METHOD,
    AnyMethod,
    Layout,
    MethodOptions,
    SweepMethodOptions,
    with_layout,
)
from trimformer.options.model import ModelOptions
from trimformer.options.option import document_keywords, options_from
from trimformer.options.polish import DEFAULT_BUDGET, PolishOptions
from trimformer.options.run import RunOptions
from trimformer.pruner import ONE_RUN
from trimformer.results import PruningResult
from trimformer.session.inputs import Inputs
from trimformer.session.prune_to import prune_to
from trimformer.session.quality_search import prune_to_quality
from trimformer.session.setup import set_up
from trimformer.sweeping import SweepMember, SweepResult, prune_members, sweep_members
from trimformer.utils.environment import resolve_device
from trimformer.utils.random_state import kept_random_state


@document_keywords(BudgetOptions, MethodOptions, ModelOptions, DataOptions, PolishOptions, ExecutionOptions)
def prune(
    model: PreTrainedModel | Any,
    processor: Any,
    dataset: Any,
    constraint: float | None = None,
    *,
    latency_ms: float | None = None,
    memory_mb: float | None = None,
    max_drop: float | None = None,
    max_divergence: float | None = None,
    max_perplexity: float | None = None,
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    generate: str | None = None,
    eval_dataset: Any = None,
    judge_dataset: Any = None,
    task: Task | None = None,
    metric: Metric | None = None,
    latency: LatencyOptions | None = None,
    gguf: GgufOptions | None = None,
    vocabulary: str | Path | Sequence[str] | None = None,
    method: str | AnyMethod = DEFAULT_METHOD,
    layout: Layout = "free",
    polish_data: Any = None,
    polish_budget: str = DEFAULT_BUDGET,
    polish_stoppable: bool = False,
    num_samples: int | None = None,
    batch_size: int = 32,
    neuron_multiple: int = NEURON_MULTIPLE,
    seed: int = 0,
    max_memory: float = math.inf,
    bf16: bool = False,
    calibration_dir: str | Path | None = None,
    device: str = "auto",
) -> PruningResult:
    """Prunes a fine-tuned model without retraining. Calls from several threads run one after the other.

    Args:
        model: a supported model, moved to the device and otherwise left as it is; or a SentenceTransformer or
            CrossEncoder.
        processor: its tokenizer; for images or sounds its image processor, feature extractor or processor; None: the
            tokenizer that a SentenceTransformer or CrossEncoder has.
        dataset: examples to calibrate on: texts, dictionaries, tuples, a `datasets.Dataset`, a pandas DataFrame, a
            dictionary of columns, or any iterable of these; see `trimformer.data.rows.as_rows`.
        eval_dataset: examples to score on, or several sets by name; None sets a fifth of `dataset` aside.
        judge_dataset: examples that the quality is tested on; None sets up to twice `num_samples`
            of `dataset` aside. They are used neither for calibration nor for the scores.
        task: what the columns mean; None infers it from the model's head and the columns.
        latency: how latency is measured, for the report too.
        gguf: how llama.cpp runs the model, for the metric "memory" and for latency with the backend "llama.cpp".
        {keywords}

    Returns:
        The pruned model with masks, scores, sizes and costs.

    Raises:
        TrimformerError: the input cannot be used, the budget cannot be reached, or no budget keeps the quality.
    """
    keywords = dict(locals())
    inputs = Inputs(model, processor, dataset, eval_dataset, judge_dataset, task)
    budget = options_from(BudgetOptions, keywords)
    options = RunOptions.of(keywords)
    _check_columns(task, options.data)
    chosen = with_layout(options_from(MethodOptions, keywords).resolved, options.model.layout)
    return prune_model(inputs, budget, chosen, options)


def _check_columns(task: Task | None, options: DataOptions) -> None:
    """Checks that columns are not named twice; the column of a language model's texts is not part of its task.

    Raises:
        TrimformerError: a task is given, and columns too.
    """
    texts = task is not None and task.problem != "language" and options.text_columns
    if task is not None and (texts or options.label_column):
        raise TrimformerError("task gives the columns; leave out text_column and label_column")


def prune_model(inputs: Inputs, budget: BudgetOptions, method: AnyMethod, options: RunOptions) -> PruningResult:
    """Prunes to one budget, or to the smallest one that keeps a quality; without either to half of the cost.

    Raises:
        TrimformerError: the input cannot be used, the budget cannot be reached, or no budget keeps the quality.
    """
    if budget.target is None and inputs.judge_dataset is not None:
        raise TrimformerError(
            "judge_dataset is only used with max_drop, max_divergence or max_perplexity; give one, or leave it out"
        )
    requests = [BudgetRequest(0.5) if budget.is_empty else budget.request] if budget.target is None else []
    with ONE_RUN, kept_random_state(resolve_device(options.execution.device)):
        session = set_up(inputs, [method], budget.resolved_metric, budget.target, options, requests)
        if budget.target is not None:
            return prune_to_quality(session, method)
        return prune_to(session, method, requests)[0]


@document_keywords(SweepBudgetOptions, SweepMethodOptions, ModelOptions, DataOptions, PolishOptions, ExecutionOptions)
def sweep(
    model: PreTrainedModel | Any,
    processor: Any,
    dataset: Any,
    constraints: Sequence[float] | None = None,
    *,
    latency_ms: Sequence[float] | None = None,
    methods: Sequence[str] = (DEFAULT_METHOD,),
    text_column: str | Sequence[str] | None = None,
    label_column: str | None = None,
    generate: str | None = None,
    eval_dataset: Any = None,
    task: Task | None = None,
    metric: Metric | None = None,
    latency: LatencyOptions | None = None,
    gguf: GgufOptions | None = None,
    vocabulary: str | Path | Sequence[str] | None = None,
    layout: Layout = "free",
    polish_data: Any = None,
    polish_budget: str = DEFAULT_BUDGET,
    polish_stoppable: bool = False,
    num_samples: int | None = None,
    batch_size: int = 32,
    neuron_multiple: int = NEURON_MULTIPLE,
    seed: int = 0,
    max_memory: float = math.inf,
    bf16: bool = False,
    calibration_dir: str | Path | None = None,
    device: str = "auto",
) -> SweepResult:
    """Prunes a model to several budgets from one calibration, without retraining.

    Args:
        model: see `prune`.
        processor: see `prune`.
        dataset: see `prune`.
        eval_dataset: see `prune`.
        task: see `prune`.
        latency: see `prune`.
        gguf: see `prune`.
        {keywords}

    Returns:
        The pruned models with their figures.

    Raises:
        TrimformerError: the input cannot be used, or a budget cannot be reached.
    """
    keywords = dict(locals())
    inputs = Inputs(model, processor, dataset, eval_dataset, task=task)
    budgets = options_from(SweepBudgetOptions, keywords)
    options = RunOptions.of(keywords)
    _check_columns(task, options.data)
    members = sweep_members(methods, budgets.requests, options.model.layout)
    results: dict[SweepMember, PruningResult] = {}
    with ONE_RUN, kept_random_state(resolve_device(options.execution.device)):
        each_method = [member.method for member in members]
        session = set_up(inputs, each_method, budgets.resolved_metric, None, options, budgets.requests)
        prune_members(session, members, results.__setitem__)
    return SweepResult(members, [results[member] for member in members])
