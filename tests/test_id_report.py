"""The report on ids: each finding on the rows that have it, fast enough, and never an id."""

import asyncio
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.blocks import texts
from vfl.cli import main
from vfl.errors import Refused
from vfl.jobs.connect import Site
from vfl.jobs.offer import Offer
from vfl.jobs.own_table import table_of
from vfl.party.config import load_party
from vfl.party.id_cells import IdReading
from vfl.party.id_findings import IdFinding
from vfl.party.id_report import Counts, find_unmended, profile
from vfl.party.ids import compose, digest, normalise
from vfl.party.sections import DataSection
from vfl.party.store import Store

RNG = random.Random(3)
GOOD = [f"{RNG.randrange(10**9, 10**10)}" for _ in range(200)]  # no first digit is 0
PLATES = [f"AB-{i:03}-XY" for i in range(200)]
DATES = [f"19{i % 90 + 10}-0{i % 9 + 1}-1{i % 10}" for i in range(200)]
VIN = "1M8GDM9AXKP042788"  # 49 CFR 565: the check digit is the X


def found(values: list[str | None], *steps: str) -> dict[str, IdFinding]:
    (column,) = profile({"id": values}, compose([steps]), "f.csv").columns
    return {finding.kind: finding for finding in column.findings}


@pytest.mark.parametrize(
    ("kind", "values", "bad", "mending", "useless"),
    [
        ("scientific notation", GOOD, ["1.23457E+09", "1E+10", "1,2e9"], "", "alnum"),
        ("decimals", GOOD, ["1234567890.5", "12,25", "P17.0"], "", "digits"),
        ("merged", PLATES, ["12-3", "1-23", "A-BC", "AB-C"], "", "alnum"),
        ("spreadsheet dates", PLATES, ["4-Mar", "Mar-04", "12. Okt", "janv-22"], "", "alnum"),
        ("spreadsheet dates", PLATES, ["04.03.2024", "2024-03-04 00:00:00"], "", "alnum"),
        ("leading zeros", GOOD, ["12345678", "123456789"], "nozeros", "trim"),
        ("placeholder", GOOD, ["N/A", "unknown", "0000", "0000", "-", "XXX"], "", "upper"),
        ("end of a report", GOOD, ["Total", "Grand total: 90", "Seite 1 von 2", "SUMME"], "", "trim"),
        ("end of a report", PLATES, [" (60 rows affected)", "60 rows selected."], "", "trim"),
        ("frequent value", GOOD, ["7777777777"] * 12, "", "trim"),
        ("spreadsheet error", GOOD, ["#N/A", "#REF!", "#WERT!", "########"], "", "alnum"),
        ("broken text", PLATES, ["M\ufffd-1", "MÃ¼-2"], "", "nfkc"),
        ("look-alikes", PLATES, ["АB-123-XY", "\u0410\u0412-1", "ΑB-1"], "", "nfkc"),
        ("width", PLATES, ["ＡB-123-XY", "AB-①-XY"], "nfkc", "upper"),
        ("invisible", PLATES, ["AB\u200b-1-XY", "AB\u00ad-7"], "alnum", "trim"),
        ("beyond ASCII", PLATES, ["MÜ-1"], "plate", "upper"),
        ("blanks at an end", PLATES, [" AB-1", "AB-2\u00a0", "AB-3\t"], "trim", "upper"),
        ("blanks inside", PLATES, ["AB 1 XY", "A\u00a0B"], "alnum", "trim"),
        ("quotes", PLATES, ["'AB-1", '"AB-2"', '="AB-3"'], "alnum", "trim"),
        ("mixed case", PLATES, ["ab-123-xy", "Ab-124-XY"], "upper", "trim"),
        ("separators", GOOD, ["12-34567890", "1234567/890"], "digits", "trim"),
        ("date formats", DATES, ["5.1.2024", "2024/01/05", "5 Jan 2024"], "date", "trim"),
        ("date formats", DATES, ["31/12/2024"], "date:dmy", "date"),
        ("two-digit years", DATES, ["5.1.24"], "", "date"),
        ("date order", DATES, ["31/12/2024", "1-2-2024"], "date:dmy", "date:mdy"),
        ("date order", DATES, ["31/12/2024", "12/31/2024"], "", "date:dmy"),
        ("date order", DATES, ["1/2/2024"], "date:mdy", "date"),
        ("empty once normalised", GOOD, ["abc"], "", "digits"),
        ("empty once normalised", DATES, ["soon"], "", "date"),
        ("vin length", [VIN] * 9, ["WVW123", "1M8GDM9AXKP04278"], "", "vin"),
        ("vin letters", [VIN] * 9, ["IM8GDM9AXKPO42788"], "vin", "upper"),
        ("vin check digit", [VIN] * 9, ["1M8GDM9A1KP042788"], "", "vin"),
    ],
)
def test_findings(kind: str, values: list[str], bad: list[str], mending: str, useless: str) -> None:
    """Found on these rows and no others, also past empty cells; mended by the one step alone."""
    cells: list[str | None] = [None, "", *values[:3], *bad, *values[3:]]
    if kind != "vin letters":
        finding = found(cells, useless)[kind]
        assert (finding.rows, finding.first) == (len(bad), [7 + i for i in range(len(bad))][:5])
        assert finding.share == pytest.approx(len(bad) / (len(values) + len(bad)))
        assert not finding.mended
    if mending:
        assert found(cells, mending)[kind].mended
    clean = found(list(values), *(["vin"] if values[0] == VIN else []))
    assert set(clean) <= {"frequent value"}  # the VINs are all one


