"""What a certificate says of itself, for messages: whose it is and when it is valid, in UTC."""

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Claims:
    """What a certificate says of itself; showing it proves nothing of that."""

    name: str
    starts: datetime
    ends: datetime


def read_claims(der: bytes) -> Claims | None:
    """The claims of a certificate (DER); None when it cannot be read."""
    try:
        found = x509.load_der_x509_certificate(der)
        names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        name = str(names[0].value) if names else ""
        return Claims(name, found.not_valid_before_utc, found.not_valid_after_utc)
    except ValueError:
        return None


def has_dns_name(der: bytes, name: str) -> bool:
    """Whether a certificate (DER) has this DNS name among its alternative names."""
    try:
        found = x509.load_der_x509_certificate(der).extensions
        names = found.get_extension_for_class(x509.SubjectAlternativeName).value
        return name in names.get_values_for_type(x509.DNSName)
    except (ValueError, x509.ExtensionNotFound):
        return False


def in_words(moment: datetime) -> str:
    """A moment to the minute, in UTC."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def invalidity(starts: datetime, ends: datetime, now: datetime) -> str | None:
    """Why a certificate is not valid now, as what is said of it; None when it is."""
    if now < starts:
        return f"is not valid yet: it begins on {in_words(starts)}, and it is {in_words(now)} here"
    if now >= ends:
        return f"is no longer valid: it expired on {in_words(ends)}"
    return None


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate (DER), in hex."""
    return hashlib.sha256(der).hexdigest()


def short_fingerprint(der: bytes) -> str:
    """The start of a certificate's fingerprint, as people compare it."""
    return " ".join(re.findall("....", fingerprint(der))[:4]) + " ..."
