"""Claims as labels, the large-loss load, and vfl.FrequencySeverity, held against glum and LightGBM's way
of leaving rows out; and that no host can tell which rows of severity have claims."""

import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from glum import GeneralizedLinearRegressor

import vfl
from vfl.errors import InputError, ParameterError
from vfl.learn.claims import LargeLossLoad, PolicyClaims
from vfl.learn.losses import BadLabel
from vfl.net.peer import MemoryPeer
from vfl.net.wire import Message, encode

ROWS, CAP = 800, 2000.0
IDS = {"guest": "policy", "registry": "vehicle", "bureau": "driver"}


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    """Policies, hosts' tables in other orders, and what happened."""
    rng = np.random.default_rng(11)
    ids = np.array([f"P{i:05}" for i in range(ROWS)])
    density, power = rng.normal(0, 1, ROWS), rng.integers(0, 6, ROWS).astype(float)
    age, years = rng.integers(0, 5, ROWS).astype(float), rng.choice([0.5, 1.0], ROWS)
    count = rng.poisson(np.exp(-0.8 + 0.2 * density + 0.1 * power - 0.05 * age) * years)
    mean = np.exp(6.5 + 0.15 * power - 0.1 * age)
    amounts = [rng.gamma(1.5, mean[i] / 1.5, n) for i, n in enumerate(count)]
    zone = np.where(np.arange(ROWS) % 4 == 0, "inner", "outer")
    guest = pd.DataFrame({"policy": ids, "density": density, "zone": zone})
    registry = pd.DataFrame({"vehicle": ids, "power": power}).sample(frac=1, random_state=1)
    bureau = pd.DataFrame({"driver": ids, "age": age}).sample(frac=1, random_state=2)
    claims = pd.DataFrame(
        {
            "policy": np.repeat(ids, count),
            "amount": np.concatenate(amounts),
        }
    )
    x = np.column_stack([density, zone == "inner", power, age]).astype(float)
    paid = np.array([own.sum() for own in amounts])
    return {
        "guest": guest,
        "hosts": {"registry": registry, "bureau": bureau},
        "count": count.astype(float),
        "paid": paid,
        "years": years,
        "claims": claims.sample(frac=1, random_state=3),
        "x": x,
    }


def linear(family: str, **settings: Any) -> vfl.FederatedGLM:
    return vfl.FederatedGLM(family=family, id=IDS, tolerance=1e-8, max_iterations=300, **settings)


def glum(family: str, x: Any, y: Any, weight: Any) -> Any:
    model = GeneralizedLinearRegressor(family=family, alpha=0, gradient_tol=1e-11, max_iter=500)
    return model.fit(x, y, sample_weight=weight)


def test_pure_premium_is_that_of_glum_on_pooled_columns(made: dict[str, Any]) -> None:
    """Severity by glum on the rows with claims alone; here all rows take part, most with weight 0."""
    model = vfl.FrequencySeverity(linear("poisson"), linear("gamma"), cap=CAP, load_by="zone")
    count, paid, years, x = (made[name] for name in ("count", "paid", "years", "x"))
    model.fit(made["guest"], paid, hosts=made["hosts"], counts=count, exposure=years)
    some = count > 0
    capped = np.minimum(paid, CAP * count)
    frequency = glum("poisson", x, count / years, years)
    severity = glum("gamma", x[some], capped[some] / count[some], count[some])
    inner = x[:, 1] > 0
    load = np.where(
        inner, paid[inner].sum() / capped[inner].sum(), paid[~inner].sum() / capped[~inner].sum()
    )
    parts = model.predict_parts(made["guest"], made["hosts"])
    assert parts["frequency"].to_numpy() == pytest.approx(frequency.predict(x), rel=1e-6)
    assert parts["severity"].to_numpy() == pytest.approx(severity.predict(x), rel=1e-6)
    assert parts["load"].to_numpy() == pytest.approx(load)
    premium = frequency.predict(x) * severity.predict(x) * load
    assert model.predict(made["guest"], made["hosts"]) == pytest.approx(premium, rel=1e-6)
    assert model.severity_.n_aligned_ == ROWS
    assert 0 < model.score(made["guest"], paid, made["hosts"], exposure=years) < 1


def test_claims_one_a_row_are_capped_one_by_one(made: dict[str, Any]) -> None:
    model = vfl.FrequencySeverity(linear("poisson"), linear("gamma"), cap=CAP)
    stray = pd.DataFrame({"policy": ["P99999"], "amount": [50.0]})
    claims = pd.concat([made["claims"], stray])
    with pytest.warns(UserWarning, match="1 claim of .* of no policy in X"):
        model.fit(made["guest"], hosts=made["hosts"], claims=claims, exposure=made["years"])
    own = made["claims"]
    capped = own["amount"].clip(upper=CAP).groupby(own["policy"]).sum()
    capped = capped.reindex(made["guest"]["policy"]).fillna(0).to_numpy()
    assert model.load_ == pytest.approx(made["paid"].sum() / capped.sum())
    some, x = made["count"] > 0, made["x"]
    severity = glum("gamma", x[some], capped[some] / made["count"][some], made["count"][some])
    found = model.predict_parts(made["guest"], made["hosts"])["severity"]
    assert found.to_numpy() == pytest.approx(severity.predict(x), rel=1e-6)


