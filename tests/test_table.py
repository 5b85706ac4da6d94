"""Reading a party's own table: what stays as written, and how each flaw is named."""

import datetime
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vfl.errors import ConfigError, DataError
from vfl.learn.losses import GammaLoss, LogisticLoss, PoissonLoss
from vfl.party.output import write_scores
from vfl.party.sections import DataSection
from vfl.party.spreadsheet import unescaped
from vfl.party.table import Table, read_table

GOOD = "plate,density,area,w,claim\n007,1.5,A,1,0\n1e5,,B,2.5,1\nNA,-3e2,NA,1,0\n"


def section(path: Path, **changes) -> DataSection:
    settings = {
        "path": path,
        "id": ("plate",),
        "label": "claim",
        "weight": "w",
        "categorical": ("area",),
    }
    return DataSection(**{**settings, **changes})


def csv(
    folder: Path, content: str | bytes = GOOD, *, role="guest", need_label=True, loss=None, **changes
):
    path = folder / "policies.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(section(path, **changes), role=role, need_label=need_label, loss=loss)


def parquet(folder: Path, columns, *, role="guest", **changes) -> Table:
    """A table of the columns given, with an id and a label that are in order."""
    rows = len(next(iter(columns.values())))
    table = {"plate": [f"p{i}" for i in range(rows)], "claim": [i % 2 for i in range(rows)]}
    path = folder / "policies.parquet"
    pq.write_table(pa.table({**table, **columns}), path)
    names = {"weight": None, "categorical": (), **changes}
    return read_table(section(path, **names), role=role, need_label=True)


def features(table: Table) -> dict[str, list]:
    return {name: values.tolist() for name, values in table.features.items()}


@contextmanager
def refused(said: str, *absent: str):
    """Expect one DataError line that says `said` and holds none of `absent`."""
    with pytest.raises(DataError) as raised:
        yield raised
    text = str(raised.value)
    assert said in text
    assert "\n" not in text
    for value in absent:
        assert value not in text


# What is read


