"""Embedding tasks: every text is embedded by itself; two text columns are two texts, never one pair."""

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from trimformer.data.batches import Features
from trimformer.data.class_names import class_names_of
from trimformer.data.metrics import METRICS
from trimformer.data.outputs import Problem, embeds_by_mean
from trimformer.data.rows import Rows, numbered
from trimformer.data.sentence_settings import QUERY_COLUMNS
from trimformer.data.sentence_transformers import sentence_head_of
from trimformer.data.tasks.base import Task, check_columns, guess_column, missing_column
from trimformer.data.tasks.label_values import as_number, relevance, relevance_values
from trimformer.data.tasks.sample_labels import LABEL_COLUMNS
from trimformer.data.tasks.text import ALIKE_COLUMNS, PASSAGE_COLUMNS, TEXT_COLUMNS, TextTask, encode_texts
from trimformer.data.tasks.text_values import column_texts, is_blank
from trimformer.errors import TrimformerError, listed, quoted

logger = logging.getLogger(__name__)

# Similarity of two embeddings [n], by the names of sentence-transformers.
SIMILARITY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda a, b: F.cosine_similarity(a, b, dim=0),
    "dot": lambda a, b: a @ b,
    "euclidean": lambda a, b: -(a - b).norm(),
    "manhattan": lambda a, b: -(a - b).abs().sum(),
}


# Columns of wrong passages beside a query and its passage, as sentence-transformers mines them.
_WRONG_PASSAGE = re.compile(r"negative(_\d+)?")
# Columns beside a premise and values in them that are classes.
_CLASS_COLUMNS = ("label", "labels", "gold_label", "class", "target")
_CLASSES = {f"{number}{zero}" for number in (-1, 0, 1, 2) for zero in ("", ".0")}


@dataclass(frozen=True, kw_only=True)
class EmbeddingTask(Task):
    """One or several texts per row, each encoded as a separate sample.

    Attributes:
        text_columns: columns of texts.
        score_column: similarity of the two texts of a row, on any scale; None: the rows have no similarity.
        similarity: function that compares the two embeddings of a row, a key of `SIMILARITY`.
    """

    problem: Problem = "embedding"
    text_columns: tuple[str, ...] = ("text",)
    score_column: str | None = None
    similarity: str = "cosine"

    auto_class: ClassVar[str] = "AutoModel"

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """See `Task.encode`; returns one feature per text, column by column."""
        check_columns(rows, (*self.text_columns, *([self.score_column] if self.score_column else [])))
        if self.score_column:
            for number, row in numbered(rows):
                if relevance(value := row[self.score_column]) is None:
                    raise TrimformerError(
                        f"{quoted(value)} in column {quoted(self.score_column)} of row {number} is not a finite number "
                        "in float32; the column must hold the similarity of two texts"
                    )
        prompts = zip_longest(self.text_columns, self.prompts, fillvalue="")
        texts = [text for column, prompt in prompts for text in column_texts(rows, column, prompt)]
        return encode_texts([texts], self, processor, config)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """See `Task.label_columns`."""
        return (self.score_column,) if self.score_column else ()

    def is_blank(self, row: Mapping[str, Any]) -> bool:
        """See `Task.is_blank`."""
        return all(is_blank(row.get(column)) for column in self.text_columns)

    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        """Correlates the similarity of each row's two embeddings with the score column."""
        if self.score_column is None or len(self.text_columns) != 2:
            return {}
        pairs = zip(outputs[: len(rows)], outputs[len(rows) :], strict=True)
        predicted = np.array([float(SIMILARITY[self.similarity](a.float(), b.float())) for a, b in pairs])
        similarities = np.array(relevance_values(rows, self.score_column), dtype=np.float64)
        return {name: METRICS[name](predicted, similarities) for name in ("spearman", "pearson")}


# Columns that say which passages are right, if they stand beside queries and passages.
_MARKS = ("label", "labels", "gold_label", "relevance", "relevant", "is_relevant")


