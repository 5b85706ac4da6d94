"""What is said while a guest looks rows up in a host's sealed directory: a request and an answer
each."""

from typing import Annotated, ClassVar

import msgspec

from vfl.crypto import group, voprf
from vfl.net.wire import KIB, MIB, Message, Seconds
from vfl.protocols.lookup.directory import DIGEST, MOST_BITS, SALT, Element, ShortText

POINTS = 8192  # of a message at most
CATALOGUE = 16_384  # parts of the catalogue a message
PARTS = 1 * MIB  # bytes of entries a message
ASKED = 65_536  # parts that are asked for in a message, however small they are
PartNumber = Annotated[int, msgspec.Meta(ge=0, lt=1 << MOST_BITS)]
Reason = Annotated[str, msgspec.Meta(max_length=2000)]


class AskDirectory(Message, frozen=True):
    """guest -> host. Reveals: that the guest wants to know the newest sealed directory."""


class SealedDirectory(Message, frozen=True):
    """host -> guest, signed by the host. Reveals: of its sealed directory the version, when it was made,
    how many rows and ids it has, the rules of the ids, a digest by which to tell a changed table from
    the same; which of the host's splits are the same and which way each sends a missing value, or the
    part of the score of a row of missing values, and names of columns that the host shows; how many
    lookups a minute its policy allows."""

    header: bytes
    signature: Annotated[bytes, msgspec.Meta(max_length=256)]
    most_a_minute: Annotated[int, msgspec.Meta(ge=0)] = 0  # 0: any number
    limit: ClassVar[int] = 24 * MIB


class AskCatalogue(Message, frozen=True):
    """guest -> host. Reveals: that the guest fetches this version of the directory."""

    version: ShortText
    first: PartNumber


class CatalogueRows(Message, frozen=True):
    """host -> guest. Reveals: how many entries each part of the directory has, and digests, by which the
    guest sees which parts are not as in the version that it has."""

    counts: bytes  # uint32 little-endian, one a part
    salts: bytes
    digests: bytes
    gone: bool = False  # another version has taken its place
    limit: ClassVar[int] = CATALOGUE * (4 + SALT + DIGEST) + KIB


class AskParts(Message, frozen=True):
    """guest -> host. Reveals: which parts of the directory the guest lacks."""

    version: ShortText
    parts: bytes  # uint32 little-endian, ascending
    limit: ClassVar[int] = 1 * MIB


class SealedParts(Message, frozen=True):
    """host -> guest, entries of the parts asked for, in their order. Reveals: nothing of any row;
    entries are random to who has not looked their id up. Beside an older version, which tags came and
    went, and in which parts anything changed."""

    entries: bytes
    gone: bool = False
    limit: ClassVar[int] = 4 * PARTS


class LookUp(Message, frozen=True):
    """guest -> host, a blinded id each. Reveals: how many ids are looked up, and under which of the
    directory's keys; to who lacks the guest's scalars the ids are random."""

    key: Element
    points: bytes
    limit: ClassVar[int] = POINTS * group.POINT + KIB
    per_row = ("points", 8 * group.POINT)


class LookedUp(Message, frozen=True):
    """host -> guest, the same times the directory's secret key, and a proof of it. Reveals: the host's
    secret function of the ids that were looked up, by which the guest reads their rows' parts of the
    model in this version of the directory and in others under the same key; the newest version."""

    points: bytes
    proof: Annotated[bytes, msgspec.Meta(max_length=voprf.PROOF)]
    version: ShortText
    limit: ClassVar[int] = POINTS * group.POINT + KIB
    per_row = ("points", 8 * group.POINT)


class NotLookedUp(Message, frozen=True):
    """host -> guest. Reveals: the rule of the host's policy that forbids what is asked for, and when it
    may be asked again."""

    reason: Reason
    seconds: Seconds = 0  # after which it is allowed again; 0: not in a minute
    until_tomorrow: bool = False
    renewed: bool = False  # the directory has another key by now


class LookupEnd(Message, frozen=True):
    """guest -> host. Reveals: that the guest looks nothing up any more."""
