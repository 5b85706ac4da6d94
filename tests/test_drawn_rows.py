"""The rows that trees were drawn from, remembered by a host over sessions, jobs and alignments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from federation import JOB, Federation, make_tables
from room import Room

from vfl.errors import ModelError, PeerStopped, Refused
from vfl.jobs import drawn_rows
from vfl.jobs.drawn_rows import StoredDraws
from vfl.party.store import Store
from vfl.protocols.common.bits import pack_bits
from vfl.protocols.trees import grower
from vfl.protocols.trees.draws import Draws

ROWS = 40


def draws(folder: Path, alignment: str = "a1", minimum: int = 3) -> Draws:
    """Those of another job on an alignment."""
    return Draws(minimum, StoredDraws(Store(folder), alignment))


def bits(rows: Sequence[int], of: int = ROWS) -> bytes:
    mask = np.zeros(of, np.bool_)
    mask[list(rows)] = True
    return pack_bits(mask)


EVERY = bits(range(ROWS))


def test_another_job_on_the_alignment_is_held_against_earlier_ones(tmp_path: Path) -> None:
    draws(tmp_path).check(EVERY)
    for _ in range(2):
        again = draws(tmp_path)
        again.check(EVERY)  # the same rows tell nothing new
        with pytest.raises(
            Refused, match=r"fewer than 3 break rule min_child_rows of \[policy\]: set sub"
        ):
            again.check(bits(range(2, ROWS)))
        again.check(bits(range(3, ROWS)))
    with pytest.raises(Refused):
        draws(tmp_path).check(bits(range(4, ROWS)))
    # A draw that was refused is not remembered, and the rule is that of the day.
    draws(tmp_path, minimum=1).check(bits(range(4, ROWS)))
    with pytest.raises(Refused):
        draws(tmp_path).check(bits(range(5, ROWS)))


def test_jobs_at_the_same_time_see_each_other(tmp_path: Path) -> None:
    one, other = draws(tmp_path), draws(tmp_path)
    one.check(EVERY)
    with pytest.raises(Refused):
        other.check(bits(range(1, ROWS)))
    other.check(bits(range(9, ROWS)))
    with pytest.raises(Refused):
        one.check(bits(range(10, ROWS)))


def test_another_alignment_stands_for_itself(tmp_path: Path) -> None:
    draws(tmp_path).check(EVERY)
    draws(tmp_path, "a2").check(bits(range(1, ROWS)))
    with pytest.raises(Refused):
        draws(tmp_path, "a2").check(EVERY)


def test_no_draw_is_forgotten_for_a_later_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that draws until the first ones are gone could begin anew with these."""
    monkeypatch.setattr(drawn_rows, "_ROOM", 0)
    monkeypatch.setattr(drawn_rows, "_LEAST", 2)
    job = draws(tmp_path)
    for first in (0, 10):
        job.check(bits(range(first, ROWS)))
    with pytest.raises(
        Refused, match="2 different draws of rows were taken of alignment a1, as many as"
    ):
        job.check(bits(range(20, ROWS)))
    for first in (0, 10):  # those that are known may be used again
        draws(tmp_path).check(bits(range(first, ROWS)))


def test_damaged_draws_are_said(tmp_path: Path) -> None:
    draws(tmp_path).check(EVERY)
    (array,) = Store(tmp_path).folder("draw").glob("*.npy")
    array.write_bytes(array.read_bytes()[:-1])
    with pytest.raises(ModelError, match="is damaged"):
        draws(tmp_path).check(EVERY)


def test_a_guest_that_begins_anew_with_one_row_less_is_refused(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_tables(130)
    made = Federation(tmp_path / "room", keys, hosts=("registry",), guest_listens=True, tables=tables)
    room = Room(made)
    room.patch(monkeypatch)
    room.align()
    job = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 1}}
    room.train(job)
    room.train(job)  # on the same rows as often as the budget allows

    drawn = grower.draw_rows

    def one_less(*arguments: Any) -> Any:
        mask, counts = drawn(*arguments)
        mask[np.flatnonzero(mask)[0]] = False
        return mask, counts

    monkeypatch.setattr(grower, "draw_rows", one_less)
    with pytest.raises(PeerStopped, match="differ in fewer than 10 break rule min_child_rows"):
        room.train(job)
