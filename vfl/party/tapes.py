"""Tapes: what arrived from a peer in a run, message after message, in a file of the party's store.

An entry has the number of the message among those of all peers, in the order in which they arrived, how
it is written, and its payload: as it is, or by zlib where messages of its type become smaller by that.
One that is left out has a place and no payload. A file without an end, as a killed process leaves it, is
read as far as it goes.

A job does not wait for its tapes: `InTurn` has a thread of its own write them.
"""

import struct
import threading
import zlib
from collections.abc import Callable, Iterator

from vfl.errors import ModelError
from vfl.net.wire import Octets
from vfl.party.at_rest import Sink, Source

_HEAD = struct.Struct(">QBI")  # number, how it is written, bytes of what follows
_PLAIN, _PACKED, _LEFT_OUT = 0, 1, 2
_SAMPLE = 4096  # bytes by which is found whether packing is worth it
_WORTH = 0.9
_LEVEL = 1  # of zlib: a tape must not slow the run down
_SHORT = 256  # bytes of a message that is not worth a look
MOST = 64 << 20  # bytes of a message, twice what any may have


class TapeWriter:
    """Writes the tape of one peer."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._dense: set[str] = set()  # types of messages that do not become smaller
        self.bytes = 0

    def add(self, number: int, kind: str, payload: Octets) -> None:
        """Write a message of a type down. Raises what the sink raises."""
        how, content = self._written(kind, payload)
        head = _HEAD.pack(number, how, len(content))
        self._sink.write(head)
        self._sink.write(content)
        self.bytes += len(head) + len(content)

    def leave_out(self, number: int) -> None:
        """Write down that a message came, and not what was in it."""
        self._sink.write(_HEAD.pack(number, _LEFT_OUT, 0))
        self.bytes += _HEAD.size

    def _written(self, kind: str, payload: Octets) -> tuple[int, Octets]:
        if len(payload) < _SHORT or kind in self._dense:
            return _PLAIN, payload
        sample = payload[:_SAMPLE]
        if len(zlib.compress(sample, _LEVEL)) >= _WORTH * len(sample):
            self._dense.add(kind)
            return _PLAIN, payload
        packed = zlib.compress(payload, _LEVEL)
        return (_PACKED, packed) if len(packed) < len(payload) else (_PLAIN, payload)


class InTurn:
    """Does pieces of work in a thread, one after the other in the order in which they came.

    So many bytes may wait at most, or one piece that has more; who brings another waits then.
    """

    def __init__(self, most: int = 1 << 24, enough: int = 1 << 20, seconds: float = 0.2) -> None:
        """`enough`: bytes for which the thread does not wait longer for more, which it does for so many
        seconds: each time that it wakes up costs as much as some messages."""
        self._most, self._enough, self._seconds = most, enough, seconds
        self._changed = threading.Condition()
        self._waiting: list[Callable[[], None]] = []
        self._size = self._doing = 0  # of those and of what is done just now; of the latter
        self._closing = self._urgent = False
        self._brought = self._taken = self._done = 0  # pieces, those that are done just now
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="tapes", daemon=True)
        self._thread.start()

    def put(self, size: int, work: Callable[[], None]) -> None:
        """Have a piece done that holds so many bytes. Raises what an earlier one has raised."""
        with self._changed:
            self._changed.wait_for(
                lambda: not self._size or self._size + size <= self._most or self._failed is not None
            )
            self._check()
            before, self._size = self._size, self._size + size
            self._waiting.append(work)
            self._brought += 1
            if len(self._waiting) == 1 or before < self._enough <= self._size:
                self._changed.notify_all()

    def settle(self) -> None:
        """Wait until all is done that was brought so far. Raises what a piece has raised."""
        with self._changed:
            brought, self._urgent = self._brought, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._done >= brought or self._failed is not None)
            self._urgent = False
            self._check()

    def close(self) -> None:
        """Wait until all is done. Raises what a piece has raised."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._check()

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        while some := self._next():
            try:
                for work in some:
                    work()
            except BaseException as error:  # raised where the next is brought
                with self._changed:
                    self._failed = error
                    self._changed.notify_all()
                return
            finally:
                some.clear()

    def _next(self) -> list[Callable[[], None]]:
        """What is to be done next; nothing: all is done."""
        with self._changed:
            self._size, self._doing = self._size - self._doing, 0
            self._done += self._taken
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._closing)
            self._changed.wait_for(
                lambda: self._size >= self._enough or self._closing or self._urgent, self._seconds
            )
            some, self._waiting, self._doing = self._waiting, [], self._size
            self._taken = len(some)
            return some


def read_tape(source: Source) -> Iterator[tuple[int, bytes | None]]:
    """The messages of a tape with their numbers, as far as it goes; None for one that was left out.

    Raises ModelError for what is no tape.
    """
    while True:
        head = _read(source, _HEAD.size)
        if head is None:
            return
        number, how, size = _HEAD.unpack(head)
        if how not in (_PLAIN, _PACKED, _LEFT_OUT) or size > (MOST if how != _LEFT_OUT else 0):
            raise ModelError("the tape is damaged")
        if how == _LEFT_OUT:
            yield number, None
            continue
        content = _read(source, size)
        if content is None:
            return
        yield number, content if how == _PLAIN else _unpacked(content)


def _unpacked(content: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        payload = unpacking.decompress(content, MOST)
    except zlib.error:
        raise ModelError("the tape is damaged") from None
    if not unpacking.eof:
        raise ModelError("the tape is damaged")
    return payload


def _read(source: Source, size: int) -> bytes | None:
    """So many bytes; None where the file ends before."""
    content = source.read(size) if size else b""
    return content if len(content) == size else None
