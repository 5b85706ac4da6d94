"""Okamoto-Uchiyama against the paper's formulas and plain integers; bad keys; SecureBoost under it."""

import asyncio
import random
from functools import cache

import gmpy2
import numpy as np
import pytest
import test_boost
from gmpy2 import mpz
from hypothesis import given, settings
from hypothesis import strategies as st
from test_boost import make_job

from vfl.crypto import paillier
from vfl.crypto.okamoto_uchiyama import PrivateKey, PublicKey
from vfl.crypto.packing import SumPacking
from vfl.crypto.schemes import PRIVATE_KEYS, PUBLIC_KEYS
from vfl.errors import PeerError
from vfl.learn.params import BoostParams
from vfl.net.peer import MemoryPeer
from vfl.protocols.common.bits import pack_bits, unpack_bits
from vfl.protocols.common.key import Key, generate_key
from vfl.protocols.common.participant import Participant
from vfl.protocols.trees.paillier import CandidateSums, Gradients, TreeStart
from vfl.protocols.trees.training import guest_train, host_train

SIZES = [2048, 3072, 4096]


@cache
def key(bits: int = 2048) -> PrivateKey:
    """A key from a seed, the same in every run."""
    return PrivateKey.generate(bits, random.Random(bits + 5).getrandbits)


def values(bits: int = 2048) -> list[int]:
    """Plaintexts, the largest and the smallest among them; few for the slow sizes."""
    most = int(key(bits)._p) // 2
    return [0, 1, -1, 2**100, -(2**100), most, -most] if bits == 2048 else [-1, most, -most]


class Textbook:
    """The scheme as in the paper, section 3.1, with integers and pow."""

    def __init__(self, k: PrivateKey) -> None:
        self.p, self.q, self.g = int(k._p), int(k._q), int(k.public.generator)
        self.n = self.p**2 * self.q
        self.h = pow(self.g, self.n, self.n)

    def encrypt(self, m: int) -> int:
        r = random.Random(m).randrange(self.n)
        return pow(self.g, m % self.p, self.n) * pow(self.h, r, self.n) % self.n

    def log(self, x: int) -> int:
        power = pow(x, self.p - 1, self.p**2)
        assert power % self.p == 1
        return (power - 1) // self.p

    def decrypt(self, c: int) -> int:
        m = self.log(c) * pow(self.log(self.g), -1, self.p) % self.p
        return m if m <= self.p // 2 else m - self.p


@pytest.mark.parametrize("bits", SIZES)
def test_both_ways_with_the_textbook(bits):
    ours, theirs = key(bits), Textbook(key(bits))
    for ciphertexts in (ours.encrypt(values(bits)), ours.public.encrypt(values(bits))):
        assert [theirs.decrypt(int(c)) for c in ours.public.integers(ciphertexts)] == values(bits)
        assert ours.decrypt(ciphertexts) == values(bits)
    written = ours.public.array([mpz(theirs.encrypt(m)) for m in values(bits)])
    assert ours.decrypt(written) == values(bits)


