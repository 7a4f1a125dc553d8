"""SQuAD's exact match and F1, by its published rules: case, punctuation, articles and spacing do not count."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:an?|the)\b")


def _words(text: str) -> list[str]:
    return _ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _golds(answers: Sequence[str]) -> list[list[str]]:
    """The gold answers' words; the empty answer where there are none."""
    return [words for words in map(_words, answers) if words] or [[]]


def _overlap(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    return 2 * (Counter(predicted) & Counter(gold)).total() / (len(predicted) + len(gold))


def squad_exact(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction equals one of the gold answers; "" equals no answer."""
    return float(_words(prediction) in _golds(answers))


def squad_f1(prediction: str, answers: Sequence[str]) -> float:
    """The best F1 of shared words over the gold answers; without words on one side, 1 iff on neither."""
    return max(_overlap(_words(prediction), gold) for gold in _golds(answers))
