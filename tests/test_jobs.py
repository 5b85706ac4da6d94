"""The parts of jobs that need no other party: documents kept, names, what is said and when."""

import asyncio
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from federation import Federation

from vfl.errors import ConfigError, IdentityError, ModelError, PeerError, PeerLost, PeerStopped, Refused
from vfl.jobs.connect import Office
from vfl.jobs.guest import resolve_model
from vfl.jobs.halves import (
    Alignment,
    GuestHalf,
    HostHalf,
    ids_digest,
    load_alignment,
    load_half,
    save_alignment,
    save_half,
)
from vfl.jobs.host import _fresh
from vfl.jobs.offer import Accept, Offer, bind, new_run, stamp
from vfl.jobs.show import Once
from vfl.learn.splits import Split
from vfl.learn.tree import Branch, Tree
from vfl.net.peer import MemoryPeer, Stop, stop_all
from vfl.party.config import load_party
from vfl.party.store import Store
from vfl.protocols.boost import GuestModel, HostModel

SPLIT = Split("density", 0.1 + 0.2, None, False, True)
TREE = Tree(
    {0: Branch(0, 0, "density", 1.5), 1: Branch(1, 4, "power", 0.5)}, {2: 0.25, 3: -0.1, 4: 1e-17}
)
GUEST_HALF = GuestHalf(
    "claims-1",
    {"job": {"name": "claims"}},
    ("density", "area"),
    ("nfkc", "trim"),
    {"insurer": "aa", "registry": "bb"},
    GuestModel(("insurer", "registry"), -0.3, (TREE,), (SPLIT,)),
    {"federation": {"auc": 0.75}},
)
HOST_HALF = HostHalf(
    "claims-1",
    {},
    ("power",),
    ("trim",),
    "aa",
    "bb",
    HostModel((SPLIT, Split("f", None, "x", True, False))),
)


def with_tree(tree: Tree) -> GuestHalf:
    return dataclasses.replace(GUEST_HALF, model=dataclasses.replace(GUEST_HALF.model, trees=(tree,)))


@pytest.mark.parametrize("half", [GUEST_HALF, HOST_HALF])
def test_a_half_comes_back_bit_for_bit(tmp_path: Path, half: GuestHalf | HostHalf) -> None:
    save_half(Store(tmp_path), half)
    assert load_half(Store(tmp_path), "claims-1", type(half)) == half


def test_a_half_is_not_taken_for_the_other_partys(tmp_path: Path) -> None:
    save_half(Store(tmp_path), GUEST_HALF)
    with pytest.raises(
        ModelError, match=r"model claims-1 is not what this command needs.*other party's"
    ):
        load_half(Store(tmp_path), "claims-1", HostHalf)
    save_half(Store(tmp_path), HOST_HALF)
    with pytest.raises(ModelError, match="is not what this command needs"):
        load_half(Store(tmp_path), "claims-1", GuestHalf)


@pytest.mark.parametrize(
    "tree",
    [
        Tree({0: Branch(0, 0, "density", 1.0)}, {1: 0.0}),  # a child is missing
        Tree({0: Branch(0, 0, "density", 1.0)}, {1: 0.0, 2: 0.0, 7: 0.0}),  # one belongs to nobody
        Tree({0: Branch(0, 0, "density", 1.0)}, {0: 0.0, 1: 0.0, 2: 0.0}),  # a leaf that branches
        Tree({0: Branch(2, 0, "x", 1.0)}, {1: 0.0, 2: 0.0}),  # no such party
        Tree({0: Branch(0, 1, "x", 1.0)}, {1: 0.0, 2: 0.0}),  # no such split of the guest's
        Tree({0: Branch(1, -1, "x", 1.0)}, {1: 0.0, 2: 0.0}),
        Tree({}, {}),
    ],
)
def test_a_tree_that_no_training_could_have_made_is_refused(tmp_path: Path, tree: Tree) -> None:
    save_half(Store(tmp_path), with_tree(tree))
    with pytest.raises(ModelError, match="model claims-1 is damaged: a tree is not whole"):
        load_half(Store(tmp_path), "claims-1", GuestHalf)


def test_an_alignment_comes_back_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = np.array([3, 0, 2], np.int64)
    alignment = Alignment("a1", "aa", {"insurer": "aa"}, ("trim",), ids_digest([b"x", b"y"]), rows)
    save_alignment(store, alignment)
    back = load_alignment(store, "a1")
    assert dataclasses.replace(back, rows=rows) == alignment
    assert (back.rows == rows).all()
    (array,) = (tmp_path / "alignments").glob("*.npy")
    array.write_bytes(array.read_bytes()[:-1] + b"\1")
    with pytest.raises(ModelError, match="is damaged: it is not the array that was written"):
        load_alignment(store, "a1")


