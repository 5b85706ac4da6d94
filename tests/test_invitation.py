"""Invitations: two parties pin each other by a code, and files that do not fit."""

import asyncio
import os
import shutil
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import command
from companies import (
    Company,
    Make,
    between,
    both_refused,
    free_port,
    insurer,
    keys,
    make,
    meet,
    registry,
)
from meetings import at as relay_address
from meetings import relaying

from vfl.cli import invite as commands
from vfl.cli import main
from vfl.errors import (
    ConfigError,
    DataError,
    IdentityError,
    PeerStopped,
    PeerUnreachable,
    Refused,
    VflError,
)
from vfl.jobs import introducing
from vfl.jobs.introducing import Met, check_joining
from vfl.net.invitation import (
    DIGITS,
    Code,
    Introduction,
    key_of_place,
)
from vfl.party import identity
from vfl.party.config import load_party
from vfl.party.introduced import Pair, reachable, with_peer
from vfl.party.revocation import revoke

BUREAU = '[peers.bureau]\naddress = "b.example:1"\ncertificate = "peers/bureau.pem"\n'
__all__ = ["insurer", "keys", "make", "registry"]  # fixtures


# --- The code ---


def test_a_slip_of_the_tongue_is_seen_before_anything_is_sent() -> None:
    for _ in range(20):
        code = Code.new()
        assert len(code.digits) == DIGITS and Code.typed(code.spoken) == code
        assert Code.typed(f" {code.digits[:6]} {code.digits[6:]}\n") == code
        for at, digit in enumerate(code.digits):
            for other in set("0123456789") - {digit}:
                with pytest.raises(ConfigError, match="slip"):
                    Code.typed(code.digits[:at] + other + code.digits[at + 1 :])
            swapped = code.digits[:at] + code.digits[at : at + 2][::-1] + code.digits[at + 2 :]
            if swapped != code.digits:
                with pytest.raises(ConfigError, match="slip"):
                    Code.typed(swapped)


@pytest.mark.parametrize("text", ["", "517-930-264-18", "517-930-264-1855", "٤17930264185", 12 * "a"])
def test_what_is_no_code_is_not_echoed(text: str) -> None:
    with pytest.raises(ConfigError, match="12 digits") as raised:
        Code.typed(text)
    assert not text or text not in str(raised.value)


def test_at_a_terminal_a_slip_is_asked_for_again(
    insurer: Company, registry: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "_at_terminal", lambda: True)
    joined: list[Code] = []

    async def join(path: Path, code: Code, *_: object) -> None:
        joined.append(code)
        raise PeerUnreachable("nobody is there")

    monkeypatch.setattr(introducing, "join", join)
    right = "417-930-264-182"
    at = ["--at", insurer.settings["party"]["listen"]]
    typed = "417-930-264-128\n417\n" + right + "\n"
    done = CliRunner().invoke(main, ["join", str(registry.path), *at], input=typed)
    assert joined == [Code.typed(right)]
    assert done.stderr.count("the invitation goes on") == 2 and done.stderr.count("Code: ") == 3
    done = CliRunner().invoke(main, ["join", str(registry.path), *at], input="1\n" * 9)
    assert done.exit_code == 2 and done.stderr.count("Code: ") == 5 and len(joined) == 1


def test_a_code_is_not_in_the_words_of_its_object() -> None:
    code = Code.new()
    assert code.digits not in repr(code) and code.spoken not in repr(code)


def test_places_are_of_the_first_three_digits() -> None:
    code = Code.new()
    assert code.place.place == key_of_place(int(code.digits[:3])).place
    assert len({key_of_place(number).place for number in range(50)}) == 50


# --- Two that meet ---


def test_two_parties_pin_each_other_and_keep_their_files_as_they_were(
    insurer: Company, registry: Company
) -> None:
    texts = insurer.path.read_text(), registry.path.read_text()
    met = asyncio.run(meet(insurer, registry))
    assert all(isinstance(one, Met) for one in met), met
    listen = insurer.settings["party"]["listen"]
    assert insurer.settings["peers"] == {"registry": {"certificate": "peers/registry.pem"}}
    assert registry.settings["peers"] == {
        "insurer": {"address": listen, "certificate": "peers/insurer.pem"}
    }
    for company, text, peer in ((insurer, texts[0], registry), (registry, texts[1], insurer)):
        assert company.path.read_text().startswith(text)
        (theirs,) = (peer.path.parent / "keys").glob("*.pem")
        pin = company.path.parent / "peers" / theirs.name
        assert identity.load_certificate(pin).der == identity.load_certificate(theirs).der
        load_party(company.path)
    (one,), (two,) = insurer.seen, registry.seen
    assert one.number == two.number and len(one.number) == 6
    assert one.dialled == two.dialled == ("insurer", listen)
    assert (one.change.role, two.change.role) == ("host", "guest")
    # Once more: what is there stays as it is.
    before = insurer.state(), registry.state()
    assert all(isinstance(one, Met) for one in asyncio.run(meet(insurer, registry)))
    assert (insurer.state(), registry.state()) == before


