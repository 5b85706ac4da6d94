"""The time that a host takes, as its guest is told of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.protocols.common.clock import STEP, SecondsNoted, SecondsSaid, ToldTime, as_measured


@given(st.lists(st.floats(0, 5), max_size=50))
def test_only_whole_steps_are_told_and_nothing_is_lost(spent: list[float]) -> None:
    time, told = ToldTime("guest", as_measured), 0.0
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
    time = ToldTime("guest", as_measured)
    for _ in range(3):
        with time.timed():
            now[0] += 0.4
        now[0] += 7
    assert time.tell() == 1.0


def test_what_was_said_is_said_again_whatever_is_measured() -> None:
    noted = SecondsNoted()
    run = {peer: ToldTime(peer, noted) for peer in ("guest", "other")}
    for peer, seconds in [("guest", 2.5), ("other", 0.0), ("guest", 0.7), ("other", 9.0)]:
        run[peer].spent(seconds)
        run[peer].tell()
    assert noted.said == {"guest": [2.0, 1.0], "other": [0.0, 9.0]}
    said = SecondsSaid(noted.said)
    again = {peer: ToldTime(peer, said) for peer in noted.said}
    again["guest"].spent(100)
    assert [again["guest"].tell() for _ in range(3)] == [2.0, 1.0, 0.0]
    assert [again["other"].tell() for _ in range(2)] == [0.0, 9.0]
    assert ToldTime("nobody", said).tell() == 0.0
