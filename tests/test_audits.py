"""Audits by agreement: both sides draw whether a training is audited, and a model waits for it."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from audited import AuditedRoom
from commands import Done, command
from federation import GLM_JOB, JOB, WAIT, Federation, ended
from paillier_key import one_key
from room import HOSTS, Said
from test_host_lookups import LONG, looking

from vfl.crypto.randomness import Randomness
from vfl.crypto.reserve import OwnObfuscators, OwnReserve
from vfl.errors import ConfigError, PeerError, PeerStopped, Refused, VflError
from vfl.jobs import audit_draw, host_lookups, presenting, replaying
from vfl.jobs import training as guest_training
from vfl.jobs.audit_draw import AuditDraw, AuditShare, Drawing, HostDraw, commit, draw_with
from vfl.jobs.audits import (
    AuditedRun,
    begin_audit,
    check_audited,
    check_outstanding,
    check_signer,
    keep_certificate,
    list_audits,
    load_audits,
    looks_at_drawn,
    save_audit,
    settle,
    to_present,
    wants_certificate,
)
from vfl.jobs.certificate import Covered, make_certificate
from vfl.jobs.evidence import find_evidence
from vfl.jobs.kept_evidence import plan_forgetting
from vfl.jobs.offer import AuditDemand, Kept
from vfl.jobs.presenting import present
from vfl.jobs.record import load_record, verify_agreement
from vfl.jobs.replaying import Replay, replay
from vfl.learn.losses import LogisticLoss
from vfl.net.peer import MemoryPeer, Peer
from vfl.net.replay import MessageDiffers
from vfl.party import identity

RUN = bytes(range(32))


# --- The draw. --------------------------------------------------------------------------------------


def demand(share: bytes, probability: float = 0.1) -> AuditDemand:
    return AuditDemand(probability, commit(RUN, "bureau", share), b"")


def test_each_number_alone_makes_the_draw_as_likely_as_agreed() -> None:
    """Whatever the other party has chosen: so a tree that is not as it should be is found in a tenth of
    models, and a guest that cheats in all of fifty trees in all but one of two hundred."""
    chosen, numbers = b"\0" * 32, [Randomness(RUN).part("test").at(str(k))(32) for k in range(4000)]
    for draws in (
        [Drawing("bureau", chosen, number, 0.1) for number in numbers],
        [Drawing("bureau", number, chosen, 0.1) for number in numbers],
    ):
        assert 330 < sum(draw.has_drawn(RUN, 7) for draw in draws) < 470  # 400 +- 19
        assert 0.07 < np.mean([len(draw.steps(RUN, 50)) for draw in draws[:400]]) / 50 < 0.13
        nothing = sum(not draw.steps(RUN, 50) for draw in draws[:400])
        assert nothing <= 9  # 400 * 0.9^50 = 2
    every = Drawing("bureau", chosen, numbers[0], 1.0)
    assert every.steps(RUN, 100) == list(range(100))
    assert not Drawing("bureau", chosen, numbers[0], 1e-15).steps(RUN, 100)
    # Each run and each host has a draw of its own.
    half = [Drawing(name, chosen, numbers[0], 0.5).steps(RUN, 100) for name in HOSTS]
    assert half[0] != half[1] != Drawing(HOSTS[1], chosen, numbers[0], 0.5).steps(RUN[::-1], 100)


def test_both_find_the_same() -> None:
    async def run() -> None:
        to_host, to_guest = MemoryPeer.pair("insurer", "bureau")
        brought, found = HostDraw.new(0.5), list[Drawing]()
        theirs, _ = await asyncio.gather(
            draw_with(to_host, RUN, demand(brought.share, 0.5), lambda size: bytes(size)),
            brought.draw(to_guest, "bureau", found.append),
        )
        assert found == [theirs]

    asyncio.run(run())


def test_a_host_that_shows_another_number_is_found() -> None:
    async def run() -> None:
        to_host, to_guest = MemoryPeer.pair("insurer", "bureau")
        await to_guest.send(AuditDraw(b"\2" * 32))
        with pytest.raises(PeerError, match="AuditDraw with another number than its Accept has"):
            await draw_with(to_host, RUN, demand(b"\1" * 32), lambda size: bytes(size))

    asyncio.run(run())


def test_a_guest_sees_the_hosts_number_after_its_own_alone() -> None:
    """The host's Accept hides it, and the host shows it when it has the guest's, and has kept what
    follows from both: another number that comes then is refused."""

    async def run() -> None:
        to_host, to_guest = MemoryPeer.pair("insurer", "bureau")
        brought, kept = HostDraw.new(0.5), list[Drawing]()
        assert brought.share != HostDraw.new(0.5).share
        drawing = asyncio.create_task(brought.draw(to_guest, "bureau", kept.append))
        waiting = asyncio.create_task(to_host.recv(AuditDraw))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not waiting.done() and not kept
        await to_host.send(AuditShare(b"\1" * 32))
        assert (await waiting).share == brought.share
        await drawing
        assert kept == [Drawing("bureau", b"\1" * 32, brought.share, 0.5)]
        await to_host.send(AuditShare(b"\3" * 32))
        with pytest.raises(PeerError, match="AuditShare"):
            await to_guest.recv(Kept)
        assert len(kept) == 1

    asyncio.run(run())


# --- Jobs. ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[AuditedRoom]:
    """Parties that have aligned; the bureau audits every training."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("audits")
    made = AuditedRoom(Federation(folder, keys, guest_listens=True))
    made.federation.parties["bureau"].settings["policy"]["audit"] = 1.0
    made.patch(patch)
    patch.setattr(presenting, "hosts_of", made.hosts_of)
    made.align()
    yield made
    patch.undo()


