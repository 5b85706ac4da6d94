"""TLS 1.3 with both certificates pinned: contexts, and what comes of a handshake."""

import contextlib
import os
import re
import socket
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from vfl.errors import ConfigError, IdentityError
from vfl.net.certificates import fingerprint, has_dns_name, read_claims
from vfl.net.mark import key_of, new_mark, seal_of
from vfl.net.peer import Peer

# The DNS name in every party's certificate. It says nothing: parties are told apart by fingerprint.
HOST = "vfl-party"

# What TLS says when the other end refuses our certificate, by OpenSSL's name.
_REFUSALS = re.compile(r"ALERT_(UNKNOWN_CA|BAD_CERT|CERTIFICATE|UNSUPPORTED_CERT|ACCESS_DENIED)")
_CERTIFICATE = 11  # the type of a handshake message (RFC 8446, section 4)

# Hears of a message: the TLS object, "read" or "write", version, content, the message's type, its bytes.
_Note = Callable[[object, str, int, int, int, bytes], None]


def _never_refused(der: bytes) -> str | None:
    return None


@dataclass(frozen=True)
class Credentials:
    """What one party needs to open sessions."""

    name: str
    certificate: Path
    key: Path
    pins: Mapping[str, bytes]  # a peer's name -> its certificate (DER)
    password: bytes | None = field(default=None, repr=False)  # of the key's file
    watch: Callable[[Peer], None] | None = None  # sees each session before its greeting
    formerly: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Fingerprints that a party, this one too, had before its key was rotated, by name."""
    why_refused: Callable[[bytes], str | None] = _never_refused
    """Why a pinned certificate (DER) is not accepted any more; asked anew for each connection. Raises
    IdentityError when that cannot be told."""

    def __post_init__(self) -> None:
        names: dict[bytes, str] = {}
        for name, pin in self.pins.items():
            if (other := names.setdefault(pin, name)) != name:
                raise ConfigError(f"{other} and {name} have the same certificate: one is wrong")

    def accepted_pins(self) -> dict[str, bytes]:
        """The pins that are accepted now. Raises IdentityError."""
        return {name: pin for name, pin in self.pins.items() if self.why_refused(pin) is None}

    def owner(self, der: bytes) -> str | None:
        """The peer that a certificate is pinned for."""
        return next((name for name, pin in self.pins.items() if pin == der), None)

    def former_owner(self, der: bytes) -> str | None:
        """The peer whose certificate this was before its key was rotated."""
        shown = fingerprint(der)
        return next((name for name in self.pins if shown in self.formerly.get(name, ())), None)

    def namesake(self, der: bytes) -> str | None:
        """The peer in whose name a certificate is; it proves nothing."""
        found = read_claims(der) if der else None
        return found.name if found is not None and found.name in self.pins else None


@dataclass(frozen=True)
class Failure:
    """Why a handshake failed: what is needed of the exception.

    The exception itself must not be kept. Its traceback leads to the TLS object, and that back to its
    context through C, where the collector does not see it: all of it would stay for ever.
    """

    reason: str  # OpenSSL's name
    verify_code: int = 0  # why the other end's certificate was refused here; 0 if it was not

    @classmethod
    def of(cls, error: ssl.SSLError) -> "Failure":
        code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else 0
        return cls(error.reason or str(error), code)

    @property
    def refused_there(self) -> bool:
        """Whether the other end refused this one's certificate."""
        return _REFUSALS.search(self.reason) is not None

    @property
    def words(self) -> str:
        return f"TLS: {self.reason.replace('_', ' ').lower()}"


@dataclass
class Outcome:
    """What came out of a connection's handshake."""

    failure: Failure | None = None
    shown: bytes = b""  # the other end's certificate (DER), also when it was refused


class _Shown(Protocol):
    """A certificate of the standard library's inner TLS object."""

    def public_bytes(self) -> str: ...


class _Inner(Protocol):
    """The standard library's inner TLS object."""

    def get_unverified_chain(self) -> Sequence[_Shown] | None: ...


class _SSLObject(ssl.SSLObject):
    """Sends the alert when a handshake fails.

    asyncio drops it (python/cpython#98078, mended in 2026 only), and the other end could not tell a
    refused certificate from a broken line. A handshake that "wants to read" has its output sent;
    the failure is raised at the next turn, which comes when the other end closes.
    """

    _sslobj: _Inner
    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        outcome = cast(Context, self.context).outcome
        if outcome.failure is not None:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, outcome.failure.reason)
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            outcome.failure, outcome.shown = Failure.of(error), _unverified(self) or outcome.shown
            if "ALERT" in outcome.failure.reason or not self.outgoing.pending:
                raise  # the other end's alert is answered by closing, what is no TLS by none
        else:
            return
        raise ssl.SSLWantReadError