def test_advice_tells_the_order_of_dates_where_the_rows_do() -> None:
    for dates, advice in (
        (["31/12/2024", "1/2/2024"], "use date:dmy in normalise: the rows tell"),
        (["12-31-2024", "1/2/2024"], "use date:mdy in normalise: the rows tell"),
        (["1/2/2024"], "use date:dmy or date:mdy in normalise, whichever"),
        (["31/12/2024", "12/31/2024"], "some can only be day first and some month first"),
    ):
        assert found([*DATES, *dates])["date order"].advice.startswith(advice)


def test_running_numbers_have_lost_no_zeros_and_are_no_placeholders() -> None:
    assert found([str(i) for i in range(1, 2001)]) == {}
    codes = [f"{i * 977 % 100_000:05}" for i in range(1000)]
    lost = [str(int(code)) for code in codes]
    assert found(codes) == {}
    expected = sum(len(code) < 5 for code in lost)
    assert found(lost)["leading zeros"].rows == expected > 50


def test_numbers_longer_than_a_float_holds() -> None:
    long = [f"{i}{'9' * 5_000}" for i in range(1000, 1060)]
    assert found(long) == {}
    assert found([*long, "17"])["leading zeros"].rows == 1


def test_check_digits_say_nothing_where_most_are_wrong() -> None:
    european = [f"WVWZZZ1JZ3W38{i:04}" for i in range(50)]
    assert "vin check digit" not in found(european, "vin")


def test_whole_numbers_that_are_written_as_floats_are_mended() -> None:
    finding = found([*GOOD, "1234567890.0", "12,00", "1.7e1", None])["decimal"]
    assert (finding.rows, finding.first, finding.mended) == (3, [202, 203, 204], True)
    assert not {"decimal", "decimals"} & set(found([*GOOD, "-17", "1-7", "AB"]))


def test_counts_lengths_and_shapes() -> None:
    values = [*PLATES, "AB-001-XY", "ab 001 xy", " ", None, "É" * 60, *["x1"] * 9]
    (column,) = profile({"plate": values}, ("plate",), "f.csv").columns
    assert column.written == Counts(empty=2, distinct=203, repeated=11)
    assert column.normalised == Counts(empty=2, distinct=202, repeated=12)
    assert column.lengths == [(9, 202), (2, 9), (60, 1)]
    assert (column.shortest, column.longest) == (2, 60)
    assert column.shapes == [("AA-999-AA", 201)]  # nine rows of a shape are too few
    assert column.other_shapes == 11


def test_shapes_beyond_ascii() -> None:
    values = ["Ёж-\u0661\u00a0字\u200d!"] * 10
    (column,) = profile({"id": list(values)}, (), "f.csv").columns
    assert column.shapes == [("Aa-9_A?!", 10)]


