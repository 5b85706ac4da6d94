"""Trees over rows: totals that cannot be, kills, and clients that are gone."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from clients import over_server, with_ends
from plain_totals import Written, with_totals
from row_jobs import make_job, uneven

from vfl.errors import PeerError, PeerLost, PeerStopped
from vfl.jobs.states import EncodedState, array_of
from vfl.learn.params import BoostParams
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.pooled.adding import Absences, common_step
from vfl.protocols.pooled.trees import PooledTrees

# Totals that cannot be, as of a client that does not follow the protocol.


def _changed(place, by):
    def change(total):
        total = total.copy()
        total[place] += by
        return total

    return change


HOSTILE = {
    "another length": ("level 1 of tree 2", lambda total: total[:-1]),
    "a count": ("level 0 of tree 1", _changed(0, 1)),
    "a negative count": ("level 1 of tree 1", _changed([0, 1], [-(10**6), 10**6])),
    "a child of more rows than its parent": ("level 2 of tree 1", lambda total: total * 2),
    "gradients": ("level 1 of tree 1", _changed(-1, 1)),
    "gradients beyond all bounds": ("level 0 of tree 1", lambda total: total << 20),
    "noise": ("level 0 of tree 1", lambda total: total * np.int64(0x9E3779B97F4A7C1)),
    "negative rows": ("rows that train", _changed(0, -(10**6))),
    "another client's tree": ("losses", _changed(0, 1)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_totals_that_cannot_be_end_the_job_in_a_line(name):
    job = make_job(1, 300, "squared", BoostParams(trees=2, depth=3, min_child_rows=2))
    where, change = HOSTILE[name]

    def told(what, total):
        return change(total) if what == where else total

    with np.errstate(over="ignore"), pytest.raises(PeerError, match="broke the protocol") as error:
        with_totals([*job.clients], job.role, told)
    assert "\n" not in str(error.value)
    assert "the server or another client" in str(error.value)


@pytest.mark.parametrize("moved", [(1, 1 << 40), (2, -(1 << 40)), (2, 1 << 40)])
def test_sums_beyond_what_so_many_rows_have_are_refused(moved):
    """Sums that add up, but of which one cell has too much."""
    job = make_job(1, 300, "binary", BoostParams(trees=1, depth=2))
    job.features = {"x": job.features["noise"]}
    row, amount = moved

    def told(what, total):
        if not what.startswith("level"):
            return total
        cells = total.copy().reshape(3, -1)
        cells[row, :2] += [amount, -amount]
        return cells.reshape(-1)

    with pytest.raises(PeerError, match="level 0 of tree 1 cannot be, its cells do not add up"):
        with_totals([*job.clients], job.role, told)


# Going on after a kill.


class Kept:
    """A client's states by their trees, through the bytes that jobs write."""

    def __init__(self) -> None:
        self.states: dict[int, bytes] = {}

    def checkpoints(self, done: int = 0) -> Checkpoints[PooledTrees]:
        last = None
        if done:
            last = msgspec.msgpack.decode(self.states[done], type=PooledTrees, dec_hook=array_of)
        return Checkpoints(last, self._write)

    def _write(self, state: PooledTrees) -> None:
        self.states[state.done] = b"".join(EncodedState(state).pieces())


@pytest.mark.parametrize("early", [False, True])
def test_a_killed_training_goes_on_to_the_same_model(early):
    stops = {"early_stopping_rounds": 2, "validation_share": 0.4} if early else {}
    params = BoostParams(
        trees=12 if early else 4, depth=3, learning_rate=0.9, subsample=0.7, colsample=0.7, **stops
    )
    job = make_job(4, 300, "tweedie", params)
    job.monotone = {"number": "increasing"}
    kept = {name: Kept() for name in job.clients}
    steps = []

    def role(adder, done=0):
        course = GuestCourse(steps.append, kept[adder.name].checkpoints(done))
        return job.role(adder, course=course)

    whole, _ = with_totals([*job.clients], role)
    trees = len(kept["c0"].states)
    assert (trees < params.trees) == early
    for done in range(1, trees + 1):
        steps.clear()
        outcomes, totals = with_totals([*job.clients], lambda adder, done=done: role(adder, done))
        assert not any("cells" in what for what, _ in totals)  # bins are kept
        assert len(steps) == 3 * (trees - done)
        for (model, score), (expected, due) in zip(outcomes, whole, strict=True):
            assert model == expected
            assert (score == due).all()


def test_clients_that_go_on_from_other_trees_are_told():
    job = make_job(4, 200, "squared", BoostParams(trees=3, depth=2))
    kept = {name: Kept() for name in job.clients}
    with_totals(
        [*job.clients], lambda a: job.role(a, course=GuestCourse(checkpoints=kept[a.name].checkpoints()))
    )

    def role(adder):
        done = 2 if adder.name == "c1" else 1
        return job.role(adder, course=GuestCourse(checkpoints=kept[adder.name].checkpoints(done)))

    with pytest.raises(PeerError, match="the clients do not hold the same trees"):
        with_totals([*job.clients], role)
    with pytest.raises(ValueError, match="other rows"):
        other = make_job(4, 180, "squared", job.params)
        with_totals(
            [*other.clients],
            lambda a: other.role(a, course=GuestCourse(checkpoints=kept[a.name].checkpoints(1))),
        )


