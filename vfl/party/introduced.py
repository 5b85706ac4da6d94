"""What becomes of an introduction: whether two parties fit, who dials whom, and what each writes.

Both ends come to the same answer from the two introductions alone. Nothing is written before all has
been checked; the party file comes last, and keeps its comments and its layout.
"""

import ipaddress
import os
import re
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from vfl.errors import ConfigError, DataError, IdentityError, Refused
from vfl.net.addresses import is_relay, split_address
from vfl.net.invitation import Introduction
from vfl.party.authority import Authority
from vfl.party.config import Party, context_of
from vfl.party.config_errors import explain_errors
from vfl.party.files import FOR_PEER, make_folder, refuse_fixed, replacing, rewriting, unwritable
from vfl.party.identity import Certificate, load_certificate, parse_certificate
from vfl.party.reading import settings_line
from vfl.party.revocation import refuse_revoked, revoked_by
from vfl.party.toml_files import read_toml

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Pair:
    """Two introductions."""

    inviter: Introduction
    joiner: Introduction

    def of(self, *, joins: bool) -> tuple[Introduction, Introduction]:
        """One's own and the other's."""
        return (self.joiner, self.inviter) if joins else (self.inviter, self.joiner)

    def misfit(self) -> str | None:
        """Why the two cannot work together, in words for both; None when they can."""
        one, two = self.inviter, self.joiner
        if one.protocol != two.protocol:
            return (
                f"{one.name} runs vfl {one.version}, protocol {one.protocol}, and {two.name} vfl "
                f"{two.version}, "
                f"protocol {two.protocol}: update the older one"
            )
        if one.name == two.name:
            return f"both parties are called {one.name}: one of them needs another name"
        if one.certificate == two.certificate:
            return "both parties have the same certificate: each makes its own by `vfl keys new`"
        if one.role == two.role != "host":
            return (
                f"both are a {one.role}: a federation has one guest, who has the label, and one "
                "coordinator at most "
                "(parties with rows of their own pin each other as docs/guide.md says)"
            )
        if one.role != two.role and self.dialled is None:
            return (
                f"neither {one.name} nor {two.name} says where the other can dial it: set listen in "
                "[party] of one "
                "of them, and where others reach it by --address"
            )
        return None

    @property
    def dialled(self) -> tuple[str, str] | None:
        """Who is dialled by the other, and where; None for two hosts, and where neither can be."""
        one, two = self.inviter, self.joiner
        if one.role == two.role:
            return None
        where = {
            one.name: one.address or (two.found_at if one.stays else None),
            two.name: two.address,
        }
        order = [one.name, two.name]
        for party in (one, two):
            if party.role == "coordinator":
                order = [party.name]  # which is always dialled
        return next(((name, at) for name in order if (at := where[name]) is not None), None)


def reachable(listen: str | None) -> str | None:
    """The address under which others reach a party that listens there, where that can be told."""
    if listen is None or is_relay(listen):
        return listen
    host, port = split_address(listen)
    try:
        if ipaddress.ip_address(host).is_unspecified:
            return None
    except ValueError:
        pass  # a name
    return listen if port else None


@dataclass(frozen=True)
class Change:
    """What a party writes about a peer, once all has been checked."""

    path: Path
    name: str
    role: str
    certificate: Certificate
    pin: Path
    address: str | None
    """Where this party dials the peer, if it does."""
    pinned_before: bool
    text: bytes

    def write(self) -> None:
        """Write the certificate, then the party file. Raises DataError; then neither is changed."""
        made = not self.pin.exists()
        make_folder(self.pin.parent)
        try:
            if not self.pinned_before:
                with replacing(self.pin, 0o644) as file:
                    file.write(self.certificate.pem)
            if self.path.read_bytes() != self.text:
                with rewriting(self.path) as file:
                    file.write(self.text)
        except BaseException as error:
            if made:
                self.pin.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise unwritable(f"{self.path} cannot be written", error) from None
            raise


def certificate_of(theirs: Introduction) -> Certificate:
    """The certificate of an introduction. Raises IdentityError for what is none of that name, or not
    valid now."""
    what = Path(f"the certificate of {theirs.name}")
    try:
        pem = ssl.DER_cert_to_PEM_cert(theirs.certificate).encode()
        certificate = parse_certificate(pem, what)
    except (ValueError, IdentityError):
        raise IdentityError(
            f"{what} is none that vfl can use: it has to be made by `vfl keys new`",
            for_peer="the certificate is none that vfl can use",
        ) from None
    if certificate.name != theirs.name:
        raise IdentityError(
            f"{theirs.name} showed the certificate of {certificate.name}",
            for_peer="the certificate is of another name",
        )
    if (why := certificate.invalidity()) is not None:
        raise IdentityError(
            f"{what} {why}: {theirs.name} has to {certificate.remedy}",
            for_peer=f"the certificate {why}",
        )
    return certificate


