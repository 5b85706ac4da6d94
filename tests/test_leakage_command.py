"""vfl leakage: what a job could tell whom, before it, with the files of the guest or of a host."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import command

from vfl.jobs.alignments import Alignment, load_alignment, save_alignment
from vfl.jobs.connect import store_of
from vfl.jobs.sums_given import SumsGiven
from vfl.leakage.estimate import estimate
from vfl.learn.params import BoostParams
from vfl.party.config import load_party
from vfl.party.identity import create
from vfl.party.store import Store

TREES = {"model": "secureboost", "objective": "binary"}
LINEAR = {"model": "glm", "family": "logistic"}


def write(path: Path, sections: dict[str, Any]) -> Path:
    """A TOML file."""
    lines = []
    for name, keys in sections.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path.write_text("\n".join(lines))
    return path


def job(folder: Path, label: dict[str, str] = TREES, **settings: object) -> str:
    section = {"name": "claims", "purpose": "a test", **label}
    return str(write(folder / "job.toml", {"job": section, label["model"]: settings}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a guest, two hosts and a coordinator."""
    draw = np.random.default_rng(0)
    rows = [f"id{i},{draw.normal():.4f},{'ab'[i % 2]}" for i in range(120)]
    for name in ("insurer", "registry", "bureau"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["id,power,colour", *rows]))
    peers = {
        f"peers.{name}": {"address": "127.0.0.1:7443", "certificate": f"{name}.pem"}
        for name in ("insurer", "registry", "bureau")
    }
    for name, role in (("insurer", "guest"), ("registry", "host"), ("bureau", "host")):
        others = {key: peer for key, peer in peers.items() if key != f"peers.{name}"}
        data: dict[str, object] = {"path": f"{name}.csv", "id": "id", "categorical": ["colour"]}
        if role == "guest":
            data["label"] = "claim"
        party = {"name": name, "role": role, "identity": name, "listen": "127.0.0.1:7444"}
        sections = {"party": party, "data": data, **others}
        if name == "registry":
            sections["policy"] = {"guests": ["insurer"]}
        write(tmp_path / f"{name}.toml", sections)
    trustee = {"name": "trustee", "role": "coordinator", "identity": "t", "listen": "127.0.0.1:7445"}
    write(tmp_path / "trustee.toml", {"party": trustee, **peers})
    return tmp_path


def seen(folder: Path, party: str, *more: str) -> dict[str, Any]:
    """What the command finds, by name; each name once here."""
    done = command("leakage", "job.toml", f"{party}.toml", "--json", *more, folder=folder).ok().json
    by = {}
    for one in done["disclosures"]:
        by.setdefault(one["name"], one)
    return done | {"by": by}


def align(folder: Path, party: str, rows: int, hosts: tuple[str, ...]) -> None:
    guest = "f0"
    prints = {"insurer": guest} | {name: f"f{i}" for i, name in enumerate(hosts, 1)}
    alignment = Alignment("a-1", guest, prints, ("strip",), "", np.arange(rows), "2026-11-01T00:00:00Z")
    save_alignment(Store(folder / f".vfl-{party}"), alignment)


