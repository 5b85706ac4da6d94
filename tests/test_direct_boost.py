"""Trees of hosts that encrypt their matrices: bit for bit the plaintext oracle's, whatever is asked."""

import dataclasses
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from replayed_roles import check_replays, quick
from roles import lattice_boosting
from test_boost import make_job, usable
from test_hostile import survived
from test_lattice_boost import (
    assert_same_model,
    check_kills,
    federated,
    kept_in,
    messages_of,
    replaced,
    settings_of,
)

from vfl.crypto.lattice import direct, ring
from vfl.crypto.lattice.direct import NO_WORDS, EncryptedMatrix, MatrixKey
from vfl.errors import PeerError
from vfl.learn.params import BoostParams, GlmParams
from vfl.net.peer import MemoryPeer
from vfl.protocols.common import lattice_direct, lattice_hints
from vfl.protocols.common.lattice_hints import HintHeader, HintKnown, HintPart
from vfl.protocols.common.lattice_sums import Query, Shape, Vectors, VectorSums
from vfl.protocols.linear.lattice_products import fit_shape
from vfl.protocols.trees.grower import TreeEnd
from vfl.protocols.trees.quantisation import lattice_shape
from vfl.protocols.trees.questions import Asked

pytestmark = pytest.mark.usefixtures("small_batches", "matrices_encrypted")


@pytest.fixture(scope="module")
def matrices_encrypted():
    """Hosts of few outputs as well encrypt their matrices, which here spares little."""
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(direct, "_LEAST_SPARED", 0)
        yield


@pytest.mark.parametrize("hosts", [1, 3])
def test_federated_equals_pooled_bit_for_bit(hosts):
    assert_same_model(make_job(150, hosts, hosts, settings_of(min_child_rows=5)))


def test_vectors_stand_for_no_words_and_there_are_no_products_of_hints(monkeypatch):
    sent = messages_of(make_job(150, 1, 1, settings_of(trees=1)), monkeypatch)
    told = Counter(type(message).__name__ for message in sent)
    (known,) = (message for message in sent if isinstance(message, HintKnown))
    assert known.word_bits == NO_WORDS
    assert told["Vectors"] > 0 and told["HintProducts"] == 0


def test_the_same_trees_as_with_hints(monkeypatch):
    job = make_job(200, 2, 3, settings_of(subsample=0.7, colsample=0.8))
    with_matrices = federated(job)
    monkeypatch.setattr(direct, "_LEAST_SPARED", 1 << 30)
    with_hints = federated(job)
    assert with_matrices[0] == with_hints[0]
    assert np.array_equal(with_matrices[1], with_hints[1])


def test_vectors_of_several_messages_and_queries(monkeypatch):
    monkeypatch.setattr(lattice_direct, "_PIECE", 1 << 15)
    assert_same_model(make_job(600, 1, 5, settings_of(trees=2, depth=6, min_child_rows=1, gamma=0.0)))


@settings(max_examples=4, suppress_health_check=list(HealthCheck))
@given(
    rows=st.integers(20, 120),
    hosts=st.integers(1, 2),
    seed=st.integers(0, 2**32),
    depth=st.integers(1, 4),
    max_bins=st.integers(2, 12),
    draw=st.sampled_from([{}, {"subsample": 0.5}, {"goss_top": 0.3, "goss_other": 0.2}]),
    missing=st.sampled_from([0.0, 0.3]),
    guest_trees=st.integers(0, 2),
)
def test_federated_equals_pooled_for_any_settings(rows, hosts, seed, missing, draw, **others):
    params = settings_of(trees=2, min_bin_rows=1, min_child_rows=2, **others, **draw)
    job = make_job(rows, hosts, seed, params, missing)
    if usable(job):
        assert_same_model(job)


def test_hosts_agree_to_what_is_cheaper(monkeypatch):
    params = BoostParams(encryption="lattice", trees=2, depth=5)
    monkeypatch.setattr(direct, "_LEAST_SPARED", 1 << 10)
    assert lattice_shape(600, params).word_bits([62_000]) == NO_WORDS
    assert lattice_shape(600, params).word_bits([600, 0, 2000]) == NO_WORDS  # together
    assert lattice_shape(600, params).word_bits([620]) != NO_WORDS
    assert lattice_shape(5000, params).word_bits([62_000]) != NO_WORDS
    hidden = params.model_copy(update={"sums": "hidden", "coordinator": "umpire"})
    linear = fit_shape(600, GlmParams(encryption="lattice"))[1]
    for shape in (lattice_shape(600, hidden), linear):
        assert shape.word_bits([2000]) in (48, 56)
        with pytest.raises(ValueError, match="need a hint"):
            shape.parameters(2000, NO_WORDS)


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


# --- Matrices that are kept. ----------------------------------------------------------------------


