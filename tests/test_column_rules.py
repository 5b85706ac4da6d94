"""How columns enter a linear model by their owner's rules: bands, groups, curves, interactions.

Differential: the same design made by pandas and formulaic, fitted by glum; the tolerances are those of
the fit (a gradient of 1e-9) and of numbers rounded to 2^-24 of a deviation.
"""

import json
import math
from pathlib import Path

import formulaic
import glum
import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.errors import ConfigError, DataError
from vfl.estimators.linear import FederatedGLM
from vfl.estimators.pooled_linear import PooledGLM
from vfl.learn.curves import fit_curve, shown_points
from vfl.learn.design import MISSING, OTHER, Design, Rules
from vfl.learn.row_design import RowDesign
from vfl.learn.small_levels import Least, Size, band_names, join_bands
from vfl.models.linear_columns import check_levels, shorten_design
from vfl.models.relativities import COLUMNS
from vfl.models.tariff import edit_model, tariff_lines
from vfl.party.config import Job
from vfl.party.linear_rules import GlmSection
from vfl.party.tariff_file import EditSection, RuleSection
from vfl.protocols.linear.scoring import LinearPart

ROWS = 3000


def objects(values) -> np.ndarray:
    return np.array(list(values), object)


@pytest.fixture(scope="module")
def motor() -> pd.DataFrame:
    """Claims that depend on age and power smoothly, and on area and fuel together."""
    rng = np.random.default_rng(11)
    table = pd.DataFrame(
        {
            "age": rng.integers(18, 90, ROWS).astype(float),
            "power": rng.gamma(3.0, 30.0, ROWS).round(1),
            "area": rng.choice(["A", "B", "C", "D", "E", "F"], ROWS, p=[0.3, 0.3, 0.2, 0.1, 0.06, 0.04]),
            "fuel": rng.choice(["diesel", "petrol"], ROWS, p=[0.4, 0.6]),
        }
    )
    table.loc[rng.random(ROWS) < 0.05, "age"] = np.nan
    table["exposure"] = rng.uniform(0.1, 1.0, ROWS)
    age = table.age.fillna(45.0)
    score = -1.2 + 0.9 * np.exp(-(age - 18) / 10) + 0.003 * table.power + 0.4 * (table.area == "C")
    score += 0.5 * ((table.area == "B") & (table.fuel == "diesel"))
    table["claims"] = rng.poisson(np.exp(score) * table.exposure).astype(float)
    return table


def fitted(motor: pd.DataFrame, columns: list[str], rules: dict[str, object], **options) -> FederatedGLM:
    model = FederatedGLM(family="poisson", hosts={}, rules={"guest": rules}, tolerance=1e-9, **options)
    return model.fit(motor[columns], motor.claims, exposure=motor.exposure)


def by_glum(motor: pd.DataFrame, design: np.ndarray) -> np.ndarray:
    """Predictions for a year, of a design without a constant."""
    model = glum.GeneralizedLinearRegressor(family="poisson", alpha=0, gradient_tol=1e-10, max_iter=500)
    model.fit(design, motor.claims / motor.exposure, sample_weight=motor.exposure)
    return np.asarray(model.predict(design))


def lines_of(model: FederatedGLM, column: str) -> pd.DataFrame:
    table = model.relativities_["guest"]
    return table[table.column == column].set_index("level")


# Bands and groups.


