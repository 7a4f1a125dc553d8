"""The samples of a run: those to calibrate on, those to score on, and those that a quality target is tested on."""

from collections.abc import Sequence
from dataclasses import dataclass

from trimformer.checkpoints.vocabulary import Vocabulary
from trimformer.costs.macs import Positions
from trimformer.data.batches import Features
from trimformer.data.rows import Rows
from trimformer.data.tasks import Task
from trimformer.evaluation.language_vocabulary import LanguageVocabularyScorer, LostTokens
from trimformer.evaluation.scores import Scorer
from trimformer.evaluation.smaller_vocabulary import SmallVocabularyScorer
from trimformer.models.layer_calls import Batch


@dataclass(frozen=True)
class CalibrationSamples:
    """The samples to calibrate on.

    Attributes:
        rows: as they were read.
        features: the rows, encoded.
        batches: this process's share of their batches.
        num_blank: number of rows without a text that are left out.
        mean_length: mean tokens per text, or positions that the first layer sees of an image or a sound.
        length_limit: most tokens that a text may have.
        positions: positions that each sublayer sees of a sample.
    """

    rows: Rows
    features: Sequence[Features]
    batches: list[Batch]
    num_blank: int
    mean_length: float
    length_limit: int
    positions: list[Positions]


@dataclass(frozen=True)
class ScoredSamples:
    """The sets to score on.

    Attributes:
        scorers: one per set.
        num_rows: number of rows in all sets.
        num_blank: number of these without a text.
        description: the sets, in words.
        warnings: why their scores may be too high.
    """

    scorers: list[Scorer]
    num_rows: int
    num_blank: int
    description: str
    warnings: Sequence[str]


@dataclass(frozen=True)
class SmallerVocabulary:
    """The tokens that the pruned model keeps, where some are dropped.

    Attributes:
        vocabulary: the tokens that stay, and their tokenizer.
        scorers: the sets to score on, encoded with them.
        judged_scorer: the samples that a quality target is tested on, encoded with them.
        lost: what a language model loses with the other tokens, on the first set to score on.
    """

    vocabulary: Vocabulary
    scorers: Sequence[SmallVocabularyScorer | LanguageVocabularyScorer]
    judged_scorer: SmallVocabularyScorer | LanguageVocabularyScorer | None
    lost: LostTokens | None = None


@dataclass(frozen=True)
class Samples:
    """All samples of a run.

    Attributes:
        task: what the columns mean.
        sets: all rows that were read, those to calibrate on first.
        calibration: the samples to calibrate on.
        scored: the sets to score on.
        judged_scorer: scores the samples that a quality target is tested on, which are none of the others.
        is_judge_data: whether these were given, rather than set aside from the data to calibrate on.
        smaller_vocabulary: the tokens that stay, if some are dropped.
    """

    task: Task
    sets: list[Rows]
    calibration: CalibrationSamples
    scored: ScoredSamples
    judged_scorer: Scorer | None = None
    is_judge_data: bool = False
    smaller_vocabulary: SmallerVocabulary | None = None

    @property
    def pruned_scorers(self) -> Sequence[Scorer]:
        """The scorers of pruned models, one per set to score on; they encode with the tokens that stay."""
        return self.scored.scorers if self.smaller_vocabulary is None else self.smaller_vocabulary.scorers

    @property
    def lost(self) -> LostTokens | None:
        """What a language model loses with the tokens that are dropped, if some are."""
        return None if self.smaller_vocabulary is None else self.smaller_vocabulary.lost
