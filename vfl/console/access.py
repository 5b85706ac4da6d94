"""Who may see the console, and who may approve: tokens, sessions, tries that are counted."""

import hashlib
import hmac
import secrets
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vfl.errors import ConfigError
from vfl.party.console_section import ConsoleSection
from vfl.party.passphrase import refuse_if_others_can_read

Role = Literal["look", "approve"]

COOKIE = "vfl_console"
LEAST = 20
"""Characters of a token that a file holds."""

_TRIES, _WITHIN = 10, 60.0  # failed sign-ins in so many seconds, of all browsers together
_MOST_SESSIONS = 200


class TooMany(Exception):
    """More failed sign-ins than are let in; `seconds` until there may be another."""

    def __init__(self, seconds: float) -> None:
        super().__init__("too many")
        self.seconds = seconds


@dataclass(frozen=True)
class Session:
    """A browser that has signed in."""

    id: str
    role: Role
    who: str
    csrf: str
    ends: float  # of time.monotonic

    @property
    def may_approve(self) -> bool:
        return self.role == "approve"


class Access:
    """The tokens and the sessions of a console. Sessions are in memory: a restart ends them."""

    def __init__(self, section: ConsoleSection) -> None:
        """Raises ConfigError and IdentityError for a file of a token that cannot be used."""
        self._minutes = section.session
        self.made: dict[Role, str] = {}
        """Tokens that were made for this start, to be shown once."""
        self._digests: dict[Role, bytes] = {
            "look": self._digest("look", section.look_token),
            "approve": self._digest("approve", section.approve_token),
        }
        if hmac.compare_digest(*self._digests.values()):
            raise ConfigError("look_token and approve_token of [console] are the same: make another one")
        self._sessions: dict[str, Session] = {}
        self._failed: deque[float] = deque()

    def _digest(self, role: Role, path: Path | None) -> bytes:
        if path is None:
            self.made[role] = secrets.token_urlsafe(32)
            return _sha256(self.made[role])
        return _sha256(read_secret(path, f"{role}_token", LEAST))

    def sign_in(self, token: str, name: str) -> Session | None:
        """The session of who shows a token; None for one that is none. Raises TooMany."""
        self.check_tries()
        given = _sha256(token.strip())
        roles = [role for role, known in self._digests.items() if hmac.compare_digest(given, known)]
        if not roles:
            self.count_failure()
            return None
        return self.admit(roles[0], f"{name.strip() or 'somebody'} (console, token)")

    def check_tries(self) -> None:
        """Raises TooMany after too many failures."""
        now = time.monotonic()
        while self._failed and now - self._failed[0] > _WITHIN:
            self._failed.popleft()
        if len(self._failed) >= _TRIES:
            raise TooMany(self._failed[0] + _WITHIN - now)

    def count_failure(self) -> None:
        """Count a sign-in that failed."""
        self._failed.append(time.monotonic())

    def admit(self, role: Role, who: str) -> Session:
        """A new session, in place of the oldest where there are too many."""
        now = time.monotonic()
        self._sessions = {key: one for key, one in self._sessions.items() if one.ends > now}
        while len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        id_ = secrets.token_urlsafe(32)
        made = Session(id_, role, who, secrets.token_urlsafe(32), now + 60.0 * self._minutes)
        self._sessions[id_] = made
        return made

    def session(self, cookie: str | None) -> Session | None:
        """The session of a cookie, if it has not ended."""
        found = self._sessions.get(cookie or "")
        return found if found is not None and found.ends > time.monotonic() else None

    def sign_out(self, session: Session) -> None:
        """End a session."""
        self._sessions.pop(session.id, None)


def read_secret(path: Path, what: str, least: int = 1) -> str:
    """A secret of a file that its owner alone can read. Raises ConfigError and IdentityError."""
    try:
        refuse_if_others_can_read(path, what)
        text = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{path}, {what} of [console], cannot be read: put it there") from None
    if len(text) < least or not text.isprintable():
        raise ConfigError(
            f"{path}, {what} of [console], has to hold at least {least} characters, one line"
        )
    return text


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
