"""Retrieval tasks: queries find their passages; the metrics are those of sentence-transformers."""

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from transformers import BertConfig

from tests.checkpoints.sentence_models import sentence_model
from tests.commands import problem_model
from tests.conftest import make_model, make_rows, make_tokenizer
from trimformer import TrimformerError, load, prune
from trimformer.data.tasks import RetrievalTask, infer_task, task_of
from trimformer.data.tasks.retrieval import settle_answers
from trimformer.data.tasks.retrieval_metrics import first_passages, query_scores
from trimformer.evaluation.agreement import paired_interval
from trimformer.evaluation.model_outputs import unbatch
from trimformer.evaluation.scores import Scorer, compare, score
from trimformer.options.data import DataOptions
from trimformer.session.task import resolve_task

CONFIG = BertConfig()
TEXTS = list(dict.fromkeys(row["sentence"] for row in make_rows(220, seed=2)))
ROWS = [{"query": query, "passage": passage} for query, passage in zip(TEXTS[:60], TEXTS[60:120], strict=True)]


def scorer_of(model, rows, tokenizer=None, name="validation"):
    task = settle_answers(task_of(model, rows), [rows], needs_score=False)
    return Scorer(name, rows, task, model, tokenizer or make_tokenizer())


@pytest.mark.parametrize(
    "columns",
    [
        ("anchor", "positive"),
        ("Query", "Passage"),
        ("question", "context"),
        ("anchor", "positive", "negative"),
        ("query", "answer", "negative_1", "negative_2"),
    ],
)
def test_columns_of_queries_and_passages_make_a_retrieval_task(columns):
    task = infer_task("embedding", CONFIG, [dict.fromkeys(columns, "the film")])
    assert isinstance(task, RetrievalTask)
    assert (task.text_columns, task.metric) == (columns, "mrr@10")


@pytest.mark.parametrize(
    "columns", [("sentence1", "sentence2"), ("premise", "hypothesis"), ("query", "passage", "score")]
)
def test_other_columns_and_rated_pairs_do_not(columns):
    assert not isinstance(
        infer_task("embedding", CONFIG, [{**dict.fromkeys(columns, "film"), "score": 1}]), RetrievalTask
    )


@pytest.mark.parametrize("marks", [("True", "False"), ("true", "false"), (1, 0), ("1", "0"), (True, False)])
def test_marks_of_right_passages_are_read_however_they_are_written(marks):
    rows = [{"query": "film", "passage": "story", "label": mark} for mark in marks]
    task = infer_task("embedding", CONFIG, rows)
    assert task.score_column == "label"
    assert not isinstance(task, RetrievalTask)
    features = task.encode(rows, make_tokenizer(), CONFIG)
    assert len(features) >= 2


def test_marks_that_are_other_text_are_refused():
    rows = [{"query": "film", "passage": "story", "label": mark} for mark in ("relevant", "irrelevant")]
    with pytest.raises(TrimformerError, match="'label' holds text such as 'relevant'"):
        infer_task("embedding", CONFIG, rows)
    assert isinstance(infer_task("embedding", CONFIG, rows, text_columns=["query", "passage"]), RetrievalTask)
    for column in ("answer", "language", "topic"):
        others = [{"question": "film", "context": "story", column: "other"}]
        assert isinstance(infer_task("embedding", CONFIG, others), RetrievalTask)


def test_passages_that_are_equally_similar_count_as_found_before_the_right_one():
    embeddings = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    assert first_passages(embeddings, [0], [1, 2, 3], excludes_self=False) == [[1, 2]]
    assert query_scores(embeddings, [0], [1, 2, 3], [[1]])["mrr@10"].tolist() == [0.5]
    both = query_scores(embeddings, [0], [1, 2, 3], [[1, 2]])
    assert (both["mrr@10"].item(), both["ndcg@10"].item()) == (1, pytest.approx(1))
    assert query_scores(torch.ones(4, 2), [0], [1, 2, 3], [[1]])["mrr@10"].tolist() == pytest.approx([1 / 3])


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_the_scores_are_those_of_sentence_transformers(tmp_path, similarity):
    folder = sentence_model(tmp_path)
    embedder = SentenceTransformer(str(folder), device="cpu", similarity_fn_name=similarity)
    embedder.save_pretrained(str(folder))
    passages = TEXTS[60:]
    # Queries with one and with three passages, passages of several queries, and passages without a query.
    rows = [{"query": TEXTS[i % 50], "passage": passages[i % 45]} for i in range(100)]
    rows += [{"query": "", "passage": passage} for passage in passages]
    relevant: dict[str, set[str]] = {}
    for row in rows[:100]:
        relevant.setdefault(row["query"], set()).add(row["passage"])
    same = {text: text for text in TEXTS}
    evaluator = InformationRetrievalEvaluator(
        {query: query for query in relevant}, {text: same[text] for text in dict.fromkeys(passages)}, relevant,
        query_prompt_name="query",
    )  # fmt: skip
    expected = evaluator(embedder)
    model, tokenizer = load(folder)
    found, _ = scorer_of(model, rows, tokenizer)(model)
    for name in ("mrr@10", "ndcg@10", "recall@10"):
        assert found[name] == pytest.approx(expected[f"{similarity}_{name}"], abs=1e-6)
        assert 0 < found[f"{name}_ci95"] < 0.2


