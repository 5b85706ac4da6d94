"""Tables, screenings, correlations and inflation replay: a role sends the same from the same secret."""

from collections.abc import Iterator

import pytest
import roles
from replayed_roles import Make, check_replays, live, sent

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
    "a screening": (roles.screening, {"TableValues", "TableSums", "ScreenMasks", "ScreenSums"}),
    "inflation": (roles.inflating, {*HINTED, "Relayed", "InflationShares", "InflationBlock"}),
    "correlations": (roles.correlating, {*HINTED, "Relayed", "CorrelationShares"}),
}


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with roles.in_memory():
        yield


@pytest.mark.parametrize("name", RUNS)
def test_each_role_sends_the_same_again(name: str) -> None:
    make, random = RUNS[name]
    once, other = sent(check_replays(make)), sent(live(make, seed=2))
    assert once.keys() == other.keys() and {*once} >= random
    for kind in random:
        assert not once[kind] & other[kind], kind
