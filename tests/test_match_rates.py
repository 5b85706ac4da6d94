"""Match rates: counts as of sets, samples by content, nothing else on the wire, hostile peers."""

import hashlib
import random
from functools import partial

import drawn
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import over_memory

from vfl.crypto import group
from vfl.crypto.randomness import OF_SYSTEM
from vfl.errors import PeerError, VflError
from vfl.net import wire
from vfl.net.peer import stop_all
from vfl.protocols.align import match_rates
from vfl.protocols.align.match_rates import (
    Comparison,
    MatchAnswer,
    MatchCounts,
    MatchIds,
    MatchRate,
    MatchSample,
    MatchShare,
    MatchSizes,
    MatchStart,
    Trial,
    guest_match_rates,
    host_match_rates,
)

CONTEXT = b"job 7, run 1"


def trials_of(tables):
    """A trial for each list of values, by number."""
    return [Trial(f"way {k}", partial(iter, table)) for k, table in enumerate(tables)]


def compare(guest, hosts, *, context=CONTEXT, seeds=None, watch=None, lies=()):
    """What the guest has by host, then what each host has. `hosts`: lists of tables by name."""
    parties = ("guest", *hosts)
    randomness = {name: OF_SYSTEM if seeds is None else drawn.seeded(seeds[name]) for name in parties}

    def opened(to_host, to_guest):
        if watch is not None:
            to_host.observers.append(watch)
        for liar, kind, change in lies:
            lie(to_host if liar == "guest" else to_guest, kind, change)

    async def told(peers, work):
        try:
            return rates_of(await work)
        except VflError as error:
            await stop_all(peers, error)
            return error

    def guest_role(peers):
        own = trials_of(guest)
        return told(
            peers, guest_match_rates(peers, own, context=context, randomness=randomness["guest"])
        )

    def host_role(name, peer):
        own = trials_of(hosts[name])
        random_of = randomness[name]
        return told(
            [peer], host_match_rates(peer, own, name=name, context=context, randomness=random_of)
        )

    ended = over_memory(list(hosts), guest_role, host_role, opened=opened)
    for error in ended:
        if isinstance(error, PeerError):  # the others were told
            raise error
    return ended


def rates_of(found):
    """The rates of what was compared; of a guest by host. A refusal is as it is."""
    if isinstance(found, dict):
        return {host: rates_of(one) for host, one in found.items()}
    return found.rates if isinstance(found, Comparison) else found


def lie(peer, kind, change):
    """The peer sends what `change` makes of its messages of that kind."""
    honest = peer.send

    async def send(message):
        await honest(change(message) if isinstance(message, kind) else message)

    peer.send = send


def numbered(*numbers):
    return [b"%d" % number for number in numbers]


TABLE = st.lists(st.integers(-3, 12).map(lambda n: b"%d" % n if n >= 0 else b""), max_size=20)


@given(st.integers(1, 4).flatmap(lambda n: st.tuples(*[st.lists(TABLE, min_size=n, max_size=n)] * 3)))
@settings(max_examples=40)
def test_counts_are_those_of_sets(tables):
    guest, *hosts = tables
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(match_rates, "MIN_SAMPLE", 1)
        found, *theirs = compare(guest, {f"host{j}": own for j, own in enumerate(hosts)})
    for j, host in enumerate(hosts):
        rates = found[f"host{j}"]
        assert rates == theirs[j]
        for rate, own, other in zip(rates, guest, host, strict=True):
            sets = [{value for value in table if value} for table in (own, other)]
            assert rate.ids == tuple(map(len, sets))
            assert rate.filled == tuple(
                100 * sum(map(bool, table)) // max(1, len(table)) for table in (own, other)
            )
            if all(sets):
                assert rate.sample == rate.ids
                assert rate.common == len(set.intersection(*sets))
            else:
                assert (rate.common, rate.share) == (None, None)


def test_a_sample_is_by_content():
    rng = random.Random(3)
    guest, host = numbered(*range(30_000)), numbered(*range(20_000, 32_000))
    rng.shuffle(host)
    found, (same,) = compare([guest], {"host": [host]})
    (rate,) = found["host"]
    assert rate == same
    assert rate.ids == (30_000, 12_000)
    assert 1_700 < min(rate.sample) < 2_300
    assert 4_600 < max(rate.sample) < 5_400
    low, high = rate.interval
    assert low - 0.02 < 10_000 / 12_000 < high + 0.02
    assert high - low < 0.04


