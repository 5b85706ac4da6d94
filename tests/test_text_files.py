"""Text files as other programs and countries write them."""

import csv
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import features, read, refused

from vfl.party.sections import DataSection
from vfl.party.table import read_table

ROWS = "id,x,y\nA,1,2\nB,2.5,3\nC,4,5\n"
X = {"x": [1.0, 2.5, 4.0], "y": [2.0, 3.0, 5.0]}


def with_sign(sign: str, text: str = ROWS) -> str:
    return text.replace(",", sign)


# Separators


@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
def test_usual_separators_are_found(tmp_path: Path, sign: str) -> None:
    assert features(read(tmp_path / "t.csv", with_sign(sign))) == X


@pytest.mark.parametrize("sign", ["^", "~", ":", "#", "!", "\x01", "\x1f", " "])
def test_other_separators_are_proposed_and_set(tmp_path: Path, sign: str) -> None:
    with refused(
        "no column 'id' (named by id): the file has one column; ", settings={"separator": sign}
    ):
        read(tmp_path / "t.csv", with_sign(sign))
    assert features(read(tmp_path / "t.csv", with_sign(sign), separator=sign)) == X


def test_a_separator_that_is_in_headings_and_cells_as_well(tmp_path: Path) -> None:
    text = 'id;power, kW;place, country\nA;1,5;"a, b"\nB;2,5;"c, d"\n'
    table = read(tmp_path / "t.csv", text, decimal=",", categorical=["place, country"])
    assert features(table) == {"power, kW": [1.5, 2.5], "place, country": ["a, b", "c, d"]}


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\n', "SEP=;\n", "\ufeffsep=;\n"])
def test_a_first_line_that_names_the_separator(tmp_path: Path, first: str) -> None:
    assert features(read(tmp_path / "t.csv", first + with_sign(";"))) == X
    # For a spreadsheet, which hides this line, the row of names is the first.
    with refused("column 'x' has text that is no number in row 3: correct it"):
        read(tmp_path / "t.csv", first + with_sign(";").replace("2.5", "two") + "D;5;6\nE;6;7\nF;7;8\n")
    assert features(read(tmp_path / "t.csv", "sep=\t\n" + with_sign("\t"))) == X


def test_columns_of_fixed_width(tmp_path: Path) -> None:
    text = "id      x     y\nA1      1     2\nA2      22    3\n"
    with refused("its columns seem to be set apart by blanks (fixed width): export it with a separator"):
        read(tmp_path / "t.csv", text)


# Line ends, and what stands at an end


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends(tmp_path: Path, end: str) -> None:
    assert features(read(tmp_path / "t.csv", ROWS.replace("\n", end))) == X
    assert features(read(tmp_path / "t.csv", ROWS.replace("\n", end).rstrip())) == X
    with refused("column 'x' has text that is no number in row 3"):
        read(tmp_path / "t.csv", ROWS.replace("2.5", "two").replace("\n", end), monotone={})
    with refused("row 3 has 1 cell, the header 3"):
        read(tmp_path / "t.csv", ROWS.replace("B,2.5,3", "B").replace("\n", end))


@pytest.mark.parametrize("end", ["\x1a", "   ", "\n\n", " \x1a"])
def test_what_programs_leave_at_the_end_of_a_file(tmp_path: Path, end: str) -> None:
    assert features(read(tmp_path / "t.csv", ROWS + end)) == X


def test_lines_that_end_in_a_separator(tmp_path: Path) -> None:
    text = ROWS.replace("\n", ";\n").replace(",", ";")
    assert features(read(tmp_path / "t.csv", text)) == X
    with refused("column 4 has no name in the header"):
        read(tmp_path / "t.csv", text.replace("2.5;3;", "2.5;3;777"), columns=[])
    with refused("rows have 4 cells, the header 3: write it without row names"):
        read(tmp_path / "t.csv", text.replace("y;", "y"))


def test_a_line_end_within_quotes_is_kept_wherever_it_lies(tmp_path: Path) -> None:
    """Readers take a file in pieces of 4 MiB; the line end lies across the end of the first."""
    row = "{},{}\r\n".format
    filler = "".join(row(f"f{i:06}", i) for i in range(1000))
    start = f'id,x\r\n{filler}"'
    cell = "z" * ((4 << 20) - len(start) - 1)
    text = f'{start}{cell}\r\nend",7\r\n' + row("last", 8)
    assert text.encode()[(4 << 20) - 1 : (4 << 20) + 1] == b"\r\n"
    table = read(tmp_path / "t.csv", text)
    assert table.ids[0][-2:] == [f"{cell}\r\nend", "last"]
    assert features(table)["x"][-2:] == [7, 8]


# Rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "Report of 2024\nid;x\nA;1\nB;2\nC;3\n",
            "row 1 has fewer cells than the rows below: remove titles",
        ),
        ("# made by\n# us\nid,x\nA,1\nB,2\nC,3\n", "rows 1 to 2 have fewer cells than the rows below"),
        (
            "Report;;\nid;x;y\nA;1;2\n",
            "the first row has 1 name for 3 columns: if it is a title, remove it",
        ),
        (
            "id,x\n1,A,2\n2,B,3\n3,C,4\n",
            "rows have 3 cells, the header 2: write it without row names (in R",
        ),
        ('"id","","x"\n"1","A",2\n', "column 2 has no name in the header"),
        (
            "ID|X\n--|--\nA|1\nB|2\n",
            "row 2 is a line of dashes, as printed for people: export the table",
        ),
        (" id | x \n----+---\n A  | 1\n(1 row)\n", "row 2 is a line of dashes"),
        ("ID         X\n---------- --\nA          1\n", "row 2 is a line of dashes"),
        ("| id | x |\n|----|---|\n| A | 1 |\n", "row 2 is a line of dashes"),
        (
            "id;x\nA;1\nB;2\n\n2 rows selected.\n",
            "row 5 has 1 cell, the header 2: if it is a note at the end",
        ),
        ("id,x\nA,1,5\nB,2,5\n", "rows have 3 cells, the header 2: write it without row names (in R"),
        ("id,x\nA,1\nB,2,5\n", "cells with , in them need quotes, and no line ends in it"),
        ("id,x\nA,1\nid,x\nB,2\n", "in row 3: the headings come again, remove such rows"),
        ('id,x\n"A,1\n"B,2\nC,3\n', "a quote is not closed, or not doubled, in or after row 2"),
        ('id,x,z\n"A\nB",1,2\n"C" ,3,4\n', "a quote is not closed, or not doubled, in or after row 3"),
        (
            b"id,x\nA,1\0\nB,2\n",
            "line 2 has a NUL byte, which no text has: the file is damaged or no CSV",
        ),
        (b"id,x\nA,1\n" + bytes(500), "line 3 has a NUL byte"),
        (b"id,x\n" + b"A,1\n" * 30_000 + b"\0B,1\n", "line 30002 has a NUL byte"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, text: str | bytes, said: str) -> None:
    with refused(said):
        read(tmp_path / "t.csv", text)


@pytest.mark.parametrize(
    "text",
    [
        "A77,0.5,3\nA78,0.7,4\n",
        "A77,35,2\nA78,36,4\n",
        "A77,x,4\nA78,x,5\n",
        "2023-01-01,A77,4\n2023-01-02,B,5\n",
    ],
)
def test_a_file_without_names_shows_no_cell(tmp_path: Path, text: str) -> None:
    for cells in ("A77,3,A77,4\nA78,1,B,2\n", "A77,44,x,44\nA78,2,y,3\n"):
        with refused(
            "the first row seems to hold cells, so write the names of the columns", "A77", "44"
        ):
            read(tmp_path / "t.csv", cells)
    with refused("the first row seems to hold cells, so write the names of the columns above it", "A77"):
        read(tmp_path / "t.csv", text)


def test_headings_on_several_lines_and_with_hard_blanks(tmp_path: Path) -> None:
    text = 'id,"power\n(kW)","price\u00a0net","\ufeffage\t"\nA,1,2,3\nB,3,4,5\n'
    assert list(read(tmp_path / "t.csv", text).features) == ["power (kW)", "price net", "age"]
    with refused(r"column 'a\x1b[2Jb' has text that is no number in row 2"):
        read(tmp_path / "t.csv", "id,a\x1b[2Jb\nA,x\nB,1\nC,1\nD,2\nE,3\nF,4\n")
    with refused("column 2 has no name in the header"):
        read(tmp_path / "t.csv", "id,\u200b,x\nA,1,2\n")


def test_rows_joined_by_a_quote_are_noted(tmp_path: Path) -> None:
    table = read(tmp_path / "t.tsv", 'id\tt\tx\n1\t"abc\t1\n2\tdef"\t2\n3\tx\t3\n', ignore=["t"])
    (note,) = table.warnings
    assert (
        "row 2 has a cell with line breaks and separators in quotes: if one of these quotes is" in note
    )