def test_bands_and_groups_are_those_of_pandas_and_come_to_glums_optimum(motor) -> None:
    rules = {
        "bands": {"age": [21, 25, 30, 65]},
        "group": {"area": {"country": ["D", "E", "F"]}},
        "base": {"age": "30-64", "area": "country"},
    }
    model = fitted(motor, ["age", "area"], rules)
    cut = pd.cut(motor.age, [-np.inf, 21, 25, 30, 65, np.inf], right=False)
    cut = cut.cat.rename_categories(["< 21", "21-24", "25-29", "30-64", "65+"]).astype(object)
    age = cut.where(motor.age.notna(), MISSING)
    area = motor.area.replace({"D": "country", "E": "country", "F": "country"})
    dummies = pd.concat([pd.get_dummies(age), pd.get_dummies(area)], axis=1).astype(float)
    due = by_glum(motor, dummies.drop(columns=["30-64", "country"]).to_numpy())
    np.testing.assert_allclose(model.predict(motor[["age", "area"]]), due, rtol=1e-6)
    ages, areas = lines_of(model, "age"), lines_of(model, "area")
    assert list(ages.index) == ["< 21", "21-24", "25-29", "30-64", "65+", MISSING]  # in their order
    assert ages.rows.to_dict() == age.value_counts().to_dict()
    assert list(areas.index) == ["A", "B", "C", "country"]
    assert (ages.relativity["30-64"], areas.relativity["country"]) == (1.0, 1.0)
    assert tuple(model.relativities_["guest"].columns) == COLUMNS


def test_a_level_of_19_rows_with_many_claims_does_not_have_the_relativity_of_the_base(motor) -> None:
    rng = np.random.default_rng(3)
    made = motor.assign(make=rng.choice(["BMW", "Fiat", "VW"], ROWS, p=[0.5, 0.4, 0.1]))
    rare = np.arange(ROWS) < 38
    made.loc[rare, "make"] = np.where(np.arange(38) < 19, "Alfa", "Rolls")
    made.loc[rare, "claims"] = 2.0
    made = made.assign(exposure=1.0)
    both = lines_of(fitted(made, ["make"], {}), "make")
    assert list(both.index) == ["BMW", "Fiat", "VW", OTHER]
    assert both.rows[OTHER] == 38
    rate = 2.0 / (made.claims[made.make == "BMW"].mean())
    assert both.relativity[OTHER] == pytest.approx(rate, rel=1e-5)
    assert both.relativity["BMW"] == 1.0 and both.rows["BMW"] == (made.make == "BMW").sum()


def test_the_group_of_all_others_takes_levels_that_are_new(motor) -> None:
    rules = {"group": {"area": {"town": ["A", "B"], "land": ["*"]}}}
    model = fitted(motor, ["area"], rules)
    assert list(lines_of(model, "area").index) == ["land", "town"]
    new = pd.DataFrame({"area": ["C", "Z", "A"]})
    model.unknown_levels = 1
    land, new_level, town = model.predict(new)
    assert land == new_level != town


def test_columns_by_the_levels_of_a_model() -> None:
    values = {"age": np.array([20.0, 30.0, np.nan] * 30), "area": objects(["a", "b", None] * 30)}
    rules = Rules(bands={"age": (25.0,)}, group={"area": {"land": ("b", MISSING)}})
    age, area = Design.fit(values, rules).factors
    assert age.named(values["age"])[:3].tolist() == ["< 25", "25+", None]
    assert area.named(values["area"])[:3].tolist() == ["a", "land", "land"]


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(1, 50))
def test_bands_that_are_joined_have_enough_rows_and_leave_none_out(rows, least) -> None:
    sizes = [Size(count, float(count)) for count in rows]
    ends = join_bands(sizes, Least(least))
    assert ends[-1] == len(rows) and ends == sorted({*ends})
    sums = [sum(rows[low:high]) for low, high in zip([0, *ends], ends, strict=False)]
    assert len(sums) == 1 or min(sums) >= least
    if min(rows) >= least:
        assert ends == list(range(1, len(rows) + 1))


def test_empty_and_small_bands_join_a_neighbour() -> None:
    ages = np.concatenate([np.repeat([22.0, 40.0], 100), np.full(5, 70.0)])
    rules = Rules(bands={"age": (18.0, 25.0, 30.0, 65.0)})
    (factor,) = Design.fit({"age": ages}, rules).factors
    assert (factor.levels, factor.rows) == (("< 30", "30+"), (100, 105))
    assert factor.codes(np.array([29.9, 30.0, 99.0, -5.0])).tolist() == [1, 0, 0, 1]
    with pytest.raises(ValueError, match="'age' has no two bands with 20 rows"):
        Design.fit({"age": ages}, Rules(bands={"age": (90.0, 95.0)}))


