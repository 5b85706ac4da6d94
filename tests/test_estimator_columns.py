"""What estimators make of columns as the parties' commands do: levels written in another way, unknown
levels, columns that nobody meant as features."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from small_tables import alone, quick, small

import vfl
from vfl.errors import ConfigError, DataError, InputError, VflWarning
from vfl.party.sections import DataSection
from vfl.party.table import read_table

ROWS = 200
RNG = np.random.default_rng(5)
ZONES = RNG.integers(0, 4, ROWS)
FLAG = RNG.random(ROWS) < 0.5
KINDS = [
    ("SecureBoost", {"trees": 3, "depth": 3, "min_child_rows": 5}),
    ("FederatedLogisticRegression", {"alpha": 0.01}),
]


@contextmanager
def quietly() -> Iterator[None]:
    """Fail at any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def said_by(call: Callable[[], object]) -> list[str]:
    """The warnings of the library's own class."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in caught if one.category is VflWarning]


def tables() -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame]:
    """Tables of guest and host with columns of levels under one index, and a label that they explain."""
    index = pd.Index([f"id {i}" for i in range(ROWS)])
    noise = np.random.default_rng(6).normal(size=ROWS)
    flag = np.where(FLAG, "True", "False")
    insurer = pd.DataFrame({"zone": [f"{zone:02d}" for zone in ZONES], "flag": flag}, index)
    registry = pd.DataFrame({"body": np.where(ZONES % 2, "Coupé", "Van"), "old": flag}, index)
    label = (ZONES + FLAG + noise > 2).astype(int)
    return insurer, label, registry


WRITINGS: dict[str, Callable[[pd.Series], object]] = {
    "as it was": lambda column: column,
    "lower case": lambda column: column.str.lower(),
    "upper case": lambda column: column.str.upper(),
    "blanks": lambda column: "  " + column + " ",
    "another composition": lambda column: column.str.normalize("NFD"),
    "categories": lambda column: column.astype("category"),
}
OF_FLAGS: dict[str, Callable[[pd.Series], object]] = {
    "bools": lambda column: column == "True",
    "nullable bools": lambda column: (column == "True").astype("boolean"),
    "0 and 1": lambda column: (column == "True").astype(int),
    "1.0": lambda column: (column == "True").astype(float),
    "1.0 as text": lambda column: (column == "True").astype(float).astype(str),
    "01": lambda column: "0" + (column == "True").astype(int).astype(str),
    "t and f": lambda column: column.str[0].str.lower(),
}
OF_ZONES: dict[str, Callable[[pd.Series], object]] = {
    "whole": lambda column: column.astype(int),
    "floats": lambda column: column.astype(float),
    "floats as text": lambda column: column.astype(float).astype(str),
    "plain text": lambda column: column.astype(int).astype(str),
    "decimal comma": lambda column: column.astype(int).astype(str) + ",0",
}


@pytest.mark.parametrize("engine", ["plain", "protocol"])
@pytest.mark.parametrize(("kind", "params"), KINDS)
def test_levels_written_in_another_way_are_those_of_training(kind, params, engine, tmp_path):
    """At the guest and at a host, in either engine, of a model at hand and of one that was saved."""
    insurer, label, registry = tables()
    settings = {**params, "engine": engine}
    if engine == "protocol":
        settings["encryption"] = "lattice"
    model = getattr(vfl, kind)(hosts={"registry": registry}, **settings).fit(insurer, label)
    expected = model.decision_function(insurer)
    assert np.ptp(expected) > 0.1
    model.save(tmp_path / "model.json")
    for again in (model, vfl.load(tmp_path / "model.json")):
        for own, theirs in (
            *((WRITINGS[name], WRITINGS[name]) for name in WRITINGS),
            *((None, OF_FLAGS[name]) for name in OF_FLAGS),
        ):
            batch, host = insurer.copy(), registry.copy()
            if own is not None:
                batch["zone"], host["body"] = own(batch["zone"]), own(host["body"])
            for table, column in ((batch, "flag"), (host, "old")):
                table[column] = theirs(table[column])
            with quietly():
                assert np.array_equal(again.decision_function(batch, {"registry": host}), expected)
        for write in OF_ZONES.values():
            batch = insurer.assign(zone=write(insurer["zone"]))
            with quietly():
                assert np.array_equal(again.decision_function(batch, {"registry": registry}), expected)


def test_training_joins_blanks_and_compositions_alone():
    """As a job does: a and A, 1 and 01 may be two codes."""
    insurer, label, _ = tables()
    half = np.arange(ROWS) % 2 == 0
    plain = alone().fit(insurer, label).decision_function(insurer)
    spaced = insurer.assign(zone=insurer["zone"].where(half, insurer["zone"] + " "))
    with quietly():
        model = alone().fit(spaced, label)
        assert np.array_equal(model.decision_function(insurer), plain)
    assert set(model._levels["guest"]["zone"].names) == {"00", "01", "02", "03"}
    codes = insurer.assign(zone=insurer["zone"].where(half, insurer["zone"].str[1]))
    [said] = said_by(lambda: model.fit(codes, label))
    assert said.startswith(
        "guest: column 'zone' has 8 levels different from others only in how they are"
    )
    assert len(model._levels["guest"]["zone"].names) == 8
    assert model.importance_table_["column"].tolist()[0] == "zone"


def test_levels_are_those_of_a_party_file(tmp_path):
    """The levels of a table that a job reads, with the rows that nobody has left out."""
    insurer, label, registry = tables()
    known = registry[40:]
    model = quick(hosts={"registry": known}).fit(insurer, label)
    known.rename_axis("plate").to_csv(tmp_path / "registry.csv")
    section = DataSection(path=tmp_path / "registry.csv", id=("plate",), categorical=("body", "old"))
    read = read_table(section, role="host", need_label=False)
    for name, values in read.features.items():
        names, rows = np.unique(values.astype(str), return_counts=True)
        levels = model._levels["registry"][name]
        assert (list(levels.names), levels.rows) == (names.tolist(), int(rows.sum()))
    assert model._levels["guest"]["zone"].rows == ROWS - 40


def test_days_and_numbers_that_became_another_type():
    """Days that were text come as dates; numbers and truth values come as text."""
    insurer, label, _ = tables()
    days = pd.Series(pd.Timestamp("2027-01-30") + pd.to_timedelta(ZONES, "D"), insurer.index)
    insurer = insurer.assign(
        zone=days.dt.strftime("%Y-%m-%d"), age=ZONES + 0.5, known=FLAG, gap=np.where(FLAG, 1.0, np.nan)
    )
    model = alone(depth=3, trees=5).fit(insurer, label)
    expected = model.decision_function(insurer)
    for batch in (
        insurer.assign(zone=days),
        insurer.assign(zone=days.dt.date),
        insurer.assign(zone=days.dt.strftime("%d.%m.%Y")),
        insurer.assign(age=insurer["age"].map("{:.2f}".format)),
        insurer.assign(age=insurer["age"].astype(str).astype("category")),
        insurer.assign(known=np.where(FLAG, "true", "FALSE")),
        insurer.assign(gap=np.where(FLAG, "1", None)),
        insurer.assign(gap=np.where(FLAG, " 1.0", "")),
    ):
        with quietly():
            assert np.array_equal(model.decision_function(batch), expected)
    for wrong in ("1,234", "much", "1 2"):
        with pytest.raises(DataError, match=r"guest: column 'age' is of type .*, not of numbers"):
            model.decision_function(insurer.assign(age=wrong))
    with pytest.raises(DataError, match="guest: column 'zone' holds dates"):
        alone().fit(insurer.assign(zone=days), label)


# Unknown levels.


def test_too_many_unknown_levels_stop_the_scoring():
    insurer, label, registry = tables()
    model = quick(hosts={"registry": registry}).fit(insurer, label)
    foreign = insurer.assign(zone="north")
    text = "guest: column 'zone' has a level that was not in training in 200 of 200 rows, more than "
    text += "unknown_levels = 0.1 allows: write the levels as in training, or raise unknown_levels"
    for call in (model.predict, model.predict_proba, model.decision_function):
        with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
            call(foreign)
    of_host = registry.assign(body="sedan", old="maybe")
    text = (
        "200 of the 200 rows that registry knows have a level of its columns that was not in training, "
    )
    text += (
        "more than unknown_levels = 0.1 allows: write those of 'body', 'old' as in training, or raise "
    )
    with pytest.raises(DataError, match=f"^{re.escape(text)}unknown_levels$"):
        model.predict(insurer, {"registry": of_host})
    # Who knows why sets it higher; it is said all the same.
    model.set_params(unknown_levels=1)
    said = said_by(lambda: model.predict(foreign, {"registry": of_host}))
    assert said == [
        f"{column} has a level that was not in training in 200 of 200 rows, more than chance makes: "
        "scored as the base level, by trees as none of those known"
        for column in (
            "guest: column 'zone'",
            "registry: column 'body'",
            "registry: column 'old'",
        )
    ]


def test_unknown_levels_are_counted_in_the_rows_that_are_scored():
    """Not in those of a host's table of which nobody asks."""
    insurer, label, registry = tables()
    model = quick(hosts={"registry": registry}).fit(insurer, label)
    others = registry.set_axis("other " + registry.index).assign(body="sedan")
    with quietly():
        model.predict(insurer, {"registry": pd.concat([registry, others])})
    # 19 rows stop nothing, 20 do.
    for many in (19, 20):
        body = registry["body"].where(np.arange(ROWS) >= many, "sedan")
        hosts = {"registry": registry.assign(body=body)}
        if many == 20:
            model.set_params(unknown_levels=0.09)
            with pytest.raises(DataError, match=r"^20 of the 200 rows that registry knows"):
                model.predict(insurer, hosts)
        else:
            [said] = said_by(lambda hosts=hosts: model.predict(insurer, hosts))
            assert "column 'body' has a level that was not in training in 19 of 200 rows, more" in said


