"""Scores language models that lost tokens, and measures what they cannot write.

A lost token counts as the tokens that spell it (`trimformer.checkpoints.token_spellings`). A model that loses tokens
shares their probability out among the others, so its perplexity would fall with every token that the scored text does
not use. Therefore the pruned model is scored before it loses them: probability on lost tokens counts as an error.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.checkpoints.token_spellings import Spelling, spell_tokens
from trimformer.checkpoints.vocabulary import Vocabulary
from trimformer.data.batches import IGNORED, Features, make_batches
from trimformer.data.next_tokens import position_chunks
from trimformer.data.outputs import max_batch_tokens
from trimformer.data.processor import tokenize
from trimformer.data.tasks.base import NO_LIMIT
from trimformer.errors import TrimformerError
from trimformer.evaluation.language import LanguageOutputs, LanguageScorer
from trimformer.evaluation.model_outputs import Outputs, RerunOutputs
from trimformer.models import max_positions
from trimformer.models.layer_calls import NEXT_TOKENS, Batch
from trimformer.utils.progress import progress

logger = logging.getLogger(__name__)

MOST_LOST = 0.01  # share of the next-token probability; each percent raised the perplexity by 8 to 9 % (guide)
_POSITIONS = 64  # whose probabilities are in memory at once


@dataclass(frozen=True)
class LostTokens:
    """What a language model loses with its tokens, on text that is scored.

    Attributes:
        probability: share of the dense model's next-token probability on lost tokens, mean over positions.
        predictions: share of positions at which the dense model's most likely next token is lost.
        lengthening: tokens that the text takes with the smaller tokenizer, relative to the dense model's.
    """

    probability: float
    predictions: float
    lengthening: float

    @property
    def warning(self) -> str | None:
        """A sentence, if the model loses much."""
        if self.probability <= MOST_LOST:
            return None
        return (
            f"the dense model gives {100 * self.probability:.1f} % of its next-token probability to tokens that the "
            f"vocabulary loses, more than {100 * MOST_LOST:.0f} %, and words in pieces cost quality; give "
            "more texts with vocabulary, of all kinds that the model will read and write"
        )


class LanguageVocabularyScorer(LanguageScorer):
    """Scorer of another scorer's blocks, written with the tokens that are left; see `Scorer`.

    It scores models that still have all rows of their embeddings. Perplexity is per token of the dense model. KL and
    kept predictions compare the models where a token of the dense model begins.

    Args:
        dense: scorer of the same blocks with all tokens.
        vocabulary: the smaller vocabulary.
        model: the dense model, for its configuration.

    Attributes:
        changed: number of blocks with a lost token.

    Raises:
        TrimformerError: a block is longer than the model takes, or holds an id that is no token.
    """

    def __init__(self, dense: LanguageScorer, vocabulary: Vocabulary, model: PreTrainedModel) -> None:
        super().__init__(dense.name, dense.rows, dense.task, model, dense.processor, dense.batch_size)
        self._dense, self._kept = dense, torch.tensor(vocabulary.kept_ids)
        spellings = spell_tokens(dense.processor, vocabulary.tokenizer, vocabulary.kept_ids, vocabulary.dense_size)
        self._begins = _first_tokens(spellings, vocabulary)
        spelled = [spell_block(block, spellings) for block in dense.features]
        self.features = [features for features, _ in spelled]
        self._ends = [torch.tensor(ends) for _, ends in spelled]
        stays = set(vocabulary.kept_ids)
        self.changed = sum(not stays.issuperset(_stream(block)) for block in dense.features)
        _check_length(self.features, model, dense.name)
        self._groups = [self._batches_of(batch["index"].tolist(), model) for batch in dense.batches]
        self.batches = [batch for group in self._groups for batch in group]

    def _batches_of(self, samples: list[int], model: PreTrainedModel) -> list[Batch]:
        """Makes batches of the samples of one batch of the dense scorer."""
        few = make_batches(
            [self.features[i] for i in samples], self.processor, self.batch_size, max_tokens=max_batch_tokens(model)
        )
        return [{**batch, "index": torch.tensor(samples)[batch["index"]]} for batch in few]

    @cached_property
    def token_counts(self) -> Tensor:
        """Number of counted tokens of the dense model in each block, [blocks] in float64."""
        return self._dense.token_counts

    def _compare(self, outputs: Outputs, references: Outputs) -> Tensor:
        """See `LanguageScorer._compare`; the references are in the dense scorer's batches."""
        assert isinstance(outputs, LanguageOutputs)
        if outputs.comparison is None or outputs.comparison[0] is not references:
            sums, k = torch.zeros(len(self.features), 2, dtype=torch.float64), 0
            for batch, group, reference in zip(
                self._dense.batches, self._groups, progress(references, "compare"), strict=True
            ):
                rows = {sample: row for row, sample in enumerate(batch["index"].tolist())}
                for own in group:
                    for logits, sample in zip(outputs[k], own["index"].tolist(), strict=True):
                        sums[sample] = self._compare_block(logits, reference[rows[sample]], sample)
                    k += 1
            outputs.comparison = references, sums / self.token_counts.mean()
        return outputs.comparison[1]

    def _compare_block(self, logits: Tensor, references: Tensor, sample: int) -> Tensor:
        """Returns a block's sums of KL and of kept predictions, [2] in float64.

        Args:
            logits: of the pruned model, [spelled length, rows].
            references: of the dense model, [length, rows].
            sample: index of the block.
        """
        counted = (torch.tensor(self._dense.features[sample][NEXT_TOKENS]) != IGNORED).nonzero().flatten()
        total = torch.zeros(2, dtype=torch.float64)
        for at in counted.split(_POSITIONS):
            old, new = references[at].float(), logits[self._ends[sample][at]].float().log_softmax(-1)[:, self._kept]
            total[1] += (old.argmax(-1) == self._kept[new.argmax(-1)]).sum()
            old = old.masked_fill(self._begins < 0, -torch.inf).softmax(-1)  # rows without a token write nothing
            first = torch.zeros_like(new).index_add_(1, self._begins.clamp(min=0), old)
            total[0] += (torch.xlogy(first, first) - first * new).sum().double()
        return total


