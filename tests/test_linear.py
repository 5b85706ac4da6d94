"""A party's columns for a linear model: what is refused, and what each side is told."""

from pathlib import Path

import numpy as np
import pytest

from vfl.blocks.columns import MadeColumns
from vfl.blocks.scratch import Scratch
from vfl.errors import DataError
from vfl.learn.design import Design, Rules
from vfl.learn.matrix import Matrix, Parted
from vfl.learn.params import GlmParams
from vfl.models.linear_columns import own_scores, prepare_columns
from vfl.party.linear_rules import GlmSection
from vfl.protocols.linear.scoring import LinearPart

ROWS = 200
RNG = np.random.default_rng(0)
TRAINING = RNG.random(ROWS) < 0.7
AGE = RNG.normal(40, 10, ROWS)
AREA = RNG.choice(np.array(["town", "land"], object), ROWS)
FEATURES = {"age": AGE, "area": AREA}


def refused(features, section: GlmSection, alpha: float = 0.0) -> DataError:
    with pytest.raises(DataError) as raised:
        prepare_columns("cars.csv", features, TRAINING, section, GlmParams(alpha=alpha))
    assert "\n" not in str(raised.value)
    for private in ("age", "area", "town", "cars"):
        assert private not in raised.value.for_peer
    return raised.value


def test_the_design_is_of_the_rows_that_train_the_matrix_of_all() -> None:
    design, matrix = prepare_columns("cars.csv", FEATURES, TRAINING, GlmSection(), GlmParams())
    assert matrix.rows == ROWS
    assert design == Design.fit({name: v[TRAINING] for name, v in FEATURES.items()}, Rules())
    binned, _ = prepare_columns(
        "cars.csv", FEATURES, TRAINING, GlmSection(binned=("age",), bins=4), GlmParams()
    )
    assert [factor.name for factor in binned.factors] == ["age", "area"]
    design, matrix = prepare_columns("cars.csv", {}, TRAINING, GlmSection(), GlmParams())
    assert (matrix.rows, matrix.columns) == (ROWS, 0)


@pytest.mark.parametrize(
    ("features", "section", "said"),
    [
        (
            {"age": np.where(TRAINING, np.nan, 1.0)},
            GlmSection(),
            "cars.csv: column 'age' holds no value: leave it out (ignore)",
        ),
        (FEATURES, GlmSection(base={"area": "sea"}), "cars.csv: column 'area' has no level 'sea' to be"),
        (FEATURES, GlmSection(binned=("area",)), "cars.csv: column 'area' is categorical"),
        (FEATURES, GlmSection(step={"agee": 5}), "cars.csv: there is no column 'agee', for which step"),
        (FEATURES, GlmSection(min_level_rows=190), "cars.csv: column 'area' has no level besides"),
    ],
)
def test_columns_that_no_linear_model_can_use(features, section: GlmSection, said: str) -> None:
    error = refused(features, section)
    assert str(error).startswith(said)
    assert error.for_peer.startswith("one of its columns cannot enter a linear model")


def test_columns_that_are_combinations_of_others_need_a_penalty() -> None:
    zone = np.where(AREA == "town", "centre", "rest").astype(object)
    advice = "leave out columns (ignore), or set the job's alpha above 0"
    for more, said in (
        ({"months": 12 * AGE + 3}, "column 'months' is a linear combination of other columns: leave"),
        ({"zone": zone}, "column 'zone' at level '"),
        (
            {f"age{k}": k * AGE for k in range(1, 6)},
            "column 'age1', column 'age2', column 'age3' and 2 more are linear combinations of",
        ),
    ):
        error = refused({**FEATURES, **more}, GlmSection())
        assert said in str(error) and str(error).endswith(advice)
        assert "alpha above 0" in error.for_peer
        prepare_columns("cars.csv", {**FEATURES, **more}, TRAINING, GlmSection(), GlmParams(alpha=0.01))


def test_scores_of_own_rows() -> None:
    design, matrix = prepare_columns(
        "cars.csv", FEATURES, TRAINING, GlmSection(missing="median"), GlmParams()
    )
    part = LinearPart(design, (0.5, -2.0))
    own = own_scores("cars.csv", part, FEATURES, ROWS)
    assert np.array_equal(own.rows, matrix.times(np.array([0.5, -2.0])))
    # A number of which nothing is known is the median one, an area is at the base level.
    median = np.median(AGE[TRAINING])
    mean, deviation = AGE[TRAINING].mean(), AGE[TRAINING].std()
    assert own.missing == pytest.approx(-2.0 * (median - mean) / deviation, abs=1e-6)
    assert own.unseen == {}
    sea = np.where(np.arange(ROWS) < 3, "sea", AREA).astype(object)
    assert own_scores("new.csv", part, {**FEATURES, "area": sea}, ROWS).unseen == {"area": 3}
    with pytest.raises(DataError, match=r"^new.csv: column 'age' is categorical here") as raised:
        own_scores("new.csv", part, {**FEATURES, "age": AREA}, ROWS)
    assert "age'" not in raised.value.for_peer
    none = own_scores("new.csv", part, {"age": AGE[:0], "area": AREA[:0]}, 0)
    assert (len(none.rows), none.missing) == (0, own.missing)


def test_many_rows_lie_in_two_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    gaps = np.where(rng.random(ROWS) < 0.2, np.nan, rng.normal(size=ROWS))
    features = FEATURES | {"gaps": gaps}
    section, scratch = GlmSection(missing="level"), Scratch(tmp_path, in_memory=0)
    design, whole = prepare_columns("cars.csv", features, TRAINING, section, GlmParams(alpha=0.1))
    again, parted = prepare_columns(
        "cars.csv", features, TRAINING, section, GlmParams(alpha=0.1), scratch
    )
    lazy = MadeColumns(tuple(features), features.__getitem__, ["area"])
    _, made = prepare_columns("cars.csv", lazy, TRAINING, section, GlmParams(alpha=0.1), scratch)
    assert again == design and isinstance(parted, Parted) and parted.columns == whole.columns
    for own in (parted, made):
        for rows in (TRAINING, ~TRAINING):
            part, expected = own.take(rows), whole.take(rows)
            assert part.numbers.dtype == np.int32 and part.bits == expected.bits
            for found, known in [
                (part, expected),
                (own.with_intercept().take(rows), expected.with_intercept()),
            ]:
                np.testing.assert_array_equal(found.dense(), known.dense())
                beta = rng.normal(size=found.columns)
                np.testing.assert_array_equal(found.times(beta), known.times(beta))
                np.testing.assert_array_equal(found.gram(), known.gram())
    with pytest.raises(ValueError, match="no part"):
        parted.take(np.ones(ROWS, np.bool_))
    # A number that is too far off for 32 bits.
    far = features | {"far": np.where(TRAINING, AGE, 1e9)}
    _, whole = prepare_columns("cars.csv", far, TRAINING, section, GlmParams(alpha=0.1), scratch)
    assert isinstance(whole, Matrix) and whole.numbers.dtype == np.float64
