"""What is signed and kept: canonical JSON, terms of a job, ECDSA over P-256, lines of a ledger."""

import base64
import hashlib
import hmac

from .data import data

# --- canonical JSON -----------------------------------------------------------------------------------

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def canonical(value: object) -> str:
    """JSON without spaces, keys in the order of their code points, text as it is but for quotes,
    backslashes and control characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return '"' + "".join(_escaped(c) for c in value) + '"'
    if isinstance(value, list):
        return "[" + ",".join(canonical(one) for one in value) + "]"
    assert isinstance(value, dict)
    pairs = sorted(value.items(), key=lambda pair: [ord(c) for c in pair[0]])
    return "{" + ",".join(f"{canonical(key)}:{canonical(one)}" for key, one in pairs) + "}"


def _escaped(c: str) -> str:
    return _ESCAPES.get(c) or (f"\\u{ord(c):04x}" if c < " " else c)


def statement(terms: dict) -> bytes:
    """What the parties of a job sign: `job` and `run` in hex, `matching` only where it is not plain; a
    party whose table is of a query with `query`, its digest in hex, one that keeps a tape with
    `commitment`."""
    kept = {name: value for name, value in terms.items() if name != "matching" or value}
    return b"vfl agreement\0" + hashlib.sha256(canonical(kept).encode()).digest()


# --- ECDSA: FIPS 186-5, with the nonces of RFC 6979 ---------------------------------------------------

P = 2**256 - 2**224 + 2**192 + 2**96 - 1
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
assert (G[1] ** 2 - G[0] ** 3 + 3 * G[0] - B) % P == 0

Point = tuple[int, int] | None  # None is the point at infinity


def add(one: Point, other: Point) -> Point:
    if one is None or other is None:
        return one or other
    (x1, y1), (x2, y2) = one, other
    if x1 == x2 and (y1 + y2) % P == 0:
        return None
    slope = (3 * x1 * x1 - 3) * pow(2 * y1, -1, P) if one == other else (y2 - y1) * pow(x2 - x1, -1, P)
    x3 = (slope * slope - x1 - x2) % P
    return x3, (slope * (x1 - x3) - y1) % P


def times(point: Point, scalar: int) -> Point:
    result: Point = None
    for bit in bin(scalar)[2:]:
        result = add(result, result)
        if bit == "1":
            result = add(result, point)
    return result


def nonce(private: int, digest: bytes) -> int:
    """RFC 6979, section 3.2."""
    seed = private.to_bytes(32, "big") + (int.from_bytes(digest, "big") % N).to_bytes(32, "big")
    key, value = bytes(32), b"\1" * 32
    for separator in (b"\0", b"\1"):
        key = hmac.digest(key, value + separator + seed, "sha256")
        value = hmac.digest(key, value, "sha256")
    while True:
        value = hmac.digest(key, value, "sha256")
        k = int.from_bytes(value, "big")
        if 0 < k < N:
            return k
        key = hmac.digest(key, value + b"\0", "sha256")
        value = hmac.digest(key, value, "sha256")


def sign(private: int, message: bytes) -> tuple[int, int]:
    digest = hashlib.sha256(message).digest()
    k = nonce(private, digest)
    point = times(G, k)
    assert point is not None
    r = point[0] % N
    return r, pow(k, -1, N) * (int.from_bytes(digest, "big") + r * private) % N


def holds(public: tuple[int, int], r: int, s: int, message: bytes) -> bool:
    e, w = int.from_bytes(hashlib.sha256(message).digest(), "big"), pow(s, -1, N)
    point = add(times(G, e * w % N), times(public, r * w % N))
    return point is not None and point[0] % N == r


def der(r: int, s: int) -> bytes:
    """A sequence of two integers, each as short as it can be and not negative."""
    parts = b""
    for number in (r, s):
        content = number.to_bytes(number.bit_length() // 8 + 1, "big")
        parts += bytes([2, len(content)]) + content
    return bytes([0x30, len(parts)]) + parts


def read_der(signature: bytes) -> tuple[int, int]:
    first = 4 + signature[3]
    return int.from_bytes(signature[4:first], "big"), int.from_bytes(signature[first + 2 :], "big")


# --- a ledger: lines of JSON in a chain of hashes ----------------------------------------------------


def line(text: str, before: str) -> tuple[str, str]:
    """A line with its hash, of its text and the hash of the line before."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    own = hashlib.sha256((before + digest).encode()).hexdigest()
    return f'{text[:-1]},"hash":"{own}"}}', own


