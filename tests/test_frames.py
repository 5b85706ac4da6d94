"""What the estimators take: tables of any library, ids, labels; and what they say of the rest."""

import datetime
import decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
from sklearn.exceptions import NotFittedError
from small_tables import alone, quick, small

import vfl
from vfl.errors import ConfigError, DataError

# Ids.


def test_ids_are_cleaned_and_may_lie_in_columns_levels_or_the_index():
    insurer, y, hosts = small()
    wanted = quick().fit(insurer, y, hosts=hosts).decision_function(insurer, hosts)
    lender, registry = hosts["lender"], hosts["registry"]
    written = {
        "lender": lender.reset_index(names="who").assign(who=lambda t: t["who"].str.upper() + " "),
        "registry": registry.set_axis(registry.index.str.replace(" ", "-")),
    }
    ids = {"guest": "policy", "lender": ["who"], "registry": None, "elsewhere": "no matter"}
    model = quick(id=ids).fit(insurer, y, hosts=written)
    assert np.array_equal(model.decision_function(insurer, written), wanted)
    assert model.importance_table_["column"].isin(["age", "debt", "old", "fuel"]).all()


def test_whole_numbers_and_text_are_the_same_ids():
    insurer, y, hosts = small()
    insurer.index = pd.Index(range(100, 180), name="number")
    named = {f"id {i}": f"{100 + i}" for i in range(80)}
    model = quick().fit(insurer, y, hosts={n: t.rename(index=named) for n, t in hosts.items()})
    assert model.n_aligned_ == 80


