"""Tables as Excel workbooks."""

import datetime as dt
import re
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tables import features, read, refused

openpyxl = pytest.importorskip("openpyxl")

Rows = Sequence[Sequence[Any]]
TABLE = [["id", "x", "n"], ["A", 1.5, "red"], ["B", 2, None], ["C", None, "blue"]]


def workbook(rows: Rows, change: Callable[[Any, Any], object] | None = None) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        book = openpyxl.Workbook()
        sheet = book.active
        sheet.title = "Data"
        for row in rows:
            sheet.append(row)
        if change is not None:
            change(book, sheet)
        with path.open("wb") as file:
            book.save(file)

    return save


def edited(path: Path, member: str, pattern: bytes, by: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members[member] = re.sub(pattern, by, members[member])
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("name", ["t.xlsx", "t.xlsm", "t.xls", "t.csv", "t"])
def test_a_workbook_by_any_name(tmp_path: Path, name: str) -> None:
    table = read(tmp_path / name, workbook(TABLE), categorical=["n"])
    np.testing.assert_array_equal(table.features["x"], [1.5, 2, np.nan])
    assert table.features["n"].tolist() == ["red", None, "blue"]
    assert table.ids == [["A", "B", "C"]]


def test_the_same_as_pandas_writes(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "id": ["007", "8", "é"],
            "x": [0.1, np.nan, 1e300],
            "n": pd.array([1, None, 3], dtype="Int64"),
            "b": [True, False, True],
            "d": pd.to_datetime(["2024-01-01 00:00", "1999-12-31 23:59", None]),
            "c": ["u", None, "v"],
        }
    )
    table = read(
        tmp_path / "t.xlsx",
        lambda path: frame.to_excel(path, index=False, engine="openpyxl"),
        categorical=["c"],
        dates={"d": {"as": "days"}},
    )
    assert table.ids == [["007", "8", "é"]]
    np.testing.assert_array_equal(table.features["x"], frame["x"])
    np.testing.assert_array_equal(table.features["n"], [1, np.nan, 3])
    np.testing.assert_array_equal(table.features["b"], [1, 0, 1])
    np.testing.assert_array_equal(table.features["d"], [19723, 10956, np.nan])
    assert table.features["c"].tolist() == ["u", None, "v"]


def test_rows_are_counted_as_in_the_sheet(tmp_path: Path) -> None:
    rows = [
        [],
        [],
        ["id", "x"],
        ["A", 1],
        [],
        [None, None],
        ["B", "two"],
        *[[f"C{i}", i] for i in range(9)],
    ]
    with refused("column 'x' has text that is no number in row 7: correct it, or leave", "two"):
        read(tmp_path / "t.xlsx", workbook(rows))


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        (["007", "8"], ["007", "8"]),
        ([7, 8], ["7", "8"]),
        (["007", 8], ["007", "8"]),
        ([2**52, 10**14], [str(2**52), str(10**14)]),
        ([7.5, 8], "id column 'id' has a number that is not whole in row 2"),
        ([7.0, None], ["7", None]),
        ([1.2345678901234567e19, 8], "id column 'id' has a float of which digits are lost in row 2"),
        ([True, False], "id column 'id' is of type bool: write it as text"),
        (["A", None], ["A", None]),
    ],
)
def test_ids(tmp_path: Path, ids: list[Any], found: list[str | None] | str) -> None:
    rows = [["id", "x"], [ids[0], 1], [ids[1], 2]]
    if isinstance(found, str):
        with refused(found):
            read(tmp_path / "t.xlsx", workbook(rows))
    else:
        assert read(tmp_path / "t.xlsx", workbook(rows)).ids == [found]


