"""Tables by factors on the command line: a process for every party, real sockets and certificates."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from federation import WAIT, WIDE, Federation, ended, make_tables

from vfl.jobs.record import load_record
from vfl.party.store import Store

LEAST = 30
RULES = {**WIDE, "min_cell_rows": LEAST, "oneway": True, "oneway_pairs": True}


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Federation]:
    """An insurer with amounts and exposure, and two hosts: one that shows names, over the lattice
    engine, and one that allows a single column."""
    tables = make_tables(600)
    claims, rng = tables["insurer"]["claim"], np.random.default_rng(4)
    amounts = [f"{float(c) * a:.2f}" for c, a in zip(claims, rng.lognormal(6, 1, 600), strict=True)]
    years = [f"{y:.3f}" for y in rng.uniform(0.1, 1, 600)]
    tables["insurer"] = {**tables["insurer"], "count": amounts, "years": years}
    made = Federation(tmp_path_factory.mktemp("oneway"), keys, tables=tables)
    made.guest.settings["data"] |= {"exposure": "years", "ignore": ["count"]}
    for host in ("registry", "bureau"):
        made.parties[host].settings["glm"] = {"bins": 3}
    made.parties["registry"].settings["policy"] = RULES | {
        "encryptions": ["paillier", "lattice"],
        "show_names": True,
    }
    made.parties["bureau"].settings["policy"] = RULES | {"oneway": ["driver_age"]}
    with ended(made):
        made.serve()
        made.guest.align().ok()
        made.guest.train().ok()
        yield made


def oneway(made: Federation, *arguments: str) -> dict[str, Any]:
    found = made.guest.run("oneway", *arguments, *WAIT, "--json").ok().json
    # What the host allows the guest to see.
    levels = [str(line[by]) for line in found["table"] for by in found["by"]]
    made.guest.processes[-1].own += [part for level in levels for part in level.split(" or ")]
    return found


def pooled(made: Federation) -> pd.DataFrame:
    """All columns of the rows that all parties know."""
    frames = [pd.DataFrame(made.tables[name]) for name in ("insurer", "registry", "bureau")]
    for frame, id_column in zip(frames, ("plate", "registration", "plate_no"), strict=True):
        frame["id"] = frame[id_column].str.upper().str.replace(r"[^A-Z0-9]", "", regex=True)
    both = frames[0].merge(frames[1], on="id").merge(frames[2], on="id")
    return both.assign(
        actual=both["claim"].astype(float),
        exposure=both["years"].astype(float),
        brand=both["brand"].replace("", "(missing)"),
        area=both["area"].replace("", "(missing)"),
        driver_age=pd.to_numeric(both["driver_age"]),
    )


def held_against(table: list[dict[str, Any]], frame: pd.DataFrame, by: dict[str, str]) -> None:
    """Every cell is that of the frame's rows, exactly."""
    told = {tuple(line[head] for head in by): line for line in table[:-1]}
    groups = frame.groupby(list(by.values()))
    assert len(told) >= 2
    for levels, line in told.items():
        if line["rows"] is None:
            continue
        if any(
            level not in set(frame[column]) for level, column in zip(levels, by.values(), strict=True)
        ):
            continue  # several together
        rows = groups.get_group(levels)
        assert line["rows"] == len(rows)
        assert line["actual"] == rows["actual"].sum()
        assert line["exposure"] == pytest.approx(rows["exposure"].sum(), rel=1e-14)
    total = table[-1]
    assert (total["rows"], total["actual"]) == (len(frame), frame["actual"].sum())


@pytest.mark.parametrize("encryption", ["lattice", "paillier"])
def test_a_hosts_factor(parties: Federation, encryption: str) -> None:
    found = oneway(parties, "--by", "registry:brand", "--encryption", encryption)
    assert (found["encryption"], found["counts"], found["min_cell_rows"]) == (encryption, True, LEAST)
    held_against(found["table"], pooled(parties), {"registry:brand": "brand"})
    assert sum(line["rows"] for line in found["table"][:-1]) == found["table"][-1]["rows"]
    assert all(line["rate_low"] < line["rate"] < line["rate_high"] for line in found["table"])


