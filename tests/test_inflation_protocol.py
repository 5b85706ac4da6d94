"""Variance inflation over memory: shares that tell nothing, what the guest sees, breaches."""

import math
from secrets import token_bytes

import numpy as np
import pytest
from memory import over_memory
from paillier_key import quick_key

from vfl.crypto.randomness import Randomness
from vfl.errors import PeerError
from vfl.learn.inflation import InflationDesign
from vfl.learn.rotated import Rotated
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.linear import inflation, turned_products
from vfl.protocols.linear.inflation import (
    InflationBlock,
    InflationShares,
    guest_inflation,
    host_inflation,
)

ROWS = 500
RNG = np.random.default_rng(8)
BASE = RNG.normal(size=(ROWS, 3))


def table(prefix, count):
    return {f"{prefix}{i}": BASE @ RNG.normal(size=3) + RNG.normal(size=ROWS) for i in range(count)}


TABLES = {"guest": table("g", 3), "a": table("a", 2), "b": table("b", 5), "c": table("c", 1)}
TABLES["b"]["level"] = np.array(["x", "y", "z"], object)[RNG.integers(0, 3, ROWS)]


def drawn(name, run=0):
    """A party's random numbers of a run: the same in every test."""
    return Resources(randomness=Randomness(f"{run} {name}".encode().ljust(32)))


def run(tables, changed=None, opened=None, again=0):
    """Each party's figures by column, or None. changed: takes each message of a host or guest."""
    designs, hosts, train = {}, [*tables][1:], np.ones(ROWS, bool)

    def prepare(name):
        def made(training):
            designs[name], whole = InflationDesign.of(tables[name], training, 10)
            return whole

        return made

    def watched(peer):
        send = peer.send

        async def sending(message):
            await send(message if changed is None else changed(message))

        peer.send = sending
        return peer

    async def guest(peers):
        matrix = prepare("guest")(train).take(train)
        return await guest_inflation([*map(watched, peers)], train, matrix, drawn("guest", again))

    async def host(name, peer):
        own = Participant(name, hosts, b"screen", minimum=10, resources=drawn(name, again))
        return await host_inflation(watched(peer), ROWS, prepare(name), own)

    with quick_key():
        found = over_memory(hosts, guest, host, opened=opened)
    return {
        name: None if one is None else designs[name].judged(one, [*tables[name]])
        for name, one in zip(tables, found, strict=True)
    }


def pooled(tables):
    """Of numbers, from the inverse of the correlations of all columns."""
    columns, names = [], []
    for features in tables.values():
        for name, values in features.items():
            if values.dtype == object:
                levels, counts = np.unique(values, return_counts=True)
                columns += [(values == one).astype(float) for one in np.delete(levels, counts.argmax())]
                names += ["level"] * (len(levels) - 1)
            else:
                columns.append(values)
                names.append(name)
    inverse = np.diag(np.linalg.inv(np.corrcoef(columns)))
    return {name: vif for name, vif in zip(names, inverse, strict=True) if name != "level"}


def test_with_three_hosts_each_party_has_its_own_figures():
    found, expected = run(TABLES), pooled(TABLES)
    off = []
    for name, own in found.items():
        assert {*own} == {*TABLES[name]}
        for column in own.keys() & expected.keys():
            one = own[column]
            off.append((one.value / expected[column] - 1) / one.doubt)
            assert 0.001 < one.doubt < 0.15 and one.most < 1.5 * one.value
    # As far off as the party is told, which is by the noise of two hosts where it has to do with one.
    assert 0.3 < np.sqrt(np.mean(np.square(off))) < 1.2 and np.abs(off).max() < 3
    assert max(expected.values()) > 3


def test_a_column_that_two_parties_have_is_said_to_be_made_up_and_the_rest_has_figures():
    """At 500 rows noise hides a VIF beyond 11, whatever it is; no other column is said to be so, of as
    many as a tenth of the rows."""
    rng = np.random.default_rng(3)
    wide = {f"w{place}": rng.normal(size=ROWS) for place in range(40)}
    tables = {"guest": TABLES["guest"], "a": {**wide, "copy": 2 * TABLES["guest"]["g0"] + 1}}
    seen = run(tables)
    for name, copy in (("guest", "g0"), ("a", "copy")):
        unbounded = [column for column, one in seen[name].items() if one.most == np.inf]
        assert unbounded == [copy] and 5 < seen[name][copy].least < 15
        assert seen[name][copy].said.startswith("at least ")
    assert max(one.value for column, one in seen["a"].items() if column != "copy") < 1.4


