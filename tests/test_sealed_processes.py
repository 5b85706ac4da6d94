"""Sealed directories between processes: published, fetched, looked up in, compared afterwards."""

import asyncio
import json
from pathlib import Path

import pytest
from commands import command
from federation import Federation, kill
from silent import Silent
from test_host_lookups import find

from vfl.errors import PeerLost, PeerUnreachable
from vfl.jobs.connect import Site
from vfl.jobs.host_lookups import HostLookups, Meeting, Patience
from vfl.jobs.names import resolve_model
from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half
from vfl.party.audit import compare, tables
from vfl.party.config import load_party


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Federation:
    """Parties that have trained, and scored a batch by an alignment."""
    federation = Federation(tmp_path_factory.mktemp("processes"), keys)
    for name in ("registry", "bureau"):
        federation.parties[name].settings["policy"]["directories"] = True
    federation.serve()
    federation.guest.align().ok()
    federation.guest.train().ok()
    federation.guest.score(out="aligned.csv").ok()
    return federation


def ledger(federation: Federation, name: str) -> Path:
    return federation.parties[name].store / "ledger"


def test_a_batch_by_lookups_between_processes(made: Federation) -> None:
    guest, registry = made.guest, made.parties["registry"]
    folder = registry.folder

    def publish(*more: str) -> dict[str, object]:
        return command("publish", str(registry.file), "--model", "claims", "--json", *more).ok().json

    first = publish()
    assert (first["new_key"], first["unchanged"]) == (True, False)
    assert first["entries"] == first["rows"] == len(made.tables["registry"]["registration"])
    again = publish()
    assert (again["parts_written"], again["new_key"], again["unchanged"]) == (0, False, True)
    listed = command("directories", str(registry.file), "--json").ok().json["directories"]
    assert [(one["peer"], one["version"]) for one in listed] == [("insurer", again["version"])]
    assert publish("--new-key")["new_key"]

    guest.settings["score"] = {"lookup": "sealed"}
    done = guest.score(out="sealed.csv").ok()
    aligned, sealed = ((guest.folder / name).read_bytes() for name in ("aligned.csv", "sealed.csv"))
    assert sealed == aligned
    said = done.err
    assert "registry's directory is of " in said and "fetched" in said
    listed = command("directories", str(guest.file), "--json").ok().json["directories"]
    assert {one["peer"] for one in listed} == {"registry", "bureau"}
    # Nothing is fetched twice, and what the host's files say of the guest's rows is their number.
    assert "fetched" not in guest.score(out="again.csv").ok().err
    made.serving["registry"].until("answered")
    distinct = len(set(made.tables["new"]["plate"]))
    for name in ("registry", "bureau"):
        found = compare.compare(ledger(made, "insurer"), ledger(made, name))
        assert (found.differences, found.in_flight) == ([], [])
        totals = tables.totals(tables.rows(ledger(made, name)))
        asked = {one.type: (one.messages, one.rows) for one in totals if one.task == "lookup"}
        assert asked["LookUp"] == asked["LookedUp"] and asked["LookUp"][1] == 2 * distinct
    usage = json.loads((registry.store / "usage.json").read_text())
    assert usage["guests"]["insurer"]["jobs"] == 3  # lookups count by themselves

    assert publish("--withdraw").keys() == {"model", "withdrawn"}
    line = guest.score(out="none.csv").failed(9, "was withdrawn by registry on")
    assert "the directory of model claims-" in line
    assert "withdrawn" in command("directories", str(registry.file)).ok().out
    assert (folder / "vfl-store" / "directories").is_dir()


def test_a_host_that_is_killed_is_looked_up_in_again(made: Federation) -> None:
    """Over real sessions: one that stays open, beside a training, and another after a kill."""
    guest, registry = made.guest, made.parties["registry"]
    command("publish", str(registry.file), "--model", "claims").ok()
    registry.settings["party"]["listen"] = guest.settings["peers"]["registry"]["address"]
    guest.write()
    site = Site.open(load_party(guest.file))
    half = load_half(site.store, resolve_model(site.store, "claims"), GuestHalf)
    plates = [plate.replace("-", "").upper().encode() for plate in made.tables["new"]["plate"][:20]]
    ids = [[len(plate).to_bytes(4, "big") + plate] for plate in plates]

    async def run() -> None:
        async with Meeting(site, Silent()).open(["registry"]) as meeting:
            found = HostLookups(meeting, half, "registry", Silent(), Patience(20, 20))
            async with found.open():
                await found.wait(60)
                parts = await find(found, ids)
                assert set(parts) > {None}
                training = guest.start_train()
                while training.process.poll() is None:
                    assert await find(found, ids[:3]) == parts[:3]
                    await asyncio.sleep(0.02)  # so that the training gets on
                training.wait().ok()
                assert await find(found, ids) == parts  # in a minute that is not written down yet
                kill(made.serving["registry"])
                with pytest.raises((PeerLost, PeerUnreachable)):
                    while True:
                        await find(found, ids)
                made.serving["registry"] = registry.start("serve")
                await found.wait(60)
                assert await find(found, ids) == parts

    asyncio.run(run())
    made.serving["registry"].until("job ended")
    compared = compare.compare(ledger(made, "insurer"), ledger(made, "registry"))
    assert compared.differences == []
    (lost,) = compared.lost
    assert "LookedUp in the session" in lost and "received from registry" in lost
    assert lost.endswith("registry's process ended before it had written its last minute down")


def test_one_host_is_looked_up_in_and_the_other_asked_between_processes(made: Federation) -> None:
    guest, registry = made.guest, made.parties["registry"]
    command("publish", str(registry.file), "--model", "claims").ok()

    def asked() -> dict[tuple[str, str], int]:
        """How many rows each host's ledger has of the ways in which they are scored."""
        totals = {
            name: tables.totals(tables.rows(ledger(made, name))) for name in ("registry", "bureau")
        }
        kinds = ("LookUp", "ScoreRows")
        return {
            (name, kind): sum(one.rows or 0 for one in found if one.type == kind)
            for name, found in totals.items()
            for kind in kinds
        }

    guest.settings["score"] = {}
    guest.settings["peers"]["registry"]["lookup"] = "sealed"
    before = asked()
    done = guest.score(out="both.csv").ok()
    both, aligned = ((guest.folder / name).read_bytes() for name in ("both.csv", "aligned.csv"))
    assert both == aligned
    assert done.json["lookup"] == {"registry": "sealed", "bureau": "aligned"}
    assert "bureau sees which of its rows are in the batch" in done.err
    made.serving["registry"].until("answered")
    del guest.settings["peers"]["registry"]["lookup"], guest.settings["score"]
    grown = {what: many - before[what] for what, many in asked().items()}
    assert grown["registry", "ScoreRows"] == grown["bureau", "LookUp"] == 0
    assert grown["registry", "LookUp"] == len(set(made.tables["new"]["plate"]))
    assert grown["bureau", "ScoreRows"] > 0


def test_commands_about_directories_say_what_is_wrong(made: Federation, tmp_path: Path) -> None:
    registry, guest = made.parties["registry"].file, made.guest.file
    command("publish", str(guest), "--model", "claims").failed(2, "host")
    command("publish", str(registry), "--model", "nothing").failed(5, "no model nothing")
    both = ("--new-key", "--withdraw")
    command("publish", str(registry), "--model", "claims", *both).failed(2, "exclude each other")
    made.parties["registry"].settings["policy"]["directories"] = False
    made.parties["registry"].write()
    done = command("publish", str(registry), "--model", "claims").ok()
    assert "no guest gets the directory until it is true" in done.err
