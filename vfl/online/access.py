"""Who may ask what: the tokens of a file, their scopes, and how often each may ask."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from vfl.net.addresses import is_loopback
from vfl.party.tokens import SCOPES, Scope, Token, Tokens


@dataclass(frozen=True)
class Client:
    """Who asks: the name of its token, and what that allows."""

    name: str
    scopes: tuple[Scope, ...]
    rate: float | None = None

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes


ANYBODY = Client("anybody", SCOPES)
"""Who asks a service that takes no tokens."""


@dataclass
class _Bucket:
    """What is left of a client's requests, which come back as time goes by."""

    left: float
    at: float


class Access:
    """Finds clients by their tokens, and counts their requests; without tokens anybody may ask."""

    def __init__(self, tokens: Tokens | None, now: Callable[[], float] = time.monotonic) -> None:
        self._tokens, self._now = tokens, now
        self._buckets: dict[str, _Bucket] = {}

    def renew(self, tokens: Tokens | None) -> None:
        """Other tokens from now on; what each has asked stays counted."""
        self._tokens = tokens
        known = {} if tokens is None else tokens.by_name
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in known}

    def allows(self, scope: Scope) -> bool:
        """Whether any client may ask for this."""
        if self._tokens is None:
            return True
        return any(scope in token.scopes for token in self._tokens.by_name.values())

    def find(self, header: str | None) -> Client | None:
        """The client of an Authorization header, None where it shows no token that is known."""
        if self._tokens is None:
            return ANYBODY
        scheme, _, shown = (header or "").partition(" ")
        found = self._tokens.find(shown.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            return None
        name, token = found
        return _client(name, token)

    def wait(self, client: Client) -> float:
        """Seconds after which the client may ask again; 0 where it may now, which is counted then."""
        if client.rate is None:
            return 0.0
        now, most = self._now(), max(1.0, client.rate)
        bucket = self._buckets.setdefault(client.name, _Bucket(most, now))
        bucket.left = min(most, bucket.left + (now - bucket.at) * client.rate)
        bucket.at = now
        if bucket.left < 1:
            return (1 - bucket.left) / client.rate
        bucket.left -= 1
        return 0.0


def _client(name: str, token: Token) -> Client:
    return Client(name, token.scopes, token.rate)


def is_of_this_machine(origin: str) -> bool:
    """Whether a page that a browser names as the origin of a request came from this machine, by its
    address: a name of somebody else's may have been made to lead here."""
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        return False
    return is_loopback(host)