def test_the_guest_sees_figures_chance_and_what_lowers_them(folder: Path) -> None:
    job(folder)
    done = command("leakage", "job.toml", "insurer.toml", "--rows", "2000", folder=folder).ok()
    title, head, *lines = done.out.splitlines()
    assert title == "claims over 2,000 rows: what each party could learn"
    assert head.split("\t") == ["who", "about", "could learn", "how much", "guessing", "from", "less by"]
    cells = [line.split("\t") for line in lines]
    sums = next(line for line in cells if "beyond what the model tells" in line[2])
    assert sums[:2] == ["insurer", "registry, bureau"]
    assert sums[3:5] == ["100 % of what guessing misses", "0 %"]
    assert sums[5].startswith("curve: ") and "0.5 equations a row" in sums[5]
    assert "max_sums_a_row = 0.03 refuses the job" in sums[5]
    assert sums[6] == '[secureboost] sums = "hidden" with a coordinator'
    labels = next(line for line in cells if line[3].startswith("AUC"))
    assert labels[:2] == ["registry, bureau", "insurer"]
    assert labels[4] == "0.50"
    # Words that are not everybody's are explained below, and those alone that are there.
    for term in ("of what guessing misses", "AUC", "bin", "candidate", "joint tree", "equation"):
        assert any(line.startswith(f"{term}: ") for line in lines)
    job(folder, LINEAR)
    linear = command("leakage", "job.toml", "insurer.toml", "--rows", "2000", folder=folder).ok().out
    assert "of what guessing misses: " in linear and "joint tree" not in linear
    assert done.err == ""


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("label", [TREES, LINEAR], ids=["trees", "linear"])
@pytest.mark.parametrize("party", ["insurer", "registry"])
def test_every_kind_of_job_from_both_sides(
    folder: Path, party: str, label: dict[str, str], hidden: bool, encryption: str
) -> None:
    settings: dict[str, object] = {"encryption": encryption}
    if hidden:
        settings |= {"sums" if label is TREES else "scores": "hidden", "coordinator": "trustee"}
    if hidden and label is LINEAR and encryption == "lattice":
        return  # no such job
    job(folder, label, **settings)
    found = seen(folder, party, "--rows", "1000")
    by = found["by"]
    assert (found["party"], found["rows"], found["simulated"]) == (party, 1000, None)
    assert by["common_rows"]["amount"] == 1000
    if label is TREES:
        assert (by["table_from_sums"]["success"] == 0) == hidden
    else:
        assert ("columns_from_steps" in by) == (not hidden)
    assert ("coordinator" in by) == hidden
    about = {one["about"] for one in found["disclosures"] if one["who"] == "insurer"}
    assert any("registry" in name for name in about)
    assert any("bureau" in name for name in about)


def test_a_host_counts_its_own_columns_and_keeps_its_own_budget(folder: Path) -> None:
    text = (folder / "registry.toml").read_text()
    job(folder, trees=20)
    own = seen(folder, "registry", "--rows", "5000")["disclosures"]
    mine = next(one for one in own if (one["name"], one["about"]) == ("table_from_model", "registry"))
    other = next(one for one in own if (one["name"], one["about"]) == ("table_from_model", "bureau"))
    assert "of 155 candidates, taken for 5 columns of 32 bins" in other["how"]
    assert "taken for" not in mine["how"] and mine["success"] > other["success"]
    (folder / "registry.toml").write_text(text.replace("[policy]", "[policy]\nmax_sums_a_row = 0.07"))
    sums = next(
        one
        for one in seen(folder, "registry", "--rows", "4000")["disclosures"]
        if (one["name"], one["about"]) == ("table_from_sums", "registry")
    )
    assert "registry's max_sums_a_row = 0.07 refuses the job" in sums["how"]
    assert estimate(4000, BoostParams(trees=20)).equations_a_row == 0.08
    job(folder, LINEAR)
    gradient = seen(folder, "registry", "--rows", "60")["by"]["labels_from_gradients"]
    assert gradient["amount"] == pytest.approx(2 / 60)  # a number, and of two levels all but the base


@pytest.mark.parametrize("party", ["insurer", "registry"])
def test_rows_and_parties_are_those_of_the_latest_alignment(folder: Path, party: str) -> None:
    job(folder, trees=5)
    hosts = ("registry",)
    path = folder / f"{party}.toml"
    path.write_text(path.read_text().replace("[data]", f'store = ".vfl-{party}"\n[data]', 1))
    align(folder, party, 700, hosts)
    found = seen(folder, party)
    assert (found["alignment"], found["rows"]) == ("a-1", 700)
    assert not any("bureau" in one["who"] + one["about"] for one in found["disclosures"])
    said = command("leakage", "job.toml", f"{party}.toml", folder=folder).ok().out
    assert said.startswith("claims over 700 rows of alignment a-1:")
    assert seen(folder, party, "--rows", "90")["alignment"] is None
    sums = found["by"]["table_from_sums"]["how"]
    assert ("without those of earlier jobs" in sums) == (party == "insurer")
    if party == "registry":  # what earlier jobs on the alignment gave counts
        store = Store(folder / f".vfl-{party}")
        given = SumsGiven(store, load_alignment(store, "a-1"))
        sums = given.known(given.file.read())
        given.file.write(sums.with_told(given.places(sums), np.full(len(sums.rows), 0.25)))
        sums = seen(folder, party)["by"]["table_from_sums"]
        assert "after 0.25 of earlier jobs" in sums["how"]
        assert sums["amount"] == pytest.approx(
            0.25 + estimate(700, BoostParams(trees=5), known=560).equations_a_row
        )


