"""The messages of a linear model's fit between the guest and each host (fitting.py), in their order."""

from typing import Annotated, ClassVar

import msgspec

from vfl.net.peer import Peer
from vfl.net.wire import KIB, Message
from vfl.protocols.linear.masked_numbers import received


class FitNext(Message, frozen=True):
    """guest -> host. Reveals: that another iteration follows; how many bits products with the rounded
    residuals can have, which tells how far residuals are from a gradient's size."""

    bits: Annotated[int, msgspec.Meta(ge=2, le=128)] = 2  # of those with columns of 0 and 1


class NextPenalty(Message, frozen=True):
    """guest -> host. Reveals: that another fit begins, with which of the job's penalties, and whether
    from nothing; of the last one, which of them the guest has chosen by rows left out of the others."""

    alpha: float
    anew: bool  # from nothing, else from the present coefficients
    chosen: bool  # whether this is the fit that is kept


class InnerProducts(Message, frozen=True):
    """host -> guest, behind masks that cancel in the sum of all hosts. Reveals: the inner products of
    the hosts' parts of past steps, changes of the gradient and the gradient, and their gradient's
    length, all hosts together (with one host, this host's); under an l1_ratio of the columns that are
    free in this iteration."""

    products: bytes  # of a square's upper triangle, row by row; the square of the length
    limit: ClassVar[int] = 16 * KIB


class Combine(Message, frozen=True):
    """guest -> host. Reveals: with which weights the vectors combine, and how long the direction is;
    both depend on the sums of all parties' inner products."""

    weights: list[float]
    precision: float  # scores travel as multiples of its inverse


class PenaltyProducts(Message, frozen=True):
    """host -> guest, behind masks that cancel in the sum of all hosts. Reveals: the products of the
    hosts' direction with their coefficients and with itself, which the penalty needs, all hosts
    together (with one host, this host's); under an l1_ratio with the change of the sum of their
    magnitudes; with credibility times the hosts' own penalties."""

    products: bytes


class Step(Message, frozen=True):
    """guest -> host. Reveals: how far to go along the direction."""

    size: float


class FitEnd(Message, frozen=True):
    """guest -> host. Reveals: that the fit has ended, and whether it converged."""

    converged: bool


class FitKept(Message, frozen=True):
    """host -> guest. Reveals: that the host has kept its half of the model."""


async def receive_numbers(
    host: Peer, kind: type[InnerProducts] | type[PenaltyProducts], count: int
) -> list[int]:
    """So many numbers of a host, behind its masks."""
    message = await host.recv(kind)
    try:
        return received(message.products, count)
    except ValueError as error:
        raise host.breach(f"{kind.__name__} with {error}") from None