def test_a_whole_id_is_empty_where_a_part_is_and_repeats_where_all_parts_do() -> None:
    columns = {
        "name": ["a", "A", "a", None, "b"],
        "born": ["1.1.2000", "2000-01-01", "x", "1.1.2000", ""],
    }
    report = profile(columns, compose([["upper"], ["date"]]), "f.csv")
    assert report.ids == Counts(empty=3, distinct=1, repeated=2)
    assert report.digest == digest(("upper", "|", "date"))
    assert not any(f.kind == "frequent value" for c in report.columns for f in c.findings)


@given(st.lists(st.tuples(st.text(" aA1\u0301é", max_size=3), st.text("01", max_size=2)), max_size=30))
@settings(max_examples=50)
def test_counts_are_those_of_the_alignment(rows: list[tuple[str, str]]) -> None:
    columns: list[list[str | None]] = [[a for a, _ in rows], [b for _, b in rows]]
    rule = compose([["plate"], ["trim"]])
    report = profile({"a": columns[0], "b": columns[1]}, rule, "f.csv")
    allow = IdReading(merging="allow")
    used = normalise(columns, rule, "first", empties="drop", reading=allow)
    assert (report.ids.empty, report.ids.distinct) == (used.empties, len(used.ids))


def test_no_values_at_all() -> None:
    for values in ([], [None, " "]):
        report = profile({"id": cast(Any, values)}, ("trim",), "f.csv")
        assert report.ids == Counts(len(values), 0, 0) and not report.columns[0].findings


# The command line and the host.

PARTY = """
[party]
name = "bureau"
role = "{role}"
identity = "keys/none"
listen = "127.0.0.1:0"

[data]
path = "drivers.csv"
id = ["plate_no", "born"]
normalise = {{born = ["date:dmy"], plate_no = ["plate"]}}
{label}

[peers.{peer}]
certificate = "peers/none.pem"
"""
BAD = ["", "1.23E+05", " qx-771-zz", "N/A", "ÄÖ-1-\u0410", "12.0", "QX-771-ZZ"]


def party_file(folder: Path, role: str = "host", **changed: str) -> Path:
    text = PARTY.format(
        role=role,
        label='label = "age"' if role == "guest" else "",
        peer="registry" if role == "guest" else "insurer",
    )
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "party.toml"
    path.write_text(text)
    born = [*DATES, "1/2/1990", "24/12/1977", *["1950-01-01"] * (len(BAD) - 2)]
    rows = [f"{p},{b},{i % 40}" for i, (p, b) in enumerate(zip([*PLATES, *BAD], born, strict=True))]
    (folder / "drivers.csv").write_text("\n".join(["plate_no,born,age", *rows]))
    return path


