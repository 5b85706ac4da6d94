"""A host's X^T r for the guest's residuals r, which only the host may know; by Paillier's encryption.

The steps 2 and 3 of fitting.py; lattice_products.py takes the same ones over the lattice engine.

 a. The guest rounds r to integers (rounding.py), encrypts it row by row and sends it to every host.
 b. A host forms X^T r under encryption, as many products side by side as a plaintext holds, adds masks
    uniform among all plaintexts, re-randomises and sends it.
 c. The guest decrypts. It sends back as many of the lowest bits as the products of the host's columns
    can have, and the host takes the masks off.

Masks are drawn so that no sum wraps: they are 2^-64 from uniform among all plaintexts. Those of a
product have its number for a place, as under one mask two products would show how they differ; and the
guest's obfuscators are numbered over all that it sends. How X^T r is formed is in encrypted_product.py.
"""

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Floats, Integers
from vfl.blocks.engine import ENGINE
from vfl.crypto.paillier import PrivateKey, PublicKey
from vfl.crypto.reserve import OwnReserve
from vfl.crypto.sums import decrypt, encrypt
from vfl.crypto.workers import SharedRows, Workers
from vfl.errors import DataError
from vfl.learn.matrix import Matrix
from vfl.learn.params import GlmParams
from vfl.net.peer import Peer, together
from vfl.net.wire import CIPHERTEXT, MIB, Message, Seconds
from vfl.protocols.common.clock import Clock, ToldTime
from vfl.protocols.common.histograms import CHUNK
from vfl.protocols.common.key import generate_key, send_key
from vfl.protocols.common.participant import Resources
from vfl.protocols.linear.encrypted_product import (
    ROW_BITS,
    EncryptedProduct,
    Layout,
    check_products,
    unpacked,
)
from vfl.protocols.linear.rounding import Rounded, are_standardised, most_bits, number_bits


class Residuals(Message, frozen=True):
    """guest -> host. Reveals: nothing to who lacks the key; encrypted residuals of rows that train."""

    ciphertexts: bytes
    limit: ClassVar[int] = 4 * MIB
    per_row = ("ciphertexts", CIPHERTEXT)


class MaskedProducts(Message, frozen=True):
    """host -> guest. Reveals: nothing but the time it took, in whole seconds: under the encryption are
    sums plus masks uniform among all plaintexts."""

    ciphertexts: bytes
    seconds: Seconds
    limit: ClassVar[int] = 16 * MIB


class OpenedProducts(Message, frozen=True):
    """guest -> host. Reveals: with the masks that only this host knows, its own gradient: the product of
    its columns with the residuals, which depend on the labels. No more bits than such products have."""

    plaintexts: bytes  # the lowest bits of each, big-endian
    scale: float  # of the residuals
    limit: ClassVar[int] = 16 * MIB


class LevelResiduals(Message, frozen=True):
    """guest -> host. Reveals: nothing to who lacks the key; encrypted residuals of rows that train which
    have a level of the guest's, zeros elsewhere."""

    ciphertexts: bytes
    limit: ClassVar[int] = 4 * MIB
    per_row = ("ciphertexts", CIPHERTEXT)


class OpenedByLevel(Message, frozen=True):
    """guest -> host. Reveals: with the masks that only this host knows, for cells that it has chosen,
    the sums of the residuals of the rows that have a level of the guest's and one of the host's; before
    the first iteration, for all levels of a pair, how many rows these are."""

    plaintexts: bytes  # the lowest bits of each, big-endian
    scale: float  # of the residuals
    limit: ClassVar[int] = 16 * MIB


@dataclass(frozen=True)
class LevelSums:
    """Numbers of the rows that train, by the levels of a column of the guest's, and what hosts are given
    of them."""

    numbers: Rounded
    bits: int  # of a sum of them
    codes: NDArray[np.uint16]  # of these rows; 0 the base level
    wanted: Mapping[str, Sequence[Sequence[int]]]
    """By host, for each level but the base level, columns of its matrix by which it is given sums."""


