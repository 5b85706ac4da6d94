"""What the answers of the package have in common: randomness that is given, bytes as arrays."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reference.data import data

Given = dict[str, Any]
Answer = Callable[[Given], object]


class Answers(dict[str, Answer]):
    """What the package answers to cases, by their names."""

    def of(self, case: str) -> Callable[[Answer], Answer]:
        """Enter a function."""

        def enter(answer: Answer) -> Answer:
            self[case] = answer
            return answer

        return enter


def rows(encoded: Iterable[bytes]) -> NDArray[np.uint8]:
    """Bytes of one length as an array."""
    listed = list(encoded)
    return np.frombuffer(bytearray().join(listed), np.uint8).reshape(len(listed), -1)


def hexes(array: NDArray[np.uint8]) -> list[str]:
    return [bytes(row).hex() for row in array]


def drawing(*numbers: int) -> Callable[[int], int]:
    """A generator of random bits that gives these numbers, one after the other."""
    left = list(numbers)

    def draw(bits: int) -> int:
        assert left[0] < 1 << bits
        return left.pop(0)

    return draw


def fixed(*values: bytes) -> Callable[[int], bytes]:
    """Entropy that gives these bytes."""
    left = list(values)

    def draw(count: int) -> bytes:
        assert len(left[0]) == count
        return left.pop(0)

    return draw


def number(text: str) -> int:
    return int.from_bytes(data(text), "big")
