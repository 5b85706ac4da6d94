"""Batches that are scored by lookups in sealed directories: as by an alignment, with less told."""

import asyncio
import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drawn import nothing_from_the_system
from federation import GLM_JOB, JOB, Federation, make_tables, write_table
from room import HOSTS, Room
from test_alignment_jobs import two_keys
from test_score_jobs import KEEP, before_call, run

from vfl.arrays import Bytes
from vfl.crypto.randomness import OF_SYSTEM
from vfl.errors import ConfigError, PeerError, PeerLost, PeerStopped
from vfl.jobs import lookup_limits, lookups, resume, scoring, sealed_scores
from vfl.jobs.publishing import publish
from vfl.jobs.sealed_host import SealedHost
from vfl.jobs.tariff import TariffRequest, write_tariff
from vfl.models.halves import HostHalf
from vfl.models.kinds import load_half
from vfl.models.linear_parts import LinearPacker
from vfl.models.tree_parts import TreesAnswers
from vfl.party.directories import name_of
from vfl.protocols.common import batches
from vfl.protocols.common.batches import ScoreRows, ScoreStart
from vfl.protocols.linear import scoring as glm_scoring
from vfl.protocols.lookup.layout import PartLayout
from vfl.protocols.trees import scoring as protocol
from vfl.protocols.trees.scoring import Directions, MissingDirections

ROWS = 24  # of a part in these tests
RULES = {  # of linear models
    "insurer": {"splines": {"density": 2}, "min_level_rows": 5},
    "registry": {"polynomials": {"power": 2}, "missing": "level", "min_level_rows": 5},
    "bureau": {
        "bands": {"driver_age": [25, 40, 60]},
        "interactions": [["driver_age", "occupation"]],
        "min_level_rows": 5,
    },
}

