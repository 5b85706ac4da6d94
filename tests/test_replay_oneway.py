"""Tables, screenings, correlations and inflation replay: each role sends the same from its secret."""

import pytest
import roles
from paillier_key import quick_key
from replayed_roles import Make, check_replays, quick

HINTED = {"HintAgreed", "HintOffered", "HintHeader", "HintPart", "HintProducts", "Vectors", "VectorSums"}
RUNS: dict[str, tuple[Make, set[str]]] = {
    "a table under Paillier's encryption": (
        lambda lent: roles.table("paillier", lent),
        {"TableValues", "TableSums", "MaskedRows", "OpenedCells"},
    ),
    "a table over the lattice engine": (
        lambda lent: roles.table("lattice", lent),
        {*HINTED, "MaskedRows", "OpenedCells"},
    ),
    "a table of two hosts": (
        roles.pair,
        {"FellowKey", "Relayed", "TableValues", "TableSums", "MaskedRows", "OpenedCells"},
    ),
    "a screening": (roles.screening, {"TableValues", "TableSums", "ScreenSums"}),
    "inflation": (roles.inflating, {*HINTED, "Relayed", "InflationShares", "InflationBlock"}),
    "correlations": (roles.correlating, {*HINTED, "Relayed", "CorrelationShares"}),
}


@pytest.mark.parametrize("name", RUNS)
def test_each_role_sends_the_same_again(name: str) -> None:
    with quick():
        check_replays(*RUNS[name])


def test_keys_are_made_again() -> None:
    with quick_key():
        check_replays(roles.screening, {"Key", "TableValues", "TableSums"})
