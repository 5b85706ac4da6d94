"""How many sums about each row of a party's table a peer was told, over all alignments and jobs.

A row is known again by a keyed hash of its ids, in another alignment and in a table that is written
anew. Sums are shared out among the rows that they are of. However that is done, no set of rows has more
sums that are of rows of the set alone than its rows have shares: so a limit on the greatest share is one
on the sums a row of every set of rows. They are shared out such that the greatest share is least.
"""

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats
from vfl.blocks.scratch import Scratch, in_pieces, marked, release_pages
from vfl.errors import ModelError
from vfl.party.counts import ANEW
from vfl.party.keys import TableIds, identities
from vfl.party.locks import in_turn
from vfl.party.store import Store

_AT_ONCE = 1 << 20  # rows that are hashed at a time
_KIND: Literal["sums"] = "sums"
Places = NDArray[np.signedinteger] | slice
"""Of rows among those that are known."""
ALL = slice(None)
"""The places of all that are known, in their order."""
_FOR_PEER = "it cannot count the sums that it gives (its log has the details)"


@dataclass(frozen=True)
class JobSums:
    """What a job came to, in sums a row."""

    before: float  # of earlier jobs on the same rows
    told: float


@dataclass(frozen=True)
class RowSums:
    """What one peer was told."""

    key: str  # of the hashes of rows, in hex
    jobs: dict[str, JobSums] = field(default_factory=dict)  # by model, in the order in which they began
    rows: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    told: Floats = field(default_factory=lambda: np.zeros(0))
    """Sums about each of these rows."""
    scratch: Scratch = field(default=Scratch(), repr=False, compare=False)
    """Where arrays lie that are made of these, of many rows."""

    def places(self, rows: NDArray[np.uint64]) -> Places:
        """Where rows are among those that are known, -1 for others."""
        if _are_same(self.rows, rows):
            return ALL
        if not len(self.rows):
            return np.broadcast_to(np.int8(-1), len(rows))
        order = None if _ascend(self.rows) else np.argsort(self.rows)

        def places(some: NDArray[np.uint64]) -> NDArray[np.signedinteger]:
            at = np.searchsorted(self.rows, some, sorter=order)
            np.minimum(at, len(self.rows) - 1, out=at)
            at = at if order is None else order[at]
            at[self.rows[at] != some] = -1
            return at

        kind = np.min_scalar_type(-len(self.rows) - 1).type
        found = self.scratch.each(places, kind, "places of rows", rows)
        release_pages(self.rows)
        return found

    def lacks(self, places: Places) -> bool:
        """Whether any of the rows at these places is not known."""
        if isinstance(places, slice):
            return False
        return any((places[some] < 0).any() for some in in_pieces(len(places), places))

    def of(self, places: Places) -> Floats:
        """What was told about the rows at these places; not to be written to."""
        if isinstance(places, slice):
            return self.told
        if not len(self.told):
            return np.broadcast_to(0.0, len(places))

        def told(some: NDArray[np.signedinteger]) -> Floats:
            return np.where(some < 0, 0.0, self.told[some])

        found = self.scratch.each(told, np.float64, "sums of rows", places)
        release_pages(self.told)
        return found

    def with_rows(self, rows: NDArray[np.uint64]) -> "RowSums":
        """The same, with rows that were not known."""
        places = self.places(rows)
        if isinstance(places, slice):
            return self
        unknown = marked(lambda some: some < 0, places)
        new = rows if unknown.all() else self.scratch.chosen(rows, unknown, "rows")
        if not _ascend(new):
            new = np.unique(new)
        nothing = np.broadcast_to(0.0, len(new))
        if not len(self.rows):
            return replace(self, rows=new, told=nothing)
        if not len(new):
            return self
        join = self.scratch.joined
        return replace(
            self,
            rows=join(self.rows, new, "rows"),
            told=join(self.told, nothing, "sums of rows"),
        )

    def with_told(self, places: Places, told: Floats) -> "RowSums":
        """The same, after so much about the rows at these places."""
        if isinstance(places, slice):
            return replace(self, told=told)
        after = self.scratch.cast(self.told, np.float64, "sums of rows")
        for some in in_pieces(len(places), places, told):
            after[places[some]] = told[some]
        release_pages(after)
        return replace(self, told=after)

    def with_job(self, model: str, job: JobSums) -> "RowSums":
        return replace(self, jobs={**self.jobs, model: job})


def _ascend(rows: NDArray[np.uint64]) -> bool:
    pieces = in_pieces(len(rows) - 1, rows)
    return all((rows[1:][some] > rows[:-1][some]).all() for some in pieces)


