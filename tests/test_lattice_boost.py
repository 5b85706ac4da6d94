"""SecureBoost over the lattice engine: bit for bit the plaintext oracle's trees, whatever is asked."""

import asyncio
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import arguments
import msgspec
import numpy as np
import pytest
from federation import JOB, Federation, ended
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kills import ready, restart, start_train
from memory import over_memory
from test_boost import MONOTONE, Job, make_job, resolved, usable
from test_resume import Ends, Role, Run, plain

from vfl.blocks import cores
from vfl.crypto.lattice import products as kernels
from vfl.crypto.lattice.hint import EncryptedHint, HintKey
from vfl.crypto.lattice.parameters import DEGREE, Parameters
from vfl.errors import ConfigError, DataError, PeerError, PeerStopped
from vfl.jobs.hints import StoredGuestHints, StoredHostHints
from vfl.learn.losses import OBJECTIVES
from vfl.learn.params import BoostParams
from vfl.learn.quantiser import Quantiser
from vfl.learn.splits import histograms
from vfl.learn.told_sums import equations_a_tree
from vfl.net.peer import MemoryPeer
from vfl.party.store import Store
from vfl.protocols.common import lattice_hints, lattice_host, lattice_sums
from vfl.protocols.common.bits import pack_bits
from vfl.protocols.common.clock import as_measured
from vfl.protocols.common.course import GuestCourse, HostCourse
from vfl.protocols.common.lattice_hints import (
    HintAgreed,
    HintHeader,
    HintKnown,
    HintOffered,
    HintPart,
    HintSums,
)
from vfl.protocols.common.lattice_sums import GuestProducts, Query, Shape, Vectors, VectorSums
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.common.rows import Training
from vfl.protocols.trees import grower, questions
from vfl.protocols.trees import lattice as lattice_boost
from vfl.protocols.trees.columns import Direction, OwnColumns
from vfl.protocols.trees.grower import GuestTrees, HostTrees, TreeEnd
from vfl.protocols.trees.lattice import NextTree, Offering
from vfl.protocols.trees.quantisation import lattice_shape
from vfl.protocols.trees.questions import Answers, Asked, TooFew
from vfl.protocols.trees.records import Records
from vfl.protocols.trees.training import guest_train, host_train

pytestmark = pytest.mark.usefixtures("small_batches")


def federated(job: Job, *, guest_options: Any = None, host_options: Any = None):
    """(guest's half, scores, hosts' halves) over memory."""
    name, *names = job.blocks

    def guest(peers):
        course = arguments.guest_course(dict(guest_options or {}))
        return guest_train(peers, {name: job.blocks[name]}, job.rows, job.params, course=course)

    def host(host, peer):
        course = arguments.host_course(dict(host_options(host) if host_options else {}))
        own = Participant(host)
        return host_train(peer, job.blocks[host], job.params, own, shown=str, course=course)

    (model, scores), *halves = over_memory(names, guest, host, guest=name)
    return model, scores, halves


def assert_same_model(job: Job, **options: Any) -> None:
    expected, expected_scores = job.oracle()
    model, scores, halves = federated(job, **options)
    assert resolved(model, halves) == resolved(expected, [])
    assert np.array_equal(scores, expected_scores)
    assert (model.start, model.class_starts) == (expected.start, expected.class_starts)


def settings_of(**others: Any) -> BoostParams:
    return BoostParams(**{"trees": 3, "depth": 3, "max_bins": 8, "encryption": "lattice", **others})


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_federated_equals_pooled_bit_for_bit(hosts):
    assert_same_model(make_job(150, hosts, hosts, settings_of(min_child_rows=5)))


def test_rows_of_several_blocks_and_pieces(monkeypatch):
    monkeypatch.setattr(lattice_sums, "_PIECE", 1 << 16)
    assert_same_model(make_job(9000, 2, 4, settings_of(trees=2, max_bins=16)))


