"""Sealed directories: a host's part of a model for each row of its table, to be read one row at a time.

For a model and one guest the host draws a secret key k of VOPRF(ristretto255, SHA-512), F
(crypto/voprf). An entry stands for an id y of the host's table by one of its keys:

    tag || part XOR pad      with (tag, seed) = Hash(context, F(number of the key, y)), pad = Hash(salt,
    seed)

Where rows have several keys, a match of a whole batch (align/join.py) takes each of the host's rows
once, by the first key that finds it, and leaves out ids that several open rows have. So there an entry
begins with its row's handle, a keyed hash of all its ids, by which the guest sees that a row was taken
by an earlier key. An id that several rows have has no entry of its own. It has hints, one a row: a hash
of the row's handle; and for each of these rows an entry that is found, and opened, only by who knows
the handles of all the others, since it has found them by earlier keys. (From key to key a row's handle
is hashed once more: what was found by a later key opens nothing by an earlier one.)

Entries are sorted by tag and cut into parts by the first bits of it. A part has a salt of its own, drawn
when it was last written, and a digest; the catalogue lists both, and the host signs a header with the
catalogue's digest. So a guest that has an older directory under the same key fetches only the parts that
it lacks, in any order, and each is checked by itself.

Who lacks k sees random bytes: F is pseudorandom where it was not asked for. The guest, which has the
file and asks for F at an id of its own (lookup.py), finds that id's entry and opens it.

What one directory shows the guest: how many entries there are, and how the parts are packed (layout.py).
What the next one shows beside it, under the same key: tags that came and went, and which parts of some
hundred entries were written anew since anything in them changed, but not which entry: all of its pads
are others. A part that did not change is the same bytes; one that did has another salt, so that no two
texts lie under one pad.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes, Integers
from vfl.crypto import group
from vfl.crypto.digests import digests
from vfl.kernels import is_compiled, kernel
from vfl.protocols.lookup.layout import PartLayout

TAG = 12  # bytes: of 100 million entries, some id that has none is taken for one with 2^-69
HANDLE = 12
SALT = 8
MOST_ALIKE = 65_535  # rows with the same id, beyond which none of them can be found by it
DIGEST = 32
MOST_BITS = 20
MOST_ENTRIES = 2_000_000_000
MOST_PART = 1 << 12
"""Bytes of a host's part of one row, at most."""
MOST_OF_PART = 1024  # entries, on average
_LARGE = 128 << 10  # bytes of a part, at most on average
_LARGEST = 4095 << 10  # bytes of a part: one message takes it, and memory whatever a host says
CLOCKS_APART = timedelta(hours=1)
"""How far ahead of another party's a clock may be: else a directory could be made for a day to come, so
that it never seems old."""
SEED = 32
_PAD = 64  # bytes of a pad that one hash makes
_MANY = 64  # tags that are worth the compiler
_LONG = 1024  # bytes of an id from which on its hash stands for it

VERSION = r"^[0-9]{8}-[0-9]{6}-[0-9a-f]{6}\Z"
Version = Annotated[str, msgspec.Meta(pattern=VERSION)]
"""When a directory was made, and random digits: it names a file of the guest's."""
ShortText = Annotated[str, msgspec.Meta(max_length=64)]
Steps = Annotated[str, msgspec.Meta(max_length=64)]
Element = Annotated[bytes, msgspec.Meta(min_length=group.POINT, max_length=group.POINT)]
Hash = Annotated[bytes, msgspec.Meta(min_length=DIGEST, max_length=DIGEST)]
KeyRule = Annotated[list[Steps], msgspec.Meta(max_length=1000)]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a directory is; the host signs it."""

    model: ShortText
    host: ShortText
    guest: ShortText
    version: Version
    made: datetime  # from the table as it was then, UTC
    key: Element  # public
    entries: Annotated[int, msgspec.Meta(ge=0, le=MOST_ENTRIES)]
    rows: Annotated[int, msgspec.Meta(ge=0, le=MOST_ENTRIES)]  # of the table that have an id
    rules: Annotated[list[KeyRule], msgspec.Meta(min_length=1, max_length=8)]  # of ids, by key
    columns: Annotated[list[int], msgspec.Meta(min_length=1, max_length=8)]  # of the id, by key
    bits: Annotated[int, msgspec.Meta(ge=0, le=MOST_BITS)]  # of a tag that name its part
    handle: Literal[0, 12]  # bytes of a row's handle in each entry
    missing: Annotated[bytes, msgspec.Meta(max_length=MOST_PART)]
    same: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=1 << 22)]
    shown: Annotated[
        list[Annotated[str, msgspec.Meta(max_length=300)]], msgspec.Meta(max_length=MOST_PART)
    ]
    unknown_levels: Annotated[int, msgspec.Meta(ge=0, le=MOST_ENTRIES)]
    """Rows with a level that was not in training, if these are more than chance makes."""
    table: Hash  # of ids and parts under a key of the host's: the same for the same table alone
    catalogue: Hash

    @property
    def layout(self) -> PartLayout:
        """How the parts are packed."""
        return PartLayout(self.missing, tuple(self.same), tuple(self.shown))

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return 1 << self.bits

    @property
    def width(self) -> int:
        """Bytes of an entry."""
        return TAG + self.handle + len(self.missing)

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return self.entries * self.width

    @property
    def context(self) -> bytes:
        """What tags and pads are bound to, the same for all versions under a key."""
        named = b"".join(
            len(part).to_bytes(2, "big") + part
            for part in (*(n.encode() for n in (self.model, self.host, self.guest)), self.key)
        )
        return hashlib.blake2b(named, digest_size=16, person=b"vfl directory").digest()


def encode_header(header: Header) -> bytes:
    """The bytes that are signed, behind `statement`'s first words, and sent."""
    return msgspec.msgpack.encode(header)


