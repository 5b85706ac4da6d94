"""The host's hint under its own key, and the guest's products of it with secrets.

In the clear a hint is N linear equations about the host's matrix, enough to solve for it. So the host
encrypts it, and the guest multiplies it with its secret s under the encryption (Tiptoe, SOSP 2023;
HintlessPIR, CRYPTO 2024; with a mask as in Delphi's linear layers, USENIX Security 2020).

    Once:  z ternary. Of each polynomial h of the hint (`width` of its columns beside `group` of its
           outputs): b = a z + e + 2^32 h modulo 2^96, a expanded from a seed. And of nothing: the
           public key b0 = a0 z + e0, where a0 comes from the joint seed.
    For s: the guest cuts s into polynomials s_d of `width` coefficients, in reverse order, and sends
               a' = sum of a_d s_d + a0 r + e'        r fresh ternary, e' fresh errors
               b' = sum of b_d s_d + b0 r + u         u uniform modulo 2^96
           of b' only the coefficients that hold whole inner products. b' is uniform for u's sake, and
           a' pseudorandom for r's: the host learns nothing of s, even though it knows a, b and z.
    Then   b' - a' z = 2^32 hint s + u + noise, and the noise stays far below 2^32.

(Of pairs modulo 2^102, with 2^20 in place of 2^32: parameters.PAIR.)

Polynomial products put the inner product of output i at coefficient i * width + width - 1.
"""

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Words
from vfl.blocks.cores import each
from vfl.blocks.disk import NO_ROOM, no_room, take_room
from vfl.crypto.lattice import ring, wide, words
from vfl.crypto.lattice.parameters import DEGREE, PAIR, Modulus, Parameters
from vfl.crypto.lattice.randomness import KEY, derive, errors, ternary
from vfl.crypto.lattice.randomness import words as random_words
from vfl.crypto.lattice.vectors import Secrets
from vfl.crypto.randomness import Entropy
from vfl.errors import VflError
from vfl.kernels import kernel

Fractions = NDArray[np.uint32]
Entries = NDArray[np.int8] | NDArray[np.int16] | NDArray[np.int64]
"""Small numbers: of a matrix, of secrets or of vectors."""

LIMBS = PAIR.hints.number  # as many as of single words
_REALS = 4 * LIMBS  # real and imaginary parts of the limbs of a and b
_POINTS = 16  # points of a transform that are multiplied at a time


@dataclass(frozen=True)
class Opened:
    """Masked products of a hint with secrets, (count, outputs), modulo q: whole + fraction / 2^32, of
    pairs (wide words) / 2^20."""

    whole: Words
    fraction: Fractions


