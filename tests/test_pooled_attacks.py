"""What can be worked out of totals over rows, beside guessing: by the server, by a client, by both.

Each attack is after one bit of each number of a client. Guessing has half of them right; what has none
of them is told by no more than chance of so many bits.
"""

import numpy as np
import pytest
from clients import over_server, with_ends
from plain_totals import Written, with_totals
from row_jobs import Job, make_job
from row_parts import fitting

from vfl.errors import PeerLost
from vfl.learn.params import BoostParams, GlmParams
from vfl.net.wire import decode
from vfl.protocols.common.fellows import Masks
from vfl.protocols.common.transcript import Transcript
from vfl.protocols.pooled import glm
from vfl.protocols.pooled.adding import (
    TAGS,
    Absences,
    MaskedPart,
    MaskedTotal,
    MaskingAdder,
    _drawn,
)
from vfl.protocols.pooled.bins import _refined, keys_of, numbers_of
from vfl.protocols.pooled.totals import Totals

NAMES = ("ada", "bea", "cleo", "dora")
SIZE = 4000
CHANCE = 6 * np.sqrt(SIZE) / 2 / SIZE  # of guesses right, beyond a half: once in 10^9 more


def bits(seed):
    return np.random.default_rng(seed).integers(0, 2, SIZE, np.int64)


def success(words, secret):
    """The share of the secret's bits that any one bit of the words has right, or has wrong."""
    hits = [((words >> np.uint64(k)) & np.uint64(1) == secret).mean() for k in range(64)]
    return max(max(hit, 1 - hit) for hit in hits)


class Looking:
    """All that the server has, and all that clients know who work with it."""

    def __init__(self, monkeypatch):
        self.parts, self.totals = {}, {}  # by client, in order; what the server sent to each
        self.known = {}  # by client: (about, group) of each part
        whole = MaskingAdder._masked

        def masked(adder, words, about, group):
            self.known.setdefault(adder.name, []).append((about, group))
            return whole(adder, words, about, group)

        monkeypatch.setattr(MaskingAdder, "_masked", masked)

    def opened(self, to_client, to_server):
        """Watch a session at the client's end: also what the server has not taken."""

        def see(direction, kind, payload):
            for one, found in ((MaskedPart, self.parts), (MaskedTotal, self.totals)):
                if kind == one.__name__:
                    words = np.frombuffer(decode(payload, [one]).words, "<u8")
                    found.setdefault(to_client.name, []).append(words)

        to_server.observers.append(see)

    def open(self, name, k, words):
        """What a client makes of the sum of all parts of its k-th step."""
        about, _ = self.known[name][k]
        return (words - _drawn(about, len(words) - TAGS)[1])[:-TAGS]

    def without_masks_of(self, name, other, k):
        """A part of another client less the masks that it shares with this one."""
        about, group = self.known[name][k]
        heard = Transcript()
        heard.add(about)
        shared = Masks(name, {other: group.with_fellows[other]}, heard, b"vfl adding masks")
        return (self.parts[other][k] + shared.draw(SIZE + TAGS))[:-TAGS]


@pytest.fixture
def looking(monkeypatch):
    return Looking(monkeypatch)


def adding(secrets):
    def role(own):
        async def run(adder):
            return [await adder.total(own, "numbers"), tuple(adder.clients)]

        return run

    return {name: role(own) for name, own in secrets.items()}


def sums_of(parts):
    """Every sum of some of these words."""
    sums = [np.zeros(len(parts[0]), np.uint64)]
    for one in parts:
        sums += [other + one for other in sums]
    return sums[1:]


# --- The server alone ------------------------------------------------------------------------------


@pytest.mark.parametrize("clients", [2, 3])
def test_the_server_tells_no_number_of_a_client_nor_of_the_total(looking, clients):
    secrets = {name: bits(k) for k, name in enumerate(NAMES[:clients])}
    over_server(adding(secrets), opened=looking.opened)
    total = sum(secrets.values())
    seen = [looking.parts[name][0][:-TAGS] for name in secrets]
    seen.append(looking.totals["ada"][0][:-TAGS])
    assert success(secrets["bea"].view(np.uint64), secrets["bea"]) == 1  # what is in clear is told
    for words in sums_of(seen):
        for secret in (*secrets.values(), total & 1):
            assert success(words, secret) < 0.5 + CHANCE


