"""A guest's models with directories in memory, for the tests of `vfl online`, and what `vfl score` makes
of the same rows."""

import asyncio
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from memory import over_memory

from vfl.blocks.scratch import Scratch
from vfl.errors import PeerLost, PeerUnreachable
from vfl.jobs.batch import KeptPart
from vfl.jobs.batch_rows import read_batch
from vfl.jobs.host_lookups import Looked
from vfl.jobs.scored_columns import ScoredColumns
from vfl.jobs.scoring import section_as_trained
from vfl.learn.levels import levels_of
from vfl.models.halves import AnyGuestHalf, GuestHalf
from vfl.models.kind import GuestBatch, HostBatch, PartyColumns
from vfl.models.kinds import kind_of_job, kind_of_model, save_half
from vfl.net.peer import MemoryPeer
from vfl.online.catalogue import NoDirectory, Sources
from vfl.online.service import Online
from vfl.party.config import Job
from vfl.party.ids import normalise
from vfl.party.online_section import OnlineSection
from vfl.party.sections import DataSection
from vfl.party.store import Store
from vfl.protocols.common.batches import ScoringCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.lookup.layout import PartLayout

HOSTS = ("registry", "bureau")
ROWS = 240
RULE = ("nfkc", "trim", "upper", "alnum")
MADE = datetime(2026, 11, 1, 12, tzinfo=UTC)
DATA = DataSection.model_validate(
    {
        "path": Path("policies.csv"),
        "id": "plate",
        "label": "claim",
        "exposure": "years",
        "offset": "margin",
        "categorical": ["area"],
        "dates": {"born": {"as": "age", "at": datetime(2027, 1, 1).date(), "order": "dmy"}},
        "missing": ["unknown"],
        "unknown_levels": 1.0,
    }
)
AREAS = ["urban", "rural", "coast", "true", "7"]

Rows = list[dict[str, Any]]


@dataclass
class Directory:
    """A host's directory in memory, which can be made to fail."""

    host: str
    layout: PartLayout
    parts: Mapping[bytes, bytes]
    version: str = "1"
    made: datetime = MADE
    trouble: Exception | None = None
    gate: asyncio.Event | None = None  # nothing is answered before it is set
    asked: list[int] = field(default_factory=list)  # rows of each message

    @property
    def is_here(self) -> bool:
        return not isinstance(self.trouble, PeerLost | PeerUnreachable)

    async def look_up(self, ids: Sequence[Sequence[bytes]]) -> Looked:
        self.asked.append(len(ids))
        version, made = self.version, self.made
        if self.gate is not None:
            await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        return Looked(version, made, self.layout, [self.parts.get(row[0]) for row in ids])


class Source:
    """Directories by model and host."""

    def __init__(self, directories: Mapping[str, Mapping[str, Directory]]) -> None:
        self.of = {model: dict(hosts) for model, hosts in directories.items()}
        self.parted: list[Directory] = []

    async def directory(self, half: AnyGuestHalf, host: str) -> Directory:
        if half.name not in self.of:
            raise NoDirectory(f"there is no directory of {host} here yet")
        return self.of[half.name][host]

    async def part(self, directory: Any) -> None:
        self.parted.append(directory)