def test_ids_of_several_columns():
    insurer, y, hosts = small()
    both = pd.MultiIndex.from_arrays([np.arange(80) // 9, np.arange(80) % 9], names=["a", "b"])
    insurer = insurer.set_axis(both)
    lender = hosts["lender"].sort_index(key=lambda i: i.str[3:].astype(int)).set_axis(both)
    split = lender.reset_index()
    model = quick(id={"guest": None, "lender": ["a", "b"]})
    assert model.fit(insurer, y, hosts={"lender": split}).n_aligned_ == 80
    with pytest.raises(ConfigError, match="as many columns at each party: guest has 2, lender has 1"):
        quick(id={"guest": None, "lender": "a"}).fit(insurer, y, hosts={"lender": split[::9]})


def test_row_numbers_as_ids_are_warned_of():
    insurer, y, hosts = small()
    hosts = {"registry": hosts["registry"].reset_index(drop=True)}
    with pytest.warns(UserWarning, match="its ids are the row numbers") as warned:
        quick().fit(insurer.reset_index(drop=True), y, hosts=hosts)
    assert {str(w.message).split(":")[0] for w in warned} == {"guest", "registry"}
    assert {w.filename for w in warned} == {__file__}


def changed(name: str) -> dict:
    """Arguments of fit, one of them spoilt."""
    insurer, y, hosts = small()
    lender, empty = hosts["lender"], ["", *insurer.index[1:]]
    twice = pd.concat([lender, lender[:2]])
    spoilt = {
        "no id in common": {"hosts": {"lender": lender.set_axis(lender.index + "x")}},
        "host's id twice": {"hosts": {"lender": twice}},
        "guest's id empty": {"insurer": insurer.set_axis(empty)},
        "id of decimals": {"insurer": insurer.set_axis(np.arange(80) + 0.5)},
        "id column missing": {"id": "polcy"},
        "party without id": {"id": {"guest": None, "lendr": None}},
        "host called guest": {"hosts": {"guest": lender}},
        "date": {"insurer": insurer.assign(since=pd.Timestamp("2024-01-01"))},
        "date object": {"insurer": insurer.assign(since=pd.Timestamp("2024-01-01").date())},
        "time span": {"insurer": insurer.assign(age=pd.Timedelta("1D"))},
        "complex": {"insurer": insurer.assign(age=1j)},
        "infinite": {"hosts": {"lender": lender.assign(debt=np.inf)}},
        "column without values": {"hosts": {"lender": lender.assign(debt=np.nan)}},
        "host without columns": {"hosts": {"lender": lender[[]]}},
        "column twice": {"insurer": pd.concat([insurer, insurer], axis=1)},
        "no table": {"insurer": "policies.csv"},
        "y short": {"y": y[:-1]},
        "y of many classes": {"y": np.arange(80) % 21},
        "y of amounts": {"y": np.linspace(0, 1, 80)},
        "y with gaps": {"y": np.where(insurer["age"] > 1, np.nan, y)},
        "y of one class": {"y": y * 0},
        "y of two columns": {"y": np.column_stack([y, y])},
        "y in another order": {"y": pd.Series(y, insurer.index)[::-1]},
        "weight negative": {"sample_weight": np.arange(80) - 1},
        "weights all zero": {"sample_weight": np.zeros(80)},
        "weight immense": {"sample_weight": np.where(y == 1, 1e51, 1e-51)},
        "weight missing": {"sample_weight": np.where(y == 1, 1, np.nan)},
        "one class aligned": {"hosts": {"lender": lender.loc[insurer.index[y == 1]]}},
        "two draws": {"goss_top": 0.2, "goss_other": 0.1, "subsample": 0.5},
        "no workers": {"workers": 0},
        "too deep": {"depth": 11},
        "rule unknown": {"normalise": ["upper", "trimm"]},
        "no such key": {"key_bits": 1024},
    }
    given = {"insurer": insurer, "y": y, "hosts": {"lender": lender}, **spoilt[name]}
    return {"X" if key == "insurer" else key: value for key, value in given.items()}


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("no id in common", DataError, "no id is common to all parties"),
        (
            "host's id twice",
            DataError,
            "lender: 2 rows have the id of an earlier .*positions 80, 81",
        ),
        ("guest's id empty", DataError, "guest: 1 row has no id once normalised .*positions 0"),
        ("id of decimals", DataError, "guest: the index holds a number that is not whole"),
        ("id column missing", DataError, "guest: no column 'polcy' .*did you mean 'policy'"),
        ("party without id", ConfigError, "id= says nothing of 'lender'; did you mean 'lendr'"),
        ("host called guest", ConfigError, "a host needs a name, other than 'guest'"),
        ("date", DataError, "guest: column 'since' holds dates or times: turn it into a number"),
        ("date object", DataError, "guest: column 'since' holds dates or times"),
        ("time span", DataError, "guest: column 'age' holds dates or times"),
        ("complex", DataError, "guest: column 'age' is of type complex128, not of numbers"),
        ("infinite", DataError, "lender: column 'debt' has 80 infinite numbers"),
        ("column without values", DataError, "lender: column 'debt' has no value in any row"),
        ("host without columns", DataError, "lender: no column is left"),
        ("column twice", DataError, "guest: column names must be plain and each must come once"),
        ("no table", DataError, "guest: a table is due, not a path or text: read the file first"),
        ("y short", DataError, "y has 79 values for 80 rows"),
        ("y of many classes", DataError, "y has 21 classes: SecureBoost takes 2 to 20 classes"),
        (
            "y of amounts",
            DataError,
            "Unknown label type: continuous. SecureBoost is for 2 to 20 classes",
        ),
        ("y with gaps", DataError, r"y is missing in \d+ rows"),
        ("y of one class", DataError, "y has only one class"),
        ("y of two columns", DataError, "y must have one value a row, not 2 dimensions"),
        ("y in another order", DataError, "y has the rows in another order than the table"),
        ("weight negative", DataError, "sample_weight must not be negative but is in 1 row$"),
        ("weights all zero", DataError, "sample_weight is zero in every row: no row is left to train"),
        ("weight immense", DataError, r"from 1e-50 to 1e\+50 but is not in 80 rows: give it in anoth"),
        ("weight missing", DataError, "sample_weight is missing in 40 rows"),
        ("one class aligned", DataError, "in the 40 aligned rows to train on, y has only one class"),
        ("two draws", ConfigError, "^subsample and goss_top both draw rows"),
        ("no workers", ConfigError, "^workers must be a whole number of at least 1"),
        ("too deep", ConfigError, "depth=11: must be a whole number from 1 to 10"),
        ("rule unknown", ConfigError, "unknown step 'trimm'.*did you mean 'trim'"),
        ("no such key", ConfigError, "key_bits=1024: must be 2048, 3072 or 4096"),
    ],
)
def test_what_cannot_be_used_is_said(name, error, text):
    arguments = changed(name)
    given = ("X", "y", "hosts", "sample_weight")
    model = quick(**{k: v for k, v in arguments.items() if k not in given})
    with pytest.raises(error, match=text):
        model.fit(**{k: v for k, v in arguments.items() if k in given})
    with pytest.raises(NotFittedError):
        model.predict(arguments["X"])