def test_intervals_hold_the_rates_of_whole_tables(monkeypatch):
    monkeypatch.setattr(match_rates, "SAMPLE", 150)
    guest, host = numbered(*range(2_000)), numbered(*range(1_400, 3_000))
    covered = 0
    for run in range(100):
        drawn = [match_rates._draw(trials_of([own])[0], [b"run %d" % run])[0] for own in (guest, host)]
        threshold = match_rates._threshold(2_000, 1_600)
        samples = [set(one.below(threshold)) for one in drawn]
        assert samples[0] & set(host) == samples[1] & set(guest)
        rate = MatchRate(
            "", (2_000, 1_600), (100, 100), tuple(map(len, samples)), len(set.intersection(*samples))
        )
        covered += rate.interval[0] <= 600 / 1_600 <= rate.interval[1]
    assert covered >= 90  # of 100; 95 % on average


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        (0, 500, 0),
        (99, 500, 0),
        (100, 500, 1),
        (2_000, 2_000, 1),
        (4_000, 8_000, 0.5),
        (4_000, 400_000, 0.05),
        (10_000, 2_000_000, 0.01),
        (10_000, 2_100_000, 0),
        (20_000_000, 20_000_000, 1e-4),
    ],
)
def test_how_much_of_tables_is_drawn(one, other, share):
    for sizes in ((one, other), (other, one)):
        assert match_rates._threshold(*sizes) == pytest.approx(share * 2**64)


def test_what_is_held_of_a_large_table_is_bounded(monkeypatch):
    monkeypatch.setattr(match_rates, "MOST", 50)
    (drawn,) = match_rates._draw(trials_of([numbered(*range(5_000), *range(900))])[0], [CONTEXT])
    assert drawn.ids == 5_000 and drawn.filled == 100
    assert len(drawn.values) == 100
    (every,) = match_rates._draw(trials_of([numbered(*range(90))])[0], [CONTEXT])
    assert sorted(every.below(2**64)) == sorted(numbered(*range(90)))
    assert every.below(2**63) == every.values[: len(every.below(2**63))]


def test_trials_that_are_the_same_run_once():
    same, other = numbered(*range(200)), numbered(*range(100, 300))
    seen = []
    found, theirs = compare(
        [same, same[::-1], other],
        {"host": [other, other + other, other]},
        watch=lambda direction, kind, payload: seen.append(kind),
    )
    assert seen.count("MatchSample") == seen.count("MatchAnswer") == 2
    assert [rate.common for rate in found["host"]] == [100, 100, 200]
    assert [rate.trial for rate in theirs] == ["way 0", "way 1", "way 2"]


def test_few_ids_are_not_compared():
    found, theirs = compare([numbered(*range(99))] * 2, {"host": [numbered(*range(500))] * 2})
    assert [rate.common for rate in found["host"]] == [None, None] == [rate.common for rate in theirs]
    assert found["host"][0].interval == (0, 1)


def test_a_host_with_no_trials_or_others_takes_no_part():
    table = numbered(*range(200))
    for own in ([], [table, table]):
        found, first, second = compare([table], {"a": own, "b": [table]})
        assert (found["a"], first) == ("trials", "trials")
        assert found["b"] == second and second[0].common == 200


def seeded(seed):
    rng = random.Random(seed)
    return lambda n: rng.randbytes(n)


def test_the_secret_fixes_the_transcript():
    def run():
        seen = []
        compare(
            [numbered(*range(150))],
            {"host": [numbered(*range(50, 250))]},
            seeds={"guest": 1, "host": 2},
            watch=lambda direction, kind, payload: seen.append((kind, payload)),
        )
        return seen

    assert run() == run()


def test_elements_come_back_in_another_order():
    """The guest can not tell which of its ids an element belongs to."""
    seen = {}
    compare(
        [numbered(*range(150))],
        {"host": [numbered(*range(200))]},
        watch=lambda direction, kind, payload: seen.update({kind: payload}),
    )
    sent = np.frombuffer(wire.decode(seen["MatchSample"], [MatchSample]).points, np.uint8)
    points = sent.reshape(-1, 32)
    own = numbered(*range(200))
    answer = match_rates._answer(points, own, b"", seeded(4))
    scalar = group.random_scalar(seeded(4))
    in_order = group.multiply(points, scalar).tobytes()
    back = answer.points
    rows = [[data[i : i + 32] for i in range(0, len(data), 32)] for data in (in_order, back)]
    assert sorted(rows[0]) == sorted(rows[1])
    assert sum(a == b for a, b in zip(*rows, strict=True)) < 10
    tags = match_rates._tags(group.multiply(group.hash_to_group(own, b""), scalar))
    assert sorted(map(bytes, tags)) != list(map(bytes, tags))
    assert match_rates._distinct(tags) == {answer.tags[i : i + 16] for i in range(0, 3_200, 16)}


def test_nothing_of_an_id_is_on_the_wire():
    rng = random.Random(5)
    ids = [rng.randbytes(12) for _ in range(300)]
    wired = []
    compare(
        [ids[:200]],
        {"host": [ids[100:]]},
        watch=lambda direction, kind, payload: wired.append(payload),
    )
    shares = [
        wire.decode(payload, [kind]).share
        for payload, kind in zip(wired[1:3], [MatchShare, MatchIds], strict=True)
    ]
    key = match_rates._sampling_key(CONTEXT, "host", shares[1], shares[0])
    data = b"".join(wired)
    for one in ids:
        hashed = match_rates.digests([one], domain=b"vfl match draw", prefix=key, size=8).tobytes()
        assert one not in data and hashed not in data and hashed[::-1] not in data
        assert hashlib.sha256(one).digest()[:12] not in data


