"""Profiles of a party's columns, and what chance alone makes of their index."""

import json

import msgspec
import numpy as np
import pytest
from scipy.stats import chi2

from vfl.learn.drift import Profile, judge_drift, profile, profile_of_scores, profiles
from vfl.learn.metrics import psi


def rng(seed=0):
    return np.random.default_rng(seed)


def words(counts, missing=0):
    return np.array([w for w, n in counts.items() for _ in range(n)] + [None] * missing, object)


def verdict(kept: Profile, batch):
    return judge_drift(kept.psi(batch), kept.groups, kept.rows, len(batch))


def test_a_numeric_column_is_kept_by_its_deciles():
    values = rng().permutation(1000).astype(float)
    values[values < 50] = np.nan
    kept = profile(values)
    assert kept.rows == 1000 and kept.groups == 11 and kept.categories == ()
    assert kept.shares == (*[pytest.approx(0.095, abs=0.002)] * 10, 0.05)
    cuts = np.quantile(values[~np.isnan(values)], np.arange(1, 10) / 10)
    assert np.array(kept.edges) == pytest.approx(cuts, abs=1.5)
    assert kept.psi(values[::-1]) == 0
    # Groups are closed above: a value on the edge is in the lower one.
    batch = np.array([kept.edges[0], np.nextafter(kept.edges[0], 1e9), np.nan, 2000.0])
    now = np.array([1, 1, *[0] * 7, 1, 1]) / 4
    then = np.array(kept.shares)
    assert kept.psi(batch) == psi(then, np.where(now > 0, now, np.minimum(then, 1 / 8)))


def test_a_category_is_kept_if_it_is_frequent():
    counts = {f"w{i:02}": 100 - i for i in range(25)}
    kept = profile(words({**counts, "rare": 19}, missing=31))
    assert kept.edges is None and kept.categories == tuple(counts)[:20]
    rows = sum(counts.values()) + 50
    others = sum(list(counts.values())[20:]) + 19
    assert kept.shares == (*(n / rows for n in list(counts.values())[:20]), others / rows, 31 / rows)
    few = profile(words({"a": 500, "b": 20, "rare": 19}))
    assert few.categories == ("a", "b") and few.shares[2:] == (19 / 539, 0)
    # Any category unheard of is another one.
    assert few.psi(words({"a": 500, "b": 20, "new": 19})) == 0
    assert verdict(few, words({"a": 300, "new": 200})) == "large"
    assert verdict(few, words({"a": 400}, missing=100)) == "large"


