"""Text as people may read it: what is escaped, how much of it is shown, and the order of levels."""

import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.text import counted, level_order, nearest_file, nearest_name, shown, shown_in


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("größe [kw] :car: {x}", "größe [kw] :car: {x}"),
        ("日本 नाम நிகழ் Ελλάδα 🚗", "日本 नाम நிகழ் Ελλάδα 🚗"),
        ("e\u0301", "e\u0301"),
        ("\u2764\ufe0f", "\u2764\ufe0f"),  # a symbol in colour
        ("a\tb\nc\r", "a\\tb\\nc\\r"),
        ("\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),  # the same in one byte; a line's end
        ("a\u202eb\u2066c\u200f", "a\\u202eb\\u2066c\\u200f"),
        ("pow\u200ber\ufeff\u00ad", "pow\\u200ber\\ufeff\\xad"),
        ("power\u3164\u115f\ufe0f", "power\\u3164\\u115f\\ufe0f"),
        ("\u0301power", "\\u0301power"),  # a mark without a letter would sit on what is before
        ("\x1b\u0301", "\\x1b\\u0301"),
        ("x\udcff.csv\U000e0041", "x\\udcff.csv\\U000e0041"),
        ("\u2028\u00a0", "\\u2028\\xa0"),
    ],
)
def test_what_cannot_be_seen_is_escaped(text: str, expected: str) -> None:
    assert shown(text) == expected


@given(st.text())
def test_shown_text_is_one_printable_line(text: str) -> None:
    found = shown(text)
    assert found.isprintable() and len(found.splitlines()) <= 1
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in found)
    assert shown(found) == found
    assert len(shown(text, 20)) <= 20


def test_marks_do_not_pile_up() -> None:
    assert shown("e" + "\u0301" * 100).count("\u0301") == 6
    assert shown("x" * 300, 200) == "x" * 199 + "…"


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "größe €"),
        ("latin-1", "größe \\u20ac"),
        ("cp1252", "größe €"),
        ("ascii", "gr\\xf6\\xdfe \\u20ac"),
        ("gbk", "gr\\xf6\\xdfe \\u20ac"),
    ],
)
def test_what_an_encoding_lacks_is_escaped(encoding: str, expected: str) -> None:
    assert shown_in("größe €", encoding) == (
        expected if encoding != "gbk" else "größe €".encode("gbk", "backslashreplace").decode("gbk")
    )


def test_counts() -> None:
    assert [counted(n, "row") for n in (0, 1, 2, 1234)] == ["0 rows", "1 row", "2 rows", "1,234 rows"]
    assert [counted(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]


@pytest.mark.parametrize(
    "levels",
    [
        ["<= 31", "31 to 38", "38 to 50", "> 50"],
        ["<18", "18-25", "26-35", "65+"],
        ["-5", "-1.5", "0", "2", "9", "10", "1e3"],
        ["<= -5", "-5 to 0", "0 to 5", "> 5"],
        ["<= 1e-05", "1e-05 to 0.5", "0.5 to 1e+06", "> 1e+06"],
        ["(0, 10]", "(10, 20]", "(20, 30]"],
        ["0 to 1,000", "1,000 to 2,000", "> 2,000"],
        ["<5 km", "5-10 km", "10-20 km", ">20 km"],
        ["up to 5", "5 to 10", "10 to 20", "over 20"],
        ["1 year", "2 years", "10 years"],
        ["1,25", "1,5"],
        ["Type 1", "type 2", "type 10"],
        ["A2", "A12", "B1"],
        ["Q1 2023", "Q1 2024", "Q2 2023"],
        ["2023-02-01", "2023-12-31", "2024-01-02"],
        ["alpha", "Émile", "Eva", "zebra"],
        ["9", "10", "unknown"],
        ["x9", "x" + "9" * 5000, "x1" + "0" * 5000],
    ],
)
def test_the_order_of_levels(levels: list[str]) -> None:
    mixed = list(levels)
    random.Random(1).shuffle(mixed)
    assert sorted(mixed, key=level_order) == levels


@given(st.lists(st.text(max_size=80)))
def test_any_levels_have_an_order(levels: list[str]) -> None:
    ordered = sorted(levels, key=level_order)
    random.Random(1).shuffle(levels)
    assert sorted(levels, key=level_order) == ordered


def test_hostile_levels_are_ordered_at_once() -> None:
    hostile = [
        "1" + " " * 50_000,
        "9" * 50_000,
        "1," * 25_000,
        "< " * 25_000,
        "1-" * 25_000,
        "\u0301" * 50_000,
    ]
    assert len(sorted(hostile, key=level_order)) == len(hostile)


@pytest.mark.parametrize(
    ("name", "there", "near"),
    [
        ("insurr.toml", ["insurer.toml", "job.toml"], "insurer.toml"),
        ("nosuch.toml", ["insurer.toml"], None),  # the ending is all that they share
        ("nwe.csv", ["new.csv", "scores.csv"], "new.csv"),
        ("policies.xlsx", ["policies.csv", "vehicles.xlsx"], "policies.csv"),
        ("policies.csv", ["Policies.CSV.gz", "policies.parquet"], "Policies.CSV.gz"),
        ("x.csv", [], None),
    ],
)
def test_a_file_is_meant_by_its_name_and_not_by_its_ending(name, there, near):
    assert nearest_file(name, there) == near


def test_of_names_as_near_the_one_of_the_same_letters_is_meant() -> None:
    for known in (("table", "label"), ("label", "table")):
        assert nearest_name("lable", known) == "label"
    assert nearest_name("lable", ("table",)) == "table"
