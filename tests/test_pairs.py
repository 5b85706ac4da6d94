"""Tables by factors of two hosts, over memory: against sums of the same numbers in one place."""

import gmpy2
import msgspec
import numpy as np
import pytest
from memory import over_memory
from paillier_key import quick_key

from vfl.crypto.paillier import PublicKey
from vfl.errors import PeerError, Refused
from vfl.learn.cells import withhold
from vfl.learn.fixed_point import FixedPoint
from vfl.net.peer import MemoryPeer
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.linear.relayed import Relayed, RelayedPeer
from vfl.protocols.oneway import pairs
from vfl.protocols.oneway.host_cells import HostCells
from vfl.protocols.oneway.messages import MOST_LEVELS, PairLevels, PairVectors
from vfl.protocols.oneway.pairs import guest_pair, host_pair
from vfl.protocols.oneway.sums import HostTerms

ROWS, LEAST = 500, 8
RNG = np.random.default_rng(17)


@pytest.fixture(autouse=True)
def few_powers(monkeypatch):
    """Each n-th power takes some ten milliseconds: products of few of them do for a test."""
    monkeypatch.setattr(PublicKey, "pool_size", property(lambda key: 40))


HOSTS = ("bureau", "registry")
CODES = {
    "bureau": RNG.choice(9, ROWS, p=[0.2, 0.2, 0.15, 0.15, 0.1, 0.1, 0.04, 0.03, 0.03]),
    "registry": RNG.choice(4, ROWS, p=[0.5, 0.3, 0.15, 0.05]),
}
AMOUNTS = np.round(RNG.lognormal(6, 1, ROWS) * (RNG.random(ROWS) < 0.3) - 20, 2)
YEARS = np.round(RNG.uniform(0.1, 1, ROWS), 3)
MEASURES = [FixedPoint.of(AMOUNTS), FixedPoint.of(YEARS)]


def cells_of(name, least=LEAST):
    def made(chosen):
        codes = CODES[name][chosen]
        count = CODES[name].max() + 1
        levels = [f"{name[0]}{i}" for i in range(count)]
        return HostCells([levels], codes, np.bincount(codes, minlength=count), least)

    return made


def run(chosen=None, *, least=(LEAST, LEAST), counted=None, opened=None, measures=None):
    of = np.ones(ROWS, bool) if chosen is None else chosen
    some = measures or [FixedPoint(one.numbers[of], one.decimals) for one in MEASURES]

    async def guest(peers):
        return await guest_pair(tuple(peers), chosen, some, Resources())

    async def host(name, peer):
        own = Participant(name, HOSTS, b"table")
        made = cells_of(name, least[HOSTS.index(name)])
        count = (lambda sums: None) if counted is None else counted[name].append
        await host_pair(peer, ROWS, made, HostTerms("paillier", 2048), count, own)

    with quick_key():
        return over_memory([*HOSTS], guest, host, opened=opened)[0]


@pytest.mark.parametrize("held_out", [False, True])
def test_cells_are_those_of_one_table(held_out):
    chosen = RNG.random(ROWS) < 0.7 if held_out else np.ones(ROWS, bool)
    counted = {name: [] for name in HOSTS}
    found = run(chosen if held_out else None, least=(LEAST, 5), counted=counted)
    one, two = (CODES[name][chosen] for name in HOSTS)
    counts = np.zeros((9, 4), np.int64)
    np.add.at(counts, (one, two), 1)
    told = np.array([-1 if rows is None else rows for rows in found.cells.rows]).reshape(9, 4)
    # By the greater of both hosts' least rows, with those that the withheld would follow from.
    withheld = withhold(counts, LEAST)
    assert found.least == LEAST and 0 < withheld.sum() < withheld.size
    np.testing.assert_array_equal(told, np.where(withheld, -1, counts))
    for measure, sums in zip(MEASURES, found.cells.sums, strict=True):
        numbers = measure.numbers[chosen]
        for place, total in enumerate(sums):
            a, b = divmod(place, 4)
            own = None if withheld[a, b] else int(numbers[(one == a) & (two == b)].sum())
            assert total == own
    assert found.cells.levels == (
        tuple(f"b{i}" for i in range(9)),
        tuple(f"r{i}" for i in range(4)),
    )
    # Each counts what is told about its rows before it is: by all levels of the other.
    assert [len(counted[name]) for name in HOSTS] == [1, 1]
    assert counted["bureau"][0] * 2 < counted["registry"][0] < 1


def test_the_guest_passes_on_what_it_cannot_read_and_the_second_host_sees_no_level():
    """What comes to the second host has the same distribution for all levels of the first: Jacobi's
    symbol of numbers that are only moved would be 1."""
    seen, moved, keys = [], [], []
    original = pairs._moved

    def watched(key, ciphertexts, shifts, obfuscators):
        made = original(key, ciphertexts, shifts, obfuscators)
        keys.append(key)
        moved.extend(zip(shifts, key.integers(made), strict=True))
        return made

    def opened(to_host, to_guest):
        to_host.observers.append(lambda way, kind, data: seen.append((to_host.name, kind, data)))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pairs, "_moved", watched)
        run(opened=opened)
    relayed = b"".join(data for _, kind, data in seen if kind == Relayed.__name__)
    counts = np.bincount(np.frombuffer(relayed, np.uint8), minlength=256)
    assert np.abs(counts / counts.mean() - 1).max() < 0.1
    n = keys[0].n
    for of in (lambda shift: shift < 0, lambda shift: shift == 0, lambda shift: shift > 0):
        symbols = [gmpy2.jacobi(c % n, n) for shift, c in moved if of(shift)]
        assert len(symbols) > 100 and abs(np.mean(symbols)) < 0.35


def test_too_few_rows_are_refused():
    with pytest.raises(Refused, match="too many cells of the table"):
        run(least=(LEAST, 400))


def test_levels_that_the_guest_makes_up_are_found_out(monkeypatch):
    """A guest that says that the other host has fewer levels would be counted less."""
    original = MemoryPeer.send

    async def fewer(peer, message):
        if isinstance(message, PairVectors):
            message = msgspec.structs.replace(message, levels=message.levels - 1)
        await original(peer, message)

    monkeypatch.setattr(MemoryPeer, "send", fewer)
    with pytest.raises(PeerError, match="other levels than the other host has"):
        run()


def levels_more(message):
    return msgspec.structs.replace(message, levels=message.levels + 1)


def levels_beyond_bounds(message):
    return msgspec.structs.replace(message, levels=MOST_LEVELS + 2)


def no_least(message):
    return msgspec.structs.replace(message, least=0)


@pytest.mark.parametrize(
    ("sender", "lie", "what"),
    [
        ("bureau", levels_more, "other levels than the other host has"),
        ("registry", levels_more, "other levels than the other host has"),
        ("bureau", levels_beyond_bounds, "PairLevels"),
        ("registry", no_least, "PairLevels"),
    ],
)
def test_a_host_that_lies_to_the_other_one_ends_the_job(monkeypatch, sender, lie, what):
    """What hosts tell each other is sealed: neither the guest nor its checks see it."""
    original = RelayedPeer.send

    async def lying(peer, message):
        receiver = {"bureau": "registry", "registry": "bureau"}[sender]
        if isinstance(message, PairLevels) and peer.name == receiver:
            message = lie(message)
        await original(peer, message)

    monkeypatch.setattr(RelayedPeer, "send", lying)
    with pytest.raises(PeerError, match=what):
        run()
