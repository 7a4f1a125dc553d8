"""Polish on tiny models of every kind of output."""

import copy
import signal
from dataclasses import replace

import pytest
import torch

from tests.commands import PROBLEMS, problem_model, problem_rows
from tests.conftest import enlarged, make_tokenizer, pruned, random_masks
from trimformer import Run, TrimformerError
from trimformer.data.outputs import predict
from trimformer.data.tasks import task_of
from trimformer.evaluation.scores import divergences
from trimformer.options.polish import PolishBudget
from trimformer.polish import schedule, train, training_loop
from trimformer.polish.data import draw_polish_inputs
from trimformer.polish.teacher_outputs import OutputRecorder, matching_teacher_layers
from trimformer.polish.train import polish, trainable
from trimformer.polish.training_loop import TrainingLoop


def make(problem, rows=80, batch_size=8, family="Bert", **overrides):
    """A dense model, a badly pruned one, and samples to polish it on."""
    teacher = problem_model(problem, family, **overrides)
    student = pruned(teacher, random_masks(teacher))
    data = problem_rows(problem, rows)
    task = task_of(teacher, data)
    features = task.encode(data, make_tokenizer(), teacher.config)
    return teacher, student, draw_polish_inputs(teacher, make_tokenizer(), task, features, batch_size=batch_size)


def run_polish(teacher, student, given, budget="6x", **options):
    passes = float(budget.removesuffix("x"))
    return polish(teacher, student, given.batches, given.held_out, budget=PolishBudget(passes=passes), **options)


def apart(teacher, student, given, problem):
    outputs, references = (predict(model, given.held_out) for model in (student, teacher))
    return float(divergences(outputs, references, given.held_out, problem).mean())


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_held_out_divergence_falls_and_the_report_tells_it(problem):
    teacher, student, given = make(problem)
    before = apart(teacher, student, given, problem)
    report = run_polish(teacher, student, given)
    after = apart(teacher, student, given, problem)
    assert report.before == pytest.approx(before, rel=1e-4)
    assert report.after == pytest.approx(after, rel=1e-4)
    assert report.accepted
    assert after < before
    assert report.after <= min(report.history)
    assert (report.samples, report.held_out) in ((70, 10), (140, 20))
    assert report.steps >= len(given.batches)


@pytest.mark.parametrize("stoppable", [True, False])
def test_ctrl_c_keeps_the_best_so_far_only_if_asked(monkeypatch, stoppable):
    teacher, student, given = make("single_label")
    before, step = weights(student), TrainingLoop._step

    def pressed(self, *args):
        if args[1].param_groups[0]["lr"] and not pressed.done:  # type: ignore[attr-defined]
            pressed.done = True  # type: ignore[attr-defined]
            signal.raise_signal(signal.SIGINT)
        return step(self, *args)

    pressed.done = False  # type: ignore[attr-defined]
    monkeypatch.setattr(TrainingLoop, "_step", pressed)
    budget, handler = PolishBudget(passes=6, stoppable=stoppable), signal.getsignal(signal.SIGINT)
    if stoppable:
        report = polish(teacher, student, given.batches, given.held_out, budget=budget)
        assert (report.steps, len(report.history)) == (1, 1)
        assert "stopped by Ctrl-C at step 1 of" in report.note
        assert report.accepted != same(before, weights(student))
    else:
        with pytest.raises(KeyboardInterrupt):
            polish(teacher, student, given.batches, given.held_out, budget=budget)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("problem", PROBLEMS)
def test_embeddings_flags_and_the_dense_model_stay_as_they_were(problem):
    teacher, student, given = make(problem)
    student.train()
    student.base_model.encoder.layer[0].requires_grad_(False)
    flags = [parameter.requires_grad for parameter in student.parameters()]
    dense, embeddings = weights(teacher), weights(student.base_model.embeddings)
    shapes = [parameter.shape for parameter in student.parameters()]
    assert run_polish(teacher, student, given).accepted
    assert same(dense, weights(teacher))
    assert same(embeddings, weights(student.base_model.embeddings))
    assert shapes == [parameter.shape for parameter in student.parameters()]
    assert flags == [parameter.requires_grad for parameter in student.parameters()]
    assert all(module.training for module in student.modules())
    assert all(p.grad is None for model in (teacher, student) for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for model in (teacher, student) for m in model.modules())


