"""Linear models replay: each role sends the same from the same secret, and nothing of another's."""

from collections.abc import Iterator

import pytest
import roles
from replayed_roles import Make, again, check_replays, live, sent
from roles import GUEST, HOSTS

from vfl.crypto.workers import Machine

RUNS: dict[str, tuple[Make, set[str]]] = {
    "under Paillier's encryption": (
        lambda lent: roles.fitting("paillier", lent=lent),
        {"FellowKey", "FellowKeys", "Residuals", "MaskedProducts", "OpenedProducts", "ScoreChange"},
    ),
    "several fits": (
        lambda lent: roles.fitting("paillier", several=True, max_iterations=1, lent=lent),
        {"FellowKey", "Residuals", "MaskedProducts", "OpenedProducts", "InnerProducts"},
    ),
    "with a coordinator": (
        lambda lent: roles.hidden_fitting("logistic", lent),
        {"FellowKey", "MaskSecret", "ScorePart", "HiddenResiduals", "BlindGradient", "Slope"},
    ),
    "of counts with a coordinator": (
        lambda lent: roles.hidden_fitting("poisson", lent),
        {"MaskSecret", "ScorePart", "HiddenResiduals", "BlindGradient", "PartyProducts"},
    ),
}


@pytest.fixture
def quick() -> Iterator[None]:
    with roles.in_memory():
        yield


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", RUNS)
def test_each_role_sends_the_same_again(name: str) -> None:
    make, random = RUNS[name]
    once, other = sent(check_replays(make)), sent(live(make, seed=2))
    assert once.keys() == other.keys() and {*once} >= random
    for kind in random:
        assert not once[kind] & other[kind], kind


def test_workers_and_spare_time_change_nothing() -> None:
    """A run in one process, in which nothing is made in spare time, and with more."""
    make, _ = RUNS["under Paillier's encryption"]
    tapes = live(make)
    for party in (GUEST, HOSTS[0]):
        assert again(make, tapes, party, machine=Machine(workers=2)) > 5
