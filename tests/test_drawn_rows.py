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
from vfl.jobs.alignments import Alignment, save_alignment
from vfl.jobs.drawn_rows import StoredDraws
from vfl.party.keys import TableIds, all_keys, identities
from vfl.party.store import Store
from vfl.protocols.common.bits import pack_bits
from vfl.protocols.trees import grower
from vfl.protocols.trees.draws import Draws

SECRET = bytes(range(32))
ROWS = 40


def table(ids: Sequence[str]) -> TableIds:
    return all_keys([[list(ids)]], [("trim",)])


NAMES = [f"id{n}" for n in range(ROWS)]
TABLE = table(NAMES)


def alignment(name: str, rows: Sequence[int], guest: str = "print", ids: TableIds = TABLE) -> Alignment:
    """Of a host."""
    own = np.array(rows, np.int64)
    _, first = np.unique(own[own >= 0], return_index=True)
    kept = own[own >= 0][np.sort(first)]
    digests = identities(ids, SECRET, kept, np.zeros(len(kept), np.int64))
    return Alignment(
        name, guest, {}, ("trim",), ids.digest, own, key=SECRET.hex(), digests=digests, made="2027-01-01"
    )


def draws(
    folder: Path, of: Alignment, minimum: int = 3, ids: TableIds = TABLE, guest: str = "print"
) -> Draws:
    """Those of another job on an alignment."""
    store = Store(folder)
    save_alignment(store, of)
    return Draws(minimum, StoredDraws(store, of, ids, lambda fingerprint: fingerprint == guest))


def bits(rows: Sequence[int], of: int = ROWS) -> bytes:
    mask = np.zeros(of, np.bool_)
    mask[list(rows)] = True
    return pack_bits(mask)


WHOLE = alignment("a1", range(ROWS))
EVERY = bits(range(ROWS))


def test_another_job_on_the_alignment_is_held_against_earlier_ones(tmp_path: Path) -> None:
    draws(tmp_path, WHOLE).check(EVERY)
    for _ in range(2):
        again = draws(tmp_path, WHOLE)
        again.check(EVERY)  # the same rows tell nothing new
        with pytest.raises(
            Refused, match=r"fewer than 3 break rule min_child_rows of \[policy\]: set sub"
        ):
            again.check(bits(range(2, ROWS)))
        again.check(bits(range(3, ROWS)))
    with pytest.raises(Refused):
        draws(tmp_path, WHOLE).check(bits(range(4, ROWS)))
    # A draw that was refused is not remembered, and the rule is that of the day.
    draws(tmp_path, WHOLE, minimum=1).check(bits(range(4, ROWS)))
    with pytest.raises(Refused):
        draws(tmp_path, WHOLE).check(bits(range(5, ROWS)))


def test_jobs_at_the_same_time_see_each_other(tmp_path: Path) -> None:
    one, other = draws(tmp_path, WHOLE), draws(tmp_path, WHOLE)
    one.check(EVERY)
    with pytest.raises(Refused):
        other.check(bits(range(1, ROWS)))
    other.check(bits(range(9, ROWS)))
    with pytest.raises(Refused):
        one.check(bits(range(10, ROWS)))


def test_another_alignment_is_held_against_earlier_ones_by_rows(tmp_path: Path) -> None:
    """A guest that leaves an id out of the next alignment gets no sums of the others."""
    draws(tmp_path, WHOLE).check(EVERY)
    order = np.random.default_rng(1).permutation(ROWS)
    fewer = alignment("a2", order[:-1])
    job = draws(tmp_path, fewer)
    with pytest.raises(Refused):
        job.check(bits(range(ROWS - 1), ROWS - 1))
    with pytest.raises(Refused):
        job.check(bits(range(1, ROWS - 1), ROWS - 1))
    job.check(bits(range(2, ROWS - 1), ROWS - 1))
    # And back: what was drawn on the smaller one counts for the larger one.
    left_out = set(order[[0, 1, -1]].tolist())
    draws(tmp_path, WHOLE).check(bits([n for n in range(ROWS) if n not in left_out]))
    with pytest.raises(Refused):
        draws(tmp_path, WHOLE).check(bits([n for n in range(ROWS) if n not in {*order[:2].tolist()}]))
    # Another guest's jobs are its own affair.
    draws(tmp_path, alignment("a3", range(1, ROWS), "other"), guest="other").check(
        bits(range(ROWS - 1), ROWS - 1)
    )


def test_rows_are_found_in_a_table_that_has_changed(tmp_path: Path) -> None:
    draws(tmp_path, WHOLE).check(EVERY)
    # Other rows before them, another order, and two of them gone.
    later = table(["new", *reversed(NAMES[2:])])
    job = draws(tmp_path, alignment("a2", range(1, ROWS - 1), ids=later), ids=later)
    with pytest.raises(Refused):
        job.check(bits(range(ROWS - 2), ROWS - 2))
    job.check(bits(range(1, ROWS - 2), ROWS - 2))
    # A left join's rows that this host does not know are nobody's.
    left = alignment("a3", [-1, *range(1, ROWS - 1), -1], ids=later)
    with pytest.raises(Refused):
        draws(tmp_path, left, ids=later).check(bits(range(1, ROWS - 1)))
    # Without the earlier alignment there is nothing to compare with.
    store = Store(tmp_path)
    for name in ("a1", "a2", "a3"):
        store.remove("alignment", name)
    draws(tmp_path, alignment("a4", range(1, ROWS - 1), ids=later), ids=later).check(
        bits(range(ROWS - 2), ROWS - 2)
    )


def test_many_rows_to_one_count_once(tmp_path: Path) -> None:
    twice = alignment("a1", [n // 2 for n in range(ROWS)])  # 20 rows, each joined twice
    draws(tmp_path, twice).check(EVERY)
    with pytest.raises(Refused):
        draws(tmp_path, alignment("a2", range(18))).check(bits(range(18), 18))
    draws(tmp_path, alignment("a3", range(17))).check(bits(range(17), 17))


def test_the_last_draws_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn_rows, "_ROOM", 0)
    monkeypatch.setattr(drawn_rows, "_LEAST", 2)
    job = draws(tmp_path, WHOLE)
    for first in (0, 10, 20):
        job.check(bits(range(first, ROWS)))
    draws(tmp_path, WHOLE).check(bits(range(1, ROWS)))
    with pytest.raises(Refused):
        draws(tmp_path, WHOLE).check(bits(range(21, ROWS)))


def test_damaged_draws_are_said(tmp_path: Path) -> None:
    draws(tmp_path, WHOLE).check(EVERY)
    (array,) = Store(tmp_path).folder("draw").glob("*.npy")
    array.write_bytes(array.read_bytes()[:-1])
    with pytest.raises(ModelError, match="is damaged"):
        draws(tmp_path, WHOLE).check(EVERY)


def test_a_guest_that_begins_anew_with_one_row_less_is_refused(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = make_tables(130)
    made = Federation(tmp_path / "room", keys, hosts=("registry",), guest_listens=True, tables=tables)
    room = Room(made)
    room.patch(monkeypatch)
    room.align()
    job = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 1, "encryption": "ou"}}
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
    # Nor by another alignment, whose rows are in another order.
    whole = {**job, "job": {**job["job"], "holdout": 0}}
    monkeypatch.setattr(grower, "draw_rows", drawn)
    room.train(whole)
    room.align()
    monkeypatch.setattr(grower, "draw_rows", one_less)
    with pytest.raises(PeerStopped, match="differ in fewer than 10 break rule min_child_rows"):
        room.train(whole)
