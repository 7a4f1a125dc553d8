"""The samples of a run: drawn, encoded and batched to calibrate on, sets to score on, and one to judge a target by."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from trimformer.checkpoints.vocabulary import Vocabulary, check_texts, of_rows, of_texts
from trimformer.costs.macs import layer_lengths
from trimformer.data.batches import Features, count_samples, make_batches, mean_length, sample_indices
from trimformer.data.rows import Rows, Selection, as_rows
from trimformer.data.splits import check_evaluation_sets, find_splits
from trimformer.data.tasks import Task, task_of
from trimformer.data.tasks.blank_rows import count_blank_rows, drop_blank_rows
from trimformer.data.tasks.sample_labels import check_labelled
from trimformer.data.token_ids import check_token_ids
from trimformer.errors import TrimformerError
from trimformer.evaluation.quality_test import check_test_samples
from trimformer.evaluation.scores import Scorer
from trimformer.evaluation.smaller_vocabulary import SmallVocabularyScorer
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import Batch
from trimformer.options.quality_target import QualityTarget
from trimformer.utils.distributed import shard, world_size

logger = logging.getLogger(__name__)

JUDGED = 1  # beside the seed, as rows to judge by are drawn apart from all others


@dataclass(frozen=True)
class Samples:
    """Samples to calibrate on, sets to score on, and where a target is to be kept a set to judge by.

    Attributes:
        task: what they mean.
        sets: all rows that were read.
        features: encoded samples.
        batches: this process's part of them.
        scorers: one per evaluation set.
        evaluation: samples in all of these.
        blank_dropped: rows without a text that are not calibrated on.
        blank_scored: rows without a text among the sets.
        judged: the set to judge by; none of its samples is among the others.
        seq_len: tokens of a text on average, or positions that the first layer sees of an image or a sound.
        longest: tokens that a text may have.
        lengths: positions that each sublayer sees of a sample.
        vocabulary: the tokens that the pruned model keeps, where some are dropped.
        retold: the evaluation sets by these tokens.
        judged_retold: the set to judge by, by these tokens.
    """

    task: Task
    sets: list[Rows]
    features: Sequence[Features]
    batches: list[Batch]
    scorers: list[Scorer]
    evaluation: int
    blank_dropped: int
    blank_scored: int
    seq_len: float
    longest: int
    lengths: list[float]
    judged: Scorer | None = None
    vocabulary: Vocabulary | None = None
    retold: Sequence[SmallVocabularyScorer] = ()
    judged_retold: SmallVocabularyScorer | None = None


def draw_samples(
    model: PreTrainedModel,
    processor: Any,
    dataset: Any,
    eval_dataset: Any,
    judge_dataset: Any,
    task: Task | None,
    num_samples: int,
    batch_size: int,
    seed: int,
    *,
    target: QualityTarget | None = None,
    **columns: Any,
) -> Samples:
    """Draws calibration samples and encodes all that is needed of the data.

    Raises:
        TrimformerError: the rows do not fit the task or the model, or there are too few of them.
    """
    if eval_dataset is None:
        splits = dataset if _are_splits(dataset) else {"all": dataset}
        train, sets = find_splits({name: as_rows(rows) for name, rows in splits.items()}, seed)
    else:
        train = as_rows(dataset)
        named = eval_dataset if _are_splits(eval_dataset) else {"validation": eval_dataset}
        sets = {name: as_rows(rows, "eval_dataset") for name, rows in named.items()}
    check_evaluation_sets(sets)
    task = task or task_of(model, train, **columns)
    check_labelled(task, [train, *sets.values()])
    judged: Rows | None = None if judge_dataset is None or target is None else as_rows(judge_dataset, "judge_dataset")
    if target is not None and judged is None:
        train, judged = _set_aside(train, num_samples, seed)
    blank = sum(count_blank_rows(name, rows, task) for name, rows in sets.items())
    if judged is not None:
        count_blank_rows("judged", judged, task)
    before = len(train)
    train = drop_blank_rows(train, task)
    chosen = sample_indices(len(train), num_samples, seed)
    if len(chosen) < num_samples:
        logger.warning("%d calibration samples asked for, %d are there: all are used", num_samples, len(chosen))
    if len(chosen) < 2:
        raise TrimformerError(f"{len(chosen)} calibration samples are too few; give at least 2")
    features = task.encode(Selection(train, chosen), processor, model.config)
    batches = _share(make_batches(features, processor, batch_size, model.device))
    check_token_ids(model, batches)
    seq_len = task.average_length or mean_length(features)
    lengths = layer_lengths(model, find_sublayers(model), batches[0], seq_len)
    judges = Scorer("judged", judged, task, model, processor, batch_size) if judged is not None else None
    if target is not None and judges is not None:
        check_test_samples(target, judges)
    return Samples(
        task=task,
        sets=[train, *([judged] if judged else []), *sets.values()],
        features=features,
        batches=batches,
        scorers=[Scorer(name, rows, task, model, processor, batch_size) for name, rows in sets.items()],
        evaluation=sum(len(rows) for rows in sets.values()),
        blank_dropped=before - len(train),
        blank_scored=blank,
        judged=judges,
        seq_len=seq_len if "input_ids" in batches[0] else lengths[0],
        longest=task.length_limit(processor, model.config),
        lengths=lengths,
    )


def with_fewer_tokens(model: PreTrainedModel, processor: Any, data: Samples, texts: Sequence[str] | None) -> Samples:
    """The data, and the tokens that the texts, or all rows of the data, need."""
    check_texts(data.task)
    vocabulary = of_rows(model, processor, data.sets, data.task) if texts is None else of_texts(model, processor, texts)
    logger.info("%d of %d tokens stay", len(vocabulary.kept), vocabulary.of)
    retold = [SmallVocabularyScorer(scorer, vocabulary, model) for scorer in data.scorers]
    judged = SmallVocabularyScorer(data.judged, vocabulary, model) if data.judged else None
    return replace(data, vocabulary=vocabulary, retold=retold, judged_retold=judged)


def _set_aside(train: Rows, num_samples: int, seed: int) -> tuple[Rows, Rows]:
    """Rows to calibrate on, and rows to judge by: twice as many as samples, if that leaves half of all rows."""
    order = np.random.default_rng([seed, JUDGED]).permutation(len(train)).tolist()
    cut = min(2 * num_samples, len(train) // 2)
    return Selection(train, sorted(order[cut:])), Selection(train, order[:cut])


def _are_splits(data: Any) -> bool:
    """Whether it is several data sets by name (a `DatasetDict`, a mapping of lists of rows), and not one by columns."""

    def are_rows(value: Any) -> bool:
        is_list = isinstance(value, Sequence) and not isinstance(value, str) and bool(value)
        is_table = hasattr(value, "column_names") or hasattr(value, "columns")  # of datasets, of pandas
        return is_table or (is_list and isinstance(value[0], Mapping))

    return isinstance(data, Mapping) and bool(data) and all(map(are_rows, data.values()))


def _share(batches: list[Batch]) -> list[Batch]:
    """This process's part of the batches."""
    if len(batches) < world_size():
        raise TrimformerError(
            f"{count_samples(batches)} calibration samples make {len(batches)} batches, too few for {world_size()} "
            "processes; lower the batch size"
        )
    return shard(batches)
