"""What the benchmarks of whole jobs share: tables of several parties, their folders, their figures."""

import argparse
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from vfl import local

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "scenarios" / "car_insurance"))
import fremtpl2 as scenario  # noqa: E402

DATA = HERE.parent.parent / "shared" / "data"
UNBOUND = [  # what is measured is not what a host should allow
    "[policy]",
    "min_intersection = 100",
    'max_alignments_a_day = "unlimited"',
    'max_ids_a_day = "unlimited"',
    "min_child_rows = 10",
    'max_trees = "unlimited"',
    'max_sums_a_row = "unlimited"',
    'max_iterations = "unlimited"',
    'max_jobs_a_day = "unlimited"',
    'max_scored_rows_a_day = "unlimited"',
    "show_names = true",
]


# Which columns each party trains on, by data set; benchmarks/README.md says the same.
FREMTPL2 = {
    "insurer": ["Exposure", "Area", "Region", "Density"],
    "registry": ["VehPower", "VehAge", "VehBrand", "VehGas"],
    "bureau": ["DrivAge", "BonusMalus"],
}
FREQUENCY = FREMTPL2 | {"insurer": ["Area", "Region", "Density"]}  # Exposure is the exposure
DEFAULT_CREDIT = {"bank": [f"x{i}" for i in range(13)], "partner": [f"x{i}" for i in range(10)]}
BREAST = {"guest": [f"x{i}" for i in range(10)], "host": [f"x{i}" for i in range(20)]}


@dataclass(frozen=True)
class Split:
    """A table for each party, the guest's first: column `id`, its features, and no others.

    The guest's also has `label` and what else `guests` names by its key in [data].
    """

    tables: dict[str, pd.DataFrame]
    features: dict[str, list[str]]
    categorical: dict[str, list[str]]
    guests: dict[str, str] = field(default_factory=lambda: {"label": "label"})

    def __post_init__(self) -> None:
        for party, table in self.tables.items():
            named = ["id", *self.features[party]]
            named += self.guests.values() if party == next(iter(self.tables)) else []
            if sorted(table.columns) != sorted(named):
                raise ValueError(f"{party} has the columns {list(table.columns)}, not {named}")

    def narrowed(self, party: str, columns: int) -> "Split":
        """The same with only the first features of a party."""
        kept, spare = self.features[party][:columns], self.features[party][columns:]
        table = self.tables[party].drop(columns=spare)
        return replace(self, tables=self.tables | {party: table}, features=self.features | {party: kept})


def fremtpl2(data: Path, rows: int | None, columns: int) -> Split:
    """French motor third-party liability, split as insurer, vehicle registry and claims bureau."""
    policies = scenario.load(data / "freMTPL2").head(rows)
    tables = scenario.split(policies)
    insurer = tables["insurer"].rename(columns={"claim": "label"}).drop(columns="claims")
    return Split({**tables, "insurer": insurer}, FREMTPL2, scenario.CATEGORICAL)


def frequency(data: Path, rows: int | None, columns: int) -> Split:
    """freMTPL2 for a frequency model, prepared as in scikit-learn's example on Tweedie regression."""
    tables = scenario.split(scenario.load(data / "freMTPL2").head(rows))
    insurer = tables["insurer"].rename(columns={"claims": "label"}).drop(columns="claim")
    insurer["Density"] = np.log(insurer["Density"])
    registry = tables["registry"].astype({"VehPower": str})
    tables |= {"insurer": insurer, "registry": registry}
    categorical = scenario.CATEGORICAL | {"registry": ["VehBrand", "VehGas", "VehPower"]}
    return Split(tables, FREQUENCY, categorical, {"label": "label", "exposure": "Exposure"})


def default_credit(data: Path, rows: int | None, columns: int) -> Split:
    """UCI credit default in FATE's vertical split."""
    return _fate(data / "fate", "default_credit", DEFAULT_CREDIT, rows)


def breast(data: Path, rows: int | None, columns: int) -> Split:
    """Wisconsin breast cancer in FATE's vertical split."""
    return _fate(data / "fate", "breast", BREAST, rows)


def _fate(folder: Path, name: str, features: dict[str, list[str]], rows: int | None) -> Split:
    tables = {}
    for party, side in zip(features, ("guest", "host"), strict=True):
        table = pd.read_parquet(folder / f"{name}_hetero_{side}.parquet").head(rows)
        tables[party] = table.astype({"id": str}).rename(columns={"y": "label"})
    return Split(tables, features, {party: [] for party in features})


def uniform(data: Path, rows: int | None, columns: int, hosts: int = 1) -> Split:
    """Uniform columns at each of two parties, or more: the worst case for sums by joint cells."""
    generator = np.random.default_rng(0)
    size = rows or 20_000
    ids = np.arange(size).astype(str)
    parties = ["guest", *(["host"] if hosts == 1 else [f"host{i}" for i in range(1, hosts + 1)])]
    numbers = generator.random((len(parties) * columns, size))
    label = generator.random(size) < 1 / (1 + np.exp(3 - 3 * numbers[0] - 3 * numbers[columns]))
    features = {party: [f"{party}{i}" for i in range(columns)] for party in parties}
    tables = {}
    for party, own in zip(parties, np.split(numbers, len(parties)), strict=True):
        tables[party] = pd.DataFrame({"id": ids} | dict(zip(features[party], own, strict=True)))
    tables["guest"]["label"] = label.astype(int)
    return Split(tables, features, {party: [] for party in parties})