def test_ids_stay_as_written_and_the_rest_has_its_kind(tmp_path):
    table = csv(tmp_path)
    assert table.rows == 3
    assert table.ids == [["007", "1e5", "NA"]]
    assert table.features.keys() == {"density", "area"}
    np.testing.assert_array_equal(table.features["density"], [1.5, np.nan, -300])
    assert table.features["area"].tolist() == ["A", "B", None]
    assert table.features["density"].dtype == np.float64
    assert table.label.tolist() == [0, 1, 0]
    assert table.weight.tolist() == [1, 2.5, 1]
    assert table.warnings == []
    taken = table.take(np.array([2, 0, 0]))
    assert taken["density"].tolist() == [-300, 1.5, 1.5]
    assert taken["area"].tolist() == [None, "A", "A"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_spreadsheets_write(tmp_path, delimiter, start, end):
    content = start + GOOD.replace(",", delimiter).replace("\n", end) + end
    table = csv(tmp_path, content.encode())
    assert table.ids == [["007", "1e5", "NA"]]
    assert table.label.tolist() == [0, 1, 0]


def test_quoted_cells_and_no_line_end_at_the_end(tmp_path):
    content = 'plate,area,"a, b",claim\n"x\ny","B ""q"" é",1,true\n"",  , 2 ,FALSE'
    table = csv(tmp_path, content, weight=None)
    assert table.ids == [["x\ny", None]]
    assert table.features["area"].tolist() == ['B "q" é', None]
    assert table.features["a, b"].tolist() == [1, 2]
    assert table.label.tolist() == [1, 0]


def test_spellings_of_numbers_and_of_missing(tmp_path):
    cells = ["1", "+1", "-.5", "2.", "1E3", "true", "False", "", "NA", "NaN", "null", " "]
    rows = "".join(f"p{i},{cell},{i % 2}\n" for i, cell in enumerate(cells))
    table = csv(tmp_path, "plate,x,claim\n" + rows, weight=None, categorical=())
    nan = np.nan
    np.testing.assert_array_equal(
        table.features["x"], [1, 1, -0.5, 2, 1000, 1, 0, nan, nan, nan, nan, nan]
    )


def test_columns_and_ignore(tmp_path):
    assert features(csv(tmp_path, columns=("area",))).keys() == {"area"}
    assert features(csv(tmp_path, ignore=("area",))).keys() == {"density"}
    assert features(csv(tmp_path, columns=())) == {}


def test_several_ids(tmp_path):
    table = csv(
        tmp_path,
        "a,b,x,claim\n01,02,1,0\n03,04,2,1\n",
        id=("b", "a"),
        weight=None,
        categorical=(),
    )
    assert table.ids == [["02", "04"], ["01", "03"]]
    assert table.features.keys() == {"x"}


def test_only_a_guest_may_be_without_features(tmp_path):
    assert csv(tmp_path, "plate,claim\na,0\nb,1\n", weight=None, categorical=()).features == {}
    with refused("policies.csv: no column is left to use as a feature"):
        csv(
            tmp_path,
            "plate\na\nb\n",
            role="host",
            need_label=False,
            label=None,
            weight=None,
            categorical=(),
        )


def test_new_rows_need_no_label_and_never_use_it(tmp_path):
    for content in ("plate,area,density\n1,B,2\n", "area,claim,density,w,plate\nB,?,2,?,1\n"):
        new = tmp_path / "new.csv"
        new.write_text(content)
        table = read_table(
            section(tmp_path / "policies.csv"),
            role="guest",
            need_label=False,
            path=new,
            expect=["density", "area"],
        )
        assert list(table.features) == ["density", "area"]
        assert features(table) == {"density": [2], "area": ["B"]}
        assert (table.label, table.weight, table.path) == (None, None, new)
    with refused("new.csv: no column 'densty', which the model was trained on: did you mean 'den"):
        read_table(section(new), role="guest", need_label=False, path=new, expect=["densty"])


def test_a_constant_column_is_a_warning(tmp_path):
    table = csv(tmp_path, "plate,x,y,claim\na,1,1,0\nb,1,,1\n", weight=None, categorical=())
    assert table.warnings == ["policies.csv: column 'x' has the same value in every row"]


LEFT_OUT = "holds the labels of a data frame's rows (its index): left out"


def test_an_index_that_pandas_has_written_is_no_feature(tmp_path):
    """With and without a name, in Parquet and CSV, of a shuffled frame; a range is no column."""
    frame = pd.DataFrame({"plate": ["a", "b", "c"], "x": [1.5, 2, 4], "claim": [0, 1, 0]})
    shuffled = frame.sample(frac=1, random_state=1)
    named = shuffled.rename_axis("contract")
    levels = shuffled.set_index(pd.MultiIndex.from_tuples([(1, 2), (3, 4), (5, 6)], names=["u", None]))
    path = tmp_path / "policies.parquet"
    for written, index in (
        (frame, []),
        (frame.iloc[::2], []),
        (shuffled, ["__index_level_0__"]),
        (named, ["contract"]),
        (levels, ["u", "__index_level_1__"]),
    ):
        written.to_parquet(path)
        table = read_table(section(path, weight=None, categorical=()), role="guest", need_label=True)
        assert features(table) == {"x": written["x"].tolist()}
        assert [line for line in table.warnings if LEFT_OUT in line] == [
            f"policies.parquet: column '{name}' {LEFT_OUT}, unless columns in [data] lists it"
            for name in index
        ]
    # Who names it means it: as id, as the index of a table often is, as a feature, as what is left out.
    named.reset_index(drop=True).set_index("plate").to_parquet(path)
    table = read_table(section(path, weight=None, categorical=()), role="guest", need_label=True)
    assert (table.ids, table.warnings) == ([shuffled["plate"].tolist()], [])
    shuffled.to_parquet(path)
    for uses in ({"columns": ("__index_level_0__",)}, {"ignore": ("__index_level_0__",)}):
        settings = section(path, weight=None, categorical=(), **uses)
        table = read_table(settings, role="guest", need_label=True)
        assert table.features.keys() == set(uses.get("columns", ("x",))) and not table.warnings
    for first in ("", "Unnamed: 0", "Unnamed: 0.1"):
        shuffled.rename_axis(first or None).to_csv(tmp_path / "policies.csv")
        table = csv(tmp_path, (tmp_path / "policies.csv").read_bytes(), weight=None, categorical=())
        assert table.features.keys() == {"x"}
        what = f"column '{first}'" if first else "the first column, without a name,"
        assert table.warnings[0].startswith(f"policies.csv: {what} {LEFT_OUT}")


def test_a_model_that_was_trained_on_an_index_is_still_scored(tmp_path):
    path = tmp_path / "policies.parquet"
    frame = pd.DataFrame({"plate": ["a", "b"], "x": [1, 2], "claim": [0, 1]}, index=[7, 3])
    frame.to_parquet(path)
    settings = section(path, weight=None, categorical=())
    table = read_table(settings, role="guest", need_label=False, expect=["__index_level_0__"])
    assert features(table) == {"__index_level_0__": [7, 3]}


def test_columns_that_look_as_if_nobody_meant_them(tmp_path):
    """Said to their owner, with the label's help also where only an alignment reads the table."""
    rng = np.random.default_rng(0)
    claim = np.sort(rng.integers(0, 2, 400))
    frame = pd.DataFrame(
        {
            "plate": [f"p{i}" for i in range(400)],
            "row": np.arange(400),
            "paid": claim * 100.0,
            "code": [f"c{i}" for i in range(400)],
            "x": rng.normal(size=400),
            "claim": claim,
        }
    )
    frame.to_csv(tmp_path / "policies.csv", index=False)
    settings = section(tmp_path / "policies.csv", weight=None, categorical=("code",))
    for need_label in (True, False):
        warnings = read_table(settings, role="guest", need_label=need_label).warnings
        counts, tells, paid, code = warnings
        assert counts.startswith("policies.csv: column 'row' counts the rows: it knows the order of")
        assert tells.startswith("policies.csv: column 'row' tells the label almost alone (AUC 0.99")
        assert paid.startswith("policies.csv: column 'paid' tells the label almost alone (AUC 1.000)")
        assert code.startswith("policies.csv: column 'code' has 400 levels in 400 rows")
    host = settings.model_copy(update={"label": None, "ignore": ("claim",)})
    assert len(read_table(host, role="host", need_label=False).warnings) == 2
    # A label that cannot be used yet stops no alignment.
    frame.assign(claim="?").to_csv(tmp_path / "policies.csv", index=False)
    assert len(read_table(settings, role="guest", need_label=False).warnings) == 2


def test_parquet_types(tmp_path):
    table = parquet(
        tmp_path,
        {
            "plate": pa.array([7, 2**62, None], pa.int64()),
            "i": pa.array([1, None, 3], pa.int32()),
            "u": pa.array([1, 2, 2**63], pa.uint64()),
            "f": pa.array([0.1, float("nan"), None], pa.float64()),
            "h": pa.array([np.float16(0.5), np.float16(2), None]),
            "b": pa.array([True, False, None]),
            "d": pa.array([Decimal("1.25"), None, Decimal("-3.50")]),
            "a.b": pa.array([1, 2, 3]),
            "text": pa.array(["x", None, "NA"]),
            "coded": pa.array(["x", "y", None]).dictionary_encode(),
            "number": pa.array([3.0, None, 4.0]),
            "whole": pa.array([3, None, 4]),
        },
        categorical=("text", "coded", "number", "whole"),
    )
    assert table.ids == [["7", str(2**62), None]]
    nan = np.nan
    for name, values in {
        "i": [1, nan, 3],
        "u": [1, 2, 2.0**63],
        "f": [0.1, nan, nan],
        "h": [0.5, 2, nan],
        "b": [1, 0, nan],
        "d": [1.25, nan, -3.5],
        "a.b": [1, 2, 3],
    }.items():
        np.testing.assert_array_equal(table.features[name], values, err_msg=name)
        assert table.features[name].dtype == np.float64
    assert table.features["text"].tolist() == ["x", None, None]
    assert table.features["coded"].tolist() == ["x", "y", None]
    assert table.features["number"].tolist() == ["3", None, "4"]
    assert table.features["whole"].tolist() == ["3", None, "4"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (pa.array(["007", "1e5"]).dictionary_encode(), ["007", "1e5"]),
        (pa.array(["007", ""], pa.large_string()), ["007", None]),
        (pa.array([Decimal("12"), None]), ["12", None]),
        (pa.array([Decimal("12.00"), Decimal("-7.00"), None]), ["12", "-7", None]),
        (pa.array([12.0, None, -0.0, 2.0**53 - 1]), ["12", None, "0", "9007199254740991"]),
        (pa.array([12.0, float("nan")], pa.float32()), ["12", None]),
        (
            pa.array([datetime.datetime(2027, 1, 31), datetime.datetime(2027, 1, 31, 7, 5), None]),
            ["2027-01-31", "2027-01-31 07:05:00", None],
        ),
        (pa.array([datetime.date(2027, 1, 31), None]), ["2027-01-31", None]),
    ],
)
def test_parquet_ids(tmp_path, values, text):
    assert parquet(tmp_path, {"plate": values}).ids == [text]


