import sys

from trimformer.utils.progress import progress
from trimformer.utils.stage_timer import StageTimer


def test_each_loop_has_its_own_named_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for desc in ("calibrate", "update"):
        assert list(progress(range(3), desc)) == [0, 1, 2]
    out, err = capsys.readouterr()
    assert out == ""
    assert "calibrate:" in err
    assert "update:" in err


def test_without_a_terminal_nothing_is_shown(capsys):
    with StageTimer()("data"):
        assert list(progress(range(3), "loop")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_other_processes_of_a_run_show_no_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("trimformer.utils.progress.is_main", lambda: False)
    assert list(progress(range(3), "loop")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_the_timer_adds_up_repeated_stages(monkeypatch):
    seconds = iter([0.0, 1.0, 10.0, 12.0, 20.0, 25.0])
    monkeypatch.setattr("trimformer.utils.stage_timer.time.perf_counter", lambda: next(seconds))
    timer = StageTimer()
    with timer("data"):
        pass
    before = dict(timer.seconds)
    for stage in ("data", "update"):
        with timer(stage):
            pass
    assert timer.seconds == {"data": 3.0, "update": 5.0}
    assert timer.since(before) == {"data": 2.0, "update": 5.0}
