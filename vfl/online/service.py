"""`vfl online` from its first line to its last: models made ready, requests answered, signals heeded."""

import asyncio
import contextlib
import signal
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from vfl.errors import VflError
from vfl.jobs.connect import Site, warn_daily
from vfl.jobs.memory import keep_for_good
from vfl.jobs.scoring import check_parties
from vfl.jobs.show import Show
from vfl.jobs.storage import online
from vfl.models.halves import AnyGuestHalf
from vfl.net.listening import bind
from vfl.online.access import Access
from vfl.online.catalogue import Catalogue, Sources
from vfl.online.directories import SiteDirectories
from vfl.online.http import Service
from vfl.online.https import Https
from vfl.online.server import Server
from vfl.party.online_section import OnlineSection
from vfl.party.service_certificate import ServiceCertificate
from vfl.party.tokens import Tokens, load_tokens


async def serve(site: Site, section: OnlineSection, show: Show) -> bool:
    """Serve until a signal; whether it was ended at once, requests and all.

    Raises ConfigError, ModelError and DataError where it cannot begin.
    """

    def check(half: AnyGuestHalf) -> None:
        check_parties(site, half)

    with online(site) as store:
        async with SiteDirectories(site, show, section.refresh) as directories:
            sources = Sources(store, site.party.data, directories, check)
            service = Online(sources, section, show.say)
            warning = asyncio.create_task(warn_daily(site, show))
            try:
                await service.begin()
                keep_for_good()
                return await service.run()
            finally:
                warning.cancel()


@dataclass
class Online:
    """The service of one party."""

    sources: Sources
    section: OnlineSection
    say: Callable[[str], None]
    ready: Callable[[int], None] = lambda port: None
    """Told the port once the service listens."""
    _reload: asyncio.Event = field(default_factory=asyncio.Event)

    async def begin(self) -> None:
        """Make everything ready. Raises ConfigError and ModelError where it cannot be."""
        section = self.section
        self._certificate = None
        if section.certificate is not None and section.key is not None:
            self._certificate = ServiceCertificate(section.certificate, section.key, Https)
        self._threads = ThreadPoolExecutor(section.threads, "vfl-online")
        self.access = Access(self._tokens())
        self.catalogue = Catalogue(self.sources, section, self._threads, self.say)
        self.service = Service(section, self.catalogue, self.access, self._threads, self.say)
        await self.catalogue.refresh(self.access.allows("explain"), strict=True)

    def _tokens(self) -> Tokens | None:
        return None if self.section.without_tokens else load_tokens(self.section.tokens)

    async def run(self) -> bool:
        """Answer requests until a signal; whether it was ended at once."""
        listening = await bind(self.section.listen)
        tls: ssl.SSLContext | None = None
        if self._certificate is not None:
            tls = self._certificate.context
        self.server = Server(self.service.app, self.section, tls, self._drain, self.say)
        port = listening.getsockname()[1]
        scheme = "http" if tls is None else "https"
        self.say(f"listening on {scheme}://{self.section.listen.rpartition(':')[0]}:{port}")
        self.ready(port)
        watching = asyncio.create_task(self._watch())
        with self._signals():
            try:
                await self.server.serve([listening])
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
                await self.catalogue.close()
                self._threads.shutdown(wait=False, cancel_futures=True)
        self.say("ended at once" if self.server.force_exit else "ended: all requests are answered")
        return self.server.force_exit

    def _drain(self) -> None:
        self.service.drain()
        self.say("ending: no more connections are taken")

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number, action in (
            (signal.SIGTERM, self.server.stop),
            (signal.SIGINT, self.server.stop),
            (signal.SIGHUP, self._reload.set),
        ):
            loop.add_signal_handler(number, action)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def _watch(self) -> None:
        """Take in newer models, directories, tokens and certificates, now and then and at SIGHUP."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.section.refresh):
                    await self._reload.wait()
            self._reload.clear()
            await self.refresh()

    async def refresh(self) -> None:
        """Take in what is newer; what cannot be taken in is said, and stays as it was."""
        try:
            self.access.renew(self._tokens())
            if self._certificate is not None and self._certificate.renew():
                self.say("the certificate is another one now")
            await self.catalogue.refresh(self.access.allows("explain"))
        except VflError as error:
            self.say(f"not taken in: {error}")