class HintKey:
    """The host's key of one hint."""

    def __init__(self, parameters: Parameters, seed: bytes, secret: bytes, context: bytes) -> None:
        """`seed`: the joint seed. `secret`: 32 bytes, kept owner-only. `context`: what the hint is of.

        The context names the matrix (CellMatrix.digest): one key must never encrypt two hints, since the
        difference of the two ciphertexts would be that of the hints.
        """
        if len(secret) != KEY:
            raise ValueError(f"a hint's secret has {KEY} bytes, not {len(secret)}")
        self._parameters, self._modulus = parameters, parameters.modulus
        named = _shape(parameters) + secret + seed + context
        self._key = hashlib.sha256(b"vfl lattice hint" + named).digest()
        self._public = derive(self._key, "public")
        self._z = ring.small(ternary(self._key, "key", DEGREE))
        self._seed = seed

    def header(self) -> bytes:
        """The seed of the hint's uniform halves and the public key."""
        uniform = _uniform(self._modulus, self._seed, "public key", 0)
        key = self._encrypt(uniform, "public key errors", 0)
        return self._public + words.pack_hint(key, self._modulus)

    def encrypt(self, hint: Words | Entries) -> Iterator[bytes]:
        """The parts of the encrypted hint, in order, of a hint (outputs, DEGREE), or of wide words."""
        p, modulus = self._parameters, self._modulus
        if hint.shape[:2] != (p.outputs, p.columns):
            raise ValueError(f"a hint of shape {hint.shape}, not ({p.outputs}, {p.columns})")
        numbers = hint if modulus.is_wide else hint[..., np.newaxis]

        def polynomial(number: int) -> Words:
            group, column = divmod(number, p.depth)
            rows = numbers[group * p.group :][: p.group, column * p.width :][:, : p.width]
            message = np.zeros((p.group, p.width, 2), np.uint64)
            message[: rows.shape[0], : rows.shape[1], : rows.shape[2]] = self._message(rows)
            made = self._encrypt(_uniform(modulus, self._public, "hint", number), "errors", number)
            used = p.group * p.width
            scaled = wide.left(message.reshape(used, 2), modulus.fraction_bits)
            made[:used] = wide.plus(made[:used], scaled)
            return made

        for part in range(p.hint_parts):
            yield words.pack_hint(np.stack(list(each(polynomial, p.hint_part(part)))), modulus)

    def open(self, products: bytes | memoryview, count: int) -> Opened:
        """The masked products in EncryptedHint.multiply's bytes. Raises ValueError on a wrong size."""
        p, modulus = self._parameters, self._modulus
        if len(products) != p.product_bytes(count):
            raise ValueError(
                f"{len(products):,} bytes of products where {p.product_bytes(count):,} are due"
            )
        view = memoryview(products)
        cut = count * p.groups * DEGREE * modulus.sent_bits // 8
        a = words.unpack_hint(view[:cut], modulus, (count, p.groups, DEGREE))
        b = self._unpacked(view[cut:], count)

        def product(v: int) -> Words:
            own = ring.wide_words(a[v], modulus.hints) * self._z
            return ends_of(p, ring.settle_wide(own, modulus.hints))

        taken = np.stack(list(each(product, range(count))))
        difference = wide.reduced(wide.minus(b, taken), modulus.hints.bits)
        below = np.uint64((1 << modulus.fraction_bits) - 1)
        fraction = (difference[..., 0] & below).astype(np.uint32)
        return Opened(modulus_words(modulus, wide.right(difference, modulus.fraction_bits)), fraction)

    def _message(self, block: Words | Entries) -> Words:
        """What is encrypted for some entries."""
        return block.astype(np.uint64, copy=False)

    def _unpacked(self, data: memoryview, count: int) -> Words:
        """The halves b' of products, wide words (count, outputs, 2)."""
        return words.unpack_hint(data, self._modulus, (count, self._parameters.outputs))

    def _encrypt(self, a: Words, label: str, number: int) -> Words:
        """Zero under the key: a z + e for the uniform a."""
        limbs = self._modulus.hints
        made = ring.settle_wide(ring.wide_words(a, limbs) * self._z, limbs)
        drawn = errors(derive(self._key, f"{label} {number}"), "errors", DEGREE)
        return wide.plus(made, wide.of(drawn))


