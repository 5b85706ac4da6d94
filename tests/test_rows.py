"""Rows that errors and reports about ids name are those that a person finds in the file."""

import gc
import gzip
import json
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from tables import Written, refused, write

from vfl.cli import main
from vfl.errors import DataError
from vfl.jobs.check_result import CheckResult
from vfl.jobs.own_table import ids_of
from vfl.jobs.table_check import check_table
from vfl.party.config import load_party
from vfl.party.id_report import profile_ids
from vfl.party.reading import settings_line
from vfl.party.rows import below_header, rows_in_words
from vfl.party.sections import DataSection
from vfl.party.sources.opening import open_source
from vfl.party.table import read_table

openpyxl = pytest.importorskip("openpyxl")

IDS = ["A-1", "B-2", "C-3", "D-4", "E-5"]


def blank_lines(ids: Sequence[str]) -> str:
    return "\nid,x\n\n" + "".join(f"{one},{i}\n\n\n" for i, one in enumerate(ids))


def breaks_in_quotes(ids: Sequence[str]) -> str:
    lines = [f'{one},"{i}\nand\r\nmore"\n' for i, one in enumerate(ids)]
    return 'id,"x\ny"\n' + "".join(lines)


def both(ids: Sequence[str]) -> bytes:
    text = "sep=;\r\nid;x\r\n\r\n" + "".join(f'{one};"{i}\r\n;"\r\n\r\n' for i, one in enumerate(ids))
    return gzip.compress(text.encode("utf-16"))


def workbook(ids: Sequence[str]) -> Callable[[Path], None]:
    """Names in row 3, rows from row 5 on, each with a blank one behind it."""

    def save(path: Path) -> None:
        book = openpyxl.Workbook()
        sheet = book.active
        sheet["A3"], sheet["B3"] = "id", "x"
        for i, one in enumerate(ids):
            sheet.cell(5 + 2 * i, 1, one)
            sheet.cell(5 + 2 * i, 2, i)
        book.save(path)

    return save


def parquet(ids: Sequence[str]) -> Callable[[Path], None]:
    return lambda path: pd.DataFrame({"id": ids, "x": range(len(ids))}).to_parquet(path)


FILES: dict[str, tuple[str, Callable[[Sequence[str]], Written], dict[str, Any], list[int]]] = {
    "blank lines": ("t.csv", blank_lines, {}, [4, 7, 10, 13, 16]),
    "breaks in quotes": ("t.csv", breaks_in_quotes, {}, [2, 3, 4, 5, 6]),
    "both": ("t.csv.gz", both, {"encoding": "utf-16"}, [3, 5, 7, 9, 11]),
    "Excel": ("t.xlsx", workbook, {}, [5, 7, 9, 11, 13]),
    "Parquet": ("t.parquet", parquet, {}, [2, 3, 4, 5, 6]),
}


@pytest.fixture(params=FILES)
def file(request: Any, tmp_path: Path) -> Callable[..., tuple[DataSection, list[int]]]:
    """A function that writes a table of five ids; its [data] and the numbers of its rows."""
    name, content, keys, numbers = FILES[request.param]

    def made(ids: Sequence[str], **more: Any) -> tuple[DataSection, list[int]]:
        path = write(tmp_path / name, content(ids))
        return DataSection.model_validate({"path": path, "id": "id", **keys, **more}), numbers

    return made


def refuse(data: DataSection, said: str) -> None:
    with refused(said):
        ids_of(read_table(data, role="guest", need_label=False, expect=()), data)


