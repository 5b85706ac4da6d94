"""Correlations of single columns of two parties: figures, what they tell of a row, breaches."""

import asyncio
import math
from secrets import token_bytes

import numpy as np
import pandas as pd
import pytest
from memory import over_memory
from paillier_key import quick_key

from vfl.errors import PeerError, Refused
from vfl.learn.association import Associated, associations
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.linear import correlations
from vfl.protocols.linear.correlations import (
    Correlations,
    CorrelationShares,
    CorrelationStart,
    HostColumns,
    guest_correlations,
    host_correlations,
)

ROWS = 1200
RNG = np.random.default_rng(21)
AGE, WEIGHT = RNG.normal(size=(2, ROWS))
AREA = np.array(["a", "b", "c"], object)[np.digitize(AGE + RNG.normal(size=ROWS), [-0.7, 0.7])]
TABLES = {
    "guest": {"age": AGE, "area": AREA},
    "a": {"years": -AGE + 0.5 * RNG.normal(size=ROWS), "weight": WEIGHT},
    "b": {"fuel": np.where(WEIGHT + RNG.normal(size=ROWS) > 0, "x", "y").astype(object)},
}


def run(tables=TABLES, between=(), changed=None, counted=None, refuse=False, joined=None):
    """What the guest is told, and each host."""
    hosts, counts = [*tables][1:], {} if counted is None else counted
    known = {name: Associated.of(features, 10, token_bytes) for name, features in tables.items()}

    def watched(peer):
        send = peer.send

        async def sending(message):
            await send(message if changed is None else changed(message))

        peer.send = sending
        return peer

    def count(name):
        def of(many):
            counts[name] = many
            if refuse:
                raise Refused("too many correlations")

        return of

    async def guest(peers):
        return await guest_correlations(
            [*map(watched, peers)], "guest", known["guest"], ROWS, Resources()
        )

    async def host(name, peer):
        own = HostColumns(
            known[name],
            [f"{name}-{one.name}" for one in known[name].columns],
            name in between,
            joined,
        )
        part = Participant(name, hosts, b"correlations")
        return await host_correlations(watched(peer), own, ROWS, part, count(name))

    with quick_key():
        return over_memory(hosts, guest, host)


def by_pandas(one, other):
    """Pearson's r, the correlation ratio or Cramér's V, from their definitions."""
    levels = [values.dtype == object for values in (one, other)]
    if not any(levels):
        return np.corrcoef(one, other)[0, 1]
    if all(levels):
        table = pd.crosstab(one, other).to_numpy()
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
        chi = ((table - expected) ** 2 / expected).sum()
        return math.sqrt(chi / table.sum() / (min(table.shape) - 1))
    number, level = (other, one) if levels[0] else (one, other)
    frame = pd.Series(number.astype(float)).groupby(level)
    return math.sqrt((frame.size() * (frame.mean() - number.mean()) ** 2).sum() / number.var() / ROWS)


def test_one_formula_is_pearson_eta_and_cramer():
    features = TABLES["guest"] | TABLES["a"] | TABLES["b"]
    own = Associated.of(features, 10, token_bytes)
    numbers = own.numbers(20) / 2.0**20
    found = associations(numbers @ numbers.T / ROWS, own.sizes, own.sizes)
    for i, (first, one) in enumerate(features.items()):
        for j, (second, other) in enumerate(features.items()):
            assert found[i, j] == pytest.approx(by_pandas(one, other), abs=1e-4), (first, second)
    left = Associated.of(
        {"one": np.ones(ROWS), "note": np.array([f"{i}" for i in range(ROWS)], object)},
        10,
        token_bytes,
    )
    assert left.columns == [] and {*left.left_out} == {"one", "note"}


def test_guest_and_hosts_are_told_the_same_within_the_noise_that_they_are_told():
    counted = {}
    guest, first, second = run(between=("a", "b"), counted=counted)
    assert [(one.of, one.other) for one in guest] == [("guest", "a"), ("guest", "b"), ("a", "b")]
    assert guest[0].columns == ["a-years", "a-weight"] and guest[2].rows == ["a-years", "a-weight"]
    assert counted == {"a": 4 + 2, "b": 2 + 2}
    off = []
    for table in guest:
        for i, one in enumerate(TABLES[table.of].values()):
            for j, other in enumerate(TABLES[table.other].values()):
                exact = by_pandas(one, other)
                off.append(abs(table.figures[i][j] / 100 - exact) / (table.errors[i][j] / 100))
    assert max(off) < 2.5 and np.mean(off) < 0.9  # errors are of two deviations
    # A host knows its own columns by name, others by number, and the same figures.
    (own, pair), (others, last) = first, second
    assert (own.rows, own.columns) == (["years", "weight"], ["1", "2"])
    assert [[*row] for row in zip(*own.figures, strict=True)] == guest[0].figures
    assert pair.figures == guest[2].figures == [[*row] for row in zip(*last.figures, strict=True)]
    assert others.other == "guest" and pair.other == "b"


def test_hosts_are_held_against_each_other_only_where_both_allow_it():
    assert [(one.of, one.other) for one in run(between=("a",))[0]] == [("guest", "a"), ("guest", "b")]

    def changed(message):
        if isinstance(message, CorrelationStart):
            return CorrelationStart(message.hosts, message.sizes, [1, 2])
        return message

    with pytest.raises(PeerError, match="pairs of hosts that this one does not allow"):
        run(between=("a",), changed=changed)


def test_a_host_counts_before_it_tells():
    sent = []

    def changed(message):
        sent.append(type(message))
        return message

    with pytest.raises(Refused, match="too many correlations"):
        run(changed=changed, refuse=True)
    assert Correlations not in sent and CorrelationShares not in sent