def test_a_section_that_was_drafted_is_filled_in(make: Make, insurer: Company) -> None:
    listen = insurer.settings["party"]["listen"]
    drafted = f'[peers.insurer]  # us\naddress = "{listen}"\ncertificate = "pins/them.pem"  # pin\n'
    registry = make("registry", "host", rest=f'\n[policy]\nguests = ["insurer"]\n\n{drafted}')
    text = registry.path.read_text()
    assert check_joining(registry.path, None) == listen
    assert all(isinstance(one, Met) for one in asyncio.run(meet(insurer, registry)))
    assert registry.path.read_text() == text
    assert (registry.path.parent / "pins" / "them.pem").exists()


def test_a_host_that_listens_is_dialled_by_the_guest_that_joins(make: Make) -> None:
    bank = make("bank", "host", f'listen = "0.0.0.0:{(port := free_port())}"')
    guest = make("insurer", "guest")
    met = asyncio.run(meet(bank, guest, of_two={"at": f"localhost:{port}"}))
    assert all(isinstance(one, Met) for one in met), met
    assert guest.settings["peers"]["bank"]["address"] == f"localhost:{port}"
    assert "address" not in bank.settings["peers"]["insurer"]


def test_two_hosts_pin_each_other_and_neither_is_dialled(make: Make) -> None:
    guest = '\n[peers.insurer]\naddress = "i.example:1"\ncertificate = "peers/i.pem"\n'
    pair = [make(name, "host", rest=guest) for name in ("registry", "bureau")]
    met = asyncio.run(meet(*pair, of_one={"at": "127.0.0.1:0"}))
    assert all(isinstance(one, Met) and one.dialled is None for one in met), met
    assert pair[0].settings["peers"]["bureau"] == {"certificate": "peers/bureau.pem"}
    assert pair[1].settings["peers"]["registry"] == {"certificate": "peers/registry.pem"}


@pytest.mark.parametrize("invites", [True, False])
def test_a_coordinator_is_always_dialled(make: Make, insurer: Company, invites: bool) -> None:
    trustee = make("trustee", "coordinator", f'listen = "127.0.0.1:{free_port()}"')
    pair = (trustee, insurer) if invites else (insurer, trustee)
    met = asyncio.run(meet(*pair))
    assert all(isinstance(one, Met) for one in met), met
    listen = trustee.settings["party"]["listen"]
    assert insurer.settings["peers"]["trustee"] == {
        "address": listen,
        "certificate": "peers/trustee.pem",
        "role": "coordinator",
    }
    assert trustee.settings["peers"]["insurer"] == {"certificate": "peers/insurer.pem"}


def test_two_that_open_no_port_meet_at_a_relay_that_reads_nothing(make: Make, registry: Company) -> None:
    passed: list[bytes] = []

    async def run() -> tuple[Met | VflError, Met | VflError]:
        async with relaying() as running, between(f"127.0.0.1:{running.port}", passed) as wire:
            at = f"relay://{wire}"
            guest = make("insurer", "guest", f'listen = "{at}"')
            met = await meet(guest, registry)
            assert registry.settings["peers"]["insurer"]["address"] == at
            return met

    met = asyncio.run(run())
    assert all(isinstance(one, Met) for one in met), met
    said = b"".join(passed)
    assert len(said) > 2000
    for secret in (b"insurer", b"registry", b"guest", b"relay://", met[0].change.certificate.der[40:80]):
        assert secret not in said


def test_a_relay_that_lists_places_serves_invitations_where_its_operator_says_so(
    make: Make, registry: Company
) -> None:
    from vfl.jobs.relaying import limits_of
    from vfl.party.relay_file import RelaySection

    async def run(**more: object) -> tuple[Met | VflError, Met | VflError]:
        section = {"listen": "127.0.0.1:0", "places": ["ab" * 32], **more}
        limits = limits_of(RelaySection.model_validate(section))
        async with relaying(places=limits.places) as running:
            guest = make("insurer", "guest", f'listen = "{relay_address(running)}"')
            return await meet(guest, registry)

    refused, _ = asyncio.run(run())
    assert isinstance(refused, PeerUnreachable) and "invitations = true" in str(refused)
    assert all(isinstance(one, Met) for one in asyncio.run(run(invitations=True)))


# --- Parties that do not fit ---


def test_two_guests(insurer: Company, make: Make) -> None:
    both_refused(insurer, make("bank", "guest"), (Refused, Refused), "both are a guest")


