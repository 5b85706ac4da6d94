"""Trees whose gradients and hessians travel in one word: the same as in two, and with hosts for whom one
is too short."""

import asyncio
import dataclasses

import pytest
from test_boost import make_job, resolved
from test_lattice_boost import assert_same_model, federated, kept_in, messages_of, settings_of

from vfl.errors import PeerError
from vfl.net.peer import MemoryPeer
from vfl.protocols.common.lattice_hints import HintKnown, HintSums, host_meet
from vfl.protocols.common.lattice_sums import Query, Shape, Vectors
from vfl.protocols.common.participant import Resources
from vfl.protocols.oneway.sums import _FreshHints
from vfl.protocols.trees import lattice as lattice_boost
from vfl.protocols.trees import quantisation

pytestmark = pytest.mark.usefixtures("small_batches")


def in_single_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides, of as many bits."""

    def shape(rows, params, of=quantisation.lattice_shape):
        return dataclasses.replace(of(rows, params), pairs=False)

    monkeypatch.setattr(lattice_boost, "lattice_shape", shape)


def vectors_of(sent) -> tuple[int, int]:
    """Vectors that were asked about, and bytes of encrypted rows."""
    return (
        sum(message.vectors for message in sent if isinstance(message, Query)),
        sum(len(message.data) for message in sent if isinstance(message, Vectors)),
    )


def test_the_same_trees_in_words_of_one_number_and_of_two(monkeypatch):
    hosts = 2
    job = make_job(300, hosts, 3, settings_of(depth=4, min_child_rows=5, trees=2))
    sent = []

    async def send(peer, message, send=MemoryPeer.send):
        sent.append(message)
        await send(peer, message)

    monkeypatch.setattr(MemoryPeer, "send", send)
    model, scores, halves = federated(job)
    pairs, paired_bytes = vectors_of(sent)
    assert {message.word_bits for message in sent if isinstance(message, HintKnown)} == {80}
    in_single_words(monkeypatch)
    sent.clear()
    other, other_scores, other_halves = federated(job)
    vectors, single_bytes = vectors_of(sent)
    assert {message.word_bits for message in sent if isinstance(message, HintKnown)} == {48}
    assert resolved(model, halves) == resolved(other, other_halves)
    assert scores.tolist() == other_scores.tolist()
    # But for two vectors of zeros for each hint.
    assert vectors - 2 * hosts == 2 * (pairs - 2 * hosts)
    assert paired_bytes == 10 * 300 * pairs and single_bytes == 6 * 300 * vectors


def test_a_host_of_too_many_sums_gets_single_words(monkeypatch):
    """And so do all others: what they get is the same."""

    def parameters(self, outputs, word_bits=64, of=Shape.parameters):
        if word_bits == 80 and outputs > 15:
            raise ValueError("too many sums")
        return of(self, outputs, word_bits)

    monkeypatch.setattr(Shape, "parameters", parameters)
    job = make_job(200, 2, 3, settings_of(min_child_rows=5))
    job.features["party2"] = dict([*job.features["party2"].items()][:1])
    sent = messages_of(job, monkeypatch)
    outputs = [message.outputs for message in sent if isinstance(message, HintSums)]
    assert min(outputs) <= 15 < max(outputs)
    assert {message.word_bits for message in sent if isinstance(message, HintKnown)} == {48}
    assert_same_model(job)


def test_a_kept_hint_of_the_other_words_is_made_anew(tmp_path, monkeypatch):
    job, made = make_job(150, 1, 6, settings_of(trees=2, depth=2)), list[int]()

    def is_made() -> bool:
        made.clear()
        assert_same_model(job, **kept_in(tmp_path, job, lambda done, of: made.append(of)))
        return bool(made)

    assert is_made() and not is_made()
    with monkeypatch.context() as patched:
        in_single_words(patched)
        assert is_made() and not is_made()
    assert is_made() and not is_made()


def test_words_of_pairs_are_refused_where_none_come():
    """Of a job whose vectors are none, whatever the guest says."""

    async def run() -> None:
        ours, theirs = MemoryPeer.pair("guest", "bureau")
        shape = Shape(100, 6, 10)

        def matrix(secret: bytes):
            pytest.fail("a hint is made")

        meeting = host_meet(theirs, matrix, 5, shape, resources=Resources(), hints=_FreshHints())
        host = asyncio.create_task(meeting)
        await ours.recv(HintSums)
        await ours.send(HintKnown(b"", 80))
        await host

    with pytest.raises(PeerError, match="words that are not for this host's sums"):
        asyncio.run(run())


def test_a_guest_asks_a_host_for_no_more_pairs_than_a_tree_has(monkeypatch):
    """A pair counts as two of the sums that a tree gives away."""
    monkeypatch.setattr(lattice_boost, "equations_a_tree", lambda rows, params: 5)
    job = make_job(300, 1, 3, settings_of(depth=4, trees=1))
    with pytest.raises(PeerError, match="more vectors than a tree needs"):
        federated(job)
