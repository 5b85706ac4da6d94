"""Addresses as party files have them: "host:port", or "relay://host:port"."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from vfl.errors import ConfigError

SCHEME: Final = "relay://"


def is_relay(address: str | None) -> bool:
    """Whether an address is that of a relay."""
    return address is not None and address.startswith(SCHEME)


def is_loopback(host: str) -> bool:
    """Whether a host, an IPv6 one in brackets or not, is this machine itself."""
    host = host.strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port". Raises ConfigError."""
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname or "", parts.port
        host.encode("idna")  # as it will be looked up; raises UnicodeError
        if not host.isprintable() or " " in host:
            host = ""
    except ValueError:
        host, port = "", None
    if not host or port is None or parts.netloc != address or parts.username is not None:
        raise ConfigError(
            f"{address!r} is no address: write host:port, such as registry.example:7443,"
            " 0.0.0.0:7443 or [::1]:7443"
        )
    return host, port
