import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimformer.costs.timing import MIN_TURNS, Stopwatch, Timing, interleaved

CPU = torch.device("cpu")
SAMPLES = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=30)


@given(samples=SAMPLES, factor=st.sampled_from([0.5, 2.0, 1024.0]))
@settings(max_examples=40, deadline=None)
def test_the_interval_holds_the_median_and_scales_with_it(samples, factor):
    timing, scaled = Timing.of(samples), Timing.of([factor * sample for sample in samples])
    assert timing.low <= timing.median <= timing.high
    assert timing.count == len(samples)
    assert scaled.median == pytest.approx(factor * timing.median)
    assert scaled.noise == pytest.approx(timing.noise)


def test_one_outlier_changes_nothing():
    assert Timing.of([2.0, 2.0, 2.0, 2.0, 900.0]) == Timing(2.0, 2.0, 2.0, 5)


def test_more_measurements_are_more_certain():
    few, many = Timing.of([1.0, 2.0, 3.0]), Timing.of([1.0, 2.0, 3.0] * 9)
    assert many.noise < few.noise


def test_a_stopwatch_has_a_lap_between_two_marks_and_starts_anew():
    watch = Stopwatch(CPU)
    for _ in range(4):
        watch.mark()
    laps = watch.laps()
    assert len(laps) == 3
    assert all(lap >= 0 for lap in laps)
    watch.mark()
    assert watch.laps() == []


@pytest.fixture(autouse=True)
def usual_turns(few_turns, monkeypatch):
    monkeypatch.setattr("trimformer.costs.timing.MIN_TURNS", MIN_TURNS)
    monkeypatch.setattr("trimformer.costs.timing.MAX_TURNS", 101)


def turns_of(names, **options):
    """The order in which functions of these names were called, and their laps."""
    calls = []
    laps = interleaved([lambda name=name: calls.append(name) for name in names], CPU, **options)
    return calls, laps


@pytest.mark.parametrize(("seconds", "turns"), [(0.0, MIN_TURNS), (1e9, 101)])
def test_every_function_has_one_measurement_in_each_turn(seconds, turns):
    calls, laps = turns_of("abc", seconds=seconds)
    assert [len(times) for times in laps] == [turns] * 3
    measured = calls[6:]  # after two calls each, to warm up and to see how long they take
    assert measured[::2] == measured[1::2]  # each is measured right after a call of the same function
    assert all(sorted(measured[i : i + 6 : 2]) == ["a", "b", "c"] for i in range(0, 6 * turns, 6))


def test_the_order_within_a_turn_is_random_and_the_seeds():
    first, again, other = (turns_of("ab", seconds=0.0, seed=seed)[0] for seed in (0, 0, 1))
    assert first == again != other
    assert len({tuple(first[i : i + 4]) for i in range(4, len(first), 4)}) == 2


def test_functions_run_without_gradients():
    modes = []
    interleaved([lambda: modes.append(torch.is_inference_mode_enabled())], CPU, seconds=0.0)
    assert all(modes)
    assert not torch.is_inference_mode_enabled()