def test_trees_of_severity_are_those_of_the_rows_with_claims(made: dict[str, Any]) -> None:
    """Where no rule counts rows, rows of weight 0 change nothing: columns have a bin a value, which
    claims have all. min_child_weight counts claims."""
    some, guest = made["count"] > 0, made["guest"].drop(columns=["density"])
    label, weight = made["paid"][some] / made["count"][some], made["count"][some]

    def trees() -> vfl.SecureBoostRegressor:
        return vfl.SecureBoostRegressor(
            objective="gamma",
            id=IDS,
            trees=8,
            depth=3,
            min_child_rows=1,
            min_bin_rows=1,
            min_child_weight=10,
        )

    alone = trees().fit(guest[some], label, hosts=made["hosts"], sample_weight=weight)
    pair = vfl.FrequencySeverity(vfl.SecureBoostRegressor(objective="poisson", id=IDS, trees=2), trees())
    pair.fit(guest, made["paid"], hosts=made["hosts"], counts=made["count"], exposure=made["years"])
    theirs = alone.predict(guest, made["hosts"])
    assert pair.severity_.predict(guest, made["hosts"]) == pytest.approx(theirs, rel=1e-9)
    assert len(np.unique(theirs.round(6))) > 8
    assert pair.load_ == 1.0


def test_a_tree_does_not_split_where_no_claim_is(made: dict[str, Any]) -> None:
    """Rules that count rows count those of weight 0; a leaf of such rows alone predicts no nonsense."""
    guest = made["guest"].drop(columns=["density", "zone"])
    none = made["count"] * (np.arange(ROWS) % 2)  # half of the rows have no claims at all
    guest = guest.assign(half=np.arange(ROWS) % 2)
    model = vfl.FrequencySeverity(
        vfl.SecureBoostRegressor(objective="poisson", id=IDS, trees=2),
        vfl.SecureBoostRegressor(
            objective="gamma", id=IDS, trees=5, min_child_weight=0, reg_lambda=0, min_child_rows=1
        ),
    )
    paid = np.where(none > 0, made["paid"], 0.0)
    model.fit(guest, paid, hosts=made["hosts"], counts=none)
    found = model.predict_parts(guest, made["hosts"])["severity"]
    most = (paid[none > 0] / none[none > 0]).max()
    assert found.between(0, 2 * most, inclusive="neither").all()


# --- What hosts see. --------------------------------------------------------------------------------


