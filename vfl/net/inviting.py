"""Where two that have no pins yet meet for an invitation: at an address of the inviter's, or at a relay.

Whoever reaches the inviter's address is a stranger, so few are heard at a time, each for seconds, and a
pace bounds how many begin; the oldest gives way. A wrong code ends the invitation (invitation.py),
whoever sent it.
"""

import asyncio
import os
import socket
from collections.abc import Callable

from vfl.errors import ConfigError, PeerUnreachable, fault
from vfl.net.addresses import split_address
from vfl.net.invitation import Channel, Code, NoInvitation, WrongCode, answer, ask, say_late
from vfl.net.listening import bind
from vfl.net.pace import Pace
from vfl.net.rendezvous import ASKING, PROCESS, Relay, Taken, connect
from vfl.net.session import BACKOFF, NotYet
from vfl.net.tls import reason_of
from vfl.net.websocket import proxy_to, relay_of
from vfl.text import counted

ATTENDED = 8  # connections at once
AT_ONCE, A_SECOND = 16, 4.0  # that begin
CONNECTING = 10.0  # seconds for one attempt to reach the inviter
_CODES = 8  # tried at a relay, where the places of others are taken

Ready = Callable[[Code, str], None]
"""Hears the code and where the inviter waits, once it does."""

_UNLISTED = (
    "the relay serves only the places that its operator lists: have them set invitations = true in its "
    "file, or "
    "exchange certificates as docs/operations.md says"
)

_OVER = "it was used, ended or ran out"
_NEW = "ask for a new one"


class _Door:
    """Attends to connections until one has shown that it knows the code, or that it does not."""

    def __init__(self, code: Code, say: Callable[[str], None]) -> None:
        loop = asyncio.get_running_loop()
        self._code, self._say = code, say
        self._pace = Pace(AT_ONCE, A_SECOND, loop.time())
        self._attended: dict[asyncio.Task[None], socket.socket] = {}  # the oldest first
        self.decided: asyncio.Future[Channel] = loop.create_future()

    def take(self, connected: socket.socket) -> None:
        if not self._pace.take(asyncio.get_running_loop().time()):
            connected.close()
            return
        if len(self._attended) >= ATTENDED:
            next(iter(self._attended)).cancel()
        task = asyncio.create_task(self._attend(connected))
        self._attended[task] = connected
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        connected = self._attended.pop(task)
        if task.cancelled() and connected.fileno() >= 0:
            say_late(connected)

    async def _attend(self, connected: socket.socket) -> None:
        try:
            channel = await answer(connected, self._code)
        except WrongCode as error:
            connected.close()
            self.fail(error)
        except (OSError, EOFError, NoInvitation):  # TimeoutError too
            connected.close()
        except Exception as error:  # a bug here must not end the invitation
            connected.close()
            self._say(fault(error))
        else:
            if self.decided.done():
                channel.close()
            else:
                self.decided.set_result(channel)

    def fail(self, error: Exception) -> None:
        """The invitation has come to nothing."""
        if not self.decided.done():
            self.decided.set_exception(error)

    async def close(self) -> None:
        tasks = [*self._attended]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def await_joiner(
    address: str, seconds: float, ready: Ready, say: Callable[[str], None]
) -> Channel:
    """The line to who joins with the code, which `ready` hears once this party waits at the address.

    address: "host:port", or "relay://host:port". `say` hears when the relay is lost.

    Raises WrongCode when another code was tried, PeerUnreachable when nobody came within `seconds` or
    the relay cannot be reached at all, ConfigError when the address cannot be listened on.
    """
    relay = relay_of(address)
    try:
        async with asyncio.timeout(seconds):
            if relay is None:
                return await _listen(address, ready, say)
            return await _wait_at(relay, ready, say)
    except TimeoutError:
        minutes = counted(max(1, round(seconds / 60)), "minute")
        raise PeerUnreachable(
            f"nobody joined within {minutes}: this invitation is over, make a new one"
        ) from None


async def _listen(address: str, ready: Ready, say: Callable[[str], None]) -> Channel:
    loop = asyncio.get_running_loop()
    try:
        bound = await bind(address)
    except ConfigError as error:
        raise ConfigError(
            f"{error}: does another command of this party run? End it, or wait elsewhere by --at"
        ) from None
    door = _Door(code := Code.new(), say)

    async def accept() -> None:
        while True:
            try:
                connected, _ = await loop.sock_accept(bound)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            door.take(connected)

    accepting = asyncio.create_task(accept())
    try:
        host, port = address.rpartition(":")[0], bound.getsockname()[1]
        ready(code, f"{host}:{port}")
        return await door.decided
    finally:
        accepting.cancel()
        await door.close()
        bound.close()