@pytest.mark.parametrize(
    ("ids", "normalise", "bad", "said"),
    [
        (["A", "", "C", "", "E"], None, (1, 3), "2 rows have no id once normalised"),
        (["A", "B", "C", "D", "NULL"], None, (4,), "1 row has no id once normalised"),
        (["A", "B", "A", "B", "a"], None, (2, 3, 4), "3 rows repeat the id of an earlier row"),
        (["A", "1-23", "C", "12-3", "E"], None, (1, 3), "makes different ids equal"),
        (["1", "2", "3", "4.5E+12", "5"], None, (3,), "a number as id of which digits are lost"),
        (["1", "2.5", "3", "4", "5.5"], None, (1, 4), "an id that is a number with decimals"),
        (["2024-12-31", "1.1.2024", "x", "y", "z"], ["date"], (2, 3, 4), "no date that can be read"),
    ],
)
def test_rows_of_ids_that_cannot_be_used(file, ids, normalise, bad, said):
    data, numbers = file(ids, **({} if normalise is None else {"normalise": normalise}))
    rows = ", ".join(str(numbers[place]) for place in bad)
    with pytest.raises(DataError) as caught:
        ids_of(read_table(data, role="guest", need_label=False, expect=()), data)
    assert said in str(caught.value)
    assert f"({'row' if len(bad) == 1 else 'rows'} {rows})" in str(caught.value)


def test_rows_without_any_of_several_keys(file):
    data, numbers = file(["A", "", "C", "NULL", "E"])
    other = {"id": open_source(data.path, data).names[1], "normalise": ["date"]}
    data = DataSection.model_validate({**data.model_dump(exclude_unset=True), "fallback": [other]})
    refuse(data, f"2 rows have no id by any key once normalised (rows {numbers[1]}, {numbers[3]});")


def test_many_rows_are_cut_short(tmp_path):
    ids = ["A"] * 9
    path = write(tmp_path / "t.csv", blank_lines(ids))
    data = DataSection.model_validate({"path": path, "id": "id"})
    refuse(data, "8 rows repeat the id of an earlier row (rows 7, 10, 13, 16, 19 and 3 more)")
    assert rows_in_words([4], below_header) == "row 6"


def test_the_report_on_ids_names_the_same_rows(file):
    data, numbers = file(["AB-12", "N/A", "ab-13", " AB-14", "unknown"])
    (column,) = profile_ids(data).columns
    rows = {finding.kind: finding.first for finding in column.findings}
    assert rows["placeholder"] == [numbers[1], numbers[4]]
    assert rows["mixed case"] == [numbers[2], numbers[4]]
    assert rows["blanks at an end"] == [numbers[3]]


def test_dry_run_and_doctor(tmp_path, file):
    data, numbers = file(["A-1", "", "", "N/A", "A-1"])
    other = open_source(data.path, data).names[1]
    path = tmp_path / "party.toml"
    path.write_text(
        '[party]\nname = "me"\nrole = "host"\nidentity = "keys/me"\n'
        '[peers.insurer]\ncertificate = "peers/insurer.pem"\naddress = "127.0.0.1:1"\n'
        f'[data]\npath = "{data.path.name}"\nid = "id"\nencoding = "{data.encoding}"\n'
        + settings_line("categorical", [other])
    )
    run = CliRunner().invoke(main, ["align", "--dry-run", "--json", str(path)])
    (column,) = json.loads(run.stdout)["columns"]
    assert [f["first"] for f in column["findings"] if f["kind"] == "placeholder"] == [[numbers[3]]]
    found: list[CheckResult] = []
    assert not check_table(load_party(path), found.append)
    said = [finding.text for finding in found if finding.level == "FAIL"]
    empty = ", ".join(str(numbers[place]) for place in (1, 2, 3))
    assert any(f"3 rows have no id once normalised (rows {empty})" in text for text in said), said
    assert any(f"(row {numbers[4]})" in text for text in said), said


def test_what_numbers_rows_holds_no_columns(file):
    data, numbers = file(IDS)
    source = open_source(data.path, data)
    source.read(["id"])
    row_numbers, gone = source.row_numbers, weakref.ref(source)
    del source
    gc.collect()
    assert gone() is None
    assert row_numbers([0, 2, 4]) == [numbers[0], numbers[2], numbers[4]]


@pytest.mark.parametrize("change", [lambda path: path.write_text("id,x\nA,1\n"), Path.unlink])
def test_a_file_that_has_changed_meanwhile(tmp_path, change):
    path = write(tmp_path / "t.csv", blank_lines(["A", "B", "A"]))
    data = DataSection.model_validate({"path": path, "id": "id"})
    table = read_table(data, role="guest", need_label=False, expect=())
    change(path)
    with refused("t.csv: the file has changed while it was read: start again"):
        ids_of(table, data)
