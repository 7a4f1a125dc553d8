"""Reranking tasks: the order of a query's candidates; the metrics are those of sentence-transformers."""

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

from tests.conftest import make_model, make_rows, make_tokenizer
from trimformer import load, prune
from trimformer.data.rows import NamedRows
from trimformer.data.tasks import RerankingTask, task_of
from trimformer.data.tasks.reranking import settle_candidates
from trimformer.evaluation.agreement import paired_interval
from trimformer.evaluation.model_outputs import unbatch
from trimformer.evaluation.scores import Scorer, compare, score
from trimformer.session.judged_rows import _set_aside

TEXTS = list(dict.fromkeys(row["sentence"] for row in make_rows(220, seed=2)))
QUERIES, PASSAGES = TEXTS[:50], TEXTS[50:]
# Four candidates of each query, of which one or two are right.
ROWS = [
    {
        "query": query,
        "passage": PASSAGES[(3 * i + k) % len(PASSAGES)],
        "label": float(k == 1 or (k == 2 and i % 3 == 0)),
    }
    for k in range(4)
    for i, query in enumerate(QUERIES)
]
UNLABELLED = [{"query": row["query"], "passage": row["passage"]} for row in ROWS]


def scorer_of(model, rows, tokenizer=None):
    return Scorer(
        "validation", rows, settle_candidates(task_of(model, rows), [rows]), model, tokenizer or make_tokenizer()
    )


def test_the_scores_are_those_of_sentence_transformers(tmp_path):
    make_model(num_labels=1).save_pretrained(tmp_path / "plain")
    make_tokenizer().save_pretrained(tmp_path / "plain")
    cross = CrossEncoder(str(tmp_path / "plain"), activation_fn=torch.nn.Identity(), device="cpu")
    cross.save_pretrained(str(tmp_path / "cross"))
    samples: dict[str, dict] = {}
    for row in ROWS:
        sample = samples.setdefault(row["query"], {"query": row["query"], "positive": [], "negative": []})
        sample["positive" if row["label"] else "negative"].append(row["passage"])
    expected = CrossEncoderRerankingEvaluator(list(samples.values()), at_k=10)(cross)
    model, tokenizer = load(tmp_path / "cross")
    found, _ = scorer_of(model, ROWS, tokenizer)(model)
    assert found["mrr@10"] == pytest.approx(expected["mrr@10"], abs=1e-6)
    assert found["ndcg@10"] == pytest.approx(expected["ndcg@10"], abs=1e-6)
    assert 0 < found["accuracy@1"] < found["mrr@10"] < 1
    assert {"mrr@10_ci95", "spearman"} <= found.keys()


def test_without_labels_the_passage_that_the_dense_model_puts_first_is_right():
    dense, other = (make_model(num_labels=1, seed=seed) for seed in (0, 1))
    scorer = scorer_of(dense, UNLABELLED)
    scores = compare([scorer], score([scorer], dense, "dense"), score([scorer], other, "pruned"))
    assert scores.dense["dense_top_mrr@10"] == scores.dense["dense_top_accuracy@1"] == 1
    outputs = [torch.stack(unbatch(scorer(model)[1], scorer.batches)).flatten() for model in (dense, other)]
    places = [[i for i, row in enumerate(ROWS) if row["query"] == query] for query in QUERIES]
    stays = [outputs[0][rows].argmax() == outputs[1][rows].argmax() for rows in places]
    assert scores.pruned["dense_top_accuracy@1"] == pytest.approx(np.mean(stays))
    assert 0 < np.mean(stays) < 1


def test_scores_of_some_queries_and_the_interval_of_the_change():
    dense, pruned = make_model(num_labels=1), make_model(num_labels=1, seed=1)
    scorer = scorer_of(dense, ROWS)
    outputs = [unbatch(scorer(model)[1], scorer.batches) for model in (dense, pruned)]
    assert scorer.scored_rows == list(range(50))
    some = [row for row in ROWS if row["query"] in QUERIES[:20]]
    assert scorer.score_some(outputs[0], range(20))["mrr@10"] == pytest.approx(
        scorer_of(dense, some)(dense)[0]["mrr@10"]
    )
    values = [scorer.task.row_scores(side, ROWS)["mrr@10"][:50] for side in outputs]
    expected = 1.96 * np.std(values[1] - values[0], ddof=1) / 50**0.5
    assert paired_interval(scorer, outputs[0], scorer, outputs[1], "mrr@10") == pytest.approx(expected, rel=0.5)


