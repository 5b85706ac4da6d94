"""ristretto255 as RFC 9496 writes it, on one element at a time; and the hash of ids onto it."""

import hashlib

from .data import data

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)
# RFC 9496, section 4.1
SQRT_AD_MINUS_ONE = 25063068953384623474111414158702152701244531502492656460079210482610430750235
INVSQRT_A_MINUS_D = 54469307008909316920995813868745141605393597292927456921205312896311721017578
ONE_MINUS_D_SQ = (1 - D * D) % P
D_MINUS_ONE_SQ = (D - 1) ** 2 % P
assert SQRT_AD_MINUS_ONE**2 % P == (-D - 1) % P
assert INVSQRT_A_MINUS_D**2 * (-1 - D) % P == 1

Point = tuple[int, int, int, int]  # X, Y, Z, T with x = X / Z, y = Y / Z, x y = T / Z
IDENTITY: Point = (0, 1, 1, 0)


class NoElement(ValueError):
    """Bytes that encode no element."""


def negative(x: int) -> bool:
    """Section 3.1: whether the least non-negative residue is odd."""
    return x % P % 2 == 1


def absolute(x: int) -> int:
    return -x % P if negative(x) else x % P


def sqrt_ratio(u: int, v: int) -> tuple[bool, int]:
    """Section 3.1.3: whether u / v is a square, and the root of it or of SQRT_M1 u / v."""
    r = u * v**3 * pow(u * v**7, (P - 5) // 8, P) % P
    check = v * r * r % P
    correct, flipped = check == u % P, check == -u % P
    if flipped or check == -u * SQRT_M1 % P:
        r = r * SQRT_M1 % P
    return correct or flipped, absolute(r)


def decode(encoded: bytes) -> Point:
    """Section 4.3.1."""
    s = int.from_bytes(encoded, "little")
    if len(encoded) != 32 or s >= P or negative(s):
        raise NoElement
    ss = s * s % P
    u1, u2 = 1 - ss, 1 + ss
    v = -D * u1 * u1 - u2 * u2
    square, inverse = sqrt_ratio(1, v * u2 * u2 % P)
    x_part = inverse * u2
    y_part = inverse * x_part * v
    x, y = absolute(2 * s * x_part), u1 * y_part % P
    if not square or negative(x * y) or y == 0:
        raise NoElement
    return x, y, 1, x * y % P


def encode(point: Point) -> bytes:
    """Section 4.3.2."""
    x, y, z, t = point
    u1, u2 = (z + y) * (z - y), x * y
    _, inverse = sqrt_ratio(1, u1 * u2 * u2 % P)
    part1, part2 = inverse * u1, inverse * u2
    z_inverse = part1 * part2 * t
    inverse_of = part2
    if negative(t * z_inverse):
        x, y = y * SQRT_M1 % P, x * SQRT_M1 % P
        inverse_of = part1 * INVSQRT_A_MINUS_D % P
    if negative(x * z_inverse):
        y = -y
    return absolute(inverse_of * (z - y)).to_bytes(32, "little")


def add(one: Point, other: Point) -> Point:
    """The Edwards curve with a = -1, in extended coordinates (RFC 8032, section 5.1.4)."""
    x1, y1, z1, t1 = one
    x2, y2, z2, t2 = other
    a, b = (y1 - x1) * (y2 - x2) % P, (y1 + x1) * (y2 + x2) % P
    c, d = 2 * t1 * t2 * D % P, 2 * z1 * z2 % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def double(point: Point) -> Point:
    """`add` of a point and itself (RFC 8032, section 5.1.4)."""
    x, y, z, _ = point
    a, b = x * x % P, y * y % P
    h = a + b
    e, g = h - (x + y) ** 2 % P, a - b
    f = 2 * z * z + g
    return e * f % P, g * h % P, f * g % P, e * h % P


def minus(point: Point) -> Point:
    x, y, z, t = point
    return -x % P, y, z, -t % P


def times(point: Point, scalar: int) -> Point:
    result = IDENTITY
    for bit in bin(scalar)[2:]:
        result = double(result)
        if bit == "1":
            result = add(result, point)
    return result


def base() -> Point:
    """The generator (section 4): y = 4 / 5, x not negative."""
    y = 4 * pow(5, -1, P) % P
    _, x = sqrt_ratio(y * y - 1, D * y * y + 1)
    return x, y, 1, x * y % P


_sixteenths: list[list[Point]] = []  # 0 to 15 times the generator, times 16^i


def base_times(scalar: int) -> Point:
    """The generator times a scalar below 2^256: a sum of multiples, one for each hexadecimal digit."""
    if not _sixteenths:
        point = base()
        for _ in range(64):
            multiples = [IDENTITY]
            for _ in range(15):
                multiples.append(add(multiples[-1], point))
            _sixteenths.append(multiples)
            point = add(multiples[-1], point)
    result = IDENTITY
    for i, multiples in enumerate(_sixteenths):
        result = add(result, multiples[scalar >> 4 * i & 15])
    return result


def elligator(t: int) -> Point:
    """Section 4.3.4, MAP."""
    r = SQRT_M1 * t * t % P
    u = (r + 1) * ONE_MINUS_D_SQ % P
    v = (-1 - r * D) * (r + D) % P
    square, s = sqrt_ratio(u, v)
    c = -1
    if not square:
        s, c = -absolute(s * t) % P, r
    n = c * (r - 1) * D_MINUS_ONE_SQ - v
    w0, w1, w2, w3 = 2 * s * v, n * SQRT_AD_MINUS_ONE, 1 - s * s, 1 + s * s
    return w0 * w3 % P, w2 * w1 % P, w1 * w3 % P, w0 * w2 % P


def from_uniform(uniform: bytes) -> Point:
    """Section 4.3.4: of 64 bytes, each half without its highest bit."""
    halves = [int.from_bytes(uniform[i : i + 32], "little") % 2**255 % P for i in (0, 32)]
    return add(elligator(halves[0]), elligator(halves[1]))


def hashed(context: bytes, value: bytes) -> Point:
    """The project's hash onto the group."""
    domain = b"vfl-v1 hash to ristretto255"
    return from_uniform(
        hashlib.sha512(domain + len(context).to_bytes(8, "big") + context + value).digest()
    )


def scalar_of(uniform: bytes) -> int:
    """The scalar that 64 random bytes give."""
    return int.from_bytes(uniform, "little") % ORDER


def _multiples(given: dict) -> dict:
    """1 to `count` times the generator."""
    return {"encodings": [encode(times(base(), k)).hex() for k in range(1, given["count"] + 1)]}


def _refused(given: dict) -> dict:
    found = []
    for text in given["encodings"]:
        try:
            found.append(
                not any(encode(decode(data(text))))
            )  # the identity is refused by the project alone
        except NoElement:
            found.append(True)
    return {"refused": found}


def _map(given: dict) -> dict:
    return {"encodings": [encode(from_uniform(data(text))).hex() for text in given["uniform"]]}


def _hash(given: dict) -> dict:
    context = data(given["context"])
    return {"encodings": [encode(hashed(context, data(text))).hex() for text in given["values"]]}


def _scalars(given: dict) -> dict:
    scalars = [scalar_of(data(text)) for text in given["uniform"]]
    point = decode(data(given["element"]))
    return {
        "scalars": [k.to_bytes(32, "little").hex() for k in scalars],
        "inverses": [pow(k, -1, ORDER).to_bytes(32, "little").hex() for k in scalars],
        "products": [encode(times(point, k)).hex() for k in scalars],
    }


# RFC 9496, A.2: encodings to refuse; and the identity, which the project refuses too.
_BAD = [
    "00ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "f3ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ed57ffd8c914fb201471d1c3d245ce3c746fcbe63a3679d51b6a516ebebe0e20",
    "c34c4e1826e5d403b78e246e88aa051c36ccf0aafebffe137d148a2bf9104562",
    "c940e5a4404157cfb1628b108db051a8d439e1a421394ec4ebccb9ec92a8ac78",
    "47cfc5497c53dc8e61c91d17fd626ffb1c49e2bca94eed052281b510b1117a24",
    "f1c6165d33367351b0da8f6e4511010c68174a03b6581212c71c0e1d026c3c72",
    "87260f7a2f12495118360f02c26a470f450dadf34a413d21042b43b9d93e1309",
    "26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371",
    "4eac077a713c57b4f4397629a4145982c661f48044dd3f96427d40b147d9742f",
    "de6a7b00deadc788eb6b6c8d20c0ae96c2f2019078fa604fee5b87d6e989ad7b",
    "bcab477be20861e01e4a0e295284146a510150d9817763caf1a6f4b422d67042",
    "2a292df7e32cababbd9de088d1d1abec9fc0440f637ed2fba145094dc14bea08",
    "f4a9e534fc0d216c44b218fa0c42d99635a0127ee2e53c712f70609649fdff22",
    "8268436f8c4126196cf64b3c7ddbda90746a378625f9813dd9b8457077256731",
    "2810e5cbc2cc4d4eece54f61c6f69758e289aa7ab440b3cbeaa21995c2f4232b",
    "3eb858e78f5a7254d8c9731174a94f76755fd3941c0ac93735c07ba14579630e",
    "a45fdc55c76448c049a1ab33f17023edfb2be3581e9c7aade8a6125215e04220",
    "d483fe813c6ba647ebbfd3ec41adca1c6130c2beeee9d9bf065c8d151c5f396e",
    "8a2e1d30050198c65a54483123960ccc38aef6848e1ec8f5f780e8523769ba32",
    "32888462f8b486c68ad7dd9610be5192bbeaf3b443951ac1a8118419d9fa097b",
    "227142501b9d4355ccba290404bde41575b037693cef1f438c47f8fbf35d1165",
    "5c37cc491da847cfeb9281d407efc41e15144c876e0170b499a96a22ed31e01e",
    "445425117cb8c90edcbc7c1cc0e74f747f2c1efa5630a967c64f287792a48a4b",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76",
]

CASES = [
    ("multiples", {"count": 16}),
    ("refused", {"encodings": _BAD}),
    (
        "map",
        {
            "uniform": [
                *(
                    hashlib.sha512(text).hexdigest()
                    for text in (
                        b"Ristretto is traditionally a short shot of espresso coffee",
                        b"made with the normal amount of ground coffee but extracted with",
                        b"about half the amount of water in the same amount of time",
                    )
                ),
                "00" * 64,
                "ff" * 64,
                (b"\xed" + b"\xff" * 30 + b"\x7f").hex() * 2,  # the field's p twice: both halves are 0
            ]
        },
    ),
    ("hash", {"context": b"a run".hex(), "values": ["", b"AB-123".hex(), "shake256 200 a long id"]}),
    ("hash", {"context": "", "values": [b"a runAB-123".hex()]}),
    (
        "scalars",
        {
            "element": "6a493210f7499cd17fecb510ae0cea23a110e8d5b901f8acadd3095c73a3b919",
            "uniform": [
                "shake256 64 a scalar",
                "shake256 64 another scalar",
                (ORDER + 1).to_bytes(64, "little").hex(),
                "ff" * 64,
            ],
        },
    ),
]
ANSWERS = {
    "multiples": _multiples,
    "refused": _refused,
    "map": _map,
    "hash": _hash,
    "scalars": _scalars,
}
