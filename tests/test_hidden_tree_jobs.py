"""Jobs of trees whose sums a coordinator opens: over sessions, killed, as policies allow."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from federation import JOB, Federation, Party, ended, kill, make_tables

from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half
from vfl.party.audit import tables
from vfl.party.ledger import FOLDER
from vfl.party.store import Store

HOSTS = ("registry", "bureau")
ENGINES = pytest.mark.parametrize("encryption", ["paillier", "lattice"])


def job(name: str, encryption: str, hidden: bool = True, **settings: Any) -> dict[str, dict[str, Any]]:
    sums = {"sums": "hidden", "coordinator": "umpire"} if hidden else {}
    own = {"trees": 3, "depth": 3, "min_child_rows": 5, "encryption": encryption, **sums, **settings}
    return {"job": {**JOB["job"], "name": name}, "secureboost": own}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Federation]:
    """Two hosts and a coordinator, all serving; the guest has aligned."""
    folder = tmp_path_factory.mktemp("hidden")
    federation = Federation(folder, keys, coordinator=True, tables=make_tables(200))
    for name in HOSTS:
        policy = federation.parties[name].settings["policy"]
        policy |= {"min_child_rows": 2, "encryptions": ["paillier", "lattice"]}
    with ended(federation.serve()):
        federation.guest.align().ok()
        yield federation


def trees_of(party: Party, model: str) -> Any:
    """The shapes, gains, leaves and covers of the guest's half."""
    half = load_half(Store(party.store), model, GuestHalf)
    return [
        ({node: (b.party, b.gain) for node, b in tree.branches.items()}, tree.leaves, tree.covers)
        for tree in half.model.trees
    ]


@ENGINES
def test_the_model_is_that_of_open_sums(made: Federation, encryption: str) -> None:
    hidden = made.guest.train(job(f"hidden-{encryption}", encryption)).ok().json["model"]
    plain = made.guest.train(job(f"open-{encryption}", encryption, hidden=False)).ok().json["model"]
    assert trees_of(made.guest, hidden) == trees_of(made.guest, plain)
    line = made.serving["umpire"].until("coordinated")[-1]
    assert "3 trees; sent" in line


def opened(made: Federation) -> int:
    """How many levels the coordinator has opened so far."""
    own = made.parties["umpire"].store / FOLDER
    if not own.exists():
        return 0  # no job so far
    return sum(1 for _ in tables.rows(own, tables.MessageFilter(type="SumsLevel")))


@pytest.mark.slow
@pytest.mark.parametrize(("encryption", "trees"), [("paillier", 5), ("lattice", 14)])
def test_parties_that_die_come_back_to_the_same_model(
    made: Federation, encryption: str, trees: int
) -> None:
    """The coordinator, then a host of the job that goes on."""
    wanted = job(f"killed-{encryption}", encryption, trees=trees)
    for name in ("umpire", "registry"):
        before = opened(made)
        running = made.guest.start_train(wanted)
        while opened(made) < before + 4:  # in the second tree, of three levels
            assert running.process.poll() is None, running.err
            time.sleep(0.02)
        kill(made.serving[name])
        assert running.wait().code in (8, 9)
        made.serve(name)
    done = made.guest.train(wanted).ok()
    assert "going on with" in done.err
    plain = made.guest.train(job("whole", encryption, hidden=False, trees=trees)).ok().json["model"]
    assert trees_of(made.guest, done.json["model"]) == trees_of(made.guest, plain)


@contextlib.contextmanager
def policy_of(made: Federation, name: str, **rules: Any) -> Iterator[None]:
    """A host serves with these rules besides for a while."""
    party = made.parties[name]
    before = dict(party.settings["policy"])
    made.serving[name].stop()
    party.settings["policy"] |= rules
    made.serve(name)
    try:
        yield
    finally:
        made.serving[name].stop()
        party.settings["policy"] = before
        made.serve(name)


def test_a_host_that_takes_part_in_hidden_sums_alone(made: Federation) -> None:
    with policy_of(made, "bureau", hidden_sums=True):
        refused = made.guest.train(job("refused", "paillier", hidden=False))
        refused.failed(9, 'sums = "open" breaks rule hidden_sums = true')
        made.guest.train(job("let-in", "paillier", trees=1)).ok()


def test_a_host_without_the_coordinator(made: Federation) -> None:
    party = made.parties["bureau"]
    peers = dict(party.settings["peers"])
    made.serving["bureau"].stop()
    del party.settings["peers"]["umpire"]
    made.serve("bureau")
    try:
        made.guest.train(job("lonely", "paillier")).failed(9, "bureau stopped the job")
    finally:
        made.serving["bureau"].stop()
        party.settings["peers"] = peers
        made.serve("bureau")


@pytest.mark.parametrize(("encryption", "hidden"), [("paillier", False), ("lattice", True)])
def test_trees_are_added_to_those_of_a_kept_model(
    made: Federation, encryption: str, hidden: bool
) -> None:
    """Whoever opens the sums; the model that was there stays as it is."""
    guest, store = made.guest, Store(made.guest.store)
    longer = guest.train(job("longer", encryption, hidden=False, trees=4)).ok().json["model"]
    first = guest.train(job("first", encryption, hidden=False, trees=2)).ok().json["model"]
    before = store.read("model", first)
    added = job("added", encryption, hidden, trees=2, init_model=first)
    model = guest.train(added).ok().json["model"]
    assert trees_of(guest, model) == trees_of(guest, longer)
    assert store.read("model", first) == before


def test_models_that_no_training_begins_with(made: Federation) -> None:
    guest = made.guest
    first = guest.train(job("start", "paillier", trees=1)).ok().json["model"]
    other = {"job": {"objective": "poisson"}, "secureboost": {}}
    for name, change, code, said in (
        ("start", {}, 2, f'all parties know the model by its full name, write "{first}"'),
        ("another-20260101-000000-abcdef", {}, 5, "no model another-20260101-000000-abcdef"),
        (first, other, 2, "was trained with another objective ('binary')"),
    ):
        wanted = job("more", "paillier", init_model=name)
        wanted["job"] |= change.get("job", {})
        done = guest.train(wanted)
        assert said in done.err, done.err
        assert done.code == code
    store = Store(made.parties["bureau"].store)
    (store.path("model", first)).unlink()
    assert "bureau" in guest.train(job("more", "paillier", init_model=first)).err
