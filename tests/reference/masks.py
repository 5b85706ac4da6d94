"""Secrets that pairs of hosts share, and masks that cancel in the sum over all hosts."""

from .data import data, keyed_hash

P = 2**255 - 19


def x25519(scalar: bytes, point: bytes) -> bytes:
    """RFC 7748, section 5."""
    k = int.from_bytes(scalar, "little") & ~7 & (1 << 255) - 1 | 1 << 254
    u = int.from_bytes(point, "little") % 2**255 % P
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in range(254, -1, -1):
        one = k >> bit & 1
        if one:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a, c * b, a * a, b * b
        x3, z3 = (da + cb) ** 2 % P, u * (da - cb) ** 2 % P
        e = aa - bb
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
        if one:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, -1, P) % P).to_bytes(32, "little")


def chacha20(key: bytes, count: int) -> bytes:
    """RFC 8439, section 2.4, from block 0 on under a nonce of zeros."""

    def quarter(s: list[int], a: int, b: int, c: int, d: int) -> None:
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) % 2**32
            s[z] ^= s[x]
            s[z] = (s[z] << turn | s[z] >> 32 - turn) % 2**32

    out, block = b"", 0
    while len(out) < count:
        start = [int.from_bytes(b"expand 32-byte k"[i : i + 4], "little") for i in range(0, 16, 4)]
        start += [int.from_bytes(key[i : i + 4], "little") for i in range(0, 32, 4)] + [block, 0, 0, 0]
        state = start[:]
        for _ in range(10):
            for i in range(4):
                quarter(state, i, 4 + i, 8 + i, 12 + i)
            for i in range(4):
                quarter(state, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
        for word, first in zip(state, start, strict=True):
            out += ((word + first) % 2**32).to_bytes(4, "little")
        block += 1
    return out[:count]


def pairs(given: dict) -> dict:
    """Public keys, what each host signs, and the secret of each pair."""
    context, hosts = data(given["context"]), list(given["keys"])
    private = {host: data(key) for host, key in given["keys"].items()}
    public = {host: x25519(key, (9).to_bytes(32, "little")) for host, key in private.items()}
    signed, found = {}, {}
    for host in hosts:
        parts = (context, host.encode(), public[host], *(one.encode() for one in hosts))
        signed[host] = (b"vfl host key\0" + keyed_hash(b"vfl host key", *parts)).hex()
        for other in hosts:
            if host < other:
                shared = x25519(private[host], public[other])
                assert shared == x25519(private[other], public[host])
                ends = (host.encode(), public[host], other.encode(), public[other])
                secret = keyed_hash(b"vfl host pair", context, shared, *ends)
                found[f"{host} and {other}"] = secret.hex()
    return {
        "public keys": {host: key.hex() for host, key in public.items()},
        "signed": signed,
        "secrets": found,
    }


def _heard(given: dict) -> bytes:
    """A digest of what all have heard so far, message by message."""
    return keyed_hash(b"vfl heard alike", *(data(part) for part in given["heard"]))


def _masks(given: dict) -> dict:
    """Of each draw a stream of its own with each other host: plus towards a later name, minus else."""
    hosts, drawn = given["hosts"], {}
    for name in hosts:
        drawn[name] = []
        for number, count in enumerate(given["draws"]):
            total = [0] * count
            for fellow in hosts:
                if fellow == name:
                    continue
                secret = data(f"shake256 32 {min(name, fellow)} and {max(name, fellow)}")
                key = keyed_hash(b"vfl masks", secret, number.to_bytes(16, "big"), _heard(given))
                stream = chacha20(key, 8 * count)
                for i in range(count):
                    word = int.from_bytes(stream[8 * i : 8 * i + 8], "little")
                    total[i] += word if name < fellow else -word
            drawn[name].append([f"{word % 2**64:016x}" for word in total])
    for draw in zip(*drawn.values(), strict=True):
        assert all(
            sum(int(word, 16) for word in words) % 2**64 == 0 for words in zip(*draw, strict=True)
        )
    return {"masks": drawn}


def _wide(given: dict) -> dict:
    """As above, modulo 2^256, and of the purpose that the hash's person says."""
    hosts, drawn, modulus = given["hosts"], {}, 2**256
    for name in hosts:
        total = [0] * given["count"]
        for fellow in hosts:
            if fellow != name:
                secret = data(f"shake256 32 {min(name, fellow)} and {max(name, fellow)}")
                key = keyed_hash(given["purpose"].encode(), secret, bytes(16), _heard(given))
                stream = chacha20(key, 32 * given["count"])
                for i in range(given["count"]):
                    number = int.from_bytes(stream[32 * i : 32 * i + 32], "little")
                    total[i] += number if name < fellow else -number
        drawn[name] = [f"{number % modulus:064x}" for number in total]
    return {"masks": drawn}


_HEARD = ["shake256 32 a message"]
CASES = [
    (
        "pairs of hosts",
        {
            "context": "shake256 32 a job",
            "keys": {name: f"shake256 32 key of {name}" for name in ("registry", "bureau", "club")},
        },
    ),
    *(
        ("masks", {"hosts": ["registry", "bureau", "club"], "draws": [3, 1, 20], "heard": heard})
        for heard in ([], [*_HEARD, "shake256 5 another"])
    ),
    *(
        (
            "masks of numbers",
            {"hosts": ["", "bureau", "club"], "count": 3, "purpose": purpose, "heard": _HEARD},
        )
        for purpose in ("vfl masks", "vfl blind masks")
    ),
]
ANSWERS = {"pairs of hosts": pairs, "masks": _masks, "masks of numbers": _wide}
