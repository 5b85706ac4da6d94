"""Hosts that keep their ids as evaluated: the same rows, and costs of the guest's side alone."""

from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from federation import Federation
from memory import over_memory
from room import HOSTS, Room

from vfl.crypto.randomness import OF_SYSTEM
from vfl.errors import PeerError
from vfl.net.peer import MemoryPeer
from vfl.party.kept_ids import GuestKeptStores, HostKeptIds
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.protocols.align import kept, psi
from vfl.protocols.align.kept import Asked, KeptIds, digest_of, prepare
from vfl.protocols.align.oprf import OprfRun
from vfl.protocols.align.psi import (
    AlignKey,
    AlignKeys,
    OprfEngine,
    PsiSettings,
    guest_align,
    host_align,
)
from vfl.protocols.common.participant import Participant

HOST, RULE, DAY = "bureau", ["trim", "upper"], date(2026, 5, 1)
POLICY = PolicySection(kept_key_days=30, max_ids_a_key=100)


def ids(*numbers: int) -> list[bytes]:
    return [b"policy %d" % number for number in numbers]


class Pair:
    """A guest and a host that keep what they can, and what was sent in their last run."""

    def __init__(self, folder: Path) -> None:
        self.stores = {name: Store(folder / name) for name in ("guest", "host")}
        self.sent: dict[str, list[bytes]] = {}

    def host_keeps(
        self, on: date = DAY, policy: PolicySection = POLICY, rule: Sequence[str] = RULE
    ) -> HostKeptIds:
        return HostKeptIds(self.stores["host"], ("insurer", "ab" * 32), rule, policy, on)

    @property
    def kept(self) -> KeptIds:
        found = self.host_keeps().load(Asked(0))
        assert found is not None
        return found

    def align(
        self,
        own: list[bytes],
        theirs: list[bytes],
        keeps: HostKeptIds | None = None,
        *,
        spoil: Callable[[str, bytes], bytes] | None = None,
    ) -> list[bytes]:
        """The ids that both find, in their order."""
        self.sent = {}

        def watch(to_host: MemoryPeer, to_guest: MemoryPeer) -> None:
            for peer in (to_host, to_guest):
                peer.observers.append(self._note)

        guest_settings = PsiSettings(guest_keeps=GuestKeptStores(self.stores["guest"], HOST))
        host_settings = PsiSettings(host_keeps=keeps or self.host_keeps())
        found = over_memory(
            [HOST],
            lambda hosts: guest_align(
                hosts, own, context=b"run", allow_empty=True, settings=guest_settings
            ),
            lambda name, peer: host_align(
                peer, theirs, Participant(name, context=b"run"), allow_empty=True, settings=host_settings
            ),
            opened=watch,
        )
        by_guest, by_host = (
            [of[row] for row in one.rows.tolist()] for of, one in zip((own, theirs), found, strict=True)
        )
        assert by_guest == by_host and sorted(by_guest) == sorted({*own} & {*theirs})
        return by_guest

    def _note(self, way: str, kind: str, payload: bytes) -> None:
        if way == "sent":
            self.sent.setdefault(kind, []).append(payload)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many of its own ids the host evaluates, call by call."""
    counts, evaluate = [], kept.evaluate_ids

    def counted(some: Sequence[bytes], scalar: bytes, context: bytes) -> Any:
        counts.append(len(some))
        return evaluate(some, scalar, context)

    monkeypatch.setattr(kept, "evaluate_ids", counted)
    return counts


def test_a_second_run_costs_what_the_guest_asks(pair: Pair, evaluated: list[int]) -> None:
    theirs = ids(*range(40))
    pair.align(ids(1, 2, 50), theirs)
    assert evaluated == [40] and "AlignStore" in pair.sent
    first = pair.kept
    pair.align(ids(*range(30, 50)), theirs[::-1])  # rows in another order are the same ids
    assert evaluated == [40] and "AlignStore" not in pair.sent
    assert pair.kept.scalar == first.scalar
    blinded = pair.sent["BlindedIds"]
    pair.align(ids(*range(30, 50)), theirs)
    assert pair.sent["BlindedIds"] != blinded  # the guest's scalar is of each run

    # Ids that came to the table are evaluated alone, and their store is sent alone.
    pair.align(ids(3, 40, 41, 99), [*theirs, *ids(40, 41)])
    assert evaluated == [40, 2] and len(pair.sent["AlignStore"]) == 1
    assert pair.kept.sizes == (40, 2) and pair.kept.scalar == first.scalar
    pair.align(ids(3, 40, 41, 99), [*ids(41, 40), *theirs])
    assert evaluated == [40, 2] and "AlignStore" not in pair.sent

    # One that is gone ends the key, and the guest forgets what it had.
    pair.align(ids(3, 39, 41), ids(*range(39)))
    assert evaluated == [40, 2, 39] and pair.kept.scalar != first.scalar
    assert len(GuestKeptStores(pair.stores["guest"], HOST).known(pair.kept.digests)) == 1
    assert len([*pair.stores["guest"].folder("kept").glob("*.npy")]) == 1
    pair.align([], ids(*range(39)))
    pair.align(ids(1), [])


def test_a_table_that_is_as_it_was_is_known_at_once(
    pair: Pair, evaluated: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one digest; in another order or with new rows ids are found one by one, and once."""
    looked: list[int] = []
    hashes = kept._hashes
    monkeypatch.setattr(
        kept, "_hashes", lambda some, scalar: looked.append(len(some)) or hashes(some, scalar)
    )
    theirs = ids(*range(30))
    for table, found in (
        (theirs, [30]),
        (theirs, [30]),
        (theirs[::-1], [30, 30]),
        (theirs[::-1], [30, 30]),
        ([*theirs, *ids(30)], [30, 30, 31]),
        ([*theirs, *ids(30)], [30, 30, 31]),
        ([b"policy 3", b"0policy 1", *theirs[1:3]], [30, 30, 31, 4, 4]),  # which ends the key
    ):
        pair.align(ids(1, 3, 29, 30, 99), table)
        assert looked == found
        # Each row has its own tag: as a key that is asked about one id after another finds it.
        assert kept.places_in(pair.kept.hashes, hashes(table, pair.kept.scalar)).tolist() == [
            *range(len(table))
        ]
    assert evaluated == [30, 1, 4]