def test_prediction_wants_the_parties_and_columns_of_training():
    insurer, y, hosts = small()
    model = quick().fit(insurer, y, hosts=hosts)
    with pytest.raises(ConfigError, match="trained with lender, registry, but hosts= has no hosts"):
        model.predict(insurer)
    with pytest.raises(ConfigError, match=r"knows no row., here or once for all calls to SecureBoost"):
        model.predict(insurer)
    with pytest.raises(ConfigError, match="but hosts= has lender:"):
        model.predict(insurer, {"lender": hosts["lender"]})
    renamed = hosts["lender"].rename(columns={"debt": "dept"})
    with pytest.raises(DataError, match=r"lender: no column 'debt', .*did you mean 'dept'"):
        model.predict(insurer, {**hosts, "lender": renamed})
    text = hosts["lender"].assign(debt="much")
    with pytest.raises(DataError, match=r"lender: column 'debt' is of type .*, not of numbers"):
        model.predict(insurer, {**hosts, "lender": text})


def test_columns_keep_their_kind_and_others_are_ignored():
    insurer, _, _ = small()
    coded = pd.Series([1.0, 2.0, 3.0, None] * 20, insurer.index, dtype=object)
    insurer = insurer.assign(code=coded, nullable=pd.array([1, None] * 40, dtype="Int64"))
    y = (coded == 2.0).to_numpy(int)
    model = alone().fit(insurer, y)
    assert model.importance_table_["column"].tolist()[0] == "code"
    numeric = insurer.assign(code=coded.astype(float), more="of no use")[::-1]
    assert np.array_equal(model.decision_function(numeric)[::-1], model.decision_function(insurer))
    texts = insurer.assign(code=coded.map({1.0: "1", 2.0: "2", 3.0: "3"}))
    assert np.array_equal(model.decision_function(texts), model.decision_function(insurer))


def test_an_id_among_the_features_is_found_out():
    rows = 10_001
    frame = pd.DataFrame({"vin": [f"V{i}" for i in range(rows)]})
    with pytest.raises(DataError, match="column 'vin' has 10,001 categories, over 10,000: it looks"):
        alone().fit(frame, np.arange(rows) % 2)


# scikit-learn's habits.


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"plate": "x"}, "id= says nothing of 'guest'"),
        (
            1.5,
            "id of guest must be the name of a column, a list of names, or None for the index, not 1.5",
        ),
        ([], r"id of guest must be the name of a column, .*not \[\]"),
        ([None], r"id of guest must be .*not \[None\]"),
        (b"policy", "id of guest must be the name"),
    ],
)
def test_an_id_that_cannot_be(given, text):
    insurer, y, hosts = small()
    with pytest.raises(ConfigError, match=text):
        quick(id=given).fit(insurer, y, hosts=hosts)