@pytest.mark.parametrize(
    ("edges", "whole", "names"),
    [
        ((21, 25, 26), True, ["< 21", "21-24", "25", "26+"]),
        ((-10, -5, 0, 3), True, ["< -10", "-10 to -6", "-5 to -1", "0-2", "3+"]),
        ((0.5, 1), False, ["< 0.5", "0.5 to < 1", ">= 1"]),
    ],
)
def test_names_of_bands(edges, whole, names) -> None:
    assert band_names([float(edge) for edge in edges], whole) == names


def test_a_band_holds_the_number_that_it_begins_with() -> None:
    values = np.array([-0.0, 0.0, np.nextafter(0.0, -1), 0.1, np.nan] * 5)
    (factor,) = Design.fit({"x": values}, Rules(bands={"x": (0.0, 0.1)}, min_level_rows=1)).factors
    assert factor.levels == ("< 0", "0 to < 0.1", ">= 0.1", MISSING)
    assert [[factor.base, *factor.others][code] for code in factor.codes(values[:5])] == [
        *("0 to < 0.1", "0 to < 0.1", "< 0", ">= 0.1", MISSING)
    ]


# Splines and polynomials.


@pytest.mark.parametrize("knots", [[30.0, 45.0, 60.0], 4])
def test_a_spline_is_that_of_formulaic_at_glums_optimum(motor, knots) -> None:
    known = motor[motor.age.notna()].reset_index(drop=True)
    model = fitted(known, ["age", "area"], {"splines": {"age": knots}})
    curve = model.model_.part.design.curves[0]
    inner = [float(knot) for knot in curve.knots[1:-1]]
    made = formulaic.model_matrix(
        "cr(age, knots=knots)", known, context={"knots": inner}, output="numpy"
    )
    basis = np.asarray(made, float)[:, 2:]  # the constant, and one that it makes dependent
    design = np.hstack([basis, pd.get_dummies(known.area).to_numpy(float)[:, 1:]])
    due = by_glum(known, design)
    np.testing.assert_allclose(model.predict(known[["age", "area"]]), due, rtol=2e-6)
    # The terms are standardised and not correlated, so that the fit is well conditioned.
    numbers = curve.numbers(known.age.to_numpy())
    np.testing.assert_allclose(numbers @ numbers.T / len(known), np.eye(len(numbers)), atol=1e-6)
    # The table that its owner reads is the curve.
    lines = lines_of(model, "age")
    values = np.array(lines.index, float)
    assert (np.diff(values) > 0).all() and values[0] == known.age.min() and values[-1] == known.age.max()
    at = known[["age", "area"]].iloc[: len(values)].assign(age=values, area="A")
    predicted = model.predict(at)
    np.testing.assert_allclose(
        lines.relativity, predicted / predicted[lines.relativity == 1.0], rtol=1e-9
    )


def test_a_spline_goes_on_straight_and_a_polynomial_stays(motor) -> None:
    x = motor.power.to_numpy()
    spline = fit_curve("power", x, "spline", 3, (0.0, False, 0))
    low, high = x.min(), x.max()
    for end, away in ((low, -1.0), (high, 1.0)):
        near, next_, far = spline.numbers(end + away * np.array([0.0, 100.0, 200.0])).T
        np.testing.assert_allclose(far - next_, next_ - near, atol=1e-6)
        inside = spline.numbers(np.array([end, end - away * 1e-4])).T
        np.testing.assert_allclose((inside[0] - inside[1]) * 1e6, (next_ - near), atol=2e-1)
    polynomial = fit_curve("power", x, "polynomial", 3, (0.0, False, 0))
    same = polynomial.numbers(np.array([high, high + 1000.0]))
    assert (same[:, 0] == same[:, 1]).all()


def test_a_polynomial_comes_to_glums_optimum(motor) -> None:
    rules = {"polynomials": {"power": 3}, "missing": "level", "bands": {"age": [25, 60]}}
    model = fitted(motor, ["power", "age"], rules)
    scaled = (motor.power / 100.0).to_numpy()
    cut = pd.cut(motor.age, [-np.inf, 25, 60, np.inf], right=False).cat.codes
    dummies = pd.get_dummies(cut).to_numpy(float)[:, 1:]
    due = by_glum(motor, np.column_stack([scaled, scaled**2, scaled**3, dummies]))
    np.testing.assert_allclose(model.predict(motor[["power", "age"]]), due, rtol=5e-6)


