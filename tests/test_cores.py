"""Work over rows on all cores: every row once, and a failure is not lost."""

import os
import subprocess
import sys
import threading
from concurrent.futures import Future

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


def test_a_slice_may_be_spread_itself(monkeypatch):
    """More of them at the same time than there are threads: nobody waits for who waits for it."""
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 2)
    done, lock = [], threading.Lock()

    def row(start, stop):
        with lock:
            done.append((start, stop))

    def part(start, stop):
        cores.spread(row, 4 * cores.LEAST)

    callers = [threading.Thread(target=cores.spread, args=(part, 2 * cores.LEAST)) for _ in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    half = 2 * cores.LEAST
    assert sorted(done) == [(0, half)] * 16 + [(half, 2 * half)] * 16


def test_what_is_done_in_spare_time_makes_way():
    """With what it spreads itself, and where threads have priorities."""

    def nice(_: int = 0) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def work(start):
        return [nice(), *cores.each(nice, range(start))]

    found = cores.spare_time().submit(work, 3).result()
    if sys.platform == "linux":
        assert set(found) == {min(nice() + cores._SPARE, 19)}
    assert len(found) == 4
    assert [*cores.each(nice, range(2))] == [nice()] * 2
    with pytest.raises(TypeError):
        cores.spare_time().submit(work, None).result()


def test_threads_that_a_fork_has_left_behind(monkeypatch):
    """A pool whose threads are not there, as in a process that was forked: the caller does all."""
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 2)

    class Idle:
        def submit(self, *work):
            return Future()

    monkeypatch.setattr(cores, "_slices", Idle)
    done = []
    cores.spread(lambda *edge: done.append(edge), 2 * cores.LEAST)
    assert done == [(0, cores.LEAST), (cores.LEAST, 2 * cores.LEAST)]


FORKED = """
import os
from vfl.blocks import cores

def work():
    cores.spread(lambda start, stop: None, 8 * cores.LEAST)
    assert [*cores.each(abs, [-1, -2])] == [1, 2]
    assert [cores.begin(abs, number).result() for number in range(-8, 0)] == [*range(8, 0, -1)]

work()
child = os.fork()
work()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_process_that_is_forked_has_threads_of_its_own():
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=300)


def test_all_slices_end_before_a_failure_is_raised(monkeypatch):
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 2)
    failed, ended = threading.Event(), threading.Event()

    def part(start, stop):
        if not start:
            failed.set()
            raise KeyboardInterrupt
        assert failed.wait(60)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        cores.spread(part, 2 * cores.LEAST)
    # Not begun when the first one failed, it is done by who called: then too it has ended.
    assert ended.is_set()