def _are_same(rows: NDArray[np.uint64], others: NDArray[np.uint64]) -> bool:
    if len(rows) != len(others):
        return False
    pieces = in_pieces(len(rows), rows, others)
    return all(np.array_equal(rows[some], others[some]) for some in pieces)


def share_out(told: Floats, sums: float) -> Floats:
    """What rows have, shape (rows,), once so many further sums about them are shared out such that the
    most that any of the rows that get some has is least."""
    if not sums or not len(told):
        return told
    level, below = np.inf, told
    while len(below):  # the level falls with each row that is left out, to where it stays
        level = float((below.sum() + sums) / len(below))
        if (under := below[below < level]).size == below.size:
            break
        below = under
    return np.maximum(told, level)


class RowSumsFile:
    """What one peer was told, in the store: a document and two arrays beside it."""

    def __init__(self, store: Store, peer: str) -> None:
        self._store, self._peer = store, peer
        self._last: tuple[object, RowSums] | None = None  # with what the document says of arrays
        self.path = store.path(_KIND, peer)
        self._scratch = Scratch(store.scratch(make=False))

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Change it in turn with others. Raises DataError when it cannot be locked."""
        self._store.make(_KIND)
        with in_turn(self.path.with_suffix(".lock")):
            yield

    def read(self) -> RowSums:
        """What was written last; nothing told, under no key, before. Raises ModelError when it is
        damaged."""
        if self._peer not in self._store.names(_KIND):
            return RowSums("", scratch=self._scratch)
        arrays: object = None
        try:
            body = self._store.read(_KIND, self._peer)
            arrays = body.pop("arrays", None)
            jobs = msgspec.convert(body.pop("jobs"), dict[str, JobSums])
            key = msgspec.convert(body.pop("key"), str)
            if self._last is not None and self._last[0] == arrays:
                return replace(self._last[1], key=key, jobs=jobs)
            refs = msgspec.convert(arrays, dict[str, dict[str, str]])
            rows, told = (self._store.read_array(_KIND, refs[name]) for name in ("rows", "told"))
            if rows.dtype != np.uint64 or told.dtype != np.float64 or rows.shape != told.shape:
                raise ModelError(f"{self.path} has arrays that do not fit together")
        except (ModelError, msgspec.ValidationError, KeyError) as error:
            if self._is_newer_than(arrays):
                return self.read()
            raise ModelError(
                f"{self.path} is damaged ({error}): {ANEW}",
                for_peer=_FOR_PEER,
            ) from None
        found = RowSums(key, jobs, rows, told, self._scratch)
        self._last = (arrays, found)
        return found

    def _is_newer_than(self, arrays: object) -> bool:
        """Whether another job has written it anew meanwhile, and taken away what it said before."""
        try:
            return arrays is not None and self._store.read(_KIND, self._peer).get("arrays") != arrays
        except ModelError:
            return False

    def write(self, sums: RowSums) -> None:
        """Write it, in turn. Raises DataError when it cannot be written."""
        self._store.remove_unfinished(_KIND, self._peer)  # as large as all rows
        last, kept = self._last, {}
        if last is not None and isinstance(last[0], dict):
            before = last[1]
            same = {"rows": sums.rows is before.rows, "told": sums.told is before.told}
            kept = {name: last[0][name] for name, is_same in same.items() if is_same}
        arrays = {
            name: kept.get(name) or dict(self._store.write_array(_KIND, self._peer, values))
            for name, values in (("rows", sums.rows), ("told", sums.told))
        }
        jobs = {model: asdict(job) for model, job in sums.jobs.items()}
        self._store.write(_KIND, self._peer, {"key": sums.key, "jobs": jobs, "arrays": arrays})
        self._last = (arrays, sums)
        for values in (sums.rows, sums.told):
            release_pages(values)

    def identify(self, ids: TableIds, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The numbers by which rows of the party's table are known here: a hash of all their ids, under
        a key that is drawn at random and stays here. Raises ModelError and DataError."""
        with self.in_turn():
            sums = self.read()
            if not sums.key:
                sums = replace(sums, key=secrets.token_hex(32))
                self.write(sums)
        numbers, key = np.empty(len(rows), np.uint64), bytes.fromhex(sums.key)
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            hashes = identities(ids, key, some, np.full(len(some), len(ids.keys) - 1))
            numbers[start : start + _AT_ONCE] = hashes.view("<u8")[:, 0]
        return numbers


def numbers_within(name: str, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The same of rows by their place in a table: for an alignment of that name which has kept none."""
    begin = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return rows.astype(np.uint64) + np.frombuffer(begin, "<u8").astype(np.uint64)