def measure_lost(
    scorer: LanguageScorer, vocabulary: Vocabulary, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> LostTokens:
    """Measures what the dense model loses with its tokens, on a set of blocks."""
    lost = torch.ones(vocabulary.dense_size, dtype=torch.bool)
    lost[vocabulary.kept_ids] = False
    sums = torch.zeros(2, dtype=torch.float64)
    outputs = RerunOutputs(model, scorer.batches, scorer.name)
    for batch, logits in zip(scorer.batches, progress(outputs, "lost tokens"), strict=True):
        for sample, at in position_chunks(logits, batch):
            scores = logits[sample, at].float()
            shares = torch.stack([scores.softmax(-1)[:, lost].sum(1), lost[scores.argmax(-1)].float()])
            sums += shares.sum(1).double()
    probability, predictions = (sums / scorer.token_counts.sum()).tolist()
    texts = [str(tokenizer.decode(_stream(block), clean_up_tokenization_spaces=False)) for block in scorer.features]
    sizes = [
        sum(map(len, tokenize(reader, texts, add_special_tokens=False, verbose=False)["input_ids"]))
        for reader in (vocabulary.tokenizer, tokenizer)
    ]
    return LostTokens(probability, predictions, sizes[0] / sizes[1])


def spell_block(block: Features, spellings: Sequence[Spelling]) -> tuple[dict[str, Any], list[int]]:
    """Writes a block with the tokens that are left.

    Returns:
        The block's features, and for each of its tokens the place of the last token that spells it.

    Raises:
        TrimformerError: an id is no token.
    """
    stream, counts = _stream(block), [False, *(target != IGNORED for target in block[NEXT_TOKENS])]
    groups = [spellings[token] for token in stream]
    if not all(groups):
        raise TrimformerError(
            f"the data has the id {stream[groups.index(())]}, which is no token of the tokenizer; leave out vocabulary"
        )
    pieces = [(token, counted) for group, counted in zip(groups, counts, strict=False) for token in group]
    if len(stream) == len(block["input_ids"]):
        pieces.append((0, False))  # what follows the block does not count
    targets = [token if counted else IGNORED for token, counted in pieces[1:]]
    ends = [end - 1 for end in accumulate(map(len, groups))][: len(block["input_ids"])]
    return {"input_ids": [token for token, _ in pieces[:-1]], NEXT_TOKENS: targets}, ends


def _stream(block: Features) -> list[int]:
    """Returns a block's tokens, and the one that follows if it counts."""
    ids, after = list(block["input_ids"]), block[NEXT_TOKENS][-1]
    return ids if after == IGNORED else [*ids, after]


def _first_tokens(spellings: Sequence[Spelling], vocabulary: Vocabulary) -> Tensor:
    """Returns for each row of the embeddings the new id of the first token that spells it, -1 for none, [rows]."""
    new_ids = vocabulary.new_ids
    return torch.tensor([int(new_ids[spelling[0]]) if spelling else -1 for spelling in spellings])


def _check_length(features: Sequence[Features], model: PreTrainedModel, name: str) -> None:
    """Checks that the model takes the blocks, which are longer with fewer tokens.

    Raises:
        TrimformerError: a block is too long.
    """
    longest, limit = max(len(sample["input_ids"]) for sample in features), max_positions(model.config, NO_LIMIT)
    if longest > limit:
        raise TrimformerError(
            f"with fewer tokens, a block of '{name}' takes {longest:,} of them, more than the model's {limit:,}; give "
            "shorter blocks with --seq-len, or more texts with vocabulary"
        )
