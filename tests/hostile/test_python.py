"""The doors of Python: what cannot be meant is a `TrimformerError` that names it, and a model stays as it was."""

import copy
import functools
import types
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import trimformer
from testing.families import make
from tests.commands import problem_model, problem_rows
from tests.conftest import make_model, make_tokenizer
from trimformer import METHODS, TrimformerError
from trimformer.checkpoints.checkpoint_checks import check_finite_weights
from trimformer.costs.backends import check_backend
from trimformer.data.splits import check_evaluation_sets
from trimformer.models import find_sublayers
from trimformer.models.masking import register_mask
from trimformer.models.model_checks import check_model
from trimformer.options.budgets import BudgetOptions
from trimformer.options.data import DataOptions
from trimformer.options.execution import ExecutionOptions
from trimformer.options.latency import LatencyOptions
from trimformer.options.model import ModelOptions
from trimformer.session.inputs import Inputs
from trimformer.session.setup import _check_labels
from trimformer.utils import distributed

TOO_MANY = 2**32

NUMBERS = [
    (name, value)
    for name in ("seed", "num_samples", "batch_size", "neuron_multiple", "seq_len", "max_length")
    for value in (-5, 1.5, "3", True, float("nan"), float("inf"), [1], 10**30, b"1", torch.tensor(3), 1j, {})
] + [
    (name, value)
    for name in ("constraint", "latency_ms", "max_memory")
    for value in (float("nan"), -1.0, "0.5", True, [0.5], -float("inf"), b"1", 1j)
] + [("seed", TOO_MANY), ("batch_size", 0), ("num_samples", 0), ("constraint", 0), ("constraint", 1.1)]  # fmt: skip


def give(name, value):
    """An options object with this value for the option of this name."""
    topics = (DataOptions, ModelOptions, ExecutionOptions, BudgetOptions, LatencyOptions)
    topic = next(topic for topic in topics if name in {field.name for field in fields(topic)})
    return topic(**{name: value})


@pytest.mark.parametrize(("name", "value"), NUMBERS, ids=lambda value: repr(value)[:30])
def test_a_number_out_of_range_is_refused_by_name(name, value):
    with pytest.raises(TrimformerError, match=f"^({name} |a latency of )") as caught:
        give(name, value)
    assert "\n" not in str(caught.value)


def test_a_model_that_masks_patches_at_random_is_refused():
    model = make("ViTMAE", "Model")
    check_model(model)
    model.config.mask_ratio = 0.75
    with pytest.raises(TrimformerError, match="set mask_ratio to 0"):
        check_model(model)


def test_a_replaced_forward_is_refused_as_copies_would_run_the_dense_one():
    model = problem_model("single_label")
    model.forward = torch.compile(model.forward)
    for call in (check_model, lambda m: trimformer.Pruner(m, [{"input_ids": torch.ones(2, 3).long()}], METHODS["obs"])):
        with pytest.raises(TrimformerError, match="the forward of BertForSequenceClassification was replaced"):
            call(model)
    del model.forward
    check_model(model)
    layer = model.bert.encoder.layer[0].output.dense
    own = layer.forward
    layer.forward = lambda x: own(x)
    with pytest.raises(TrimformerError, match=r"forward of bert.encoder.layer.0.output.dense was replaced"):
        check_model(model)


@pytest.mark.parametrize("bind", [functools.partial, types.MethodType])
def test_a_forward_that_is_bound_to_its_module_is_that_of_the_copy_and_stays(bind):
    calls = []

    def forward(layer, x):
        calls.append(layer)
        return nn.functional.linear(x, layer.weight, layer.bias)

    model, rows = make_model(), problem_rows("single_label", 24)
    layer = model.bert.encoder.layer[0].output.dense
    layer.forward = bind(forward, layer)
    results = [trimformer.prune(m, make_tokenizer(), rows, 0.6, neuron_multiple=4) for m in (model, make_model())]
    assert "forward" in vars(layer)
    assert {id(called) for called in calls} > {id(layer)}  # and copies of it
    for one, other in zip(*(result.model.state_dict().values() for result in results), strict=True):
        assert torch.equal(one, other)
    assert results[0].scores == results[1].scores


def test_question_answering_has_two_labels():
    with pytest.raises(TrimformerError, match="with 3 outputs instead of 2"):
        check_model(problem_model("span", num_labels=3))


