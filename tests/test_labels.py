"""What comes with a table, one value a row: labels of any two classes, numbers, weights."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
from sklearn.exceptions import DataConversionWarning
from small_tables import alone, quick, regressor, small

import vfl
from vfl.errors import DataError

LABELS = [
    ([0, 1], [0, 1]),
    ([1, 2], [1, 2]),
    ([-1, 1], [-1, 1]),
    ([0.0, 1.0], [0.0, 1.0]),
    ([True, False], [False, True]),
    (["yes", "no"], ["no", "yes"]),
    (["b", "a"], ["a", "b"]),
]


@pytest.mark.parametrize(("labels", "classes"), LABELS)
@pytest.mark.parametrize(
    "kind",
    [list, tuple, np.array, pd.Series, pa.array, "column", "frame", "categorical", "object", "nullable"],
)
def test_labels_of_any_two_classes(labels, classes, kind):
    insurer, truth, _ = small()
    order = classes.index(labels[1])  # whether the second label is the second class
    values = [labels[one] for one in truth]
    wanted = alone(trees=3).fit(insurer, truth if order else 1 - truth)
    made = {
        "column": lambda v: np.array(v)[:, np.newaxis],
        "frame": lambda v: pd.DataFrame({"label": v}),
        "categorical": lambda v: pd.Series(v).astype("category"),
        "object": lambda v: np.array(v, dtype=object),
        "nullable": lambda v: pd.Series(v).convert_dtypes(),
    }.get(kind, kind)
    given = made(values)
    if kind in ("column", "frame"):
        with pytest.warns(
            DataConversionWarning, match="A column-vector y was passed when a 1d"
        ) as warned:
            model = alone(trees=3).fit(insurer, given)
        assert warned[0].filename == __file__
    else:
        model = alone(trees=3).fit(insurer, given)
    assert model.classes_.tolist() == classes
    if kind != "nullable":  # whole numbers become integers
        assert type(model.classes_.tolist()[0]) is type(classes[0])
    assert np.array_equal(model.decision_function(insurer), wanted.decision_function(insurer))
    predicted = model.predict(insurer)
    assert set(predicted.tolist()) <= set(classes)
    assert model.predict_proba(insurer)[:, 1][predicted == classes[1]].min() > 0.5
    if kind not in ("column", "frame"):
        assert model.score(insurer, given) == np.mean(
            [a == b for a, b in zip(predicted, values, strict=True)]
        )


@pytest.mark.parametrize(
    ("y", "text"),
    [
        (None, "requires y to be passed, but the target y is None"),
        (5, "y must have one value a row, not be int"),
        ("label", "y must have one value a row, not be str"),
        ([[0], [1, 2]] * 40, "y must have one value a row"),
        ([None, 1] * 40, "y is missing in 40 rows"),
        ([np.nan, 1] * 40, "y is missing in 40 rows"),
        (pd.array([None, True] * 40, dtype="boolean"), "y is missing in 40 rows"),
        ([np.inf, 1] * 40, "Input y contains infinity"),
        ([1j, 1] * 40, "Complex data not supported: y is of complex numbers|y holds"),
        ([0, "no"] * 40, "y holds text and numbers mixed: give text, bools or whole numbers"),
        ([b"a", b"b"] * 40, "Unknown label type: y holds values of kind bytes"),
        ([{"a": 1}, {"b": 2}] * 40, "Unknown label type: y holds "),
        (
            pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(80), "D"),
            "y holds values of kind date",
        ),
        (np.arange(80) / 7, "Unknown label type: continuous"),
        (np.zeros((80, 2)), r"y should be a 1d array, got an array of shape \(80, 2\) instead"),
        (np.zeros(79), "y has 79 values for 80 rows"),
        (scipy.sparse.csr_matrix(np.ones((80, 1))), "y is sparse, but dense data is required"),
        (pa.table({"a": [0, 1] * 40, "b": [0, 1] * 40}), "y must have one value a row, not 2 columns"),
        (np.ones(80), "y has only one class: a model needs rows of both"),
        (["a"] * 80, "y has only one class"),
    ],
)
def test_labels_that_cannot_be(y, text):
    insurer, _, hosts = small()
    for model in (alone(), quick(hosts=hosts), vfl.FederatedLogisticRegression(hosts=hosts)):
        with pytest.raises(DataError, match=text) as caught:
            model.fit(insurer, y)
        assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("y", "text"),
    [
        (["a", "b"] * 40, "y is of type .*, not of numbers"),
        ([np.inf, 1] * 40, "y has 40 infinite numbers"),
        ([1j] * 80, "y is of type complex128, not of numbers: Complex data not supported"),
        ([None, 1] * 40, "y is missing in 40 rows"),
        (np.zeros((80, 2)), "y must have one value a row, not 2 dimensions"),
        (None, "requires y to be passed"),
        (-np.ones(80), "y must not be negative but is in 80 rows"),
        (np.zeros(80), "y is 0 in every row: a model needs rows above 0"),
    ],
)
def test_numbers_that_cannot_be(y, text):
    insurer, _, hosts = small()
    for model in (regressor(hosts={}), vfl.FederatedGLM(family="poisson", hosts=hosts)):
        with pytest.raises(DataError, match=text):
            model.fit(insurer, y)


def test_weights_of_any_kind():
    insurer, y, _ = small()
    weight = np.linspace(0.5, 2, 80)
    wanted = alone().fit(insurer, y, sample_weight=weight).decision_function(insurer)
    for given in (weight.tolist(), pd.Series(weight, insurer.index), pa.array(weight), pd.array(weight)):
        found = alone().fit(insurer, y, sample_weight=given).decision_function(insurer)
        assert np.array_equal(found, wanted)
    twos = alone().fit(insurer, y, sample_weight=2).decision_function(insurer)
    assert np.array_equal(
        twos, alone().fit(insurer, y, sample_weight=[2] * 80).decision_function(insurer)
    )
