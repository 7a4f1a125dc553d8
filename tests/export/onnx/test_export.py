import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.conftest import FAMILIES, HEADS, make_batch, make_tokenizer
from tests.export.models import BARE, BATCHES, CLASSES, ELSEWHERE, QUICK, SPAN, TOKENS, emptied, model_of
from trimformer.cli.main import main
from trimformer.data.outputs import divergence, find_problem, predict
from trimformer.errors import TrimformerError
from trimformer.export.onnx.export import export_onnx, quantize
from trimformer.export.onnx.graph import add_constant
from trimformer.export.onnx.serve import open_session, running_in
from trimformer.export.written_files import Written


@cache
def exported(family: str, head: str, is_pruned: bool) -> tuple[PreTrainedModel, Written]:
    """Shared by the tests, which change neither."""
    model = model_of(family, head)
    model = emptied(model) if is_pruned else model
    return model, export_onnx(model, Path(mkdtemp()) / "model.onnx", BATCHES)


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def outputs(model: PreTrainedModel, path: Path, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(the file's, the model's)"""
    with running_in(model, open_session(path)):
        given = predict(model, [batch])[0]
    return given, predict(model, [batch])[0]


def check(family: str, head: str, is_pruned: bool) -> None:
    model, written = exported(family, head, is_pruned)
    assert written.difference <= 1e-4
    assert written.size == written.path.stat().st_size
    for batch in (ELSEWHERE, make_batch(1, 5, labels=None)):
        torch.testing.assert_close(*outputs(model, written.path, batch), atol=1e-4, rtol=0)
    assert operators(written.path)["Attention"] == (1 if is_pruned else 2)


@pytest.mark.parametrize(("family", "head"), QUICK)
def test_a_pruned_file_gives_what_the_model_gives(family: str, head: str) -> None:
    check(family, head, True)


def test_a_dense_file_gives_what_the_model_gives() -> None:
    check("Bert", TOKENS, False)


@pytest.mark.slow
@pytest.mark.parametrize("is_pruned", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_head(family: str, head: str, is_pruned: bool) -> None:
    check(family, head, is_pruned)


@pytest.mark.slow
def test_names_are_those_of_optimum() -> None:
    for family, head, names in (
        ("Bert", CLASSES, ["logits"]),
        ("DistilBert", SPAN, ["start_logits", "end_logits"]),
        ("Roberta", BARE, ["last_hidden_state"]),
    ):
        session = open_session(exported(family, head, True)[1].path)
        assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"]
        assert [value.name for value in session.get_outputs()] == names
        assert session.get_inputs()[0].shape == ["batch", "length"]


def test_nothing_is_left_of_an_emptied_layer() -> None:
    found = operators(exported("Bert", CLASSES, True)[1].path)
    assert (found["Attention"], found["Softmax"], found["Transpose"], found["Reshape"]) == (1, 0, 0, 0)
    assert found["MatMul"] == 6  # query, key, value, output and two of the feed-forward, of one layer
    assert found["Gelu"] == 1


def test_attention_sees_no_padding() -> None:
    model, written = exported("Bert", CLASSES, True)
    batch = make_batch(4, 9, labels=None)
    other = {**batch, "input_ids": torch.where(batch["attention_mask"] == 1, batch["input_ids"], 7)}
    given = [outputs(model, written.path, b)[0] for b in (batch, other)]
    torch.testing.assert_close(given[0], given[1], atol=1e-6, rtol=0)


def test_only_the_first_token_of_the_last_layer_is_computed() -> None:
    graph = onnx.load(exported("Bert", CLASSES, True)[1].path).graph
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.value_info}
    attention = next(node for node in graph.node if node.op_type == "Attention")
    assert shapes[attention.output[0]][1] == 1  # what follows the one attention is read at the first token only


def test_sums_before_norms_are_not_fused() -> None:
    found = operators(exported("Bert", CLASSES, True)[1].path)
    assert found["Sum"] == 3  # embeddings, attention, feed-forward; of what is emptied the bias is in the norm before
    assert found["LayerNormalization"] == 5


def test_token_types_and_attention_of_the_runtimes_own(tmp_path: Path) -> None:
    model = emptied(model_of("Bert", CLASSES)).train()
    before = (model.config.to_dict(), model.config._attn_implementation, predict(model, BATCHES))
    batches = [{**b, "token_type_ids": (torch.arange(b["input_ids"].shape[1]) > 4).long().expand_as(b["input_ids"])}
               for b in BATCHES]  # fmt: skip
    written = export_onnx(model, tmp_path / "model.onnx", batches, opset=20)
    names = [value.name for value in open_session(written.path).get_inputs()]
    assert names == ["input_ids", "attention_mask", "token_type_ids"]
    assert written.difference <= 1e-4
    assert operators(written.path)["MultiHeadAttention"] == 1  # before opset 23
    # The model is as it was.
    assert model.training
    assert (model.config.to_dict(), model.config._attn_implementation) == before[:2]
    for now, then in zip(predict(model, BATCHES), before[2], strict=True):
        assert torch.equal(now, then)


@pytest.mark.slow
def test_sentence_embeddings_where_asked(tmp_path: Path) -> None:
    model = emptied(model_of("Bert", BARE))
    written = export_onnx(model, tmp_path / "model.onnx", BATCHES, embedding=True)
    session = open_session(written.path)
    feeds = {name: ELSEWHERE[name].numpy() for name in ("input_ids", "attention_mask")}
    tokens, sentences = session.run(["token_embeddings", "sentence_embedding"], feeds)
    assert tokens.shape == (3, 17, 24)
    np.testing.assert_allclose(sentences, predict(model, [ELSEWHERE])[0].numpy(), atol=1e-5)


def test_embeddings_are_of_bare_encoders(tmp_path: Path) -> None:
    with pytest.raises(TrimformerError, match="gives no embeddings of texts"):
        export_onnx(model_of("Bert", CLASSES), tmp_path / "other.onnx", BATCHES, embedding=True)


@pytest.mark.parametrize(("family", "head"), QUICK)
def test_eight_bits_are_close_and_small(family: str, head: str, tmp_path: Path) -> None:
    model, written = exported(family, head, True)
    small = quantize(written.path, tmp_path / "small.onnx", model, BATCHES)
    given, expected = outputs(model, small.path, ELSEWHERE)
    problem = find_problem(model)
    assert float(divergence(given, expected, ELSEWHERE, problem).mean()) < 1e-3
    assert small.divergence < 1e-3
    assert 0 < small.difference < 0.1
    found = operators(small.path)
    assert found["MatMulIntegerToFloat"] == 6
    assert found["DynamicQuantizeLinear"] <= 5  # query, key and value share one, but where only one query is left
    assert small.size < written.size


def test_eight_bits_keep_the_products_of_cpus_without_vnni_exact(tmp_path: Path) -> None:
    model, written = exported("Bert", CLASSES, True)
    small = quantize(written.path, tmp_path / "small.onnx", model, BATCHES)
    tensors = [onnx.numpy_helper.to_array(t) for t in onnx.load(small.path).graph.initializer]
    assert all(np.abs(t.astype(int)).max() <= 64 for t in tensors if t.dtype == np.int8)


def test_eight_bits_of_eight_bits_are_refused(tmp_path: Path) -> None:
    model, written = exported("Bert", CLASSES, True)
    quantize(written.path, tmp_path / "small.onnx", model, BATCHES)
    with pytest.raises(TrimformerError, match="in eight bits already"):
        quantize(tmp_path / "small.onnx", tmp_path / "smaller.onnx", model, BATCHES)
    with pytest.raises(TrimformerError, match="does not exist; write it with export_onnx"):
        quantize(tmp_path / "none.onnx", tmp_path / "smaller.onnx", model, BATCHES)
    (tmp_path / "text.onnx").write_text("no graph", encoding="utf-8")
    with pytest.raises(TrimformerError, match="is not an ONNX file"):
        quantize(tmp_path / "text.onnx", tmp_path / "smaller.onnx", model, BATCHES)
    assert not (tmp_path / "smaller.onnx").exists()


class Unfollowed(nn.Module):
    """Its output's shape depends on what it reads."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inner(x)
        return output if output.sum().item() > 0 else output + 1


@pytest.mark.slow
def test_what_cannot_be_followed_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    model = model_of("Bert", CLASSES)
    model.classifier = Unfollowed(model.classifier)
    told = "BertForSequenceClassification cannot be exported; PyTorch's exporter does not follow it: which steps"
    with pytest.raises(TrimformerError, match=told):
        export_onnx(model, tmp_path / "model.onnx", BATCHES)
    assert not list(tmp_path.iterdir())


def exported_otherwise(monkeypatch: pytest.MonkeyPatch, change: Callable[[ir.Model], None]) -> PreTrainedModel:
    """A model whose graph the exporter gets wrong."""
    model, written = exported("Bert", CLASSES, True)
    graph = ir.load(written.path)
    change(graph)
    monkeypatch.setattr("trimformer.export.onnx.session.model_graph", lambda *_: graph)
    return model


def test_a_size_that_the_file_took_for_a_constant_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though all batches that are given are of one shape."""
    model = exported_otherwise(monkeypatch, _repeat_the_first)
    with pytest.raises(TrimformerError, match=r"gives logits of shape \[4, 3\] where PyTorch gives \[5, 3\]; it"):
        export_onnx(model, tmp_path / "model.onnx", BATCHES[:1])
    assert not list(tmp_path.iterdir())


def _repeat_the_first(graph: ir.Model) -> None:
    """The first four samples, whatever their number."""
    old = graph.graph.outputs[0]
    rows = add_constant(graph.graph, "rows", np.arange(4))
    node = ir.node("Gather", [old, rows], attributes={"axis": 0})
    graph.graph.append(node)
    old.name, node.outputs[0].name = "all", old.name
    node.outputs[0].dtype = old.dtype
    graph.graph.outputs[0] = node.outputs[0]


def test_a_file_that_gives_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = exported_otherwise(monkeypatch, _break)
    (tmp_path / "model.onnx").write_text("before", encoding="utf-8")
    with pytest.raises(TrimformerError, match=r"gives outputs up to .* from PyTorch's; it is not written"):
        export_onnx(model, tmp_path / "model.onnx", BATCHES)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text(encoding="utf-8") == "before"


def _break(graph: ir.Model) -> None:
    for node in graph.graph:
        if node.op_type == "Gelu":
            node.op_type = "Relu"
            node.attributes.clear()


def test_a_model_that_amplifies_rounding_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logits are ten thousand times a sum that is 0 but for rounding, which differs by the order of additions."""
    model: Any = emptied(model_of("Bert", TOKENS))
    norm = model.bert.encoder.layer[-1].output.LayerNorm
    with torch.no_grad():
        norm.weight.fill_(1)
        norm.bias.zero_()
        model.classifier.weight.fill_(1e4)
        model.classifier.bias.zero_()
    written = export_onnx(model, tmp_path / "model.onnx", BATCHES)
    assert written.difference > 1e-3
    monkeypatch.setattr("trimformer.export.written_files._ROUNDING", 0)
    with pytest.raises(TrimformerError, match="it is not written"):
        export_onnx(model, tmp_path / "other.onnx", BATCHES)


def test_arguments_are_checked(tmp_path: Path) -> None:
    model, path = model_of("Bert", CLASSES), tmp_path / "model.onnx"
    for reason, arguments in {
        "there are no example batches": (model, path, []),
        "the model is in bfloat16 on 'cpu'": (model_of("Bert", CLASSES).bfloat16(), path, BATCHES),
        "is a folder": (model, tmp_path, BATCHES),
        "in one that does not exist": (model, tmp_path / "none" / "model.onnx", BATCHES),
    }.items():
        with pytest.raises(TrimformerError, match=reason):
            export_onnx(*arguments)
    with pytest.raises(TrimformerError, match="opset 7 is not one of 18 to 23"):
        export_onnx(model, path, BATCHES, opset=7)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrimformerError, match=r"pip install 'trimformer\[onnx\]'"):
        export_onnx(model_of("Bert", CLASSES), tmp_path / "model.onnx", BATCHES)


def test_the_command_writes_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = emptied(model_of("Bert", CLASSES))
    model.save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "--output", str(tmp_path / "out"), "--int8"]) == 0
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {"onnx/model.onnx", "onnx/model_quantized.onnx", "config.json", "tokenizer.json"} <= names
    assert not [name for name in names if "safetensors" in name]
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert not {"quantization_config", "transformers_weights"} & set(config)
    assert config["architectures"] == ["BertForSequenceClassification"]
    printed = capsys.readouterr().out
    assert "compared with PyTorch on random inputs" in printed
    assert [line.split()[0] for line in printed.splitlines()[3:6]] == ["PyTorch", "model.onnx", "model_quantized.onnx"]