# Encodings

NAMES = "id;größe;stadt\nA;1;Köln\nB;2;Saarbrücken\nC;3;Gießen\n"
CITIES = {"größe": [1.0, 2.0, 3.0], "stadt": ["Köln", "Saarbrücken", "Gießen"]}


@pytest.mark.parametrize(
    ("text", "encoding", "proposed"),
    [
        (NAMES, "latin-1", "latin-1"),
        (NAMES.replace("Gie", "€ "), "windows-1252", "windows-1252"),
        (NAMES, "cp850", "cp850"),
        (NAMES, "mac-roman", "mac-roman"),
        (NAMES, "utf-16", "utf-16"),
        (NAMES, "utf-16-le", "utf-16-le"),
        (NAMES, "utf-16-be", "utf-16-be"),
        (NAMES, "utf-32", "utf-32"),
        (
            "id;größe;stadt\nA;1;Łódź\nB;2;Kraków\nC;3;Wałbrzych\n".replace("ö", "o"),
            "cp1250",
            "windows-1250",
        ),
        (
            "id;größe;stadt\nA;1;Москва\nB;2;Тверь\n".replace("ö", "o").replace("ß", "s"),
            "cp1251",
            "windows-1251",
        ),
        ("Código;id;stadt\n12;A;PºDUQUE JOSÉ,1ºA\n13;B;IRÚN\n", "cp1252", "latin-1"),
    ],
)
def test_an_encoding_is_proposed_and_never_guessed(
    tmp_path: Path, text: str, encoding: str, proposed: str
) -> None:
    text = text.replace("Łódź", "Łódź").replace("größe", "große")
    if encoding in ("cp1250", "cp1251"):
        text = text.replace("große", "grosse").replace("ß", "ss")
    data = text.encode(encoding)
    with refused("", settings={"encoding": proposed}):
        read(tmp_path / "t.csv", data, categorical=["stadt"])
    found = features(read(tmp_path / "t.csv", data, categorical=["stadt"], encoding=proposed))
    plain = features(read(tmp_path / "u.csv", text, categorical=["stadt"]))
    assert found == plain
    packed = read(tmp_path / "t.csv.gz", gzip.compress(data), categorical=["stadt"], encoding=proposed)
    assert features(packed) == plain


@pytest.mark.parametrize(
    ("data", "encoding", "said"),
    [
        (
            NAMES.encode(),
            "latin-1",
            "the file is UTF-8, but encoding in [data] says otherwise: take it out",
        ),
        (
            NAMES.encode("utf-8-sig"),
            "latin-1",
            "the file is UTF-8 by its mark, not Latin-1: take encoding",
        ),
        (NAMES.encode(), "utf-16", "the file is not UTF-16: take encoding out of [data]"),
        (
            NAMES.encode("utf-16"),
            "latin-1",
            "the file is UTF-16, not Latin-1: save it as CSV UTF-8 or set",
        ),
        (
            "id;x\nA€;1\n".encode("cp1252"),
            "latin-1",
            'signs that Latin-1 has not: set encoding = "windows',
        ),
        (
            "id;x\nśćżź\u0085;1\n".encode("iso-8859-2"),
            "iso-8859-2",
            "signs that ISO8859-2 has not: set ",
        ),
        (NAMES.encode("utf-16"), "utf-16-be", "the file is UTF-16, not UTF-16-BE: save it as CSV UTF-8"),
        (b"id;x\nA\x81;1\n", "windows-1252", "line 2 is not Windows-1252: set"),
        (
            "id;x\nMüller;1\nGöbel\0;2\n".replace("\0", "\x81").encode("latin-1"),
            "windows-1252",
            "line 3 is not Windows-1252, though the rest looks like it: there is a byte",
        ),
        (NAMES.encode("latin-1"), "utf-8", "line 1 is not UTF-8: save the file as CSV UTF-8, or set"),
        (
            b"\xef\xbb\xbf" + NAMES.encode("latin-1"),
            "utf-8",
            "line 1 is not UTF-8, as the file is by its mark: export the file anew, as CSV UTF-8, or",
        ),
        (NAMES.replace("größe", "g").encode("latin-1"), "utf-8", "line 2 is not UTF-8"),
        (
            NAMES.replace("\n", "\r").replace("größe", "g").encode("latin-1"),
            "utf-8",
            "line 2 is not UTF-8",
        ),
    ],
)
def test_an_encoding_that_is_not_the_files(
    tmp_path: Path, data: bytes, encoding: str, said: str
) -> None:
    with refused(said, "Köln"):
        read(tmp_path / "t.csv", data, encoding=encoding, ignore=["stadt"] if b"stadt" in data else [])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    cells=st.lists(
        st.text(st.characters(codec="latin-1", categories=["L", "N", "P", "Zs"]), min_size=1),
        min_size=3,
        max_size=9,
    ),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_ids_come_back_from_every_encoding(
    tmp_path: Path, cells: list[str], encoding: str, end: str
) -> None:
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    text = end.join(["id;größe", *(f"{cell};1" for cell in quoted)])
    name = "utf-8" if encoding == "utf-8-sig" else encoding
    assert read(tmp_path / "t.csv", text.encode(encoding), encoding=name).ids == [cells]


