"""Scores models with a tokenizer whose vocabulary was reduced."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.checkpoints.vocabulary import Vocabulary, flat_ids
from trimformer.data.batches import Features
from trimformer.data.outputs import divergence
from trimformer.errors import TrimformerError
from trimformer.evaluation.scores import Scorer, unbatch


class SmallVocabularyScorer(Scorer):
    """Scorer of another scorer's rows, encoded with the reduced tokenizer.

    Args:
        dense: scorer with the full tokenizer.
        vocabulary: the reduced vocabulary.
        model: the model, for its configuration and device.

    Attributes:
        changed: number of samples that are tokenized differently because a token was dropped.

    Raises:
        TrimformerError: outputs are per token, and every sample is tokenized differently, so none can be compared.
    """

    def __init__(self, dense: Scorer, vocabulary: Vocabulary, model: PreTrainedModel) -> None:
        super().__init__(dense.name, dense.rows, dense.task, model, vocabulary.tokenizer, dense.batch_size)
        self._dense, self._vocabulary = dense, vocabulary
        new_ids = vocabulary.new_ids
        places = {flat_ids([sample["input_ids"]]).tobytes(): i for i, sample in enumerate(self.features)}
        matches = [places.get(new_ids[flat_ids([sample["input_ids"]])].tobytes()) for sample in dense.features]
        self.changed = matches.count(None)
        self._pairs = [(i, j) for i, j in enumerate(matches) if j is not None]
        if self._problem not in ("tokens", "span"):
            self._pairs = [(i, i) for i in range(len(self.features))]
        if not self._pairs:
            raise TrimformerError(
                f"every sample of '{self.name}' holds tokens that the vocabulary drops; give more texts with vocabulary"
            )

    def divergences(self, outputs: Sequence[Tensor], references: Sequence[Tensor]) -> Tensor:
        """Returns the divergence from the dense model's outputs, which are in the dense scorer's batches, [samples].

        Outputs per token are compared on samples with the same tokens, and token scores on the tokens that are kept.
        """
        new, old = unbatch(outputs, self.batches), unbatch(references, self._dense.batches)
        values = []
        for i, j in self._pairs:
            output, reference = self._cut(new[j], self.features[j]), self._cut(old[i], self.features[j])
            if output.shape != reference.shape:
                reference = reference[..., self._vocabulary.kept_ids]
            batch = {"index": torch.zeros(1), "attention_mask": torch.ones(1, len(output))}
            values.append(divergence(output.unsqueeze(0), reference.unsqueeze(0), batch, self._problem))
        return torch.cat(values).double()

    def neighbours(self, outputs: Sequence[Tensor], references: Sequence[Tensor]) -> float | None:
        """Like `Scorer.neighbours`, with references in the dense scorer's batches."""
        return self._neighbours(outputs, references, self._dense)

    def _cut(self, output: Tensor, sample: Features) -> Tensor:
        """Removes the padding of outputs per token."""
        return output[: len(sample["input_ids"])] if self._problem in ("tokens", "span") else output
