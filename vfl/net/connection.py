"""A WebSocket connection that notes what is heard and bounds what it holds."""

from typing import Any

from websockets.asyncio.connection import Connection
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Event

PIECES = 1024  # most of a message; our own messages have some hundred


class HeardConnection(Connection):
    """A connection that notes whether anything was heard, and why it was lost; bounds what it holds."""

    heard = True
    cause: Exception | None = None
    _pieces = 0  # of the message that is arriving

    def allow(self, size: int, then: int | None = None) -> None:
        """Refuse messages of more bytes, from the next frame on and as soon as they say their size.

        `then` is the size after the first binary message, which others may follow at once.
        """
        protocol: Any = self.protocol
        # Which of the two is asked for depends on the version of websockets.
        protocol.max_size = protocol.max_message_size = size
        if then is None:
            return
        # Frames are parsed as many at a time as have come, so that the size has to change in between.
        recv_frame, begun = protocol.recv_frame, False

        def first(frame: Frame) -> None:
            nonlocal begun
            recv_frame(frame)
            begun = begun or frame.opcode is Opcode.BINARY
            if begun and frame.fin and frame.opcode in (Opcode.BINARY, Opcode.CONT):
                protocol.recv_frame = recv_frame
                self.allow(then)

        protocol.recv_frame = first

    def data_received(self, data: bytes) -> None:
        self.heard = True
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame):
            if event.opcode in (Opcode.PING, Opcode.PONG):
                # No party sends any, and answers to one that does not read them would pile up.
                self._break_off(CloseCode.PROTOCOL_ERROR, "a ping")
                return
            self._pieces = 0 if event.fin else self._pieces + 1
            if self._pieces > PIECES:
                self._break_off(CloseCode.MESSAGE_TOO_BIG, "too many pieces")
                return
        super().process_event(event)

    def _break_off(self, code: CloseCode, reason: str) -> None:
        self.protocol.fail(code, reason)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        # Its traceback would keep the connection alive until the collector comes round.
        self.cause = None if exc is None else exc.with_traceback(None)
        super().connection_lost(exc)
