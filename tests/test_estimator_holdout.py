"""Rows that estimators keep back to stop by, by groups and times."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from federation import JOB
from sklearn import config_context
from sklearn.model_selection import GroupKFold, cross_val_score
from test_holdout import HOUSEHOLDS, WEEKS, column, places, split

import vfl
from vfl.errors import ConfigError, DataError, VflWarning
from vfl.jobs.evaluation import split_rows
from vfl.learn.holdout import SplitColumns
from vfl.party.config import Job
from vfl.party.table import Table

FRAME = pd.DataFrame({"x": np.arange(400) % 7, "z": np.arange(400) % 5})
CLAIM = (FRAME["x"] + np.random.default_rng(0).integers(0, 9, 400) > 7).astype(int)


def trees(**settings: Any) -> vfl.SecureBoost:
    return vfl.SecureBoost(hosts={}, trees=2, min_child_rows=5, validation_share=0.25, **settings)


def kept_back(model: vfl.SecureBoost, **given: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which rows train, and which are kept back."""
    seen: list[Any] = []
    model.inspected(seen.append).fit(FRAME, CLAIM, **given)
    return seen[0].rows.train, seen[0].rows.validation


def test_an_estimator_keeps_groups_and_the_last_times_back() -> None:
    train, validation = kept_back(trees(), time=WEEKS)
    assert places(validation, WEEKS) == [8, 9] and (train == ~validation).all()
    train, validation = kept_back(trees(), groups=[f"h{one}" for one in HOUSEHOLDS], time=WEEKS)
    found = split(HOUSEHOLDS, WEEKS, holdout=0.0, share=0.25)
    assert train.sum() == found.train.sum() == 30 * 8 and validation.sum() == 10 * 2
    assert not set(places(train, HOUSEHOLDS)) & set(places(validation, HOUSEHOLDS))
    # As in a job without a holdout, on the same rows and by the same seed.
    table = Table(
        Path("t.csv"),
        [],
        {},
        label=CLAIM.to_numpy(float),
        weight=None,
        rows=400,
        warnings=[],
        split=SplitColumns(column(HOUSEHOLDS), column(WEEKS)),
    )
    section = {**JOB["job"], "group": "g", "time": "t", "holdout": 0.0}
    wanted = {"job": section, "secureboost": {"validation_share": 0.25, "seed": 3}}
    rows, _ = split_rows(table, np.arange(400), Job.model_validate(wanted))
    train, validation = kept_back(trees(seed=3), groups=HOUSEHOLDS, time=WEEKS)
    assert (rows.train == train).all() and (rows.validation == validation).all()
    # A row of weight 0 takes no part.
    weight = (np.array(WEEKS) < 5).astype(float)
    _, validation = kept_back(trees(), time=WEEKS, sample_weight=weight)
    assert places(validation, [week for week in WEEKS if week < 5]) == [4]


@pytest.mark.parametrize(
    "time",
    [
        np.array(WEEKS) * 1.5,
        [f"{week}" for week in WEEKS],  # not in the order of the alphabet
        [f"2026-01-{1 + week:02}" for week in WEEKS],
        pd.Series(pd.Timestamp("2026-01-01") + pd.to_timedelta(WEEKS, unit="D")),
        pd.Series([date(2026, 1, 1 + week) for week in WEEKS]),
        pd.Series(pd.PeriodIndex([f"2026-{1 + week}" for week in WEEKS], freq="M")),
        pd.Categorical([f"w{week}" for week in WEEKS], [f"w{i}" for i in range(10)], ordered=True),
        pa.array(WEEKS),
    ],
)
def test_times_of_many_kinds(time: Any) -> None:
    _, validation = kept_back(trees(), time=time)
    assert places(validation, WEEKS) == [8, 9]


def test_groups_and_times_that_are_none() -> None:
    for given_, said in (
        ({"groups": [1, None] * 200}, "groups is missing in 200 rows"),
        ({"groups": HOUSEHOLDS[:-1]}, "groups has 399 values for 400 rows"),
        ({"groups": [1] * 400}, "groups has the same value in all aligned rows"),
        ({"time": ["soon"] * 400}, "time has text that is no time in 400 rows"),
        ({"time": [np.inf] * 400}, "time"),
    ):
        with pytest.raises(DataError, match=said):
            trees().fit(FRAME, CLAIM, **given_)
    for model in (
        vfl.SecureBoost(hosts={}, trees=1),
        vfl.FederatedLogisticRegression(hosts={}, alpha=0.1),
    ):
        with pytest.raises(ConfigError, match=r"groups= says which rows validation_share keeps back"):
            model.fit(FRAME, CLAIM, groups=HOUSEHOLDS)
    with_column = FRAME.assign(home=HOUSEHOLDS)
    with pytest.warns(VflWarning, match="column 'home' is given as groups: it is no feature"):
        model = trees().fit(with_column, CLAIM, groups=with_column["home"])
    assert "home" not in set(model.importance_table_["column"])
    assert len(model.predict(FRAME)) == 400


def test_groups_reach_fit_only_where_they_are_asked_for() -> None:
    folds = GroupKFold(2)
    plain = cross_val_score(trees(), FRAME, CLAIM, cv=folds, groups=HOUSEHOLDS)
    with config_context(enable_metadata_routing=True):
        given_ = {"groups": np.array(HOUSEHOLDS)}
        assert (cross_val_score(trees(), FRAME, CLAIM, cv=folds, params=given_) == plain).all()
        asking = trees(early_stopping_rounds=1).set_fit_request(groups=True)
        assert np.isfinite(cross_val_score(asking, FRAME, CLAIM, cv=folds, params=given_)).all()
