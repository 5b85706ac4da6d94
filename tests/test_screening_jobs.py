"""Screening on the command line: a process for every party, real sockets and certificates."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from commands import command
from federation import JOB, WAIT, WIDE, Federation, ended, make_tables, toml

LEAST = 20
RULES = {**WIDE, "min_cell_rows": LEAST, "oneway": True, "encryptions": ["paillier", "lattice"]}


@pytest.fixture(scope="module")
def parties(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Federation]:
    """An insurer, a host that shows names and gives tables away, and one that tells figures of all its
    columns and the table of one; a column of the first goes with one of the insurer."""
    tables = make_tables(600)
    density = dict(zip(tables["insurer"]["plate"], tables["insurer"]["density"], strict=True))
    rng = np.random.default_rng(3)
    tables["registry"]["traffic"] = [
        repr(float(density[f"{r[:4]}-{r[5:]}".upper()] or 0) + 0.2 * float(rng.normal()))
        for r in tables["registry"]["registration"]
    ]
    tables["bureau"]["noise"] = [
        repr(float(x)) for x in rng.normal(size=len(tables["bureau"]["plate_no"]))
    ]
    made = Federation(tmp_path_factory.mktemp("screen"), keys, tables=tables)
    made.parties["registry"].settings["glm"] = {"bins": 4}
    made.parties["registry"].settings["policy"] = RULES | {"inference": True, "show_names": True}
    made.parties["bureau"].settings["policy"] = RULES | {
        "oneway": ["driver_age"],
        "screen": True,
        "inference": True,
    }
    with ended(made):
        made.serve()
        made.guest.align().ok()
        yield made


def screen(made: Federation, settings: Mapping[str, Any], *arguments: str) -> Any:
    (made.guest.folder / "screen.toml").write_text(toml({**JOB, "screen": dict(settings)}))
    return made.guest.run("screen", "screen.toml", *arguments, *WAIT, "--json")


def kept(made: Federation, name: str, pattern: str) -> Path:
    """The newest file of a host's screenings."""
    folder = made.parties[name].store / "screens"
    found = [path for path in folder.glob(pattern) if "-woe" in pattern or "-woe" not in path.name]
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def test_each_party_knows_what_is_its_own(parties: Federation) -> None:
    settings = {"min_iv": 0.05, "max_vif": 5.0}
    done = screen(parties, settings, "--out", "woe.csv", "--force").ok()
    found = done.json
    assert found["encryption"] == {"registry": "lattice", "bureau": "lattice"}
    assert found["min_cell_rows"] == {"registry": LEAST, "bureau": LEAST}
    own = {line["column"]: line for line in found["own"]}
    theirs = {(line["party"], line["column"]): line for line in found["hosts"]}
    # Of the bureau's columns only the one whose table it gives away, by number.
    assert set(theirs) == {
        ("registry", "power"),
        ("registry", "brand"),
        ("registry", "traffic"),
        ("bureau", "1"),
    }
    assert set(own) == {"density", "area"} and not any("vif" in line for line in theirs.values())
    woe = pd.read_csv(parties.guest.folder / "woe.csv")
    parties.guest.processes[-1].own += [str(level) for level in woe["level"]]
    rows = found["rows"]
    assert rows < len(parties.tables["insurer"]["plate"]) * 0.8  # of those that train
    for (party, column), lines in woe.groupby(["party", "column"]):
        assert lines["rows"].sum() == rows and lines["exposure"].sum() == rows
        # The information value by the formula, of what is told by level.
        ones, zeros = lines["actual"], lines["exposure"] - lines["actual"]
        a, b = ones / ones.sum(), zeros / zeros.sum()
        line = own[column] if party == "insurer" else theirs[party, column]
        if ones.all() and zeros.all():
            assert line["information_value"] == pytest.approx(((a - b) * np.log(a / b)).sum())
            np.testing.assert_allclose(lines["woe"], np.log(a / b), rtol=1e-9)
        if party != "insurer":
            assert lines["rows"].min() >= LEAST
    # What goes together between two parties is inflated at both: the host is advised to leave it out.
    assert own["density"]["vif"] > 5 > own["area"]["vif"] >= 1
    assert own["density"]["advice"] is None
    for line in own.values():
        assert 1 <= line["vif_least"] <= line["vif"]
        assert line["vif_most"] == "infinite" or line["vif_most"] > line["vif"]
    host = pd.read_csv(kept(parties, "registry", "*.csv")).set_index("column")
    assert host.loc["traffic", "vif"] > 5 > host.loc["power", "vif"] > 0.999
    assert host.loc["traffic", "advice"] == "inflated"
    for column in ("power", "brand", "traffic"):
        told = theirs["registry", column]["information_value"]
        assert host.loc[column, "information_value"] == pytest.approx(told)
    lines = tomllib.loads(kept(parties, "registry", "*.toml").read_text())
    advised = set(host.index[host["advice"].notna()])
    assert set(lines["ignore"]) == advised >= {"traffic"}
    # No party file was touched, and no table of the label's is at a host.
    assert "ignore" not in parties.parties["registry"].file.read_text()
    assert not list((parties.parties["registry"].store / "screens").glob("*-woe.csv"))
    assert "traffic" not in json.dumps(found["party_file"])


