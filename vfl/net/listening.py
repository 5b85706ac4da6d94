"""Sockets that listen."""

import asyncio
import errno
import socket

from vfl.errors import ConfigError
from vfl.net.addresses import split_address
from vfl.net.tls import reason_of

BACKLOG = 1024  # that the system holds until they are accepted


async def bind(address: str) -> socket.socket:
    """A socket that listens on "host:port" (0.0.0.0 or [::]: on all addresses). Raises ConfigError."""
    host, port = split_address(address)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, where = found[0]
        both = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        bound = socket.create_server(
            where[:2],
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=both,
        )
        # Accepted ones inherit it. Else of two short messages the second waits for the other end's
        # acknowledgement of the first, up to 40 ms.
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        used = "; another command of this party may (`vfl status` says), or another program"
        advice = used if error.errno == errno.EADDRINUSE else ""
        raise ConfigError(f"cannot listen on {address}: {reason_of(error)}{advice}") from None
    bound.setblocking(False)
    return bound
