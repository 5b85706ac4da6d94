"""How far an inference is, for who looks on: stages weighed by about what each takes."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal

Stage = Literal["with guest", "between hosts", "gathered", "rotated", "back", "opened"]

OF = 100
"""What is told is in hundredths."""

# Milliseconds on one core, measured with a key of 2048 bits; only their proportions count.
_ENCRYPTED = 0.4  # a share
_PRODUCT = 0.03  # of an entry with one of a basis
_SUMMED = 1e-4  # of a vector, a row


class InferenceProgress:
    """Tells how much is done. columns: of each party, the guest's first."""

    def __init__(self, tell: Callable[[int, int], None], columns: Sequence[int], rows: int) -> None:
        own, *hosts = columns
        size = sum(hosts)
        rotation = _PRODUCT * size**3

        def shared(vectors: float, ciphertexts: float) -> float:
            return _SUMMED * rows * vectors + _ENCRYPTED * ciphertexts

        self._weights: dict[Stage, list[float]] = {
            "with guest": [shared(3 * own + 3, 3 * own * one + 2 * one**2) for one in hosts],
            "between hosts": [shared(6 * (a + b), 12 * a * b) for a, b in combinations(hosts, 2)],
            "gathered": [_PRODUCT * one**2 * (own + size) for one in hosts[1:]],
            "rotated": [3 * rotation],
            "back": [rotation],
            "opened": [_ENCRYPTED * one**2 / 2 for one in hosts],
        }
        self._tell, self._total = tell, sum(map(sum, self._weights.values()))
        tell(0, OF)

    def done(self, stage: Stage, count: int | None = None) -> None:
        """So many parts of a stage are done, all where there is no count, and the stages before."""
        stages = [*self._weights]
        before = sum(sum(self._weights[one]) for one in stages[: stages.index(stage)])
        reached = before + sum(self._weights[stage][:count])
        self._tell(min(OF, int(OF * reached / self._total)) if self._total else OF, OF)
