"""A model and its owner's table: written by another program, with new levels, without a column."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from federation import GLM_JOB, JOB, Federation, Table, make_tables, write_table
from room import Room, Said

from vfl.errors import DataError, PeerError, PeerStopped
from vfl.jobs import host as host_jobs
from vfl.jobs import own_table, scoring_host
from vfl.jobs.activity import Activity
from vfl.jobs.connect import Site
from vfl.models.halves import AnyGuestHalf, AnyHostHalf, GuestHalf, HostHalf
from vfl.models.kinds import kind_of_model, load_half
from vfl.party.config import load_party
from vfl.party.store import Store

TABLES = make_tables(rows=300, seed=7)
RNG = random.Random(1)
ROWS = len(TABLES["registry"]["registration"])
# A flag that the label follows, so that trees use it, and a column that no tree splits.
CLAIM = dict(zip(TABLES["insurer"]["plate"], TABLES["insurer"]["claim"], strict=True))
BY_PLATE = {plate.replace("-", ""): claim for plate, claim in CLAIM.items()}
FLAG = [
    "true"
    if RNG.random() < (0.9 if BY_PLATE.get(cell.replace(" ", "").upper()) == "1" else 0.1)
    else "false"
    for cell in TABLES["registry"]["registration"]
]
REGISTRY = {**TABLES["registry"], "flag": FLAG, "rare": ["1", *["0"] * (ROWS - 1)]}
TREES = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 3, "depth": 3}}

Trained = tuple[Room, dict[str, str]]


def needed_of(half: AnyGuestHalf | AnyHostHalf) -> frozenset[str]:
    """The columns without which no row can be scored."""
    return kind_of_model(half.model).needed(half.model)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Trained]:
    """Parties that have aligned and trained trees and a linear model, in this process."""
    patch = pytest.MonkeyPatch()
    tables = {**TABLES, "registry": REGISTRY}
    room = Room(Federation(tmp_path_factory.mktemp("room"), keys, guest_listens=True, tables=tables))
    room.federation.parties["registry"].settings["data"]["categorical"] = ["brand", "flag"]
    room.patch(patch)
    room.align()
    linear = {**GLM_JOB, "glm": {**GLM_JOB["glm"], "alpha": 0.1}}
    models = {"trees": room.train(TREES), "linear": room.train(linear)}
    yield room, models
    patch.undo()


@pytest.fixture
def room(trained: Trained) -> Iterator[Room]:
    """The parties; afterwards their tables and files are as in training."""
    room, _ = trained
    before = {name: json.dumps(party.settings) for name, party in room.federation.parties.items()}
    yield room
    for name, party in room.federation.parties.items():
        party.settings = json.loads(before[name])
    write_table(room.folder / "new.csv", TABLES["new"])
    put(room, REGISTRY)


def put(room: Room, table: Table) -> None:
    write_table(room.federation.parties["registry"].table, table)


def changed(column: str, change: Callable[[str], str]) -> Table:
    return {**REGISTRY, column: [change(cell) for cell in REGISTRY[column]]}


def scores(room: Room, model: str) -> bytes:
    room.score(model)
    return (room.folder / "scores.csv").read_bytes()


@pytest.mark.parametrize("kind", ["trees", "linear"])
def test_scores_are_those_of_the_table_written_by_another_program(
    trained: Trained, room: Room, kind: str
) -> None:
    model = trained[1][kind]
    before = scores(room, model)
    for flags in ("True False", "TRUE FALSE", "1 0", "1.0 0.0", "01 00", " true  false "):
        names = dict(zip(("true", "false"), flags.split(), strict=True))
        put(room, changed("flag", lambda cell, names=names: names[cell]))
        assert scores(room, model) == before
    put(room, changed("brand", lambda cell: f" {cell.lower()}\u00a0"))
    batch = {**TABLES["new"], "area": [f"{cell}  " for cell in TABLES["new"]["area"]]}
    write_table(room.folder / "new.csv", batch)
    assert scores(room, model) == before
    for said in room.said.values():
        assert not said.has("not in training")


@pytest.mark.parametrize("kind", ["trees", "linear"])
def test_scoring_stops_where_many_levels_are_unknown(trained: Trained, room: Room, kind: str) -> None:
    """At a host the guest is told how many rows have one, and not of which column."""
    model = trained[1][kind]
    put(room, changed("flag", lambda cell: f"new {cell}"))
    said = (
        r"of the \d+ rows that registry knows have a level of its columns that was not in training, more"
    )
    with pytest.raises(DataError, match=f"{said} than unknown_levels = 0.1 of .data. allows"):
        room.score(model)
    assert "flag" not in "".join(room.said["insurer"].lines)
    assert room.said["registry"].has("note: column 'flag' has a level that was not in training in ")
    assert not room.said["bureau"].has("not in training")
    room.federation.guest.settings["data"]["unknown_levels"] = 1.0
    done = room.score(model)
    assert done.unknown_levels == {"registry": done.rows - done.unknown["registry"]}
    assert room.said["insurer"].has("rows that registry knows have a level of its columns")


def test_a_few_unknown_levels_stop_nothing(trained: Trained, room: Room) -> None:
    write_table(
        room.folder / "new.csv", {**TABLES["new"], "area": ["?", "??", *TABLES["new"]["area"][2:]]}
    )
    done = room.score(trained[1]["trees"])
    assert done.unknown_levels == {"area": 2}
    (line,) = [line for line in room.said["insurer"].lines if "not in training" in line]
    assert line.startswith(
        f"note: column 'area' has a level that was not in training in 2 of {done.rows}"
    )
    assert "chance" not in line


def test_the_guests_own_unknown_levels_stop_it_before_any_host_is_asked(
    trained: Trained, room: Room
) -> None:
    write_table(room.folder / "new.csv", {**TABLES["new"], "area": ["?"] * len(TABLES["new"]["area"])})
    rows = len(TABLES["new"]["area"])
    said = f"new.csv: column 'area' has a level that was not in training in {rows} of {rows} rows, more"
    with pytest.raises(DataError, match=said):
        room.score(trained[1]["linear"])
    assert not room.said["registry"].lines


def test_a_host_cannot_have_more_such_rows_than_rows(
    trained: Trained, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring_host, "say_unknown_levels", lambda *_: 10_000)
    with pytest.raises(
        PeerError, match="broke the protocol: it sent more rows with unknown levels than"
    ):
        room.score(trained[1]["trees"])


@pytest.mark.parametrize("kind", ["trees", "linear"])
def test_a_model_of_an_earlier_version_compares_levels_as_they_are_written(
    trained: Trained, room: Room, kind: str
) -> None:
    """It keeps none: the very same table is scored as ever, and nothing stops."""
    model = trained[1][kind]
    before = scores(room, model)
    kept = {}
    for name in ("insurer", "registry", "bureau"):
        store = Store(room.federation.parties[name].store)
        body = store.read("model", model)
        kept[store] = dict(body)
        del body["levels"]
        store.write("model", model, body)
    try:
        assert scores(room, model) == before
        put(room, changed("flag", lambda cell: cell.title()))
        assert scores(room, model) != before
        assert room.said["registry"].has("column 'flag' has shifted since training")
    finally:
        for store, body in kept.items():
            store.write("model", model, body)


# Columns that are gone, empty or of another kind.

BROKEN: dict[str, tuple[str, Callable[[str], Table]]] = {
    "empty": ("has no value in any row", lambda column: {**REGISTRY, column: [""] * ROWS}),
    "text": ("has text that is no number", lambda column: {**REGISTRY, column: ["x"] * ROWS}),
    "gone": ("no column", lambda column: {k: v for k, v in REGISTRY.items() if k != column}),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_model_that_does_without_a_column_is_served_without_it(
    trained: Trained, room: Room, what: str
) -> None:
    models = trained[1]
    store = Store(room.federation.parties["registry"].store)
    needed = {kind: needed_of(load_half(store, name, HostHalf)) for kind, name in models.items()}
    assert "rare" not in needed["trees"] and needed["linear"] == {"power", "brand", "flag", "rare"}
    before = scores(room, models["trees"])
    said, without = BROKEN[what]
    put(room, without("rare"))
    assert scores(room, models["trees"]) == before
    with pytest.raises(PeerStopped, match="one of its columns is not as it was in training"):
        room.score(models["linear"])
    # When it starts to serve, the host hears which models need it.
    show, site = Said(), room.site("registry")
    table, _ = own_table.read_host(site, needed=())
    host_jobs._check_faults(site, table, show)
    if what != "gone":  # else nobody knows that it has been there
        (line,) = show.lines
        assert line.startswith("note: table.csv: ") and said in line
        assert line.endswith(
            f"(model {models['linear']} needs it; no alignment and no training until it is mended)"
        )
    put(room, without("power"))
    if "power" in needed["trees"]:
        with pytest.raises(PeerStopped, match="one of its columns is not as it was in training"):
            room.score(models["trees"])


def test_a_host_whose_models_all_need_the_column_does_not_begin_to_serve(
    trained: Trained, room: Room
) -> None:
    put(room, {name: ["x"] * ROWS if name == "power" else cells for name, cells in REGISTRY.items()})
    site = room.site("registry")
    table, _ = own_table.read_host(site, needed=())
    store = Store(room.federation.parties["registry"].store)
    does_without = "power" not in needed_of(load_half(store, trained[1]["trees"], HostHalf))
    if not does_without:
        with pytest.raises(DataError, match="column 'power' has text that is no number"):
            host_jobs._check_faults(site, table, Said())
    with pytest.raises(DataError, match="column 'power' has text that is no number"):
        own_table.read_host(site)  # as for a training
    # A column that the party file names and that is gone: of two models one does without it.
    put(room, {name: cells for name, cells in REGISTRY.items() if name != "flag"})
    table, _ = own_table.read_host(site, needed=("power",))
    assert set(table.faults) == {"flag"}


def test_a_batch_needs_the_columns_of_the_guests_splits_alone(trained: Trained, room: Room) -> None:
    store, model = Store(room.federation.guest.store), trained[1]["trees"]
    needed = needed_of(load_half(store, model, GuestHalf))
    before = scores(room, model)
    for column in ("density", "area"):
        batch = {name: cells for name, cells in TABLES["new"].items() if name != column}
        write_table(room.folder / "new.csv", batch)
        if column in needed:
            with pytest.raises(DataError, match=f"no column '{column}', which the model was trained on"):
                room.score(model)
        else:
            assert scores(room, model) == before
            assert room.said["insurer"].has(f"(model {model} does without it)")


def test_a_new_host_does_not_begin_to_serve_a_broken_table(tmp_path: Path, keys: Path) -> None:
    """There is no model yet that does without the column."""
    federation = Federation(tmp_path, keys, tables={**TABLES, "registry": REGISTRY})
    party = federation.parties["registry"]
    write_table(party.table, {**REGISTRY, "power": ["x"] * ROWS})
    party.write()
    journal = SimpleNamespace(ledger=SimpleNamespace(check=lambda: None))
    store = Store(party.store)
    own = {"journal": journal, "store": store, "activity": Activity(store)}
    site = cast(Any, SimpleNamespace(party=load_party(party.file), **own))
    with pytest.raises(DataError, match="column 'power' has text that is no number"):
        asyncio.run(host_jobs.serve(cast(Site, site), Said()))