@pytest.mark.parametrize("full_exponents", [False, True])
def test_the_owner_encrypts_under_the_public_generator(full_exponents):
    """A ciphertext over g^m is a square of an n-th power: nothing but an obfuscator."""
    k = PrivateKey(
        int(key()._p), int(key()._q), int(key().public.generator), full_exponents=full_exponents
    )
    n, p, q = k.public.n, k._p, k._q
    order = gmpy2.lcm((p - 1) // 2, (q - 1) // 2)
    for m, c in zip(values(), k.public.integers(k.encrypt(values())), strict=True):
        r = c * gmpy2.powmod(k.public.generator, -m, n) % n
        assert r != 1 and gmpy2.powmod(r, order, n) == 1


def test_obfuscators_carry_no_plaintext():
    k = key()
    order = gmpy2.lcm((k._p - 1) // 2, (k._q - 1) // 2)
    for draw in (k._obfuscator, k.public._obfuscator):
        r = draw()
        assert r != 1 and gmpy2.powmod(r, order, k.public.n) == 1


def test_jacobi_symbols_do_not_tell_odd_from_even():
    for ciphertexts in (key().encrypt(range(20)), key().public.encrypt(range(20))):
        assert {gmpy2.jacobi(c, key().public.n) for c in key().public.integers(ciphertexts)} == {1}


def test_a_host_needs_the_modulus_alone():
    host = PublicKey(int(key().public.n))
    fresh = host.rerandomise(host.add(key().encrypt([4, -9]), key().encrypt([-5, -9])))
    assert key().decrypt(fresh) == [-1, -18]
    with pytest.raises(ValueError, match="without its generator cannot encrypt"):
        host.encrypt([1])


@settings(max_examples=25)
@given(data=st.data())
def test_sums_are_those_of_integers(data):
    k, most = key(), int(key()._p) // 2
    integers = st.one_of(st.sampled_from([0, 1, -1, most, -most]), st.integers(-most, most))
    rows = data.draw(st.lists(integers, min_size=1, max_size=8))

    def centred(m: int) -> int:
        return (m + most) % int(k._p) - most

    encrypted = k.encrypt(rows)
    running = [centred(sum(rows[: i + 1])) for i in range(len(rows))]
    assert k.decrypt(k.public.running(encrypted)) == running
    assert k.decrypt(k.public.add(encrypted, encrypted)) == [centred(2 * m) for m in rows]
    cells = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows))))
    by_cell = [centred(sum(m for m, c in zip(rows, cells, strict=True) if c == i)) for i in range(4)]
    assert k.decrypt(k.public.sum_cells(encrypted, np.arange(len(cells)), [cells], 4)) == by_cell
    split = data.draw(st.integers(1, len(rows)))
    ends = np.unique([split, len(rows)])
    runs = [centred(sum(rows[a:b])) for a, b in zip([0, *ends], ends, strict=False)]
    assert k.decrypt(k.public.sum_runs(encrypted, ends)) == runs


def test_plaintexts_beyond_half_of_p_wrap():
    p, most = int(key()._p), int(key()._p) // 2
    assert key().decrypt(key().encrypt([most + 1, -most - 1, p, p + 3])) == [-most, most, 0, 3]


def test_no_ciphertexts_at_all():
    empty = key().encrypt([])
    assert empty.shape == (0, key().public.width)
    assert key().decrypt(key().public.rerandomise(key().public.parse(b""))) == []


@pytest.mark.parametrize("bits", SIZES)
def test_generated_keys(bits):
    k = key(bits)
    p, q, n = k._p, k._q, k.public.n
    assert k.public.bits == int(n).bit_length() == bits == k.public.width * 8
    assert p * p * q == n and p != q
    assert p.bit_length() == PublicKey.plaintext_bits(bits)
    assert abs(p.bit_length() - bits / 3) < 1 and abs(q.bit_length() - bits / 3) < 1
    for prime in (p, q):
        assert prime.is_prime() and prime % 4 == 3
        assert gmpy2.gcd(prime >> 1, gmpy2.primorial(1 << 16)) == 1
    assert gmpy2.gcd(n, (p - 1) * (q - 1)) == 1
    assert gmpy2.powmod(k.public.generator, p - 1, p * p) != 1


@cache
def bad_modulus(what: str) -> int:
    """One of about the right size, but for what is wrong with it."""
    n = int(key().public.n)
    return {
        "even": n - 1,
        "negative": -n,
        "prime": int(gmpy2.next_prime(n)),
        "cube": int(gmpy2.next_prime(gmpy2.iroot(mpz(3) << 2046, 3)[0])) ** 3,
        "small factor": ((n // 65521) | 1) * 65521,
        "one bit short": n >> 1 | 1,
        "one bit long": n << 1 | 1,
    }[what]


@pytest.mark.parametrize("what", ["one bit short", "one bit long"])
def test_keys_of_a_bad_size_are_refused(what):
    with pytest.raises(ValueError, match=r"a modulus of \d+ bits"):
        PublicKey(bad_modulus(what))


@pytest.mark.parametrize("what", ["even", "negative", "prime", "cube", "small factor"])
def test_keys_of_other_than_large_primes_are_refused(what):
    assert bad_modulus(what).bit_length() == 2048  # it is not refused for its size
    with pytest.raises(ValueError, match="no product of two large primes, one of them squared"):
        PublicKey(bad_modulus(what))


def test_a_generator_without_plaintexts_is_refused():
    p, q, n = int(key()._p), int(key()._q), int(key().public.n)
    for generator in (1, pow(5, n, n), p, q):
        with pytest.raises(ValueError, match="a generator without a part of order p"):
            PrivateKey(p, q, generator)


@pytest.mark.parametrize("bits", [1024, 2047])
def test_other_sizes_are_not_generated(bits):
    with pytest.raises(ValueError, match=f"a modulus of {bits} bits"):
        PrivateKey.generate(bits)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("zero", "out of range"),
        ("n", "out of range"),
        ("largest", "out of range"),
        ("p", "not invertible"),
        ("q", "not invertible"),
        ("p q", "not invertible"),
    ],
)
def test_parse_refuses(bad, why):
    n, p, q = key().public.n, key()._p, key()._q
    integers = {"zero": 0, "n": n, "largest": 2**2048 - 1, "p": p, "q": q, "p q": p * q}
    good = key().encrypt([7, 8]).tobytes()
    with pytest.raises(ValueError, match=why):
        key().public.parse(good + int(integers[bad]).to_bytes(256, "little"))
    with pytest.raises(ValueError, match="cut short"):
        key().public.parse(good[:-1])
    assert key().decrypt(key().public.parse(good)) == [7, 8]


