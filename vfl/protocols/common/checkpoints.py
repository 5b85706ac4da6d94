"""Where a long protocol can go on after its process was killed.

A protocol of many steps (trees, iterations) has, for each role that holds data, a *state* after a step:
all that the next one needs beside the party's own table and the job. At the end of a step every host
keeps its state before it says that it is done, and the guest its own once all hosts have: so whoever is
killed at any time, a host has kept the guest's last step or the one after it, and with its last two
states it can go on from the guest's last one. A state holds no key: who goes on makes a new one, and
since all sums under encryption are exact the model is, bit for bit, the one of an uninterrupted run.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class State(Protocol):
    """What a role keeps of a step. A dataclass of numbers, text, lists and arrays, never changed."""

    @property
    def done(self) -> int:
        """Steps done, at least one."""


S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Checkpoints(Generic[S]):
    """The state to go on from (None: from the beginning), and what keeps later ones."""

    last: S | None = None
    write: Callable[[S], None] | None = None

    @property
    def done(self) -> int:
        """Steps that need not be done again."""
        return 0 if self.last is None else self.last.done

    async def keep(self, state: S) -> None:
        """Keep a state, safe from a power cut once this returns. Raises what `write` raises."""
        if self.write is None:
            return
        await to_the_end(self.write, state)


async def to_the_end(write: Callable[..., None], *arguments: object) -> None:
    """Call in a thread. Whoever is cancelled meanwhile ends when the call has: else it would meet
    whoever goes on from the state before."""
    writing = asyncio.ensure_future(asyncio.to_thread(write, *arguments))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise
