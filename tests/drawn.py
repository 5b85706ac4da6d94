"""Random numbers of a run that a test fixes, whatever they are for."""

from vfl.crypto.randomness import Entropy, Place, Randomness, Stream


class _Drawn(Stream):
    def __init__(self, source: Entropy) -> None:
        self._draw = source


class Drawn(Randomness):
    """All streams draw from one source, in the order of drawing."""

    def __init__(self, source: Entropy) -> None:
        super().__init__()
        self._source = source

    def at(self, purpose: str, *place: Place) -> Stream:
        return _Drawn(self._source)

    def part(self, purpose: str, *place: Place) -> Randomness:
        return self
