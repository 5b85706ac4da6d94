"""Oblivious transfers: base transfers, the code, the extension and its check, the function of ids."""

import hashlib

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from . import okvs, ristretto
from .data import Stream, data, keyed_hash, sha256

LENGTH, DIMENSION, MASKING = 468, 76, 256


# --- base transfers: Masny, Rindal, CCS 2019 ---------------------------------------------------------


def base_hash(context: bytes, number: int, label: int, other: bytes) -> ristretto.Point:
    """H(label, R): of transfer `number`."""
    named = number.to_bytes(4, "big") + bytes([label]) + other
    return ristretto.hashed(b"vfl base transfer" + context, named)


def base_key(context: bytes, number: int, label: int, sent: bytes, shared: bytes) -> bytes:
    """KDF: of the sender's element and the one that both have."""
    digest = hashlib.blake2b(digest_size=16, person=b"vfl base key")
    digest.update(len(context).to_bytes(8, "big") + context)
    digest.update(number.to_bytes(4, "big") + bytes([label]) + sent + shared)
    return digest.digest()


class Sender:
    def __init__(self, count: int, context: bytes, entropy: Stream) -> None:
        self.context = context
        self.scalars = [ristretto.scalar_of(entropy(64)) for _ in range(count)]
        self.points = [ristretto.encode(ristretto.base_times(b)) for b in self.scalars]

    def keys(self, choices: list[list[bytes]], label: int) -> list[bytes]:
        """The keys of each transfer with a label, 0 or 1."""
        found = []
        for i, (b, sent, pair) in enumerate(zip(self.scalars, self.points, choices, strict=True)):
            own, other = pair[label], pair[1 - label]
            total = ristretto.add(ristretto.decode(own), base_hash(self.context, i, label, other))
            shared = ristretto.encode(ristretto.times(total, b))
            found.append(base_key(self.context, i, label, sent, shared))
        return found


class Receiver:
    def __init__(self, chosen: list[int], context: bytes, entropy: Stream) -> None:
        self.chosen, self.context = chosen, context
        self.scalars = [ristretto.scalar_of(entropy(64)) for _ in chosen]
        uniform = entropy(64 * len(chosen))
        self.points = []
        for i, (c, a) in enumerate(zip(chosen, self.scalars, strict=True)):
            other = ristretto.encode(ristretto.from_uniform(uniform[64 * i : 64 * i + 64]))
            own = ristretto.add(
                ristretto.base_times(a), ristretto.minus(base_hash(context, i, c, other))
            )
            pair = [ristretto.encode(own), other]
            self.points.append(pair if c == 0 else pair[::-1])

    def keys(self, points: list[bytes]) -> list[bytes]:
        """The chosen key of each transfer."""
        return [
            base_key(
                self.context, i, c, sent, ristretto.encode(ristretto.times(ristretto.decode(sent), a))
            )
            for i, (c, a, sent) in enumerate(zip(self.chosen, self.scalars, points, strict=True))
        ]


def _base(given: dict) -> dict:
    context, chosen = data(given["context"]), given["chosen"]
    sender = Sender(len(chosen), context, Stream(given["sender"]))
    receiver = Receiver(chosen, context, Stream(given["receiver"]))
    return {
        "sent": [point.hex() for point in sender.points],
        "choices": [[point.hex() for point in pair] for pair in receiver.points],
        "keys": [[key.hex() for key in sender.keys(receiver.points, label)] for label in (0, 1)],
        "chosen keys": [key.hex() for key in receiver.keys(sender.points)],
    }


# --- the code: BCH [511, 76], 43 places left out -----------------------------------------------------


def _field_times(a: int, b: int) -> int:
    """In GF(512), modulo x^9 + x^4 + 1."""
    product = 0
    for bit in range(9):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(17, 8, -1):
        if product >> bit & 1:
            product ^= 0b1000010001 << bit - 9
    return product


def minimal_polynomial(element: int) -> int:
    """The polynomial over GF(2) of least degree that is 0 at an element, a bit a coefficient: the first
    power that is a sum of lower ones."""
    basis: list[tuple[int, int]] = []  # a value, and the powers that it is the sum of
    power, degree = 1, 0
    while True:
        value, made_of = power, 1 << degree
        for known, of in basis:
            if value ^ known < value:
                value, made_of = value ^ known, made_of ^ of
        if value == 0:
            return made_of
        basis = sorted([*basis, (value, made_of)], reverse=True)
        power, degree = _field_times(power, element), degree + 1