def test_what_gains_nothing_is_thrown_away(monkeypatch):
    teacher, student, given = make("single_label")
    monkeypatch.setattr(schedule, "LEARNING_RATE", 300.0)
    before = weights(student)
    report = run_polish(teacher, student, given)
    assert not report.accepted
    assert report.after == report.before
    assert "gained nothing" in report.note
    assert report.note in str(report)
    assert same(before, weights(student))


def test_a_loss_that_is_not_finite_ends_it_and_the_best_state_stays(monkeypatch):
    teacher, student, given = make("single_label")
    before, calls = weights(student), []

    def broken(*args):
        calls.append(args)
        return args[0].sum() * (torch.nan if len(calls) == 3 else 0.0)

    monkeypatch.setattr(training_loop, "output_loss", broken)
    monkeypatch.setattr(training_loop, "hidden_loss", lambda hidden, *_: hidden[0].sum() * 0)
    report = run_polish(teacher, student, given)
    assert not report.accepted
    assert "not finite" in report.note
    assert report.steps == 2
    assert same(before, weights(student))


def test_a_dense_model_that_gives_no_numbers_changes_nothing():
    teacher, student, given = make("single_label")
    with torch.no_grad():
        teacher.classifier.bias[0] = torch.nan
    before = weights(student)
    report = run_polish(teacher, student, given)
    assert not report.accepted
    assert "not finite" in report.note
    assert same(before, weights(student))


def test_the_seed_decides_everything():
    results = []
    for seed in (3, 3, 4):
        teacher, student, given = make("tokens")
        run_polish(teacher, student, given, run=Run(seed=seed))
        results.append(weights(student))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


@pytest.mark.parametrize("problem", PROBLEMS)
def test_padding_enters_no_loss(problem):
    teacher, student, given = make(problem, rows=40)
    wider = [{key: pad(key, value) for key, value in batch.items()} for batch in given.batches]
    other = copy.deepcopy(student)
    run_polish(teacher, student, given, "3x")
    run_polish(teacher, other, replace(given, batches=wider), "3x")
    for one, two in zip(predict(student, given.batches), predict(other, given.batches), strict=True):
        torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-2)


def pad(key, value):
    """Five more positions, of other tokens than padding."""
    if key == "index":
        return value
    more = torch.full((len(value), 5), 0 if key == "attention_mask" else 7)
    return torch.cat([value, more], 1)


def test_the_dense_model_sees_each_batch_once(monkeypatch):
    teacher, student, given = make("span")
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    report = run_polish(teacher, student, given)
    assert report.epochs > 1
    assert len(calls) == len(given.batches) + len(given.held_out)


def test_answers_in_temporary_files_are_the_same():
    results = []
    for max_memory in (float("inf"), 0):
        teacher, student, given = make("embedding")
        run_polish(teacher, student, given, "3x", run=Run(max_memory=max_memory))
        results.append(weights(student))
    assert same(*results)


@pytest.mark.parametrize("family", ["Roberta", "DistilBert", "Electra"])
def test_other_families_have_embeddings_that_stay_too(family):
    teacher, student, given = make("single_label", family=family)
    embeddings = weights(student.base_model.embeddings)
    trained = {id(parameter) for parameter in trainable(student)}
    assert not trained & {id(parameter) for parameter in student.base_model.embeddings.parameters()}
    run_polish(teacher, student, given, "3x")
    assert same(embeddings, weights(student.base_model.embeddings))


def test_a_time_is_a_budget_too():
    teacher, student, given = make("single_label")
    report = polish(teacher, student, given.batches, given.held_out, budget=PolishBudget(seconds=2))
    assert report.steps >= len(given.batches)
    before = weights(student)
    with pytest.raises(TrimformerError, match="below one epoch"):
        polish(teacher, student, given.batches, given.held_out, budget=PolishBudget(seconds=1e-3))
    assert same(before, weights(student))


def test_a_budget_below_an_epoch_is_told_before_the_dense_model_runs():
    teacher, student, given = make("single_label")
    teacher.register_forward_hook(lambda *_: pytest.fail("the dense model ran"))
    with pytest.raises(TrimformerError, match=r"polish budget 1.1x is below one epoch, which costs"):
        run_polish(teacher, student, given, "1.1x")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_halves_are_trained_in_float32_and_stay_halves(dtype, monkeypatch):
    teacher, student, given = make("tokens")
    teacher, student = teacher.to(dtype), student.to(dtype)
    before = weights(student)
    report = run_polish(teacher, student, given)
    assert report.accepted
    assert report.after < report.before
    assert {value.dtype for value in student.state_dict().values() if value.is_floating_point()} == {dtype}
    monkeypatch.setattr(schedule, "LEARNING_RATE", 300.0)
    other = copy.deepcopy(student)
    other.load_state_dict(before)
    assert not run_polish(teacher, other, given).accepted
    assert same(before, weights(other))


