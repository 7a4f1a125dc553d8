"""Pages say what results.json says, fetch nothing, and take no text for HTML."""

import json
import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.commands import PROBLEMS
from tests.conftest import make_model
from tests.reporting.page.made import HOSTILE, SERVED, TARGET, Page, make_family, tiny_page, tiny_run
from tests.results import make_result
from trimformer.costs.timing import Timing
from trimformer.evaluation.changed_predictions import Change, ChangedReport, Prediction
from trimformer.models import find_sublayers
from trimformer.options.methods import METHODS
from trimformer.reporting.page.prune import prune_page
from trimformer.reporting.page.svg import format_tick
from trimformer.reporting.page.sweep import sweep_page
from trimformer.reporting.result_files import results_dict
from trimformer.reporting.score_table import score_table
from trimformer.reports import Size

LINES = ["import trimformer", f'model = load("{HOSTILE}")']


def whole_page(**options):
    """Renders a page with every section."""
    return tiny_page(loading=LINES, target=TARGET, serving=SERVED, **options)


def changed_scores(count, total, examples):
    """Returns the scores of the tiny run with other changed predictions."""
    scores = tiny_run()[0].scores
    assert scores is not None
    return replace(scores, changed=ChangedReport(count, total, examples))


def figures_of(problem="single_label"):
    """Returns the contents of results.json."""
    result, sublayers = tiny_run(problem)
    return json.loads(json.dumps(results_dict(result, sublayers, {})))


HOSTILE_CHANGE = Change(HOSTILE, HOSTILE, Prediction(HOSTILE, 0.75), Prediction(HOSTILE, 0.75), HOSTILE)


@cache
def made(name):
    """A page by name; of a run it is the problem's."""
    return {
        "whole": whole_page,
        "hostile": lambda: whole_page(name=HOSTILE, scores=changed_scores(1, 9, [HOSTILE_CHANGE])),
        "family": lambda: sweep_page(make_family()),
        "unlabelled family": lambda: sweep_page(make_family(None)),
    }.get(name, lambda: tiny_page(name))()


@pytest.mark.parametrize("name", ["whole", "hostile", "family", "unlabelled family"])
def test_a_page_is_well_formed_and_fetches_nothing(name):
    html = made(name)
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    fetched = [value for _, key, value in page.attributes if key in ("src", "href", "xlink:href", "data")]
    assert all(value.startswith("#") or value.endswith("/report.html") for value in fetched)
    assert "url(http" not in html
    assert "@import" not in html
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    used = {value[1:] for value in fetched if value.startswith("#")} | set(re.findall(r"url\(#([^)]+)\)", html))
    assert used <= set(ids)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_table_says_what_the_printed_one_says(problem):
    assert_same_table(made(problem), tiny_run(problem)[0])


def assert_same_table(html, result):
    """Checks that the page's table has the texts of the printed one; the page shows more intervals."""
    rows = next(table for table in Page(html).tables if table[0][1:] == ["dense", "pruned", "change"])[1:]
    printed = [line.split() for line in str(result).splitlines()[2:]]
    for cells, row, line in zip(rows, score_table(result), printed, strict=False):
        label, dense, pruned, change = row.cells
        assert f"{cells[1]} ".startswith(f"{dense or '–'} ")
        assert f"{cells[2]} ".startswith(f"{pruned} ")
        assert (cells[0].strip(), cells[3]) == (label.strip(), change)
        assert line == f"{label} {dense} {pruned} {change}".split()
    assert len(rows) == len(score_table(result)) > 4


magnitudes = st.floats(-7, 9).map(lambda exponent: 10**exponent)