@pytest.mark.parametrize("role", ["guest", "host"])
def test_a_dry_run_needs_no_key_and_no_peer_and_shows_no_id(tmp_path: Path, role: str) -> None:
    path = party_file(tmp_path, role)
    shown = CliRunner().invoke(main, ["align", "--dry-run", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "AA-999-AA 97.6%" in shown.output and "9999-99-99" in shown.output
    assert "of which digits are lost" in shown.output and "nothing: normalise mends it" in shown.output
    printed = CliRunner().invoke(main, ["align", "--dry-run", "--json", str(path)])
    result = json.loads(printed.stdout)
    assert result["rule"] == "plate | date:dmy" and result["rows"] == 207
    assert result["ids"] == {"empty": 3, "distinct": 203, "repeated": 2}
    assert [column["name"] for column in result["columns"]] == ["plate_no", "born"]
    for text in (shown.output, printed.stdout):
        for value in {*PLATES, *DATES, *(bad for bad in BAD if bad not in ("", "N/A")), "qx-771-zz"}:
            assert value not in text


@pytest.mark.parametrize(
    ("ids", "rule", "remarked"),
    [
        ([str(n) for n in range(1, 3000)], "", True),
        ([f"{n:08}" for n in range(1, 3000)], "", True),
        ([f"{n:08}" for n in range(1, 3000)], 'normalise = ["digits", "nozeros"]', False),
        ([f"P{n:08}" for n in range(1, 3000)], "", False),
    ],
)
def test_a_dry_run_says_of_numbers_that_zeros_before_them_count(
    tmp_path: Path, ids: list[str], rule: str, remarked: bool
) -> None:
    (tmp_path / "t.csv").write_text("\n".join(["policy,age", *(f"{one},3" for one in ids)]))
    path = tmp_path / "registry.toml"
    path.write_text(
        '[party]\nname = "registry"\nrole = "host"\nidentity = "keys/registry"\nlisten = "127.0.0.1:1"\n'
        f'[data]\npath = "t.csv"\nid = "policy"\n{rule}\n'
        '[peers.insurer]\ncertificate = "insurer.pem"\n'
    )
    shown = CliRunner().invoke(main, ["align", "--dry-run", str(path)])
    assert shown.exit_code == 0, shown.output
    assert ("all parties add nozeros to normalise" in shown.output) == remarked


def test_the_doctor_names_what_the_rule_leaves(tmp_path: Path) -> None:
    path = party_file(tmp_path)
    output = CliRunner().invoke(main, ["doctor", str(path)]).output
    (line,) = [one for one in output.splitlines() if one.startswith("note  id column")]
    assert line.startswith(
        "note  id column 'plate_no', rows: 1 with a number of which digits are lost (4.5E+12); 1 with a "
        "placeholder in place of an id;"
    )
    assert line.endswith("(vfl align --dry-run says which and what to do)")
    assert "blanks" not in line and "1.23E" not in output
    mended = (tmp_path / "drivers.csv").read_text().splitlines()[: len(PLATES) + 1]
    (tmp_path / "drivers.csv").write_text("\n".join(mended))
    assert "note" not in CliRunner().invoke(main, ["doctor", str(path)]).output


def test_of_many_rows_stretches_all_over_the_table_are_looked_at(monkeypatch) -> None:
    monkeypatch.setattr(texts, "PIECE", 50)
    cells = [f"AB{i:04d}" if i % 10 else "1.2E+15" for i in range(5000)]
    data = DataSection(path=Path("t.csv"), id=("plate",))
    (whole,), (some,) = (find_unmended(data, [[cells]], most) for most in (5000, 1000))
    assert whole.startswith("id column 'plate', rows: 500 ")
    few = whole.replace(" 500 ", " 100 ")
    assert some == few.replace("rows: ", "of 1,000 rows that were looked at: ", 1)
    first = list(texts.stretches_of([str(i) for i in range(5000)], 1000))[::50]
    assert first == [str(number * 4950 // 19) for number in range(20)]


def test_a_host_refuses_a_guest_whose_rule_differs_by_a_parameter(tmp_path: Path) -> None:
    path = party_file(tmp_path)
    (tmp_path / "drivers.csv").write_text("plate_no,born,age\nAB-1,31/12/1990,3\nab2,1990-12-31,4\n")
    site = cast(Site, SimpleNamespace(party=load_party(path), store=Store(tmp_path)))

    def asked(rule: tuple[str, ...]) -> Sequence[bytes]:
        offer = Offer("align", bytes(32), ["bureau"], list(rule))
        return asyncio.run(table_of(site, offer))[1].keys[0].ids

    agreed = compose([["plate"], ["date:dmy"]])
    assert asked(agreed) == normalise([["A B 1", "AB2"], ["1990-12-31", "31.12.1990"]], agreed).ids
    with pytest.raises(Refused, match=r"by plate \| date:dmy, the guest by plate \| date:mdy: set norm"):
        asked(compose([["plate"], ["date:mdy"]]))
    with pytest.raises(Refused, match=r"the guest by plate \| date:dmy@2: their versions of vfl differ"):
        asked(("plate", "|", "date:dmy@2"))


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("{plate_no = ['plate']}", r"must have a list of steps for each id column: plate_no, born"),
        ("['phone:033']", r'must be a list of "nfkc", .*"phone:33" \(or another country code\)'),
        ("['date:ymd']", "must be a list of"),
        ("{plate_no = ['vin', 'vin'], born = []}", "must not name anything twice"),
        ("{plate_no = 'vin', born = []}", "must be a list of"),
    ],
)
def test_rules_that_a_party_file_cannot_have(tmp_path: Path, rule: str, said: str) -> None:
    path = party_file(tmp_path, **{'{born = ["date:dmy"], plate_no = ["plate"]}': rule})
    shown = CliRunner().invoke(main, ["align", "--dry-run", str(path)])
    assert shown.exit_code == 2
    assert re.search(r"\[data\] normalise " + said, shown.output)