def test_a_guest_without_columns_still_has_hosts_find_theirs():
    tables = TABLES | {"guest": {}}
    found = run(tables)
    assert found["guest"] == {}
    expected = pooled(tables)
    for name in ("a", "c"):
        for column, one in found[name].items():
            assert one.least < expected[column] < one.most < 1.2 * one.value
    with_none = run({"guest": TABLES["guest"], "a": {}})
    assert with_none == {"guest": None, "a": None}


def test_shares_alone_are_uniform_and_together_the_products_with_noise(monkeypatch):
    tables = {name: TABLES[name] for name in ("guest", "b")}
    seen, grams, put = [], [], turned_products.TurnedForm.put

    def changed(message):
        if isinstance(message, InflationShares):
            seen.append(np.frombuffer(message.data, "<u8"))
        return message

    def kept(form, gram, pair, total):
        put(form, gram, pair, total)
        grams.append((gram.copy(), form.cut.modulus_bits))

    monkeypatch.setattr(turned_products.TurnedForm, "put", kept)
    monkeypatch.setattr("vfl.learn.rotated._orthogonal", lambda size, _: np.eye(size))
    run(tables, changed)
    run(tables, changed, again=1)
    # Of the same products other shares, over all that there may be, and other noise.
    off = (grams[0][0] - grams[1][0])[:3, 3:]
    assert off.std() == pytest.approx(math.sqrt(2) * inflation.NOISE / math.sqrt(ROWS), rel=0.3)
    assert (seen[0] != seen[1]).all()
    shares = np.concatenate(seen) / 2.0 ** grams[0][1]
    assert 0.25 < shares.mean() < 0.75 and shares.max() < 1 and (shares > 0.5).any()


def test_a_turn_leaves_only_what_the_outcome_tells():
    tables = {name: TABLES[name] for name in ("guest", "b")}
    design = {}
    for name, own in tables.items():
        design[name], whole = InflationDesign.of(own, np.ones(ROWS, bool), 10)
        design[name] = whole.take(np.ones(ROWS, bool))
    ones, twos = (
        [Rotated.of(design[name], token_bytes).numbers(20).astype(float) / 2**20 for _ in range(2)]
        for name in ("guest", "b")
    )
    mine = ones[0]
    seen = [mine @ their.T / ROWS for their in twos]
    assert np.abs(seen[0] - seen[1]).max() > 0.05  # another turn, another U
    np.testing.assert_allclose(seen[0] @ seen[0].T, seen[1] @ seen[1].T, atol=1e-4)
    for their in twos:
        np.testing.assert_allclose(their @ their.T / ROWS, np.eye(len(their)), atol=1e-4)
        np.testing.assert_allclose(their.mean(axis=1), 0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "made", "said"),
    [
        (InflationShares, lambda data: data[:-8], "InflationShares of other columns than there are"),
        (InflationBlock, lambda data: data + bytes(8), "InflationBlock of other columns than this host"),
        (
            InflationBlock,
            lambda data: np.full(len(data) // 8, np.nan).tobytes(),
            "InflationBlock that is no inverse",
        ),
    ],
)
def test_what_cannot_be_is_a_breach(kind, made, said):
    def changed(message):
        return kind(made(message.data)) if isinstance(message, kind) else message

    with pytest.raises(PeerError, match=said):
        run({name: TABLES[name] for name in ("guest", "a")}, changed)


@pytest.mark.parametrize(
    ("hosts", "columns", "said"),
    [
        (["a"], [3, 9], "of other columns than this host's"),
        (["a", "z"], [3, 2, 1], "of other hosts than the job's"),
        (["a"], [399, 2], "of more columns than there may be"),
    ],
)
def test_a_start_that_is_another_job_s_is_a_breach(hosts, columns, said):
    def changed(message):
        if isinstance(message, inflation.InflationStart):
            return inflation.InflationStart(hosts, columns)
        return message

    with pytest.raises(PeerError, match=said):
        run({name: TABLES[name] for name in ("guest", "a")}, changed)


def test_more_columns_than_there_may_be_are_said_by_none(monkeypatch):
    monkeypatch.setattr(inflation, "MOST_COLUMNS", 4)
    assert run({name: TABLES[name] for name in ("guest", "a")}) == {"guest": None, "a": None}
