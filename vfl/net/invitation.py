"""An invitation: two parties that pin nothing yet find each other by a short code read out by phone.

The code is twelve digits, `417-930-264-182`: three for the place at a relay, eight that are secret and
one that shows a slip of the tongue (Damm, 2004). Who listens in on the line, or passes it on, does not
know it:

    1. The joiner sends its SPAKE2 message (Abdalla and Pointcheval, CT-RSA 2005; the group and constants
       of python-spake2, as in magic-wormhole) and the digest of a nonce, the inviter its own message and
       a nonce. The password is the whole code. Neither message says anything of it.
    2. The joiner shows by a tag (HMAC-SHA-256 under a key of HKDF, over all that was said) that it has
       come to the same key, and opens its nonce. A wrong tag is a guess: the invitation is dead from
       there on, and both are told. Who leaves without a tag has guessed nothing. Then the inviter shows
       its own.
    3. Each sends its `Introduction` under that key (ChaCha20-Poly1305, a key for each direction), signed
       together with all of steps 1 and 2 by the key of the certificate in it.
    4. The joiner says whether it accepts (`Consent`); then the inviter writes and says so; then the
       joiner writes and says so.

So each end gives away one guess of a hundred million. A number of six digits that both can compare
besides is made of the key and both nonces; as the joiner is bound to its nonce before it sees the other,
nobody between the two can search for one that fits on both sides.
"""

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal, TypeVar, cast

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from spake2 import SPAKE2_A, SPAKE2_B
from spake2.ed25519_basic import NotOnCurve
from spake2.spake2 import SPAKEError

from vfl.errors import ConfigError, PeerError, PeerLost, Refused
from vfl.net import wire
from vfl.net.hello import Word
from vfl.net.rendezvous import Key, receive
from vfl.net.wire import KIB, Message
from vfl.text import counted

M = TypeVar("M", bound=Message)

DIGITS: Final = 12
PLACES: Final = 1000  # at a relay, for invitations
OPENING: Final = 10.0  # seconds that each step has until the key is shown
MOST_SEALED: Final = 16 * KIB

_JOINS: Final = b"vfl join  1\n"
_INVITES: Final = b"vfl invite1\n"
_PAKE, _NONCE, _TAG = 33, 32, 32
_YES, _NO, _LATE = b"y", b"n", b"l"
# Damm's quasigroup of order 10: a digit that is wrong, or two that are swapped, change the last one.
_DAMM: Final = (
    *("0317598642", "7092154863", "4206871359", "1750983426", "6123045978"),
    *("3674209581", "5869720134", "8945362017", "9438617205", "2581436790"),
)

Entropy = Callable[[int], bytes]


class WrongCode(Refused):
    """The other end does not know the code: the invitation is dead."""


class NoInvitation(Exception):
    """A connection that is no part of an invitation, or is gone; nothing was guessed."""


class Introduction(Message, frozen=True):
    """Either -> either, once both have shown that they know the code: who it is.

    Reveals: the party's name, role, certificate and version, where it can be dialled, if anywhere, and
    under which address the joiner found the inviter.
    """

    limit: ClassVar[int] = 12 * KIB

    protocol: int
    version: Word
    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9-]{0,31}\Z")]
    role: Literal["guest", "host", "coordinator"]
    certificate: Annotated[bytes, msgspec.Meta(min_length=1, max_length=8 * KIB)]  # DER
    signature: Annotated[bytes, msgspec.Meta(max_length=128)]
    address: Annotated[str, msgspec.Meta(max_length=300)] | None = None
    stays: bool = False  # of the inviter: it is found later where it was found now
    found_at: Annotated[str, msgspec.Meta(max_length=300)] | None = None  # of the joiner


class Consent(Message, frozen=True):
    """Either -> either: the sender accepts the other, or has written its files; or why not.

    Reveals: that, or the reason in words that hold no value, id or path.
    """

    limit: ClassVar[int] = KIB

    given: bool
    why: Annotated[str, msgspec.Meta(max_length=300)] = ""