class _Seen:
    """What was sent to hosts over memory."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Message]] = []

    @property
    def shapes(self) -> list[tuple[str, str, int]]:
        """Receiver, type and size of each message, by receiver."""
        found = [(name, type(one).__name__, len(encode(one))) for name, one in self.messages]
        return sorted(found, key=lambda message: message[0])

    def of(self, name: str) -> list[Any]:
        return [one for _, one in self.messages if type(one).__name__ == name]


def seen_by_hosts(
    model: Any, made: dict[str, Any], order: np.ndarray[Any, Any], share: float = 1.0
) -> tuple[_Seen, Any]:
    """What hosts are sent in a fit of severity whose claims are those of other rows, in `order`, of
    which only a share is left."""
    seen, send = _Seen(), MemoryPeer.send

    async def noted(peer: MemoryPeer, message: Message) -> None:
        if peer.name in made["hosts"]:
            seen.messages.append((peer.name, message))
        await send(peer, message)

    left = np.arange(ROWS) < share * ROWS
    count, paid = (np.where(left, made[name], 0.0)[order] for name in ("count", "paid"))
    claims = PolicyClaims.of_policies(count, paid, None)
    model.keeps_rows_without_weight = True
    with mock.patch.object(MemoryPeer, "send", noted), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged
        weight = claims.weight("severity", None, None)
        guest = made["guest"][["policy"]].assign(one=np.arange(ROWS) % 2)
        model.fit(guest, claims.label("severity", None), hosts=made["hosts"], sample_weight=weight)
    return seen, claims


@pytest.fixture
def orders() -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    rng = np.random.default_rng(5)
    yield np.arange(ROWS), rng.permutation(ROWS)


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_hosts_of_a_linear_severity_see_the_same_whichever_rows_have_claims(
    made: dict[str, Any], encryption: str, orders: Any, quick_key: None
) -> None:
    views, claimed = [], []
    for order, share in ((orders[0], 1.0), (orders[1], 1.0), (orders[1], 0.6)):
        model = vfl.FederatedGLM(
            family="gamma",
            id=IDS,
            max_iterations=2,
            tolerance=1e-12,
            alpha=0.01,
            encryption=encryption,
            engine="protocol",
        )
        seen, claims = seen_by_hosts(model, made, order, share)
        claimed.append(int((claims.count > 0).sum()))
        views.append(seen)
    one, other, fewer = views
    assert claimed[2] < claimed[0] == claimed[1] < ROWS / 2
    # Which rows train, how the loss begins: to the last bit. All else in number, type and size.
    starts = one.of("FitStart")
    assert len(starts) == 2
    assert starts == other.of("FitStart")
    assert all(len(start.training) == ROWS // 8 for start in starts)
    assert one.shapes == other.shapes
    # Nor do number and size tell how many have.
    assert [start.training for start in fewer.of("FitStart")] == [start.training for start in starts]
    assert one.shapes == fewer.shapes


def test_hosts_of_trees_of_severity_see_the_same_whichever_rows_have_claims(
    made: dict[str, Any], orders: Any, quick_key: None
) -> None:
    views = []
    for order in orders:
        model = vfl.SecureBoostRegressor(
            objective="gamma",
            id=IDS,
            trees=2,
            depth=1,
            min_child_weight=0,
            engine="protocol",
            subsample=0.5,
        )
        views.append(seen_by_hosts(model, made, order)[0])
    one, other = views
    # Which rows are drawn for each tree, to the last bit, and as many ciphertexts: a row each, whatever
    # its weight. What a host hears later, it hears of the tree that came of it.
    starts = one.of("TreeStart")
    assert len(starts) == 4
    assert starts == other.of("TreeStart")
    shapes = [[shape for shape in seen.shapes if shape[1] == "Gradients"] for seen in views]
    assert len(shapes[0]) == 4
    assert shapes[0] == shapes[1]


# --- Labels and loads. ------------------------------------------------------------------------------


def test_labels_and_weights_of_each_part() -> None:
    claims = PolicyClaims.of_policies(np.array([0.0, 1.0, 2.0]), np.array([0.0, 5000.0, 1000.0]), 2000.0)
    years, weight = np.array([1.0, 0.5, 0.25]), np.array([1.0, 3.0, 1.0])
    assert claims.capped.tolist() == [0, 2000, 1000]
    assert claims.label("severity", years).tolist() == [1, 2000, 500]
    assert claims.weight("severity", weight, years).tolist() == [0, 3, 2]
    assert claims.label("tweedie", years).tolist() == [0, 4000, 4000]
    assert claims.weight("tweedie", weight, years).tolist() == [1, 1.5, 0.25]
    assert claims.label("frequency", years).tolist() == [0, 1, 2]
    assert claims.weight("frequency", None, years) is None


def test_the_load_of_a_segment_without_losses_is_that_of_all() -> None:
    claims = PolicyClaims.of_claims(np.array([0, 0, 1, -1]), np.array([300.0, 100, 50, 9]), 3, 200.0)
    assert claims.count.tolist() == [2, 1, 0]
    assert claims.paid.tolist() == [400, 50, 0]
    assert claims.capped.tolist() == [300, 50, 0]
    load = LargeLossLoad.of(claims, None, ["a", "b", "c"])
    assert load.segments == {"a": 400 / 300, "b": 1.0}
    assert load.at(4, ["a", "c", None, "new"]).tolist() == [400 / 300, *[450 / 350] * 3]
    assert LargeLossLoad.of(claims, np.array([0.0, 1, 1])).overall == 1.0


@pytest.mark.parametrize(
    ("count", "paid", "why"),
    [
        ([1.0], [0.0], "is 0 where there are claims in 1 row"),
        ([0.0], [2.0], "above 0 where no claim is counted"),
        ([1.0], [-2.0], "negative"),
        ([1.0], [np.inf], "finite"),
    ],
)
def test_claims_that_do_not_fit(count: list[float], paid: list[float], why: str) -> None:
    with pytest.raises(BadLabel, match=why):
        PolicyClaims.of_policies(np.array(count), np.array(paid), None)


def test_what_cannot_be_is_refused_in_a_line(made: dict[str, Any]) -> None:
    poisson, gamma = linear("poisson"), linear("gamma")
    guest, hosts = made["guest"], made["hosts"]
    with pytest.raises(ParameterError, match="severity needs family='gamma'"):
        vfl.FrequencySeverity(poisson, poisson).fit(guest, made["paid"], hosts, counts=made["count"])
    with pytest.raises(ParameterError, match="give y and counts"):
        vfl.FrequencySeverity(poisson, gamma).fit(guest, made["paid"], hosts)
    with pytest.raises(ParameterError, match="load_by is of losses above a cap"):
        vfl.FrequencySeverity(poisson, gamma, load_by="zone").fit(guest, made["paid"], hosts)
    with pytest.raises(InputError, match="claims has no column 'cost'"):
        vfl.FrequencySeverity(poisson, gamma).fit(
            guest, hosts=hosts, claims=made["claims"], amount="cost"
        )
    twice = pd.concat([guest, guest.iloc[:1]])
    with pytest.raises(InputError, match="the id of an earlier row"):
        vfl.FrequencySeverity(poisson, gamma).fit(twice, hosts=hosts, claims=made["claims"])
