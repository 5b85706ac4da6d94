"""What `vfl doctor` says of a table: all of its faults, each once, with the lines that mend it."""

import gzip
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from click.testing import CliRunner

from vfl.cli import main
from vfl.crypto import okvs
from vfl.errors import DataError
from vfl.jobs import vole_check
from vfl.jobs.check_result import CheckResult
from vfl.jobs.table_check import check_table
from vfl.party.config import Party, load_party
from vfl.party.reading import settings_line
from vfl.party.table import read_table

ROLE = {
    "guest": '[peers.bureau]\ncertificate = "peers/bureau.pem"\n',
    "host": '[peers.insurer]\ncertificate = "peers/insurer.pem"\naddress = "127.0.0.1:1"\n',
}


def party(folder: Path, role: str, lines: str) -> Party:
    path = folder / "party.toml"
    listen = 'listen = "127.0.0.1:0"\n' if role == "guest" else ""
    section = f'[party]\nname = "me"\nrole = "{role}"\nidentity = "keys/me"\n{listen}'
    path.write_text(f"{section}\n[data]\n{lines}\n\n{ROLE[role]}")
    return load_party(path)


def check(
    folder: Path, content: bytes | str, lines: str = "", role: str = "guest", name: str = "t.csv"
) -> tuple[bool, list[CheckResult]]:
    """Whether the table is in order, and what is said of it, by a party with these lines in [data]."""
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    label = 'label = "schaden"\n' if role == "guest" and "label" not in lines else ""
    found: list[CheckResult] = []
    healthy = check_table(
        party(folder, role, f'path = "{name}"\nid = "id"\n{label}{lines}'), found.append
    )
    assert all(finding.text.isprintable() for finding in found)
    assert len({finding.text for finding in found}) == len(found)
    return healthy, found


def texts(found: list[CheckResult], level: str, what: str = "table") -> list[str]:
    return [f.text.removeprefix(f"{what}: ") for f in found if (f.level, f.what) == (level, what)]


def proposed(found: list[CheckResult]) -> str:
    return "\n".join(f.advice for f in found if f.what == "[data]" and f.advice)


CITIES = ["Köln", "Ulm", "Gießen"]
GERMAN = "id;prämie;summe;stadt;geburt;kinder;schaden\r\n" + "".join(
    f"A{i:03};{i % 7},{i % 10};1.{i:03},50;{CITIES[i % 3]};"
    f"{1 + i % 28:02}.{1 + i % 12:02}.{1960 + i % 40};{'k.A.' if i % 9 == 0 else i % 5};{i % 2}\r\n"
    for i in range(120)
)
MENDED = """encoding = "latin-1"
decimal = ","
thousands = "."
missing = ["k.A."]
dates = {geburt = {as = "days", order = "dmy"}}
categorical = ["stadt"]"""


def test_all_faults_of_a_german_export_and_the_lines_that_mend_them(tmp_path: Path) -> None:
    healthy, found = check(tmp_path, GERMAN.encode("latin-1"))
    assert not healthy
    faults = texts(found, "FAIL")
    rows = "rows 2, 3, 4, 5, 6 (and 115 more rows)"
    assert len(faults) == 6
    assert faults[0].startswith("t.csv: line 1 is not UTF-8")
    assert f"column 'prämie' has text that is no number in {rows}" in faults[1]
    assert f"column 'summe' has text that is no number in {rows}" in faults[2]
    assert f"column 'stadt' has text that is no number in {rows}: if it holds names (3 diff" in faults[3]
    assert f"column 'geburt' has text that is no number in {rows}: it seems to hold dates" in faults[4]
    assert (
        "column 'kinder' has text that is no number in rows 2, 11, 20, 29, 38 (and 9 more" in faults[5]
    )
    assert proposed(found) == MENDED
    # Each fault has its own line, too, and with all of them nothing is left to say.
    advice = {f.text.split("'")[1]: f.advice for f in found if f.level == "FAIL" and "'" in f.text}
    assert advice == {
        "prämie": 'decimal = ","',
        "summe": 'decimal = ","\nthousands = "."',
        "stadt": 'categorical = ["stadt"]',
        "geburt": 'dates = {geburt = {as = "days", order = "dmy"}}',
        "kinder": 'missing = ["k.A."]',
    }
    healthy, found = check(tmp_path, GERMAN.encode("latin-1"), MENDED)
    assert healthy
    assert [finding.level for finding in found] == ["ok"]
    assert found[0].text == (
        "table: t.csv, 120 rows, 120 distinct ids, 4 numeric and 1 categorical columns, "
        "label mean 0.5000"
    )


