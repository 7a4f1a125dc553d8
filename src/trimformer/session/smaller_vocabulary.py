"""Chooses the smaller vocabulary of a run, and encodes its evaluation sets with it."""

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trimformer.checkpoints.vocabulary import (
    check_texts,
    vocabulary_of_blocks,
    vocabulary_of_rows,
    vocabulary_of_texts,
)
from trimformer.data.outputs import find_problem
from trimformer.errors import TrimformerError
from trimformer.evaluation.language import LanguageScorer
from trimformer.evaluation.language_vocabulary import LanguageVocabularyScorer, measure_lost
from trimformer.evaluation.smaller_vocabulary import SmallVocabularyScorer
from trimformer.options.quality_target import QualityTarget
from trimformer.session.samples import Samples, SmallerVocabulary
from trimformer.utils.distributed import broadcast_from_main, on_main

logger = logging.getLogger(__name__)


def with_smaller_vocabulary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Samples,
    texts: Sequence[str] | None,
    target: QualityTarget | None = None,
) -> Samples:
    """Adds the smaller vocabulary: the tokens that the texts need, or the data where `texts` is None.

    The samples that a quality target is tested on do not choose the tokens, as they show what is lost with the others;
    nor does a language model's scored text. Outputs for each token can be compared on samples of equal tokens only, so
    there the tested samples keep theirs.

    Raises:
        TrimformerError: the model or its tokenizer cannot lose tokens, or no language model without them can keep the
            quality.
    """
    check_texts(samples.task)
    if find_problem(model) == "language":
        return _with_smaller_language_vocabulary(model, tokenizer, samples, texts, target)
    judged = samples.judged_scorer
    test_rows = judged.rows if judged is not None and find_problem(model) not in ("tokens", "span") else None
    vocabulary = (
        vocabulary_of_rows(model, tokenizer, [rows for rows in samples.sets if rows is not test_rows], samples.task)
        if texts is None
        else vocabulary_of_texts(model, tokenizer, texts)
    )
    logger.info("%d of %d tokens stay", len(vocabulary.kept_ids), vocabulary.dense_size)
    scorers = [SmallVocabularyScorer(scorer, vocabulary, model) for scorer in samples.scored.scorers]
    small_judged = SmallVocabularyScorer(judged, vocabulary, model) if judged else None
    return replace(samples, smaller_vocabulary=SmallerVocabulary(vocabulary, scorers, small_judged))


def _with_smaller_language_vocabulary(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    samples: Samples,
    texts: Sequence[str] | None,
    target: QualityTarget | None,
) -> Samples:
    """Like `with_smaller_vocabulary`, for language models."""
    vocabulary = (
        vocabulary_of_blocks(model, tokenizer, samples.sets[0])
        if texts is None
        else vocabulary_of_texts(model, tokenizer, texts)
    )
    dense = [scorer for scorer in samples.scored.scorers if isinstance(scorer, LanguageScorer)]
    scorers = [LanguageVocabularyScorer(scorer, vocabulary, model) for scorer in dense]
    judged = None
    if isinstance(samples.judged_scorer, LanguageScorer):
        judged = LanguageVocabularyScorer(samples.judged_scorer, vocabulary, model)
    lost = broadcast_from_main(lambda: measure_lost(dense[0], vocabulary, model, tokenizer))
    logger.info(
        "%s of %s tokens stay; on the scored text the dense model gives %.2f %% of its next-token probability to the "
        "others, one of them is most likely at %.2f %% of positions, and the text takes %.3f times as many tokens",
        f"{len(vocabulary.kept_ids):,}",
        f"{vocabulary.dense_size:,}",
        100 * lost.probability,
        100 * lost.predictions,
        lost.lengthening,
    )
    if lost.warning:
        logger.warning("%s", lost.warning)
    if target is not None:
        on_main(lambda: _check_target_reachable(target, dense[0], scorers[0], model))
    return replace(samples, smaller_vocabulary=SmallerVocabulary(vocabulary, scorers, judged, lost))


def _check_target_reachable(
    target: QualityTarget, dense: LanguageScorer, scorer: LanguageVocabularyScorer, model: PreTrainedModel
) -> None:
    """Checks, before the long work, that the lost tokens alone do not cost more than the quality to keep allows.

    Raises:
        TrimformerError: they do, on the scored text.
    """
    references, outputs = dense(model)[1], scorer(model)[1]
    measured = (
        scorer.divergence(outputs, references)
        if target.kind == "divergence"
        else math.exp(float(scorer.loss_changes(outputs, references).mean()))
    )
    if measured > target.most:
        raise TrimformerError(
            f"before any pruning, this vocabulary alone gives a {target.kind} of {measured:.3g} on the scored text, "
            f"above max_{target.kind} {target.most:g}; allow more, give more texts with vocabulary, or leave it out"
        )
