"""SQuAD's exact match and F1 by its published rules, which ignore case, punctuation, articles and white space."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:an?|the)\b")


def _words(text: str) -> list[str]:
    return _ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _gold_words(answers: Sequence[str]) -> list[list[str]]:
    """Returns the words of each gold answer that has words, or one empty answer if none has."""
    return [words for words in map(_words, answers) if words] or [[]]


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    return 2 * (Counter(predicted) & Counter(gold)).total() / (len(predicted) + len(gold))


def squad_exact(prediction: str, answers: Sequence[str]) -> float:
    """Returns 1.0 if the prediction equals one of the gold answers, else 0.0; "" equals no answer."""
    return float(_words(prediction) in _gold_words(answers))


def squad_f1(prediction: str, answers: Sequence[str]) -> float:
    """Returns the best F1 of shared words over the gold answers; if either side is empty, 1.0 if both are, else 0.0."""
    return max(_f1(_words(prediction), gold) for gold in _gold_words(answers))
