"""Retrieval metrics of each query, as sentence-transformers' InformationRetrievalEvaluator defines them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

DEPTH = 10  # passages that a metric looks at

_PAIRS_AT_ONCE = 64

# Similarities [m, n] of embeddings [m, dim] and [n, dim], by the names of sentence-transformers.
_SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda a, b: F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T,
    "dot": lambda a, b: a @ b.T,
    "euclidean": lambda a, b: -torch.cdist(a, b),
    "manhattan": lambda a, b: -torch.cdist(a, b, p=1),
}


def query_scores(
    embeddings: Tensor,
    queries: Sequence[int],
    passages: Sequence[int],
    relevant: Sequence[Sequence[int]],
    similarity: str = "cosine",
    *,
    excludes_self: bool = False,
) -> dict[str, NDArray[np.float64]]:
    """Computes the metrics of each query, [queries] as fractions.

    Args:
        embeddings: [texts, dim].
        queries: indices of the queries among the texts.
        passages: indices of the distinct passages.
        relevant: of each query, the indices of its relevant passages, at least one.
        similarity: name of the similarity.
        excludes_self: a query that is a passage, too, does not find itself.

    Returns:
        `mrr@10`: 1 / rank of the first relevant passage, 0 beyond rank 10. `ndcg@10`: with binary relevance.
        `recall@10`: share of the relevant passages among the first 10.
    """
    place = {text: i for i, text in enumerate(passages)}
    right = [[place[answer] for answer in answers] for answers in relevant]
    pairs = [(text, passage, answers) for text, answers in zip(queries, right, strict=True) for passage in answers]
    ranks = _ranks(embeddings.double(), pairs, passages, similarity, excludes_self)
    return scores_of_ranks(np.split(ranks, np.cumsum([len(answers) for answers in relevant])[:-1]))


def scores_of_ranks(ranks: Sequence[NDArray[np.int64]]) -> dict[str, NDArray[np.float64]]:
    """Computes the metrics of each query, as `query_scores`.

    Args:
        ranks: of each query, the ranks of its relevant passages from 1, at least one.
    """
    scores = np.zeros((3, len(ranks)))
    for i, relevant in enumerate(ranks):
        found = relevant[relevant <= DEPTH]
        best = 1 / np.log2(1 + np.arange(1, min(len(relevant), DEPTH) + 1))
        scores[:, i] = (
            1 / found.min() if len(found) else 0.0,
            (1 / np.log2(1 + found)).sum() / best.sum(),
            len(found) / len(relevant),
        )
    return dict(zip((f"mrr@{DEPTH}", f"ndcg@{DEPTH}", f"recall@{DEPTH}"), scores, strict=True))


def first_passages(
    embeddings: Tensor,
    queries: Sequence[int],
    passages: Sequence[int],
    similarity: str = "cosine",
    *,
    excludes_self: bool,
) -> list[list[int]]:
    """Returns the indices of the passages that each query finds first, several if they are equally similar.

    See `query_scores` for the arguments.
    """
    vectors, first = embeddings.double(), list[list[int]]()
    for start in range(0, len(queries), _PAIRS_AT_ONCE):
        chunk = queries[start : start + _PAIRS_AT_ONCE]
        values = _similarities(vectors, chunk, passages, similarity, excludes_self)
        first += [[passages[i] for i in row.nonzero().flatten().tolist()] for row in values == values.amax(1, True)]
    return first


def _ranks(
    embeddings: Tensor,
    pairs: Sequence[tuple[int, int, Sequence[int]]],
    passages: Sequence[int],
    similarity: str,
    excludes_self: bool,
) -> NDArray[np.int64]:
    """Ranks of relevant passages from 1, [pairs]; others that are equally similar rank higher.

    Args:
        embeddings: [texts, dim].
        pairs: index of a query among the texts, position of a relevant passage in `passages`, and those of all
            passages that are relevant to this query.
        passages: indices of the passages.
        similarity: name of the similarity.
        excludes_self: the similarity of a text to itself is minus infinity.
    """
    ranks = [np.zeros(0, dtype=np.int64)]
    position = torch.arange(len(passages), device=embeddings.device)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        chunk = pairs[start : start + _PAIRS_AT_ONCE]
        values = _similarities(embeddings, [query for query, *_ in chunk], passages, similarity, excludes_self)
        places = torch.tensor([passage for _, passage, _ in chunk], device=values.device).unsqueeze(1)
        own = values.gather(1, places)
        is_other = torch.ones_like(values, dtype=torch.bool)
        for i, (*_, right) in enumerate(chunk):
            is_other[i, list(right)] = False
        before = (values > own) | ((values == own) & (is_other | (position < places)))
        ranks.append(1 + before.sum(1).cpu().numpy())
    return np.concatenate(ranks)


def _similarities(
    embeddings: Tensor, queries: Sequence[int], passages: Sequence[int], similarity: str, excludes_self: bool
) -> Tensor:
    """Similarities [queries, passages]; minus infinity of a text to itself if it is excluded."""
    rows, columns = torch.tensor(queries), torch.tensor(passages)
    values = _SIMILARITIES[similarity](embeddings[rows], embeddings[columns])
    if excludes_self:
        values = values.masked_fill((rows.unsqueeze(1) == columns).to(values.device), -torch.inf)
    return values