def test_missing_numbers_of_a_curve_have_a_level_where_they_are_to(motor) -> None:
    model = fitted(motor, ["age"], {"splines": {"age": 2}, "missing": "level", "base": {"age": "40"}})
    lines = lines_of(model, "age")
    assert lines.relativity["40"] == 1.0
    assert lines.rows[MISSING] == motor.age.isna().sum()
    actual = motor.claims[motor.age.isna()].sum() / motor.exposure[motor.age.isna()].sum()
    assert model.predict(pd.DataFrame({"age": [np.nan]}))[0] == pytest.approx(actual, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(low=st.floats(-1e6, 1e6), width=st.floats(1e-6, 1e7), places=st.integers(0, 12))
def test_shown_points_are_few_in_order_and_from_end_to_end(low, width, places) -> None:
    high = low + width
    points = shown_points(low, high)
    assert points == sorted({*points}) and (points[0], points[-1]) == (low, high)
    assert len(points) <= 30


@pytest.mark.parametrize(
    ("values", "rules", "said"),
    [
        (np.arange(100.0) % 3, {"splines": {"x": (0.5, 1.0)}}, "too few different values for a spline"),
        (np.arange(100.0) % 3, {"polynomials": {"x": 3}}, "too few different values for a polyn"),
        (np.arange(100.0), {"splines": {"x": (50.0, 200.0)}}, "a knot that is not between"),
        (np.full(100, 7.0), {"splines": {"x": 2}}, "holds one value only"),
        (
            np.arange(100.0),
            {"splines": {"x": 2}, "base": {"x": "old"}},
            "its base is a number in quotes",
        ),
        (objects("ab" * 50), {"splines": {"x": 2}}, "is categorical: only numbers are made a spline"),
        (objects(["1", "2"] * 50), {"bands": {"x": (2.0,)}}, "only numbers are cut into bands"),
        (np.arange(100.0), {"group": {"x": {"a": ("1",)}}}, "is numeric: names are grouped"),
        (np.append(np.arange(99.0), np.inf), {"bands": {"x": (2.0,)}}, "infinite"),
        (objects("ab" * 50), {"group": {"x": {"a": ("b",)}}}, "a level 'a' that is not in the group"),
        (
            objects(["a", "A", "é"] * 40),
            {"group": {"x": {"g": ("a",), "h": ("e\u0301", "a ")}}},
            "two gr",
        ),
        (objects("ab" * 50), {"bands": {"y": (1.0,)}}, "no column 'y', for which bands has a rule"),
        (objects("ab" * 50), {"interactions": (("x", "y"),)}, "no column 'y', for which interactions"),
    ],
)
def test_columns_that_rules_do_not_fit(values, rules, said) -> None:
    with pytest.raises(ValueError, match=said):
        Design.fit({"x": values}, Rules(**rules))


# Interactions.


def test_an_interaction_comes_to_glums_optimum_and_leaves_small_pairs_to_their_levels(motor) -> None:
    columns = ["area", "fuel"]
    made = motor.copy()
    made.loc[made.area == "F", "fuel"] = "petrol"  # a pair without rows, and one that tells nothing more
    few = (made.area == "E") & (made.fuel == "diesel")
    made.loc[few & (few.cumsum() > 10), "fuel"] = "petrol"
    rules = {"interactions": [["area", "fuel"]], "base": {"area": "A", "fuel": "petrol"}}
    model = fitted(made, columns, rules)
    (crossing,) = model.model_.part.design.crossings
    assert crossing.cells == (("B", "diesel"), ("C", "diesel"), ("D", "diesel"))
    mains = pd.get_dummies(made[columns]).drop(columns=["area_A", "fuel_petrol"])
    pairs = [((made.area == one) & (made.fuel == other)) for one, other in crossing.cells]
    due = by_glum(made, np.column_stack([mains, *pairs]).astype(float))
    np.testing.assert_allclose(model.predict(made[columns]), due, rtol=1e-6)
    lines = lines_of(model, "area × fuel")
    assert list(lines.index) == ["B × diesel", "C × diesel", "D × diesel"]
    assert lines.rows.tolist() == [int(pair.sum()) for pair in pairs]
    both = lines_of(model, "area").relativity["B"] * lines_of(model, "fuel").relativity["diesel"]
    b_diesel, a_petrol = model.predict(pd.DataFrame({"area": ["B", "A"], "fuel": ["diesel", "petrol"]}))
    assert b_diesel / a_petrol == pytest.approx(both * lines.relativity["B × diesel"], rel=1e-9)


def test_pairs_of_bands_stand_in_the_order_of_the_bands() -> None:
    rng = np.random.default_rng(2)
    table = pd.DataFrame({"age": rng.integers(1, 120, 900) * 1.0, "fuel": rng.choice(["d", "p"], 900)})
    rules = {
        "bands": {"age": [9, 30, 100]},
        "interactions": [["age", "fuel"]],
        "base": {"age": "30-99", "fuel": "p"},
    }
    model = FederatedGLM(family="poisson", hosts={}, rules={"guest": rules})
    lines = lines_of(model.fit(table, rng.poisson(1.0, 900)), "age × fuel")
    assert list(lines.index) == ["< 9 × d", "9-29 × d", "100+ × d"]


def test_interactions_of_columns_without_levels_or_pairs() -> None:
    features = {"a": objects("xy" * 50), "b": objects("xy" * 50), "c": np.arange(100.0)}
    with pytest.raises(ValueError, match="interaction of 'a' and 'b' has no pair of levels"):
        Design.fit(features, Rules(interactions=(("a", "b"),)))
    with pytest.raises(ValueError, match="'c' is numeric and has no levels"):
        Design.fit(features, Rules(interactions=(("a", "c"),)))


# Everything together, row by row and in documents.

EVERYTHING = Rules(
    bands={"age": (25.0, 40.0, 60.0)},
    group={"area": {"town": ("A", "B"), "land": ("D", "E", "*")}},
    splines={"power": 3},
    polynomials={"years": 2},
    interactions=(("age", "area"), ("area", "fuel")),
    missing="level",
    min_level_rows=10,
)


def features(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    return {
        "age": np.where(rng.random(rows) < 0.1, np.nan, rng.integers(18, 90, rows)),
        "area": rng.choice(objects([*"ABCDEFG", None, "new"][: 7 + (rows < 400) * 2]), rows),
        "fuel": rng.choice(objects(["d", "p", None]), rows),
        "power": np.where(rng.random(rows) < 0.2, np.nan, rng.lognormal(4, 0.5, rows)),
        "years": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(5, 3, rows)),
        "plain": rng.normal(size=rows),
    }


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(0, 30))
def test_parts_for_rows_are_those_for_batches(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    design = Design.fit(features(rng, 400), EVERYTHING)
    coefficients = rng.normal(size=len(design.coefficients)).tolist()
    part, quick = LinearPart(design, tuple(coefficients)), RowDesign(design, coefficients)
    new = features(rng, rows)
    expected = part.scores(new, rows)
    assert quick.scores(new, rows).tobytes() == expected.tobytes()
    for row in range(rows):
        one = {name: values[row : row + 1] for name, values in new.items()}
        assert quick.scores(one, 1)[0] == part.scores(one, 1)[0] == expected[row]
    terms, by_column = quick.terms(new, rows), part.by_column
    assert list(terms) == list(by_column)
    for name, column in by_column.items():
        assert terms[name].tobytes() == column.scores(column.taken_from(new), rows).tobytes()
    np.testing.assert_allclose(sum(terms.values()), expected, atol=1e-9)


def test_a_design_survives_its_document_and_says_nothing_of_rules_that_it_has_not() -> None:
    rng = np.random.default_rng(4)
    table = features(rng, 400)
    for rules, keys in (
        (EVERYTHING, {"factors", "covariates", "curves", "crossings"}),
        (Rules(min_level_rows=1), {"factors", "covariates"}),
    ):
        design = Design.fit(table, rules)
        document = msgspec.to_builtins(design, str_keys=True)
        shorten_design(document)
        assert set(document) == keys
        again = msgspec.convert(json.loads(json.dumps(document)), Design)
        assert again == design
        written = msgspec.to_builtins(again, str_keys=True)
        shorten_design(written)  # once more, as of a version of a half that was read
        assert written == document
    old = {"name", "base", "levels", "rows", "joined", "edges"}  # what earlier versions wrote
    assert all(set(factor) == old for factor in document["factors"])


def test_the_matrix_in_two_parts_is_the_same(tmp_path: Path) -> None:
    from vfl.blocks.scratch import Scratch

    rng = np.random.default_rng(5)
    table = features(rng, 400)
    design, training = Design.fit(table, EVERYTHING), rng.random(400) < 0.7
    whole, parted = design.matrix(table), design.parted(table, training, Scratch(tmp_path, in_memory=0))
    assert parted is not None
    for rows in (training, ~training):
        np.testing.assert_array_equal(parted.take(rows).dense(), whole.take(rows).dense())


def test_the_protocol_and_the_model_with_all_columns_agree_bit_for_bit(motor) -> None:
    few = motor.iloc[:300]
    rules = {
        "guest": {"splines": {"power": 2}, "min_level_rows": 5},
        "bureau": {"bands": {"age": [30, 60]}, "interactions": [["age", "area"]], "min_level_rows": 5},
    }
    models = []
    for engine in ("plain", "protocol"):
        model = FederatedGLM(
            family="poisson",
            hosts={"bureau": few[["age", "area"]]},
            rules=rules,
            engine=engine,
            encryption="lattice",
            tolerance=1e-3,
        )
        models.append(model.fit(few[["power", "fuel"]], few.claims, exposure=few.exposure))
    plain, protocol = models
    assert plain.halves_ == protocol.halves_ and plain.model_.part == protocol.model_.part
    told = plain.explain(few[["power", "fuel"]].iloc[:5]) if hasattr(plain, "explain") else None
    assert told is None or len(told)


# Over rows.


def test_bands_and_groups_over_rows_are_those_of_the_pooled_rows(motor) -> None:
    rules = {"bands": {"age": [25, 40, 60]}, "group": {"area": {"land": ["D", "E", "F"]}}}
    pooled = PooledGLM(family="poisson", parties="who", rules=rules)
    table = motor[["age", "area"]].assign(who=np.where(np.arange(ROWS) % 3, "north", "south"))
    pooled.fit(table, motor.claims, exposure=motor.exposure)
    alone = fitted(motor, ["age", "area"], {**rules, "base": {"age": "40-59", "area": "A"}})
    age = pooled.relativities_[pooled.relativities_.column == "age"].set_index("level")
    assert list(age.index) == ["< 25", "25 to < 40", "40 to < 60", ">= 60", MISSING]
    ratio = age.relativity["< 25"] / age.relativity["40 to < 60"]
    assert ratio == pytest.approx(lines_of(alone, "age").relativity["< 25"], rel=1e-5)
    for rule, value in (("splines", {"age": 3}), ("polynomials", {"age": 2})):
        model = PooledGLM(family="poisson", parties="who", rules={rule: value})
        with pytest.raises((ConfigError, DataError), match="is not for a model over rows"):
            model.fit(table, motor.claims, exposure=motor.exposure)


# What people write.


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"bands": {"age": [30, 20]}}, "must be a list of numbers, each above the one before"),
        ({"bands": {"age": [20, 20]}}, "each above the one before"),
        ({"bands": {"age": []}}, "each above the one before"),
        ({"bands": {"age": ["20"]}}, "must be a list of numbers"),
        ({"bands": {"age": [True]}}, "must be a list of numbers"),
        ({"bands": {"age": [math.nan]}}, "must be a list of numbers"),
        ({"bands": {"age": [1.0, math.inf]}}, "must be a list of numbers"),
        ({"bands": {"age": [10**400]}}, "must be a list of numbers"),
        ({"bands": {"age": 20}}, "must be a list of numbers"),
        ({"bands": {"age": list(range(300))}}, "at most 250 numbers"),
        ({"splines": {"age": 0}}, "a whole number from 1 to 20 or a list of numbers"),
        ({"splines": {"age": True}}, "must be a list of numbers"),
        ({"splines": {"age": list(range(21))}}, "at most 20 knots"),
        ({"polynomials": {"age": 9}}, "'age' must be a whole number from 2 to 5"),
        ({"bands": {"age": [20]}, "splines": {"age": 2}}, "splines has 'age', which bands has, too"),
        ({"group": {"make": {}}}, "must have a group"),
        ({"group": {"make": {"a": []}}}, "group"),
        ({"group": {"make": {"a": [1]}}}, "group"),
        ({"group": {"make": {"a": [" "]}}}, "a blank level in group 'a'"),
        ({"group": {"make": {"a": ["x"], "b": ["x "]}}}, "a level twice, the second time in group 'b'"),
        ({"group": {"make": {"*": ["x"]}}}, "a group whose name is"),
        ({"interactions": [["a", "a"]]}, "pairs of two different columns"),
        ({"interactions": [["a", "b"], ["b", "a"]]}, "a pair of columns twice"),
        ({"interactions": [["a", "b", "c"]]}, "interactions"),
    ],
)
def test_rules_that_cannot_be(value, said) -> None:
    with pytest.raises(ConfigError) as raised:
        FederatedGLM(family="poisson", hosts={}, rules={"guest": value}).fit(
            pd.DataFrame({"age": [1.0, 2.0]}), np.array([0.0, 1.0])
        )
    assert said in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("knots", [4, [60, 80.5]])