@pytest.mark.parametrize(
    ("kind", "made", "said"),
    [
        (Correlations, lambda m: Correlations(m.figures[2:], m.errors), "Correlations of other columns"),
        (
            CorrelationShares,
            lambda m: CorrelationShares(m.data[8:], m.noise),
            "CorrelationShares of other columns",
        ),
        (
            Correlations,
            lambda m: Correlations(b"\xff\x7f" * (len(m.figures) // 2), m.errors),
            "Correlations that cannot be",
        ),
        (
            CorrelationShares,
            lambda m: CorrelationShares(m.data, np.full(len(m.noise) // 8, np.nan).tobytes()),
            "CorrelationShares with noise that cannot be",
        ),
        (
            CorrelationStart,
            lambda m: CorrelationStart(m.hosts, [m.sizes[0], [3], *m.sizes[2:]], m.between),
            "CorrelationStart of other columns than this host's",
        ),
        (
            CorrelationStart,
            lambda m: CorrelationStart(m.hosts[:1], m.sizes, m.between),
            "CorrelationStart of other hosts than the job's",
        ),
    ],
)
def test_what_cannot_be_is_a_breach(kind, made, said):
    def changed(message):
        return made(message) if isinstance(message, kind) else message

    with pytest.raises(PeerError, match=said):
        run(changed=changed)


def in_the_clear():
    """In the place of `share_products`: the same shares of what both bring, without encryption."""
    brought = {}

    async def share(other, numbers, pair, form, resources):
        own, theirs = pair
        brought.setdefault(own, asyncio.get_running_loop().create_future()).set_result(numbers)
        beside = await brought.setdefault(theirs, asyncio.get_running_loop().create_future())
        modulus = np.uint64((1 << form.cut.modulus_bits) - 1)
        one, two = (numbers, beside) if form.encrypts(own, theirs) else (beside, numbers)
        total = one.astype(np.int64) @ two.astype(np.int64).T
        mask = np.random.default_rng(total.size).integers(0, 1 << 60, total.shape).astype(np.uint64)
        return (mask if own < theirs else total.view(np.uint64) - mask) & modulus

    return share


def test_a_column_of_one_row_says_little_of_it(monkeypatch):
    """A guest that makes up columns of single rows, and adds no noise of its own, guesses in which of a
    host's two levels each is, of half of the rows each: worst of all, as both are as far from the mean
    as any row. The figures of docs/security.md."""
    sign = np.where(RNG.random(ROWS) < 0.5, -1.0, 1.0)
    who = RNG.choice(ROWS, 150, replace=False)
    tables = {"guest": {f"{row}": np.eye(1, ROWS, row).ravel() for row in who}, "a": {"secret": sign}}
    truth, noise = sign[who] > 0, correlations.normal
    monkeypatch.setattr(correlations, "_sent", lambda value: 0.0)

    def figures():
        monkeypatch.setattr(correlations, "share_products", in_the_clear())
        return np.array([row[0] for row in run(tables)[0][0].figures])

    # Without noise each column names its row's level.
    monkeypatch.setattr(correlations, "normal", lambda entropy, *shape: np.zeros(shape))
    assert ((figures() > 0) == truth).all()
    rng = np.random.default_rng(4)
    monkeypatch.setattr(correlations, "normal", lambda entropy, *shape: rng.normal(size=shape))
    seen = [figures() for _ in range(9)]
    assert np.mean((seen[0] > 0) == truth) == pytest.approx(0.84, abs=0.08)  # the normal law at 1
    # Every further figure about the row adds to it, which is why they are counted.
    assert np.mean((np.mean(seen, axis=0) > 0) == truth) > 0.97
    # The noise that is drawn is normal.
    drawn = noise(token_bytes, 20_000)
    assert abs(drawn.mean()) < 0.05 and drawn.std() == pytest.approx(1, abs=0.03)
    assert np.mean(np.abs(drawn) > 2) == pytest.approx(0.0455, abs=0.01)


def test_a_column_of_rows_that_are_joined_to_one_says_little_of_it(monkeypatch):
    """As the test before, of ten rows of the guest's that are joined to one of the host's."""
    who = np.repeat(np.arange(ROWS // 10), 10)
    secret = RNG.permutation(np.repeat([-1.0, 1.0], ROWS // 20))
    made = {f"{one}": (who == one).astype(float) for one in range(ROWS // 10)}
    rng, right = np.random.default_rng(4), []
    monkeypatch.setattr(correlations, "normal", lambda _, *shape: rng.normal(size=shape))
    monkeypatch.setattr(correlations, "_sent", lambda value: 0.0)
    for joined in (None, np.full(ROWS, 10)):
        monkeypatch.setattr(correlations, "share_products", in_the_clear())
        found = run({"guest": made, "a": {"secret": secret[who]}}, joined=joined)[0][0].figures
        right.append(np.mean((np.ravel(found) > 0) == (secret > 0)))
    assert right[0] > 0.99 and right[1] == pytest.approx(0.84, abs=0.08)


@pytest.mark.parametrize("sizes", [(0, 0), (10, 0), (40, 0), (40, 3), (20, 20)])
def test_noise_is_within_what_each_table_says_whatever_the_levels(sizes):
    """Columns of many levels have noise on many entries, of columns that have nothing in common."""
    rng, widths = np.random.default_rng(5), [max(size, 1) for size in sizes]
    (((within,),)) = correlations.reach(np.array(widths[:1]), np.array(widths[1:])).tolist()
    told = [
        associations(0.01 * rng.normal(size=widths), sizes[:1], sizes[1:], [0.01])[0, 0]
        for _ in range(2000)
    ]
    assert 0.94 < np.mean(np.abs(told) <= 0.01 * within) < 1
