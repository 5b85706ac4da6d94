"""Alignment: the intersection of all, in one order; nothing else on the wire; hostile peers."""

import asyncio
import contextlib
import datetime
import errno
import hashlib
import itertools
import os
import random
import time

import arguments
import msgspec
import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from dealt_transfers import dealt_transfers
from drawn import seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import over_memory

from vfl.blocks import scratch
from vfl.crypto import group, okvs
from vfl.errors import DataError, PeerError, PeerStopped, Refused, VflError
from vfl.net import wire
from vfl.net.peer import MemoryPeer, Peer, stop_all, together
from vfl.party.ids import normalise
from vfl.protocols.align import buckets, dh_oprf, oprf, ot_oprf, psi, star, vole_oprf
from vfl.protocols.align.dh_oprf import BlindedIds, EvaluatedIds
from vfl.protocols.align.psi import (
    AlignKey,
    AlignKeys,
    AlignStart,
    PsiSettings,
    guest_align,
    host_align,
)
from vfl.protocols.align.star import AlignStore, CommonRows, CommonTags
from vfl.protocols.align.tags import TagRows
from vfl.protocols.common import fellows, transfers
from vfl.protocols.common.participant import Participant

CONTEXT = b"job 7, run 1"
KINDS = {
    kind.__name__: kind
    for module in (psi, dh_oprf, ot_oprf, transfers, vole_oprf, buckets, star)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, wire.Message) and kind is not wire.Message
}
HOST = "host0"
ENGINES = ["ecdh", "ot", "vole"]


async def guest(peers, ids, **options):
    settings = arguments.psi_settings(options)
    return (await guest_align(peers, ids, **{"context": CONTEXT} | options, settings=settings)).rows


async def host(peer, ids, name=HOST, hosts=(), **options):
    own = arguments.participant(name, hosts, options := {"context": CONTEXT} | options)
    settings = arguments.psi_settings(options)
    return (await host_align(peer, ids, own, **options, settings=settings)).rows


def align(sets, *, context=CONTEXT, watch=None, of_guest=None, of_hosts=None, **both):
    """Rows of every party, guest first; `hosts` are further arguments by host's number."""
    names = [f"host{j}" for j in range(len(sets) - 1)]

    def watched(to_host, _):
        if watch is not None:
            to_host.observers.append(watch)

    def one(name, peer):
        j = names.index(name)
        own = (of_hosts or {}).get(j, {})
        return host(peer, sets[1 + j], name, names, context=context, **both, **own)

    return over_memory(
        names,
        lambda peers: guest(peers, sets[0], context=context, **both, **(of_guest or {})),
        one,
        opened=watched,
    )


def check(sets, rows):
    """All parties' rows are of the same ids, in the same order, and of all that are common."""
    ids = [[own[row] for row in of] for own, of in zip(sets, rows, strict=True)]
    assert all(of == ids[0] for of in ids)
    assert sorted(ids[0]) == sorted(set.intersection(*map(set, sets)))
    assert all(of.dtype == np.int64 for of in rows)


def numbered(*numbers):
    return [b"policy %d" % number for number in numbers]


SETS = st.integers(2, 5).flatmap(
    lambda parties: st.lists(
        st.lists(st.integers(0, 15), unique=True, max_size=14).map(lambda n: numbered(*n)),
        min_size=parties,
        max_size=parties,
    )
)


@given(SETS)
@settings(max_examples=40)
def test_is_the_set_intersection(sets):
    check(sets, align(sets, allow_empty=True))


@given(SETS)
@settings(max_examples=8)
def test_is_the_set_intersection_by_transfers(sets):
    with dealt_transfers():
        check(sets, align(sets, allow_empty=True, engine="ot"))