@pytest.mark.parametrize(
    ("cells", "keys", "found"),
    [
        (["1.5", 2], {}, [1.5, 2]),  # a number that is stored as text
        (["1,5", 2.25], {"decimal": ","}, [1.5, 2.25]),  # only what is text has a sign
        (["1.234,5", 2.25, True], {"decimal": ",", "thousands": "."}, [1234.5, 2.25, 1]),
        (["NA", 2, " "], {}, [np.nan, 2, np.nan]),
        (["k.A.", 2], {"missing": ["k.A."]}, [np.nan, 2]),
        (["1,5", 2.25], {}, 'set decimal = "," in [data]'),
        (["#N/A", 2], {}, 'set missing = ["#N/A"] in [data]'),
        ([dt.time(8, 30), 2], {}, "turn times and durations into a number"),
        ([dt.timedelta(hours=30), 2], {}, "turn times and durations into a number"),
        ([dt.date(2024, 1, 1), 2], {}, "it seems to hold dates"),
        ([dt.date(2024, 1, 1), None], {}, "column 'x' holds dates or times: turn it into a number"),
    ],
)
def test_cells_of_a_numeric_column(
    tmp_path: Path, cells: list[Any], keys: dict[str, Any], found: list[float] | str
) -> None:
    rows = [["id", "x"], *([f"A{i}", cell] for i, cell in enumerate(cells))]
    if isinstance(found, str):
        with refused(found):
            read(tmp_path / "t.xlsx", workbook(rows), **keys)
    else:
        table = read(tmp_path / "t.xlsx", workbook(rows), **keys)
        np.testing.assert_array_equal(table.features["x"], found)


def test_dates_and_dates_that_are_text(tmp_path: Path) -> None:
    rows = [["id", "d"], ["A", dt.datetime(2024, 1, 1, 9)], ["B", "31.12.1999"], ["C", "-"]]
    keys = {"dates": {"d": {"as": "days", "order": "dmy"}}}
    with refused('row 4: if it stands for a missing value, set missing = ["-"] in [data]'):
        read(tmp_path / "t.xlsx", workbook(rows), **keys)
    table = read(tmp_path / "t.xlsx", workbook(rows), missing=["-"], **keys)
    np.testing.assert_array_equal(table.features["d"], [19723, 10956, np.nan])
    # Workbooks of older Macs count from 1904.
    rows = [["id", "d"], ["A", dt.date(2024, 1, 1)]]
    mac = workbook(
        rows, lambda book, sheet: setattr(book, "epoch", openpyxl.utils.datetime.CALENDAR_MAC_1904)
    )
    assert features(read(tmp_path / "t.xlsx", mac, **keys)) == {"d": [19723.0]}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([["Report"], [], *TABLE], "row 1 has 1 cell, rows below it 3: remove titles and comments"),
        ([], "the workbook has no sheet with any cells"),
        ([["id", "x"]], "the sheet has a header but no rows"),
        ([["id", None, "x"], ["A", 1, 2], ["B", 1, 2]], "column 2 has no name in the header"),
        ([["id", "x"], ["A", 1, 5], ["B", 2]], "row 2 has cells to the right of the last name"),
        ([["id", "x", "x"], ["A", 1, 2], ["B", 1, 2]], "column 'x' comes twice in the header"),
    ],
)
def test_a_sheet_that_is_no_table(tmp_path: Path, rows: Rows, said: str) -> None:
    with refused(f"t.xlsx: {said}"):
        read(tmp_path / "t.xlsx", workbook(rows))


def test_headings(tmp_path: Path) -> None:
    rows = [["id", "power\n(kW)", 2023, dt.date(2024, 1, 1)], ["A", 1, 2, 3], ["B", 2, 3, 4]]
    assert list(read(tmp_path / "t.xlsx", workbook(rows)).features) == [
        "power (kW)",
        "2023",
        "2024-01-01",
    ]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("B2:B3", "cells are merged in rows 2 to 3: separate them and fill in each one"),
        ("B1:C1", "cells are merged in row 1"),
        ("A9:C12", None),  # below the table
    ],
)
def test_merged_cells(tmp_path: Path, cells: str, said: str | None) -> None:
    rows = [["id", "x", "y"], ["A", 1, 2], ["B", 1, 3], ["C", 3, 4]]
    merged = workbook(rows, lambda book, sheet: sheet.merge_cells(cells))
    if said is None:
        assert features(read(tmp_path / "t.xlsx", merged)) == {"x": [1, 1, 3], "y": [2, 3, 4]}
    else:
        with refused(said):
            read(tmp_path / "t.xlsx", merged)
    if cells == "B2:B3":
        assert features(read(tmp_path / "t.xlsx", merged, ignore=["x"])) == {"y": [2, 3, 4]}