def test_the_metrics_of_known_ranks():
    embeddings = torch.eye(4)[[0, 0, 1, 2]] + 0.1 * torch.eye(4)[[3, 1, 2, 3]]
    found = query_scores(embeddings, [0, 0], [1, 2, 3], [[1], [2, 3]])
    assert found["mrr@10"].tolist() == [1, 1 / 2]
    assert found["recall@10"].tolist() == [1, 1]
    assert found["ndcg@10"][1] == pytest.approx((1 / np.log2(3) + 1 / 2) / (1 + 1 / np.log2(3)))


def test_each_distinct_text_is_encoded_once():
    rows = [*ROWS[:3], {**ROWS[0], "query": ROWS[5]["query"]}, {"query": None, "passage": ROWS[2]["passage"]}]
    features = task_of(make_model(head="Model"), rows).encode(rows, make_tokenizer(), CONFIG)
    assert [feature["example"] for feature in features] == [0, 1, 2, 3, 0, 1, 2]


def test_distinct_pairs_are_encoded_as_by_an_embedding_task():
    model = make_model(head="Model")
    plain = [{"text1": row["query"], "text2": row["passage"]} for row in ROWS]
    encoded = [task_of(model, rows).encode(rows, make_tokenizer(), CONFIG) for rows in (ROWS, plain)]
    assert [feature["input_ids"] for feature in encoded[0]] == [feature["input_ids"] for feature in encoded[1]]


def test_a_row_that_is_left_out_leaves_its_passage_in_the_collection():
    model = make_model(head="Model")
    scorer = scorer_of(model, ROWS)
    outputs = unbatch(scorer(model)[1], scorer.batches)
    some = list(range(0, 60, 3))
    rows = [row if i in some else {**row, "query": ""} for i, row in enumerate(ROWS)]
    part = scorer_of(model, rows)
    expected = part(model)[0]["mrr@10"]
    assert scorer.score_some(outputs, some)["mrr@10"] == pytest.approx(expected)
    assert scorer.metric_of_rows(outputs, "mrr@10")(some) == pytest.approx(expected)
    assert part.scored_rows == some


def test_without_pairs_the_passage_that_the_dense_model_finds_first_is_right():
    dense, other = (make_model(head="Model", seed=seed) for seed in (0, 1))
    rows = [{"query": row["query"], "passage": ""} for row in ROWS] + [{"query": "", "passage": t} for t in TEXTS[60:]]
    scorer = scorer_of(dense, rows)
    scores = compare([scorer], score([scorer], dense, "dense"), score([scorer], other, "pruned"))
    assert scores.dense["dense_top_mrr@10"] == scores.dense["dense_top_recall@10"] == 1
    assert 0 < scores.pruned["dense_top_mrr@10"] < 1
    assert scorer.task.metric == "dense_top_mrr@10"


def test_the_interval_of_the_change_is_that_of_the_same_queries():
    dense, pruned = make_model(head="Model"), make_model(head="Model", seed=1)
    scorer = scorer_of(dense, ROWS)
    outputs = [unbatch(scorer(model)[1], scorer.batches) for model in (dense, pruned)]
    values = [scorer.task.row_scores(side, ROWS)["mrr@10"] for side in outputs]
    expected = 1.96 * np.std(values[1] - values[0], ddof=1) / len(ROWS) ** 0.5
    assert paired_interval(scorer, outputs[0], scorer, outputs[1], "mrr@10") == pytest.approx(expected, rel=0.5)
    assert paired_interval(scorer, outputs[0], scorer, outputs[0], "mrr@10") == 0


def test_a_column_without_a_text_is_an_error():
    rows = [{"query": row["query"], "passage": ""} for row in ROWS]
    with pytest.raises(TrimformerError, match="0 different passages are too few"):
        scorer_of(make_model(head="Model"), rows)
    with pytest.raises(TrimformerError, match="no column 'passage'"):
        task_of(make_model(head="Model"), ROWS).encode([{"query": "film"}], make_tokenizer(), CONFIG)


def test_a_run_reports_retrieval():
    result = prune(make_model(head="Model"), make_tokenizer(), ROWS, 0.7, eval_dataset=ROWS, device="cpu")
    assert {"mrr@10", "ndcg@10", "recall@10"} <= result.scores.dense.keys()
    assert set(result.change_ci95) == {"mrr@10"}
    assert result.task.name == "retrieval"
    assert "recall@10" in str(result)


@pytest.mark.parametrize("kind", ["passages", "texts", "rated"])
def test_a_drop_can_be_promised(kind):
    texts = [row["sentence"] for row in make_rows(560, seed=3)]
    rows = {
        "passages": [{"query": a, "passage": b} for a, b in zip(texts[::2], texts[1::2], strict=True)],
        "texts": [{"text": text} for text in texts[:300]],
        "rated": [{"sentence1": a, "sentence2": b, "score": i % 6}
                  for i, (a, b) in enumerate(zip(texts[::2], texts[1::2], strict=True))],
    }[kind]  # fmt: skip
    result = prune(make_model(head="Model"), make_tokenizer(), rows, max_drop=60.0, device="cpu")
    metric = {"passages": "mrr@10", "texts": "dense_top_mrr@10", "rated": "spearman"}[kind]
    assert result.target.metric == metric
    assert result.target.bound <= 60
    assert metric in result.scores.dense


@pytest.mark.parametrize(("values", "is_named"), [([0, 1] * 20, True), (list(range(40)), False), ([7] * 40, False)])
def test_numbers_beside_a_query_and_its_passage_that_may_be_a_relevance_are_named(values, is_named, caplog):
    rows = [{"query": f"the film {i}", "passage": f"it is {i}", "valid": value} for i, value in enumerate(values)]
    resolve_task(None, DataOptions(), problem_model("embedding"), [rows])
    assert ("right passage, as valid is not read" in caplog.text) == is_named
