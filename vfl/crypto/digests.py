"""BLAKE2b (RFC 7693) of millions of short messages, one digest each.

The digests are hashlib's to the byte. hashlib takes a Python call and 0.6 us for each message and keeps
the interpreter's lock; the kernels take less and run on all cores: one for messages that end within a
block, eight at a time (`blake2b.py`), one for others. Few messages go to hashlib, so that nobody waits
for a compiler.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes, Words
from vfl.blocks.cores import spread
from vfl.blocks.texts import join, text_sizes
from vfl.kernels import inlined, is_at_hand, kernel

FEW = 4096  # messages that are left to hashlib
MANY = 1 << 19  # over which it takes as long as it takes to compile a kernel
_BLOCK = 128

_IV = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    np.uint64,
)
# The order of the message's words in each round (RFC 7693, section 2.7).
_SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
    ],
    np.int64,
)


def digests(
    ids: Sequence[bytes] | None = None,
    rows: Bytes | None = None,
    *,
    domain: bytes,
    key: bytes = b"",
    prefix: bytes = b"",
    salt: bytes = b"",
    size: int = 32,
) -> Bytes:
    """The digest of `prefix`, then row i of `rows`, then ids[i], for each i: uint8 (n, size).

    rows: uint8 (n, any width). One of `ids` and `rows` may be missing. domain: up to 16 bytes, the
    hash's `person`; salt: up to 16 bytes; key: up to 64 bytes.
    """
    count = len(ids) if ids is not None else len(rows) if rows is not None else 0
    if rows is not None and len(rows) != count:
        raise ValueError("one row for each id is due")
    # A key is a block of its own before the message.
    first = (key.ljust(_BLOCK, b"\0") if key else b"") + prefix
    if count >= FEW:
        messages = _Messages.of(ids, rows, first)
        if count >= MANY or messages.kernel_at_hand:
            # The parameter block: RFC 7693, section 2.5.
            parameters = bytes([size, len(key), 1, 1]).ljust(32, b"\0") + salt.ljust(16, b"\0")
            parameters += domain.ljust(16, b"\0")
            return _by_kernels(messages, _IV ^ np.frombuffer(parameters, np.uint64), first, size)
    out = np.empty((count, size), np.uint8)
    begun = hashlib.blake2b(prefix, digest_size=size, person=domain, salt=salt, key=key)
    _by_hashlib(ids, rows, begun, out)
    return out


def compile_kernels() -> None:
    """Compile what hashes many messages that end within a block."""
    _by_kernels(_Messages.of([b""], np.zeros((1, 32), np.uint8), b""), _IV, b"", 32)


@dataclass(frozen=True)
class _Messages:
    """What is hashed, without what all begin with."""

    ids: Sequence[bytes] | None
    rows: Bytes | None
    ends: NDArray[np.int64]  # of the ids, joined
    in_a_block: bool  # whether what comes after shared blocks fits one and is not empty

    @classmethod
    def of(cls, ids: Sequence[bytes] | None, rows: Bytes | None, first: bytes) -> "_Messages":
        """Of messages that begin with `first`."""
        count = len(ids) if ids is not None else len(rows) if rows is not None else 0
        ends = np.zeros(count + 1, np.int64)
        if ids is not None:
            np.cumsum(text_sizes(ids), out=ends[1:])
        width = 0 if rows is None else rows.shape[1]
        lengths = np.diff(ends) + (len(first) % _BLOCK + width)
        return cls(ids, rows, ends, bool(0 < lengths.min() <= lengths.max() <= _BLOCK))

    @property
    def kernel_at_hand(self) -> bool:
        """Whether the kernel for them compiles nothing more."""
        # numba takes a second to import.
        from vfl.crypto import blake2b

        return is_at_hand(blake2b.digest_blocks if self.in_a_block else _digests)


def _by_kernels(messages: _Messages, state: Words, first: bytes, size: int) -> Bytes:
    """Digests, of `size` bytes, of what follows `first` under a state."""
    ids, rows, ends = messages.ids, messages.rows, messages.ends
    count = len(ends) - 1
    out = np.empty((count, size), np.uint8)
    before = np.frombuffer(bytearray(first + b"\0"), np.uint8)[:-1]
    # A copy of what cannot be written to or lies apart, so that a kernel is compiled for one kind.
    fixed = np.empty((count, 0), np.uint8) if rows is None else np.require(rows, None, ["C", "W"])
    joined = np.frombuffer(bytearray(join(ids or [])) or bytearray(1), np.uint8)

    shared = len(before) // _BLOCK * _BLOCK
    if not messages.in_a_block:

        def part(start: int, stop: int) -> None:
            some = slice(start, stop)
            _digests(state, before, fixed[some], joined, ends[start : stop + 1], out[some])

        spread(part, count)
        return out
    # numba takes a second to import.
    from vfl.crypto.blake2b import digest_last_blocks

    begin, rest = before[:shared].view(np.uint64), before[shared:]
    found = np.empty((count, -(-size // 8)), np.uint64)
    in_words = not (len(rest) % 8 or fixed.shape[1] % 8)
    wide = fixed.view(np.uint64) if in_words else np.empty((count, 0), np.uint64)
    narrow = np.empty((count, 0), np.uint8) if in_words else fixed

    def last_blocks(start: int, stop: int) -> None:
        some, between = slice(start, stop), ends[start : stop + 1]
        digest_last_blocks(state, begin, rest, wide[some], narrow[some], joined, between, found[some])

    spread(last_blocks, count)
    return np.ascontiguousarray(found.view(np.uint8)[:, :size])


def _by_hashlib(
    ids: Sequence[bytes] | None, rows: Bytes | None, begun: "hashlib.blake2b", out: Bytes
) -> None:
    encoded = b"" if rows is None else rows.tobytes()
    width, texts = 0 if rows is None else rows.shape[1], None if ids is None else iter(ids)
    for i in range(len(out)):
        digest = begun.copy()
        digest.update(encoded[width * i : width * (i + 1)])
        if texts is not None:
            digest.update(next(texts))
        out[i] = np.frombuffer(digest.digest(), np.uint8)


@kernel
def _digests(
    state: Words,
    before: Bytes,
    rows: Bytes,
    joined: Bytes,
    ends: NDArray[np.int64],
    out: Bytes,
) -> None:
    """Digests of before || rows[i] || joined[ends[i]:ends[i + 1]]."""
    buffer = np.zeros(_BLOCK, np.uint8)
    words = buffer.view(np.uint64)
    # Whole blocks that all messages begin with are taken once; then more of each must follow.
    shared = len(before) // _BLOCK * _BLOCK
    middle = state.copy()
    for start in range(0, shared, _BLOCK):
        buffer[:] = before[start : start + _BLOCK]
        _compress(middle, words, start + _BLOCK, False)
    now = state.copy()
    digest = now.view(np.uint8)
    width, size = rows.shape[1], out.shape[1]
    for i in range(len(out)):
        first, last = ends[i], ends[i + 1]
        total = len(before) + width + last - first
        begin = shared if total > shared else 0
        now[:] = middle if total > shared else state
        while True:
            for k in range(_BLOCK):
                at = begin + k
                if at < len(before):
                    buffer[k] = before[at]
                elif at < len(before) + width:
                    buffer[k] = rows[i, at - len(before)]
                elif at < total:
                    buffer[k] = joined[first + at - len(before) - width]
                else:
                    buffer[k] = 0
            begin += _BLOCK
            _compress(now, words, min(begin, total), begin >= total)
            if begin >= total:
                break
        out[i] = digest[:size]


@kernel
def _compress(h: Words, m: Words, count: int, final: bool) -> None:
    """The function F of RFC 7693, section 3.2."""
    v0, v1, v2, v3, v4, v5, v6, v7 = h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]
    v8, v9, v10, v11 = _IV[0], _IV[1], _IV[2], _IV[3]
    v12, v13, v14, v15 = _IV[4] ^ np.uint64(count), _IV[5], _IV[6], _IV[7]
    if final:
        v14 = ~v14
    for turn in range(12):
        s = _SIGMA[turn]
        v0, v4, v8, v12 = _mix(v0, v4, v8, v12, m[s[0]], m[s[1]])
        v1, v5, v9, v13 = _mix(v1, v5, v9, v13, m[s[2]], m[s[3]])
        v2, v6, v10, v14 = _mix(v2, v6, v10, v14, m[s[4]], m[s[5]])
        v3, v7, v11, v15 = _mix(v3, v7, v11, v15, m[s[6]], m[s[7]])
        v0, v5, v10, v15 = _mix(v0, v5, v10, v15, m[s[8]], m[s[9]])
        v1, v6, v11, v12 = _mix(v1, v6, v11, v12, m[s[10]], m[s[11]])
        v2, v7, v8, v13 = _mix(v2, v7, v8, v13, m[s[12]], m[s[13]])
        v3, v4, v9, v14 = _mix(v3, v4, v9, v14, m[s[14]], m[s[15]])
    h[0] ^= v0 ^ v8
    h[1] ^= v1 ^ v9
    h[2] ^= v2 ^ v10
    h[3] ^= v3 ^ v11
    h[4] ^= v4 ^ v12
    h[5] ^= v5 ^ v13
    h[6] ^= v6 ^ v14
    h[7] ^= v7 ^ v15


@inlined
def _mix(
    a: np.uint64, b: np.uint64, c: np.uint64, d: np.uint64, x: np.uint64, y: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    a = a + b + x
    d = _turn(d ^ a, 32)
    c = c + d
    b = _turn(b ^ c, 24)
    a = a + b + y
    d = _turn(d ^ a, 16)
    c = c + d
    b = _turn(b ^ c, 63)
    return a, b, c, d


@inlined
def _turn(word: np.uint64, right: int) -> np.uint64:
    return (word >> np.uint64(right)) | (word << np.uint64(64 - right))
