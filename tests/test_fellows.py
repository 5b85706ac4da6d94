"""Secrets between hosts that only the guest connects, and masks that cancel in the sum of all."""

import asyncio
import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from memory import over_memory
from scipy.stats import chisquare

from vfl.errors import PeerError, VflError
from vfl.net.peer import MemoryPeer, together
from vfl.protocols.common.fellows import (
    FellowKey,
    FellowKeys,
    Masks,
    exchange_keys,
    key_statement,
    relay_keys,
)
from vfl.protocols.common.participant import Participant
from vfl.protocols.common.transcript import Transcript

CONTEXT = b"job 7, run 1"
FOREIGN = X25519PrivateKey.generate().public_key().public_bytes_raw()


def named(count):
    return [f"host{k}" for k in range(count)]


def identities(names):
    """`sign` by name, and the `verify` of all."""
    private = {name: Ed25519PrivateKey.generate() for name in names}

    def verify(name, signature, data):
        private[name].public_key().verify(signature, data)

    return {name: key.sign for name, key in private.items()}, verify


def exchange(count, guest=relay_keys, contexts=None, sign=None, verify=None, watch=None):
    """Each host's secrets by fellow. `guest` does the guest's part, `contexts` are by host."""
    names = named(count)

    def watched(to_host, _):
        if watch is not None:
            to_host.observers.append(watch)

    def host(name, peer):
        context = (contexts or {}).get(name, CONTEXT)
        own = Participant(name, names, context, sign[name] if sign else None, verify)
        return exchange_keys(peer, own)

    _, *secrets = over_memory(names, guest, host, opened=watched)
    return dict(zip(names, secrets, strict=True))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_pair_shares_a_secret_of_its_own(count):
    secrets = exchange(count)
    assert all(set(own) == set(secrets) - {name} for name, own in secrets.items())
    pairs = list(itertools.combinations(secrets, 2))
    assert all(secrets[a][b] == secrets[b][a] for a, b in pairs)
    assert len({secrets[a][b] for a, b in pairs}) == len(pairs)
    assert {len(secret) for own in secrets.values() for secret in own.values()} == {32}
    # Fresh in every run, also in one of the same context.
    assert exchange(count)["host0"]["host1"] != secrets["host0"]["host1"]


def test_one_host_has_no_fellows_and_says_nothing():
    said = []
    assert exchange(1, watch=lambda *message: said.append(message)) == {"host0": {}}
    assert not said
    assert not Masks("host0", {}, Transcript()).draw(3).any()


def test_no_secret_is_on_the_wire():
    seen = []
    secrets = exchange(3, watch=lambda way, kind, payload: seen.append(payload))
    wire = b"".join(seen)
    assert not any(secret in wire for own in secrets.values() for secret in own.values())


def test_hosts_of_different_runs_share_nothing():
    secrets = exchange(3, contexts={"host2": b"another run"})
    assert secrets["host0"]["host1"] == secrets["host1"]["host0"]
    assert secrets["host0"]["host2"] != secrets["host2"]["host0"]


# Masks.


@given(
    count=st.integers(2, 5),
    draws=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    seed=st.binary(min_size=1),
)
def test_masks_cancel_in_the_sum_of_all_and_of_no_fewer(count, draws, seed):
    names = named(count)
    shared = {frozenset(pair): seed + bytes(pair) for pair in itertools.combinations(range(count), 2)}
    masks = [
        Masks(
            name,
            {names[j]: shared[frozenset((k, j))] for j in range(count) if j != k},
            Transcript(),
        )
        for k, name in enumerate(names)
    ]
    for rows in draws:
        drawn = [own.draw(rows) for own in masks]
        assert all(mask.shape == (rows,) and mask.dtype == np.uint64 for mask in drawn)
        assert not np.sum(drawn, axis=0, dtype=np.uint64).any()
        for size in range(1, count):
            for some in itertools.combinations(drawn, size):
                # A mask is 0 by chance in one of 2^64 rows.
                assert np.sum(some, axis=0, dtype=np.uint64).all()


def test_masks_of_hosts_that_exchanged_keys_cancel():
    secrets = exchange(4)
    drawn = [Masks(name, own, Transcript()).draw(1000) for name, own in secrets.items()]
    assert not np.sum(drawn, axis=0, dtype=np.uint64).any()


def test_masks_are_fresh_and_uniform():
    masks = Masks("a", {"b": b"1" * 32, "c": b"2" * 32}, Transcript())
    draws = [masks.draw(2000) for _ in range(3)]
    assert len(np.unique(np.concatenate(draws))) == 6000
    counts = np.bincount(np.concatenate(draws).view(np.uint8), minlength=256)
    assert chisquare(counts).pvalue > 1e-9
    # The same secrets give the same masks in the same order, whoever asks for how many.
    again = Masks("a", {"b": b"1" * 32, "c": b"2" * 32}, Transcript())
    assert np.array_equal(again.draw(5), draws[0][:5])
    assert np.array_equal(again.draw(2000), draws[1])


