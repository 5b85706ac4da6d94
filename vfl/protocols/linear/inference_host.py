"""A host's side of inference.py."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import gmpy2
import numpy as np
from gmpy2 import mpz

from vfl.arrays import Floats, Integers
from vfl.blocks.engine import ENGINE
from vfl.crypto.paillier import Ciphertexts, PublicKey
from vfl.crypto.randomness import Place, Stream
from vfl.crypto.workers import Workers
from vfl.learn.inference import Alias, Inference
from vfl.learn.matrix import Matrix
from vfl.learn.params import GlmParams
from vfl.net.peer import Peer
from vfl.protocols.common.key import receive_key
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.linear.encrypted_product import unpacked
from vfl.protocols.linear.inference_messages import (
    COVARIANCE_BITS,
    FINER_BITS,
    MOST_COLUMNS,
    MOST_FRACTION,
    PART_BITS,
    PARTS,
    AliasFound,
    InferenceEnd,
    InferenceStart,
    MaskedCovariance,
    NoInference,
    OpenedCovariance,
    RotatedInformation,
    WeightPart,
    aliased_places,
    coarse,
    coarse_penalty,
    drowning_bits,
    information_bits,
    keys_of,
    noise,
    receive_encrypted,
    send_encrypted,
    uniform_parts,
    units_of,
)
from vfl.protocols.linear.inference_progress import InferenceProgress
from vfl.protocols.linear.level_pairs import OwnProductsFollow, level_pairs, number_pairs
from vfl.protocols.linear.relayed import RelayedPeer
from vfl.protocols.linear.rotation import (
    congruent,
    secret_basis,
    symmetric,
    times,
    upper,
)
from vfl.protocols.linear.row_products import Factor, RowProducts
from vfl.protocols.linear.shared_products import (
    SharedSums,
    Table,
    share_columns,
    share_vectors,
)
from vfl.protocols.linear.start import HostStart


async def host_inference(
    guest: Peer,
    begun: HostStart,
    params: GlmParams,
    participant: Participant,
    converged: bool,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Inference | None:
    """A host's side, at the optimum: what it is to know of its own coefficients. progress: told how much
    is done, of how much.

    None where the job asks for nothing, or the guest infers nothing. Raises PeerError when the guest
    breaks the protocol.
    """
    if not (params.inference and converged):
        return None
    block, fellows = begun.block, begun.fellows
    start = await guest.recv(InferenceStart, NoInference)
    if isinstance(start, NoInference):
        return None
    if not block.matrix.columns:
        return Inference.of(np.zeros((0, 0)), start.freedom)
    _check_start(guest, start, block.matrix.columns, participant, params.penalty_unit)
    await asyncio.to_thread(participant.count_columns, guest.name, start.columns[0])
    resources = participant.resources.part("inference")
    key = await receive_key(guest, params, resources.randomness.at("base"))
    matrix = block.matrix.under(params.alpha) if params.credibility else block.matrix
    mine = await asyncio.to_thread(coarse, matrix)
    async with Workers(key, resources.machine, resources.operations) as workers:
        follow = InferenceProgress(progress, start.columns, mine.rows)
        host = _Host(guest, participant.name, start, mine, workers, fellows, resources)
        # 2. With the guest; 3. with each other host.
        await host.share_with_guest()
        follow.done("with guest")
        await host.share_with_fellows()
        follow.done("between hosts")
        # 4. In a basis that nobody knows.
        await host.gather()
        follow.done("gathered")
        await host.rotate()
        follow.done("rotated")
        # 5. Its own block.
        covariance = await host.covariance()
        follow.done("opened")
    units = units_of(mine)
    covariance = covariance / np.outer(units, units)
    # 6. Whether others' columns make up some of them.
    root = block.root * math.sqrt(start.unit)
    places = aliased_places(covariance, root, params.alpha)
    await guest.send(AliasFound(bool(places)))
    end = await guest.recv(InferenceEnd)
    if not end.aliased:
        return Inference.of(covariance, start.freedom)
    named = tuple(name or guest.name for name in end.aliased if name != participant.name)
    return Inference(None, start.freedom, (Alias(places, named),) if places else ())


def _check_start(
    guest: Peer, start: InferenceStart, own: int, participant: Participant, unit: float
) -> None:
    """Raises PeerError. `unit`: the job's penalty. By another one a guest would see the basis that hides
    the hosts' columns: T'T beside T'AT."""
    named = dict(zip(start.hosts, start.columns[1:], strict=False))
    if len(start.columns) != len(start.hosts) + 1 or named.get(participant.name) != own:
        raise guest.breach("an InferenceStart of other columns than this host's")
    if len(named) != len(start.hosts) or not set(named) <= {*participant.hosts, participant.name}:
        raise guest.breach("an InferenceStart of other hosts than the job's")
    if min(start.columns) < 0 or sum(start.columns) > MOST_COLUMNS:
        raise guest.breach("an InferenceStart of more columns than there may be")
    if not (start.unit > 0 and math.isfinite(start.unit) and 0 <= start.penalty < 2.0**200):
        raise guest.breach("an InferenceStart without a unit, or with a penalty that is none")
    if start.penalty and not unit:
        raise guest.breach("an InferenceStart with a penalty that the job does not have")
    if not 0 < start.fraction < MOST_FRACTION:
        raise guest.breach("an InferenceStart of covariances that cannot be told")