@pytest.mark.parametrize("normalise", [None, "upper", 5, [5], [["upper"], 5], {"upper": 1}])
def test_steps_that_cannot_be(normalise):
    insurer, y, hosts = small()
    with pytest.raises(
        ConfigError, match="normalise must be a list of steps, or one such list for each"
    ):
        quick(normalise=normalise).fit(insurer, y, hosts=hosts)


def test_a_misspelt_id_is_found_out_without_hosts_too():
    insurer, y, _ = small()
    with pytest.raises(
        DataError, match=r"guest: no column 'plte' \(named by id\); did you mean 'plate'"
    ):
        alone(id="plte").fit(insurer.assign(plate=insurer.index), y)
    with pytest.raises(DataError, match=r"no column 'plate' .*did you mean 'remainder__plate'"):
        alone(id="plate").fit(insurer.assign(remainder__plate=insurer.index), y)


def test_ids_of_any_odd_kind_are_refused():
    insurer, y, hosts = small()
    for odd in ([1], {"a": 1}, b"id", True, decimal.Decimal("1.5"), 1.5, np.array([1, 2])):
        who = pd.Series([odd, *insurer.index[1:]], dtype=object).to_numpy()
        with pytest.raises(DataError, match=r"guest: id column 'who' holds .*: write ids as text"):
            quick(id={"guest": "who", "lender": None}).fit(
                insurer.assign(who=who), y, hosts={"lender": hosts["lender"]}
            )


# Tables of other libraries.


class Speaks:
    """A table that can do no more than one of Arrow's or the interchange protocol's methods."""

    def __init__(self, table: pa.Table, method: str) -> None:
        def call(*args, **kwargs):
            return getattr(table, method)(*args, **kwargs)

        self._call = call
        type(self).calls += 1

    calls = 0


class Stream(Speaks):
    def __init__(self, table: pa.Table) -> None:
        super().__init__(table, "__arrow_c_stream__")

    def __arrow_c_stream__(self, requested_schema=None):
        return self._call(requested_schema)


class Batch:
    """A record batch, as libraries of one chunk export it."""

    def __init__(self, table: pa.Table) -> None:
        self._batch = table.combine_chunks().to_batches()[0]

    def __arrow_c_array__(self, requested_schema=None):
        return self._batch.__arrow_c_array__(requested_schema)


class Interchange(Speaks):
    def __init__(self, table: pa.Table) -> None:
        super().__init__(table, "__dataframe__")

    def __dataframe__(self, nan_as_null=False, allow_copy=True):
        return self._call(nan_as_null, allow_copy)


class AsArray:
    """What NumPy can make an array of, and no more."""

    def __init__(self, table: pa.Table) -> None:
        self._array = table.to_pandas().to_numpy()

    def __array__(self, dtype=None, copy=None):
        return self._array if dtype is None else self._array.astype(dtype)


def arrow(frame: pd.DataFrame) -> pa.Table:
    """The frame with its ids in a column."""
    return pa.Table.from_pandas(frame.reset_index(names="policy"), preserve_index=False)


@pytest.mark.parametrize("kind", [pa.Table, Stream, Batch, Interchange, "polars"])
def test_tables_of_any_library(kind):
    insurer, y, hosts = small()
    insurer = insurer.assign(claims=pd.array([1, None] * 40, dtype="Int64"))
    hosts["registry"] = hosts["registry"].assign(
        old=pd.array([True, None, False, None] * 20, dtype="boolean"),
        fuel=lambda t: t["fuel"].astype(str),
    )
    wanted = quick(trees=3, hosts=hosts, id="policy").fit(insurer, y)
    scores = wanted.decision_function(insurer)
    if kind == "polars":
        polars = pytest.importorskip("polars")
        kind = polars.from_arrow
    made = pa.Table if kind is pa.Table else kind

    def of(frame: pd.DataFrame):
        return arrow(frame) if made is pa.Table else made(arrow(frame))

    others = {name: of(table) for name, table in hosts.items()}
    model = quick(trees=3, hosts=others, id="policy").fit(of(insurer), y)
    assert np.array_equal(model.decision_function(of(insurer)), scores)
    assert np.array_equal(model.decision_function(insurer), scores)  # one library may score for another
    assert model.importance_table_.equals(wanted.importance_table_)
    assert model.feature_names_in_.tolist() == ["policy", "age", "claims"]
    with pytest.raises(DataError, match="guest: the table has no index in which ids could be: name the"):
        quick(hosts=others).fit(of(insurer), y)


