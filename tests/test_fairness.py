"""Protected classes: measures as fairlearn has them, small classes told of no one, the proxy test."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from reports import made_up, with_all
from sklearn.metrics import roc_auc_score

from vfl.learn.bootstrap import Resamples
from vfl.learn.fairness import ClassRows, Fairness, by_class, classes_of, proxies
from vfl.report.evidence import Beside, Evidence
from vfl.report.page import PAGE, Told, render

ROWS = 3000


def book() -> tuple[pd.DataFrame, Fairness]:
    rng = np.random.default_rng(6)
    frame = pd.DataFrame({"group": rng.choice(["a", "b", "c"], ROWS, p=[0.5, 0.3, 0.2])})
    shift = frame.group.map({"a": 0.0, "b": 0.5, "c": 0.0})
    frame["p"] = 1 / (1 + np.exp(1.5 - rng.normal(size=ROWS) - shift))
    frame["y"] = (rng.random(ROWS) < frame.p * (1 + 0.6 * (frame.group == "c"))).astype(float)
    frame["w"] = rng.uniform(0.5, 2, ROWS)
    frame["paid"] = np.where(rng.random(ROWS) < 0.1, 0.0, 300 * frame.p)
    classes = classes_of(frame.group.to_numpy(object), 20)
    assert classes is not None and classes.names == ["a", "b", "c"]
    weight = frame.w.to_numpy()
    ours = weight * frame.p.to_numpy()
    paid = weight * frame.paid.to_numpy()
    rows = ClassRows(weight * frame.y.to_numpy(), ours, weight, paid, np.where(paid > 0, ours, 0.0))
    return frame, by_class(classes, rows, True, Resamples(ROWS))


def test_measures_are_those_of_fairlearn() -> None:
    frame, found = book()
    frame["chosen"] = frame.p > np.average(frame.p, weights=frame.w)

    def by(of: str, where: str | None = None) -> pd.Series:
        part = frame if where is None else frame.query(where)
        return pd.Series(
            {name: np.average(one[of], weights=one.w) for name, one in part.groupby("group")}
        )

    selected, true, false = by("chosen"), by("chosen", "y == 1"), by("chosen", "y == 0")
    mean, rate = by("p"), by("y")
    ratio = rate / mean
    expected = {
        "mean_prediction_difference": mean.max() - mean.min(),
        "mean_prediction_ratio": mean.min() / mean.max(),
        "actual_expected_difference": ratio.max() - ratio.min(),
        "actual_expected_ratio": ratio.min() / ratio.max(),
        "demographic_parity_difference": selected.max() - selected.min(),
        "demographic_parity_ratio": selected.min() / selected.max(),
        "equal_opportunity_difference": true.max() - true.min(),
        "equalized_odds_difference": max(true.max() - true.min(), false.max() - false.min()),
        "equalized_odds_ratio": min(true.min() / true.max(), false.min() / false.max()),
        "present_premium_ratio": by("paid").min() / by("paid").max(),
    }
    assert {name: one.value for name, one in found.parity.items()} == pytest.approx(expected)
    assert all(one.known for one in found.parity.values())
    paying = frame[frame.paid > 0]
    balance = (paying.w * paying.paid).sum() / (paying.w * paying.p).sum()
    for one in found.classes:
        of, rest = frame[frame.group == one.name], frame[frame.group != one.name]
        assert one.rows == len(of) and one.exposure == pytest.approx(of.w.sum())
        assert one.actual.value == pytest.approx(rate[one.name])
        assert one.expected.value == pytest.approx(mean[one.name])
        assert one.ratio.value == pytest.approx(ratio[one.name])
        other = np.average(rest.p, weights=rest.w)
        assert one.against_rest.value == pytest.approx(mean[one.name] / other)
        own = paying[paying.group == one.name]
        new = balance * (own.w * own.p).sum() / (own.w * own.paid).sum()
        assert one.change is not None and one.change.value == pytest.approx(new)
    # As the rows were made: b is rated higher, and of c more happens than expected.
    told = {one.name: one for one in found.classes}
    assert told["b"].against_rest.low > 1 and told["c"].ratio.low > 1 and told["a"].ratio.has(1)


@pytest.mark.parametrize(
    ("counts", "names"),
    [
        ({"f": 50, "m": 40}, ["f", "m"]),
        ({"f": 50, "m": 40, "x": 3}, ["f", "m and (other)"]),  # of 93 less 90 would be three
        ({"f": 50, "m": 40, "x": 12, "y": 9}, ["f", "m", "(other)"]),
        ({"f": 50, "x": 3}, None),
        ({"f": 50}, None),
        ({"f": 5, "m": 4}, None),
        ({"f": 50, None: 30}, ["f", "(missing)"]),
        ({"f": 50, "m": 40, None: 3}, ["f", "m and (other)"]),
    ],
)
def test_small_classes_are_told_of_no_one(
    counts: dict[str | None, int], names: list[str] | None
) -> None:
    values = np.array([name for name, many in counts.items() for _ in range(many)], dtype=object)
    classes = classes_of(values, 20)
    assert (None if classes is None else classes.names) == names
    if classes is not None:
        assert np.bincount(classes.place).min() >= 20


def test_the_proxy_test_finds_what_columns_tell() -> None:
    rng = np.random.default_rng(9)
    group = rng.choice(np.array(["f", "m"], dtype=object), 1500)
    job = np.where(rng.random(1500) < 0.8, np.where(group == "f", "nurse", "smith"), None)
    classes = classes_of(group, 20)
    assert classes is not None
    prediction = rng.random(1500) + 0.2 * (group == "m")
    told = proxies(classes, {"job": job, "age": rng.normal(size=1500)}, prediction, None)
    assert [(one.name, one.by) for one in told] == [("f", "factors"), ("f", "prediction")]
    assert told[0].auc.low > 0.85
    exact = roc_auc_score(group == "m", prediction)
    assert told[1].auc.value == pytest.approx(exact) and told[1].auc.low > 0.5
    nothing = proxies(classes, {"age": rng.normal(size=1500)}, rng.random(1500), np.arange(1500) // 3)
    assert all(one.auc.low < 0.56 for one in nothing) and nothing[0].auc.has(0.5)


def of_page(evidence: Evidence) -> tuple[str, Told]:
    told: Told = {}
    return render(evidence, told)[PAGE].decode(), told


@pytest.mark.usefixtures("few_draws")
def test_the_page_tells_of_protected_columns() -> None:
    one = replace(with_all(made_up(columns=1, dependence={})), dependence={})
    held = one.held_out
    assert held is not None
    gender = np.array(["f", "m"] * 400, dtype=object)
    gender[:3] = "a secret"
    protected = {"gender": gender, "club": np.array(["in"] * 800, dtype=object)}
    notes = ["race (protected) is not shown: table.csv: no column 'race'."]
    beside = replace(one.beside, protected=protected, notes=notes)
    text, told = of_page(replace(one, beside=beside))
    assert "By protected class" in text and notes[0] in text.replace("&#39;", "'")
    assert "club has no two classes of 20 rows or more" in text and "a secret" not in text
    assert "a secret" not in str(told)
    figures = {row["class"]: row for row in told["fairness"]}
    assert set(figures) == {"m", "f and (other)"}
    rows = gender == "m"
    assert figures["m"]["expected"] == pytest.approx(held.predictions["federation"][rows].mean())
    assert {row["by"] for row in told["fairness_proxy"]} == {"factors", "prediction"}
    without, told = of_page(replace(one, beside=Beside()))
    assert "By protected class" not in without and "fairness" not in told