def test_rerandomise_changes_every_ciphertext_and_no_plaintext():
    plaintexts = [0, 0, 5, -5]
    before = key().public.unsafe_encrypt(plaintexts)
    first, second = key().public.rerandomise(before), key().public.rerandomise(before)
    seen = [c for group in (before, first, second) for c in key().public.integers(group)]
    assert len(set(seen)) == len(seen) - 1  # the two zeros without obfuscators are alike
    assert key().decrypt(first) == key().decrypt(second) == plaintexts
    assert len({c.tobytes() for c in key().encrypt([3] * 20)}) == 20


@pytest.mark.parametrize("bits", SIZES)
@pytest.mark.parametrize("rows", [100, 678_013, 2**44 - 1])
def test_packed_sums_at_their_bounds(bits, rows):
    k, layout = key(bits), SumPacking.for_rows(rows, PublicKey.plaintext_bits(bits))
    most, count = rows << layout.row_bits, layout.slots + 1
    # Every packed plaintext fits, whatever the primes of the size.
    assert 1 << (layout.slots * layout.slot_bits) < k._p // 2
    for gradient, hessian in ((most, most), (-most, 0), (-most, most)):
        sums = k.encrypt([(gradient << layout.sum_bits) + hessian] * count)
        packed = k.public.pack(sums, layout.slot_bits, layout.slots)
        g, h = layout.unpack(k.decrypt(packed), count)
        assert set(g.tolist()) == {gradient} and set(h.tolist()) == {hessian}


def test_a_slot_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="sums over 1,000 rows take 70 bits, a plaintext has 69"):
        SumPacking.for_rows(1000, 71)


def test_repr_leaks_nothing():
    k = key()
    k.encrypt([1])
    for shown in (repr(k), f"{k}", repr(k.__dict__["_halves"]), repr(k.public)):
        for secret in (k._p, k._q, k._unit):
            assert str(secret) not in shown and f"{secret:x}" not in shown


def test_seeded_bits_reproduce_ciphertexts():
    p, q, g, _ = key().parts()

    def run(seed: int) -> bytes:
        k = PrivateKey(p, q, g, random.Random(seed).getrandbits)
        return k.encrypt([1, 2]).tobytes() + k.public.encrypt([1]).tobytes()

    assert run(1) == run(1) != run(2)


@pytest.mark.parametrize("scheme", PRIVATE_KEYS)
def test_keys_from_their_parts(scheme):
    params = BoostParams(encryption=scheme, obfuscators="full")
    made = generate_key(params)
    again = type(made).from_parts(*made.parts())
    assert type(made) is PRIVATE_KEYS[scheme] and again._full_exponents
    assert again.decrypt(made.encrypt([-3])) == [-3]
    public = type(made.public).from_parts(*made.public.parts())
    assert type(public) is PUBLIC_KEYS[scheme] and public == made.public
    assert made.decrypt(public.encrypt([-3])) == [-3]


def test_keys_of_two_schemes_differ():
    n = int(key().public.n)
    assert PublicKey(n) == key().public and hash(PublicKey(n)) == hash(key().public)
    assert PublicKey(n) != paillier.PublicKey(n)