def test_own_columns_are_summed_while_hosts_add_up(monkeypatch):
    """In each level once all is encrypted that hosts wait for, in several pieces and queries too."""
    monkeypatch.setattr(lattice_sums, "_PIECE", 1 << 16)
    monkeypatch.setattr(lattice_boost, "BATCH", 2)
    job, done = make_job(9000, 1, 4, settings_of(trees=2, max_bins=16)), list[str]()
    expected, _ = job.oracle()

    def noted(inner: Callable[..., Any], what: str) -> Callable[..., Any]:
        def noting(*arguments: Any) -> Any:
            result = inner(*arguments)
            done.append(what)
            return result

        return noting

    monkeypatch.setattr(lattice_sums, "joined", noted(lattice_sums.joined, "encrypted"))
    monkeypatch.setattr(OwnColumns, "_sums", noted(OwnColumns._sums, "own"))
    model, _, halves = federated(job)
    assert resolved(model, halves) == resolved(expected, [])
    # By level an "e" for each piece: all of several queries come before own columns.
    *levels, rest = "".join({"own": "o", "encrypted": "e"}[what] for what in done).split("o")
    assert len(levels) == 2 * 3 and not rest
    first = levels[
        1
    ]  # of two vectors, as there is one pair; of the first level are the hint's zeros too
    assert first and levels[2] == 2 * first


def test_a_level_of_more_vectors_than_a_query():
    assert_same_model(make_job(600, 1, 5, settings_of(trees=2, depth=7, min_child_rows=1, gamma=0.0)))


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(
    rows=st.integers(20, 120),
    hosts=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    depth=st.integers(1, 4),
    max_bins=st.integers(2, 12),
    min_child_rows=st.integers(1, 10),
    gamma=st.sampled_from([0.0, 0.5]),
    draw=st.sampled_from([{}, {"subsample": 0.5}, {"goss_top": 0.3, "goss_other": 0.2}]),
    objective=st.sampled_from(list(OBJECTIVES)),
    with_offset=st.booleans(),
    learning_rate=st.sampled_from([0.2, 1.0]),
    colsample=st.sampled_from([0.4, 1.0]),
    guest_trees=st.integers(0, 2),
    stopping=st.sampled_from([0, 1]),
    missing=st.sampled_from([0.0, 0.3]),
    monotone=st.sampled_from([{}, MONOTONE]),
)
def test_federated_equals_pooled_for_any_settings(
    rows, hosts, seed, stopping, missing, draw, objective, with_offset, monotone, **others
):
    params = settings_of(
        trees=2,
        early_stopping_rounds=stopping,
        validation_share=0.3 if stopping else 0.0,
        min_bin_rows=1,
        **others,
        **draw,
    )
    job = make_job(rows, hosts, seed, params, missing, objective, with_offset)
    if usable(job):
        assert_same_model(dataclasses.replace(job, monotone=monotone))


