"""Which dtypes a CPU multiplies fast, and what is said where it does not."""

import logging

import pytest
import torch

from tests.commands import problem_model
from tests.pruning import prune
from trimformer.utils import environment
from trimformer.utils.environment import has_fast_products

CPU = torch.device("cpu")


def slow_products(monkeypatch, *slow):
    monkeypatch.setattr(environment, "has_fast_products", lambda dtype, device: dtype not in slow)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_products_of_float32_are_fast_everywhere():
    assert has_fast_products(torch.float32, CPU)
    assert has_fast_products(torch.bfloat16, torch.device("cuda"))


@pytest.mark.parametrize(
    ("dtype", "function"), [(torch.bfloat16, "_is_mkldnn_bf16_supported"), (torch.float16, "_is_mkldnn_fp16_supported")]
)
@pytest.mark.parametrize("answer", [True, False])
def test_halves_are_fast_where_onednn_multiplies_them(monkeypatch, dtype, function, answer):
    monkeypatch.setattr(torch.ops.mkldnn, function, lambda: answer)
    assert has_fast_products(dtype, CPU) == answer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_halves_on_a_cpu_without_instructions_for_them_is_said(monkeypatch, caplog, dtype):
    slow_products(monkeypatch, torch.bfloat16, torch.float16)
    environment.warn_slow_dtype(dtype, CPU)
    (message,) = warnings(caplog)
    assert str(dtype).removeprefix("torch.") in message
    assert "--dtype float32" in message


def test_passes_in_bfloat16_on_a_cpu_without_instructions_for_them_are_said(monkeypatch, caplog):
    slow_products(monkeypatch, torch.bfloat16)
    environment.warn_slow_dtype(torch.float32, CPU, bf16=True)
    (message,) = warnings(caplog)
    assert "slower with bf16" in message


def test_pruning_says_it(monkeypatch, caplog):
    slow_products(monkeypatch, torch.bfloat16)
    prune(model=problem_model("single_label").to(torch.bfloat16))
    assert [message for message in warnings(caplog) if "--dtype float32" in message]


def test_nothing_is_said_of_fast_passes(monkeypatch, caplog):
    slow_products(monkeypatch, torch.float16)
    environment.warn_slow_dtype(torch.float32, CPU)
    environment.warn_slow_dtype(torch.bfloat16, CPU)
    assert not warnings(caplog)