def test_the_digest_of_ids_tells_their_order_and_their_ends() -> None:
    assert len({ids_digest(ids) for ids in ([b"ab", b"c"], [b"a", b"bc"], [b"c", b"ab"], [])}) == 4


def test_a_model_is_found_by_its_jobs_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    names = [
        "claims-20270101-000000-abcdef",
        "claims-20270102-000000-000000",
        "other-20280101-000000-ffffff",
    ]
    for name in names:
        save_half(store, dataclasses.replace(GUEST_HALF, name=name))
    assert resolve_model(store, "claims") == names[1]  # the newest
    assert resolve_model(store, names[0]) == names[0]
    assert resolve_model(store, "./claims.json") == "./claims.json"
    assert resolve_model(store, "claim") == "claim"  # unknown: the error names what there is


def test_a_host_overwrites_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert _fresh(store, "model", "claims-1") == "claims-1"
    save_half(store, HOST_HALF)
    for name in ("claims-1", None):
        with pytest.raises(Refused, match="the model that the guest names exists already"):
            _fresh(store, "model", name)


def test_runs_have_names_of_their_own() -> None:
    run = new_run()
    assert len(run) == 32 and run != new_run()
    assert stamp(run).endswith(run[:3].hex())


def test_the_same_line_is_said_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [100.0], []
    monkeypatch.setattr("vfl.jobs.show.time.monotonic", lambda: now[0])
    once = Once(said.append, seconds=60)
    for at, line in [(100, "a"), (101, "a"), (102, "b"), (159, "a"), (161, "a"), (161.5, "b")]:
        now[0] = at
        once(line)
    assert said == ["a", "b", "a"]


def test_a_stop_is_understood_by_a_peer_that_is_bound_already() -> None:
    """A host is bound once it has accepted; the guest perhaps fails before it reads that."""
    offer = Offer("align", new_run(), ["registry"], [])

    async def run() -> None:
        insurer, registry = MemoryPeer.pair("insurer", "registry")
        bind(registry, offer)
        await insurer.send(Stop("no disk"))
        with pytest.raises(PeerStopped, match=r"^insurer stopped the job: no disk$"):
            await registry.recv(Accept)
        insurer, registry = MemoryPeer.pair("insurer", "registry")
        bind(registry, offer)
        await insurer.send(Accept())
        with pytest.raises(PeerError, match="a frame of another session"):
            await registry.recv(Accept)

    asyncio.run(run())


class Cut(MemoryPeer):
    """The peer has said something and left: nothing can be sent any more."""

    said: bytes = b""

    async def _put(self, frame: bytes) -> None:
        raise PeerLost(f"{self.name} closed the connection")

    def _unread(self) -> tuple[bytes, ...]:
        return (bytes(24) + b"\xff", self.said)


def test_a_send_that_fails_tells_what_the_peer_said_before_it_left() -> None:
    async def run() -> None:
        words: list[bytes] = []
        speaking, _ = MemoryPeer.pair("insurer", "registry")
        speaking.observers.append(lambda direction, kind, payload: words.append(payload))
        await speaking.send(Stop("a rule"))
        cut = Cut("registry", asyncio.Queue())
        with pytest.raises(PeerLost, match="registry closed the connection"):
            await cut.send(Accept())
        cut.said = bytes(24) + words[0]
        with pytest.raises(PeerStopped, match="registry stopped the job: a rule") as caught:
            await cut.send(Accept())
        assert caught.value.for_peer == "registry stopped it"
        await stop_all([cut], caught.value)  # it is gone: nothing is raised

    asyncio.run(run())


def test_an_office_opens_with_its_own_keys_only(tmp_path: Path, keys: Path) -> None:
    party = Federation(tmp_path / "f", keys, guest_listens=True).guest
    party.write()
    office = Office.open(load_party(party.file))
    assert set(office.fingerprints) == {"insurer", "registry", "bureau"}
    signature = office.identity.sign(b"key")
    with pytest.raises(ValueError, match="not of the pinned certificate"):
        office.verify("registry", signature, b"key")
    office.verify("unknown", b"", b"key")  # not pinned: the guest's word is taken
    party.settings["party"]["identity"] = str(keys / "stranger" / "stranger")
    party.write()
    with pytest.raises(IdentityError, match="is the certificate of stranger"):
        Office.open(load_party(party.file))
    office = dataclasses.replace(office, pinned=dict.fromkeys(("a", "b"), office.pinned["bureau"]))
    with pytest.raises(ConfigError, match="a and b have the same certificate"):
        _ = office.credentials