@pytest.mark.parametrize("kind", ["one candidate", "other columns", "classes"])
def test_other_pairs_are_not_reranked(kind):
    rows = UNLABELLED[:50] if kind == "one candidate" else UNLABELLED
    if kind == "other columns":
        rows = [{"sentence1": row["query"], "sentence2": row["passage"]} for row in rows]
    model = make_model(num_labels=2 if kind == "classes" else 1)
    assert not isinstance(settle_candidates(task_of(model, rows), [rows]), RerankingTask)


def test_queries_with_nothing_to_order_are_not_scored():
    model = make_model(num_labels=1)
    rows = [*ROWS, {"query": "alone", "passage": "film", "label": 1.0}]
    rows += [{"query": "none right", "passage": passage, "label": 0.0} for passage in PASSAGES[:3]]
    assert scorer_of(model, rows)(model)[0]["mrr@10"] == scorer_of(model, ROWS)(model)[0]["mrr@10"]


def test_rows_set_aside_keep_the_candidates_of_a_query_together():
    task = settle_candidates(task_of(make_model(num_labels=1), ROWS), [ROWS])
    train, judged = _set_aside(ROWS, 40, 0, task)
    assert len(judged) == 80
    assert not {row["query"] for row in train} & {row["query"] for row in judged}


def test_equal_scores_are_never_counted_as_the_right_order():
    task = settle_candidates(task_of(make_model(num_labels=1), ROWS), [ROWS])
    constant = task.score([torch.zeros(1)] * len(ROWS), [], ROWS)
    assert constant["accuracy@1"] == 0
    assert constant["mrr@10"] < 0.6


def test_the_dense_model_puts_its_own_first_passages_first_even_if_their_scores_are_equal():
    task = settle_candidates(task_of(make_model(num_labels=1), UNLABELLED), [UNLABELLED])
    outputs = [torch.tensor([float(i // 50 % 2)]) for i in range(len(UNLABELLED))]  # the best two are equal
    known = task.with_first_passages(outputs, UNLABELLED)
    assert {known.score(outputs, [], UNLABELLED)[f"dense_top_{name}"] for name in ("mrr@10", "accuracy@1")} == {1.0}
    assert known.score([torch.zeros(1)] * len(outputs), [], UNLABELLED)["dense_top_accuracy@1"] == 0


def test_labels_may_be_written_as_true_and_false():
    rows = [{**row, "label": "true" if row["label"] else "False"} for row in ROWS]
    task = settle_candidates(task_of(make_model(num_labels=1), rows), [rows])
    outputs = [torch.tensor([float(i % 7)]) for i in range(len(rows))]
    numbers = settle_candidates(task_of(make_model(num_labels=1), ROWS), [ROWS]).row_scores(outputs, ROWS)
    for name, values in task.row_scores(outputs, rows).items():
        np.testing.assert_array_equal(values, numbers[name])


def test_names_of_classes_that_are_numbers_are_the_relevance():
    rows = [{**row, "label": int(not row["label"])} for row in ROWS]  # 0 is called "1"
    named = NamedRows(rows, {"label": ["1", "0"]})
    task = settle_candidates(task_of(make_model(num_labels=1), ROWS), [ROWS])
    outputs = [torch.tensor([float(i % 7)]) for i in range(len(rows))]
    for name, values in task.row_scores(outputs, named).items():
        np.testing.assert_array_equal(values, task.row_scores(outputs, ROWS)[name])


@pytest.mark.parametrize("rows", [ROWS, UNLABELLED], ids=["labelled", "unlabelled"])
def test_a_run_reports_the_order_and_promises_a_drop(rows):
    metric = "mrr@10" if rows is ROWS else "dense_top_mrr@10"
    many = [*rows, *({**row, "query": f"{row['query']} again"} for row in rows)]
    result = prune(
        make_model(num_labels=1),
        make_tokenizer(),
        [{**row, "query": f"what of {row['query']}"} for row in rows],
        eval_dataset=rows,
        judge_dataset=many,
        max_drop=60.0,
        device="cpu",
    )
    assert (result.task.name, result.target.metric) == ("reranking", metric)
    assert result.target.bound <= 60
    assert metric in result.change_ci95
    assert metric in str(result)
