"""The table of calls from Python: each is refused in one sentence before any work, and writes nothing."""

import contextlib
import random
import threading

import pytest
import torch

import trimformer
from tests.conftest import make_batch, make_model, make_tokenizer
from tests.hostile.cases_python import CASES, ROWS
from tests.hostile.world import FUZZ
from trimformer import METHODS, Method, Pruner, TrimformerError, find_sublayers
from trimformer.costs.cost_tables import linear_costs
from trimformer.options.budgets import BudgetOptions, SweepBudgetOptions
from trimformer.options.data import DataOptions
from trimformer.options.execution import ExecutionOptions
from trimformer.options.latency import LatencyOptions
from trimformer.options.methods import MethodOptions, SweepMethodOptions
from trimformer.options.model import ModelOptions
from trimformer.options.option import declared_options
from trimformer.options.output import OutputOptions
from trimformer.options.polish import PolishOptions


@pytest.fixture(scope="module")
def inputs():
    return make_model(num_labels=2, num_hidden_layers=2), make_tokenizer()


@pytest.mark.parametrize("name", CASES)
def test_a_call_that_cannot_be_meant_is_one_sentence(name, inputs, tmp_path, monkeypatch):
    model, tokenizer = inputs
    monkeypatch.chdir(tmp_path)
    call, words = CASES[name]
    with pytest.raises(TrimformerError) as caught:
        call(model, tokenizer, tmp_path)
    sentence = str(caught.value)
    assert words in sentence, sentence
    assert "\n" not in sentence
    assert len(sentence) < 400
    assert not list(tmp_path.iterdir())


def test_prunes_of_one_model_in_two_threads_run_one_after_the_other(inputs):
    model, tokenizer = inputs
    options = {"num_samples": 8, "neuron_multiple": 4, "device": "cpu"}
    alone = trimformer.prune(model, tokenizer, ROWS, 0.5, **options)
    results = {}

    def run(name):
        results[name] = trimformer.prune(model, tokenizer, ROWS, 0.5, **options)

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.keys() == {"a", "b"}
    for result in results.values():
        assert all(torch.equal(one, other) for one, other in zip(result.masks, alone.masks, strict=True))
        weights = result.model.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in alone.model.state_dict().items())


def test_pruners_of_one_model_in_two_threads_run_one_after_the_other():
    model = make_model(num_hidden_layers=2)
    costs = linear_costs(find_sublayers(model), "mac", [8.0] * len(find_sublayers(model)))
    batches = [make_batch(seed=seed) for seed in range(8)]

    def pruned(method):
        return Pruner(model, batches, METHODS[method])(costs, 0.5)

    alone = {method: pruned(method) for method in ("kwon2022", "obs")}
    results = {}
    threads = [
        threading.Thread(target=lambda method=method: results.update({method: pruned(method)})) for method in alone
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.keys() == alone.keys()
    for method, result in results.items():
        assert all(torch.equal(one, other) for one, other in zip(result.masks, alone[method].masks, strict=True))
        weights = result.model.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in alone[method].model.state_dict().items())


TOPICS = (
    BudgetOptions, SweepBudgetOptions, DataOptions, ExecutionOptions, LatencyOptions, MethodOptions,
    SweepMethodOptions, ModelOptions, OutputOptions, PolishOptions,
)  # fmt: skip
VALUES = [
    None, "", "x", "0.5", b"x", 0, 1, -1, 2.5, 1e308, float("nan"), float("inf"), 10**30, True, [], [1], ["a"], [None],
    [[1]], (), {}, {"a": 1}, {1}, object(), Method, Method(), 1j, "9" * 400, torch.ones(2), range(3), lambda: 1,
]  # fmt: skip


@pytest.mark.slow
def test_options_of_random_values_are_made_or_refused_in_one_sentence():
    generator = random.Random(FUZZ)
    sentences = []
    for _ in range(2000 * FUZZ):
        topic = generator.choice(TOPICS)
        names = [name for name, _, _ in declared_options(topic)]
        chosen = generator.sample(names, generator.randint(1, min(3, len(names))))
        with contextlib.suppress(TrimformerError), kept_sentence(sentences):
            topic(**{name: generator.choice(VALUES) for name in chosen})
    assert len(sentences) > 1000
    assert not [sentence for sentence in sentences if "\n" in sentence or len(sentence) > 400]


@contextlib.contextmanager
def kept_sentence(sentences):
    """Adds the message of the body's TrimformerError to a list, and raises the error again."""
    try:
        yield
    except TrimformerError as error:
        sentences.append(str(error))
        raise
