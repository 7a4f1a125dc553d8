"""The parts of the documentation that come from the source: quoted errors, the command-line page, links."""

import importlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from trimformer.cli.main import COMMANDS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def hooks() -> Any:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_troubleshooting_quotes_errors_of_the_source(hooks: Any) -> None:
    assert hooks.missing_quotes((ROOT / "docs" / "troubleshooting.md").read_text()) == []
    assert hooks.missing_quotes("#### `no such error`") == ["no such error"]


def test_the_command_line_page_has_every_command(hooks: Any) -> None:
    page = hooks.command_line_page()
    for command in [*COMMANDS, "finetune"]:
        assert f"## trimformer {command}\n" in page
    assert "`--constraint CONSTRAINT`" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[)#]", page.read_text()):
        assert target.startswith("https://") or target == "cli.md" or (page.parent / target).exists(), target


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize(("script", "record"), [("targets", "targets"), ("speed", "performance")])
def test_benchmarks_print_the_records_of_the_docs(script: str, record: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    to_markdown = importlib.import_module(script).to_markdown
    content = json.loads((ROOT / "docs" / f"{record}.json").read_text())  # records without costs, or of version 0.1
    table = to_markdown(content["records"], *([content["sweep"]] if "sweep" in content else []))
    assert table.count("\n") > len({row.get("task") for row in content["records"]})
    assert "nan" not in table
