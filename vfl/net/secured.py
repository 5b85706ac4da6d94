"""TLS over a line that is connected: in place of asyncio's, which copies and calls more.

The line is asyncio's transport of a socket. The connection over it is an asyncio.BufferedProtocol, which
has the bytes that arrive decrypted to where it wants them. In between are the standard library's TLS
object and two buffers in memory:

    1. Both ends shake hands; the connection hears that it is made afterwards, so nothing of it is ever
       said in the clear.
    2. What is written waits as it lies there, and is encrypted no further ahead of the line than by a
       piece. Above a limit the connection is told to pause.
    3. Who closes says so (close_notify) after all that was written, and waits for the other end to say
       so too; what still arrives is passed over. A line that ends without it ends the connection as
       well, whose own protocol tells a whole conversation from one that was cut.
"""

import asyncio
import ssl
import threading
from collections import deque
from collections.abc import Iterable
from typing import cast

_READ = 512 * 1024  # bytes at once of the line: calls cost more than what they move
_WRITTEN = 256 * 1024  # and to it
_CLOSING = 30.0  # seconds for the other end to say that it closes too
_AHEAD = 512 * 1024  # bytes written, where nobody says how many, above which the connection pauses
_WANTS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class _Scratch(threading.local):
    """Where a thread's lines have bytes put that arrive, each until it has gone through them."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(_READ))


_scratch = _Scratch()


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """A transport for a connection, and the protocol of its line."""

    def __init__(
        self,
        line: asyncio.Transport,
        context: ssl.SSLContext,
        connection: asyncio.BufferedProtocol,
        hostname: str | None,
    ) -> None:
        """Shake hands over a line as the end that dialled, whose peer's certificate is for `hostname`;
        without one as the end that listens."""
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._line = line
        self._connection: asyncio.BufferedProtocol | None = connection
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._arrived, self._leaving, server_side=hostname is None, server_hostname=hostname
        )
        self.secured: asyncio.Future[None] = self._loop.create_future()
        """Done with the handshake, or why there was none: ssl.SSLError, or an OSError of the line."""
        self._made = False
        self._written: deque[memoryview] = deque()  # and not encrypted
        self._size = 0  # of that
        self._line_is_full = False
        self._high, self._low = _AHEAD, _AHEAD // 4
        self._pauses_writing = self._pauses_reading = False
        self._closing = False  # nothing more is written, nor read by the connection
        self._said_so = False  # close_notify
        self._line_ended = False
        self._waiting: asyncio.TimerHandle | None = None
        self._error: Exception | None = None
        line.set_protocol(self)
        line.set_write_buffer_limits(high=0)  # so that it says when it has not taken all
        self._shake_hands()

    def get_extra_info(self, name: str, default: object = None) -> object:
        return self._tls if name == "ssl_object" else self._line.get_extra_info(name, default)

    # --- The handshake ---

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except _WANTS:
            self._flush()
            return
        except ssl.SSLError as error:
            self._fail(error)
            return
        if self._connection is None or self.secured.done():  # who waited for it has gone
            self.abort()
            return
        self._made = True
        self._connection.connection_made(self)
        self.secured.set_result(None)
        self._decrypt()

    def _fail(self, error: Exception) -> None:
        """End it for an error, of which TLS may have something to say to the other end."""
        self._error = self._error or error.with_traceback(None)  # which would keep all of it
        self._flush()
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        error, connection = self._error or exc, self._connection
        self._connection = self._error = None
        self._closing = True
        self._written.clear()
        self._size = 0
        if self._waiting is not None:
            self._waiting.cancel()
        if not self.secured.done():
            self.secured.set_exception(error or ConnectionResetError())
            self.secured.exception()  # nobody may be left to hear of it
        elif self._made and connection is not None:
            connection.connection_lost(error)

    # --- What arrives ---

    def get_buffer(self, sizehint: int) -> memoryview:
        return _scratch.view  # of which buffer_updated tells before the thread does anything else

    def buffer_updated(self, nbytes: int) -> None:
        self._arrived.write(_scratch.view[:nbytes])
        if self._made:
            self._decrypt()
        else:
            self._shake_hands()

    def _decrypt(self) -> None:
        """Decrypt what has arrived, to where the connection wants it, until it pauses."""
        more = True
        try:
            while more and self._connection is not None and not self._pauses_reading:
                closing = self._closing
                room = _scratch.view if closing else self._connection.get_buffer(-1)
                size, more, says_goodbye = self._fill(cast(memoryview, room))
                if size and not closing:
                    self._connection.buffer_updated(size)
                if says_goodbye:
                    self._hear_goodbye()
                    return
        except ssl.SSLError as error:
            self._fail(error)
            return
        if self._connection is None:
            return
        self._flush()  # TLS may have an answer of its own
        if self._line_ended and not more:
            self._end_line()

    def _fill(self, room: memoryview) -> tuple[int, bool, bool]:
        """How many bytes there were for a room, whether there are more, and whether the other end has
        said that it closes."""
        read, size, filled = self._tls.read, len(room), 0
        try:
            while filled < size:
                count: int = read(size - filled, room[filled:])  # type: ignore[assignment]
                if not count:
                    return filled, False, True
                filled += count
        except _WANTS:
            return filled, False, False
        except ssl.SSLZeroReturnError:  # once this end has said so too
            return filled, False, True
        return filled, True, False

    def _hear_goodbye(self) -> None:
        connection = self._connection
        if connection is not None and not self._closing:
            connection.eof_received()
        self.close()
        if self._said_so:
            self._line.close()

    def eof_received(self) -> bool:
        self._line_ended = True
        if not self._made:
            self._fail(ConnectionResetError())
        elif self._pauses_reading:
            return True  # until all that came is read
        else:
            self._end_line()
        return False

    def _end_line(self) -> None:
        connection, closing = self._connection, self._closing
        self._closing = True
        if connection is not None and not closing:
            connection.eof_received()
        self._line.close()

    def pause_reading(self) -> None:
        if self._closing:
            return
        self._pauses_reading = True
        self._line.pause_reading()

    def resume_reading(self) -> None:
        if self._pauses_reading:
            self._pauses_reading = False
            self._line.resume_reading()
            self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        try:
            self._decrypt()
        except Exception as error:
            self._error = self._error or error
            self.abort()  # as the line itself does for an error of what it calls
            raise

    # --- What is written ---

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writelines((data,))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        """Have bytes encrypted and sent, which may not change any more."""
        if self._closing:
            return
        for data in list_of_data:
            if data:
                self._written.append(memoryview(data))
                self._size += len(data)
        self._encrypt()

    def _encrypt(self) -> None:
        """Encrypt what is written, as long as the line takes it."""
        written = self._written
        try:
            while written and not self._line_is_full and not self._line.is_closing():
                part = written.popleft()
                count = self._tls.write(part[:_WRITTEN])  # of which TLS takes all
                if count < len(part):
                    written.appendleft(part[count:])
                self._size -= count
                if self._leaving.pending >= _WRITTEN or not written:
                    self._flush()
        except ssl.SSLError as error:
            self._fail(error)
            return
        if self._closing and not written:
            self._say_goodbye()
        self._tell_to_pause()

    def _flush(self) -> None:
        if self._leaving.pending and not self._line_is_full:
            self._line.write(self._leaving.read())

    def pause_writing(self) -> None:
        self._line_is_full = True

    def resume_writing(self) -> None:
        self._line_is_full = False
        self._loop.call_soon(self._write_on)  # a line that is ended within this would be lost twice

    def _write_on(self) -> None:
        if self._connection is not None:
            self._flush()
            self._encrypt()

    def _tell_to_pause(self) -> None:
        connection, size = self._connection, self.get_write_buffer_size()
        if connection is None:
            return
        if size > self._high and not self._pauses_writing:
            self._pauses_writing = True
            connection.pause_writing()
        elif size <= self._low and self._pauses_writing:
            self._pauses_writing = False
            connection.resume_writing()

    def get_write_buffer_size(self) -> int:
        return self._size + self._leaving.pending + self._line.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = _AHEAD if high is None else high
        self._low = self._high // 4 if low is None else low

    def can_write_eof(self) -> bool:
        return False

    # --- The end ---

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if not self._made:
            self.abort()
            return
        self._waiting = self._loop.call_later(_CLOSING, self._give_up)
        if not self._written:
            self._say_goodbye()
        self.resume_reading()  # to hear the other end say it

    def _say_goodbye(self) -> None:
        """Say that nothing follows, and wait for the other end to say it too."""
        if self._said_so:
            return
        self._said_so = True
        try:
            # TLS takes what it has not read by then for an error, which would cost what was written.
            while self._fill(_scratch.view)[1]:
                pass
            self._tls.unwrap()
        except _WANTS:
            self._flush()
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._flush()
            self._line.close()

    def _give_up(self) -> None:
        self._fail(TimeoutError("the other end does not close"))

    def abort(self) -> None:
        self._closing = True
        if self._connection is not None:  # else the line has gone, and cannot be told to
            self._line.abort()