# --------------------------------------------------------------------------------------- guest


class GuestGradients(ABC):
    """The guest's side, under whichever encryption."""

    @abstractmethod
    async def greet(self) -> None:
        """Send what comes before all else: the key, if there is one."""

    @abstractmethod
    async def meet(self, columns: Mapping[str, int]) -> None:
        """Be told how many columns each host has, by name."""

    @abstractmethod
    def labels(self, residuals: Rounded) -> Mapping[str, int]:
        """How many labels each host could read of X^T r at most, whatever it asked for in its place: as
        many as it is given bits. By name."""

    @abstractmethod
    async def open(self, residuals: Rounded) -> None:
        """Let every host have X^T r, for the residuals of the rows that train.

        Raises PeerError when a host breaks the protocol.
        """

    @abstractmethod
    async def open_levels(self, asked: LevelSums) -> None:
        """Let hosts have sums by levels of the guest's and of theirs. Raises PeerError."""

    @abstractmethod
    def cell_labels(self, cells: int, residuals: Rounded) -> int:
        """How many labels a host could read at most of so many such sums."""


@asynccontextmanager
async def paillier_guest(
    hosts: Sequence[Peer],
    rows: int,
    params: GlmParams,
    key: PrivateKey | None,
    resources: Resources,
    clock: Clock,
) -> AsyncIterator[GuestGradients]:
    """The guest's side for so many rows that train. Without `key` one is made, as the job says."""
    if key is None:
        key = await asyncio.to_thread(generate_key, params, resources.randomness.at("Paillier key"))
    async with Workers(key, resources.machine, resources.operations) as workers:
        secret = resources.randomness.key_at("obfuscators")
        gradients = _PaillierGuest(hosts, params, workers, OwnReserve(workers, rows, secret), clock)
        try:
            yield gradients
        finally:
            gradients.reserve.end()


class _PaillierGuest(GuestGradients):
    def __init__(
        self,
        hosts: Sequence[Peer],
        params: GlmParams,
        workers: Workers[PrivateKey],
        reserve: OwnReserve,
        clock: Clock,
    ) -> None:
        self._hosts, self._params = hosts, params
        self._workers, self.reserve, self._clock = workers, reserve, clock
        self._columns: Mapping[str, int] = {}

    async def greet(self) -> None:
        await send_key(self._hosts, self._workers.key)

    async def meet(self, columns: Mapping[str, int]) -> None:
        self._columns = columns

    def labels(self, residuals: Rounded) -> Mapping[str, int]:
        return {name: labels_of(columns, residuals) for name, columns in self._columns.items()}

    async def open(self, residuals: Rounded) -> None:
        self.reserve.end()
        # a. Encrypted residuals.
        await self._send(residuals.integers, Residuals, self._hosts)
        self.reserve.begin()
        await together([self._open(host, residuals) for host in self._hosts])

    async def open_levels(self, asked: LevelSums) -> None:
        self.reserve.end()
        for place in range(max(map(len, asked.wanted.values()), default=0)):
            concerned = [
                host for host in self._hosts if any(asked.wanted.get(host.name, ())[place:][:1])
            ]
            if concerned:
                own = np.where(asked.codes == place + 1, asked.numbers.integers, 0)
                await self._send(own, LevelResiduals, concerned)
                await together([self._open_cells(host, asked, place) for host in concerned])
        self.reserve.begin()

    def cell_labels(self, cells: int, residuals: Rounded) -> int:
        return cells * residuals.bits

    async def _send(
        self,
        integers: Integers,
        kind: type[Residuals] | type[LevelResiduals],
        hosts: Sequence[Peer],
    ) -> None:
        """Numbers of rows under encryption, chunk by chunk."""
        chunks = ((integers[i : i + CHUNK],) for i in range(0, len(integers), CHUNK))
        encrypted = encrypt(self._workers, _integers, chunks, self.reserve)
        while True:
            with self._clock.timed("encrypt"):
                ciphertexts = await anext(encrypted, None)
            if ciphertexts is None:
                break
            with self._clock.timed("transfer"):
                message = kind(ciphertexts.tobytes())
                await together([host.send(message) for host in hosts])

    async def _open(self, host: Peer, residuals: Rounded) -> None:
        """c. Open a host's masked products for it."""
        columns, bits = self._columns[host.name], number_bits(residuals.bits)
        data = await self._opened(host, Layout(self._workers.key.public.bits, columns, bits))
        await host.send(OpenedProducts(data, residuals.scale))

    async def _open_cells(self, host: Peer, asked: LevelSums, place: int) -> None:
        """The same of the sums by its levels that it is given."""
        count = len(asked.wanted[host.name][place])
        data = await self._opened(host, Layout(self._workers.key.public.bits, count, asked.bits))
        await host.send(OpenedByLevel(data, asked.numbers.scale))

    async def _opened(self, host: Peer, layout: Layout) -> bytes:
        """What is given back of a host's masked products."""
        key = self._workers.key.public
        with self._clock.timed(f"{host.name} and transfer"):
            message = await host.recv(MaskedProducts)
        self._clock.seconds[host.name] += message.seconds
        # More would be opened for another purpose than its columns.
        if len(message.ciphertexts) != len(layout.lengths) * key.width:
            raise host.breach("MaskedProducts of another number of products than it has columns")
        with self._clock.timed("decrypt"):
            try:
                opened = await decrypt(self._workers, key.parse(message.ciphertexts))
            except ValueError as error:
                raise host.breach(f"MaskedProducts with {error}") from None
        n = int(key.n)
        return layout.cut([value % n for value in opened])