def test_letters_lost_by_an_earlier_conversion_are_noted(tmp_path: Path) -> None:
    for town in ("M\ufffdnchen", "München".encode().decode("latin-1")):
        table = read(tmp_path / "t.csv", f"id,t\nA,{town}\nB,x\n", categorical=["t"])
        assert table.warnings == [
            "t.csv: letters were lost or changed by an earlier conversion: export it anew"
        ]


# Numbers and missing values, set in [data]


@pytest.mark.parametrize(
    ("cells", "said", "proposed"),
    [
        (["1,5", "2,75", "3"], "as in 1.5, unless [data] says otherwise)", {"decimal": ","}),
        (["1.234,5", "2,75"], 'set decimal = "," and thousands = "." in [data]', None),
        (["1 234,5", "2,75"], "", {"decimal": ",", "thousands": " "}),
        (["1'234.5", "2.75"], 'set thousands = "\'" in [data]', {"thousands": "'"}),
        (["1,234.5", "2.75"], 'set thousands = "," in [data]', {"thousands": ","}),
        (["1,234", "2,750"], "a comma is the decimal sign or stands between thousands", {}),
        (["1,5", "2.75"], "other numbers have another decimal sign", {}),
        (["12 %", "3"], "take off the percent sign", {}),
        (["€ 12", "3"], "take off the currency", {}),
        (["12,50 EUR", "3"], "take off the currency", {}),
        (["12-", "3"], "write a minus as in -1.5", {}),
        (["(12)", "3"], "write a minus as in -1.5", {}),
        (["−12", "3"], "write a minus as in -1.5", {}),
        (["++1", "3"], "write numbers with the digits 0 to 9", {}),
        (["+-1", "3"], "write numbers with the digits 0 to 9", {}),
        (["1_000", "3"], "write numbers with the digits 0 to 9", {}),
        (["0x1F", "3"], "write numbers with the digits 0 to 9", {}),
        (["１２", "3"], "write numbers with the digits 0 to 9", {}),
        (["120 kW", "3"], "take off the unit", {}),
        (["10-20", "3"], "write one number in place of a range", {}),
        (["8:30", "3"], "turn times and durations into a number", {}),
        (["yes", "no"], "write 1 and 0 for yes and no, or", {"categorical": ["x"]}),
        (["n", "s", "w"], "in row 2 (and 2 more rows): if it holds names (3", {"categorical": ["x"]}),
        ([".", "3", "\\N"], "set missing = [\".\", '\\N'] in [data]", {"missing": [".", "\\N"]}),
        (["k.A.", "3"], 'set missing = ["k.A."] in [data]', {"missing": ["k.A."]}),
        (["31.12.2024", "01.01.2024"], "it seems to hold dates", None),
    ],
)
def test_cells_that_are_no_numbers(
    tmp_path: Path, cells: list[str], said: str, proposed: dict[str, Any] | None
) -> None:
    text = "id;x\n" + "".join(f"{i};{cell}\n" for i, cell in enumerate(cells))
    with refused("column 'x' has text that is no number in row"):
        read(tmp_path / "t.csv", text)
    with refused(said, settings=proposed):
        read(tmp_path / "t.csv", text)


def test_kinds_of_cells_are_told_one_by_one(tmp_path: Path) -> None:
    text = "id;x\nA;1,5\nB;.\nC;2,5\nD;abc\nE;.\n" + "".join(f"{i};{i}\n" for i in range(60))
    with refused(
        "column 'x' has text that is no number in row 2 (and 1 more row) (numbers are written with a "
        'point, as in 1.5, unless [data] says otherwise): set decimal = "," in [data]; and text that '
        "is no number in row 3 (and 1 more row): if it stands for a missing value, set missing = "
        '["."] in [data] or leave such cells empty; and text that is no number in row 5: correct it, '
        "or leave the cell empty where the value is missing",
        "abc",
        settings={"decimal": ",", "missing": ["."]},
    ):
        read(tmp_path / "t.csv", text)