def messages_of(job: Job, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All messages of a run, in the order they were sent."""
    sent = []

    async def send(peer, message, send=MemoryPeer.send):
        sent.append(message)
        await send(peer, message)

    monkeypatch.setattr(MemoryPeer, "send", send)
    federated(job)
    return sent


def test_too_few_rows_are_found_out_by_asking(monkeypatch):
    """Most candidates of the deeper nodes have too few rows; the model is the oracle's all the same."""
    job = make_job(300, 2, 13, settings_of(depth=4, min_child_rows=12, trees=2))
    assert_same_model(job)
    sent = messages_of(job, monkeypatch)
    assert any(isinstance(message, TooFew) for message in sent)
    # Refused within a question as well: the split taken is not of the first group.
    asked = {}
    for message in sent:
        if isinstance(message, Asked):
            asked.update(message.groups)
        elif isinstance(message, Direction) and message.candidate not in asked[message.node][0]:
            break
    else:
        pytest.fail("no question in which a later group was taken")


def test_questions_are_cut_to_size(monkeypatch):
    monkeypatch.setattr(questions, "_GROUPS", 2)
    monkeypatch.setattr(questions, "_MOST_ASKED", 1)
    job = make_job(300, 2, 13, settings_of(depth=4, min_child_rows=12, trees=2))
    assert_same_model(job)


def test_hosts_learn_nodes_they_are_asked_about_alone(monkeypatch):
    """One host's columns are noise: it is told of no node, and nobody of rows that are not drawn."""
    job = make_job(300, 2, 3, settings_of(subsample=0.6, validation_share=0.2, min_child_rows=10))
    rng = np.random.default_rng(0)
    job.features["party2"] = {"noise": np.ones(300)}
    job.rows.label[:] = rng.random(300) < 0.5 * job.features["party1"]["rounded1"] / 5
    told: Counter[str] = Counter()

    async def send(peer, message, send=MemoryPeer.send):
        told[f"{type(message).__name__} to {peer.name}"] += 1
        await send(peer, message)

    monkeypatch.setattr(MemoryPeer, "send", send)
    assert_same_model(job)
    assert told["Asked to party1"] > 0
    assert told["Asked to party2"] == 0 and told["Query to party2"] == 0  # it has no candidates


def test_what_a_host_is_sent_does_not_depend_on_the_gradients(monkeypatch):
    """Sizes and numbers of messages up to the first question are those of any labels."""

    def shape(seed: int) -> list[tuple[str, int]]:
        job = make_job(200, 1, 1, settings_of(trees=1))
        job.rows.label[:] = np.random.default_rng(seed).random(200) < seed / 5
        sent = messages_of(job, monkeypatch)
        first = next(i for i, message in enumerate(sent) if isinstance(message, Asked | TreeEnd))
        told = (m for m in sent[:first] if not isinstance(m, VectorSums))  # has seconds in it
        return [(type(m).__name__, len(msgspec.msgpack.encode(m))) for m in told]

    assert shape(1) == shape(2)


def test_row_bits_follow_the_rows():
    bits = {n: lattice_shape(n, settings_of()).value_bits - 1 for n in (100, 10**4, 10**6, 5 * 10**6)}
    assert bits == {100: 12, 10**4: 9, 10**6: 5, 5 * 10**6: 5}
    # Fewer go into shorter words, and with their hessians into one.
    for rows, word_bits in {10**4: 80, 10**5: 80, 10**6: 80, 14 * 10**5: 80, 5 * 10**6: 56}.items():
        assert lattice_shape(rows, settings_of(depth=5)).word_bits([620]) == word_bits
    # All hosts get words that the one of the most sums can answer.
    assert lattice_shape(14 * 10**5, settings_of(depth=5, trees=100)).word_bits([620, 6000]) == 56
    unseen = settings_of(depth=5, sums="hidden", coordinator="umpire")
    assert lattice_shape(10**6, unseen).word_bits([620, 0]) == 48
    assert lattice_shape(10**6, unseen).word_bits([620, 6000]) == 56


def test_tens_of_millions_of_rows_are_for_hosts_of_few_sums():
    params = settings_of(trees=100, depth=5)
    shape = lattice_shape(5 * 10**7, params)
    assert shape.value_bits == 6
    assert shape.word_bits([480]) == 64
    with pytest.raises(ValueError, match=r"^3,000 sums of each .* 50,000,000 rows of 6-bit values"):
        shape.word_bits([480, 3000])
    with pytest.raises(ValueError, match=r"over 66,000,000 rows and 3,200 vectors leave 4 bits a row, "):
        lattice_shape(66 * 10**6, params)


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    bits=st.integers(5, 24),
    seed=st.integers(0, 99),
)
def test_few_bits_are_within_bounds_and_right_on_average(values, bits, seed):
    numbers = np.array(values)
    quantiser = Quantiser.filling(float(np.abs(numbers).max()), bits)
    draw = np.random.default_rng(seed).random((400, len(numbers)))
    whole = np.array([quantiser.dithered(numbers, one) for one in draw])
    assert np.abs(whole).max() <= 2**bits - 1
    assert np.abs(whole - numbers * quantiser.scale).max() <= 1 + 1e-6
    # Of 400 draws with a deviation of 1/2 at most the mean is within 6 deviations of a mean.
    assert np.abs(whole.mean(axis=0) - numbers * quantiser.scale).max() < 6 * 0.5 / 20 + 1e-6


def test_more_rows_than_the_sums_can_have_are_refused():
    n = 1 << 29
    label = np.lib.stride_tricks.as_strided(np.zeros(1), (n,), (0,))
    rows = Training(label, label, label, label)
    with pytest.raises(ConfigError, match="is not for so many rows"):
        lattice_boost._LatticeGrower([], {}, rows, settings_of(), Resources(), GuestCourse(), None)


# --- Hints. ---------------------------------------------------------------------------------------