def test_jobs_at_the_same_time_ask_no_more_of_a_key_than_one_after_the_other(pair: Pair) -> None:
    theirs, run = ids(*range(20)), OprfRun(b"run", OF_SYSTEM, lambda what, done, of: None)

    class Late:
        """Loads at once, and saves when all others have loaded."""

        def __init__(self) -> None:
            self.keeps = pair.host_keeps()
            self.loaded = [self.keeps.load(Asked(60))]

        def load(self, asked: Asked) -> KeptIds | None:
            return self.loaded.pop() if self.loaded else self.keeps.load(asked)

        def save(self, kept: KeptIds, asked: Asked) -> bool:
            return self.keeps.save(kept, asked)

    first = prepare(pair.host_keeps(), theirs, Asked(0), run).kept.scalar
    jobs = [Late() for _ in range(3)]
    used = [prepare(job, theirs, Asked(60), run).kept.scalar for job in jobs]
    assert used[0] == first and len({*used}) == 3  # of 100 that a key is asked about at most
    # A key that another one has taken the place of does not come back, with a count that begins anew.
    late = pair.host_keeps()
    old = late.load(Asked(40))
    assert old is not None
    last = prepare(pair.host_keeps(), ids(1), Asked(0), run).kept
    assert not late.save(old, Asked(40)) and pair.kept.scalar == last.scalar != old.scalar


@pytest.mark.parametrize("why", ["age", "asked", "rule", "guest", "damaged"])
def test_a_key_ends(pair: Pair, evaluated: list[int], why: str) -> None:
    theirs = ids(*range(20))
    pair.align(ids(*range(60)), theirs)
    first = pair.kept.scalar
    store = pair.stores["host"]
    keeps = {
        "age": pair.host_keeps(DAY + timedelta(30)),
        "rule": pair.host_keeps(rule=["trim"]),
        "guest": HostKeptIds(store, ("insurer", "cd" * 32), RULE, POLICY, DAY),
    }.get(why)
    if why == "damaged":
        next(iter(store.folder("kept").glob("*.npy"))).write_bytes(b"")
    else:
        pair.align(ids(*range(40)), theirs, pair.host_keeps(DAY + timedelta(29)))
        assert evaluated == [20] and pair.kept.scalar == first  # a hundred are asked about by now
    pair.align(ids(1), theirs, keeps)
    assert evaluated == [20, 20]
    assert (keeps or pair.host_keeps()).load(Asked(0)).scalar != first  # type: ignore[union-attr]


def test_a_key_that_another_job_has_ended_is_not_begun_again(pair: Pair) -> None:
    pair.align(ids(1), ids(1, 2))
    slower = pair.host_keeps()
    held = slower.load(Asked(1))
    pair.align(ids(1), ids(1, 3))  # which ends the key
    other = pair.kept
    assert held is not None and other.scalar != held.scalar
    slower.save(held, Asked(1))
    assert pair.kept.scalar == other.scalar


def test_a_store_that_the_guest_has_lost_is_sent_again(pair: Pair) -> None:
    pair.align(ids(1), ids(1, 2))
    for path in pair.stores["guest"].folder("kept").glob("*.npy"):
        path.write_bytes(b"")
    pair.align(ids(1, 2), ids(1, 2))
    assert len(pair.sent["AlignStore"]) == 1
    pair.align(ids(1, 2), ids(1, 2))
    assert "AlignStore" not in pair.sent