def test_new_levels_that_chance_makes_are_not_spoken_of():
    """Of a column in which many levels have one row, the next rows have some that are new."""
    rng = np.random.default_rng(0)
    cells = [f"c{i:.0f}" for i in np.minimum(rng.pareto(0.6, 400) * 20, 10_000)]
    table = pd.DataFrame({"model": cells, "age": rng.normal(size=400)})
    label = (table["age"] > 0).to_numpy(int) ^ (rng.random(400) < 0.2)
    train, batch = table[:200], table[200:]
    model = alone().fit(train, label[:200])
    assert (~batch["model"].isin(train["model"])).sum() > 20
    with quietly():
        model.predict(batch)


@pytest.mark.parametrize("share", [-0.1, 1.5, "0.5", True, None, float("nan")])
def test_a_share_of_unknown_levels_that_cannot_be(share):
    insurer, label, _ = tables()
    with pytest.raises(ConfigError, match="unknown_levels must be a number from 0 to 1, not "):
        alone(unknown_levels=share).fit(insurer, label)
    model = alone(unknown_levels=np.float64(0.5)).fit(insurer, label)
    with pytest.raises(ConfigError, match="unknown_levels must be a number from 0 to 1, not "):
        model.set_params(unknown_levels=share).predict(insurer)


# Columns that nobody meant as features.


