"""Estimates of the time left, by a clock of our own."""

from itertools import pairwise

import pytest

from vfl.terminal.time_left import TimeLeft, rounded


def told(paces):
    """What is told second by second, of steps that take so many seconds each; and what is true."""
    left, now, found, ends = TimeLeft(0.0, 0), 0.0, [], sum(paces)
    for done, pace in enumerate(paces, 1):
        now += pace
        seconds = left.seconds(now, done, len(paces))
        if seconds is not None:
            found.append((now, seconds, ends - now))
    return found


def test_an_even_pace_is_told_exactly():
    assert all(seconds == pytest.approx(true) for _, seconds, true in told([2.0] * 50))


def test_a_pace_that_changes_moves_it_without_a_jump():
    """A tenth of the steps are quick, as trees of the guest alone are, the others five times slower."""
    found = told([1.0] * 10 + [5.0] * 90)
    for (before, one, _), (now, two, _) in pairwise(found):
        # The end that is told moves by less than a third of what was left, and towards what is true.
        assert abs((now + two) - (before + one)) < 0.34 * one + 5
    assert all(abs(seconds - true) < 0.3 * true + 5 for _, seconds, true in found[60:])


def test_uneven_steps_are_told_evenly():
    found = told([0.2, 3.8] * 40)
    seen = [seconds + now for now, seconds, _ in found[20:]]
    plain = [now + now * (80 - at) / at for at, (now, _, _) in enumerate(found, 1)][20:]
    assert max(seen) - min(seen) < 0.6 * (max(plain) - min(plain))


def test_nothing_is_told_before_anything_was_seen_or_at_the_end():
    left = TimeLeft(10.0, 5)
    assert left.seconds(10.0, 6, 10) is left.seconds(12.0, 5, 10) is left.seconds(12.0, 10, 10) is None
    assert left.seconds(12.0, 6, 10) == pytest.approx(8.0)


@pytest.mark.parametrize(("seconds", "said"), [(7.4, 7), (43, 45), (222, 220), (3700, 3720)])
def test_estimates_are_as_precise_as_they_are_sure(seconds, said):
    assert rounded(seconds) == said
