"""Next-token distributions of language models: losses, divergences and gradients, a few positions at a time.

A vocabulary has 50,000 to 260,000 tokens, so probabilities in float32 are never held for a whole batch. A position
counts if the batch names its next token; padding, and prompts where only answers count, are left out.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from trimformer.data.batches import IGNORED, sample_generators
from trimformer.models.layer_calls import NEXT_TOKENS, Batch

MAX_LOGITS = 2**26  # of a batch
TOP = 128  # most likely tokens whose probabilities are stored
_MAX_PROBABILITIES = 2**24  # in memory at once
_MAX_IN_CACHE = 2**20  # on a CPU, which takes almost twice as long where they leave its cache


def counted_positions(batch: Batch) -> Tensor:
    """Boolean mask [batch, length], true at positions whose next token counts."""
    return batch[NEXT_TOKENS] != IGNORED


def position_chunks(logits: Tensor, batch: Batch) -> Iterator[tuple[int, Tensor]]:
    """Yields (sample, positions) of all counted positions, with few enough positions to hold their probabilities."""
    size = _positions_at_once(logits)
    for sample, counted in enumerate(counted_positions(batch)):
        for positions in counted.nonzero().flatten().split(size):
            if len(positions):
                yield sample, positions


def _positions_at_once(logits: Tensor) -> int:
    most = min(_MAX_PROBABILITIES, _MAX_IN_CACHE) if logits.device.type == "cpu" else _MAX_PROBABILITIES
    return max(1, most // logits.shape[-1])


def token_losses(logits: Tensor, batch: Batch) -> Tensor:
    """Returns each sample's sum of -log p(next token) over counted positions, [batch] in float64."""
    sums = torch.zeros(len(logits), dtype=torch.float64, device=logits.device)
    for sample, at in position_chunks(logits, batch):
        targets = batch[NEXT_TOKENS][sample, at].to(logits.device)
        sums[sample] += F.cross_entropy(logits[sample, at].float(), targets, reduction="sum").double()
    return sums


def mean_token_losses(logits: Tensor, batch: Batch) -> Tensor:
    """Returns each sample's mean of -log p(next token), [batch]; differentiable."""
    losses = F.cross_entropy(logits.transpose(1, 2), batch[NEXT_TOKENS], ignore_index=IGNORED, reduction="none")
    return losses.sum(1) / counted_positions(batch).sum(1).clamp(min=1)


def compare_tokens(logits: Tensor, references: Tensor, batch: Batch) -> Tensor:
    """Compares two models' distributions at counted positions.

    Returns:
        Each sample's sums of KL(reference || model) and of positions with the same most likely token, [batch, 2], in
        float64.
    """
    sums = torch.zeros(len(logits), 2, dtype=torch.float64, device=logits.device)
    for sample, at in position_chunks(logits, batch):
        new, old = logits[sample, at].float(), references[sample, at].float()
        kept = (new.argmax(-1) == old.argmax(-1)).sum()
        sums[sample] += torch.stack([_kl(new, old).double().sum(), kept.double()])
    return sums


def token_divergences(logits: Tensor, references: Tensor, batch: Batch) -> Tensor:
    """Returns each sample's mean KL(reference || model) over counted positions, [batch]; differentiable."""
    sums: list[list[Tensor]] = [[logits.new_zeros(())] for _ in logits]
    for sample, at in position_chunks(logits, batch):
        sums[sample].append(_kl(logits[sample, at], references[sample, at]).sum())
    totals = torch.stack([torch.stack(parts).sum() for parts in sums])
    return totals / counted_positions(batch).to(logits.device).sum(1).clamp(min=1)


def pack_top(logits: Tensor, count: int = TOP) -> Tensor:
    """Returns the log-probabilities and ids of the most likely tokens, [batch, length, 2 * count] in float32.

    Ids are exact in float32, up to vocabularies of 2**24 tokens.
    """
    log_probs, ids = [], []
    for rows in logits.flatten(0, 1).split(_positions_at_once(logits)):
        values, indices = rows.float().log_softmax(-1).topk(min(count, logits.shape[-1]), dim=-1)
        log_probs.append(values)
        ids.append(indices.float())
    return torch.cat([torch.cat(log_probs), torch.cat(ids)], dim=-1).view(*logits.shape[:2], -1)


def top_divergences(logits: Tensor, packed: Tensor, batch: Batch) -> Tensor:
    """Returns each sample's mean KL from packed references over counted positions, [batch]; differentiable.

    Tokens that are not packed count as one: the result is a lower bound of `token_divergences`, and close to it.
    """
    old, ids = packed.chunk(2, dim=-1)  # [batch, length, count]
    new = logits.float().log_softmax(-1).gather(-1, ids.long())
    rest_old, rest_new = (torch.log1p(-x.exp().sum(-1).clamp(max=1 - 1e-6)) for x in (old, new))
    values = (old.exp() * (old - new)).sum(-1) + rest_old.exp() * (rest_old - rest_new)  # [batch, length]
    mask = counted_positions(batch).to(logits.device)
    return (values * mask).sum(1) / mask.sum(1).clamp(min=1)


def with_next_tokens(batch: Batch) -> Batch:
    """Returns the batch with the token to predict at each position, from its labels, or else from its tokens.

    Args:
        batch: of a tokenizer, or of a collator for Transformers' language models, whose labels are not shifted.
    """
    if NEXT_TOKENS in batch:
        return batch
    ids = batch["input_ids"]
    targets = batch.get("labels", ids)[:, 1:]
    if "attention_mask" in batch:
        mask = batch["attention_mask"].bool()
        targets = targets.masked_fill(~(mask[:, 1:] & mask[:, :-1]), IGNORED)
    return {**batch, NEXT_TOKENS: F.pad(targets, (0, 1), value=IGNORED)}


def _kl(logits: Tensor, references: Tensor) -> Tensor:
    log_probs, reference = logits.log_softmax(-1), references.log_softmax(-1)
    return F.kl_div(log_probs, reference, reduction="none", log_target=True).sum(-1)


@torch.no_grad()
def curvature_gradient(logits: Tensor, batch: Batch, seed: int, temperature: float) -> Tensor:
    """Returns a gradient [batch, length, vocabulary] whose mean outer product is the Gauss-Newton curvature.

    With random signs e, p = softmax(z / T) and c = e sqrt(p), the gradient with respect to z of T sum_y c_y log p_y
    is c - p sum(c), for constant c. Its expected outer product is diag(p) - p p^T. Signs depend only on the seed, the
    sample's index and the position.
    """
    gradient = torch.zeros_like(logits)
    vocabulary = logits.shape[-1]
    generators = sample_generators(batch["index"], seed)
    for sample, at in position_chunks(logits, batch):
        signs = _random_signs(len(at), vocabulary, generators[sample]).to(logits.device)
        p = (logits[sample, at].float() / temperature).softmax(-1)
        c = p.sqrt().mul_(signs)
        gradient[sample, at] = c.sub_(p.mul_(c.sum(-1, keepdim=True))).to(gradient.dtype)
    return gradient


def _random_signs(positions: int, vocabulary: int, generator: torch.Generator) -> Tensor:
    """Returns random signs [positions, vocabulary], in int8; a byte of random bits gives eight."""
    width = -(-vocabulary // 8)
    random = torch.randint(256, (positions, width, 1), generator=generator, dtype=torch.uint8)
    bits = random.bitwise_right_shift(torch.arange(8, dtype=torch.uint8)).bitwise_and_(1)
    return bits.flatten(1)[:, :vocabulary].to(torch.int8).mul_(2).sub_(1)
