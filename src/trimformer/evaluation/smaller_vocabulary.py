"""Scores models with a tokenizer whose vocabulary was reduced."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from trimformer.checkpoints.vocabulary import Vocabulary, flat_ids
from trimformer.data.batches import Features, make_batches
from trimformer.data.outputs import divergence
from trimformer.data.token_ids import check_token_ids
from trimformer.errors import TrimformerError
from trimformer.evaluation.model_outputs import Outputs, RerunOutputs, unbatch
from trimformer.evaluation.scores import Scorer


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

    def _check_batches(self, model: PreTrainedModel) -> None:
        """Checks token ids alone: the padding token has another number here than in the dense model's config."""
        check_token_ids(model, self.batches)

    @property
    def divergence_rows(self) -> list[int]:
        """Index of the row of each value that `divergences` returns."""
        return [self._dense.feature_rows[i] for i, _ in self._pairs]

    def divergences(self, outputs: Outputs, references: Outputs) -> Tensor:
        """Returns the divergence from the dense model's outputs, which are in the dense scorer's batches, [samples].

        Outputs per token are compared on samples with the same tokens, and token scores on the tokens that are kept.
        """
        stored = None if isinstance(outputs, RerunOutputs) else unbatch(outputs, self.batches)
        places, values = dict(self._pairs), {}
        for batch, batch_references in zip(self._dense.batches, references, strict=True):
            samples = zip(batch["index"].tolist(), batch_references.float().cpu(), strict=True)
            pairs = [(i, places[i], reference) for i, reference in samples if i in places]
            if stored is not None:
                new = [stored[j] for _, j, _ in pairs]
            else:
                assert isinstance(outputs, RerunOutputs)
                few = make_batches([self.features[j] for _, j, _ in pairs], self.processor, self.batch_size)
                new = unbatch(outputs.on(few), few)
            for (i, j, reference), output in zip(pairs, new, strict=True):
                values[i] = self._divergence(output, reference, self.features[j])
        return torch.cat([values[i] for i, _ in self._pairs]).double()

    def _divergence(self, output: Tensor, reference: Tensor, sample: Features) -> Tensor:
        """Returns the divergence of one sample, [1]."""
        output, reference = self._cut(output, sample), self._cut(reference, sample)
        if output.shape != reference.shape:
            reference = reference[..., self._vocabulary.kept_ids]
        batch = {"index": torch.zeros(1), "attention_mask": torch.ones(1, len(output))}
        return divergence(output.unsqueeze(0), reference.unsqueeze(0), batch, self._problem)

    def neighbours(self, outputs: Outputs, references: Outputs) -> float | None:
        """Like `Scorer.neighbours`, with references in the dense scorer's batches."""
        return self._neighbours(outputs, references, self._dense)

    def _cut(self, output: Tensor, sample: Features) -> Tensor:
        """Removes the padding of outputs per token."""
        return output[: len(sample["input_ids"])] if self._problem in ("tokens", "span") else output