class Context(ssl.SSLContext):
    """The TLS context of one connection at a time; keeps what its handshake comes to."""

    sslobject_class = _SSLObject
    outcome: Outcome
    pins: tuple[bytes, ...] = ()  # that it trusts
    seal_key = b""  # under which its first message is sealed, where it dials over a relay
    _note: _Note | None = None
    _msg_callback: _Note | None  # of the standard library, for who debugs

    def __init__(self, protocol: int) -> None:
        # The arguments are for __new__.
        self.outcome = outcome = Outcome()
        if protocol != ssl.PROTOCOL_TLS_SERVER or not hasattr(self, "_msg_callback"):
            return

        def note(tls: object, way: str, version: int, content: int, kind: int, data: bytes) -> None:
            if way == "read" and kind == _CERTIFICATE and not outcome.shown:
                outcome.shown = _first_certificate(data)

        # OpenSSL lets a server see a client's certificate only once it is accepted, but shows all
        # messages to who debugs. It does not know the context: see Failure.
        self._note = note
        self._msg_callback = note

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        tls = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        cast(_SSLObject, tls).outgoing = outgoing
        if self.seal_key:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()  # which says its first message before it reads anything
            hello = outgoing.read()
            outgoing.write(seal_of(self.seal_key, hello) + hello)
        return tls

    def stop_noting(self) -> None:
        """The handshake is over."""
        if self._note is not None:
            self._msg_callback = None

    def renew(self) -> None:
        """For another connection, after one that came to nothing."""
        self.outcome.failure, self.outcome.shown = None, b""
        if self._note is not None:
            self._msg_callback = self._note


def _first_certificate(message: bytes) -> bytes:
    """The sender's certificate (DER) in a Certificate message of TLS 1.3; empty when it has none."""
    try:
        at = 5 + message[4] + 3  # behind the message's header, its context and the length of the list
        size = int.from_bytes(message[at : at + 3], "big")
        return message[at + 3 : at + 3 + size]
    except IndexError:
        return b""


def _unverified(tls: _SSLObject) -> bytes:
    """The certificate that a server showed in a failed handshake (DER), for the error message alone."""
    if sys.version_info >= (3, 13):
        chain = tls.get_unverified_chain()
        return chain[0] if chain else b""
    chain = tls._sslobj.get_unverified_chain()  # the same, before it was made public
    return ssl.PEM_cert_to_DER_cert(chain[0].public_bytes()) if chain else b""


def context_of(
    credentials: Credentials, protocol: int, pins: list[bytes], seal_key: bytes = b""
) -> Context:
    """The context of one connection, which trusts `pins` (DER) alone. Raises IdentityError.

    Who dials has one pin, and says by its mark whom it takes to be there, over a relay by a seal.
    """
    context = Context(protocol)
    context.seal_key = seal_key
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # A pin is trusted as it is, also where an authority issued it, which is trusted for nothing else
    # here.
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        # Never without a password: OpenSSL would ask for one at the terminal.
        context.load_cert_chain(credentials.certificate, credentials.key, credentials.password or b"")
    except OSError as error:  # ssl.SSLError too
        raise IdentityError(
            f"cannot use {credentials.certificate} with {credentials.key} ({reason_of(error)})"
        ) from None
    # No authorities of the system: only these.
    context.pins = tuple(pins)
    for pin in pins:
        context.load_verify_locations(cadata=pin)
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # a resumed session would not show its certificate again
    else:
        context.check_hostname = all(
            has_dns_name(pin, HOST) for pin in pins
        )  # of which no authority knows
    if protocol == ssl.PROTOCOL_TLS_CLIENT and pins and not seal_key:
        key = key_of(fingerprint(own_der(credentials)), fingerprint(pins[0]))
        context.set_alpn_protocols([new_mark(key)])
    return context


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
            return Failure.of(error).words
        case socket.gaierror():
            return "the name cannot be resolved"
        case TimeoutError():
            return "timed out"
        case OSError() if error.errno:
            return os.strerror(error.errno).lower()  # asyncio puts addresses into `strerror`
        case OSError() if "refused" in str(error).lower():
            return "connection refused"  # by each of several addresses
    return type(error).__name__