# SecureBoost.


@pytest.mark.parametrize(("hosts", "rows", "workers"), [(2, 150, 1), (1, 3000, 2)])
def test_federated_equals_pooled_bit_for_bit(monkeypatch, hosts, rows, workers):
    monkeypatch.setattr(test_boost, "KEY", key())
    params = BoostParams(trees=2, depth=3, max_bins=8, min_child_rows=5, encryption="ou")
    test_boost.assert_same_model(make_job(rows, hosts, seed=hosts, params=params), workers)


def test_the_model_is_that_of_paillier():
    of = {
        scheme: make_job(200, 1, 3, BoostParams(trees=2, depth=2, encryption=scheme)).oracle()[0]
        for scheme in PRIVATE_KEYS
    }
    assert of["ou"] == of["paillier"]


def test_the_guest_refuses_a_key_of_another_scheme():
    job = make_job(50, 1, 1, BoostParams(trees=1, depth=1))
    with pytest.raises(ValueError, match="a key of another scheme than encryption = 'paillier'"):
        asyncio.run(guest_train([], job.blocks, job.rows, job.params, key=key()))


def host_that_gets(message: Key) -> str:
    """What a host says of a key, in a job with "ou"."""
    job = make_job(50, 1, 1, BoostParams(trees=1, depth=1, encryption="ou"))

    async def run() -> None:
        guest, host = MemoryPeer.pair("guest", "host")
        await guest.send(message)
        await host_train(host, job.blocks["party1"], job.params, Participant("host"), shown=str)

    with pytest.raises(PeerError) as caught:
        asyncio.run(run())
    return str(caught.value)


def test_a_host_checks_the_key():
    def sent(n: int) -> bytes:
        return n.to_bytes(-(-n.bit_length() // 8), "big")

    n = int(key().public.n)
    assert "a Key of another scheme than the job's, ou" in host_that_gets(Key("paillier", sent(n)))
    assert "a modulus of 2047 bits" in host_that_gets(Key("ou", sent(bad_modulus("one bit short"))))
    assert "one of them squared" in host_that_gets(Key("ou", sent(bad_modulus("even"))))
    larger = Key("ou", sent(int(key(3072).public.n)))
    assert "a Key of 3072 bits where the job says 2048" in host_that_gets(larger)


@pytest.mark.parametrize("scheme", PRIVATE_KEYS)
@pytest.mark.parametrize("wrong", ["bounds", "count", "node"])
def test_what_a_host_is_told_of_sums_refused(scheme, wrong):
    """Under "ou" each check would tell a bit about p: the host learns that one failed, not which."""
    job = make_job(100, 1, 1, BoostParams(trees=1, depth=1, encryption=scheme))
    private = key() if scheme == "ou" else test_boost.KEY

    async def guest_and_host() -> None:
        to_host, to_guest = MemoryPeer.pair("party0", "party1")

        async def hostile() -> None:
            n = int.from_bytes((await to_guest.recv(Key)).modulus, "big")
            start = await to_guest.recv(TreeStart)
            public = PUBLIC_KEYS[scheme](n)
            rows = public.parse((await to_guest.recv(Gradients)).ciphertexts)
            assert len(rows) == unpack_bits(start.active, 100).sum()
            beyond = public.pack(rows[[0, 1]], 200, 2)  # in the slots of no sum
            sums = b"" if wrong == "count" else beyond.tobytes()
            one = pack_bits(np.array([True]))
            node = 1 if wrong == "node" else 0
            none = pack_bits(np.array([False]))
            await to_guest.send(CandidateSums(node, 1, one, none, sums, 0.0, b""))

        other = asyncio.create_task(hostile())
        blocks = {"party0": job.blocks["party0"]}
        await asyncio.gather(other, guest_train([to_host], blocks, job.rows, job.params, key=private))

    with pytest.raises(PeerError) as caught:
        asyncio.run(guest_and_host())
    why = {"bounds": "out of bounds", "count": "a wrong number", "node": "of another node"}[wrong]
    assert "CandidateSums" in str(caught.value) and why in str(caught.value)
    if scheme == "ou":
        assert caught.value.for_peer == "a peer broke the protocol: CandidateSums that cannot be"
    else:
        assert why in caught.value.for_peer
