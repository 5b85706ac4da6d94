"""The verifiable oblivious pseudorandom function of RFC 9497: VOPRF(ristretto255, SHA-512).

Who has the secret key k gives others F(x) = Hash(x, k H(x)) at inputs x that stay hidden: they send
H(x) times a fresh random scalar each, get the product with k back and divide their scalar out. One
proof for all of them (DLEQ, batched: section 2.2) shows that k is that of the public key.

Elements are rows of 32 bytes, proofs 64 bytes, as the RFC serialises them. H is `hash_to_ristretto255`
of RFC 9380 (appendix B) with expand_message_xmd and SHA-512. All arithmetic on elements is `group`'s,
constant time, many rows at once; what is done with scalars alone is Python's and is not.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vfl.arrays import Bytes
from vfl.crypto import group
from vfl.crypto.randomness import Entropy

OUTPUT = 64  # bytes of F(x)
PROOF = 64
MOST = 65_535  # elements of a proof, which numbers them in two bytes

_CONTEXT = b"OPRFV1-\x01-ristretto255-SHA512"  # section 3.1, the mode VOPRF
_GROUP, _SCALARS, _SEED, _KEYS = (
    name + _CONTEXT for name in (b"HashToGroup-", b"HashToScalar-", b"Seed-", b"DeriveKeyPair")
)
_FIRST = hashlib.sha512(bytes(128))  # a block of zeros, with which all that is expanded begins
_MIDDLE = group.UNIFORM.to_bytes(2, "big") + b"\0"
_FEW = 4  # elements that are summed side by side, a lane of the group's kernels each

_Terms = Sequence[tuple[bytes, bytes]]  # elements, and the scalars with which they are summed


class InvalidProof(ValueError):
    """A proof that does not show what it ought to."""


@dataclass(frozen=True)
class Blinded:
    """Blinded elements (n, 32), which tell nothing of the inputs, and the scalars that did it."""

    points: Bytes
    scalars: Bytes = field(repr=False)


def derive_key(seed: bytes, info: bytes) -> bytes:
    """The secret key of a seed of 32 bytes and of what it is for (section 3.2.1)."""
    if len(seed) != 32:
        raise ValueError("a seed must be 32 bytes")
    stem = seed + _sized(info)
    for counter in range(256):
        if any(scalar := _hash_to_scalar(stem + bytes([counter]), _KEYS)):
            return scalar
    raise ValueError("no key comes of this seed")


def public_key(secret: bytes) -> bytes:
    """The public key of a secret one. Raises ValueError for what is no scalar."""
    return group.multiply_base(secret)


def blind(inputs: Sequence[bytes], entropy: Entropy = secrets.token_bytes) -> Blinded:
    """Hide inputs, each behind a scalar of its own. Raises ValueError for one over 65,535 bytes."""
    scalars = _rows([group.random_scalar(entropy) for _ in inputs], group.SCALAR)
    return Blinded(group.multiply_each(_hash_to_group(inputs), scalars), scalars)


def evaluate(
    secret: bytes, public: bytes, blinded: Bytes, entropy: Entropy = secrets.token_bytes
) -> tuple[Bytes, bytes]:
    """Elements to evaluate, times the secret key, and the proof that they are.

    Raises InvalidPoint for a row that is no element, ValueError for none or more than MOST.
    """
    _check_count(blinded)
    evaluated = group.multiply(blinded, secret)
    (element,), weight = _composites([blinded], _weights(public, blinded, evaluated))
    draw = group.random_scalar(entropy)
    k, r = _number(secret), _number(draw)
    composite, product, *commitments = group.weighted_sums(
        [
            [(element, _scalar(weight))],
            [(element, _scalar(weight * k))],
            [(group.GENERATOR, draw)],
            [(element, _scalar(weight * r))],
        ]
    )
    challenge = _challenge(public, composite, product, *commitments)
    return evaluated, challenge + _scalar(r - _number(challenge) * k)


def finalize(
    inputs: Sequence[bytes],
    blinded: Blinded,
    evaluated: Bytes,
    public: bytes,
    proof: bytes,
) -> Bytes:
    """F of the inputs, shape (n, 64), from what came back for them.

    Raises InvalidProof unless the proof shows that `evaluated` are the blinded elements times the key of
    `public`, InvalidPoint for a row that is no element, ValueError for none or more than MOST.
    """
    _check_count(blinded.points)
    if evaluated.shape != blinded.points.shape:
        raise ValueError("as many elements are due as were blinded")
    inverses = _inverses(blinded.scalars)
    if len(inputs) <= _FEW:
        # What is due if the proof holds is made beside what shows whether it does.
        due = [
            [(element, scalar)]
            for element, scalar in zip(_split(evaluated), _split(inverses), strict=True)
        ]
        points = _rows(_check_proof(public, blinded.points, evaluated, proof, due), group.POINT)
    else:
        _check_proof(public, blinded.points, evaluated, proof)
        points = group.multiply_each(evaluated, inverses)
    return _finalized(inputs, points)


def outputs(secret: bytes, inputs: Sequence[bytes]) -> Bytes:
    """F of inputs by who has the key, shape (n, 64)."""
    return _finalized(inputs, group.multiply(_hash_to_group(inputs), secret))


# --- Proofs: RFC 9497, section 2.2.


def _check_proof(
    public: bytes, blinded: Bytes, evaluated: Bytes, proof: bytes, beside: Sequence[_Terms] = ()
) -> list[bytes]:
    """The sums `beside` those of the check, if the proof holds. Raises as `finalize`."""
    challenge, response = proof[: group.SCALAR], proof[group.SCALAR :]
    if len(proof) != PROOF or any(_number(scalar) >= group.ORDER for scalar in (challenge, response)):
        raise InvalidProof("a proof of another size, or of numbers beyond the group's order")
    if not any(challenge) or not any(response):  # one in 2^252 is like that
        raise InvalidProof("a proof of zeros")
    weights = _weights(public, blinded, evaluated)
    (source, result), weight = _composites([blinded, evaluated], weights)
    if len(weights) > 1 and not (any(source) and any(result)):
        raise InvalidProof("elements whose sum is the identity")
    composite, product, first, second, *others = group.weighted_sums(
        [
            [(source, _scalar(weight))],
            [(result, _scalar(weight))],
            [(group.GENERATOR, response), (public, challenge)],
            [
                (source, _scalar(weight * _number(response))),
                (result, _scalar(weight * _number(challenge))),
            ],
            *beside,
        ]
    )
    if _challenge(public, composite, product, first, second) != challenge:
        raise InvalidProof("a proof for another key or for other elements")
    return others


def _weights(public: bytes, blinded: Bytes, evaluated: Bytes) -> list[bytes]:
    """The random weights with which elements and their products are added up."""
    seed = hashlib.sha512(_sized(public) + _sized(_SEED)).digest()
    tail = b"Composite" + _MIDDLE + _dst(_SCALARS)
    begun = _FIRST.copy()
    begun.update(_sized(seed))
    size, last = group.POINT.to_bytes(2, "big"), b"\x01" + _dst(_SCALARS)
    weights = []
    for number, (one, other) in enumerate(zip(_split(blinded), _split(evaluated), strict=True)):
        state = begun.copy()
        state.update(number.to_bytes(2, "big") + size + one + size + other + tail)
        weight = int.from_bytes(hashlib.sha512(state.digest() + last).digest(), "little")
        weights.append((weight % group.ORDER).to_bytes(group.SCALAR, "little"))
    return weights


def _composites(several: Sequence[Bytes], weights: Sequence[bytes]) -> tuple[list[bytes], int]:
    """Of each of `several` the sum of its elements with their weights: an element, and the weight that
    all of these still have."""
    if len(weights) == 1:
        return [points.tobytes() for points in several], _number(weights[0])
    if len(weights) <= _FEW:
        sums = [list(zip(_split(points), weights, strict=True)) for points in several]
        return group.weighted_sums(sums), 1
    factors = _rows(weights, group.SCALAR)
    return [group.weighted_sum(points, factors) for points in several], 1


def _challenge(public: bytes, *elements: bytes) -> bytes:
    transcript = b"".join(_sized(element) for element in (public, *elements)) + b"Challenge"
    return _hash_to_scalar(transcript, _SCALARS)


# --- Hashes: RFC 9380, section 5.3.1 and appendix B; RFC 9497, sections 3.3 and 4.1.


def _hash_to_group(inputs: Sequence[bytes]) -> Bytes:
    return group.from_uniform(_rows(_expand_all(inputs, _GROUP), group.UNIFORM))


def _hash_to_scalar(message: bytes, domain: bytes) -> bytes:
    (uniform,) = _expand_all([message], domain)
    return _scalar(int.from_bytes(uniform, "little"))


def _expand_all(messages: Sequence[bytes], domain: bytes) -> list[bytes]:
    """expand_message_xmd with SHA-512 to 64 bytes of each message: one block of output."""
    tail = _dst(domain)
    middle = _MIDDLE + tail
    found = []
    for message in messages:
        state = _FIRST.copy()
        state.update(message + middle)
        found.append(hashlib.sha512(state.digest() + b"\x01" + tail).digest())
    return found


def _dst(domain: bytes) -> bytes:
    return domain + bytes([len(domain)])


def _finalized(inputs: Sequence[bytes], points: Bytes) -> Bytes:
    encoded, size, sha512 = points.tobytes(), group.POINT.to_bytes(2, "big"), hashlib.sha512
    return _rows(
        [
            sha512(_sized(value) + size + encoded[at : at + group.POINT] + b"Finalize").digest()
            for value, at in zip(inputs, range(0, len(encoded), group.POINT), strict=True)
        ],
        OUTPUT,
    )


# --- Scalars and rows.


def _inverses(scalars: Bytes) -> Bytes:
    """1 / scalar of each row, by one division and three products a row (Montgomery, Mathematics of
    Computation 48, 1987)."""
    numbers = [_number(row) for row in _split(scalars)]
    before, product = [], 1
    for number in numbers:
        before.append(product)
        product = product * number % group.ORDER
    inverse = pow(product, -1, group.ORDER)
    found = []
    for number, earlier in zip(reversed(numbers), reversed(before), strict=True):
        found.append(_scalar(inverse * earlier))
        inverse = inverse * number % group.ORDER
    return _rows(found[::-1], group.SCALAR)


def _number(scalar: bytes) -> int:
    return int.from_bytes(scalar, "little")


def _scalar(number: int) -> bytes:
    return (number % group.ORDER).to_bytes(group.SCALAR, "little")


def _sized(part: bytes) -> bytes:
    if len(part) > MOST:
        raise ValueError("an input of more than 65,535 bytes")
    return len(part).to_bytes(2, "big") + part


def _split(rows: Bytes) -> list[bytes]:
    content, width = rows.tobytes(), rows.shape[1]
    return [content[at : at + width] for at in range(0, len(content), width)]


def _rows(parts: Sequence[bytes], width: int) -> Bytes:
    return np.frombuffer(b"".join(parts), np.uint8).reshape(len(parts), width)


def _check_count(points: Bytes) -> None:
    if not 0 < len(points) <= MOST:
        raise ValueError(f"a proof is about 1 to {MOST:,} elements")