def test_a_part_that_comes_late_tells_the_server_nothing(looking):
    """Dora is called gone when her part is due, which comes after: the others add the same again. No
    masks of hers are given to anybody for it, and what lies over each sum is new."""
    secrets = {name: bits(k) for k, name in enumerate(NAMES)}
    ends = with_ends(adding(secrets), Absences(without=True), cut={"dora": 4}, opened=looking.opened)
    assert isinstance(ends["dora"], PeerLost) and ends["ada"][1] == NAMES[:3]
    before = [looking.parts[name][0][:-TAGS] for name in NAMES]
    after = [looking.parts[name][1][:-TAGS] for name in NAMES[:3]]
    late = before[3]
    whole, rest = sum(before), sum(after)
    for words in (late, whole, rest, whole - rest, *(late + one for one in (*before, *after))):
        assert success(words, secrets["dora"]) < 0.5 + CHANCE
    assert success(whole - rest, sum(secrets.values()) & 1) < 0.5 + CHANCE


# --- A client, and one with the server -------------------------------------------------------------


def test_a_client_has_the_sum_of_the_others_and_of_two_the_other(looking):
    secrets = {name: bits(k) for k, name in enumerate(NAMES[:3])}
    ends = over_server(adding(secrets), opened=looking.opened)
    rest = ends["ada"][0] - secrets["ada"]
    assert np.array_equal(rest, secrets["bea"] + secrets["cleo"])
    # A sum of two bits tells both where it is 0 or 2, so half of them, and nothing of the others.
    told = np.where(rest == 1, bits(9), rest // 2)
    assert abs((told == secrets["bea"]).mean() - 0.75) < CHANCE
    two = {name: secrets[name] for name in NAMES[:2]}
    ends = over_server(adding(two))
    assert np.array_equal(ends["ada"][0] - secrets["ada"], secrets["bea"])


def test_the_server_and_a_client_together_have_no_more_than_the_client(looking):
    """Not one of the two others': without the masks that it shares with the client a part is still under
    those that the two share."""
    secrets = {name: bits(k) for k, name in enumerate(NAMES[:3])}
    over_server(adding(secrets), opened=looking.opened)
    parts = [looking.parts[name][0] for name in secrets]
    total = looking.open("ada", 0, sum(parts))
    assert np.array_equal(total.view(np.int64), sum(secrets.values()))  # which ada is told anyway
    for name in ("bea", "cleo"):
        words = looking.without_masks_of("ada", name, 0)
        assert success(words, secrets[name]) < 0.5 + CHANCE
        assert success(words - total, secrets[name]) < 0.5 + CHANCE


@pytest.mark.parametrize("without", [True, False])
def test_who_is_called_gone_by_a_server_with_a_client_is_singled_out_where_others_go_on(
    looking, without
):
    """The server has dora's part and says that she is gone; ada tells it what lies over both sums. That
    is what a policy allows that allows jobs which go on without a party; in others nothing is added
    again."""
    secrets = {name: bits(k) for k, name in enumerate(NAMES)}
    ends = with_ends(adding(secrets), Absences(without), cut={"dora": 4}, opened=looking.opened)
    whole = looking.open("ada", 0, sum(looking.parts[name][0] for name in NAMES))
    assert np.array_equal(whole.view(np.int64), sum(secrets.values()))
    if without:
        rest = looking.open("ada", 1, sum(looking.parts[name][1] for name in NAMES[:3]))
        assert np.array_equal((whole - rest).view(np.int64), secrets["dora"])
        return
    assert not any(looking.parts[name][1:] for name in NAMES)
    assert all(not isinstance(ends[name], list) for name in NAMES)
    # All that ada has is one sum of three others.
    guesses = (whole.view(np.int64) - secrets["ada"]) > 1
    assert abs((guesses == secrets["dora"]).mean() - 0.75) < CHANCE  # 0.75 of any of three


def test_rows_that_a_client_makes_up_cut_cells_finer_where_they_lie():
    """They are counted as any others: who claims many rows in a place is told how many the others have
    in each small part of it."""
    target = 3.14159
    honest = np.sort(np.append(np.random.default_rng(0).normal(0, 1, 999), target))
    made_up = target + np.linspace(-1e-6, 1e-6, 20_000)

    def cells_at(values):
        def role(adder):
            own = {"x": keys_of(values[adder.name])}
            rows = {"x": sum(map(len, values.values()))}
            return _refined(Totals(adder), own, rows, 32)

        (found, *_), _ = with_totals([*values], role)
        cells = found["x"]
        others = cells.count - cells.count_in(keys_of(values["eve"]))
        low, high = numbers_of(cells.start), numbers_of(cells.last)
        (at,) = np.flatnonzero((low <= target) & (target <= high))
        return others[at], high[at] - low[at]

    assert cells_at({"ada": honest, "eve": honest + 0.001})[1] > 0.01
    many, width = cells_at({"ada": honest, "eve": made_up})
    assert many == 1 and width < 1e-7


# --- Those that go on without a party --------------------------------------------------------------


def counts_of(job: Job, name: str) -> np.ndarray:
    """A client's rows by value of a column of few."""
    ties = job.features["ties"][job.clients[name]]
    return np.bincount(ties[job.rows.train[job.clients[name]]].astype(int), minlength=6)


def test_trees_tell_how_many_rows_one_that_is_gone_has_in_each_bin():
    """The root of a tree counts the rows of all, that of the next one those of the others."""
    params = BoostParams(trees=3, depth=2, min_child_rows=2, min_bin_rows=1)
    job = make_job(5, 240, "squared", params)
    job.features = {"ties": job.features["ties"]}

    async def role(adder):
        written = Written(adder)
        await job.role(written)
        return written.totals

    roles, absences = dict.fromkeys(job.clients, role), Absences(without=True)
    whole = with_ends(roles, absences)
    kinds = [what for what, _ in whole["c0"]]
    frames = whole["frames"]["c1"]
    cut = frames - 2 * len(kinds) - 3 + 2 * kinds.index("scales of tree 2")
    ends = with_ends(roles, absences, cut={"c1": cut})
    assert isinstance(ends["c1"], PeerLost)
    found = dict(ends["c0"])
    before, after = (found[f"level 0 of tree {tree}"].reshape(3, -1) for tree in (1, 2))
    gone = (before - after)[0]
    assert np.array_equal(gone[gone > 0], counts_of(job, "c1"))


def test_a_fit_tells_the_gradient_of_one_that_is_gone_but_for_what_a_step_changes(monkeypatch):
    """From the totals of two steps next to each other near the optimum, and the second derivatives."""
    seen, own = [], {}
    totals, sums_of_own = glm._Fit._totals, glm._Fit._own_sums

    async def followed(fit, state, what):
        sums = await totals(fit, state, what)
        if fit._adder.name == "ada" and what == "step":
            seen.append((tuple(fit._adder.clients), state, sums))
        return sums

    def noted(fit, state, expected):
        found = sums_of_own(fit, state, expected)
        if fit._adder.name == "bea":
            own[state.done] = found[1]
        return found

    monkeypatch.setattr(glm._Fit, "_totals", followed)
    monkeypatch.setattr(glm._Fit, "_own_sums", noted)
    fits = fitting("poisson", GlmParams())
    frames = with_ends(fits, Absences(True))["frames"]["bea"]
    seen.clear()
    ends = with_ends(fits, Absences(True), cut={"bea": frames - 7})  # before the last step
    assert isinstance(ends["bea"], PeerLost) and ends["ada"] == ends["cleo"]
    (before, whole), *_ = [(state, sums) for clients, state, sums in reversed(seen) if len(clients) == 3]
    (after, rest), *_ = [(state, sums) for clients, state, sums in seen if clients == ("ada", "cleo")]
    moved = after.coefficients - before.coefficients
    guess = whole.gradient - (rest.gradient - rest.hessian @ moved)
    apart = np.linalg.norm(guess - own[before.done]) / np.linalg.norm(own[before.done])
    assert apart < 1e-6
    # No total is asked for twice at the same coefficients: without that, it would be exact.
    assert apart > 0 and np.abs(moved).max() > 0
