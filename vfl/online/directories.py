"""The sealed directories of a party's hosts: a session with each host for each model that is served."""

import contextlib
from dataclasses import dataclass

from vfl.errors import PeerUnreachable, VflError
from vfl.jobs.connect import Site
from vfl.jobs.group_kernels import group_ready
from vfl.jobs.host_lookups import HostLookups, Meeting, Patience
from vfl.jobs.show import Show
from vfl.models.halves import AnyGuestHalf
from vfl.online.catalogue import NoDirectory
from vfl.online.lookups import HostDirectory

_LOOKUP, _SESSION = 10.0, 10.0  # seconds, see Patience
_FIRST = 3.0  # seconds for which a directory that is not here yet is waited for
_STOPPED = VflError("", for_peer="the service was stopped")


@dataclass
class _Open:
    """A host's directory for a model, and what ends its session."""

    lookups: HostLookups
    stack: contextlib.AsyncExitStack


class SiteDirectories:
    """Directories of hosts that the party file names, to be used within `open`."""

    def __init__(self, site: Site, show: Show, refresh: float) -> None:
        """refresh: seconds after which newer directories are looked for."""
        self._site, self._show = site, show
        self._meeting = Meeting(site, show, _STOPPED)
        self._patience = Patience(_LOOKUP, _SESSION, refresh)
        self._all = contextlib.AsyncExitStack()
        self._open: dict[tuple[str, str], _Open] = {}

    async def __aenter__(self) -> "SiteDirectories":
        await self._all.enter_async_context(self._meeting.open(self._site.party.partners))
        return self

    async def __aexit__(self, *failure: object) -> None:
        for one in self._open.values():
            await one.stack.aclose()
        await self._all.aclose()

    async def directory(self, half: AnyGuestHalf, host: str) -> HostDirectory:
        """The directory of a host; its session begins with the first call. Raises NoDirectory."""
        key = (half.name, host)
        await group_ready()
        if key not in self._open:
            stack = contextlib.AsyncExitStack()
            lookups = HostLookups(self._meeting, half, host, self._show, self._patience)
            self._open[key] = _Open(await stack.enter_async_context(lookups.open()), stack)
        found = self._open[key].lookups
        if not found.known:
            try:
                await found.wait(_FIRST)
            except PeerUnreachable as error:
                raise NoDirectory(f"there is no directory of {host} here yet: {error}") from None
        return found

    async def part(self, directory: HostDirectory) -> None:
        """End the session of a directory."""
        for key, one in list(self._open.items()):
            if one.lookups is directory:
                del self._open[key]
                await one.stack.aclose()