def test_the_same_keys_hold_for_a_batch(tmp_path: Path) -> None:
    keys = {
        "encoding": "latin-1",
        "decimal": ",",
        "thousands": ".",
        "missing": ["k.A."],
        "categorical": ["stadt"],
        "dates": {"geburt": {"as": "age", "order": "dmy", "at": "2027-01-01"}},
    }
    training = (
        "id;prämie;stadt;geburt\nA;1.234,5;Köln;31.12.1999\nB;k.A.;k.A.;k.A.\nC;,5;Ulm;01.01.2000\n"
    )
    section = DataSection.model_validate({"path": tmp_path / "training.csv", "id": "id", **keys})
    (tmp_path / "training.csv").write_bytes(training.encode("latin-1"))
    (tmp_path / "batch.csv").write_bytes("geburt;prämie;id;x\n02.01.2000;-1,5;Z;\n".encode("latin-1"))
    table = read_table(section, role="guest", need_label=False)
    np.testing.assert_array_equal(table.features["prämie"], [1234.5, np.nan, 0.5])
    np.testing.assert_array_equal(table.features["geburt"], [27, np.nan, 27])
    assert table.features["stadt"].tolist() == ["Köln", None, "Ulm"]
    batch = read_table(
        section,
        role="guest",
        need_label=False,
        path=tmp_path / "batch.csv",
        expect=["prämie", "geburt"],
    )
    assert features(batch) == {"prämie": [-1.5], "geburt": [26.0]}


@pytest.mark.parametrize(
    ("cells", "rule", "said", "proposed"),
    [
        (
            ["2024-12-31", "31.12.2024"],
            {},
            "is no date of order ymd in row 3: the parts seem",
            {"order": "dmy"},
        ),
        (
            ["31.12.24"],
            {"order": "dmy"},
            "years of two digits need the first",
            {"order": "dmy", "years_from": 1930},
        ),
        (["31.02.2024"], {"order": "dmy"}, "in row 2: correct it or write dates as 2024-12-31", None),
        (["2024-01-01", "0000-00-00"], {}, 'missing value, set missing = ["0000-00-00"]', None),
        (
            ["2027-01-02"],
            {"as": "age", "at": "2027-01-01"},
            "has a date after 2027-01-01 in row 2",
            None,
        ),
    ],
)
def test_dates_that_do_not_fit_their_rule(
    tmp_path: Path, cells: list[str], rule: dict[str, Any], said: str, proposed: dict[str, Any] | None
) -> None:
    text = "id,d\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells))
    with refused(said) as _:
        read(tmp_path / "t.csv", text, dates={"d": {"as": "days", **rule}})
    if proposed:
        made = {"dates": {"d": {"as": "days", **proposed}}}
        with refused(said, settings=made):
            read(tmp_path / "t.csv", text, dates={"d": {"as": "days", **rule}})


# What programs write

FRAME = pd.DataFrame(
    {
        "id": ["A", "B", "C"],
        "x": [1.5, None, -3e-5],
        "n": pd.array([1, None, 3], dtype="Int64"),
        "c": ["u", None, 'v "w", z'],
        "b": [True, False, True],
        "d": pd.to_datetime(["2024-01-01", None, "1999-12-31"]),
    }
)


@pytest.mark.parametrize(
    ("written", "keys"),
    [
        ({}, {}),
        ({"sep": ";", "decimal": ","}, {"decimal": ","}),
        (
            {"sep": ";", "decimal": ",", "encoding": "cp1252"},
            {"decimal": ",", "encoding": "windows-1252"},
        ),
        ({"sep": "\t", "encoding": "utf-16"}, {"encoding": "utf-16"}),
        ({"sep": "|", "lineterminator": "\r\n"}, {}),
        ({"quoting": 1}, {}),
        ({"na_rep": "NA"}, {}),
        ({"na_rep": "."}, {"missing": ["."]}),
        ({"na_rep": "\\N", "sep": "\t"}, {"missing": ["\\N"]}),
        ({"compression": "gzip"}, {}),
        ({"float_format": "%.17g"}, {}),
    ],
)
def test_what_pandas_writes(tmp_path: Path, written: dict[str, Any], keys: dict[str, Any]) -> None:
    table = read(
        tmp_path / "t.csv",
        lambda path: FRAME.to_csv(path, index=False, **written),
        categorical=["c"],
        dates={"d": {"as": "days"}},
        **keys,
    )
    np.testing.assert_array_equal(table.features["x"], [1.5, np.nan, -3e-5])
    np.testing.assert_array_equal(table.features["n"], [1, np.nan, 3])
    np.testing.assert_array_equal(table.features["b"], [1, 0, 1])
    np.testing.assert_array_equal(table.features["d"], [19723, np.nan, 10956])
    assert table.features["c"].tolist() == ["u", None, 'v "w", z']


