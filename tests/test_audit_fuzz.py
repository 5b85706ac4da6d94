"""Whatever evidence is spoilt by, its replay ends with one line, or plays as if it were whole."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from audited import LATTICE, AuditedRoom, aligned_room
from federation import JOB
from room import HOSTS

from vfl.errors import VflError
from vfl.jobs import rerun
from vfl.jobs.certificate import _FORM, make_certificate
from vfl.jobs.certificates import hold_together
from vfl.jobs.evidence import OWN, Evidence, save_evidence, tape_file
from vfl.party.documents import canonical_json, document
from vfl.party.identity import Identity
from vfl.party.tapes import TapeWriter, read_tape

ALL = ("insurer", *HOSTS)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[AuditedRoom]:
    with aligned_room(tmp_path_factory.mktemp("fuzz") / "room", keys) as made:
        for name in HOSTS:
            made.federation.parties[name].settings["policy"]["kept_key_days"] = 30
        yield made


@pytest.fixture(scope="module")
def trees(room: AuditedRoom) -> str:
    return room.train({**JOB, "secureboost": {**JOB["secureboost"], "trees": 1}})


@pytest.fixture(scope="module")
def lattice(room: AuditedRoom) -> str:
    """Trees whose hosts have kept hints of an earlier run."""
    job = {**LATTICE, "secureboost": {**LATTICE["secureboost"], "trees": 1}}
    room.train(job)
    return room.train(job)


@pytest.fixture(scope="module")
def kept(room: AuditedRoom) -> str:
    """An alignment under the key of an earlier one."""
    room.align(join="left", engine="ecdh", name="kept-one")
    return room.align(join="left", engine="ecdh", name="kept-two").alignment.name


EVERY = pytest.mark.parametrize("every", [17, pytest.param(1, marks=pytest.mark.slow)])
"""Of what may be spoilt one in so many."""


def others_of(value: Any) -> Iterator[Any]:
    """What may stand in the place of a value of JSON or MessagePack."""
    if isinstance(value, bool):
        yield from (not value, None)
    elif isinstance(value, int):
        yield from (value + 1, -1, 1 << 62, "1")
    elif isinstance(value, float):
        yield from (-1.0, 1e300, "x")
    elif isinstance(value, str | bytes):
        none = "" if isinstance(value, str) else b""
        yield from (none, value[:-1], value[1:], value + value[-1:], value * 3, 7)
    elif isinstance(value, list):
        yield from ([], value[:-1], [*value, *value[-1:]], value[::-1], {})
        for at in {0, len(value) - 1} if value else ():
            yield from ([*value[:at], other, *value[at + 1 :]] for other in others_of(value[at]))
    elif isinstance(value, dict):
        yield from ({}, {**value, "more": 1}, [])
        for key in value:
            yield {name: one for name, one in value.items() if name != key}
            yield from ({**value, key: other} for other in others_of(value[key]))
    else:
        yield from ("x", 3, [], {})


def ends_well(done: Callable[[], Any], what: object) -> bool:
    """Whether something went as if all were whole; else it has to end with one line."""
    try:
        done()
    except VflError as error:
        assert str(error) and "\n" not in str(error) and "fault of vfl" not in str(error), (what, error)
        return False
    except Exception as error:
        raise AssertionError(f"{what!r:.300}") from error
    return True


@EVERY
def test_a_document_that_was_spoilt(room: AuditedRoom, trees: str, every: int) -> None:
    store, (found,) = room.there("registry").store, room.runs("registry", trees)
    body = msgspec.to_builtins(found)
    opening = body["opening"]
    settings = opening.pop("settings")
    spoilt = [{**body, "opening": {**opening, "settings": one}} for one in others_of(settings)][::9]
    for one in others_of(body):
        if isinstance(one, dict) and isinstance(one.get("opening"), dict):
            one = {**one, "opening": {"settings": settings, **one["opening"]}}
        spoilt += [one] if isinstance(one, dict) else []
    assert len(spoilt) > 300
    good = 0
    for one in spoilt[::every]:
        store.write("evidence", found.name, one)
        good += ends_well(lambda: room.replay("registry", found.run[:12]), one)
    save_evidence(store, found)
    assert room.replay("registry", trees).complete
    assert good < len(spoilt[::every]) / 2


Entry = tuple[int, bytes]


def write_tape(room: AuditedRoom, name: str, found: Evidence, whose: str, some: list[Entry]) -> None:
    path = tape_file(room.there(name).store, found.run, whose)
    path.unlink(missing_ok=True)
    with room.there(name).store.writing("evidence", path) as sink:
        tape = TapeWriter(sink)
        for number, entry in some:
            tape.add(number, "one", entry)


@EVERY
@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("registry", "trees"),
        ("bureau", "kept"),
        pytest.param("registry", "lattice", marks=pytest.mark.slow),
        pytest.param("insurer", "lattice", marks=pytest.mark.slow),
        pytest.param("insurer", "kept", marks=pytest.mark.slow),
    ],
)
def test_answers_that_were_spoilt(
    room: AuditedRoom,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    run: str,
    every: int,
) -> None:
    """Each in its turn, with a digest and a ledger that fit."""
    monkeypatch.setattr(rerun, "_check_answers", lambda *_: None)
    store, (found,) = room.there(name).store, room.runs(name, request.getfixturevalue(run))
    path = tape_file(store, found.run, OWN)
    with store.open("evidence", path) as source:
        entries = [(number, msgspec.msgpack.decode(entry)) for number, entry in read_tape(source)]
    save_evidence(store, replace(found, tape=msgspec.structs.replace(found.tape, answers="")))
    first = {said[0]: at for at, (_, said) in reversed([*enumerate(entries)])}
    spoilt = [
        (at, [what, other]) for what, at in first.items() for other in others_of(entries[at][1][1])
    ]
    spoilt += [(at, other) for at in [*first.values()][:2] for other in ([], ["", 1], 3, {}, [1, 2, 3])]

    def play(changed: list[Any]) -> None:
        write_tape(room, name, found, OWN, [(n, msgspec.msgpack.encode(said)) for n, said in changed])
        ends_well(lambda: room.replay(name, found.run[:12]), changed)

    for at, other in spoilt[:: 1 + every // 4]:
        play([*entries[:at], (entries[at][0], other), *entries[at + 1 :]])
    for at in first.values():
        play([*entries[:at], *entries[at + 1 :]])
        play([*entries[: at + 1], *entries[at:]])
    play([])
    play(entries[::-1])
    play(entries)
    save_evidence(store, found)
    assert room.replay(name, found.run[:12]).complete


@EVERY
@pytest.mark.parametrize("whose", ["insurer", OWN])
def test_a_tape_that_was_spoilt(room: AuditedRoom, trees: str, whose: str, every: int) -> None:
    store, (found,) = room.there("registry").store, room.runs("registry", trees)
    path = tape_file(store, found.run, whose)
    content = path.read_bytes()
    with store.open("evidence", path) as source:
        entries = [*read_tape(source)]

    def play() -> bool:
        return ends_well(lambda: room.replay("registry", trees), (whose, len(content)))

    step = max(1, len(content) // (24 // every + 2))
    for at in range(0, len(content), step):
        flipped = content[:at] + bytes([content[at] ^ 0x80]) + content[at + 1 :]
        for other in (
            content[:at],
            content[:at] + content[at + 7 :],
            content[:at] + b"\xff" * 20,
            flipped,
        ):
            path.write_bytes(other)
            play()
    for some in (entries[::-1], entries[1:], [*entries, entries[-1]], [entries[-1], *entries[:-1]]):
        write_tape(room, "registry", found, whose, some)
        assert not play() or [one for _, one in some] == [one for _, one in entries]
    for other in (content + b"\0", content + content, b""):
        path.write_bytes(other)
        play()
    path.unlink()
    assert not play()
    path.mkdir()
    assert not play()
    path.rmdir()
    path.write_bytes(content)
    assert play()


@EVERY
def test_a_certificate_that_was_spoilt(
    room: AuditedRoom, trees: str, tmp_path: Path, every: int
) -> None:
    """Also where the party has signed it as it is."""
    done, site = room.replay("registry", trees), room.there("registry")
    path = tmp_path / "certificate.json"
    path.write_bytes(make_certificate(done.evidence, done.shown["insurer"], site.identity))
    body = json.loads(path.read_bytes())["body"]
    made = body["certificate"]
    spoilt: list[Any] = [{**body, "certificate": other} for other in others_of(made)]
    spoilt += [other for other in others_of(body) if other not in spoilt]
    spoilt += [signed_anew(other, site.identity) for other in others_of(made)]
    good = 0
    for other in spoilt[::every]:
        path.write_bytes(document(_FORM.name, _FORM.version, canonical_json(other)))
        good += ends_well(lambda: room.check("insurer", path), other)
        ends_well(lambda: hold_together(room.there("insurer"), [path, path]), other)
    assert good < len(spoilt[::every]) / 2
    content = path.read_bytes()
    for other in (b"", content[:-10], content * 2, b"{}", b"[]", b"\xff", b"[" * 100_000, content[50:]):
        path.write_bytes(other)
        assert not ends_well(lambda: room.check("insurer", path), other)


def signed_anew(made: Any, by: Identity) -> dict[str, Any]:
    signature = base64.b64encode(by.sign(_FORM._signed(made))).decode()
    return {"certificate": made, "signature": signature}
