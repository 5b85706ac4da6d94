"""Tapes as they are written: what is packed, and the thread that writes them."""

import io
import os
import random
import threading
import zlib
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from vfl.party.files import NotReadSoon
from vfl.party.store import Store
from vfl.party.tapes import InTurn, TapeWriter, read_tape

NOISE = random.Random(0).randbytes(40_000)
EVEN = bytes(range(100)) * 400


def test_what_does_not_become_smaller_is_not_packed_and_tried_once_a_type() -> None:
    file = io.BytesIO()
    tape = TapeWriter(file)
    messages = [("Vectors", NOISE), ("Vectors", NOISE), ("Asked", EVEN), ("Asked", EVEN), ("End", b"")]
    with mock.patch.object(zlib, "compress", wraps=zlib.compress) as packing:
        for number, (kind, payload) in enumerate(messages):
            tape.add(number, kind, payload)
    # A sample of the first of either type; of what packs, each sample and each message.
    assert [len(call.args[0]) for call in packing.call_args_list] == [4096, 4096, 40_000, 4096, 40_000]
    assert tape.bytes == len(file.getvalue()) < 82_000
    file.seek(0)
    assert list(read_tape(file)) == [(n, payload) for n, (_, payload) in enumerate(messages)]


def test_pieces_are_done_in_their_order_and_all_before_the_end() -> None:
    done: list[int] = []
    turns = InTurn(most=1000, enough=100)
    for number in range(500):
        turns.put(7, partial(done.append, number))
    turns.close()
    assert done == list(range(500))


def test_who_needs_what_was_brought_done_does_not_wait_for_more() -> None:
    done: list[int] = []
    turns = InTurn(most=1000, enough=1000, seconds=3600)
    turns.settle()
    for number in range(5):
        turns.put(7, partial(done.append, number))
    turns.settle()
    assert done == list(range(5))
    turns.put(0, partial(done.append, 5))
    turns.settle()
    assert done == list(range(6))
    turns.put(7, partial(done.append, 6))
    turns.close()
    turns.settle()
    assert done == list(range(7))


def test_what_is_written_is_the_systems_at_once(tmp_path: Path) -> None:
    """A process that is killed has none of what it held back."""
    with Store(tmp_path).writing("evidence", tmp_path / "tape") as sink:
        sink.write(b"a short message")
        assert (tmp_path / "tape").read_bytes() == b"a short message"


def test_what_waits_has_a_bound() -> None:
    brought: list[int] = []
    done: list[int] = []
    waiting: list[int] = []
    go = threading.Event()
    turns = InTurn(most=1000, enough=1)

    def work(number: int) -> None:
        assert go.wait(60)
        done.append(number)

    def bring() -> None:
        for number in range(20):
            turns.put(300, partial(work, number))
            brought.append(number)
            waiting.append(len(brought) - len(done))

    bringing = threading.Thread(target=bring)
    bringing.start()
    bringing.join(0.2)
    assert bringing.is_alive() and len(brought) <= 3  # it waits for the disk
    go.set()
    bringing.join(60)
    turns.close()
    assert done == brought == list(range(20)) and max(waiting) <= 3
    # One that is larger than all that may wait is done alone.
    turns = InTurn(most=1000)
    turns.put(5000, partial(done.append, 20))
    turns.close()
    assert done[-1] == 20


def test_what_goes_wrong_in_the_thread_is_raised_where_the_next_is_brought() -> None:
    def fail() -> None:
        raise MemoryError("no more")

    turns = InTurn(most=10)
    turns.put(10, fail)
    with pytest.raises(MemoryError, match="no more"):
        turns.put(10, fail)  # waits for the first
    with pytest.raises(MemoryError, match="no more"):
        turns.close()


def test_a_tape_leaves_the_systems_memory_while_it_grows(tmp_path: Path) -> None:
    told: list[int] = []
    path = tmp_path / "tape"
    with (
        path.open("wb") as file,
        mock.patch.object(NotReadSoon, "_STEP", 50_000),
        mock.patch.object(NotReadSoon, "_BACK", 50_000),
        mock.patch.object(os, "posix_fadvise", create=True) as advise,
    ):
        sink = NotReadSoon(file)
        for _ in range(5):
            assert sink.write(NOISE) == len(NOISE)
        told = [call.args[1] for call in advise.call_args_list]
        advise.side_effect = OSError("a file system that takes no advice")
        sink.write(NOISE)
    assert told == [0, 30_000] and path.read_bytes() == 6 * NOISE
