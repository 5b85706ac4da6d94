"""A company's own certificate authority, beside the pin: `ca` and `crl` in [peers.NAME].

The pinned certificate must also have been issued by a certificate in `ca` for the peer's name (a DNS
name among its alternative names), be for both ends of TLS, and not be on the authority's list `crl`.
Chains are checked by `cryptography` (RFC 5280 with the profile of CA/B), against the certificates of
that one file alone, as of now. No other authority counts, and none of the system's. The list is read
again when its file changes; one that is older than its authority says it may be counts as none: nobody
is let in on its word.
"""

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from vfl.errors import IdentityError
from vfl.net.certificates import in_words, invalidity

_MOST = 16 * 1024 * 1024  # bytes of a list
_MOST_CA = 1024 * 1024
_AUTHORITY_ALONE = "have its authority issue one anew, from `vfl keys request`"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass
class _List:
    """The authority's list as it was when its file was read last."""

    state: tuple[int, ...] = ()
    serials: frozenset[int] = frozenset()
    issuer: x509.Name | None = None
    since: datetime.datetime | None = None
    until: datetime.datetime | None = None

    @property
    def is_late(self) -> bool:
        """Whether a third of its time is left at most: many are made anew each week, or each day."""
        if self.since is None or self.until is None:
            return False
        return 3 * (self.until - _now()) <= self.until - self.since


@dataclass
class Authority:
    """What must have issued a peer's certificate."""

    path: Path
    crl: Path | None
    name: str
    """The DNS name that the certificate must have."""
    certificates: list[x509.Certificate] = field(repr=False)
    _list: _List = field(default_factory=_List, repr=False)

    @classmethod
    def load(cls, path: Path, crl: Path | None, name: str) -> "Authority":
        """Raises IdentityError when the file holds no certificates of an authority."""
        data = _read(path, _MOST_CA)
        if b"PRIVATE KEY" in data:
            raise IdentityError(f"{path} holds a private key: an authority's certificates belong here")
        try:
            found = x509.load_pem_x509_certificates(data)
        except ValueError:
            raise IdentityError(f"{path} holds no certificates in PEM") from None
        for one in found:
            if not _may_issue(one):
                raise IdentityError(
                    f"{path} has the certificate of {_called(one.subject)}, which is no authority's: ca "
                    "names the authority, certificate the party's own"
                )
        return cls(path, crl, name, found)

    def check(self, der: bytes) -> None:
        """Raises IdentityError when the certificate was not issued by this authority for this name, or
        is not valid now, or on the authority's list."""
        if (why := self.why_refused(der)) is not None:
            raise IdentityError(why)

    def why_refused(self, der: bytes) -> str | None:
        """The same as a reason; None for a certificate that is accepted."""
        leaf = x509.load_der_x509_certificate(der)
        now = _now()
        if (why := invalidity(leaf.not_valid_before_utc, leaf.not_valid_after_utc, now)) is not None:
            return f"the certificate of {self.name} {why}: {_AUTHORITY_ALONE}"
        try:
            policy = PolicyBuilder().store(Store(self.certificates)).time(now)
            policy.build_server_verifier(x509.DNSName(self.name)).verify(leaf, [])
        except (VerificationError, ValueError) as error:
            return (
                f"the certificate that is pinned for {self.name} was not issued for that name by the "
                f"authority in {self.path} ({_reason(error)})"
            )
        if (why := misuse(der)) is not None:
            return f"the certificate of {self.name} {why}: {_AUTHORITY_ALONE}"
        try:
            listed = self._listed()
        except IdentityError as error:
            return str(error)
        if listed is None:
            return None
        if listed.issuer != leaf.issuer:
            return f"{self.crl} is of another authority than issued the certificate of {self.name}"
        if leaf.serial_number in listed.serials:
            return f"the certificate of {self.name} is on its authority's list {self.crl}"
        return None

    def _listed(self) -> _List | None:
        """The list as it is now. Raises IdentityError when it cannot be used."""
        if self.crl is None:
            return None
        try:
            found = self.crl.stat()
        except OSError as error:
            raise IdentityError(f"cannot read {self.crl}: {error.strerror}") from None
        state = (found.st_mtime_ns, found.st_size, found.st_ino)
        if state != self._list.state:
            self._list = _read_list(self.crl, self.certificates, state)
        until = self._list.until
        if until is not None and until <= _now():
            raise IdentityError(
                f"{self.crl} is out of date since {in_words(until)}: fetch the authority's newest list"
            )
        return self._list

    def ends(self) -> list[tuple[str, datetime.datetime, str]]:
        """What ends when, and what is to be done: the authority's certificates, and its list once that
        is late."""
        ends = [
            (
                f"the certificate of the authority {_called(one.subject)} in {self.path}",
                one.not_valid_after_utc,
                "put the authority's newer one beside it",
            )
            for one in self.certificates
        ]
        try:
            listed = self._listed()
        except IdentityError:
            return ends  # which is said of each certificate that it is for
        if listed is not None and listed.until is not None and listed.is_late:
            ends.append((f"the list {self.crl}", listed.until, "fetch the authority's newest one"))
        return ends

    def in_words(self, der: bytes) -> str:
        """By whom an accepted certificate was issued, and how far its list goes."""
        leaf = x509.load_der_x509_certificate(der)
        listed = self._listed()
        of = "no list of revoked ones"
        if listed is not None:
            of = f"not among {len(listed.serials):,} revoked"
            if listed.until is not None:
                of += f", by a list good until {in_words(listed.until)}"
        return f"issued by {_called(leaf.issuer)}, {of}"


def misuse(der: bytes) -> str | None:
    """Why a certificate (DER) is of no use at both ends of TLS; None where it is."""
    leaf = x509.load_der_x509_certificate(der)
    try:
        uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
    needed = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    return None if needed <= set(uses) else "is not for both ends of TLS (clientAuth and serverAuth)"


def _may_issue(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _read_list(path: Path, certificates: list[x509.Certificate], state: tuple[int, ...]) -> _List:
    """Raises IdentityError for what is no whole list of one of these authorities."""
    data = _read(path, _MOST)
    pem = data.lstrip().startswith(b"-----")
    try:
        crl = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
        signed = any(
            crl.issuer == one.subject and crl.is_signature_valid(one.public_key())  # type: ignore[arg-type]
            for one in certificates
        )
        partial = any(one.critical and not _is_whole(one.value) for one in crl.extensions)
        serials = frozenset(one.serial_number for one in crl)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityError(f"{path} is no list of revoked certificates") from None
    if not signed:
        raise IdentityError(f"{path} is not signed by an authority whose certificate is in ca")
    if partial:
        raise IdentityError(f"{path} is not the whole list of its authority: fetch that")
    return _List(state, serials, crl.issuer, crl.last_update_utc, crl.next_update_utc)


def _is_whole(extension: x509.ExtensionType) -> bool:
    """Whether a list with this critical extension has all certificates of parties."""
    return isinstance(extension, x509.IssuingDistributionPoint) and not (
        extension.indirect_crl
        or extension.only_contains_ca_certs
        or extension.only_contains_attribute_certs
        or extension.only_some_reasons
    )


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > most:
        raise IdentityError(f"{path} is over {most // (1024 * 1024)} MiB")
    return data


def _called(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME) or list(name)
    return str(found[0].value) if found else "an authority without a name"


def _reason(error: Exception) -> str:
    text = str(error).removeprefix("validation failed: ")
    return text if text.isprintable() and len(text) < 200 else type(error).__name__
