"""The group: the vectors of RFC 9496, its algebra, and the refusal of everything that is no element."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.crypto import group, ristretto

# RFC 9496, A.1: the multiples 1 to 8 of the generator.
MULTIPLES = """\
e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76
6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b919
94741f5d5d52755ece4f23f044ee27d5d1ea1e2bd196b462166b16152a9d0259
da80862773358b466ffadfe0b3293ab3d9fd53c5ea6c955358f568322daf6a57
e882b131016b52c1d3337080187cf768423efccbb517bb495ab812c4160ff44e
f64746d3c92b13050ed8d80236a7f0007c3b3f962f5ba793d19a601ebb1df403
44f53520926ec81fbd5a387845beb7df85a96a24ece18738bdcfa6a7822a176d
903293d8f2287ebe10e2374dc1a53e0bc887e592699f02d077d5263cdd55601c
""".splitlines()

# RFC 9496, A.2: encodings to refuse. Four are not canonical, eight are negative, eight give an x^2
# that is no square, eight a negative x y, the last gives y = 0.
INVALID = """\
00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
f3ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
0100000000000000000000000000000000000000000000000000000000000000
01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
ed57ffd8c914fb201471d1c3d245ce3c746fcbe63a3679d51b6a516ebebe0e20
c34c4e1826e5d403b78e246e88aa051c36ccf0aafebffe137d148a2bf9104562
c940e5a4404157cfb1628b108db051a8d439e1a421394ec4ebccb9ec92a8ac78
47cfc5497c53dc8e61c91d17fd626ffb1c49e2bca94eed052281b510b1117a24
f1c6165d33367351b0da8f6e4511010c68174a03b6581212c71c0e1d026c3c72
87260f7a2f12495118360f02c26a470f450dadf34a413d21042b43b9d93e1309
26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371
4eac077a713c57b4f4397629a4145982c661f48044dd3f96427d40b147d9742f
de6a7b00deadc788eb6b6c8d20c0ae96c2f2019078fa604fee5b87d6e989ad7b
bcab477be20861e01e4a0e295284146a510150d9817763caf1a6f4b422d67042
2a292df7e32cababbd9de088d1d1abec9fc0440f637ed2fba145094dc14bea08
f4a9e534fc0d216c44b218fa0c42d99635a0127ee2e53c712f70609649fdff22
8268436f8c4126196cf64b3c7ddbda90746a378625f9813dd9b8457077256731
2810e5cbc2cc4d4eece54f61c6f69758e289aa7ab440b3cbeaa21995c2f4232b
3eb858e78f5a7254d8c9731174a94f76755fd3941c0ac93735c07ba14579630e
a45fdc55c76448c049a1ab33f17023edfb2be3581e9c7aade8a6125215e04220
d483fe813c6ba647ebbfd3ec41adca1c6130c2beeee9d9bf065c8d151c5f396e
8a2e1d30050198c65a54483123960ccc38aef6848e1ec8f5f780e8523769ba32
32888462f8b486c68ad7dd9610be5192bbeaf3b443951ac1a8118419d9fa097b
227142501b9d4355ccba290404bde41575b037693cef1f438c47f8fbf35d1165
5c37cc491da847cfeb9281d407efc41e15144c876e0170b499a96a22ed31e01e
445425117cb8c90edcbc7c1cc0e74f747f2c1efa5630a967c64f287792a48a4b
ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
""".splitlines()
assert len(INVALID) == 29
IDENTITY = "00" * 32

# RFC 9496, A.3: these texts, hashed by SHA-512, give these elements.
HASHED = {
    b"Ristretto is traditionally a short shot of espresso coffee": (
        "3066f82a1a747d45120d1740f14358531a8f04bbffe6a819f86dfe50f44a0a46"
    ),
    b"made with the normal amount of ground coffee but extracted with": (
        "f26e5b6f7d362d2d2a94c5d0e7602cb4773c95a2e5c31a64f133189fa76ed61b"
    ),
    b"about half the amount of water in the same amount of time": (
        "006ccd2a9e6867e6a2c5cea83d3302cc9de128dd2a9a57dd8ee7b9d7ffe02826"
    ),
    b"by using a finer grind.": ("f8f0c87cf237953c5890aec3998169005dae3eca1fbb04548c635953c817f92a"),
    b"This produces a concentrated shot of coffee per volume.": (
        "ae81e7dedf20a497e10c304a765c1767a42d6e06029758d2d7e8ef7cc4c41179"
    ),
    b"Just pulling a normal shot short will produce a weaker shot": (
        "e2705652ff9f5e44d3e841bf1c251cf7dddb77d140870d1ab2ed64f1a9ce8628"
    ),
    b"and is not a Ristretto as some believe.": (
        "80bd07262511cdde4863f8a7434cef696750681cb9510eea557088f76d9e5065"
    ),
}

# RFC 9496, A.3: inputs outside the field's canonical range, all of one element.
SAME_INPUTS = """\
edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff1200000000000000000000000000000000000000000000000000000000000000
edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
0000000000000000000000000000000000000000000000000000000000000080ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f
00000000000000000000000000000000000000000000000000000000000000001200000000000000000000000000000000000000000000000000000000000080
""".splitlines()
SAME_OUTPUT = "304282791023b73128d277bdcb5c7746ef2eac08dde9f2983379cb8e5ef0517f"


@pytest.fixture(autouse=True, params=["libsodium", "kernels"])
def arithmetic(request, monkeypatch):
    """Every test by libsodium and by the kernels, however few its rows."""
    kernels = None
    if request.param == "kernels" and (kernels := ristretto.fastest()) is None:
        pytest.skip("no kernels for this processor")
    monkeypatch.setattr(group, "_kernels", lambda rows: kernels)


def rows(*encoded: bytes) -> np.ndarray:
    return np.frombuffer(b"".join(encoded), np.uint8).reshape(len(encoded), -1)


def scalar(number: int) -> bytes:
    return number.to_bytes(32, "little")


def test_multiples_of_the_generator():
    generator = rows(bytes.fromhex(MULTIPLES[0]))
    for k, expected in enumerate(MULTIPLES, 1):
        assert group.multiply(generator, scalar(k)).tobytes().hex() == expected


def test_one_way_map():
    uniform = rows(*(hashlib.sha512(text).digest() for text in HASHED))
    assert [row.tobytes().hex() for row in group.from_uniform(uniform)] == list(HASHED.values())
    same = group.from_uniform(rows(*map(bytes.fromhex, SAME_INPUTS)))
    assert {row.tobytes().hex() for row in same} == {SAME_OUTPUT}


@pytest.mark.parametrize("encoding", [IDENTITY, *INVALID])
def test_invalid_encodings_are_refused_by_row(encoding):
    points = group.hash_to_group([b"%d" % i for i in range(300)], b"context")
    points[217] = np.frombuffer(bytes.fromhex(encoding), np.uint8)
    with pytest.raises(group.InvalidPoint) as refused:
        group.multiply(points, scalar(5))
    assert refused.value.index == 217


def test_first_invalid_row_is_the_one_named():
    points = np.zeros((1000, 32), np.uint8)
    with pytest.raises(group.InvalidPoint) as refused:
        group.multiply(points, scalar(5))
    assert refused.value.index == 0


@given(
    st.lists(st.binary(max_size=40), max_size=20),
    st.integers(1, group.ORDER - 1),
    st.integers(1, group.ORDER - 1),
)
@settings(max_examples=25)
def test_algebra(ids, a, b):
    points = group.hash_to_group(ids, b"context")
    one, other = scalar(a), scalar(b)
    both = group.multiply(group.multiply(points, one), other)
    assert np.array_equal(both, group.multiply(group.multiply(points, other), one))
    assert np.array_equal(both, group.multiply(points, scalar(a * b % group.ORDER)))
    assert np.array_equal(group.multiply(both, group.invert(other)), group.multiply(points, one))


def test_invalid_row_among_thousands():
    points = np.tile(group.hash_to_group([b"%d" % i for i in range(50)], b"context"), (60, 1))
    points[2999, 31] |= 128
    points[2700] = 0
    with pytest.raises(group.InvalidPoint, match="row 2700 ") as refused:
        group.multiply(points, scalar(5))
    assert refused.value.index == 2700


def test_many_rows_equal_one_by_one():
    ids = [b"%d" % i for i in range(500)]
    together = group.hash_to_group(ids, b"context")
    assert np.array_equal(together, np.vstack([group.hash_to_group([i], b"context") for i in ids]))
    by = group.random_scalar()
    products = np.vstack([group.multiply(together[i : i + 1], by) for i in range(500)])
    assert np.array_equal(group.multiply(together, by), products)
    every_other = group.multiply(together[::2], by)
    assert np.array_equal(every_other, products[::2])  # rows that are not contiguous


def test_contexts_are_apart():
    at = [
        group.hash_to_group([i], c).tobytes() for c, i in [(b"a", b"bc"), (b"ab", b"c"), (b"", b"abc")]
    ]
    assert len(set(at)) == 3


def test_scalars():
    drawn = iter([bytes(64), group.ORDER.to_bytes(64, "little"), (7).to_bytes(64, "little")])
    assert group.random_scalar(lambda n: next(drawn)) == scalar(7)  # 0, in either form, is skipped
    assert len({group.random_scalar() for _ in range(20)}) == 20
    assert int.from_bytes(group.invert(scalar(3)), "little") * 3 % group.ORDER == 1
    for bad in [scalar(0), scalar(group.ORDER), b"\1", bytes(31), b"\1" * 33]:
        with pytest.raises(ValueError, match="scalar"):
            group.invert(bad)
        with pytest.raises(ValueError, match="scalar"):
            group.multiply(np.zeros((0, 32), np.uint8), bad)


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 31), np.uint8), np.zeros(32, np.uint8), np.zeros((2, 32), np.int64)]
)
def test_wrong_shapes_never_reach_the_arithmetic(bad):
    with pytest.raises(ValueError, match="32 bytes"):
        group.multiply(bad, scalar(2))
    with pytest.raises(ValueError, match="64 bytes"):
        group.from_uniform(bad)


@pytest.mark.skipif(sys.platform == "win32", reason="a loaded library cannot be removed there")
def test_import_leaves_no_file_behind(tmp_path):
    subprocess.run(
        [sys.executable, "-c", "import vfl.crypto.group"],
        check=True,
        env={"TMPDIR": str(tmp_path), "PATH": ""},
    )
    assert list(tmp_path.iterdir()) == []


def test_few_rows_do_not_wait_for_the_compiler():
    code = (
        "import sys; from vfl.crypto import group;"
        "group.multiply(group.hash_to_group([b'a'] * 500, b''), group.random_scalar());"
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
