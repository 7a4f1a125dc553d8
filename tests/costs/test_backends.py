import copy
import importlib.util
from itertools import product
from typing import get_args

import numpy as np
import pytest
import torch

from tests.conftest import FAMILIES, HEADS, make_model, pruned, random_masks
from trimformer.costs.backends import check_backend, prepare
from trimformer.costs.measure_latency import measure_table
from trimformer.costs.random_inputs import random_inputs
from trimformer.errors import TrimformerError
from trimformer.models.masking import frozen
from trimformer.options.choices import ONNX, Backend

CPU = torch.device("cpu")


def first(output):
    """The first tensor of a model's output, or of ONNX Runtime's list."""
    return torch.as_tensor(output[0])


def run(model, backend, inputs=None):
    with frozen(model), torch.inference_mode():
        return first(prepare(model, inputs or random_inputs(model, 2, 8), backend)())


def assert_computes_the_same(model, backend):
    torch.testing.assert_close(run(model, backend), run(model, "eager"), atol=1e-5, rtol=1e-5)


@pytest.fixture
def onnx():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")


def test_onnx_computes_what_pytorch_does(onnx):
    assert_computes_the_same(make_model(), "onnx")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_onnx_runs_checkpoints_of_half_precision_as_it_exports_them(onnx, dtype):
    model = make_model().to(dtype)
    expected = run(copy.deepcopy(model).float(), "eager")
    torch.testing.assert_close(run(model, "onnx"), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(run(model, "onnx-int8"), expected, atol=1e-5)  # its weights are quantized
    assert model.dtype == dtype


@pytest.mark.slow
@pytest.mark.parametrize(("family", "head"), [*((f, "Model") for f in FAMILIES), *(("Bert", h) for h in HEADS[:-1])])
def test_onnx_runs_every_family_and_head_dense_and_pruned(onnx, family, head):
    model = make_model(family, head)
    assert_computes_the_same(model, "onnx")
    assert_computes_the_same(pruned(model, random_masks(model)), "onnx")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Bert", "DistilBert"])
def test_onnx_runs_a_model_that_lost_an_attention(onnx, family):
    model = make_model(family)
    masks = random_masks(model)
    masks[0].zero_()
    assert_computes_the_same(pruned(model, masks), "onnx")


@pytest.mark.slow
def test_compiled_models_of_all_widths_compute_what_eager_ones_do():
    model = make_model()
    for seed in range(3):
        assert_computes_the_same(pruned(model, random_masks(model, seed)), "compile")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "dtype"), [*product(["compile", *ONNX], [torch.float32]), ("onnx", torch.bfloat16)]
)
def test_tables_are_measured_in_every_backend(onnx, backend, dtype):
    model = make_model(num_hidden_layers=1, num_attention_heads=2, intermediate_size=6).to(dtype)
    table = measure_table(model, 2, 8, backend=backend, seconds=0.5)
    assert table.setting["backend"] == backend
    assert [len(levels) for levels in table.levels.values()] == [3, 7]
    assert all((np.isfinite(levels) & (levels > 0)).all() for levels in table.levels.values())


def test_eager_is_the_model_itself():
    model = make_model()
    inputs = random_inputs(model, 2, 8)
    with torch.no_grad():
        assert torch.equal(run(model, "eager", inputs), model(**inputs).logits)


def test_an_unknown_backend_is_told_the_known_ones():
    with pytest.raises(TrimformerError, match="'tensorrt' is unknown; known are eager, compile, onnx, onnx-int8"):
        check_backend("tensorrt", CPU)


def test_a_missing_package_is_named_and_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TrimformerError, match=r"onnxruntime and onnxscript and onnx_ir: pip install"):
        check_backend("onnx", CPU)
    for backend in set(get_args(Backend)) - set(ONNX):
        check_backend(backend, CPU)


def test_onnx_is_refused_on_a_gpu(onnx):
    with pytest.raises(TrimformerError, match="CPU only, not on 'cuda'"):
        check_backend("onnx", torch.device("cuda"))


@pytest.mark.slow
def test_int8_computes_nearly_what_pytorch_does(onnx):
    model = make_model()
    small, exact = pruned(model, random_masks(model)), run(model, "eager")
    torch.testing.assert_close(run(model, "onnx-int8"), exact, atol=0.1 * float(exact.abs().max()), rtol=0)
    assert not torch.equal(run(small, "onnx-int8"), run(small, "onnx"))


def test_a_model_that_cannot_be_exported_is_one_sentence(onnx, monkeypatch):
    model = make_model()
    monkeypatch.setattr("trimformer.export.onnx.session.trace", lambda *_: torch.ones(2).view(3))
    with pytest.raises(TrimformerError, match="BertForSequenceClassification cannot be exported"):
        prepare(model, random_inputs(model, 2, 8), "onnx")