async def _wait_at(relay: Relay, ready: Ready, say: Callable[[str], None]) -> Channel:
    for _ in range(_CODES):
        code = Code.new()
        door = _Door(code, say)
        waiting = asyncio.create_task(_wait_for(relay, code, door, ready, say))
        try:
            return await door.decided
        except Taken:
            continue
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            await door.close()
    raise PeerUnreachable(f"all places tried at {relay.address} are taken: try again in some minutes")


async def _wait_for(
    relay: Relay, code: Code, door: _Door, ready: Ready, say: Callable[[str], None]
) -> None:
    try:
        await _take_joined(relay, code, door, ready, say)
    except Exception as error:
        door.fail(error)


async def _take_joined(
    relay: Relay, code: Code, door: _Door, ready: Ready, say: Callable[[str], None]
) -> None:
    """Wait at the relay again and again. Raises Taken and PeerUnreachable before it has waited at "
    "all."""
    process, told, told_why = os.urandom(PROCESS), False, ""

    def waits() -> None:
        nonlocal told, told_why
        if not told:
            ready(code, relay.address)
        elif told_why:
            say(f"{relay.address}: waiting there again")
        told, told_why = True, ""

    pause = BACKOFF[0]
    while True:
        try:
            door.take(await relay.wait(code.place, process, waits, ASKING))
            pause = BACKOFF[0]
            continue
        except Taken:
            if not told:
                raise
            why = "somebody else waits at this place"
        except NotYet as error:
            why = _UNLISTED if error.unlisted else str(error)
            if not told:
                raise PeerUnreachable(f"cannot invite at {relay.address}: {why}") from None
        if why != told_why:
            say(f"{relay.address}: {why}: trying again")
            told_why = why
        await asyncio.sleep(pause)
        pause = min(2 * pause, BACKOFF[1])


async def join_at(address: str, code: Code, wait: float, say: Callable[[str], None]) -> Channel:
    """The line to who invites with the code at an address, which may not be there yet for `wait`
    seconds.

    Raises WrongCode, PeerUnreachable, ConfigError for an address that is none.
    """
    loop = asyncio.get_running_loop()
    deadline, told = loop.time() + wait, ""
    while True:
        try:
            connected = await _connect_to(address, code)
            break
        except NotYet as error:
            if error.unlisted:
                raise PeerUnreachable(f"cannot join at {address}: {_UNLISTED}") from None
            why = "nobody waits there with this invitation" if error.nobody else str(error)
        if loop.time() + 1.0 > deadline:
            if why.startswith("nobody"):
                slip = ", or the first three digits are others" if relay_of(address) else ""
                raise PeerUnreachable(
                    f"nobody waits with this invitation at {address}: {_OVER}{slip}; {_NEW}"
                )
            raise PeerUnreachable(f"cannot join at {address}: {why}")
        if why != told:
            say(f"{address}: {why}: trying again")
            told = why
        await asyncio.sleep(1.0)
    try:
        return await ask(connected, code)
    except BaseException as error:
        connected.close()
        if isinstance(error, NoInvitation):
            raise PeerUnreachable(f"cannot join at {address}: {error}; {_NEW}") from None
        if isinstance(error, OSError | EOFError):  # TimeoutError too
            why = reason_of(error) if isinstance(error, OSError) else "the connection was closed"
            raise PeerUnreachable(
                f"cannot join at {address}: {why} before both knew each other: if no `vfl invite` waits "
                f"there any more, {_OVER}; {_NEW}"
            ) from None
        raise


async def _connect_to(address: str, code: Code) -> socket.socket:
    """Raises NotYet."""
    relay = relay_of(address)
    if relay is not None:
        return await relay.dial(code.place, CONNECTING)
    host, port = split_address(address)
    through = proxy_to(host)
    try:
        async with asyncio.timeout(CONNECTING):
            return await connect(host, port, through, address)
    except NotYet as error:
        raise NotYet(str(error), nobody=error.refused and through is None) from None
    except TimeoutError:
        raise NotYet("it gave no answer in time") from None