def test_one_name_for_two(make: Make) -> None:
    one = make("registry", "host", f'listen = "127.0.0.1:{free_port()}"')
    two = make("registry", "guest", key="second")
    both_refused(one, two, (Refused, Refused), "both parties are called registry")


def test_a_party_and_its_own_copy(make: Make) -> None:
    one = make("bank", "guest", f'listen = "127.0.0.1:{free_port()}"')
    both_refused(one, make("bank", "host"), (Refused, Refused), "both parties are called bank")


def test_neither_can_be_dialled(make: Make, registry: Company) -> None:
    guest = make("insurer", "guest")
    wish = {"of_one": {"at": "127.0.0.1:0"}}
    both_refused(guest, registry, (Refused, Refused), "says where the other can dial it", **wish)
    wish["of_one"]["address"] = "insurer.example:7443"
    assert all(isinstance(one, Met) for one in asyncio.run(meet(guest, registry, **wish)))
    assert registry.settings["peers"]["insurer"]["address"] == "insurer.example:7443"


def test_another_party_than_was_expected(insurer: Company, registry: Company) -> None:
    wish = {"of_one": {"expected": "bureau"}}
    both_refused(insurer, registry, (Refused, PeerStopped), "where bureau was expected", **wish)


def test_a_guest_that_the_policy_does_not_name(insurer: Company, make: Make) -> None:
    host = make("registry", "host", rest='\n[policy]\nguests = ["bank"]\n')
    both_refused(insurer, host, (PeerStopped, Refused), "[policy] guests does not name insurer")


def test_a_peer_that_is_pinned_with_another_certificate(
    insurer: Company, registry: Company, make: Make
) -> None:
    assert isinstance(asyncio.run(meet(insurer, registry))[0], Met)
    other = make("registry", "host", key="second")
    said = ("vfl keys accept", "another certificate is pinned for that name")
    both_refused(insurer, other, (IdentityError, PeerStopped), *said)


def test_a_certificate_that_is_pinned_under_another_name_or_revoked(
    insurer: Company, registry: Company, keys: Path
) -> None:
    pins = insurer.path.parent / "peers"
    pins.mkdir(mode=0o700)
    shutil.copy(keys / "registry.pem", pins / "bureau.pem")
    text = insurer.path.read_text()
    insurer.path.write_text(f'{text}\n[peers.bureau]\ncertificate = "peers/bureau.pem"\n')
    both_refused(insurer, registry, (IdentityError, PeerStopped), "pinned for bureau already")
    insurer.path.write_text(text)
    certificate = identity.load_certificate(pins / "bureau.pem")
    own = load_party(insurer.path, peers_to_come=True).party.identity
    revoke(own, pins / "bureau.pem", certificate, "lost", "2026-11-30")
    both_refused(insurer, registry, (IdentityError, PeerStopped), "was revoked on 2026-11-30")


def test_files_that_cannot_be_written_are_seen_before_the_other_end_writes(
    insurer: Company, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make("registry", "host", rest=BUREAU)
    allowed = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != host.path.parent and allowed(path, mode)
    )
    both_refused(insurer, host, (PeerStopped, DataError), "this account may not write it")


def test_a_read_only_party_file_is_refused_before_a_code_is_asked_for(
    insurer: Company, registry: Company
) -> None:
    before = insurer.state(), registry.state()
    for company in (insurer, registry):
        company.path.chmod(0o444)
    folder, at = registry.path.parent, ["--at", insurer.settings["party"]["listen"]]
    join = ["join", "registry.toml", "417-930-264-182", *at]
    advice = "it is read-only (mode 444); run chmod u+w registry.toml, or pin the other party by hand"
    command(*join, folder=folder).failed(3, "registry.toml stays as it was", advice)
    command("invite", "insurer.toml", folder=insurer.path.parent).failed(
        3, "insurer.toml stays as it was"
    )
    assert (insurer.state(), registry.state()) == before


def test_a_read_only_party_file_takes_no_second_peer_and_both_ends_hear(
    insurer: Company, make: Make
) -> None:
    host = make("registry", "host", rest=BUREAU)
    host.path.chmod(0o444)
    both_refused(insurer, host, (PeerStopped, DataError), "it could not write a file", "chmod u+w")
    assert host.path.stat().st_mode & 0o777 == 0o444


def test_a_read_only_party_file_that_has_the_peer_needs_no_change(insurer: Company, make: Make) -> None:
    listen = insurer.settings["party"]["listen"]
    there = f'[peers.insurer]\naddress = "{listen}"\ncertificate = "peers/insurer.pem"\n'
    host = make("registry", "host", rest=there)
    host.path.chmod(0o444)
    before = host.path.read_bytes()
    assert all(isinstance(end, Met) for end in asyncio.run(meet(insurer, host)))
    assert host.path.read_bytes() == before


