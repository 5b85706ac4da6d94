"""Where a party's random numbers come from: the operating system, or the one secret of a run.

A run whose messages are to be made once more later draws all that is random in its protocols from a
secret of 32 bytes, which the operating system has given. What a stream of random bytes is for, its
purpose, and where in the run that is, its place (a tree, an iteration, a peer, the first of some rows),
name its key:

    key = BLAKE2b(secret; purpose, place)          keyed, 32 bytes (RFC 7693)
    stream = AES-256 in counter mode under this key (NIST SP 800-38A)

So neither the order in which work was done, nor how many workers did it, nor what was made in spare
time changes a number, as long as every piece of work has a place of its own. BLAKE2b's keyed mode is
taken for a pseudorandom function, and AES for a pseudorandom permutation: then all streams together
cannot be told from random ones by who lacks the secret, and whatever a protocol proves of itself with
random numbers holds with these, up to that. It holds as long as no stream serves twice: `at` refuses to.
"""

import hashlib
import secrets
import threading
from collections.abc import Callable, MutableSequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from vfl.arrays import Words

Entropy = Callable[[int], bytes]
"""So many random bytes: a `Stream`, `secrets.token_bytes`, or a seeded source in tests."""

SECRET = 32  # bytes
Place = int | str | bytes


class Stream:
    """Random numbers, one after the other; an `Entropy` itself."""

    def __init__(self, key: bytes | None = None, start: int = 0) -> None:
        """`key` of 32 bytes; None: from the operating system. `start`: the byte that comes first, a
        multiple of 16."""
        if start % 16:
            raise ValueError(f"a stream is read from a whole block on, not from byte {start}")
        self._draw: Entropy = secrets.token_bytes
        if key is not None:
            counter = modes.CTR((start // 16).to_bytes(16, "big"))
            cipher = Cipher(algorithms.AES256(key), counter).encryptor()
            self._draw = lambda count: cipher.update(bytes(count))

    def __call__(self, count: int) -> bytes:
        """So many bytes."""
        return self._draw(count)

    def words(self, shape: int | tuple[int, ...]) -> Words:
        """Numbers below 2^64."""
        count = int(np.prod(shape))
        return np.frombuffer(self(8 * count), "<u8").astype(np.uint64, copy=False).reshape(shape)

    def bits(self, count: int) -> int:
        """A number below 2^count."""
        size = -(-count // 8)
        return int.from_bytes(self(size), "little") >> (8 * size - count)

    def below(self, bound: int) -> int:
        """A number below `bound`, each as likely as any other."""
        if bound < 1:
            raise ValueError(f"no number is below {bound}")
        size = (bound - 1).bit_length()
        while (number := self.bits(size)) >= bound:
            pass
        return number

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Put items into an order that is as likely as any other (Fisher and Yates)."""
        for last in range(len(items) - 1, 0, -1):
            other = self.below(last + 1)
            items[last], items[other] = items[other], items[last]


class Randomness:
    """The random numbers of a run, or of a part of one, by purpose and place."""

    def __init__(self, secret: bytes | None = None) -> None:
        """`secret` of 32 bytes, for this run alone; None: all is from the operating system."""
        if secret is not None and len(secret) != SECRET:
            raise ValueError(f"a secret of {len(secret)} bytes in place of {SECRET}")
        self._secret, self._taken, self._lock = secret, set[bytes](), threading.Lock()

    def __repr__(self) -> str:
        return "Randomness()" if self._secret is None else "Randomness(a secret)"

    def at(self, purpose: str, *place: Place) -> Stream:
        """The stream for this. Each is given once: AssertionError for one that was."""
        return Stream(self.key_at(purpose, *place))

    def key_at(self, purpose: str, *place: Place) -> bytes | None:
        """The key of the stream `at` this, for another process; None: it is the system's."""
        return self._derive(b"stream", purpose, place)

    def part(self, purpose: str, *place: Place) -> "Randomness":
        """The random numbers of a part of the run, which has purposes and places of its own."""
        return Randomness(self._derive(b"part", purpose, place))

    def _derive(self, what: bytes, purpose: str, place: tuple[Place, ...]) -> bytes | None:
        if self._secret is None:
            return None
        digest = hashlib.blake2b(key=self._secret, digest_size=SECRET, person=b"vfl randomness")
        for kind, content in ((b"w", what), _plain(purpose), *map(_plain, place)):
            digest.update(kind + len(content).to_bytes(8, "big") + content)
        key = digest.digest()
        with self._lock:
            if key in self._taken:
                at = ", ".join(str(one) for one in place if not isinstance(one, bytes))
                raise AssertionError(f"random numbers for {purpose} at {at} that were drawn before")
            self._taken.add(key)
        return key


def _plain(part: Place) -> tuple[bytes, bytes]:
    """A part of a place as bytes, told apart by what it is."""
    if isinstance(part, bytes):
        return b"b", part
    return (b"s", part.encode()) if isinstance(part, str) else (b"i", str(int(part)).encode())


OF_SYSTEM = Randomness()
"""The operating system's, for whatever is not a run."""
