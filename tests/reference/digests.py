"""BLAKE2b of messages, hashes of parts with lengths, tags of match rates, how ids become bytes."""

import hashlib
import unicodedata

from . import ristretto
from .data import data, keyed_hash


def _digests(given: dict) -> dict:
    """RFC 7693: of prefix, row and id."""
    rows = given["rows"] or [""] * len(given["ids"])
    return {
        "digests": [
            hashlib.blake2b(
                data(given["prefix"]) + data(row) + data(one),
                digest_size=given["size"],
                key=data(given["key"]),
                person=given["domain"].encode(),
            ).hexdigest()
            for row, one in zip(rows, given["ids"], strict=True)
        ]
    }


def _keyed(given: dict) -> dict:
    return {"hash": keyed_hash(given["domain"].encode(), *(data(part) for part in given["parts"])).hex()}


def _match(given: dict) -> dict:
    """Of an estimate of match rates: what the guest commits itself to, whose context an element is
    hashed with, the key by which ids are drawn, and the tag of an element."""
    context, host, trial = data(given["context"]), given["host"], given["trial"]
    prefix = keyed_hash(b"vfl match", context, host.encode(), trial.encode())
    shares = [data(given[side]) for side in ("guest's share", "host's share")]
    commitment = keyed_hash(b"vfl match commit", context, host.encode(), shares[0])
    key = keyed_hash(b"vfl match draw", context, host.encode(), *shares)
    found = []
    for value in given["ids"]:
        encoded = value.encode()
        drawn = hashlib.blake2b(key + encoded, digest_size=8, person=b"vfl match draw").digest()
        element = ristretto.hashed(prefix, encoded)
        tagged = ristretto.encode(ristretto.times(element, ristretto.scalar_of(data(given["scalar"]))))
        found.append(
            {
                "drawn by": int.from_bytes(drawn, "little"),
                "element": ristretto.encode(element).hex(),
                "tag": hashlib.blake2b(tagged, digest_size=16, person=b"vfl match tag").hexdigest(),
            }
        )
    return {"commitment": commitment.hex(), "prefix": prefix.hex(), "ids": found}


def joined(values: list[str]) -> bytes:
    """An id of several columns: the length of each in four bytes, big-endian, and its UTF-8."""
    return b"".join(len(value.encode()).to_bytes(4, "big") + value.encode() for value in values)


# What the steps do, from the docstring of vfl/party/ids.py, on text that no number or date is read from.


def _alnum(text: str) -> str:
    return "".join(c for c in text if c.isalnum())


def _decimals(text: str) -> str:
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def _plate(text: str) -> str:
    return _alnum(_decimals(unicodedata.normalize("NFKC", text).upper()))


def _date(text: str) -> str:
    """Of two forms: 31.12.2024, and what it becomes."""
    return "-".join(text.split(".")[::-1]) if "." in text else text


def _phone(text: str, country: str) -> str:
    digits = "".join(c for c in unicodedata.normalize("NFKC", text) if c in "0123456789")
    if text.startswith("+"):
        return f"+{digits}"
    if digits.startswith("00"):
        return f"+{digits[2:]}"
    return f"+{country}{digits.removeprefix('0')}"


STEPS = {
    "nfkc": lambda text: unicodedata.normalize("NFKC", text),
    "trim": str.strip,
    "upper": str.upper,
    "digits": lambda text: "".join(c for c in _decimals(text) if c in "0123456789"),
    "alnum": _alnum,
    "nozeros": lambda text: text.lstrip("0") or text[:1],
    "plate": _plate,
    "vin": lambda text: _plate(text).replace("I", "1").replace("O", "0").replace("Q", "0"),
    "date": _date,
    "phone:33": lambda text: _phone(text, "33"),
}


def _ids(given: dict) -> dict:
    """Each step in turn on each column, and the columns of a row joined."""
    cleaned = []
    for column, steps in zip(given["columns"], given["rule"], strict=True):
        values = column
        for step in steps:
            values = [STEPS[step](value) for value in values]
        cleaned.append(values)
    return {"ids": [joined(list(row)).hex() for row in zip(*cleaned, strict=True)]}


def _rule(given: dict) -> dict:
    """SHA-256 of the steps with their versions, one a line; columns of one rule say it once."""
    rules = given["rule"]
    if all(rule == rules[0] for rule in rules):
        rules = rules[:1]
    lines = []
    for number, rule in enumerate(rules):
        lines += ["|"] * (number > 0) + [f"{step}@1" for step in rule]
    return {"digest": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


CASES = [
    (
        "digests",
        {
            "domain": "vfl psi output",
            "key": "",
            "prefix": "shake256 40 a prefix",
            "rows": [f"shake256 32 row {i}" for i in range(5)],
            "ids": ["", "41", "shake256 55 an id", "shake256 56 an id", "shake256 700 an id"],
            "size": 32,
        },
    ),
    (
        "digests",
        {
            "domain": "sixteen bytes it",
            "key": "shake256 64 the longest key",
            "prefix": "",
            "rows": [],
            "ids": ["", "00", "shake256 127 an id", "shake256 128 an id", "shake256 129 an id"],
            "size": 16,
        },
    ),
    (
        "digests",
        {
            "domain": "",
            "key": "",
            "prefix": "shake256 128 a whole block",
            "rows": [],
            "ids": ["", "shake256 128 an id"],
            "size": 64,
        },
    ),
    ("hash of parts", {"domain": "vfl psi store", "parts": ["", "shake256 32 a part", "00"]}),
    ("hash of parts", {"domain": "vfl masks", "parts": []}),
    (
        "match rates",
        {
            "context": "shake256 32 a job",
            "host": "registry",
            "trial": "upper",
            "guest's share": "shake256 32 the guest's share",
            "host's share": "shake256 32 the host's share",
            "ids": ["AB-123", ""],
            "scalar": "shake256 64 the host's scalar",
        },
    ),
    (
        "ids",
        {
            "columns": [[" ab-123", "ÄÖ 7", "\uff21\uff22\u0661"], ["007", "0", "00"]],
            "rule": [["nfkc", "trim", "upper"], ["nozeros"]],
        },
    ),
    (
        "ids",
        {"columns": [["ab-1O2", "w\u00f6-x 9"]], "rule": [["plate"]]},
    ),
    (
        "ids",
        {
            "columns": [["wvwzzz1jzoq123i45"], ["31.12.2024"], ["01 23 45-67"], ["a-b c"]],
            "rule": [["vin"], ["date"], ["phone:33"], ["alnum", "upper"]],
        },
    ),
    ("rule", {"rule": [["nfkc", "trim", "upper"]]}),
    ("rule", {"rule": [["vin"], ["date:dmy", "trim"]]}),
]
ANSWERS = {
    "digests": _digests,
    "hash of parts": _keyed,
    "match rates": _match,
    "ids": _ids,
    "rule": _rule,
}
