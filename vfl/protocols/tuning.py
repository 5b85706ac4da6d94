"""A search for settings: which trial comes next, told to every host.

1. Guest and hosts have agreed on a job, a space of its settings and how many trials there may be. The
   guest says with which settings of that space the next trial is made.
2. Its trainings are made one after the other, as those of any job with these settings (trees/, linear/);
   each host drops its half. Then 1 again.
3. The guest says that no further trial comes, and hosts that they have heard it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec

from vfl.net.peer import Peer, together
from vfl.net.wire import Message

_NAME = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]{1,32}\Z")]


class NextTrial(Message, frozen=True):
    """guest -> host. Reveals: that a trial begins, its number and its settings, which are of the space
    that was agreed on; over many trials which of them the guest found to be good."""

    number: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
    settings: Annotated[dict[_NAME, int | float], msgspec.Meta(max_length=64)]


class SearchEnd(Message, frozen=True):
    """Either -> either. Reveals: that no further trial comes; the host's own, that it keeps no part of
    any model of them."""


async def tell_trial(hosts: Sequence[Peer], number: int, settings: Mapping[str, int | float]) -> None:
    """The guest's part of 1."""
    await together([host.send(NextTrial(number, dict(settings))) for host in hosts])


async def tell_end(hosts: Sequence[Peer]) -> None:
    """The guest's part of 3."""
    await together([host.send(SearchEnd()) for host in hosts])
    await together([host.recv(SearchEnd) for host in hosts])


async def hear_trial(
    guest: Peer, number: int, has: Callable[[Mapping[str, object]], bool]
) -> Mapping[str, int | float] | None:
    """A host's part of 1 and 3: the settings of the trial of that number, None after the last.

    `has`: whether settings are of the space. Raises PeerError for another trial or other settings.
    """
    told = await guest.recv(NextTrial, SearchEnd)
    if isinstance(told, SearchEnd):
        await guest.send(SearchEnd())
        return None
    if told.number != number:
        raise guest.breach("a NextTrial of another number")
    if not has(told.settings):
        raise guest.breach("a NextTrial with settings that were not agreed on")
    return told.settings