SPLITS: dict[str, Callable[[Path, int | None, int], Split]] = {
    "uniform": uniform,
    "freMTPL2": fremtpl2,
    "default_credit": default_credit,
}


class Memory(threading.Thread):
    """Samples the memory of each party's processes, shared pages counted once (Linux's Pss)."""

    def __init__(self, folders: dict[str, Path]) -> None:
        super().__init__(daemon=True)
        self.peaks = dict.fromkeys(folders, 0)
        self._party_of = {str(folder): party for party, folder in folders.items()}
        self._done = threading.Event()

    def __enter__(self) -> "Memory":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        """Once a second, until the job is over. A party's processes work in its folder."""
        while not self._done.wait(1.0):
            now = dict.fromkeys(self.peaks, 0)
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    party = self._party_of.get(str((process / "cwd").readlink()))
                    if party is not None:
                        rollup = (process / "smaps_rollup").read_text()
                        now[party] += 1024 * int(re.search(r"^Pss: +(\d+)", rollup, re.M)[1])
                except OSError:
                    continue  # it has ended meanwhile
            self.peaks = {party: max(self.peaks[party], now[party]) for party in now}


def operations(folders: dict[str, Path], model: str) -> dict[str, dict[str, int]]:
    """Operations on ciphertexts of each party by kind, from its own record of the run."""
    records = {
        party: folder / "vfl-store" / "runs" / f"{model}.json" for party, folder in folders.items()
    }
    return {
        party: json.loads(record.read_text())["body"]["account"]["operations"]
        for party, record in records.items()
    }


def set_up(
    folders: dict[str, Path],
    split: Split,
    job: str,
    workers: int,
    memory: int = 2048,
    extra: Mapping[str, list[str]] | None = None,
) -> None:
    """Each party's folder: table, party file, keys; the guest's job file.

    A folder without a table is a coordinator's. `extra` has lines that go under [data] of a party, and
    may begin other sections.
    """
    guest = next(iter(folders))
    address = {guest: local.free_port()}
    address |= {party: local.free_port() for party in folders if party not in split.tables}
    for party, folder in folders.items():
        folder.mkdir()
        role = "guest" if party == guest else "host" if party in split.tables else "coordinator"
        lines = ["[party]", f'name = "{party}"', f'role = "{role}"', f'identity = "keys/{party}"']
        lines += [f"workers = {workers}", f"memory = {memory}"]
        if party in address:
            lines += [f'listen = "127.0.0.1:{address[party]}"']
        if party in split.tables:
            split.tables[party].to_parquet(folder / "table.parquet", index=False)
            lines += ["[data]", 'path = "table.parquet"', 'id = "id"']
            lines += [f"columns = {json.dumps(split.features[party])}"]
            lines += [f"categorical = {json.dumps(split.categorical[party])}"]
            own = split.guests if party == guest else {}
            lines += [f"{key} = {json.dumps(name)}" for key, name in own.items()]
        lines += (extra or {}).get(party, [])
        for other in set(folders) - {party}:
            lines += [f"[peers.{other}]", f'certificate = "peers/{other}.pem"']
            if role != "coordinator" and other in address:
                lines += [f'address = "127.0.0.1:{address[other]}"']
            lines += ['role = "coordinator"'] * (other not in split.tables)
        (folder / f"{party}.toml").write_text("\n".join(lines))
    local.exchange_keys(folders)
    (folders[guest] / "job.toml").write_text(job)


def options_of_trees(
    about: str | None, trees: int, depth: int, learning_rate: float
) -> argparse.ArgumentParser:
    """The options of a benchmark of trees in one process, with its own defaults."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--trees", type=int, default=trees)
    parser.add_argument("--depth", type=int, default=depth)
    parser.add_argument("--learning-rate", type=float, default=learning_rate)
    parser.add_argument("--json", action="store_true", help="print the figures by name instead")
    return parser


def check_data(folder: Path) -> None:
    """End the benchmark where its data are not there."""
    if not folder.is_dir():
        sys.exit(f"no data at {folder}: see benchmarks/README.md")


def chosen(options: argparse.Namespace) -> Split:
    """The split that the options name, of so many rows and columns."""
    if options.split != "uniform":
        check_data(options.data)
    elif getattr(options, "hosts", 1) > 1:
        return uniform(options.data, options.rows, options.columns, options.hosts)
    return SPLITS[options.split](options.data, options.rows, options.columns)


def tell(options: argparse.Namespace, title: str, figures: dict) -> None:
    """Print figures by name, or as a table."""
    if options.json:
        print(json.dumps(figures))
    else:
        show(title, figures)


def show(title: str, figures: dict) -> None:
    """The figures as a table."""
    table = Table(title=title)
    table.add_column("figure")
    table.add_column("value", justify="right")
    for key, value in figures.items():
        for part, number in flat(value):
            shown = f"{number:,}" if isinstance(number, int) else _shown(number)
            table.add_row(f"{key} {part}".strip(), shown)
    Console().print(table)


def _shown(number: float) -> str:
    return f"{number:,.4f}" if number == 0 or abs(number) >= 1e-3 else f"{number:.1e}"


def flat(value: object) -> Iterator[tuple[str, float]]:
    """The numbers in nested tables, each with its keys joined."""
    if not isinstance(value, dict):
        yield "", value
        return
    for key, inner in value.items():
        for rest, number in flat(inner):
            yield f"{key} {rest}".strip(), number
