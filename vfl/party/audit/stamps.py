"""Time stamps of a ledger's seals by an authority that is none of the parties (RFC 3161).

A seal says when it was made by the clock of the party itself, whose key could write the chain anew. A
stamp says that the hash of a seal was there at a time, in the word of a time-stamping authority: whoever
rewrites the ledger afterwards can give the seal no other hash. What is stamped is the hash of the seal's
line, 64 hexadecimal digits; the authority learns the SHA-256 of these and nothing else. Each answer lies
as it came in the ledger's folder, `stamp-N.tsr` with N the number of the line, for other tools to read.

Which authority is believed says a file with its certificate, with those above it where it is not signed
by itself. A file of certificates above it alone takes every authority below them.
"""

import hashlib
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from vfl.errors import ConfigError, DataError, PeerError, PeerUnreachable
from vfl.party.audit.lines import lines_of
from vfl.party.files import replacing
from vfl.party.ledger import Seal, decode, last_seal, stands
from vfl.text import counted, shown

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse, Verifier

_NAME = re.compile(r"stamp-([0-9]+)(?:-[0-9]+)?\.tsr")
_MOST = 1 << 20  # bytes of an answer
_WAIT = 30.0  # seconds
_QUERY, _REPLY = "application/timestamp-query", "application/timestamp-reply"


@dataclass(frozen=True)
class Stamp:
    """A stamp that holds."""

    file: str
    line: int  # of the seal
    hash: str
    time: str  # ISO 8601, UTC, by the authority


@dataclass
class StampVerdict:
    """What `check_stamps` found."""

    stamps: list[Stamp] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Authority:
    """A time-stamping authority, by the file of its certificate.

    Raises ConfigError when the file is missing or holds no certificate, or vfl[stamps] is not installed.
    """

    def __init__(self, file: Path) -> None:
        try:
            self._certificates = x509.load_pem_x509_certificates(file.read_bytes())
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
        except ValueError:
            raise ConfigError(
                f"{file} holds no certificate in PEM: name that of the authority"
            ) from None
        try:
            import rfc3161_client  # noqa: F401 - whether it is there
        except ImportError:
            raise ConfigError(
                "time stamps need the package rfc3161-client: pip install 'vfl[stamps]'"
            ) from None
        self.file = file

    def stamp(self, hash_: str, url: str) -> tuple[bytes, str]:
        """(the answer of the authority at `url` about a hash, its time). Raises PeerUnreachable where it
        cannot be reached, PeerError where it gives no stamp that holds."""
        from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

        request = (
            TimestampRequestBuilder().data(hash_.encode()).hash_algorithm(HashAlgorithm.SHA256).build()
        )
        answer = _ask(url, request.as_bytes())
        try:
            return answer, self.check(answer, hash_, request.nonce)
        except ValueError as error:
            raise PeerError(f"{_host_of(url)} gave no time stamp that holds: {error}") from None

    def check(self, answer: bytes, hash_: str, nonce: int | None = None) -> str:
        """When the authority stamped a hash. Raises ValueError, which says why it did not."""
        response = _decoded(answer)
        reasons = []
        for verifier in self._verifiers(nonce):
            if not (why := _refusal(verifier, response, hash_.encode())):
                return _time(response)
            reasons.append(why)
        raise ValueError(reasons[0])

    def _verifiers(self, nonce: int | None) -> "list[Verifier]":
        """For each of the certificates that may sign stamps; of a file without any, for all below it."""
        from rfc3161_client import VerifierBuilder

        signers: Sequence[x509.Certificate | None] = [
            one for one in self._certificates if _may_stamp(one)
        ]
        return [
            VerifierBuilder(tsa_certificate=one, roots=[*self._certificates], nonce=nonce).build()
            for one in signers or [None]
        ]


def stamp_ledger(folder: Path, authority: Authority, url: str) -> Stamp:
    """Have the newest seal of a ledger stamped, and keep the answer beside it.

    Raises DataError where nothing is sealed or the ledger is not what was sealed, ConfigError for an
    address that is none, and what `Authority.stamp` raises.
    """
    _host_of(url)
    seal = last_seal(folder)
    if seal is None:
        raise DataError(f"{folder} has no seal yet: the first job makes one")
    if not stands(folder, seal):
        raise DataError(f"the ledger {folder} is not what was sealed: `vfl ledger verify` shows where")
    try:
        written = decode(seal.line.encode())
    except ValueError:
        raise DataError(f"{folder} has a damaged seal.json: restore it from a backup") from None
    answer, time = authority.stamp(written.hash, url)
    n = written.entry.n
    path = folder / f"stamp-{n}.tsr"
    number = 1
    while path.exists():
        number += 1
        path = folder / f"stamp-{n}-{number}.tsr"
    with replacing(path) as file:
        file.write(answer)
    return Stamp(path.name, n, written.hash, time)


