"""Extractive question answering: long contexts are split into windows, and the answer is the best-scoring span."""

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from trimformer.data.batches import INPUT_KEYS, Features
from trimformer.data.metrics import confidence_interval
from trimformer.data.outputs import Problem
from trimformer.data.processor import check_padding_side, tokenize, tokenizer_of
from trimformer.data.rows import Rows, numbered
from trimformer.data.tasks.base import Task, check_columns, guess_column, missing_column
from trimformer.data.tasks.squad_metrics import squad_exact, squad_f1
from trimformer.data.tasks.text_values import as_text, column_texts, is_blank
from trimformer.errors import TrimformerError, quoted

logger = logging.getLogger(__name__)

PAIR_COLUMNS = (
    ("question", "context"),
    ("question", "passage"),
    ("question", "paragraph"),
    ("question", "document"),
    ("question", "text"),
    ("query", "context"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "text"),
    ("text", "text_pair"),  # from tuples of two texts
)

WINDOWS_AT_ONCE = 256  # bounds the memory that scoring needs

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class SpanTask(Task):
    """A question and a context per row, in SQuAD's format; the answer is a span of the context, or empty.

    A context that is too long for the model becomes several features, one per overlapping window.

    Attributes:
        pair_columns: the question column and the context column.
        stride: number of tokens that neighbouring windows share.
        n_best: number of best start and end positions that are combined to find a window's best span.
        max_answer_length: maximum number of tokens in a predicted answer.
        with_unanswerable: whether some questions have no answer in their context (SQuAD 2.0).
    """

    problem: Problem = "span"
    max_length: int = 384
    pair_columns: tuple[str, str] = ("question", "context")
    stride: int = 128
    n_best: int = 20
    max_answer_length: int = 30
    with_unanswerable: bool = False

    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """See `Task.encode`; returns one feature per window.

        Each feature also has `example`, the index of its row, and `offsets`, the start and end character of each
        token in the context (None for tokens outside the context).
        """
        tokenizer, labelled = tokenizer_of(processor), _has_answers(rows)
        check_columns(rows, (*self.pair_columns, *(["answers"] if labelled else [])))
        require_token_offsets(tokenizer)
        questions, contexts = (column_texts(rows, column) for column in self.pair_columns)
        answers = [
            _first_answer(row, context, f"row {number}") if labelled else None
            for (number, row), context in zip(numbered(rows), contexts, strict=True)
        ]

        max_length = self.length_limit(tokenizer, config)
        stride = min(self.stride, max_length // 3)
        # With a question of at most this length, a window is longer than the overlap.
        question_length = (max_length - tokenizer.num_special_tokens_to_add(pair=True) - stride) // 2
        if question_length < 1:
            raise TrimformerError(f"max_length {max_length} leaves no room for a question and its context; raise it")
        encoded = tokenize(
            tokenizer,
            _truncate([question.lstrip() for question in questions], tokenizer, question_length),
            contexts,
            truncation="only_second",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        features: list[dict[str, Any]] = []
        for i, example in enumerate(encoded["overflow_to_sample_mapping"]):
            offsets = zip(encoded["offset_mapping"][i], encoded.sequence_ids(i), strict=True)
            feature = {key: encoded[key][i] for key in INPUT_KEYS if key in encoded}
            feature |= {"example": example, "offsets": [span if part == 1 else None for span, part in offsets]}
            if labelled:
                start, end = _token_span(feature["offsets"], answers[example])
                feature |= {"start_positions": start, "end_positions": end}
            features.append(feature)
        return features

    @property
    def label_columns(self) -> tuple[str, ...]:
        """See `Task.label_columns`."""
        return ("answers",) if self.metric else ()

    def is_blank(self, row: Mapping[str, Any]) -> bool:
        """See `Task.is_blank`."""
        return all(is_blank(row.get(column)) for column in self.pair_columns)

    def predict_answers(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> list[str]:
        """Returns each row's best answer over all its windows, or "" for no answer.

        With unanswerable questions, the answer is also "" if the null score exceeds the best span's score. A window's
        null score is the score of its first token as both start and end; a row's is the lowest of its windows.
        """
        spans: list[Span] = [(0, 0)] * len(rows)
        best_scores, null_scores = np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
        for first in range(0, len(features), WINDOWS_AT_ONCE):
            chunk = slice(first, first + WINDOWS_AT_ONCE)
            for window, best in zip(features[chunk], self._best_spans(outputs[chunk], features[chunk]), strict=True):
                example, (score, null_score, span) = window["example"], best
                null_scores[example] = min(null_scores[example], null_score)
                if score > best_scores[example]:
                    best_scores[example], spans[example] = score, span
        if self.with_unanswerable:
            unanswered = null_scores > best_scores
            spans = [(0, 0) if empty else span for span, empty in zip(spans, unanswered, strict=True)]
        contexts = (str(row[self.pair_columns[1]]) for row in rows)
        return [context[start:end].strip() for context, (start, end) in zip(contexts, spans, strict=True)]

    def _best_spans(
        self, outputs: Sequence[Tensor], windows: Sequence[Features]
    ) -> Iterator[tuple[float, float, Span]]:
        """Returns each window's best score (-inf if it has no valid span), its null score and its best span."""
        lengths = [len(window["input_ids"]) for window in windows]
        logits = pad_sequence([output[:n].float() for output, n in zip(outputs, lengths, strict=True)], True)
        offsets = [torch.tensor([span or (0, 0) for span in window["offsets"]]) for window in windows]
        characters = pad_sequence(offsets, True)  # [windows, length, 2], empty ranges outside the context
        outside = (characters[..., 1] <= characters[..., 0]).unsqueeze(-1)
        k = min(self.n_best, logits.shape[1])
        scores, tokens = logits.masked_fill(outside, -torch.inf).topk(k, dim=1)  # [windows, k, 2]
        sums = scores[:, :, None, 0] + scores[:, None, :, 1]  # [windows, starts, ends]
        sizes = tokens[:, None, :, 1] - tokens[:, :, None, 0] + 1
        sums = sums.masked_fill((sizes < 1) | (sizes > self.max_answer_length), -torch.inf)
        best, pair = sums.flatten(1).max(1)
        row = torch.arange(len(windows))
        start = characters[row, tokens[row, pair // k, 0], 0]
        end = characters[row, tokens[row, pair % k, 1], 1]
        spans = zip(start.tolist(), end.tolist(), strict=True)
        return zip(best.tolist(), logits[:, 0].sum(-1).tolist(), spans, strict=True)

    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        """See `Task.score`; computes SQuAD's exact match and F1, also by answerability if some are unanswerable."""
        if not _has_answers(rows):
            return {}
        predictions = self.predict_answers(outputs, features, rows)
        golds = [_texts(row["answers"]) for row in rows]
        pairs = list(zip(predictions, golds, strict=True))
        exact = np.array([squad_exact(*pair) for pair in pairs])
        f1 = np.array([squad_f1(*pair) for pair in pairs])
        metrics = {"exact_match": float(exact.mean()), "f1": float(f1.mean())}
        metrics |= {"exact_match_ci95": confidence_interval(exact), "f1_ci95": confidence_interval(f1)}
        if self.with_unanswerable:
            answerable = np.array([bool(gold) for gold in golds])
            for name, subset in (("has_ans", answerable), ("no_ans", ~answerable)):
                if subset.any():
                    metrics |= {f"{name}_exact": float(exact[subset].mean()), f"{name}_f1": float(f1[subset].mean())}
        return metrics


def require_token_offsets(tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that the tokenizer can align labels with tokens.

    Raises:
        TrimformerError: the tokenizer is not a fast one, or pads on the left.
    """
    if not tokenizer.is_fast:
        raise TrimformerError(f"{type(tokenizer).__name__} returns no token positions; load a fast tokenizer")
    check_padding_side(tokenizer)


def _texts(answer: Mapping[str, Any]) -> list[Any]:
    """The texts of an answer that are not empty; a value that is no list is left to the check of the answers."""
    texts = answer.get("text", ())
    return [text for text in texts if text != ""] if isinstance(texts, list | tuple | np.ndarray) else [texts]


def _has_answers(rows: Rows) -> bool:
    return any(row.get("answers") is not None for row in rows)


def _first_answer(row: Mapping[str, Any], context: str, where: str) -> Span | None:
    """Returns the start and end character of the first gold answer in the context, without surrounding spaces."""
    answers = row["answers"]
    try:
        texts, starts = list(answers["text"]), list(answers["answer_start"])
        if len(texts) != len(starts):
            raise ValueError("the numbers of texts and starts differ")
        if not texts:
            return None
        text, start = as_text(texts[0], f"the answer of {where}"), int(starts[0])
    except TrimformerError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError):
        raise TrimformerError(
            f"'answers' of {where} are not in SQuAD's format; give lists 'text' and 'answer_start' of the same length"
        ) from None
    context_text = context[max(start, 0) : max(start, 0) + len(text)]
    start += len(text) - len(text.lstrip())
    end = start + len(text.strip())
    if not 0 <= start <= end <= len(context):
        raise TrimformerError(f"the answer of {where} lies outside its context, at characters {start} to {end}")
    if not squad_exact(context_text, [text]):  # ignores case and punctuation
        raise TrimformerError(
            f"the answer of {where}, {quoted(text)}, does not match its context at answer_start, {quoted(context_text)}"
        )
    return (start, end) if end > start else None


def _token_span(offsets: Sequence[Span | None], answer: Span | None) -> Span:
    """Returns the first and last token of the answer, or (0, 0) if the window does not contain all of it."""
    context = [i for i, span in enumerate(offsets) if span]
    spans = [span for span in offsets if span]
    if answer is None or not spans or answer[0] < spans[0][0] or answer[1] > spans[-1][1]:
        return 0, 0
    first = bisect_right([end for _, end in spans], answer[0])
    last = bisect_left([start for start, _ in spans], answer[1]) - 1
    return (context[first], context[last]) if first <= last else (0, 0)


def _truncate(questions: list[str], tokenizer: PreTrainedTokenizerBase, length: int) -> list[str]:
    """Truncates questions to `length` tokens."""
    encoded = tokenize(
        tokenizer,
        questions,
        add_special_tokens=False,
        truncation=True,
        max_length=length,
        return_offsets_mapping=True,
    )
    truncated = [
        question[: offsets[-1][1]] if len(offsets) == length else question
        for question, offsets in zip(questions, encoded["offset_mapping"], strict=True)
    ]
    count = sum(len(whole.rstrip()) > len(part) for whole, part in zip(questions, truncated, strict=True))
    if count:
        logger.warning(
            "%d of %d questions have more than %d tokens, and the rest of them is cut off; raise the maximum length",
            count,
            len(questions),
            length,
        )
    return truncated


def span_task(rows: Rows, *, text_columns: Sequence[str] | None = None, max_length: int = 384) -> SpanTask:
    """Creates a task for the user's own rows; an empty list of answers marks an unanswerable question.

    Args:
        rows: the user's examples.
        text_columns: the question column and the context column; None: guessed from the usual names.
        max_length: maximum number of tokens per window.

    Raises:
        TrimformerError: the columns are not named and cannot be guessed, or one column is named instead of two.
    """
    if text_columns is None:
        pairs = ([guess_column([name], rows[0]) for name in pair] for pair in PAIR_COLUMNS)
        text_columns = next(([str(name) for name in pair] for pair in pairs if all(pair)), None)
    if text_columns is None:
        raise missing_column("columns of a question and its context", rows[0])
    if len(text_columns) != 2:
        raise TrimformerError(f"'{text_columns[0]}' is one column; name two, the questions and their contexts")
    answers = [row["answers"] for row in rows if row.get("answers") is not None]
    return SpanTask(
        name="span",
        pair_columns=(text_columns[0], text_columns[1]),
        max_length=max_length,
        metric="f1" if answers else None,
        with_unanswerable=any(isinstance(answer, Mapping) and len(_texts(answer)) == 0 for answer in answers),
    )


# The paper's average length is 170 for both.
SPAN_TASKS = (
    SpanTask(name="squad", hub=("rajpurkar/squad", None), metric="f1", average_length=170),
    SpanTask(
        name="squad_v2",
        hub=("rajpurkar/squad_v2", None),
        metric="f1",
        average_length=170,
        with_unanswerable=True,
    ),
)
