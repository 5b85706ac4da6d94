"""Work over rows on all cores: every row once, and a failure is not lost."""

import threading

import pytest

from vfl.blocks import cores


@pytest.mark.parametrize("rows", [0, 1, cores.LEAST - 1, 2 * cores.LEAST, 7 * cores.LEAST + 5])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_row_once(monkeypatch, rows, count):
    monkeypatch.setattr(cores.os, "cpu_count", lambda: count)
    done, lock = [], threading.Lock()

    def part(start, stop):
        with lock:
            done.extend(range(start, stop))

    cores.spread(part, rows)
    assert sorted(done) == list(range(rows))


def test_a_failure_is_raised(monkeypatch):
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 3)

    def part(start, stop):
        if start:
            raise ValueError(f"from {start}")

    with pytest.raises(ValueError, match=f"from {cores.LEAST}"):
        cores.spread(part, 3 * cores.LEAST)
