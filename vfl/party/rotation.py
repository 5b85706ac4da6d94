"""A new key for the same party, vouched for by the old one.

The party makes a second identity and a file `NAME.rotation`, in which the old key and the new one sign
that the new certificate takes the old one's place. A peer that pins the old certificate checks that and
pins the new one; no phone call is needed unless the old key may be in other hands, which then could
vouch for a key of its own.

The file holds all rotations since the first certificate, and lies beside the certificate at its owner
and at every peer. It is checked whenever it is read. So an alignment or a model made with an earlier
certificate of a party still names this party.
"""

import datetime
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from vfl.errors import IdentityError
from vfl.net.certificates import in_words
from vfl.party.authority import Authority
from vfl.party.files import refuse_fixed, replacing, rewriting
from vfl.party.identity import (
    Certificate,
    Identity,
    create,
    load_certificate,
    parse_certificate,
    paths,
)
from vfl.party.revocation import Revoked, refuse_revoked

_MAX_FILE = 1024 * 1024  # bytes
_MAX_LINKS = 100


class RotationLink(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rotation, signed by both keys."""

    old: str  # PEM
    new: str  # PEM
    on: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}\Z")]  # UTC
    by_old: bytes
    by_new: bytes


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["vfl/rotation"]
    version: Literal[1]
    links: Annotated[tuple[RotationLink, ...], msgspec.Meta(min_length=1, max_length=_MAX_LINKS)]


@dataclass(frozen=True)
class Chain:
    """A party's certificates, oldest first, each vouched for by the one before."""

    links: tuple[RotationLink, ...]
    certificates: tuple[Certificate, ...]  # one more than links

    def since(self, certificate: Certificate) -> tuple[Certificate, ...] | None:
        """This certificate and all later ones; None when it is none of the chain."""
        return self._cut(certificate, before=False)

    def until(self, certificate: Certificate) -> tuple[Certificate, ...] | None:
        """All earlier ones and this certificate; None when it is none of the chain."""
        return self._cut(certificate, before=True)

    def _cut(self, certificate: Certificate, *, before: bool) -> tuple[Certificate, ...] | None:
        for place, one in enumerate(self.certificates):
            if one.der == certificate.der:
                return self.certificates[: place + 1] if before else self.certificates[place:]
        return None


def rotate(identity: Identity, words: bytes | None = None) -> tuple[Identity, Path]:
    """A new identity for the same party, its key under the passphrase `words` if there is one, and the
    file that vouches for it.

    The new files lie beside the old ones, which stay as they are: `insurer.2.key` after `insurer.key`.
    Raises IdentityError when a file cannot be written.
    """
    prefix = next_prefix(identity.key_path.with_name(identity.key_path.name.removesuffix(".key")))
    earlier = _read_beside(identity.certificate_path)
    links = () if earlier is None else _links_until(earlier, identity.certificate)
    if len(links) == _MAX_LINKS:
        raise IdentityError(f"{identity.name} has rotated its key {_MAX_LINKS} times: start anew")
    new = create(prefix, identity.name, words)
    on = datetime.datetime.now(datetime.UTC).date().isoformat()
    statement = _statement(identity.certificate, new.certificate, on)
    link = RotationLink(
        identity.certificate.pem.decode(),
        new.certificate.pem.decode(),
        on,
        identity.sign(statement),
        new.sign(statement),
    )
    path = beside(new.certificate_path)
    try:
        _write(path, (*links, link))
    except BaseException:
        for made in paths(prefix):  # of no use without what vouches for it
            made.unlink(missing_ok=True)
        raise
    return new, path


def accept(
    pinned: Path, new: Path, rotation: Path, revoked: dict[str, Revoked]
) -> tuple[Certificate, Certificate, Path]:
    """Pin a peer's new certificate in place of the pinned one, if the rotations of the file lead from
    one to the other.

    Returns the old certificate, the new one and where the old one lies now. Raises IdentityError when
    a file cannot be used, a signature fails, a certificate on the way is revoked, or the new one has
    expired; DataError when a file cannot be written.
    """
    old, wanted = load_certificate(pinned), load_certificate(new)
    if wanted.der == old.der:
        raise IdentityError(f"{new} is the certificate that is pinned already")
    chain = read(rotation)
    if chain.certificates[-1].der != wanted.der:
        raise IdentityError(f"{rotation} vouches for another certificate than {new}")
    way = chain.since(old)
    if way is None:
        raise IdentityError(
            f"{rotation} does not start from the certificate of {old.name} that is pinned here: "
            "compare fingerprints by phone and pin the new one by hand"
        )
    refuse_revoked(revoked, way, rotation)
    if wanted.expires <= datetime.datetime.now(datetime.UTC):
        raise IdentityError(f"{new} expired on {in_words(wanted.expires)}")
    refuse_fixed(pinned)
    kept = _kept(pinned, old)
    # The pin last: until then nothing has changed.
    for path, content in ((kept, old.pem), (beside(pinned), _encode(chain.links))):
        with replacing(path, 0o644) as file:
            file.write(content)
    with rewriting(pinned) as file:
        file.write(wanted.pem)
    return old, wanted, kept


def renew(pinned: Path, new: Path, authority: Authority) -> tuple[Certificate, Certificate, Path]:
    """Pin a peer's new certificate in place of the pinned one, for which its authority stands.

    Returns as `accept`. Raises IdentityError when the authority does not stand for it, DataError when a
    file cannot be written.
    """
    old, wanted = load_certificate(pinned), load_certificate(new)
    if wanted.der == old.der:
        raise IdentityError(f"{new} is the certificate that is pinned already")
    authority.check(wanted.der)
    refuse_fixed(pinned)
    kept = _kept(pinned, old)
    with replacing(kept, 0o644) as file:
        file.write(old.pem)
    with rewriting(pinned) as file:  # the pin last
        file.write(wanted.pem)
    return old, wanted, kept


def _kept(pinned: Path, old: Certificate) -> Path:
    """Where a certificate lies once another one has taken its place."""
    return pinned.with_name(f"{pinned.name}.replaced-{old.fingerprint[:8]}")


def formerly(certificate: Certificate, path: Path) -> frozenset[str]:
    """The fingerprints that the party of the certificate at `path` had before, by the file beside it.

    A file that does not lead to this certificate says nothing. Raises IdentityError when it is damaged.
    """
    chain = _read_beside(path)
    until = None if chain is None else chain.until(certificate)
    return frozenset(one.fingerprint for one in (until or ())[:-1])


def read(path: Path) -> Chain:
    """The rotations in a file, every signature checked. Raises IdentityError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from None
    try:
        if len(data) > _MAX_FILE:
            raise msgspec.DecodeError
        links = msgspec.json.decode(data, type=_File).links
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise IdentityError(f"{path} is not a file made by `vfl keys rotate`") from None
    certificates = [parse_certificate(links[0].old.encode(), path)]
    for link in links:
        old, new = (parse_certificate(pem.encode(), path) for pem in (link.old, link.new))
        statement = _statement(old, new, link.on)
        if not (
            old.der == certificates[-1].der
            and old.name == new.name
            and old.verify(link.by_old, statement)
            and new.verify(link.by_new, statement)
        ):
            raise IdentityError(f"{path} is damaged or forged: a signature in it does not hold")
        certificates.append(new)
    return Chain(links, tuple(certificates))


def beside(certificate: Path) -> Path:
    """Where the rotations that led to a certificate lie."""
    return certificate.with_name(certificate.name.removesuffix(".pem") + ".rotation")


def next_prefix(prefix: Path) -> Path:
    """Where a party's next keys go: `keys/insurer.2` after `keys/insurer`."""
    found = re.fullmatch(r"(.+?)(?:\.(\d{1,2}))?", prefix.name)
    if found is None:
        raise ValueError("a prefix has a name")
    return prefix.with_name(f"{found[1]}.{int(found[2] or 1) + 1}")


def _read_beside(path: Path) -> Chain | None:
    file = beside(path)
    return read(file) if file.exists() else None


def _links_until(chain: Chain, certificate: Certificate) -> tuple[RotationLink, ...]:
    return chain.links[: len(chain.until(certificate) or (certificate,)) - 1]


def _write(path: Path, links: tuple[RotationLink, ...]) -> None:
    with replacing(path, 0o644) as file:
        file.write(_encode(links))


def _encode(links: tuple[RotationLink, ...]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(_File("vfl/rotation", 1, links)), indent=2) + b"\n"


def _statement(old: Certificate, new: Certificate, on: str) -> bytes:
    """What both keys sign."""
    parts = (old.name, old.fingerprint, new.fingerprint, on)
    return b"vfl key rotation\0" + hashlib.sha256("\0".join(parts).encode()).digest()