def test_a_party_file_behind_a_link_keeps_its_place_and_mode(insurer: Company, make: Make) -> None:
    host = make("registry", "host")
    kept = host.path.parent / "kept"
    kept.mkdir()
    real = host.path.rename(kept / "own.toml")
    real.chmod(0o640)
    host.path.symlink_to(real)
    assert all(isinstance(end, Met) for end in asyncio.run(meet(insurer, host)))
    assert host.path.is_symlink() and "[peers.insurer]" in real.read_text()
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_party_file_that_cannot_be_added_to(insurer: Company, make: Make) -> None:
    inline = 'peers = {trustee = {address = "t.example:1", certificate = "t.pem"}}\n'
    host = make("registry", "host")
    host.path.write_text(inline + host.path.read_text())
    both_refused(insurer, host, (PeerStopped, ConfigError), "cannot be added to")


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf[party]\r\nname = 'a'\r\n[peers.'b'] # w\r\nonline = 'c:1'\r\n[data]\r\nx = 1\r\n",
        b"[party]\nname = 'a'",
        b"[party]\nname = 'a'\n\n",
        b"[ peers . b ]",
    ],
    ids=["windows", "no end", "a gap", "a header alone"],
)
def test_layouts_of_party_files(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "p.toml"
    values = {"address": "a.example:1", "certificate": "peers/b.pem"}

    def read(text: bytes) -> dict:
        return tomllib.loads(text.decode("utf-8-sig").replace("\r\n", "\n"))

    path.write_bytes(data)
    before, changed = read(data), with_peer(path, "b", values)
    there = before.get("peers", {}).get("b", {})
    assert read(changed) == {**before, "peers": {"b": {**values, **there}}}
    lone = changed.count(b"\n") - changed.count(b"\r\n")
    assert lone == 0 if b"\r\n" in data else changed.count(b"\r") == 0
    kept = [line for line in data.splitlines() if line]
    assert [line for line in changed.splitlines() if line in kept] == kept
    path.write_bytes(changed)
    assert with_peer(path, "b", values) == changed


def test_a_header_that_is_text_is_none(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_bytes(b'[party]\nname = """\n[peers.b]\n"""\n')
    with pytest.raises(ConfigError, match="cannot be added to"):
        with_peer(path, "b", {"certificate": "peers/b.pem"})


@pytest.mark.parametrize(
    ("listen", "found"),
    [
        (None, None),
        ("0.0.0.0:7443", None),
        ("[::]:7443", None),
        ("insurer.example:0", None),
        ("insurer.example:7443", "insurer.example:7443"),
        ("relay://r.example:1", "relay://r.example:1"),
    ],
)
def test_where_others_reach_a_party(listen: str | None, found: str | None) -> None:
    assert reachable(listen) == found


def test_versions_that_do_not_fit_are_said_at_both_ends() -> None:
    one = Introduction(3, "0.1.0", "insurer", "guest", b"1", b"", "a.example:1")
    two = Introduction(4, "0.2.0", "registry", "host", b"2", b"")
    assert "insurer runs vfl 0.1.0, protocol 3, and registry vfl 0.2.0" in (
        Pair(one, two).misfit() or ""
    )


# --- The commands ---


def test_what_the_commands_refuse_before_anything_is_sent(insurer: Company, registry: Company) -> None:
    before = insurer.state(), registry.state()
    for arguments, code, said in (
        (("join", registry.path, "417", "--at", "127.0.0.1:1"), 2, "the code has 12 digits"),
        (("join", registry.path, "417-930-264-186", "--at", "127.0.0.1:1"), 2, "has a slip in it"),
        (("join", registry.path, "--at", "nowhere"), 2, "is no address"),
        (("join", registry.path), 2, "does not say where the other party waits"),
        (("join", registry.path, Code.new().spoken, "--at", "0.0.0.0:7443"), 7, "no address to dial"),
        (("invite", registry.path), 2, "[party] has no listen"),
        (("invite", insurer.path, "Registry"), 2, "'Registry' is no name"),
        (("invite", insurer.path, "insurer"), 2, "insurer is this party itself"),
        (("invite", insurer.path, "--compare"), 2, "asks at a terminal, and there is none"),
        (("invite", insurer.path, "--address", "insurer.example"), 2, "is no address"),
    ):
        command(*map(str, arguments)).failed(code, said)
    assert (insurer.state(), registry.state()) == before


def test_no_key_yet(insurer: Company) -> None:
    for file in (insurer.path.parent / "keys").iterdir():
        file.unlink()
    command("invite", str(insurer.path)).failed(4, "`vfl keys new` makes an identity")