def test_a_host_that_is_told_tells_figures_of_all_its_columns(parties: Federation) -> None:
    settings = {"tell_hosts": True, "vif": False, "encryption": "paillier", "min_iv": 0.1}
    found = screen(parties, settings).ok().json
    assert set(found["encryption"].values()) == {"paillier"}
    bureau = {line["column"]: line for line in found["hosts"] if line["party"] == "bureau"}
    assert set(bureau) == {"1", "2", "3"}
    woe = pd.read_csv(kept(parties, "bureau", "*-woe.csv"))
    assert set(woe["column"]) == {"driver_age", "occupation", "noise"}
    of_noise = woe[woe["column"] == "noise"]
    ones, zeros = of_noise["actual"], of_noise["exposure"] - of_noise["actual"]
    a, b = ones / ones.sum(), zeros / zeros.sum()
    value = ((a - b) * np.log(a / b)).sum()
    assert bureau["3"]["information_value"] == pytest.approx(value, rel=1e-3)
    figures = pd.read_csv(kept(parties, "bureau", "*.csv")).set_index("column")
    assert figures["vif"].isna().all()
    weak = figures.index[figures["information_value"] < 0.1]
    lines = tomllib.loads(kept(parties, "bureau", "*.toml").read_text())
    assert set(lines.get("ignore", [])) == set(weak)


def test_one_line_at_both_sides_says_what_a_policy_forbids(parties: Federation) -> None:
    registry, serving = parties.parties["registry"], parties.serving["registry"]
    before = dict(registry.settings["policy"])
    for rules, settings, said in (
        ({"oneway": False}, {}, "screening columns breaks rule screen = false"),
        ({"oneway": False, "screen": True}, {}, "screening columns without tell_hosts = true"),
        ({"inference": False}, {}, "vif = true in [screen] breaks rule inference = false"),
        ({"encryptions": ["paillier"]}, {}, "vif = true in [screen] breaks rule encryptions"),
        ({"max_leverage": 0.1}, {}, "max_leverage = 0.2 breaks rule max_leverage = 0.1"),
        ({"told_columns": 0}, {}, "breaks rule told_columns = 0 of [policy]: ask with fewer columns"),
        ({"purposes": ["pricing*"]}, {}, 'purpose = "a test" breaks rule purposes'),
        ({"max_sums_a_row": 0.001}, {}, "would break rule max_sums_a_row = 0.001"),
        ({"min_cell_rows": 5000}, {}, "are fewer than 5,000 rows"),
    ):
        serving.stop()
        registry.settings["policy"] = before | rules
        parties.serve("registry")
        serving = parties.serving["registry"]
        refused = screen(parties, settings)
        assert refused.failed(9, said), refused.err
        serving.until("job ended")
        assert any(said in line for line in serving.endings(0)), serving.err
    serving.stop()
    registry.settings["policy"] = before
    parties.serve("registry")


def test_columns_by_which_rows_stand_out_are_left_out_and_named_to_their_owner(
    parties: Federation,
) -> None:
    done = screen(parties, {"max_leverage": 0.01}).ok()
    own = {line["column"]: line for line in done.json["own"]}
    said = "makes single rows stand out, with a leverage of 0.0"
    assert own["density"]["vif"] is None and said in own["density"]["note"]
    assert own["area"]["note"] is None
    parties.serving["registry"].until("had 3 columns screened")
    assert f"note: no variance inflation: column 'power' {said}" in parties.serving["registry"].err
    assert "power" not in done.err


