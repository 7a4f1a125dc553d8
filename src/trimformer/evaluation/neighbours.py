"""Measures how many of each sample's nearest neighbours stay the same in another model's embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = 10  # of each sample, by cosine similarity


def neighbour_overlap(embeddings: Tensor, references: Tensor) -> float | None:
    """Returns the share of each sample's nearest neighbours in the references that stay nearest in the embeddings.

    Args:
        embeddings: [samples, n].
        references: [samples, m].

    Returns:
        The mean over samples; None if there are too few samples.
    """
    samples = len(embeddings)
    if samples <= 2 * NEIGHBOURS:
        return None
    nearest = []
    for matrix in (embeddings, references):
        unit = F.normalize(matrix.double(), dim=-1)
        chunks = []
        for start in range(0, samples, 1024):
            cosines = unit[start : start + 1024] @ unit.T
            cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -torch.inf
            chunks.append(cosines.topk(NEIGHBOURS).indices)
        nearest.append(torch.cat(chunks))
    shared = (nearest[0].unsqueeze(2) == nearest[1].unsqueeze(1)).sum((1, 2))
    return float(shared.double().mean() / NEIGHBOURS)
