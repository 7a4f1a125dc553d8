"""Embedding tasks: texts are encoded one by one and scored by cosine similarity."""

from itertools import product

import pytest
import torch
from transformers import BertConfig

from tests.conftest import make_model, make_rows, make_tokenizer
from trimformer import TrimformerError, prune
from trimformer.data.rows import NamedRows
from trimformer.data.sentence_settings import QUERY_COLUMNS
from trimformer.data.tasks import infer_task
from trimformer.data.tasks.embedding import without_classes
from trimformer.data.tasks.text import ALIKE_COLUMNS, PASSAGE_COLUMNS

CONFIG = BertConfig()
PAIRS = [
    {"sentence1": a["sentence"], "sentence2": b["sentence"], "score": i % 6 / 5}
    for i, (a, b) in enumerate(zip(make_rows(30), make_rows(30, seed=1), strict=True))
]


def task(rows, **columns):
    return infer_task("embedding", CONFIG, rows, **columns)


def test_two_columns_are_two_texts_and_never_one_pair():
    tokenizer, inferred = make_tokenizer(), task(PAIRS)
    features = inferred.encode(PAIRS, tokenizer, CONFIG)
    alone = [tokenizer(row[column])["input_ids"] for column in ("sentence1", "sentence2") for row in PAIRS]
    assert [feature["input_ids"] for feature in features] == alone


@pytest.mark.parametrize(
    "columns",
    [
        ("anchor", "positive", "negative"),
        ("Query", "Positive"),
        *product(QUERY_COLUMNS, PASSAGE_COLUMNS),
        *product(QUERY_COLUMNS, PASSAGE_COLUMNS, ["negative"]),
        *ALIKE_COLUMNS,
        ("text",),
    ],
)
def test_text_columns_are_guessed_from_the_usual_names(columns):
    assert task([dict.fromkeys(columns, "the film")]).text_columns == columns


def test_the_classes_of_premise_and_hypothesis_are_no_similarities():
    inferred = task([{"premise": "the film", "hypothesis": "it", "label": 2}])
    assert (inferred.text_columns, inferred.score_column) == (("premise", "hypothesis"), None)
    for label in ("1", -1, 1.0, 0):
        assert task([{"premise": "the film", "hypothesis": "it", "label": label}]).score_column is None
    assert task([{"premise": "the film", "hypothesis": "it", "score": 5.0}]).score_column == "score"
    assert task([{"premise": "the film", "hypothesis": "it", "score": 0.5}]).score_column == "score"


def test_numbers_with_names_of_classes_are_no_similarities():
    rows = NamedRows(({**row, "label": i % 2} for i, row in enumerate(PAIRS)), {"label": ("entailment", "none")})
    inferred = task([{key: value for key, value in rows[0].items() if key != "score"}])
    assert inferred.score_column == "label"
    assert without_classes(inferred, [rows]).metric is None
    numbers = NamedRows(rows, {"label": ("0", "1")})
    assert without_classes(inferred, [numbers]) is inferred


@pytest.mark.parametrize("name", ["relevance", "is_selected", "similarity_score"])
def test_a_relevance_beside_a_query_and_its_passage_is_a_score(name):
    rows = [{"query": "the film", "passage": "it is good", name: i % 2} for i in range(4)]
    assert task(rows).score_column == name


def test_the_score_is_the_rank_correlation_of_cosines():
    inferred = task(PAIRS)
    outputs = [torch.tensor([1.0, 0.0])] * 30 + [torch.tensor([row["score"], 1.0]) for row in PAIRS]
    assert inferred.score(outputs, [], PAIRS)["spearman"] == pytest.approx(1)


def test_an_invalid_score_names_its_row():
    rows = [*PAIRS[:3], {**PAIRS[3], "score": "much"}]
    with pytest.raises(TrimformerError, match="'much' in column 'score' of row 4"):
        task(rows).encode(rows, make_tokenizer(), CONFIG)


def test_an_embedder_is_scored_by_correlation_divergence_and_neighbours():
    result = prune(make_model(head="Model"), make_tokenizer(), PAIRS, 0.7, eval_dataset=PAIRS, device="cpu")
    assert result.scores.dense.keys() == result.scores.pruned.keys() == {"spearman", "pearson"}
    assert 0 < result.scores.divergence < 1
    assert 0 < result.scores.neighbours <= 1
    assert "nearest neighbours kept" in str(result)
