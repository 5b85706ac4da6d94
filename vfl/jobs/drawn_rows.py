"""The rows that trees were drawn from, as a host keeps them: by alignment, over all jobs on it.

A guest that could begin anew with no draw known would get the sums over two sets of rows that differ by
one from two jobs. So a draw is held against those of all jobs of this guest, also on other alignments as
far as the host still has these and their rows in its table. Of an alignment with many draws the last
ones are kept.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Integers
from vfl.errors import ModelError
from vfl.jobs.alignments import Alignment, load_alignment, rows_now
from vfl.party import locks
from vfl.party.keys import TableIds
from vfl.party.store import Store
from vfl.protocols.common.bits import pack_bits, unpack_bits
from vfl.protocols.common.draw_memory import EarlierDraw

_ROOM = 1 << 26  # bytes of the draws of an alignment: 53,000 draws of 10,000 rows
_LEAST = 64  # draws that are kept however many rows they have

_Bits = NDArray[np.uint8]  # shape (draws, bytes), a bit an aligned row


class StoredDraws:
    """The draws of trees from a host's rows: `DrawMemory` of protocols/common/draw_memory.py."""

    def __init__(
        self, store: Store, alignment: Alignment, ids: TableIds, is_guest: Callable[[str], bool]
    ) -> None:
        """`alignment`: with its rows in the host's table as it is now, whose ids are `ids`. `is_guest`
        says of a fingerprint whether it is, or was, that of the job's guest."""
        self._store, self._alignment, self._ids, self._is_guest = store, alignment, ids, is_guest
        self._told: dict[str, object] = {}  # the array that was told last, by alignment

    def in_turn(self) -> AbstractContextManager[object]:
        """Raises DataError when the store cannot be locked."""
        self._store.make("draw")
        return locks.in_turn(self._store.folder("draw") / "draws.lock")

    def news(self) -> Iterator[EarlierDraw]:
        """Raises ModelError for draws that are damaged."""
        for name in self._store.names("draw"):
            body = self._store.read("draw", name)
            array, guest = body.get("drawn"), body.get("guest")
            if array == self._told.get(name) or not (isinstance(guest, str) and self._is_guest(guest)):
                continue
            self._told[name] = array
            yield from self._earlier(name, self._array(body))

    def keep(self, active: bytes) -> None:
        """Raises DataError when the store cannot be written."""
        own = self._alignment
        drawn = np.frombuffer(active, np.uint8)[np.newaxis]
        if own.name in self._store.names("draw"):
            before = self._array(self._store.read("draw", own.name))
            drawn = np.concatenate([before, drawn])
        drawn = drawn[-max(_LEAST, _ROOM // len(active)) :]
        ref = dict(self._store.write_array("draw", own.name, drawn))
        self._store.write("draw", own.name, {"guest": own.guest, "drawn": ref})
        self._told[own.name] = ref

    def _array(self, body: dict[str, object]) -> _Bits:
        ref = body.get("drawn")
        drawn = self._store.read_array("draw", ref if isinstance(ref, dict) else {})
        if drawn.dtype != np.uint8 or drawn.ndim != 2:
            raise ModelError("the rows drawn for trees are damaged: they are no bits")
        return drawn

    def _earlier(self, name: str, drawn: _Bits) -> Iterable[EarlierDraw]:
        if name == self._alignment.name:
            return (EarlierDraw(draw.tobytes()) for draw in drawn)
        if name not in self._store.names("alignment"):
            return ()
        other = load_alignment(self._store, name)
        rows = rows_now(other, self._ids)
        return () if rows is None else _translated(drawn, other.rows, rows, self._alignment.rows)


def _translated(drawn: _Bits, then: Integers, now: Integers, own: Integers) -> Iterator[EarlierDraw]:
    """Draws from another alignment's rows as draws from this one's. `then` and `now`: where these rows
    were and are in the host's table, -1 for none; `own`: where this alignment's are."""
    size = 1 + int(max(now.max(initial=-1), own.max(initial=-1)))
    is_own = np.zeros(size + 1, np.bool_)
    is_own[own[own >= 0]] = True
    for draw in drawn:
        active = unpack_bits(draw.tobytes(), len(now))
        marked = np.zeros(size + 1, np.bool_)  # the last one for rows that are nowhere
        marked[now[active]] = True
        marked[size] = False
        gone = len(np.unique(then[active & (now < 0) & (then >= 0)]))
        yield EarlierDraw(pack_bits(marked[own]), int((marked & ~is_own).sum()) + gone)
