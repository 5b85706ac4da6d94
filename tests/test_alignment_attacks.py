"""Parties of an alignment that think, or cheat: what they come to beside guessing, measured."""

import secrets
from collections import Counter
from collections.abc import Sequence
from datetime import date

import numpy as np
import pytest
from dealt_transfers import dealt_transfers
from drawn import seeded
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import over_memory
from test_kept_extensions import InMemory, run
from test_psi import CONTEXT, HOST, numbered
from test_vole import begun, finished  # noqa: F401  (begun is a fixture)

from vfl.crypto import group, okvs
from vfl.crypto.randomness import OF_SYSTEM
from vfl.crypto.vole import field, silent
from vfl.net.peer import Peer
from vfl.party.kept_ids import HostKeptIds
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.protocols.align import buckets, kept
from vfl.protocols.align.answered import Answers
from vfl.protocols.align.dh_oprf import BlindedIds, EvaluatedIds
from vfl.protocols.align.oprf import OprfRun
from vfl.protocols.align.psi import AlignKey, AlignKeys, AlignStart, PsiSettings, host_align
from vfl.protocols.align.star import AlignStore, CommonRows
from vfl.protocols.align.vole_oprf import GuestVole, HostVole
from vfl.protocols.common.participant import Participant

# By vole: a guest that puts more ids into its store than it has announced.


def digests_of(ids: Sequence[bytes]) -> np.ndarray:
    run = OprfRun(CONTEXT, OF_SYSTEM, lambda *step: None)
    return buckets._Sorted(ids, 1, run).of(0)


def greedy_store(ids: np.ndarray, room: int) -> tuple[np.ndarray, list[int]]:
    """A store for `room` ids that fits as many of these as can be, and which: by elimination."""
    size, low = okvs.slots(room, buckets.PER_MILLE), 8 * okvs.VALUE
    slot, chosen = np.empty((len(ids), okvs.BLOCKS), np.uint32), np.empty(len(ids), np.uint64)
    block = okvs._block(room, buckets.PER_MILLE)
    okvs._places(okvs._lanes(ids[:, :16]), okvs._salts(b""), block, slot, chosen)
    equations, fitted = {}, []
    for row in range(len(ids)):
        equation = int(chosen[row]) << (low + size - okvs.DENSE)
        for at in slot[row].tolist():
            equation ^= 1 << (low + at)
        equation |= int.from_bytes(ids[row, 16:].tobytes(), "little")
        while (pivot := equation.bit_length() - 1) in equations:
            equation ^= equations[pivot]
        if pivot >= low:
            equations[pivot] = equation
            fitted.append(row)
    values = dict.fromkeys(range(low, low + size), 0)
    for pivot in sorted(equations):
        value = equations[pivot] & ((1 << low) - 1)
        for at in range(low, pivot):
            if equations[pivot] >> at & 1:
                value ^= values[at]
        values[pivot] = value
    table = b"".join(values[low + at].to_bytes(okvs.VALUE, "little") for at in range(size))
    return np.frombuffer(bytearray(table), np.uint8).reshape(size, okvs.VALUE), fitted


def test_a_guest_has_the_function_at_no_more_ids_than_its_store_has_slots() -> None:
    announced, tried = 30, digests_of(numbered(*range(400)))
    store, fitted = greedy_store(tried, announced)
    assert announced < len(fitted) <= len(store) <= 1.4 * announced + 112

    def run_of(seed: int) -> OprfRun:
        return OprfRun(CONTEXT, seeded(seed), lambda *step: None)

    def decoded(values: np.ndarray) -> np.ndarray:
        return okvs.decode(values, tried[:, :16], announced, b"", buckets.PER_MILLE)

    async def guest(peers: Sequence[Peer]) -> np.ndarray:
        vole = GuestVole(peers, run_of(1))
        await vole.begin()
        await vole.prepare(len(store))
        [(values, key)] = await vole.evaluate(store)
        return buckets._function(tried, decoded(values), key)

    async def host(_: str, peer: Peer) -> np.ndarray:
        vole = HostVole(peer, HOST, run_of(2))
        await vole.begin()
        values, key = await vole.serve(len(store))
        at = decoded(values)
        vole.add_secret_times(tried[:, 16:], at)
        return buckets._function(tried, at, key)

    with dealt_transfers():
        by_guest, by_host = over_memory([HOST], guest, host)
    assert np.flatnonzero((by_guest == by_host).all(axis=1)).tolist() == fitted
    # At the others it has nothing: half of the bits are right.
    rest = np.setdiff1d(np.arange(len(tried)), fitted)
    right = 1 - np.unpackbits(by_guest[rest] ^ by_host[rest]).mean()
    assert abs(right - 0.5) < 6 * 0.5 / np.sqrt(256 * len(rest))


# By vole: a host that asks where the guest's noise lies, a guest that asks for the host's secret.


@pytest.mark.parametrize("asked", [1, 2, 3])
def test_bits_of_the_noise_are_found_by_guessing_alone(begun, asked: int) -> None:  # noqa: F811
    """A host spoils one side of `asked` levels: it goes on if it has guessed all, else the run ends."""
    size, receiver, _, _ = begun
    draw, tries = np.random.default_rng(asked), 40

    def change_at(levels: np.ndarray, trees: np.ndarray, sides: np.ndarray):
        def change(said: np.ndarray) -> None:
            masked = said[: -silent.TREES * 16].reshape(size.levels, silent.TREES, 2, 16)
            masked[levels, trees, sides, 0] ^= 1

        return change

    passed = 0
    for _ in range(tries):
        levels, trees = draw.integers(0, size.levels, asked), draw.permutation(silent.TREES)[:asked]
        sides = draw.integers(0, 2, asked)
        right = (receiver._told[levels, trees] != sides).all()
        went_on = finished(begun, change_at(levels, trees, sides))
        assert went_on == right  # and the host has learned this much, and nothing more
        passed += went_on
    mean = tries / 2**asked
    assert abs(passed - mean) < 6 * np.sqrt(mean)