@pytest.fixture(scope="module")
def due(room: AuditedRoom) -> str:
    """A model that the bureau has audited, of which nothing was shown."""
    return room.train(JOB)


@pytest.fixture
def rules(room: AuditedRoom) -> Iterator[dict[str, Any]]:
    """[policy] of the bureau, for a test to change."""
    settings = room.federation.parties["bureau"].settings["policy"]
    with mock.patch.dict(settings):
        yield settings


@pytest.fixture
def owed(room: AuditedRoom, due: str) -> Iterator[str]:
    """The model as it was before a test."""
    before = {name: load_audits(room.there(name).store, due) for name in ("insurer", "bureau")}
    yield due
    for name, audits in before.items():
        for peer, audit in audits.items():
            save_audit(room.there(name).store, due, peer, audit)


def certificate(room: AuditedRoom, done: Replay, by: identity.Identity | None = None) -> bytes:
    signer = by or room.there("insurer").identity
    return make_certificate(done.evidence, done.shown["bureau"], signer)


def give(room: AuditedRoom, done: Replay, by: identity.Identity | None = None) -> None:
    """What `vfl audit replay` keeps, handed over as `vfl audit send` does."""
    store = room.there("insurer").store
    assert wants_certificate(store, done.evidence, "bureau")
    assert not wants_certificate(store, done.evidence, "registry")
    keep_certificate(store, done.evidence, "bureau", certificate(room, done, by))
    send(room, done.evidence.subject)


def send(room: AuditedRoom, model: str) -> list[str]:
    show = room.said["insurer"]
    return asyncio.run(present(room.site("insurer"), model, wait=1, show=show))


def test_a_guest_hears_before_and_after_what_is_asked(room: AuditedRoom, owed: str) -> None:
    said = room.said["insurer"].lines
    before = [k for k, line in enumerate(said) if line.startswith("bureau audits a share of 1 of this")]
    after = [k for k, line in enumerate(said) if line.startswith("bureau audits 2 trees of this model")]
    assert len(before) == len(after) == 1 and before < after
    assert not room.said["insurer"].has("registry audits")
    for name, peer in (("insurer", "bureau"), ("bureau", "insurer")):
        (one,) = list_audits(room.there(name).store)
        assert (one.model, one.peer, one.state, len(one.missing)) == (owed, peer, "due", 1)
    # What was demanded is signed, and kept with the model.
    for name in ("insurer", "bureau"):
        site = room.there(name)
        _, _, words = verify_agreement(site.party, owed)
        assert "; audits a share of 1 of it" in words["bureau"]
        agreement = load_record(site.store, owed)[0].agreement
        assert agreement is not None and set(agreement.audits) == {"bureau"}


