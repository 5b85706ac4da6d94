"""Large frames of binary messages, taken out of a WebSocket connection's bytes and put into them with as
little copying as there can be (RFC 6455, section 5).

All else is left to who parses frames one by one: short frames, texts, what closes, what is no frame.
"""

import struct
from dataclasses import dataclass

import numpy as np
from websockets.frames import Opcode

try:
    from websockets.speedups import apply_mask
except ImportError:  # where there is no wheel
    from websockets.utils import apply_mask

LARGE = 16 * 1024  # bytes of a frame that is taken out here
LONGEST_HEAD = 14
_PARTS = 32  # of a message, for as many of which room is made at once
_FIN, _RESERVED, _MASKED, _OPCODE, _LENGTH = 0x80, 0x70, 0x80, 0x0F, 0x7F
_TWO_BYTES, _EIGHT_BYTES = 126, 127  # follow and are the length
_OPCODES = {int(one): one for one in Opcode}


@dataclass(frozen=True)
class Head:
    """What a frame says of itself."""

    opcode: Opcode | None  # None: there is none of this number
    fin: bool
    length: int
    mask: bytes | None  # None: its four bytes have not arrived
    size: int  # bytes of the head
    is_regular: bool  # no reserved bit, masked if it has to be

    @classmethod
    def parse(cls, data: bytes | bytearray, masked: bool) -> "Head | None":
        """The head that bytes begin with; None where more must arrive to tell its length."""
        if len(data) < 2:
            return None
        first, second = data[0], data[1]
        length, at = second & _LENGTH, 2
        if length in (_TWO_BYTES, _EIGHT_BYTES):
            at = 4 if length == _TWO_BYTES else 10
            if len(data) < at:
                return None
            length = int.from_bytes(data[2:at], "big")
        mask: bytes | None = b""
        if masked:
            mask, at = bytes(data[at : at + 4]) if len(data) >= at + 4 else None, at + 4
        regular = not first & _RESERVED and bool(second & _MASKED) == masked
        return cls(_OPCODES.get(first & _OPCODE), bool(first & _FIN), length, mask, at, regular)


def head_of(opcode: int, fin: bool, length: int, mask: bytes) -> bytes:
    """The head of a frame; without a mask it is not masked."""
    first, flag = opcode | _FIN * fin, _MASKED if mask else 0
    if length < _TWO_BYTES:
        return bytes([first, flag | length]) + mask
    if length < 1 << 16:
        return struct.pack("!BBH", first, flag | _TWO_BYTES, length) + mask
    return struct.pack("!BBQ", first, flag | _EIGHT_BYTES, length) + mask


def unmask(part: memoryview, mask: bytes) -> None:
    """Take a mask off, in place."""
    whole = len(part) // 8 * 8
    words = np.frombuffer(part[:whole], np.uint64)
    np.bitwise_xor(words, np.frombuffer(2 * mask, np.uint64), out=words)
    part[whole:] = apply_mask(part[whole:], mask)


class Arriving:
    """A message that arrives in large frames, each byte in its place at once."""

    def __init__(self, expected: int) -> None:
        """`expected`: about how many bytes it may have, for which room is made with its first frame if
        that is no small part of them."""
        self._content = memoryview(b"")
        self._expected = expected
        self._whole = 0  # bytes of frames that have arrived
        self._length = self._left = 0  # of the one that arrives; bytes of it that are to come
        self._mask = b""
        self._fin = False

    @property
    def size(self) -> int:
        """Bytes of all its frames that have begun."""
        return self._whole + self._length

    @property
    def in_frame(self) -> bool:
        """Whether more of a frame is to come."""
        return self._left > 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing more is to come."""
        return self._fin and not self._left

    def begin(self, frame: Head) -> None:
        """Take a frame whose content follows."""
        self._length = self._left = frame.length
        self._fin, self._mask = frame.fin, frame.mask or b""
        if not any(self._mask):
            self._mask = b""
        room, size = len(self._content), self.size
        if size > room:
            # At once: where it grew with each part, all before would be moved each time.
            expected = min(self._expected, _PARTS * size)
            most = expected if expected >= size else max(size, 2 * room)
            before = self._content
            self._content = _room(size if self._fin else most)
            self._content[: self._whole] = before[: self._whole]
        self._end_frame()

    @property
    def room(self) -> memoryview:
        """Where what is to come of the frame has to be put."""
        return self._content[self.size - self._left : self.size]

    def take(self, count: int) -> None:
        """Hear that so many bytes were put there."""
        self._left -= count
        self._end_frame()

    def add(self, data: memoryview) -> memoryview:
        """Take the frame's content out of what has arrived; what is left of that."""
        part = data[: self._left]
        self.room[: len(part)] = part
        self.take(len(part))
        return data[len(part) :]

    def _end_frame(self) -> None:
        if self._left:
            return
        if self._mask:
            unmask(self._content[self._whole : self.size], self._mask)
        self._whole, self._length = self.size, 0

    def result(self) -> memoryview:
        """The message."""
        found = self._content[: self._whole].toreadonly()
        is_kept = 8 * len(found) >= 7 * len(self._content)
        return found if is_kept else memoryview(bytes(found))  # in no more memory than it needs


def _room(size: int) -> memoryview:
    """Bytes that are not cleared before they are written."""
    return np.empty(size, np.uint8).data