TEXT = st.text(st.characters(codec="utf-8"), min_size=1)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60
)
@given(
    rows=st.lists(
        st.tuples(TEXT, st.floats(allow_nan=False, allow_infinity=False) | st.none()), min_size=1
    ),
    kind=st.sampled_from(["csv", "parquet"]),
)
def test_ids_and_numbers_come_back_as_written(tmp_path, rows, kind):
    path = tmp_path / f"t.{kind}"
    # The last number is there, so that no column is without any.
    ids, numbers = [r[0] for r in rows], [r[1] for r in rows[:-1]] + [0.5]
    with path.open("wb") as file:
        part = {"id": ids, "x": np.array([np.nan if n is None else n for n in numbers])}
        changed = write_scores(file, path.suffix, [part]).get("id", 0)
    table = read_table(DataSection(path=path, id=("id",)), role="host", need_label=False)
    (read,) = table.ids
    if kind == "parquet":
        assert read == ids
    else:  # but for the apostrophe before what a spreadsheet would compute
        assert all(one in (cell, unescaped(cell)) for one, cell in zip(ids, read, strict=True))
        assert sum(one != cell for one, cell in zip(ids, read, strict=True)) == changed
    assert [None if np.isnan(n) else n for n in features(table)["x"]] == numbers


# What is refused