def test_a_model_scores_once_its_audit_was_shown(room: AuditedRoom, owed: str) -> None:
    with pytest.raises(
        PeerStopped, match=f"model {owed} has to be audited before it is used, as was dr"
    ):
        room.score(owed)
    done = room.replay("insurer", owed, workers=2)
    assert done.complete and room.replay("bureau", owed).complete  # with the draw
    store = room.there("insurer").store
    keep_certificate(store, done.evidence, "bureau", certificate(room, done))
    scored = room.score(owed)  # hands it over
    assert scored.rows == room.rows
    assert room.said["insurer"].has(f"bureau has the certificate of {owed}")
    assert room.said["bureau"].has("holds, signed by insurer itself")
    for name in ("insurer", "bureau"):
        (one,) = list_audits(room.there(name).store)
        assert one.state == "shown" and not one.missing
    assert not send(room, owed)  # once is enough


def test_a_certificate_may_be_handed_over_by_hand(room: AuditedRoom, owed: str) -> None:
    site = room.there("bureau")
    with pytest.raises(Refused, match="has to be audited before it is used"):
        check_audited(site, owed, room.said["bureau"])
    path = room.certify("insurer", room.replay("insurer", owed, attempt=0), "bureau")
    assert settle(site.store, room.check("bureau", path))
    check_audited(site, owed, room.said["bureau"])
    room.score(owed)


def test_a_certificate_of_another_run_or_of_less_is_refused(
    room: AuditedRoom, owed: str, rules: dict[str, Any]
) -> None:
    rules["audit"] = 1e-15
    other = room.train(JOB)
    with pytest.raises(Refused, match="does not cover 2 messages that it has to"):
        done = room.replay("insurer", owed, attempt=0)
        shown = done.shown["bureau"]
        short = replace(shown, messages=shown.messages[:-2])
        path = room.certify("insurer", replace(done, shown={"bureau": short}), "bureau")
        settle(room.there("bureau").store, room.check("bureau", path))
    with pytest.raises(PeerStopped, match=r"the certificate of run [0-9a-f]{12} is about no run of cl"):
        another, store = room.replay("insurer", other), room.there("insurer").store
        keep_certificate(store, done.evidence, "bureau", certificate(room, another))
        send(room, owed)
    with pytest.raises(PeerStopped, match="is not the one of the replay"):
        first, *rest = shown.messages
        forged = replace(shown, messages=[replace_digest(first), *rest])
        give(room, replace(done, shown={"bureau": forged, "registry": forged}))
    assert load_audits(room.there("bureau").store, owed)["insurer"].state == "due"
    with pytest.raises(PeerStopped, match="agreed with insurer to no audit of a model"):
        save_audit(store, "none", "bureau", load_audits(store, owed)["bureau"])
        send(room, "none")
    store.remove("audit", "none")


