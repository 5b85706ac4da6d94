"""Tapes: what arrived from a peer in a run, message after message, in a file of the party's store.

An entry has the number of the message among those of all peers, in the order in which they arrived, how
it is written, and its payload: as it is, or by zlib where that makes it smaller. A file without an end,
as a killed process leaves it, is read as far as it goes.
"""

import struct
import zlib
from collections.abc import Iterator

from vfl.errors import ModelError
from vfl.party.at_rest import Sink, Source

_HEAD = struct.Struct(">QBI")  # number, how it is written, bytes of what follows
_PLAIN, _PACKED = 0, 1
_SAMPLE = 4096  # bytes by which is found whether packing is worth it
_WORTH = 0.9
_LEVEL = 1  # of zlib: a tape must not slow the run down
MOST = 64 << 20  # bytes of a message, twice what any may have


class TapeWriter:
    """Writes the tape of one peer."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.bytes = 0

    def add(self, number: int, payload: bytes) -> None:
        """Write a message down. Raises what the sink raises."""
        how, content = _written(payload)
        head = _HEAD.pack(number, how, len(content))
        self._sink.write(head)
        self._sink.write(content)
        self.bytes += len(head) + len(content)


def read_tape(source: Source) -> Iterator[tuple[int, bytes]]:
    """The messages of a tape with their numbers, as far as it goes.

    Raises ModelError for what is no tape.
    """
    while True:
        head = _read(source, _HEAD.size)
        if head is None:
            return
        number, how, size = _HEAD.unpack(head)
        if how not in (_PLAIN, _PACKED) or size > MOST:
            raise ModelError("the tape is damaged")
        content = _read(source, size)
        if content is None:
            return
        yield number, content if how == _PLAIN else _unpacked(content)


def _written(payload: bytes) -> tuple[int, bytes]:
    sample = payload[:_SAMPLE]
    if len(zlib.compress(sample, _LEVEL)) >= _WORTH * len(sample):
        return _PLAIN, payload
    packed = zlib.compress(payload, _LEVEL)
    return (_PACKED, packed) if len(packed) < len(payload) else (_PLAIN, payload)


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