def kept_in(folder: Path, job: Job, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Options of a run whose parties keep their hints."""
    names = list(job.blocks)[1:]
    shelf = StoredGuestHints(
        Store(folder / "guest"), "aligned-1", {name: f"print of {name}" for name in names}
    )

    def of_host(name: str) -> dict[str, Any]:
        hints = StoredHostHints(Store(folder / name), "aligned-1", "guest")
        return {"hints": hints}

    return {"guest_options": {"hints": shelf, "hint_progress": progress}, "host_options": of_host}


def test_hints_are_kept_and_used_again(tmp_path):
    made: list[int] = []
    job = make_job(150, 1, 6, settings_of(trees=2, depth=2))

    def run(job: Job = job) -> int:
        made.clear()
        assert_same_model(job, **kept_in(tmp_path, job, lambda done, of: made.append(of)))
        return len(made)

    assert run() > 0
    assert run() == 0  # as it is
    assert run(dataclasses.replace(job, params=settings_of(trees=3, depth=2, learning_rate=0.5))) == 0
    # Other bins are another matrix.
    other = dataclasses.replace(job, params=settings_of(trees=2, depth=2, max_bins=5))
    assert run(other) > 0
    # A part lost or a secret lost: the same.
    (next((tmp_path / "guest" / "hints").glob("*.parts"))).unlink()
    assert run(other) > 0
    for file in (tmp_path / "party1" / "hints").glob("*"):
        file.unlink()
    assert run(other) > 0 and run(other) == 0
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    kept = [path for path in kept if path.suffix != ".lock"]
    assert len(kept) == 2 + 1 and all(path.stat().st_mode & 0o077 == 0 for path in kept)


def test_a_hint_serves_as_many_vectors_as_it_is_for(tmp_path, monkeypatch):
    made: list[int] = []
    params = settings_of(trees=2, depth=2)
    job = make_job(100, 1, 6, params)
    lifetime = 2 * lattice_shape(100, params).served
    monkeypatch.setattr(
        lattice_sums.Shape.__init__, "__defaults__", (1, lifetime, True, False, True, False, False)
    )
    counts = []
    for _ in range(4):
        made.clear()
        assert_same_model(job, **kept_in(tmp_path, job, lambda done, of: made.append(of)))
        counts.append(bool(made))
    assert counts == [True, False, True, False]


def test_old_hints_are_removed(tmp_path):
    hints = [StoredGuestHints(Store(tmp_path), f"aligned-{k}", {"bureau": "print"}) for k in range(7)]
    for hint in hints:
        hint.clear("bureau", 5)
        hint.file("bureau").write_bytes(b"parts")
        hint.keep("bureau", lattice_hints.KnownHint(b"n" * 32, b"s" * 32, b"header", 3))
    known = [hint.known("bureau") is not None for hint in hints]
    assert known == [False] * 3 + [True] * 4
    assert [hint.file("bureau").exists() for hint in hints] == known


def test_a_disk_without_room_is_one_line(tmp_path):
    hints = StoredGuestHints(Store(tmp_path), "aligned-1", {"bureau": "print"})
    with pytest.raises(
        DataError, match="no room for the hint of bureau, 1,000,000,000,000 MB: make room"
    ):
        hints.clear("bureau", 10**18)


def test_the_file_of_a_hint_has_the_size_that_was_asked_for(tmp_path):
    job = make_job(100, 1, 6, settings_of(trees=1, depth=2))
    asked = []
    shelf = StoredGuestHints(Store(tmp_path), "aligned-1", {"party1": "print"})
    clear = shelf.clear
    shelf.clear = lambda host, size: (asked.append(size), clear(host, size))
    federated(job, guest_options={"hints": shelf})
    assert 0 <= shelf.file("party1").stat().st_size - asked[0] <= 4096


def test_the_order_of_candidates_is_the_hints():
    """Random, and another one with another secret; never the canonical one."""
    job = make_job(400, 1, 2, settings_of(max_bins=16))
    binned = job.blocks["party1"]
    offered = lattice_boost._Offered.of(binned, job.params, binned.codes)
    orders = [offered.order(bytes([k]) * 32) for k in range(3)]
    assert {tuple(sorted(order)) for order in orders} == {tuple(offered.candidates)}
    assert len({tuple(order) for order in orders}) == 3
    assert np.array_equal(orders[0], offered.order(bytes(32)))


def test_the_matrix_gives_left_sums():
    job = make_job(400, 1, 2, settings_of(max_bins=16), missing=0.2)
    binned = job.blocks["party1"]
    offered = lattice_boost._Offered.of(binned, job.params, binned.codes)
    values = np.random.default_rng(0).integers(0, 100, binned.rows)
    cells = histograms(binned, offered.all, np.zeros(binned.rows, np.int64), 1, values)
    matrix = offered.matrix(b"s" * 32)
    got = matrix.map(cells[0].astype(np.uint64)[:, None])[:, 0].astype(np.int64)
    assert np.array_equal(got, offered.all.left_sums(cells)[0][offered.order(b"s" * 32)])
    assert matrix.weight == 1


# --- After a kill. --------------------------------------------------------------------------------


def test_a_job_goes_on_after_kills_at_any_message(tmp_path):
    check_kills(tmp_path, trees=4, kills=4)


def check_kills(folder: Path, trees: int, kills: int) -> None:
    """A job of three parties that is killed so many times gives what an undisturbed one does."""
    params = settings_of(
        trees=trees, depth=2, max_bins=5, subsample=0.8, colsample=0.7, min_child_rows=3
    )
    job = make_job(100, 2, 1, params)
    name, *hosts = job.blocks

    def run(of: Path) -> Run:
        shelf = StoredGuestHints(Store(of / "hints"), "aligned-1", {host: host for host in hosts})

        def guest(ends: Ends, kept: Any, done: int) -> Any:
            own = {name: job.blocks[name]}
            peers = [ends[host] for host in hosts]
            course = GuestCourse(checkpoints=kept, hints=shelf)
            return guest_train(peers, own, job.rows, params, course=course)

        def host(own: str) -> Role:
            hints = StoredHostHints(Store(of / f"hints of {own}"), "aligned-1", name)
            return lambda ends, kept, done: host_train(
                ends[name],
                job.blocks[own],
                params,
                Participant(own),
                shown=str,
                course=HostCourse(checkpoints=kept, hints=hints),
            )

        roles: dict[str, Role] = {name: guest, **{own: host(own) for own in hosts}}
        return Run(roles, {name: GuestTrees, **dict.fromkeys(hosts, HostTrees)}, of)

    undisturbed = run(folder / "whole").attempt()
    killed = run(folder / "killed")
    survived = killed.survive(seed=3, kills=kills, messages=30)
    assert undisturbed is not None
    for party, outcome in undisturbed.items():
        assert plain(survived[party]) == plain(outcome), party
    assert len(set(killed.begun)) > 1


# --- Hostile peers (test_hostile.py spoils every field of every message). -------------------------


def replaced(monkeypatch: pytest.MonkeyPatch, kind: type, change: Callable[[Any], Any], skip: int = 0):
    """Messages of a kind after the first `skip` are sent as `change` makes them."""
    seen = Counter[str]()

    async def send(peer, message, send=MemoryPeer.send):
        if type(message) is kind:
            seen[peer.name] += 1
            if seen[peer.name] > skip:
                message = change(message)
        await send(peer, message)

    monkeypatch.setattr(MemoryPeer, "send", send)


SPOILT: dict[str, tuple[type, Callable[[Any], Any], str]] = {
    "share": (HintOffered, lambda m: msgspec.structs.replace(m, share=m.share[:5]), "HintOffered of"),
    "known": (HintOffered, lambda m: msgspec.structs.replace(m, known=True), "HintOffered of"),
    "name": (HintHeader, lambda m: msgspec.structs.replace(m, name=b""), "HintHeader with a name"),
    "header": (HintHeader, lambda m: msgspec.structs.replace(m, header=b"x"), "HintHeader with 1 bytes"),
    "part": (HintPart, lambda m: HintPart(m.data[:-1]), "HintPart with"),
    "hint": (
        HintPart,
        lambda m: HintPart(bytes(len(m.data))),
        "VectorSums with|a hint that is of no matrix|ZerosRead of",
    ),
    "reuse": (HintAgreed, lambda m: HintAgreed([]), "HintAgreed to a hint"),
    "shares": (HintAgreed, lambda m: HintAgreed([b"s" * 32] * 3), "without this host's share"),
    "short shares": (HintAgreed, lambda m: HintAgreed([*m.shares, b"s"]), "of another size"),
    "ordered": (Offering, lambda m: Offering(b"1"), "Offering with"),
    "tree": (NextTree, lambda m: NextTree(m.tree + 9), "NextTree out of turn"),
    "zeros": (Query, lambda m: Query(32), "a Query of another number of vectors"),
    "rows": (Vectors, lambda m: Vectors(m.data[:-8]), "Vectors with"),
    "sums": (VectorSums, lambda m: msgspec.structs.replace(m, data=m.data[:-1]), "VectorSums with"),
    "too large": (
        VectorSums,
        lambda m: msgspec.structs.replace(m, data=bytes(len(m.data))),
        "VectorSums with|VectorSums beyond",
    ),
    "too few": (TooFew, lambda m: TooFew(m.node + 1), "TooFew that was not asked for"),
    "node": (
        Direction,
        lambda m: msgspec.structs.replace(m, node=m.node + 1),
        "Direction that was not asked for",
    ),
    "left": (
        Direction,
        lambda m: msgspec.structs.replace(m, left=bytes(b ^ 255 for b in m.left)),
        "do not add up|with a wrong",
    ),
}


@pytest.mark.usefixtures("hints_made_once")
@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_messages_are_refused(monkeypatch, what):
    kind, change, text = SPOILT[what]
    replaced(monkeypatch, kind, change)
    with pytest.raises(PeerError, match=text):
        federated(make_job(300, 2, 13, settings_of(trees=2, depth=4, min_child_rows=12)))


def test_more_vectors_than_a_tree_needs_are_refused(monkeypatch):
    replaced(monkeypatch, Query, lambda m: Query(32), skip=1)
    with pytest.raises(PeerError, match="a Query of more vectors than a tree needs"):
        federated(make_job(150, 1, 1, settings_of()))


def test_no_more_vectors_of_a_tree_are_summed_than_are_counted(monkeypatch):
    """A small `subsample` makes the count small; the host does not see which rows a vector has."""
    params = settings_of(trees=1, depth=6, subsample=0.1, min_child_rows=5)
    counted = equations_a_tree(150, params)
    assert counted < equations_a_tree(150, settings_of(depth=6, min_child_rows=5)) < 1 << params.depth
    served = Counter[str]()
    serve = lattice_host.HostProducts.serve

    async def counting(products, query, hidden=False, stream=None, **options):
        if not hidden:
            served["vectors"] += query.vectors
        return await serve(products, query, hidden, stream, **options)

    monkeypatch.setattr(lattice_host.HostProducts, "serve", counting)
    every_row = params.model_copy(update={"subsample": 1.0})
    drawn = grower.draw_rows
    monkeypatch.setattr(grower, "draw_rows", lambda train, _, *rest: drawn(train, every_row, *rest))
    with pytest.raises(PeerError, match="a Query of more vectors than a tree needs"):
        federated(make_job(150, 1, 1, params))
    assert 0 < served["vectors"] <= counted


def planes(node_of_row: np.ndarray, nodes: list[int]) -> tuple[bytes, bytes]:
    """Rows and drawn bits of a question about these nodes, all rows drawn."""
    place = np.zeros(len(node_of_row), np.int64)
    for number, node in enumerate(nodes, 1):
        place[node_of_row == node] = number
    bits = range(len(nodes).bit_length())
    return b"".join(pack_bits(place >> bit & 1 > 0) for bit in bits), pack_bits(
        np.ones((place > 0).sum(), bool)
    )


ROWS = 64
HALF = np.where(np.arange(ROWS) < 32, 1, 2)  # the nodes of the rows


def question(nodes: list[int], node_of_row: np.ndarray, groups: dict[int, list[list[int]]]) -> Asked:
    rows, drawn = planes(node_of_row, nodes)
    return Asked(nodes, rows, drawn, groups)


ROOT = question([0], np.zeros(ROWS, int), {0: [[0]]})
CHILDREN = question([1, 2], HALF, {1: [[0]], 2: [[1]]})
BELOW = question([5], np.where(HALF == 2, 5, 7), {5: [[1]]})
REFUSED: dict[str, tuple[list[Asked], str]] = {
    "part of the root": ([question([0], np.arange(ROWS) % 2, {0: [[0]]})], "other rows of a node"),
    "too few rows": (
        [question([1], np.where(np.arange(ROWS) < 9, 1, 2), {1: [[0]]})],
        "about a node of too few rows",
    ),
    "levels mixed": ([question([1, 3], HALF + 2 * (np.arange(ROWS) < 20), {1: [[0]]})], "out of turn"),
    "too deep": ([question([7], np.full(ROWS, 7), {7: [[0]]})], "out of turn"),
    "a node twice": ([CHILDREN, CHILDREN], "out of turn"),
    "back up": ([CHILDREN, ROOT], "out of turn"),
    "of no node": ([Asked([], b"x", b"", {0: [[0]]})], "rows of no node"),
    "planes missing": (
        [Asked([1, 2], CHILDREN.rows[:-1], CHILDREN.drawn, CHILDREN.groups)],
        "wrong number",
    ),
    "planes too many": (
        [Asked([1, 2], CHILDREN.rows + b"x", CHILDREN.drawn, CHILDREN.groups)],
        "of no node",
    ),
    "a place too high": ([Asked([1, 2], bytes([255]) * 16, b"\xff" * 8, CHILDREN.groups)], "of no node"),
    "drawn missing": (
        [Asked([1, 2], CHILDREN.rows, CHILDREN.drawn[:-1], CHILDREN.groups)],
        "wrong number",
    ),
    "another side": (
        [CHILDREN, question([3, 5], np.where(HALF == 1, 5, 3), {3: [[0]], 5: [[1]]})],
        "rows that are in another node",
    ),
    "drawn differently": (
        [
            question([1, 2], HALF, {1: [[0]]}),
            msgspec.structs.replace(BELOW, drawn=bytes([BELOW.drawn[0] ^ 1]) + BELOW.drawn[1:]),
        ],
        "other rows of a node",
    ),
    "unknown node": ([Asked([], b"", b"", {3: [[0]]})], "candidates of no open node"),
    "no such candidate": ([question([0], np.zeros(ROWS, int), {0: [[60_000]]})], "was not offered"),
    "a candidate twice": ([question([0], np.zeros(ROWS, int), {0: [[1], [1]]})], "candidate again"),
    "nothing asked": ([question([0], np.zeros(ROWS, int), {0: [[]]})], "candidates of no open node"),
}


def guest_of(
    ours: MemoryPeer, parameters: Parameters, seed: bytes, header: bytes, parts: list[bytes]
) -> GuestProducts:
    hint = EncryptedHint(parameters, seed, header)
    for number, part in enumerate(parts):
        hint.load(number, part)
    shape = Shape(parameters.rows, parameters.value_bits, 62)
    return GuestProducts([ours], [hint], [parameters], seed, shape, Resources(), lambda _: nullcontext())


@pytest.mark.parametrize("what", REFUSED)
def test_questions_that_no_tree_asks_are_refused(what):
    asked, text = REFUSED[what]
    params = settings_of(min_child_rows=5, min_bin_rows=1)
    binned = make_job(ROWS, 1, 3, params, missing=0.0).blocks["party1"]

    async def run() -> None:
        ours, theirs = MemoryPeer.pair("guest", "party1")
        host = asyncio.create_task(host_train(theirs, binned, params, Participant("party1"), shown=str))
        outputs = (await ours.recv(HintSums)).outputs
        await ours.send(HintKnown(b"", 64))
        offer = await ours.recv(HintOffered)
        shares = [offer.share, b"s" * 32]
        await ours.send(HintAgreed(shares))
        header = (await ours.recv(HintHeader)).header
        parameters = lattice_shape(ROWS, params).parameters(outputs)
        parts = [(await ours.recv(HintPart)).data for _ in range(parameters.hint_parts)]
        products = guest_of(ours, parameters, lattice_hints._seed(shares), header, parts)
        await lattice_hints._check_zeros(products, [parameters])
        products.end()
        await ours.recv(Offering)
        await ours.send(NextTree(0))
        for one in asked:
            await ours.send(one)
            if one is not asked[-1]:
                for _ in one.groups:
                    await ours.recv(Direction, TooFew)
        await host

    with pytest.raises(PeerError, match=text):
        asyncio.run(run())


def test_what_is_made_ahead_does_not_outlive_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the rest of it, not even the end of Python."""
    params = lattice_shape(ROWS, settings_of()).parameters(8)
    key = HintKey(params, b"s" * 32, b"k" * 32, b"")
    parts = [*key.encrypt(np.zeros((8, DEGREE) + (2,) * params.modulus.is_wide, np.uint64))]
    begun, over = threading.Event(), threading.Event()
    points: list[int] = []

    def multiply(*_: Any) -> None:
        points.append(1)
        begun.set()
        assert over.wait(20)

    monkeypatch.setattr(kernels, "multiply", multiply)

    async def run() -> None:
        ours, _ = MemoryPeer.pair("guest", "party1")
        products = guest_of(ours, params, b"s" * 32, key.header(), parts)
        products.begin()
        await asyncio.to_thread(begun.wait)
        products.end()

    asyncio.run(run())
    over.set()
    cores.spare_time().submit(lambda: None).result()
    assert 1 <= len(points) <= 2 * cores._cores() + 1  # of 128


def test_an_honest_question_is_answered_by_candidates_with_enough_rows():
    """Of the first group with any, the first in canonical order."""
    params = settings_of(min_child_rows=5, min_bin_rows=1)
    binned = make_job(ROWS, 1, 3, params, missing=0.0).blocks["party1"]
    offered = lattice_boost._Offered.of(binned, params, binned.codes)
    order = offered.order(b"s" * 32)
    names = {column.name for column in binned.columns}
    guest = MemoryPeer.pair("a", "b")[0]
    records = Records(guest, params, str, HostCourse(), as_measured)
    answers = Answers(guest, binned, binned.codes, params, offered.all, order, names, records)
    answers._learn(ROOT)
    (answer,) = answers._take({0: [[4, 2, 7], [1]]})
    assert isinstance(answer, Direction)
    assert answer.candidate == min([4, 2, 7], key=lambda number: int(order[number]))
    with pytest.raises(PeerError, match="no open node"):
        answers._take({0: [[3]]})  # it is split


def test_a_host_that_says_stop_ends_the_job_in_one_line():
    job = make_job(150, 1, 1, settings_of())

    def broken(name: str) -> dict[str, Any]:
        full = PeerStopped("its disk is full", for_peer="its disk is full")
        return {"hints": Mock(known=lambda: None, keep=Mock(side_effect=full))}

    with pytest.raises(PeerStopped, match="its disk is full"):
        federated(job, host_options=broken)


class Crooked(HintKey):
    """Its hints give sums off by the first coefficient of a vector's secret."""

    quarters = 4  # of a sum, that they are off by

    def encrypt(self, hint: np.ndarray) -> Any:
        hint = hint.copy()
        hint[:, 0] += np.uint64(self.quarters * self._parameters.reach)
        return super().encrypt(hint)


def use_crooked_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lattice_hints, "HintKey", Crooked)
    for module in (lattice_hints, lattice_sums):
        monkeypatch.setattr(module, "ZEROS", 8)  # one in 6,561 secrets' coefficients are all zero