def test_without_names_a_column_has_a_number(parties: Federation) -> None:
    found = oneway(parties, "--by", "bureau:1", "--out", "age.csv")
    frame = pooled(parties)
    assert found["encryption"] == "paillier"
    levels = [line["bureau:1"] for line in found["table"][:-1]]
    assert levels == [f"level {number}" for number in range(1, len(levels) + 1)]
    assert sum(line["actual"] for line in found["table"][:-1]) == frame["actual"].sum()
    read = pd.read_csv(parties.guest.folder / "age.csv")
    assert read["actual"].tolist() == [line["actual"] for line in found["table"]]
    refused = parties.guest.run("oneway", "--by", "bureau:driver_age", *WAIT)
    assert refused.failed(9, "no table is by bureau:driver_age: the policy allows bureau:1")
    refused = parties.guest.run("oneway", "--by", "bureau:2", *WAIT)
    assert refused.failed(9, "no table is by bureau:2: the policy allows bureau:1")


def test_factors_of_two_parties(parties: Federation) -> None:
    found = oneway(parties, "--by", "insurer:area", "--by", "registry:brand")
    held_against(found["table"], pooled(parties), {"insurer:area": "area", "registry:brand": "brand"})
    assert all(line["rows"] is None or line["rows"] >= LEAST for line in found["table"])


def test_two_factors_of_a_host(parties: Federation) -> None:
    found = oneway(parties, "--by", "registry:brand", "--by", "registry:power")
    held = [line for line in found["table"][:-1] if line["rows"] is not None]
    assert found["withheld"] == len(found["table"]) - 1 - len(held)
    assert all(line["rows"] >= LEAST for line in held)
    # The other way round the same cells are told: others would give those away that were withheld.
    other = oneway(parties, "--by", "registry:power", "--by", "registry:brand")
    names = found["by"]
    cells = [{(line[names[0]], line[names[1]]): line for line in one["table"]} for one in (found, other)]
    total = {key for key, line in cells[0].items() if line == found["table"][-1]}
    assert {key for key in cells[0] if key not in total} <= set(cells[1])
    for key in set(cells[0]) - total:
        assert cells[0][key] == cells[1][key]


def test_factors_of_two_hosts(parties: Federation) -> None:
    found = oneway(parties, "--by", "bureau:1", "--by", "registry:brand")
    frame = pooled(parties)
    told = [line for line in found["table"][:-1] if line["rows"] is not None]
    assert (found["encryption"], found["min_cell_rows"]) == ("paillier", LEAST)
    assert told and found["withheld"] == len(found["table"]) - 1 - len(told)
    assert all(line["rows"] >= LEAST for line in told)
    assert found["table"][-1]["rows"] == len(frame)
    # Levels of the bureau have no names: which drivers are in one follows from the sums of one factor.
    drivers = frame.dropna(subset="driver_age").sort_values("driver_age")
    years = np.append(0.0, np.cumsum(drivers["exposure"]))
    level_of = {}
    for line in oneway(parties, "--by", "bureau:1")["table"][:-1]:
        starts = np.arange(len(drivers) - line["rows"] + 1)
        sums = years[starts + line["rows"]] - years[starts]
        for start in starts[np.abs(sums - line["exposure"]) < 1e-7]:
            level_of[line["bureau:1"]] = drivers.iloc[start : start + line["rows"]]
    compared = 0
    for line in told:
        level, brand = level_of.get(line["bureau:1"]), line["registry:brand"]
        if level is None or brand not in set(frame["brand"]):
            continue
        rows = level[level["brand"] == brand]
        assert (line["rows"], line["actual"]) == (len(rows), rows["actual"].sum())
        assert line["exposure"] == pytest.approx(rows["exposure"].sum(), rel=1e-12)
        compared += 1
    assert compared > 2
    # Each host's policy is asked.
    serving, bureau = parties.serving["bureau"], parties.parties["bureau"]
    rules = bureau.settings["policy"]
    serving.stop()
    bureau.settings["policy"] = rules | {"oneway_pairs": False}
    serving = parties.serve("bureau").serving["bureau"]
    refused = parties.guest.run("oneway", "--by", "bureau:1", "--by", "registry:brand", *WAIT)
    assert refused.failed(9, "a table with another host's factor breaks rule oneway_pairs = false")
    serving.until("job ended")
    serving.stop()
    bureau.settings["policy"] = rules
    parties.serve("bureau")
    refused = parties.guest.run("oneway", "--by", "registry:brand", "--by", "bureau:2", *WAIT)
    assert refused.failed(9, "no table is by bureau:2: the policy allows bureau:1")
    refused = parties.guest.run("oneway", "--by", "bureau:1", "--by", "registry:brand", "--share", *WAIT)
    assert refused.failed(2, "--share is for a table by the factors of a host alone")