def embedding_task(
    rows: Rows, *, text_columns: Sequence[str] | None = None, score_column: str | None = None, max_length: int
) -> EmbeddingTask:
    """Creates a task for the user's own rows; columns that are not named are guessed from the usual names.

    Raises:
        TrimformerError: no text column is named and none can be guessed.
    """
    texts = tuple(text_columns or _guess_text_columns(rows[0]))
    if not texts:
        raise missing_column("text column", rows[0])
    if score_column is None and len(texts) == 2:
        column = guess_column(LABEL_COLUMNS, rows[0], texts)
        value = None if column is None else rows[0][column]
        # Whole numbers beside a premise are classes: entailment, neutral, contradiction; -1: none.
        is_class = texts[0].strip().lower() == "premise" and str(column).strip().lower() in _CLASS_COLUMNS
        is_class = is_class and str(value).strip() in _CLASSES
        score_column = column if relevance(value) is not None and not is_class else None
        if column is not None and text_columns is None and isinstance(value, str) and score_column is None:
            _check_relevance(texts, column, value)
    return EmbeddingTask(
        name="embedding",
        text_columns=texts,
        score_column=score_column,
        metric="spearman" if score_column and len(texts) == 2 else None,
        max_length=max_length,
    )


def _check_relevance(texts: Sequence[str], column: str, value: str) -> None:
    """Checks that a column that may say which passages are right is not text, which nothing would read.

    Raises:
        TrimformerError: it is text, beside queries and passages.
    """
    names = [name.strip().lower() for name in (*texts, column)]
    if names[0] in QUERY_COLUMNS and names[1] in PASSAGE_COLUMNS and names[-1] in _MARKS:
        raise TrimformerError(
            f"column {quoted(column)} holds text such as {quoted(value)}; if it says which passages are right, write "
            "numbers, else name the columns of the texts with --text-column (text_column)"
        )


def without_classes(task: Task, sets: Sequence[Rows]) -> Task:
    """Returns an embedding task without a score column whose numbers have names that are no numbers: classes."""
    if not isinstance(task, EmbeddingTask) or task.score_column is None:
        return task
    names = next(filter(None, (class_names_of(rows).get(task.score_column, ()) for rows in sets)), ())
    if not names or all(as_number(name) is not None for name in names):
        return task
    logger.info("column %s holds classes (%s), no similarity", quoted(task.score_column), listed(names))
    return replace(task, score_column=None, metric=None)


def follow_settings(task: Task, model: PreTrainedModel) -> Task:
    """Returns the task with the prompts and the similarity of a sentence-transformers model; its own prompts stay."""
    head = sentence_head_of(model)
    if head is None or not isinstance(task, EmbeddingTask | TextTask):
        return task
    columns = task.text_columns if isinstance(task, EmbeddingTask) else task.text_columns[:1]
    if not task.prompts:
        prompts = head.settings.prompts_of(columns, has_roles=isinstance(task, EmbeddingTask))
        task = replace(task, prompts=prompts)
        for column, prompt in zip(columns, task.prompts, strict=False):
            logger.info("texts of column '%s' get the prompt %r, as in sentence-transformers", column, prompt)
    return replace(task, similarity=head.settings.similarity) if isinstance(task, EmbeddingTask) else task


def describe_embeddings(task: Task, model: PreTrainedModel) -> None:
    """Logs what is assumed of an embedder: its pooling where nothing says it, and prompts that no text gets."""
    if not isinstance(task, EmbeddingTask):
        return
    if embeds_by_mean(model):
        logger.info("the model has no settings of sentence-transformers: embeddings are means over tokens, no prompts")
    head = sentence_head_of(model)
    named = [name for name, prompt in head.settings.prompts.items() if prompt] if head else []
    if head is not None and named and not task.prompts:
        have_roles = bool(head.settings.prompts_of(["query", "document"]))
        logger.info(
            "the model has prompts (%s), and texts of %s get none%s",
            listed(named),
            listed(map(quoted, task.text_columns)),
            "; columns named 'query' and 'document' do" if have_roles else "",
        )


def _guess_text_columns(columns: Iterable[Any]) -> tuple[str, ...]:
    """Returns the columns with the usual names of two texts, and of wrong passages beside them, else of a single text.

    Returns:
        The names; empty if there are none.
    """
    columns = list(columns)
    pair: list[tuple[str, ...]] = [QUERY_COLUMNS, PASSAGE_COLUMNS]
    groups: list[list[tuple[str, ...]]] = [[(first,), (second,)] for first, second in ALIKE_COLUMNS]
    groups += [pair, [TEXT_COLUMNS]]
    for group in groups:
        found = [name for usual_names in group if (name := guess_column(usual_names, columns))]
        if len(found) == len(group):
            wrong = [name for name in columns if _WRONG_PASSAGE.fullmatch(str(name).strip().lower())]
            return (*found, *wrong) if group is pair else tuple(found)
    return ()
