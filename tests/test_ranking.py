"""Candidates ranked by gain, against plain loops."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vfl.protocols.trees.ranking import Ranks

GAINS = st.lists(st.sampled_from([-np.inf, 0.5, 1.0, 1.5, 2.0]), max_size=12)


def plain(gains: list[float]) -> list[list[int]]:
    """Candidates of equal gain, the best first."""
    values = sorted({gain for gain in gains if gain > -np.inf}, reverse=True)
    return [[i for i, gain in enumerate(gains) if gain == value] for value in values]


@given(GAINS, st.integers(0, 5), st.integers(0, 5))
def test_groups_are_of_equal_gain_and_dropped_from_the_best_on(
    gains: list[float], dropped: int, asked: int
) -> None:
    expected, ranks = plain(gains), Ranks(0, np.array(gains, np.float64))
    assert len(ranks) == len(expected) and ranks.groups(len(ranks)) == expected
    ranks.drop(min(dropped, len(expected)))
    left = expected[dropped:]
    assert len(ranks) == len(left) and bool(ranks) == bool(left)
    assert ranks.groups(min(asked, len(left))) == left[:asked]
    assert [ranks.gain(i) for i in range(len(left))] == [gains[group[0]] for group in left]


@given(st.lists(GAINS, min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 4))
def test_a_group_is_ahead_by_gain_then_by_party(every: list[list[float]], at: int, most: int) -> None:
    ranks = [Ranks(party, np.array(gains, np.float64)) for party, gains in enumerate(every)]
    own, others = ranks[at % len(ranks)], [rank for i, rank in enumerate(ranks) if i != at % len(ranks)]
    others = [rank for rank in others if rank]
    ahead = 0
    for group in plain(every[own.party])[:most]:
        gain = every[own.party][group[0]]
        if any((other.gain(), -other.party) > (gain, -own.party) for other in others):
            break
        ahead += 1
    assert own.ahead_of(others, most) == ahead
