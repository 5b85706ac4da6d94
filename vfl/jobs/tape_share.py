"""Tapes of a share of a run's steps: which trees a host keeps, and what of the others it leaves out.

With a number s as `[party] tape` a host of trees keeps what came encrypted, a row each, of a share of
trees alone. Tree k, counted from 0 in the run, is kept if a number below 2^64, drawn from the run's
secret with the purpose "steps kept on tape" and the place k, is below s * 2^64. The host has committed
to secret and share before the run began; who lacks the secret cannot tell which trees those are.

Of a tree that is not kept all that is short is on the tape all the same: which rows are drawn, which of
the host's candidates won, which rows are asked about. So a replay plays each tree, knows what the host
knew after it, and compares all messages but those that say what was added up.

All else is kept whole. What a guest, a coordinator and those of a job over rows get is short (sums, not
rows), and a guest's tree follows from all those before it. Masks among the hosts of a linear model are
drawn from all that the guest has sent (common/transcript.py), so that no iteration of it can be played
without those before. Other kinds of runs have no steps.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from vfl.crypto.randomness import Randomness
from vfl.jobs.audit_draw import TREES
from vfl.jobs.commitments import Opening
from vfl.jobs.offer import Terms
from vfl.net.wire import Message, encode
from vfl.protocols.common.lattice_sums import LEFT_OUT_SUMS as SUMS
from vfl.protocols.common.lattice_sums import LEFT_OUT_VECTORS
from vfl.protocols.common.participant import LooksAt
from vfl.protocols.trees.grower import TreeEnd, TreeKept
from vfl.protocols.trees.paillier_messages import LEFT_OUT, LEFT_OUT_MASKED, LEFT_OUT_SUMS
from vfl.text import counted

_TASKS = ("train", "worth", "tune")  # in which trees grow
_RECEIVED: dict[str, Message] = {type(one).__name__: one for one in (LEFT_OUT, LEFT_OUT_VECTORS)}
LONG = frozenset(_RECEIVED)
"""The types of messages that are kept of a share of trees."""
SENT: tuple[Message, ...] = (LEFT_OUT_SUMS, LEFT_OUT_MASKED, SUMS)
"""Stand in a replay for what a host has sent of steps that are not kept."""


class KeptSteps(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of which trees of a run a host's tape has all."""

    share: float  # that was to be kept
    steps: int  # of the run
    kept: list[int]  # counted from 0

    def __str__(self) -> str:
        kept = ", ".join(f"{step + 1:,}" for step in self.kept) or "none"
        return f"{len(self.kept):,} of {counted(self.steps, 'tree')} ({kept})"


class StepsOnTape:
    """Which steps of a run a party keeps, by its secret."""

    def __init__(self, secret: bytes, share: float) -> None:
        self._drawn, self._below = Randomness(secret), int(share * 2.0**64)
        self._known: list[bool] = []  # by step
        self.share = share

    def keeps(self, step: int) -> bool:
        """Whether a step is kept, counted from 0."""
        while len(self._known) <= step:
            drawn = self._drawn.at("steps kept on tape", len(self._known))(8)
            self._known.append(int.from_bytes(drawn, "big") < self._below)
        return self._known[step]

    def of(self, steps: int) -> KeptSteps | None:
        """Those of a run of so many steps; None: it has none."""
        if not steps:
            return None
        return KeptSteps(self.share, steps, [step for step in range(steps) if self.keeps(step)])


class Walk:
    """What comes from the guest in a run, message after message."""

    def __init__(self, keeps: LooksAt) -> None:
        self._keeps, self._inside = keeps, False  # whether a step goes on
        self.steps = 0  # that have begun

    def leaves_out(self, kind: str) -> bool:
        """Whether the next message, of this type, is left out."""
        if kind in TREES:
            self.steps, self._inside = self.steps + 1, True
        elif kind == TreeEnd.__name__:
            self._inside = False
        return self._inside and kind in _RECEIVED and not self._keeps(self.steps - 1)


def steps_on_tape(terms: Terms, party: str, opening: Opening) -> StepsOnTape | None:
    """Which steps of a run a party keeps; None: all of it."""
    share: Any = opening.settings.get("tape")
    is_host = terms.guest != party and party in terms.signers and terms.alignment is not None
    if share is None or not is_host or terms.task not in _TASKS:
        return None
    return StepsOnTape(opening.secret, float(share))


def places_left_out(keeps: LooksAt, kinds: Iterable[str]) -> tuple[set[int], int]:
    """Which of the messages from the guest, by their types, are left out, by place; and the steps."""
    walk = Walk(keeps)
    return {place for place, kind in enumerate(kinds) if walk.leaves_out(kind)}, walk.steps


def stand_in(kind: str) -> bytes:
    """The payload that stands for a message of this type that was left out."""
    return encode(_RECEIVED[kind])


def kept_but_missing(steps: KeptSteps, sent: Iterable[tuple[str, bool]]) -> int | None:
    """The first tree, counted from 0, that is among these steps and of which a replay lacks a message of
    the host's. `sent`: the types of these in order, and whether the replay lacks each."""
    trees, kept = 0, frozenset(steps.kept)
    for kind, lacks in sent:
        if lacks and trees in kept:
            return trees
        trees += kind == TreeKept.__name__
    return None


class OverTrainings:
    """The steps of the trainings of a run, one training after the other, counted on: `LooksAt`."""

    def __init__(self, kept: StepsOnTape) -> None:
        self._kept = kept
        self._first = self._next = 0

    def __call__(self, step: int) -> bool:
        if not step:
            self._first = self._next
        self._next = self._first + step + 1
        return self._kept.keeps(self._first + step)
