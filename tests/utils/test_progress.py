import sys

import pytest

from trimformer.utils import progress as shown
from trimformer.utils.progress import progress, stage, whole_run
from trimformer.utils.stage_timer import StageTimer, plan_of


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)


def test_one_bar_goes_over_all_stages_and_ends_full(terminal):
    seen = []
    with whole_run({"data": [1.0], "update": [2.0, 3.0]}):
        bar = shown._current[-1]._bar
        for name in ("data", "update", "update"):
            with stage(name):
                for _ in range(2):  # a stage may have several loops
                    for _ in progress(range(3), "loop"):
                        seen.append(bar.n)
            assert shown.WORDS[name] in bar.desc
        assert bar.n == pytest.approx(6.0)
    assert seen == sorted(seen)
    assert not shown._current


def test_what_was_not_planned_takes_no_room(terminal):
    with whole_run({"data": [1.0]}):
        bar = shown._current[-1]._bar
        for _ in range(2):
            with stage("data"), stage("judge"):
                assert list(progress([1, 2], "loop")) == [1, 2]
        assert bar.n <= 1.0


def test_without_a_terminal_nothing_is_shown(capsys):
    with whole_run(plan_of(target=True)), StageTimer()("data"):
        list(progress(range(3), "loop"))
    assert capsys.readouterr() == ("", "")


def test_a_bar_is_gone_after_an_error():
    with pytest.raises(KeyError), whole_run(plan_of()):
        raise KeyError
    assert not shown._current