@pytest.mark.parametrize(
    ("parties", "engine"), [(2, "ecdh"), (3, "ecdh"), (5, "ecdh"), (2, "ot"), (3, "ot")]
)
@pytest.mark.parametrize(
    "make",
    [
        lambda j: [],
        lambda j: numbered(1) if j else [],
        lambda j: [] if j == 1 else numbered(1, 2),
        lambda j: numbered(1),
        lambda j: numbered(j),
        lambda j: numbered(*range(30)),
        lambda j: numbered(*range(10 * j, 10 * j + 10)),
        lambda j: numbered(*range(j, j + 20)),
        lambda j: [b"", b"\0", b"\0\0", b"x" * 1000, bytes([9 + j])],
    ],
)
def test_shapes_of_sets(parties, engine, make):
    sets = [make(j) for j in range(parties)]
    with dealt_transfers():
        check(sets, align(sets, allow_empty=True, engine=engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_several_chunks(monkeypatch, tmp_path, engine):
    monkeypatch.setattr(scratch, "OF_A_ROW_EACH", 1)
    monkeypatch.setattr(dh_oprf, "CHUNK", 16)
    monkeypatch.setattr(ot_oprf, "BLOCK", 60)
    monkeypatch.setattr(ot_oprf, "SLICE", 50)
    monkeypatch.setattr(star, "SLOTS", 32)
    monkeypatch.setattr(buckets, "BUCKET", 24)
    monkeypatch.setattr(buckets, "CHUNK", 300)
    monkeypatch.setattr(buckets, "SLOTS", 50)
    monkeypatch.setattr(buckets, "AT_ONCE", 40)
    monkeypatch.setattr(vole_oprf, "SLOTS", 70)
    pool = random.Random(1)
    sets = [pool.sample(numbered(*range(150)), size) for size in (120, 90, 131)]
    seen = []
    rows = align(
        sets,
        of_guest={"progress": lambda *step: seen.append(step)},
        engine=engine,
        scratch=tmp_path,  # large arrays in files, of which none is left
    )
    check(sets, rows)
    assert not list(tmp_path.iterdir())
    assert ("matching ids with host1", 120, 120) in seen
    assert all(done <= total for _, done, total in seen)
    assert len([what for what, _, _ in seen if what == "matching ids with host0"]) > 3


def test_large_arrays_lie_in_files(tmp_path):
    made = oprf.empty(scratch.OF_A_ROW_EACH // 16, 16, tmp_path)
    made[:] = 7
    assert made.shape == (scratch.OF_A_ROW_EACH // 16, 16)
    assert type(made) is np.ndarray  # for the compiler, which knows no other kind
    assert isinstance(made.base, np.memmap)
    assert oprf.empty(10, 16, tmp_path).base is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("why", ["no folder", "no room"])
def test_no_room_for_an_array(tmp_path, monkeypatch, why):
    if why == "no folder":
        tmp_path = tmp_path / "none"
    else:

        def full(*arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(VflError, match=r"no room for 64 MB of an alignment .*: free some") as failed:
        oprf.empty(1_000_000, 64, tmp_path)
    assert str(tmp_path) not in failed.value.for_peer


@pytest.mark.parametrize(
    ("engine", "ids", "size"), [("ecdh", 20_000_000, "416"), ("vole", 2_000_000_000, "5")]
)
def test_a_host_takes_no_more_memory_than_there_is_disk(tmp_path, monkeypatch, engine, ids, size):
    """Whatever number of ids it says that it has; by buckets a part of them at a time."""

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def host(peer):
        await peer.recv(AlignStart)
        await peer.send(AlignKey(ids, bytes(32), b""))
        await peer.recv(AlignKeys)
        if engine == "ecdh":
            await peer.send(EvaluatedIds((await peer.recv(BlindedIds)).points))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(VflError, match=rf"no room for {size} MB of an alignment .*: free some"):
        against_guest(host, engine=engine, scratch=tmp_path)


@pytest.mark.parametrize("engine", ENGINES)
def test_ids_enough_for_the_kernels(engine):
    # More than `vfl.crypto.digests` leaves to hashlib, and than one thread takes.
    sets = [numbered(*range(9000)), numbered(*range(4000, 13_000)), numbered(*range(2000, 8000))]
    check(sets, align(sets, engine=engine))


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "size"), [("ecdh", 200_000), ("ot", 2_000_000), ("vole", 2_000_000)])
def test_many_ids(engine, size, tmp_path):
    sets = [numbered(*range(size)), numbered(*range(size // 2, 3 * size // 2))]
    check(sets, align(sets, engine=engine, scratch=tmp_path))


# How a party may write an id: every normaliser, some in a row, several columns.


def _cut(text, source, separators):
    return "".join(source.choice(separators) + letter for letter in text)


def _cased(text, source):
    return "".join(source.choice([letter.upper(), letter.lower()]) for letter in text)


def _wide(text, source):
    return "".join(source.choice([c, chr(ord(c) + 0xFEE0)]) for c in text)


def _date(number, source):
    day = datetime.date(2019, 11, 1) + datetime.timedelta(days=17 * number)
    written = source.choice(["%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%Y%m%d", "%d %b %Y", "%b %d, %Y"])
    return source.choice(["", " "]) + day.strftime(written)


def _vin(number, source):
    confused = {"0": "0OQoq", "1": "1Ii"}
    plain = f"WVWZZZ1KZ{number:08d}"
    return _cut(
        [source.choice(confused.get(c, c + c.lower())) for c in plain], source, ["", "", "", " ", "-"]
    )


def _phone(number, source):
    rest = _cut(f"20{7_000_000 + number}", source, ["", "", " ", "-"])
    return source.choice(["+44", "+44 (0)", "0044 ", "0"]) + rest


WRITERS = {
    "trim": lambda n, source: source.choice(["", " ", "\t "]) + f"no {n}" + source.choice(["", "  "]),
    "upper": lambda n, source: _cased(f"policy {n}", source),
    "nfkc": lambda n, source: _wide(f"a{n}", source),
    # A digit first: a hyphen before a number is a sign.
    "digits": lambda n, source: "0" + _cut(f"{n:04d}", source, ["", "-", " ", "x"]),
    "nozeros": lambda n, source: "0" * source.randrange(4) + str(n + 1),
    "alnum": lambda n, source: _cut(f"AB{n}", source, ["", " ", "-", "/"]),
    "vin": _vin,
    "plate": lambda n, source: _cut(_cased(f"AB{n:03d}XY", source), source, ["", "", "-", " "]),
    "date": _date,
    "phone:44": _phone,
    "nfkc trim upper nozeros": lambda n, source: (
        " " + _wide("0" * source.randrange(3) + _cased(f"{n + 1}ab", source), source)
    ),
}


def written(rule, numbers, seed):
    """A party's normalised ids, each written in a way of its own."""
    source = random.Random(seed)
    writers = [WRITERS[steps] for steps in rule.split(" | ")]
    columns = [[write(number, source) for number in numbers] for write in writers]
    return normalise(columns, [steps.split() for steps in rule.split(" | ")]).ids


NUMBERS = st.lists(
    st.lists(st.integers(0, 20), unique=True, min_size=1, max_size=16), min_size=2, max_size=5
)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rule", [*WRITERS, "plate | date", "upper | nozeros | phone:44"])
def test_every_normaliser(rule, engine):
    @given(NUMBERS, st.integers(0, 2**32))
    @settings(max_examples=8 if engine == "ecdh" else 2)
    def check_rule(numbers, seed):
        sets = [written(rule, own, seed + j) for j, own in enumerate(numbers)]
        rows = align(sets, allow_empty=True, engine=engine)
        check(sets, rows)
        # Rows are those of the parties' tables: the same vehicle, however each wrote it.
        found = [{own[row] for row in of} for own, of in zip(numbers, rows, strict=True)]
        assert all(of == set.intersection(*map(set, numbers)) for of in found)

    with dealt_transfers():
        check_rule()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_order_is_of_the_run(engine):
    sets = [numbered(*range(40)), numbered(*range(40))]
    orders = [align(sets, context=context, engine=engine)[0].tolist() for context in (b"a", b"a", b"b")]
    assert len({tuple(order) for order in orders}) == 3
    assert all(order != sorted(order) for order in orders)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_secret_fixes_the_transcript(engine):
    def run(context):
        seen = []
        align(
            [numbered(*range(20)), numbered(*range(5, 25))],
            context=context,
            engine=engine,
            of_guest={"randomness": seeded(1)},
            of_hosts={0: {"randomness": seeded(2)}},
            watch=lambda direction, kind, payload: seen.append((kind, payload)),
        )
        return seen

    first, again, other = run(b"a"), run(b"a"), run(b"b")
    assert first == again
    # With the same scalars too, runs of different contexts share no element and no tag.
    for one, two in zip(first, other, strict=True):
        if one[0] in ("BlindedIds", "EvaluatedIds", "ExtensionColumns", "AlignStore", "CommonTags"):
            a, b = (wire.decode(m, [KINDS[k]]) for k, m in (one, two))
            a, b = (msgspec.structs.astuple(m)[0] for m in (a, b))
            words = [{m[i : i + 16] for i in range(0, len(m), 16)} for m in (a, b)]
            # of a store with fixed filling, the free slots are equal
            assert one[0] == "AlignStore" or not words[0] & words[1]


def test_empty_intersection():
    sets = [numbered(1, 2), numbered(3), numbered(1)]
    with pytest.raises(DataError, match="no id is common") as failed:
        align(sets)
    assert failed.value.for_peer == "no id is common to all parties"
    assert "policy" not in str(failed.value)
    assert [len(of) for of in align(sets, allow_empty=True, minimum=5)] == [0, 0, 0]


def test_minimum():
    sets = [numbered(*range(12)), numbered(*range(20))]
    check(sets, align(sets, minimum=12))
    text = "the intersection has 12 rows, fewer than this party's minimum of 100"
    with pytest.raises(Refused, match=text) as refused:
        align(sets, of_hosts={0: {"minimum": 100}})
    assert refused.value.for_peer == text
    with pytest.raises(Refused, match=text):
        align(sets, of_guest={"minimum": 100})


def test_own_ids_are_checked():
    with pytest.raises(ValueError, match="distinct"):
        align([numbered(1, 1), numbered(1)])
    with pytest.raises(ValueError, match="distinct"):
        align([numbered(1), numbered(1, 1)])
    with pytest.raises(DataError, match="3 ids, more than the 2"):
        align([numbered(1, 2, 3), numbered(1)], max_ids=2)


# What is on the wire.


def transcript(sets, **options):
    seen = []
    align(
        sets,
        allow_empty=True,
        watch=lambda direction, kind, payload: seen.append((direction, kind, payload)),
        **options,
    )
    return seen


@pytest.mark.parametrize("engine", ENGINES)
def test_no_id_on_the_wire(engine):
    sets = [numbered(*range(1000, 1030)), numbered(*range(1010, 1040)), numbered(*range(1000, 1040))]
    frames = b"".join(payload for _, _, payload in transcript(sets, engine=engine))
    for one in set().union(*sets):
        assert one not in frames
        hashed = [
            hashlib.new(name, prefix + one).digest()
            for name in ("md5", "sha1", "sha256", "sha512", "blake2b", "sha3_256")
            for prefix in (b"", CONTEXT)
        ]
        element = group.hash_to_group([one], CONTEXT).tobytes()
        for digest in [*hashed, element, ot_oprf._hash_ids([one], CONTEXT).tobytes()]:
            assert digest not in frames
            assert digest[:16] not in frames


@pytest.mark.parametrize("engine", ENGINES)
def test_only_sizes_show(engine):
    """Types and sizes of the messages depend on the sizes of the sets and the result alone."""

    def shape(sets):
        # Sorted: how the messages of several hosts interleave is up to the clock.
        return sorted(
            (way, kind, len(payload)) for way, kind, payload in transcript(sets, engine=engine)
        )

    one = [numbered(*range(30)), numbered(*range(10, 50)), numbered(*range(20, 40))]
    other = [numbered(*range(30)), numbered(*range(20, 60)), numbered(*range(20, 40))]
    assert shape(one) == shape(other)


def ones_in_shares(monkeypatch, sets, runs):
    """How many bits are set in what the guest finds for each host and id, summed over runs."""
    ones, keep = np.zeros((len(sets) - 1, len(sets[0])), np.int64), []
    original = star._shares_in

    def spy(store, size, own, host, context):
        shares = original(store, size, own, host, context)
        keep.append((int(host[-1]), shares))
        return shares

    monkeypatch.setattr(star, "_shares_in", spy)
    for _ in range(runs):
        keep.clear()
        align(sets)
        for host, shares in keep:
            ones[host] += np.unpackbits(shares, axis=1).sum(axis=1, dtype=np.int64)
    return ones


def test_pairwise_intersections_are_hidden(monkeypatch):
    """Whether one host has an id does not show in what the guest finds in that host's store.

    Ids that both hosts, one or none have: each host's shares alone are fair bits, within five
    standard deviations. (The intersection is what both shares tell together.)
    """
    sets, runs = [numbered(0, 1, 2, 3), numbered(0, 1), numbered(0, 2)], 40
    bits = runs * 128
    ones = ones_in_shares(monkeypatch, sets, runs)
    assert np.abs(ones - bits / 2).max() < 5 * np.sqrt(bits / 4)


def test_with_one_host_the_shares_are_the_intersection(monkeypatch):
    # The control of the test above: here they must show, and do.
    ones = ones_in_shares(monkeypatch, [numbered(0, 1, 2, 3), numbered(0, 1)], 1)
    assert (ones[0] == 0).tolist() == [True, True, False, False]


def test_shares_of_all_hosts_cancel_and_of_fewer_do_not():
    names = ["a", "b", "c", "d"]
    private = [X25519PrivateKey.generate() for _ in names]
    keys = AlignKeys([p.public_key().public_bytes_raw() for p in private], [b""] * 4)
    ids = numbered(*range(50))

    def shares(context):
        return [
            np.bitwise_xor.reduce(
                [
                    star._share(key, ids)
                    for key in fellows.secrets_with_fellows(
                        own, keys.public_keys, keys.signatures, Participant(name, names, context)
                    ).values()
                ]
            )
            for name, own in zip(names, private, strict=True)
        ]

    of = shares(CONTEXT)
    for count in (1, 2, 3):
        for some in itertools.combinations(of, count):
            assert np.bitwise_xor.reduce(some).any(axis=1).all()
    assert not np.bitwise_xor.reduce(of).any()
    assert not (of[0] == shares(b"another run")[0]).all(axis=1).any()


def test_tags_are_found_whatever_they_begin_with():
    rng = np.random.default_rng(3)
    tags = rng.integers(0, 256, (300, 16), dtype=np.uint8)
    tags[:100, :8] = tags[0, :8]  # in a hundred the first half is the same
    order = rng.permutation(300)
    found = TagRows(tags[order])
    assert np.array_equal(order[found.rows(tags)], np.arange(300))
    unknown = tags.copy()
    unknown[:, 15] ^= 1
    assert (found.rows(unknown) == -1).all()
    assert TagRows(tags[:0]).rows(tags[:5]).tolist() == [-1] * 5


@given(st.lists(st.integers(0, 3), max_size=8), st.booleans())
@settings(max_examples=60)
def test_repeats_are_seen(numbers, at_the_end):
    rows = np.zeros((len(numbers), 32), np.uint8)
    rows[:, -1 if at_the_end else 0] = numbers
    assert oprf.repeats(rows) == (len(set(numbers)) < len(numbers))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_event_loop_stays_alive(engine):
    async def run():
        to_host, to_guest = MemoryPeer.pair("guest", HOST)
        longest = 0.0

        async def watch():
            nonlocal longest
            while True:
                before = time.thread_time()
                await asyncio.sleep(0.005)
                longest = max(longest, time.thread_time() - before)

        watching = asyncio.create_task(watch())
        ids = numbered(*range(4000))
        await together(
            [
                guest([to_host], ids, engine=engine),
                host(to_guest, ids, engine=engine),
            ]
        )
        watching.cancel()
        return longest

    # The loop's own processor time between two looks; the work of this run is over a second of it.
    assert asyncio.run(run()) < 0.4


def test_every_message_says_what_it_reveals():
    for kind in KINDS.values():
        assert "Reveals:" in kind.__doc__
        assert "->" in kind.__doc__.splitlines()[0]


# Signed keys between hosts.


def signing(names):
    private = {name: Ed25519PrivateKey.generate() for name in names}

    def verify(name, signature, data):
        private[name].public_key().verify(signature, data)

    return {j: {"sign": private[name].sign, "verify": verify} for j, name in enumerate(names)}


def test_signed_keys():
    sets = [numbered(*range(j, 20)) for j in range(4)]
    check(sets, align(sets, of_hosts=signing(["host0", "host1", "host2"])))


def test_unsigned_or_foreign_keys_are_refused():
    sets = [numbered(1, 2), numbered(1), numbered(1)]
    options = signing(["host0", "host1"])
    with pytest.raises(PeerError, match=r"guest broke the protocol.*AlignKeys"):
        align(sets, of_hosts={0: options[0], 1: {}})
    foreign = signing(["host0", "host1"])
    with pytest.raises(PeerError, match=r"guest broke the protocol.*AlignKeys"):
        align(sets, of_hosts={0: options[0], 1: foreign[1]})


def test_what_a_host_signs_binds_run_hosts_name_and_key():
    base = (CONTEXT, ["a", "b"], "a", bytes(32))
    others = [
        (b"other", ["a", "b"], "a", bytes(32)),
        (CONTEXT, ["a"], "a", bytes(32)),
        (CONTEXT, ["a", "b"], "b", bytes(32)),
        (CONTEXT, ["a", "b"], "a", b"\1" * 32),
    ]
    assert len({fellows.key_statement(*case) for case in [base, *others]}) == 5


@pytest.mark.parametrize(("of_guest", "of_host"), [("ecdh", "ot"), ("ot", "ecdh")])
def test_parties_of_different_engines_refuse_each_other(of_guest, of_host):
    sets = [numbered(1, 2), numbered(1, 2)]
    with pytest.raises(PeerError, match=r"broke the protocol: it sent \w+ where \w+ or Stop was due"):
        align(sets, of_guest={"engine": of_guest}, of_hosts={0: {"engine": of_host}})


# Hostile peers.


def against_guest(script, ids=None, **options):
    """The guest's role against a host that does as `script(peer)` says."""

    async def run():
        to_host, to_guest = MemoryPeer.pair("guest", HOST)
        hostile = asyncio.create_task(script(to_guest))
        try:
            return await guest([to_host], ids or numbered(1, 2, 3), **options)
        finally:
            hostile.cancel()
            with contextlib.suppress(asyncio.CancelledError, VflError):
                await hostile

    return asyncio.run(run())


def against_host(script, ids=None, **options):
    """A host's role against a guest that does as `script(peer)` says."""

    async def run():
        to_host, to_guest = MemoryPeer.pair("guest", HOST)
        hostile = asyncio.create_task(script(to_host))
        try:
            return await host(to_guest, ids or numbered(1, 2, 3), **options)
        finally:
            hostile.cancel()
            with contextlib.suppress(asyncio.CancelledError, VflError):
                await hostile

    return asyncio.run(run())


def points(n):
    return group.hash_to_group([b"%d" % i for i in range(n)], b"test").tobytes()


async def start(peer: Peer, ids: int = 3, hosts: list[str] | None = None) -> None:
    """An honest guest's first messages."""
    await peer.send(AlignStart(hosts or [HOST], ids))
    key = await peer.recv(AlignKey)
    await peer.send(AlignKeys([key.public_key], [key.signature]))


async def until_store(peer: Peer, ids: int = 3) -> bytes:
    """A guest up to step 5; returns the answers to its elements."""
    await start(peer, ids)
    await peer.send(BlindedIds(points(ids)))
    answer = await peer.recv(EvaluatedIds)
    await peer.recv(AlignStore)
    return answer.points


INVALID = [bytes(32), b"\xff" * 32, b"\1" + bytes(31)]  # the identity, not canonical, negative


@pytest.mark.parametrize("bad", INVALID)
def test_host_refuses_invalid_elements(bad):
    async def guest(peer):
        await start(peer)
        await peer.send(BlindedIds(points(2) + bad))

    with pytest.raises(PeerError, match=r"guest broke the protocol: it sent BlindedIds .* invalid"):
        against_host(guest)


@pytest.mark.parametrize("bad", INVALID)
def test_guest_refuses_invalid_elements(bad):
    async def host(peer):
        await peer.recv(AlignStart)
        await peer.send(AlignKey(3, bytes(32), b""))
        await peer.recv(AlignKeys)
        await peer.recv(BlindedIds)
        await peer.send(EvaluatedIds(points(2) + bad))

    with pytest.raises(PeerError, match=r"host0 broke the protocol: it sent EvaluatedIds .*invalid"):
        against_guest(host)


def test_host_refuses_an_element_twice():
    async def guest(peer):
        await start(peer)
        await peer.send(BlindedIds(points(2) + points(1)))

    with pytest.raises(PeerError, match=r"guest .* BlindedIds with an element twice"):
        against_host(guest)


@pytest.mark.parametrize("size", [0, 31, 64, 128])
def test_wrong_counts(size):
    async def guest(peer):
        await start(peer)
        await peer.send(BlindedIds(points(4)[:size]))

    async def host(peer):
        await peer.recv(AlignStart)
        await peer.send(AlignKey(3, bytes(32), b""))
        await peer.recv(AlignKeys)
        await peer.send(EvaluatedIds(points(4)[:size]))

    with pytest.raises(PeerError, match=r"guest .* BlindedIds with another number of rows"):
        against_host(guest)
    with pytest.raises(PeerError, match=r"host0 .* EvaluatedIds with another number of rows"):
        against_guest(host)


@pytest.mark.parametrize("slots", [0, -1, 1])
def test_guest_refuses_a_store_of_another_size(slots):
    async def host(peer):
        await peer.recv(AlignStart)
        await peer.send(AlignKey(3, bytes(32), b""))
        await peer.recv(AlignKeys)
        await peer.recv(BlindedIds)
        await peer.send(EvaluatedIds(points(3)))
        await peer.send(AlignStore(bytes(16 * (okvs.slots(3) + slots if slots else 0))))

    with pytest.raises(PeerError, match=r"host0 .* AlignStore with another number of rows"):
        against_guest(host)


@pytest.mark.parametrize("ids", [-1, 1001, 2**62])
def test_announced_numbers_of_ids(ids):
    async def guest(peer):
        await peer.send(AlignStart([HOST], ids))

    async def host(peer):
        await peer.recv(AlignStart)
        await peer.send(AlignKey(ids, bytes(32), b""))

    with pytest.raises(PeerError, match=r"guest .* AlignStart with a number of ids"):
        against_host(guest, max_ids=1000)
    with pytest.raises(PeerError, match=r"host0 .* AlignKey with a number of ids"):
        against_guest(host, max_ids=1000)


@pytest.mark.parametrize(
    "hosts", [[], ["other"], [HOST, "other"], [HOST, HOST], [HOST, *map(str, range(70))]]
)
def test_host_knows_who_takes_part(hosts):
    async def guest(peer):
        await peer.send(AlignStart(hosts, 3))

    with pytest.raises(PeerError, match=r"guest .* AlignStart with"):
        against_host(guest, hosts=[HOST])


def test_host_checks_the_keys():
    def answer(change, hosts=(HOST, "other")):
        async def guest(peer):
            await peer.send(AlignStart(list(hosts), 3))
            key = await peer.recv(AlignKey)
            await peer.send(AlignKeys(*change(key.public_key)))

        return guest

    fine = X25519PrivateKey.generate().public_key().public_bytes_raw()
    for change in [
        lambda own: ([own], [b""]),
        lambda own: ([own, fine], [b""]),
        lambda own: ([fine, own], [b"", b""]),
        lambda own: ([own, bytes(32)], [b"", b""]),  # of small order: the secret would be 0
        lambda own: ([own, b"short"], [b"", b""]),
    ]:
        with pytest.raises(PeerError, match=r"guest .* AlignKeys with"):
            against_host(answer(change))

    def refuse(name, signature, data):
        raise InvalidSignature

    with pytest.raises(PeerError, match=r"guest .* AlignKeys with an invalid key or signature"):
        against_host(answer(lambda own: ([own, fine], [b"", b""])), verify=refuse)


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_guest_checks_the_size_of_keys(key):
    async def host(peer):
        await peer.recv(AlignStart)
        await peer.send(AlignKey(3, key, b""))

    with pytest.raises(PeerError, match=r"host0 .* AlignKey with a key"):
        against_guest(host)


def test_host_refuses_unknown_tags():
    async def guest(peer):
        await until_store(peer)
        await peer.send(CommonRows(2))
        await peer.send(CommonTags(bytes(32)))

    with pytest.raises(PeerError, match=r"guest .* CommonTags with a tag that is unknown"):
        against_host(guest)


def test_host_refuses_repeated_tags():
    async def guest(peer):
        # A guest that knows one of the host's ids and claims it twice.
        await start(peer, 1)
        element = group.hash_to_group(numbered(1), CONTEXT)
        await peer.send(BlindedIds(element.tobytes()))
        answer = np.frombuffer((await peer.recv(EvaluatedIds)).points, np.uint8).reshape(1, 32)
        tag = star._tags(dh_oprf._output(numbered(1), answer, CONTEXT)).tobytes()
        await peer.recv(AlignStore)
        await peer.send(CommonRows(rows))
        await peer.send(CommonTags(tag * rows))

    rows = 1
    assert against_host(guest).tolist() == [0]  # the script is right when it claims it once
    rows = 2
    with pytest.raises(PeerError, match=r"guest .* CommonRows with more rows"):
        against_host(guest)

    async def guest_of_two(peer):
        await start(peer, 2)
        elements = group.hash_to_group(numbered(1, 77), CONTEXT)
        await peer.send(BlindedIds(elements.tobytes()))
        answer = np.frombuffer((await peer.recv(EvaluatedIds)).points, np.uint8).reshape(2, 32)
        tag = star._tags(dh_oprf._output(numbered(1), answer[:1], CONTEXT)).tobytes()
        await peer.recv(AlignStore)
        await peer.send(CommonRows(2))
        await peer.send(CommonTags(tag * 2))

    with pytest.raises(PeerError, match=r"guest .* CommonTags with a tag .* repeated"):
        against_host(guest_of_two)


@pytest.mark.parametrize("rows", [-1, 4, 2**40])
def test_host_refuses_impossible_numbers_of_rows(rows):
    async def guest(peer):
        await until_store(peer)
        await peer.send(CommonRows(rows))

    with pytest.raises(PeerError, match=r"guest .* CommonRows with more rows"):
        against_host(guest)


def test_host_refuses_no_rows():
    async def guest(peer):
        await until_store(peer)
        await peer.send(CommonRows(0))

    with pytest.raises(Refused, match="has 0 rows"):
        against_host(guest)
    assert against_host(guest, allow_empty=True).tolist() == []


def test_oversize_messages_are_refused(monkeypatch):
    async def guest(peer):
        await start(peer)
        monkeypatch.setattr(BlindedIds, "limit", wire.MAX_MESSAGE)
        payload = wire.encode(BlindedIds(bytes(dh_oprf.CHUNK * 32 + 4096)))
        monkeypatch.undo()
        await peer._put(peer._session + peer._sent.to_bytes(8, "big") + payload)

    with pytest.raises(PeerError, match=r"guest .* BlindedIds of .* bytes, over"):
        against_host(guest)


@pytest.mark.parametrize(
    "message", [CommonRows(1), EvaluatedIds(b""), AlignStart([HOST], 3), AlignStore(b"")]
)
def test_messages_out_of_turn(message):
    async def guest(peer):
        await start(peer)
        await peer.send(message)

    with pytest.raises(PeerError, match=r"guest .* where BlindedIds"):
        against_host(guest)


def test_a_stop_reaches_the_host():
    async def guest(peer):
        await start(peer)
        await stop_all([peer], DataError("x", for_peer="no id is common to all parties"))

    with pytest.raises(PeerStopped, match="no id is common"):
        against_host(guest)


def test_errors_show_no_ids():
    async def guest(peer):
        await until_store(peer)
        await peer.send(CommonRows(1))
        await peer.send(CommonTags(b"\xab" * 16))

    with pytest.raises(PeerError) as failed:
        against_host(guest, ids=[b"secret-%d" % i for i in range(5)])
    text = str(failed.value) + failed.value.for_peer
    assert "secret" not in text
    assert "abab" not in text


def test_chunk_sizes_fit_the_limits():
    for message in [
        BlindedIds(bytes(dh_oprf.CHUNK * 32)),
        EvaluatedIds(bytes(dh_oprf.CHUNK * 32)),
        AlignStore(bytes(star.SLOTS * 16)),
        CommonTags(bytes(star.SLOTS * 16)),
        AlignKeys([bytes(32)] * psi.MAX_HOSTS, [bytes(8 * 1024)] * psi.MAX_HOSTS),
    ]:
        wire.encode(message)


def test_guest_needs_hosts_of_different_names():
    async def run(names):
        peers = list(itertools.chain(*[MemoryPeer.pair("guest", n)[:1] for n in names]))
        await guest_align(peers, numbered(1), context=CONTEXT)

    for names in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="hosts"):
            asyncio.run(run(names))


# Who is let in.


def test_each_side_hears_how_many_ids_the_other_has():
    asked = []

    async def run():
        to_host, to_guest = MemoryPeer.pair("guest", HOST)
        settings = PsiSettings(admit=lambda peer, ids: asked.append((peer.name, ids)))
        own = Participant(HOST, (), CONTEXT)
        return await together(
            [
                guest_align([to_host], numbered(1, 2, 3), context=CONTEXT, settings=settings),
                host_align(to_guest, numbered(2, 3, 4, 5), own, settings=settings),
            ]
        )

    of_guest, of_host = asyncio.run(run())
    assert asked == [("guest", 3), (HOST, 4)]
    assert (of_guest.ids, of_guest.ids_of) == (3, {HOST: 4})
    assert (of_host.ids, of_host.ids_of) == (4, {"guest": 3})


def refuse(peer: Peer, ids: int) -> None:
    raise Refused(f"{ids} ids of {peer.name} are too many")


def test_a_guest_that_is_not_let_in_gets_no_answer():
    """Not even the number of the host's ids; whatever else is wrong with what it said."""
    for ids, hosts in ((3, [HOST]), (-1, [HOST]), (3, ["stranger"])):

        async def run(ids=ids, hosts=hosts):
            to_host, to_guest = MemoryPeer.pair("guest", HOST)
            await to_host.send(AlignStart(hosts, ids))
            own = Participant(HOST, (), CONTEXT)
            with pytest.raises(Refused, match=f"^{ids} ids of guest are too many"):
                await host_align(to_guest, numbered(1, 2), own, settings=PsiSettings(admit=refuse))
            return to_guest.traffic.sent_messages.total()

        assert asyncio.run(run()) == 0


def test_a_host_that_is_not_let_in_gets_no_key():
    async def host(peer):
        await peer.recv(AlignStart)
        await peer.send(AlignKey(7, bytes(32), b""))
        with pytest.raises(PeerError):
            await peer.recv(AlignKey)

    async def run():
        to_host, to_guest = MemoryPeer.pair("guest", HOST)
        hostile = asyncio.create_task(host(to_guest))
        with pytest.raises(Refused, match=f"^7 ids of {HOST} are too many"):
            await guest_align(
                [to_host], numbered(1), context=CONTEXT, settings=PsiSettings(admit=refuse)
            )
        hostile.cancel()
        return dict(to_host.traffic.sent_messages)

    assert asyncio.run(run()) == {"AlignStart": 1}
