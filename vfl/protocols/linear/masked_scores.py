"""Hosts' parts of scores, which the guest may know the sum of: in fixed point, behind masks that cancel.

A host multiplies its scores by a precision that all parties know, rounds them to integers modulo 2^64
and adds masks that cancel in the sum over all hosts (common/fellows.py). With one host there are none.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Words
from vfl.blocks.means import stretches
from vfl.net.peer import Peer
from vfl.net.wire import KIB, Message
from vfl.protocols.common.fellows import Masks
from vfl.protocols.linear.masked_numbers import divergence

_LARGEST = 2.0**56  # of a host's score as an integer, so that the sum over hosts does not wrap
_ROWS = 1 << 20  # of a message of scores at most
_FIXED_BITS = 40  # scores are integers modulo 2^64: their precision, relative to a direction's length


class ScoreChange(Message, frozen=True):
    """host -> guest, scores behind masks that cancel in the sum of all hosts. Reveals: how the hosts'
    columns together change each row's score along the direction (with one host, this host's); under
    an l1_ratio a direction may be of a single column, whose values it then is up to a factor."""

    scores: bytes  # uint64 little-endian, fixed point modulo 2^64
    limit: ClassVar[int] = 8 * _ROWS + KIB
    per_row = ("scores", 64)


class HeldOutScores(Message, frozen=True):
    """host -> guest, behind masks that cancel in the sum of all hosts. Reveals: the hosts' total part of
    the score of each row held out (with one host, this host's)."""

    scores: bytes  # uint64 little-endian, fixed point modulo 2^64
    limit: ClassVar[int] = 8 * _ROWS + KIB
    per_row = ("scores", 64)


async def send_scores(
    guest: Peer,
    kind: type[ScoreChange] | type[HeldOutScores],
    scores: Floats,
    precision: float,
    masks: Masks,
    covers: Sequence[Words] = (),
) -> None:
    """Scores in fixed point behind masks, in parts; covers: what is added beside (across.py)."""
    hidden = fixed_point(scores, precision)
    hidden += masks.draw(len(scores))
    for cover in covers:
        hidden += cover
    for first in range(0, len(hidden), _ROWS):
        await guest.send(kind(hidden[first : first + _ROWS].astype("<u8").tobytes()))


def fixed_point(scores: Floats, precision: float) -> NDArray[np.uint64]:
    """Multiples of the precision's inverse, modulo 2^64. Raises ConfigError for what is beyond them."""
    integers = np.empty(len(scores), np.int64)
    for some in stretches(len(scores)):
        rounded = np.rint(scores[some] * precision)
        if not np.abs(rounded).max() <= _LARGEST:
            raise divergence("scores")
        integers[some] = rounded
    return integers.view(np.uint64)


async def receive_scores(
    host: Peer, kind: type[ScoreChange] | type[HeldOutScores], rows: int
) -> NDArray[np.uint64]:
    scores = np.empty(rows, np.uint64)
    for first in range(0, rows, _ROWS):
        message = await host.recv(kind)
        if len(message.scores) != 8 * min(_ROWS, rows - first):
            raise host.breach(f"{kind.__name__} of another number of rows than there are")
        scores[first : first + _ROWS] = np.frombuffer(message.scores, "<u8")
    return scores


def total_of(shares: Sequence[NDArray[np.uint64]], rows: int, precision: float) -> Floats:
    """The sum of all hosts' scores, in which their masks cancel; shape (rows,)."""
    total = np.empty(rows)
    for some in stretches(rows):
        added = np.zeros(len(total[some]), np.uint64)
        for share in shares:
            added += share[some]
        total[some] = added.view(np.int64) / precision
    return total


def precision_of(length: float) -> float:
    """What scores are multiplied by and rounded that lie along a direction, or a way, of this length.

    In coordinates in which columns have unit variance: there it is about the spread of the scores.
    """
    return 2.0 ** (_FIXED_BITS - math.frexp(max(length, 2.0**-450))[1])


def length_of(size: float, precision: float) -> float:
    """The length of a step, up to a factor of two, as all parties know it."""
    return abs(size) * 2.0**_FIXED_BITS / precision
