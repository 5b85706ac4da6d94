"""Alignment by vector OLE: both sides agree, buckets hide their sizes, hostile peers fail."""

import asyncio
from collections import Counter
from itertools import combinations

import msgspec
import numpy as np
import pytest
from dealt_transfers import dealt_transfers
from drawn import seeded
from memory import over_memory
from test_psi import CONTEXT, HOST, align, check, numbered

from vfl.crypto import okvs
from vfl.crypto.vole import bits, field, silent
from vfl.errors import DataError, PeerError, Refused, VflError
from vfl.net import wire
from vfl.protocols.align import buckets, psi, vole_oprf
from vfl.protocols.align.buckets import BucketCounts, Buckets, BucketStores, BucketTags
from vfl.protocols.align.oprf import OprfRun
from vfl.protocols.align.psi import PsiSettings, guest_align, host_align
from vfl.protocols.align.vole_oprf import (
    GuestVole,
    HostVole,
    VoleBits,
    VoleChallenge,
    VoleChoices,
    VoleCoin,
    VoleKeys,
    VoleOpening,
    VoleProof,
    VoleSlots,
    VoleTrees,
)
from vfl.protocols.common.participant import Participant

SEVERAL = {"BUCKET": 24, "STORE": 40, "CHUNK": 300, "SLOTS": 64}  # of buckets, chunks and messages


@pytest.fixture(autouse=True)
def quick_transfers():
    """Base transfers have tests of their own."""
    with dealt_transfers():
        yield


@pytest.fixture
def small_buckets(monkeypatch):
    for name, value in SEVERAL.items():
        monkeypatch.setattr(buckets, name, value)
    monkeypatch.setattr(vole_oprf, "SLOTS", 64)


# The function.


def hashed_at(ids, hosts_ids, seed=1):
    """What the guest hashes at all ids with a store of `ids`, and what the host does at its own: ids and
    values, the hash's key. And the store, and the host's secret."""
    digests = {of: np.frombuffer(of.ljust(32, b"."), np.uint8) for of in {*ids, *hosts_ids}}
    own, theirs = (np.array([digests[of] for of in some]) for some in (ids, hosts_ids))
    store = okvs.encode(own[:, :16].copy(), own[:, 16:].copy(), b"", np.random.default_rng(5).bytes)

    def run(number):
        return OprfRun(CONTEXT, seeded(number), lambda *step: None)

    async def guest(peers):
        vole = GuestVole(peers, run(seed))
        await vole.begin()
        await vole.prepare(len(store))
        [(values, key)] = await vole.evaluate(store)
        every = np.concatenate([own, theirs])
        return every, okvs.decode(values, every[:, :16], len(own), b""), key

    async def host(_, peer):
        vole = HostVole(peer, HOST, run(seed + 1))
        await vole.begin()
        values, key = await vole.serve(len(store))
        at = okvs.decode(values, theirs[:, :16], len(own), b"")
        vole.add_secret_times(theirs[:, 16:], at)
        return (theirs, at, key), vole._silent.secret

    by_guest, (by_host, secret) = over_memory([HOST], guest, host)
    return by_guest, by_host, store, secret


def function_at(ids, hosts_ids, seed=1):
    """What the guest computes at all ids with a store of `ids`, and what hosts do at theirs."""
    by_guest, by_host, *_ = hashed_at(ids, hosts_ids, seed)
    return buckets._function(*by_guest), buckets._function(*by_host)


def test_the_guest_has_the_function_at_its_ids_and_at_no_other():
    own, theirs = numbered(*range(40)), numbered(*range(20, 70))
    by_guest, by_host = function_at(own, theirs)
    at_theirs = by_guest[len(own) :]
    assert (at_theirs == by_host).all(axis=1).tolist() == [True] * 20 + [False] * 30
    # All outputs are different and look random.
    assert len(np.unique(by_host, axis=0)) == len(theirs)
    assert abs(np.unpackbits(by_host).mean() - 0.5) < 0.03


