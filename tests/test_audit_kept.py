"""Runs that go on with what earlier ones have kept: they are replayed, and certificates name both."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from audited import AuditedRoom, make_room
from federation import write_table
from room import HOSTS

from vfl.errors import ModelError
from vfl.jobs.evidence import remove_evidence, tapes_of
from vfl.jobs.rerun import EvidenceDiffers
from vfl.protocols.align import answered

ALL = ("insurer", *HOSTS)
OTHERS = {"insurer": HOSTS, **dict.fromkeys(HOSTS, ("insurer",))}
KEY = "ids under a key"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[AuditedRoom]:
    """Parties whose hosts keep their keys, and that have aligned twice, with a batch between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answered, "LEAST", 30)
        made = make_room(tmp_path_factory.mktemp("kept") / "room", keys)
        for name in HOSTS:
            made.federation.parties[name].settings["policy"]["kept_key_days"] = 30
        made.patch(patch)
        for name in ("one", "two"):
            made.align(join="left", engine="ecdh", name=name)
        yield made


def run_of(room: AuditedRoom, name: str, subject: str) -> str:
    return room.runs(name, subject)[-1].run


def table_with(room: AuditedRoom, host: str, rows: int) -> None:
    """As many rows more at a host, fewer where it is below 0."""
    party, table = room.federation.parties[host], room.federation.tables[host]
    if rows < 0:
        changed = {head: cells[:rows] for head, cells in table.items()}
    else:
        changed = {head: [*cells, *cells[:rows]] for head, cells in table.items()}
        key = party.settings["data"]["id"]
        changed[key][len(table[key]) :] = [f"ZZ{number:02} NEW" for number in range(rows)]
    write_table(party.table, changed)


def test_a_run_under_the_key_of_an_earlier_one_replays(room: AuditedRoom) -> None:
    for name in ALL:
        first, second = (room.replay(name, subject, workers=2) for subject in ("one", "two"))
        for done in (first, second):
            assert done.complete and not done.ended
            for peer in OTHERS[name]:
                assert room.check(peer, room.certify(name, done, peer)).complete
        for peer in OTHERS[name]:
            before, shown = first.shown[peer], second.shown[peer]
            assert not before.took and not shown.relies
            what = f"a host's answers ({peer})" if name == "insurer" else KEY
            took = {one.what: one for one in shown.took}[what]
            assert (took.run, took.sha256) == (run_of(room, name, "one"), before.left[what])


def test_a_key_that_is_kept_no_more_is_there_for_the_replay(room: AuditedRoom) -> None:
    """With rows that came, whose store is made anew; then with one that is gone, which ends the key."""
    table_with(room, "registry", 5)
    room.align(join="left", engine="ecdh", name="three")
    table_with(room, "registry", -3)
    room.align(join="left", engine="ecdh", name="four")
    assert room.replay("registry", "four").complete
    table_with(room, "registry", 5)
    done = room.replay("registry", "three")
    assert done.complete
    (took,) = (one for one in done.shown["insurer"].took if one.what == KEY)
    assert took.run == run_of(room, "registry", "two")
    for subject in ("three", "four"):
        assert room.replay("insurer", subject).complete
    table_with(room, "registry", 0)


def test_what_an_earlier_run_has_left_is_kept_with_the_run_and_goes_with_it(room: AuditedRoom) -> None:
    room.align(join="left", engine="ecdh", name="five")
    store, (found,) = room.there("bureau").store, room.runs("bureau", "five")
    kept = [path for path in tapes_of(store, found.run) if "._kept-" in path.name]
    assert len(kept) == 1
    content = kept[0].read_bytes()
    kept[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(EvidenceDiffers, match="what an earlier run has left is damaged: .* is not what was"):
        room.replay("bureau", "five")
    kept[0].unlink()
    with pytest.raises(ModelError, match=r"what an earlier run has left for run \w+ is not there"):
        room.replay("bureau", "five")
    remove_evidence(store, found.run)
    assert not tapes_of(store, found.run)
