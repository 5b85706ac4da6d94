"""Random numbers of a run that follow a given source, as known answers and seeded tests have it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import NoReturn
from unittest import mock

from vfl.crypto import randomness
from vfl.crypto.randomness import Entropy, Place, Randomness, Stream
from vfl.jobs.connect import Site


class _Given(Stream):
    def __init__(self, entropy: Entropy) -> None:
        super().__init__()
        self._draw = entropy


class Drawn(Randomness):
    """Every stream goes on where the last one ended in `entropy`, whatever it is for."""

    def __init__(self, entropy: Entropy) -> None:
        super().__init__()
        self._entropy = entropy

    def at(self, purpose: str, *place: Place) -> Stream:
        return _Given(self._entropy)

    def part(self, purpose: str, *place: Place) -> Randomness:
        return self


def seeded(seed: int) -> Randomness:
    """The random numbers of a run with a secret that a test can name."""
    return Randomness(seed.to_bytes(32, "big"))


@contextmanager
def nothing_from_the_system() -> Iterator[set[tuple[str, bytes]]]:
    """Jobs of this process while the operating system gives no random numbers to what is of a run; which
    runs of which parties have begun. Each is to ask for its random numbers once."""
    begun: set[tuple[str, bytes]] = set()

    def randomness_of(site: Site, run: bytes) -> Randomness:
        own = site.party.name, run
        assert own not in begun, "random numbers of a run that were asked for before"
        begun.add(own)
        return Randomness(hashlib.sha256(own[0].encode() + run).digest())

    def refuse(count: int) -> NoReturn:
        raise AssertionError("random numbers of the operating system in place of the run's")

    with (
        mock.patch.object(Site, "randomness_of", randomness_of),
        mock.patch.object(randomness, "secrets", SimpleNamespace(token_bytes=refuse)),
    ):
        yield begun