def test_what_is_hashed_at_a_new_id_tells_the_secret():
    """Why nobody can be told the function at ids that come later (docs/protocols.md, Extended)."""
    own, later = numbered(*range(40)), numbered(40)
    (every, values, _), (_, of_host, _), store, secret = hashed_at(own, later)
    # The host's value is the guest's and d D; the guest knows d, and divides by it.
    at = okvs.decode(store, every[-1:, :16], len(own), b"")
    missing = (at ^ every[-1:, 16:]).tobytes()
    inverse, power = b"\x80" + bytes(15), missing
    for _ in range(127):  # d to the 2^128 - 2
        power = field.times(power, power)
        inverse = field.times(inverse, power)
    difference = (of_host ^ values[-1:]).tobytes()
    assert any(missing) and field.times(difference, inverse) == secret


def test_every_run_has_a_function_of_its_own():
    ids = numbered(*range(20))
    one, other = (function_at(ids, ids, seed)[1] for seed in (1, 3))
    assert not (one == other).all(axis=1).any()


def test_masked_slots_say_nothing_of_ids(monkeypatch):
    """To hosts that try ids, in one run or two of the same sets and context, alone or together."""
    views, evaluate = [], GuestVole.evaluate

    async def watched(self, store):
        def watch(host, slots):
            def note(way, kind, payload):
                if kind == "VoleSlots":
                    slots.append(msgspec.msgpack.decode(payload)[1]["slots"])

            host.observers.append(note)

        for host in self._hosts:
            views.append([])
            watch(host, views[-1])
        return await evaluate(self, store)

    monkeypatch.setattr(GuestVole, "evaluate", watched)
    sets = [numbered(*range(300)), numbered(*range(150, 450)), numbered(*range(150, 450))]
    for _ in range(2):
        align(sets, engine="vole")
    run = OprfRun(CONTEXT, seeded(1), lambda *step: None)
    tried = np.concatenate([buckets._Sorted(ids, 1, run).of(0) for ids in sets[:2]])
    seed = buckets._seed_of_guest(CONTEXT)
    assert views[0] == views[1] != views[2] == views[3]  # all hosts of a run are sent the same
    alone = [np.frombuffer(b"".join(slots), np.uint8).reshape(-1, 16) for slots in views[::2]]
    for view in (*alone, *(one ^ other for one, other in combinations(alone, 2))):
        # Of a bare store the sums at its ids are these halves; of the same noise twice nothing.
        at = okvs.decode(view, tried[:, :16], len(sets[0]), seed, buckets.PER_MILLE)
        for off in (at, at ^ tried[:, 16:]):
            assert off.any(axis=1).all()
            ones = np.unpackbits(off, axis=1).reshape(2, 300, 128).mean(axis=(1, 2))
            assert np.abs(ones - 0.5).max() < 6 * 0.5 / np.sqrt(300 * 128)
        assert len(np.unique(view, axis=0)) == len(view)


# Buckets.


def test_a_bucket_has_room_for_what_falls_into_it():
    draw = np.random.default_rng(2)
    for ids, count in ((0, 1), (5, 1), (70_000, 2), (1_000_000, 16), (3_000, 40)):
        room = buckets.room(ids, count)
        assert room <= ids
        for _ in range(20):
            assert np.bincount(draw.integers(0, count, ids), minlength=count).max(initial=0) <= room
    # Chernoff's bound for a bucket of a million ids in 16: far below 2^-64 / 16.
    n, p, most = 1_000_000, 1 / 16, buckets.room(1_000_000, 16) + 1
    q = most / n
    log2 = -n * (q * np.log2(q / p) + (1 - q) * np.log2((1 - q) / (1 - p)))
    assert -80 < log2 < -68
    assert buckets.room(100_000_000, Buckets.of(100_000_000).count) < 1.05 * buckets.BUCKET


