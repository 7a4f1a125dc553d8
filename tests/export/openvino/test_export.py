import json
import runpy
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.conftest import FAMILIES, make_batch, make_tokenizer
from tests.export.models import BARE, BATCHES, CLASSES, ELSEWHERE, QUICK, emptied, model_of
from trimformer.cli.main import main
from trimformer.data.outputs import predict
from trimformer.errors import TrimformerError
from trimformer.export.onnx.serve import running_in
from trimformer.export.openvino.export import MODEL, QUANTIZED, export_openvino, quantize
from trimformer.export.openvino.serve import open_session
from trimformer.export.written_files import Written

pytestmark = pytest.mark.skipif(
    any(find_spec(package) is None for package in ("openvino", "nncf")), reason="needs the extra 'openvino'"
)


@cache
def exported(family: str, head: str) -> tuple[PreTrainedModel, Written]:
    """Widths differ by layer, one sublayer has nothing; shared by the tests, which change neither."""
    model = emptied(model_of(family, head))
    return model, export_openvino(model, Path(mkdtemp()) / MODEL, BATCHES)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("family", "head"), QUICK)
def test_a_pruned_file_gives_what_the_model_gives(family: str, head: str) -> None:
    model, written = exported(family, head)
    assert written.difference <= 1e-4
    assert names(written.path.parent) == ["openvino_model.bin", "openvino_model.xml"]
    assert written.size == sum(path.stat().st_size for path in written.path.parent.iterdir())
    for batch in (ELSEWHERE, make_batch(1, 5, labels=None)):
        with running_in(model, open_session(written.path)):
            given = predict(model, [batch])[0]
        torch.testing.assert_close(given, predict(model, [batch])[0], atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str) -> None:
    assert exported(family, CLASSES)[1].difference <= 1e-4


def test_names_are_those_of_optimum() -> None:
    for family, head, outputs in (("Bert", CLASSES, ["logits"]), ("Roberta", BARE, ["last_hidden_state"])):
        session = open_session(exported(family, head)[1].path)
        assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"]
        assert [value.name for value in session.get_outputs()] == outputs


@pytest.mark.parametrize("calibration", [BATCHES, []], ids=["static", "weights"])
def test_eight_bits_are_close_and_small(calibration: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, written = exported("Bert", CLASSES)
    small = quantize(written.path, tmp_path / QUANTIZED, model, BATCHES, calibration)
    assert 0 < small.difference < 0.1
    assert small.divergence < 1e-3
    weights = [path.with_suffix(".bin").stat().st_size for path in (small.path, written.path)]
    assert weights[0] < weights[1]
    assert capsys.readouterr().out == ""


def test_a_file_that_gives_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimformer.export.openvino.export.TOLERANCE", -1.0)
    (tmp_path / MODEL).write_text("before", encoding="utf-8")
    with pytest.raises(TrimformerError, match=r"OpenVINO file .* gives outputs up to .* from PyTorch's"):
        export_openvino(emptied(model_of("Bert", CLASSES)), tmp_path / MODEL, BATCHES)
    assert names(tmp_path) == [MODEL]
    assert (tmp_path / MODEL).read_text(encoding="utf-8") == "before"


def test_what_cannot_be_converted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trimformer.export.onnx.session._bytes", lambda graph: b"no graph")
    with pytest.raises(TrimformerError, match=r"OpenVINO \S+ cannot convert BertForSequenceClassification"):
        export_openvino(model_of("Bert", CLASSES), tmp_path / MODEL, BATCHES)
    with pytest.raises(TrimformerError, match="does not exist; write it with export_openvino"):
        quantize(tmp_path / MODEL, tmp_path / QUANTIZED, model_of("Bert", CLASSES), BATCHES)
    assert not names(tmp_path)


def test_the_command_writes_a_directory_that_its_card_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    emptied(model_of("Bert", CLASSES)).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    words = ["export", str(tmp_path / "model"), "--format", "openvino", "--output", str(tmp_path / "out"), "--int8"]
    assert main(words) == 0
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    stems = ("openvino/openvino_model", "openvino/openvino_model_qint8_quantized")
    assert {f"{stem}.{end}" for stem in stems for end in ("xml", "bin")} <= found
    assert {"config.json", "tokenizer.json", "README.md"} <= found
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:6]] == ["PyTorch", MODEL, QUANTIZED]
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Path("use.py").write_text(card.split("```python\n")[1].split("```")[0], encoding="utf-8")
    assert runpy.run_path("use.py")["outputs"][0].shape == (1, 3)
