"""The messages of paillier.py."""

from typing import Annotated, ClassVar

import msgspec

from vfl.crypto.packing import SumPacking
from vfl.errors import Refused
from vfl.net.wire import CIPHERTEXT, MIB, Message, Seconds
from vfl.text import counted

_MOST_CANDIDATES = 1 << 20  # of a host in a tree: 2,000 columns of 255 bins
_MOST_NODES = 1 << 10  # of a level


class TreeStart(Message, frozen=True):
    """guest -> host. Reveals: which aligned rows are drawn for this tree (and so which are held out); of
    a job of several classes which class the tree is of, by its number, not its name. With goss_top these
    are the rows with large gradients and some others: over the trees hosts see which rows the model
    finds hard, with rare claims those that claimed."""

    tree: int
    active: bytes  # a bit an aligned row
    limit: ClassVar[int] = 16 * MIB
    per_row = ("active", 1)


class Gradients(Message, frozen=True):
    """guest -> host. Reveals: nothing to who lacks the key; encrypted gradients of drawn rows."""

    ciphertexts: bytes
    limit: ClassVar[int] = 4 * MIB
    per_row = ("ciphertexts", CIPHERTEXT)


LEFT_OUT = Gradients(b"")
"""Stands in a replay for gradients that it does not look at, or that were not kept; no run sends it: a
tree has rows."""


class CandidateSums(Message, frozen=True):
    """host -> guest. Reveals: gradient sums left of shuffled, unlabelled split candidates; which of them
    have enough rows; which of them split the known values of monotone columns, not which columns these
    are nor whether they increase or decrease; whether the host keeps the sums of a node and its sibling
    to itself, as it has told so much about their rows; the time it took, in whole seconds."""

    node: int
    candidates: Annotated[int, msgspec.Meta(ge=0, le=_MOST_CANDIDATES)]
    valid: bytes  # a bit a candidate: may be taken in the summed child
    sibling_valid: bytes  # the same for its sibling
    ciphertexts: bytes
    seconds: Seconds
    ordered: bytes  # a bit a candidate sent, at the root: is it of a monotone column; empty if none is
    withheld: bool = False  # the sums of both
    limit: ClassVar[int] = 16 * MIB


LEFT_OUT_SUMS = CandidateSums(-1, 0, b"", b"", b"", 0.0, b"")
"""Stands in a replay for the sums of a node whose gradients were not kept; no node has this number."""


def check_candidates(candidates: int, packing: SumPacking, width: int) -> None:
    """Raises Refused for more candidates of a node than CandidateSums hold the sums of."""
    room = CandidateSums.limit - MIB  # beside which of them may be taken
    most = room // width * packing.slots
    if candidates > most:
        raise Refused(
            f"{counted(candidates, 'split candidate')} of a node are more than the {most:,} whose sums "
            'a message holds: lower max_bins, use fewer columns of this party, or encryption = "lattice"'
        )


class MaskedCandidates(Message, frozen=True):
    """host -> guest, where sums are hidden. Reveals: about how many split candidates the host has; the
    time it took, in whole seconds. The sums are under masks that only the coordinator can take off."""

    node: int
    ciphertexts: bytes
    seconds: Seconds
    more: bool = False  # follow, of the node
    limit: ClassVar[int] = 16 * MIB


LEFT_OUT_MASKED = MaskedCandidates(-1, b"", 0.0)
"""The same where sums are hidden."""


class WonNodes(Message, frozen=True):
    """guest -> host, where sums are hidden. Reveals: in which nodes this host's candidates won."""

    nodes: Annotated[list[int], msgspec.Meta(min_length=1, max_length=_MOST_NODES)]
    limit: ClassVar[int] = MIB


class Winners(Message, frozen=True):
    """guest -> host. Reveals: in which nodes this host's candidates won, and which candidates tie."""

    candidates: Annotated[dict[int, list[int]], msgspec.Meta(max_length=_MOST_NODES)]
    limit: ClassVar[int] = 4 * MIB


class Advance(Message, frozen=True):
    """guest -> host. Reveals: which rows share a node of the next level; best-first, of the nodes that
    gain most."""

    split: Annotated[list[int], msgspec.Meta(max_length=_MOST_NODES)]
    left: bytes  # a bit an aligned row
    limit: ClassVar[int] = 16 * MIB
    per_row = ("left", 1)
