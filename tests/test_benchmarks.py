"""What the benchmarks train on is what their text says, and each prints its figures both ways."""

import ast
import re
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

import parties  # noqa: E402
import scoring  # noqa: E402

from vfl.party.config import load_party  # noqa: E402
from vfl.party.table import read_table  # noqa: E402

SPLITS: dict[str, Callable[..., parties.Split]] = {
    "freMTPL2": parties.fremtpl2,
    "frequency": parties.frequency,
    "default_credit": parties.default_credit,
    "breast": parties.breast,
    "uniform": parties.uniform,
}
ROWS = 300


def documented() -> dict[str, dict[str, list[str]]]:
    """The columns of each party by data set, from the table in benchmarks/README.md."""
    found: dict[str, dict[str, list[str]]] = {}
    text = (BENCHMARKS / "README.md").read_text()
    for name, party, cell in re.findall(r"^\| (\w+) \| (\w+) \| (`.*?) \| .*\|$", text, re.M):
        columns = []
        for first, last in re.findall(r"`(\w+)`(?: to `(\w+)`)?", cell):
            if not last:
                columns.append(first)
                continue
            stem = first.rstrip("0123456789")
            columns += [f"{stem}{i}" for i in range(int(last.removeprefix(stem)) + 1)]
        found.setdefault(name, {})[party] = columns
    return found


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data as --data names one: the same columns, other content, rows out of order."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def numbers(high: int) -> np.ndarray:
        return rng.integers(1, high, ROWS)

    policies = pd.DataFrame(
        {
            "IDpol": rng.permutation(ROWS) + 1.0,
            "ClaimNb": rng.integers(0, 3, ROWS),
            "Exposure": rng.uniform(0.1, 1.5, ROWS),
            "Area": rng.choice(list("ABC"), ROWS),
            "Density": numbers(2000),
            "Region": rng.choice(["R11", "R24"], ROWS),
            "VehPower": numbers(9),
            "VehAge": numbers(20),
            "VehBrand": rng.choice(["B1", "B2"], ROWS),
            "VehGas": rng.choice(["Diesel", "Regular"], ROWS),
            "DrivAge": numbers(90),
            "BonusMalus": numbers(150),
        }
    )
    (folder / "freMTPL2").mkdir()
    policies.to_parquet(folder / "freMTPL2" / "policies.parquet")
    (folder / "fate").mkdir()
    for name, sides in (("default_credit", parties.DEFAULT_CREDIT), ("breast", parties.BREAST)):
        for side, columns in zip(("guest", "host"), sides.values(), strict=True):
            table = pd.DataFrame(rng.normal(size=(ROWS, len(columns))), columns=columns)
            table.insert(0, "id", np.arange(ROWS))
            if side == "guest":
                table["y"] = rng.integers(0, 2, ROWS)
            table.to_parquet(folder / "fate" / f"{name}_hetero_{side}.parquet")
    return folder


def trained_on(folder: Path, split: parties.Split) -> dict[str, list[str]]:
    """The features that each party's own reading of its folder finds."""
    folders = {party: folder / party for party in split.tables}
    parties.set_up(folders, split, "", 1)
    found = {}
    for party, own in folders.items():
        settings = load_party(own / f"{party}.toml")
        guest = settings.role == "guest"
        table = read_table(settings.data, role=settings.role, need_label=guest)
        assert (table.label is not None) == guest and table.rows <= ROWS
        assert (table.exposure is not None) == (guest and "exposure" in split.guests)
        found[party] = list(table.features)
        named = {"id", *table.features, *(split.guests.values() if guest else ())}
        assert set(pq.read_schema(own / "table.parquet").names) == named
        assert {name for name, values in table.features.items() if values.dtype == object} == set(
            split.categorical[party]
        )
    return found


@pytest.mark.parametrize("name", SPLITS)
def test_parties_have_the_columns_that_the_text_names(tmp_path: Path, made_up: Path, name: str) -> None:
    assert trained_on(tmp_path, SPLITS[name](made_up, ROWS, 10)) == documented()[name]


@pytest.mark.parametrize("name", [name for name in SPLITS if name != "uniform"])
def test_parties_have_these_columns_of_the_real_data(tmp_path: Path, name: str) -> None:
    if not parties.DATA.is_dir():
        pytest.skip(f"the data is not there ({parties.DATA}, see benchmarks/README.md)")
    assert trained_on(tmp_path, SPLITS[name](parties.DATA, ROWS, 10)) == documented()[name]


def test_a_table_with_another_column_is_refused(made_up: Path) -> None:
    split = parties.fremtpl2(made_up, ROWS, 10)
    bureau = split.tables["bureau"].reset_index()
    with pytest.raises(ValueError, match="bureau has the columns"):
        parties.Split(split.tables | {"bureau": bureau}, split.features, split.categorical)


def test_fewer_columns_of_the_guest() -> None:
    split = parties.uniform(Path(), ROWS, 10).narrowed("guest", 5)
    assert split.features["guest"] == [f"guest{i}" for i in range(5)]
    assert [*split.tables["guest"].columns] == ["id", *split.features["guest"], "label"]
    assert len(split.features["host"]) == 10


def test_the_batch_to_score_has_the_columns_that_the_text_names() -> None:
    options = Namespace(rows=20, numbers=6, categories=2)
    found = {
        party: list(scoring.columns(number, options)) for number, party in enumerate(scoring.PARTIES)
    }
    assert found == documented()["scoring"]


def test_every_data_set_of_the_text_is_there() -> None:
    assert documented().keys() == {*SPLITS, "scoring"}
    assert parties.SPLITS.keys() < SPLITS.keys()


def test_the_scenario_of_three_companies_has_these_columns(tmp_path: Path, made_up: Path) -> None:
    """As the notebook sets it up."""
    parties.scenario.set_up(tmp_path / "work", made_up / "freMTPL2", rows=ROWS - 20, new=20)
    for party, columns in documented()["freMTPL2"].items():
        settings = load_party(tmp_path / "work" / party / f"{party}.toml")
        table = read_table(settings.data, role=settings.role, need_label=party == "insurer")
        assert sorted(table.features) == sorted(columns)
    new = pd.read_csv(tmp_path / "work" / "insurer" / "new_policies.csv")
    assert sorted(new.columns) == sorted(["id", *documented()["freMTPL2"]["insurer"]])


PIECES = {
    "cluster_jobs.py",
    "malformed.py",
    "parties.py",
    "timeline.py",
    "watched.py",
}  # of other scripts


@pytest.mark.parametrize("script", sorted({path.name for path in BENCHMARKS.glob("*.py")} - PIECES))
def test_every_benchmark_prints_its_figures_by_name_when_asked(script: str) -> None:
    """And is in the list of all."""
    tree = ast.parse((BENCHMARKS / script).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    options = {
        node.args[0].value for node in calls if node.args and isinstance(node.args[0], ast.Constant)
    }
    if any(isinstance(node.func, ast.Name) and node.func.id == "options_of_trees" for node in calls):
        of_all = parties.options_of_trees(None, trees=1, depth=1, learning_rate=0.1)
        options |= {one for action in of_all._actions for one in action.option_strings}
    assert "--json" in options
    assert re.search(rf"^\| `{script}[` ]", (BENCHMARKS / "README.md").read_text(), re.M)
