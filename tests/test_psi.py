"""Alignment: the intersection of all, in one order; nothing else on the wire; hostile peers."""

import asyncio
import contextlib
import hashlib
import itertools
import random

import msgspec
import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from vfl.crypto import group, okvs
from vfl.errors import DataError, PeerError, PeerStopped, Refused, VflError
from vfl.net import wire
from vfl.net.peer import MemoryPeer, Peer, stop_all, together
from vfl.protocols import fellows, psi
from vfl.protocols.psi import (
    AlignKey,
    AlignKeys,
    AlignStart,
    AlignStore,
    BlindedIds,
    CommonRows,
    CommonTags,
    EvaluatedIds,
    guest_align,
    host_align,
)

CONTEXT = b"job 7, run 1"
HOST = "host0"


def align(sets, *, context=CONTEXT, watch=None, guest=None, hosts=None, **both):
    """Rows of every party, guest first; `hosts` are further arguments by host's number."""
    names = [f"host{j}" for j in range(len(sets) - 1)]

    async def run():
        pairs = [MemoryPeer.pair("guest", name) for name in names]
        if watch is not None:
            for to_host, _ in pairs:
                to_host.observers.append(watch)
        return await together(
            [
                guest_align([p[0] for p in pairs], sets[0], context=context, **both, **(guest or {})),
                *(
                    host_align(
                        to_guest,
                        ids,
                        context=context,
                        name=name,
                        hosts=names,
                        **both,
                        **(hosts or {}).get(j, {}),
                    )
                    for j, (name, (_, to_guest), ids) in enumerate(
                        zip(names, pairs, sets[1:], strict=True)
                    )
                ),
            ]
        )

    return asyncio.run(run())


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
@settings(max_examples=40, deadline=None)
def test_is_the_set_intersection(sets):
    check(sets, align(sets, allow_empty=True))


@pytest.mark.parametrize("parties", [2, 3, 5])
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
def test_shapes_of_sets(parties, make):
    sets = [make(j) for j in range(parties)]
    check(sets, align(sets, allow_empty=True))


def test_several_chunks(monkeypatch):
    monkeypatch.setattr(psi, "CHUNK", 16)
    monkeypatch.setattr(psi, "SLOTS", 32)
    pool = random.Random(1)
    sets = [pool.sample(numbered(*range(150)), size) for size in (120, 90, 131)]
    seen = []
    rows = align(sets, guest={"progress": lambda *step: seen.append(step)})
    check(sets, rows)
    assert ("blinding ids", 120, 120) in seen
    assert ("matching ids with host1", 112, 120) in seen
    assert ("blinding ids", 128, 120) not in seen


def test_the_order_is_of_the_run():
    sets = [numbered(*range(40)), numbered(*range(40))]
    orders = [align(sets, context=context)[0].tolist() for context in (b"a", b"a", b"b")]
    assert len({tuple(order) for order in orders}) == 3
    assert all(order != sorted(order) for order in orders)


def test_entropy_fixes_the_transcript():
    def run(context):
        seen = []
        align(
            [numbered(*range(20)), numbered(*range(5, 25))],
            context=context,
            entropy=lambda n: hashlib.shake_128(b"%d" % n).digest(n),
            watch=lambda direction, kind, payload: seen.append((kind, payload)),
        )
        return seen

    first, again, other = run(b"a"), run(b"a"), run(b"b")
    assert first == again
    # With the same scalars too, runs of different contexts share no element and no tag.
    for one, two in zip(first, other, strict=True):
        if one[0] in ("BlindedIds", "EvaluatedIds", "AlignStore", "CommonTags"):
            a, b = (wire.decode(m, [getattr(psi, k)]) for k, m in (one, two))
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
        align(sets, hosts={0: {"minimum": 100}})
    assert refused.value.for_peer == text
    with pytest.raises(Refused, match=text):
        align(sets, guest={"minimum": 100})


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


def test_no_id_on_the_wire():
    sets = [numbered(*range(1000, 1030)), numbered(*range(1010, 1040)), numbered(*range(1000, 1040))]
    frames = b"".join(payload for _, _, payload in transcript(sets))
    for one in set().union(*sets):
        assert one not in frames
        hashed = [
            hashlib.new(name, prefix + one).digest()
            for name in ("md5", "sha1", "sha256", "sha512", "blake2b", "sha3_256")
            for prefix in (b"", CONTEXT)
        ]
        element = group.hash_to_group([one], CONTEXT).tobytes()
        for digest in [*hashed, element]:
            assert digest not in frames
            assert digest[:16] not in frames


def test_only_sizes_show():
    """Types and sizes of the messages depend on the sizes of the sets and the result alone."""

    def shape(sets):
        # Sorted: how the messages of several hosts interleave is up to the clock.
        return sorted((way, kind, len(payload)) for way, kind, payload in transcript(sets))

    one = [numbered(*range(30)), numbered(*range(10, 50)), numbered(*range(20, 40))]
    other = [numbered(*range(30)), numbered(*range(20, 60)), numbered(*range(20, 40))]
    assert shape(one) == shape(other)