@pytest.mark.parametrize("quarters", [2, 4])
def test_a_hint_of_no_matrix_is_found_out(monkeypatch, quarters):
    """It would give the secrets of vectors away, by how the guest ranks what depends on them."""
    monkeypatch.setattr(Crooked, "quarters", quarters)
    use_crooked_hints(monkeypatch)
    with pytest.raises(PeerError, match=r"of no matrix|ZerosRead of other|what sums of these"):
        federated(make_job(150, 1, 1, settings_of()))


def test_a_hint_that_was_not_checked_is_not_kept(tmp_path, monkeypatch):
    job = make_job(100, 1, 6, settings_of(trees=1, depth=2))
    with monkeypatch.context() as within:
        use_crooked_hints(within)
        with pytest.raises(PeerError, match=r"of no matrix|ZerosRead of other"):
            federated(job, **kept_in(tmp_path, job, lambda done, of: None))
    made: list[int] = []
    assert_same_model(job, **kept_in(tmp_path, job, lambda done, of: made.append(of)))
    assert made


# --- A job through processes. ---------------------------------------------------------------------


@pytest.mark.slow
def test_a_job_between_processes(tmp_path, keys):
    """A host's policy has to say yes; a host that was killed has its hint still, for later jobs too."""
    params = {**JOB["secureboost"], "trees": 3, "encryption": "lattice", "key_bits": 2048}
    job = {**JOB, "secureboost": params}
    federation = Federation(tmp_path, keys, hosts=("registry",))
    guest, registry = federation.guest, federation.parties["registry"]
    registry.settings["policy"]["key_bits"] = 3072  # which is not about it
    ready(federation)

    def hints() -> list[bytes]:
        return [path.read_bytes() for path in sorted((registry.store / "hints").glob("*.json"))]

    with ended(federation):
        guest.align().ok()
        said = 'encryption = "lattice" breaks rule encryptions = ["paillier"] of [policy]'
        start_train(federation, job).wait().failed(9, f"registry stopped the job: {said}")
        registry.settings["policy"]["encryptions"] = ["paillier", "lattice"]
        restart(federation, "registry")
        start_train(federation, job).wait().ok()
        made = hints()
        running = start_train(federation, {**job, "secureboost": {**params, "trees": 20}})
        while not [*(guest.store / "checkpoints").glob("*.json")]:
            assert running.process.poll() is None, running.err
            time.sleep(0.01)
        restart(federation, "registry")
        done = running.wait().ok()
        assert "the connection to registry broke" in done.err
        assert "receiving hints" not in done.err
        assert len(made) == len(hints()) == 1 and made != hints()  # more vectors were counted
        for party in federation.parties.values():
            for file in (party.store / "hints").iterdir():
                assert file.stat().st_mode & 0o077 == 0