# --- The code ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Code:
    """What is read out by phone."""

    digits: str = field(repr=False)

    @classmethod
    def new(cls) -> "Code":
        """A fresh one: 36 bits, of which 26 are secret from a relay."""
        digits = f"{secrets.randbelow(10 ** (DIGITS - 1)):0{DIGITS - 1}d}"
        return cls(digits + str(_check_digit(digits)))

    @classmethod
    def typed(cls, text: str) -> "Code":
        """The code that a person typed, with whatever stands between the digits. Raises ConfigError."""
        digits = "".join(text.replace("-", " ").split())
        if len(digits) != DIGITS or not (digits.isascii() and digits.isdigit()):
            raise ConfigError(
                f"the code has {DIGITS} digits, as in 417-930-264-182: nothing was sent and the "
                "invitation goes on; type it again"
            )
        if _check_digit(digits) != 0:
            raise ConfigError(
                "the code has a slip in it, which its last digit shows: nothing was sent and the "
                "invitation goes on; have it read out again"
            )
        return cls(digits)

    @property
    def spoken(self) -> str:
        """In groups of three."""
        return "-".join(self.digits[at : at + 3] for at in range(0, DIGITS, 3))

    @property
    def place(self) -> Key:
        """Where both meet at a relay; of the first three digits alone, which are no secret."""
        return key_of_place(int(self.digits[:3]))


def key_of_place(number: int) -> Key:
    """The key of the place of invitations with this number, 0 to 999. Everybody can compute it."""
    derived = HKDF(hashes.SHA256(), 32, None, b"vfl invitation place %d" % number).derive(b"vfl")
    return Key(ed25519.Ed25519PrivateKey.from_private_bytes(derived), bytes(32))


def _check_digit(digits: str) -> int:
    interim = 0
    for digit in digits:
        interim = int(_DAMM[interim][int(digit)])
    return interim


# --- A line that only who knows the code can read ------------------------------------------------


@dataclass(eq=False)
class Channel:
    """Sealed messages of the two that know the code."""

    number: str  # six digits, the same at both ends
    transcript: bytes  # digest of all that was said before it
    _socket: socket.socket
    _out: ChaCha20Poly1305
    _in: ChaCha20Poly1305
    _sent: int = 0
    _heard: int = 0

    async def send(self, message: Message) -> None:
        """Raises PeerLost."""
        sealed = self._out.encrypt(_count(self._sent), wire.encode(message), self.transcript)
        self._sent += 1
        try:
            data = len(sealed).to_bytes(4, "big") + sealed
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError:
            raise _broke() from None

    async def receive(self, kind: type[M]) -> M:
        """The next message. Raises PeerLost, PeerError for what is none of this kind."""
        try:
            size = int.from_bytes(await receive(self._socket, 4), "big")
            if size > MOST_SEALED:
                raise PeerError(
                    f"the other end broke the protocol: a message of {counted(size, 'byte')}"
                )
            sealed = await receive(self._socket, size)
            data = self._in.decrypt(_count(self._heard), sealed, self.transcript)
            self._heard += 1
            return cast(M, wire.decode(data, [kind]))
        except (OSError, EOFError):
            raise _broke() from None
        except InvalidTag:
            raise PeerError(
                "what came was changed on the way, cut or sent twice: nothing is written, make a new "
                "invitation"
            ) from None
        except wire.WireError as error:
            raise PeerError(f"the other end broke the protocol: it sent {error}") from None

    def close(self) -> None:
        self._socket.close()


def _broke() -> PeerLost:
    return PeerLost("the connection broke before both had agreed: make a new invitation")


def _count(number: int) -> bytes:
    return number.to_bytes(12, "big")


@dataclass
class _Keys:
    """What both ends derive of the key that SPAKE2 came to, and of all that was said."""

    said: bytes
    joiner_tag: bytes
    inviter_tag: bytes
    joiner: bytes
    inviter: bytes
    number: bytes

    @classmethod
    def derived(cls, secret: bytes, said: bytes) -> "_Keys":
        length = 5 * 32
        made = HKDF(hashes.SHA256(), length, hashlib.sha256(said).digest(), b"vfl invitation keys")
        derived = made.derive(secret)
        return cls(said, *(derived[at : at + 32] for at in range(0, length, 32)))

    def tag_of_joiner(self, nonce: bytes) -> bytes:
        return hmac.digest(self.joiner_tag, self.said + nonce, "sha256")

    def tag_of_inviter(self, nonce: bytes) -> bytes:
        return hmac.digest(self.inviter_tag, self.said + nonce, "sha256")

    def channel(self, connected: socket.socket, nonce: bytes, *, joins: bool) -> Channel:
        """The channel of one end; `nonce`: the joiner's, opened."""
        number = int.from_bytes(hmac.digest(self.number, self.said + nonce, "sha256")[:8], "big")
        own, other = (self.joiner, self.inviter) if joins else (self.inviter, self.joiner)
        transcript = hashlib.sha256(b"vfl invitation" + self.said + nonce).digest()
        return Channel(
            f"{number % 1_000_000:06d}",
            transcript,
            connected,
            ChaCha20Poly1305(own),
            ChaCha20Poly1305(other),
        )