@settings(max_examples=50, deadline=None)
@given(st.tuples(magnitudes, magnitudes), st.tuples(magnitudes, magnitudes), st.floats(0, 1), st.floats(-1e-9, 20))
def test_numbers_of_any_magnitude_have_the_same_text_in_table_and_page(latencies, sizes, accuracy, divergence):
    result = make_result()
    assert result.scores is not None
    assert result.latency is not None
    result.refits = []  # no plots
    result.scores = replace(result.scores, pruned={"accuracy": accuracy, "f1": 0.8}, divergence=divergence)
    dense_ms, pruned_ms = (Timing(value, 0.9 * value, 1.1 * value, 9) for value in latencies)
    result.latency = replace(result.latency, dense_ms=dense_ms, pruned_ms=pruned_ms)
    result.budget = replace(result.budget, asked_ms=latencies[0], estimated_ms=latencies[1])
    dense, pruned = (Size(value * 1e9, int(value * 1e6) + 1, int(value * 1e6) + 1) for value in sizes)
    result.sizes = {"dense": dense, "pruned": pruned}
    assert_same_table(prune_page(result, find_sublayers(make_model()), "tiny", {}), result)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_figure_of_the_page_is_one_of_results_json(problem):
    figures = figures_of(problem)
    page = Page(made(problem))

    def numbers(value):
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                yield from numbers(item)
        elif isinstance(value, int | float):
            yield value

    known = set(numbers(figures))
    assert len(page.data) > 30
    assert {value for value, _ in page.data} <= known


def test_what_is_shown_is_the_value_rounded():
    for value, text in Page(made("whole")).data:
        digits, exponent = re.match(r"([-\d.]+)(e-?\d+)?", text.replace(",", "")).groups()
        unit = 10.0 ** (int((exponent or "e0")[1:]) - len(digits.partition(".")[2]))  # of the last digit
        wanted = [value * scale for scale in (1, 100, 1e-6, 1e-9)]
        shown = float(digits + (exponent or ""))
        assert any(abs(shown - each) <= 0.501 * unit for each in wanted), (value, text)


def test_every_layer_shows_its_heads_and_neurons():
    figures = figures_of()
    html = made("single_label")
    kept = [entry["heads"] for entry in figures["sublayers"] if entry["heads"] is not None]
    rows = re.findall(r'class="units attention"[^>]*>(.*?)</span>', html)
    assert [[i for i, mark in enumerate(re.findall("<i[^>]*>", row)) if "on" in mark] for row in rows] == kept
    for number in range(3):
        attention, neurons = figures["sublayers"][2 * number : 2 * number + 2]
        assert f"layer {number}: {attention['units']} of 4 heads kept" in html
        assert f"layer {number}: {neurons['units']} of 40 neurons kept" in html


