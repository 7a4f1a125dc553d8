"""Rows that share a text are never both calibrated on and judged or scored."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testing.language import byte_tokenizer, language_model
from tests.conftest import make_model, make_rows, make_tokenizer
from trimformer import TrimformerError
from trimformer.data.splits import divide, find_splits
from trimformer.data.tasks.text import TextTask
from trimformer.evaluation.clusters import shared_texts
from trimformer.evaluation.quality_test import count_independent
from trimformer.options.data import DataOptions
from trimformer.options.quality_target import QualityTarget
from trimformer.session.calibration_data import draw_samples
from trimformer.session.inputs import Inputs
from trimformer.session.scored_rows import describe_shared_texts

TEXTS = [f"{row['sentence']} {i}" for i, row in enumerate(make_rows(600, seed=5))]
TARGET = QualityTarget("divergence", 1.0)
TASK = TextTask(name="text", text_columns=("sentence",), problem="single_label")


@given(st.data(), st.lists(st.integers(0, 5), min_size=2, max_size=30))
def test_a_division_splits_no_cluster_and_holds_every_row_once(data, clusters):
    order = data.draw(st.permutations(range(len(clusters))))
    cut = data.draw(st.integers(1, len(clusters) - 1))
    first, second = divide(order, cut, clusters)
    assert sorted(first + second) == list(range(len(clusters)))
    assert first
    assert second
    if len(set(clusters)) > 1:
        assert not {clusters[i] for i in first} & {clusters[i] for i in second}


@given(st.permutations(range(12)), st.integers(1, 11))
def test_rows_of_different_texts_are_divided_in_their_order(order, cut):
    assert divide(order, cut, range(12)) == (order[:cut], order[cut:])


def test_held_out_rows_share_no_text_with_the_others():
    rows = [{"text": TEXTS[i % 40]} for i in range(200)]
    train, sets = find_splits({"all": rows}, clusters_of=lambda rows: [TEXTS.index(row["text"]) for row in rows])
    assert not {row["text"] for row in train} & {row["text"] for row in sets["validation"]}
    assert len(sets["validation"]) == 40


def drawn(model, tokenizer, rows, target=TARGET, **inputs):
    options = DataOptions(num_samples=150)
    return draw_samples(Inputs(model, tokenizer, rows, **inputs), model, tokenizer, options, 0, target)


def assert_apart(samples):
    parts = [samples.calibration_rows, samples.judged.rows, *(scorer.rows for scorer in samples.scorers)]
    texts = [set(shared_texts(rows, samples.task)) for rows in parts]
    assert all(texts)
    for first, second in combinations(texts, 2):
        assert not first & second


def test_rows_set_aside_share_no_text_with_each_other_nor_with_the_calibration():
    rows = [{"sentence": TEXTS[i % 500]} for i in range(1500)]
    assert_apart(drawn(make_model(num_labels=2), make_tokenizer(), rows))


def test_copies_of_a_conversation_are_not_judged_where_they_are_calibrated_on():
    rows = [{"prompt": f"{i % 250} and", "completion": TEXTS[i % 250]} for i in range(750)]
    samples = drawn(language_model(), byte_tokenizer(), rows)
    assert_apart(samples)
    assert count_independent(samples.judged) < len(samples.judged.rows)


def test_few_conversations_in_many_copies_promise_nothing():
    rows = [{"prompt": f"{i % 3}", "completion": TEXTS[i % 3]} for i in range(450)]
    with pytest.raises(TrimformerError, match="those that share a text counted once, are too few to promise"):
        drawn(language_model(), byte_tokenizer(), rows)


def test_rows_that_are_judged_are_not_calibrated_on():
    rows = [{"sentence": text} for text in TEXTS[:400]]
    model, tokenizer = make_model(num_labels=2), make_tokenizer()
    others = [{"sentence": text} for text in TEXTS[400:500]]
    assert_apart(drawn(model, tokenizer, rows, eval_dataset=others, judge_dataset=rows[100:260]))
    with pytest.raises(TrimformerError, match="judge_dataset has the texts of the rows to calibrate on"):
        drawn(model, tokenizer, rows[:200], eval_dataset=rows[200:], judge_dataset=rows)


@pytest.mark.parametrize(("shared", "warned"), [(0, False), (4, False), (30, True)])
def test_scored_rows_that_are_calibrated_on_are_warned_of(shared, warned):
    rows = [{"sentence": text} for text in TEXTS[:250]]
    scored = [*rows[:shared], *({"sentence": text} for text in TEXTS[300 + shared : 400])]
    warning = describe_shared_texts(rows, {"validation": scored}, TASK)
    assert (warning is not None) == warned
    assert warning is None or warning.startswith("30 of 100 rows to score on have a text that is calibrated on")
