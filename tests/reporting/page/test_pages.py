"""Pages say what results.json says, fetch nothing, and take no text for HTML."""

import re
from functools import cache

import pytest

from tests.commands import PROBLEMS
from tests.conftest import make_model
from tests.reporting.page.made import HOSTILE, SERVED, TARGET, Page, make_family, tiny_run
from tests.results import make_result
from trimformer.models import find_sublayers
from trimformer.reporting.page.prune import prune_page
from trimformer.reporting.page.svg import power
from trimformer.reporting.page.sweep import family_page
from trimformer.reporting.result_files import results_dict
from trimformer.results import table_rows

LINES = ["import trimformer", f'model = load("{HOSTILE}")']


def whole(**changes):
    """Figures of a run with all that a page can show."""
    return {**tiny_run()[1], "target": TARGET, "serving": SERVED, **changes}


def changed_by(word):
    """Of one sample, all of it that is a user's."""
    said = {"name": word, "probability": 0.75}
    example = {"text": word, "label": word, "word": word, "dense": said, "pruned": said}
    return {"count": 1, "of": 9, "examples": [example]}


@cache
def made(name):
    """A page by name; of a run it is the problem's."""
    return {
        "whole": lambda: prune_page(whole(), "tiny", LINES),
        "hostile": lambda: prune_page(whole(changed=changed_by(HOSTILE)), HOSTILE, LINES),
        "family": lambda: family_page(make_family()),
        "unlabelled family": lambda: family_page(make_family(None)),
    }.get(name, lambda: prune_page(tiny_run(name)[1], "tiny"))()


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
    result, _ = tiny_run(problem)
    page = Page(made(problem))
    rows = next(table for table in page.tables if table[0][1:] == ["dense", "pruned", "change"])[1:]
    printed = table_rows(result)
    assert len(rows) == len(printed)
    for (_, *cells), (_, dense, pruned, change) in zip(rows, printed, strict=True):
        assert cells[0].replace("–", "").startswith(dense)
        assert cells[1].split()[0] == pruned
        told = cells[2].replace("−", "-").replace("×", "x").replace("±0.00", "+0.00")
        assert told == change.replace("-0.00", "+0.00")


@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_figure_of_the_page_is_one_of_results_json(problem):
    _, figures = tiny_run(problem)
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
        digits, exponent = re.match(r"([-\d.]+)(e-?\d+)?", text.replace(",", "").replace("−", "-")).groups()
        unit = 10.0 ** (int((exponent or "e0")[1:]) - len(digits.partition(".")[2]))  # of the last digit
        wanted = [value * scale for scale in (1, 100, 1e-6, 1e-9)]
        shown = float(digits + (exponent or ""))
        assert any(abs(shown - each) <= 0.501 * unit for each in wanted), (value, text)


def test_every_layer_shows_its_heads_and_neurons():
    _, figures = tiny_run()
    html = made("single_label")
    kept = [entry["heads"] for entry in figures["sublayers"] if entry["heads"] is not None]
    rows = re.findall(r'class="units attention"[^>]*>(.*?)</span>', html)
    assert [[i for i, mark in enumerate(re.findall("<i[^>]*>", row)) if "on" in mark] for row in rows] == kept
    for number in range(3):
        attention, neurons = figures["sublayers"][2 * number : 2 * number + 2]
        assert f"layer {number}: {attention['units']} of 4 heads left" in html
        assert f"layer {number}: {neurons['units']} of 40 neurons left" in html


def test_a_network_without_one_kind_or_without_units_is_drawn():
    _, figures = tiny_run()
    neurons = [entry for entry in figures["sublayers"] if entry["heads"] is None]
    assert "attention heads and" not in Page(prune_page({**figures, "sublayers": neurons}, "tiny")).text
    nothing = {"units": 0, "of": 0}
    empty = [{**entry, **nothing, "heads": None if entry["heads"] is None else []} for entry in figures["sublayers"]]
    assert "0 of 0 heads left" in prune_page({**figures, "sublayers": empty}, "tiny")


