"""The group's kernels, loaded beforehand for who is asked again and again."""

import random

import numpy as np
import pytest

from vfl.crypto import group, ristretto
from vfl.crypto.ristretto import Kernels


def test_who_has_the_kernels_loaded_gives_them_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "_least", group._MANY)
    monkeypatch.setattr(group, "_side_by_side", None)
    assert [group.would_gain(rows) for rows in (1, 63, 64, 4095, 4096)] == [
        False,
        False,
        True,
        True,
        False,
    ]
    rows = 70
    points = group.hash_to_group([bytes([i]) for i in range(rows)], b"tests")
    scalars = np.frombuffer(b"".join(group.random_scalar() for _ in range(rows)), np.uint8).reshape(
        rows, 32
    )

    def results() -> list[bytes]:
        one = scalars[0].tobytes()
        return [
            group.hash_to_group([bytes([i]) for i in range(rows)], b"tests").tobytes(),
            group.multiply(points, one).tobytes(),
            group.multiply_each(points, scalars).tobytes(),
            group.weighted_sum(points, scalars),
        ]

    before = results()
    group.prepare()
    assert not group.would_gain(rows)
    kernels = ristretto.fastest()
    if kernels is not None:
        least = 2 if kernels.layout.lanes == 8 else 64
        assert group._kernels(least) is not None and group._kernels(least - 1) is None
    assert results() == before
    broken = points.copy()
    broken[65] = 255
    with pytest.raises(group.InvalidPoint) as error:
        group.multiply(broken, scalars[0].tobytes())
    assert error.value.index == 65


@pytest.mark.parametrize("kernels", [None, ristretto.fastest()])
def test_several_sums_at_once_are_each_what_libsodium_adds_up(
    kernels: Kernels | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    elements = [bytes(row) for row in group.hash_to_group([bytes([i]) for i in range(9)], b"tests")]
    numbers = [1, group.ORDER - 1, int("8" * 60, 16), int("7" * 63, 16), *range(2, 9)]

    def term() -> tuple[bytes, bytes]:
        number = rng.choice(numbers) if rng.random() < 0.5 else rng.randrange(1, group.ORDER)
        return rng.choice(elements), number.to_bytes(32, "little")

    sums = [[term() for _ in range(rng.randrange(1, 5))] for _ in range(19)]  # of several turns
    one, minus = (number.to_bytes(32, "little") for number in (1, group.ORDER - 1))
    sums += [[(elements[0], one), (elements[0], minus)], [(elements[0], one), (elements[0], one)]]
    expected = []
    for terms in sums:
        total = bytes(32)
        for element, scalar in terms:
            row = np.frombuffer(element, np.uint8).reshape(1, 32)
            total = group.add(total, group._multiply(row, scalar, None).tobytes())
        expected.append(total)
    assert expected[-2] == bytes(32)  # the identity
    monkeypatch.setattr(group, "_side_by_side", kernels)
    assert group.weighted_sums(sums) == expected
    for wrong in (bytes(32), b"\xff" * 32):
        with pytest.raises(group.InvalidPoint) as error:
            group.weighted_sums([*sums[:11], [*sums[0], (wrong, one)], *sums[:3]])
        assert error.value.index == 11
    for none in (bytes(32), group.ORDER.to_bytes(32, "little"), b"1"):
        with pytest.raises(ValueError, match="scalar"):
            group.weighted_sums([[(elements[0], none)]])
    with pytest.raises(ValueError, match="an element is 32 bytes"):
        group.weighted_sums([[(elements[0][:31], one)]])