def test_jobs_that_nothing_is_screened_for(parties: Federation) -> None:
    quantile = {
        "job": {**JOB["job"], "objective": "quantile"},
        "secureboost": {**JOB["secureboost"], "quantile": 0.9},
    }
    (parties.guest.folder / "quantile.toml").write_text(toml(quantile))
    done = parties.guest.run("screen", "quantile.toml", *WAIT)
    assert done.failed(2, "name another objective than quantile")
    classes = {
        "job": {**JOB["job"], "objective": "multiclass"},
        "secureboost": {**JOB["secureboost"], "classes": 3},
    }
    (parties.guest.folder / "classes.toml").write_text(toml(classes))
    done = parties.guest.run("screen", "classes.toml", *WAIT)
    assert done.failed(2, "name another objective than multiclass")
    done = screen(parties, {"min_iv": -1})
    assert done.failed(2, "min_iv")
    assert screen(parties, {}, "--out", "woe.txt").failed(2, "--out must end in .csv")
    assert screen(parties, {}, "--alignment", "none").failed(5, "none")


def test_correlations_are_told_to_who_may_know_and_counted(parties: Federation) -> None:
    registry, bureau = (parties.parties[name] for name in ("registry", "bureau"))
    before = {one.name: dict(one.settings["policy"]) for one in (registry, bureau)}

    def allow(**rules: object) -> None:
        for one in (registry, bureau):
            parties.serving[one.name].stop()
            one.settings["policy"] = before[one.name] | rules
            parties.serve(one.name)

    settings = {"correlations": True, "vif": False}
    refused = screen(parties, settings)
    assert refused.failed(9, "correlations = true in [screen] breaks rule told_correlations = 0")
    allow(told_correlations=25, min_correlated_rows=100, correlations_between_hosts=True)
    done = screen(parties, settings, "--page", "columns").ok()
    found = done.json["correlations"]
    pairs = {(one["party"], one["other_party"]) for one in found}
    assert pairs == {("insurer", "registry"), ("insurer", "bureau"), ("registry", "bureau")}
    by = {(one["column"], one["other_column"]): one for one in found if one["party"] == "insurer"}
    one = by["density", "traffic"]
    assert one["correlation"] == round(one["correlation"], 2) and 0 < one["within"] < 0.5
    # The noise is within that 95 times in a hundred, and within twice as much always.
    assert one["correlation"] > 0.9 - 2 * one["within"]
    # The bureau shows no names; hosts know their own columns, and the guest's by number.
    assert {two for (_, two), one in by.items() if one["other_party"] == "bureau"} <= {"1", "2", "3"}
    own = pd.read_csv(kept(parties, "registry", "*-correlations.csv"))
    assert set(own["column"]) <= {"power", "brand", "traffic"}
    mine = own[(own["other_party"] == "insurer") & (own["column"] == "traffic")]
    assert one["correlation"] in mine["correlation"].tolist() and set(mine["other_column"]) <= {1, 2}
    folder = parties.guest.folder / "columns"
    assert {path.name for path in folder.iterdir()} == {"screen.html", "screen.csv", "correlations.csv"}
    table = pd.read_csv(folder / "correlations.csv")
    assert len(table) == len(found) and set(table["correlation"]) <= set(np.arange(-100, 101) / 100)
    # A further one would be too many, whatever the job.
    refused = screen(parties, settings)
    assert refused.failed(9, "rule told_correlations = 25"), refused.err
    allow()


def test_a_read_only_party_file_is_refused_before_hosts_are_asked(parties: Federation) -> None:
    file = parties.guest.file
    (file.parent / "screen.toml").write_text(toml({**JOB, "screen": {"vif": False, "min_iv": 5.0}}))
    before = file.read_bytes()
    file.chmod(0o444)
    refused = command("screen", file.name, "screen.toml", "--write", folder=file.parent)
    refused.failed(3, "read-only (mode 444); run chmod u+w")
    assert "waiting" not in refused.err and file.read_bytes() == before


def test_advice_is_taken_over_by_its_owner_alone(parties: Federation) -> None:
    guest, registry = parties.guest, parties.parties["registry"]
    files = [guest.file, registry.file]
    texts = [file.read_text() for file in files]
    done = screen(parties, {"vif": False, "min_iv": 5.0}, "--write").ok()
    assert tomllib.loads(guest.file.read_text())["data"]["ignore"]
    assert "now has ignore" in done.err and registry.file.read_text() == texts[1]
    advice = max((registry.store / "screens").glob("*.toml"), key=lambda path: path.stat().st_mtime_ns)
    registry.run("screen", str(advice), "--write").ok()
    changed = tomllib.loads(registry.file.read_text())
    assert changed["data"].pop("ignore") == tomllib.loads(advice.read_text())["ignore"]
    assert changed == tomllib.loads(texts[1])
    wrong = registry.run("screen", registry.file.name, "--write")
    assert wrong.failed(3, "no file of lines of a screening")
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
