"""Clients that are gone in the middle of an adding: it ends for all, or the others go on."""

import itertools

import numpy as np
import pytest
from clients import with_ends

from vfl.errors import ConfigError, PeerLost, PeerStopped
from vfl.net.wire import decode
from vfl.protocols.pooled.adding import Absences, ClientKey, MaskedPart, MaskedTotal

NAMES = ("ada", "bea", "cleo", "dora")
STEPS = 2
GO_ON = Absences(without=True)


def number(name, step):
    """A client's part of a step: which clients a total is over can be told from it."""
    return np.array([16**step * 2 ** NAMES.index(name), NAMES.index(name)], np.int64)


def role(name):
    async def run(adder):
        done = []
        for step in range(STEPS):
            total = await adder.total(number(name, step), "numbers")
            done.append((total.tolist(), tuple(adder.clients)))
        return done

    return run


def roles(count):
    return {name: role(name) for name in NAMES[:count]}


def due(step, clients):
    return sum(number(name, step) for name in clients).tolist()


WHOLE = {count: with_ends(roles(count), GO_ON) for count in (2, 3)}


def test_nobody_is_gone():
    for count, ends in WHOLE.items():
        names = NAMES[:count]
        assert ends["server"] == list(names)
        assert all(ends[name] == [(due(s, names), names) for s in range(STEPS)] for name in names)


LAST = WHOLE[3]["frames"]["bea"] - 2
"""Frames before the last total, which shows that all have heard the same, is sent to a client."""

# Each client, at each frame of its session: the first one seals the secret.
MOMENTS = [(name, k) for name in NAMES[:3] for k in range(WHOLE[3]["frames"][name])]


@pytest.mark.parametrize(("name", "after"), MOMENTS)
def test_the_others_go_on_without_a_client_that_is_gone_at_any_moment(name, after):
    told = []
    ends = with_ends(roles(3), GO_ON, cut={name: after}, told=told)
    left = tuple(other for other in NAMES[:3] if other != name)
    assert ends["server"] == list(left)
    assert isinstance(ends[name], PeerLost) or after > LAST
    first, second = (ends[other] for other in left)
    assert first == second
    sets = [clients for _, clients in first]
    assert all(clients in (left, NAMES[:3]) for clients in sets)
    assert sets == sorted(sets, key=len, reverse=True)  # nobody comes back
    assert [total for total, _ in first] == [due(s, clients) for s, clients in enumerate(sets)]
    # Who is told, once: the server, and clients that need another total.
    assert sorted(told) in (
        sorted([("server", name), *((other, name) for other in left)]),
        [("server", name)],
    )
    assert (len(told) == 1) == (after >= LAST)


@pytest.mark.parametrize("after", range(0, LAST, 2))
def test_it_ends_for_all_where_the_job_needs_all(after):
    """Or where too few would be left."""
    for absences in (Absences(), Absences(without=True, least=3)):
        ends = with_ends(roles(3), absences, cut={"bea": after})
        assert isinstance(ends["server"], PeerLost) and "bea" in str(ends["server"])
        assert ends["server"].passing
        for other in ("ada", "cleo"):
            assert isinstance(ends[other], PeerStopped), ends[other]
            assert str(ends[other]) == "server stopped the job: the connection to bea broke"
            assert ends[other].passing


def test_two_clients_do_not_go_on_as_one():
    ends = with_ends(roles(2), GO_ON, cut={"bea": 4})
    assert isinstance(ends["server"], PeerLost) and isinstance(ends["ada"], PeerStopped)


@pytest.mark.parametrize(
    "cut",
    [
        dict(zip(("ada", "dora"), moments, strict=True))
        for moments in itertools.product((0, 2, 4, 5, 6), repeat=2)
    ],
    ids=str,
)
def test_two_clients_are_gone(cut):
    """Also one while the others begin again because of the other."""
    ends = with_ends(roles(4), GO_ON, cut=cut)
    assert ends["server"] == ["bea", "cleo"]
    assert ends["bea"] == ends["cleo"]
    for step, (total, clients) in enumerate(ends["bea"]):
        assert total == due(step, clients)
    assert clients == ("bea", "cleo")


def test_a_client_that_says_why_it_ends():
    def ending(adder):
        raise ConfigError("its table is gone", for_peer="no table any more")

    failing = {**roles(3), "cleo": ending}
    ends = with_ends(failing, GO_ON)
    assert ends["server"] == ["ada", "bea"]
    assert ends["ada"] == ends["bea"] == [(due(s, NAMES[:2]), NAMES[:2]) for s in range(STEPS)]
    ends = with_ends(failing, Absences())
    assert str(ends["server"]) == "cleo stopped the job: no table any more"
    assert str(ends["ada"]) == str(ends["bea"]) == "server stopped the job: cleo stopped it"


def seen_by_the_server(cut):
    """What it received and sent, by client and kind."""
    seen = {}

    def opened(to_client, _):
        def see(direction, kind, payload):
            for one in (ClientKey, MaskedPart, MaskedTotal):
                if kind == one.__name__:
                    seen.setdefault((to_client.name, one), []).append(decode(payload, [one]))

        to_client.observers.append(see)

    return with_ends(roles(3), GO_ON, cut=cut, opened=opened), seen


def words(message):
    return np.frombuffer(message.words, "<u8")


def test_a_step_that_is_done_again_is_hidden_afresh_and_told_once():
    """Cleo has met and is gone when her part is due: the others have sent theirs."""
    ends, seen = seen_by_the_server({"cleo": 4})
    assert ends["ada"] == [(due(s, NAMES[:2]), NAMES[:2]) for s in range(STEPS)]
    for name in NAMES[:2]:
        keys = seen[name, ClientKey]
        assert [key.attempt for key in keys] == [0, 1]
        assert keys[0].public_key != keys[1].public_key
        first, again, *_ = seen[name, MaskedPart]
        assert first.step == again.step == 0 and first.about != again.about
        # What was under the masks before and after was the same, and nothing can be told from both.
        assert not np.isin(words(first) - words(again), [0]).any()
        assert [total.step for total in seen[name, MaskedTotal]] == [0, 1, 2]  # the last shows the end
    # Nor does the sum over those that are left tell anything: not even twice the same pad is in it.
    before, after = (
        sum(words(seen[name, MaskedPart][k]) for name in NAMES[:2]).astype(np.uint64) for k in (0, 1)
    )
    known = np.array(due(0, NAMES[:2]), np.uint64)
    for hidden in (before, after, before - after):
        assert not np.isin(hidden, [0, *known]).any()
