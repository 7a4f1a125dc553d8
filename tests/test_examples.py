"""The cache of the demo's downloads, which `tests/test_real_model.py` uses, and the notebook on a tiny model."""

from pathlib import Path

import assets
import nbformat
import pytest
from nbclient import NotebookClient

from tests.commands import problem_rows, write_jsonl


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_what_is_cached_is_made_once(cache):
    made = []

    def make(target):
        made.append(target)
        (target / "file").write_text("x")

    for _ in range(2):
        assert (assets._cached("thing", make) / "file").read_text() == "x"
    assert len(made) == 1
    assert [path.name for path in cache.iterdir()] == ["thing"]


def test_an_interrupted_download_leaves_nothing_and_is_tried_again(cache):
    def interrupt(target):
        (target / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        assets._cached("thing", interrupt)
    assert list(cache.iterdir()) == []
    assert assets._cached("thing", lambda target: None).is_dir()


def test_a_fine_tuning_that_fails_stops_the_demo(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "minilm", lambda: tmp_path / "nowhere" / "at" / "all")
    with pytest.raises(SystemExit, match="reviews failed"):
        assets.finetuned("reviews", tmp_path, epochs=1)
    assert not (cache / "MiniLM-L6-reviews").exists()


@pytest.mark.slow
def test_the_notebook_runs(model_dir, tmp_path, monkeypatch):
    rows = write_jsonl(tmp_path / "rows.jsonl", problem_rows("single_label", 400))
    monkeypatch.setenv("MODEL", str(model_dir))
    monkeypatch.setenv("DATA", str(rows))
    notebook = nbformat.read(Path(assets.__file__).with_name("sizes.ipynb"), as_version=4)
    done = NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in printed if output.output_type == "error"]
    assert any("obs-0.6" in output.get("data", {}).get("text/plain", "") for output in printed)
