"""Trees added to those of a kept model: the same as in one longer training."""

import asyncio
import dataclasses

import numpy as np
import pandas as pd
import pytest
from memory import over_memory
from sklearn.base import clone
from test_boost import Job, make_job, resolved

import vfl
from vfl.errors import ConfigError, DataError, Refused
from vfl.learn.params import BoostParams
from vfl.models.kind import GuestRun, HostRun, PartyColumns
from vfl.models.trees import Trees
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.participant import Participant
from vfl.protocols.trees.model import GuestModel, HostModel
from vfl.protocols.trees.warm_start import Initial

pytestmark = pytest.mark.usefixtures("quick_key")

PARAMS = BoostParams(trees=2, depth=3, max_bins=8, min_child_rows=5)


def columns_of(job: Job) -> list[PartyColumns]:
    return [PartyColumns(name, f"{name}.csv", features) for name, features in job.features.items()]


def pooled(job: Job, initial: Initial | None = None):
    """Model, hosts' halves and scores of a training in one place."""
    kind = Trees(job.params, initial)
    fitted = asyncio.run(kind.train_pooled(columns_of(job), job.rows, lambda step: None))
    return fitted.model, fitted.halves, fitted.score


def apart(
    job: Job,
    initial: Initial | None = None,
    training: bytes = b"",
    checkpoints: dict[str, Checkpoints] | None = None,
):
    """The same of parties that send messages; hosts' halves are of the training of that digest."""
    guest, *hosts = columns_of(job)
    halves: dict[str, HostModel] = {}
    kept = checkpoints or {"guest": Checkpoints(), "host": Checkpoints()}

    def of_guest(peers):
        run = GuestRun(checkpoints=kept["guest"])
        return Trees(job.params, initial).guest(guest, job.rows).train(peers, run)

    def of_host(name, peer):
        own = next(one for one in hosts if one.party == name)
        known = None if initial is None else dataclasses.replace(initial, training=training)
        run = HostRun(
            Participant(name),
            len(job.rows.label),
            lambda half: halves.update({name: half}),
            checkpoints=kept["host"],
        )
        return Trees(job.params, known).host(own).train(peer, run)

    (model, score), *_ = over_memory([one.party for one in hosts], of_guest, of_host, guest=guest.party)
    return model, halves, score


def whole(model: GuestModel, halves: dict[str, HostModel]):
    return resolved(model, [halves[name] for name in model.parties[1:]])


def with_trees(job: Job, trees: int) -> Job:
    return dataclasses.replace(job, params=job.params.model_copy(update={"trees": trees}))


@pytest.mark.parametrize("with_offset", [False, True])
@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_two_trainings_are_one_longer_training(encryption, with_offset):
    params = PARAMS.model_copy(update={"encryption": encryption})
    job = make_job(150, 2, 7, params, objective="poisson", with_offset=with_offset)
    longer, longer_halves, longer_score = pooled(with_trees(job, 4))
    first, halves, _ = apart(job)
    for train in (pooled, apart):
        model, added, score = train(job, Initial(first, halves))
        assert len(model.trees) == 4 and model.start == first.start
        assert whole(model, added) == whole(longer, longer_halves)
        assert np.array_equal(score, longer_score)
    assert all(added[name].splits[: len(half.splits)] == half.splits for name, half in halves.items())


def test_rows_are_drawn_as_in_one_longer_training():
    job = make_job(150, 1, 7, PARAMS.model_copy(update={"subsample": 0.6}))
    longer, longer_halves, _ = pooled(with_trees(job, 4))
    first, halves, _ = pooled(job)
    for train in (pooled, apart):
        model, added, _ = train(job, Initial(first, halves))
        assert whole(model, added) == whole(longer, longer_halves)


def test_a_host_that_is_named_elsewhere_in_the_order_keeps_its_splits():
    job = make_job(150, 2, 7, PARAMS)
    first, halves, first_score = pooled(job)
    own, one, two = job.features
    turned = dataclasses.replace(job, features={name: job.features[name] for name in (own, two, one)})
    model, added, _ = apart(turned, Initial(first, halves))
    assert model.parties == (own, two, one)
    named = {
        (model.parties[branch.party], branch.column)
        for tree in model.trees
        for branch in tree.branches.values()
    }
    assert all(column.endswith(party[-1]) for party, column in named)
    assert np.isfinite(first_score).all() and all(added[name].splits for name in halves)