class EncryptedHint:
    """A host's encrypted hint at the guest, in transform domain: about 215 KB an output.

    In memory, or in a file that is mapped: a complete one is found again by its header. The file holds
    what the host sent, and nothing that is secret to the guest.
    """

    def __init__(
        self, parameters: Parameters, seed: bytes, header: bytes, file: Path | None = None
    ) -> None:
        """`seed`: the joint seed; `header`: HintKey.header's bytes. Takes the file's room on the disk.

        Raises ValueError on a wrong size, VflError when there is no room.
        """
        p = parameters
        if len(header) != p.hint_header_bytes:
            raise ValueError(
                f"{len(header):,} bytes of a hint's header where {p.hint_header_bytes:,} are due"
            )
        self._parameters, self._modulus = p, (modulus := p.modulus)
        self._public = header[:KEY]
        self._key_a = ring.wide_words(_uniform(modulus, seed, "public key", 0), modulus.hints)
        key_b = words.unpack_hint(memoryview(header)[KEY:], modulus, (DEGREE,))
        self._key_b = ring.wide_words(key_b, modulus.hints)
        self._loaded = np.zeros(p.hint_parts, np.bool_)
        self._lock = threading.Lock()
        self._file = file
        # A hint passes its trial under these parameters: a shift that no sum shows under a wide step
        # would under a short one, and it is the host that says whether a kept hint is still good.
        named = _shape(p) + repr(p).encode() + seed + header
        self._name = hashlib.sha256(b"vfl lattice file" + named).digest()
        self._shape = (ring.HALF, p.depth, p.groups * _REALS)
        self._reals = self._open()

    @property
    def complete(self) -> bool:
        """Whether every part was loaded."""
        return bool(self._loaded.all())

    @property
    def nbytes(self) -> int:
        """Bytes that the hint takes, in memory or in its file."""
        return self._reals.nbytes

    def load(self, part: int, data: bytes | memoryview) -> None:
        """Load a part of HintKey.encrypt. Threads may load several at once.

        Raises ValueError on a wrong size or number, and for a part that was loaded before.
        """
        p = self._parameters
        numbers = p.hint_part(part)
        if len(data) != p.hint_part_bytes(part):
            raise ValueError(
                f"{len(data):,} bytes of a hint's part where {p.hint_part_bytes(part):,} are due"
            )
        with self._lock:
            if self._loaded[part]:
                raise ValueError(f"part {part} of the hint came twice")
        modulus = self._modulus
        received = words.unpack_hint(memoryview(data), modulus, (len(numbers), DEGREE))
        b = ring.wide_words(received, modulus.hints)
        uniform = [_uniform(modulus, self._public, "hint", number) for number in numbers]
        a = ring.wide_words(np.stack(uniform), modulus.hints)
        _store(a, b, numbers.start, self._reals)
        with self._lock:
            self._loaded[part] = True
            if self._file is not None and self.complete:
                self._keep(self._file)

    def multiply(
        self, drawn: Secrets, entropy: Entropy, ended: threading.Event | None = None
    ) -> tuple[bytes, Words]:
        """The masked products for the host, and the masks, (count, outputs) modulo q, to open answers.

        They depend on the secrets alone, so that they can be made ahead. All cores; the whole hint is
        read once for all of `drawn`: batches of 32 are best. Raises ValueError while parts are missing,
        CancelledError soon after another thread has set `ended`.
        """
        p, modulus, count = self._parameters, self._modulus, len(drawn)
        self._check_complete()
        products = self._products(drawn.values, ended)
        key = entropy(KEY)
        again = ring.small(
            ternary(key, "again", count * p.groups * DEGREE).reshape(count, p.groups, DEGREE)
        )
        noise = errors(key, "noise", count * p.groups * DEGREE).reshape(count, p.groups, DEGREE)
        masks, below = _drawn_masks(modulus, key, (count, p.outputs))
        scaled = wide.plus(wide.left(masks, modulus.fraction_bits), wide.of(below))

        def finish(v: int) -> tuple[Words, Words]:
            a = products[v, :, :LIMBS] + self._key_a * again[v, :, np.newaxis]
            b = products[v, :, LIMBS:] + self._key_b * again[v, :, np.newaxis]
            own = ends_of(p, ring.settle_wide(b, modulus.hints))
            a_words = ring.settle_wide(a, modulus.hints)
            return wide.plus(a_words, wide.of(noise[v])), wide.plus(own, scaled[v])

        parts = list(each(finish, range(count)))
        a_words, b_words = (np.stack(column) for column in zip(*parts, strict=True))
        made = words.pack_hint(a_words, modulus) + words.pack_hint(b_words, modulus)
        return made, modulus_words(modulus, masks)

    def _check_complete(self) -> None:
        if not self.complete:
            of = self._parameters.hint_parts
            raise ValueError(f"{int(self._loaded.sum())} of {of} parts of the hint came")

    def _products(self, values: Entries, ended: threading.Event | None = None) -> ring.Complexes:
        """Transforms (count, groups, 2 limbs, HALF) of the sums of a_d s_d and b_d s_d, of `values`
        (count, columns) cut into polynomials s_d."""
        from vfl.crypto.lattice import products  # which imports numba

        p, count = self._parameters, len(values)
        small = products.side_by_side(values, p.width, p.depth)
        powers = np.arange(p.width - 1, -1, -1)
        sides = len(small) * products.SIDE
        out = np.empty((sides, p.groups, 2 * LIMBS, ring.HALF), np.complex128)

        def points(first: int) -> None:
            last = first + _POINTS
            own = ring.roots(first, last, powers).view(np.float64)
            made = products.zeros(_POINTS, len(small), p.groups)
            products.multiply(small, own, self._reals, first, made)
            values = made[..., 0, :] + 1j * made[..., 1, :]
            out[..., first:last] = values.transpose(1, 4, 2, 3, 0).reshape(*out.shape[:-1], _POINTS)

        for _ in each(points, range(0, ring.HALF, _POINTS)):
            if ended is not None and ended.is_set():
                raise CancelledError
        return out[:count]

    def _open(self) -> NDArray[np.float64]:
        if self._file is None:
            return np.zeros(self._shape)
        size = KEY + 8 * int(np.prod(self._shape))
        if self._file.exists() and self._file.stat().st_size == size:
            with self._file.open("rb") as file:
                name = file.read(KEY)
            if name == self._name:
                self._loaded[:] = True
                return np.memmap(self._file, np.float64, "r", KEY, self._shape)
        return self._room(_unfinished(self._file), size)

    def _room(self, path: Path, size: int) -> NDArray[np.float64]:
        """Make a file of this size and map it."""
        try:
            with path.open("w+b") as file:
                take_room(file.fileno(), size)
                return np.memmap(file, np.float64, "r+", KEY, self._shape)
        except OSError as error:
            path.unlink(missing_ok=True)
            text = no_room(path.parent, size, "a host's hint", error)
            raise VflError(text, for_peer=NO_ROOM) from None

    def _keep(self, file: Path) -> None:
        """Give the complete file its name, so that a later job finds it."""
        if isinstance(self._reals, np.memmap):
            self._reals.flush()
        del self._reals
        unfinished = _unfinished(file)
        with unfinished.open("r+b") as opened:
            opened.write(self._name)
            opened.flush()
            os.fsync(opened.fileno())
        unfinished.replace(file)
        self._reals = np.memmap(file, np.float64, "r", KEY, self._shape)