def test_columns_of_arrow_of_every_kind():
    rng = np.random.default_rng(0)
    n = 60
    text = rng.choice(["a", "b"], n).tolist()
    money = [decimal.Decimal(int(v)) / 4 for v in rng.integers(0, 50, n)]
    y = (np.array(text) == "a").astype(int)
    table = pa.table(
        {
            "text": pa.array(text),
            "large": pa.array(text, pa.large_string()),
            "view": pa.array(text, pa.string_view()),
            "dictionary": pa.array(text).dictionary_encode(),
            "codes": pa.DictionaryArray.from_arrays(pa.array(y, pa.uint32()), pa.array([10, 20])),
            "money": pa.array(money, pa.decimal128(10, 2)),
            "small": pa.array([int(v) for v in y], pa.int8()),
            "gaps": pa.array([None, *map(int, y[1:])], pa.int64()),
            "flag": pa.array([None, *map(bool, y[1:])], pa.bool_()),
            "half": pa.array(y.astype(np.float16), pa.float16()),
        }
    )
    model = alone(depth=1, min_child_rows=1).fit(table, y)
    categorical = {"text", "large", "view", "dictionary", "codes"}
    assert {name for name, kind in model._categorical["guest"].items() if kind} == categorical
    frame = pd.DataFrame({"money": [float(m) for m in money], "flag": [np.nan, *y[1:]]})
    wanted = alone(min_child_rows=1).fit(frame, y).decision_function(frame)
    found = alone(min_child_rows=1).fit(table.select(["money", "flag"]), y)
    assert np.array_equal(found.decision_function(table), wanted)
    for kind, values in (
        (pa.list_(pa.int64()), [[1]] * n),
        (pa.struct([("a", pa.int64())]), [{"a": 1}] * n),
        (pa.binary(), [b"x"] * n),
        (pa.date32(), [datetime.date(2024, 1, 1)] * n),
        (pa.timestamp("us"), [datetime.datetime(2024, 1, 1)] * n),
        (pa.duration("s"), [datetime.timedelta(1)] * n),
    ):
        with pytest.raises(DataError, match="guest: column 'odd' holds "):
            alone().fit(table.append_column("odd", pa.array(values, kind)), y)


def test_the_index_that_pandas_kept_in_arrow_is_the_index():
    insurer, y, hosts = small()
    kept = {name: pa.Table.from_pandas(table) for name, table in hosts.items()}
    unnamed = pa.Table.from_pandas(insurer.rename_axis(None))
    assert "__index_level_0__" in unnamed.column_names
    model = quick(hosts=kept).fit(unnamed, y)
    assert np.array_equal(
        model.decision_function(unnamed), quick(hosts=hosts).fit(insurer, y).decision_function(insurer)
    )
    # Nor is it ever a feature: rows are often written in the order of their label.
    assert list(alone().fit(unnamed, y)._categorical["guest"]) == ["age"]


def test_arrays_have_columns_by_number():
    insurer, y, hosts = small()
    lender = hosts["lender"].loc[insurer.index]
    guest = insurer.reset_index().to_numpy()
    other = lender.reset_index().to_numpy()
    for own in ("x0", 0):
        model = quick(id={"guest": own, "lender": "x0"}, hosts={"lender": other}).fit(guest, y)
        assert set(model.importance_table_["column"]) <= {"x1", "x2"}
        wanted = quick(hosts={"lender": lender}).fit(insurer, y).decision_function(insurer)
        assert np.array_equal(model.decision_function(guest), wanted)
    assert not hasattr(model, "feature_names_in_") and model.n_features_in_ == 2
    with pytest.raises(DataError, match="guest: the table has no index in which ids could be: name the"):
        quick(hosts={"lender": lender}).fit(guest, y)
    with pytest.raises(DataError, match="guest: no column 'x7'"):
        quick(id=7, hosts={"lender": lender}).fit(guest, y)