# Hostile peers.


def _changed(**changes):
    return lambda message: msgspec.structs.replace(
        message, **{name: change(getattr(message, name)) for name, change in changes.items()}
    )


def _points(change):
    return _changed(points=change)


IDENTITY = bytes(32)
NO_POINT = b"\xff" * 32
SIZES = [
    (_changed(ids=lambda ids: ids[:-1]), "another number of trials"),
    (_changed(same=lambda same: [*same, 0]), "another number of trials"),
    (_changed(ids=lambda ids: [-1, *ids[1:]]), "a number of ids that is not"),
    (_changed(ids=lambda ids: [2**32, *ids[1:]]), "a number of ids that is not"),
    (_changed(filled=lambda filled: [101, *filled[1:]]), "a percentage that is none"),
    (_changed(same=lambda same: [1, *same[1:]]), "trials that cannot be the same"),
    (_changed(same=lambda same: [0, 0]), "trials that cannot be the same"),
    (_changed(same=lambda same: [-1, 1]), "trials that cannot be the same"),
    # To send a large sample under a small announcement, and the other way round.
    (_changed(ids=lambda ids: [n - 10 for n in ids]), "a sample of another size"),
    (_changed(ids=lambda ids: [4 * n for n in ids]), "a sample of another size"),
]
POINTS = [
    (_points(lambda p: p[:-1]), "a sample of another size"),
    (_points(lambda p: p[:-32]), "a sample of another size"),
    (_points(lambda p: p + p[:32]), "a sample of another size"),
    (_points(lambda p: p[:-32] + p[:32]), "an element twice"),
    (_points(lambda p: IDENTITY + p[32:]), "an invalid element"),
    (_points(lambda p: p[:-32] + NO_POINT), "an invalid element"),
]
LIES = [
    *(("guest", MatchIds, *one) for one in SIZES),
    *(("host", MatchSizes, *one) for one in SIZES),
    *(("guest", MatchSample, *one) for one in POINTS),
    *(("host", MatchAnswer, *one) for one in POINTS),
    ("host", MatchAnswer, _changed(tags=lambda tags: tags[:-16]), "a sample of another size"),
    ("host", MatchAnswer, _changed(tags=lambda tags: tags[:-16] + tags[:16]), "an element twice"),
    ("guest", MatchCounts, _changed(counts=lambda counts: counts[:-1]), "more common ids"),
    ("guest", MatchCounts, _changed(counts=lambda counts: [10**6, *counts[1:]]), "more common ids"),
    ("guest", MatchCounts, _changed(counts=lambda counts: [-1, *counts[1:]]), "more common ids"),
    ("guest", MatchSample, lambda _: MatchCounts([1, 1]), "MatchCounts where MatchSample"),
    ("guest", MatchCounts, lambda _: MatchStart(bytes(32), bytes(32)), "MatchStart where MatchCounts"),
    ("guest", MatchIds, _changed(share=lambda _: bytes(32)), "another share than it had committed"),
    (
        "guest",
        MatchStart,
        _changed(commitment=lambda _: bytes(32)),
        "another share than it had committed",
    ),
    ("host", MatchShare, _changed(share=lambda share: share[:-1]), "a share of another size"),
    ("host", MatchShare, _changed(share=lambda _: b""), "a share of another size"),
    ("host", MatchShare, _changed(refused=lambda _: "policy"), "a share of another size"),
]


@pytest.mark.parametrize(("liar", "kind", "change", "said"), LIES)
def test_hostile_peers_are_refused(liar, kind, change, said):
    tables = [numbered(*range(200)), numbered(*range(150))]
    theirs = [numbered(*range(100, 300)), numbered(*range(100, 260))]
    with pytest.raises(PeerError) as raised:
        compare(tables, {"host": theirs}, lies=[(liar, kind, change)])
    assert str(raised.value).startswith(f"{liar} broke the protocol: it sent ")
    assert said in str(raised.value)


def test_a_sample_far_above_the_announced_size_is_refused(monkeypatch):
    monkeypatch.setattr(match_rates, "SAMPLE", 100)
    table = numbered(*range(1_000))

    def more(sample):
        extra = group.hash_to_group(numbered(*range(150)), b"other").tobytes()
        return MatchSample(sample.points + extra)

    with pytest.raises(
        PeerError, match="guest broke the protocol: it sent MatchSample with a sample of"
    ):
        compare([table], {"host": [table]}, lies=[("guest", MatchSample, more)])


def test_messages_fit_the_largest_samples():
    largest = match_rates._LARGEST
    wire.encode(MatchSample(bytes(32 * largest)))
    wire.encode(MatchAnswer(bytes(32 * largest), bytes(16 * largest)))
    plan = match_rates._plan(
        trials_of([[]]),
        MatchIds(bytes(32), [4_000], [100], [0]),
        MatchSizes([800_000], [100], [0]),
    )
    assert plan.bounds(0, 800_000)[1] <= largest
