"""Tables by factors from Python: the same numbers under encryption, and those of pandas."""

import numpy as np
import pandas as pd
import pytest
from lattice_batches import small_batches
from paillier_key import quick_key

import vfl
from vfl.crypto.paillier import PublicKey
from vfl.errors import ConfigError, Refused

RNG = np.random.default_rng(11)
ROWS = 1500
GUEST = pd.DataFrame(
    {
        "id": [f"p{i}" for i in range(ROWS)],
        "area": RNG.choice(["north", "south", "east"], ROWS, p=[0.5, 0.3, 0.2]),
    }
)
YEARS = np.round(RNG.uniform(0.1, 1, ROWS), 2)
CLAIMS = RNG.poisson(0.3 * YEARS)
BUREAU = pd.DataFrame(
    {
        "id": [f"p{i}" for i in range(100, ROWS)],
        "driver": RNG.integers(18, 80, ROWS - 100).astype(float),
        "job": RNG.choice(["a", "b", "c", "d"], ROWS - 100, p=[0.5, 0.3, 0.18, 0.02]),
    }
).sample(frac=1, random_state=1)
BOTH = GUEST.assign(claims=CLAIMS, years=YEARS).merge(BUREAU, on="id")


def model(engine: str) -> vfl.FederatedGLM:
    return vfl.FederatedGLM(
        family="poisson", alpha=0.01, hosts={"bureau": BUREAU}, id="id", engine=engine
    )


def table(by, engine="protocol", **options):
    with small_batches():
        return model(engine).oneway(GUEST, CLAIMS, by, exposure=YEARS, **options)


@pytest.mark.parametrize(
    "by", ["bureau:job", ["guest:area", "bureau:job"], ["bureau:job", "guest:area"]]
)
def test_a_table_under_encryption_is_that_in_plain_and_that_of_pandas(by):
    found = table(by)
    pd.testing.assert_frame_equal(found, table(by, "plain"), check_exact=True)
    factors = [by] if isinstance(by, str) else by
    columns = [factor.partition(":")[2] for factor in factors]
    groups = BOTH.groupby(columns)
    told = found.iloc[:-1].dropna(subset="rows").set_index(factors)
    for levels, line in told.iterrows():
        levels = levels if isinstance(levels, tuple) else (levels,)
        if " or " in "".join(levels):
            continue
        rows = groups.get_group(levels)
        assert (line["rows"], line["actual"]) == (len(rows), rows["claims"].sum())
        assert line["exposure"] == round(rows["years"].sum(), 2)
    assert (told["rows"] >= 50).all()
    assert found.iloc[-1]["rows"] == len(BOTH)


def test_rare_levels_are_put_together():
    found = table("bureau:job", "plain")
    assert found["bureau:job"].tolist() == ["a", "b", "c or d", "(total)"]


def test_two_factors_of_a_host():
    found = table(["bureau:driver", "bureau:job"], "plain", bins=3)
    pd.testing.assert_frame_equal(
        found, table(["bureau:driver", "bureau:job"], bins=3), check_exact=True
    )


def test_factors_of_two_hosts(monkeypatch):
    monkeypatch.setattr(PublicKey, "pool_size", property(lambda key: 40))  # few powers do here
    fuel = RNG.choice(["petrol", "diesel"], ROWS)
    registry = pd.DataFrame({"id": GUEST["id"], "fuel": fuel}).iloc[:-900]
    both = BOTH.merge(registry, on="id")
    found = {}
    for engine in ("plain", "protocol"):
        two = vfl.FederatedGLM(
            family="poisson", hosts={"bureau": BUREAU, "registry": registry}, id="id", engine=engine
        )
        by = ["registry:fuel", "bureau:job"]
        with quick_key():
            found[engine] = two.oneway(GUEST, CLAIMS, by, exposure=YEARS, min_cell_rows=30)
    pd.testing.assert_frame_equal(found["plain"], found["protocol"], check_exact=True)
    told = found["plain"].iloc[:-1].dropna(subset="rows")
    assert found["plain"].iloc[-1]["rows"] == len(both) and len(told) >= 4
    for _, line in told.iterrows():
        jobs = line["bureau:job"].split(" or ")
        rows = both[both["job"].isin(jobs) & (both["fuel"] == line["registry:fuel"])]
        assert (line["rows"], line["actual"]) == (len(rows), rows["claims"].sum())


def test_a_fitted_model_says_what_it_expects():
    fitted = model("plain").fit(GUEST, CLAIMS, exposure=YEARS)
    found = fitted.oneway(GUEST, CLAIMS, "bureau:job", exposure=YEARS)
    expected = pd.Series(fitted.predict(GUEST) * YEARS, GUEST["id"])[BOTH["id"]].to_numpy()
    assert found["expected"].iloc[-1] == pytest.approx(expected.sum(), rel=1e-10)
    assert found["expected"].iloc[0] == pytest.approx(expected[BOTH["job"] == "a"].sum(), rel=1e-10)
    assert (found["actual_expected_low"] < found["actual_expected"]).all()
    both = vfl.SecureBoost(trees=2, hosts={"bureau": BUREAU}, id="id").fit(GUEST, CLAIMS > 0)
    ones = both.oneway(GUEST, CLAIMS > 0, "bureau:job")
    assert ones["actual"].iloc[-1] == (BOTH["claims"] > 0).sum()


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="write PARTY:COLUMN"):
        table("job", "plain")
    with pytest.raises(ConfigError, match="did you mean bureau"):
        table("burau:job", "plain")
    with pytest.raises(ConfigError, match="no column 'jop' for a table: did you mean 'job'"):
        table("bureau:jop", "plain")
    with pytest.raises(Refused, match="fewer than"):
        table("bureau:job", "plain", min_cell_rows=2000)