def test_text_where_a_number_is_due(tmp_path):
    content = "plate,density,claim\n" + "".join(
        f"p{i},{'secret' if i in (15, 20, 21, 30) else i},{i % 2}\n" for i in range(40)
    )
    said = (
        "policies.csv: column 'density' has text that is no number in row 17 (and 3 more rows): "
        "correct it, or leave the cell empty where the value is missing"
    )
    with refused(said, "secret"):
        csv(tmp_path, content, weight=None, categorical=())


@pytest.mark.parametrize("cell", ["0x77", "7_7", "7 7", "-nan", "nan(7)", "7e", "--7", "7-7"])
def test_spellings_that_are_no_number(tmp_path, cell):
    with refused("column 'density' has text that is no number in row 2:", cell):
        csv(tmp_path, GOOD.replace("1.5", cell))


def test_row_numbers_are_those_of_a_spreadsheet(tmp_path):
    content = '\nplate,x,claim\n"line\nbreak",1,0\n\n\np,secret,1\nq,secret,0\n'
    with refused("in row 6 (and 1 more row)", "secret"):
        csv(tmp_path, content, weight=None, categorical=())


def test_row_numbers_after_a_very_long_cell(tmp_path):
    content = f"plate,x,claim\np,1,0\n{'a' * 200_000},1,0\np,secret,1\n"
    with refused("in row 4:", "secret"):
        csv(tmp_path, content, weight=None, categorical=())