@pytest.mark.filterwarnings("error")
def test_knots_are_written_down_as_they_were_given(knots: int | list[float]) -> None:
    section = GlmSection.model_validate({"splines": {"age": knots}}, strict=True)
    assert section.model_dump(mode="json")["splines"] == {"age": knots}


def test_levels_of_groups_are_found_as_a_batch_would_find_them() -> None:
    values = objects(["bmw", "Audi", "1.0", "01", "Fiat", None] * 30)
    section = GlmSection(
        group={"make": {"premium": ("BMW", "audi"), "one": ("1.0",), "none": (MISSING,)}}
    )
    check_levels(section, {"make": values}, "cars.csv")
    (factor,) = Design.fit({"make": values}, Rules(**section.rules)).factors
    assert dict(factor.grouped) == {"bmw": "premium", "Audi": "premium", "1.0": "one", MISSING: "none"}
    wrong = GlmSection(group={"make": {"premium": ("BMW", "Awdi")}})
    with pytest.raises(
        ConfigError, match="group 'premium' of column 'make' has a level, number 2 of its"
    ):
        check_levels(wrong, {"make": values}, "cars.csv")


# What a job over rows says for all.


def row_job(**glm: object) -> dict[str, object]:
    return {
        "job": {
            "name": "pooled",
            "purpose": "a test",
            "partition": "rows",
            "model": "glm",
            "family": "poisson",
        },
        "glm": glm,
        "columns": {"age": {"type": "number"}, "area": {"type": "category", "levels": ["A", "B", "C"]}},
    }