def _canonical(given: dict) -> dict:
    text = canonical(given["value"])
    return {"utf-8": text.encode().hex(), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _statement(given: dict) -> dict:
    return {"statement": statement(given["terms"]).hex()}


def _query(given: dict) -> dict:
    """A salt, what the query is over and its text, behind a name."""
    said = f"{given['over']}\0{given['text']}".encode()
    return {"digest": hashlib.sha256(b"vfl query\0" + bytes.fromhex(given["salt"]) + said).hexdigest()}


def _rotation(given: dict) -> dict:
    """What the old key and the new one sign, with fingerprints in hex and the day."""
    parts = "\0".join([given["name"], given["old"], given["new"], given["on"]])
    return {"statement": (b"vfl key rotation\0" + hashlib.sha256(parts.encode()).digest()).hex()}


def _signature(given: dict) -> dict:
    private, message = int(given["private"], 16), data(given["message"])
    public = times(G, private)
    assert public is not None
    r, s = sign(private, message)
    assert holds(public, r, s, message)
    assert not holds(public, r, s, message + b"\0")
    assert read_der(der(r, s)) == (r, s)
    point = b"\4" + public[0].to_bytes(32, "big") + public[1].to_bytes(32, "big")
    return {"public": point.hex(), "signature": der(r, s).hex()}


def _chain(given: dict) -> dict:
    before, lines = "0" * 64, []
    for text in given["texts"]:
        whole, before = line(text, before)
        lines.append(whole)
    return {"lines": lines}


def _seal(given: dict) -> dict:
    """What a seal's signature is over, and its line."""
    signed = (
        f"vfl ledger of {given['party']}: seal {given['n']} after {given['before']} at {given['time']}"
    )
    signature = base64.b64encode(der(*sign(int(given["private"], 16), signed.encode()))).decode()
    text = (
        f'{{"entry":"seal","n":{given["n"]},"time":"{given["time"]}","salt":"{given["salt"]}",'
        f'"certificate":"{given["certificate"]}","signature":"{signature}"}}'
    )
    return {"signed": signed.encode().hex(), "line": line(text, given["before"])[0]}


_MESSAGE = (
    '{"entry":"message","n":3,"time":"2026-01-31T12:00:00Z","salt":"00112233445566ff","session":2,'
    '"peer":"registry","direction":"sent","task":"align","job":null,"type":"BlindedIds","rows":4,'
    '"bytes":141,"blake3":"' + "5a" * 32 + '"}'
)
_TYPE = (
    '{"entry":"type","n":2,"time":"2026-01-31T12:00:00Z","salt":"0123456789abcdef","type":"BlindedIds",'
    '"reveals":"nothing \u2013 \\"blinded\\""}'
)
# RFC 6979, A.2.5.
_PRIVATE = "c9afa9d845ba75166b5c215767b1d6934e50c3db36e89b127b8a622b120f6721"
_TERMS = {
    "task": "train",
    "run": "07" * 32,
    "guest": "insurer",
    "hosts": ["registry", "bureau"],
    "fingerprints": {"registry": "1a" * 32, "insurer": "2b" * 32, "bureau": "3c" * 32},
    "normalise": ["trim", "upper"],
    "alignment": "policies",
    "model": None,
    "job": hashlib.sha256(b"{}").hexdigest(),
    "done": 0,
}

CASES = [
    (
        "canonical JSON",
        {
            "value": {
                "b": [1, -2, 2**63, 0.1, 1.0, 1e-5, 1e16, 1e22, -0.0, 5e-324, 1.5e300],
                "a": {"z": None, "y": True, "x": False, "": [], "e": {}},
                "text": 'quote " backslash \\ tab \t line \n \x01 \x1f \x7f slash / \u2028 \u00e9',
                "\ufb01": "by code points: before what is beyond U+FFFF",
                "\U0001f697": "which UTF-16 would put first",
                "B": "upper case comes first",
            }
        },
    ),
    ("canonical JSON", {"value": {}}),
    ("statement of an agreement", {"terms": _TERMS}),
    (
        "statement of an agreement",
        {
            "terms": {
                **_TERMS,
                "task": "align",
                "alignment": None,
                "done": 12,
                "job": hashlib.sha256(b"").hexdigest(),
                "matching": {"engine": "ot", "join": "left", "many": True},
            }
        },
    ),
    ("statement of an agreement", {"terms": {**_TERMS, "query": "4d" * 32}}),
    ("statement of an agreement", {"terms": {**_TERMS, "commitment": "5e" * 32}}),
    ("statement of an agreement", {"terms": {**_TERMS, "query": "4d" * 32, "commitment": "5e" * 32}}),
    ("digest of a query", {"text": "select *\nfrom data -- \u00e9", "over": "files", "salt": "5e" * 32}),
    ("digest of a query", {"text": "", "over": "database", "salt": "00" * 32}),
    ("signature", {"private": _PRIVATE, "message": b"sample".hex()}),
    ("signature", {"private": _PRIVATE, "message": statement(_TERMS).hex()}),
    (
        "statement of a rotation",
        {
            "name": "insurer",
            "old": hashlib.sha256(b"the old certificate").hexdigest(),
            "new": hashlib.sha256(b"the new certificate").hexdigest(),
            "on": "2026-01-31",
        },
    ),
    ("chain of a ledger", {"texts": [_TYPE, _MESSAGE]}),
    (
        "seal of a ledger",
        {
            "private": _PRIVATE,
            "party": "insurer",
            "n": 4,
            "before": "9d" * 32,
            "time": "2026-01-31T12:00:01.5Z",
            "salt": "ffeeddccbbaa9988",
            "certificate": "2b" * 32,
        },
    ),
]
ANSWERS = {
    "canonical JSON": _canonical,
    "statement of an agreement": _statement,
    "statement of a rotation": _rotation,
    "digest of a query": _query,
    "signature": _signature,
    "chain of a ledger": _chain,
    "seal of a ledger": _seal,
}
