"""Certificates that are not valid, end soon, were rotated or revoked: said by name at both sides."""

import asyncio
import contextlib
import datetime
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import dated
import pytest
from dated import DAY, NOW, text
from federation import Federation, make_tables, pinned
from silent import Silent
from test_keys_cli import vfl

from vfl.errors import DataError, IdentityError, PeerLost, PeerStopped, PeerUnreachable
from vfl.jobs import connect, coordinator, host
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.doctor import examine
from vfl.jobs.offer import Offer
from vfl.net import websocket
from vfl.net.certificates import invalidity, read_claims
from vfl.net.peer import MemoryPeer
from vfl.net.tls import Credentials
from vfl.net.websocket import dial, listen
from vfl.party import identity, rotation
from vfl.party.config import load_party
from vfl.party.identity import Identity
from vfl.party.revocation import RevocationList, revoke


class Said(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def credentials(own: Identity, peer: Identity, **more: object) -> Credentials:
    pins = {peer.name: peer.certificate.der}
    return Credentials(own.name, own.certificate_path, own.key_path, pins, **more)


async def met(listening: Credentials, dialling: Credentials) -> tuple[str, list[str]]:
    """What the end that dials is told, and the other one."""
    lines: list[str] = []
    async with listen(listening, "127.0.0.1:0", "host", lines.append) as listener:
        with pytest.raises(IdentityError) as error:
            await dial(dialling, listening.name, f"127.0.0.1:{listener.port}", "guest", 0)
        async with asyncio.timeout(10):
            while not lines:
                await asyncio.sleep(0.01)
    return str(error.value), lines


# --- Validity ---

EXPIRED = (-900 * DAY, -datetime.timedelta(hours=2))
EARLY = (datetime.timedelta(hours=3), 900 * DAY)
VALID = (-DAY, 900 * DAY)


@pytest.mark.parametrize("when", ["expired", "early"])
@pytest.mark.parametrize("whose", ["insurer", "registry"])
def test_a_certificate_that_is_not_valid_is_named_with_its_date_at_both_sides(
    tmp_path: Path, whose: str, when: str
) -> None:
    """The insurer dials the registry; all clocks are right."""
    wrong = EXPIRED if when == "expired" else EARLY
    made = {
        name: dated.create(tmp_path, name, *(wrong if name == whose else VALID))
        for name in ("insurer", "registry")
    }
    insurer, registry = made["insurer"], made["registry"]
    there, (here,) = asyncio.run(met(credentials(registry, insurer), credentials(insurer, registry)))
    date = text(NOW + (wrong[1] if when == "expired" else wrong[0]))
    what = "is no longer valid: it expired on" if when == "expired" else "is not valid yet: it begins on"
    own = f"{made[whose].certificate_path} {what} {date}"
    named = f"the certificate of {whose} {what} {date}"
    assert (own if whose == "insurer" else named) in there
    assert (named if whose == "insurer" else own) in here
    if when == "expired":
        assert "`vfl keys rotate`" in here and "`vfl keys rotate`" in there
    else:
        assert "clock" in here and "clock" in there


@pytest.mark.parametrize("when", ["expired", "early"])
def test_a_peer_whose_clock_is_wrong_is_told_what_the_clocks_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """The insurer's certificate is valid here and refused there, as if by another clock."""
    wrong = EXPIRED if when == "expired" else EARLY
    insurer, registry = (
        dated.create(tmp_path, "insurer", *wrong),
        dated.create(tmp_path, "registry", *VALID),
    )
    monkeypatch.setattr("vfl.net.failures.own_invalidity", lambda credentials: None)
    there, _ = asyncio.run(met(credentials(registry, insurer), credentials(insurer, registry)))
    said = (
        "has expired by the clock there" if when == "expired" else "is not valid yet by the clock there"
    )
    assert said in there and "compare the clocks" in there
    assert re.search(r"it is \d{4}-\d\d-\d\d \d\d:\d\d UTC here", there)


def test_ones_own_certificate_is_checked_when_it_is_loaded(tmp_path: Path) -> None:
    for name, when, said in (
        ("insurer", EXPIRED, rf"insurer.pem is no longer valid: it expired on {text(NOW + EXPIRED[1])}"),
        ("registry", EARLY, rf"registry.pem is not valid yet: it begins on {text(NOW + EARLY[0])}"),
    ):
        dated.create(tmp_path, name, *when)
        with pytest.raises(IdentityError, match=said):
            identity.load(tmp_path / name)


def test_a_certificate_is_valid_from_its_first_moment_to_before_its_last() -> None:
    assert invalidity(NOW, NOW + DAY, NOW) is None
    assert invalidity(NOW, NOW + DAY, NOW + DAY - datetime.timedelta(seconds=1)) is None
    assert "not valid yet" in (invalidity(NOW, NOW + DAY, NOW - datetime.timedelta(seconds=1)) or "")
    assert "no longer valid" in (invalidity(NOW, NOW + DAY, NOW + DAY) or "")
    # In UTC, wherever this machine is.
    zone = datetime.timezone(datetime.timedelta(hours=9))
    late = datetime.datetime(2027, 1, 1, 8, 30, tzinfo=zone)
    assert "2026-12-31 23:30 UTC" in (invalidity(late - DAY, late, NOW + 9999 * DAY) or "")


@pytest.mark.parametrize("der", [b"", b"garbage", b"\x30\x82\xff\xff" + bytes(100)])
def test_what_is_no_certificate_states_nothing(der: bytes) -> None:
    assert read_claims(der) is None


@pytest.fixture
def made(tmp_path: Path, keys: Path) -> Iterator[Federation]:
    """Files of an insurer that listens, a registry and a bureau; nobody runs."""
    federation = Federation(
        tmp_path / "f", keys, guest_listens=True, tables=make_tables(60), coordinator=False
    )
    for party in federation.parties.values():
        party.write()
    yield federation


def replace_certificate(
    made: Federation, name: str, begins: datetime.timedelta, ends: datetime.timedelta
) -> None:
    """All parties have another certificate of one, in the files of the one before."""
    found = dated.create(made.folder / "dated", name, begins, ends)
    for party in made.parties.values():
        (party.folder / "peers" / f"{name}.pem").write_bytes(found.certificate.pem)
    own = made.parties[name].folder / "keys"
    (own / f"{name}.pem").write_bytes(found.certificate.pem)
    (own / f"{name}.key").write_bytes(found.key_path.read_bytes())
    (own / f"{name}.key").chmod(0o600)


def test_certificates_that_end_within_30_days_are_told_by_every_command(
    made: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_certificate(made, "insurer", -DAY, 30 * DAY - datetime.timedelta(minutes=5))
    replace_certificate(made, "registry", -DAY, datetime.timedelta(hours=5))
    replace_certificate(made, "bureau", -DAY, 30 * DAY + datetime.timedelta(hours=1))
    guest = made.guest
    own = r"this party's certificate \S+insurer.pem ends on .* UTC, 29 days from now: make a new one"
    other = (
        f"the certificate of registry ends on {text(NOW + datetime.timedelta(hours=5))}, less than a "
        "day from now: registry has to make a new one with `vfl keys rotate`"
    )
    job = guest.folder / "job.toml"
    job.write_text('[job]\nname = "x"\npurpose = "p"\nmodel = "glm"\nfamily = "logistic"\n')
    said = vfl("doctor", guest.file, "--wait", "0", code=1, folder=guest.folder, failing=False)
    assert re.search(f"note  {own}", said) and re.search(f"note  {other}", said)
    for command, *arguments, code in (
        ("align", guest.file, "--wait", "0", 7),
        ("train", guest.file, job, "--wait", "0", 5),
        ("score", guest.file, "--model", "x", "--data", "new.csv", "--out", "o.csv", "--wait", "0", 5),
    ):
        said = vfl(command, *arguments, code=code, folder=guest.folder, failing=False)
        assert re.search(f"note: {own}", said) and re.search(f"note: {other}", said), said
        assert "bureau ends" not in said

    async def served() -> list[str]:
        show = Said()
        site = Site.open(load_party(made.parties["bureau"].file))
        serving = asyncio.create_task(host.serve(site, show))
        async with asyncio.timeout(20):
            while not any(line.startswith("note: the certificate of registry") for line in show.lines):
                await asyncio.sleep(0.01)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return show.lines

    lines = asyncio.run(served())
    assert [line for line in lines if re.fullmatch(f"note: {other} and send it to the peers", line)]
    assert not [line for line in lines if "bureau.pem ends" in line]


def test_a_pinned_certificate_that_is_not_valid_fails_the_doctor(made: Federation) -> None:
    replace_certificate(made, "registry", *EXPIRED)
    replace_certificate(made, "bureau", *EARLY)
    said = vfl("doctor", made.guest.file, "--wait", "0", code=1, folder=made.guest.folder, failing=False)
    assert (
        f"FAIL  the certificate of registry is no longer valid: it expired on {text(NOW + EXPIRED[1])}"
        in said
    )
    assert (
        f"FAIL  the certificate of bureau is not valid yet: it begins on {text(NOW + EARLY[0])}" in said
    )


# --- Rotated keys ---


async def call(own: Credentials, address: str) -> None:
    """As a host that serves: again and again, whatever it is told."""
    while True:
        with contextlib.suppress(IdentityError, PeerUnreachable):
            await dial(own, "insurer", address, "host", 0)
        await asyncio.sleep(0.05)


async def diagnosed(made: Federation, *hosts: Credentials) -> list[str]:
    """What the insurer's doctor says while these hosts dial in."""
    lines: list[str] = []
    address = made.guest.settings["party"]["listen"]
    calling = [asyncio.create_task(call(own, address)) for own in hosts]
    healthy = await examine(load_party(made.guest.file), 2.0, lambda it: lines.append(it.line))
    assert not healthy
    for task in calling:
        task.cancel()
    await asyncio.gather(*calling, return_exceptions=True)
    return [line for line in lines if line.startswith("FAIL")]


def test_the_doctor_names_hosts_that_dial_in_after_a_rotation(made: Federation) -> None:
    old = identity.load(made.guest.folder / "keys" / "insurer")
    registry, bureau = (
        identity.load(made.parties[n].folder / "keys" / n) for n in ("registry", "bureau")
    )
    new, _ = rotation.rotate(old)
    made.guest.settings["party"]["identity"] = "keys/insurer.2"
    made.guest.write()
    # The registry pins the insurer's old certificate; the bureau has rotated its own key, too.
    second, _ = rotation.rotate(bureau)
    found = asyncio.run(diagnosed(made, credentials(registry, old), credentials(second, new)))
    mark = " ".join(second.certificate.fingerprint_groups.split()[:4])
    assert found == [
        "FAIL  bureau dialled in and was refused: its certificate is not pinned here (fingerprint "
        f"{mark} ...); it is in the name of bureau: compare fingerprints by phone; pin it with `vfl "
        "keys accept` if bureau has rotated its key, else put the right one into the file of "
        "[peers.bureau] and start again",
        "FAIL  registry dialled in and was refused: registry still pins the certificate that this party "
        "had before its key was rotated: it must run `vfl keys accept` with the new one, and restart",
    ]


def test_the_doctor_names_a_host_that_dials_in_with_its_old_key(made: Federation) -> None:
    """The insurer has accepted the new certificate, the registry has not been restarted."""
    guest = made.guest
    insurer = identity.load(guest.folder / "keys" / "insurer")
    old = identity.load(made.parties["registry"].folder / "keys" / "registry")
    new, vouching = rotation.rotate(old)
    rotation.accept(guest.folder / "peers" / "registry.pem", new.certificate_path, vouching, {})
    bureau = made.parties["bureau"]
    found = asyncio.run(
        diagnosed(
            made,
            credentials(old, insurer),
            credentials(identity.load(bureau.folder / "keys" / "bureau"), insurer),
        )
    )
    assert len(found) == 1
    assert found[0].startswith(
        "FAIL  registry dialled in and was refused: registry still shows the certificate that it had "
    )


@pytest.mark.parametrize("accepted", [True, False])
def test_the_doctor_names_a_host_that_it_dials_and_that_shows_another_key(
    made: Federation, accepted: bool
) -> None:
    guest = made.guest
    insurer = identity.load(guest.folder / "keys" / "insurer")
    old = identity.load(made.parties["registry"].folder / "keys" / "registry")
    new, vouching = rotation.rotate(old)
    if accepted:
        rotation.accept(guest.folder / "peers" / "registry.pem", new.certificate_path, vouching, {})
    shows = old if accepted else new

    async def run() -> list[str]:
        async with listen(credentials(shows, insurer), "127.0.0.1:0", "host", lambda line: None) as it:
            guest.settings["peers"] = {
                "registry": {**pinned("registry"), "address": f"127.0.0.1:{it.port}"}
            }
            guest.write()
            return await diagnosed(made)

    (line,) = asyncio.run(run())
    assert line.startswith("FAIL  registry: ")
    if accepted:
        assert "still shows the certificate that it had before its key was rotated" in line
    else:
        assert "shows another certificate" in line and "`vfl keys accept`" in line


def test_a_guest_that_waits_in_vain_is_told_why_its_host_was_refused(made: Federation) -> None:
    old = identity.load(made.guest.folder / "keys" / "insurer")
    registry = identity.load(made.parties["registry"].folder / "keys" / "registry")
    rotation.rotate(old)
    made.guest.settings["party"]["identity"] = "keys/insurer.2"
    made.guest.write()

    async def run() -> None:
        site = Site.open(load_party(made.guest.file))
        calling = asyncio.create_task(
            call(credentials(registry, old), made.guest.settings["party"]["listen"])
        )
        try:
            async with hosts_of(site, 1.0, Silent(), ["registry"]):
                pass
        finally:
            calling.cancel()

    with pytest.raises(
        PeerUnreachable, match=r"no connection from registry .* still pins the certificate"
    ):
        asyncio.run(run())


# --- Revoked keys ---


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of revoked certificates is looked at often."""
    monkeypatch.setattr(connect, "_LOOK", 0.01)


def test_a_revoked_peer_is_refused_without_a_restart(made: Federation) -> None:
    """At its next connection, to begin or to go on, and at its next offer on a session that is open."""
    registry = made.parties["registry"]
    registry.settings["party"]["listen"] = "127.0.0.1:0"
    registry.write()
    own = load_party(registry.file)
    site, show = Site.open(own), Said()
    insurer = Site.open(load_party(made.guest.file))

    async def run() -> None:
        async with site.listen("127.0.0.1:0", show) as listener:
            address = f"127.0.0.1:{listener.port}"
            here = await insurer.dial("registry", address, 5, Silent())
            there = await listener.accept()
            serving = asyncio.create_task(host.serve_session(site, there, show))
            pin = own.peers["insurer"].certificate
            revoke(own.party.identity, pin, site.pinned["insurer"], "a laptop was lost", "2027-06-30")
            with pytest.raises(IdentityError, match="registry refused this party's certificate"):
                await insurer.dial("registry", address, 5, Silent())
            line = websocket._Line(insurer.credentials, "registry", address, None)
            with pytest.raises(IdentityError, match="registry refused this party's certificate"):
                await line.connect(websocket.GO_ON, 5)
            await here.send(Offer("align", bytes(32), ["registry"], []))
            with pytest.raises(PeerStopped, match="the certificate of insurer is revoked"):
                await here.recv(Offer)
            await serving
            with pytest.raises(
                IdentityError, match="the certificate of insurer was revoked on 2027-06-30"
            ):
                await site.dial("insurer", address, 0, Silent())
            # A list that is damaged is no empty list.
            (own.party.identity.with_name("revoked.json")).write_text("[")
            with pytest.raises(PeerUnreachable):
                await insurer.dial("registry", address, 0, Silent())

    asyncio.run(run())
    why = "the certificate of insurer was revoked on 2027-06-30 (a laptop was lost)"
    assert f"refused a connection from 127.0.0.1: {why}" in show.lines
    assert f"error: {why}" in show.lines
    assert [line for line in show.lines if "revoked.json is damaged" in line]


def listening(made: Federation, name: str) -> Site:
    """The site of a party that would listen somewhere."""
    party = made.parties[name]
    party.settings["party"]["listen"] = "127.0.0.1:0"
    party.write()
    return Site.open(load_party(party.file))


def revoked(site: Site, name: str) -> str:
    """Revoke a peer's certificate; what this party then says of it."""
    own = site.party
    pin = own.peers[name].certificate
    revoke(own.party.identity, pin, site.pinned[name], "a laptop was lost", "2027-06-30")
    return f"the certificate of {name} was revoked on 2027-06-30 (a laptop was lost)"


@pytest.mark.parametrize("which", ["the guest", "another host"])
def test_a_host_ends_a_job_under_way_with_a_party_that_is_revoked(
    made: Federation, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    pins = made.parties["registry"].settings["peers"]
    pins["bureau"] = pinned("bureau")
    site, show = listening(made, "registry"), Said()
    insurer = Site.open(load_party(made.guest.file))
    begun = asyncio.Event()

    async def work(*_: object) -> str:
        begun.set()
        await asyncio.sleep(600)
        return "done"

    monkeypatch.setitem(host._TASKS, "align", work)
    name = {"the guest": "insurer", "another host": "bureau"}[which]
    why: list[str] = []

    async def run() -> None:
        async with site.listen("127.0.0.1:0", show) as listener:
            here = await insurer.dial("registry", f"127.0.0.1:{listener.port}", 5, Silent())
            serving = asyncio.create_task(host.serve_session(site, await listener.accept(), show))
            await here.send(Offer("align", bytes(32), ["registry", "bureau"], []))
            await begun.wait()
            why.append(revoked(site, name))
            with pytest.raises(PeerStopped, match=f"registry stopped the job: .* of {name} is revoked"):
                await here.recv(Offer)
            await serving

    asyncio.run(run())
    assert show.lines == [f"error: {why[0]}"]


@pytest.mark.parametrize("ending", ["revoked", "interrupted", "of itself", "by another error"])
def test_a_guest_ends_a_job_under_way_with_a_host_that_is_revoked(made: Federation, ending: str) -> None:
    registry = listening(made, "registry")

    async def run() -> None:
        async with registry.listen("127.0.0.1:0", Silent()) as listener:
            made.guest.settings["peers"]["registry"]["address"] = f"127.0.0.1:{listener.port}"
            made.guest.write()
            site = Site.open(load_party(made.guest.file))
            begun = asyncio.Event()

            async def work() -> None:
                async with hosts_of(site, 5, Silent(), ["registry"]):
                    begun.set()
                    if ending == "of itself":
                        return
                    if ending == "by another error":
                        raise DataError("row 7")
                    await asyncio.sleep(600)

            working = asyncio.create_task(work())
            there = await listener.accept()
            await begun.wait()
            if ending == "revoked":
                why = re.escape(revoked(site, "registry"))
                with pytest.raises(PeerStopped, match="the certificate of registry is revoked"):
                    await there.recv(Offer)
                with pytest.raises(IdentityError, match=f"^{why}$"):
                    await working
            elif ending == "interrupted":
                working.cancel()
                with pytest.raises(PeerStopped, match="it was interrupted by its operator"):
                    await there.recv(Offer)
                with pytest.raises(asyncio.CancelledError):
                    await working
            elif ending == "of itself":
                with pytest.raises(PeerLost, match="insurer closed the connection"):
                    await there.recv(Offer)
                await working
            else:
                with pytest.raises(PeerStopped, match="a problem in its own table"):
                    await there.recv(Offer)
                with pytest.raises(DataError, match="row 7"):
                    await working
            await there.close()

    asyncio.run(run())


def test_a_guest_does_not_wait_for_a_host_that_is_revoked(made: Federation) -> None:
    """Hosts that are there already are told."""
    registry = Site.open(load_party(made.parties["registry"].file))
    site = Site.open(load_party(made.guest.file))
    address = made.guest.settings["party"]["listen"]

    async def run() -> None:
        async def work() -> None:
            async with hosts_of(site, 600, Silent()):
                pass

        working = asyncio.create_task(work())
        there = await registry.dial("insurer", address, 20, Silent())
        why = re.escape(revoked(site, "bureau"))
        with pytest.raises(PeerStopped, match="the certificate of bureau is revoked"):
            await there.recv(Offer)
        with pytest.raises(IdentityError, match=f"^{why}$"):
            await working
        await there.close()

    asyncio.run(run())


def test_a_coordinator_ends_a_job_under_way_with_a_party_that_is_revoked(
    made: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, show = Site.open(load_party(made.guest.file)), Said()

    async def fit(*_: object) -> None:
        revoked(site, "bureau")
        await asyncio.sleep(600)

    monkeypatch.setattr(coordinator, "_fit", fit)

    async def run() -> None:
        ends = {name: MemoryPeer.pair("umpire", name) for name in ("registry", "bureau")}
        terms = SimpleNamespace(run=bytes(16))
        gathering = coordinator._Gathering(SimpleNamespace(parties=list(ends), terms=terms))
        gathering.came = {name: here for name, (here, _) in ends.items()}
        await coordinator._lead(site, gathering, SimpleNamespace(name="claims"), show)
        assert gathering.done.is_set()
        for _, there in ends.values():
            with pytest.raises(PeerStopped, match="the certificate of bureau is revoked"):
                await there.recv(Offer)

    asyncio.run(run())
    assert [line for line in show.lines if "the certificate of bureau was revoked" in line]


def test_no_job_goes_on_without_the_list_of_revoked_certificates(made: Federation) -> None:
    site = Site.open(load_party(made.guest.file))

    async def run() -> None:
        async with site.while_not_revoked(["registry"]):
            site.party.party.identity.with_name("revoked.json").write_text("[")
            await asyncio.sleep(600)

    with pytest.raises(IdentityError, match="damaged: restore the list of revoked certificates"):
        asyncio.run(run())


def test_the_list_is_read_again_when_its_file_has_changed_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    true = RevocationList.now.__globals__["revoked_by"]
    monkeypatch.setitem(
        RevocationList.now.__globals__, "revoked_by", lambda path: reads.append(path) or true(path)
    )
    listed = RevocationList(tmp_path / "insurer")
    file = tmp_path / "revoked.json"
    one = {"fingerprint": "ab" * 32, "name": "bureau", "on": "2027-06-30", "reason": "lost"}
    for _ in range(3):
        assert listed.now() == {}
    file.write_text(json.dumps([one]))
    for _ in range(3):
        assert list(listed.now()) == ["ab" * 32]
    file.write_text(json.dumps([one, {**one, "fingerprint": "cd" * 32}]))
    assert len(listed.now()) == 2
    file.write_text("[")
    for _ in range(2):
        with pytest.raises(IdentityError, match="damaged"):
            listed.now()
    file.unlink()
    assert listed.now() == {}
    assert len(reads) == 6


@pytest.mark.parametrize("when", ["expired", "early"])
def test_a_guest_does_not_wait_for_a_host_whose_certificate_is_not_valid(
    made: Federation, when: str
) -> None:
    replace_certificate(made, "registry", *(EXPIRED if when == "expired" else EARLY))
    where = made.guest.folder
    said = vfl("align", made.guest.file, "--wait", "600", code=4, folder=where, failing=False)
    last = said.splitlines()[-1]
    assert said.count("the certificate of registry") == 1  # an error, and no note before it
    if when == "expired":
        assert "error: the certificate of registry is no longer valid" in last
        assert "registry has to make a new one with `vfl keys rotate`" in last
    else:
        assert "error: the certificate of registry is not valid yet" in last
        assert last.endswith("check the clocks of both machines")


def test_a_guest_is_told_of_an_invalid_certificate_that_its_job_does_not_need(made: Federation) -> None:
    replace_certificate(made, "bureau", *EXPIRED)
    said = Said()

    async def run() -> None:
        site = Site.open(load_party(made.guest.file))
        site.warn_of_ending(said)
        async with hosts_of(site, 0.0, said, ["registry"]):
            pass

    with pytest.raises(PeerUnreachable, match="no connection from registry"):
        asyncio.run(run())
    found = [line for line in said.lines if "bureau" in line]
    assert len(found) == 1 and found[0].startswith("note: the certificate of bureau is no longer valid")


@pytest.mark.parametrize("nobody", [True, False])
def test_a_host_is_told_when_a_guest_listens_only_where_nobody_does(
    made: Federation, monkeypatch: pytest.MonkeyPatch, nobody: bool
) -> None:
    registry = made.parties["registry"]
    if not nobody:

        def no_such_name(*arguments: object, **named: object) -> object:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
        registry.settings["peers"]["insurer"]["address"] = "insurer.example:7443"
        registry.write()
    said = vfl("doctor", registry.file, "--wait", "0", code=1, folder=registry.folder, failing=False)
    (line,) = [line for line in said.splitlines() if line.startswith("FAIL  insurer: ")]
    hint = "(a guest listens only while one of its commands runs)"
    if nobody:
        assert line.endswith(f"connection refused {hint}")
    else:
        assert line.endswith("the name cannot be resolved")


def test_the_doctor_names_every_certificate_that_cannot_be_used(made: Federation) -> None:
    guest = made.guest
    (guest.folder / "peers" / "registry.pem").unlink()
    (guest.folder / "peers" / "bureau.pem").write_bytes(b"garbage")
    (guest.folder / "keys" / "insurer.key").chmod(0o644)
    said = vfl("doctor", guest.file, "--wait", "0", code=1, folder=guest.folder, failing=False)
    lines = [line for line in said.splitlines() if line.startswith("FAIL  keys: ")]
    assert len(lines) == 3
    assert "others can read the private key" in lines[0]
    assert "registry.pem does not exist" in lines[1]
    assert "bureau.pem is not a certificate made by" in lines[2]
