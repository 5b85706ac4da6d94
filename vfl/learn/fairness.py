"""Predictions and premiums by a protected class, which no model has as a feature.

Parity measures are defined as in fairlearn (Bird and others, Fairlearn: A toolkit for assessing and
improving fairness in AI, 2020): of a measure by class, the difference is that of the greatest and the
least, the ratio the least by the greatest. Of probabilities a row is selected where its own is above the
mean of all. The proxy test asks how well other columns tell a class from the rest: the area under the
ROC curve of trees that were trained on other policies than they are tried on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers, Mask
from vfl.learn.binning import Features
from vfl.learn.bootstrap import LEAST, Estimate, Resamples, Summed, estimate, estimates, quotients
from vfl.learn.design import MISSING
from vfl.learn.intervals import Predicted, Ranked
from vfl.learn.metrics import OTHER

MOST_CLASSES = 12
SEED = 3
FOLDS = 5
_MOST_ROWS = 50_000  # of the proxy test
_MOST_LEVELS = 254  # of a column there; the rarest count as one
_TREES = 60


@dataclass(frozen=True)
class Classes:
    """int64 (rows,), where each row's class is among `names`."""

    place: Integers
    names: list[str]


def classes_of(values: NDArray[np.generic], least: int) -> Classes | None:
    """The classes of a column, of which those with fewer than `least` rows are told as one with others;
    None where fewer than two are left.

    What is joined has `least` rows, or the next smallest class joins it: else the total would tell it.
    """
    texts = [MISSING if value is None else str(value) for value in values.tolist()]
    names, place, counts = np.unique(
        np.array(texts, dtype=object).astype(str), return_inverse=True, return_counts=True
    )
    by_size = sorted(range(len(names)), key=lambda one: (-int(counts[one]), str(names[one])))
    kept = [one for one in by_size if counts[one] >= least][:MOST_CLASSES]
    joined = [one for one in by_size if one not in kept]
    along = []
    while joined and kept and sum(int(counts[one]) for one in joined) < least:
        along.append(str(names[kept[-1]]))
        joined.append(kept.pop())
    shown = sorted(kept, key=lambda one: (names[one] == MISSING, str(names[one])))
    number = np.full(len(names), len(shown))
    number[shown] = np.arange(len(shown))
    labels = [str(names[one]) for one in shown] + ([" and ".join([*along, OTHER])] if joined else [])
    return Classes(number[place], labels) if len(labels) > 1 else None


@dataclass(frozen=True)
class ClassRows:
    """Rows with totals, float64 (rows,): what happened, what the model expects, exposure, the present
    premium where there is one (rows without one have 0 of it and of `compared`)."""

    actual: Floats
    ours: Floats
    exposure: Floats
    present: Floats | None = None
    compared: Floats | None = None  # ours, of the rows that have a premium


@dataclass(frozen=True)
class ClassFigures:
    """What is told of a class. Rates are by exposure; `against_rest`: the mean prediction by that of all
    other rows; `change`: what the class would pay by what it pays, both tariffs brought to one total."""

    name: str
    rows: int
    exposure: float
    actual: Estimate
    expected: Estimate
    ratio: Estimate
    against_rest: Estimate
    change: Estimate | None
    present: Estimate | None


@dataclass(frozen=True)
class Proxy:
    """How well something tells a class from the rest: "factors" or "prediction"; 0.5 is chance."""

    name: str
    by: str
    auc: Estimate


@dataclass(frozen=True)
class Fairness:
    """What there is to say of one protected column."""

    classes: list[ClassFigures]
    parity: dict[str, Estimate]
    proxies: list[Proxy]


def by_class(classes: Classes, rows: ClassRows, binary: bool, resamples: Resamples) -> Fairness:
    """Figures by class, and parity measures; no proxies yet."""
    group, count = classes.place, len(classes.names)
    columns = {"size": rows.exposure, "actual": rows.actual, "ours": rows.ours}
    if rows.present is not None and rows.compared is not None:
        columns |= {"present": rows.present, "compared": rows.compared}
    if binary:
        label = rows.actual / rows.exposure
        mean = rows.ours.sum() / rows.exposure.sum()
        chosen = rows.exposure * (rows.ours / rows.exposure > mean)
        columns |= {"selected": chosen, "hits": chosen * label}
    drawn = resamples.sums([Summed(group, count, values) for values in columns.values()])
    draws = dict(zip(columns, drawn, strict=True))
    point = {
        name: np.bincount(group, values, count).astype(np.float64)[None]
        for name, values in columns.items()
    }
    enough = resamples.counts(group, count, rows.actual != 0) >= LEAST
    here, there = _rates(point), _rates(draws)
    found = {
        name: estimates(here[name][0], there[name], enough if name in ("actual", "ratio") else None)
        for name in here
    }
    size = point["size"][0].tolist()
    figures = [
        ClassFigures(
            name,
            int((group == i).sum()),
            size[i],
            actual=found["actual"][i],
            expected=found["expected"][i],
            ratio=found["ratio"][i],
            against_rest=found["against_rest"][i],
            change=found["change"][i] if "change" in found else None,
            present=found["present"][i] if "present" in found else None,
        )
        for i, name in enumerate(classes.names)
    ]
    parity_here, parity_draws = (_parity(one, binary) for one in (point, draws))
    known = {name: binary or "actual" not in name or bool(enough.all()) for name in parity_here}
    parity = {
        name: estimate(float(values[0]), parity_draws[name])
        if known[name]
        else Estimate(float(values[0]))
        for name, values in parity_here.items()
    }
    return Fairness(figures, parity, [])


Sums = Mapping[str, NDArray[np.float64]]


