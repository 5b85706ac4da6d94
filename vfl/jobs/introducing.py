"""Two parties introduced to each other by a code: who each is, whether they fit, and both files "
"written."""

import asyncio
import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vfl.errors import ConfigError, PeerError, PeerLost, PeerStopped, PeerUnreachable, Refused, VflError
from vfl.jobs.connect import load_own
from vfl.net.addresses import is_relay
from vfl.net.hello import PROTOCOL
from vfl.net.invitation import Channel, Code, Consent, Introduction
from vfl.net.inviting import Ready, await_joiner, join_at
from vfl.party.config import Party, load_party
from vfl.party.identity import Identity
from vfl.party.introduced import Change, Pair, certificate_of, plan, reachable, refuse_unwritable
from vfl.party.permissions import check_keys
from vfl.version import __version__

_JOINED = 600.0  # seconds for two that know each other, in which people may compare numbers
_DONE = 10.0  # seconds for the other end to say that it has written
_MOST_WORDS = 300


@dataclass(frozen=True)
class Met:
    """What a party learns of the other before anything is written."""

    change: Change
    number: str
    """Six digits, the same at the other party unless somebody is between the two."""
    dialled: tuple[str, str] | None
    """Who is dialled by the other, and where."""
    starts_jobs: bool = False
    """Whether this party is the one that starts jobs."""


@dataclass(frozen=True)
class Wishes:
    """What the person at a party says of the meeting."""

    met: Callable[[Met], None]
    """Hears of the other party, before anything is written."""
    say: Callable[[str], None]
    at: str | None = None
    """Where the two meet, if not where the party file says."""
    address: str | None = None
    """Where others dial this party, if its file does not say that."""
    expected: str | None = None
    """The name of who is to come."""
    confirm: Callable[[str], bool] | None = None
    """Asks whether the number is the same at the other party, where that is to be asked."""


@dataclass(frozen=True)
class _Side:
    """One end of an introduction."""

    path: Path
    party: Party
    identity: Identity
    wishes: Wishes
    joins: bool

    @classmethod
    def open(cls, path: Path, wishes: Wishes, *, joins: bool) -> "_Side":
        """Raises ConfigError and IdentityError."""
        party, own = _open(path)
        return cls(path, party, own, wishes, joins)

    def introduction(self, found_at: str | None, stays: bool) -> Introduction:
        """What this party says of itself, not signed yet."""
        listen = self.party.party.listen
        address = self.wishes.address or (None if stays else reachable(listen))
        return Introduction(
            PROTOCOL,
            __version__,
            self.party.name,
            self.party.role,
            self.identity.certificate.der,
            b"",
            address,
            stays,
            found_at,
        )

    async def exchange(self, channel: Channel, own: Introduction) -> Pair:
        """Both introductions, signed. Raises PeerLost, PeerError, IdentityError."""
        signed = _with_signature(own, self.identity.sign(_statement(channel, own, self.joins)))
        if self.joins:
            theirs = await channel.receive(Introduction)
            await channel.send(signed)
            pair = Pair(theirs, signed)
        else:
            await channel.send(signed)
            theirs = await channel.receive(Introduction)
            pair = Pair(signed, theirs)
        unsigned = _with_signature(theirs, b"")
        statement = _statement(channel, unsigned, not self.joins)
        if not certificate_of(theirs).verify(theirs.signature, statement):
            raise PeerError(
                f"{theirs.name} showed a certificate whose key it has not: nothing is written",
                for_peer="the introduction is not signed by the key of its certificate",
            )
        return pair

    async def agree(self, channel: Channel, own: Introduction) -> Met:
        """Introduce the two to each other and write the files. Raises VflError."""
        try:
            async with asyncio.timeout(_JOINED):
                pair = await self.exchange(channel, own)
                met = await self._meet(channel, pair)
                if self.joins:
                    await channel.send(Consent(True))
                await self._await_consent(channel, met.change.name)
                met.change.write()
                await channel.send(Consent(True))
                if not self.joins:
                    await self._await_end(channel, met.change.name)
                return met
        except TimeoutError:
            raise PeerLost(
                f"the other end did not agree within {_JOINED:.0f} s: make a new invitation"
            ) from None
        except VflError as error:
            if not isinstance(error, PeerStopped | PeerLost):
                with contextlib.suppress(PeerLost):
                    await channel.send(Consent(False, error.for_peer[:_MOST_WORDS]))
            raise
        finally:
            channel.close()

    async def _meet(self, channel: Channel, pair: Pair) -> Met:
        """What is to be written, once this party's own person has seen it. Raises VflError."""
        wishes = self.wishes
        change = plan(self.path, self.party, pair, joins=self.joins, expected=wishes.expected)
        met = Met(change, channel.number, pair.dialled, self.party.role == "guest")
        wishes.met(met)
        if wishes.confirm is not None and not await asyncio.to_thread(wishes.confirm, channel.number):
            raise Refused(
                f"the numbers differ, so that somebody may be between this party and {change.name}: "
                "nothing is written",
                for_peer="the numbers were not the same there",
            )
        return met

    async def _await_consent(self, channel: Channel, name: str) -> None:
        theirs = await channel.receive(Consent)
        if not theirs.given:
            raise PeerStopped(
                f"{name} did not accept: {theirs.why or 'it gave no reason'}; nothing is written"
            )

    async def _await_end(self, channel: Channel, name: str) -> None:
        """Hear that the joiner has written too, or say that it may not have."""
        try:
            async with asyncio.timeout(_DONE):
                if (await channel.receive(Consent)).given:
                    return
        except (TimeoutError, PeerLost, PeerError):
            pass
        self.wishes.say(
            f"note: {name} did not say that it has written its files: ask, and if not invite it again "
            "(what is "
            "written here stays as it is)"
        )


