"""Paillier against phe and plain integers; bad keys and ciphertexts; nothing leaks."""

import random
import secrets
from functools import cache

import gmpy2
import numpy as np
import phe
import pytest
from gmpy2 import mpz

from vfl.crypto.paillier import PrivateKey, PublicKey
from vfl.crypto.randomness import Stream
from vfl.learn.params import BoostParams
from vfl.protocols.common.key import generate_key

SIZES = [2048, 3072, 4096]


@cache
def key(bits: int = 2048) -> PrivateKey:
    """A key from a seed, the same in every run."""
    return PrivateKey.generate(bits, random.Random(bits + 2).getrandbits)


def of_phe(k: PrivateKey) -> phe.PaillierPrivateKey:
    """The same key for phe."""
    return phe.PaillierPrivateKey(phe.PaillierPublicKey(int(k.public.n)), int(k._p), int(k._q))


def values(bits: int) -> list[int]:
    """Plaintexts, the largest and the smallest among them; few for the slow sizes."""
    most = int(key(bits).public.n) // 2
    return [0, 1, -1, 2**100, -(2**100), most, -most] if bits == 2048 else [-1, most]


def signed(m: int, n: int) -> int:
    """A plaintext of phe's raw arithmetic as a signed one."""
    return m if m <= n // 2 else m - n


@pytest.mark.parametrize("bits", SIZES)
def test_both_ways_with_phe(bits):
    ours, n = key(bits), int(key(bits).public.n)
    theirs = of_phe(ours)
    for ciphertexts in (ours.encrypt(values(bits)), ours.public.encrypt(values(bits))):
        read = [signed(theirs.raw_decrypt(int(c)), n) for c in ours.public.integers(ciphertexts)]
        assert read == values(bits)
    written = [mpz(theirs.public_key.raw_encrypt(v % n)) for v in values(bits)]
    assert ours.decrypt(ours.public.array(written)) == values(bits)


def test_full_exponents_are_of_the_same_scheme():
    p, q = int(key()._p), int(key()._q)
    full = PrivateKey(p, q, full_exponents=True)
    ciphertexts = full.encrypt(values(2048))
    assert key().decrypt(ciphertexts) == full.decrypt(ciphertexts) == values(2048)
    order = gmpy2.lcm(p - 1, q - 1)
    assert gmpy2.powmod(full.public.integers(full.obfuscators(1))[0], order, full.public.n_squared) == 1


def test_concealing_uses_short_exponents():
    """One long number for the base, once a key; 256 bits a ciphertext."""
    asked: list[int] = []

    def random_bits(count: int) -> int:
        asked.append(count)
        return secrets.randbits(count)

    public = PublicKey(int(key().public.n), random_bits)
    public.conceal(public.unsafe_encrypt([1, 2, 3]), random_bits)
    assert asked == [2048 + 128, 256, 256, 256]
    public.conceal(public.unsafe_encrypt([4]), random_bits)
    assert asked[4:] == [256]


def test_keys_from_their_parts():
    p, q = int(key()._p), int(key()._q)
    again = PrivateKey.from_parts(*PrivateKey(p, q, full_exponents=True).parts())
    assert again._full_exponents and again.decrypt(key().encrypt([-3])) == [-3]
    public = PublicKey.from_parts(*key().public.parts())
    assert public == key().public and hash(public) == hash(key().public)
    assert key().decrypt(public.encrypt([-3])) == [-3]


def test_sums_of_both():
    ours, n = key(), int(key().public.n)
    theirs = of_phe(ours)
    a, b = [5, -7, 2**90, -(2**90)], [10, 3, -(2**91), 2**90]
    of_b = ours.public.array([mpz(theirs.public_key.raw_encrypt(v % n)) for v in b])
    sums = ours.public.add(ours.encrypt(a), of_b)
    expected = [x + y for x, y in zip(a, b, strict=True)]
    assert ours.decrypt(sums) == expected
    assert [signed(theirs.raw_decrypt(int(c)), n) for c in ours.public.integers(sums)] == expected