def test_what_is_not_kept_is_on_the_wire_as_before() -> None:
    assert msgspec.to_builtins(AlignKey(3, b"key", b"")).keys() == {"ids", "public_key", "signature"}
    assert msgspec.to_builtins(AlignKeys([], [])).keys() == {"public_keys", "signatures"}


OFFERED: dict[str, dict[str, Any]] = {
    "of another number of ids": {"kept_sizes": [3]},
    "with a store of none": {"kept_sizes": [2, 0], "kept_stores": [bytes(32), bytes(31) + b"x"]},
    "with a store twice": {"kept_sizes": [1, 1], "kept_stores": [bytes(32)] * 2},
    "with a digest too short": {"kept_stores": [bytes(31)]},
    "with a context too short": {"kept_context": b"short"},
    "without a context": {"kept_context": b""},
    "with more sizes than stores": {"kept_sizes": [1, 1]},
}


@pytest.mark.parametrize("how", OFFERED)
def test_a_host_that_offers_what_cannot_be(how: str) -> None:
    offered = {"kept_context": bytes(32), "kept_stores": [bytes(32)], "kept_sizes": [2], **OFFERED[how]}

    async def host(name: str, peer: MemoryPeer) -> None:
        await peer.recv(psi.AlignStart)
        await peer.send(AlignKey(2, bytes(32), b"", **offered))

    with pytest.raises(PeerError, match="AlignKey with kept stores that do not fit its ids"):
        over_memory([HOST], lambda hosts: guest_align(hosts, ids(1), context=b"run"), host)


@pytest.mark.parametrize(("names", "engine"), [([HOST, "bank"], "ecdh"), ([HOST], "ot")])
def test_stores_are_for_one_host_by_exponents_alone(names: list[str], engine: OprfEngine) -> None:
    async def host(name: str, peer: MemoryPeer) -> None:
        await peer.recv(psi.AlignStart)
        await peer.send(AlignKey(0, bytes(32), b"", bytes(32)))

    settings = PsiSettings(engine)
    with pytest.raises(PeerError, match="kept stores, which only one host alone has, by ecdh"):
        over_memory(names, lambda to: guest_align(to, ids(1), context=b"run", settings=settings), host)


def test_a_host_that_sends_another_store_and_a_guest_that_has_another(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(KeptIds, "digests", property(lambda self: [bytes(32)] * len(self.stores)))
        with pytest.raises(PeerError, match="AlignStore of another digest than announced"):
            pair.align(ids(1), ids(1, 2))
    monkeypatch.setattr(GuestKeptStores, "known", lambda self, stores: [b"x" * 32])
    monkeypatch.setattr(GuestKeptStores, "load", lambda self, store: np.zeros((100, 16), np.uint8))
    with pytest.raises(PeerError, match="AlignKeys with stores that this party does not have"):
        pair.align(ids(1), ids(1, 2))


def test_a_store_looks_random_but_at_ids_that_were_asked(pair: Pair) -> None:
    """To a guest that has it, and tries ids that it has not asked about."""
    pair.align(ids(1), ids(*range(200)))
    (store,) = pair.kept.stores
    assert digest_of(store) in pair.kept.digests
    outputs = np.random.default_rng(3).integers(0, 256, (5000, 32), np.uint8)
    assert not kept.common_in(store, 200, outputs, pair.kept.context).any()
    assert abs(np.unpackbits(store).mean() - 0.5) < 6 * 0.5 / np.sqrt(8 * store.size)


def test_jobs_use_what_hosts_keep(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch, evaluated: list[int]
) -> None:
    """A left join asks each host apart; the same rows are joined as by a key a job."""
    room = Room(Federation(tmp_path, keys, guest_listens=True))
    room.patch(monkeypatch)
    for name in HOSTS:
        room.federation.parties[name].settings.setdefault("policy", {})["joins"] = ["inner", "left"]
    as_before = room.align(join="left", engine="ecdh")
    assert not evaluated
    for name in HOSTS:
        room.federation.parties[name].settings["policy"] |= {"kept_key_days": 7}
    for _ in range(2):
        done = room.align(join="left", engine="ecdh")
        assert done.known == as_before.known and done.asked == as_before.asked
        rows, before = (one.alignment.rows for one in (done, as_before))
        assert sorted(rows.tolist()) == sorted(before.tolist())
    assert len(evaluated) == len(HOSTS)  # once each
    held = Store(room.federation.parties[HOSTS[0]].folder / "vfl-store")
    assert held.names("kept") == ["insurer"]
    assert Store(room.federation.guest.folder / "vfl-store").names("kept") == [
        f"{what}-{name}" for what in ("answers", "stores") for name in sorted(HOSTS)
    ]
    room.align(engine="ecdh")  # with both at once: under keys of the job
    room.align(extend="", join="inner")
    assert len(evaluated) == len(HOSTS)
    assert len(evaluated) == len(HOSTS)
