"""CSV that people open: no cell computes, numbers stay numbers, programs read back what was written."""

import csv
import io
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.party.spreadsheet import escaped, escaped_column, named, unescaped, write_rows

FORMULAS = [
    *("=1+1", "+1+1", "-2+3", "@SUM(A1:A9)", "=cmd|'/C calc'!A0", '=HYPERLINK("http://x")', "-A1", "+x"),
    *(" =1+1", "\t=1", "\r=1", "\n=1", "\u00a0=1", "\u3000=1", "\u200b=1", "\ufeff=1", "\x00=1"),
    *("＝1+1", "＋1", "－1", "＠x", "\u2212x", "﹣1", "﹢1", "﹦1", "﹫x"),
    *("a;=1+1", "a; =1+1", "a\t=1+1", "a,=1+1", "a|@x", "a\n-x", 'a;"=1', "\tx", "\rx", "\nx"),
    *("-1.5 to 2", "-", "+", "=", "--1", "-1-", "'=1", "''=1"),
]
PLAIN = [
    "",
    "abc",
    "AB-12",
    "a=b",
    "1-2",
    "-1.5",
    "+3",
    "-1e-5",
    ".5",
    "'",
    "'a",
    "a'=b",
    "[kw]",
    "#N/A",
]


def computes(cell: str) -> bool:
    """Whether a spreadsheet, which takes off blanks and parts cells at its own separator, would compute
    something of a cell: anything but a number."""
    for part in re.split(r"[;|,\t\n\r\x0b\x0c\x85\u2028\u2029]", cell):
        bare = re.sub(r'^[\s"\x00\u200b-\u200f\u2060\ufeff]+', "", part)
        number = re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", part)
        if not number and re.match("[=+@\uff1d\uff0b\uff0d\uff20\u2212\ufe62\ufe63\ufe66\ufe6b-]", bare):
            return True
    return False


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_computes(text: str) -> None:
    for write in (escaped, named):
        assert not computes(write(text)), write(text)
    assert unescaped(escaped(text)) == text
    assert escaped(text).replace("'", "") == text.replace("'", "")


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays(text: str) -> None:
    assert named(text) == text


ALPHABET = "'=+-@ \t\n\r;|,a1.\"\u3000\uff1d\u2212\u200b"


@settings(max_examples=500)
@given(st.text(ALPHABET) | st.text())
def test_what_is_escaped_is_read_back_exactly(text: str) -> None:
    assert unescaped(escaped(text)) == text
    assert not computes(named(text))
    assert named(text).isprintable() or not any(c < " " for c in named(text))


@settings(max_examples=300)
@given(st.lists(st.text(ALPHABET) | st.none()))
def test_columns_are_escaped_as_cells_are(texts: list[str | None]) -> None:
    column, changed = escaped_column(pa.array(texts, pa.string()))
    found = column.to_pylist()
    assert [None if cell is None else unescaped(cell) for cell in found] == [
        None if text is None else unescaped(text) if cell == text else text
        for text, cell in zip(texts, found, strict=True)
    ]
    assert changed == sum(text != cell for text, cell in zip(texts, found, strict=True))
    for text, cell in zip(texts, found, strict=True):
        if text is not None and cell == text:
            assert escaped(text) == text or re.fullmatch(r"[-+][0-9][0-9 ./()-]*", text)


@pytest.mark.parametrize(
    "number", ["-12", "+4917012345", "+49 170 123-45", "+49 (0)170/12345", "-12.5", "007", "1e5"]
)
def test_numbers_and_telephone_numbers_are_ids_as_they_are(number: str) -> None:
    column, changed = escaped_column(pa.array([number, "x"]))
    assert (column.to_pylist(), changed) == ([number, "x"], 0)


def test_rows() -> None:
    file = io.BytesIO()
    head = ("name", "=level", "gain")
    rows = [
        ("x [kw]", "=1+1", -1.5),
        ("a,b", -3, 1e-300),
        ("größe\n\x1b[2J\u202e", None, np.float64(0.1)),
    ]
    assert write_rows(file, [head, *rows]) == 4
    text = file.getvalue().decode()
    assert text.splitlines() == [
        "name,'=level,gain",
        "x [kw],'=1+1,-1.5",
        '"a,b",-3,1e-300',
        "größe\\n\\x1b[2J\\u202e,,0.1",
    ]
    read = pd.read_csv(io.StringIO(text))
    assert read["gain"].tolist() == [-1.5, 1e-300, 0.1]  # numbers, bit for bit
    assert [unescaped(name) for name in read.columns] == list(head)
    # With another country's separator nothing begins as a formula, either.
    for separator in ",;\t|":
        for row in csv.reader(io.StringIO(text), delimiter=separator):
            assert not any(computes(cell) for cell in row), row


def test_a_name_that_is_no_unicode_is_written() -> None:
    file = io.BytesIO()
    write_rows(file, [("\udcff", "x\u2028y")])
    assert file.getvalue() == b"\\udcff,x\\u2028y\n"
