"""The guest's vectors under fresh secrets: c = a s + e + 2^scale v, a word a row, modulo 2^64 or, of
pairs of numbers, 2^82.

Regev encryption over rings with public randomness a (Lyubashevsky, Peikert, Regev, EUROCRYPT 2010),
kept once for all vectors as SimplePIR keeps its matrix (Henzinger et al., USENIX Security 2023). Rows
are cut into blocks of 4096, a polynomial each; the secret s of a vector serves all its blocks.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vfl.arrays import Bytes, Floats, Integers, Words
from vfl.blocks.cores import Begun
from vfl.blocks.engine import ENGINE, Array, Rows, Shared, overlaps
from vfl.crypto.lattice import ring, words
from vfl.crypto.lattice.parameters import DEGREE, HALF_WORD, MODULUS_BITS, SINGLE, Limbs, Parameters
from vfl.crypto.lattice.randomness import KEY, WordStream, derive, room_for, ternary
from vfl.crypto.lattice.randomness import words as random_words
from vfl.crypto.randomness import Entropy

if TYPE_CHECKING:
    from vfl.crypto.lattice import lanes


class PublicRows:
    """The public polynomials of a job's rows, expanded from the joint seed, in transform domain.

    Guest and host have the same; threads may share one. Those that were wanted once are kept, 16 bytes a
    row; where an object is sent to, they are made anew.
    """

    def __init__(self, seed: bytes, rows: int, limbs: Limbs = SINGLE.vectors) -> None:
        """`seed`: 32 bytes to which every party contributed. `limbs`: modulo what, and for which
        products. Raises ValueError for another length."""
        if rows < 1:
            raise ValueError(f"{rows} rows have no polynomials")
        derive(seed, "rows")
        self.seed = seed
        self.rows = rows
        self.limbs = limbs
        self.blocks = -(-rows // DEGREE)
        # Of memory: what is made.
        self._kept = np.empty((self.blocks, limbs.number, ring.HALF), np.complex128)
        self._made = np.zeros(self.blocks, np.bool_)
        self._shared: Shared[PublicRows] | None = None

    def of(self, numbers: range) -> ring.Complexes:
        """These polynomials, shape (numbers, limbs, HALF), which are not kept."""
        first, count = numbers.start, len(numbers)
        if self._made[first : first + count].all():
            return np.asarray(self._kept[first : first + count])
        if self.limbs.bits > MODULUS_BITS:
            drawn = random_words(self.seed, "rows of pairs", 2 * count * DEGREE, 2 * first * DEGREE)
            return ring.wide_words(drawn.reshape(-1, DEGREE, 2), self.limbs)
        drawn = random_words(self.seed, "rows", count * DEGREE, first * DEGREE)
        return ring.words64(drawn.reshape(-1, DEGREE))

    def flat(self, numbers: range) -> Floats:
        """These polynomials, flat and as real parts beside imaginary ones, which are kept."""
        for number in numbers:
            if not self._made[number]:
                self._kept[number] = self.of(range(number, number + 1))[0]
                self._made[number] = True  # last: another thread may look
        return self._kept[numbers.start : numbers.stop].view(np.float64).reshape(-1)

    @property
    def shared(self) -> Shared["PublicRows"]:
        """These polynomials where kernels run."""
        if self._shared is None:
            self._shared = ENGINE.share(self)
        return self._shared

    def __reduce__(self) -> tuple[type["PublicRows"], tuple[bytes, int, Limbs]]:
        return PublicRows, (self.seed, self.rows, self.limbs)

    def within(self, start: int, rows: int) -> range:
        """The blocks of `rows` rows from `start` on. Raises ValueError unless they are whole blocks."""
        stop = start + rows
        cut = start % DEGREE or (stop % DEGREE and stop != self.rows)
        if cut or rows < 1 or not 0 <= start < stop <= self.rows:
            raise ValueError(
                f"a piece of rows {start:,} to {stop:,} of {self.rows:,} is not cut at multiples "
                f"of {DEGREE}"
            )
        return range(start // DEGREE, -(-stop // DEGREE))


@dataclass(frozen=True)
class Secrets:
    """Fresh ternary secrets, (count, DEGREE): each for one vector only, at all hosts."""

    values: NDArray[np.int8] = field(repr=False)

    @classmethod
    def draw(cls, count: int, entropy: Entropy) -> "Secrets":
        """`count` new secrets. `entropy(n)` returns n random bytes."""
        return cls(ternary(entropy(KEY), "secrets", count * DEGREE).reshape(count, DEGREE))

    def __len__(self) -> int:
        return len(self.values)


Part = bytes | Words
"""Encrypted rows: of whole polynomials, or words (rows, count) of some of one; of pairs their halves,
(rows, 2 count)."""
Values = NDArray[np.int16] | Integers
"""Entries of vectors, (count, rows): best of 16 bits, where `Parameters.value_bits` are no more. Of
pairs g S + h, of 64 bits, with `Parameters.base` for S."""


@dataclass(frozen=True)
class _Key:
    """What vectors are encrypted under. Secret."""

    parameters: Parameters
    secrets: ring.Complexes = field(repr=False)  # transforms
    errors: bytes = field(repr=False)  # key of their stream
    _lanes: dict[int, Floats] = field(default_factory=dict, repr=False)

    def lanes(self, together: int) -> Floats:
        """The secrets as lanes.encrypt takes them, for so many polynomials at once."""
        if together not in self._lanes:
            self._lanes[together] = _in_lanes(self.secrets, together)
        return self._lanes[together]


def _in_lanes(secrets: ring.Complexes, together: int) -> Floats:
    """Buffers (groups, ROWS * ROW) of transforms (count, HALF), each once for every polynomial."""
    from vfl.crypto.lattice import lanes  # which imports numba

    count = len(secrets)
    groups = -(-count * together // lanes.LANES)
    out = lanes.aligned(groups * lanes.ROWS * lanes.ROW)
    out = out.reshape(groups, -1, lanes.RUN + 1, 2, lanes.LANES)
    for lane in range(count * together):
        row = secrets[lane % count].reshape(-1, lanes.RUN)
        at = out[lane // lanes.LANES, :, : lanes.RUN, :, lane % lanes.LANES]
        at[..., 0], at[..., 1] = row.real, row.imag
    return out.reshape(groups, -1)


class VectorEncryption:
    """Encrypts one vector under each secret, piece by piece of rows; the same bytes serve every host."""

    def __init__(
        self,
        parameters: Parameters,
        public: PublicRows,
        drawn: Secrets,
        entropy: Entropy,
    ) -> None:
        """Raises ValueError for public polynomials of another modulus than the parameters'."""
        if public.limbs != parameters.modulus.vectors:
            raise ValueError("public polynomials of another modulus than vectors have")
        self._public = public
        self._key = _Key(parameters, ring.small(drawn.values), entropy(KEY))
        self._shared: Shared[_Key] | None = None
        self._done = np.zeros(public.blocks, np.bool_)
        self._lock = threading.Lock()

    def rows(self, start: int, values: Values) -> bytes:
        """Rows from `start` on of all vectors, encrypted: values are (count, rows of the piece).

        A piece starts at a multiple of DEGREE and ends at one, or at the last row. One core, without the
        interpreter's lock but for moments: threads may encrypt several pieces at once, of 16,384 to
        131,072 rows best. Raises ValueError for a piece cut elsewhere, for rows that were encrypted
        before (a second ciphertext under the same error would give away their difference) and for
        values larger than `Parameters.largest`.
        """
        blocks = self._public.within(start, values.shape[1])
        made = joined(self._key.parameters, _encrypted(self._key, self._public, start, values))
        self._take(blocks)  # before they leave; what was refused may be tried again
        return made

    def begin(
        self, start: int, stop: int, values: Callable[..., Values], *arrays: Rows
    ) -> list[Begun[list[Part]]]:
        """Begin with such a piece where the engine of blocks has the rows, for `joined`.

        `values(*blocks)` are the vectors' entries in the rows of these blocks.
        """
        self._take(self._public.within(start, stop - start))
        self._shared = self._shared or ENGINE.share(self._key)
        key, public = self._shared.argument, self._public.shared.argument
        begun = []
        cuts = ENGINE.cuts(self._public.rows)
        for place, low, high in overlaps(cuts, start, stop):
            rows = slice(low - cuts[place].start, high - cuts[place].start)
            kernel = partial(_encrypt, key, public, values, low, rows)
            begun.append(ENGINE.begin(kernel, place, *arrays))
        return begun

    def _take(self, blocks: range) -> None:
        with self._lock:
            if self._done[blocks.start : blocks.stop].any():
                raise ValueError("rows were encrypted before under the same secrets")
            self._done[blocks.start : blocks.stop] = True


