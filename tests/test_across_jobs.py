"""Pairs of levels of two parties on the command line: policies, relativities, scores, refusals."""

import csv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dealt_transfers import dealt_transfers
from federation import GLM_JOB, WIDE, Federation, ended, kill

from vfl.jobs.alignments import load_alignment
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import load_half
from vfl.party.config import load_party
from vfl.party.store import Store
from vfl.party.table import read_table


@pytest.fixture(autouse=True, scope="module")
def _dealt() -> Iterator[None]:
    with dealt_transfers():
        yield


def across(name: str = "pairs", **settings: Any) -> dict[str, dict[str, Any]]:
    glm = {"alpha": 0.01, "across": [["area", "registry:brand"]], "across_rows": 12}
    return {"job": {**GLM_JOB["job"], "name": name}, "glm": {**GLM_JOB["glm"], **glm, **settings}}


@pytest.mark.slow
def test_a_job_with_pairs_from_its_policy_to_scores(tmp_path: Path, keys: Path) -> None:
    made = Federation(tmp_path, keys, hosts=("registry",))
    guest, registry = made.guest, made.parties["registry"]
    with ended(made.serve()):
        guest.align().ok()
        why = "across breaks rule interactions_across = false of [policy] (the default): leave it"
        guest.train(across()).failed(9, why)
        kill(made.serving["registry"])
        registry.settings["policy"] = {**WIDE, "interactions_across": True, "min_cell_rows": 15}
        made.serve()
        guest.train(across()).failed(9, "across_rows = 12 breaks rule min_cell_rows = 15 of [policy]: ")

        overlapping = across(across=[["area", "registry:brand"], ["area", "registry:fuel"]])
        said = "[glm] across has column 'area' in two pairs with columns of registry"
        guest.train(overlapping).failed(2, said)
        looked = guest.run("doctor", "--job", str(guest.folder / "job.toml"))
        assert looked.code != 0 and said in looked.out + looked.err

        # What the guest can know is refused before anybody is asked.
        for pairs, words in (
            ([["density", "registry:brand"]], "[glm] across has column 'density', which has no levels"),
            (
                [["area", "regstry:brand"]],
                "no host of the party file: did you mean 'registry'?",
            ),
        ):
            guest.train(across(across=pairs)).failed(2, words)
            looked = guest.run("doctor", "--job", str(guest.folder / "job.toml"))
            assert looked.code == 1 and any(
                line.startswith("FAIL  job pairs: ") and words in line
                for line in looked.out.splitlines()
            )
        guest.train(across(across=[["area", "registry:brnad"]], across_rows=15)).failed(
            9, "across in [glm] of the job has a column that is none with levels at it"
        )
        line = made.serving["registry"].until("error: ")[-1]
        assert "across in [glm] of the job has column 'brnad', which is no feature" in line

        trained = guest.train(across(across_rows=15)).ok().json
        assert trained["converged"]
        said = made.serving["registry"].until("trained")
        assert any("insurer:area × brand: " in text and " cells" in text for text in said)

        # Relativities: the host has the cells, by numbers of the guest's levels.
        shown = registry.run("relativities", "--model", trained["model"], "--json").ok().json
        registry.processes[-1].own = [cell for cell in made.tables["registry"]["brand"] if cell]
        cells = [line for line in shown["relativities"] if line["column"] == "insurer:area × brand"]
        assert cells and all(line["level"].startswith("level ") for line in cells)
        assert all(line["rows"] >= 15 for line in cells)
        assert [line["relativity"] for line in cells] == pytest.approx(
            [np.exp(line["coefficient"]) for line in cells]
        )

        by = ("relativities", "--model", trained["model"], "--by")
        (table,) = registry.run(*by, "insurer:area", "--json").ok().json["tables"]
        registry.processes[-1].own = [cell for cell in made.tables["registry"]["brand"] if cell]
        assert table["column"] == "brand" and len(table["by_levels"]) == 3
        registry.run(*by, "year").failed(5, "has no pairs of levels with 'year' here: it has ")
        for party in (guest, registry):
            party.run("report", "--model", trained["model"]).ok()
        book = registry.folder / "tables.xlsx"
        registry.run("tariff", "--model", trained["model"], "--out", str(book)).ok()
        assert "insurer area × brand" in unzipped(book)  # the name of a sheet

        # Scores are those of both halves, cells with them.
        scored = guest.score(model=trained["model"]).ok().json
        assert scored["rows"] == len(made.tables["new"]["plate"])
        known = expected_scores(made, trained["model"])
        with (guest.folder / "scores.csv").open(newline="") as file:
            rows = {row["plate"]: float(row["probability"]) for row in csv.DictReader(file)}
        both = rows.keys() & known.keys()
        assert len(both) > 30
        assert [rows[plate] for plate in both] == pytest.approx([known[plate] for plate in both])

        # A directory cannot hold them.
        done = registry.run("publish", "--model", trained["model"])
        done.failed(3, "has pairs of levels of two parties (across in [glm])")
        guest.settings["peers"]["registry"]["lookup"] = "sealed"
        guest.score(model=trained["model"]).failed(2, "has pairs of levels of two parties (across")


def unzipped(book: Path) -> str:
    """What is written in a workbook."""
    with zipfile.ZipFile(book) as parts:
        return "".join(parts.read(name).decode() for name in parts.namelist() if name.endswith(".xml"))


def expected_scores(made: Federation, model: str) -> dict[str, float]:
    """Predictions of the aligned rows by whoever has both tables and both halves."""
    guest, registry = made.guest, made.parties["registry"]
    halves, features = [], []
    for party, kind in ((guest, GuestHalf), (registry, HostHalf)):
        party.write()
        settings, store = load_party(party.file), Store(party.store)
        half = load_half(store, model, kind)  # type: ignore[call-overload]
        aligned = load_alignment(store, Store(guest.store).latest("alignment"))
        table = read_table(settings.data, role=settings.role, need_label=False)
        halves.append(half.model)
        features.append({name: table.features[name][aligned.rows] for name in half.columns})
    rows = len(features[0]["area"])
    score = halves[0].intercept + sum(
        half.part.scores(own, rows) for half, own in zip(halves, features, strict=True)
    )
    (one,) = halves[1].across
    codes = [
        next(f for f in half.part.design.factors if f.name == name).codes(own[name])
        for half, own, name in zip(halves, features, ("area", "brand"), strict=True)
    ]
    brand = next(f for f in halves[1].part.design.factors if f.name == "brand")
    score = score + one.table(brand.others)[codes[0], codes[1]]
    aligned = load_alignment(Store(guest.store), Store(guest.store).latest("alignment"))
    plates = [made.tables["insurer"]["plate"][row] for row in aligned.rows.tolist()]
    return dict(zip(plates, (1 / (1 + np.exp(-score))).tolist(), strict=True))