def labels_of(columns: int, residuals: Rounded, cells: int = 0) -> int:
    """How many labels a host of so many columns, and cells across parties, could read at most: the bits
    of its products."""
    return columns * number_bits(residuals.bits) + cells * residuals.bits


def most_labels(columns: int, rows: int) -> int:
    """How many labels a host could read at most in an iteration, however fine residuals are."""
    return columns * number_bits(most_bits(rows, ROW_BITS))


def _integers(values: Integers) -> list[int]:
    return [int(value) for value in values.tolist()]


# ---------------------------------------------------------------------------------------- host


class Gradient(ABC):
    """A host's side, under whichever encryption."""

    @abstractmethod
    async def __call__(self, bits: int) -> Floats:
        """X^T r of the next residuals, shape (columns,), whose products with columns of 0 and 1 have so
        many bits. Raises PeerError."""

    @abstractmethod
    async def of_levels(self, wanted: Sequence[Sequence[int]], bits: int) -> list[Floats]:
        """For each level of a column of the guest's, the sums of what the guest sends by these columns
        of the matrix, which are of levels; of so many bits. Raises PeerError."""


@asynccontextmanager
async def paillier_host(
    guest: Peer, matrix: Matrix, key: PublicKey, resources: Resources
) -> AsyncIterator[Gradient]:
    """The host's side, for the matrix of the rows that train.

    Raises DataError for numbers whose products would not fit in a plaintext.
    """
    own = resources.part("gradients")
    async with Workers(key, resources.machine, resources.operations) as pool:
        store = pool.rows(matrix.rows, key.width)
        try:
            try:
                product = EncryptedProduct(pool, store, matrix, own.randomness.part("products"))
                check_lengths(matrix)
            except ValueError as error:
                raise DataError(f"a numeric column cannot be used under this key: {error}") from None
            await asyncio.to_thread(product.group)
            yield _PaillierGradient(guest, pool, store, matrix, product, own)
        finally:
            store.close()


