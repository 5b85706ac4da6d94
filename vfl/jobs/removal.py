"""Removing what a party keeps: what goes, what follows from it, and who may be using it now.

What was counted stays: sums that were told about rows, labels that could have been read, bytes that were
sent, draws that were taken. Nobody begins anew by having something removed.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vfl.errors import ModelError, Refused
from vfl.jobs.activity import find_processes
from vfl.jobs.storage import who_is_online, who_serves
from vfl.party.files import unwritable
from vfl.party.locks import present
from vfl.party.store import Store


@dataclass(frozen=True)
class Removal:
    """What would go, and what there is to say of it."""

    name: str
    what: str  # "model", for one
    parts: list[tuple[str, list[Path]]]  # each in words, with its files
    notes: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """All that would go."""
        return [path for _, files in self.parts for path in files]

    @property
    def bytes(self) -> int:
        """How much room that makes."""
        return size_of(self.files)


def size_of(files: Iterable[Path]) -> int:
    """Bytes of files, as far as they are there."""
    total = 0
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def check_in_full(given: str, name: str, what: str) -> None:
    """Raises ModelError where a person has named what is found, but not by its own name."""
    if given != name:
        raise ModelError(
            f"{given} is no {what}'s whole name, and stands for the newest one, {name}: name the one to "
            "remove in full"
        )


def check_unused(store: Store, what: str, name: str) -> None:
    """Raises Refused while a command that may use it works in the store."""
    for process in find_processes(store).running:
        for job in process.jobs:
            if name in job.about or not (job.about or job.task == "align"):
                raise Refused(
                    f"{what} {name} may be in use: {process.holder} is at work; wait until it has ended"
                )
    serving = who_serves(store.root)
    online = who_is_online(store.root)
    if busy := serving or online:
        raise Refused(
            f"{what} {name} may be in use: {busy} runs in the store; end that first, and start it again "
            "afterwards"
        )


@contextlib.contextmanager
def while_unused(store: Store, what: str, name: str) -> Iterator[None]:
    """The block, in which it is removed. A command that begins meanwhile waits.

    Raises Refused as `check_unused`, DataError where the files cannot be removed.
    """
    try:
        with present(store.root):
            check_unused(store, what, name)
            yield
    except OSError as error:
        raise unwritable(f"{what} {name} cannot be removed", error) from None
