"""Linear models replay: each role sends the same from the same secret, and nothing of another's."""

import pytest
import roles
from replayed_roles import Make, again, check_replays, live, quick
from roles import GUEST, HOSTS

from vfl.crypto.workers import Machine

HINTED = {"HintAgreed", "HintOffered", "HintHeader", "HintPart", "HintProducts", "Vectors", "VectorSums"}
TRANSFERRED = {"TransferKeys", "TransferChoices", "ExtensionColumns"}
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
    "over the lattice engine": (
        lambda lent: roles.fitting("lattice", lent=lent),
        {*HINTED, "OpenedSums", "InnerProducts", "ScoreChange", "HeldOutScores"},
    ),
    "pairs of levels of two parties": (
        lambda lent: roles.fitting_across("paillier", lent),
        {*TRANSFERRED, "LevelResiduals", "OpenedByLevel", "LevelWords"},
    ),
    "pairs of levels over the lattice engine": (
        lambda lent: roles.fitting_across("lattice", lent),
        {*HINTED, *TRANSFERRED, "OpenedCellSums", "LevelWords"},
    ),
    "standard errors": (
        lambda lent: roles.fitting("paillier", infers=True, lent=lent),
        {*HINTED, "WeightPart", "Encrypted", "RotatedInformation", "Relayed", "MaskedCovariance"},
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name == "standard errors" else []) for name in RUNS],
)
def test_each_role_sends_the_same_again(name: str) -> None:
    with quick():
        check_replays(*RUNS[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parties"),
    [("under Paillier's encryption", [GUEST, HOSTS[0]]), ("of counts with a coordinator", [HOSTS[0]])],
)
def test_workers_and_spare_time_change_nothing(name: str, parties: list[str]) -> None:
    """A run in one process, in which nothing is made in spare time, and with more."""
    run = live(RUNS[name][0])
    for party in parties:
        assert again(run, party, Machine(workers=2)) > 5
