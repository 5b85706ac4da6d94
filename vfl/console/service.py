"""The command from begin to end: the address, the certificate, the tokens, the pages."""

import asyncio
import contextlib
import signal
import ssl
from collections.abc import Callable, Iterator

from vfl.console import inbox, kept, ledger, live, runs
from vfl.console.access import Access
from vfl.console.app import Console, application
from vfl.console.guard import hosts_of
from vfl.console.packages import needs
from vfl.console.pages import Pages
from vfl.net.listening import bind
from vfl.online.https import Https
from vfl.online.server import Server
from vfl.party.at_rest import StoreKey
from vfl.party.config import Party
from vfl.party.console_section import ConsoleSection
from vfl.party.identity import load
from vfl.party.online_section import OnlineSection
from vfl.party.service_certificate import ServiceCertificate
from vfl.party.store import Store

NAVIGATION = [
    ("/", "Inbox"),
    ("/live", "Live"),
    ("/runs", "Runs"),
    ("/kept", "Kept"),
    ("/ledger", "Ledger"),
    ("/policy", "Policy"),
]
_LIMITS = OnlineSection(plain_http=True, connections=128, timeout=60, drain=1)
"""What the server of `vfl online` bounds: connections, seconds for a request and for the end."""

Show = Callable[[str], None]


class Service:
    """The console of one party."""

    def __init__(self, party: Party, say: Show) -> None:
        """Loads the party's key, under which files of the store may be. Raises ConfigError and
        IdentityError."""
        self.section = party.console or ConsoleSection()
        identity = load(party.party.identity, expired=True)
        self._certificate = None
        if self.section.certificate is not None and self.section.key is not None:
            self._certificate = ServiceCertificate(
                self.section.certificate, self.section.key, Https, "[console]"
            )
        self.access = Access(self.section)
        root = party.party.store
        self.console = Console(
            party,
            self.section,
            Store(root, StoreKey(root, lambda: identity)),
            self.access,
            "http" if self._certificate is None else "https",
            say,
            Pages({"party": party.name, "role": party.role, "navigation": NAVIGATION}),
        )
        self._say = say
        self.port = 0
        """Where it listens, once it does."""

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until a signal. Raises ConfigError where it cannot listen."""
        listening = await bind(self.section.listen)
        self.port = listening.getsockname()[1]
        console, host = self.console, self.section.listen.rpartition(":")[0]
        routes = [one for room in (inbox, live, runs, kept, ledger) for one in room.routes(console)]
        if self.section.oidc is not None:
            with needs("oidc", "authlib", "httpx2", "joserfc"):
                from vfl.console.oidc import Oidc

            routes += Oidc(console, self.section.oidc).routes()
        hosts = hosts_of(self.section.listen, self.port, self.section.names, console.scheme)
        app = application(console, routes, hosts)
        tls: ssl.SSLContext | None = None if self._certificate is None else self._certificate.context
        self.server = Server(app, _LIMITS, tls, lambda: self._say("ending"), self._say)
        self._say(f"the console of {console.party.name} is at {console.scheme}://{host}:{self.port}/")
        ready()
        with self._signals():
            await self.server.serve([listening])

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop, numbers = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
        added = []
        for number in numbers:
            with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread, as in tests
                loop.add_signal_handler(number, self.server.stop)
                added.append(number)
        try:
            yield
        finally:
            for number in added:
                loop.remove_signal_handler(number)