def test_chunks_are_of_all_buckets_in_order():
    for ids in (0, 1, 65_536, 65_537, 1_000_000, 10_000_000):
        cut = Buckets.of(ids)
        assert [bucket for chunk in cut.chunks() for bucket in chunk] == list(range(cut.count))
        assert all(len(chunk) * cut.slots <= vole_oprf.CHUNK for chunk in cut.chunks())


def test_several_buckets_and_chunks(small_buckets):
    sets = [numbered(*range(150)), numbered(*range(90, 400)), numbered(*range(60, 140))]
    check(sets, align(sets, engine="vole"))
    # Few against many, both ways.
    for few, many in ((3, 400), (400, 3)):
        check(both := [numbered(*range(few)), numbered(*range(many))], align(both, engine="vole"))


def test_a_host_of_many_ids_holds_a_few_at_a_time(monkeypatch):
    """One bucket of the guest's, and whatever the host does goes by its parts."""
    monkeypatch.setattr(buckets, "STORE", 500)
    monkeypatch.setattr(buckets, "SLOTS", 64)
    held = []

    def watch(of, name):
        call = getattr(of, name)

        def watched(*given):
            held.extend(len(one) for one in given if isinstance(one, np.ndarray))
            return call(*given)

        monkeypatch.setattr(of, name, watched)

    for of, name in ((okvs, "encode"), (okvs, "decode"), (buckets.TagRows, "__init__")):
        watch(of, name)
    guests = numbered(*range(0, 9_000, 90))
    sets = [guests, numbered(*range(8_000)), numbered(*range(30, 8_400))]
    check(sets, align(sets, engine="vole"))
    assert Buckets.of(len(guests)).count == 1
    slots = [okvs.slots(buckets.room(*of), buckets.PER_MILLE) for of in ((8_000, 16), (8_370, 17))]
    assert max(held) <= max(slots) < 1_100