# Over a server that reads nothing.


def test_whoever_is_killed_all_go_on_over_a_server_to_the_same_model():
    job = make_job(7, 200, "poisson", BoostParams(trees=12, depth=2, subsample=0.8))
    expected, score = job.federated()
    kept = {name: Kept() for name in job.clients}

    async def role(adder):
        own = kept[adder.name]
        done = await common_step(adder, max(own.states, default=0))
        return await job.role(adder, course=GuestCourse(checkpoints=own.checkpoints(done)))

    roles = dict.fromkeys(job.clients, role)
    rng, reached = np.random.default_rng(0), [0]
    for name in ("c1", "c0", "c2", "c1", "c0"):
        bins = 0 if any(reached) else 120  # frames
        ends = with_ends(roles, Absences(), cut={name: bins + int(rng.integers(10, 30))})
        assert all(isinstance(ends[client], PeerLost | PeerStopped) for client in job.clients)
        newest = [max(own.states, default=0) for own in kept.values()]
        assert max(newest) - min(newest) <= 1
        reached.append(min(newest))
    assert sorted(reached) == reached
    assert 0 < reached[-1] < 12
    ends = with_ends(roles, Absences())
    for name, own in job.clients.items():
        assert ends[name][0] == expected
        assert (ends[name][1] == score[own]).all()


def test_over_a_server_the_model_is_the_same():
    job = uneven(validation_share=0.2, early_stopping_rounds=2)
    outcomes = over_server(dict.fromkeys(job.clients, job.role))
    model, score = job.federated()
    for name in job.clients:
        assert outcomes[name][0] == model
        assert (outcomes[name][1] == score[job.clients[name]]).all()


def test_others_go_on_without_a_client_that_is_gone():
    params = BoostParams(
        trees=4, depth=4, min_child_rows=2, early_stopping_rounds=9, validation_share=0.2
    )
    job = make_job(5, 240, "squared", params)

    async def role(adder):
        written = Written(adder)
        model, score = await job.role(written)
        return model, score, [what for what, _ in written.totals], tuple(adder.clients)

    roles = dict.fromkeys(job.clients, role)
    absences = Absences(without=True)
    whole = with_ends(roles, absences)
    assert {name: whole[name][3] for name in job.clients} == dict.fromkeys(
        job.clients, tuple(job.clients)
    )
    kinds = whole["c0"][2]
    frames = whole["frames"]["c1"]
    met = frames - 2 * len(kinds) - 3  # before the first total; after the last an end
    for at in ("cells of bins, round 5", "level 0 of tree 2", "level 2 of tree 2", "losses"):
        cut = met + 2 * kinds.index(at)
        ends = with_ends(roles, absences, cut={"c1": cut})
        assert isinstance(ends["c1"], PeerLost), at
        (model, score, asked, clients), (other, *_) = ends["c0"], ends["c2"]
        assert model == other
        assert clients == ("c0", "c2")
        assert len(model.trees) == 4
        depth = [max(tree.branches, default=0) for tree in model.trees]
        if at.startswith("level 2"):  # the tree ends where the client did, the later ones do not
            assert depth[1] < 3 <= min(depth[2:])
            assert "level 3 of tree 2" not in asked
        else:
            assert min(depth) > 6
        assert np.isfinite(score).all()
        expected = whole["c0"][0].trees
        same = {"level 0 of tree 2": 1, "level 2 of tree 2": 1, "losses": 1}.get(at, 0)
        assert model.trees[:same] == expected[:same]


def test_the_best_loss_is_forgotten_once_its_rows_are_gone():
    params = BoostParams(
        trees=3,
        depth=5,
        learning_rate=1,
        min_child_rows=1,
        validation_share=0.3,
        early_stopping_rounds=9,
    )
    job = make_job(5, 240, "squared", params)
    # Whatever is learnt of these labels is wrong in the rows that decide.
    label = np.where(job.rows.validation, 0.0, np.random.default_rng(0).normal(size=240))
    job.rows = replace(job.rows, label=label, offset=None)
    kept = Kept()

    async def role(adder):
        written = Written(adder)
        checkpoints = kept.checkpoints() if adder.name == "c0" else Checkpoints()
        model, _ = await job.role(written, course=GuestCourse(checkpoints=checkpoints))
        return model, [what for what, _ in written.totals]

    def best():
        states = [kept.checkpoints(done).last for done in sorted(kept.states)]
        return [state.best[1] for state in states]

    roles, absences = dict.fromkeys(job.clients, role), Absences(without=True)
    whole = with_ends(roles, absences)
    assert best() == [1, 2, 2]
    kinds, frames = whole["c0"][1], whole["frames"]["c2"]
    cut = frames - 3 - 2 * len(kinds) + 2 * kinds.index("level 1 of tree 3")
    ends = with_ends(roles, absences, cut={"c2": cut})
    assert isinstance(ends["c2"], PeerLost)
    assert best() == [1, 2, 3]
    assert ends["c0"][0] == ends["c1"][0]