def test_matrices_are_kept_and_used_again(tmp_path, monkeypatch):
    made: list[int] = []
    job = make_job(150, 1, 6, settings_of(trees=2, depth=2))

    def run(job: Any = job) -> int:
        made.clear()
        assert_same_model(job, **kept_in(tmp_path, job, lambda done, of: made.append(of)))
        return len(made)

    assert run() > 0
    assert run() == 0
    assert run(dataclasses.replace(job, params=settings_of(trees=3, depth=2, learning_rate=0.5))) == 0
    monkeypatch.setattr(direct, "_LEAST_SPARED", 1 << 30)
    assert run() > 0 and run() == 0  # a hint is something else
    monkeypatch.setattr(direct, "_LEAST_SPARED", 0)
    assert run() > 0
    other = dataclasses.replace(job, params=settings_of(trees=2, depth=2, max_bins=5))
    assert run(other) > 0


def test_a_matrix_serves_as_many_vectors_as_it_is_for(tmp_path, monkeypatch):
    made: list[int] = []
    params = settings_of(trees=2, depth=2)
    job = make_job(100, 1, 6, params)
    lifetime = 2 * lattice_shape(100, params).served
    monkeypatch.setattr(Shape.__init__, "__defaults__", (1, lifetime, True, False, True, False, False))
    counts = []
    for _ in range(4):
        made.clear()
        assert_same_model(job, **kept_in(tmp_path, job, lambda done, of: made.append(of)))
        counts.append(bool(made))
    assert counts == [True, False, True, False]


def test_a_job_goes_on_after_kills_at_any_message(tmp_path):
    check_kills(tmp_path, trees=3, kills=3)


# --- Hostile peers. -------------------------------------------------------------------------------

SPOILT: dict[str, tuple[type, Any, str]] = {
    "header": (HintHeader, lambda m: msgspec.structs.replace(m, header=b"x"), "HintHeader with 1 bytes"),
    "part": (HintPart, lambda m: HintPart(m.data[:-1]), "HintPart with"),
    "matrix": (
        HintPart,
        lambda m: HintPart(bytes(len(m.data))),
        "VectorSums with|a hint that is of no matrix|ZerosRead of|VectorSums beyond",
    ),
    "zeros": (Query, lambda m: Query(32), "a Query of another number of vectors"),
    "vectors": (Vectors, lambda m: Vectors(m.data[:-8]), "Vectors of another size"),
    "sums": (VectorSums, lambda m: msgspec.structs.replace(m, data=m.data[:-1]), "VectorSums with"),
    "too large": (
        VectorSums,
        lambda m: msgspec.structs.replace(m, data=bytes(len(m.data))),
        "VectorSums with|VectorSums beyond|of no matrix|ZerosRead of",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_spoilt_messages_are_refused(monkeypatch, what):
    kind, change, text = SPOILT[what]
    replaced(monkeypatch, kind, change)
    with pytest.raises(PeerError, match=text):
        federated(make_job(300, 1, 13, settings_of(trees=2, depth=3, min_child_rows=12)))


class FalseKey(MatrixKey):
    """Its public key makes sums depend on what re-randomises products."""

    def header(self) -> bytes:
        made = bytearray(super().header())
        whole = np.frombuffer(made, "<u8", 1, 32)
        made[32:40] = (whole + np.uint64(2 * self._parameters.reach)).tobytes()
        return bytes(made)


def test_a_false_public_key_fails_the_trial(monkeypatch):
    """Or readings of vectors would tell the secrets that hide them."""
    monkeypatch.setattr(lattice_hints, "MatrixKey", FalseKey)
    with pytest.raises(PeerError, match=r"of no matrix|ZerosRead of other|what sums of these"):
        federated(make_job(150, 1, 1, settings_of()))


def test_a_matrix_that_was_not_checked_is_not_kept(tmp_path, monkeypatch):
    job = make_job(100, 1, 6, settings_of(trees=1, depth=2))
    with monkeypatch.context() as within:
        within.setattr(lattice_hints, "MatrixKey", FalseKey)
        with pytest.raises(PeerError):
            federated(job, **kept_in(tmp_path, job, lambda done, of: None))
    made: list[int] = []
    assert_same_model(job, **kept_in(tmp_path, job, lambda done, of: made.append(of)))
    assert made


def test_what_is_drawn_for_products_is_drawn_once(monkeypatch):
    """Alike vectors of two trees are never hidden by the same numbers, at no two hosts."""
    job = make_job(150, 2, 1, settings_of(trees=3, depth=3))
    sent: list[bytes] = []

    async def send(peer, message, send=MemoryPeer.send):
        if isinstance(message, Vectors):
            sent.append(message.data[:64])
        await send(peer, message)

    monkeypatch.setattr(MemoryPeer, "send", send)
    federated(job)
    assert len(set(sent)) == len(sent) > 12


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_message_can_do_harm():
    survived(lattice_boosting(), 10)


def test_each_party_replays():
    """All that is random is drawn by purpose and place, and other in another run."""
    with quick():
        check_replays(lattice_boosting, {"HintHeader", "HintPart", "Vectors", "VectorSums"})


def test_a_matrix_that_is_no_encryption_ends_the_job_by_its_name(monkeypatch):
    """As one whose numbers are all alike: products of it with alike entries may not be exact."""

    def multiply(*given):
        ring.check(0.26)

    monkeypatch.setattr(EncryptedMatrix, "multiply_vectors", multiply)
    with pytest.raises(PeerError, match=r"party1.*HintParts that are no encryption: .*0\.26"):
        federated(make_job(150, 1, 1, settings_of(trees=1, depth=2)))
