import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimformer import TrimformerError
from trimformer.options.polish import (
    PolishBudget,
    check_seconds,
    epoch_passes,
    epochs_of_passes,
    parse_budget,
    steps_of_seconds,
)


@pytest.mark.parametrize(
    ("text", "passes", "seconds"),
    [("10x", 10, None), ("2.5X", 2.5, None), ("90s", None, 90), ("2min", None, 120), ("1 h", None, 3600)],
)
def test_a_budget_is_passes_or_a_time(text, passes, seconds):
    assert parse_budget(text) == PolishBudget(passes, seconds)


@pytest.mark.parametrize("text", ["", "10", "x", "-2x", "0x", "0s", "2 hours", "1e3x", "nan x", "min"])
def test_all_else_is_an_error_that_shows_what_is_right(text):
    with pytest.raises(TrimformerError, match=r"10x.*2min"):
        parse_budget(text)


@given(st.floats(1, 1000), st.floats(0.01, 1))
def test_a_budget_is_spent_on_an_epoch_or_more(passes, share):
    if passes < 1 + epoch_passes(share):
        with pytest.raises(TrimformerError, match=r"below one epoch"):
            epochs_of_passes(PolishBudget(passes=passes), share)
    else:
        epochs = epochs_of_passes(PolishBudget(passes=passes), share)
        assert epochs >= 1 - 1e-9
        assert 1 + epoch_passes(share) * epochs == pytest.approx(passes)


def test_a_smaller_model_gets_more_epochs_of_the_same_budget():
    epochs = [epochs_of_passes(PolishBudget(passes=10), share) for share in (0.05, 0.1, 0.2, 0.5, 1.0)]
    assert epochs == sorted(epochs, reverse=True)


def test_a_time_is_spent_in_whole_steps():
    assert steps_of_seconds(PolishBudget(seconds=60), 50, 0.5, 100) == 100
    with pytest.raises(TrimformerError, match=r"60s is below one epoch, which takes 60\.5 seconds"):
        steps_of_seconds(PolishBudget(seconds=60), 50, 0.505, 100)


def test_a_time_far_below_an_epoch_is_refused_by_an_estimate():
    needed = 1 + epoch_passes(0.5)
    check_seconds(PolishBudget(seconds=10 * needed / 1.4), 0.5, 10)
    message = rf"60s is far below one epoch, which takes about {100 * needed:.0f} seconds"
    with pytest.raises(TrimformerError, match=message):
        check_seconds(PolishBudget(seconds=60), 0.5, 100)