def test_a_job_stops_at_the_first_fault_and_says_how_many_there_are(tmp_path: Path) -> None:
    check(tmp_path, GERMAN)
    data = load_party(tmp_path / "party.toml").data
    with pytest.raises(DataError) as raised:
        read_table(data, role="guest", need_label=True)
    text = str(raised.value)
    assert text.startswith(
        "t.csv: column 'prämie' has text that is no number in row 2 (and 119 more rows)"
    )
    assert text.endswith(" (and 4 more faults: `vfl doctor` lists them)")


@pytest.mark.parametrize(
    ("content", "name", "lines"),
    [
        (GERMAN.encode("cp1252").replace(b"Ulm", b"\x80lm"), "t.csv", 'encoding = "windows-1252"'),
        (gzip.compress(GERMAN.encode("cp850")), "t.csv.gz", 'encoding = "cp850"'),
        (GERMAN.encode("utf-16"), "t.csv", 'encoding = "utf-16"'),
        (GERMAN.encode("utf-16-be"), "t.txt", 'encoding = "utf-16-be"'),
        (GERMAN.encode("utf-8-sig"), "t.csv", ""),
        (GERMAN.replace(";", "^").encode(), "t.csv", 'separator = "^"'),
        (GERMAN.replace("\r\n", "\r").encode("latin-1"), "t.csv", 'encoding = "latin-1"'),
    ],
)
def test_what_is_proposed_reads_the_table(tmp_path: Path, content: bytes, name: str, lines: str) -> None:
    healthy, found = check(tmp_path, content, name=name)
    made = proposed(found)
    assert not healthy and lines in made
    assert tomllib.loads(made)
    healthy, found = check(tmp_path, content, made, name=name)
    assert healthy
    data = load_party(tmp_path / "party.toml").data
    table = read_table(data, role="guest", need_label=True)
    np.testing.assert_array_equal(table.features["summe"], [float(f"1{i:03}.5") for i in range(120)])


def test_what_a_party_file_has_is_kept(tmp_path: Path) -> None:
    text = "id;a;b;c;schaden\n" + "".join(f"A{i};u{i % 3};v{i % 2};.;{i % 2}\n" for i in range(40))
    lines = 'categorical = ["a"]\nmissing = ["?"]'
    _, found = check(tmp_path, text, lines)
    assert proposed(found) == (
        'missing = ["?", "."]\ncategorical = ["a", "b"]\nignore = ["c"]'  # c has no value then
    )
    # Where the features are listed, one that is no use is taken out of the list.
    _, found = check(tmp_path, text, f'{lines}\ncolumns = ["a", "b", "c"]')
    assert proposed(found) == ('missing = ["?", "."]\ncategorical = ["a", "b"]\ncolumns = ["a", "b"]')


def test_what_a_misspelt_name_means_is_no_feature(tmp_path: Path) -> None:
    text = "ids,area,b,schaden\n" + "".join(f"A{i},north,{i},{i % 2}\n" for i in range(20))
    _, found = check(tmp_path, text, 'categorical = ["aera"]')
    assert [fault.removeprefix("t.csv: ") for fault in texts(found, "FAIL")] == [
        "no column 'id' (named by id): did you mean 'ids'?",
        "no column 'aera' (named by categorical): did you mean 'area'?",
    ]
    assert proposed(found) == ""


