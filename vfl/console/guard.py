"""What stands before every page: whose name was asked for, from where, and what browsers are told."""

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
}
_SAFE = frozenset({"GET", "HEAD"})


class Guard:
    """Refuses what does not come from the console's own pages."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], scheme: str) -> None:
        """hosts: what a request's Host may say, in small letters, with the port where it has one."""
        self._app, self._hosts, self._scheme = app, frozenset(hosts), scheme

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("content-security-policy", POLICY)
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, tell)
            return
        await self._app(scope, receive, tell)

    def _refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        """Why a request is refused, if it is. A page of another name that leads to this address (DNS
        rebinding) is told nothing."""
        host = headers.get("host", "").lower()
        if host not in self._hosts:
            return PlainTextResponse("this console has another name\n", 421)
        if method in _SAFE:
            return None
        origin = headers.get("origin")
        elsewhere = headers.get("sec-fetch-site") not in (None, "same-origin")
        if elsewhere or (origin is not None and origin.lower() != f"{self._scheme}://{host}"):
            return PlainTextResponse("this came from a page of another site\n", 403)
        return None


def hosts_of(listen: str, port: int, names: Collection[str], scheme: str) -> set[str]:
    """What a request's Host may say of a console that listens there."""
    host = listen.rpartition(":")[0].strip("[]").lower()
    own = {"localhost", "127.0.0.1", "[::1]"}
    if host not in ("0.0.0.0", "::", ""):  # noqa: S104 - of such an address the names count
        own.add(f"[{host}]" if ":" in host else host)
    named = {name.lower() for name in names}  # as they are, too: a proxy may have another port
    usual = own if port == (443 if scheme == "https" else 80) else set[str]()
    return {f"{name}:{port}" for name in own | named} | named | usual