@pytest.mark.parametrize(
    "label", [TREES, LINEAR, {"model": "secureboost", "objective": "gamma"}], ids=str
)
def test_attacks_on_simulated_tables_take_the_place_of_curves(
    folder: Path, label: dict[str, str]
) -> None:
    settings = {"trees": 6, "depth": 2, "max_bins": 6} if label["model"] == "secureboost" else {}
    job(folder, label, **settings)
    more = ("--rows", "150", "--simulate")
    found = seen(folder, "registry", *more)
    assert found["simulated"]["rows"] == found["simulated"]["of_rows"] == 150
    measured = {one["name"] for one in found["disclosures"] if one["basis"] == "measured"}
    if label is LINEAR:
        assert measured == {"columns_from_scores", "labels_from_gradients"}
        return
    assert measured >= {"table_from_sums", "table_from_model", "scored_rows", "labels_from_nodes"}
    assert not [one for one in found["disclosures"] if one["basis"] == "curve"]
    sums = found["by"]["table_from_sums"]
    # In the unit of curves, with sides beside it; who has sums has the splits, too.
    assert (sums["measure"], sums["guessing"]) == ("of what guessing misses", 0)
    assert 0 < sums["success"] <= 1
    assert "attacks on simulated tables of 150 rows: " in sums["how"] and "sides" in sums["how"]
    raw = [one for one in found["simulated"]["successes"] if one["attack"] == "reconstruction"]
    assert all(0.5 < one["guessing"] < one["success"] <= 1 for one in raw) and raw
    by_host: dict[str, dict[str, float]] = {}
    for one in found["disclosures"]:
        if one["name"] in ("table_from_sums", "table_from_model"):
            by_host.setdefault(one["about"], {})[one["name"]] = one["success"]
    assert all(one["table_from_sums"] >= one["table_from_model"] for one in by_host.values())
    notes = found["simulated"]["notes"]
    assert len(notes) == len(set(notes))
    # The same draw gives the same figures.
    again = seen(folder, "registry", *more)
    assert again["disclosures"] == found["disclosures"]


def test_simulated_tables_have_a_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfl.jobs.leakage._MOST_COLUMNS", 1)
    job(folder, trees=2, depth=2)
    found = seen(folder, "registry", "--rows", "60", "--simulate")
    assert (
        "1 column of each host, not 2: of more columns a model tells less" in found["simulated"]["notes"]
    )


def test_small_nodes_are_attacked_where_rules_tell_their_sums(folder: Path) -> None:
    job(folder, trees=2, depth=2)
    path = folder / "registry.toml"
    wide = 'min_summed_rows = 1\nmax_sums_a_row = "unlimited"'
    for rules, attacked in (("", False), (wide, True)):
        path.write_text(path.read_text().replace("[policy]", f"[policy]\n{rules}"))
        found = seen(folder, "registry", "--rows", "60", "--simulate")["simulated"]["successes"]
        assert attacked == any(one["attack"] == "sums of small nodes" for one in found)


def test_an_alignment_under_a_passphrase_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job(folder, trees=5)
    path = folder / "insurer.toml"
    path.write_text(path.read_text().replace("[data]", 'store = "kept"\n[data]', 1))
    create(folder / "insurer", "insurer", b"some words")
    monkeypatch.setenv("VFL_PASSPHRASE", "some words")
    prints = {"insurer": "f0", "registry": "f1"}
    alignment = Alignment("a-1", "f0", prints, ("strip",), "", np.arange(70), "2026-11-01T00:00:00Z")
    save_alignment(store_of(load_party(path)), alignment)
    assert b'"rows"' not in (folder / "kept" / "alignments" / "a-1.json").read_bytes()
    assert seen(folder, "insurer")["rows"] == 70
    monkeypatch.delenv("VFL_PASSPHRASE")
    command("leakage", "job.toml", "insurer.toml", folder=folder).failed(4, "has a passphrase")
    assert seen(folder, "insurer", "--rows", "60")["rows"] == 60  # for which nothing is read