def test_missing_columns_bad_cells_label_and_ids_in_one_run(tmp_path: Path) -> None:
    text = "id,a,b,schaden\n" + "".join(f"A{i},{i} %,{i},{i % 2}\n" for i in range(20))
    text += "A3,1,x77,\n,2,3,1\n"
    lines = 'categorical = ["area"]\nignore = ["zz"]\nmonotone = {bb = "increasing"}'
    healthy, found = check(tmp_path, text, lines)
    assert not healthy
    faults = [fault.removeprefix("t.csv: ") for fault in texts(found, "FAIL")]
    assert [fault[:46] for fault in faults] == [
        "no column 'area' (named by categorical): the c",
        "no column 'bb' (named by monotone): did you me",
        "no column 'zz' (named by ignore): the columns ",
        "column 'a' has text that is no number in rows ",
        "column 'b' has text that is no number in row 2",
        "label 'schaden' is missing in 1 row (row 22)",
        "1 row has no id once normalised (row 23), wher",
        "1 row repeats the id of an earlier row (row 22",
    ]
    assert not any("77" in finding.text for finding in found)


def test_a_label(tmp_path: Path) -> None:
    def of(label: str) -> tuple[bool, list[CheckResult]]:
        rows = "".join(f"A{i};{i};{cell}\n" for i, cell in enumerate(label.split()))
        return check(tmp_path, f"id;x;schaden\n{rows}")

    healthy, found = of("1 1 1")
    assert not healthy
    assert "label 'schaden' has the same value in every row: no model can be trained on" in found[0].text
    healthy, found = of("1 2 2 1")
    assert healthy and "has two values that are not 0 and 1" in texts(found, "note")[0]
    healthy, found = of("0 1 " * 150 + "3 0.5")
    assert healthy
    (note,) = (text for text in texts(found, "note") if "label" in text)
    assert "must be 0 or 1 but is something else in rows 302, 303: correct it or choose another" in note
    assert note.endswith("(with binary and logistic)")
    healthy, found = of("0 1 " * 150 + "2 3")
    (note,) = (text for text in texts(found, "note") if "label" in text)
    assert healthy and "'schaden' is a whole number above 1 in 2 rows: counts are for poisson" in note
    healthy, found = of("0 1 ja")
    assert not healthy and "label 'schaden' has text that is no number in row 4" in found[0].text
    healthy, found = of("0 2.5 1 7")
    assert healthy and [finding.level for finding in found] == ["ok"]
    healthy, found = check(tmp_path, "id;x\nA;1\nB;2\n", "label = 'x'\nignore = []")
    assert healthy
    healthy, found = check(tmp_path, "id;x\nA;1\nB;2\n", 'label = "y"')
    assert not healthy and "no column 'y' (named by label)" in found[0].text


def test_what_may_be_meant_otherwise_is_noted(tmp_path: Path) -> None:
    text = "id;summe;tag;schaden\n" + "".join(
        f"A{i};{i * 37 if i < 28 else f'{i * 37 / 1000:.3f}'};{20240101 + i % 28};{i % 2}\n"
        for i in range(60)
    )
    healthy, found = check(tmp_path, text)
    assert healthy
    summe, tag = (text for text in texts(found, "note") if "set d" in text)
    assert summe.endswith(
        "column 'summe' has a point before three digits or none: if 1.234 is 1234, set decimal = "
        '"," and thousands = "." in [data]'
    )
    assert (
        "column 'tag' has dates such as 20241231 as numbers: set dates = {tag = {as = \"days\"}}" in tag
    )


