"""What parties that follow the protocol read off the directions of a fit with exact zeros."""

import itertools
from typing import Any
from unittest import mock

import numpy as np
import pytest
from memory import over_memory
from test_glm import Job, make_job
from test_glm_plain import federated, plain

from vfl.learn.design import Design, Rules
from vfl.learn.matrix import Matrix
from vfl.learn.shrinkage import penalty_of
from vfl.learn.sparse import DIRECTIONS, SparseBlock
from vfl.models.own_penalties import said_alone
from vfl.protocols.common.course import HostCourse
from vfl.protocols.common.participant import Participant
from vfl.protocols.linear import fitting
from vfl.protocols.linear.fit import HostFit, HostFitState
from vfl.protocols.linear.fitting import FitLoop, guest_fit
from vfl.protocols.linear.host_fitting import host_fit

ROWS = 1000
PATH = (0.4, 0.3, 0.2, 0.1, 0.05)
SURE = 0.9999  # a correlation by which a column is known


def job_of(hosts: int, family: str = "poisson", **params: Any) -> Job:
    """Hosts of five numbers that have something in common, and a factor."""
    rng = np.random.default_rng(3)
    tables: dict[str, dict[str, np.ndarray]] = {"guest": {"g": rng.normal(size=ROWS)}}
    common = rng.normal(size=ROWS)
    for host in range(hosts):
        own = {f"x{k}": rng.normal(size=ROWS) + 0.5 * common for k in range(5)}
        area = rng.choice(np.array(["a", "b", "c", "d"], object), ROWS, p=[0.5, 0.3, 0.1, 0.1])
        tables[f"host{host}"] = {**own, "area": area}
    params = {"tolerance": 1e-7, **params}
    return make_job(family, tables, rows=ROWS, held_out=0.0, seed=3, **params)


def directions_of(job: Job) -> tuple[list[np.ndarray], int]:
    """All that the guest sees of the hosts' directions, those of an iteration in all sizes and their
    differences; and how many there were."""
    seen: list[list[np.ndarray]] = []
    hosts_move, next_move = FitLoop.hosts_move, fitting.next_move

    def watched(self: FitLoop, *given: Any) -> Any:
        moves = hosts_move(self, *given)
        if moves:
            seen[-1].append(moves[0].scores)
        return moves

    async def anew(*given: Any) -> Any:
        seen.append([])
        return await next_move(*given)

    with (
        mock.patch.object(FitLoop, "hosts_move", watched),
        mock.patch.object(fitting, "next_move", anew),
    ):
        plain(job)
    found = [direction for of in seen for direction in of]
    assert max(map(len, seen)) <= DIRECTIONS
    apart = [
        one - scale * other
        for of in seen
        for one, other in itertools.combinations(of, 2)
        for scale in (0.1, 0.2, 1.0, 5.0, 25.0, 125.0)
    ]
    return [*found, *apart], len(found)


def likeness(job: Job, vectors: list[np.ndarray]) -> np.ndarray:
    """How like each of the hosts' columns the vector is that is most like it: a correlation."""
    columns = np.hstack([job.matrices[name].dense() for name in job.tables if name != "guest"])
    best = np.zeros(columns.shape[1])
    for vector in vectors:
        if vector.std() > 0:
            of = [abs(np.corrcoef(column, vector)[0, 1]) for column in columns.T]
            best = np.maximum(best, of)
    return best


def guessed(job: Job, count: int) -> np.ndarray:
    """The same of as many combinations of the hosts' columns that chance makes."""
    rng = np.random.default_rng(0)
    columns = np.hstack([job.matrices[name].dense() for name in job.tables if name != "guest"])
    deviation = columns.std(axis=0)
    return likeness(job, [columns @ (rng.normal(size=len(deviation)) / deviation) for _ in range(count)])