def joined(parameters: Parameters, parts: Iterable[Part]) -> bytes:
    """The bytes of a piece, of its parts in order: where a polynomial is cut its words are packed."""
    out: list[bytes] = []
    cut: list[Words] = []
    for part in parts:
        if isinstance(part, bytes):
            out += [*_packed(parameters, cut), part]
            cut = []
        else:
            cut.append(part)
            if sum(map(len, cut)) == DEGREE:
                out += _packed(parameters, cut)
                cut = []
    return b"".join([*out, *_packed(parameters, cut)])


def _packed(parameters: Parameters, cut: list[Words]) -> list[bytes]:
    return [_in_bytes(parameters, np.concatenate(cut))] if cut else []


def _in_bytes(parameters: Parameters, made: Words) -> bytes:
    return words.pack_halves(made) if parameters.pairs else words.pack(made, parameters.word_bits)


def _encrypt(
    key: _Key,
    public: PublicRows,
    values: Callable[..., Values],
    start: int,
    rows: slice,
    *blocks: Array,
) -> list[Part]:
    """Encrypt these rows of a block, the first of which is row `start` of all."""
    return list(_encrypted(key, public, start, values(*(block[..., rows] for block in blocks))))


def _encrypted(key: _Key, public: PublicRows, start: int, given: Values) -> Iterator[Part]:
    """The rows from `start` on, in bytes where all rows of a polynomial are there.

    Raises ValueError for values that do not fit the key.
    """
    if len(given) != len(key.secrets):
        raise ValueError(f"{len(given)} vectors under {len(key.secrets)} secrets")
    values = _fitting(key, given)
    stop = start + values.shape[1]
    first, last = -(-start // DEGREE), stop // DEGREE
    if start < first * DEGREE:
        yield _part(key, public, start, min(first * DEGREE, stop), values)
    if first < last:
        p, numbers = key.parameters, range(first, last)
        bits = HALF_WORD if p.pairs else p.word_bits
        yield _run(key, public, numbers, values, first * DEGREE - start, bits)
    if first <= last and last * DEGREE < stop:
        yield _part(key, public, last * DEGREE, stop, values[:, last * DEGREE - start :])


def _fitting(key: _Key, values: Values) -> Values:
    """The same in as many bits as the kernel is compiled for: one of two, by the key's parameters."""
    short = key.parameters.value_bits <= 16 and not key.parameters.pairs
    if values.dtype != (np.int16 if short else np.int64):
        _check(key, max(int(values.max()), -int(values.min())))
    return np.ascontiguousarray(values, np.int16) if short else np.ascontiguousarray(values, np.int64)


def _check(key: _Key, greatest: int) -> None:
    """Raises ValueError where a value of this size does not fit the key."""
    if greatest > key.parameters.largest:
        raise ValueError(f"a value does not fit in {key.parameters.value_bits} bits")


def _part(key: _Key, public: PublicRows, start: int, stop: int, values: Values) -> Part:
    """Some rows of a polynomial, which begin with that of the first value."""
    number, low = start // DEGREE, start % DEGREE
    own = np.zeros((len(values), DEGREE), values.dtype)
    own[:, low : low + stop - start] = values[:, : stop - start]
    data = _run(key, public, range(number, number + 1), own, 0, MODULUS_BITS)
    made = np.frombuffer(data, np.uint64).reshape(DEGREE, -1)[low : low + stop - start]
    ended = not low and stop == public.rows
    return _in_bytes(key.parameters, made) if ended else made


class _Own(threading.local):
    """What a thread works in: memory that is new costs as much as what is done in it."""

    room: "lanes.Room | None" = None
    drawn: Bytes = np.empty(0, np.uint8)

    def drawn_room(self, count: int) -> Bytes:
        """Room for so many words of a stream."""
        needed = room_for(count)
        if len(self.drawn) < len(needed):
            self.drawn = needed
        return self.drawn


_OWN = _Own()


def _run(key: _Key, public: PublicRows, numbers: range, values: Values, start: int, bits: int) -> bytes:
    """Whole polynomials in bytes, with words (of pairs their halves) of so many bits, of values from
    column `start` on."""
    from vfl.crypto.lattice import lanes, pairs  # which import numba

    count, p = len(values), key.parameters
    size = DEGREE * (2 * count if p.pairs else count) * bits // 8
    encrypt, flat = pairs.encrypt if p.pairs else lanes.encrypt, values.reshape(-1)
    room = _OWN.room = _OWN.room or lanes.Room.new()
    room.seen[:] = 0
    made = BytesIO(bytes(len(numbers) * size))
    out = np.frombuffer(made.getbuffer(), np.uint8)
    # An even number of words a polynomial: streams are read from even words on.
    stream = WordStream(key.errors, "errors", numbers.start * count * DEGREE)
    for own, together in _steps(numbers, count, (1, 2, 4) if p.pairs else (2, 4)):
        done = own.start - numbers.start
        encrypt(
            public.flat(own),
            key.lanes(together),
            stream.read(len(own) * count * DEGREE, _OWN.drawn_room(len(own) * count * DEGREE)),
            flat,
            start + done * DEGREE,
            lanes.Form(count, values.shape[1], p.scale_bits, bits, together),
            out[done * size : (done + len(own)) * size],
            room,
        )
    ring.check(room.distance)
    _check(key, room.greatest)
    del out  # so that the bytes are handed out as they are, not copied
    return made.getvalue()


def _steps(numbers: range, count: int, filled: tuple[int, ...]) -> Iterator[tuple[range, int]]:
    """Polynomials whose errors are drawn at once, and how many of them are encrypted together: of so
    many (`filled`) vectors those that fill the lanes."""
    from vfl.crypto.lattice import lanes

    together = lanes.LANES // count if count in filled else 1
    whole = len(numbers) // together * together
    step = max(together, lanes.LANES // count)
    for first in range(0, whole, step):
        yield numbers[first : min(first + step, whole)], together
    for last in range(whole, len(numbers)):
        yield numbers[last : last + 1], 1