def _commitment(nonce: bytes) -> bytes:
    return hashlib.sha256(b"vfl invitation nonce" + nonce).digest()


def _finish(pake: SPAKE2_A | SPAKE2_B, message: bytes) -> bytes:
    """The key that SPAKE2 comes to. Raises NoInvitation for what is no message of its other side."""
    try:
        return bytes(pake.finish(message))
    except (SPAKEError, NotOnCurve, ValueError, AssertionError):
        raise NoInvitation("what came is no first message of an invitation") from None


def _pake(side: type[SPAKE2_A] | type[SPAKE2_B], code: Code, entropy: Entropy) -> SPAKE2_A | SPAKE2_B:
    return side(code.digits.encode(), b"vfl inviter", b"vfl joiner", entropy_f=entropy)


async def answer(connected: socket.socket, code: Code, entropy: Entropy = os.urandom) -> Channel:
    """The inviter's part of steps 1 and 2 on a connection.

    Raises WrongCode once a tag was wrong; NoInvitation, OSError and EOFError where nothing was guessed.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(OPENING):
        first = await receive(connected, len(_JOINS) + _PAKE + _NONCE)
    if not first.startswith(_JOINS):
        raise NoInvitation("it does not speak the protocol of invitations of this version")
    message, commitment = first[len(_JOINS) : -_NONCE], first[-_NONCE:]
    pake = _pake(SPAKE2_A, code, entropy)
    second = _INVITES + pake.start() + entropy(_NONCE)
    keys = _Keys.derived(_finish(pake, message), first + second)
    async with asyncio.timeout(OPENING):
        await loop.sock_sendall(connected, second)
        third = await receive(connected, _TAG + _NONCE)
    tag, nonce = third[:_TAG], third[_TAG:]
    if not (
        hmac.compare_digest(tag, keys.tag_of_joiner(nonce))
        and hmac.compare_digest(commitment, _commitment(nonce))
    ):
        with contextlib.suppress(OSError):
            connected.send(_NO)
        raise WrongCode(
            "somebody tried a wrong code: this invitation is over, make a new one and read out its code",
            for_peer="a wrong code",
        )
    async with asyncio.timeout(OPENING):
        await loop.sock_sendall(connected, _YES + keys.tag_of_inviter(nonce))
    return keys.channel(connected, nonce, joins=False)


def say_late(connected: socket.socket) -> None:
    """Tell one that would join that the invitation is over."""
    with contextlib.suppress(OSError):
        connected.send(_LATE)
    connected.close()


async def ask(connected: socket.socket, code: Code, entropy: Entropy = os.urandom) -> Channel:
    """The joiner's part of steps 1 and 2.

    Raises WrongCode when either end finds the other's tag wrong, or nothing comes back once this end's
    tag is out: by it whoever is there may have tried a guess, and would be shown another by a new try.
    NoInvitation, OSError and EOFError where nothing was guessed.
    """
    loop = asyncio.get_running_loop()
    pake, nonce = _pake(SPAKE2_B, code, entropy), entropy(_NONCE)
    first = _JOINS + pake.start() + _commitment(nonce)
    async with asyncio.timeout(OPENING):
        await loop.sock_sendall(connected, first)
        second = await receive(connected, 1)
        if second == _LATE:
            raise NoInvitation("the invitation is over")
        second += await receive(connected, len(_INVITES) + _PAKE + _NONCE - 1)
    if not second.startswith(_INVITES):
        raise NoInvitation(
            "what answers there is no invitation of this version of vfl: it was used, ended or ran out, "
            "or the address is another's"
        )
    keys = _Keys.derived(_finish(pake, second[len(_INVITES) : -_NONCE]), first + second)
    try:
        async with asyncio.timeout(OPENING):
            await loop.sock_sendall(connected, keys.tag_of_joiner(nonce) + nonce)
            said = await receive(connected, 1)
            if said == _LATE:
                raise NoInvitation("somebody else joined first: the invitation is over")
            tag = await receive(connected, _TAG) if said == _YES else b""
    except (OSError, EOFError):  # TimeoutError too
        raise WrongCode(
            "the connection ended once this party had shown that it knows the code: somebody between "
            "the two may have guessed at it, so this invitation is over; end `vfl invite` and have a "
            "new one made"
        ) from None
    if not hmac.compare_digest(tag, keys.tag_of_inviter(nonce)):
        raise WrongCode(
            "the code is not the one of that invitation, which is over now: have a new one made and its "
            "code read out"
        )
    return keys.channel(connected, nonce, joins=True)