def decode_header(content: bytes) -> Header:
    """The way back. Raises ValueError for what is no header, or not written as one."""
    try:
        header = msgspec.msgpack.decode(content, type=Header)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ValueError("a header that is none") from None
    if encode_header(header) != content or header.made.tzinfo is None:
        raise ValueError("a header that is written in another way")
    if len(header.rules) != len(header.columns):
        raise ValueError("a header with rules of another number of keys")
    if header.handle != handle_size(len(header.rules)):
        raise ValueError("a header with handles of another size")
    try:
        group.multiply(np.frombuffer(header.key, np.uint8).reshape(1, -1), _ONE)
    except group.InvalidPoint:
        raise ValueError("a header whose key is no element") from None
    return header


_ONE = (1).to_bytes(group.SCALAR, "little")


def statement(header: bytes) -> bytes:
    """What the host's identity signs."""
    return b"vfl directory\0" + hashlib.sha256(header).digest()


@dataclass(frozen=True)
class Catalogue:
    """Of each part how many entries it has, its salt and its digest."""

    counts: NDArray[np.uint32]  # shape (parts,)
    salts: Bytes  # shape (parts, SALT)
    digests: Bytes  # shape (parts, DIGEST)

    @property
    def digest(self) -> bytes:
        """What the header names it by."""
        counts = self.counts.astype("<u4").tobytes()
        return hashlib.sha256(counts + self.salts.tobytes() + self.digests.tobytes()).digest()

    @cached_property
    def starts(self) -> Integers:
        """The entry with which each part starts, and last how many there are: shape (parts + 1,)."""
        return np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])

    def fault(self, header: Header) -> str | None:
        """Why it is not the header's; None if it is."""
        if len(self.counts) != header.parts or int(self.counts.sum(dtype=np.int64)) != header.entries:
            return "of another number of parts or entries"
        if int(self.counts.max()) * header.width > _LARGEST:
            return "with a part that no message takes"
        return None if self.digest == header.catalogue else "of another digest"


def digest_of_part(content: bytes | memoryview) -> bytes:
    """The digest of a part's entries."""
    return hashlib.blake2b(content, digest_size=DIGEST, person=b"vfl dir part").digest()