def test_columns_that_look_as_if_nobody_meant_them_are_warned_of():
    """By party and column, in words of Python: rows numbered, a level a row, the label told; a host's
    column tells it once rows are aligned."""
    insurer, label, registry = tables()
    noise = np.random.default_rng(2).normal(size=ROWS)
    with quietly():
        quick(hosts={"registry": registry}).fit(insurer.assign(age=noise), label)
    odd = insurer.assign(
        number=range(ROWS), name=[f"n {i}" for i in range(ROWS)], paid=label * 100, year=2027
    )
    theirs = registry.assign(key=np.random.default_rng(3).permutation(ROWS), settled=label * 3.5)
    theirs = theirs.sample(frac=1, random_state=4)
    model = quick(hosts={"registry": theirs})
    said = said_by(lambda: model.fit(odd, label))
    for text in (
        "guest: column 'number' counts the rows: it knows the order of the rows; leave it out unless it "
        "is meant",
        "guest: column 'name' has 200 levels in 200 rows, from which little can be learned: if it is an "
        "id, leave it out",
        "guest: column 'paid' tells the label almost alone (AUC 1.000): unless it is known before the "
        "label is, leave it out",
        "guest: column 'year' has the same value in every row",
        "registry: column 'key' has another value in almost every row, as a number of the row or an id "
        "would: it knows the order of the rows; leave it out unless it is meant",
        "registry: column 'settled' tells the label almost alone (AUC 1.000): unless it is known before "
        "the label is, leave it out",
    ):
        assert said.count(text) == 1
    assert len(said) == 6
    # Said where the caller stands, and nothing at scoring.
    with pytest.warns(VflWarning, match="column 'paid'") as warned:
        model.fit(odd, label)
    assert {one.filename for one in warned} == {__file__}
    assert said_by(lambda: model.predict(odd)) == []