def test_training_that_stops_early_keeps_all_trees_of_the_model_it_began_with():
    stopping = {"validation_share": 0.5, "early_stopping_rounds": 1, "learning_rate": 1.0, "trees": 9}
    job = make_job(150, 1, 5, PARAMS.model_copy(update=stopping))
    first, halves, _ = pooled(with_trees(job, 1))
    for train in (pooled, apart):
        model, added, _ = train(job, Initial(first, halves))
        assert 1 < len(model.trees) < 10
        model.check([len(half.splits) for half in added.values()])


def test_a_host_refuses_a_half_of_another_training():
    job = make_job(60, 1, 3, PARAMS)
    first, halves, _ = pooled(job)
    with pytest.raises(Refused, match="halves of init_model are not of one training"):
        apart(job, Initial(first, halves, b"one"), training=b"another")


def tables(rows: int = 200):
    """A guest's table, a host's, and a label of both."""
    rng = np.random.default_rng(3)
    index = [f"id{i}" for i in range(rows)]
    own = pd.DataFrame({"age": rng.normal(size=rows), "use": rng.choice(["a", "b"], rows)}, index)
    cars = pd.DataFrame({"power": rng.normal(size=rows)}, index).sample(frac=1, random_state=1)
    claim = own["age"] + cars["power"].reindex(index) + rng.normal(size=rows) > 0
    return own, {"registry": cars}, claim


SMALL = {"trees": 2, "depth": 2, "min_child_rows": 5}


@pytest.mark.parametrize("engine", ["plain", "protocol"])
def test_an_estimator_adds_trees_to_a_fitted_one(engine, tmp_path):
    own, hosts, claim = tables()
    first = vfl.SecureBoost(hosts=hosts, **SMALL).fit(own, claim)
    longer = vfl.SecureBoost(hosts=hosts, **(SMALL | {"trees": 4})).fit(own, claim)
    model = vfl.SecureBoost(hosts=hosts, init_model=first, engine=engine, **SMALL).fit(own, claim)
    assert len(model.model_.trees) == 4 and len(first.model_.trees) == 2
    assert np.array_equal(model.decision_function(own), longer.decision_function(own))
    again = clone(model).fit(own, claim)
    assert again.init_model is model.init_model
    assert np.array_equal(again.decision_function(own), longer.decision_function(own))
    model.save(tmp_path / "model.json")
    loaded = vfl.load(tmp_path / "model.json")
    assert loaded.init_model is None
    assert np.array_equal(loaded.decision_function(own, hosts), longer.decision_function(own))


def test_what_an_estimator_cannot_begin_with():
    own, hosts, claim = tables()
    first = vfl.SecureBoost(hosts=hosts, **SMALL).fit(own, claim)
    counts = vfl.SecureBoostRegressor(hosts=hosts, objective="poisson", **SMALL)
    for kind, init_model, y, said in (
        (vfl.SecureBoost, vfl.SecureBoost(hosts=hosts), claim, "is not fitted"),
        (vfl.SecureBoost, counts, claim, "must be a fitted SecureBoost, not SecureBoostRegressor"),
        (vfl.SecureBoost, first, claim.map({True: "y", False: "n"}), "with other classes of y"),
        (vfl.SecureBoostRegressor, counts.fit(own, claim * 1.0), claim * 1.0, "another objective"),
    ):
        with pytest.raises(ConfigError, match=said):
            kind(hosts=hosts, init_model=init_model, **SMALL).fit(own, y)
    with pytest.raises(ConfigError, match="was trained with the hosts"):
        vfl.SecureBoost(hosts={}, init_model=first, **SMALL).fit(own, claim)
    with pytest.raises(DataError, match="guest: column 'age' of init_model= is missing"):
        vfl.SecureBoost(hosts=hosts, init_model=first, **SMALL).fit(own.drop(columns="age"), claim)


def test_a_training_that_was_interrupted_goes_on_with_the_model_it_began_with():
    job = make_job(150, 1, 7, PARAMS)
    first, halves, _ = pooled(job)
    initial = Initial(first, halves)
    whole_model, whole_halves, whole_score = apart(job, initial)
    kept: dict[str, list] = {"guest": [], "host": []}
    apart(job, initial, checkpoints={n: Checkpoints(None, k.append) for n, k in kept.items()})
    last = {name: Checkpoints(states[0]) for name, states in kept.items()}
    assert {name: one.done for name, one in last.items()} == {"guest": 1, "host": 1}
    model, added, score = apart(job, initial, checkpoints=last)
    assert whole(model, added) == whole(whole_model, whole_halves)
    assert np.array_equal(score, whole_score)
