"""The function by oblivious transfers: both sides agree where they should, and hostile peers fail."""

import asyncio
import contextlib

import drawn
import numpy as np
import pytest
from memory import over_memory
from test_psi import CONTEXT, HOST, against_guest, against_host, numbered, start

from vfl.crypto import base_ot, okvs, ot_extension
from vfl.crypto.linear_code import LENGTH
from vfl.errors import PeerError, VflError
from vfl.net import wire
from vfl.protocols.align import ot_oprf
from vfl.protocols.align.oprf import OprfRun
from vfl.protocols.align.psi import AlignKey, AlignKeys, AlignStart
from vfl.protocols.common.transfers import (
    BLOCK,
    ExtensionColumns,
    TransferChoices,
    TransferKeys,
    transcript,
)


def entropy(seed):
    return np.random.default_rng(seed).bytes


def outputs(guest_ids, hosts_ids, **changes):
    """(the guest's outputs by host, each host's own)."""
    names = [f"host{j}" for j in range(len(hosts_ids))]

    def seeded(seed):
        return OprfRun(CONTEXT, drawn.seeded(seed), lambda *step: None)

    def host(name, peer):
        j = names.index(name)
        return ot_oprf.host_outputs(peer, hosts_ids[j], len(guest_ids), name, seeded(2 + j))

    of_guest, *of_hosts = over_memory(
        names, lambda peers: ot_oprf.guest_outputs(peers, guest_ids, seeded(1)), host
    )
    return of_guest, of_hosts


@pytest.mark.parametrize("own", [range(0), range(1), range(50), range(700)])
def test_both_sides_have_the_same_function_at_the_same_ids(own):
    hosts = [range(20, 60), range(650)]
    of_guest, of_hosts = outputs(numbered(*own), [numbered(*ids) for ids in hosts])
    everything = set()
    for seen, held, ids in zip(of_guest, of_hosts, hosts, strict=True):
        assert seen.shape == (len(own), 32)
        by_id = dict(zip(ids, map(bytes, held), strict=True))
        for number, value in zip(own, map(bytes, seen), strict=True):
            if number in by_id:
                assert by_id[number] == value
            else:
                assert value not in by_id.values()
        everything |= {*map(bytes, seen), *map(bytes, held)}
    # Every host has a function of its own.
    assert len(everything) == sum(len(set(own) | set(ids)) for ids in hosts)


def test_ids_of_other_parties_give_nothing_without_the_secret():
    """The guest's formula at an id that it did not encode: never the host's value."""
    keep = {}
    original = ot_oprf._outputs

    def spy(rows, hashed, keeper, count, context, key):
        keep.setdefault("guest" if keeper is None else "host", (rows, key, count))
        return original(rows, hashed, keeper, count, context, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ot_oprf, "_outputs", spy)
        _, (own,) = outputs(numbered(*range(30)), [numbered(*range(60))])
    rows, key, count = keep["guest"]
    all_ids = ot_oprf._hash_ids(numbered(*range(60)), CONTEXT)
    tried = ot_oprf._outputs(rows, all_ids, None, count, CONTEXT, key)
    assert (tried == own).all(axis=1).tolist() == [True] * 30 + [False] * 30


# Hostile peers.


def guest_script(change_points=None, change_columns=None, change_sums=None, ids=3):
    """A guest that is as it should be, but for what it sends."""

    async def guest(peer):
        await start(peer, ids)
        bound = ot_oprf._bound(CONTEXT, HOST)
        sender = base_ot.Sender(LENGTH, bound, entropy(1))
        points = sender.points.tobytes()
        await peer.send(TransferKeys(change_points(points) if change_points else points))
        choices = (await peer.recv(TransferChoices)).points
        keys = sender.keys(np.frombuffer(choices, np.uint8).reshape(LENGTH, 2, 32))
        seen = transcript(bound, points, choices)
        chooser = ot_extension.Chooser(keys, seen, entropy(2))
        slots = np.zeros((okvs.slots(ids), 16), np.uint8)
        _, columns, sums = chooser.extend(slots)
        columns = change_columns(columns) if change_columns else columns
        await peer.send(ExtensionColumns(columns, change_sums(sums) if change_sums else sums))
        await asyncio.sleep(10)

    return guest


INVALID = [bytes(32), b"\xff" * 32, b"\1" + bytes(31)]  # the identity, not canonical, negative


@pytest.mark.parametrize("bad", INVALID)
@pytest.mark.parametrize("at", [0, LENGTH - 1])
def test_host_refuses_invalid_elements(bad, at):
    def change(points):
        return points[: 32 * at] + bad + points[32 * (at + 1) :]

    with pytest.raises(PeerError, match=r"guest .* it sent TransferKeys with an invalid element"):
        against_host(guest_script(change_points=change), engine="ot")


@pytest.mark.parametrize(
    "change", [lambda p: b"", lambda p: p[:-1], lambda p: p[:-32], lambda p: p + p[:32]]
)
def test_host_refuses_another_number_of_elements(change):
    with pytest.raises(PeerError, match=r"guest .* TransferKeys with another number"):
        against_host(guest_script(change_points=change), engine="ot")