def test_parts_of_a_bucket_are_cut_by_numbers_of_ids_alone():
    few, many = Buckets.of(10_000), Buckets.of(100_000_000)
    assert few.parts_of(10_000_000) == 39
    assert few.parts_of(100_000_000) == 382
    assert few.parts_of(buckets.STORE) == many.parts_of(100_000_000) == few.parts_of(0) == 1
    # Each part lies in one bucket, and the number of each fits the two bytes that it has.
    ids = np.random.default_rng(4).integers(0, 256, (1_000, 32), np.uint8)
    assert (buckets._bucket_of(ids, 7 * 13) // 13 == buckets._bucket_of(ids, 7)).all()
    for guests in (0, 1, 10_000, 1_000_000, buckets.MAX_IDS):
        cut = Buckets.of(guests)
        assert cut.count * cut.parts_of(buckets.MAX_IDS) <= 1 << 16


@pytest.mark.parametrize("parties", [2, 3])
def test_the_same_rows_as_by_exponents(small_buckets, parties):
    draw = np.random.default_rng(parties)
    sets = [numbered(*draw.permutation(160)[:120].tolist()) for _ in range(parties)]
    by_vole, by_exponents = (align(sets, engine=engine) for engine in ("vole", "ecdh"))
    for one, other in zip(by_vole, by_exponents, strict=True):
        assert sorted(one) == sorted(other)


def test_sizes_of_messages_do_not_tell_how_full_a_bucket_is(small_buckets):
    """Types and sizes depend on the numbers of ids and what is common alone, but for what tags say."""

    def shape(sets):
        seen = []
        align(
            sets,
            engine="vole",
            allow_empty=True,
            watch=lambda way, kind, payload: seen.append((way, kind, len(payload))),
        )
        return sorted(seen)

    one = [numbered(*range(100)), numbered(*range(50, 150)), numbered(*range(40, 90))]
    other = [numbered(*range(300, 400)), numbered(*range(350, 450)), numbered(*range(340, 390))]
    assert shape(one) == shape(other)
    # A host of many cuts buckets by the numbers of ids, too.
    few = [numbered(*range(30)), numbered(*range(20, 520))]
    assert shape(few) == shape([numbered(*range(600, 630)), numbered(*range(110, 610))])


def test_pairwise_intersections_look_random(monkeypatch):
    """With several hosts, what a host's store gives at an id that not all have is uniform."""
    found = {}
    original = buckets._common

    def spy(rows, given):
        for number, one in enumerate(given):
            found[f"host{number}"] = one.shares[np.argsort(rows)]
        return original(rows, given)

    monkeypatch.setattr(buckets, "_common", spy)
    sets = [numbered(*range(300)), numbered(*range(200)), numbered(*range(100, 300))]
    align(sets, engine="vole")
    for shares in found.values():
        ones = np.unpackbits(shares[:, : buckets.SHARE], axis=1)
        assert np.abs(ones.mean(axis=0) - 0.5).max() < 6 * 0.5 / np.sqrt(len(shares))
        assert ones.any(axis=1).all()
    common = ~(found["host0"] ^ found["host1"]).any(axis=1)
    assert np.flatnonzero(common).tolist() == list(range(100, 200))


@pytest.mark.parametrize("twice_at", [0, 1])
def test_ids_must_be_distinct(twice_at):
    sets = [numbered(1, 2, 3), numbered(1, 2, 3)]
    sets[twice_at] = [*sets[twice_at], sets[twice_at][0]]
    with pytest.raises(ValueError, match="ids must be distinct"):
        align(sets, engine="vole")


def test_the_minimum_of_a_host_ends_the_run():
    sets = [numbered(*range(12)), numbered(*range(20))]
    with pytest.raises(Refused, match="12 rows, fewer than this party's minimum of 100"):
        align(sets, engine="vole", of_hosts={0: {"minimum": 100}})


def test_more_ids_than_the_other_engines_take():
    assert PsiSettings("vole").limit > 1_000_000_000 > PsiSettings("ot").limit == psi.MAX_IDS
    instead = r': take engine = "vole" in \[align\], which takes 2,000,000,000 and which every host'
    with pytest.raises(DataError, match=f"^3 ids, more than the 2 that the engine ot takes{instead}"):
        align([numbered(1, 2, 3), numbered(1)], engine="ot", max_ids=2)
    with pytest.raises(DataError, match=r"^3 ids, more than the 2 that the engine vole takes$"):
        align([numbered(1, 2, 3), numbered(1)], engine="vole", max_ids=2)


# Hostile peers: as they should be, but for one message.


def spoilt(kind, change, *, by, ids=60, quiet=True):
    """An alignment in which `by`, guest or host, changes its first message of a kind.

    quiet: that party's own errors do not count.
    """
    seen = Counter()

    def opened(to_host, to_guest):
        peer = to_host if by == "guest" else to_guest
        send = peer.send

        async def changed(message):
            if isinstance(message, kind):
                message = change(message) if not seen[kind] else message
                seen[kind] += 1
            await send(message)

        peer.send = changed

    settings = PsiSettings("vole")
    own = numbered(*range(ids))

    async def whatever(role):
        """The hostile party's role, whose own errors are of no interest."""
        try:
            return await role
        except VflError:
            await asyncio.Event().wait()

    def guest(peers):
        role = guest_align(peers, own, context=CONTEXT, settings=settings)
        return whatever(role) if quiet and by == "guest" else role

    def host(name, peer):
        role = host_align(peer, own, Participant(name, context=CONTEXT), settings=settings)
        return whatever(role) if quiet and by == "host" else role

    return over_memory([HOST], guest, host, opened=opened)


def field_changed(name, change):
    """A message with one field changed."""
    return lambda message: msgspec.structs.replace(message, **{name: change(getattr(message, name))})


def flipped(data):
    """Each byte other than it was."""
    return bytes(byte ^ 1 for byte in data)


SIZES = {
    "none": lambda data: b"",
    "less": lambda data: data[:-1],
    "more": lambda data: data + b"\0",
}
SIZED = {
    "guest": {
        (VoleKeys, "points"): "VoleKeys with another number of elements",
        (VoleBits, "columns"): "VoleBits of another size than due",
        (VoleBits, "sums"): "VoleBits of another size than due",
        (VoleChallenge, "challenge"): "VoleChallenge of another size than due",
        (VoleSlots, "slots"): "VoleSlots with another number of rows than announced",
        (VoleCoin, "coin"): "VoleCoin of another size than due",
        (BucketCounts, "counts"): "BucketCounts with another number of buckets",
        (BucketTags, "tags"): "BucketTags with another number of rows than announced",
    },
    "host": {
        (VoleChoices, "points"): "VoleChoices with another number of elements",
        (VoleTrees, "sums"): "VoleTrees of another size than due",
        (VoleTrees, "commitment"): "VoleTrees of another size than due",
        (VoleProof, "proof"): "VoleProof of another size than due",
        (VoleOpening, "coin"): "VoleOpening of another coin than it committed to",
        (BucketStores, "slots"): "BucketStores with another number of rows than announced",
    },
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("by", "kind", "field", "text"),
    [(by, *message, text) for by, texts in SIZED.items() for message, text in texts.items()],
)
def test_messages_of_a_wrong_size_are_refused(by, kind, field, text, size):
    sender = "guest" if by == "guest" else HOST
    with pytest.raises(PeerError, match=rf"{sender} broke the protocol: it sent {text}"):
        spoilt(kind, field_changed(field, SIZES[size]), by=by)


INVALID = [bytes(32), b"\xff" * 32, b"\1" + bytes(31)]  # the identity, not canonical, negative
CONTENT = {
    "guest": [
        *(
            (VoleKeys, "points", lambda p, bad=bad: bad + p[32:], "an invalid element")
            for bad in INVALID
        ),
        (VoleKeys, "points", lambda p: p[32:64] + p[32:], "an element twice"),
        (VoleBits, "columns", flipped, "that fail the check"),
        (VoleBits, "columns", lambda data: bytes(len(data)), "that fail the check"),
        (VoleBits, "sums", flipped, "that fail the check"),
        (VoleBits, "sums", lambda data: bytes(len(data)), "that fail the check"),
        (BucketCounts, "counts", lambda c: b"\xff" * len(c), "with more rows than there are"),
        (BucketTags, "tags", flipped, "with a tag that is unknown or repeated"),
        (BucketTags, "tags", lambda tags: tags[:10] * (len(tags) // 10), "unknown or repeated"),
    ],
    "host": [
        *(
            (VoleChoices, "points", lambda p, b=bad: p[:-32] + b, "an invalid element")
            for bad in INVALID
        ),
        (VoleChoices, "points", lambda p: p[32:64] + p[32:], "an element twice"),
        (VoleTrees, "sums", flipped, "that fail the check"),
        (VoleTrees, "sums", lambda data: bytes(len(data)), "that fail the check"),
        (VoleTrees, "sums", lambda data: data[:-1] + flipped(data[-1:]), "that fail the check"),
        (VoleTrees, "commitment", flipped, "of another coin than it committed to"),
        (VoleProof, "proof", flipped, "that fail the check"),
        (VoleOpening, "coin", flipped, "of another coin than it committed to"),
    ],
}


@pytest.mark.parametrize(
    ("by", "kind", "field", "change", "text"),
    [(by, *case) for by, cases in CONTENT.items() for case in cases],
)
def test_messages_with_a_wrong_content_are_refused(by, kind, field, change, text):
    sender = "guest" if by == "guest" else HOST
    with pytest.raises(PeerError, match=rf"{sender} broke the protocol: it sent \w+ .*{text}"):
        spoilt(kind, field_changed(field, change), by=by)


@pytest.mark.parametrize(("kind", "by"), [(VoleSlots, "guest"), (BucketStores, "host")])
def test_stores_of_garbage_have_nothing_in_common(kind, by):
    """Whoever sends one loses ids, and nobody learns which."""
    garbage = field_changed("slots", lambda slots: np.random.default_rng(1).bytes(len(slots)))
    with pytest.raises(DataError, match="no id is common"):
        spoilt(kind, garbage, by=by, quiet=False)


@pytest.mark.parametrize(
    ("kind", "field", "by", "text"),
    [
        (VoleBits, "columns", "guest", "VoleBits that fail the check"),
        (VoleTrees, "sums", "host", "VoleTrees that fail the check"),
        (VoleProof, "proof", "host", "VoleTrees that fail the check"),
        (VoleOpening, "coin", "host", "another coin than it committed to"),
        (BucketTags, "tags", "guest", "unknown or repeated"),
    ],
)
def test_what_was_said_in_another_run_is_refused(kind, field, by, text):
    kept = []

    def keep(message):
        kept.append(message)
        return message

    spoilt(kind, keep, by=by)
    with pytest.raises(PeerError, match=text):
        spoilt(kind, field_changed(field, lambda _: getattr(kept[0], field)), by=by)


@pytest.mark.parametrize(
    ("kind", "by", "other"),
    [
        (VoleKeys, "guest", VoleBits(b"", b"")),
        (VoleBits, "guest", VoleSlots(b"")),
        (VoleChallenge, "guest", VoleCoin(bytes(32))),
        (VoleSlots, "guest", VoleCoin(bytes(32))),
        (VoleCoin, "guest", BucketCounts(b"")),
        (VoleChoices, "host", VoleTrees(b"", b"")),
        (VoleTrees, "host", VoleProof(bytes(32))),
        (VoleProof, "host", VoleOpening(bytes(32))),
        (VoleOpening, "host", BucketStores(b"")),
    ],
)
def test_messages_out_of_turn_are_refused(kind, by, other):
    with pytest.raises(
        PeerError, match=rf"{type(other).__name__} where {kind.__name__} or Stop was due"
    ):
        spoilt(kind, lambda message: other, by=by)


def test_a_host_counts_the_rows_of_a_bucket(small_buckets):
    """More common rows in a bucket than it has, where the sum is what it should be."""

    def moved(counts):
        numbers = np.frombuffer(counts, "<u4").copy()
        numbers[0] += numbers[1:].sum()
        numbers[1:] = 0
        return numbers.tobytes()

    with pytest.raises(PeerError, match="BucketCounts with more rows than there are"):
        spoilt(BucketCounts, field_changed("counts", moved), by="guest", ids=100)


def test_chunk_sizes_fit_the_limits():
    for size in (silent.Size(1), silent.Size(vole_oprf.CHUNK), silent.Size(100 * vole_oprf.CHUNK)):
        columns = bits.SECRET * bits.column_bytes(size.bits)
        wire.encode(VoleBits(bytes(columns), bytes(bits.SUMS)))
        wire.encode(VoleTrees(bytes(size.sums), bytes(vole_oprf.COIN)))
    wire.encode(VoleSlots(bytes(vole_oprf.SLOTS * 16)))
    wire.encode(BucketStores(bytes(buckets.SLOTS * buckets.SHARE)))
    wire.encode(BucketTags(bytes(buckets.SLOTS * buckets.TAG)))
    wire.encode(BucketCounts(bytes(4 * Buckets.of(buckets.MAX_IDS).count)))


def test_a_million_ids_take_the_bytes_that_the_documents_say():
    cut, vole = Buckets.of(1_000_000), 0
    for chunk in cut.chunks():
        size = silent.Size(cut.slots * len(chunk), first=not chunk.start)
        vole += bits.SECRET * bits.column_bytes(size.bits) + bits.SUMS + size.sums
    slots = cut.count * cut.slots
    assert 22e6 < vole + 16 * slots < 23e6
    assert 11.5e6 < buckets.SHARE * slots < 12.5e6
