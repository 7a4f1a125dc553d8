"""Text tasks: classification, regression and multi-label problems on texts or text pairs, and unlabelled texts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from trimformer.data.batches import Features
from trimformer.data.outputs import Problem
from trimformer.data.processor import tokenize, tokenizer_of
from trimformer.data.rows import Rows
from trimformer.data.sentence_settings import QUERY_COLUMNS
from trimformer.data.tasks.base import Task, check_columns, guess_column, missing_column
from trimformer.data.tasks.sample_labels import LABEL_COLUMNS, LabelTask, add_labels, label_fields
from trimformer.data.tasks.text_values import column_texts, is_blank
from trimformer.errors import TrimformerError

TEXT_COLUMNS = (
    "text", "sentence", "review", "content", "document", "body", "utterance", "comment", "tweet", "message", "post",
    "abstract", "description", "passage", "article", "title", "headline", "prompt", "query", "question", "review_text",
    "review_body", "comment_text", "sms", "email", "input", "caption",
)  # fmt: skip

# Columns of two texts that are alike, in the order in which they are tried.
ALIKE_COLUMNS = (("sentence1", "sentence2"), ("text1", "text2"), ("question1", "question2"), ("premise", "hypothesis"))

# Columns of passages that answer a query, as sentence-transformers' data sets name them; see `QUERY_COLUMNS`.
PASSAGE_COLUMNS = ("positive", "passage", "document", "context", "answer")

# Columns of the texts of a pair.
PAIR_COLUMNS: tuple[tuple[Sequence[str], Sequence[str]], ...] = (
    *(((first,), (second,)) for first, second in (*ALIKE_COLUMNS, ("text", "text_pair"), ("question", "sentence"))),
    (QUERY_COLUMNS, PASSAGE_COLUMNS),
)

# These text towers were trained on texts padded to full length and pool the last token.
_FULL_LENGTH = ("siglip", "siglip2", "siglip_text_model", "siglip2_text_model")


@dataclass(frozen=True, kw_only=True)
class TextTask(LabelTask):
    """One text or text pair per row, with at most one label (or list of labels).

    Attributes:
        text_columns: one column, or two for pairs.
    """

    text_columns: tuple[str, ...] = ("text",)

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """See `Task.encode`."""
        check_columns(rows, self.text_columns)
        labels = self.read_labels(rows, config)
        prompts = zip_longest(self.text_columns, self.prompts, fillvalue="")
        texts = [column_texts(rows, column, prompt) for column, prompt in prompts]
        return add_labels(encode_texts(texts, self, processor, config), labels)

    def is_blank(self, row: Mapping[str, Any]) -> bool:
        """See `Task.is_blank`."""
        return all(is_blank(row.get(column)) for column in self.text_columns)


def encode_texts(
    texts: Sequence[list[str]], task: Task, processor: Any, config: PreTrainedConfig
) -> list[dict[str, Any]]:
    """Tokenizes texts and truncates them at the task's length limit.

    Args:
        texts: one list, or two for pairs.
        task: task that sets the length limit.
        processor: the tokenizer, or a processor that contains it.
        config: the model's configuration.

    Returns:
        The tokenizer's output for each sample.

    Raises:
        TrimformerError: the limit leaves no room for a text beside the special tokens.
    """
    padding = "max_length" if config.model_type in _FULL_LENGTH else False
    limit = task.length_limit(processor, config)
    needed = tokenizer_of(processor).num_special_tokens_to_add(pair=len(texts) == 2) + len(texts)
    if limit < needed:
        raise TrimformerError(
            f"a maximum length of {limit} leaves no room for a text; raise it to {needed} tokens or more"
        )
    encoded = tokenize(tokenizer_of(processor), *texts, truncation=True, max_length=limit, padding=padding)
    return [{key: encoded[key][i] for key in encoded} for i in range(len(texts[0]))]


def guess_text_columns(columns: Iterable[str]) -> tuple[str, ...] | None:
    """Returns the columns with the usual names of a text pair, else of a single text; None if there are none."""
    columns = list(columns)
    for first_names, second_names in PAIR_COLUMNS:
        first, second = guess_column(first_names, columns), guess_column(second_names, columns)
        if first and second and first_names is QUERY_COLUMNS and guess_column(TEXT_COLUMNS[:4], columns):
            continue
        # The column "answer" of BoolQ and others is the label, unless there is another one.
        if first and second and (second.strip().lower() != "answer" or guess_column(LABEL_COLUMNS, columns, [second])):
            return first, second
    single = guess_column(TEXT_COLUMNS, columns)
    return (single,) if single else None


def text_task(
    problem: Problem,
    rows: Rows,
    *,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] = ("0", "1"),
    max_length: int = 128,
) -> TextTask:
    """Creates a task for the user's own rows; columns that are not named are guessed from the usual names.

    Raises:
        TrimformerError: no text column is named and none can be guessed.
    """
    texts = tuple(text_columns) if text_columns else guess_text_columns(rows[0])
    if texts is None:
        raise missing_column("text column", rows[0])
    return TextTask(
        name="text" if len(texts) == 1 else "pair",
        text_columns=texts,
        max_length=max_length,
        **label_fields(problem, rows, label_names, label_column, texts),
    )