def _open(path: Path) -> tuple[Party, Identity]:
    """A party that may have no peers yet, and its own key; and a file that takes the first."""
    party = load_party(path, peers_to_come=True)
    if not party.peers:  # else the other may be one that is there, and nothing has to be added
        refuse_unwritable(path)
    check_keys(party)
    return party, load_own(party)


async def invite(path: Path, wishes: Wishes, seconds: float, ready: Ready) -> Met:
    """Invite a party to pin this one and be pinned. `ready` hears the code and where this party waits.

    Raises WrongCode, PeerUnreachable, PeerStopped and what else keeps the two apart; then nothing is
    written.
    """
    side = _Side.open(path, wishes, joins=False)
    listen = side.party.party.listen
    at = wishes.at or listen
    if at is None:
        raise ConfigError(
            f"{path.name}: [party] has no listen: say by --at where the other party finds this one for "
            "the invitation, "
            "a port of this machine (0.0.0.0:7443) or a relay (relay://host:port)"
        )
    channel = await await_joiner(at, seconds, ready, wishes.say)
    stays = at == listen and (is_relay(at) or not at.endswith(":0"))
    return await side.agree(channel, side.introduction(None, stays))


def check_joining(path: Path, at: str | None) -> str:
    """Where a party would join, before a code is asked for. Raises ConfigError and IdentityError."""
    party, _ = _open(path)
    if at is not None:
        return at
    named = {
        peer.address
        for peer in party.peers.values()
        if peer.address is not None and not peer.certificate.exists()
    }
    if len(named) == 1:
        return named.pop()
    if is_relay(party.party.listen):
        return str(party.party.listen)
    raise ConfigError(
        f"{path.name} does not say where the other party waits: take the --at that its `vfl invite` "
        "shows"
    )


async def join(path: Path, code: Code, wishes: Wishes, wait: float) -> Met:
    """Join the party that invites with a code. Raises as `invite`."""
    at = check_joining(path, wishes.at)
    side = _Side.open(path, wishes, joins=True)
    if wishes.at is not None:
        _refuse_wildcard(at)
    channel = await join_at(at, code, wait, wishes.say)
    return await side.agree(channel, side.introduction(at, False))


def _refuse_wildcard(at: str) -> None:
    if not is_relay(at) and reachable(at) is None:
        raise PeerUnreachable(f"{at} is no address to dial: take the name of the other party's machine")


def _with_signature(introduction: Introduction, signature: bytes) -> Introduction:
    return msgspec.structs.replace(introduction, signature=signature)


def _statement(channel: Channel, unsigned: Introduction, joins: bool) -> bytes:
    """What a party signs: this meeting, its side, and all that it says of itself."""
    side = b"joiner" if joins else b"inviter"
    said = hashlib.sha256(msgspec.msgpack.encode(unsigned)).digest()
    return b"vfl introduction\0" + side + b"\0" + channel.transcript + said