def test_a_job_over_rows_says_bands_and_groups_to_all_and_nothing_of_rules_that_it_has_not() -> None:
    plain = Job.model_validate(row_job())
    assert not {"bands", "group", "splines", "interactions"} & set(json.loads(plain.canonical)["glm"])
    said = {
        "bands": {"age": [25, 40]},
        "group": {"area": {"land": ["B", "*"]}},
        "base": {"area": "land"},
    }
    job = Job.model_validate(row_job(**said))
    assert Job.from_canonical(job.canonical) == job and job.digest != plain.digest
    assert job.glm.of_columns.bands == {"age": (25.0, 40.0)}


@pytest.mark.parametrize(
    ("glm", "said"),
    [
        ({"splines": {"age": 3}}, 'splines is not for partition = "rows"'),
        ({"polynomials": {"age": 3}}, 'polynomials is not for partition = "rows"'),
        ({"interactions": [["age", "area"]]}, 'interactions is not for partition = "rows"'),
        ({"min_level_exposure": 2.0}, 'min_level_exposure is not for partition = "rows"'),
        ({"bands": {"area": [1]}}, "bands has 'area', which is a category"),
        ({"bands": {"aeg": [1]}}, "bands has 'aeg', which is no column of the job: did you mean 'age'"),
        ({"group": {"age": {"a": ["1"]}}}, "group has 'age', which is a number"),
        ({"group": {"area": {"a": ["X"]}}}, "group of 'area' has in 'a' a level that the job does not"),
        ({"bands": {"age": [1]}, "step": {"age": 5}}, "step has 'age', which bands cuts into levels"),
        (
            {"group": {"area": {"a": ["A"]}}, "base": {"area": "b"}},
            "base of 'area' is none of its levels",
        ),
    ],
)
def test_jobs_over_rows_that_cannot_be(glm, said) -> None:
    with pytest.raises(ValueError, match=said):
        Job.model_validate(row_job(**glm))


