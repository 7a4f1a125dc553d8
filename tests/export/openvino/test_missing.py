from pathlib import Path

import pytest

from trimformer.cli.main import main


def test_a_missing_package_is_told(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trimformer.export.openvino.export._NEEDED", ("no_such_package",))
    assert main(["export", str(model_dir), "--format", "openvino", "--output", str(tmp_path / "out")]) == 2
    assert "pip install 'trimformer[openvino]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