@pytest.mark.parametrize("params", [{"alpha": 0.2}, {"alphas": PATH, "folds": 2}])
def test_a_column_that_is_free_alone_is_seen_by_the_guest_of_a_single_host(params) -> None:
    """A lasso that begins with one column shows that column. Its owner knows which."""
    job = job_of(1, l1_ratio=1.0, **params)
    blocks: list[SparseBlock] = []
    init = SparseBlock.__init__

    def made(self: SparseBlock, *given: Any, **named: Any) -> None:
        init(self, *given, **named)
        blocks.append(self)

    with mock.patch.object(SparseBlock, "__init__", made):
        vectors, count = directions_of(job)
    found = likeness(job, vectors)
    assert guessed(job, count).max() < 0.97
    seen = set(np.flatnonzero(found > SURE).tolist())
    assert seen and seen == blocks[-1].alone


def test_a_host_knows_which_column_was_alone() -> None:
    job = job_of(1, alpha=0.2, l1_ratio=1.0, encryption="lattice")
    kept: list[HostFit] = []

    def host(name: str, peer: Any) -> Any:
        one = Participant(name, ["host0"], b"job")
        course = HostCourse[HostFit, HostFitState](kept.append)
        return host_fit(peer, job.count, lambda train: job.matrix(name, train), job.params, one, course)

    own = {"guest": job.matrices["guest"]}
    over_memory(["host0"], lambda peers: guest_fit(peers, own, job.rows, job.params), host)
    (fit,) = kept
    assert len(fit.alone) == 1 and np.flatnonzero(fit.coefficients).tolist() == [*fit.alone]
    said = said_alone(["power"], "insurer")
    assert said is not None and said.startswith(
        "note: column 'power' moved alone in a step of the fit: "
    )
    assert "insurer could see the values" in said and said_alone([], "insurer") is None


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("params", [{"alpha": 0.05}, {"alphas": PATH, "folds": 2}])
def test_without_exact_zeros_columns_come_mixed(hosts, params) -> None:
    job = job_of(hosts, **params)
    vectors, count = directions_of(job)
    assert likeness(job, vectors).max() < 0.97
    assert np.linalg.matrix_rank(np.array(vectors)) <= count


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
def test_several_free_columns_come_mixed_in_whatever_directions(hosts, l1_ratio) -> None:
    """Shorter and longer directions of an iteration, and what they differ by, show no column either."""
    job = job_of(hosts, alpha=0.05, l1_ratio=l1_ratio)
    vectors, _ = directions_of(job)
    assert likeness(job, vectors).max() < 0.97


def alike(hosts: int, seed: int, **params: Any) -> Job:
    """All parties have five numbers that correlate by 0.96 with those of any other."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(ROWS, 5))
    tables: dict[str, dict[str, np.ndarray]] = {}
    for party in ("guest", *(f"host{k}" for k in range(hosts))):
        own = common + 0.2 * rng.normal(size=common.shape)
        tables[party] = {f"x{k}": own[:, k] for k in range(5)}
        if party != "guest":
            area = rng.choice(np.array(["a", "b", "c", "d"], object), ROWS, p=[0.5, 0.3, 0.1, 0.1])
            tables[party]["area"] = area
    params = {"alpha": 0.02, "tolerance": 1e-7, **params}
    return make_job("poisson", tables, rows=ROWS, held_out=0.0, seed=seed, **params)


def beyond_its_own(job: Job, vectors: list[np.ndarray]) -> float:
    """How like any of the hosts' columns any vector is in what the guest's own columns do not tell."""
    own = np.hstack([np.ones((ROWS, 1)), job.matrices["guest"].dense()])
    basis, _ = np.linalg.qr(own)
    columns = np.hstack([job.matrices[name].dense() for name in job.tables if name != "guest"])
    columns = columns - basis @ (basis.T @ columns)
    columns /= np.linalg.norm(columns, axis=0)
    best = 0.0
    for vector in vectors:
        rest = vector - basis @ (basis.T @ vector)
        if (length := np.linalg.norm(rest)) > 1e-9 * np.linalg.norm(vector):
            best = max(best, float(np.abs(columns.T @ rest).max() / length))
    return best


def test_columns_that_others_resemble_are_seen_one_by_one_under_exact_zeros() -> None:
    """Even of two hosts: parts end at zeros, and directions of several sizes differ by few columns. This
    is a leak, and what it comes to; without exact zeros there is less of it."""
    found, without, chance = [], [], []
    for seed in (2, 3, 5):
        vectors, count = directions_of(alike(2, seed, l1_ratio=1.0))
        found.append(beyond_its_own(job := alike(2, seed), vectors))
        vectors, _ = directions_of(job)
        without.append(beyond_its_own(job, vectors))
        rng = np.random.default_rng(seed)
        columns = np.hstack([job.matrices[name].dense() for name in ("host0", "host1")])
        scaled = columns / columns.std(axis=0)
        drawn = [scaled @ rng.normal(size=columns.shape[1]) for _ in range(count)]
        chance.append(beyond_its_own(job, drawn))
    assert min(found) > 0.95
    assert max(*without, *chance) < 0.92


class Fused(Job):
    """With hosts' ages in bands that are fused."""

    def matrix(self, name: str, train: np.ndarray) -> Matrix:
        table = self.tables[name]
        bands = {"bands": {"age": tuple(range(20, 80, 5))}, "fuse": ("age",)} if "age" in table else {}
        design = Design.fit({k: v[train] for k, v in table.items()}, Rules(min_level_rows=1, **bands))
        penalty = penalty_of(design, None, int(train.sum()), by_steps=True)
        return design.matrix(table, self.count).shrunk_by(penalty)