def modulus_words(modulus: Modulus, numbers: Words) -> Words:
    """Numbers modulo q, (..., 2), as a caller has them: wide words of pairs, others as one word."""
    return wide.reduced(numbers, modulus.bits) if modulus.is_wide else numbers[..., 0]


def _shape(p: Parameters) -> bytes:
    """How a hint lies in polynomials, which both a key and a file depend on."""
    shape = b"".join(n.to_bytes(8, "big") for n in (p.outputs, p.groups, p.group, p.width, p.depth))
    return b"pairs" + shape if p.pairs else shape


def _unfinished(file: Path) -> Path:
    return file.with_name(file.name + ".part")


def _uniform(modulus: Modulus, key: bytes, label: str, number: int) -> Words:
    """The uniform polynomial modulo Q, wide words, that a public key, label and number name."""
    if modulus.is_wide:
        drawn = random_words(key, f"{label} of pairs", 2 * DEGREE, 2 * number * DEGREE)
        return wide.reduced(drawn.reshape(DEGREE, 2), modulus.hints.bits)
    whole = random_words(key, label, DEGREE, number * DEGREE)
    fraction = random_words(key, f"{label} fractions", DEGREE // 2, number * DEGREE // 2)
    scaled = wide.left(wide.of(whole), modulus.fraction_bits)
    return wide.plus(scaled, wide.of(fraction.view("<u4").astype(np.uint64)))


def _drawn_masks(modulus: Modulus, key: bytes, shape: tuple[int, int]) -> tuple[Words, Words]:
    """Uniform words modulo Q for each of so many products: modulo q, wide, and what is below."""
    size = shape[0] * shape[1]
    below = random_words(key, "fractions", -(-size // 2)).view("<u4")[:size].astype(np.uint64)
    below >>= np.uint64(32 - modulus.fraction_bits)
    if modulus.is_wide:
        drawn = random_words(key, "masks", 2 * size).reshape(*shape, 2)
        return wide.reduced(drawn, modulus.bits), below.reshape(shape)
    return wide.of(random_words(key, "masks", size).reshape(shape)), below.reshape(shape)


def ends_of(p: Parameters, polynomials: Words) -> Words:
    """The coefficients (outputs, 2) of polynomials (groups, DEGREE, 2) with whole inner products."""
    ends = p.width - 1 + p.width * np.arange(p.group)
    return polynomials[:, ends].reshape(-1, 2)[: p.outputs]


@kernel
def _store(a: ring.Complexes, b: ring.Complexes, first: int, out: NDArray[np.float64]) -> None:
    """Put transforms (polynomials, limbs, HALF), from number `first` on, where `multiply` reads them."""
    depth = out.shape[1]
    for i in range(ring.HALF):
        for p in range(a.shape[0]):
            group = (first + p) // depth
            d, at = first + p - group * depth, group * _REALS
            for limb in range(LIMBS):
                out[i, d, at + limb] = a[p, limb, i].real
                out[i, d, at + LIMBS + limb] = b[p, limb, i].real
                out[i, d, at + 2 * LIMBS + limb] = a[p, limb, i].imag
                out[i, d, at + 3 * LIMBS + limb] = b[p, limb, i].imag
