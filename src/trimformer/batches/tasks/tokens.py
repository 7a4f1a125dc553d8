"""One label per word: named entities, parts of speech."""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from trimformer.batches.calibration import INPUT_KEYS, Features
from trimformer.batches.data import Rows, numbered
from trimformer.batches.metrics import METRICS
from trimformer.batches.output import Problem
from trimformer.batches.tasks.base import Task, check_columns, class_id
from trimformer.batches.tasks.span import check_tokenizer
from trimformer.errors import TrimformerError

WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("ner_tags", "tags", "labels", "pos_tags")
UNLABELLED = -100

_ENTITY_TAG = re.compile(r"O|[BIES]-.+")


@dataclass(frozen=True, kw_only=True)
class TokenTask(Task):
    """A list of words per row and at most one tag for each; a word's tag goes to its first token.

    Attributes:
        words_column: lists of words, or texts with spaces between the words.
        tags_column: lists of class ids or names; None: the rows are unlabelled.
        label_names: the model's classes by id; entities are scored where they are BIO or IOBES tags.
    """

    problem: Problem = "tokens"
    words_column: str = "tokens"
    tags_column: str | None = "ner_tags"
    label_names: tuple[str, ...] = ()

    auto_class: ClassVar[str] = "AutoModelForTokenClassification"

    def encode(self, rows: Rows, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> Sequence[Features]:
        check_columns(rows, (self.words_column, *([self.tags_column] if self.tags_column else [])))
        check_tokenizer(tokenizer)
        words = [_items(row[self.words_column], f"'{self.words_column}' of row {n}") for n, row in numbered(rows)]
        encoded = _with_leading_spaces(tokenizer)(
            [[str(word) for word in sample] for sample in words],
            is_split_into_words=True,
            truncation=True,
            max_length=self.length_limit(tokenizer, config),
        )
        features = [{key: encoded[key][i] for key in INPUT_KEYS if key in encoded} for i in range(len(rows))]
        if self.tags_column is not None:
            for i, (number, row) in enumerate(numbered(rows)):
                tags = _items(row[self.tags_column], f"'{self.tags_column}' of row {number}")
                if len(tags) != len(words[i]):
                    raise TrimformerError(f"row {number} has {len(words[i])} words but {len(tags)} tags")
                labels = [class_id(tag, config, f"row {number}") for tag in tags]
                features[i]["labels"] = _first_token_labels(encoded.word_ids(i), labels)
        return features

    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        if not features or "labels" not in features[0]:
            return {}
        labels, predictions = [], []
        for output, feature in zip(outputs, features, strict=True):
            target = np.array(feature["labels"])
            labels.append(target[target != UNLABELLED])
            predictions.append(output[: len(target)].argmax(-1).numpy()[target != UNLABELLED])
        flat = np.concatenate(predictions), np.concatenate(labels)
        if not len(flat[1]):
            return {}
        accuracy = METRICS["accuracy"](*flat)
        if not _are_entity_tags(self.label_names):
            return {"f1": METRICS["macro_f1"](*flat), "accuracy": accuracy}
        tags = [[[self.label_names[i] for i in sample] for sample in part] for part in (labels, predictions)]
        precision, recall, f1, _ = precision_recall_fscore_support(*tags, average="micro", zero_division=0)
        return {"f1": float(f1), "precision": float(precision), "recall": float(recall), "accuracy": accuracy}


def _items(value: Any, where: str) -> list[Any]:
    """A row's list; a text, as in a CSV file, is split at its spaces."""
    try:
        return value.split() if isinstance(value, str) else list(value)
    except TypeError:
        raise TrimformerError(f"{where} is {value}, not a list") from None


def _with_leading_spaces(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, or a copy that puts a space before each word: byte-level ones, RoBERTa's among them,
    would else read a word as the inside of one."""
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    if not isinstance(pre_tokenizer, ByteLevel) or pre_tokenizer.add_prefix_space:
        return tokenizer
    spaced = copy.deepcopy(tokenizer)
    spaced.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    return spaced


def _first_token_labels(word_ids: Sequence[int | None], labels: Sequence[int]) -> list[int]:
    """Each word's label at its first token, -100 at all others."""
    return [
        UNLABELLED if word is None or word == previous else labels[word]
        for previous, word in zip([None, *word_ids], word_ids, strict=False)
    ]


def _are_entity_tags(names: Sequence[str]) -> bool:
    return all(_ENTITY_TAG.fullmatch(name) for name in names) and any(name != "O" for name in names)


def token_task(
    config: PreTrainedConfig,
    rows: Rows,
    *,
    words_column: str | None = None,
    tags_column: str | None = None,
    max_length: int = 128,
) -> TokenTask:
    """A task for the user's own rows; columns not named are guessed from the usual names.

    Raises:
        TrimformerError: no column of words is named and none can be guessed.
    """
    if not len(rows):
        raise TrimformerError("the data has no rows")
    words = words_column or next((name for name in WORD_COLUMNS if name in rows[0]), None)
    if words is None:
        raise TrimformerError(f"no column of words found among {', '.join(rows[0])}; name it with --text-column")
    tags = tags_column or next((name for name in TAG_COLUMNS if name in rows[0] and name != words), None)
    names = config.id2label or {}
    return TokenTask(
        name="tokens",
        words_column=words,
        tags_column=tags,
        label_names=tuple(name for _, name in sorted((int(i), name) for i, name in names.items())),
        metric="f1" if tags else None,
        max_length=max_length,
    )
