"""Token classification tasks, such as named entities and parts of speech: one label per word."""

import copy
import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
from tokenizers import pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from trimformer.data.batches import IGNORED, INPUT_KEYS, Features
from trimformer.data.metrics import METRICS
from trimformer.data.outputs import Problem
from trimformer.data.processor import tokenize, tokenizer_of
from trimformer.data.rows import Rows, numbered
from trimformer.data.tasks.base import Task, check_columns, guess_column, missing_column
from trimformer.data.tasks.label_reader import LabelReader
from trimformer.data.tasks.label_values import split_items
from trimformer.data.tasks.question_answering import require_token_offsets
from trimformer.data.tasks.sample_labels import label_names
from trimformer.data.tasks.text import guess_text_columns
from trimformer.data.tasks.text_values import as_text, is_blank
from trimformer.errors import TrimformerError, quoted

WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("ner_tags", "tags", "labels", "pos_tags")

LABELLED_WORDS = "labelled_words"  # positions of the words that have a label, beside the labels of a sample

_TAG = re.compile(r"[A-Za-z]-.+")
# Prefixes of BIO, IOBES, BILOU and BMES tags, as seqeval names them.
_PREFIXES = {"B-": "B-", "I-": "I-", "M-": "I-", "E-": "E-", "L-": "E-", "S-": "S-", "U-": "S-", "W-": "S-"}


@dataclass(frozen=True, kw_only=True)
class TokenTask(Task):
    """A list of words per row, with at most one tag per word; the first token of a word carries its tag.

    Attributes:
        words_column: column of lists of words, or of texts with spaces between the words.
        tags_column: column of lists of class ids or names; None: the rows are unlabelled.
        label_names: the model's classes, ordered by id; BIO, IOBES, BILOU and BMES tags are scored by entity.
    """

    problem: Problem = "tokens"
    words_column: str = "tokens"
    tags_column: str | None = "ner_tags"
    label_names: tuple[str, ...] = ()

    auto_class: ClassVar[str] = "AutoModelForTokenClassification"

    def encode(self, rows: Rows, processor: Any, config: PreTrainedConfig) -> Sequence[Features]:
        """See `Task.encode`."""
        tokenizer = tokenizer_of(processor)
        check_columns(rows, (self.words_column, *([self.tags_column] if self.tags_column else [])))
        require_token_offsets(tokenizer)
        words = [_items(row[self.words_column], f"{quoted(self.words_column)} of row {n}") for n, row in numbered(rows)]
        texts = [
            [as_text(word, f"a word of row {n}") for word in sample]
            for (n, _), sample in zip(numbered(rows), words, strict=True)
        ]
        if _splits_by_spaces(tokenizer):
            texts = [[_with_space(tokenizer, word) if i else word for i, word in enumerate(sample)] for sample in texts]
        encoded = tokenize(
            _with_leading_spaces(tokenizer),
            texts,
            is_split_into_words=True,
            truncation=True,
            max_length=self.length_limit(tokenizer, config),
        )
        features = [{key: encoded[key][i] for key in INPUT_KEYS if key in encoded} for i in range(len(rows))]
        if self.tags_column is not None:
            reader = LabelReader(self.problem, config, rows, self.tags_column, self.reading)
            for i, (number, row) in enumerate(numbered(rows)):
                tags = _items(row[self.tags_column], f"{quoted(self.tags_column)} of row {number}")
                if len(tags) != len(words[i]):
                    raise TrimformerError(f"row {number} has {len(words[i])} words but {len(tags)} tags")
                labels = [IGNORED if tag == IGNORED else reader.class_id(tag, f"row {number}") for tag in tags]
                features[i]["labels"] = _first_token_labels(encoded.word_ids(i), labels)
                features[i][LABELLED_WORDS] = _labelled_words(encoded.word_ids(i), labels)
        return features

    @property
    def label_columns(self) -> tuple[str, ...]:
        """See `Task.label_columns`."""
        return (self.tags_column,) if self.tags_column else ()

    def is_blank(self, row: Mapping[str, Any]) -> bool:
        """See `Task.is_blank`."""
        words = row.get(self.words_column)
        return all(map(is_blank, words)) if isinstance(words, list | tuple) else is_blank(words)

    def score(self, outputs: Sequence[Tensor], features: Sequence[Features], rows: Rows) -> dict[str, float]:
        """See `Task.score`."""
        return token_scores(outputs, features, self.label_names)