def test_a_masked_language_model_with_tied_weights_keeps_its_embeddings():
    teacher, _, given = make("single_label")
    teacher = problem_model("tokens", vocab_size=60)
    from transformers import BertForMaskedLM

    torch.manual_seed(0)
    teacher = BertForMaskedLM(teacher.config).eval()
    student = pruned(teacher, random_masks(teacher))
    embeddings = weights(student.get_input_embeddings())
    before = float(
        divergences(*(predict(m, given.held_out) for m in (student, teacher)), given.held_out, "tokens").mean()  # type: ignore[call-arg]
    )
    report = run_polish(teacher, student, given, "3x")
    assert report.before == pytest.approx(before, rel=1e-4)
    assert same(embeddings, weights(student.get_input_embeddings()))


@pytest.mark.parametrize("kept", [None, [0], [0, 2], [1, 2], [0, 1, 2]])
def test_each_layer_follows_the_one_after_which_the_stream_is_at_the_same_point(kept):
    teacher = problem_model("single_label")
    layers = list(teacher.base_model.encoder.layer)
    expected = {None: [0, 1, 2], (0,): [2], (0, 2): [1, 2], (1, 2): [1, 2], (0, 1, 2): [0, 1, 2]}
    found = matching_teacher_layers(teacher, kept)
    assert [layers.index(layer) for layer in found] == expected[None if kept is None else tuple(kept)]


def test_a_layer_that_runs_at_several_depths_is_seen_at_each():
    from transformers import AlbertConfig, AlbertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "embedding_size": 12, "hidden_size": 24, "num_attention_heads": 4}
    config = AlbertConfig(
        **sizes, intermediate_size=40, num_hidden_layers=3, max_position_embeddings=64, pad_token_id=1
    )
    teacher = enlarged(AlbertForSequenceClassification(config).eval())
    student = pruned(teacher, random_masks(teacher))
    _, _, given = make("single_label")
    with OutputRecorder(teacher, matching_teacher_layers(teacher)) as recorder:
        assert len(recorder(given.batches[0]).hidden) == 3
    report = run_polish(teacher, student, given)
    assert report.after <= report.before


@pytest.mark.parametrize("steps", [1, 2, 30, 500, 5000])
def test_the_learning_rate_goes_up_and_down_and_never_beyond_its_peak(steps):
    rates = [schedule.learning_rate(step, steps) for step in range(1, steps + 1)]
    top = rates.index(max(rates))
    assert min(rates) > 0
    assert max(rates) <= schedule.LEARNING_RATE
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_a_language_model_reaches_its_peak_rate_within_few_steps():
    long, peak = schedule.long_training("language"), schedule.peak_rate("language", 1.0)
    assert max(schedule.learning_rate(step, long, peak, long) for step in range(1, long + 1)) == peak
    assert max(schedule.learning_rate(step, long, peak) for step in range(1, long + 1)) < peak


@pytest.mark.parametrize("problem", ["single_label", "embedding", "regression"])
def test_the_less_is_left_to_mend_the_lower_the_rate_but_for_numbers(problem):
    rates = [schedule.peak_rate(problem, divergence) for divergence in (1e-4, 1e-3, 1e-2, 0.1, 1.0)]
    assert rates == sorted(rates)
    assert (
        rates[-1] == schedule.LEARNING_RATE == max(schedule.learning_rate(step, 5000, rates[-1]) for step in (300, 301))
    )
    assert (rates[0] < rates[-1]) == (problem != "regression")


def test_part_of_the_way_is_kept_where_it_is_nearer(monkeypatch):
    """The held-out samples see the middle as the best place."""
    teacher, student, given = make("single_label")
    start = weights(student)
    seen = []

    def measure(model, *_):
        seen.append(float((model.classifier.weight.detach() - start["classifier.weight"]).norm()))
        return 1.0 if seen[-1] == 0 else 0.8 if seen[-1] == max(seen) else 0.6

    monkeypatch.setattr(train, "_measure", measure)
    monkeypatch.setattr(training_loop, "INTERPOLATIONS", (0.75,))
    report = run_polish(teacher, student, given, "3x")
    assert report.accepted
    assert seen[-1] == pytest.approx(0.75 * max(seen), rel=1e-3)