def replace_digest(message: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(message, digest="00" * 32)


def test_the_auditor_that_a_host_names_has_to_sign(
    room: AuditedRoom, rules: dict[str, Any], tmp_path: Path
) -> None:
    auditor = identity.create(tmp_path / "auditor", "auditor")
    rules["auditor"] = str(tmp_path / "auditor.pem")
    model = room.train(JOB)
    fingerprint = auditor.certificate.fingerprint
    assert room.said["insurer"].has(f", signed by the auditor with the fingerprint {fingerprint}, has")
    site = room.there("insurer")
    with pytest.raises(ConfigError, match=f"signed by the auditor whose .* {fingerprint}"):
        check_signer(site.store, room.runs("insurer", model), site.identity, site.identity)
    assert not check_signer(site.store, room.runs("insurer", model), site.identity, auditor)
    done = room.replay("insurer", model)
    with pytest.raises(PeerStopped, match="is signed by insurer, and auditor was named"):
        give(room, done)
    give(room, done, auditor)
    assert room.said["bureau"].has("holds, signed by the auditor auditor")
    room.score(model)


@pytest.mark.parametrize("runs", [["a", "b"], ["b", "a"]])
def test_the_last_attempt_is_no_matter_of_its_digits(
    room: AuditedRoom, due: str, owed: str, runs: list[str]
) -> None:
    """A document has its keys in their own order, not in that of attempts."""
    store = room.there("bureau").store
    audit = replace(load_audits(store, due)["insurer"], runs={}, drawn="")
    for run in runs:
        audit = audit.with_run(run, AuditedRun())
    save_audit(store, due, "insurer", replace(audit.with_run(runs[1], AuditedRun([0])), drawn=runs[1]))
    found = load_audits(store, due)["insurer"]
    assert (found.state, found.missing) == ("due", [runs[1]])
    agreement = load_record(store, due)[0].agreement
    assert agreement is not None
    begin_audit(store, agreement, "bureau", "insurer")  # as another attempt does
    found = load_audits(store, due)["insurer"]
    assert found.state == "not drawn" and len(found.missing) == 3


def test_each_host_gets_the_signature_that_it_wants(
    room: AuditedRoom, rules: dict[str, Any], tmp_path: Path
) -> None:
    """The bureau wants an auditor's, the registry the guest's own: one replay is enough for both."""
    identity.create(tmp_path / "auditor", "auditor")
    rules["auditor"] = str(tmp_path / "auditor.pem")
    insurer, registry = (room.federation.parties[name] for name in ("insurer", "registry"))
    with mock.patch.dict(registry.settings["policy"], audit=1.0):
        model = room.train(JOB)
        with one_key():
            alone = command("audit", "replay", str(insurer.file), "--run", model, "--drawn").ok()
            assert "note: bureau wants the audit of" in alone.err
            assert list(to_present(room.there("insurer").store, model)) == ["registry"]
            # One of the two files of the keys may be named as well.
            by = ("--auditor", str(tmp_path / "auditor.pem"))
            command("audit", "replay", str(insurer.file), "--run", model, "--drawn", *by).ok()
        assert sorted(send(room, model)) == ["bureau", "registry"]
        room.score(model)
        assert room.said["registry"].lines
    audits = load_audits(room.there("insurer").store, model)
    assert {name: one.state for name, one in audits.items()} == {"bureau": "shown", "registry": "shown"}


def test_a_host_that_refuses_its_certificate_keeps_no_other_from_its_own(
    room: AuditedRoom, tmp_path: Path
) -> None:
    registry, other = room.federation.parties["registry"], identity.create(tmp_path / "other", "other")
    with mock.patch.dict(registry.settings["policy"], audit=1.0):
        model = room.train(JOB)
        store, done = room.there("insurer").store, room.replay("insurer", model)
        for name, by in (("bureau", other), ("registry", room.there("insurer").identity)):
            content = make_certificate(done.evidence, done.shown[name], by)
            keep_certificate(store, done.evidence, name, content)
        wants = "bureau wants the certificate signed by insurer itself, and it is signed by other"
        with pytest.raises(PeerStopped, match=wants):
            send(room, model)
    states = {name: one.state for name, one in load_audits(store, model).items()}
    assert states == {"bureau": "due", "registry": "shown"}
    give(room, done)


def test_who_keeps_no_tape_is_refused_at_once(
    room: AuditedRoom, due: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(room.federation.guest.settings["party"], "tape", "none")
    with pytest.raises(PeerStopped, match=r'breaks rule audit = 1.0 of \[policy\]: set tape = "all" in'):
        room.train(JOB)


def test_what_was_not_drawn_scores_at_once(room: AuditedRoom, due: str, rules: dict[str, Any]) -> None:
    rules["audit"] = 1e-15
    model = room.train(JOB)
    assert room.said["insurer"].has("bureau audits nothing of this model: none of its trees was drawn")
    store = room.there("bureau").store
    assert load_audits(store, model)["insurer"].state == "not audited"
    room.score(model)
    assert room.replay("insurer", model).complete


def test_a_host_may_only_note_what_is_missing(
    room: AuditedRoom, owed: str, rules: dict[str, Any]
) -> None:
    rules["unaudited"] = "noted"
    room.score(owed)
    assert room.said["bureau"].has(f"note: model {owed} has to be audited before it is used")


def test_other_uses_wait_too(room: AuditedRoom, owed: str, rules: dict[str, Any]) -> None:
    from vfl.jobs.publishing import publish

    rules["directories"] = True
    with pytest.raises(Refused, match="has to be audited before it is used"):
        publish(room.there("bureau"), owed, room.said["bureau"])
    more = {**JOB, "secureboost": {**JOB["secureboost"], "init_model": owed, "trees": 3}}
    with pytest.raises(PeerStopped, match=f"model {owed} has to be audited before it is used"):
        room.train(more)


def test_lookups_that_stay_open_hand_certificates_over(
    room: AuditedRoom, owed: str, rules: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause, seconds in (("_PAUSES", (0.01, 0.02)), ("_REFUSED", 0.02)):
        monkeypatch.setattr(host_lookups, pause, seconds)
    rules["directories"] = True
    kept, said = room.there("insurer").store, room.said["insurer"]
    done = room.replay("insurer", owed, attempt=0)
    less = replace(done.shown["bureau"], messages=done.shown["bureau"].messages[:-3])
    signer = room.there("insurer").identity

    async def until(what: Callable[[], bool]) -> None:
        async with asyncio.timeout(LONG):
            while not what():
                await asyncio.sleep(0.01)

    async def run() -> int:
        async with looking(room, owed, "bureau") as (_, found):
            await until(lambda: said.has(f"bureau stopped the job: model {owed} has to be audited"))
            assert not found.is_here
            keep_certificate(
                kept, done.evidence, "bureau", make_certificate(done.evidence, less, signer)
            )
            await until(lambda: said.has("does not cover 3 messages that it has to"))
            keep_certificate(kept, done.evidence, "bureau", certificate(room, done))
            await found.wait(LONG)
            return sum("does not cover 3 messages" in line for line in said.lines)

    assert asyncio.run(run()) == 1  # a certificate that was refused is not handed over again
    assert load_audits(room.there("bureau").store, owed)["insurer"].state == "shown"


# --- Some trees of a model. -------------------------------------------------------------------------

THREE = {**JOB, "secureboost": {**JOB["secureboost"], "trees": 3}}


@pytest.fixture
def second_tree() -> Iterator[None]:
    """The second tree is drawn, and no other."""
    with mock.patch.object(Drawing, "has_drawn", lambda self, run, step: step == 1):
        yield


def replay_drawn(room: AuditedRoom, model: str) -> Replay:
    """As `vfl audit replay --drawn`."""
    site = room.there("insurer")
    (run,) = room.runs("insurer", model)
    with one_key():
        return asyncio.run(replay(site, run, Said(), lambda one: looks_at_drawn(site.store, one)))


def gradients_of(done: Replay) -> list[bool]:
    """Of each tree whether its gradients were looked at."""
    messages = done.shown["bureau"].messages
    return [bool(one.digest) for one in messages if one.type == "Gradients"]


def test_trees_that_were_not_drawn_are_not_encrypted_again(room: AuditedRoom, second_tree: None) -> None:
    model = room.train(THREE)
    assert room.said["insurer"].has("bureau audits 1 tree of this model")
    done = replay_drawn(room, model)
    assert gradients_of(done) == [False, True, False] and not done.complete and not done.ended
    messages = done.shown["bureau"].messages
    assert all(one.digest for one in messages if one.type != "Gradients")
    # The guest chooses none: another tree in place of the drawn one is not enough.
    swapped = [place for place, one in enumerate(messages) if one.type == "Gradients"]
    other = {swapped[1]: Covered("Gradients", messages[swapped[1]].bytes, "")}
    lacking = [other.get(place, one) for place, one in enumerate(messages)]
    shown = {"bureau": replace(done.shown["bureau"], messages=lacking)}
    with pytest.raises(PeerStopped, match=r"does not cover 1 message that it has to \(Gradients\)"):
        give(room, replace(done, shown={**done.shown, **shown}))
    give(room, done)
    room.score(model)


@pytest.mark.parametrize(("cheats_in", "found"), [(0, False), (1, True)])
def test_a_tree_is_found_where_it_is_drawn(
    room: AuditedRoom, second_tree: None, cheats_in: int, found: bool
) -> None:
    model = cheat(room, cheats_in, THREE)
    with contextlib.ExitStack() as stack:
        if found:
            stack.enter_context(pytest.raises(MessageDiffers, match="it was Gradients of"))
        replay_drawn(room, model)
    with pytest.raises(MessageDiffers, match="it was Gradients of"):
        room.replay("insurer", model)  # all of it


def test_a_linear_model_counts_as_one_tree(room: AuditedRoom) -> None:
    model = room.train({**GLM_JOB, "glm": {"max_iterations": 2, "tolerance": 0.1}})
    assert room.said["insurer"].has("bureau audits 1 tree of this model")
    done = replay_drawn(room, model)
    assert done.complete
    give(room, done)
    check_audited(room.there("bureau"), model, room.said["bureau"])


def test_attempts_are_drawn_and_shown_together(room: AuditedRoom) -> None:
    with room.losing_a_connection(2):
        model = room.train(THREE)
    for name, peer in (("insurer", "bureau"), ("bureau", "insurer")):
        audit = load_audits(room.there(name).store, model)[peer]
        assert [one.drawn for one in audit.runs.values()] == [[0, 1], [0, 1]]
    store = room.there("insurer").store
    for attempt in (0, 1):
        done = room.replay("insurer", model, attempt=attempt)
        keep_certificate(store, done.evidence, "bureau", certificate(room, done))
        if not attempt:
            send(room, model)
            assert room.said["insurer"].has(f"certificate of {model}, and lacks those of 1 run")
            with pytest.raises(PeerStopped, match="has to be audited before it is used"):
                room.score(model)
    room.score(model)


def test_commands(room: AuditedRoom, second_tree: None, tmp_path: Path) -> None:
    model = room.train(THREE)
    insurer, bureau = (room.federation.parties[name].file for name in ("insurer", "bureau"))

    def vfl(*arguments: object) -> Done:
        with one_key():
            return command(*map(str, arguments))

    audits = vfl("audit", "list", bureau, "--json").ok().json["audits"]
    (listed,) = [one for one in audits if one["model"] == model]  # of the models of other tests as well
    assert (listed["state"], len(listed["missing"])) == ("due", 1)
    vfl("audit", "send", insurer, "--run", model).failed(5, "no certificate of", "`vfl audit replay`")
    waits = "bureau waits for a replay of it, and lets the model be used no more without"
    for name, notes in (("insurer", [waits]), ("bureau", [])):
        asked = plan_forgetting(room.there(name).store, room.runs(name, model), model)
        assert asked.notes[1:] == notes
    out = tmp_path / "certificates"
    done = vfl("audit", "replay", insurer, "--run", model, "--drawn", "--out", out, "--json").ok()
    assert "bureau gets this certificate by `vfl audit send`" in done.err
    (run,) = done.json["runs"]
    assert not run["complete"] and run["peers"]["bureau"]["of"] - run["peers"]["bureau"]["messages"] == 2
    (path,) = out.glob("*-for-bureau.json")
    said = vfl("audit", "check", bureau, path).ok().out
    assert "all is covered that was drawn to be audited" in said
    vfl("audit", "send", insurer, "--run", model).ok()
    assert "no host waits for" in vfl("audit", "send", insurer, "--run", model).ok().err
    # What is there already is seen before anything is played.
    with mock.patch.object(replaying, "_play", side_effect=AssertionError):
        again = vfl("audit", "replay", insurer, "--run", model, "--out", out)
    again.failed(2, path.name, "is there already: add --force")
    assert vfl("audit", "list", bureau).ok().out.count("shown") >= 1


@pytest.mark.slow
def test_processes(tmp_path: Path, keys: Path) -> None:
    """Hosts that dial: the certificate goes over in a session before that of the scores."""
    program = (sys.executable, "-m", "vfl.cli")
    with ended(Federation(tmp_path, keys, guest_listens=True)) as federation:
        guest = federation.guest
        for party in federation.parties.values():
            party.settings["party"]["tape"] = "all"
        federation.parties["bureau"].settings["policy"]["audit"] = 1.0
        for name in HOSTS:
            federation.parties[name].start("serve", program=program)
        guest.start("align", *WAIT, program=program).wait().ok()
        guest.start_train(JOB, program=program).wait().ok()
        score = ("--model", "claims", "--data", "new.csv", "--out", "scores.csv", *WAIT)
        refused = guest.start("score", *score, program=program).wait()
        assert refused.code and "has to be audited before it is used" in refused.err
        command("audit", "replay", str(guest.file), "--run", "claims", "--drawn").ok()
        guest.start("score", *score, program=program).wait().ok()


# --- Parties that do something else. ----------------------------------------------------------------


def cheat(room: AuditedRoom, tree: int, job: dict[str, Any]) -> str:
    """A model of a guest that hides one tree's gradients by numbers of its choice, and does all else as
    the program does."""
    trees, honest = iter(range(100)), OwnReserve.take

    def sometimes(self: OwnReserve, count: int) -> OwnObfuscators:
        given = honest(self, count)
        return given if next(trees) != tree else OwnObfuscators(self._nothing, bytes(32), 0, count)

    with mock.patch.object(OwnReserve, "take", sometimes):
        return room.train(job)


def test_a_guest_that_makes_numbers_up_gets_no_certificate(room: AuditedRoom, due: str) -> None:
    """In one of two trees, of gradients that tell in which bins of a host one row is."""
    trees, honest = iter(range(100)), LogisticLoss.damped_gradients

    def one_row(self: LogisticLoss, score: Any, label: Any, weight: Any) -> Any:
        if next(trees) != 1:
            return honest(self, score, label, weight)
        gradient = np.zeros(score.shape)
        gradient[..., 3] = 1.0
        return gradient, np.full(score.shape, 0.25)

    with mock.patch.object(LogisticLoss, "damped_gradients", one_row):
        model = room.train(JOB)
    with pytest.raises(MessageDiffers, match="it was Gradients of"):
        room.replay("insurer", model)
    with pytest.raises(PeerStopped, match="has to be audited before it is used"):
        room.score(model)


def test_a_second_number_after_the_draw_is_refused(room: AuditedRoom, due: str) -> None:
    async def again(hosts: list[Peer], agreement: Any, randomness: Any) -> dict[str, Drawing]:
        asked = next(host for host in hosts if host.name == "bureau")
        await asked.send(AuditShare(b"\1" * 32))
        await asked.recv(AuditDraw)
        await asked.send(AuditShare(b"\2" * 32))
        return {}

    room.heard["bureau"].clear()
    with mock.patch.object(guest_training, "draw_all", again), contextlib.suppress(VflError):
        room.train(JOB)
    assert room.heard["bureau"] and "AuditShare" in room.heard["bureau"][-1]
    model = find_evidence(room.there("insurer").store)[-1].subject
    assert load_audits(room.there("bureau").store, model)["insurer"].state == "due"


def test_who_hangs_up_before_the_draw_owes_the_audit(
    room: AuditedRoom, due: str, rules: dict[str, Any]
) -> None:
    async def hang_up(*_: Any) -> Any:
        raise VflError("enough", for_peer="it was interrupted by its operator")

    with mock.patch.object(guest_training, "draw_all", hang_up), contextlib.suppress(VflError):
        room.train(JOB)
    run = find_evidence(room.there("insurer").store)[-1]
    model, store = run.subject, room.there("bureau").store
    audit = load_audits(store, model)["insurer"]
    assert audit.state == "not drawn"
    with pytest.raises(Refused, match="its training ended before it was drawn what rule audit = 1"):
        check_audited(room.there("bureau"), model, room.said["bureau"])
    # Nor does it train more models for ever: it may show that it did nothing else, though.
    rules["audit_days"] = 30
    late = replace(audit, begun="2020-01-01T00:00:00+00:00")
    save_audit(store, model, "insurer", late)
    with pytest.raises(PeerStopped, match=f"insurer owes the audit of model {model} since 2020-01-01"):
        room.train(JOB)
    done = room.replay("insurer", model)
    assert done.ended
    give(room, done)
    assert load_audits(store, model)["insurer"].state == "shown"
    check_outstanding(room.there("bureau"), "insurer")


def test_a_demand_that_is_not_signed_is_refused(room: AuditedRoom, due: str) -> None:
    signed = HostDraw.demand

    def changed(self: HostDraw, *given: Any) -> AuditDemand:
        import msgspec

        return msgspec.structs.replace(signed(self, *given), probability=0.5)

    with (
        mock.patch.object(audit_draw.HostDraw, "demand", changed),
        pytest.raises(PeerError, match="Accept with a signature of an audit that does not hold"),
    ):
        room.train(JOB)
