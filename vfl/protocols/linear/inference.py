"""How sure the coefficients of a linear model are: each party learns of its own, and of no other's.

At the optimum w, the expected second derivative of each row's loss, is the guest's. What is wanted is
the inverse of A = X'WX + the penalty over all parties' columns X, of which each party gets the block of
its own coefficients: their covariance, up to the dispersion, which the guest knows (learn/inference.py).

All is in whole numbers: w is rounded to 28 bits below its largest, numbers in X to 26 bits below the
root of the number of rows, which no number in standard deviations is beyond. A is exact in these, and
what is rounded is the same everywhere.

 1. The guest sends a public key of Paillier's, and how many columns each party has.
 2. With each host, by products that both only share (shared_products.py), which the host puts together
    under the guest's key: the guest's columns times w, encrypted once for all hosts, with the host's
    columns; w with the pairs of the
    host's levels (level_pairs.py); and of a host's number with each of its columns the products, vectors
    of the host's, with w, the guest's column.
 3. Each two hosts, through the guest (relayed.py): it splits w into two numbers a row, of which one is
    uniform below 2^75, and gives each host one. What one host's columns times its part of w come to with
    the other's columns, both ways, adds up to the block of both. So neither sees w, nor the guest, under
    whose key the block is, any of it.
 4. The first host gets all blocks under encryption, sealed from the guest, each with noise uniform over
    a unit, in steps of 2^-80. Every other host changes the basis of its own columns in them before, by a
    secret one, so that the guest's key opens none of them there: a block of two such hosts goes from
    the later one to the earlier one, and from there to the first. Then the first host changes the basis
    of all hosts' columns by a secret one (rotation.py): C = T'AT, where T is those of the other hosts,
    each for its own columns, times that of the first. Who works with the guest does not know the one or
    the others. What whole numbers come to in a basis of whole numbers is a lattice, from which who sees
    enough of it finds the basis: so each host, whenever it has changed one, adds noise again, wide
    beside the steps of that lattice and less than a unit of A. The first host packs C and the guest's
    rows with it, hides where they come from, and the guest decrypts.
 5. The guest inverts. It reads the block of its own coefficients, and sends that of the hosts, which
    is in the basis of C, encrypted back to the first host, which changes it back and passes on to each
    other host its own block. Each host changes back what it alone has changed, masks its block, has the
    guest decrypt it, and takes the masks off.
 6. Each host says whether some of its columns are aliased, by the size of its block; if any are, nobody
    has standard errors, and those whose columns are in it are told of each other.

Learned by the guest: the block of its own coefficients; how many columns hosts have, and how many bits
their largest numbers; and C, with the guest's rows of it. Up to the basis of the hosts' columns, which
no party knows alone, these are made of the guest's own columns and its own block: so nothing more, but
for how long the basis makes vectors, which is random. By a column of a single row that is a row of the
hosts', in that basis: so nothing is inferred by columns by which a row stands out (learn/leverage.py).

Learned by a host: the block of its own coefficients, with the dispersion over the sum of weights and the
freedom of the residuals; how many columns others have, and how many bits their largest numbers. The
block says how many rows of which weight its columns tell apart: of a Poisson model, about how many
claims its levels have.

All follow the protocol, and nobody works with others: two hosts that do know w, which is the guest's
prediction; the guest with a host knows that host's blocks with the hosts before it, and with the first
host, where all are gathered, what follows from its columns and the first host's as if it had both.

Bases, noise and masks have places of their own, by the block that they are for: noise that lay on two
blocks would go in their difference.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import gmpy2
import numpy as np

from vfl.arrays import Floats, Integers
from vfl.crypto.paillier import Ciphertexts, PrivateKey
from vfl.crypto.randomness import Stream
from vfl.crypto.sums import decrypt
from vfl.crypto.workers import Workers
from vfl.learn.glm import Block
from vfl.learn.inference import Alias, Inference
from vfl.learn.leverage import FEW, standing_out
from vfl.learn.matrix import Matrix
from vfl.learn.params import GlmParams
from vfl.net.peer import Peer, together
from vfl.net.wire import MIB
from vfl.protocols.common.key import generate_key, send_key
from vfl.protocols.common.participant import Resources
from vfl.protocols.linear.encrypted_product import unpacked
from vfl.protocols.linear.inference_messages import (
    FEW_ROWS_BITS,
    FINER_BITS,
    MOST_COLUMNS,
    MOST_FRACTION,
    PART_BITS,
    PARTS,
    WEIGHT_BITS,
    AliasFound,
    InferenceEnd,
    InferenceStart,
    MaskedCovariance,
    NoInference,
    OpenedCovariance,
    RotatedInformation,
    WeightPart,
    aliased_places,
    basis_changes,
    coarse,
    coarse_penalty,
    information_bits,
    keys_of,
    receive_encrypted,
    send_encrypted,
    uniform_parts,
    units_of,
)
from vfl.protocols.linear.inference_progress import InferenceProgress
from vfl.protocols.linear.inferred import NOTHING, FitEnded, Inferred
from vfl.protocols.linear.level_pairs import (
    MOST_CELLS,
    OwnProductsFollow,
    most_matrices,
    most_pairs,
)
from vfl.protocols.linear.relayed import relay
from vfl.protocols.linear.rotation import (
    BASIS_BITS,
    inverse,
    symmetric,
    upper,
)
from vfl.protocols.linear.row_products import Factor, RowProducts
from vfl.protocols.linear.shared_products import (
    SharedSums,
    Table,
    columns_of,
    share_columns,
    share_vectors,
)


@dataclass(frozen=True)
class _Scale:
    """What numbers are multiplied by to be whole."""

    weight: int  # power of two
    sums: float  # the sum of weights

    @classmethod
    def of(cls, rows: "Curved") -> "_Scale":
        information, total = rows.information, rows.total
        most = float(information.max(initial=0.0))
        # As long as a number of so many rows may be, for whom the weights are a column.
        bits = min(WEIGHT_BITS, FEW_ROWS_BITS + len(information).bit_length() // 2)
        return cls(bits - (math.frexp(most)[1] if most > 0 else 0), total)

    def weights(self, rows: "Curved") -> Integers:
        """What each row counts, as a whole number."""
        return np.rint(rows.information * 2.0**self.weight).astype(np.int64)


@dataclass(frozen=True)
class Curved:
    """The rows whose columns' information is inverted: what each counts in it, shape (rows,); the sum
    of weights, which a penalty is a multiple of; what the inverse is multiplied by, and the freedom of
    the residuals, where that was estimated."""

    information: Floats
    total: float
    dispersion: float = 1.0
    freedom: int | None = None


async def guest_inference(
    hosts: Sequence[Peer],
    columns: Mapping[str, int],
    own: Mapping[str, Block],
    ended: FitEnded,
    params: GlmParams,
    resources: Resources,
    key: PrivateKey | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Inferred:
    """The guest's side; `columns` are those of the hosts. `own` is the guest's block, by its name.
    progress: told how much is done, of how much.

    Raises PeerError when a host breaks the protocol.
    """
    ((name, block),) = own.items()
    summary, weight = ended.summary(params), float(ended.scores.weight.sum())
    if summary is None:
        await together([host.send(NoInference()) for host in hosts])
        return NOTHING
    rows = Curved(ended.rows.information, weight, summary.dispersion, summary.residuals)
    most, free = params.max_leverage, int(params.fit_intercept)
    # As hosts' columns are multiplied by them: what is rounded away makes others stand out.
    sent = await asyncio.to_thread(coarse, block.matrix)
    weights = _Scale.of(rows).weights(rows).astype(np.float64)
    outlier = await asyncio.to_thread(
        standing_out, sent, most, weights, constant=bool(free), share=FEW, about=ended.about
    )
    if outlier is not None:
        await together([host.send(NoInference()) for host in hosts])
        nothing = Inference(None, rows.freedom, constants=free, standing_out=outlier)
        return Inferred({name: nothing}, summary)
    matrix = block.matrix.under(params.alpha) if params.credibility else block.matrix
    found = await guest_covariance(hosts, columns, matrix, rows, params, resources, key, progress)
    return Inferred({} if found is None else {name: found}, summary)


async def guest_covariance(
    hosts: Sequence[Peer],
    columns: Mapping[str, int],
    matrix: Matrix,
    rows: Curved,
    params: GlmParams,
    resources: Resources,
    key: PrivateKey | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Inference | None:
    """The block of the guest's own columns, the intercept first if there is one; None where there are
    too many columns or hosts, or no host has any. Hosts play `host_inference`.

    Raises PeerError when a host breaks the protocol.
    """
    free, resources = int(params.fit_intercept), resources.part("inference")
    with_columns = [host for host in hosts if columns[host.name]]
    scale, unit, fraction = _Scale.of(rows), 0.0, MOST_FRACTION
    few = matrix.columns + sum(columns.values()) + free <= MOST_COLUMNS
    if rows.dispersion > 0 and with_columns and few:
        unit = rows.total / rows.dispersion
        fraction = _fraction(len(with_columns), unit, rows.information)
    if fraction >= MOST_FRACTION:
        await together([host.send(NoInference()) for host in hosts])
        return None
    mine = await asyncio.to_thread(coarse, matrix, bool(free))
    names = [host.name for host in with_columns]
    sizes = [mine.columns, *(columns[name] for name in names)]
    penalty = params.penalty_unit * scale.sums * 2.0**scale.weight
    start = InferenceStart(names, sizes, unit, penalty, fraction, rows.freedom)
    # 1. Key, columns.
    await together([host.send(start) for host in hosts])
    if key is None:
        key = await asyncio.to_thread(generate_key, params, resources.randomness.at("Paillier key"))
    await send_key(with_columns, key)
    weights = scale.weights(rows)
    async with Workers(key, resources.machine, resources.operations) as workers:
        follow = InferenceProgress(progress, sizes, mine.rows)
        guest = _Guest(with_columns, mine, weights, workers, resources)
        # 2. With each host; 3. each two hosts.
        across = await guest.share_columns_with([columns[host.name] for host in with_columns])
        await together(
            [
                guest.share_with(host, columns[host.name], sums)
                for host, sums in zip(with_columns, across, strict=True)
            ]
        )
        follow.done("with guest")
        for number, (one, other) in enumerate(combinations(with_columns, 2), 1):
            await guest.split_weights(one, other)
            follow.done("between hosts", number)
        # 4. In a basis that nobody knows.
        await guest.relay_blocks()
        follow.done("gathered")
        inverted = await guest.invert(sizes, penalty, free)
        follow.done("rotated")
        # 5. Back to their owners.
        scaled = 2.0 ** (scale.weight + FINER_BITS) * rows.dispersion
        theirs = inverted[mine.columns :, mine.columns :]
        await guest.give_back(theirs, scaled, start.fraction, follow)
    units = units_of(mine)
    of_guest = inverted[: mine.columns, : mine.columns]
    covariance = np.array([[float(entry) for entry in row] for row in of_guest]) * scaled
    covariance = covariance.reshape(mine.columns, mine.columns) / np.outer(units, units)
    # 6. Whose columns others' make up as well.
    gram = (await asyncio.to_thread(_exact_gram, mine, weights)).astype(np.float64)
    gram = gram * np.outer(units, units) * 2.0**-scale.weight
    gram += params.penalty_unit * scale.sums * mine.penalised(free)
    root = np.linalg.cholesky(gram)
    places = aliased_places(covariance / rows.dispersion, root, params.alpha)
    told = await together([host.recv(AliasFound) for host in with_columns])
    aliased = [host.name for host, said in zip(with_columns, told, strict=True) if said.found]
    guest_too = [""] if places else []
    await together([host.send(InferenceEnd([*guest_too, *aliased])) for host in with_columns])
    if aliased or places:
        aliases = (Alias(places, tuple(aliased)),) if places else ()
        return Inference(None, rows.freedom, aliases, free)
    return replace(Inference.of(covariance, rows.freedom), constants=free)


def _fraction(hosts: int, unit: float, information: Floats) -> int:
    """Bits below the point of covariances: some 60 of the smallest, and what changes of basis cost."""
    most = float(information.max(initial=0.0)) * len(information)
    return 132 + basis_changes(hosts) * 2 * (BASIS_BITS + 9) + max(0, math.frexp(max(most, unit))[1])


def _exact_gram(matrix: Matrix, weights: Integers) -> Table:
    """X'WX of whole numbers, exactly."""
    makers = [make for _, make in columns_of(matrix)]
    found = np.empty((len(makers), len(makers)), object)
    low, high = weights & 0x3FFF, weights >> 14
    for i, make in enumerate(makers):
        own = make()
        parts = [own * low, own * high]
        for j in range(i + 1):
            other = makers[j]()
            sums = [_exact_product(part, other) for part in parts]
            found[i, j] = found[j, i] = sums[0] + (sums[1] << 14)
    return found