@pytest.mark.parametrize(
    "change", [lambda c: b"", lambda c: c[:-1], lambda c: c + b"\0", lambda c: c[: -LENGTH * 16]]
)
def test_host_refuses_another_number_of_slots(change):
    text = r"guest .* ExtensionColumns with another number of rows"
    with pytest.raises(PeerError, match=text):
        against_host(guest_script(change_columns=change), engine="ot")
    with pytest.raises(PeerError, match=text):
        against_host(guest_script(change_sums=change), engine="ot")


def test_an_element_twice_is_refused():
    def twice(points):
        return points[32:64] + points[32:]

    with pytest.raises(PeerError, match=r"guest .* TransferKeys with an element twice"):
        against_host(guest_script(change_points=twice), engine="ot")
    with pytest.raises(PeerError, match=r"host0 .* TransferChoices with an element twice"):
        against_guest(host_script(twice), engine="ot")


def test_host_refuses_slots_of_more_ids_than_announced():
    async def guest(peer):
        await start(peer, 3)
        sender = base_ot.Sender(LENGTH, ot_oprf._bound(CONTEXT, HOST), entropy(1))
        await peer.send(TransferKeys(sender.points.tobytes()))
        await peer.recv(TransferChoices)
        size = LENGTH * ot_extension.column_bytes(okvs.slots(300))
        await peer.send(ExtensionColumns(bytes(size), bytes(ot_extension.SUMS)))

    with pytest.raises(PeerError, match=r"guest .* ExtensionColumns with another number of rows"):
        against_host(guest, engine="ot")


def test_host_refuses_columns_that_are_of_no_store():
    def every_column(columns):
        return bytes(b ^ 1 for b in columns)

    for named in (
        {"change_columns": every_column},
        {"change_columns": lambda columns: bytes(len(columns))},
        {"change_sums": lambda sums: bytes(len(sums))},
    ):
        with pytest.raises(PeerError, match=r"guest .* ExtensionColumns that fail the check"):
            against_host(guest_script(**named), engine="ot")


def host_script(change):
    async def host(peer):
        await peer.recv(AlignStart)
        await peer.send(AlignKey(3, bytes(32), b""))
        await peer.recv(AlignKeys)
        await peer.recv(TransferKeys)
        receiver = base_ot.Receiver([1] * LENGTH, ot_oprf._bound(CONTEXT, HOST), entropy(3))
        await peer.send(TransferChoices(change(receiver.points.tobytes())))
        await asyncio.sleep(10)

    return host


@pytest.mark.parametrize("bad", INVALID)
@pytest.mark.parametrize("at", [0, 2 * LENGTH - 1])
def test_guest_refuses_invalid_elements(bad, at):
    def change(points):
        return points[: 32 * at] + bad + points[32 * (at + 1) :]

    with pytest.raises(PeerError, match=r"host0 .* it sent TransferChoices with an invalid element"):
        against_guest(host_script(change), engine="ot")


@pytest.mark.parametrize("change", [lambda p: b"", lambda p: p[:-1], lambda p: p[:-32], lambda p: p * 2])
def test_guest_refuses_another_number_of_elements(change):
    with pytest.raises(PeerError, match=r"host0 .* TransferChoices with another number"):
        against_guest(host_script(change), engine="ot")


@pytest.mark.parametrize(
    "message", [ExtensionColumns(b"", b""), TransferChoices(b""), AlignStart([HOST], 3)]
)
def test_messages_out_of_turn(message):
    async def guest(peer):
        await start(peer)
        await peer.send(message)

    with pytest.raises(PeerError, match=r"guest .* where TransferKeys"):
        against_host(guest, engine="ot")


def test_chunk_sizes_fit_the_limits():
    for message in [
        TransferKeys(bytes(LENGTH * 32)),
        TransferChoices(bytes(LENGTH * 64)),
        ExtensionColumns(bytes(LENGTH * ot_extension.column_bytes(BLOCK)), bytes(ot_extension.SUMS)),
    ]:
        wire.encode(message)
    assert ExtensionColumns.limit <= wire.MAX_MESSAGE


def test_a_million_ids_take_the_bytes_that_the_documents_say():
    slots, whole = okvs.slots(1_000_000), BLOCK
    sizes = [whole] * (slots // whole) + [slots % whole]
    sent = sum(LENGTH * ot_extension.column_bytes(size) + ot_extension.SUMS for size in sizes)
    assert 76e6 < sent < 77e6


def test_errors_show_no_ids():
    async def guest(peer):
        await start(peer)
        with contextlib.suppress(VflError):
            await peer.send(TransferKeys(b"secret-1"))
            await asyncio.sleep(10)

    with pytest.raises(PeerError) as failed:
        against_host(guest, ids=[b"secret-%d" % i for i in range(5)], engine="ot")
    assert "secret" not in str(failed.value) + failed.value.for_peer