def test_a_profile_survives_json():
    columns = {
        "price": rng().lognormal(3, 2, 500),
        "constant": np.full(500, 0.1),
        "make": words({"a": 300, "b": 199}, missing=1),
        "empty": np.full(500, np.nan),
    }
    batch = {name: values[rng(1).integers(0, 500, 200)] for name, values in columns.items()}
    for name, kept in profiles(columns).items():
        read = msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(kept))), Profile)
        assert read == kept and read.psi(batch[name]) == kept.psi(batch[name])
    for damage in ({"shares": [1.0]}, {"rows": 0}, {"edges": [1.0]}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({**msgspec.to_builtins(kept), **damage}, Profile)


def test_columns_that_hold_little():
    # One value: any other one is a change, be it near.
    for value in (7.0, 0.0, -1e300):
        kept = profile(np.full(300, value))
        assert kept.psi(np.full(200, value)) == 0
        for other in (value + 1, np.nextafter(value, -np.inf), np.nextafter(value, np.inf), np.nan):
            batch = np.full(200, other)
            assert (verdict(kept, batch) == "none") == (other == value)
    kept = profile(np.where(np.arange(300) < 100, np.nan, 4.0))
    assert kept.shares == (0, 2 / 3, 0, 1 / 3)
    assert profile(words({"a": 300})).shares == (1, 0, 0)
    assert verdict(profile(words({"a": 300})), words({"b": 50})) == "large"
    # None at all.
    for nothing, something in (
        (np.full(300, np.nan), rng().normal(size=50)),
        (words({}, 300), words({"a": 50})),
    ):
        kept = profile(nothing)
        assert kept.shares == (0, 1) and kept.psi(nothing) == 0
        assert verdict(kept, something) == "large"
    # Few rows then: nothing but missing values is told apart. Few rows now: chance might have done it.
    assert profile(np.arange(19.0)).shares == (1, 0)
    assert profile(words({"a": 19})).shares == (1, 0)
    kept = profile(rng().normal(size=5000))
    assert kept.psi(np.full(5, 9.0)) > 1 and verdict(kept, np.full(5, 9.0)) == "none"
    assert verdict(kept, np.full(50, 9.0)) == "large"
    assert kept.psi(np.array([])) == 0 and verdict(kept, np.array([])) == "none"
    with pytest.raises(ValueError, match="no rows"):
        profile(np.array([]))


def test_a_column_that_has_changed_its_kind():
    with pytest.raises(ValueError, match="was numeric in training and is categorical now"):
        profile(np.arange(50.0)).psi(words({"a": 3}))
    with pytest.raises(ValueError, match="was categorical in training and is numeric now"):
        profile(words({"a": 50})).psi(np.arange(3.0))


def test_scores_that_differ_by_rounding_are_one_value():
    leaves = np.array([-2.7, -1.3, -0.1, 0.0, 1e-4, 0.2, 0.21, 1.7])
    for values in (leaves, leaves[:2], leaves[2:3]):
        scores = rng(1).choice(values, 2000)
        offset = np.log(rng(2).uniform(0.01, 1, 2000))
        noisy = (scores + offset) - offset
        assert len(values) < len(set(noisy.tolist()))
        kept = profile_of_scores(noisy)
        assert kept.psi(scores) == kept.psi(noisy) == 0
        assert msgspec.json.decode(msgspec.json.encode(kept), type=Profile) == kept
        assert verdict(kept, scores + 5) == verdict(kept, scores - 5) == "large"
    few = profile_of_scores(np.array([0.1, 0.2]))
    assert few == profile(np.array([0.1, 0.2])) and few.psi(np.array([9.0])) == 0
    # Scores that are apart are kept as any numbers.
    scores = rng(3).normal(size=5000)
    kept, plain = profile_of_scores(scores), profile(scores)
    assert kept.shares == plain.shares and kept.edges == pytest.approx(plain.edges, abs=1e-9)
    with pytest.raises(ValueError, match="no scores"):
        profile_of_scores(np.zeros(0))


@pytest.mark.parametrize("batch", [40, 150, 600])
def test_chance_alone_is_no_drift(batch):
    """Of 1,000 batches about one may be above the bound; six are once in 1,700 times (Poisson)."""
    numbers = rng().gamma(2, 1, 4000)
    names = np.array([f"w{i}" for i in range(30)], object)[rng(1).zipf(1.6, 4000) % 30]
    for values in (numbers, names):
        kept, draws = profile(values), rng(2)
        found = [kept.psi(values[draws.integers(0, 4000, batch)]) for _ in range(1000)]
        noise = chi2.ppf(0.999, kept.groups - 1) / batch
        assert sum(index > noise for index in found) <= 5
        assert np.mean(found) < 1.15 * (kept.groups - 1) / batch
        assert sum(judge_drift(i, kept.groups, 10**9, batch) != "none" for i in found) <= 5


def test_a_shift_is_seen_as_soon_as_it_can_be():
    values = rng().normal(size=20_000)
    kept = profile(values)
    for rows in (100, 1000, 100_000):
        assert verdict(kept, rng(3).normal(1, 1, rows)) == "large"
    assert verdict(kept, rng(3).normal(0.4, 1, 10_000)) == "moderate"
    # A shift that is certain but small is none to warn of.
    assert verdict(kept, rng(3).normal(0.1, 1, 100_000)) == "none"


@pytest.mark.parametrize("groups", [2, 3, 11, 22])
def test_the_bound_is_the_quantile_of_chi_square(groups):
    """Wilson and Hilferty's cube is within 3 % and above it."""
    then, now = 500, 60
    bound = (1 / then + 1 / now) * chi2.ppf(0.999, groups - 1)
    assert bound > 0.1
    assert judge_drift(bound, groups, then, now) == "none"
    assert judge_drift(bound * 1.035, groups, then, now) in ("moderate", "large")
    many = groups, 10**7, 10**7
    found = [judge_drift(index, *many) for index in (0.1, 0.101, 0.25, 0.251)]
    assert found == ["none", "moderate", "moderate", "large"]
