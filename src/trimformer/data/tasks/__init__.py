"""Tasks: they encode rows as model inputs and score outputs; found by name or inferred from model and rows."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from trimformer.data.outputs import Problem, find_problem
from trimformer.data.processor import is_dual_encoder
from trimformer.data.rows import Rows
from trimformer.data.tasks.audio import AudioTask, audio_task
from trimformer.data.tasks.base import NO_LIMIT, ScoredByQuery, Task, check_columns
from trimformer.data.tasks.embedding import EmbeddingTask, embedding_task, follow_settings
from trimformer.data.tasks.encoded import EncodedTask, encoded_task, is_encoded
from trimformer.data.tasks.glue import GLUE_TASKS
from trimformer.data.tasks.images import ImageTask, ImageTextTask, image_task, image_text_task
from trimformer.data.tasks.language import LanguageTask
from trimformer.data.tasks.multiple_choice import ChoiceTask, choice_task
from trimformer.data.tasks.question_answering import SPAN_TASKS, SpanTask, span_task
from trimformer.data.tasks.reranking import RerankingTask
from trimformer.data.tasks.retrieval import RetrievalTask, retrieval_task
from trimformer.data.tasks.sample_labels import label_names
from trimformer.data.tasks.text import TextTask, text_task
from trimformer.data.tasks.token_classification import TokenTask, plain_text_column, token_task
from trimformer.errors import TrimformerError, listed, quoted

__all__ = [
    "TASKS", "AudioTask", "ChoiceTask", "EmbeddingTask", "EncodedTask", "ImageTask", "ImageTextTask", "LanguageTask",
    "RerankingTask", "RetrievalTask", "ScoredByQuery", "SpanTask", "Task", "TextTask", "TokenTask", "find_task",
    "follow_settings", "infer_task", "task_of",
]  # fmt: skip

TASKS: dict[str, Task] = {task.name: task for task in (*GLUE_TASKS, *SPAN_TASKS)}


def find_task(name: str) -> Task:
    """Returns the predefined task of a name.

    Raises:
        TrimformerError: the name is unknown.
    """
    if name not in TASKS:
        raise TrimformerError(f"task {quoted(name)} is unknown; known are {', '.join(TASKS)}")
    return TASKS[name]


def infer_task(
    problem: Problem,
    config: PreTrainedConfig,
    rows: Rows,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    max_length: int | None = None,
    model_class_name: str | None = None,
    main_input: str = "input_ids",
) -> Task:
    """Infers the task from the model's head and inputs and from the columns of the rows.

    Args:
        problem: kind of model output.
        config: the model's configuration, which defines the task's labels.
        rows: the user's examples; if they hold the model's inputs and no column is named, they are used as encoded.
        text_columns: columns of texts, of words, of a question and its context, of a prompt and its choices, of
            images or of audio; None: guessed.
        label_column: column of labels or tags; None: guessed.
        max_length: maximum number of tokens per sample; None: 384 for question answering, else the model's limit.
        model_class_name: name of the model's class, which identifies multiple choice and masked language models.
        main_input: the model's main input (`model.main_input_name`).

    Raises:
        TrimformerError: there are no rows, a column is not named and cannot be guessed, more than two text columns are
            named, the named label column is missing, or the head has no labels per sample.
    """
    if not len(rows):
        raise TrimformerError("the data has no rows")
    if text_columns and len(text_columns) > 2 and problem != "embedding":
        raise TrimformerError(f"{listed(text_columns)} are too many text columns; name one, or two for pairs")
    head = model_class_name or ""
    no_labels = (
        problem in ("span", "language")
        or head.endswith(("ForMaskedLM", "ForCTC"))
        or is_dual_encoder(config, main_input)
    )
    if label_column and no_labels:
        name = head or ("a model for question answering" if problem == "span" else "a language model")
        raise TrimformerError(f"{name} has no labels per sample; leave out the label column {quoted(label_column)}")
    if label_column:
        check_columns(rows, [label_column])
    if problem == "language":
        return LanguageTask(name="language", max_length=max_length or NO_LIMIT)
    if not text_columns and is_encoded(rows):
        return encoded_task(problem, config, rows, main_input, head, label_column)
    if is_dual_encoder(config, main_input):
        return image_text_task(rows, columns=text_columns, max_length=max_length or NO_LIMIT)
    if main_input == "pixel_values":
        return image_task(problem, config, rows, columns=text_columns, label_column=label_column)
    if main_input in ("input_values", "input_features"):
        return audio_task(problem, config, rows, columns=text_columns, label_column=label_column)
    return _infer_text_task(problem, config, rows, text_columns, label_column, max_length, head)


def task_of(model: PreTrainedModel, rows: Rows, **columns: Any) -> Task:
    """Infers the task from a model and the user's rows; see `infer_task` for the columns."""
    task = infer_task(
        find_problem(model),
        model.config,
        rows,
        model_class_name=type(model).__name__,
        main_input=model.main_input_name,
        **columns,
    )
    return follow_settings(task, model)


def _infer_text_task(
    problem: Problem,
    config: PreTrainedConfig,
    rows: Rows,
    text_columns: Sequence[str] | None,
    label_column: str | None,
    max_length: int | None,
    head: str,
) -> Task:
    limit = max_length or NO_LIMIT
    if problem == "embedding":
        task = embedding_task(rows, text_columns=text_columns, score_column=label_column, max_length=limit)
        return retrieval_task(task)
    if problem == "span":
        return span_task(rows, text_columns=text_columns, max_length=max_length or 384)
    if head.endswith("ForMultipleChoice"):
        return choice_task(rows, text_columns=text_columns, label_column=label_column, max_length=limit)
    if problem == "tokens" and not head.endswith("ForMaskedLM"):
        text_column = plain_text_column(rows, text_columns, label_column)
        if text_column is not None:
            return text_task(problem, rows, text_columns=[text_column], max_length=limit)
        words = text_columns[0] if text_columns else None
        return token_task(config, rows, words_column=words, tags_column=label_column, max_length=limit)
    return text_task(
        problem,
        rows,
        text_columns=text_columns,
        label_column=label_column,
        label_names=label_names(config),
        max_length=limit,
    )