def test_a_deep_network_is_drawn_whole():
    _, figures = tiny_run()
    names = [f"layer {i // 2} {('attention', 'ffn')[i % 2]}" for i in range(96)]
    deep = [{**figures["sublayers"][i % 6], "sublayer": name} for i, name in enumerate(names)]
    html = prune_page({**figures, "sublayers": deep}, "deep")
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
    page = Page(family_page(family))
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 9
    links = [value for tag, key, value in page.attributes if (tag, key) == ("a", "href")]
    assert all(re.fullmatch(r"[\w%.~-]+(/[\w%.~-]+)?/report\.html", link) for link in links)


def test_a_run_without_measurements_has_a_page():
    result = make_result()
    result.scores = result.sizes = result.latency = None
    result.refits = []
    figures = results_dict(result, find_sublayers(make_model()), {})
    page = Page(prune_page(figures, "tiny"))
    assert "svg" not in page.tags
    assert "What is left of the network" in page.text


def test_a_method_of_one_piece_and_a_latency_have_a_page():
    _, figures = tiny_run()
    budget = {**figures["budget"], "metric": "latency", "asked_ms": 12.5, "estimated_ms": 12.25}
    page = Page(prune_page({**figures, "budget": budget, "method": {"name": "kprune"}}, "tiny"))
    assert page.table("latency asked, ms")["latency asked, ms"][1] == "12.50"
    assert "name kprune" in page.text


def test_the_target_and_all_that_was_tried_are_shown():
    page = Page(made("whole"))
    rows = next(table for table in page.tables if table[0][-1] == "keeps")
    assert rows[1:] == [["50.0 %", "0.8", "1.3", "no"], ["60.0 %", "0.4", "0.9", "yes"]]
    assert "with 95 % confidence at most 0.9" in page.text
    assert "drop of accuracy, points" in page.text


def test_files_of_onnx_are_compared():
    rows = Page(made("whole")).table("pruned + int8")
    assert list(rows)[1:] == [each["name"] for each in SERVED]
    assert rows["pruned + int8"] == ["84.00 ±1.00", "0.0300", "20.00", "7.50 6.75 to 9.00", "4.00× 3.60 to 4.80"]


def test_of_changed_samples_all_are_there():
    _, figures = tiny_run()
    said = {"name": "good", "probability": 0.75}
    example = {"label": "good", "word": None, "dense": said, "pruned": said}
    examples = [{"text": f"sample {i}", **example} for i in range(20)]
    page = Page(prune_page({**figures, "changed": {"count": 25, "of": 50, "examples": examples}}, "tiny"))
    assert all(f"sample {i}" in page.text for i in range(20))
    assert "25 of 50 samples, 50.0 %" in page.text
    assert page.text.count("✓") == 40
    assert "12 more" in page.text
    numbers = Page(prune_page({**figures, "changed": {"count": None, "of": 50, "examples": examples}}, "tiny"))
    assert "largest differences among 50 samples" in numbers.text
    assert "Predictions that changed" not in Page(prune_page({**figures, "changed": None}, "tiny")).text


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
    text = Page(family_page(family)).text
    assert all(f" way-{i}" in text for i in range(9))


def test_budgets_in_milliseconds_are_told_in_them():
    family = make_family(metric="latency")
    family["members"][0]["asked_ms"] = 12.5
    assert Page(family_page(family)).table("dense")[family["members"][0]["directory"]][0] == "12.50 ms"


def test_ticks_of_logarithms_are_read_as_numbers():
    assert [power(10.0**i) for i in (-7, -3, -2, 0, 3, 4)] == ["10⁻⁷", "10⁻³", "0.01", "1", "1000", "10⁴"]
    assert power(5e-6) == "5·10⁻⁶"