def ones_in_shares(monkeypatch, sets, runs):
    """How many bits are set in what the guest finds for each host and id, summed over runs."""
    ones, keep = np.zeros((len(sets) - 1, len(sets[0])), np.int64), []
    original = psi._shares_in

    def spy(store, size, own, host, context):
        shares = original(store, size, own, host, context)
        keep.append((int(host[-1]), shares))
        return shares

    monkeypatch.setattr(psi, "_shares_in", spy)
    for _ in range(runs):
        keep.clear()
        order = []
        align(sets, guest={"entropy": _remembering(order)})
        for host, shares in keep:
            for position, number in enumerate(order[0]):
                ones[host, number] += np.unpackbits(shares[position]).sum()
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


def _remembering(orders):
    """Entropy that also notes the order in which the guest sends four ids."""

    def entropy(n):
        drawn = random.randbytes(n)
        if n == 8 * 4:
            orders.append(np.argsort(np.frombuffer(drawn, np.uint64), kind="stable"))
        return drawn

    return entropy


def test_shares_of_all_hosts_cancel_and_of_fewer_do_not():
    names = ["a", "b", "c", "d"]
    private = [X25519PrivateKey.generate() for _ in names]
    keys = AlignKeys([p.public_key().public_bytes_raw() for p in private], [b""] * 4)
    ids = numbered(*range(50))

    def shares(context):
        return [
            np.bitwise_xor.reduce(
                [
                    psi._share(key, ids)
                    for key in fellows.secrets_with_fellows(
                        own, keys.public_keys, keys.signatures, names, name, context, None
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


def test_the_event_loop_stays_alive():
    async def run():
        to_host, to_guest = MemoryPeer.pair("guest", HOST)
        longest = 0.0

        async def watch():
            nonlocal longest
            clock = asyncio.get_running_loop().time
            while True:
                before = clock()
                await asyncio.sleep(0.005)
                longest = max(longest, clock() - before)

        watching = asyncio.create_task(watch())
        ids = numbered(*range(4000))
        await together(
            [
                guest_align([to_host], ids, context=CONTEXT),
                host_align(to_guest, ids, context=CONTEXT, name=HOST),
            ]
        )
        watching.cancel()
        return longest

    # The work of this run is over a second of processor time; a busy machine may delay us a bit.
    assert asyncio.run(run()) < 0.4


def test_every_message_says_what_it_reveals():
    kinds = [v for v in vars(psi).values() if isinstance(v, type) and issubclass(v, wire.Message)]
    for kind in [k for k in kinds if k is not wire.Message]:
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
    check(sets, align(sets, hosts=signing(["host0", "host1", "host2"])))


def test_unsigned_or_foreign_keys_are_refused():
    sets = [numbered(1, 2), numbered(1), numbered(1)]
    options = signing(["host0", "host1"])
    with pytest.raises(PeerError, match=r"guest broke the protocol.*AlignKeys"):
        align(sets, hosts={0: options[0], 1: {}})
    foreign = signing(["host0", "host1"])
    with pytest.raises(PeerError, match=r"guest broke the protocol.*AlignKeys"):
        align(sets, hosts={0: options[0], 1: foreign[1]})


def test_what_a_host_signs_binds_run_hosts_name_and_key():
    base = (CONTEXT, ["a", "b"], "a", bytes(32))
    others = [
        (b"other", ["a", "b"], "a", bytes(32)),
        (CONTEXT, ["a"], "a", bytes(32)),
        (CONTEXT, ["a", "b"], "b", bytes(32)),
        (CONTEXT, ["a", "b"], "a", b"\1" * 32),
    ]
    assert len({fellows.signed(*case) for case in [base, *others]}) == 5


# Hostile peers.


def against_guest(script, ids=None, **options):
    """The guest's role against a host that does as `script(peer)` says."""

    async def run():
        to_host, to_guest = MemoryPeer.pair("guest", HOST)
        hostile = asyncio.create_task(script(to_guest))
        try:
            async with asyncio.timeout(10):
                return await guest_align([to_host], ids or numbered(1, 2, 3), context=CONTEXT, **options)
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
            async with asyncio.timeout(10):
                return await host_align(
                    to_guest, ids or numbered(1, 2, 3), context=CONTEXT, name=HOST, **options
                )
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
        tag = psi._tags(psi._output(numbered(1), answer, CONTEXT)).tobytes()
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
        tag = psi._tags(psi._output(numbered(1), answer[:1], CONTEXT)).tobytes()
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
        payload = wire.encode(BlindedIds(bytes(psi.CHUNK * 32 + 4096)))
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
        BlindedIds(bytes(psi.CHUNK * 32)),
        EvaluatedIds(bytes(psi.CHUNK * 32)),
        AlignStore(bytes(psi.SLOTS * 16)),
        CommonTags(bytes(psi.SLOTS * 16)),
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