def test_phe_encrypted_numbers_with_our_ciphertexts():
    theirs = of_phe(key())
    c = int(key().public.integers(key().encrypt([-41]))[0])
    number = phe.EncryptedNumber(theirs.public_key, c)
    assert theirs.decrypt(number + 83) == 42


def test_plaintexts_beyond_half_the_modulus_wrap():
    n, most = int(key().public.n), int(key().public.n) // 2
    assert key().decrypt(key().encrypt([most + 1, -most - 1, n, n + 3])) == [-most, most, 0, 3]


def test_no_ciphertexts_at_all():
    empty = key().encrypt([])
    assert empty.shape == (0, key().public.width)
    assert key().decrypt(empty) == []
    assert key().public.rerandomise(key().public.parse(b"")).shape == empty.shape


@pytest.mark.parametrize("bits", SIZES)
def test_generated_keys(bits):
    k = key(bits)
    p, q = k._p, k._q
    assert k.public.bits == int(k.public.n).bit_length() == bits
    assert k.public.width * 8 == 2 * bits
    assert p * q == k.public.n and p != q
    for prime in (p, q):
        assert prime.is_prime() and prime % 4 == 3 and prime.bit_length() == bits // 2
        assert gmpy2.gcd(prime >> 1, gmpy2.primorial(1 << 16)) == 1
    assert gmpy2.gcd(k.public.n, (p - 1) * (q - 1)) == 1


@cache
def bad_modulus(what: str) -> int:
    """One of about the right size, but for what is wrong with it."""
    n, p = int(key().public.n), int(key()._p)
    short = int(gmpy2.next_prime(7 << 509))
    odd = (n // 65521) | 1
    return {
        "zero": 0,
        "one": 1,
        "negative": -n,
        "even": n - 1,
        "prime": int(gmpy2.next_prime(n)),
        "square": p * p,
        "fourth power": short**4,
        "small factor": odd * 65521,
        "one bit short": n >> 1 | 1,
        "one bit long": n << 1 | 1,
        "too small": short * p >> 512 | 1,
        "too large": n**4,
    }[what]


BAD_SIZES = ["zero", "one", "one bit short", "one bit long", "too small", "too large"]


@pytest.mark.parametrize("what", BAD_SIZES)
def test_keys_of_a_bad_size_are_refused(what):
    with pytest.raises(ValueError, match=r"a modulus of \d+ bits"):
        PublicKey(bad_modulus(what))


@pytest.mark.parametrize("what", ["negative", "even", "prime", "square", "fourth power", "small factor"])
def test_keys_of_other_than_two_large_primes_are_refused(what):
    assert bad_modulus(what).bit_length() == 2048  # it is not refused for its size
    with pytest.raises(ValueError, match="a modulus that is no product of two large primes"):
        PublicKey(bad_modulus(what))


@pytest.mark.parametrize("bits", [0, 1024, 2047, 8192])
def test_other_sizes_are_not_generated(bits):
    with pytest.raises(ValueError, match=f"a modulus of {bits} bits"):
        PrivateKey.generate(bits)


def test_equal_primes_are_refused():
    p = int(key()._p)
    with pytest.raises(ValueError, match="no product of two large primes"):
        PrivateKey(p, p)


def wire(*integers: int) -> bytes:
    return b"".join(int(i).to_bytes(key().public.width, "little") for i in integers)


def test_parse_takes_what_it_should():
    n = key().public.n
    ciphertexts = key().encrypt([1, 2, 3])
    assert np.array_equal(key().public.parse(ciphertexts.tobytes()), ciphertexts)
    assert key().public.integers(key().public.parse(wire(1, n * n - 1))) == [1, n * n - 1]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("zero", "out of range"),
        ("n^2", "out of range"),
        ("largest", "out of range"),
        ("n", "not invertible"),
        ("p", "not invertible"),
        ("q n", "not invertible"),
    ],
)
def test_parse_refuses(bad, why):
    n, p, q = key().public.n, key()._p, key()._q
    good = key().public.integers(key().encrypt([7, 8]))
    integers = {"zero": 0, "n^2": n * n, "largest": 2**4096 - 1, "n": n, "p": p, "q n": q * n}
    for place in range(3):
        among = [*good[:place], integers[bad], *good[place:]]
        with pytest.raises(ValueError, match=why):
            key().public.parse(wire(*among))


