"""What each partner's data is worth: the figures of a guest's page, told to every host that took part.

The figures are of models over some of the hosts, which the guest trains on the same rows one after the
other as any other (trees/, linear/); no party keeps a part of them.
"""

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

import msgspec

from vfl.learn.worth import MEASURES, Measure, Sense, subsets
from vfl.net.peer import Peer, together
from vfl.net.wire import KIB, Message

_SENSES: tuple[Sense, ...] = ("model", "added", "left_out")
_MOST = 64  # hosts
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class WorthFigure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A measure of a model over some hosts, by their place among those of the job, or a difference."""

    sense: Sense
    hosts: Annotated[list[Annotated[int, msgspec.Meta(ge=0, lt=_MOST)]], msgspec.Meta(max_length=_MOST)]
    measure: Measure
    value: float
    low: float | None = None
    high: float | None = None


class WorthFigures(Message, frozen=True):
    """guest -> host. Reveals: what the guest's page says: how many rows of the guest's table there are,
    how many of them are aligned, train and are held out, and in how many policies; of the guest alone
    and of models with some hosts each the share of the deviance explained, the Gini index and, where the
    guest has a present premium, the loss ratio of its better half by that of all, with intervals, and
    what each host adds to them."""

    table: _Count
    aligned: _Count
    train: _Count
    held_out: _Count
    policies: _Count
    draws: _Count
    figures: Annotated[list[WorthFigure], msgspec.Meta(max_length=1000)]
    limit: ClassVar[int] = 256 * KIB


async def tell_worth(hosts: Sequence[Peer], told: WorthFigures) -> None:
    """The guest's part."""
    await together([host.send(told) for host in hosts])


async def hear_worth(guest: Peer, hosts: Sequence[str], aligned: int) -> WorthFigures:
    """A host's part. Raises PeerError for figures of other models, or that are none."""
    told = await guest.recv(WorthFigures)
    if told.aligned != aligned or aligned > told.table or told.train + told.held_out > aligned:
        raise guest.breach("WorthFigures of other rows than are aligned")
    if told.policies > told.held_out:
        raise guest.breach("WorthFigures of more policies than rows")
    places = {name: place for place, name in enumerate(hosts)}
    models = [[], *([places[name] for name in some] for some in subsets(hosts))]
    single = [[place] for place in places.values()]
    may = {"model": models, "added": single, "left_out": single}
    seen = set()
    for one in told.figures:
        if one.hosts not in may[one.sense]:
            raise guest.breach("WorthFigures of other hosts than those of the job")
        seen.add((one.sense, tuple(one.hosts), one.measure))
        numbers = [number for number in (one.value, one.low, one.high) if number is not None]
        apart = (one.low is None) != (one.high is None)
        if apart or not all(map(math.isfinite, numbers)):
            raise guest.breach("WorthFigures with what is no number")
    if len(seen) < len(told.figures):
        raise guest.breach("WorthFigures with a figure twice")
    return told


def in_order(figures: Sequence[WorthFigure]) -> list[WorthFigure]:
    """Figures as pages have them: models first, those of fewer hosts before those of more."""
    return sorted(
        figures,
        key=lambda one: (
            _SENSES.index(one.sense),
            len(one.hosts),
            one.hosts,
            MEASURES.index(one.measure),
        ),
    )
