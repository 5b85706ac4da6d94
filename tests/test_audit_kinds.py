"""Further kinds of runs that are replayed by their parties: batches, projects, tables, screenings."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audited import AuditedRoom
from federation import JOB, Federation, make_tables
from room import HOSTS
from test_drawn_jobs import RULES

from vfl.errors import PeerLost
from vfl.jobs import oneway, resume, screening

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


# --- Batches. ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["ecdh", "vole"])
def test_both_sides_of_a_batch_replay(room: AuditedRoom, model: str, engine: str) -> None:
    room.score(model, explain=engine == "ecdh", force=True)
    replay_all(room, model)
    relies = room.replay("insurer", model).shown["bureau"].relies
    assert relies == [f"on the half of {model} that an earlier run has left"]
