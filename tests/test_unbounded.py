"""Levels without claims, or with nothing but: who hears of which, and in what words."""

import asyncio
import warnings
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from memory import over_memory

from vfl.crypto import powers
from vfl.errors import DataError, PeerStopped, VflError
from vfl.estimators.linear import FederatedGLM, FederatedLogisticRegression
from vfl.learn.design import MISSING, Design, Rules
from vfl.learn.losses import FAMILIES, Loss, loss_of
from vfl.learn.params import GlmParams
from vfl.models.findings import TOLD
from vfl.models.kind import ColumnRules, GuestRun, HostRun, PartyColumns
from vfl.models.linear import Linear
from vfl.models.unbounded import same_label_levels, say, unbounded_levels
from vfl.net.peer import Peer, stop_all
from vfl.party.linear_rules import GlmSection
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training

pytestmark = pytest.mark.usefixtures("quick_key")

ROWS = 60
RNG = np.random.default_rng(8)
ZONE = RNG.choice(np.array(["city", "moor", "coast"], object), ROWS, p=[0.5, 0.2, 0.3])
CLAIMS = RNG.poisson(0.8, ROWS).astype(float)


@pytest.fixture(autouse=True, scope="module")
def _short_tables():
    """Every host makes a table of powers under the key, which for so few sums is not worth its time."""
    with mock.patch.object(powers, "_TABLE_BYTES", 4_000_000):
        yield


FEW = ColumnRules(glm=GlmSection(min_level_rows=5))


def training(label: np.ndarray, family: str) -> Training:
    loss: Loss = loss_of(family)  # type: ignore[arg-type]
    every = np.ones(ROWS, np.bool_)
    return Training(label, np.ones(ROWS), every, ~every, loss)


def kind(tolerance: float, alpha: float = 0.0) -> Linear:
    params = {"tolerance": tolerance, "alpha": alpha}
    return Linear(GlmParams.model_validate(params), "poisson")


def played(label: np.ndarray, tolerance: float, alpha: float = 0.0) -> dict[str, object]:
    """What a guest and a host, which has the zones, come to: each its own end."""
    ends: dict[str, object] = {}
    sessions: list[Peer] = []
    of = kind(tolerance, alpha)
    age = np.linspace(20, 70, ROWS)
    columns = {"registry": {"zone": ZONE, "age": age}}

    async def kept(name: str, role) -> None:
        try:
            ends[name] = await role
        except VflError as error:
            ends[name] = error
            if name == "guest":
                await stop_all(sessions, error)

    async def guest(hosts) -> None:
        sessions.extend(hosts)
        own = PartyColumns("guest", "policies.csv", {"power": np.sin(np.arange(float(ROWS)))})
        rows = training(label, "poisson")
        model, score = await of.guest(own, rows).train(hosts, GuestRun(Resources()))
        ends["findings"] = of.check_learnt(model, score, rows)

    async def host(name: str, to_guest) -> None:
        own = PartyColumns(name, f"{name}.csv", columns[name], FEW)
        participant = Participant(name, [*columns], b"a job")
        await kept(name, of.host(own).train(to_guest, HostRun(participant, ROWS, lambda half: None)))

    over_memory([*columns], lambda hosts: kept("guest", guest(hosts)), host)
    return ends


def text_of(error: object) -> str:
    assert isinstance(error, VflError)
    return str(error)


def test_a_hosts_level_without_claims_is_named_to_this_host_alone() -> None:
    label = np.where(ZONE == "moor", 0.0, CLAIMS)
    found = played(label, 1e-6)
    outcome = found["registry"]
    told = outcome.remark if not isinstance(outcome, VflError) else str(outcome)  # type: ignore[attr-defined]
    assert "column 'zone' at level 'moor' tells the label without error" in told
    assert "set the job's alpha above 0" in told
    for name in ("guest", "findings"):
        assert "zone" not in str(found.get(name)) and "moor" not in str(found.get(name))


def test_a_host_hears_of_its_level_when_the_guest_ends_the_fit_for_it() -> None:
    found = played(np.where(ZONE == "moor", 0.0, CLAIMS), 1e-12)
    assert isinstance(found["guest"], DataError) and isinstance(found["registry"], PeerStopped)
    assert "a host is told the names of its own" in text_of(found["guest"])
    assert "column 'zone' at level 'moor' tells the label without error" in text_of(found["registry"])
    assert "moor" not in text_of(found["guest"]) and "moor" not in found["guest"].for_peer


