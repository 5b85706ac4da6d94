"""What the package answers about what is signed and kept."""

import datetime

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from reference import agreements as slow_agreements
from reference.data import data, sha256

from answered.given import Answers, Given
from vfl.jobs.offer import Matching, Terms
from vfl.party import identity, ledger, rotation
from vfl.party.documents import canonical_json
from vfl.party.identity import Certificate
from vfl.party.kept_query import KeptQuery

ANSWERS = Answers()


def certificate_of(public: ec.EllipticCurvePublicKey, der: bytes = b"") -> Certificate:
    now = datetime.datetime.now(datetime.UTC)
    return Certificate("insurer", b"", der, now, now, public)


@ANSWERS.of("canonical JSON")
def _(given: Given) -> object:
    text = canonical_json(given["value"])
    return {"utf-8": text.hex(), "sha256": sha256(text)}


@ANSWERS.of("statement of an agreement")
def _(given: Given) -> object:
    fields = dict(given["terms"])
    fields.update({name: bytes.fromhex(fields[name]) for name in ("run", "job")})
    fields["matching"] = Matching(**fields.get("matching", {}))
    query, commitment = (bytes.fromhex(fields.pop(name, "")) for name in ("query", "commitment"))
    assert query or Terms(**fields).statement == Terms(**fields).statement_of(query)
    return {"statement": Terms(**fields).statement_of(query, commitment).hex()}


@ANSWERS.of("digest of a query")
def _(given: Given) -> object:
    return {"digest": KeptQuery(given["text"], given["over"], given["salt"]).digest.hex()}


@ANSWERS.of("signature")
def _(given: Given) -> object:
    private = ec.derive_private_key(int(given["private"], 16), ec.SECP256R1())
    message, made = data(given["message"]), identity.signed(private, data(given["message"]))
    certificate = certificate_of(private.public_key())
    assert certificate.verify(made, message)
    assert not certificate.verify(made, message + b"\0")
    numbers = private.public_key().public_numbers()
    point = b"\4" + numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    return {"public": point.hex(), "signature": made.hex()}


@ANSWERS.of("statement of a rotation")
def _(given: Given) -> object:
    public = ec.derive_private_key(1, ec.SECP256R1()).public_key()
    old, new = (certificate_of(public, f"the {one} certificate".encode()) for one in ("old", "new"))
    assert (given["name"], given["old"], given["new"]) == (old.name, old.fingerprint, new.fingerprint)
    return {"statement": rotation._statement(old, new, given["on"]).hex()}


@ANSWERS.of("chain of a ledger")
def _(given: Given) -> object:
    before, lines = ledger.ORIGIN, []
    for text in given["texts"]:
        entry = msgspec.json.decode(text.encode(), type=ledger.AnyEntry)
        line, before = ledger.encode(entry, before)
        read = ledger.decode(line[:-1])
        assert read.entry == entry and read.hash == before
        lines.append(line[:-1].decode())
    return {"lines": lines}


@ANSWERS.of("seal of a ledger")
def _(given: Given) -> object:
    signed = ledger.statement(given["party"], given["n"], given["before"], given["time"])
    answer = slow_agreements.ANSWERS["seal of a ledger"](given)
    entry = ledger.decode(answer["line"].encode()).entry
    assert isinstance(entry, ledger.Seal)
    private = ec.derive_private_key(int(given["private"], 16), ec.SECP256R1())
    assert certificate_of(private.public_key()).verify(entry.signed, signed)
    assert identity.signed(private, signed) == entry.signed
    line, _ = ledger.encode(entry, given["before"])
    return {"signed": signed.hex(), "line": line[:-1].decode()}