def plan(path: Path, party: Party, pair: Pair, *, joins: bool, expected: str | None) -> Change:
    """What this party would write. `expected`: the name that it awaits, if it named one.

    Raises Refused, IdentityError, ConfigError and DataError with the line for this party, whose
    `for_peer` the other may hear.
    """
    _, theirs = pair.of(joins=joins)
    name = theirs.name
    if (why := pair.misfit()) is not None:
        raise Refused(why)
    if expected is not None and name != expected:
        raise Refused(
            f"{name} came, where {expected} was expected", for_peer="another party is expected"
        )
    guests = party.policy.guests
    if (party.role, theirs.role) == ("host", "guest") and guests is not None and name not in guests:
        raise Refused(
            f"{path.name}: [policy] guests does not name {name}: add it there if it may start jobs here",
            for_peer=f"its policy does not name {name} among its guests",
        )
    certificate = certificate_of(theirs)
    known = party.peers.get(name)
    pin = path.parent / "peers" / f"{name}.pem" if known is None else known.certificate
    refuse_revoked(revoked_by(party.party.identity), [certificate], Path(f"the certificate of {name}"))
    if known is not None and known.ca is not None:
        Authority.load(known.ca, known.crl, known.ca_name or name).check(certificate.der)
    before = _pinned(pin, certificate)
    _refuse_namesakes(party, name, certificate)
    role = "coordinator" if theirs.role == "coordinator" else None
    if known is not None and known.role != role:
        raise ConfigError(
            f"{path.name}: [peers.{name}] has a role that is not {name}'s: correct it first"
        )
    values: dict[str, str] = {}
    dialled = pair.dialled
    address = dialled[1] if dialled is not None and dialled[0] == name else None
    if address is not None:
        values["address"] = address
    values["certificate"] = Path(os.path.relpath(pin, path.parent)).as_posix()
    if role is not None:
        values["role"] = role
    text = with_peer(path, name, values)
    _check(path, text)
    if text != path.read_bytes():
        refuse_unwritable(path)
    _refuse_unwritable_folder(pin)
    kept = known.address if known is not None and known.address is not None else address
    return Change(path.resolve(), name, theirs.role, certificate, pin, kept, before, text)


def _pinned(pin: Path, certificate: Certificate) -> bool:
    """Whether the certificate is pinned there already. Raises IdentityError for another one."""
    if not pin.exists():
        return False
    there = load_certificate(pin)
    if there.der == certificate.der:
        return True
    raise IdentityError(
        f"{pin} is another certificate of {there.name} (fingerprint {there.fingerprint_groups}), and it "
        "stays: after "
        "`vfl keys rotate` there run `vfl keys accept` here, else `vfl keys revoke` it or move it away "
        "first",
        for_peer="another certificate is pinned for that name",
    )


def _refuse_namesakes(party: Party, name: str, certificate: Certificate) -> None:
    for other, peer in party.peers.items():
        there = peer.certificate.exists() and other != name
        if there and load_certificate(peer.certificate).der == certificate.der:
            raise IdentityError(f"the certificate of {name} is pinned for {other} already")


def refuse_unwritable(path: Path) -> None:
    """Raises DataError where the party file could not be written, before the other end writes."""
    refuse_fixed(path, "pin the other party by hand as docs/operations.md says")


def _refuse_unwritable_folder(pin: Path) -> None:
    folder = next(one for one in (pin.parent, *pin.parent.parents) if one.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DataError(
            f"{folder} cannot be written by this account: nothing is changed", for_peer=FOR_PEER
        )


def _check(path: Path, text: bytes) -> None:
    """Raises ConfigError when the party file would not be one."""
    raw = tomllib.loads(text.removeprefix(_BOM).decode())
    try:
        Party.model_validate(raw, strict=True, context=context_of(path, True))
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {explain_errors(error, Party)}") from None


def with_peer(path: Path, name: str, values: Mapping[str, str]) -> bytes:
    """The party file with these keys in `[peers.NAME]`, comments and all else as they were.

    Keys that are there stay as they are. Raises ConfigError where the file is written in a way to which
    they cannot be added.
    """
    raw = read_toml(path, "party")
    data = path.read_bytes()
    bom = _BOM if data.startswith(_BOM) else b""
    text = data.removeprefix(_BOM).decode()
    end = "\r\n" if "\r\n" in text else "\n"
    peers = raw.get("peers", {})
    there = peers.get(name, {}) if isinstance(peers, dict) else {}
    lines = [settings_line(key, value) for key, value in values.items() if key not in there]
    if not lines:
        return data
    block = "".join(f"{line}{end}" for line in lines)
    header = re.search(
        rf"(?m)^[ \t]*\[[ \t]*peers[ \t]*\.[ \t]*([\"']?){name}\1[ \t]*\][^\r\n]*(\r?\n|\Z)", text
    )
    if header is None:
        gap = "" if not text or text.endswith(f"{end}{end}") else end if text.endswith("\n") else 2 * end
        changed = f"{text}{gap}[peers.{name}]{end}{block}"
    else:
        at = header.end()
        gap = "" if text[:at].endswith("\n") else end
        changed = text[:at] + gap + block + text[at:]
    wanted = {**raw, "peers": {**_table(peers), name: {**values, **_table(there)}}}
    try:
        if tomllib.loads(changed.replace("\r\n", "\n")) == wanted:
            return bom + changed.encode()
    except tomllib.TOMLDecodeError:
        pass
    raise ConfigError(
        f"{path.name}: [peers.{name}] is written in a way that cannot be added to: write it as a "
        "section of its own"
    )


def _table(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}