def _polynomial_times(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a, b = a << 1, b >> 1
    return product


def generator() -> int:
    """The least common multiple of the minimal polynomials of a, a^2, ..., a^170."""
    found: list[int] = []
    power = 1
    for _ in range(170):
        power = _field_times(power, 2)
        minimal = minimal_polynomial(power)
        if minimal not in found:
            found.append(minimal)
    product = 1
    for minimal in found:
        product = _polynomial_times(product, minimal)
    return product


_generator = generator()


def word(message: int) -> int:
    """The word of a message: bit j of it stands for x^j, and places from 468 on are left out."""
    return _polynomial_times(_generator, message % 2**DIMENSION) % 2**LENGTH


def _code(given: dict) -> dict:
    messages = [int.from_bytes(data(text), "little") for text in given["messages"]]
    return {
        "generator": f"{_generator:x}",
        "words": [word(message).to_bytes(64, "little").hex() for message in messages],
    }


# --- the extension: Orru, Orsini, Scholl, CT-RSA 2017 ------------------------------------------------
# A column is an integer whose bit i is row i.


def column_bytes(rows: int) -> int:
    """Rows and 256 of random messages, in whole blocks of 128."""
    return -(-(rows + MASKING) // 128) * 16


class Column:
    """AES-128 in counter mode from 0 on, which stretches a key."""

    def __init__(self, key: bytes) -> None:
        self._stream = Cipher(algorithms.AES128(key), modes.CTR(bytes(16))).encryptor()

    def next(self, size: int) -> int:
        return int.from_bytes(self._stream.update(bytes(size)), "little")


def transposed(rows: list[int], width: int) -> list[int]:
    """Columns of rows, and the other way round."""
    columns = [0] * width
    for i, value in enumerate(rows):
        for j in range(width):
            columns[j] |= (value >> j & 1) << i
    return columns


def challenge(transcript: bytes, sent: list[int], size: int) -> tuple[bytes, bytes, bytes]:
    """The transcript with U, and the two keys of the check."""
    columns = b"".join(column.to_bytes(size, "little") for column in sent)
    transcript = hashlib.sha256(transcript + size.to_bytes(8, "big") + columns).digest()
    keys = hashlib.sha256(b"vfl check of an extension" + transcript).digest()
    return transcript, keys[:16], keys[16:]


def ghash(key: bytes, text: bytes) -> bytes:
    """X_1 h^(m + 1) + ... + X_m h^2 over the blocks X_i of a text, in the field of NIST SP 800-38D.

    That is GHASH of the text as additional data, without what the lengths add.
    """
    h = Cipher(algorithms.AES128(key), modes.ECB()).encryptor().update(bytes(16))  # noqa: S305
    hash_key, total = int.from_bytes(h, "big"), 0
    for i in range(0, len(text), 16):
        total = _ghash_times(total ^ int.from_bytes(text[i : i + 16], "big"), hash_key)
    return _ghash_times(total, hash_key).to_bytes(16, "big")


def _ghash_times(x: int, y: int) -> int:
    """SP 800-38D, section 6.3, algorithm 1: the leftmost bit is the constant coefficient."""
    z, v = 0, y
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            z ^= v
        v = v >> 1 ^ 0xE1 << 120 if v & 1 else v >> 1
    return z


def sums(columns: list[int], size: int, keys: tuple[bytes, bytes]) -> bytes:
    """L of each column."""
    texts = [column.to_bytes(size, "little") for column in columns]
    return b"".join(ghash(keys[0], text) + ghash(keys[1], text) for text in texts)


class Chooser:
    def __init__(self, keys: list[list[bytes]], transcript: bytes, entropy: Stream) -> None:
        self.columns = [[Column(key) for key in pair] for pair in keys]
        self.transcript, self.entropy = transcript, entropy

    def extend(self, messages: list[bytes]) -> tuple[list[int], bytes, bytes]:
        """(R, U, sums): the rows of T_0 that belong to the messages."""
        size = column_bytes(len(messages))
        masking = 8 * size - len(messages)
        drawn = self.entropy(16 * masking)
        full = [drawn[i : i + 16] for i in range(0, len(drawn), 16)] + messages
        rows = [int.from_bytes(one, "little") % 2**DIMENSION for one in full]
        first = [pair[0].next(size) for pair in self.columns]
        second = [pair[1].next(size) for pair in self.columns]
        words = transposed([word(row) for row in rows], LENGTH)
        sent = [a ^ b ^ c for a, b, c in zip(first, second, words, strict=True)]
        self.transcript, *keys = challenge(self.transcript, sent, size)
        checked = first + transposed(rows, DIMENSION)
        return (
            transposed(first, 8 * size)[masking:],
            b"".join(column.to_bytes(size, "little") for column in sent),
            sums(checked, size, (keys[0], keys[1])),
        )


def keeper_rows(chosen: list[int], keys: list[bytes], rows: int, sent: bytes) -> list[int]:
    """Q of the first messages, from U."""
    size = column_bytes(rows)
    columns = []
    for i, (bit, key) in enumerate(zip(chosen, keys, strict=True)):
        own = Column(key).next(size)
        column = int.from_bytes(sent[i * size : i * size + size], "little")
        columns.append(own ^ column if bit else own)
    return transposed(columns, 8 * size)[8 * size - rows :]


def row_bytes(rows: list[int]) -> bytes:
    """Rows of 64 bytes, the lowest bit of the first byte first."""
    return b"".join(row.to_bytes(64, "little") for row in rows)


def given_keys(label: str) -> list[list[bytes]]:
    """Both keys of 468 base transfers, from one text."""
    drawn = data(f"shake256 {LENGTH * 32} {label}")
    return [[drawn[i : i + 16], drawn[i + 16 : i + 32]] for i in range(0, len(drawn), 32)]


def bits_of(drawn: bytes) -> list[int]:
    """468 bits, the highest of the first byte first."""
    return [drawn[i // 8] >> 7 - i % 8 & 1 for i in range(LENGTH)]


def _extension(given: dict) -> dict:
    keys, secret = given_keys(given["keys"]), bits_of(data(given["secret"]))
    messages = [data(message) for message in given["messages"]]
    chooser = Chooser(keys, data(given["transcript"]), Stream(given["entropy"]))
    own, sent, checked = chooser.extend(messages)
    kept = keeper_rows(
        secret, [pair[c] for pair, c in zip(keys, secret, strict=True)], len(messages), sent
    )
    s = sum(bit << i for i, bit in enumerate(secret))
    for r, q, message in zip(own, kept, messages, strict=True):
        assert q == r ^ s & word(int.from_bytes(message, "little"))
    again, sent_again, checked_again = chooser.extend(messages[:1])
    return {
        "rows of the chooser": [row_bytes([row]).hex() for row in own],
        "rows of the keeper": [row_bytes([row]).hex() for row in kept],
        "columns": {"first": sent[: column_bytes(len(messages))].hex(), "sha256": sha256(sent)},
        "sums": {"first": checked[:32].hex(), "last": checked[-32:].hex(), "sha256": sha256(checked)},
        "next part": {
            "rows of the chooser": [row_bytes([row]).hex() for row in again],
            "columns": {"sha256": sha256(sent_again)},
            "sums": {"sha256": sha256(checked_again)},
        },
    }


# --- the function by transfers: Pinkas, Rosulek, Trieu, Yanai, EUROCRYPT 2020 -------------------------


def _function(given: dict) -> dict:
    """What both sides send in the base transfers, and F of ids that both have.

    F at these does not depend on how the guest solves its store: its rows R are the columns of its keys.
    """
    context, host = data(given["context"]), given["host"]
    bound = keyed_hash(b"vfl ot transfers", context, host.encode())
    ids = [value.encode() for value in given["ids"]]
    drawn = Stream(given["guest entropy"])
    drawn(16 * okvs.slots(len(ids)))  # the free slots of the store come first
    sender = Sender(LENGTH, bound, drawn)
    drawn = Stream(given["host entropy"])
    receiver = Receiver(bits_of(drawn(-(-LENGTH // 8))), bound, drawn)
    sent = b"".join(sender.points)
    choices = b"".join(point for pair in receiver.points for point in pair)
    first = sender.keys(receiver.points, 0)
    slots = okvs.slots(len(ids))
    size = column_bytes(slots)
    columns = [Column(key).next(size) for key in first]
    rows = transposed(columns, 8 * size)[8 * size - slots :]
    table = [row.to_bytes(64, "little") for row in rows]
    run_key, seed = (keyed_hash(domain, context) for domain in (b"vfl ot run", b"vfl ot store"))
    output_key = keyed_hash(b"vfl ot function", context, host.encode())
    outputs = []
    for value in ids:
        hashed = hashlib.blake2b(value, digest_size=32, key=run_key, person=b"vfl ot id").digest()
        found = okvs.decode(table, hashed[:16], len(ids), seed)
        digest = hashlib.blake2b(hashed + found, digest_size=32, key=output_key, person=b"vfl ot output")
        outputs.append(digest.hexdigest())
    return {
        "TransferKeys": {"first": sender.points[0].hex(), "sha256": sha256(sent)},
        "TransferChoices": {
            "first": [point.hex() for point in receiver.points[0]],
            "sha256": sha256(choices),
        },
        "outputs": outputs,
    }


CASES = [
    (
        "base transfers",
        {
            "context": b"a context".hex(),
            "chosen": [0, 1, 1, 0],
            "sender": "entropy of the sender",
            "receiver": "entropy of the receiver",
        },
    ),
    (
        "code",
        {
            "messages": [
                "01" + "00" * 15,
                "00" * 9 + "08" + "00" * 6,
                "ff" * 16,
                "00" * 9 + "f0" + "ff" * 6,
                "shake256 16 a message",
            ]
        },
    ),
    (
        "extension",
        {
            "keys": "keys of 468 base transfers",
            "secret": "shake256 59 secret of the keeper",
            "transcript": "shake256 32 what both have seen",
            "messages": [f"shake256 16 message {i}" for i in range(3)],
            "entropy": "random messages",
        },
    ),
    (
        "function",
        {
            "context": "shake256 32 an alignment",
            "host": "registry",
            "ids": ["AB-123", "CD-456", ""],
            "guest entropy": "entropy of the guest",
            "host entropy": "entropy of the host",
        },
    ),
]
ANSWERS = {"base transfers": _base, "code": _code, "extension": _extension, "function": _function}