def test_columns_of_a_policy(tmp_path: Path) -> None:
    lines = "ignore = []\n[policy]\ncolumns = ['x', 'y']"
    healthy, found = check(tmp_path, "id;x\nA;1\nB;2\n", lines, role="host")
    assert not healthy
    assert texts(found, "FAIL") == ["[policy] columns has 'y', which is no feature of t.csv"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("<html>", "the file is a web page (HTML)"),
        (b"PK\x03\x04junk", "is a damaged zip archive or Excel workbook"),
        ("", "the file is empty"),
    ],
)
def test_a_file_that_is_no_table_is_said_once(tmp_path: Path, content: bytes | str, said: str) -> None:
    healthy, found = check(tmp_path, content)
    assert not healthy
    (finding,) = found
    assert finding.level == "FAIL" and said in finding.text


def test_the_command_prints_a_line_for_each(tmp_path: Path) -> None:
    check(tmp_path, GERMAN.encode("latin-1"))
    done = CliRunner().invoke(main, ["doctor", str(tmp_path / "party.toml"), "--wait", "0"])
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert [line[:6] for line in lines] == ["FAIL  "] * 6 + ["note  "] * 7 + ["ok    "] + ["FAIL  "] * 2
    assert lines[6] == "note  [data]: with these lines the table can be read:"
    assert lines[7] == 'note  [data]: encoding = "latin-1"'
    assert all(line.startswith("FAIL  keys: ") for line in lines[-2:])
    assert len(set(lines)) == len(lines)


def test_proposals_survive_odd_names(tmp_path: Path) -> None:
    name: Any = 'a "b" \\ c.d'
    quoted = '"' + name.replace('"', '""') + '"'
    text = f"id;{quoted};schaden\n" + "".join(f"A{i};v{i % 3};{i % 2}\n" for i in range(30))
    _, found = check(tmp_path, text)
    assert proposed(found) == settings_line("categorical", [name])
    healthy, _ = check(tmp_path, text, proposed(found))
    assert healthy


TABLE = "id,schaden,x\n" + "".join(f"P{i},{i % 2},{i % 7}.5\n" for i in range(40))


@pytest.mark.parametrize("role", ["guest", "host"])
def test_what_vole_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    asks = '[align]\nengine = "vole"' if role == "guest" else '[policy]\nengines = ["ecdh", "vole"]'
    healthy, found = check(tmp_path, TABLE, role=role)
    assert healthy and not [one for one in found if one.what == "vole"]
    monkeypatch.setattr(vole_check, "_free_memory", lambda: 10**12)
    healthy, found = check(tmp_path, TABLE, asks, role=role)
    memory, disk, kernels, *policy = texts(found, "ok", "vole")
    assert memory == "an alignment of 40 rows takes some 0.6 GB of memory"
    assert disk.startswith("it takes some 0 MB of the disk of ") and disk.endswith(" while it runs")
    assert kernels == "kernels are compiled and loaded"
    notes = texts(found, "note", "vole")
    if role == "guest":
        assert policy == [] and notes == [
            "it needs every host to name vole under engines in its [policy]: ask them"
        ]
    else:
        assert policy == ["engines in [policy] allows it to guests that ask for it"] and notes == []
    assert healthy

    monkeypatch.setattr(vole_check, "_free_memory", lambda: 10**8)
    monkeypatch.setattr(vole_check.shutil, "disk_usage", lambda path: SimpleNamespace(free=5 * 10**6))
    monkeypatch.setattr(vole_check, "ON_DISK", 10**6)
    monkeypatch.setattr(okvs, "decode", mock.Mock(side_effect=ImportError("no numba")))
    healthy, found = check(tmp_path, TABLE, asks, role=role)
    assert not healthy
    memory, *_ = texts(found, "note", "vole")
    assert memory.endswith("and 0.1 GB are free: end other programs, or take a larger machine")
    disk, kernels = texts(found, "FAIL", "vole")
    assert disk.endswith("which has 5 MB left: free some, or move store in [party]")
    assert kernels == "kernels cannot be compiled (ImportError: no numba): install numba anew"
