"""Certificates that a party no longer accepts, also when somebody pins them again.

The list, `revoked.json`, lies beside the party's own keys: fingerprint, name, day and reason of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vfl.errors import IdentityError
from vfl.party.files import replacing
from vfl.party.identity import Certificate
from vfl.party.locks import in_turn

_MAX_LIST = 1024 * 1024  # bytes


@dataclass(frozen=True)
class Revoked:
    """A certificate on the list."""

    fingerprint: str
    name: str
    on: str  # ISO 8601 date, UTC
    reason: str


def revoked_by(identity: Path) -> dict[str, Revoked]:
    """The list of the party with keys at this prefix, by fingerprint; empty when there is none.

    Raises IdentityError when it is damaged: without it no certificate can be accepted.
    """
    path = _path(identity)
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_LIST)
        found = msgspec.json.decode(data, type=list[Revoked])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise IdentityError(f"{path} is damaged: restore the list of revoked certificates") from None
    return {one.fingerprint: one for one in found}


class RevocationList:
    """The list of the party with keys at this prefix, as it is at any moment."""

    def __init__(self, identity: Path) -> None:
        self._identity = identity
        self._state: tuple[int, ...] | None = None  # of the file when it was read
        self._listed: dict[str, Revoked] = {}

    def now(self) -> dict[str, Revoked]:
        """By fingerprint; read again when the file has changed.

        Raises IdentityError when it is damaged: without it no certificate can be accepted.
        """
        try:
            found = _path(self._identity).stat()
            state: tuple[int, ...] = (found.st_mtime_ns, found.st_size, found.st_ino)
        except FileNotFoundError:
            state = ()
        except OSError as error:
            raise IdentityError(f"cannot read {_path(self._identity)}: {error.strerror}") from None
        if state != self._state:
            self._listed = revoked_by(self._identity)
            self._state = state
        return self._listed


def revoke(identity: Path, pinned: Path, certificate: Certificate, reason: str, on: str) -> Path:
    """Put a pinned certificate on the list and move its file away. Returns where it is now.

    Raises IdentityError when the list cannot be read, DataError when it cannot be written.
    """
    with in_turn(_path(identity).with_suffix(".lock")):
        listed = revoked_by(identity)
        listed.setdefault(
            certificate.fingerprint, Revoked(certificate.fingerprint, certificate.name, on, reason)
        )
        content = msgspec.json.format(msgspec.json.encode(list(listed.values())), indent=2)
        with replacing(_path(identity), 0o644) as file:
            file.write(content + b"\n")
    away = pinned.with_name(f"{pinned.name}.revoked-{certificate.fingerprint[:8]}")
    try:
        return pinned.replace(away)
    except OSError as error:
        raise IdentityError(
            f"{certificate.name}'s certificate is revoked, but {pinned} cannot be moved away: "
            f"{error.strerror}"
        ) from None


def refuse_revoked(listed: dict[str, Revoked], certificates: Sequence[Certificate], path: Path) -> None:
    """Raises IdentityError when one of the certificates that came from `path` is on the list."""
    for certificate in certificates:
        if found := listed.get(certificate.fingerprint):
            raise IdentityError(
                f"{path}: a certificate of {found.name} that was revoked on {found.on} "
                f"({found.reason}): have {found.name} make a new one with `vfl keys new` and compare "
                "its fingerprint by phone"
            )


def _path(identity: Path) -> Path:
    return identity.with_name("revoked.json")