def network_page(indices, masks=None):
    """Renders the page of some of the tiny run's sublayers, two to a layer."""
    result, sublayers = tiny_run()
    masks = [result.masks[i] for i in indices] if masks is None else masks
    lists = {key: [getattr(result, key)[i] for i in indices] for key in ("refits", "predicted", "kinds")}
    chosen = [replace(sublayers[i], layer=number // 2) for number, i in enumerate(indices)]
    return prune_page(replace(result, masks=masks, **lists), chosen, "tiny", {})


def test_a_network_without_one_kind_or_without_units_is_drawn():
    assert "attention heads and" not in Page(network_page([1, 3, 5])).text
    assert "0 of 0 heads kept" in network_page(range(6), [torch.zeros(0)] * 6)


def test_removed_heads_are_named():
    masks = [torch.tensor([1.0, 0, 1, 0]), *tiny_run()[0].masks[1:]]
    assert "layer 0: 2 of 4 heads kept, without heads 1, 3" in network_page(range(6), masks)


def test_a_deep_network_is_drawn_whole():
    html = network_page([i % 6 for i in range(96)])
    assert html.count('class="units attention"') == html.count('class="units ffn"') == 48
    assert len(html) < 300_000


def test_a_page_is_small():
    assert len(made("whole")) < 200_000


def test_text_of_users_stays_text():
    html = made("hostile")
    page = Page(html)
    assert page.text.count(HOSTILE) >= 6  # title, heading, sample, word, label, predictions
    assert f'load("{HOSTILE}")' in page.text
    family = make_family(model=HOSTILE, data=HOSTILE)
    for member in family["members"]:
        member["directory"] = member["method"] = HOSTILE
    page = Page(sweep_page(family))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 9
    links = [value for tag, key, value in page.attributes if (tag, key) == ("a", "href")]
    assert all(re.fullmatch(r"[\w%.~-]+(/[\w%.~-]+)?/report\.html", link) for link in links)


def test_a_run_without_measurements_has_a_page():
    result = make_result()
    result.scores = result.sizes = result.latency = None
    result.refits = []
    page = Page(prune_page(result, find_sublayers(make_model()), "tiny", {}))
    assert "svg" not in page.tags
    assert "The pruned network" in page.text


def test_a_method_of_one_piece_and_a_latency_have_a_page():
    budget = replace(tiny_run()[0].budget, metric="latency", asked_ms=12.5, estimated_ms=12.25)
    page = Page(tiny_page(budget=budget, method=METHODS["kprune"]))
    assert page.table("  allowed")["  allowed"][1] == "12.50"
    assert "name kprune" in page.text


def test_the_target_and_all_that_was_tried_are_shown():
    page = Page(made("whole"))
    rows = next(table for table in page.tables if table[0][-1] == "meets it")
    assert rows[1:] == [["50.0 %", "0.80", "1.30", "no"], ["60.0 %", "0.40", "0.90", "yes, chosen"]]
    assert "with 95 % confidence at most 0.90" in page.text
    assert "drop of accuracy, points" in page.text


def test_files_of_onnx_are_compared():
    rows = Page(made("whole")).table("pruned + int8")
    assert list(rows)[1:] == [file.name for file in SERVED]
    assert rows["pruned + int8"] == ["84.00 ±1.00", "0.0300", "20.00", "7.50 6.75 to 9.00", "4.00x 3.60 to 4.80"]


def test_of_changed_samples_all_are_there():
    good = Prediction("good", 0.75)
    examples = [Change(f"sample {i}", "good", good, good) for i in range(20)]
    page = Page(tiny_page(scores=changed_scores(25, 50, examples)))
    assert all(f"sample {i}" in page.text for i in range(20))
    assert "25 of 50 samples, 50.0 %" in page.text
    assert page.text.count("✓") == 40
    assert "12 more" in page.text
    numbers = Page(tiny_page(scores=changed_scores(None, 50, examples)))
    assert "largest differences among 50 samples" in numbers.text
    assert "Predictions that changed" not in Page(tiny_page(scores=None)).text


def test_a_family_shows_every_member_and_leads_to_it():
    family = make_family()
    page = Page(made("family"))
    table = page.table("dense")
    for member in family["members"]:
        cells = table[member["directory"]]
        assert cells[0] == f"{100 * member['constraint']:.1f} %"
        assert cells[1] == f"{100 * member['scores']['accuracy']:.2f} ±2.00"
        assert cells[2] == f"{member['divergence']:.4f}"
        assert cells[4:6] == [f"{member['sizes']['parameters'] / 1e6:.2f}", f"{member['sizes']['bytes'] / 1e6:.2f}"]
        assert ("a", "href", f"{member['directory']}/report.html") in page.attributes
    assert page.tags.count("svg") == 6
    assert Page(made("unlabelled family")).tags.count("svg") == 3


def test_of_many_methods_each_stands_in_the_legend():
    family = make_family()
    family["members"] = [{**family["members"][0], "method": f"way-{i}", "directory": f"{i}"} for i in range(9)]
    text = Page(sweep_page(family)).text
    assert all(f" way-{i}" in text for i in range(9))


def test_budgets_in_milliseconds_are_told_in_them():
    family = make_family(metric="latency")
    family["members"][0]["asked_ms"] = 12.5
    assert Page(sweep_page(family)).table("dense")[family["members"][0]["directory"]][0] == "12.50 ms"


def test_ticks_of_logarithms_are_read_as_numbers():
    assert [format_tick(10.0**i) for i in (-7, -3, -2, 0, 3, 4)] == ["10⁻⁷", "10⁻³", "0.01", "1", "1000", "10⁴"]
    assert format_tick(5e-6) == "5·10⁻⁶"


@pytest.mark.parametrize(("dense", "pruned"), [(0.85, 0.84), (0.9, 0.89), (0.57, 0.56)])
def test_a_loss_of_one_point_counts_as_near(dense, pruned):
    family = make_family()
    family["dense"]["scores"]["accuracy"] = dense
    for member, lost in zip(family["members"], (0.2, 0.01, 0.2, 0.2, 0.2, 0.2), strict=True):
        member["scores"]["accuracy"] = pruned if lost == 0.01 else dense - lost
    assert f"of dense: {family['members'][1]['directory']}" in Page(sweep_page(family)).text