@pytest.mark.parametrize(
    ("cells", "of_csv", "of_parquet"),
    [
        (["1,5", "2,75", "?"], 'set decimal = "," in [data]; and', "write it as numbers"),
        (["1.234,5", "2,75", "3,5"], 'set decimal = "," and thousands = "."', "write it as numbers"),
        (["1", "2.5", "?"], "if it stands for a missing value, set missing", "write it as numbers"),
        (["red", "blue", "1"], "if it holds names (3 different), set categorical", None),
        (["A1", "B2", "7"], "if it holds names (3 different), set categorical", None),
        (["2024-01-05", "5.1.2024", "01/05/2024 10:00"], "it seems to hold dates, set dates", None),
        (["12 %", "13%", "1"], "take off the percent sign", "write it as numbers"),
        (["€ 1'200", "90 km", "1,234,567"], "take off the currency; and text", "write it as numbers"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_advice_on_text_among_numbers_ruins_no_model(tmp_path, kind, cells, of_csv, of_parquet):
    """A column of numbers that is listed under categorical has a level for each of them."""
    frame = pd.DataFrame({"plate": ["a", "b", "c"], "x": cells, "claim": [0, 1, 0]})
    path = tmp_path / f"policies.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False, sep=";")
    else:
        frame.to_parquet(path)
    advice = of_csv if kind == "csv" else of_parquet or of_csv
    with refused(advice) as caught:
        read_table(section(path, weight=None, categorical=()), role="guest", need_label=True)
    assert ("categorical" in str(caught.value)) == ("names" in of_csv)


def test_numbers_that_are_text_in_a_typed_file(tmp_path):
    with refused("column 'x' holds text, not numbers: write it as numbers, or list the column under"):
        parquet(tmp_path, {"x": ["01", "02"]})


def test_advice_on_a_column_of_other_texts_in_every_row(tmp_path):
    content = "plate,x,claim\n" + "".join(f"p{i},text {i},{i % 2}\n" for i in range(60))
    with refused('it has 60 different texts, set ignore = ["x"] in [data]', "text 1"):
        csv(tmp_path, content, weight=None, categorical=())


def test_a_decimal_comma(tmp_path):
    content = "plate;x;claim\na;1,75;0\nb;2,75;1\n"
    with refused("in row 2 (and 1 more row) (numbers are written with a point", "75"):
        csv(tmp_path, content, weight=None, categorical=())


@pytest.mark.parametrize("cell", ["+inf", "-Infinity", "7e777"])
def test_an_infinite_number(tmp_path, cell):
    with refused("column 'density' has an infinite number in row 2: correct it", cell):
        csv(tmp_path, GOOD.replace("1.5", cell))
    with refused("policies.parquet: column 'x' has an infinite number in row 3"):
        parquet(tmp_path, {"x": [1.0, float("-inf")]})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("\ufeff", "the file is empty"),
        ("plate,claim", "the file has a header but no rows"),
        ("plate,claim\n\n", "the file has a header but no rows"),
        ("plate,x,x,claim\n1,2,3,4\n", "column 'x' comes twice in the header"),
        ("plate,,claim\n1,2,3\n", "column 2 has no name in the header: name it or remove it"),
        ("plate,claim\n7777,0\n8888\n", "row 3 has 1 cell, the header 2"),
        ("plate,claim\n7777,0\n8888,1,1\n", "row 3 has 3 cells, the header 2"),
        ('plate,claim\n7777,0\n8888,"1\n9999,1\n', "a quote is not closed, or not doubled, in or"),
        (b"plate,claim\n7777,0\n\xe9,1\n", "line 3 is not UTF-8: save the file as CSV UTF-8"),
        (b"plate,x,claim\n7777,\xe9,0\n8888,1,1\n", "line 2 is not UTF-8"),
        (b"plate,cla\xe9m\n7777,0\n", "line 1 is not UTF-8: save the file as CSV UTF-8"),
        ("plate,claim\n7777,0\n".encode("utf-16"), "the file is UTF-16, not UTF-8"),
    ],
)
def test_a_file_that_is_no_table(tmp_path, content, said):
    with refused(f"policies.csv: {said}", "7777", "8888"):
        csv(tmp_path, content, weight=None, categorical=(), columns=())


def test_a_missing_file(tmp_path):
    csv(tmp_path)
    with refused("polices.csv: did you mean policies.csv?"):
        read_table(section(tmp_path / "polices.csv"), role="guest", need_label=True)
    with refused("there is no folder"):
        read_table(section(tmp_path / "x" / "a.csv"), role="guest", need_label=True)
    with refused("policies.xlsx: did you mean policies.csv?"):
        read_table(section(tmp_path / "policies.xlsx"), role="guest", need_label=True)
    (tmp_path / "d.csv").mkdir()
    with refused("d.csv is a folder without files"):
        read_table(section(tmp_path / "d.csv"), role="guest", need_label=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": "clam"}, "no column 'clam' (named by label): did you mean 'claim'?"),
        ({"id": ("plat",)}, "no column 'plat' (named by id): did you mean 'plate'?"),
        ({"weight": "zzzz"}, "no column 'zzzz' (named by weight): the columns are plate, density,"),
        ({"monotone": {"densty": "increasing"}}, "no column 'densty' (named by monotone): did you mean"),
        ({"categorical": ("Area",)}, "no column 'Area' (named by categorical): did you mean 'area"),
        ({"columns": ("densiti",)}, "(named by columns): did you mean 'density'?"),
        ({"ignore": ("densiti",)}, "(named by ignore): did you mean 'density'?"),
    ],
)
def test_a_misspelt_column(tmp_path, changes, said):
    with refused(said):
        csv(tmp_path, **changes)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("0 1 - - - - - - 1", "is missing in 6 rows (rows 4, 5, 6, 7, 8 and 1 more)"),
        ("0 - 1", "is missing in 1 row (row 3)"),
        ("0 1 77 1 -77", "must be 0 or 1 but is something else in row 4 (and 1 more row): correct"),
        ("0 1 77", "must be 0 or 1 but is something else in row 4: correct it or choose another loss"),
        ("0 1 inf", "has an infinite number in row 4: correct it"),
        ("1 1 1", "has only one class: a model needs rows of both"),
        ("0 0", "has only one class"),
        ("0 77yes 1", "has text that is no number in row 3: a label is a number, such as 0 or 1"),
    ],
)
def test_a_label_that_is_none(tmp_path, cells, said):
    rows = "".join(f"p,{'' if c == '-' else c}\n" for c in cells.split())
    with refused(f"policies.csv: label 'claim' {said}", "77"):
        csv(tmp_path, "plate,claim\n" + rows, weight=None, categorical=(), loss=LogisticLoss())