def _rates(sums: Sums) -> dict[str, NDArray[np.float64]]:
    """Rates by class of each draw, shape (draws, classes)."""
    size, actual, ours = sums["size"], sums["actual"], sums["ours"]
    rest = [one.sum(axis=1, keepdims=True) - one for one in (ours, size)]
    found = {
        "actual": quotients(actual, size),
        "expected": quotients(ours, size),
        "ratio": quotients(actual, ours),
        "against_rest": quotients(quotients(ours, size), quotients(*rest)),
    }
    if "present" in sums:
        present, compared = sums["present"], sums["compared"]
        to_present = quotients(present.sum(axis=1, keepdims=True), compared.sum(axis=1, keepdims=True))
        found["change"] = quotients(compared * to_present, present)
        found["present"] = quotients(present, size)
    return found


def _parity(sums: Sums, binary: bool) -> dict[str, Floats]:
    """Parity measures of each draw."""
    mean = quotients(sums["ours"], sums["size"])
    ratio = quotients(sums["actual"], sums["ours"])
    found = {
        "mean_prediction_difference": _difference(mean),
        "mean_prediction_ratio": _ratio(mean),
        "actual_expected_difference": _difference(ratio),
        "actual_expected_ratio": _ratio(ratio),
    }
    if "present" in sums:
        premium = quotients(sums["present"], sums["size"])
        found["present_premium_ratio"] = _ratio(premium)
    if binary:
        size, actual, selected, hits = (sums[name] for name in ("size", "actual", "selected", "hits"))
        rate = quotients(selected, size)
        true, false = quotients(hits, actual), quotients(selected - hits, size - actual)
        found |= {
            "demographic_parity_difference": _difference(rate),
            "demographic_parity_ratio": _ratio(rate),
            "equal_opportunity_difference": _difference(true),
            "equalized_odds_difference": np.maximum(_difference(true), _difference(false)),
            "equalized_odds_ratio": np.minimum(_ratio(true), _ratio(false)),
        }
    return found


def _difference(values: NDArray[np.float64]) -> Floats:
    return np.asarray(values.max(axis=1) - values.min(axis=1))


def _ratio(values: NDArray[np.float64]) -> Floats:
    return quotients(values.min(axis=1), values.max(axis=1))


# --- The proxy test. ------------------------------------------------------------------------------


def proxies(
    classes: Classes, factors: Features, prediction: Floats, policy: Integers | None
) -> list[Proxy]:
    """How well the factors together, and the prediction, tell each class from the rest; of two classes
    the second is the rest of the first."""
    rows = len(prediction)
    chosen = np.arange(rows)
    if rows > _MOST_ROWS:
        chosen = np.sort(np.random.default_rng(SEED).choice(rows, _MOST_ROWS, replace=False))
    number = np.arange(rows)[chosen] if policy is None else policy[chosen]
    resamples = Resamples(len(chosen), number)
    columns = {name: values[chosen] for name, values in factors.items()}
    names = classes.names[:1] if len(classes.names) == 2 else classes.names
    found = []
    for place, name in enumerate(names):
        label = (classes.place[chosen] == place).astype(np.float64)
        if not _both_sides(label, resamples):
            continue
        if columns:
            score = _out_of_fold(columns, label, resamples.policy)
            found.append(Proxy(name, "factors", _auc(label, score, resamples)))
        told = _auc(label, prediction[chosen], resamples)
        # Which way round is no matter: a low prediction tells as much as a high one.
        turned = Estimate(1 - told.value, 1 - told.high, 1 - told.low)
        found.append(Proxy(name, "prediction", max(told, turned, key=lambda one: one.value)))
    return found


def _both_sides(label: Floats, resamples: Resamples) -> bool:
    every = np.zeros(len(label), np.int64)
    sides: Sequence[Mask] = (label > 0, label == 0)
    return all(int(resamples.counts(every, 1, side)[0]) >= LEAST for side in sides)


def _auc(label: Floats, score: Floats, resamples: Resamples) -> Estimate:
    ranked = Ranked(Predicted(label, score, np.ones(len(label)), None), binary=True)
    value = float(ranked.measure(np.ones(len(label)))[0])
    return estimate(value, resamples.each(lambda times: ranked.measure(times)[:1])[:, 0])


def _out_of_fold(columns: Features, label: Floats, policy: Integers) -> Floats:
    """The chance of the class by trees that were trained on other policies.

    On one core: on a machine with other work, threads would wait for each other most of the time.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    matrix = np.column_stack([_coded(values) for values in columns.values()])
    names = np.array([values.dtype == object for values in columns.values()])
    fold = np.random.default_rng(SEED).integers(FOLDS, size=int(policy.max()) + 1)[policy]
    score = np.full(len(label), label.mean())
    for number in range(FOLDS):
        test = fold == number
        if not test.any() or len(np.unique(label[~test])) < 2:
            continue
        trees = HistGradientBoostingClassifier(
            max_iter=_TREES,
            max_leaf_nodes=15,
            early_stopping=False,
            categorical_features=names,
            random_state=SEED,
        )
        with threadpool_limits(1, "openmp"):
            trees.fit(matrix[~test], label[~test])
            score[test] = trees.predict_proba(matrix[test])[:, 1]
    return score


def _coded(values: NDArray[np.generic]) -> Floats:
    """A column as numbers, NaN where it is missing; categories by size, the rarest as one."""
    if values.dtype != object:
        return values.astype(np.float64)
    known = np.array([value is not None for value in values.tolist()])
    coded = np.full(len(values), np.nan)
    if known.any():
        _, place, counts = np.unique(values[known].astype(str), return_inverse=True, return_counts=True)
        rank = np.empty(len(counts), np.int64)
        rank[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
        coded[known] = np.minimum(rank[place], _MOST_LEVELS - 1)
    return coded