@pytest.mark.parametrize("cut", [1, 511, 513])
def test_parse_refuses_what_is_cut_short(cut):
    with pytest.raises(ValueError, match="cut short"):
        key().public.parse(key().encrypt([1, 2]).tobytes()[:-cut])


def test_rerandomise_changes_every_ciphertext_and_no_plaintext():
    plaintexts = [0, 0, 5, -5]
    before = key().public.unsafe_encrypt(plaintexts)
    first, second = key().public.rerandomise(before), key().public.rerandomise(before)
    seen = [c for group in (before, first, second) for c in key().public.integers(group)]
    assert len(set(seen)) == len(seen) - 1  # the two zeros without obfuscators are alike
    assert key().decrypt(first) == key().decrypt(second) == plaintexts


def test_encryptions_of_the_same_differ():
    for encrypt, count in ((key().encrypt, 20), (key().public.encrypt, 5)):
        assert len({c.tobytes() for c in encrypt([3] * count)}) == count


def test_obfuscators_are_residues_of_both_kinds():
    """r^(lambda) = 1 modulo n^2, lambda = lcm(p - 1, q - 1): r hides and carries no plaintext."""
    k = key()
    order = gmpy2.lcm(k._p - 1, k._q - 1)
    for r in k.public.integers(np.concatenate([k.obfuscators(1), k.public.obfuscators(3)])):
        assert r != 1 and gmpy2.powmod(r, order, k.public.n_squared) == 1


def test_others_draw_units_below_the_modulus():
    """Neither 0, nor what is too large, nor what has a factor in common with n."""
    k, n = key(), key().public.n
    drawn = [0, n, n + 5, 2**2048 - 1, k._p, 3 * k._q, 7, n - 1]

    def given(bits):
        assert bits == 2048
        return drawn.pop(0)

    found = PublicKey(int(n)).obfuscators(2, None, given)
    assert k.public.integers(found) == [gmpy2.powmod(u, n, n * n) for u in (7, n - 1)]


def test_a_mark_of_squares_does_not_outlive_rerandomising():
    """A guest could mark a row's ciphertext by an n-th power that is no square modulo p, or q."""
    k = key()
    ready = k.public.obfuscators(16, None, random.Random(1).getrandbits)
    for sign in (1, 2, 3):
        marked = k.public.unsafe_encrypt([5])
        root = next(
            r
            for r in range(2, 1000)
            if (gmpy2.legendre(r, k._p) == -1, gmpy2.legendre(r, k._q) == -1)
            == (bool(sign & 1), bool(sign & 2))
        )
        mark = gmpy2.powmod(root, k.public.n, k.public.n_squared)
        marked = k.public.array([k.public.integers(marked)[0] * mark % k.public.n_squared])
        again = k.public.integers(k.public.rerandomise(np.repeat(marked, 16, axis=0), ready))
        seen = {(gmpy2.legendre(c, k._p), gmpy2.legendre(c, k._q)) for c in again}
        assert len(seen) == 4
    assert set(k.decrypt(k.public.array(again))) == {5}


def test_unsafe_encrypt_has_no_obfuscator():
    n = key().public.n
    assert key().public.integers(key().public.unsafe_encrypt([0, 2, -1])) == [
        1,
        1 + 2 * n,
        1 + (n - 1) * n,
    ]
    assert key().decrypt(key().public.unsafe_encrypt(values(2048))) == values(2048)


def test_sum_cells():
    rng = np.random.default_rng(3)
    rows = rng.integers(-(2**40), 2**40, 30).tolist()
    cells = [rng.integers(0, 6, 30), rng.integers(4, 9, 30)]
    expected = [0] * 10
    for column in cells:
        for row, cell in zip(rows, column.tolist(), strict=True):
            expected[cell] += row
    sums = key().public.sum_cells(key().encrypt(rows), np.arange(30), cells, 10)
    assert key().decrypt(sums) == expected
    assert key().public.integers(sums)[9] == 1  # empty, and in need of an obfuscator