def _exact_product(a: Integers, b: Integers) -> int:
    """The inner product of whole numbers below 2^46 and 2^31."""
    low, high = a & 0xFFFFFF, a >> 24
    # Of numbers below 2^24 and 2^15 so many sums fit.
    b_low, b_high = b & 0x7FFF, b >> 15
    return sum(
        int(x @ y) << shift
        for x, y, shift in (
            (low, b_low, 0),
            (low, b_high, 15),
            (high, b_low, 24),
            (high, b_high, 39),
        )
    )


class _Guest:
    def __init__(
        self,
        hosts: Sequence[Peer],
        matrix: Matrix,
        weights: Integers,
        workers: Workers[PrivateKey],
        resources: Resources,
    ) -> None:
        self._hosts, self._matrix, self._weights = hosts, matrix, weights
        self._workers, self._resources = workers, resources

    async def share_columns_with(self, theirs: Sequence[int]) -> list[SharedSums]:
        """2. The blocks of the guest's columns and those of each host, which are so many."""
        own = self._matrix
        terms = [(column, 0) for column in range(own.columns)]
        vectors = RowProducts(own, [Factor.of(self._weights, WEIGHT_BITS)], terms)
        allowed, alone = [(count,) for count in theirs], self._resources.part("own columns")
        return await share_vectors(self._hosts, vectors, alone, allowed)

    async def share_with(self, host: Peer, theirs: int, across: SharedSums) -> None:
        """2. The block of the guest's columns and the host's, which are so many, and that of the
        host's own."""
        rows, weights = self._matrix.rows, self._weights
        resources = self._resources.part("with a host", host.name)
        key_at = partial(resources.randomness.key_at, "shares")
        await self._send_shares(host, across, key_at("own columns"))
        follow = await host.recv(OwnProductsFollow)
        if follow.matrices > most_matrices(theirs):
            raise host.breach("OwnProductsFollow of more pairs than its columns have")
        left, no_numbers = most_pairs(theirs), np.zeros((0, rows), np.int32)
        every = Matrix(np.ones((1, rows), np.uint16), (1,), no_numbers)  # a level of all rows
        vector = RowProducts(every, [Factor.of(weights, WEIGHT_BITS)], [(0, 0)])
        for number in range(follow.matrices):
            some = range(1, 1 + min(left, MOST_CELLS))
            alone = resources.part("pairs of levels", number)
            (found,) = await share_vectors([host], vector, alone, [some])
            left -= found.columns[1]
            await self._send_shares(host, found, key_at("pairs of levels", number))
        if follow.numbers:
            column = weights.astype(np.int32)[np.newaxis]
            own = Matrix(np.zeros((0, rows), np.uint16), (), column)
            alone = resources.part("numbers")
            products = await share_columns(host, own, alone, range(1, 1 + left))
            await self._send_shares(host, products, key_at("numbers"))

    async def _send_shares(self, host: Peer, sums: SharedSums, secret: bytes | None) -> None:
        total = await asyncio.to_thread(lambda: sums.total)
        numbers = [*total.ravel().tolist(), *sums.low.ravel().astype(int).tolist()]
        await send_encrypted(host, await self._encrypted(numbers, secret))

    async def _encrypted(self, numbers: Sequence[int], secret: bytes | None) -> Ciphertexts:
        """`secret`: what obfuscators are drawn from, for these numbers alone."""
        tasks = [([*numbers[i : i + 256]], key) for i, key in keys_of(secret, len(numbers), 256)]
        return np.concatenate(
            [self._workers.key.public.array([]), *await self._workers.map(_encrypt, tasks)]
        )

    async def split_weights(self, one: Peer, other: Peer) -> None:
        """3. A part of each row's weight for either, whose conversation is passed on."""
        seed = self._resources.randomness.at("part of the weights", one.name, other.name)(32)
        rest = self._weights
        parts = uniform_parts(seed, len(rest))
        left = np.empty((PARTS, len(rest)), np.int32)
        # weight - part, in limbs: the highest has the sign.
        borrow = np.zeros(len(rest), np.int64)
        for place in range(PARTS):
            limb = (rest if place == 0 else 0) - parts[place] + borrow
            if place < PARTS - 1:
                left[place] = limb & ((1 << PART_BITS) - 1)
                borrow = limb >> PART_BITS
            else:
                left[place] = limb
        await one.send(WeightPart(seed))
        data = left.astype("<i4").tobytes()
        for first in range(0, len(data), 4 * MIB):
            await other.send(WeightPart(data[first : first + 4 * MIB]))
        await relay(one, other)

    async def relay_blocks(self) -> None:
        """4. Hosts gather all blocks at the first, which go from one to the next."""
        first, *others = self._hosts
        for one, other in combinations(others, 2):
            await relay(one, other)
        for other in others:
            await relay(other, first)

    async def invert(self, sizes: Sequence[int], penalty: float, free: int) -> Table:
        """The inverse of the whole information, of the guest's columns and the hosts' in their basis."""
        key, first, rows = self._workers.key, self._hosts[0], self._matrix.rows
        own, theirs = sizes[0], sum(sizes[1:])
        one, both = (information_bits(rows, len(self._hosts), theirs, sides) for sides in (1, 2))
        count = theirs * (theirs + 1) // 2
        slots, packed = (key.public.bits - 2) // one, (key.public.bits - 2) // both
        groups = [min(slots, own - i) for i in range(0, own, slots)]
        # Of each ciphertext the bits of a slot, and how many numbers it has.
        layout = [(one, some) for some in groups for _ in range(theirs)]
        layout += [(both, min(packed, count - i)) for i in range(0, count, packed)]
        cts = await receive_encrypted(first, key.public, len(layout), RotatedInformation)
        entries: list[list[int]] = []
        try:
            for (slot, some), plaintext in zip(
                layout, await decrypt(self._workers, key.public.array(cts)), strict=True
            ):
                n = int(key.public.n)
                entries.append([*unpacked(plaintext % n, n, slot, some)])
        except ValueError as error:
            raise first.breach(f"RotatedInformation with {error}") from None
        across = np.zeros((own, theirs), object)
        for place in range(len(groups) * theirs):
            group, column = divmod(place, theirs)
            across[group * slots :, column][: groups[group]] = entries[place]
        flat = [entry for some in entries[len(groups) * theirs :] for entry in some]
        whole = np.zeros((own + theirs, own + theirs), object)
        gram = await asyncio.to_thread(_exact_gram, self._matrix, self._weights)
        whole[:own, :own] = gram * (1 << FINER_BITS)
        whole[:own, :own] += coarse_penalty(self._matrix, penalty, free) * (1 << FINER_BITS)
        whole[:own, own:], whole[own:, :own] = across, across.T
        whole[own:, own:] = symmetric(flat, theirs)
        try:
            return await asyncio.to_thread(inverse, whole, 1200)
        except ValueError as error:
            raise first.breach(f"RotatedInformation that is {error}") from None

    async def give_back(
        self, block: Table, scaled: float, fraction: int, follow: InferenceProgress
    ) -> None:
        """5. The hosts' block through all hosts, and what each opens of it."""
        key = self._workers.key

        def whole() -> list[int]:
            with gmpy2.context(gmpy2.get_context(), precision=1200):
                size = gmpy2.mul_2exp(gmpy2.mpfr(scaled), fraction)
                return [int(gmpy2.rint(entry * size)) for entry in upper(block)]

        numbers = await asyncio.to_thread(whole)
        secret = self._resources.randomness.key_at("shares", "inverse")
        await send_encrypted(self._hosts[0], await self._encrypted(numbers, secret))
        for host in self._hosts[1:]:
            await relay(self._hosts[0], host)
        follow.done("back")
        for number, host in enumerate(self._hosts, 1):
            message = await host.recv(MaskedCovariance)
            try:
                masked = key.public.parse(message.ciphertexts)
                opened = await decrypt(self._workers, masked)
            except ValueError as error:
                raise host.breach(f"MaskedCovariance with {error}") from None
            width, n = key.public.bits // 8, int(key.public.n)
            data = b"".join((value % n).to_bytes(width, "big") for value in opened)
            await host.send(OpenedCovariance(data))
            follow.done("opened", number)


def _encrypt(key: PrivateKey, numbers: Sequence[int], secret: bytes | None) -> Ciphertexts:
    return key.encrypt(numbers, key.obfuscators(len(numbers), Stream(secret)))