class _PaillierGradient(Gradient):
    def __init__(
        self,
        guest: Peer,
        pool: Workers[PublicKey],
        store: SharedRows,
        matrix: Matrix,
        product: EncryptedProduct,
        resources: Resources,
    ) -> None:
        self._guest, self._pool, self._store = guest, pool, store
        self._randomness = resources.randomness
        self._matrix, self._product = matrix, product
        self._told = ToldTime(guest.name, resources.say)
        self._of_factors: dict[tuple[int, ...], EncryptedProduct] = {}

    async def __call__(self, bits: int) -> Floats:
        # b. Masked; opened by the guest; unmasked.
        product = self._product
        layout = Layout(self._pool.key.bits, self._matrix.columns, number_bits(bits))
        await product.sums.receive(self._guest, Residuals, lambda m: m.ciphertexts, self._matrix.rows)
        plaintexts, masks, scale = await self._opened(product, layout, None, OpenedProducts)
        try:
            return product.unmask(plaintexts, masks, scale, layout)
        except ValueError as error:
            raise self._guest.breach(f"OpenedProducts with {error}") from None

    async def of_levels(self, wanted: Sequence[Sequence[int]], bits: int) -> list[Floats]:
        return [await self._of_level(columns, bits) for columns in wanted]

    async def _of_level(self, columns: Sequence[int], bits: int) -> Floats:
        if not columns:
            return np.empty(0)
        product, places = await asyncio.to_thread(self._factors_of, columns)
        layout = Layout(self._pool.key.bits, len(places), bits)
        rows = self._matrix.rows
        await product.sums.receive(self._guest, LevelResiduals, lambda m: m.ciphertexts, rows)
        plaintexts, masks, scale = await self._opened(product, layout, places, OpenedByLevel)
        n, values = int(self._pool.key.n), list[int]()
        try:
            for plaintext, mask in zip(plaintexts, masks, strict=True):
                count = min(layout.slots, len(places) - len(values))
                values += unpacked((plaintext - mask) % n, n, bits, count)
            check_products(values, bits)
        except ValueError as error:
            raise self._guest.breach(f"OpenedByLevel with {error}") from None
        return np.array([float(value) for value in values]) / scale

    async def _opened(
        self,
        product: EncryptedProduct,
        layout: Layout,
        places: Sequence[int] | None,
        kind: type[OpenedProducts] | type[OpenedByLevel],
    ) -> tuple[list[int], list[int], float]:
        """The plaintexts of masked products, their masks, and what residuals were multiplied by."""
        guest = self._guest
        with self._told.timed():
            ciphertexts, masks = await product.mask(layout, places)
        await guest.send(MaskedProducts(ciphertexts.tobytes(), self._told.tell()))
        opened = await guest.recv(kind)
        if len(opened.plaintexts) != layout.size or not (
            math.isfinite(opened.scale) and opened.scale > 0
        ):
            raise guest.breach(f"{kind.__name__} of another number than asked for")
        try:
            return layout.whole(opened.plaintexts, masks), masks, opened.scale
        except ValueError as error:
            raise guest.breach(f"{kind.__name__} with {error}") from None

    def _factors_of(self, columns: Sequence[int]) -> tuple[EncryptedProduct, list[int]]:
        """The products with the factors that these columns are of, and the columns' places in them."""
        levels = self._matrix.levels
        firsts = np.cumsum([0, *levels])
        rows = np.searchsorted(firsts, columns, side="right") - 1
        own = tuple(sorted({*rows.tolist()}))
        if own not in self._of_factors:
            codes = ENGINE.gather(self._matrix.codes)[list(own)]
            some = Matrix(codes, tuple(levels[row] for row in own), np.empty((0, codes.shape[1])))
            part = self._randomness.part("products of factors", *own)
            product = EncryptedProduct(self._pool, self._store, some.held(), part)
            product.group()
            self._of_factors[own] = product
        inner = dict(zip(own, np.cumsum([0, *(levels[row] for row in own)]).tolist(), strict=False))
        pairs = zip(columns, rows.tolist(), strict=True)
        return self._of_factors[own], [inner[row] + column - int(firsts[row]) for column, row in pairs]


def check_lengths(matrix: Matrix) -> None:
    """Raises ValueError for numbers whose products have more bits than the guest gives back."""
    if not are_standardised(matrix.numbers):
        raise ValueError("its values are further from their mean than a deviation, all together")
