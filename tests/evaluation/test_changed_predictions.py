"""Samples whose prediction changed: counted as the outputs say, named as the rows and the model name them."""

import pytest
import torch

from tests.commands import PROBLEMS, problem_model, problem_rows
from tests.conftest import make_tokenizer
from trimformer.data.batches import count_samples
from trimformer.data.tasks import ChoiceTask, ImageTask, TextTask, infer_task
from trimformer.evaluation.changed_predictions import LONGEST, MAX_EXAMPLES, SampleOutputs, find_changed
from trimformer.evaluation.scores import Scorer, compare, score

NAMES = ("bad", "good")


def changed(problem, rows=None, seeds=(0, 1), batch_size=4):
    models = [problem_model(problem, seed=seed) for seed in seeds]
    rows = rows or problem_rows(problem)
    task = infer_task(problem, models[0].config, rows)
    scorer = Scorer("validation", rows, task, models[0], make_tokenizer(), batch_size)
    assert count_samples(scorer.batches) == len(rows)
    dense, pruned = (score([scorer], model, "") for model in models)
    return compare([scorer], dense, pruned).changed


def classified(dense, pruned, labels=(), names=NAMES, task=None, rows=None):
    """What is told of logits that were made by hand."""
    features = [{"labels": label} for label in labels] or [{} for _ in dense]
    told = [SampleOutputs([torch.tensor(row, dtype=torch.float) for row in side], features) for side in (dense, pruned)]
    rows = rows or [{"text": f"text {i}"} for i in range(len(dense))]
    return find_changed(task or TextTask(name="text", problem="single_label"), rows, names, *told)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_model_says_what_it_says(problem):
    found = changed(problem, seeds=(0, 0))
    if problem == "embedding":
        assert found is None
    elif problem == "regression":
        assert found.count is None
        assert all(each.dense == each.pruned for each in found.examples)
    else:
        assert (found.count, found.of, found.examples) == (0, 40, [])


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p != "embedding"])
def test_what_is_told_does_not_depend_on_the_batches(problem):
    one, other = (changed(problem, batch_size=size) for size in (1, 16))
    assert one.count == other.count
    assert one.count != 0
    assert [each.text for each in one.examples] == [each.text for each in other.examples]
    assert all(each.label is not None for each in one.examples)
    for each in one.examples:
        if problem not in ("regression", "span"):
            assert all(0 <= side.probability <= 1 for side in (each.dense, each.pruned))


@pytest.mark.parametrize("problem", ["single_label", "tokens", "span"])
def test_every_example_differs(problem):
    assert all(each.dense.name != each.pruned.name for each in changed(problem).examples)


def test_samples_are_counted_and_the_greatest_change_comes_first():
    dense = [[0, 4], [0, 1], [4, 0], [1, 0]]
    pruned = [[1, 0], [4, 0], [5, 0], [0, 1]]  # the third keeps its class
    found = classified(dense, pruned, labels=[1, 0, 0, 0])
    assert (found.count, found.of) == (3, 4)
    assert [each.text for each in found.examples] == ["text 1", "text 0", "text 3"]
    first = found.examples[1]
    assert (first.label, first.dense.name, first.pruned.name) == ("good", "good", "bad")
    assert first.dense.probability == pytest.approx(torch.tensor([0.0, 4.0]).softmax(0)[1].item())
    assert first.pruned.probability == pytest.approx(torch.tensor([1.0, 0.0]).softmax(0)[0].item())


def test_of_many_samples_some_are_shown_and_all_counted():
    found = classified([[0, 1]] * 50, [[1, 0]] * 50)
    assert (found.count, len(found.examples)) == (50, MAX_EXAMPLES)
    assert {each.label for each in found.examples} == {None}


def test_a_long_text_is_cut():
    (example,) = classified([[0, 1]], [[1, 0]], rows=[{"text": "word " * 200}]).examples
    assert len(example.text) == LONGEST
    assert example.text.endswith("…")


def test_several_labels_are_told_by_the_one_that_moved_most():
    task = TextTask(name="text", problem="multi_label")
    (example,) = classified([[3, 1, 1]], [[3, -4, -1]], [[1, 0, 1]], ("a", "b", "c"), task).examples
    assert (example.label, example.dense.name, example.pruned.name) == ("a, c", "b", "b")
    assert example.dense.probability > 0.5 > example.pruned.probability


def test_of_numbers_the_largest_differences_are_shown():
    task = TextTask(name="text", problem="regression")
    found = classified([[1], [2], [3]], [[1.5], [4], [3]], [1.0, 2.0, 3.0], task=task)
    assert [each.text for each in found.examples] == ["text 1", "text 0", "text 2"]
    assert (found.examples[0].dense.name, found.examples[0].pruned.name) == ("2", "4")


def test_choices_go_by_their_texts():
    task = ChoiceTask(name="choice", question_column="question")
    rows = [{"question": "which is it", "choices": ["tea", "milk", "ink"], "label": 2}]
    (example,) = classified([[1, 0, 0]], [[0, 1, 0]], [2], NAMES, task, rows).examples
    assert (example.text, example.label) == ("which is it", "ink")
    assert (example.dense.name, example.pruned.name) == ("tea", "milk")


def test_images_go_by_their_files_and_never_by_their_folders():
    task = ImageTask(name="image", problem="single_label")
    images = ["/home/someone/cats/1.png", {"path": "C/2.png", "bytes": b""}, b"png"]
    found = classified([[0, 1]] * 3, [[1, 0]] * 3, names=NAMES, task=task, rows=[{"image": image} for image in images])
    assert [each.text for each in found.examples] == ["1.png", "2.png", "row 3"]


def test_tags_are_told_by_the_first_word_that_differs():
    found = changed("tokens")
    rows = problem_rows("tokens")
    for each in found.examples:
        assert each.word in each.text.split()
        assert each.text in {" ".join(row["tokens"]) for row in rows}


def test_tags_of_rows_without_tags_are_left_out():
    rows = [{"tokens": row["tokens"]} for row in problem_rows("tokens")]
    assert changed("tokens", rows) is None


def test_outputs_that_say_nothing_of_a_sample_are_left_out():
    task = TextTask(name="text", problem="tokens")  # of masked language models, of CTC
    assert classified([[[0, 1]]], [[[1, 0]]], task=task) is None