def test_a_job_that_would_be_refused_or_train_nothing_is_said_to_be(folder: Path) -> None:
    job(folder)
    assert seen(folder, "insurer", "--rows", "1000")["notes"] == []
    few = seen(folder, "insurer", "--rows", "30")["notes"]
    assert few == [
        "a host with the default rules refuses the job: an alignment of 30 rows breaks rule "
        "min_intersection = 1000 of [policy] (the default): bring more rows that all parties have, or "
        "the host lowers the rule",
        "no tree has a split: of 30 rows none leaves min_child_rows = 20 on both sides",
    ]
    shown = command("leakage", "job.toml", "insurer.toml", "--rows", "30", folder=folder).ok().out
    assert all(f"note: {note}" in shown for note in few)
    (more,) = seen(folder, "registry", "--rows", "100000000")["notes"]
    assert more.startswith("registry.csv has 120 rows: so many are not in common")
    job(folder, trees=5000, encryption="lattice")
    for party, whose in (("insurer", "a host with the default rules"), ("registry", "registry")):
        notes = " ".join(seen(folder, party, "--rows", "9000")["notes"])
        assert f"{whose} refuses the job: trees = 5000 breaks rule max_trees = 50" in notes
        assert f'{whose} refuses the job: encryption = "lattice" breaks rule encryptions' in notes
    # By the rules of a host that has its own.
    text = (folder / "registry.toml").read_text()
    wider = '[policy]\nmax_trees = "unlimited"\nencryptions = ["lattice"]\nmin_intersection = 1\n'
    (folder / "registry.toml").write_text(text.replace("[policy]\n", wider))
    assert seen(folder, "registry", "--rows", "100")["notes"] == []


def test_what_is_wrong_is_said_in_one_line(folder: Path) -> None:
    def failed(code: int, party: str, *more: str, said: str) -> None:
        command("leakage", "job.toml", f"{party}.toml", *more, folder=folder).failed(code, said)

    job(folder)
    failed(2, "insurer", said="there is no alignment yet: give the number of rows")
    failed(2, "insurer", "--rows", "0", said="--rows must be a whole number from 1 to 1000000000")
    failed(2, "insurer", "--rows", "many", said="--rows must be a whole number")
    failed(2, "insurer", "--rows", "9", "--guest", "bureau", said="insurer is the guest itself")
    failed(2, "registry", "--rows", "9", "--guest", "nobody", said="--guest nobody is no peer of")
    failed(2, "bureau", "--rows", "9", said="say which with --guest (insurer or registry)")
    # Both that are wanted are named at once.
    failed(
        2,
        "bureau",
        said="--estimate N), with --guest who starts the job (insurer or registry), or run",
    )
    failed(
        2,
        "bureau",
        "--guest",
        "insurer",
        said="know (vfl leakage --rows N, vfl train --estimate N), or run `vfl align` first",
    )
    failed(2, "insurer", "--rows", "9", "--simulate", said="--simulate needs 50 rows at the least")
    failed(2, "trustee", "--rows", "9", said="trustee is a coordinator")
    failed(2, "nobody", "--rows", "9", said="no party file nobody.toml")
    assert seen(folder, "bureau", "--rows", "9", "--guest", "insurer")["rows"] == 9
    (folder / "registry.csv").write_text("id,power,colour\nx,NOT-A-NUMBER,a\ny,1,b\n")
    done = command("leakage", "job.toml", "registry.toml", "--rows", "9", folder=folder)
    assert "NOT-A-NUMBER" not in done.failed(3, "registry.csv", "power")
    (folder / "job.toml").write_text("[party]\n")
    failed(2, "insurer", "--rows", "9", said="job.toml is a party file, where a job file is due")