@pytest.mark.parametrize(
    "table",
    [
        [[1, 2.5], [2, None], [3, 0.5], [4, 1.5]] * 5,
        [(1, "a"), (2, "b"), (3, None), (4, "a")] * 5,
        np.array([[1, "a"], [2, "b"], [3, "c"], [4, "a"]] * 5, dtype=object),
        np.array([("a", 1.5), ("b", 2.5)] * 10, dtype=[("name", "U1"), ("size", "f8")]),
        np.ma.masked_equal([[1.0, 2], [3, 4]] * 10, 4),
        np.array([["a", "b"], ["c", "d"]] * 10),
        pd.DataFrame({0: [1.0, 2] * 10, "1": ["a", "b"] * 10}),
        pd.DataFrame({"a": pd.arrays.SparseArray([0.0, 1] * 10), "b": [0, 1] * 10}),
        pd.DataFrame({"a": pd.cut([1.0, 2] * 10, 2), "b": pd.Categorical([3, 4] * 10)}),
        pd.DataFrame({"a": pd.array([1, 2] * 10, dtype=pd.ArrowDtype(pa.int8()))}),
        pd.DataFrame({"a": pd.array(["x", None] * 10, dtype="string")}),
        pd.DataFrame({"a": pd.Series([True, None, False, True] * 5, dtype=object)}),
        pd.DataFrame({"a": pd.Series([decimal.Decimal("1.5"), None] * 10, dtype=object)}),
        pytest.param(AsArray(pa.table({"a": [1.0, 2] * 10})), id="an Arrow array"),
    ],
    ids=str,
)
def test_tables_of_many_kinds(table):
    y = np.arange(20) % 2
    model = alone(min_child_rows=1).fit(table, y)
    assert model.predict(table).shape == (20,)
    assert vfl.SecureBoostRegressor(hosts={}, min_child_rows=1).fit(table, y).predict(table).shape == (
        20,
    )


