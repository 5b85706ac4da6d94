"""Alignments with a host that keeps its key: extended or made anew they cost what has changed, are the
same as without anything kept, and ask about nothing that the guest does not have."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import over_memory
from test_join import started, table

from vfl.arrays import Bytes
from vfl.errors import PeerError
from vfl.net.peer import MemoryPeer, Peer
from vfl.party.kept_ids import GuestKeptAnswers
from vfl.party.store import Store
from vfl.protocols.align import answered, dh_oprf, join, kept
from vfl.protocols.align.answered import Answers, KeptAnswers
from vfl.protocols.align.join import (
    Matched,
    guest_drop,
    guest_inner,
    guest_match,
    host_drop,
    host_inner,
    host_match,
)
from vfl.protocols.align.kept import Asked, KeptIds
from vfl.protocols.align.psi import (
    AlignKey,
    AlignStart,
    OprfEngine,
    PsiSettings,
    guest_align,
    host_align,
)
from vfl.protocols.common.participant import Participant

HOST = "registry"


@dataclass
class InMemory:
    """What a host keeps, and what a guest does, and how many ids were evaluated for whom."""

    kept: KeptIds | None = None
    stores: dict[bytes, Bytes] = field(default_factory=dict)
    answers: Answers | None = None
    sent: dict[str, int] = field(default_factory=dict)

    def host_settings(self, engine: OprfEngine = "ecdh") -> PsiSettings:
        return PsiSettings(engine, host_keeps=_HostKeeps(self))

    def guest_settings(self, engine: OprfEngine = "ecdh") -> PsiSettings:
        answers = KeptAnswers(_Answers(self))
        return PsiSettings(engine, guest_keeps=_GuestKeeps(self), answers=answers)

    def watch(self, *peers: MemoryPeer) -> None:
        self.sent = {}

        def note(way: str, kind: str, payload: bytes) -> None:
            if way == "sent":
                self.sent[kind] = self.sent.get(kind, 0) + len(payload)

        for peer in peers:
            peer.observers.append(note)


@dataclass
class _HostKeeps:
    of: InMemory

    def load(self, asked: Asked) -> KeptIds | None:
        return self.of.kept

    def save(self, kept: KeptIds, asked: Asked) -> bool:
        self.of.kept = kept
        return True


@dataclass
class _GuestKeeps:
    of: InMemory

    def known(self, stores: Sequence[bytes]) -> list[bytes]:
        self.of.stores = {one: slots for one, slots in self.of.stores.items() if one in stores}
        return [*self.of.stores]

    def load(self, store: bytes) -> Bytes | None:
        return self.of.stores.get(store)

    def save(self, store: bytes, slots: Bytes) -> None:
        self.of.stores[store] = slots


@dataclass
class _Answers:
    of: InMemory

    def load(self) -> Answers | None:
        return self.of.answers

    def save(self, answers: Answers) -> None:
        self.of.answers = answers


Pairs = list[str]


def run(
    keeps: InMemory,
    own: list[str],
    theirs: list[str],
    earlier: Pairs | None = None,
    many: bool = False,
    engine: OprfEngine = "ecdh",
) -> tuple[Pairs, Matched]:
    """Align, or extend an alignment of these ids: those matched now in the common order."""
    guest_keys, host_keys = table(own), table(theirs)
    firsts = [
        [cells.index(one) if one in cells else -1 for one in earlier or []] for cells in (own, theirs)
    ]

    async def play_guest(peers: Sequence[Peer]) -> tuple[np.ndarray, Matched]:
        start = None
        if earlier is not None:
            start = await guest_drop(peers, started(guest_keys, firsts[0], [0] * len(earlier)))
        matched = await guest_match(
            peers,
            guest_keys,
            context=b"run",
            settings=keeps.guest_settings(engine),
            start=start,
            many=many,
        )
        return await guest_inner(peers, matched, many=many), matched

    async def play_host(name: str, peer: Peer) -> np.ndarray:
        start = None
        if earlier is not None:
            start = await host_drop(peer, started(host_keys, firsts[1], [0] * len(earlier)))
        one = Participant(name, [name], b"run")
        matched = await host_match(
            peer, host_keys, one, settings=keeps.host_settings(engine), start=start
        )
        return await host_inner(peer, matched, many=many)

    (rows, matched), of_host = over_memory([HOST], play_guest, play_host, opened=keeps.watch)
    found = [own[row] for row in rows.tolist()]
    assert found == [theirs[row] for row in of_host.tolist()]
    return list(dict.fromkeys(found)), matched


IDS = st.sets(st.integers(0, 30), max_size=20)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(IDS, IDS, st.booleans()), min_size=2, max_size=5), st.booleans(), st.randoms())
def test_extended_or_anew_it_is_the_intersection_of_now(steps, many, draw) -> None:
    keeps, earlier = InMemory(), None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answered, "LEAST", 4)
        for own, theirs, extends in steps:
            rows = [f"id{one}" for one in own] * (2 if many else 1)
            draw.shuffle(rows)
            others = [f"id{one}" for one in theirs]
            draw.shuffle(others)
            found, matched = run(keeps, rows, others, earlier if extends else None, many)
            assert sorted(found) == sorted(f"id{one}" for one in own & theirs)
            # As many ids are said to be open as there are.
            before = matched.earlier
            assert matched.asked == (len(own) - before,)
            assert matched.asked_of == ({HOST: len(theirs) - before},)
            # What is known is known of the table's ids alone.
            assert keeps.answers is None or len(keeps.answers.hashes) <= len(own) or not rows
            earlier = found


def test_a_table_that_was_empty() -> None:
    """The key stays, with answers to nothing, and then ids come."""
    keeps = InMemory()
    for own, theirs, found in [([], ["id1"], []), (["id1", "id2"], ["id1", "id3"], ["id1"])]:
        assert run(keeps, own, theirs)[0] == found


def test_what_was_answered_under_a_key_that_has_ended_is_forgotten() -> None:
    """Also where nothing is asked about under the next one."""
    keeps = InMemory()
    found, _ = run(keeps, ["id0", "id1"], ["id0", "id1"])
    assert run(keeps, ["id0"], ["id0"], found)[0] == ["id0"]
    assert not len(keeps.answers.hashes)


def test_an_extension_costs_what_has_changed(monkeypatch) -> None:
    monkeypatch.setattr(answered, "LEAST", 8)
    evaluated: list[int] = []
    evaluate = kept.evaluate_ids
    monkeypatch.setattr(
        kept, "evaluate_ids", lambda ids, *key: evaluated.append(len(ids)) or evaluate(ids, *key)
    )
    keeps, own, theirs = InMemory(), [f"id{i}" for i in range(300)], [f"id{i}" for i in range(100, 500)]
    found, _ = run(keeps, own, theirs)
    whole = dict(keeps.sent)
    assert len(found) == 200 and evaluated == [400]
    # Two rows more at the guest, three at the host; one row less at the guest.
    own, theirs = [*own[1:], "id500", "id501"], ["id0", "id501", "id502", *theirs]
    again, matched = run(keeps, own, theirs, found)
    assert {*again} - {*found} == {"id501"} and (matched.earlier, matched.by_key) == (200, (1,))
    assert evaluated == [400, 3]
    assert keeps.sent["BlindedIds"] < keeps.sent["EvaluatedIds"] < 8 * 32 + 40 < whole["BlindedIds"] / 30
    assert keeps.sent["AlignStore"] < whole["AlignStore"] / 3  # a store of three has 112 slots beside
    # Nothing new: as many elements, and no store.
    run(keeps, own, theirs, again)
    assert keeps.sent["BlindedIds"] < 8 * 32 + 40 and "AlignStore" not in keeps.sent
    # One that the host no longer has ends the key, for the guest could find it in the old store.
    own, theirs = [*own, "id499"], [one for one in theirs if one != "id499"]
    last, _ = run(keeps, own, theirs, again)
    assert "id499" not in last and evaluated == [400, 3, 402]
    assert keeps.sent["BlindedIds"] > 32 * 100  # all that is open


@pytest.mark.parametrize("engine", ["ot", "vole"])
def test_by_another_engine_no_key_is_kept_and_open_ids_alone_are_matched(engine: OprfEngine) -> None:
    keeps = InMemory()
    own, theirs = [f"id{i}" for i in range(9)], [f"id{i}" for i in range(3, 20)]
    found, _ = run(keeps, own, theirs, engine=engine)
    again, matched = run(keeps, [*own, "id30"], [*theirs, "id30"], found, engine=engine)
    assert {*again} - {*found} == {"id30"} and keeps.kept is None
    assert (matched.earlier, matched.asked, matched.asked_of) == (6, (4,), ({HOST: 12},))


@pytest.mark.parametrize(("new", "ids", "sent"), [(0, 5, 5), (0, 5000, 1024), (1024, 5000, 1024)])
def test_few_new_ids_are_a_thousand_to_the_host(new: int, ids: int, sent: int) -> None:
    assert answered.rounded(new, ids) == sent


def test_how_many_ids_are_asked_about_is_a_power_of_two_or_all() -> None:
    for new in (1025, 2048, 2049, 70_000):
        sent = answered.rounded(new, 100_000)
        assert (new <= sent < 2 * new and sent & (sent - 1) == 0) or sent == 100_000


def test_the_host_cannot_tell_new_ids_from_random_ones(monkeypatch) -> None:
    """All elements of a message look alike, whichever of its places are ids."""
    monkeypatch.setattr(answered, "LEAST", 64)
    keeps, own = InMemory(), [f"id{i}" for i in range(200)]
    run(keeps, own, own[:50])
    places: list[int] = []
    draw = answered.AskedBefore.asked

    def watched(self, ids, entropy):
        some = draw(self, ids, entropy)
        assert len(some) == 64 and len({*some}) == 64
        assert sum(one in {b"new1", b"new2"} for one in some) == 2
        return some

    monkeypatch.setattr(answered.AskedBefore, "asked", watched)
    order = dh_oprf._random_order
    monkeypatch.setattr(
        dh_oprf, "_random_order", lambda n, entropy: places.extend(one := order(n, entropy)) or one
    )
    run(keeps, [*own, "new1", "new2"], own[:50])
    assert len(places) == 64 and places != sorted(places)  # shuffled with the others


def test_a_guest_forgets_answers_of_ids_that_it_no_longer_has() -> None:
    keeps = InMemory()
    run(keeps, ["a", "b", "c"], ["a", "x"])
    before = keeps.answers
    assert before is not None and len(before.hashes) == 3
    run(keeps, ["a", "c"], ["a", "x", "b"])
    assert keeps.answers is not None and len(keeps.answers.hashes) == 2
    assert not (answered.places_in(keeps.answers.hashes, before.hashes_of([b"b"])) >= 0).any()
    # Extended, it keeps those of matched ids, which it does not ask about.
    run(keeps, ["a", "c"], ["a", "x", "b"], ["a"])
    assert len(keeps.answers.hashes) == 2


# Those who do not follow.


def test_a_guest_that_matches_a_row_again() -> None:
    """It asks about an id that is matched, among those that are open."""
    keeps = InMemory()
    run(keeps, ["a", "b"], ["a", "c"])
    host_keys = table(["a", "c"])

    async def guest(peers: Sequence[Peer]) -> None:
        await guest_drop(peers, Matched(np.array([0], np.int32), np.zeros(1, np.int8), 1))
        await guest_align(
            peers,
            [b"a", b"d"],
            context=join._of_key(b"run", 0),
            settings=keeps.guest_settings(),
        )

    async def host(name: str, peer: Peer) -> None:
        start = await host_drop(peer, started(host_keys, [0], [0]))
        one = Participant(name, [name], b"run")
        await host_match(peer, host_keys, one, settings=keeps.host_settings(), start=start)

    with pytest.raises(PeerError, match="CommonTags of a row that is matched already"):
        over_memory([HOST], guest, host)


def test_a_host_that_has_fewer_ids_than_are_matched() -> None:
    async def host(name: str, peer: Peer) -> None:
        await host_drop(peer, Matched(np.arange(3, dtype=np.int32), np.zeros(3, np.int8), 3))
        settings = PsiSettings(host_keeps=_HostKeeps(InMemory()))
        own = Participant(name, [name], join._of_key(b"run", 0))
        await host_align(peer, [b"z"], own, allow_empty=True, settings=settings)

    async def guest(peers: Sequence[Peer]) -> None:
        keys = table(["a", "b", "c", "d"])
        start = await guest_drop(peers, started(keys, [0, 1, 2], [0, 0, 0]))
        await guest_match(peers, keys, context=b"run", start=start)

    with pytest.raises(PeerError, match="AlignKey with fewer ids than are matched"):
        over_memory([HOST], guest, host)


@pytest.mark.parametrize(
    ("start", "engine", "text"),
    [
        (AlignStart([HOST], 3, b"short", 1), "ecdh", "kept answers that do not fit its ids"),
        (AlignStart([HOST], 3, bytes(32), 4), "ecdh", "kept answers that do not fit its ids"),
        (AlignStart([HOST], 3, bytes(32), -1), "ecdh", "kept answers that do not fit its ids"),
        (AlignStart([HOST], 3, b"", 1), "ecdh", "kept answers that do not fit its ids"),
        (AlignStart([HOST], 3, bytes(32), 1), "ot", "kept answers, which one host alone gives, by ecdh"),
        (AlignStart([HOST, "x"], 3, bytes(32), 1), "ecdh", "kept answers, which one host alone gives"),
    ],
)
def test_a_guest_that_has_answers_that_cannot_be(start: AlignStart, engine, text: str) -> None:
    async def guest(peers: Sequence[Peer]) -> None:
        await peers[0].send(start)
        await peers[0].recv(AlignKey)

    async def host(name: str, peer: Peer) -> None:
        await host_align(peer, [b"a"], Participant(name, context=b"run"), settings=PsiSettings(engine))

    with pytest.raises(PeerError, match=f"AlignStart with {text}"):
        over_memory([HOST], guest, host)


def test_a_guest_with_answers_under_another_key_asks_about_all() -> None:
    keeps = InMemory()
    own, theirs = [f"id{i}" for i in range(9)], [f"id{i}" for i in range(5)]
    run(keeps, own, theirs)
    keeps.kept = None  # the host has lost its own
    found, _ = run(keeps, own, theirs)
    assert len(found) == 5 and keeps.sent["BlindedIds"] > 9 * 32


def test_answers_are_kept_in_the_store(tmp_path) -> None:
    keeps = GuestKeptAnswers(Store(tmp_path), HOST)
    assert keeps.load() is None
    rows = np.random.default_rng(1).integers(0, 256, (5, 48), np.uint8)
    for count in (5, 3):
        one = Answers(b"c" * 32, b"k" * 32, rows[:count, :16].copy(), rows[:count, 16:].copy())
        keeps.save(one)
        back = keeps.load()
        assert back is not None and (back.context, back.key) == (one.context, one.key)
        assert (back.hashes == one.hashes).all() and (back.outputs == one.outputs).all()
    assert len([*Store(tmp_path).folder("kept").glob("*.npy")]) == 2
    next(iter(Store(tmp_path).folder("kept").glob("*.npy"))).write_bytes(b"")
    assert keeps.load() is None  # all is asked anew


def test_wire_is_as_before_where_nothing_is_kept() -> None:
    assert msgspec.to_builtins(AlignStart([HOST], 3)).keys() == {"hosts", "ids"}