def test_a_count_that_one_column_tells_is_warned_of():
    insurer, _, _ = tables()
    claims = np.random.default_rng(1).poisson(0.7, ROWS).astype(float)
    told = insurer.assign(paid=claims * 1000 + FLAG)
    model = vfl.SecureBoostRegressor(objective="poisson", trees=2, hosts={}, min_child_rows=5)
    said = said_by(lambda: model.fit(told, claims, exposure=np.ones(ROWS)))
    assert len(said) == 1
    assert re.match(
        "guest: column 'paid' tells the label almost alone .(100|9.)% of the best", said[0]
    ), said


def test_the_warnings_are_those_of_a_party_file(tmp_path):
    """Of the same table, with the same words but for where a column is left out."""
    insurer, label, _ = tables()
    table = insurer.assign(
        number=range(ROWS), name=[f"n {i}" for i in range(ROWS)], paid=label * 100, kept=1
    )
    table["zone"] = np.where(np.arange(ROWS) % 2, table["zone"], table["zone"].str[1])
    table.rename_axis("plate").assign(claim=label).to_csv(tmp_path / "guest.csv")
    section = DataSection(
        path=tmp_path / "guest.csv", id=("plate",), label="claim", categorical=("zone", "flag", "name")
    )
    read = read_table(section, role="guest", need_label=True)
    expected = [
        text.replace("guest.csv: ", "guest: ").replace("ignore it in [data]", "leave it out")
        for text in read.warnings
    ]
    assert len(expected) == 5
    assert sorted(said_by(lambda: alone().fit(table, label))) == sorted(expected)


LEFT_OUT = "the labels of a data frame's rows (its index): left out; rename it where it is meant as a"


@pytest.mark.parametrize("name", ["Unnamed: 0", "Unnamed: 0.1", "__index_level_0__", ""])
@pytest.mark.parametrize("library", ["pandas", "arrow", "polars"])
def test_an_index_among_the_columns_is_no_feature(name, library):
    """Of any library, at guest and host; it is warned of, and not asked for in a batch."""
    if (name, library) == ("", "polars"):
        pytest.skip("polars gives such a column a name of its own")
    insurer, label, hosts = small()
    lender = hosts["lender"]
    order = np.argsort(label, kind="stable")
    make = {"pandas": lambda frame: frame, "arrow": arrow, "polars": pl.from_pandas}[library]
    own = insurer.reset_index().iloc[order]
    theirs = lender.reset_index()
    plain = quick(id="policy", hosts={"lender": make(theirs)}).fit(make(own), label[order])
    with_index = [frame.assign(**{name: np.arange(len(frame))}) for frame in (own, theirs)]
    model = quick(id="policy", hosts={"lender": make(with_index[1])})
    said = said_by(lambda: model.fit(make(with_index[0]), label[order]))
    what = f"column '{name}'" if name else "the first column, without a name,"
    assert said == [f"{party}: {what} holds {LEFT_OUT} feature" for party in ("guest", "lender")]
    assert (model.model_, model.halves_) == (plain.model_, plain.halves_)
    assert name not in model._categorical["guest"]
    with quietly():
        scores = model.decision_function(make(own), {"lender": make(theirs)})
    assert np.array_equal(scores, plain.decision_function(make(own)))
    assert len(model.feature_importances_) == model.n_features_in_ == 3


def arrow(frame: pd.DataFrame) -> pa.Table:
    """Without what pandas writes beside the columns."""
    return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)


def test_who_names_an_index_means_it():
    """As the id, under monotone or rules."""
    insurer, label, _ = small()
    values = np.arange(80)
    table = insurer.assign(**{"Unnamed: 0": values})
    others = pd.DataFrame({"x": np.random.default_rng(0).normal(size=80), "Unnamed: 0": values})
    with quietly():
        vfl.SecureBoost(id="Unnamed: 0", hosts={"lender": others}, trees=1).fit(table, label)
    for model in (
        alone(monotone={"guest": {"Unnamed: 0": "increasing"}}),
        vfl.FederatedLogisticRegression(hosts={}, rules={"guest": {"binned": ["Unnamed: 0"]}}, alpha=1),
    ):
        [said] = said_by(lambda model=model: model.fit(table, label))
        assert said.startswith("guest: column 'Unnamed: 0' counts the rows")
        assert "Unnamed: 0" in model._categorical["guest"]
