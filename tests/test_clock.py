"""The time that a host takes, as its guest is told of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.protocols.common.clock import STEP, ToldTime


@given(st.lists(st.floats(0, 5), max_size=50))
def test_only_whole_steps_are_told_and_nothing_is_lost(spent: list[float]) -> None:
    time, told = ToldTime(), 0.0
    for seconds in spent:
        time.spent(seconds)
        step = time.tell()
        assert step >= 0 and step % STEP == 0
        told += step
        assert time.tell() == 0
    assert -1e-9 < sum(spent) - told < STEP + 1e-9


def test_what_is_done_inside_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    time = ToldTime()
    for _ in range(3):
        with time.timed():
            now[0] += 0.4
        now[0] += 7
    assert time.tell() == 1.0
