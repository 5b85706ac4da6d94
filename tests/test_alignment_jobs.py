"""Alignments as jobs: joined as pooled tables are, kept, found again, extended, limited by policies."""

import asyncio
import dataclasses
import itertools
import json
import random
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from drawn import nothing_from_the_system
from federation import GLM_JOB, JOB, Federation, Table, make_tables, toml, word, write_table
from room import HOSTS, Room
from test_boost import resolved

from vfl.cli import main
from vfl.errors import ConfigError, DataError, ModelError, PeerStopped
from vfl.jobs import alignment, alignment_host, alignments, own_table
from vfl.jobs.alignments import (
    Alignment,
    guest_alignment,
    ids_digest,
    list_alignments,
    load_alignment,
    save_alignment,
)
from vfl.jobs.evaluation import split_rows
from vfl.jobs.own_table import ids_of
from vfl.jobs.report import gather
from vfl.learn.binning import bin_columns
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import load_half
from vfl.party.config import Job, load_party
from vfl.party.store import Store
from vfl.party.table import read_table
from vfl.protocols.align import kept as kept_ids
from vfl.protocols.trees.training import guest_train

ID = {"insurer": "plate", "registry": "registration", "bureau": "plate_no"}
TABLES = make_tables(rows=160, seed=11)


@pytest.fixture
def room(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    made = Room(Federation(tmp_path / "room", keys, guest_listens=True, tables=TABLES))
    made.patch(monkeypatch)
    yield made


def cleaned(cells: list[str]) -> list[str]:
    return ["".join(c for c in cell.upper() if c.isalnum()) for cell in cells]


def put(room: Room, name: str, table: Table) -> None:
    write_table(room.federation.parties[name].table, table)


def data_of(room: Room, name: str) -> dict[str, Any]:
    return room.federation.parties[name].settings["data"]


def kept(room: Room, name: str, alignment: str) -> Alignment:
    return load_alignment(Store(room.federation.parties[name].store), alignment)


def now_at(room: Room, name: str, alignment: str) -> np.ndarray:
    """A party's rows of an alignment, in its table as it is now."""
    party = load_party(room.federation.parties[name].file)
    table = read_table(party.data, role=party.role, need_label=False)
    one = kept(room, name, alignment)
    return alignments.refresh(one, ids_of(table, party.data), party.data.path.name).rows


def joined(room: Room, tables: Mapping[str, Table], alignment: str) -> list[tuple[str | None, ...]]:
    """The ids of all parties in each row of an alignment."""
    found = []
    for name in ("insurer", *HOSTS):
        ids = [*cleaned(tables[name][ID[name]]), None]
        found.append([ids[row] for row in now_at(room, name, alignment).tolist()])
    return list(zip(*found, strict=True))


def common(tables: Mapping[str, Table]) -> set[str]:
    return set.intersection(*(set(cleaned(tables[name][ID[name]])) - {""} for name in ID))


def test_a_left_join_trains_as_the_pooled_table_does(room: Room) -> None:
    done = room.align(join="left", name="q4")
    assert done.alignment.name.startswith("q4-") and len(done.alignment.rows) == done.rows
    assert room.said["insurer"].has(
        f"registry knows {done.known['registry']:,} of your {done.rows:,} rows"
    )
    wanted = {**JOB, "secureboost": {**JOB["secureboost"], "min_bin_rows": 10, "trees": 3, "depth": 3}}
    name = room.train(wanted, alignment="q4")
    half = load_half(Store(room.federation.guest.store), name, GuestHalf)
    halves = [
        load_half(Store(room.federation.parties[host].store), name, HostHalf).model
        for host in half.model.parties[1:]
    ]

    frames = {}
    for party in ID:
        own = pd.DataFrame(TABLES[party]).replace("", None)
        own["key"] = cleaned(TABLES[party][ID[party]])
        for column in {"density", "power", "driver_age", "claim"} & set(own):
            own[column] = own[column].astype(float)
        frames[party] = own.drop(columns=ID[party])
    pooled = frames["insurer"]
    for host in HOSTS:
        pooled = pooled.merge(frames[host], on="key", how="left")
    pooled = pooled.iloc[done.alignment.rows]
    columns = {
        "insurer": ["density", "area"],
        "registry": ["power", "brand"],
        "bureau": ["driver_age", "occupation"],
    }
    features = {
        party: {
            column: values.astype(object).where(values.notna(), None).to_numpy()
            if (values := pooled[column]).dtype.kind not in "f"
            else values.to_numpy()
            for column in names
        }
        for party, names in columns.items()
    }
    settings = Job.model_validate(wanted)
    party = load_party(room.federation.guest.file)
    table = read_table(party.data, role="guest", need_label=True)
    rows, _ = split_rows(table, done.alignment.rows, settings)
    params = settings.secureboost
    blocks = {
        name: bin_columns(one, params.max_bins, params.min_bin_rows) for name, one in features.items()
    }
    blocks = {name: blocks[name] for name in half.model.parties}
    expected, _ = asyncio.run(guest_train([], blocks, rows, params))
    assert resolved(half.model, halves) == resolved(expected, [])
    assert {split.column for one in halves for split in one.splits} & {"power", "brand", "driver_age"}
    # A batch of a host's rows is compared with the rows that it knew.
    for host in HOSTS:
        own = load_half(Store(room.federation.parties[host].store), name, HostHalf)
        assert {one.rows for one in own.profiles.values()} == {done.known[host]}
    # It is scored as ever.
    room.score(name)


def doubled(table: Table, rows: list[int]) -> Table:
    return {name: [*cells, *(cells[row] for row in rows)] for name, cells in table.items()}


@pytest.mark.parametrize("join", ["inner", "left"])
def test_many_rows_to_one(room: Room, join: str) -> None:
    tables = {**TABLES, "insurer": doubled(TABLES["insurer"], [*range(60), *range(20)])}
    put(room, "insurer", tables["insurer"])
    with pytest.raises(DataError, match=r'repeat the id of an earlier row .* duplicates = "first"'):
        room.align()
    data_of(room, "insurer")["duplicates"] = "keep"
    done = room.align(join=join)
    found = joined(room, tables, done.alignment.name)
    own = cleaned(tables["insurer"]["plate"])
    if join == "inner":
        assert sorted(one[0] for one in found) == sorted(one for one in own if one in common(tables))
        # Rows of one id lie together.
        ends = sum(a[0] != b[0] for a, b in itertools.pairwise(found))
        assert ends + 1 == len(common(tables))
    else:
        assert sorted(one[0] for one in found) == sorted(own)
    assert all(other in (None, one[0]) for one in found for other in one[1:])
    # What a guest and a host know of which rows are joined to one.
    at_guest = alignments.joined_rows(done.alignment)
    for place, host in enumerate(sorted(HOSTS)):
        of_host = [(plates[1 + HOSTS.index(host)] or number) for number, plates in enumerate(found)]
        expected = [of_host.index(one) for one in of_host]
        (at_host,) = alignments.joined_rows(kept(room, host, done.alignment.name))
        for numbers in (at_guest[place if join == "left" else 0], at_host):
            assert [*map(numbers.tolist().index, numbers.tolist())] == expected

    party = load_party(room.federation.guest.file)
    table = read_table(party.data, role="guest", need_label=True)
    ids = ids_of(table, party.data)
    settings = Job.model_validate({**JOB, "secureboost": {"validation_share": 0.3}})
    rows, held_out = split_rows(table, done.alignment.rows, settings, ids.entities)
    where = {}
    for one, *masks in zip(found, rows.train, rows.validation, held_out, strict=True):
        assert where.setdefault(one[0], masks) == masks
    assert len({tuple(masks) for masks in where.values()}) == 3

    room.federation.parties["registry"].settings["policy"]["max_rows_an_id"] = 2
    with pytest.raises(PeerStopped, match=r"3 rows joined to one row breaks rule max_rows_an_id = 2 of"):
        room.align(join=join)


@pytest.mark.parametrize("owner", ["insurer", "registry"])
def test_columns_that_name_one_that_many_rows_are_joined_to_are_not_inferred_by(
    room: Room, owner: str
) -> None:
    """None of its eight rows stands out by itself."""
    column = {"insurer": "density", "registry": "power"}[owner]
    tables = {name: dict(table) for name, table in TABLES.items()}
    plate = sorted(common(tables))[0]
    tables["insurer"] = doubled(tables["insurer"], [*range(160)] * 7)
    own = cleaned(tables[owner][ID[owner]])
    tables[owner][column] = ["1" if one == plate else "0" for one in own]
    for name in ("insurer", owner):
        put(room, name, tables[name])
    data_of(room, "insurer")["duplicates"] = "keep"
    rules = {"encryptions": ["lattice"], "inference": True, "max_rows_an_id": 8}
    for host in HOSTS:
        room.federation.parties[host].settings["policy"] |= rules
    room.align()
    job = {**GLM_JOB["job"], "holdout": 0.0}
    settings = {"inference": True, "encryption": "lattice", "alpha": 0.01}
    error = DataError if owner == "insurer" else PeerStopped
    with pytest.raises(error, match=r"(makes|by some of its columns) single rows stand out"):
        room.train({"job": job, "glm": settings})


def test_a_hosts_repeated_ids_become_one_row(room: Room) -> None:
    table = doubled(TABLES["registry"], list(range(40)))
    table["power"][-40:] = [repr(1000.0 + i) for i in range(40)]
    put(room, "registry", table)
    with pytest.raises(PeerStopped, match="a problem in its own table"):
        room.align()
    data_of(room, "registry").update(duplicates="max", aggregate={"brand": "mode"})
    done = room.align()
    party = load_party(room.federation.parties["registry"].file)
    site = room.site("registry")
    whole, ids = own_table.read_host(site)
    assert len(ids.rows) == len(TABLES["registry"]["power"])
    taken = whole.take(kept(room, "registry", done.alignment.name).rows)
    plates = cleaned(table["registration"])
    for row, power in zip(kept(room, "registry", done.alignment.name).rows, taken["power"], strict=True):
        known = [
            float(p)
            for plate, p in zip(plates, table["power"], strict=True)
            if plate == plates[row] and p
        ]
        assert power == max(known) if known else np.isnan(power)
    assert room.said["registry"].has("rows with the id of another row, which stands for them")
    assert party.data.duplicates == "max"


def two_keys(seed: int = 3) -> dict[str, Table]:
    """Tables with a vehicle's number too, which the plate only stands in for; some of it is missing."""
    rng = random.Random(seed)
    vins = {plate: word(rng) for plate in cleaned(TABLES["insurer"]["plate"])}
    tables = {}
    for name in ("insurer", *HOSTS):
        plates = cleaned(TABLES[name][ID[name]])
        vin = [vins[plate] if rng.random() < 0.7 else "" for plate in plates]
        tables[name] = {"vin": vin, **TABLES[name]}
    tables["new"] = {
        "vin": [vins.get(plate, "") for plate in cleaned(TABLES["new"]["plate"])],
        **TABLES["new"],
    }
    return tables


def with_two_keys(room: Room) -> dict[str, Table]:
    tables = two_keys()
    for name in ("insurer", *HOSTS):
        put(room, name, tables[name])
        data = data_of(room, name)
        data["fallback"] = [{"id": ID[name]}]
        data["id"] = "vin"
    return tables


def expected_by_keys(tables: Mapping[str, Table]) -> tuple[set[str], set[str]]:
    """Plates matched by vin, and by the plate of rows without a match."""
    rows = {
        name: list(zip(tables[name]["vin"], cleaned(tables[name][ID[name]]), strict=True)) for name in ID
    }
    vins = set.intersection(*({vin for vin, _ in one if vin} for one in rows.values()))
    by_vin = {plate for vin, plate in rows["insurer"] if vin in vins}
    rest = [{plate for vin, plate in one if vin not in vins} for one in rows.values()]
    return by_vin, set.intersection(*rest)


def test_a_further_key_finds_what_the_first_has_not(room: Room) -> None:
    tables = with_two_keys(room)
    done = room.align()
    by_vin, by_plate = expected_by_keys(tables)
    assert by_plate
    assert done.alignment.by_key == {"": (len(by_vin), len(by_plate))}
    found = joined(room, tables, done.alignment.name)
    assert {one[0] for one in found} == by_vin | by_plate
    assert all(len(set(one)) == 1 for one in found)
    said = room.said["insurer"]
    assert said.has(f"matched: {len(by_vin):,} by key 1, {len(by_plate):,} by key 2")
    assert said.has("without the first key: matched by a further one")
    # Keys are the same list at all parties.
    data_of(room, "registry").pop("fallback")
    with pytest.raises(PeerStopped, match="registry has 1 key, the guest 2: set id and fallback in"):
        room.align()
    data_of(room, "registry")["fallback"] = [{"id": ["registration"], "normalise": ["plate"]}]
    with pytest.raises(
        PeerStopped, match=r"registry normalises ids of key 2 by plate, the guest by nfkc"
    ):
        room.align()
    data_of(room, "registry")["fallback"] = [{"id": ["registration", "brand"]}]
    data_of(room, "registry")["categorical"] = []
    with pytest.raises(PeerStopped, match=r"key 2 has 2 columns at registry, 1 at the guest"):
        room.align()


def test_a_batch_is_scored_by_all_keys(room: Room) -> None:
    tables = with_two_keys(room)
    write_table(room.folder / "new.csv", tables["new"])
    room.align()
    name = room.train({**JOB, "secureboost": {**JOB["secureboost"], "trees": 1}})
    assert load_half(Store(room.federation.guest.store), name, GuestHalf).fallback
    done = room.score(name)
    # The batch has all numbers: a host's row without one is found by its plate.
    for host in HOSTS:
        known = set(cleaned(tables[host][ID[host]]))
        unknown = [plate not in known for plate in cleaned(tables["new"]["plate"])]
        assert done.unknown[host] == sum(unknown)
    data_of(room, "insurer")["fallback"] = []
    with pytest.raises(ConfigError, match=r"was trained with 2 keys, but \[data\] has 1"):
        room.score(name)


def test_rows_without_an_id(room: Room) -> None:
    table = {name: list(cells) for name, cells in TABLES["insurer"].items()}
    table["plate"][3] = table["plate"][7] = ""
    put(room, "insurer", table)
    with pytest.raises(DataError, match=r"2 rows have no id once normalised \(rows 5, 9\)"):
        room.align()
    data_of(room, "insurer")["empty"] = "drop"
    done = room.align()
    assert {one[0] for one in joined(room, {**TABLES, "insurer": table}, done.alignment.name)} == common(
        {**TABLES, "insurer": table}
    )
    assert room.said["insurer"].has("2 rows without an id: no match")
    assert len(room.align(join="left").alignment.rows) == done.rows


Change = Callable[[Table], Table]


def shuffled(table: Table, seed: int = 1) -> Table:
    order = list(range(len(next(iter(table.values())))))
    random.Random(seed).shuffle(order)
    return {name: [cells[row] for row in order] for name, cells in table.items()}


def without(table: Table, rows: set[int]) -> Table:
    return {name: [c for i, c in enumerate(cells) if i not in rows] for name, cells in table.items()}


def test_rows_are_found_again_in_a_table_that_has_changed(room: Room) -> None:
    first = {**TABLES, **{name: without(TABLES[name], set(range(20))) for name in ID}}
    for name in ID:
        put(room, name, first[name])
    done = room.align()
    before = joined(room, first, done.alignment.name)
    later = {**TABLES, **{name: shuffled(TABLES[name]) for name in ID}}
    for name in ID:
        put(room, name, later[name])
    assert joined(room, later, done.alignment.name) == before
    name = room.train({**JOB, "secureboost": {**JOB["secureboost"], "trees": 1}})
    # Its report has the columns of these rows, and none of a table in another order.
    party = load_party(room.federation.guest.file)
    assert gather(party, name).factors
    put(room, "insurer", shuffled(TABLES["insurer"], seed=2))
    assert not gather(party, name).factors
    gone = without(TABLES["insurer"], set(range(100)))
    put(room, "insurer", gone)
    with pytest.raises(ModelError, match=r"has \d+ of the rows of alignment .* run `vfl align --extend"):
        room.train(JOB)


@pytest.mark.parametrize("join", ["inner", "left"])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("many", [False, True])
def test_an_extended_alignment_is_that_of_the_tables_now(
    room: Room, join: str, several: bool, many: bool
) -> None:
    whole = with_two_keys(room) if several else TABLES
    if many:
        data_of(room, "insurer")["duplicates"] = "keep"
    cut = {
        "insurer": without(whole["insurer"], set(range(30))),
        "registry": without(whole["registry"], set(range(20, 50))),
        "bureau": whole["bureau"],
    }
    for name in ID:
        put(room, name, cut[name])
    first = room.align(join=join, name="q4")
    # New rows at the guest, late ones at the registry; some vanish at each party; all in another order.
    later = {
        "insurer": without(whole["insurer"], set(range(40, 50))),
        "registry": without(whole["registry"], set(range(60, 65))),
        "bureau": without(whole["bureau"], set(range(5))),
    }
    if many:
        later["insurer"] = doubled(later["insurer"], [0, 1, 60, 60])
    later = {name: shuffled(table) for name, table in later.items()}
    for name in ID:
        put(room, name, later[name])
    done = room.align(extend="q4")
    extended = done.alignment
    assert extended.extends == first.alignment.name and extended.name.startswith("q4-")
    assert extended.name != first.alignment.name
    anew = room.align(join=join).alignment
    assert sorted(joined(room, later, extended.name), key=str) == sorted(
        joined(room, later, anew.name), key=str
    )
    assert sum(done.kept.values()) > 0
    # Only what was not matched was asked about.
    assert done.asked[0] < len(later["insurer"]["plate"])
    # And again, with nothing new.
    again = room.align(extend=extended.name)
    assert sorted(joined(room, later, again.alignment.name), key=str) == sorted(
        joined(room, later, anew.name), key=str
    )


def test_extensions_by_kept_keys_are_those_by_a_key_a_job(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hosts that keep their keys: the same rows and numbers, and new ids alone are evaluated."""
    evaluated: list[int] = []
    evaluate = kept_ids.evaluate_ids
    monkeypatch.setattr(
        kept_ids, "evaluate_ids", lambda ids, *key: evaluated.append(len(ids)) or evaluate(ids, *key)
    )
    whole, ends = TABLES, []
    cut = {
        "insurer": without(whole["insurer"], set(range(30))),
        "registry": without(whole["registry"], set(range(20, 50))),
        "bureau": whole["bureau"],
    }
    later = {**whole, "insurer": shuffled(without(whole["insurer"], set(range(40, 50))))}
    for days in (0, 7):
        for name in HOSTS:
            room.federation.parties[name].settings["policy"]["kept_key_days"] = days
        for name in ID:
            put(room, name, cut[name])
        room.align(join="left", engine="ecdh")
        for name in ID:
            put(room, name, later[name])
        done = room.align(extend="", engine="ecdh")
        ends.append((sorted(joined(room, later, done.alignment.name), key=str), done))
    assert ends[0][0] == ends[1][0]
    by_job, by_kept = (end[1] for end in ends)
    for what in ("known", "asked", "have", "kept"):
        assert getattr(by_kept, what) == getattr(by_job, what)
    registry, bureau = (len(whole[name][ID[name]]) for name in HOSTS)
    assert sorted(evaluated) == sorted([registry - 30, bureau, 30])


def test_a_key_that_no_longer_tells_rows_apart(room: Room) -> None:
    """A row that was matched by its plate has a double now at either party: none of the two is it."""
    tables = with_two_keys(room)
    room.align()
    _, by_plate = expected_by_keys(tables)
    twice = sorted(by_plate)[:4]
    for name, plates in (("insurer", twice[:2]), ("registry", twice[2:])):
        own = cleaned(tables[name][ID[name]])
        rows = [row for row, plate in enumerate(own) if plate in plates]
        later = doubled(tables[name], rows)
        later["vin"][-len(rows) :] = [""] * len(rows)
        for row in rows:
            later["vin"][row] = ""
        tables[name] = later
        put(room, name, later)
    extended = room.align(extend="")
    assert not {one[0] for one in joined(room, tables, extended.alignment.name)} & set(twice)
    anew = room.align()
    assert set(joined(room, tables, extended.alignment.name)) == set(
        joined(room, tables, anew.alignment.name)
    )
    assert room.said["insurer"].has("4 rows share the id of key 2 with others")


def test_a_host_may_no_longer_take_part_in_left_joins(room: Room) -> None:
    room.align(join="left")
    room.federation.parties["bureau"].settings["policy"]["joins"] = ["inner"]
    with pytest.raises(PeerStopped, match=r'join = "left" breaks rule joins = \["inner"\] of'):
        room.train(JOB)


def test_what_cannot_be_extended(room: Room) -> None:
    first = room.align().alignment
    with pytest.raises(ModelError, match="joins rows in another way, which extending it cannot change"):
        room.align(extend="", join="left")
    data_of(room, "insurer")["normalise"] = ["plate"]
    with pytest.raises(ModelError, match="was made by other keys, or other rules for ids"):
        room.align(extend="")
    del data_of(room, "insurer")["normalise"]
    with pytest.raises(ModelError, match="no alignment q5"):
        room.align(extend="q5")
    (Path(room.federation.parties["bureau"].store) / "alignments" / f"{first.name}.json").unlink()
    with pytest.raises(PeerStopped, match=f"bureau stopped the job: it has no alignment {first.name}"):
        room.align(extend="")


def aged(room: Room, name: str, alignment: str, days: int) -> None:
    store = Store(room.federation.parties[name].store)
    made = (datetime.now(UTC) - timedelta(days)).isoformat(timespec="seconds")
    save_alignment(store, dataclasses.replace(load_alignment(store, alignment), made=made))


def test_an_alignment_expires_by_a_hosts_policy(room: Room) -> None:
    policy = room.federation.parties["bureau"].settings["policy"]
    policy["alignment_days"] = 30
    name = room.align().alignment.name
    assert kept(room, "insurer", name).days == 30
    (one,) = list_alignments(
        Store(room.federation.guest.store), load_party(room.federation.guest.file).policy
    )
    assert date.fromisoformat(one["expires"]) - date.fromisoformat(one["made"][:10]) == timedelta(30)
    aged(room, "bureau", name, 31)
    with pytest.raises(
        PeerStopped, match=r"alignment .* breaks rule alignment_days = 30 of \[policy\]: run `vfl align`"
    ):
        room.train(JOB)
    with pytest.raises(PeerStopped, match="breaks rule alignment_days = 30"):
        room.align(extend="")
    aged(room, "bureau", name, 30)
    room.align(extend="")


@pytest.mark.parametrize(
    ("rule", "plan", "said"),
    [
        ({"joins": ["inner"]}, {"join": "left"}, 'join = "left" breaks rule joins = ["inner"] of'),
        ({"engines": ["ot"]}, {}, 'engine = "ecdh" breaks rule engines = ["ot"] of [policy]'),
        ({"max_ids_a_day": 159}, {}, "160 more ids to look for on"),
        ({"min_intersection": 161}, {}, "breaks rule min_intersection = 161"),
        ({"max_intersection": 50}, {}, "breaks rule max_intersection = 50"),
    ],
)
def test_what_a_host_does_not_take_part_in(
    room: Room, rule: dict[str, Any], plan: dict[str, Any], said: str
) -> None:
    room.federation.parties["registry"].settings["policy"].update(rule)
    with pytest.raises(PeerStopped) as stopped:
        room.align(**plan)
    assert said in str(stopped.value)
    assert not (room.federation.guest.store / "alignments").exists()


def test_alignments_of_a_day_are_counted(room: Room) -> None:
    room.federation.parties["registry"].settings["policy"]["max_alignments_a_day"] = 2
    room.align()
    room.align(extend="")
    with pytest.raises(
        PeerStopped, match=r"another alignment on .* breaks rule max_alignments_a_day = 2"
    ):
        room.align()
    room.federation.parties["registry"].settings["policy"]["max_alignments_a_day"] = 3
    room.federation.parties["registry"].settings["policy"]["max_ids_a_day"] = 10
    with pytest.raises(
        PeerStopped, match=r"160 more ids to look for on .* breaks rule max_ids_a_day = 10"
    ):
        room.align()


def test_an_alignment_of_an_earlier_version(room: Room) -> None:
    name = room.align().alignment.name
    for party in ("insurer", *HOSTS):
        store = Store(room.federation.parties[party].store)
        body = store.read("alignment", name)
        settings = load_party(room.federation.parties[party].file)
        table = read_table(settings.data, role=settings.role, need_label=False)
        old = {key: body[key] for key in ("name", "guest", "parties", "normalise", "rows")}
        old["ids"] = ids_digest(ids_of(table, settings.data).keys[0].ids)
        store.write("alignment", name, old)
    room.train({**JOB, "secureboost": {**JOB["secureboost"], "trees": 1}})
    with pytest.raises(ModelError, match="by an earlier version of vfl and cannot be extended"):
        room.align(extend="")
    put(room, "insurer", shuffled(TABLES["insurer"]))
    with pytest.raises(ModelError, match=r"has other ids \(or another order\) than when alignment"):
        room.train(JOB)


def test_alignments_are_listed(room: Room) -> None:
    file = str(room.federation.guest.file)
    room.federation.guest.write()
    assert CliRunner().invoke(main, ["alignments", file]).output == "there is no alignment yet\n"
    first = room.align(name="q4").alignment
    for name in HOSTS:
        room.federation.parties[name].settings["policy"]["alignment_days"] = "unlimited"
    second = room.align(join="left", engine="ecdh").alignment
    third = room.align(extend="q4").alignment
    shown = CliRunner().invoke(main, ["alignments", file]).output
    for text in (first.name, second.name, third.name, "bureau, insurer, registry", "left", "never"):
        assert text in shown
    printed = json.loads(CliRunner().invoke(main, ["alignments", "--json", file]).output)["alignments"]
    assert {one["name"] for one in printed} == {first.name, second.name, third.name}
    by_name = {one["name"]: one for one in printed}
    assert by_name[third.name]["extends"] == first.name
    assert by_name[second.name]["join"] == "left" and by_name[second.name]["rows"] == 160
    assert by_name[first.name]["keys"] == [["nfkc", "trim", "upper", "alnum"]]
    # A host sees its own.
    host = str(room.federation.parties["registry"].file)
    heads, *rows = CliRunner().invoke(main, ["alignments", host]).output.splitlines()
    shown = [dict(zip(heads.split("\t"), row.split("\t"), strict=True)) for row in rows]
    many = {one["alignment"]: (one["rows"], one["known"]) for one in shown}
    known = (kept(room, "registry", second.name).rows >= 0).sum()
    assert many[first.name] == (str(len(first.rows)), "")
    assert many[second.name] == ("160", str(known)) and 0 < known < 160
    # The newest of a name is the one that is trained on.
    store = Store(room.federation.guest.store)
    found = guest_alignment(room.site("insurer"), store, "q4")
    assert found.name == third.name
    bad = CliRunner().invoke(main, ["align", file, "--name", "Q 4"])
    assert bad.exit_code == 2 and "--name must be up to 40 lower-case letters" in bad.output


def test_all_engines_match_the_same_rows(room: Room) -> None:
    for name in ("registry", "bureau"):
        party = room.federation.parties[name]
        party.settings["policy"]["engines"] = ["ecdh", "ot", "vole"]
        party.write()
    tables = with_two_keys(room)
    write_table(room.folder / "new.csv", tables["new"])
    found = [
        sorted(joined(room, tables, room.align(engine=engine, join=join).alignment.name), key=str)
        for join in ("inner", "left")
        for engine in ("ecdh", "ot", "vole")
    ]
    inner, left = found[:3], found[3:]
    assert inner[1:] == inner[:1] * 2 and left[1:] == left[:1] * 2 and inner[0] != left[0]
    latest = Store(room.federation.guest.store).latest("alignment")
    assert kept(room, "registry", latest).engine == "vole"


def test_the_check_of_a_policy_tells_for_how_long_alignments_are_of_use(room: Room) -> None:
    party = room.federation.parties["registry"]
    party.settings["policy"]["alignment_days"] = 90
    party.write()
    (room.folder / "job.toml").write_text(toml(JOB))
    done = CliRunner().invoke(main, ["policy", "check", str(room.folder / "job.toml"), str(party.file)])
    assert done.exit_code == 0, done.output
    assert "alignment_days = 90" in done.output


def numbered_tables(room: Room, host_ids: list[str]) -> None:
    """The guest's ids are 10, 20, ..., the registry's as given, the bureau has all of them as floats."""
    rng, rows = random.Random(1), len(host_ids)
    ids = [str(10 * i) for i in range(1, rows + 1)]
    numbers, halves = [repr(rng.gauss(0, 1)) for _ in ids], ["a", "b"] * (rows // 2)
    label = ["0", "1"] * (rows // 2)
    put(room, "insurer", {"plate": ids, "density": numbers, "area": halves, "claim": label})
    put(room, "registry", {"registration": host_ids, "power": numbers, "brand": halves})
    put(
        room,
        "bureau",
        {"plate_no": [f"{i}.0" for i in ids], "driver_age": numbers, "occupation": halves},
    )


def test_numbers_that_one_party_has_as_floats(room: Room) -> None:
    numbered_tables(room, [f"{i}.0" for i in range(1, 601)])
    done = room.align()
    assert sorted(done.alignment.rows) == list(range(60))
    # A batch is read in the same way.
    data_of(room, "insurer")["duplicates"] = "keep"
    name = room.train({**JOB, "secureboost": {**JOB["secureboost"], "trees": 1}})
    batch = {"plate": ["1.0E1", "2.00", "10.0", "10"], "density": ["1"] * 4, "area": ["a"] * 4}
    write_table(room.folder / "new.csv", batch)
    assert room.score(name).unknown == {"registry": 0, "bureau": 1}
    batch["plate"][0] = "1.0E2"
    write_table(room.folder / "new.csv", batch)
    with pytest.raises(DataError, match=r"new.csv: 1 row has a number as id of which digits are lost"):
        room.score(name)


def test_different_ids_that_a_rule_makes_equal_end_the_job_at_their_owner(room: Room) -> None:
    ids = [f"{10 * i}" for i in range(1, 59)]
    numbered_tables(room, [*ids, "5-90", "59-0"])
    with pytest.raises(PeerStopped, match="registry stopped the job: a problem in its own table"):
        room.align()
    numbered_tables(room, [*ids, "590", "600"])
    table = {"plate": [*ids, "5-90", "59-0"], "density": ["1"] * 60, "claim": ["0", "1"] * 30}
    put(room, "insurer", {**table, "area": ["a", "b"] * 30})
    data_of(room, "insurer")["duplicates"] = "keep"
    with pytest.raises(DataError, match=r"makes different ids equal.* in 2 rows \(rows 60, 61\)"):
        room.align()
    data_of(room, "insurer")["merging"] = "allow"
    assert len(room.align().alignment.rows) == 60
    assert room.said["insurer"].has("normalise makes different ids equal in 2 rows: taken for spellings")


def test_what_a_dry_run_finds_is_said_by_both_sides_of_an_alignment(room: Room) -> None:
    table = {name: list(cells) for name, cells in TABLES["registry"].items()}
    table["registration"][0] = "Mar-04"
    put(room, "registry", table)
    room.align()
    (line,) = [line for line in room.said["registry"].lines if "what a spreadsheet makes" in line]
    assert line.startswith("note: table.csv: id column 'registration', rows: 1 with what a spreadsheet")
    assert not room.said["insurer"].has("spreadsheet") and not room.said["bureau"].has("spreadsheet")


def test_two_alignments_of_one_name_at_once_are_one(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The later one neither overwrites the other nor begins before it is known how that ends."""
    monkeypatch.setattr(alignment, "stamp", lambda run: "same")
    kept_by_host: list[str] = []
    save = alignment_host.save_alignment

    def keep(store: Store, made: Alignment) -> None:
        if store.root == room.federation.parties["registry"].store:
            kept_by_host.append(made.name)
        save(store, made)

    monkeypatch.setattr(alignment_host, "save_alignment", keep)

    async def at_once() -> list[object]:
        plan, show = alignment.Plan(), room.said["insurer"]
        works = [alignment.align(room.site("insurer"), plan, wait=10, show=show) for _ in range(2)]
        return await asyncio.gather(*works, return_exceptions=True)

    ends = asyncio.run(at_once())
    assert sorted(isinstance(end, Exception) for end in ends) == [False, True]
    (refused,) = (end for end in ends if isinstance(end, Exception))
    assert "alignment same is at work already" in str(refused)
    assert kept_by_host == ["same"]
    with pytest.raises(PeerStopped, match="the alignment that the guest names exists already"):
        room.align()
    assert kept_by_host == ["same"]


def test_an_alignment_that_is_extended_keeps_where_it_began(room: Room) -> None:
    first = room.align(name="base").alignment.name
    second = room.align(name="more", extend=first).alignment.name
    third = room.align(name="most", extend=second).alignment.name
    assert [kept(room, "registry", name).origin for name in (first, second, third)] == [
        None,
        first,
        first,
    ]


def test_all_that_is_random_comes_from_the_runs(room: Room) -> None:
    more = {"diagnose": True, "kept_key_days": 9, "engines": ["ecdh", "ot", "vole"]}
    for name in HOSTS:
        room.federation.parties[name].settings["policy"] |= more
    with nothing_from_the_system() as begun:
        for join, engine in (("inner", "vole"), ("left", "ot"), ("left", "ecdh")):
            room.align(join=join, engine=engine, diagnose=True)
        made = room.align(extend="", engine="ecdh").alignment
    assert len(begun) == 4 * 3
    stores = [room.site(name).store for name in ("insurer", *HOSTS)]
    assert len({load_alignment(store, made.name).key for store in stores}) == 3