def test_a_job_over_columns_says_nothing_of_columns() -> None:
    job = {**row_job(bands={"age": [25]}), "columns": None}
    del job["columns"], job["job"]["partition"]
    with pytest.raises(
        ValueError, match=r"\[glm\] bands is each party's own, in \[glm\] of its party fi"
    ):
        Job.model_validate(job)


def test_groups_over_rows_take_the_levels_that_the_parties_did_not_agree_on(motor) -> None:
    table = motor[["area"]].assign(who=np.where(np.arange(ROWS) % 2, "north", "south"))
    model = PooledGLM(
        family="poisson",
        parties="who",
        levels={"area": ["A", "B", "C"]},
        rules={"group": {"area": {"town": ["A"], "land": ["*"]}}},
    ).fit(table, motor.claims, exposure=motor.exposure)
    found = model.relativities_.set_index("level").rows
    town = int((motor.area == "A").sum())
    assert (found["town"], found["land"]) == (town, ROWS - town)


def test_the_guests_base_level_has_the_largest_exposure(motor) -> None:
    years = np.where(motor.fuel == "diesel", 1.0, 0.5)  # 0.4 of the rows, and 0.57 of the exposure
    model = FederatedGLM(family="poisson", hosts={}).fit(motor[["fuel"]], motor.claims, exposure=years)
    assert lines_of(model, "fuel").relativity["diesel"] == 1.0
    alone = FederatedGLM(family="poisson", hosts={}).fit(motor[["fuel"]], motor.claims)
    assert lines_of(alone, "fuel").relativity["petrol"] == 1.0