@pytest.mark.parametrize(
    ("loss", "cells", "said"),
    [
        (PoissonLoss(), "0 -77 1 -1", "must not be negative but is in row 3 (and 1 more row): correct"),
        (PoissonLoss(), "0 0 0", "is 0 in every row: a model needs rows above 0"),
        (GammaLoss(), "77 0 1", "must be above 0 but is not in row 3: leave out the rows without an"),
        (GammaLoss(), "1 77e49 1", "must not be beyond 1e+50 but is in row 3: give it in another unit"),
    ],
)
def test_a_label_that_a_loss_cannot_take(tmp_path, loss, cells, said):
    rows = "".join(f"p,{c}\n" for c in cells.split())
    with refused(f"policies.csv: label 'claim' {said}", "77"):
        csv(tmp_path, "plate,claim\n" + rows, weight=None, categorical=(), loss=loss)
    path = tmp_path / "policies.parquet"
    pq.write_table(pa.table({"plate": ["a"] * 3, "claim": [1, 2, None]}), path)
    with refused("label 'claim' is missing in 1 row (row 4)"):
        read_table(section(path, weight=None, categorical=()), role="guest", need_label=True, loss=loss)


def test_a_label_is_any_number_where_no_loss_checks_it(tmp_path):
    table = csv(tmp_path, "plate,claim\na,2\nb,-7.5\n", weight=None, categorical=())
    assert table.label.tolist() == [2, -7.5]


def test_a_label_that_is_needed_but_not_named(tmp_path):
    with pytest.raises(ConfigError, match=r"\[data\] label is missing in the party file"):
        csv(tmp_path, label=None)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("0", "must be positive but is not in row 3"),
        ("-7.7", "must be positive but is not in row 3"),
        ("inf", "has an infinite number in row 3"),
        ("", "is missing in 1 row (row 3)"),
        ("7x7", "has text that is no number in row 3: a weight is a positive number"),
        ("7.7e50", "must be from 1e-50 to 1e+50 but is not in row 3: give it in another unit"),
        ("7.7e-52", "must be from 1e-50 to 1e+50 but is not in row 3"),
    ],
)
def test_a_weight_that_is_none(tmp_path, cell, said):
    with refused(f"policies.csv: weight 'w' {said}", "7.7", "7x7"):
        csv(tmp_path, GOOD.replace("2.5", cell))


EXPOSED = "plate,x,years,rate,claim\na,1,0.5,0.25,0\nb,2,2,-1,1\nc,3,1,0,0\n"
FREQUENCY = {"weight": None, "categorical": (), "exposure": "years", "offset": "rate"}