class _Host:
    def __init__(
        self,
        guest: Peer,
        name: str,
        start: InferenceStart,
        matrix: Matrix,
        workers: Workers[PublicKey],
        fellows: Mapping[str, bytes],
        resources: Resources,
    ) -> None:
        self._guest, self._name, self._start = guest, name, start
        self._matrix, self._workers, self._key = matrix, workers, workers.key
        self._fellows, self._resources = fellows, resources
        self._randomness = drawn = resources.randomness
        self._place = start.hosts.index(name)
        every = 0 if self._place else sum(start.columns[1:])
        self._basis = secret_basis(every, drawn.at("basis of all hosts' columns"))
        self._own_basis = secret_basis(matrix.columns, drawn.at("basis"))  # of a host after the first
        self._blocks: dict[tuple[int, int], Table] = {}  # by parties, the guest's 0; encrypted
        self._across = self._own = np.zeros((0, 0), object)  # of all hosts, at who has them

    def _with(self, place: int, conversation: str) -> RelayedPeer:
        name = self._start.hosts[place]
        return RelayedPeer(self._guest, self._name, name, self._fellows[name], conversation)

    async def share_with_guest(self) -> None:
        """2. The blocks of the guest's columns and this host's, and of this host's own."""
        guest, party = self._guest, self._place + 1
        theirs, resources = (self._start.columns[0],), self._resources.part("with the guest")
        across = await share_columns(guest, self._matrix, resources.part("columns"), theirs)
        self._blocks[0, party] = await self._put_together(guest, across)

        size = self._matrix.columns
        self._blocks[party, party] = own = np.full((size, size), mpz(1), object)
        matrices, numbers = level_pairs(self._matrix), number_pairs(self._matrix)
        await guest.send(OwnProductsFollow(len(matrices), bool(numbers)))
        for number, pairs in enumerate(matrices):
            cells = await asyncio.to_thread(pairs.matrix, self._matrix)
            alone = resources.part("pairs of levels", number)
            sums = await share_columns(guest, cells, alone, (1,))
            (weights,) = await self._put_together(guest, sums)
            for (i, j), found in zip(pairs.columns, weights, strict=True):
                own[i, j] = own[j, i] = found
        if numbers:
            vectors = self._products(numbers)
            (sums,) = await share_vectors([guest], vectors, resources.part("numbers"), [(1,)])
            products = await self._put_together(guest, sums)
            for (i, j), found in zip(numbers, products[:, 0], strict=True):
                own[i, j] = own[j, i] = found

    def _products(self, pairs: Sequence[tuple[int, int]]) -> RowProducts:
        """Of each two columns the products; the second ones are numbers."""
        own, levels = self._matrix, sum(self._matrix.levels)
        numbers = np.asarray(ENGINE.gather(own.numbers))
        factors = [
            Factor.of(row.astype(np.int64), max(bits, 1))
            for row, bits in zip(numbers, own.bits, strict=True)
        ]
        return RowProducts(own, factors, [(i, j - levels) for i, j in pairs])

    async def share_with_fellows(self) -> None:
        """3. The blocks of each two hosts, of which the later one gets the outcome."""
        for first in range(len(self._start.hosts)):
            for second in range(first + 1, len(self._start.hosts)):
                if self._place == first:
                    await self._share_first(second)
                elif self._place == second:
                    await self._share_second(first)

    async def _share_first(self, second: int) -> None:
        message = await self._guest.recv(WeightPart)
        if len(message.data) != 32:
            raise self._guest.breach("a WeightPart that is no seed")
        fellow = self._with(second, f"products {self._place} {second}")
        parts = await asyncio.to_thread(uniform_parts, message.data, self._matrix.rows)
        theirs = (self._start.columns[second + 1],)
        resources = self._resources.part("with a host", second)
        given, key_at = [theirs], partial(resources.randomness.key_at, "shares")
        weighted = self._weighted(parts)
        (vectors,) = await share_vectors([fellow], weighted, resources.part("vectors"), given)
        await self._send_shares(fellow, vectors, key_at("vectors"))
        columns = await share_columns(fellow, self._matrix, resources.part("columns"), theirs)
        await self._send_shares(fellow, columns, key_at("columns"))
        await fellow.close()

    async def _share_second(self, first: int) -> None:
        rows, data = self._matrix.rows, b""
        while len(data) < 4 * PARTS * rows:
            some = (await self._guest.recv(WeightPart)).data
            if not some:
                raise self._guest.breach("a WeightPart without any row")
            data += some
        if len(data) != 4 * PARTS * rows:
            raise self._guest.breach("a WeightPart of another number of rows")
        parts = [part.astype(np.int64) for part in np.frombuffer(data, "<i4").reshape(PARTS, rows)]
        fellow = self._with(first, f"products {first} {self._place}")
        columns = (self._start.columns[first + 1],)
        resources = self._resources.part("with a host", first)
        theirs = await share_columns(fellow, self._matrix, resources.part("columns"), columns)
        one = await self._put_together(fellow, theirs)
        weighted = self._weighted(parts)
        (mine,) = await share_vectors([fellow], weighted, resources.part("vectors"), [columns])
        other = await self._put_together(fellow, mine)
        self._blocks[first + 1, self._place + 1] = one * other.T % self._key.n_squared
        await fellow.close()

    def _weighted(self, parts: Sequence[Integers]) -> RowProducts:
        """This host's columns times its part of the weights."""
        terms = [(column, 0) for column in range(self._matrix.columns)]
        return RowProducts(self._matrix, [Factor(parts, PART_BITS * PARTS)], terms)

    async def _send_shares(self, fellow: Peer, sums: SharedSums, secret: bytes | None) -> None:
        total = await asyncio.to_thread(lambda: sums.total)
        numbers = [*total.ravel().tolist(), *sums.low.ravel().astype(int).tolist()]
        tasks = [([*numbers[i : i + 256]], key) for i, key in keys_of(secret, len(numbers), 256)]
        made = await self._workers.map(_conceal_numbers, tasks)
        await send_encrypted(fellow, np.concatenate([self._key.array([]), *made]))

    async def _put_together(self, other: Peer, sums: SharedSums) -> Table:
        (columns, outputs), shape = sums.columns, sums.shares.shape
        count = columns * outputs
        cts = await receive_encrypted(other, self._key, count + sums.shares.size)
        totals, bits = _shaped(cts[:count], (columns, outputs)), _shaped(cts[count:], shape)
        return await asyncio.to_thread(sums.encrypted_sums, self._key, totals, bits)

    async def gather(self) -> None:
        """4. All blocks at the first host, each with noise, the penalty, and where it is of a later host
        in a basis of that host's own."""
        mine = {pair: self._noisy(pair, own) for pair, own in self._blocks.items()}
        if self._place:
            mine = await self._hidden(mine)
            first = self._with(0, f"gather {self._place}")
            flat = [entry for pair in self._gathered(self._place) for entry in _flat(mine, pair)]
            await send_encrypted(first, await self._concealed(flat, "gathered"))
            await first.close()
            return
        hosts, sizes = len(self._start.hosts), self._start.columns
        for place in range(1, hosts):
            fellow = self._with(place, f"gather {place}")
            shapes = {pair: (sizes[pair[0]], sizes[pair[1]]) for pair in self._gathered(place)}
            counts = [_entries(pair, shape) for pair, shape in shapes.items()]
            cts = await receive_encrypted(fellow, self._key, sum(counts))
            await fellow.close()
            ends = np.cumsum(counts).tolist()
            for (pair, shape), count, end in zip(shapes.items(), counts, ends, strict=True):
                mine[pair] = _shaped(cts[end - count : end], shape, pair)
        parties = range(1, hosts + 1)
        self._across = np.hstack([mine[0, k] for k in parties])
        self._own = np.block(
            [[mine[j, k] if j <= k else mine[k, j].T for k in parties] for j in parties]
        )

    def _gathered(self, place: int) -> list[tuple[int, int]]:
        """The blocks that a later host sends to the first: with the guest, with the first, of its own,
        and those with hosts after it, who have sent them to it."""
        own = place + 1
        return [(0, own), (1, own), *((own, k) for k in range(own, len(self._start.hosts) + 1))]

    async def _hidden(self, blocks: Mapping[tuple[int, int], Table]) -> dict[tuple[int, int], Table]:
        """The blocks that this later host sends to the first, in its own basis and, where they are
        with another later one, in that one's."""
        own, basis, found = self._place + 1, self._own_basis, {}
        for pair, block in blocks.items():
            if pair == (own, own):
                whole = upper(await congruent(self._workers, block, basis))
                drowned = self._drowned(whole, len(basis), 2, self._noise_at(*pair))
                found[pair] = symmetric(drowned, len(basis))
            else:
                found[pair] = await self._changed(block, pair)
        for first in range(1, len(self._start.hosts)):
            for second in range(first + 1, len(self._start.hosts)):
                conversation = f"hide {first} {second}"
                if self._place == second:
                    fellow = self._with(first, conversation)
                    block = found.pop((first + 1, own))
                    hidden = await self._concealed([*block.ravel()], "hidden", first)
                    await send_encrypted(fellow, hidden)
                    await fellow.close()
                elif self._place == first:
                    fellow = self._with(second, conversation)
                    shape = len(basis), self._start.columns[second + 1]
                    cts = await receive_encrypted(fellow, self._key, shape[0] * shape[1])
                    await fellow.close()
                    block = _shaped(cts, shape)
                    pair = own, second + 1
                    found[pair] = (await self._changed(block.T, pair)).T
        return found

    async def _changed(self, block: Table, pair: tuple[int, int]) -> Table:
        """The block of a pair, of which the columns are this host's, in its own basis."""
        changed = await times(self._workers, block, self._own_basis)
        noise, size = self._noise_at(*pair), len(self._own_basis)
        return _shaped(self._drowned([*changed.ravel()], size, 1, noise), changed.shape)

    def _noise_at(self, *place: int | str) -> Stream:
        """The noise on a block in another basis."""
        return self._randomness.at("noise in a basis", *place)

    def _noisy(self, pair: tuple[int, int], block: Table) -> Table:
        """A block in finer units, with noise and, if it is of this host's own columns, the penalty."""
        n, square = self._key.n, self._key.n_squared
        found = np.empty(block.shape, object)
        own = coarse_penalty(self._matrix, self._start.penalty) if pair[0] == pair[1] else None
        stream = self._randomness.at("noise", *pair)
        for (i, j), c in np.ndenumerate(block):
            if own is not None and j < i:
                found[i, j] = found[j, i]
                continue
            added = noise(FINER_BITS - 1, stream)
            if own is not None:
                added += int(own[i, j]) * (1 << FINER_BITS)
            finer = gmpy2.powmod(c, 1 << FINER_BITS, square)
            found[i, j] = finer * (1 + added % n * n) % square
        return found

    async def rotate(self) -> None:
        """4. At the first host: change the basis, and pass on to the guest."""
        if self._place:
            return
        rows, size = self._matrix.rows, len(self._basis)
        hosts = len(self._start.hosts)
        # The guest's rows side by side in a ciphertext: a change of columns is the same for all.
        slot = information_bits(rows, hosts, size, 1)
        slots = (self._key.bits - 2) // slot
        packed = await self._packed_rows(self._across, slot, slots)
        across = await times(self._workers, packed, self._basis)
        counts = [min(slots, len(self._across) - i * slots) for i in range(len(packed))]
        stream = self._noise_at("across")
        sent = [
            self._drowned([*row], size, 1, stream, [slot * i for i in range(count)])
            for row, count in zip(across, counts, strict=True)
        ]
        flat = self._key.array([entry for row in sent for entry in row])
        secret = self._randomness.key_at("rerandomised")
        tasks = [(flat[i : i + 16], key) for i, key in keys_of(secret, len(flat), 16)]
        made = await self._workers.map(_rerandomise, tasks)
        own = await congruent(self._workers, self._own, self._basis)
        slot = information_bits(rows, hosts, size, 2)
        drowned = self._drowned(upper(own), size, 2, self._noise_at("own"))
        made.append(await self._packed(drowned, slot, "rotated"))
        await send_encrypted(self._guest, np.concatenate([flat[:0], *made]), RotatedInformation)

    async def _packed_rows(self, table: Table, slot: int, slots: int) -> Table:
        """So many rows of a table after the other in one."""
        groups = [table[i : i + slots] for i in range(0, len(table), slots)]
        tasks = [(self._key.array([*group.T.ravel()]), slot, len(group)) for group in groups]
        made = await self._workers.map(_pack_rows, tasks)
        found = np.empty((len(groups), table.shape[1]), object)
        for place, ciphertexts in enumerate(made):
            found[place] = self._key.integers(ciphertexts)
        return found

    def _drowned(
        self,
        entries: Sequence[mpz],
        columns: int,
        changes: int,
        stream: Stream,
        places: Sequence[int] = (0,),
    ) -> list[mpz]:
        """With noise, in which no step of the lattice is left that so many changes of basis make, of so
        many columns. places: the bits at which numbers begin in an entry."""
        n, square = self._key.n, self._key.n_squared
        bits = drowning_bits(columns, changes)

        def added() -> int:
            return sum(noise(bits, stream) << place for place in places)

        return [c * (1 + added() % n * n) % square for c in entries]

    async def covariance(self) -> Floats:
        """5. This host's block of the inverse, shape (columns, columns), in units of its own."""
        sizes = self._start.columns[1:]
        if self._place:
            first = self._with(0, f"own {self._place}")
            columns = self._matrix.columns
            cts = await receive_encrypted(first, self._key, columns * (columns + 1) // 2)
            await first.close()
            flat = upper(await congruent(self._workers, symmetric(cts, columns), self._own_basis.T))
            return await self._opened(flat)
        size = len(self._basis)
        cts = await receive_encrypted(self._guest, self._key, size * (size + 1) // 2)
        whole = await congruent(self._workers, symmetric(cts, size), self._basis.T, sizes)
        ends = np.cumsum(sizes).tolist()
        for place in range(1, len(sizes)):
            part = slice(ends[place - 1], ends[place])
            fellow = self._with(place, f"own {place}")
            own = await self._concealed(upper(whole[part, part]), "own", place)
            await send_encrypted(fellow, own)
            await fellow.close()
        return await self._opened(upper(whole[: ends[0], : ends[0]]))

    async def _opened(self, flat: Sequence[mpz]) -> Floats:
        """What the guest decrypts of these under masks."""
        n, square = self._key.n, self._key.n_squared
        slot = self._start.fraction + COVARIANCE_BITS
        slots = max(1, (self._key.bits - 2) // slot)
        packed = self._key.integers(await self._packed(flat, slot, "covariance"))
        stream = self._randomness.at("masks of the covariance")
        masks = [stream.below(int(n)) for _ in packed]
        masked = [c * (1 + mask * n) % square for c, mask in zip(packed, masks, strict=True)]
        await self._guest.send(MaskedCovariance(self._key.array(masked).tobytes()))
        opened = (await self._guest.recv(OpenedCovariance)).plaintexts
        width = self._key.bits // 8
        if len(opened) != width * len(masks):
            raise self._guest.breach("OpenedCovariance of another number than asked for")
        numbers: list[int] = []
        try:
            for place, mask in enumerate(masks):
                value = int.from_bytes(opened[place * width : (place + 1) * width], "big")
                count = min(slots, len(flat) - len(numbers))
                numbers += unpacked((value - mask) % int(n), int(n), slot, count)
        except ValueError as error:
            raise self._guest.breach(f"OpenedCovariance with {error}") from None
        fraction = self._start.fraction
        entries = [float(gmpy2.mpq(number, 1 << fraction)) for number in numbers]
        return symmetric(entries, self._matrix.columns).astype(np.float64)

    async def _concealed(self, entries: Sequence[mpz], *place: Place) -> Ciphertexts:
        """For another host."""
        secret = self._randomness.key_at("concealed", *place)
        whole = self._key.array([*entries])
        tasks = [(whole[i : i + 256], key) for i, key in keys_of(secret, len(whole), 256)]
        return np.concatenate([whole[:0], *await self._workers.map(_conceal, tasks)])

    async def _packed(self, entries: Sequence[mpz], slot: int, what: str) -> Ciphertexts:
        """For the guest, who cannot tell where they come from."""
        secret = self._randomness.key_at("packed", what)
        slots = max(1, (self._key.bits - 2) // slot)
        whole = self._key.array([*entries])
        size = slots * 16
        keys = keys_of(secret, len(whole), size)
        tasks = [(whole[i : i + size], slot, slots, key) for i, key in keys]
        return np.concatenate([whole[:0], *await self._workers.map(_pack, tasks)])


def _shaped(entries: Sequence[mpz], shape: tuple[int, ...], pair: tuple[int, int] = (0, 1)) -> Table:
    """Ciphertexts as a table; of a party with itself from its upper triangle."""
    if pair[0] == pair[1]:
        return symmetric(entries, shape[0])
    return np.array([*entries, None], object)[:-1].reshape(shape)


def _entries(pair: tuple[int, int], shape: tuple[int, int]) -> int:
    """How many entries of a block are sent."""
    return shape[0] * (shape[0] + 1) // 2 if pair[0] == pair[1] else shape[0] * shape[1]


def _flat(blocks: Mapping[tuple[int, int], Table], pair: tuple[int, int]) -> list[mpz]:
    """The entries of a block that are sent."""
    return upper(blocks[pair]) if pair[0] == pair[1] else [*blocks[pair].ravel()]


def _conceal(key: PublicKey, ciphertexts: Ciphertexts, secret: bytes | None) -> Ciphertexts:
    return key.conceal(ciphertexts, Stream(secret).bits)


def _conceal_numbers(key: PublicKey, numbers: Sequence[int], secret: bytes | None) -> Ciphertexts:
    return key.conceal(key.unsafe_encrypt(numbers), Stream(secret).bits)


def _rerandomise(key: PublicKey, ciphertexts: Ciphertexts, secret: bytes | None) -> Ciphertexts:
    obfuscators = key.obfuscators(len(ciphertexts), random_bits=Stream(secret).bits)
    return key.rerandomise(ciphertexts, obfuscators)


def _pack_rows(key: PublicKey, ciphertexts: Ciphertexts, slot: int, slots: int) -> Ciphertexts:
    return key.pack(ciphertexts, slot, slots)


def _pack(
    key: PublicKey, ciphertexts: Ciphertexts, slot: int, slots: int, secret: bytes | None
) -> Ciphertexts:
    return _rerandomise(key, key.pack(ciphertexts, slot, slots), secret)
