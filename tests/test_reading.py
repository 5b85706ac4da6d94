"""The keys of [data] about reading files."""

import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfl.errors import ConfigError
from vfl.party.config import load_party
from vfl.party.reading import merge, settings_line

PARTY = """
[party]
name = "bureau"
role = "host"
identity = "keys/bureau"

[data]
path = "drivers.csv"
id = "plate"
{}

[peers.insurer]
certificate = "peers/insurer.pem"
address = "127.0.0.1:7443"
"""


def party(folder: Path, lines: str) -> Any:
    path = folder / "bureau.toml"
    path.write_text(PARTY.format(lines))
    return load_party(path)


def test_what_is_set_and_what_is_not(tmp_path: Path) -> None:
    data = party(tmp_path, "").data
    assert (data.encoding, data.separator, data.decimal, data.thousands) == ("utf-8", None, ".", None)
    assert (data.missing, data.dates, data.sheet) == ((), {}, None)
    data = party(
        tmp_path,
        'encoding = "windows-1252"\nseparator = "\\t"\ndecimal = ","\nthousands = "."\nsheet = "Data"\n'
        "missing = ['.', '\\N']\n"
        'dates = {birth = {as = "age", at = 2027-01-01, order = "dmy", years_from = 1930}, '
        'start = {as = "days"}}',
    ).data
    assert (data.encoding, data.separator, data.decimal) == ("windows-1252", "\t", ",")
    assert (data.missing, data.sheet) == ((".", "\\N"), "Data")
    birth = data.dates["birth"]
    assert (birth.becomes, birth.order, birth.at, birth.years_from) == (
        "age",
        "dmy",
        date(2027, 1, 1),
        1930,
    )
    assert data.dates["start"].order == "ymd"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('decimal = ";"', '[data] decimal must be "." or ","'),
        ('thousands = "_"', "[data] thousands must be"),
        ('thousands = "."', "[data] decimal and thousands must be two different signs"),
        ('decimal = ","\nthousands = ","', "[data] decimal and thousands must be two different signs"),
        ('encoding = "utf-77"', '[data] encoding must be the name of an encoding such as "utf-8", "win'),
        ('encoding = "base64"', "[data] encoding must be the name of an encoding"),
        ('encoding = "idna"', "[data] encoding must be the name of an encoding"),
        ('encoding = ""', "[data] encoding must be the name of an encoding"),
        ('separator = ";;"', '[data] separator must be a single sign such as ";" or "^"'),
        ('separator = "é"', "[data] separator must be a single sign"),
        ('separator = "a"', "[data] separator must be a single sign"),
        ("separator = '\"'", "[data] separator must be a single sign"),
        ('missing = "."', "[data] missing must be a list of non-empty text in quotes"),
        ('missing = [""]', "[data] missing must be a list of non-empty text in quotes"),
        ('dates = {b = "days"}', "[data.dates] b must be a section"),
        ("dates = {b = {}}", "[data.dates.b] as is missing"),
        (
            'dates = {b = {as = "ages"}}',
            '[data.dates.b] as must be "days", "age", "year" or "month"',
        ),
        ('dates = {b = {as = "age"}}', '[data.dates] b as = "age" needs a day: at = 2027-01-01'),
        ('dates = {b = {as = "days", at = 2027-01-01}}', 'at goes with as = "age", not with "days"'),
        (
            'dates = {b = {as = "age", at = "2027-01-01"}}',
            "at must be a date such as 2027-12-31, without",
        ),
        ('dates = {b = {az = "days"}}', "unknown key 'az' in [data.dates.b]"),
        (
            'dates = {b = {as = "days", order = "ydm"}}',
            '[data.dates.b] order must be "ymd", "dmy" or "mdy"',
        ),
        (
            'dates = {plate = {as = "days"}}',
            "[data] an id column is never a feature: take it out of dates",
        ),
        (
            'dates = {b = {as = "days"}}\ncategorical = ["b"]',
            "dates has 'b', which is under categorical",
        ),
        (
            'dates = {b = {as = "days"}}\nignore = ["b"]',
            "dates has 'b', which is no feature by columns or",
        ),
        (
            'dates = {b = {as = "days"}}\ncolumns = ["c"]',
            "dates has 'b', which is no feature by columns or",
        ),
        ('decimals = ","', "unknown key 'decimals' in [data]: did you mean 'decimal'?"),
        ("sheet = 1", "[data] sheet must be non-empty text in quotes"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, lines: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        party(tmp_path, lines)
    assert said in str(raised.value)


VALUES = st.recursive(
    st.text(max_size=8) | st.integers(0, 9) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.text(min_size=1, max_size=6), VALUES)
def test_a_proposed_line_is_toml(key: str, value: Any) -> None:
    assert tomllib.loads(settings_line(key, value)) == {key: value}
    assert settings_line(key, value).isprintable()


def test_proposals_are_joined() -> None:
    assert merge(
        [
            {"decimal": ",", "categorical": ["a"], "dates": {"d": {"as": "days"}}},
            {"decimal": ".", "categorical": ["b", "a"], "dates": {"e": {"as": "year"}}},
            {"missing": ["."]},
        ]
    ) == {
        "decimal": ",",
        "categorical": ["a", "b"],
        "dates": {"d": {"as": "days"}, "e": {"as": "year"}},
        "missing": ["."],
    }