def test_what_an_object_column_holds_decides_once():
    """Bools and decimals with gaps are objects to pandas, and numbers all the same."""
    flags = pd.Series([True, None, False, True] * 10, dtype=object)
    y = np.arange(40) % 2
    frame = pd.DataFrame({"flag": flags, "size": np.arange(40.0)})
    model = alone(min_child_rows=1).fit(frame, y)
    assert model._categorical["guest"] == {"flag": False, "size": False}
    whole = frame[frame["flag"].notna()]
    same = whole.assign(flag=whole["flag"].astype(bool), size=whole["size"].astype(object))
    assert np.array_equal(model.decision_function(same), model.decision_function(whole))
    with pytest.raises(DataError, match="column 'size' is of type object, not of numbers"):
        model.predict(whole.assign(size=["much"] + [1.0] * (len(whole) - 1)).astype({"size": object}))


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (None, "guest: no table was given"),
        ({"age": [1, 2]}, "guest: a table is due, not a dict: pandas.DataFrame makes one of it"),
        (scipy.sparse.eye(20).tocsr(), "guest: a sparse matrix was passed, but dense data is required"),
        (scipy.sparse.eye(20).todok(), "guest: a sparse matrix was passed"),
        (scipy.sparse.csr_array(np.eye(20)), "guest: a sparse matrix was passed"),
        (
            np.ones(20),
            "guest: a table has rows and columns, this one has 1 dimension. Reshape your data",
        ),
        (np.ones((20, 2, 2)), "guest: a table has rows and columns, this one has 3 dimensions"),
        ([pd.DataFrame({"a": [1, 2]})] * 2, "guest: one table is due, not a list of 2: join them first"),
        (pd.Series(np.ones(20)), "a Series is one column. Reshape your data: .to_frame"),
        (pa.array([1.0] * 20), "guest: .* could not be read as a table of columns|a table is due"),
        (pa.table({"a": [1]}).to_reader(), "guest: a stream can be read once only: give .read_all"),
        ([[1, 2], [3]] * 10, "guest: a table has rows and columns, this one has 1 dimension"),
        (5, r"guest: a table is due \(a data frame, or an array of rows and columns\), not int"),
        (object(), "guest: a table is due .*, not object"),
        (np.ones((20, 1)) * 1j, "guest: Complex data not supported: the array is of type complex128"),
        (np.array([[b"a"]] * 20), "guest: an array of type .S1 holds no numbers or text"),
        (np.array([["2024-01-01"]] * 20, "M8[D]"), "guest: column 'x0' holds dates or times"),
        (np.array([[np.inf]] * 20), "guest: column 'x0' has 20 infinite numbers"),
        (np.empty((0, 3)), "guest: the table has 0 rows .n_samples=0."),
        (np.ones((1, 3)), "guest: the table has 1 row .n_samples=1."),
        (np.empty((20, 0)), "guest: the table has 0 feature.s. .shape=.20, 0."),
        (pd.DataFrame({"a": [[1]] * 20}), "guest: column 'a' holds values of type list: text or number"),
        (pd.DataFrame({"a": [{"b": 1}] * 20}), "guest: column 'a' holds values of type dict"),
        (pd.DataFrame({"a": [b"x"] * 20}), "guest: column 'a' holds values of type bytes"),
        (pd.DataFrame({"a": [1j, "x"] * 10}), "guest: column 'a' holds values of type complex"),
        (pd.DataFrame({"a": [object()] * 20}), "guest: column 'a' holds values of type object"),
        (pd.DataFrame({"a": pd.period_range("2024", periods=20)}), "column 'a' holds dates or times"),
        (
            pd.DataFrame(np.ones((20, 2)), columns=["a", "a"]),
            "must come once, but .as text. 'a' comes more",
        ),
        (pd.DataFrame(np.ones((20, 2)), columns=[1, "1"]), "but .as text. '1' comes more often"),
        (
            pd.DataFrame(np.ones((20, 1)), columns=pd.MultiIndex.from_tuples([("a", "b")])),
            "guest: column names must be plain and each must come once, not be of 2 levels",
        ),
        (
            pa.table([[1] * 20, [2] * 20], names=["a", "a"]),
            "each must come once, but .as text. 'a' comes",
        ),
    ],
)
def test_tables_that_cannot_be(table, text):
    y = np.arange(20) % 2
    with pytest.raises(DataError, match=text) as caught:
        alone().fit(table, y)
    assert isinstance(caught.value, ValueError)  # as scikit-learn's tools expect
    insurer, y, _ = small()
    if not any(word in text for word in ("no table", "n_samples", "0 feature", "x0")):
        with pytest.raises(DataError, match=text.replace("guest", "lender")):
            quick(id={"guest": None, "lender": None}).fit(insurer, y, hosts={"lender": table})


def test_tables_that_are_not_in_memory():
    class Lazy:
        def collect(self): ...

    class Delayed:
        npartitions = 2

        def compute(self): ...

    for table, load in ((Lazy(), "collect"), (Delayed(), "compute")):
        with pytest.raises(DataError, match=rf"guest: the table is not in memory yet: give .{load}\(\)"):
            alone().fit(table, [0, 1])


def test_a_library_that_fails_is_named():
    class Broken:
        def __arrow_c_stream__(self, requested_schema=None):
            raise RuntimeError("of its own")

    with pytest.raises(
        DataError, match=r"guest: Broken could not be read .*\(RuntimeError\): give a pand"
    ):
        alone().fit(Broken(), [0, 1])


