"""The samples that `trimformer.prune` takes, and that nothing but they counts."""

import logging

import datasets
import pytest
import torch

import trimformer
from testing.language import byte_tokenizer, language_model
from tests.commands import outputs, problem_model, problem_rows
from tests.conftest import make_tokenizer, without_intervals
from tests.pruning import BATCH, ROWS, prune, same
from trimformer import METHODS, TrimformerError
from trimformer.data.next_tokens import with_next_tokens
from trimformer.data.tasks import task_of
from trimformer.models import find_sublayers
from trimformer.models.layer_calls import NEXT_TOKENS
from trimformer.pruner import Pruner


@pytest.mark.parametrize("method", ["obs", "kwon2022"])
@pytest.mark.parametrize("problem", ["single_label", "tokens", "span"])
def test_the_result_does_not_depend_on_the_batch_size(problem, method):
    rows = problem_rows(problem)
    results = [prune(problem_model(problem), rows, method=method, batch_size=size) for size in (1, 7, 64)]
    for other in results[1:]:
        for mask, reference in zip(other.masks, results[0].masks, strict=True):
            assert torch.equal(mask != 0, reference != 0)
            torch.testing.assert_close(mask, reference, atol=1e-3, rtol=1e-3)
        ours, theirs = (outputs(result.model, BATCH) for result in (other, results[0]))
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", ["obs", "kwon2022"])
def test_the_result_does_not_depend_on_the_tokens_of_a_batch(method, monkeypatch):
    results = []
    for max_tokens in (4096, 30, 1):
        monkeypatch.setattr("trimformer.data.outputs.MAX_TOKENS", max_tokens)
        results.append(prune(method=method))
    for other in results[1:]:
        torch.testing.assert_close(other.masks, results[0].masks, atol=1e-5, rtol=1e-5)
        ours, theirs = (outputs(result.model, BATCH) for result in (other, results[0]))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_obs_needs_no_labels_and_does_not_look_at_them():
    unlabelled = [{"sentence": row["sentence"]} for row in ROWS]
    result, labelled = prune(rows=unlabelled), prune()
    assert same(result.masks, labelled.masks)
    assert result.scores.dense == {}
    assert result.task.score is None


def test_the_papers_method_says_that_it_needs_labels():
    with pytest.raises(TrimformerError, match="label"):
        prune(rows=[{"sentence": row["sentence"]} for row in ROWS], method="kwon2022")


def test_too_few_samples_are_all_used_and_logged(caplog):
    with caplog.at_level(logging.WARNING, logger="trimformer"):
        result = prune(num_samples=999)
    assert result.samples.calibration == 32  # a fifth is set aside
    assert "999" in caplog.text
    assert "32" in caplog.text


def test_evaluation_rows_are_not_calibrated_on():
    seen = prune(rows=ROWS, eval_dataset=ROWS[:5], num_samples=999).samples
    assert (seen.calibration, seen.evaluation) == (40, 5)


def test_several_evaluation_sets_keep_their_names():
    metrics = prune(eval_dataset={"validation": ROWS[:6], "other": ROWS[6:20]}).scores
    assert set(without_intervals(metrics.dense)) == {"accuracy", "f1", "other_accuracy", "other_f1"}


def test_a_datasets_dataset_gives_what_its_rows_give():
    assert same(prune(rows=datasets.Dataset.from_list(ROWS)).masks, prune().masks)


def test_splits_by_name_are_taken_as_they_are():
    splits = datasets.DatasetDict({k: datasets.Dataset.from_list(ROWS) for k in ("train", "validation")})
    assert prune(rows=splits, num_samples=8).samples.evaluation == len(ROWS)


def test_several_sets_of_texts_keep_their_names():
    texts, sets = [row["sentence"] for row in ROWS], {"news": [ROWS[0]["sentence"]] * 3, "reviews": ["one", "two"]}
    assert prune(rows=texts, eval_dataset=sets).samples.scored_on == "3 rows of 'news', 2 rows of 'reviews'"
    pairs = [(row["sentence"], row["label"]) for row in ROWS]
    result = prune(rows=pairs, eval_dataset={"validation": pairs[:6], "other": pairs[6:20]})
    assert "other_accuracy" in result.scores.dense
    assert "scores without the name of a set are of 'validation'" in str(result)
    columns = {"sentence": texts[:6], "label": [row["label"] for row in ROWS[:6]]}
    result = prune(eval_dataset=columns)
    assert result.samples.scored_on == "6 rows of 'validation'"
    assert result.samples.first_set is None


def test_columns_are_refused_beside_a_task_that_gives_them():
    task = task_of(problem_model("single_label"), ROWS)
    for columns in ({"text_column": "sentence"}, {"label_column": "label"}):
        with pytest.raises(TrimformerError, match="task gives the columns"):
            prune(task=task, **columns)


@pytest.mark.parametrize("method", ["obs", "kwon2022", "magnitude"])
def test_batches_of_a_tokenizer_alone_can_be_pruned_on(method):
    model, rows = problem_model("single_label"), ROWS[:24]
    tokenizer = make_tokenizer()
    texts = [[row["sentence"] for row in rows[k : k + 8]] for k in range(0, 24, 8)]
    labels = [torch.tensor([row["label"] for row in rows[k : k + 8]]) for k in range(0, 24, 8)]
    batches = [
        {**tokenizer(part, padding=True, return_tensors="pt"), "labels": each}
        for part, each in zip(texts, labels, strict=True)
    ]
    costs = trimformer.linear_costs(find_sublayers(model), "mac", 8)
    numbered = [{**batch, "index": torch.arange(8 * k, 8 * k + 8)} for k, batch in enumerate(batches)]
    one, two = (Pruner(model, given, METHODS[method])(costs, 0.5) for given in (batches, numbered))
    assert same(one.masks, two.masks)
    assert same(one.model.state_dict().values(), two.model.state_dict().values())
    with pytest.raises(TrimformerError, match="no batches"):
        Pruner(model, [], METHODS[method])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", ["obs", "kwon2022"])
def test_a_language_model_can_be_pruned_on_batches_of_a_tokenizer(method, side):
    model, tokenizer = language_model(), byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    texts = [letter * length for letter, length in zip("abcdefgh", range(5, 13), strict=True)]
    batch = dict(tokenizer(texts, padding=True, padding_side=side, return_tensors="pt"))
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    costs = trimformer.linear_costs(find_sublayers(model), "mac", 8)
    results = [Pruner(model, [given], METHODS[method])(costs, 0.6) for given in (batch, {**batch, "labels": labels})]
    assert same(results[0].model.state_dict().values(), results[1].model.state_dict().values())
    targets = with_next_tokens(batch)[NEXT_TOKENS]
    for ids, mask, row in zip(batch["input_ids"], batch["attention_mask"].bool(), targets, strict=True):
        assert row[row != -100].tolist() == ids[mask].tolist()[1:]
        assert (row[mask][:-1] != -100).all()