def test_exposure_and_offset_are_added_on_the_scale_of_the_link(tmp_path):
    table = csv(tmp_path, EXPOSED, **FREQUENCY)
    assert table.features.keys() == {"x"}
    assert table.exposure.tolist() == [0.5, 2, 1]
    assert table.offset == pytest.approx(np.array([0.25, -1, 0]) + np.log([0.5, 2, 1]), rel=1e-15)
    table = csv(tmp_path, EXPOSED, **{**FREQUENCY, "offset": None, "ignore": ("rate",)})
    assert table.offset == pytest.approx(np.log([0.5, 2, 1]), rel=1e-15)
    table = csv(tmp_path, EXPOSED, **{**FREQUENCY, "exposure": None, "ignore": ("years",)})
    assert (table.exposure, table.offset.tolist()) == (None, [0.25, -1, 0])
    table = csv(tmp_path, EXPOSED, need_label=False, **FREQUENCY)  # to align
    assert (table.exposure, table.offset, list(table.features)) == (None, None, ["x"])
    table = csv(tmp_path, EXPOSED, **{**FREQUENCY, "exposure": None, "offset": None})
    assert (table.exposure, table.offset) == (None, None)
    assert table.features.keys() == {"x", "years", "rate"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0.5", "0", "exposure 'years' must be positive but is not in row 2"),
        ("0.5", "-7.7", "exposure 'years' must be positive but is not in row 2"),
        ("0.5", "inf", "exposure 'years' has an infinite number in row 2: correct it"),
        ("0.5", "", "exposure 'years' is missing in 1 row (row 2)"),
        ("0.5", "7x7", "exposure 'years' has text that is no number in row 2: an exposure is a posit"),
        ("-1", "-inf", "offset 'rate' has an infinite number in row 3"),
        ("-1", "NA", "offset 'rate' is missing in 1 row (row 3)"),
        ("-1", "7x7", "offset 'rate' has text that is no number in row 3: an offset is a number"),
        ("years", "yeras", "no column 'years' (named by exposure): did you mean 'yeras'?"),
        ("rate", "rat", "no column 'rate' (named by offset): did you mean 'rat'?"),
    ],
)
def test_an_exposure_or_offset_that_is_none(tmp_path, old, new, said):
    with refused(f"policies.csv: {said}", "7.7", "7x7"):
        csv(tmp_path, EXPOSED.replace(old, new), **FREQUENCY)


def test_a_batch_needs_the_offset_but_not_the_exposure(tmp_path):
    def batch(content):
        path = tmp_path / "new.csv"
        path.write_text(content)
        named = section(path, **FREQUENCY)
        return read_table(named, role="guest", need_label=False, path=path, expect=["x"])

    table = batch("x,plate,rate,years\n1,a,0.5,2\n")
    assert table.exposure.tolist() == [2]
    assert table.offset == pytest.approx([0.5 + np.log(2)])
    table = batch("x,plate,rate\n1,a,0.5\n")
    assert (table.exposure, table.offset.tolist()) == (None, [0.5])
    with refused("new.csv: no column 'rate' (named by offset)"):
        batch("x,plate,years\n1,a,0.5\n")
    with refused("new.csv: exposure 'years' must be positive but is not in row 2"):
        batch("x,plate,rate,years\n1,a,0.5,0\n")


def test_a_column_without_any_value(tmp_path):
    said = "column 'density' has no value in any row: ignore it in [data]"
    with refused(f"policies.csv: {said}"):
        csv(tmp_path, GOOD.replace("1.5", "NA").replace("-3e2", ""))
    for kind in (pa.null(), pa.float64(), pa.string(), pa.timestamp("ns")):
        with refused(f"policies.parquet: {said}"):
            parquet(tmp_path, {"density": pa.array([None, None], kind)})
        with refused(f"policies.parquet: {said}"):
            parquet(
                tmp_path,
                {"density": pa.array([None, None], pa.null())},
                categorical=("density",),
            )


def test_a_categorical_column_that_is_an_id(tmp_path):
    content = "plate,area,claim\n" + "".join(f"{i},v{i},{i % 2}\n" for i in range(10_001))
    with refused("categorical column 'area' has 10,001 categories, over 10,000: it looks", "v7"):
        csv(tmp_path, content, weight=None)