@pytest.mark.parametrize(("name", "value"), [("seed", 0), ("seed", TOO_MANY - 1), ("max_memory", float("inf")),
                                             ("max_memory", 0), ("constraint", 1), ("seq_len", None)])  # fmt: skip
def test_a_number_at_the_edge_is_taken(name, value):
    give(name, value)


@pytest.mark.parametrize("name", ["seed", "batch_size", "neuron_multiple", "max_memory"])
def test_none_is_no_number(name):
    with pytest.raises(TrimformerError, match=f"^{name} is None"):
        give(name, None)


def test_numbers_of_numpy_are_taken():
    numpy = pytest.importorskip("numpy")
    give("seed", numpy.int64(3))
    give("constraint", numpy.float32(0.5))


@pytest.mark.parametrize("value", ["yes", 1, None, [], 0.0])
def test_a_switch_is_true_or_false(value):
    with pytest.raises(TrimformerError, match=r"^bf16 is "):
        give("bf16", value)


@pytest.mark.parametrize("value", [3, [], [1], {"a": 1}, True, b"text", [None]])
def test_a_column_is_named_by_text(value):
    with pytest.raises(TrimformerError, match=r"^text_column is "):
        give("text_column", value)


def layers(model):
    return model.bert.encoder.layer


class LoraLinear(nn.Linear):
    """Named as adapters are."""


def tie_modules(model):
    layers(model)[1].output.dense = layers(model)[0].output.dense


def tie_weights(model):
    layers(model)[1].output.dense.weight = layers(model)[0].output.dense.weight


def tie_layers(model):
    layers(model)[1] = layers(model)[0]


def adapted(model):
    layers(model)[0].output.dense = LoraLinear(40, 24)


def whole_numbers(model):
    zeros = torch.zeros(24, 40, dtype=torch.int8)
    layers(model)[0].output.dense.weight = nn.Parameter(zeros, requires_grad=False)


def wrapped_by_peft(model):
    return type("PeftModelForSequenceClassification", (nn.Module,), {"config": model.config})()