def test_nothing_is_said_where_all_levels_have_claims_or_there_is_a_penalty() -> None:
    for label, alpha in ((CLAIMS, 0.0), (np.where(ZONE == "moor", 0.0, CLAIMS), 0.1)):
        found = played(label, 1e-4, alpha)
        assert found["findings"] == [] and found["registry"].remark is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("tolerance", [1e-6, 1e-12])
def test_the_guests_own_level_is_named_to_the_guest_and_hosts_hear_whose_it_is(tolerance) -> None:
    of, rows = kind(tolerance), training(np.where(ZONE == "moor", 0.0, CLAIMS), "poisson")
    role = of.guest(PartyColumns("guest", "policies.csv", {"zone": ZONE}, FEW), rows)
    try:
        model, score = asyncio.run(role.train([], GuestRun()))
    except DataError as error:
        assert "column 'zone' at level 'moor' tells the label without error" in str(error)
        assert "guest's own" in error.for_peer and "moor" not in error.for_peer
    else:
        (finding,) = of.check_learnt(model, score, rows)
        assert "column 'zone' at level 'moor' tells the label without error" in finding.text
        assert "guest's own" in TOLD[finding.word]


@pytest.mark.parametrize("ones", [0.0, 1.0])
def test_levels_that_are_all_zeros_or_all_ones_in_python(ones) -> None:
    table, few = pd.DataFrame({"zone": ZONE}), {"min_level_rows": 5}
    died = np.where(ZONE == "moor", ones, np.arange(ROWS) % 2)
    told = "column '{}zone' at level 'moor' tells the label without error"
    guest = pd.DataFrame({"x": np.arange(ROWS) % 3})
    rules = {"guest": few, "registry": few}
    for tolerance in (1e-3, 1e-10):
        hosted = FederatedLogisticRegression(hosts={"registry": table}, rules=rules, tolerance=tolerance)
        assert told.format("registry:") in heard(lambda: hosted.fit(guest, died))  # noqa: B023
        alone = FederatedGLM(family="poisson", hosts={}, rules={"guest": few}, tolerance=tolerance)
        label = np.where(ZONE == "moor", 0.0, CLAIMS)
        assert told.format("") in heard(lambda: alone.fit(table, label))  # noqa: B023


def heard(work) -> str:
    """What is said of a fit: its error, or its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            work()
        except ValueError as error:
            return str(error)
    return " ".join(str(one.message) for one in caught)


def test_a_base_level_without_claims_is_the_one_that_is_named() -> None:
    design = Design.fit({"zone": ZONE}, Rules(min_level_rows=5, base={"zone": "moor"}))
    assert unbounded_levels(design, [26.0, 27.0], "log", 0.0) == [("zone", "moor")]
    assert unbounded_levels(design, [26.0, 27.0], "log", 0.1) == []
    assert unbounded_levels(design, [26.0, 27.0], "identity", 0.0) == []
    assert unbounded_levels(design, [2.0, -3.0], "log", 0.0) == []
    label = np.where(ZONE == "moor", 0.0, 1.0)
    matrix = design.matrix({"zone": ZONE})
    assert same_label_levels(design, matrix, training(label, "poisson")) == [("zone", "moor")]
    both = same_label_levels(design, matrix, training(label, "logistic"))
    assert {level for _, level in both} == {"moor", "city", "coast"}


def test_missing_values_curves_and_pairs_are_named_by_their_column() -> None:
    features = {
        "age": np.where(np.arange(ROWS) % 4, np.linspace(18, 80, ROWS), np.nan),
        "zone": ZONE,
        "fuel": np.array(["d", "p", "p"] * (ROWS // 3), object),
    }
    rules = Rules(
        min_level_rows=5, splines={"age": 2}, missing="level", interactions=(("zone", "fuel"),)
    )
    design = Design.fit(features, rules)
    far = [-20.0 for _ in design.coefficients]
    names = unbounded_levels(design, far, "logit", 0.0)
    assert ("age", "") in names and ("age", MISSING) in names
    assert ("zone × fuel", design.crossings[0].levels[0]) in names
    assert "and" not in say(names[:1]) and say(names).count("column") == 3
    assert "more tell the label" in say(names)


def test_all_families_have_a_link_that_the_levels_are_judged_by() -> None:
    assert {loss_of(name).link for name in FAMILIES} == {"identity", "log", "logit"}