def test_factors_of_the_guest_need_no_host(parties: Federation) -> None:
    found = oneway(parties, "--by", "insurer:area")
    assert found["bytes_sent"] == {} and found["encryption"] is None
    held_against(found["table"], pooled(parties), {"insurer:area": "area"})


def test_what_a_model_expects_is_of_rows_held_out(parties: Federation) -> None:
    found = oneway(parties, "--by", "registry:brand", "--model", "claims")
    _, evaluation = load_record(Store(parties.guest.store), found["model"])
    assert evaluation is not None
    total = found["table"][-1]
    assert total["rows"] == len(evaluation.rows)
    assert total["expected"] == pytest.approx(evaluation.predictions["federation"].sum(), rel=1e-9)
    assert total["actual"] == evaluation.label.sum()
    assert sum(line["expected"] for line in found["table"][:-1]) == pytest.approx(total["expected"])
    for line in found["table"]:
        ratio = line["actual"] / line["expected"]
        assert line["actual_expected"] == pytest.approx(ratio)
        assert line["actual_expected_low"] < ratio < line["actual_expected_high"]


def test_reports_have_the_tables_that_were_told_and_shared(parties: Federation) -> None:
    told = oneway(parties, "--by", "registry:brand", "--model", "claims", "--share")
    oneway(parties, "--by", "bureau:1", "--model", "claims")
    parties.guest.run("report", "--model", "claims", "--out", "report").ok()
    page = (parties.guest.folder / "report" / "report.html").read_text()
    assert "By partners&#39; factors" in page
    sheet = pd.read_csv(parties.guest.folder / "report" / "tables.csv")
    assert set(sheet["table"]) == {"registry:brand", "bureau:1"}
    of_brand = sheet[sheet["table"] == "registry:brand"]
    assert of_brand["expected"].tolist() == [line["expected"] for line in told["table"]]
    registry, bureau = parties.parties["registry"], parties.parties["bureau"]
    registry.run("report", "--model", "claims", "--out", "report").ok()
    theirs = pd.read_csv(registry.folder / "report" / "tables.csv")
    assert theirs["actual_expected"].tolist() == of_brand["actual_expected"].tolist()
    bureau.run("report", "--model", "claims", "--out", "report").ok()
    assert not (bureau.folder / "report" / "tables.csv").exists()  # nothing was shared


def test_amounts_have_intervals_by_their_squares(parties: Federation) -> None:
    data = parties.guest.settings["data"]
    before = dict(data)
    data |= {"label": "count", "ignore": ["claim"]}
    try:
        found = oneway(parties, "--by", "registry:brand")
    finally:
        parties.guest.settings["data"] = before
        parties.guest.write()
    frame = pooled(parties)
    frame["actual"] = frame["count"].astype(float)
    assert not found["counts"]
    for line in found["table"][:-1]:
        if line["registry:brand"] in set(frame["brand"]):
            cents = [
                round(100 * one) for one in frame[frame["brand"] == line["registry:brand"]]["actual"]
            ]
            assert line["actual"] == sum(cents) / 100


def test_one_line_says_what_cannot_be(parties: Federation) -> None:
    for arguments, code, said in (
        (["--by", "area"], 2, "--by area is no factor: write PARTY:COLUMN"),
        (["--by", "burau:1"], 2, "did you mean bureau?"),
        (["--by", "insurer:aria"], 2, "has no feature 'aria' for --by: did you mean area?"),
        (
            ["--by", "bureau:1", "--by", "registry:brand", "--encryption", "lattice"],
            2,
            "a table by factors of two hosts is under paillier",
        ),
        (["--by", "insurer:area"] * 2, 2, "stands there twice"),
        (["--by", "insurer:area", "--model", "none"], 5, "none"),
        (["--by", "insurer:area", "--share"], 2, "--share is for a table by the factors of a host"),
        (["--by", "insurer:area", "--out", "t.txt"], 2, "--out must end in .csv"),
    ):
        assert parties.guest.run("oneway", *arguments, *WAIT).failed(code, said)


def test_the_ledger_has_the_purpose(parties: Federation) -> None:
    oneway(parties, "--by", "registry:brand", "--purpose", "rating review")
    lines = [
        json.loads(line)
        for path in sorted((parties.guest.store / "ledger").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert any("rating review" in json.dumps(line) for line in lines)