def bits_for(entries: int, width: int, most: int = MOST_OF_PART) -> int:
    """Into how many parts of at most so many entries on average, of this width, they are cut: the bits
    of a tag that name one."""
    full = max(1, min(most, _LARGE // width))
    return min(MOST_BITS, max(0, -(-entries // full) - 1).bit_length())


def inputs_of(key: int, ids: Sequence[bytes]) -> list[bytes]:
    """What F is asked for of ids by the key of this number."""
    plain, hashed = bytes([key]), bytes([key | 0x80])
    return [plain + one if len(one) <= _LONG else hashed + hashlib.sha512(one).digest() for one in ids]


def tags_and_seeds(context: bytes, outputs: Bytes, which: bytes = b"") -> tuple[Bytes, Bytes]:
    """The tags (n, TAG) and the seeds of the pads (n, 32) that come of F, shape (n, 64).

    which: nothing for the entry of an id that one row has; else `hint` or `locked`.
    """
    both = digests(rows=outputs, domain=b"vfl lookup", prefix=context + which, size=64)
    return both[:, :TAG], both[:, -SEED:]


def handle_size(keys: int) -> Literal[0, 12]:
    """Bytes of a handle, where rows have so many keys."""
    return 0 if keys == 1 else 12


def handle_of(secret: bytes, ids: Sequence[bytes | None]) -> bytes:
    """The handle of a row in entries by the first key: a hash of its ids by all keys, None where it has
    none, under the host's key."""
    named = b"".join(b"\0" if one is None else b"\1" + len(one).to_bytes(4, "big") + one for one in ids)
    return hashlib.blake2b(named, digest_size=HANDLE, key=secret, person=b"vfl dir handle").digest()


def next_handle(handle: bytes) -> bytes:
    """A row's handle as entries by the next key have it: from one of a later key none before it
    follows."""
    return hashlib.blake2b(handle, digest_size=HANDLE, person=b"vfl dir next").digest()


def hint_of(handle: bytes) -> bytes:
    """What tells who knows a row's handle that it is this row."""
    return hashlib.blake2b(handle, digest_size=HANDLE, person=b"vfl dir hint").digest()


def hint(number: int) -> bytes:
    """`which` of the hints of an id that several rows have, counted from 0."""
    return b"h" + number.to_bytes(2, "big")


def locked(others: Iterable[bytes]) -> bytes:
    """`which` entry of such an id is the row's beside which there are those of these handles alone."""
    joined = b"".join(sorted(others))
    return b"l" + hashlib.blake2b(joined, digest_size=16, person=b"vfl dir lock").digest()


def pads(seeds: Bytes, salts: Bytes, size: int) -> Bytes:
    """What lies over parts of so many bytes, shape (n, size), by the salt of each."""
    rows = np.concatenate([salts, seeds], axis=1)
    blocks = [
        digests(rows=rows, domain=b"vfl lookup pad", prefix=bytes([number]), size=_PAD)
        for number in range(-(-size // _PAD))
    ]
    return np.concatenate([np.empty((len(seeds), 0), np.uint8), *blocks], axis=1)[:, :size]


def numbers_of_parts(tags: Bytes, bits: int) -> Integers:
    """Which part each tag belongs to, shape (n,)."""
    first = np.ascontiguousarray(tags[:, :4]).view(">u4")[:, 0].astype(np.int64)
    return first >> (32 - bits)


def sorted_by_tag(tags: Bytes) -> Integers:
    """The order of tags, shape (n,)."""
    high = np.ascontiguousarray(tags[:, :8]).view(">u8")[:, 0]
    low = np.ascontiguousarray(tags[:, 8:TAG]).view(">u4")[:, 0]
    return np.lexsort((low, high)).astype(np.int64)


def find_entries(entries: Bytes, starts: Integers, tags: Bytes, numbers: Integers) -> Integers:
    """Where each tag is among the entries of its part, -1 where it is not there, shape (n,).

    starts: the entry with which each part starts, and last how many there are. Of several entries with
    a tag the first counts.
    """
    if len(tags) >= _MANY or is_compiled(_find_entries):
        places = np.empty(len(tags), np.int64)
        _find_entries(np.asarray(entries), starts, np.ascontiguousarray(tags), numbers, places)
        return places
    found = []
    for tag, number in zip(tags, numbers.tolist(), strict=True):
        part = entries[starts[number] : starts[number + 1], :TAG]
        hits = np.flatnonzero((part == tag).all(axis=1))
        found.append(int(starts[number] + hits[0]) if len(hits) else -1)
    return np.array(found, np.int64)


def prepare() -> None:
    """Load what finds entries, so that few of them are found by it, too."""
    none = np.empty((0, TAG), np.uint8)
    none.flags.writeable = False  # as a file that is mapped into memory
    _find_entries(none, np.zeros(2, np.int64), np.empty((0, TAG), np.uint8), _NONE, _NONE)


_NONE = np.empty(0, np.int64)


@kernel
def _find_entries(
    entries: Bytes, starts: Integers, tags: Bytes, numbers: Integers, places: Integers
) -> None:
    for row in range(len(tags)):
        places[row] = -1
        for at in range(starts[numbers[row]], starts[numbers[row] + 1]):
            same = 0
            while same < tags.shape[1] and entries[at, same] == tags[row, same]:
                same += 1
            if same == tags.shape[1]:
                places[row] = at
                break