def token_scores(outputs: Sequence[Tensor], features: Sequence[Features], names: Sequence[str]) -> dict[str, float]:
    """Scores token labels: by entity if the class names are BIO, IOBES, BILOU or BMES tags, else by class.

    Args:
        outputs: logits [length, labels] per sample; positions beyond the sample's labels are padding.
        features: encoded samples with `labels`, -100 at tokens that are not scored.
        names: the model's classes, ordered by id.

    Returns:
        The scores by name; empty if there are no labels.
    """
    if not features or "labels" not in features[0]:
        return {}
    labels, predictions = [], []
    for output, feature in zip(outputs, features, strict=True):
        target = np.array(feature["labels"])
        labels.append(target[target != IGNORED])
        predictions.append(output[: len(target)].argmax(-1).numpy()[target != IGNORED])
    all_tokens = np.concatenate(predictions), np.concatenate(labels)
    if not len(all_tokens[1]):
        return {}
    accuracy = METRICS["accuracy"](*all_tokens)
    if not _are_entity_tags(names):
        return {"f1": METRICS["macro_f1"](*all_tokens), "accuracy": accuracy}
    names = [_entity_tag(name) for name in names]
    tags = [[[names[i] for i in sample] for sample in samples] for samples in (labels, predictions)]
    precision, recall, f1, _ = precision_recall_fscore_support(*tags, average="micro", zero_division=0)
    return {"f1": float(f1), "precision": float(precision), "recall": float(recall), "accuracy": accuracy}


def _items(value: Any, where: str) -> list[Any]:
    """Returns the list in a cell; see `split_items`."""
    if isinstance(value, str):
        return split_items(value)
    try:
        if isinstance(value, bytes | Mapping | Set):
            raise TypeError
        return list(value)
    except TypeError:
        raise TrimformerError(f"{where} is {quoted(value)}, not a list") from None


def _with_leading_spaces(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Returns the tokenizer, or for byte-level tokenizers a copy that puts a space before each word.

    Without that space, byte-level tokenizers such as RoBERTa's read each word as the continuation of another one.
    """
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    if not isinstance(pre_tokenizer, ByteLevel) or pre_tokenizer.add_prefix_space:
        return tokenizer
    spaced = copy.deepcopy(tokenizer)
    spaced.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    return spaced


def _splits_by_spaces(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Returns whether a tokenizer splits texts at spaces before it turns them into bytes, as Llama 3's and Qwen's."""
    pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    if not isinstance(pre_tokenizer, pre_tokenizers.Sequence):
        return False
    state = json.loads(pre_tokenizer.__getstate__())
    kinds = [part["type"] for part in state["pretokenizers"]]
    return "ByteLevel" in kinds and not any(part.get("add_prefix_space") for part in state["pretokenizers"])


def _with_space(tokenizer: PreTrainedTokenizerBase, word: str) -> str:
    """Returns a word with a space before it, unless that would be a token by itself, as before digits."""
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(f" {word}")
    return word if len(pieces) > 1 and len(pieces[0][0]) == 1 else f" {word}"


def _first_token_labels(word_ids: Sequence[int | None], labels: Sequence[int]) -> list[int]:
    """Returns each word's label at its first token, and -100 at all other tokens."""
    return [
        IGNORED if word is None or word == previous else labels[word]
        for previous, word in zip([None, *word_ids], word_ids, strict=False)
    ]


def _labelled_words(word_ids: Sequence[int | None], labels: Sequence[int]) -> list[int]:
    """Returns the positions of the words whose first token has a label; others have no tokens, or the label -100."""
    return [word for word in dict.fromkeys(word_ids) if word is not None and labels[word] != IGNORED]


def _are_entity_tags(names: Sequence[str]) -> bool:
    """Whether most classes are tags of entities; others, such as O, [PAD] and X, are outside of all.

    Classes that look like tags with a prefix that is not known are no tags of entities.
    """
    tags = [name for name in names if _TAG.fullmatch(name)]
    others = [name for name in names if not _TAG.fullmatch(name) and name != "O"]
    return len(tags) > len(others) and all(tag[:2] in _PREFIXES for tag in tags)


def _entity_tag(name: str) -> str:
    """Returns a class name as seqeval reads it."""
    return _PREFIXES[name[:2]] + name[2:] if _TAG.fullmatch(name) else "O"


def token_task(
    config: PreTrainedConfig,
    rows: Rows,
    *,
    words_column: str | None = None,
    tags_column: str | None = None,
    max_length: int = 128,
) -> TokenTask:
    """Creates a task for the user's own rows; columns that are not named are guessed from the usual names.

    Raises:
        TrimformerError: no column of words is named and none can be guessed.
    """
    words = words_column or guess_column(WORD_COLUMNS, rows[0])
    if words is None:
        raise missing_column("column of words", rows[0])
    tags = tags_column or guess_column(TAG_COLUMNS, rows[0], [words])
    return TokenTask(
        name="tokens",
        words_column=words,
        tags_column=tags,
        label_names=label_names(config),
        metric="f1" if tags else None,
        max_length=max_length,
    )


def plain_text_column(rows: Rows, text_columns: Sequence[str] | None, tags_column: str | None) -> str | None:
    """Returns the text column of rows without lists of words and without tags; None if the rows have either."""
    column = text_columns[0] if text_columns else None
    if tags_column or guess_column((*WORD_COLUMNS, *TAG_COLUMNS), rows[0], [column] if column else []):
        return None
    column = column or next(iter(guess_text_columns(rows[0]) or ()), None)
    return column if column and isinstance(rows[0].get(column), str) else None
