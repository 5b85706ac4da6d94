"""Who plays a role in a protocol, and with what."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vfl.crypto.randomness import OF_SYSTEM, Randomness
from vfl.crypto.workers import ONE_PROCESS, Machine, Operations

Sign = Callable[[bytes], bytes]
# (who signed, signature, data); raises a VflError, ValueError or InvalidSignature.
Verify = Callable[[str, bytes, bytes], None]


@dataclass(frozen=True)
class Resources:
    """What a party lends to arithmetic under encryption, where its operations are counted, and where its
    random numbers come from."""

    machine: Machine = ONE_PROCESS
    operations: Operations | None = None
    randomness: Randomness = OF_SYSTEM


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
