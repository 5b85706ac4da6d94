"""Runs that go on with what earlier ones have kept: they are replayed, and certificates name both."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from audited import AuditedRoom, make_room
from click.testing import CliRunner
from federation import write_table
from room import HOSTS

from vfl.cli import main
from vfl.errors import ModelError
from vfl.jobs.certificate import Covered, Replayed
from vfl.jobs.certificates import RunTogether, hold_together
from vfl.jobs.evidence import remove_evidence, tapes_of
from vfl.jobs.rerun import EvidenceDiffers
from vfl.net.replay import Sent
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
    with pytest.raises(
        EvidenceDiffers, match=r"what an earlier run has left is damaged: .* is not what was"
    ):
        room.replay("bureau", "five")
    kept[0].unlink()
    with pytest.raises(ModelError, match=r"what an earlier run has left for run \w+ is not there"):
        room.replay("bureau", "five")
    remove_evidence(store, found.run)
    assert not tapes_of(store, found.run)


# --- Certificates that are held together. ------------------------------------------------------------

Certificates = dict[tuple[str, str, str], Path]


@pytest.fixture(scope="module")
def certified(room: AuditedRoom, tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Those of all parties for all of their peers, of two runs."""
    found, folder = {}, tmp_path_factory.mktemp("certificates")
    for subject in ("one", "two"):
        for name in ALL:
            done = room.replay(name, subject)
            for peer in OTHERS[name]:
                path = folder / f"{subject}-{name}-for-{peer}.json"
                found[subject, name, peer] = room.certify(name, done, peer).rename(path)
    return found


def together(room: AuditedRoom, name: str, certificates: Sequence[Path]) -> list[RunTogether]:
    return hold_together(room.there(name), certificates)


def test_all_certificates_of_a_run_prove_it(room: AuditedRoom, certified: Certificates) -> None:
    of_second = [path for (subject, _, _), path in certified.items() if subject == "two"]
    for name in ALL:
        (found,) = together(room, name, of_second)
        assert found.proven and len(found.certificates) == 4
        (told,) = {
            note
            for note in found.notes
            if KEY in note and note.startswith("run") and "of bureau" in note
        }
        assert told.endswith(
            f"run {run_of(room, 'bureau', 'one')[:12]} has left, of which no certificate is here"
        )
        both = together(room, name, [*certified.values()])
        assert len(both) == 2 and all(one.proven and not one.notes for one in both)


def test_what_no_certificate_covers_is_named(room: AuditedRoom, certified: Certificates) -> None:
    mine = [certified["two", "insurer", peer] for peer in HOSTS]
    (found,) = together(room, "registry", mine)
    assert [(one.sender, one.receiver) for one in found.uncovered] == [("bureau", "insurer")]
    done = room.replay("bureau", "two")
    shown = done.shown["insurer"]
    short = replace(
        shown, messages=[Covered.left_out(sent_of(shown.messages[0])), *shown.messages[1:-1]]
    )
    path = room.certify("bureau", replace(done, shown={"insurer": short}), "insurer")
    (found,) = together(room, "registry", [*mine, path])
    lacks = [(one.sender, one.receiver, one.number) for one in found.uncovered]
    assert lacks == [("bureau", "insurer", 1), ("bureau", "insurer", shown.of)]
    assert {one.type for one in found.uncovered} == {
        one.type for one in (shown.messages[0], shown.messages[-1])
    }


def sent_of(message: Covered) -> Sent:
    return Sent(message.type, message.bytes, bytes.fromhex(message.digest))


Change = Callable[[Replayed], Replayed]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda shown: replace(shown, received=[shown.received[-1], *shown.received[1:]]),
            r"^message 1 of bureau to insurer is \w+ of [\d,]+ bytes in the certificate of bureau, and",
        ),
        (
            lambda shown: replace(shown, replay="ab" * 32),
            "insurer for registry and for bureau are of two",
        ),
        (
            lambda shown: replace(shown, messages=shown.messages[:-1]),
            "two certificates of insurer for bur",
        ),
    ],
)
def test_certificates_that_do_not_fit_each_other_are_found(
    room: AuditedRoom, certified: Certificates, change: Change, why: str
) -> None:
    done = room.replay("insurer", "two")
    other = replace(done, shown={"bureau": change(done.shown["bureau"])})
    path = room.certify("insurer", other, "bureau")
    those = [path for (subject, *way), path in certified.items() if subject == "two"]
    if not why.startswith("two"):
        those.remove(certified["two", "insurer", "bureau"])
    with pytest.raises(EvidenceDiffers, match=why):
        together(room, "registry", [*those, path])


def test_a_key_that_is_not_the_one_of_the_earlier_run_is_found(
    room: AuditedRoom, certified: Certificates
) -> None:
    done = room.replay("bureau", "one")
    shown = done.shown["insurer"]
    other = replace(shown, left={**shown.left, KEY: "ab" * 32})
    path = room.certify("bureau", replace(done, shown={"insurer": other}), "insurer")
    run = run_of(room, "bureau", "one")[:12]
    with pytest.raises(EvidenceDiffers, match=f"does not go on with the {KEY} that run {run} has left"):
        together(room, "insurer", [path, certified["two", "bureau", "insurer"]])


def test_the_command_takes_several_certificates(room: AuditedRoom, certified: Certificates) -> None:
    file = str(room.federation.parties["registry"].file)
    of_second = [str(path) for (subject, _, _), path in certified.items() if subject == "two"]
    said = CliRunner().invoke(main, ["audit", "check", file, *of_second])
    assert said.exit_code == 0 and "proven: every message of all others is the program's" in said.output
    mine = str(certified["two", "insurer", "registry"])
    said = CliRunner().invoke(main, ["audit", "check", file, mine, mine, "--json"])
    assert said.exit_code == 1
    (run,) = json.loads(said.stdout)["runs"]
    assert (
        not run["proven"]
        and {"sender": "insurer", "receiver": "bureau", "number": 0, "type": ""} in (run["uncovered"])
    )
    said = CliRunner().invoke(main, ["audit", "check", file, mine, mine])
    assert "NOT COVERED all messages of bureau to insurer: no certificate is here" in said.output
