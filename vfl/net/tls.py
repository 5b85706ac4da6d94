"""TLS 1.3 with both certificates pinned: contexts, and what a failed handshake means in words."""

import hashlib
import os
import re
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from vfl.errors import ConfigError, IdentityError, PeerUnreachable, VflError
from vfl.net.peer import Peer

# The DNS name in every party's certificate. It says nothing: parties are told apart by fingerprint.
HOST = "vfl-party"

# What TLS says when the other end refuses our certificate, by OpenSSL's name.
_REFUSALS = re.compile(r"ALERT_(UNKNOWN_CA|BAD_CERT|CERTIFICATE|UNSUPPORTED_CERT|ACCESS_DENIED)")
_EXPIRED, _NOT_YET_VALID = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, ..._NOT_YET_VALID


@dataclass(frozen=True)
class Credentials:
    """What one party needs to open sessions."""

    name: str
    certificate: Path
    key: Path
    pins: Mapping[str, bytes]  # a peer's name -> its certificate (DER)
    password: bytes | None = field(default=None, repr=False)  # of the key's file
    watch: Callable[[Peer], None] | None = None  # sees each session before its greeting

    def __post_init__(self) -> None:
        names: dict[bytes, str] = {}
        for name, pin in self.pins.items():
            if (other := names.setdefault(pin, name)) != name:
                raise ConfigError(f"{other} and {name} have the same certificate: one is wrong")


class _SSLObject(ssl.SSLObject):
    """Sends the alert when a handshake fails.

    asyncio drops it (python/cpython#98078, mended in 2026 only), and the other end could not tell a
    refused certificate from a broken line. A handshake that "wants to read" has its output sent;
    the failure is raised at the next turn, which comes when the other end closes.
    """

    def do_handshake(self) -> None:
        context = cast(Context, self.context)
        if context.failure is not None:
            raise context.failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            context.failure, context.shown = error, _unverified(self)
            if "ALERT" in (error.reason or ""):
                raise  # the other end's alert: it is answered by closing, not by another
            raise ssl.SSLWantReadError from None


class Context(ssl.SSLContext):
    """The TLS context of a single connection; keeps the reason when its handshake fails."""

    sslobject_class = _SSLObject
    failure: ssl.SSLError | None = None
    shown = b""  # the other end's certificate then (DER), where OpenSSL lets a client see it


def _unverified(tls: Any) -> bytes:
    """The certificate shown in a failed handshake (DER), for the error message alone."""
    if sys.version_info >= (3, 13):
        chain = tls.get_unverified_chain()
        return chain[0] if chain else b""
    chain = tls._sslobj.get_unverified_chain()  # the same, before it was made public
    return ssl.PEM_cert_to_DER_cert(chain[0].public_bytes()) if chain else b""


def context_of(credentials: Credentials, protocol: int, pins: list[bytes]) -> Context:
    """The context of one connection, which trusts `pins` (DER) alone. Raises IdentityError."""
    context = Context(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    try:
        # Never without a password: OpenSSL would ask for one at the terminal.
        context.load_cert_chain(credentials.certificate, credentials.key, credentials.password or b"")
    except OSError as error:  # ssl.SSLError too
        raise IdentityError(
            f"cannot use {credentials.certificate} with {credentials.key} ({reason_of(error)})"
        ) from None
    # No authorities of the system: only these.
    for pin in pins:
        context.load_verify_locations(cadata=pin)
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # a resumed session would not show its certificate again
    return context


def short_fingerprint(der: bytes) -> str:
    """The start of a certificate's fingerprint, as people compare it."""
    return " ".join(re.findall("....", hashlib.sha256(der).hexdigest())[:4]) + " ..."


def own_der(credentials: Credentials) -> bytes:
    """The party's own certificate (DER)."""
    # Lines around the certificate are allowed in the file, as OpenSSL has it.
    pem = re.search(r"(?s)-{5}BEGIN CERT.*?-{5}END CERTIFICATE-{5}", credentials.certificate.read_text())
    return ssl.PEM_cert_to_DER_cert(pem.group()) if pem else b""


def reason_of(error: BaseException) -> str:
    """A failure of the operating system or of TLS in a few words."""
    match error:
        case ConnectionResetError() | BrokenPipeError():
            return "connection reset"
        case ConnectionRefusedError():
            return "connection refused"
        case ssl.SSLError():
            reason = (error.reason or str(error)).replace("_", " ").lower()
            return f"TLS: {reason}"
        case socket.gaierror():
            return "the name cannot be resolved"
        case TimeoutError():
            return "timed out"
        case OSError() if error.errno:
            return os.strerror(error.errno).lower()  # asyncio puts addresses into `strerror`
        case OSError() if "refused" in str(error).lower():
            return "connection refused"  # by each of several addresses
    return type(error).__name__


def tls_failure(
    credentials: Credentials, name: str, address: str, shown: bytes, error: ssl.SSLError
) -> VflError:
    """What a failed TLS handshake means to the party that dialled."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
            return IdentityError(f"the certificate of {name} is {_validity(error)}")
        return not_pinned(name, address, shown, credentials.pins[name])
    if _REFUSALS.search(error.reason or ""):
        own = credentials.certificate
        return IdentityError(
            f"{name} refused this party's certificate (fingerprint"
            f" {short_fingerprint(own_der(credentials))}): send {own} to {name}, where it must be pinned"
        )
    return PeerUnreachable(
        f"cannot reach {name} at {address}: what listens there does not speak TLS 1.3"
        f" ({reason_of(error)})"
    )


def not_pinned(name: str, address: str, shown: bytes, pin: bytes) -> IdentityError:
    """The error for an address that shows another certificate than the pinned one (both DER)."""
    fingerprint = f" (fingerprint {short_fingerprint(shown)})" if shown else ""
    return IdentityError(
        f"{address} shows another certificate{fingerprint} than the one pinned for {name}"
        f" (fingerprint {short_fingerprint(pin)}): check the address, and the certificate file of"
        f" [peers.{name}]"
    )


def _validity(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code == _EXPIRED:
        return "no longer valid: it needs a new one, and this machine's clock must be right"
    return "not valid yet: check this machine's clock"


def refusal(error: BaseException | None) -> str:
    """Why a connection was refused, for the party that listens."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
            return f"its certificate is {_validity(error)}"
        return "its certificate is not pinned here"
    if not isinstance(error, ssl.SSLError):
        return "it closed the connection during the handshake"
    reason = error.reason or ""
    if _REFUSALS.search(reason):
        return "it does not pin this party's certificate"
    if "DID_NOT_RETURN_A_CERTIFICATE" in reason:
        return "it showed no certificate"
    return f"it does not speak TLS 1.3 ({reason_of(error)})"
