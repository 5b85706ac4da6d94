"""What data is worth from Python: the measures of models that are fitted one by one, by both engines."""

import numpy as np
import pandas as pd
import pytest
from lattice_batches import small_batches

import vfl
from vfl.errors import ConfigError, DataError

RNG = np.random.default_rng(3)
ROWS, HOLDOUT = 900, 0.3
IDS = [f"p{i}" for i in range(ROWS)]
AGE, POWER = RNG.normal(size=ROWS), RNG.normal(size=ROWS)
GUEST = pd.DataFrame({"id": IDS, "density": RNG.normal(size=ROWS)})
HOSTS = {
    "bureau": pd.DataFrame({"id": IDS, "age": AGE}).iloc[100:].sample(frac=1, random_state=1),
    "registry": pd.DataFrame({"id": IDS, "power": POWER}).iloc[:-50],
}
YEARS = RNG.uniform(0.3, 1, ROWS)
CLAIMS = RNG.poisson(YEARS * np.exp(0.8 * AGE + 0.1 * POWER - 0.5))
COMMON = np.arange(100, ROWS - 50)


def model(engine: str = "plain", **settings) -> vfl.FederatedGLM:
    given = {
        "family": "poisson",
        "alpha": 0.01,
        "tolerance": 1e-10,
        "hosts": HOSTS,
        "id": "id",
    } | settings
    return vfl.FederatedGLM(engine=engine, **given)


def figure(table: pd.DataFrame, sense: str, of: str, measure: str = "d2") -> pd.Series:
    chosen = table.set_index(["figure", "of", "measure"])
    return chosen.loc[(sense, of, measure)]


def test_figures_are_the_scores_of_models_of_some_hosts():
    table = model(inference=True).worth(GUEST, CLAIMS, exposure=YEARS, holdout=HOLDOUT, premium=YEARS)
    draw = np.random.default_rng([0, 1]).random(ROWS)[COMMON]
    train, held_out = COMMON[draw >= HOLDOUT], COMMON[draw < HOLDOUT]
    assert table.attrs == {
        "rows": ROWS,
        "aligned": len(COMMON),
        "train": len(train),
        "held_out": len(held_out),
    }
    for names in ([], ["bureau"], ["bureau", "registry"]):
        some = {name: HOSTS[name] for name in names}
        fitted = model(hosts=some).fit(GUEST.iloc[train], CLAIMS[train], exposure=YEARS[train])
        expected = fitted.score(GUEST.iloc[held_out], CLAIMS[held_out], exposure=YEARS[held_out])
        of = " + ".join(["guest", *names]) if names else "guest alone"
        line = figure(table, "model", of)
        assert line["value"] == pytest.approx(expected, abs=1e-7)
        assert line["low"] < line["value"] < line["high"]
    values = {of: figure(table, "model", of)["value"] for of in ("guest alone", "guest + bureau")}
    added = figure(table, "added", "bureau")
    assert added["value"] == pytest.approx(values["guest + bureau"] - values["guest alone"])
    assert added["low"] > 0 and set(table["measure"]) == {"d2", "gini", "loss_ratio"}
    both = figure(table, "model", "guest + bureau + registry")["value"]
    assert figure(table, "left_out", "registry")["value"] == pytest.approx(
        both - values["guest + bureau"]
    )


def test_both_engines_say_the_same():
    for one in (
        vfl.SecureBoost(trees=2, depth=2, encryption="lattice", hosts=HOSTS, id="id"),
        vfl.FederatedLogisticRegression(alpha=0.01, encryption="lattice", hosts=HOSTS, id="id"),
    ):
        with small_batches():
            found = [one.set_params(engine=to).worth(GUEST, CLAIMS > 0) for to in ("plain", "protocol")]
        pd.testing.assert_frame_equal(*found, check_exact=True)
        assert not hasattr(one, "model_")


def test_groups_are_held_out_whole():
    table = model().worth(
        GUEST, CLAIMS, {"bureau": HOSTS["bureau"]}, groups=np.arange(ROWS) // 90, holdout=0.2
    )
    assert table.attrs["aligned"] == ROWS - 100
    assert table.attrs["held_out"] % 90 in (0, 80)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"holdout": 0}, "holdout must be above 0 and below 1"),
        ({"hosts": {}}, "worth says what hosts add"),
        ({"premium": np.full(ROWS, np.nan)}, "premium"),
        ({"premium": [1.0]}, "premium"),
    ],
)
def test_what_cannot_be(given, why):
    with pytest.raises((ConfigError, DataError), match=why):
        model().worth(GUEST, CLAIMS, **given)


def test_models_that_go_on_are_not_compared():
    first = vfl.SecureBoost(trees=1, hosts=HOSTS, id="id").fit(GUEST, CLAIMS > 0)
    more = vfl.SecureBoost(trees=1, hosts=HOSTS, id="id", init_model=first)
    with pytest.raises(ConfigError, match="leave init_model out"):
        more.worth(GUEST, CLAIMS > 0)
