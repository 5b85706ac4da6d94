"""A server and parties with rows of their own in one process, over real sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from federation import free_port, toml
from room import Said

from vfl.jobs.connect import Site
from vfl.jobs.host import serve
from vfl.jobs.pooled import Led, lead
from vfl.party import identity
from vfl.party.config import Job, load_party
from vfl.party.store import Store

CLIENTS = ("north", "south", "west")
SERVER = "server"
COLUMNS = {
    "age": {"type": "number", "unit": "years"},
    "dose": {"type": "number"},
    "ward": {"type": "category", "levels": ["a", "b", "c"]},
}


def patients(rows: int = 900, seed: int = 3) -> pd.DataFrame:
    """Made-up rows: numbers with gaps, a category with a rare level, labels of three kinds, exposure."""
    draw = np.random.default_rng(seed)
    age, dose = draw.normal(50, 15, rows), draw.exponential(2.0, rows)
    ward = draw.choice(["a", "b", "c", "attic"], rows, p=[0.5, 0.3, 0.18, 0.02])
    score = 0.04 * (age - 50) - 0.3 * dose + 0.8 * (ward == "b")
    years = draw.uniform(0.2, 2.0, rows)
    return pd.DataFrame(
        {
            "id": [f"P{i:06d}" for i in range(rows)],
            "age": np.where(draw.random(rows) < 0.05, np.nan, age),
            "dose": dose,
            "ward": ward,
            "died": (score + draw.logistic(size=rows) > 0).astype(int),
            "visits": draw.poisson(years * np.exp(0.5 * score)),
            "years": years,
        }
    )


def split(table: pd.DataFrame, clients: Sequence[str] = CLIENTS) -> dict[str, pd.DataFrame]:
    """Parts of different sizes and mixes."""
    order = np.argsort(table["dose"].to_numpy() + np.random.default_rng(1).normal(size=len(table)))
    cuts = np.cumsum([round(len(table) * share) for share in (0.5, 0.3)])[: len(clients) - 1]
    return {
        name: table.iloc[np.sort(rows)]
        for name, rows in zip(clients, np.split(order, cuts), strict=True)
    }


class Pool:
    """The files of all, and what each says."""

    def __init__(
        self,
        folder: Path,
        keys: Path,
        tables: Mapping[str, pd.DataFrame],
        label: str = "died",
        exposure: str | None = None,
    ) -> None:
        self.folder, self.tables, self.clients = folder, tables, tuple(tables)
        self.said = {name: Said() for name in (*self.clients, SERVER)}
        self.settings: dict[str, dict[str, Any]] = {}
        port = free_port()
        for name in (*self.clients, SERVER):
            if not (keys / f"{name}.pem").exists():
                identity.create(keys / name, name)
        pinned = {name: {"certificate": str(keys / f"{name}.pem")} for name in (*self.clients, SERVER)}
        for name in self.clients:
            others = {n: {**pinned[n], "role": "client"} for n in self.clients if n != name}
            server = {**pinned[SERVER], "address": f"127.0.0.1:{port}", "role": "coordinator"}
            self.settings[name] = {
                "party": {"name": name, "role": "guest", "identity": str(keys / name), "workers": 1},
                "data": {"path": "table.csv", "id": "id", "label": label, "categorical": ["ward"]},
                "policy": {"min_pooled_rows": 100},
                "peers": {SERVER: server, **others},
            }
            if exposure is not None:
                self.settings[name]["data"]["exposure"] = exposure
            self.home(name).mkdir(parents=True)
            tables[name].to_csv(self.home(name) / "table.csv", index=False)
        self.settings[SERVER] = {
            "party": {
                "name": SERVER,
                "role": "coordinator",
                "identity": str(keys / SERVER),
                "listen": f"127.0.0.1:{port}",
            },
            "peers": {name: pinned[name] for name in self.clients},
        }
        self.home(SERVER).mkdir(parents=True)

    def home(self, name: str) -> Path:
        return self.folder / name

    def site(self, name: str) -> Site:
        path = self.home(name) / f"{name}.toml"
        path.write_text(toml(self.settings[name]))
        return Site.open(load_party(path))

    def store(self, name: str) -> Store:
        return Store(self.home(name) / "vfl-store")

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """All clients serve."""
        tasks = [asyncio.create_task(serve(self.site(name), self.said[name])) for name in self.clients]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            faults = [end for end in ends if isinstance(end, Exception)]
            if faults:
                raise faults[0]

    async def _all_ended(self) -> None:
        """Until those who were asked have said how it ended, or ten seconds have passed."""

        def busy(said: Said) -> bool:
            asked = [i for i, line in enumerate(said.lines) if "asks to train" in line]
            after = said.lines[asked[-1] :] if asked else []
            ends = ("trained ", "job ended", "error")
            return bool(after) and not any(line.startswith(ends) for line in after)

        for _ in range(200):
            if not any(busy(self.said[name]) for name in self.clients):
                return
            await asyncio.sleep(0.05)

    def train(self, job: Mapping[str, Any], wait: float = 20, **options: Any) -> Led:
        """As `vfl train` at the server, while all clients serve. Raises what that raises."""

        async def run() -> Led:
            site = self.site(SERVER)
            async with self.serving():
                work = lead(site, Job.model_validate(job), wait=wait, show=self.said[SERVER], **options)
                try:
                    async with asyncio.timeout(120):
                        return await work
                finally:
                    await self._all_ended()

        return asyncio.run(run())


def job(
    model: str = "secureboost",
    label: str = "binary",
    settings: Mapping[str, Any] | None = None,
    monotone: Mapping[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A job file over rows."""
    columns = {name: dict(keys) for name, keys in COLUMNS.items()}
    for name, way in (monotone or {}).items():
        columns[name]["monotone"] = way
    kind = {"model": model, {"secureboost": "objective", "glm": "family"}[model]: label}
    said = {"name": "deaths", "purpose": "a test", "partition": "rows", "holdout": 0.25, **kind, **more}
    return {"job": said, "columns": columns, model: dict(settings or {})}
