"""Random numbers of a run that follow a given source, as known answers and seeded tests have it."""

from vfl.crypto.randomness import Entropy, Place, Randomness, Stream


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
