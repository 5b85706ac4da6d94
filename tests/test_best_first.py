"""Trees that grow best-first to so many leaves, against LightGBM and under all engines."""

import heapq

import numpy as np
import pytest
import test_hidden_trees
import test_lattice_boost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory import over_memory
from paillier_key import KEY
from test_boost import Job, assert_same_model, make_job, resolved, usable
from test_lightgbm import EXACT, amounts, features, lightgbm_scores, our_scores, samples

from vfl.blocks.engine import ENGINE
from vfl.errors import PeerError
from vfl.learn.best_first import BestFirst, Head, level_of
from vfl.learn.binning import bin_columns
from vfl.learn.params import BoostParams
from vfl.learn.splits import Candidates
from vfl.learn.told_sums import equations_a_tree, most_splits
from vfl.net.peer import MemoryPeer
from vfl.protocols.common.clock import as_measured
from vfl.protocols.common.course import HostCourse
from vfl.protocols.common.participant import Participant
from vfl.protocols.trees import hidden_coordinator
from vfl.protocols.trees.columns import Direction
from vfl.protocols.trees.paillier_messages import Advance, CandidateSums
from vfl.protocols.trees.questions import Answers
from vfl.protocols.trees.records import Records
from vfl.protocols.trees.training import guest_train, host_train

pytestmark = pytest.mark.usefixtures("quick_key", "small_batches")


@pytest.mark.parametrize(
    ("leaves", "depth", "objective", "tolerance"),
    [
        (2, 10, "binary", 1e-5),
        (7, 10, "binary", 1e-5),
        (31, 6, "binary", 1e-5),
        (12, 5, "poisson", 1e-6),
    ],
)
def test_same_trees_as_lightgbm(leaves, depth, objective, tolerance):
    """Its num_leaves, under its max_depth. Of float32 gradients, as in test_lightgbm.py."""
    frame, claim = samples()
    label = claim if objective == "binary" else amounts(claim, objective, frame)
    train = np.random.default_rng(0).random(len(label)) >= 0.25
    params = EXACT.model_copy(update={"max_leaves": leaves, "depth": depth, "trees": 30})
    block = bin_columns(features(frame), params.max_bins, params.min_bin_rows)
    ours = our_scores(block, label, train, params, objective)
    theirs = lightgbm_scores(
        block, label, train, params, objective, others={"num_leaves": leaves, "max_depth": depth}
    )
    assert np.std(ours) > 0.05
    assert np.abs(ours - theirs)[train].max() < tolerance


def job_of(leaves: int | None, hosts: int = 2, seed: int = 5, rows: int = 220, **others) -> Job:
    given = {"trees": 2, "depth": 6, "max_bins": 8, "min_child_rows": 4, "max_leaves": leaves, **others}
    if given.get("sums") == "hidden":
        given["coordinator"] = "notary"
    return make_job(rows, hosts, seed, BoostParams(**given))


@pytest.mark.parametrize("leaves", [2, 6, 14])
def test_federated_equals_pooled_bit_for_bit(leaves):
    assert_same_model(job_of(leaves))
    test_lattice_boost.assert_same_model(job_of(leaves, encryption="lattice"))


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
@pytest.mark.parametrize("leaves", [2, 9])
def test_hidden_equals_pooled_bit_for_bit(encryption, leaves):
    test_hidden_trees.assert_same_model(job_of(leaves, encryption=encryption, sums="hidden"))


