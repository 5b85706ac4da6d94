"""TLS of the service, which tells a client that speaks plain HTTP what it should speak.

Without this it would get no answer at all, as OpenSSL parts with who begins with no handshake.
"""

import json
import ssl

_TEXT = "this port speaks HTTPS: ask for https://, not http://"
_BODY = json.dumps({"error": _TEXT, "problems": []}).encode()
_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n%b"
) % (len(_BODY), _BODY)
_MOST = 1 << 18  # bytes of such a request that are read and thrown away, so that the answer arrives


class _Handshake(ssl.SSLObject):
    """A handshake. A request in its place gets one answer, in plain, and nothing of it is looked at:
    the client hangs up, or the handshake's time limit ends it."""

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    _has_begun = False
    _left: int | None = None

    def do_handshake(self) -> None:
        """Raises SSLError as ever, SSLWantReadError until whoever speaks plain HTTP hangs up."""
        if not self._has_begun and (came := self.incoming.read()):
            self._has_begun = True
            if came[:1].isupper():  # a method's first letter: the first record of TLS begins with 22
                self.outgoing.write(_ANSWER)
                self._left = _MOST
            self.incoming.write(came)
        if self._left is None:
            super().do_handshake()
            return
        self._left -= len(self.incoming.read())
        if self._left < 0:
            raise ssl.SSLError("plain HTTP")
        raise ssl.SSLWantReadError


class Https(ssl.SSLContext):
    """A context for servers whose handshakes are of this kind."""

    sslobject_class = _Handshake

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        if isinstance(made, _Handshake):
            made.incoming, made.outgoing = incoming, outgoing
        return made