def test_a_challenge_that_is_no_challenge_asks_for_the_whole_secret(begun) -> None:  # noqa: F811
    """The answer to another x' is a hash of what only the whole of D would tell beforehand."""
    _, receiver, sender, said = begun
    sender._said = said
    receiver.grow(0, said)
    challenge = receiver.challenge()
    key, factor = challenge[: field.ELEMENT], challenge[field.ELEMENT :]
    other = field.added(factor, b"\x80".ljust(field.ELEMENT, b"\0"))  # x' + 1, or another constant
    answer = sender.answer(key + other)
    polynomial = field.polynomial(receiver._vectors[0].reshape(-1, field.ELEMENT), key)
    known = field.added(receiver._senders[0].shares[silent.TREES].tobytes(), polynomial)
    bound = receiver._senders[0].bits.transcript

    def by(secret: bytes) -> bytes:
        off = field.Multiples(secret).of(field.added(factor, other))
        return silent._proof(field.added(known, off), bound, said, key + other)

    assert by(sender.secret) == answer
    for bit in range(0, 128, 9):  # a guess that is right in 127 bits of 128 is as wrong as any
        near = bytearray(sender.secret)
        near[bit // 8] ^= 1 << bit % 8
        assert by(bytes(near)) != answer


# By kept keys: a guest that forgets nothing.


class Hoarder(InMemory):
    """A guest that has all answers and stores that it was ever sent."""

    def __init__(self) -> None:
        super().__init__()
        self.every: list[Answers] = []
        self.seen: dict[bytes, np.ndarray] = {}

    def day(self, own: list[str], theirs: list[str]) -> None:
        run(self, own, theirs)
        assert self.answers is not None
        self.every.append(self.answers)
        self.seen |= self.stores

    def found(self, ids: list[str], sizes: dict[bytes, int]) -> set[str]:
        """Those of which it can tell that some store has them: by any answer, in any store."""
        known = set()
        for answers in self.every:
            at = kept.places_in(answers.hashes, answers.hashes_of([one.encode() for one in ids]))
            outputs = np.random.default_rng(1).integers(0, 256, (len(ids), 32), np.uint8)  # guessed
            outputs[at >= 0] = answers.outputs[at[at >= 0]]
            for digest, store in self.seen.items():
                hit = kept.common_in(store, sizes[digest], outputs, answers.context)
                known |= {ids[place] for place in np.flatnonzero(hit)}
        return known


def test_what_a_guest_learns_by_asking_on_several_days() -> None:
    ids = [f"id{number}" for number in range(120)]
    guest, sizes = Hoarder(), {}

    def day(own: list[str], theirs: list[str]) -> None:
        guest.day(own, theirs)
        assert guest.kept is not None
        sizes.update(zip(guest.kept.digests, guest.kept.sizes, strict=True))

    asked = ids[:40]
    day(asked, ids[20:60])
    assert guest.found(ids, sizes) == {*ids[20:40]}
    # The second day it asks about one other id: it sees which of the first day's have come to the
    # table, as it could by asking again, and nothing of ids that it has not asked about.
    day(ids[100:101], ids[10:60])
    assert guest.found(ids, sizes) == {*ids[10:40]}
    # The third day one is gone: there is a new key, and what it has says nothing any more.
    before = set(sizes)
    day(ids[101:102], ids[11:70])
    assert guest.kept is not None and not before & {*guest.kept.digests}
    guest.seen = {digest: store for digest, store in guest.seen.items() if digest not in before}
    assert guest.found(ids, sizes) == set()
    # Nor can it find in the old stores what it asks about from now on.
    guest.every, guest.seen = guest.every[-1:], {}
    day(ids[:40], ids[11:70])
    assert guest.found(ids, sizes) == {*ids[11:40]}


LIMIT = 60


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT), st.booleans()), max_size=6))
def test_no_key_answers_more_ids_than_the_policy_says(tmp_path_factory, runs) -> None:
    """Whatever a guest says of how many are new, and under which context."""
    store = Store(tmp_path_factory.mktemp("host"))
    policy = PolicySection(kept_key_days=30, max_ids_a_key=LIMIT)
    answered: Counter[bytes] = Counter()
    context = b""

    async def guest(peers: Sequence[Peer], ids: int, new: int, says: bytes) -> bytes:
        (peer,) = peers
        await peer.send(AlignStart([HOST], ids, says, new if says else 0))
        key = await peer.recv(AlignKey)
        await peer.send(AlignKeys([key.public_key], [key.signature]))
        count = new if says and says == key.kept_context else ids
        answered[key.kept_context] += count
        if count:
            some = group.hash_to_group([secrets.token_bytes(8) for _ in range(count)], b"")
            await peer.send(BlindedIds(some.tobytes()))
            assert len((await peer.recv(EvaluatedIds)).points) == count * group.POINT
        await peer.recv(AlignStore)
        await peer.send(CommonRows(0))
        return key.kept_context

    async def host(name: str, peer: Peer) -> None:
        keeps = HostKeptIds(store, ("insurer", "ab" * 32), [], policy, date(2026, 5, 1))
        own = Participant(name, context=b"run")
        await host_align(peer, [b"a"], own, allow_empty=True, settings=PsiSettings(host_keeps=keeps))

    for ids, new, right in runs:
        said = ids, min(new, ids), context if right else b""
        context, _ = over_memory([HOST], lambda peers, said=said: guest(peers, *said), host)
    assert all(count <= LIMIT for count in answered.values())
