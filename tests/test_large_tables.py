"""Jobs whose tables lie in files, in many blocks, come to what they come to in memory."""

import asyncio
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from federation import GLM_JOB, JOB, Federation
from room import HOSTS, Room

from vfl.blocks import scratch, texts
from vfl.blocks.engine import ENGINE, Embedded
from vfl.jobs import host
from vfl.learn import binning
from vfl.party import id_columns, id_values
from vfl.party.sources import parquet
from vfl.party.store import Store


def small_blocks(patch: pytest.MonkeyPatch) -> None:
    """Everything is large, and blocks are small."""
    for module in (scratch, parquet):
        patch.setattr(module, "IN_MEMORY", 0)
    patch.setattr(ENGINE, "chosen", Embedded(31))
    for module in (scratch, texts, parquet):
        patch.setattr(module, "OF_A_ROW_EACH", 1)
    patch.setattr(scratch, "_AT_ONCE", 19)
    patch.setattr(texts, "_COMPARED", 11)
    patch.setattr(id_values, "AT_ONCE", 37)
    patch.setattr(binning, "_AT_ONCE", 17)
    for module in (texts, id_columns):
        patch.setattr(module, "PIECE", 13)


def kept(room: Room, model: str) -> list[Any]:
    """What all parties keep of a model: their halves without the run's name, and the guest's figures."""
    found: list[Any] = []
    for name in ("insurer", *HOSTS):
        store = Store(room.federation.parties[name].folder / "vfl-store")
        half = store.read("model", model)
        found.append({key: value for key, value in half.items() if key != "name"})
    record = Store(room.federation.guest.folder / "vfl-store").read("run", model)
    return [*found, *(record[key] for key in ("metrics", "curve", "rows", "ids"))]


@pytest.fixture
def room(tmp_path: Path, keys: Path) -> Room:
    room = Room(Federation(tmp_path, keys, guest_listens=True))
    for name in HOSTS:
        policy = room.federation.parties[name].settings.setdefault("policy", {})
        policy["encryptions"] = ["lattice", "paillier"]
    return room


def both_ways(room: Room, job: dict[str, Any]) -> tuple[str, str]:
    """The models of a job with tables in memory and in files; scores are in first.csv and second.csv."""
    with pytest.MonkeyPatch.context() as patch:
        room.patch(patch)
        aligned = room.align().alignment
        first = room.train(job)
        room.score(first, out="first.csv")
        small_blocks(patch)
        again = room.align().alignment
        assert (again.ids, len(again.rows)) == (aligned.ids, len(aligned.rows))
        second = room.train(job, alignment=aligned.name)
        room.score(second, out="second.csv")
    for name in ("insurer", *HOSTS):
        left = Store(room.federation.parties[name].folder / "vfl-store").scratch()
        assert not [path for path in left.iterdir() if not path.name.endswith(".parts")]
    return first, second


def test_trees(room: Room):
    trees = {**JOB["secureboost"], "encryption": "lattice"}
    first, second = both_ways(room, {**JOB, "secureboost": trees})
    assert kept(room, first) == kept(room, second)
    folder = room.federation.guest.folder
    assert (folder / "first.csv").read_bytes() == (folder / "second.csv").read_bytes()


def test_a_linear_model(room: Room):
    """Whose coefficients depend on what hosts draw, beyond the tolerance of the fit."""
    both_ways(room, {**GLM_JOB, "glm": {"encryption": "lattice", "alpha": 0.01}})
    folder = room.federation.guest.folder
    one, other = (pd.read_csv(folder / f"{name}.csv") for name in ("first", "second"))
    np.testing.assert_allclose(one.pop("probability"), other.pop("probability"), rtol=1e-5)
    pd.testing.assert_frame_equal(one, other)


def test_a_serving_host_keeps_nothing_of_its_table(room: Room, monkeypatch: pytest.MonkeyPatch):
    read: list[weakref.ref[Any]] = []
    given, kept = host.read_host, []

    def read_host(*arguments: Any, **named: Any) -> Any:
        table, ids = given(*arguments, **named)
        read.extend([weakref.ref(table), weakref.ref(ids)])
        return table, ids

    async def serve(*_: object) -> None:
        kept.extend(one() for one in read)

    monkeypatch.setattr(host, "read_host", read_host)
    monkeypatch.setattr(host, "_serve", serve)
    asyncio.run(host.serve(room.site("registry"), room.said["registry"]))
    assert kept == [None, None]
