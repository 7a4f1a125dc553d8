"""Results that pages are rendered from, and a parser of pages."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from typing import Any

import trimformer
from tests.commands import problem_model, problem_rows
from tests.conftest import make_tokenizer
from trimformer.costs.timing import Timing
from trimformer.evaluation.onnx_files import ComparedOnnx
from trimformer.evaluation.quality_test import Verdict
from trimformer.models import Sublayer, find_sublayers
from trimformer.reporting.page.prune import prune_page
from trimformer.reports import QualityTargetReport
from trimformer.results import PruningResult

HOSTILE = "<script>alert('1')</script>\"&$x_1$"

_VOID = {"meta", "br", "hr", "img", "input", "link"}


@cache
def tiny_run(problem: str = "single_label") -> tuple[PruningResult, list[Sublayer]]:
    """Prunes a tiny model to half; returns the result and the sublayers of the dense model."""
    model = problem_model(problem)
    result = trimformer.prune(
        model, make_tokenizer(), problem_rows(problem), 0.5, batch_size=8, num_samples=20, neuron_multiple=4
    )
    return result, find_sublayers(model)


def tiny_page(problem: str = "single_label", *, name: str = "tiny", loading: Sequence[str] = (), **changes: Any) -> str:
    """Renders the page of `tiny_run` with some attributes of the result replaced."""
    result, sublayers = tiny_run(problem)
    return prune_page(replace(result, **changes), sublayers, name, {}, loading)


def ms(median: float) -> dict[str, Any]:
    return {"median": median, "low": 0.9 * median, "high": 1.2 * median, "count": 9}


TARGET = QualityTargetReport(
    "drop", 1.0, 0.4, 0.9, 0.95, 2048, "accuracy", [Verdict(0.5, 0.8, 1.3, False), Verdict(0.6, 0.4, 0.9, True)]
)

SERVED = [
    ComparedOnnx(
        name, {"accuracy": 0.9 - i / 50, "accuracy_ci95": 0.01}, i / 100, None, 80_000_000 // (i + 1),
        Timing(**ms(30 / (i + 1))), Timing(**ms(i + 1.0)),
    )
    for i, name in enumerate(["dense", "dense + int8", "pruned", "pruned + int8"])
]  # fmt: skip


def make_family(score: str | None = "accuracy", **changes: Any) -> dict[str, Any]:
    """What `sweep` writes of two methods and three budgets."""

    def model(share: float) -> dict[str, Any]:
        sizes = {"macs": 3e8 * share, "parameters": int(2e7 * share), "bytes": int(8e7 * share)}
        scores = {"accuracy": 0.9 - 0.05 * (1 - share), "accuracy_ci95": 0.02} if score else {}
        return {"scores": scores, "sizes": sizes, "latency_ms": ms(40 * share)}

    members = [
        {"directory": f"{method}-{share}", "method": method, "constraint": share, "asked_ms": None, "kept": share,
         "pareto": method == "obs", "divergence": (1 - share) ** 2 / 10, "speedup": ms(1 / share), **model(share)}
        for method in ("obs", "magnitude") for share in (0.75, 0.5, 0.25)
    ]  # fmt: skip
    cost = {"seconds": {"calibrate": 2.0, "update": 8.5}, "forward_passes": {"calibrate": 2.5, "total": 2.5}}
    return {
        "model": "tiny", "data": "reviews", "metric": "mac", "score": score, "problem": "single_label",
        "dense": model(1.0), "members": members, "warnings": ["the data are few"], "cost": cost, **changes,
    }  # fmt: skip


class Page(HTMLParser):
    """What a page holds.

    Attributes:
        tags: names of all elements.
        attributes: (element, name, value) of all.
        tables: rows of cells, as text, of each table.
        data: (value, text) of all `<data>`.
        text: all that is read, without styles.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.data: list[tuple[float, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "data":
            self.data.append((float(dict(attrs)["value"] or "nan"), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if "tr" in self._open and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data
        if self._open and self._open[-1] == "data":
            self.data[-1] = (self.data[-1][0], self.data[-1][1] + data)

    def table(self, corner: str) -> dict[str, list[str]]:
        """Rows by their heading, of the table that has such a row."""
        found = next(table for table in self.tables if any(row[0] == corner for row in table))
        return {row[0]: row[1:] for row in found}
