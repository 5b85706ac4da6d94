"""Where a monitor reads figures: GET /metrics, and GET /healthz for probes, in plain HTTP/1.1.

One answer a connection. A client that is slow, or one of too many, is parted with.
"""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Callable

from vfl.errors import ConfigError, not_installed
from vfl.jobs.connect import Site
from vfl.jobs.show import Show
from vfl.net.addresses import is_loopback
from vfl.net.listening import bind
from vfl.news import News

_SECONDS = 5.0  # for a request to come and its answer to be read
_MOST = 16  # clients at once
_HEAD = 8192  # bytes of a request
_ANYWHERE = ("", "0.0.0.0", "[::]")  # noqa: S104 - compared with


@contextlib.asynccontextmanager
async def showing_figures(site: Site, address: str | None, show: Show) -> AsyncIterator[None]:
    """The block, of whose jobs figures can be read at "host:port"; nowhere if None.

    Raises ConfigError where the address cannot be listened at, or prometheus_client is missing.
    """
    if address is None:
        yield
        return
    try:
        from vfl.monitor.figures import TYPE, Figures
    except ModuleNotFoundError as error:
        raise ConfigError(f"[party] metrics: {not_installed(error)}") from None
    figures = Figures(site)
    listening = await bind(address)
    host = address.rpartition(":")[0]
    where = f"http://{host}:{listening.getsockname()[1]}/metrics"
    show.say(News(f"figures are at {where}", "listening"))
    if not is_loopback(host):
        show.say("note: whoever reaches this address can read them: let nobody but the monitor")
    server = await asyncio.start_server(
        _Answering(figures.show, TYPE, host).answer, sock=listening, limit=_HEAD
    )
    site.activity.watchers.append(figures)
    try:
        yield
    finally:
        site.activity.watchers.remove(figures)
        server.close()


def _asks_for_us(head: bytes, listens: str) -> bool:
    """Whether a request's Host can be this endpoint's: a page of another name that leads to this address
    (DNS rebinding) is told nothing. No page can lead to an address by itself, and browsers always say
    Host. Where all addresses are listened at, as in a container, its names are not known: any will do.
    """
    fields = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    said = [value for name, _, value in fields if name.strip().lower() == b"host"]
    if not said or listens in _ANYWHERE:
        return True
    names = {_name_of(value.decode("latin-1").strip()) for value in said}
    return all(name in ("localhost", listens.lower()) or _is_address(name) for name in names)


def _name_of(host: str) -> str:
    """A Host without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


class _Answering:
    def __init__(self, figures: Callable[[], bytes], kind: str, listens: str) -> None:
        self._figures, self._kind, self._listens, self._clients = figures, kind, listens, 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and part."""
        self._clients += 1
        try:
            if self._clients <= _MOST:
                async with asyncio.timeout(_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._of(head))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a client that went away, or says no request
        finally:
            self._clients -= 1
            writer.transport.abort()

    def _of(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            status, kind, body = "405 Method Not Allowed", "text/plain", b"GET only\n"
        elif path == b"/metrics" and not _asks_for_us(head, self._listens):
            status, kind, body = "421 Misdirected Request", "text/plain", b"this has another name\n"
        elif path == b"/metrics":
            status, kind, body = "200 OK", self._kind, self._figures()
        elif path == b"/healthz":
            status, kind, body = "200 OK", "text/plain", b"ok\n"
        else:
            status, kind, body = "404 Not Found", "text/plain", b"/metrics or /healthz\n"
        lines = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        said = f"{lines}Connection: close\r\nX-Content-Type-Options: nosniff\r\n\r\n".encode()
        return said if method == b"HEAD" else said + body