@pytest.mark.slow
@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(
    rows=st.integers(20, 120),
    hosts=st.integers(1, 3),
    seed=st.integers(0, 2**32),
    depth=st.integers(2, 6),
    max_leaves=st.integers(2, 20),
    max_bins=st.integers(2, 12),
    min_child_rows=st.integers(1, 8),
    draw=st.sampled_from([{}, {"subsample": 0.5}, {"goss_top": 0.3, "goss_other": 0.2}]),
    objective=st.sampled_from(["binary", "poisson", "quantile"]),
    colsample=st.sampled_from([0.4, 1.0]),
    guest_trees=st.integers(0, 1),
    monotone=st.sampled_from([{}, {"number1": "increasing", "rounded0": "decreasing"}]),
    groups=st.booleans(),
)
def test_every_engine_equals_pooled_for_any_settings(
    rows, hosts, seed, draw, objective, monotone, groups, **others
):
    params = BoostParams(trees=2, min_bin_rows=1, **others, **draw)
    if groups:
        names = [f"party{i}" for i in range(hosts + 1)]
        params = params.model_copy(
            update={"interaction_constraints": [names[:1], *[[names[0], n] for n in names[1:]]]}
        )
    job = make_job(rows, hosts, seed, params, 0.2, objective)
    job.monotone.update(monotone)
    if not usable(job):
        return
    assert_same_model(job)
    hides = {"sums": "hidden", "coordinator": "notary"}
    for encryption in ("paillier", "lattice"):
        job.params = params.model_copy(update={"encryption": encryption})
        if encryption == "lattice":
            test_lattice_boost.assert_same_model(job)
        job.params = job.params.model_copy(update=hides)
        test_hidden_trees.assert_same_model(job)


def test_as_many_leaves_as_a_level_has_make_the_tree_of_levels():
    expected, scores = job_of(None, depth=4).oracle()
    for leaves in (16, 40):
        model, same = job_of(leaves, depth=4).oracle()
        assert resolved(model, []) == resolved(expected, [])
        assert np.array_equal(same, scores)
    assert resolved(job_of(10, depth=4).oracle()[0], []) != resolved(expected, [])
    counts = [len(tree.leaves) for tree in job_of(7).oracle()[0].trees]
    assert counts == [7, 7]


class OneByOne(BestFirst):
    """Splits that are never made together."""

    def next(self, heads, exact=True):
        order = self._in_order(heads)
        batch = order[: min(1, self.left)]
        return batch, heads[order[1]] if batch and len(order) > 1 else None


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
@pytest.mark.parametrize("leaves", [14, 30])
def test_splits_that_are_made_together_are_those_one_by_one(encryption, leaves, monkeypatch):
    job = job_of(leaves, depth=5, encryption=encryption)
    together = resolved(job.oracle()[0], [])
    monkeypatch.setattr("vfl.protocols.trees.columns.BestFirst", OneByOne)
    assert resolved(job.oracle()[0], []) == together
    if encryption == "lattice":
        test_lattice_boost.assert_same_model(job)


def one_by_one(candidates, leaves):
    """The nodes that are split, by LightGBM's loop: the best leaf of all, with its numbers of leaves."""

    def best(node):
        return next(((-gain, party) for gain, party, fits in candidates.get(node, ()) if fits), None)

    split, queue = [], []

    def add(node, number):
        if best(node) is not None:
            heapq.heappush(queue, (*best(node), number, node))

    add(0, 0)
    while queue and len(split) < leaves - 1:
        *_, number, node = heapq.heappop(queue)
        split.append(node)
        add(2 * node + 1, number)
        add(2 * node + 2, len(split))
    return split


@given(data=st.data(), depth=st.integers(1, 5), leaves=st.integers(2, 20), exact=st.booleans())
def test_order_against_a_plain_loop(data, depth, leaves, exact):
    """Gains of few values, so that ties abound, also between nodes; where candidates may turn out to
    have too few rows, those alone are tried that come before the next node's."""
    one = st.tuples(st.integers(1, 3), st.integers(0, 1), st.just(True) if exact else st.booleans())
    lists = st.lists(one, max_size=1 if exact else 4, unique_by=lambda c: c[:2])
    candidates = {
        node: sorted(data.draw(lists), key=lambda c: (-c[0], c[1])) for node in range((1 << depth) - 1)
    }
    expected = one_by_one(candidates, leaves)
    order, open_, split = BestFirst(leaves, depth), {0: [*candidates[0]]}, []
    order.open(0)
    while True:
        heads = {node: Head(*own[0][:2]) for node, own in open_.items() if own}
        batch, after = order.next(heads, exact)
        if not batch:
            break
        taken = {}
        for node in batch:
            while open_[node] and node not in taken:
                gain, party, fits = open_[node][0]
                first = (gain, party) == heads[node]
                if after is not None and not first and (-gain, party) >= (-after.gain, after.party):
                    break
                open_[node].pop(0)
                if fits:
                    taken[node] = Head(gain, party)
        for node, head in taken.items():
            order.take(node, head)
            del open_[node]
            split.append(node)
            for child in (2 * node + 1, 2 * node + 2):
                if level_of(child) < depth:
                    order.open(child)
                    open_[child] = [*candidates[child]]
    assert sorted(split) == sorted(expected)