def stamps_of(folder: Path) -> list[Path]:
    """The files of a ledger's stamps, by line."""
    if not folder.is_dir():
        return []
    found = [(match, path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda one: (int(one[0][1]), one[1].name))]


def check_stamps(folder: Path, authority: Authority | None) -> StampVerdict:
    """Whether each stamp beside a ledger is the authority's, of a seal that the ledger still has.

    Without an authority nothing is checked, and a note says so. Raises DataError where there is no
    ledger.
    """
    found, files = StampVerdict(), stamps_of(folder)
    if authority is None:
        if files:
            found.notes.append(
                f"{counted(len(files), 'time stamp')} not checked: name the authority's certificate "
                "with --tsa-certificate"
            )
        return found
    if not files:
        found.notes.append("there is no time stamp beside the ledger")
        return found
    seals = _seals(folder)
    for path in files:
        try:
            answer = path.read_bytes()
            line, hash_ = seals.get(_imprint(answer), (0, ""))
            if not hash_:
                raise ValueError(
                    "it is of a seal that the ledger does not have: the ledger was cut back or "
                    "rewritten, or is another one"
                )
            found.stamps.append(Stamp(path.name, line, hash_, authority.check(answer, hash_)))
        except OSError as error:
            found.damage.append(f"{path.name} cannot be read: {error.strerror}")
        except ValueError as error:
            found.damage.append(f"{path.name}: {error}")
    return found


def _seals(folder: Path) -> dict[bytes, tuple[int, str]]:
    """The line and the hash of each seal, by what an authority is shown of it."""
    seals = {}
    for line in lines_of(folder):
        try:
            entry, _, hash_ = decode(line.data.rstrip(b"\n"))
        except ValueError:
            continue  # said by `verify`
        if isinstance(entry, Seal):
            seals[hashlib.sha256(hash_.encode()).digest()] = (entry.n, hash_)
    return seals


def _host_of(url: str) -> str:
    """Whose address it is, for errors: paths may hold what others must not see. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not url.isascii() or parts.scheme not in ("http", "https") or "@" in parts.netloc:
        raise ConfigError(
            "--tsa must be an address of an authority: http:// or https://, without a user"
        )
    return shown(host if port is None else f"{host}:{port}")


def _ask(url: str, query: bytes) -> bytes:
    """What the authority answers."""
    host = _host_of(url)
    request = urllib.request.Request(  # noqa: S310 - http or https, which is checked
        url, query, {"Content-Type": _QUERY, "Accept": _REPLY, "User-Agent": "vfl"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_WAIT) as answer:  # noqa: S310
            body = bytes(answer.read(_MOST + 1))
    except urllib.error.HTTPError as error:
        raise PeerError(f"{host} gave no time stamp: HTTP status {error.code}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        why = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
        raise PeerUnreachable(f"{host} cannot be reached: {shown(why)}") from None
    if len(body) > _MOST:
        raise PeerError(f"{host} gave no time stamp: its answer is longer than {_MOST:,} bytes")
    return body


def _decoded(answer: bytes) -> "TimeStampResponse":
    from rfc3161_client import decode_timestamp_response

    try:
        return decode_timestamp_response(answer)
    except ValueError:
        raise ValueError("it is no answer of a time-stamping authority") from None


def _imprint(answer: bytes) -> bytes:
    """The digest that was stamped. Raises ValueError where nothing was."""
    response = _decoded(answer)
    _check_granted(response)
    return bytes(response.tst_info.message_imprint.message)


def _check_granted(response: "TimeStampResponse") -> None:
    if response.status:
        said = f" ({shown(' '.join(response.status_string))})" if response.status_string else ""
        raise ValueError(f"the authority refused it with status {response.status}{said}")


def _refusal(verifier: "Verifier", response: "TimeStampResponse", message: bytes) -> str:
    """Why a stamp does not hold; "" where it does."""
    from rfc3161_client import VerificationError

    try:
        _check_granted(response)
        verifier.verify_message(response, message)
    except VerificationError as error:
        if "ErrorStack" not in str(error):
            return str(error)
        detail = re.search(r'data: "Verify error: ([^"]+)"', str(error))
        why = f": {detail[1]}" if detail else ""
        return f"its signature does not hold by the authority's certificate{why}"
    except ValueError as error:
        return str(error)
    return ""


def _time(response: "TimeStampResponse") -> str:
    return response.tst_info.gen_time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _may_stamp(certificate: x509.Certificate) -> bool:
    """Whether it is that of an authority, not one above it."""
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    return ExtendedKeyUsageOID.TIME_STAMPING in usage and not _is_above(certificate)


def _is_above(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