def test_a_tariff_edits_levels_and_leaves_curves_alone(motor) -> None:
    rules = {
        "bands": {"age": [25, 60]},
        "splines": {"power": 2},
        "group": {"area": {"land": ["D", "E", "F"]}},
        "interactions": [["age", "area"]],
    }
    fitted_model = fitted(motor, ["age", "power", "area"], rules).model_
    edited = edit_model(fitted_model, RuleSection(decimals=1), [])
    places = edited.model.part.design.coefficients
    now, before = edited.model.part.coefficients, fitted_model.part.coefficients
    changed = [place for place, a, b in zip(places, now, before, strict=True) if a != b]
    assert ("age", "< 25") in changed and any(column == "area" for column, _ in changed)
    assert not {level for column, level in changed if column == "power"}
    tables = tariff_lines(fitted_model, edited.model, lambda column: None, None)
    assert [line.level for line in tables["age"]] == ["< 25", "25-59", "60+", MISSING]
    assert all(line.rows is None for line in tables["power"])
    for column, level, said in (
        ("power", "term 1", "the column is a curve"),
        ("area", "D", "the level counts as 'land'"),
        ("agee", "60+", "did you mean 'age'"),
    ):
        edit = EditSection(column=column, level=level, relativity=1.2, reason="a test")
        with pytest.raises(ConfigError, match=said):
            edit_model(fitted_model, RuleSection(), [edit])