@pytest.mark.parametrize(
    ("columns", "changes", "said"),
    [
        ({"plate": [8.0, 7.7]}, {}, "id column 'plate' has a number that is not whole in row 3: write"),
        ({"plate": [Decimal("7.7"), None]}, {}, "id column 'plate' has a number that is not whole in"),
        ({"plate": [8.0, 7e77]}, {}, "id column 'plate' has a float of which digits are lost in row 3"),
        ({"plate": [8.0, float("inf")]}, {}, "id column 'plate' has a float of which digits are lost"),
        (
            {"plate": pa.array([8.0, 77_777_777.0], pa.float32())},
            {},
            "id column 'plate' has a float of which digits are lost in row 3: write the column anew",
        ),
        ({"plate": [True, False]}, {}, "id column 'plate' is of type bool: write it as text"),
        ({"plate": [b"7.7\xff", b"x"]}, {}, "id column 'plate' is of type binary: write it as text"),
        ({"x": ["7.7", "8"]}, {}, "column 'x' holds text, not numbers: write it as numbers, or"),
        ({"x": pa.array(["7.7", "8"]).dictionary_encode()}, {}, "column 'x' holds text"),
        ({"x": pa.array([7, 8], pa.timestamp("ns"))}, {}, "column 'x' holds dates or times: turn"),
        ({"x": pa.array([7, 8], pa.date32())}, {}, "column 'x' holds dates or times: turn it"),
        ({"x": [[7.7], [8]]}, {}, "column 'x' is of type list<"),
        ({"x": [[7.7], [8]]}, {"categorical": ("x",)}, "categorical column 'x' is of type list<"),
        ({"x": [1e300, 7.7]}, {"categorical": ("x",)}, "categorical column 'x' holds huge numbers"),
        ({"claim": ["7.7", "0"]}, {}, "label 'claim' holds text, not numbers: a label is a number"),
        ({"claim": [0, 1, None]}, {}, "label 'claim' is missing in 1 row (row 4)"),
        ({"claim": pa.array([], pa.int64())}, {}, "the file has columns but no rows"),
    ],
)
def test_a_parquet_column_that_is_not_what_it_should_be(tmp_path, columns, changes, said):
    with refused(f"policies.parquet: {said}", "7.7"):
        parquet(tmp_path, columns, **changes)


@pytest.mark.parametrize("keep", [3, 100, -1])
def test_a_damaged_parquet_file(tmp_path, keep):
    parquet(tmp_path, {"x": [1, 2]})
    path = tmp_path / "policies.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    with refused("policies.parquet: the file is damaged or is no Parquet file"):
        read_table(section(path), role="guest", need_label=True)


def test_a_parquet_file_with_damaged_pages(tmp_path):
    parquet(tmp_path, {"x": np.random.default_rng(0).normal(size=1000)})
    path = tmp_path / "policies.parquet"
    content = bytearray(path.read_bytes())
    content[4:60] = bytes([255]) * 56
    path.write_bytes(content)
    with refused("policies.parquet: the file is damaged or is no Parquet file"):
        read_table(section(path, weight=None, categorical=()), role="guest", need_label=True)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(-1, 4),
            st.one_of(st.none(), st.integers(-5, 5).map(float)),
            st.sampled_from([None, "x", "y", "z"]),
        ),
        min_size=1,
        max_size=25,
    )
)
def test_repeated_ids_are_aggregated_as_by_pandas(
    rows: list[tuple[int, float | None, str | None]],
) -> None:
    of, numbers, names = zip(*rows, strict=True)
    values = np.array([np.nan if v is None else v for v in numbers])
    text = np.array(names, object)
    first: dict[int, int] = {}
    group = np.array([-1 if g < 0 else first.setdefault(g, i) for i, g in enumerate(of)], np.int64)
    table = Table(Path("t.csv"), [], {"n": values, "c": text}, None, None, len(rows), [])
    frame = pd.DataFrame({"g": group, "n": values, "c": text})[group >= 0]
    for rule in ("sum", "mean", "max", "min", "first", "last"):
        made = table.aggregate(group, rule, {"c": "mode"})
        for g, part in frame.groupby("g"):
            known = part["n"].dropna()
            expected = {
                "sum": known.sum() if len(known) else np.nan,
                "mean": known.mean() if len(known) else np.nan,
                "max": known.max() if len(known) else np.nan,
                "min": known.min() if len(known) else np.nan,
                "first": part["n"].iloc[0],
                "last": part["n"].iloc[-1],
            }[rule]
            np.testing.assert_allclose(made.features["n"][g], expected, equal_nan=True)
            seen = [c for c in part["c"] if isinstance(c, str)]
            mode = max(seen, key=lambda c: (seen.count(c), -seen.index(c)), default=None)
            assert made.features["c"][g] == mode
        alone = [i for i, g in enumerate(group) if g < 0]
        np.testing.assert_array_equal(made.features["n"][alone], values[alone])


def test_a_row_that_is_not_known_is_missing() -> None:
    table = Table(
        Path("t.csv"),
        [],
        {"n": np.array([1.0, 2.0]), "c": np.array(["x", None], object)},
        None,
        None,
        2,
        [],
    )
    taken = table.take(np.array([1, -1, 0]))
    np.testing.assert_array_equal(taken["n"], [2.0, np.nan, 1.0])
    assert taken["c"].tolist() == [None, None, "x"]
    assert table.take(slice(1, None))["n"].tolist() == [2.0]
    assert table.features["n"].tolist() == [1.0, 2.0]
