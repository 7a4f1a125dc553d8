"""The table: each of its rows is refused in one sentence, and nothing is left behind."""

import pytest

from tests.hostile import cases_data, cases_flags, cases_models, cases_paper, cases_places, cases_sweep
from tests.hostile.world import refusal, snapshot, world

CASES = {
    f"{room}: {name}": case
    for room, cases in {
        "places": cases_places.CASES,
        "models": cases_models.CASES,
        "data": cases_data.CASES,
        "flags": cases_flags.CASES,
        "sweep": cases_sweep.CASES,
        "main.py": cases_paper.CASES,
    }.items()
    for name, case in cases.items()
}


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_sentence_and_nothing_is_written(name, root, tmp_path, monkeypatch, capsys):
    case = CASES[name]
    world(root, case.problem, tmp_path)
    case.spoil(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    sentence = refusal([word.replace("{}", str(tmp_path)) for word in case.words.split(" ")], capsys)
    assert all(part in sentence for part in case.says), sentence
    assert snapshot(tmp_path) == before
