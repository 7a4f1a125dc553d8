"""Evaluation sets as a smaller vocabulary has them, so that a model is scored with the tokenizer it will have."""

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
    """Rows of another scorer, encoded by the tokenizer that has lost tokens.

    Args:
        dense: by the tokenizer that has them all.
        vocabulary: what is left of it.
        model: gives configuration and device.

    Attributes:
        changed: samples of the dense scorer that are made of other tokens now, as some of theirs were dropped.

    Raises:
        TrimformerError: outputs are one a token, and no sample is made of the same tokens, so none can be compared.
    """

    def __init__(self, dense: Scorer, vocabulary: Vocabulary, model: PreTrainedModel) -> None:
        super().__init__(dense.name, dense.rows, dense.task, model, vocabulary.tokenizer, dense.batch_size)
        self._dense, self._vocabulary = dense, vocabulary
        new_ids = vocabulary.new_ids
        places = {flat_ids([sample["input_ids"]]).tobytes(): i for i, sample in enumerate(self.features)}
        found = [places.get(new_ids[flat_ids([sample["input_ids"]])].tobytes()) for sample in dense.features]
        self.changed = found.count(None)
        self._pairs = [(i, j) for i, j in enumerate(found) if j is not None]
        if self._problem not in ("tokens", "span"):
            self._pairs = [(i, i) for i in range(len(self.features))]
        if not self._pairs:
            raise TrimformerError(
                f"every sample of '{self.name}' holds tokens that the vocabulary drops; give more texts with vocabulary"
            )

    def divergences(self, outputs: Sequence[Tensor], references: Sequence[Tensor]) -> Tensor:
        """[samples]: distance from the dense model's outputs, which are in the dense scorer's batches.

        Outputs of tokens are compared on the samples that are made of the same tokens, and scores of tokens on those
        that stay.
        """
        new, old = unbatch(outputs, self.batches), unbatch(references, self._dense.batches)
        apart = []
        for i, j in self._pairs:
            output, reference = self._cut(new[j], self.features[j]), self._cut(old[i], self.features[j])
            if output.shape != reference.shape:
                reference = reference[..., self._vocabulary.kept_ids]
            batch = {"index": torch.zeros(1), "attention_mask": torch.ones(1, len(output))}
            apart.append(divergence(output.unsqueeze(0), reference.unsqueeze(0), batch, self._problem))
        return torch.cat(apart).double()

    def neighbours(self, outputs: Sequence[Tensor], references: Sequence[Tensor]) -> float | None:
        """As of any scorer; the references are in the dense scorer's batches."""
        return self._neighbours(outputs, references, self._dense)

    def _cut(self, output: Tensor, sample: Features) -> Tensor:
        """Without what belongs to padding."""
        return output[: len(sample["input_ids"])] if self._problem in ("tokens", "span") else output
