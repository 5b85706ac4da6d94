"""Who plays a role in a protocol, and with what."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vfl.crypto.randomness import OF_SYSTEM, Place, Randomness
from vfl.crypto.workers import ONE_PROCESS, Machine, Operations
from vfl.protocols.common.clock import Say, as_measured

Sign = Callable[[bytes], bytes]
# (who signed, signature, data); raises a VflError, ValueError or InvalidSignature.
Verify = Callable[[str, bytes, bytes], None]


LooksAt = Callable[[int], bool]
"""Whether a replay looks at a step of a run, counted from 0: a tree. Of others a guest need not encrypt
anything again, and a host has not kept what came encrypted."""


def every_step(_: int) -> bool:
    return True


@dataclass(frozen=True)
class Resources:
    """What a party lends to arithmetic under encryption, where its operations are counted, where its
    random numbers come from, what it says of the time it takes, and in a replay which steps are looked
    at."""

    machine: Machine = ONE_PROCESS
    operations: Operations | None = None
    randomness: Randomness = OF_SYSTEM
    say: Say = as_measured
    looks_at: LooksAt = every_step

    def part(self, purpose: str, *place: Place) -> "Resources":
        """The same, with the random numbers of a part of the run (`Randomness.part`)."""
        return replace(self, randomness=self.randomness.part(purpose, *place))


def _uncounted(guest: str, columns: int) -> None:
    return


@dataclass(frozen=True)
class Participant:
    """A host among the others of a job."""

    name: str
    hosts: Sequence[str] = ()
    """The names of all hosts as the job has them."""
    context: bytes = b""
    """Names the run, the same at all parties; runs of different contexts cannot be joined."""
    sign: Sign | None = None
    """Signs this host's fresh key. Without `sign` and `verify` a guest that does not follow the protocol
    can sit between two hosts."""
    verify: Verify | None = None
    """Checks another host's key, and raises."""
    minimum: int = 1
    """The least number of rows that the host's policy allows what a role says of it."""
    resources: Resources = Resources()
    count_columns: Callable[[str, int], None] = _uncounted
    """Counts columns of a guest, by its name, before figures of them tell it of this host's rows. Raises
    Refused for too many."""

    def part(self, purpose: str, *place: Place) -> "Participant":
        """The same for a part of the run, as of Resources."""
        return replace(self, resources=self.resources.part(purpose, *place))

    def looking_at(self, looks_at: LooksAt) -> "Participant":
        """The same of a run that is over, of which these steps are looked at."""
        return replace(self, resources=replace(self.resources, looks_at=looks_at))

    @property
    def uncounted(self) -> "Participant":
        """The same, which counts nothing: of a run that is over, and counted."""
        return replace(self, count_columns=_uncounted)

    def asking(self, sign: Sign, say: Say) -> "Participant":
        """The same, which signs, and says how long it took, as these do."""
        return replace(self, sign=sign, resources=replace(self.resources, say=say))
