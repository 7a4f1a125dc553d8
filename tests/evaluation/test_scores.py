from types import SimpleNamespace

import pytest
import torch

from tests.commands import PROBLEMS, problem_model, problem_rows
from tests.conftest import make_batch, make_model, make_tokenizer
from trimformer.data.outputs import predict
from trimformer.data.rows import as_rows
from trimformer.data.tasks import infer_task, task_of
from trimformer.errors import TrimformerError
from trimformer.evaluation.model_outputs import RerunOutputs, unbatch
from trimformer.evaluation.neighbours import neighbour_overlap
from trimformer.evaluation.scores import Scorer, compare, divergences, score


def make_scorer(model, problem, rows=None, batch_size=4, name="validation"):
    rows = rows or problem_rows(problem, 18)
    task = infer_task(problem, model.config, rows)
    return Scorer(name, rows, task, model, make_tokenizer(), batch_size)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_outputs_are_in_the_order_of_the_rows_whatever_the_batches(problem):
    model = problem_model(problem)
    alone, together = (make_scorer(model, problem, batch_size=size) for size in (1, 7))
    assert len(together.batches) == 3
    outputs = [unbatch(predict(model, scorer.batches), scorer.batches) for scorer in (alone, together)]
    for one, other in zip(*outputs, strict=True):  # those of tokens keep their padding
        torch.testing.assert_close(other[: len(one)], one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_metrics_and_divergence_do_not_depend_on_the_batch_size(problem):
    model, dense = problem_model(problem), problem_model(problem, seed=1)
    found = []
    for size in (1, 7, 64):
        scorer = make_scorer(model, problem, batch_size=size)
        (metrics, outputs), (_, references) = scorer(model), scorer(dense)
        found.append({**metrics, "divergence": scorer.divergence(outputs, references)})
    assert found[0]["divergence"] > 0
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(found[0], abs=1e-5)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_model_does_not_diverge_from_itself(problem):
    model = problem_model(problem)
    scorer = make_scorer(model, problem)
    outputs = scorer(model)[1]
    assert scorer.divergence(outputs, outputs) == pytest.approx(0, abs=1e-6)


def test_divergences_are_in_the_order_of_the_samples():
    batches = [{"index": torch.tensor([0, 3, 1])}, {"index": torch.tensor([2])}]
    outputs, references = [torch.ones(3, 1), torch.full((1, 1), 5.0)], [torch.zeros(3, 1), torch.zeros(1, 1)]
    assert divergences(outputs, references, batches, "regression").tolist() == [1, 1, 25, 1]


def test_scoring_leaves_the_model_as_it_was():
    model = problem_model("single_label").train()
    make_scorer(model, "single_label")(model)
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_dropout_is_off():
    model = problem_model("single_label", hidden_dropout_prob=0.5).train()
    scorer = make_scorer(model, "single_label")
    one, two = (scorer(model)[1] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_the_first_set_goes_by_its_metrics_names_and_gives_the_divergence():
    dense, pruned = (problem_model("single_label", seed=seed) for seed in (0, 1))
    scorers = [make_scorer(dense, "single_label", problem_rows("single_label", n), name=f"v{n}") for n in (10, 14)]
    found = compare(scorers, score(scorers, dense, "dense"), score(scorers, pruned, "pruned"))
    assert found.dense == {**scorers[0](dense)[0], **{f"v14_{k}": v for k, v in scorers[1](dense)[0].items()}}
    assert found.pruned.keys() == found.dense.keys()
    assert found.divergence == scorers[0].divergence(scorers[0](pruned)[1], scorers[0](dense)[1])


def test_unlabelled_rows_have_no_metrics_but_a_divergence():
    dense, pruned = (problem_model("single_label", seed=seed) for seed in (0, 1))
    rows = [{"sentence": row["sentence"]} for row in problem_rows("single_label")]
    scorers = [make_scorer(dense, "single_label", rows)]
    found = compare(scorers, score(scorers, dense, "dense"), score(scorers, pruned, "pruned"))
    assert (found.dense, found.pruned, found.neighbours) == ({}, {}, None)
    assert found.divergence > 0


def test_a_text_that_comes_twice_is_nobodys_neighbour_twice():
    model, texts = problem_model("embedding"), ("the film", "a plot", "the film", "dull")
    scorer = make_scorer(model, "embedding", [{"sentence": text} for text in texts])
    _, outputs = scorer(model)
    assert scorer.distinct_samples == [0, 1, 3]
    torch.testing.assert_close(*scorer.stacked_outputs(outputs)[[0, 2]], atol=1e-5, rtol=1e-4)


def test_neighbours_are_those_of_the_reference_whatever_the_scale_and_the_rotation():
    reference = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).Q
    assert neighbour_overlap(3 * reference @ rotation, reference) == 1
    assert neighbour_overlap(torch.randn(60, 8, generator=torch.Generator().manual_seed(2)), reference) < 0.5
    assert neighbour_overlap(reference[:20], reference[:20]) is None  # too few to tell


@pytest.mark.parametrize("problem", PROBLEMS)
def test_some_of_the_rows_score_as_they_do_alone(problem):
    model, rows = problem_model(problem), problem_rows(problem, 30)
    scorer, chosen = make_scorer(model, problem, rows), [3, 29, 11, 4]
    outputs = unbatch(scorer(model)[1], scorer.batches)
    alone = make_scorer(model, problem, [rows[i] for i in chosen])
    assert scorer.score_some(outputs, chosen) == pytest.approx(alone(model)[0])
    assert scorer.score_some(outputs, range(30)) == pytest.approx(scorer(model)[0])


def test_large_outputs_are_computed_again_instead_of_kept(monkeypatch):
    texts = [row["sentence"] for row in problem_rows("embedding", 20)]
    dense, pruned = (make_model(head="ForMaskedLM", seed=seed) for seed in (0, 1))
    scorer = Scorer("validation", as_rows(texts), task_of(dense, as_rows(texts)), dense, make_tokenizer(), 4)
    stored = [scorer(model)[1] for model in (pruned, dense)]
    monkeypatch.setattr("trimformer.evaluation.model_outputs.MAX_STORED", 1000)
    monkeypatch.setattr("trimformer.evaluation.model_outputs.VOCABULARY", 50)
    rerun = [scorer(model)[1] for model in (pruned, dense)]
    assert all(isinstance(outputs, RerunOutputs) for outputs in rerun)
    assert scorer.divergences(*rerun).equal(scorer.divergences(*stored))
    assert compare([scorer], [({}, rerun[1])], [({}, rerun[0])]).changed is None
    with torch.no_grad():
        pruned.cls.predictions.decoder.bias[:] = torch.nan
    with pytest.raises(TrimformerError, match="not finite for 4 of 4 samples"):
        rerun[0][0]


def test_a_forward_that_is_replaced_is_replaced_again_when_outputs_are_computed_again():
    model, batches = make_model(head="ForMaskedLM"), [make_batch()]
    vars(model)["forward"] = lambda **_: SimpleNamespace(logits=torch.ones(5, 12, 60))
    outputs = RerunOutputs(model, batches, "validation")
    del vars(model)["forward"]
    assert outputs[0].unique().tolist() == [1.0]
    assert "forward" not in vars(model)
    assert len(outputs[:1]) == len(outputs) == 1


def test_labelled_tokens_are_always_kept(monkeypatch):
    monkeypatch.setattr("trimformer.evaluation.model_outputs.MAX_STORED", 0)
    monkeypatch.setattr("trimformer.evaluation.model_outputs.VOCABULARY", 1)
    metrics, outputs = make_scorer(problem_model("tokens"), "tokens")(problem_model("tokens"))
    assert metrics
    assert isinstance(outputs, list)
