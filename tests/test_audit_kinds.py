"""Further kinds of runs that are replayed by their parties: batches, projects, tables, screenings."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audited import AuditedRoom
from federation import JOB, Federation, make_tables
from paillier_key import one_key
from room import HOSTS
from test_drawn_jobs import RULES

from vfl.errors import PeerLost
from vfl.jobs import oneway, resume, screening
from vfl.jobs.evidence import find_evidence
from vfl.jobs.oneway import TableRequest
from vfl.party.config import Job

ALL = ("insurer", *HOSTS)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[AuditedRoom]:
    """Parties that have aligned, of which the guest has claims, too."""
    tables = make_tables(400)
    federation = Federation(tmp_path_factory.mktemp("kinds"), keys, guest_listens=True, tables=tables)
    for name in HOSTS:
        federation.parties[name].settings["policy"] = RULES
        federation.parties[name].settings["glm"] = {"bins": 4}
    made = AuditedRoom(federation)
    with pytest.MonkeyPatch.context() as patch:
        made.patch(patch)
        for module in (oneway, screening):
            patch.setattr(module, "hosts_of", made.hosts_of)
        made.align(name="first")
        yield made


@pytest.fixture(scope="module")
def model(room: AuditedRoom) -> str:
    return room.train(JOB)


def replay_all(room: AuditedRoom, subject: str, parties: tuple[str, ...] = ALL, **more: Any) -> None:
    """These parties replay a run to its last byte, and each of their peers finds that it is all."""
    for name in parties:
        done = room.replay(name, subject, workers=2, **more)
        assert done.complete and not done.ended
        for peer, shown in done.shown.items():
            checked = room.check(peer, room.certify(name, done, peer))
            assert checked.complete and checked.received == shown.of > 0
            assert checked.certificate.checked == ["secret", "settings", "table"]


def last_run(room: AuditedRoom, name: str = "insurer") -> str:
    return find_evidence(room.there(name).store)[-1].run


def folder_of(room: AuditedRoom, name: str) -> dict[str, bytes]:
    """All that a party's store holds."""
    root = room.there(name).store.root
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# --- Batches. ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["ecdh", "vole"])
def test_both_sides_of_a_batch_replay(room: AuditedRoom, model: str, engine: str) -> None:
    room.score(model, explain=engine == "ecdh", force=True)
    replay_all(room, model)
    relies = room.replay("insurer", model).shown["bureau"].relies
    assert relies == [f"on the half of {model} that an earlier run has left"]


# --- Tables by factors. -----------------------------------------------------------------------------


def table(room: AuditedRoom, *by: str, **more: Any) -> None:
    request = TableRequest.of(by, **more)
    with one_key():
        asyncio.run(oneway.oneway(room.site("insurer"), request, wait=1, show=room.said["insurer"]))


@pytest.mark.parametrize(
    ("by", "encryption", "hosts"),
    [
        (["registry:brand"], "lattice", ("registry",)),
        (["registry:power", "insurer:density"], "paillier", ("registry",)),
        (["registry:brand", "bureau:driver_age"], None, HOSTS),
    ],
)
def test_tables_replay(
    room: AuditedRoom, by: list[str], encryption: Any, hosts: tuple[str, ...]
) -> None:
    table(room, *by, encryption=encryption)
    run = last_run(room)
    replay_all(room, run, ("insurer", *hosts))
    table(room, *by, encryption=encryption)  # cut as before, which the store knows
    replay_all(room, run, ("insurer", *hosts))
    replay_all(room, last_run(room), ("insurer", *hosts))


def test_a_table_of_what_a_model_expects_replays(room: AuditedRoom, model: str) -> None:
    table(room, "registry:brand", model=model, share=True)
    run = last_run(room)
    replay_all(room, run, ("insurer", "registry"))
    relies = room.replay("insurer", run).shown["registry"].relies
    assert relies == [f"on what {model} expects of rows that were held out of its training"]


# --- Screenings. ------------------------------------------------------------------------------------

SCREENED = {**JOB, "screen": {"vif": True, "correlations": True, "tell_hosts": True}}


def screen(room: AuditedRoom) -> None:
    job, show = Job.model_validate(SCREENED), room.said["insurer"]
    asyncio.run(screening.screen(room.site("insurer"), job, wait=1, show=show))


def test_screenings_replay(room: AuditedRoom) -> None:
    screen(room)
    before = {name: folder_of(room, name) for name in ALL}
    replay_all(room, last_run(room))
    assert {name: folder_of(room, name) for name in ALL} == before  # nothing is counted or kept anew