def test_sum_cells_of_nothing():
    no_rows, none = key().encrypt([]), np.array([], np.int64)
    assert key().decrypt(key().public.sum_cells(no_rows, none, [none], 3)) == [0, 0, 0]
    assert key().decrypt(key().public.sum_cells(key().encrypt([4]), np.arange(1), [], 2)) == [0, 0]
    with pytest.raises(ValueError, match="a cell for each row"):
        key().public.sum_cells(key().encrypt([4, 5]), np.arange(2), [np.array([0])], 1)


def test_running():
    rows = [3, -10, 0, 2**60]
    assert key().decrypt(key().public.running(key().encrypt(rows))) == np.cumsum(rows).tolist()
    assert key().public.running(key().encrypt([])).shape == (0, key().public.width)


@pytest.mark.parametrize("count", [0, 1, 4, 5, 9])
def test_pack(count):
    rows = [(-1) ** i * (2**30 + i) for i in range(count)]
    packed = key().public.pack(key().encrypt(rows), 100, 4)
    groups = [rows[i : i + 4] for i in range(0, count, 4)]
    assert key().decrypt(packed) == [sum(v << (100 * i) for i, v in enumerate(g)) for g in groups]


def test_a_vector_on_the_wire_and_back():
    ciphertexts = key().encrypt([1, 2, 3])
    assert ciphertexts.shape == (3, 512) and ciphertexts.dtype == np.uint8
    reversed_ = key().public.integers(ciphertexts[::-1])  # a view that is not contiguous
    assert reversed_ == key().public.integers(ciphertexts)[::-1]
    assert np.array_equal(key().public.array(key().public.integers(ciphertexts)), ciphertexts)


def test_secret_powers_take_a_constant_time(monkeypatch):
    """GMP's other routine skips zeros of the exponent."""
    ciphertexts, proof = key().encrypt([5, -6]), key().proof()

    def refuse(*numbers):
        raise AssertionError("a power whose time depends on the exponent")

    monkeypatch.setattr(gmpy2, "powmod", refuse)
    assert key().decrypt(ciphertexts) == [5, -6]
    assert key().proof() == proof


def test_repr_leaks_nothing():
    k = key()
    k.encrypt([1])
    for shown in (repr(k), str(k), f"{k}", repr([k]), repr(k._at_p)):
        for secret in (k._p, k._q, k._p_inverse, k._at_p._scale):
            assert str(secret) not in shown and f"{secret:x}" not in shown
    assert repr(k) == "PrivateKey(2048 bits)"


def test_keys_compare_by_modulus():
    n = int(key().public.n)
    assert PublicKey(n) == key().public and hash(PublicKey(n)) == hash(key().public)
    assert key().public != key(3072).public and key().public != n


def test_seeded_bits_reproduce_keys_and_ciphertexts():
    again = PrivateKey.generate(2048, random.Random(2050).getrandbits)
    assert again.public == key().public
    of_job = [generate_key(BoostParams(), Stream(secret * 32)).public for secret in (b"1", b"1", b"2")]
    assert of_job[0] == of_job[1] != of_job[2]
    p, q = int(again._p), int(again._q)

    def run(seed: int) -> tuple[bytes, bytes, bytes]:
        drawn = random.Random(seed)
        k = PrivateKey(p, q, drawn.getrandbits)
        before = k.public.unsafe_encrypt([1])
        return (
            k.encrypt([1, 2], k.obfuscators(2, drawn.randbytes)).tobytes(),
            k.public.obfuscators(1, None, drawn.getrandbits).tobytes(),
            k.public.conceal(before, drawn.getrandbits).tobytes(),
        )

    first, second, other = run(1), run(1), run(2)
    assert first == second
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("bits", SIZES)
def test_obfuscators_take_whole_blocks_of_a_stream(bits, full):
    """So any one can be drawn without those before; in another process, too."""
    k = PrivateKey(int(key(bits)._p), int(key(bits)._q), random.Random(3).getrandbits, full)
    assert k.drawn % 16 == 0
    there = PrivateKey.from_parts(*k.parts())
    together = k.obfuscators(3, Stream(bytes(32)))
    assert [there.obfuscators(1, Stream(bytes(32), i * k.drawn)).tobytes() for i in range(3)] == [
        one.tobytes() for one in together
    ]
