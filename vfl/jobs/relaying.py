"""A relay as a service: it says when it begins, what it has done now and then, and at its end."""

import asyncio
import contextlib
from collections.abc import Callable

from vfl.net.invitation import PLACES, key_of_place
from vfl.net.listening import bind
from vfl.net.relay import Limits, Relay
from vfl.party.relay_file import RelaySection
from vfl.text import counted


async def relay(settings: RelaySection, say: Callable[[str], None]) -> None:
    """Relay until cancelled; `say` hears its lines. Raises ConfigError when the address cannot be
    listened on."""
    running = Relay(await bind(settings.listen), limits_of(settings))
    host = settings.listen.rpartition(":")[0]
    connections = counted(running.most, "connection")
    if running.most < settings.connections:
        connections += f" (not {settings.connections:,}: the system allows no more open files)"
    places = "any place" if settings.places is None else counted(len(settings.places), "place")
    if settings.places is not None and settings.invitations:
        places += " and for invitations"
    say(
        f"relaying on {host}:{running.port}: at most {connections}, "
        f"{settings.connections_an_address:,} of an address, for {places}"
    )
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.report or None):
                    await running.serve()
            say(running.counts.line)
    finally:
        await running.close()
        say(running.counts.line)


def limits_of(settings: RelaySection) -> Limits:
    """What a relay's file allows."""
    a_second, a_day = (
        None if isinstance(most, str) else most
        for most in (settings.bytes_a_second, settings.bytes_a_day)
    )
    return Limits(
        settings.connections,
        settings.connections_an_address,
        settings.connections_a_place,
        settings.handshake,
        settings.idle,
        a_second,
        a_day,
        _places(settings),
    )


def _places(settings: RelaySection) -> frozenset[bytes] | None:
    """The only places where parties may meet, those of invitations among them where they may; None for
    any."""
    if settings.places is None:
        return None
    meant = [key_of_place(number).place for number in range(PLACES)] if settings.invitations else []
    return frozenset([*map(bytes.fromhex, settings.places), *meant])