# Signatures.


def swapping(change):
    """A guest that sends hosts other keys or signatures than it was given."""

    async def guest(hosts):
        keys = [await host.recv(FellowKey) for host in hosts]
        public, signatures = change([k.public_key for k in keys], [k.signature for k in keys])
        await together([host.send(FellowKeys(public, signatures)) for host in hosts])

    return guest


def test_signed_keys_are_accepted():
    sign, verify = identities(named(3))
    secrets = exchange(3, sign=sign, verify=verify)
    assert secrets["host0"]["host2"] == secrets["host2"]["host0"]


@pytest.mark.parametrize(
    "change",
    [
        lambda keys, signatures: ([keys[0], keys[1], FOREIGN], signatures),
        lambda keys, signatures: (keys, [signatures[0], signatures[2], signatures[1]]),
        lambda keys, signatures: ([keys[0], keys[2], keys[1]], [signatures[i] for i in (0, 2, 1)]),
        lambda keys, signatures: (keys, [signatures[0], b"", b""]),
        lambda keys, signatures: (keys, [s[:-1] + bytes([s[-1] ^ 1]) for s in signatures]),
    ],
    ids=["another key", "signatures swapped", "hosts swapped", "no signature", "a bit flipped"],
)
def test_a_guest_that_sits_in_between_is_refused(change):
    sign, verify = identities(named(3))
    with pytest.raises(
        PeerError, match=r"^guest .* FellowKeys with (an invalid key or signature|another key)"
    ):
        exchange(3, swapping(change), sign=sign, verify=verify)


def test_a_signature_of_another_run_is_refused():
    sign, verify = identities(named(2))
    with pytest.raises(PeerError, match="FellowKeys with an invalid key or signature"):
        exchange(2, contexts={"host1": b"an earlier run"}, sign=sign, verify=verify)


def test_the_error_of_who_verifies_passes_through():
    def verify(name, signature, data):
        raise VflError(f"no certificate of {name} is pinned")

    sign, _ = identities(named(2))
    with pytest.raises(VflError, match=r"^no certificate of host\d is pinned$"):
        exchange(2, sign=sign, verify=verify)


def test_what_is_signed_names_run_hosts_signer_and_key():
    base = (CONTEXT, ["a", "b"], "a", bytes(32))
    others = [
        (b"other", ["a", "b"], "a", bytes(32)),
        (CONTEXT, ["a", "b", "c"], "a", bytes(32)),
        (CONTEXT, ["b", "a"], "a", bytes(32)),
        (CONTEXT, ["ab"], "a", bytes(32)),
        (CONTEXT, ["a", "b"], "b", bytes(32)),
        (CONTEXT, ["a", "b"], "a", b"\1" * 32),
    ]
    assert len({key_statement(*case) for case in [base, *others]}) == len(others) + 1


# Hostile peers.


@pytest.mark.parametrize(
    "change",
    [
        lambda keys, signatures: (keys[:2], signatures[:2]),
        lambda keys, signatures: ([*keys, FOREIGN], [*signatures, b""]),
        lambda keys, signatures: (keys, signatures[:2]),
        lambda keys, signatures: ([], []),
        lambda keys, signatures: (keys[::-1], signatures),
        lambda keys, signatures: ([*keys[:2], bytes(32)], signatures),  # of small order: the secret is 0
        lambda keys, signatures: ([*keys[:2], keys[2][:-1]], signatures),
    ],
    ids=["fewer", "more", "signatures", "none", "order", "zero", "short"],
)
def test_a_host_refuses_keys_that_cannot_be(change):
    with pytest.raises(PeerError, match=r"^guest broke the protocol: it sent FellowKeys with a"):
        exchange(3, swapping(change))


@pytest.mark.parametrize(
    "key",
    [
        FellowKey(b"", b""),
        FellowKey(bytes(31), b""),
        FellowKey(bytes(33), b""),
        FellowKey(FOREIGN, bytes(8193)),
    ],
)
def test_the_guest_refuses_keys_of_another_size(key):
    async def run():
        pairs = [MemoryPeer.pair("guest", name) for name in named(2)]
        for (_, to_guest), message in zip(pairs, [FellowKey(FOREIGN, b""), key], strict=True):
            await to_guest.send(message)
        await relay_keys([to_host for to_host, _ in pairs])

    with pytest.raises(PeerError, match=r"^host1 broke the protocol: it sent FellowKey with a key or"):
        asyncio.run(run())


def test_why_a_key_was_refused_is_not_told():
    sign, verify = identities(named(2))
    refusals = []
    for change, check in (
        (lambda keys, signatures: ([keys[0], keys[1][:-1]], signatures), None),
        (lambda keys, signatures: ([keys[0], bytes(32)], signatures), None),
        (lambda keys, signatures: (keys, [signatures[0], b""]), verify),
    ):
        with pytest.raises(PeerError) as raised:
            exchange(2, swapping(change), sign=sign, verify=check)
        refusals.append(str(raised.value))
    assert len(set(refusals)) == 1