MODELS = {
    "one matrix in two layers": (tie_modules, "share a weight"),
    "one weight in two layers": (tie_weights, "share a weight"),
    "one layer twice": (tie_layers, "the same layer"),
    "an adapter": (adapted, "adapter"),
    "weight_norm": (lambda m: parametrizations.weight_norm(layers(m)[0].output.dense) and None, "parametrized"),
    "old weight_norm": (lambda m: nn.utils.weight_norm(layers(m)[0].output.dense) and None, "norm of its weights"),
    "orthogonal": (lambda m: parametrizations.orthogonal(layers(m)[0].attention.self.query) and None, "parametrized"),
    "torch's pruning": (
        lambda m: prune.l1_unstructured(layers(m)[0].output.dense, "weight", 0.3) and None, "utils.prune"
    ),
    "masked": (lambda m: register_mask(layers(m)[0].output.dense, torch.ones(40)) and None, "masked already"),
    "whole numbers": (whole_numbers, "int8"),
    "the meta device": (lambda m: m.to("meta"), "meta device"),
    "no dictionary": (lambda m: setattr(m.config, "return_dict", False), "return_dict"),
    "hidden states": (lambda m: setattr(m.config, "output_hidden_states", True), "output_hidden_states"),
    "DataParallel": (nn.DataParallel, "DataParallel"),
    "PEFT": (wrapped_by_peft, "PEFT"),
    "quantized": (lambda m: torch.ao.quantization.quantize_dynamic(m, {nn.Linear}), "quantized"),
    "traced": (lambda m: torch.jit.trace(m, (torch.ones(1, 5, dtype=torch.long),), strict=False), "traced"),
    "a name": (lambda m: "bert-base-uncased", "model is a str"),
    "None": (lambda m: (), "model is a tuple"),
    "a plain module": (lambda m: nn.Linear(2, 2), "model is a Linear"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_an_unsupported_model_is_refused_with_its_structure(name):

    spoil, says = MODELS[name]
    made = make_model()
    spoiled = spoil(made)
    model = made if spoiled is None else spoiled
    with pytest.raises(TrimformerError, match=says) as caught:
        check_model(model)
    assert "\n" not in str(caught.value)


def test_inference_mode_is_an_error():
    with torch.inference_mode(), pytest.raises(TrimformerError, match="inference_mode"):
        check_model(make_model())


@pytest.mark.parametrize("head", ["ForSequenceClassification", "Model", "ForTokenClassification"])
def test_a_plain_model_is_taken_and_left_as_it_was(head):
    model = make_model(head=head)
    before = copy.deepcopy(model.state_dict())
    check_model(model)
    check_finite_weights(model, "the weights")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_pruned_model_is_taken():
    model = make_model()
    trimformer.shrink(model, [torch.tensor([1.0] + [0.0] * (s.num_units - 1)) for s in find_sublayers(model)])
    check_model(model)


@functools.cache
def ready():
    return make_model(num_labels=2), make_tokenizer()


MASKS = {
    "NaN": torch.tensor([torch.nan, 1, 1, 1]),
    "infinite": torch.tensor([torch.inf, 1, 1, 1]),
    "complex": torch.ones(4, dtype=torch.complex64),
    "too long": torch.ones(5),
    "too short": torch.ones(3),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_that_is_none_shrinks_nothing(name):
    model = copy.deepcopy(ready()[0])
    masks = [torch.ones(s.num_units) for s in find_sublayers(model)]
    masks[0] = MASKS[name]
    with pytest.raises(TrimformerError, match="the mask of layer 0 attention"):
        trimformer.shrink(model, masks)
    assert all(s.num_units in (4, 40) for s in find_sublayers(model))


DATASETS = {
    "None": None,
    "a text": "a film",
    "bytes": b"a film",
    "a number": 7,
    "numbers": [1, 2, 3],
    "lists": [["a"], ["b"]],
    "empty": [],
    "an empty dictionary": {},
    "columns that differ": {"sentence": ["a", "b"], "label": [1]},
    "a column that is none": {"sentence": "a", "label": [1]},
    "bytes for texts": [{"sentence": b"a", "label": 1}] * 9,
    "dates for texts": [{"sentence": __import__("datetime").datetime(2020, 1, 1), "label": 1}] * 9,
    "no labels here and there": [*problem_rows("single_label", 9), {"sentence": "a"}] * 4,
    "tuples of five": [(1, 2, 3, 4, 5)] * 9,
    "one row": problem_rows("single_label", 1),
}


@pytest.mark.parametrize("name", DATASETS)
def test_an_invalid_data_set_is_refused(name):
    model, tokenizer = ready()
    with pytest.raises(TrimformerError) as caught:
        trimformer.prune(model, tokenizer, DATASETS[name], 0.5, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "no/such/folder/at/all", "/proc/x", "\0", "x" * 5000, "loop"])
def test_an_invalid_output_path_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(TrimformerError):
        trimformer.load(path)
    if path != "no/such/folder/at/all":
        with pytest.raises(TrimformerError):
            trimformer.save(*ready(), path)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "no"] == ["loop"]


@pytest.mark.parametrize(
    ("processor", "task", "says"),
    [
        ("bert-base-uncased", None, "processor is the name"),
        (Path("model"), None, "processor is the name"),
        (None, "sst2", "task is the name 'sst2'"),
        (None, 7, "task is of type int"),
    ],
)
def test_a_name_is_no_processor_and_no_task(processor, task, says):
    with pytest.raises(TrimformerError, match=says):
        Inputs(None, processor, [], task=task)


@pytest.mark.parametrize("sets", [{}, {"validation": []}, {"a": problem_rows("single_label", 3), "b": []}])
def test_a_set_without_rows_is_no_set(sets):
    with pytest.raises(TrimformerError, match="eval_dataset"):
        check_evaluation_sets(sets)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_reads_labels_says_so_where_there_are_none(name):
    features = [{"input_ids": [1, 2]}]
    if name in ("obs-labels", "kwon2022", "kwon2022-reconstruct"):
        with pytest.raises(TrimformerError, match="needs labels"):
            _check_labels(METHODS[name], features)
    else:
        _check_labels(METHODS[name], features)
    _check_labels(METHODS[name], [{"input_ids": [1, 2], "labels": 0}])


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "RANK"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "x"}, "LOCAL_RANK"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}, "MASTER_PORT"),
    ],
)
def test_incomplete_launcher_variables_are_an_error(environment, says, monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TrimformerError, match=says):
        distributed.join_processes("cpu")


def test_compiling_without_a_compiler_is_an_error(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(TrimformerError, match=r"C\+\+ compiler"):
        check_backend("compile", torch.device("cpu"))
