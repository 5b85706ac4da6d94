"""Interaction constraints: parties whose columns may meet on a path from the root to a leaf."""

import asyncio
import dataclasses

import numpy as np
import pandas as pd
import pytest
import test_hidden_trees
import test_lattice_boost
from test_boost import assert_same_model, make_job
from test_lightgbm import EXACT, amounts, design, features, lightgbm_scores, samples

import vfl
from vfl.errors import ConfigError
from vfl.learn.binning import Binned, bin_columns
from vfl.learn.losses import SquaredLoss
from vfl.learn.params import BoostParams
from vfl.models.trees import check_constraints
from vfl.party.config import Job
from vfl.protocols.common.rows import Training
from vfl.protocols.trees.paths import Paths
from vfl.protocols.trees.training import guest_train

pytestmark = pytest.mark.usefixtures("quick_key", "small_batches")

GROUPS = [["party0", "party1"], ["party0", "party2"]]


def paths_of(model) -> set[frozenset[str]]:
    """The parties of every path."""
    found = set()
    for tree in model.trees:
        for leaf in tree.leaves:
            path, node = set(), leaf
            while node:
                node = (node - 1) // 2
                path.add(model.parties[tree.branches[node].party])
            found.add(frozenset(path))
    return found


def constrained(encryption: str, hidden: bool = False, groups=GROUPS):
    own = {"trees": 3, "depth": 4, "max_bins": 8, "min_child_rows": 4, "encryption": encryption}
    sums = {"sums": "hidden", "coordinator": "notary"} if hidden else {}
    return make_job(200, 2, 11, BoostParams(**own, **sums, interaction_constraints=groups))


def test_the_parties_of_every_path_are_of_one_group():
    job = constrained("paillier")
    free = dataclasses.replace(
        job, params=job.params.model_copy(update={"interaction_constraints": None})
    )
    met = {"party1", "party2"}
    assert any(met <= path for path in paths_of(free.oracle()[0]))
    model, _ = job.oracle()
    assert all(any(path <= {*group} for group in GROUPS) for path in paths_of(model))
    assert any("party1" in path for path in paths_of(model))
    alone = constrained("paillier", groups=[["party0"], ["party1"], ["party2"]])
    assert all(len(path) < 2 for path in paths_of(alone.oracle()[0]))


def test_federated_equals_pooled_under_constraints():
    assert_same_model(constrained("paillier"))
    test_lattice_boost.assert_same_model(constrained("lattice"))


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_a_coordinator_keeps_to_them_and_is_told_nothing_more(encryption):
    job = constrained(encryption, hidden=True)
    test_hidden_trees.assert_same_model(job)
    free = dataclasses.replace(
        job, params=job.params.model_copy(update={"interaction_constraints": None})
    )
    kinds = []
    for one in (job, free):
        seen = test_hidden_trees.Seen()
        test_hidden_trees.federated(one, seen)
        kinds.append(seen.kinds("notary"))
    assert kinds[0] == kinds[1]


def test_same_trees_as_lightgbm_with_constraints_by_column():
    """Which has a group of columns for each of ours of parties. It skips a column without gain below a
    node, and one that may not split there has none: so do we here, where it may not."""
    frame, claim = samples()
    label = amounts(claim, "squared", frame)
    train = np.random.default_rng(0).random(len(label)) >= 0.25
    params = EXACT.model_copy(update={"trees": 20})
    whole = bin_columns(features(frame), params.max_bins, params.min_bin_rows)
    third = len(whole.columns) // 3
    cuts = [0, third, 2 * third, len(whole.columns)]
    names = ["a", "b", "c"]
    blocks = {
        name: Binned(whole.columns[first:last], whole.codes[first:last])
        for name, first, last in zip(names, cuts, cuts[1:], strict=False)
    }
    widths = np.cumsum([0, *(design(block).shape[1] for block in blocks.values())])
    places = {name: [*range(widths[i], widths[i + 1])] for i, name in enumerate(names)}
    groups = [["a", "b"], ["a", "c"]]
    theirs = lightgbm_scores(
        whole,
        label,
        train,
        params,
        "squared",
        others={"interaction_constraints": [[i for n in g for i in places[n]] for g in groups]},
    )
    rows = Training(label, np.ones(len(label)), train, np.zeros_like(train), SquaredLoss())
    given = params.model_copy(update={"interaction_constraints": groups})
    ours = asyncio.run(guest_train([], blocks, rows, given))[1]
    free = asyncio.run(guest_train([], blocks, rows, params))[1]
    assert np.abs(ours - theirs)[train].max() < 1e-4
    assert np.abs(ours - free)[train].max() > 1


def test_paths():
    assert Paths().may_split(5, 3)
    paths = Paths.of([["a", "b"], ["a", "c"]], ["a", "b", "c"])
    assert all(paths.may_split(0, party) for party in range(3))
    paths.split(0, 1)
    assert [paths.may_split(1, party) for party in range(3)] == [True, True, False]
    assert paths.may_split(2, 0) and not paths.may_split(2, 2)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([["guest", "other"]], "names 'other', which is no party of the training"),
        ([["guest"]], "leaves 'registry' out of all groups"),
    ],
)
def test_constraints_that_do_not_fit_the_parties(groups, said):
    with pytest.raises(ConfigError, match=said):
        check_constraints(BoostParams(interaction_constraints=groups), ["guest", "registry"])


@pytest.mark.parametrize("groups", [[], [[]], [["a", "a"]]])
def test_constraints_that_cannot_be(groups):
    with pytest.raises(ValueError, match=r"groups of parties|a party twice"):
        BoostParams(interaction_constraints=groups)


def test_a_job_carries_them_and_is_as_it_was_without():
    job = {"name": "a", "purpose": "p", "model": "secureboost", "objective": "binary"}
    whole = Job.model_validate(
        {"job": job, "secureboost": {"interaction_constraints": [["insurer", "bureau"], ["insurer"]]}}
    )
    assert Job.from_canonical(whole.canonical) == whole
    assert b'"interaction_constraints":[["insurer","bureau"],["insurer"]]' in whole.canonical
    assert b"interaction_constraints" not in Job.model_validate({"job": job}).canonical


def test_estimators_have_them():
    rng = np.random.default_rng(1)
    index = [f"id{i}" for i in range(300)]
    own = pd.DataFrame({"a": rng.normal(size=300)}, index)
    hosts = {n: pd.DataFrame({n: rng.normal(size=300)}, index) for n in ("x", "y")}
    label = own["a"] * hosts["x"]["x"] + hosts["x"]["x"] * hosts["y"]["y"] > 0
    groups = [["guest", "x"], ["guest", "y"]]
    model = vfl.SecureBoost(hosts=hosts, trees=3, min_child_rows=5, interaction_constraints=groups)
    model.fit(own, label)
    assert not any({"x", "y"} <= path for path in paths_of(model.model_))
    with pytest.raises(ConfigError, match="interaction_constraints leaves 'y' out"):
        vfl.SecureBoost(hosts=hosts, interaction_constraints=[["guest", "x"]]).fit(own, label)