@pytest.mark.parametrize("seed", [2, 5])
def test_exact_zeros_of_steps_alone_show_little_more_than_none(seed) -> None:
    """All other columns move in every direction."""
    job = alike(2, seed, l1_ratio=0.95, l1_on="steps")
    rng = np.random.default_rng(seed)
    tables = {name: dict(table) for name, table in job.tables.items()}
    for name in ("host0", "host1"):
        age = 45 + 15 * tables[name]["x0"] + 8 * rng.normal(size=ROWS)
        tables[name]["age"] = np.clip(age, 16, 84)
    job = Fused(tables, job.rows, job.params)
    vectors, count = directions_of(job)
    assert count > 10 and beyond_its_own(job, vectors) < 0.95


def test_several_hosts_hide_what_each_has_alone() -> None:
    """Where one host's column would be alone, another's moves beside it."""
    job = job_of(2, alpha=0.2, l1_ratio=1.0)
    vectors, _ = directions_of(job)
    assert likeness(job, vectors).max() < 0.97


# --- A host. ----------------------------------------------------------------------------------------


def area_under(score: np.ndarray, label: np.ndarray) -> float:
    order = score.argsort().argsort()
    ones = label > 0
    ranks = order[ones].sum() - ones.sum() * (ones.sum() - 1) / 2
    return float(ranks / (ones.sum() * (~ones).sum()))


@pytest.mark.parametrize("l1_ratio", [0.0, 0.9])
def test_a_hosts_gradients_tell_labels_no_better_than_its_half_of_the_model(l1_ratio) -> None:
    """Of each gradient, and of all together, it makes the residuals that are shortest."""
    job = job_of(2, family="logistic", alpha=0.01, l1_ratio=l1_ratio, encryption="lattice")
    gradients: list[np.ndarray] = []
    report = SparseBlock.report if l1_ratio else fitting.Block.report
    kind = SparseBlock if l1_ratio else fitting.Block

    def watched(self: Any, product: np.ndarray) -> Any:
        if self.matrix.columns == 8 and np.array_equal(self.matrix.floats, own.numbers):
            gradients.append(product)
        return report(self, product)

    own = job.matrices["host0"].take(job.rows.train)
    with mock.patch.object(kind, "report", watched):
        _, theirs = federated(job)
    dense = own.dense() - own.dense().mean(axis=0)
    label = job.rows.label[job.rows.train]
    ends = area_under(dense @ theirs["host0"], label)
    assert len(gradients) >= 4 and ends > 0.55
    inverse = np.linalg.pinv(dense.T @ dense)
    tried = [-dense @ inverse @ gradient for gradient in gradients]
    tried += [tried[0] - other for other in tried[1:]]
    # What is left of residuals at the end is noise; in the beginning they go with labels as its columns
    # do.
    assert max(area_under(one, label) for one in tried) < ends + 0.02