def test_splits_are_made_together_where_the_order_cannot_matter():
    order = BestFirst(31, 5)
    order.open(0)
    assert order.next({0: Head(9.0, 0)}) == ([0], None)
    order.take(0, Head(9.0, 0))
    for node in (1, 2):
        order.open(node)
    # 15 splits at most at and below the first leave one of 29 to the second.
    heads = {1: Head(1.0, 0), 2: Head(2.0, 0)}
    assert order.next(heads) == ([2, 1], None)
    assert BestFirst.next(order, {1: Head(1.0, 1)}) == ([1], None)
    few = BestFirst(5, 5)
    for node in (0, 1, 2):
        few.open(node)
    few.take(0, Head(9.0, 0))
    assert few.next(heads) == ([2], Head(1.0, 0))
    # Unless rows leave no room below it.
    few.open(2, 1)
    assert few.next(heads) == ([2, 1], None)


def messages_of(job: Job, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    sent: list[object] = []

    async def send(peer, message, send=MemoryPeer.send):
        sent.append(message)
        await send(peer, message)

    with monkeypatch.context() as patch:
        patch.setattr(MemoryPeer, "send", send)
        assert_same_model(job)
    return sent


def test_no_more_sums_are_told_than_are_counted(monkeypatch):
    """The root's, and those of one child of each split but the last: it is what `max_sums_a_row` is
    by."""
    job = job_of(6, hosts=1, trees=1, min_child_rows=2)
    told = [m for m in messages_of(job, monkeypatch) if isinstance(m, CandidateSums)]
    assert 2 * len(told) == equations_a_tree(220, job.params) == 2 * 5
    whole = job.params.model_copy(update={"max_leaves": None})
    assert equations_a_tree(10**6, whole) == 2 * 32 and most_splits(whole) == 63
    assert equations_a_tree(10**6, job.params.model_copy(update={"max_leaves": 64})) == 2 * 32


def test_hosts_are_told_of_no_split_below_which_there_is_none(monkeypatch):
    """Neither of those at the last level nor of the last one."""
    job = job_of(7, hosts=1, trees=1, depth=3, min_child_rows=2)
    (tree,) = job.oracle()[0].trees
    deepest = [node for node in tree.branches if level_of(node) == 2]
    assert deepest and len(tree.branches) == 6
    split = [n for m in messages_of(job, monkeypatch) if isinstance(m, Advance) for n in m.split]
    assert sorted(split) == sorted(set(tree.branches) - {*deepest})
    # Nor where the rows of these go.
    alone = job_of(2, hosts=1, trees=1, depth=3)
    assert not [m for m in messages_of(alone, monkeypatch) if isinstance(m, Advance)]


def with_other_leaves(job: Job, leaves: int) -> None:
    """Train with a host for which a tree has so many leaves."""
    guest_name, *names = job.blocks
    theirs = job.params.model_copy(update={"max_leaves": leaves})
    key = KEY if job.params.encryption == "paillier" else None

    def guest(peers):
        return guest_train(peers, {guest_name: job.blocks[guest_name]}, job.rows, job.params, key=key)

    def host(name, peer):
        return host_train(peer, job.blocks[name], theirs, Participant(name), shown=str)

    over_memory(names, guest, host, guest=guest_name)


@pytest.mark.parametrize(
    ("encryption", "said"),
    [("paillier", "of more nodes than the leaves of the job"), ("lattice", "more vectors than a tree")],
)
def test_a_guest_that_goes_on_beyond_the_leaves_is_refused(encryption, said):
    job = job_of(12, hosts=1, encryption=encryption)
    with pytest.raises(PeerError, match=said):
        with_other_leaves(job, 4)


def test_a_host_wins_no_more_nodes_than_a_tree_has_splits():
    """Where none is summed any more: two levels, and all wins at one host."""
    job = job_of(4, hosts=1, depth=2)
    job.features["party0"].clear()
    with pytest.raises(PeerError, match="Winners of more nodes than a tree of the job has splits"):
        with_other_leaves(job, 3)


@pytest.mark.parametrize("liar", ["guest", "coordinator"])
def test_whoever_goes_on_beyond_the_leaves_is_named_where_sums_are_hidden(liar, monkeypatch):
    job = job_of(3, hosts=1, sums="hidden")
    if liar == "guest":
        order = hidden_coordinator.BestFirst
        monkeypatch.setattr(hidden_coordinator, "BestFirst", lambda leaves, depth: order(2, depth))
        said = "a SumsLevel beyond the leaves of the job"
    else:
        monkeypatch.setattr(BestFirst, "next", lambda order, heads, exact: ([*heads], None))
        said = "with another number of splits than are left"
    with pytest.raises(PeerError, match=said):
        test_hidden_trees.federated(job)


ROWS = test_lattice_boost.ROWS
HALF = test_lattice_boost.HALF
QUARTER = 2 * HALF + 1 + np.arange(ROWS) % 2  # the nodes of a level below
question = test_lattice_boost.question
CHILDREN = test_lattice_boost.CHILDREN
LEFT = question([1], HALF, {1: [[0]]})
BELOW = question([3], QUARTER, {3: [[0]]})
REFUSED = {
    "a parent after what is below it": ([BELOW, LEFT], "out of turn"),
    "both of a path": ([question([2, 5], np.where(HALF == 1, 2, 5), {})], "out of turn"),
    "too deep": ([question([7], np.full(ROWS, 7), {})], "out of turn"),
    "rows of a node that another is below": (
        [BELOW, question([2], np.where(QUARTER == 3, 2, 0), {})],
        "rows that are in another node",
    ),
    "rows of another side": ([LEFT, question([5], np.where(HALF == 1, 5, 0), {})], "in another node"),
}


def answers_of(leaves: int) -> Answers:
    params = BoostParams(
        depth=3, max_leaves=leaves, max_bins=8, min_child_rows=5, min_bin_rows=1, encryption="lattice"
    )
    binned = make_job(ROWS, 1, 3, params, missing=0.0).blocks["party1"]
    every = Candidates.of(binned.columns)
    names = {column.name for column in binned.columns}
    guest = MemoryPeer.pair("host", "guest")[0]
    records = Records(guest, params, str, HostCourse(), as_measured)
    codes, order = ENGINE.hold(binned.codes), np.arange(len(every))
    return Answers(guest, binned, codes, params, every, order, names, records)


@pytest.mark.parametrize("what", REFUSED)
def test_questions_that_no_best_first_tree_asks_are_refused(what):
    asked, said = REFUSED[what]
    answers = answers_of(8)
    for message in asked[:-1]:
        answers._learn(message)
    with pytest.raises(PeerError, match=said):
        answers._learn(asked[-1])


def test_questions_about_nodes_of_any_order_and_of_several_levels():
    answers = answers_of(8)
    answers._learn(BELOW)
    answers._learn(question([2, 4], np.where(HALF == 2, 2, QUARTER), {}))
    assert {*answers._tried} == {3, 2, 4}
    assert np.array_equal(answers._known._node, np.where(HALF == 2, 2, QUARTER))


def test_a_host_takes_no_more_nodes_than_a_tree_has_splits():
    answers = answers_of(2)
    answers._learn(CHILDREN)
    everyone = [[candidate] for candidate in range(len(answers._order))]
    assert isinstance(answers._take({1: everyone})[0], Direction)
    with pytest.raises(PeerError, match="candidates of no open node"):
        answers._take({2: everyone})


def test_a_number_of_leaves_that_no_tree_can_have_is_said():
    said = BoostParams(depth=3, max_leaves=9).idle
    assert said.startswith("max_leaves = 9 changes nothing: a tree of depth = 3 has at most 8 leaves; ")
    assert BoostParams(depth=3, max_leaves=8).idle is BoostParams(depth=3).idle is None