@pytest.mark.parametrize(
    ("text", "keys", "x", "days"),
    [
        (
            '"id";"x";"d"\n"A";1,5;"2024-01-01"\n"B";NA;NA\n',
            {"decimal": ","},
            1.5,
            19723,
        ),  # R's write.csv2
        ("id,x,d\nA,1.5,01JAN2024\nB,.,.\n", {"missing": ["."]}, 1.5, 19723),  # SAS
        ("id,x,d\nA,1.5,01JAN2024\nB,.A,.\n", {"missing": [".", ".A"]}, 1.5, 19723),
        ("id\tx\td\nA\t1.5\t2024-01-01\nB\t\\N\t\\N\n", {"missing": ["\\N"]}, 1.5, 19723),  # MySQL
        ("id,x,d\nA,1.5,2024-01-01 00:00:00+00\nB,,\n", {}, 1.5, 19723),  # PostgreSQL
        ("id,x,d\nA,1.5,2024-01-01 00:00:00 UTC\nB,,\n", {}, 1.5, 19723),  # BigQuery
        (
            "id;x;d\nA;,5;01-JAN-24\nB;;\n",  # Oracle
            {"decimal": ",", "dates": {"d": {"as": "days", "order": "dmy", "years_from": 1950}}},
            0.5,
            19723,
        ),
        (
            "id;x;d\nA;1.500,25;01.01.2024\nB;;00.00.0000\n",  # SAP
            {
                "decimal": ",",
                "thousands": ".",
                "missing": ["00.00.0000"],
                "dates": {"d": {"as": "days", "order": "dmy"}},
            },
            1500.25,
            19723,
        ),
        ("id|x|d|\nA|1.5|2024-01-01|\nB|||\n", {}, 1.5, 19723),
    ],
)
def test_what_other_programs_write(
    tmp_path: Path, text: str, keys: dict[str, Any], x: float, days: int
) -> None:
    table = read(tmp_path / "t.csv", text, **{"dates": {"d": {"as": "days"}}, **keys})
    np.testing.assert_array_equal(table.features["x"], [x, np.nan])
    np.testing.assert_array_equal(table.features["d"], [days, np.nan])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    rows=st.lists(
        st.tuples(
            # Of these alone both readers say the same: a bare end of line they read differently.
            st.text(st.characters(codec="utf-8", exclude_characters="\0\r\x1a"), min_size=1),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_the_same_cells_as_by_another_reader(tmp_path: Path, rows: list[tuple[str, float]]) -> None:
    frame = pd.DataFrame(rows, columns=["id", "x"])
    table = read(tmp_path / "t.csv", lambda path: frame.to_csv(path, index=False))
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        again = list(csv.reader(file))[1:]
    assert table.ids == [[name for name, _ in again]]
    assert features(table) == {"x": [float(number) for _, number in again]}


def test_a_first_line_that_names_no_separator(tmp_path: Path) -> None:
    for sign in ("é", '"', "a"):
        assert features(read(tmp_path / "t.csv", f"sep={sign}\n" + with_sign(";"))) == X
    assert features(read(tmp_path / "t.csv", "sep=,\n" + with_sign(";"), separator=";")) == X


def test_quotes_with_text_behind_them_are_read_alike_with_and_without_blank_lines(
    tmp_path: Path,
) -> None:
    text = 'id\tt\tx\nA\t"Lorem" dolor\t1\nB\tb\t2\n'
    plain = features(read(tmp_path / "t.tsv", text, categorical=["t"]))
    spread = features(read(tmp_path / "t.tsv", text.replace("\n", "\n\n"), categorical=["t"]))
    assert plain == spread == {"t": ["Lorem dolor", "b"], "x": [1.0, 2.0]}