FORMULAS = [["id", "x", "y"], ["A", "=1+1", 1], ["B", 3, 2]]


def test_formulas_without_results(tmp_path: Path) -> None:
    with refused(
        "column 'x' has formulas whose results are not in the file: open it in Excel and save it"
    ):
        read(tmp_path / "t.xlsx", workbook(FORMULAS))
    assert features(read(tmp_path / "t.xlsx", workbook(FORMULAS), ignore=["x"])) == {"y": [1, 2]}


def test_results_of_formulas(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    workbook(FORMULAS)(path)
    edited(path, "xl/worksheets/sheet1.xml", rb"<v ?/>|<v></v>", b"<v>2</v>")
    # As by a program that writes any number and leaves it to Excel to calculate.
    with refused("column 'x' has formulas whose results are not in the file"):
        read(path, lambda path: None)
    edited(path, "xl/workbook.xml", rb' fullCalcOnLoad="1"', b"")
    assert features(read(path, lambda path: None)) == {"x": [2, 3], "y": [1, 2]}


def test_a_size_of_the_sheet_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    workbook(TABLE)(path)
    edited(path, "xl/worksheets/sheet1.xml", rb'<dimension ref="[^"]*"', b'<dimension ref="A1"')
    assert read(path, lambda path: None, categorical=["n"]).rows == 3


def test_several_sheets(tmp_path: Path) -> None:
    def more(book: Any, sheet: Any) -> None:
        book.create_sheet("Empty")
        other = book.create_sheet("Other")
        for row in (["id", "a", "b", "c"], ["Z", 1, 2, 3], ["Y", 2, 3, 4]):
            other.append(row)

    path, made = tmp_path / "t.xlsx", workbook(TABLE, more)
    with refused(
        "has several sheets (Data, Other): name the one that holds", settings={"sheet": "Other"}
    ):
        read(path, made)
    assert features(read(path, made, sheet="Other")) == {"a": [1, 2], "b": [2, 3], "c": [3, 4]}
    with refused("no sheet 'othr' (named by sheet): did you mean 'Other'?", settings={"sheet": "Other"}):
        read(path, made, sheet="othr")
    with refused("the sheet is empty"):
        read(path, made, sheet="Empty")

    def hidden(book: Any, sheet: Any) -> None:
        more(book, sheet)
        book["Other"].sheet_state = "hidden"

    assert list(read(path, workbook(TABLE, hidden), categorical=["n"]).features) == ["x", "n"]


def test_damaged_workbooks(tmp_path: Path) -> None:
    path = tmp_path / "t.xlsx"
    workbook(TABLE)(path)
    whole = path.read_bytes()
    for cut in (10, 300, len(whole) - 30):
        with refused("t.xlsx: the file is a damaged zip archive or Excel workbook: copy it anew"):
            read(path, whole[:cut])
    for member in ("xl/worksheets/sheet1.xml", "xl/styles.xml", "xl/workbook.xml"):
        path.write_bytes(whole)
        edited(path, member, rb"(?s).*", b"<junk>")
        with refused("t.xlsx: the workbook is damaged or of a kind that openpyxl cannot read: save it"):
            read(path, lambda path: None)


def test_without_openpyxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workbook(TABLE)(tmp_path / "t.xlsx")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with refused(
        "is an Excel workbook, which needs openpyxl: install it by `pip install 'vfl[excel]'`, or"
    ):
        read(tmp_path / "t.xlsx", lambda path: None)
