"""Screening from Python: the same figures under encryption, and those of pandas."""

import math

import numpy as np
import pandas as pd
import pytest
from lattice_batches import small_batches
from paillier_key import quick_key

import vfl
from vfl.errors import ConfigError, Refused
from vfl.protocols.linear.inflation import NOISE as HIDDEN

RNG = np.random.default_rng(12)
ROWS = 800
IDS = [f"p{i}" for i in range(ROWS)]
AGE, NOISE = RNG.normal(size=ROWS), RNG.normal(size=ROWS)
JOB = RNG.choice(["a", "b", "c"], ROWS, p=[0.5, 0.3, 0.2])
GUEST = pd.DataFrame({"id": IDS, "years": AGE + 0.2 * RNG.normal(size=ROWS)})
HOSTS = {
    "bureau": pd.DataFrame({"id": IDS, "age": AGE, "job": JOB}).sample(frac=1, random_state=1),
    "registry": pd.DataFrame({"id": IDS, "noise": NOISE, "age2": AGE + RNG.normal(size=ROWS)}),
}
EXPOSURE = np.round(RNG.uniform(0.2, 1, ROWS), 2)
CLAIMS = RNG.poisson(EXPOSURE * np.exp(0.8 * AGE + 0.5 * (JOB == "c") - 0.5))


def model(engine: str = "plain", **settings) -> vfl.FederatedGLM:
    return vfl.FederatedGLM(family="poisson", hosts=HOSTS, id="id", engine=engine, **settings)


def screen(engine: str = "plain", **settings) -> pd.DataFrame:
    with quick_key(), small_batches():
        return model(engine).screen(GUEST, CLAIMS, exposure=EXPOSURE, **settings)


def test_figures_are_those_of_pandas_and_of_least_squares():
    found = screen(bins=5)
    assert found.attrs["rows"] == found.attrs["aligned"] == ROWS
    lines = found.set_index(["party", "column"])
    woe = found.attrs["woe"]
    for (party, column), levels in woe.groupby(["party", "column"]):
        a, b = (levels[name] / levels[name].sum() for name in ("actual", "exposure"))
        assert levels["actual"].sum() == CLAIMS.sum()
        line = lines.loc[(party, column)]
        assert line["information_value"] == pytest.approx(((a - b) * np.log(a / b)).sum(), rel=1e-9)
        assert line["levels"] == len(levels)
    of_job = woe[woe["column"] == "job"].set_index("level")
    assert of_job["actual"].to_dict() == {one: CLAIMS[one == JOB].sum() for one in "abc"}
    whole = np.column_stack(
        [GUEST["years"], AGE, JOB == "b", JOB == "c", NOISE, HOSTS["registry"]["age2"], np.ones(ROWS)]
    ).astype(float)
    target = whole[:, 1]
    residuals = target - np.delete(whole, 1, 1) @ np.linalg.lstsq(np.delete(whole, 1, 1), target)[0]
    vif = ((target - target.mean()) ** 2).sum() / (residuals**2).sum()
    assert lines.loc[("bureau", "age"), "vif"] == pytest.approx(vif, rel=1e-6)
    assert vif > 10
    # The host's column gives way to the guest's; noise is too weak.
    advice = lines["advice"].dropna().to_dict()
    assert advice == {("bureau", "age"): "inflated", ("registry", "noise"): "weak"}


def test_under_encryption_it_is_the_same():
    plain, protocol = screen(), screen("protocol")
    pd.testing.assert_frame_equal(
        plain.drop(columns="vif"), protocol.drop(columns="vif"), check_exact=True
    )
    # Hosts' noise: its standard deviation is half of a VIF, of the root of so many rows.
    off = np.abs(1 / protocol["vif"] - 1 / plain["vif"])
    assert off.max() < 5 * 2 * HIDDEN * math.sqrt(2 / ROWS)
    pd.testing.assert_frame_equal(plain.attrs["woe"], protocol.attrs["woe"], check_exact=True)


def test_trees_and_classes():
    classifier = vfl.SecureBoost(hosts=HOSTS, id="id")
    found = classifier.screen(GUEST, CLAIMS > 0, vif=False)
    assert found["vif"].isna().all()
    woe = found.attrs["woe"]
    levels = woe[woe["column"] == "job"]
    ones, zeros = levels["actual"], levels["rows"] - levels["actual"]
    expected = np.log((ones / ones.sum()) / (zeros / zeros.sum()))
    np.testing.assert_allclose(levels["woe"], expected, rtol=1e-9)
    assert not hasattr(classifier, "model_")


def test_a_column_that_two_parties_have():
    hosts = {**HOSTS, "registry": HOSTS["registry"].assign(copy=2 * AGE + 1)}
    found = vfl.FederatedGLM(family="poisson", hosts=hosts, id="id").screen(GUEST, CLAIMS, min_iv=0)
    lines = found.set_index(["party", "column"])
    assert lines["vif"].dropna().to_dict() == {("bureau", "age"): np.inf, ("registry", "copy"): np.inf}
    # Of two hosts the second's goes.
    assert lines["advice"].dropna().to_dict() == {("registry", "copy"): "inflated"}


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="max_vif must be a number above 1, not 1"):
        screen(max_vif=1)
    with pytest.raises(ConfigError, match="min_iv must be a number of at least 0"):
        screen(min_iv=-1)
    with pytest.raises(Refused, match="no level of enough rows"):
        screen(min_cell_rows=5000)
    with pytest.raises(ConfigError, match="columns of several parties"):
        vfl.FederatedGLM(family="poisson", hosts={}).screen(GUEST.drop(columns="id"), CLAIMS)


def test_correlations_are_those_of_pandas_to_two_decimals():
    found = screen(vif=False, correlations=True).attrs["correlations"]
    by = found.set_index(["column", "other_column"])["correlation"]
    assert {*zip(found["party"], found["other_party"], strict=True)} == {
        ("guest", "bureau"),
        ("guest", "registry"),
        ("bureau", "registry"),
    }
    for (one, other), values in {
        ("years", "age"): (GUEST["years"], AGE),
        ("age", "noise"): (AGE, NOISE),
    }.items():
        assert by[one, other] == round(np.corrcoef(values[0], values[1])[0, 1], 2)
    years = GUEST["years"].groupby(JOB)
    between = (years.size() * (years.mean() - GUEST["years"].mean()) ** 2).sum()
    eta = np.sqrt(between / ((GUEST["years"] - GUEST["years"].mean()) ** 2).sum())
    assert by["years", "job"] == pytest.approx(eta, abs=0.0051)
    assert len(screen(vif=False).attrs["correlations"]) == 0