class Quiet:
    """News that a test may look at."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, what: str, done: int, of: int | None) -> None:
        pass


@dataclass(frozen=True)
class Made:
    """A model with all that its parties have."""

    half: AnyGuestHalf
    halves: Mapping[str, Any]  # of hosts
    columns: Mapping[str, Mapping[str, np.ndarray]]  # of hosts, their tables as they are now
    plates: Mapping[str, list[str]]  # of hosts, in the order of their tables

    def directories(self, shows: Sequence[str] = ("registry",)) -> dict[str, Directory]:
        """A directory of each host, made anew; some hosts show their columns."""
        kind, made = kind_of_model(self.half.model), {}
        for host, features in self.columns.items():
            half, rows = self.halves[host], len(self.plates[host])
            own = kind.own_scores(half, host, features, rows)
            packer = kind.packer(half, features, own, host in shows)
            packed = packer.pack(slice(0, rows))
            ids = normalise([self.plates[host]], RULE).ids
            parts = {bytes(one): packed[row].tobytes() for row, one in enumerate(ids)}
            made[host] = Directory(host, packer.layout, parts)
        return made


def host_columns(rng: np.random.Generator, rows: int) -> dict[str, dict[str, np.ndarray]]:
    """Numbers and categories of both hosts, with missing values."""

    def gaps(values: np.ndarray, none: Any) -> np.ndarray:
        return np.where(rng.random(rows) < 0.1, none, values)

    return {
        "registry": {
            "power": gaps(rng.normal(90, 20, rows), np.nan),
            "brand": gaps(rng.choice(np.array(["a", "b", "c"], object), rows), None),
        },
        "bureau": {"points": gaps(rng.integers(0, 12, rows).astype(float), np.nan)},
    }


@cache
def made(model: str = "secureboost", label: str = "binary", hosts: tuple[str, ...] = HOSTS) -> Made:
    """A model of this kind and label, trained on all columns in one place."""
    rng = np.random.default_rng(7)
    theirs = {name: own for name, own in host_columns(rng, ROWS).items() if name in hosts}
    own = {
        "age": np.where(rng.random(ROWS) < 0.1, np.nan, rng.normal(45, 12, ROWS)),
        "born": rng.integers(18, 80, ROWS).astype(float),
        "area": np.where(rng.random(ROWS) < 0.1, None, rng.choice(np.array(AREAS, object), ROWS)),
    }
    risk = 0.02 * (np.nan_to_num(own["age"], nan=45) - 45) + 0.4 * (own["area"] == "urban")
    if "registry" in theirs:
        risk = risk + 0.02 * (np.nan_to_num(theirs["registry"]["power"], nan=90) - 90)
    years, margin = rng.uniform(0.2, 2.0, ROWS), rng.normal(0, 0.2, ROWS)
    counts = label == "poisson"
    offset = np.log(years) + margin if counts else None
    labels = {
        "binary": (risk + rng.logistic(size=ROWS) > 0).astype(float),
        "poisson": rng.poisson(years * np.exp(risk)).astype(float),
        "gamma": rng.gamma(2, np.exp(risk)),
        "tweedie": rng.gamma(2, np.exp(risk)) * (rng.random(ROWS) < 0.5),
        "squared": risk + rng.normal(size=ROWS),
    }
    classes = ("none", "small", "big") if label == "multiclass" else ()
    if classes:
        labels["multiclass"] = np.digitize(risk + rng.logistic(size=ROWS), [-0.7, 0.7]).astype(float)
    labels |= {"logistic": labels["binary"], "gaussian": labels["squared"]}
    key = "objective" if model == "secureboost" else "family"
    params = {
        "secureboost": {"trees": 5, "depth": 3, "max_bins": 8, "min_child_rows": 5},
        "glm": {"alpha": 0.01},
    }
    several = {"classes": len(classes)} if classes else {}
    job = Job.model_validate(
        {
            "job": {"name": "claims", "purpose": "a test", "model": model, key: label, "holdout": 0.0},
            model: params[model] | several,
        }
    )
    every = np.ones(ROWS, bool)
    rows = Training(labels[label], np.ones(ROWS), every, ~every, job.loss, offset)
    parties = [PartyColumns("insurer", "policies.csv", own)]
    parties += [PartyColumns(name, name, features) for name, features in theirs.items()]
    kind = kind_of_job(job)
    fitted = asyncio.run(kind.train_pooled(parties, rows, lambda step: None))
    half = GuestHalf(
        name=f"{model}-{label}-20261101-120000-abcd",
        job=job.settings,
        columns=tuple(own),
        normalise=RULE,
        fingerprints={},
        model=fitted.model,
        metrics={},
        objective=label,  # type: ignore[arg-type]
        exposure=counts,
        offset=counts,
        levels=levels_of(own),
        classes=classes,
    )
    # Their tables as they are now: other rows than those of training, some of them unknown.
    now = {
        name: one for name, one in host_columns(np.random.default_rng(8), 80).items() if name in hosts
    }
    plates = {
        name: [f"b-{name[0]} {i}" for i in range(40)] + [f"AB{i}" for i in range(40)] for name in now
    }
    return Made(half, fitted.halves, now, plates)


def some_rows(rng: np.random.Generator, rows: int, *, offset: bool = False) -> Rows:
    """Rows as a client may send them: missing values, levels that are new, ids that nobody knows."""

    def one() -> dict[str, Any]:
        plate = rng.choice(
            [f"ab-{rng.integers(50)}", f"AB {rng.integers(50)}", f"b-r-{rng.integers(60)}"]
        )
        row: dict[str, Any] = {
            "plate": str(plate),
            "age": rng.choice([None, float(rng.normal(45, 15)), int(rng.integers(18, 90)), "unknown"]),
            "born": rng.choice([None, "31.12.1980", "1.2.1999", "05.06.1950", 19700131]),
            "area": rng.choice([None, *AREAS, " Urban", "URBAN", "moon", True, 7, 7.0, ""]),
        }
        if isinstance(row["age"], np.generic):
            row["age"] = row["age"].item()
        if row["born"] == 19700131:
            row["born"] = "31.01.1970"
        if offset:
            row["margin"] = float(rng.normal())
            if rng.random() < 0.5:
                row["years"] = float(rng.uniform(0.1, 3))
        return row

    return [one() for _ in range(rows)]


def in_a_file(rows: Rows, path: Path, *, exposure: bool) -> Path:
    """The same rows as a table; rows without an exposure have one of 1."""
    text = {True: "true", False: "false", None: ""}

    def cell(value: Any) -> str:
        if value is None or isinstance(value, bool):
            return text[value]
        return repr(value) if isinstance(value, int | float) else value

    names = list(dict.fromkeys(name for row in rows for name in row))
    if exposure and "years" not in names:
        names.append("years")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            filled = {"years": 1.0, **row} if exposure else row
            writer.writerow([cell(filled.get(name)) for name in names])
    return path


def batch(model: Made, rows: Rows, folder: Path, *, explain: bool = False) -> dict[str, list[Any]]:
    """The columns that `vfl score` writes of these rows, its hosts over memory."""
    half, kind = model.half, kind_of_model(model.half.model)
    section = section_as_trained(DATA.model_copy(update={"duplicates": "keep"}), half)
    path = in_a_file(rows, folder / "batch.csv", exposure=half.exposure)
    read = read_batch(section, half, path, Scratch(), Quiet())
    places, plates = [], {}
    for host in half.model.parties[1:]:
        plates[host] = {bytes(one): i for i, one in enumerate(normalise([model.plates[host]], RULE).ids)}
        key = read.ids.keys[0]
        ids = [bytes(one) for one in key.ids]
        places.append(
            np.array([plates[host].get(ids[at], -1) if at >= 0 else -1 for at in key.of_row], np.int64)
        )

    async def guest(peers: list[MemoryPeer]) -> list[Any]:
        own = kind.own_scores(half.model, path.name, read.table.features, len(rows))
        asked = GuestBatch(read.table.features, len(rows), own, places, explain=explain)
        return [part async for part in kind.guest_parts(peers, half.model, asked)]

    async def host(name: str, peer: MemoryPeer) -> int:
        features, count = model.columns[name], len(model.plates[name])
        own = kind.own_scores(model.halves[name], name, features, count)
        served = HostBatch(features, count, own, ScoringCourse(), shows_columns=name == "registry")
        return await kind.host_parts(peer, model.halves[name], served)

    parts = over_memory(half.model.parties[1:], guest, host, guest="insurer")[0]
    output = ScoredColumns(half, read, 3)
    found: dict[str, list[Any]] = {}
    for part in parts:
        unknown = np.array([place[part.rows] < 0 for place in places], bool)
        unknown = unknown.reshape(len(places), part.rows.stop - part.rows.start)
        for name, values in output.columns(KeptPart(part, unknown)).items():
            found.setdefault(name, []).extend(values)
    return found


def named(model: Made, name: str) -> Made:
    """The same model by another name."""
    return replace(model, half=replace(model.half, name=name))


def online(folder: Path, made: Sequence[Made], **settings: Any) -> tuple[Online, Source, Quiet]:
    """A service of these models that has not begun, its directories, and its news."""
    store = Store(folder / "store")
    for model in made:
        save_half(store, model.half)
    source = Source({model.half.name: model.directories() for model in made})
    given = {"plain_http": True, "without_tokens": True, "listen": "127.0.0.1:0", "window": 0.0}
    given |= {"hosts": {name: {"max_age": 3650, "deadline": 20_000} for name in HOSTS}}
    context = {"folder": folder}
    section = OnlineSection.model_validate({**given, **settings}, strict=True, context=context)
    quiet = Quiet()
    return Online(Sources(store, DATA, source), section, quiet.say), source, quiet


def client(service: Online, **headers: str) -> httpx.AsyncClient:
    """Asks a service without a network."""
    transport = httpx.ASGITransport(service.service.app)
    return httpx.AsyncClient(transport=transport, base_url="http://service", headers=headers)