def test_columns_by_position_where_one_of_the_tables_has_no_names():
    insurer, y, _ = small()
    frame = insurer.assign(size=np.arange(80.0))
    array = frame.to_numpy()
    named, numbered = alone(depth=3).fit(frame, y), alone(depth=3).fit(array, y)
    scores = named.decision_function(frame)
    assert np.array_equal(numbered.decision_function(array), scores)
    with pytest.warns(UserWarning, match="X does not have valid feature names, but SecureBoost was fit"):
        assert np.array_equal(named.decision_function(array), scores)
    with pytest.warns(UserWarning, match="X has feature names, but SecureBoost was fitted without"):
        assert np.array_equal(numbered.decision_function(frame), scores)
    for model, table in ((named, array), (numbered, array), (numbered, frame)):
        fewer = table[:, :1] if isinstance(table, np.ndarray) else table[["age"]]
        with pytest.raises(DataError, match="X has 1 features, but SecureBoost is expecting 2 features"):
            model.predict(fewer)
    # By name, where both have some: whatever their order.
    assert np.array_equal(named.decision_function(frame[["size", "age"]].assign(more=1)), scores)
    labels = frame.set_axis([3, 7], axis=1)
    by_label = alone(depth=3).fit(labels, y)
    assert np.array_equal(by_label.decision_function(labels[[7, 3]]), scores)
    assert not hasattr(by_label, "feature_names_in_")


def test_a_second_fit_forgets_the_names_of_the_first():
    insurer, y, _ = small()
    model = alone().fit(insurer, y)
    assert model.feature_names_in_.tolist() == ["age"]
    assert not hasattr(model.fit(insurer.to_numpy(), y), "feature_names_in_")


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_frames_of_narwhals_are_those_within(library):
    """As of code that is written for any library: frames, columns and what they are made of."""
    nw = pytest.importorskip("narwhals")
    polars = pytest.importorskip("polars")
    insurer, y, hosts = small()
    make = {
        "pandas": lambda table: table,
        "polars": polars.from_pandas,
        "pyarrow": lambda table: pa.Table.from_pandas(table, preserve_index=False),
    }[library]
    guest = nw.from_native(make(insurer.reset_index()))
    others = {name: nw.from_native(make(table.reset_index())) for name, table in hosts.items()}
    ids = {"guest": "policy", "lender": "policy", "registry": "policy"}
    label = nw.new_series("y", y, backend=library)
    weight = nw.new_series("w", np.ones(len(y)), backend=library)
    model = quick(id=ids, hosts=others).fit(guest, label, sample_weight=weight)
    expected = quick(hosts=hosts).fit(insurer, y).predict_proba(insurer)
    assert np.array_equal(model.predict_proba(guest), expected)
    assert type(model.predict(guest)) is np.ndarray
    if library == "polars":
        with pytest.raises(DataError, match=r"guest: the table is not in memory yet: give .collect\(\)"):
            quick(id=ids, hosts=others).fit(guest.lazy(), label)


def test_polars_is_read_as_it_is():
    polars = pytest.importorskip("polars")
    insurer, y, hosts = small()
    ids = {"guest": "policy", "lender": "policy", "registry": "policy"}
    guest = polars.from_pandas(insurer.reset_index())
    others = {name: polars.from_pandas(table.reset_index()) for name, table in hosts.items()}
    others["registry"] = others["registry"].with_columns(polars.col("fuel").cast(polars.Categorical))
    model = quick(trees=3, id=ids, hosts=others).fit(guest, polars.Series("y", y))
    assert np.array_equal(
        model.decision_function(guest),
        quick(trees=3, hosts=hosts).fit(insurer, y).decision_function(insurer),
    )
    with pytest.raises(DataError, match=r"guest: the table is not in memory yet: give .collect\(\)"):
        quick(id=ids, hosts=others).fit(guest.lazy(), y)
    with pytest.raises(DataError, match="guest: a table has rows and columns, a Series is one column"):
        alone().fit(guest["age"], y)