Trained = tuple[Room, dict[str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Trained]:
    """Parties that have aligned and trained trees and a linear model, in this process."""
    patch = pytest.MonkeyPatch()
    room = Room(Federation(tmp_path_factory.mktemp("sealed"), keys, guest_listens=True))
    room.patch(patch)
    patch.setattr(resume, "_PAUSE", 0.0)
    for module in (batches, protocol, glm_scoring, scoring, sealed_scores):
        patch.setattr(module, "ROWS", ROWS)
    for name in HOSTS:
        room.federation.parties[name].settings["policy"]["directories"] = True
    for name, rules in RULES.items():
        room.federation.parties[name].settings["glm"] = rules
    room.align()
    linear = {**GLM_JOB, "glm": {**GLM_JOB["glm"], "alpha": 0.01}}
    models = {"trees": room.train(JOB), "linear": room.train(linear)}
    yield room, models
    patch.undo()


@pytest.fixture
def sealed(trained: Trained) -> Iterator[Trained]:
    """The same, with a guest that scores by lookups."""
    settings = trained[0].federation.guest.settings
    settings["score"] = {"lookup": "sealed"}
    yield trained
    del settings["score"]


@pytest.mark.parametrize("model", ["trees", "linear"])
@pytest.mark.parametrize("explain", [False, True])
def test_scores_are_those_of_an_alignment(trained: Trained, model: str, explain: bool) -> None:
    room, models = trained
    whole = room.reference(models[model], "aligned.csv", explain=explain)
    aligned = {name: room.said[name].lines for name in HOSTS}
    room.federation.guest.settings["score"] = {"lookup": "sealed"}
    try:
        done = room.score(models[model], out="sealed.csv", explain=explain)
    finally:
        del room.federation.guest.settings["score"]
    assert (room.folder / "sealed.csv").read_bytes() == whole
    assert 0 < done.unknown["registry"] < done.rows
    assert room.asked == dict.fromkeys(HOSTS, 0)  # no row was named
    assert any("asks to score" in line for line in aligned["bureau"])
    assert room.said["bureau"].has(f"insurer asks to look rows up for {models[model]}")


def test_an_edited_half_scores_by_the_directories_of_the_trained_one(
    trained: Trained,
) -> None:
    room, models = trained
    folder = room.folder
    (folder / "edits.toml").write_text('[base]\ntarget = "actual"\ndigits = 2\n')
    party = room.site("insurer").party
    out, request = folder / "tariff.xlsx", TariffRequest(folder / "edits.toml")
    made = write_tariff(party, models["linear"], out, request, force=True)
    assert made.edited_from == models["linear"] != made.model
    before = room.reference(models["linear"], "before.csv")
    whole = room.reference(made.model, "aligned.csv")
    assert whole != before
    room.federation.guest.settings["score"] = {"lookup": "sealed"}
    try:
        room.score(made.model, out="sealed.csv")
    finally:
        del room.federation.guest.settings["score"]
    assert (folder / "sealed.csv").read_bytes() == whole
    assert room.said["bureau"].has(f"insurer asks to look rows up for {models['linear']}")


def test_a_run_that_is_killed_is_gone_on_with(sealed: Trained) -> None:
    room, models = sealed
    whole = room.reference(models["trees"], "whole.csv")
    asked = lookups_of(room)
    run(room, models["trees"], before_call(2, *KEEP, after=True), out="killed.csv")
    before = lookups_of(room)
    again = room.score(models["trees"], out="killed.csv")
    assert again.resumed_from == 2 * ROWS
    assert (room.folder / "killed.csv").read_bytes() == whole
    # What is done is not asked about again; nor are rows that come twice within a part.
    assert lookups_of(room) - before <= asked - 2 * ROWS + ROWS // 2
    assert room.kept == []


def lookups_of(room: Room) -> int:
    """Ids that were looked up today at the registry."""
    usage = json.loads((room.federation.parties["registry"].store / "usage.json").read_text())
    return int(usage["guests"]["insurer"].get("scored_rows", 0))


def test_a_minutes_limit_is_waited_for_and_a_days_ends_the_run(
    sealed: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, models = sealed
    whole = room.reference(models["trees"], "limited.csv")
    policy = room.federation.parties["registry"].settings["policy"]
    waited: list[float] = []

    async def no_time(seconds: float) -> None:
        waited.append(seconds)
        for rates in lookup_limits._rates.values():  # as after a minute
            rates._taken.clear()

    try:
        policy["max_lookups_a_minute"] = 10
        lookup_limits._rates.clear()
        with monkeypatch.context() as patch:
            patch.setattr(sealed_scores, "_wait_out", no_time)
            room.score(models["trees"], out="limited.csv")
        assert (room.folder / "limited.csv").read_bytes() == whole
        assert waited and 0 < max(waited) <= 60
        assert room.said["insurer"].has("rule max_lookups_a_minute = 10 of [policy]")
        policy["max_lookups_a_minute"] = "unlimited"
        policy["max_scored_rows_a_day"] = lookups_of(room) + 2 * ROWS + 5
        with pytest.raises(PeerStopped, match="max_scored_rows_a_day") as stopped:
            room.score(models["trees"], out="limited.csv")
        assert stopped.value.until_tomorrow
        assert room.said["insurer"].has("goes on after them when the day is over (00:00 UTC)")
        del policy["max_scored_rows_a_day"]
        assert room.score(models["trees"], out="limited.csv").resumed_from >= ROWS
        assert (room.folder / "limited.csv").read_bytes() == whole
    finally:
        policy.pop("max_scored_rows_a_day", None)
        policy.pop("max_lookups_a_minute", None)
        lookup_limits._rates.clear()


def test_a_host_that_hides_names_its_rule_and_a_damaged_file_is_fetched_again(sealed: Trained) -> None:
    room, models = sealed
    whole = room.reference(models["trees"], "damaged.csv")
    folder = room.folder / "vfl-store" / "directories"
    for damage in ("cut", "changed", "gone"):
        (entries,) = folder.glob(f"{name_of(models['trees'], 'registry')}.*.entries")
        content = entries.read_bytes()
        if damage == "gone":
            entries.unlink()
        else:
            entries.write_bytes(content[:-1] if damage == "cut" else bytes(len(content)))
        room.score(models["trees"], out="damaged.csv")
        assert (room.folder / "damaged.csv").read_bytes() == whole
    policy = room.federation.parties["bureau"].settings["policy"]
    policy["directories"] = False
    try:
        with pytest.raises(PeerStopped, match="bureau stopped the job: a sealed directory breaks rule"):
            room.score(models["trees"], out="damaged.csv")
    finally:
        policy["directories"] = True


def test_several_keys_match_as_by_an_alignment(
    tmp_path_factory: pytest.TempPathFactory, keys: Path
) -> None:
    tables = two_keys()
    plates = tables["new"]["plate"]
    for row in range(0, len(plates), 3):  # rows that a host's row may be taken by in two ways
        tables["new"]["vin"][row] = ""
        plates[row] = plates[row - 1] if row % 2 else plates[row]
    room = Room(Federation(tmp_path_factory.mktemp("keys"), keys, guest_listens=True))
    with pytest.MonkeyPatch.context() as patch:
        room.patch(patch)
        for module in (batches, protocol, scoring, sealed_scores):
            patch.setattr(module, "ROWS", ROWS)
        for name, party in room.federation.parties.items():
            write_table(party.table, tables[name])
            data = party.settings["data"]
            data["fallback"] = [{"id": data["id"]}]
            data["id"] = "vin"
            if name in HOSTS:
                party.settings["policy"]["directories"] = True
                data["empty"] = "drop"
        write_table(room.folder / "new.csv", tables["new"])
        room.align()
        model = room.train({**JOB, "secureboost": {**JOB["secureboost"], "trees": 2}})
        aligned = room.score(model, out="aligned.csv")
        room.federation.guest.settings["score"] = {"lookup": "sealed"}
        done = room.score(model, out="sealed.csv")
        assert (room.folder / "sealed.csv").read_bytes() == (room.folder / "aligned.csv").read_bytes()
        assert done.unknown == aligned.unknown
        with by_both(room):
            assert room.score(model, out="both.csv").unknown == aligned.unknown
        assert (room.folder / "both.csv").read_bytes() == (room.folder / "aligned.csv").read_bytes()
        room.federation.parties["registry"].settings["data"]["fallback"] = []
        publish(room.site("registry"), model, room.said["registry"])
        with pytest.raises(ConfigError, match="registry has 1 key, the guest 2: set id and fallback"):
            room.score(model, out="sealed.csv")


def test_ids_of_two_columns_and_rows_that_hosts_did_not_know_in_training(
    tmp_path_factory: pytest.TempPathFactory, keys: Path
) -> None:
    """A left join: rows that the registry does not know have trained as well."""
    tables = make_tables(200)
    tables["registry"] = {name: cells[60:] for name, cells in tables["registry"].items()}
    room = Room(Federation(tmp_path_factory.mktemp("left"), keys, guest_listens=True))
    with pytest.MonkeyPatch.context() as patch:
        room.patch(patch)
        for module in (batches, protocol, glm_scoring, scoring, sealed_scores):
            patch.setattr(module, "ROWS", ROWS)
        for name, party in room.federation.parties.items():
            data = party.settings["data"]
            for table in (tables[name], *([tables["new"]] if name == "insurer" else [])):
                ids = [re.sub("[^A-Z0-9]", "", cell.upper()) for cell in table.pop(data["id"])]
                table.update(front=[one[:4] for one in ids], back=[one[4:] for one in ids])
            data["id"] = ["front", "back"]
            write_table(party.table, tables[name])
            if name in HOSTS:
                party.settings["policy"]["directories"] = True
        write_table(room.folder / "new.csv", tables["new"])
        room.align(join="left")
        for job in (JOB, {**GLM_JOB, "glm": {"tolerance": 0.01}}):
            model = room.train(job)
            aligned = room.score(model, out="aligned.csv", explain=True)
            assert max(aligned.unknown.values()) > 5
            room.federation.guest.settings["score"] = {"lookup": "sealed"}
            assert room.score(model, out="sealed.csv", explain=True).unknown == aligned.unknown
            with by_both(room):
                assert room.score(model, out="both.csv", explain=True).unknown == aligned.unknown
            del room.federation.guest.settings["score"]
            whole = (room.folder / "aligned.csv").read_bytes()
            assert (room.folder / "sealed.csv").read_bytes() == whole
            assert (room.folder / "both.csv").read_bytes() == whole


def test_a_host_does_not_learn_by_broken_parts_what_was_looked_up(
    sealed: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, models = sealed
    real, usage = LinearPacker.pack, room.federation.parties["registry"].store / "usage.json"

    def broken(self: LinearPacker, rows: slice) -> Bytes:
        parts = real(self, rows)
        parts.view("<f8")[:, 0] = np.nan
        return parts

    def used() -> int:
        counts: dict[str, int] = json.loads(usage.read_text())["guests"]["insurer"]
        return counts.get("scored_rows", 0)

    before = used()
    room.score(models["linear"], fresh=True)
    asked, before = used() - before, used()
    with monkeypatch.context() as patch:
        patch.setattr(LinearPacker, "pack", broken)
        publish(room.site("registry"), models["linear"], room.said["registry"])
    room.heard["registry"].clear()
    with pytest.raises(PeerError, match="registry broke the protocol: its directory holds parts"):
        room.score(models["linear"], out="broken.csv")
    assert not room.heard["registry"]  # for it the job ended as ever
    assert used() - before == asked  # and all rows were looked up
    before = used()
    room.heard["bureau"].clear()
    with by_both(room), pytest.raises(PeerError, match="its directory holds parts"):
        room.score(models["linear"], out="broken.csv")
    assert not room.heard["registry"] and not room.heard["bureau"]
    assert used() - before == asked
    assert not (room.folder / "broken.csv").exists()
    assert room.site("insurer").store.names("batch") == []  # so that all are again
    publish(room.site("registry"), models["linear"], room.said["registry"])


@contextlib.contextmanager
def by_both(room: Room, aligned: str = "bureau") -> Iterator[None]:
    """A guest that looks rows up, but at one of its hosts."""
    settings = room.federation.guest.settings
    before = settings.pop("score", None)
    settings["score"] = {"lookup": "sealed"}
    settings["peers"][aligned]["lookup"] = "aligned"
    room.federation.parties[aligned].settings["policy"]["directories"] = False
    try:
        yield
    finally:
        del settings["score"], settings["peers"][aligned]["lookup"]
        if before is not None:
            settings["score"] = before
        room.federation.parties[aligned].settings["policy"]["directories"] = True


@pytest.mark.parametrize("aligned", HOSTS)
@pytest.mark.parametrize(("model", "explain"), [("trees", True), ("linear", True), ("linear", False)])
def test_one_host_is_looked_up_in_and_the_other_asked_row_by_row(
    trained: Trained, model: str, explain: bool, aligned: str
) -> None:
    room, models = trained
    reference = room.score(models[model], out="aligned.csv", explain=explain)
    asked = room.asked[aligned]
    assert reference.lookup == dict.fromkeys(HOSTS, "aligned")
    (sealed,) = set(HOSTS) - {aligned}
    with by_both(room, aligned):
        done = room.score(models[model], out="both.csv", explain=explain)
    whole, both = ((room.folder / name).read_bytes() for name in ("aligned.csv", "both.csv"))
    assert both == whole and done.unknown == reference.unknown
    assert done.lookup == {aligned: "aligned", sealed: "sealed"}
    assert room.asked == {aligned: asked, sealed: 0}
    assert room.said["insurer"].has(f"{aligned} sees which of its rows are in the batch")
    assert room.said[sealed].has("asks to look rows up") and room.said[aligned].has("asks to score")
    assert not room.said[sealed].has("asks to score")


def test_a_batch_by_both_is_gone_on_with(trained: Trained) -> None:
    room, models = trained
    whole = room.reference(models["trees"], "whole.csv")
    with by_both(room):
        run(room, models["trees"], before_call(2, *KEEP, after=True), out="both.csv")
        assert room.score(models["trees"], out="both.csv").resumed_from == 2 * ROWS
        assert (room.folder / "both.csv").read_bytes() == whole
    # Who asks for lookups is told where there are none, and nobody is shown a row for it.
    guest = room.federation.guest.settings
    guest["score"] = {"lookup": "sealed"}
    policy = room.federation.parties["bureau"].settings["policy"]
    policy["directories"] = False
    try:
        with pytest.raises(PeerStopped, match="rule directories"):
            room.score(models["trees"], out="none.csv")
        guest["peers"]["registry"]["lookup"] = "aligned"
        with pytest.raises(PeerStopped, match="bureau stopped"):
            room.score(models["trees"], out="none.csv")
        assert room.asked == dict.fromkeys(HOSTS, 0)
        assert not room.said["registry"].has("asks to score")
    finally:
        del guest["score"]
        guest["peers"]["registry"].pop("lookup", None)
        policy["directories"] = True


def test_rows_of_a_host_that_no_tree_uses_are_looked_up_as_well() -> None:
    """Nobody asks for its directions, but the output says which rows it does not know."""
    found = [b"\x80", None, b"\x00", b"\x80", None]
    asked: list[slice] = []

    async def find(rows: slice) -> list[bytes | None]:
        asked.append(rows)
        return found[rows]

    async def run() -> None:
        host = SealedHost("registry", TreesAnswers("registry", PartLayout(b"\x00", (0,))), find, 5)
        await host.send(ScoreStart(b""))
        assert (await host.recv(MissingDirections)) == MissingDirections(b"", b"")
        for rows in (slice(0, 2), slice(2, 5)):
            assert (await host.unknown(rows)).tolist() == [part is None for part in found[rows]]
        # Of what was asked about nothing is looked up again; equal splits are answered once.
        again = SealedHost("registry", TreesAnswers("registry", PartLayout(b"\x40", (1, 0, 1))), find, 5)
        await again.send(ScoreStart(np.array([0, 2], "<u4").tobytes()))
        assert (await again.recv(MissingDirections)).same == bytes(8)
        await again.send(ScoreRows(np.arange(5, dtype="<u4").tobytes()))
        assert (await again.recv(Directions)).left == bytes([0b01001000])
        assert (await again.unknown(slice(0, 5))).sum() == 2
        assert asked == [slice(0, 2), slice(2, 5), slice(0, 5)] and again.fault is None
        with pytest.raises(PeerError, match=r"registry broke the protocol: .* without all splits"):
            await again.send(ScoreStart(np.array([3], "<u4").tobytes()))
            await again.recv(MissingDirections)

    asyncio.run(run())


def test_a_run_that_is_lost_after_a_fault_begins_anew(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a host that broke its directory would learn from where the next run begins what was found."""
    room, models = trained
    real = LinearPacker.pack

    def broken(self: LinearPacker, rows: slice) -> Bytes:
        return np.full_like(real(self, rows), 0xFF)  # no numbers

    room.score(models["linear"], fresh=True)
    for faulty in (False, True):
        with by_both(room, "registry"):
            if faulty:
                with monkeypatch.context() as patch:
                    patch.setattr(LinearPacker, "pack", broken)
                    publish(room.site("bureau"), models["linear"], room.said["bureau"])
            room.cut_after = 2
            with pytest.raises(PeerLost, match="the connection to registry broke"):
                room.score(models["linear"], out="lost.csv", fresh=True)
        assert bool(room.kept) != faulty
    publish(room.site("bureau"), models["linear"], room.said["bureau"])


def test_a_host_that_explains_no_more_opens_nothing_that_it_told_before(sealed: Trained) -> None:
    """What each column adds is in the guest's file still, and for rows that it has not looked up stays
    there."""
    room, models = sealed
    model, policy = models["linear"], room.federation.parties["registry"].settings["policy"]
    assert policy["explain"] and policy["show_names"]
    before = publish(room.site("registry"), model, room.said["registry"]).own
    assert before.directory.header.shown
    policy["explain"] = False
    try:
        half = load_half(room.site("registry").store, model, HostHalf)
        source = lookups._Source(
            room.site("registry"), half, "insurer", room.said["registry"], OF_SYSTEM
        )

        async def run() -> bytes | None:
            await source.open()  # which makes it anew
            try:
                assert not (await source.newest()).directory.header.shown
                return source.secret_of(bytes.fromhex(before.keys[-1].public))
            finally:
                await source.close()

        assert asyncio.run(run()) is None
        assert room.score(model, out="unexplained.csv").unknown
    finally:
        policy["explain"] = True
    publish(room.site("registry"), model, room.said["registry"])


@pytest.mark.parametrize("sealed", [[], ["registry"], HOSTS])
def test_all_that_is_random_comes_from_the_runs(trained: Trained, sealed: list[str]) -> None:
    room, models = trained
    settings = room.federation.guest.settings
    try:
        for name in sealed:
            settings["peers"][name]["lookup"] = "sealed"
        for model in models.values():
            with nothing_from_the_system() as begun:
                room.score(model, out="again.csv")
            assert {name for name, _ in begun} == {"insurer", *HOSTS}
    finally:
        for name in sealed:
            del settings["peers"][name]["lookup"]
