"""Pairs of levels of two parties: the optimum against glum, and what each side sees of the other."""

import asyncio
from dataclasses import dataclass
from typing import Any

import arguments
import glum
import numpy as np
import pytest
from dealt_transfers import dealt_transfers
from memory import over_memory
from paillier_key import KEY
from test_glm import GLUM, labels

from vfl.estimators.linear import FederatedGLM
from vfl.learn.across import FittedCells, GuestLevels, OwnFactor, PairOfParties
from vfl.learn.design import Design, Matrix, Rules
from vfl.learn.losses import loss_of
from vfl.learn.params import GlmParams
from vfl.protocols.common.course import HostCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.linear.fit import Fit, HostFit
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.linear.host_fitting import host_fit
from vfl.protocols.linear.plain import PlainPairs, plain_fit

pytestmark = pytest.mark.usefixtures("quick_key", "small_batches")

LEAST = 8


@pytest.fixture(autouse=True, scope="module")
def _dealt():
    """Base transfers are tested by themselves."""
    with dealt_transfers():
        yield


@dataclass
class Across:
    """A job with pairs: all parties' tables, the guest's first."""

    tables: dict[str, dict[str, np.ndarray]]
    rows: Training
    params: GlmParams

    @property
    def hosts(self) -> list[str]:
        return [*self.tables][1:]

    def design(self, name: str) -> Design:
        some = {column: values[self.rows.train] for column, values in self.tables[name].items()}
        return Design.fit(some, Rules(min_level_rows=1))

    def matrix(self, name: str) -> Matrix:
        return self.design(name).matrix(self.tables[name], len(self.rows.label))

    def codes(self, name: str, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
        factors = {factor.name: factor for factor in self.design(name).factors}
        factor = factors[column]
        return factor.codes(self.tables[name][column]), (factor.base, *factor.others)

    def guest_levels(self) -> list[GuestLevels]:
        found = []
        for column in self.params.pairs.columns:
            codes, levels = self.codes("guest", column)
            found.append(GuestLevels(column, levels, codes))
        return found

    def pairs(self, host: str) -> list[PairOfParties]:
        factors, first, own = self.design(host).factors, 0, {}
        for row, factor in enumerate(factors):
            own[factor.name] = OwnFactor(row, first, len(factor.others))
            first += len(factor.others)
        return [
            PairOfParties(column, own[name], self.params.across_rows)
            for column, name in self.params.pairs.with_host(host)
        ]

    def federated(self, watch: Any = None) -> tuple[Fit, dict[str, HostFit]]:
        kept: dict[str, HostFit] = {}

        def watched(to_host: Any, _: Any) -> None:
            if watch is not None:
                to_host.observers.append(lambda *seen: watch(to_host.name, *seen))

        def guest(peers: Any) -> Any:
            own = {"guest": self.matrix("guest")}
            given = peers, own, self.rows, self.params
            return guest_fit(*given, key=KEY, across=self.guest_levels())

        def host(name: str, peer: Any) -> Any:
            return host_fit(
                peer,
                len(self.rows.label),
                lambda train: self.matrix(name),
                self.params,
                arguments.participant(name, self.hosts, {"context": b"job"}),
                HostCourse(keep=lambda fit: kept.update({name: fit})),
                lambda: self.pairs(name),
            )

        fit, *_ = over_memory(self.hosts, guest, host, opened=watched)
        return fit, kept

    def cells(self, found: FittedCells, host: str, place: int) -> np.ndarray:
        """The columns of a pair's cells, (rows, cells), by who has both tables."""
        pair, (column, name) = found.cells.pair, self.params.pairs.with_host(host)[place]
        theirs = self.guest_levels()[column].codes
        own, _ = self.codes(host, name)
        assert pair.column == column
        return np.array([(theirs == a) & (own == b) for a, b in found.cells.cells], float).T

    def dense(self, kept: dict[str, HostFit]) -> np.ndarray:
        parts = [self.matrix("guest").dense()]
        for host in self.hosts:
            parts.append(self.matrix(host).dense())
            parts += [self.cells(one, host, at) for at, one in enumerate(kept[host].across)]
        return np.hstack(parts)


def make_across(
    family: str,
    pairs: list[tuple[str, str]],
    hosts: int = 1,
    rows: int = 240,
    seed: int = 0,
    **params: Any,
) -> Across:
    rng = np.random.default_rng([seed, rows])

    def column(prefix: str, levels: int) -> np.ndarray:
        names = np.array([f"{prefix}{k}" for k in range(levels)], object)
        shares = rng.dirichlet(np.full(levels, 5.0))
        return rng.choice(names, rows, p=shares)

    tables: dict[str, dict[str, np.ndarray]] = {
        "guest": {"area": column("a", 3), "year": column("y", 2), "x": rng.normal(size=rows)}
    }
    for k in range(1, hosts + 1):
        own = {"kind": column("k", 3), "size": column("s", 2), "z": rng.normal(size=rows)}
        tables[f"host{k}"] = own
    loss = loss_of(family)  # type: ignore[arg-type]
    train = rng.random(rows) >= 0.2
    offset = np.log(rng.uniform(0.2, 1, rows)) if family == "poisson" else np.zeros(rows)
    score = 0.3 * tables["guest"]["x"] - 0.4 + offset
    for a, b in pairs:
        host, _, name = b.partition(":")
        both = tables["guest"][a] + tables[host][name]
        effects = {level: rng.normal(scale=0.5) for level in sorted({*both})}
        score = score + np.array([effects[level] for level in both])
    label = labels(family, loss.predict(score), rng)
    nobody = np.zeros(rows, bool)
    training = Training(label, rng.uniform(0.5, 2, rows), train, nobody, loss, offset)
    settings = {"tolerance": 1e-9, "across_rows": LEAST, "alpha": 0.01} | params
    return Across(tables, training, GlmParams(across=tuple(pairs), **settings))


def by_glum(job: Across, kept: dict[str, HostFit], family: str) -> tuple[np.ndarray, float]:
    rows, train = job.rows, job.rows.train
    model = glum.GeneralizedLinearRegressor(
        family=GLUM[family],
        link="log" if rows.loss.link == "log" else "auto",
        alpha=job.params.alpha,
        l1_ratio=0,
        gradient_tol=1e-12,
        max_iter=1000,
    )
    offset = np.zeros(len(train)) if rows.offset is None else rows.offset
    model.fit(job.dense(kept)[train], rows.label[train], rows.weight[train], offset=offset[train])
    return model.coef_, float(model.intercept_)


def all_coefficients(job: Across, fit: Fit, kept: dict[str, HostFit]) -> np.ndarray:
    return np.concatenate([fit.coefficients["guest"], *(kept[host].coefficients for host in job.hosts)])


PAIRS = {
    1: [("area", "host1:kind")],
    2: [("area", "host1:kind"), ("year", "host1:kind"), ("year", "host1:size"), ("area", "host2:size")],
}


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
@pytest.mark.parametrize(("family", "hosts"), [("logistic", 1), ("poisson", 2)])
def test_the_optimum_is_glums_with_the_cells_as_columns(family, hosts, encryption):
    """With weights, an exposure as an offset and rows held out. Both stop at a gradient of 1e-9 at most,
    which over the least curvature (alpha) leaves 1e-7 of a coefficient."""
    job = make_across(family, PAIRS[hosts], hosts, encryption=encryption)
    fit, kept = job.federated()
    assert fit.converged and fit.iterations < 40
    beta, intercept = by_glum(job, kept, family)
    own = all_coefficients(job, fit, kept)
    assert own == pytest.approx(beta, abs=1e-6)
    assert fit.intercept == pytest.approx(intercept, abs=1e-6)
    # The scores of all rows, of those held out also.
    offset = np.zeros(len(fit.score)) if job.rows.offset is None else job.rows.offset
    assert fit.score == pytest.approx(job.dense(kept) @ own + fit.intercept + offset, abs=1e-8)
    # Cells are those with enough rows, counted as anybody with both tables would.
    for host in job.hosts:
        for place, one in enumerate(kept[host].across):
            sizes = job.cells(one, host, place)[job.rows.train].sum(axis=0)
            assert one.cells.rows == tuple(sizes) and min(sizes) >= LEAST
            assert len(one.cells.cells) >= 1 and one.names == ()


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_the_fit_with_all_columns_in_one_place_is_the_same_bit_for_bit(encryption):
    job = make_across("poisson", PAIRS[2], 2, encryption=encryption, tolerance=1e-6)
    fit, kept = job.federated()
    theirs = {host: job.matrix(host) for host in job.hosts}
    pairs = PlainPairs(job.guest_levels(), {host: job.pairs(host) for host in job.hosts})
    given = {"guest": job.matrix("guest")}, theirs, job.rows, job.params
    plain, coefficients = asyncio.run(plain_fit(*given, across=pairs))
    for host in job.hosts:
        assert coefficients[host].tolist() == kept[host].coefficients.tolist()
        assert [one.cells.cells for one in plain.cells[host]] == [
            one.cells.cells for one in kept[host].across
        ]
    assert plain.coefficients["guest"].tolist() == fit.coefficients["guest"].tolist()
    assert plain.score.tolist() == fit.score.tolist()
    assert (plain.iterations, plain.readable) == (fit.iterations, fit.readable)


# --- Estimators: the same by all tables at hand and by the protocol. ------------------------------


def frames(rows: int = 300):
    """A guest's and two hosts' tables with one row in ten unknown to each host, and a label."""
    import pandas as pd

    rng = np.random.default_rng(5)
    names = [f"p{k}" for k in range(rows)]
    guest = pd.DataFrame(
        {"area": rng.choice(["a", "b", "c"], rows), "x": rng.normal(size=rows)}, index=names
    )
    hosts = {
        name: pd.DataFrame(
            {"kind": rng.choice(["r", "s", "t"], rows), "z": rng.normal(size=rows)}, index=names
        )
        for name in ("bureau", "garage")
    }
    return guest, hosts, rng.poisson(0.8, rows).astype(float)


def test_predictions_are_those_of_the_whole_model():
    guest, hosts, label = frames()
    model = FederatedGLM(
        family="poisson",
        hosts=hosts,
        across=(("area", "bureau:kind"), ("area", "garage:kind")),
        across_rows=10,
        alpha=0.01,
        rules={name: {"min_level_rows": 5} for name in ("guest", *hosts)},
    )
    plain = model.fit(guest, label)
    assert any("×" in column for column in plain.relativities_["bureau"]["column"])
    score = np.log(plain.predict(guest))
    expected = plain.intercept_ + plain.model_.part.scores(
        {"area": guest["area"].to_numpy(object), "x": guest["x"].to_numpy()}, len(guest)
    )
    for name, half in plain.halves_.items():
        own = {"kind": hosts[name]["kind"].to_numpy(object), "z": hosts[name]["z"].to_numpy()}
        expected = expected + half.part.scores(own, len(guest))
        (one,) = half.across
        codes = plain.model_.part.design.factors[0].codes(guest["area"].to_numpy(object))
        factor = half.part.design.factors[0]
        expected = expected + one.table(factor.others)[codes, factor.codes(own["kind"])]
    assert score == pytest.approx(expected, abs=1e-10)
    # Rows that a host does not know: as of missing values, whose cells there are none of.
    some = guest.iloc[:40]
    known = {"bureau": hosts["bureau"].iloc[:20], "garage": hosts["garage"]}
    half, row = plain.halves_["bureau"], slice(20, 40)
    absent = np.log(plain.predict(some, hosts=known))[row]
    own = {"kind": hosts["bureau"]["kind"].to_numpy(object), "z": hosts["bureau"]["z"].to_numpy()}
    factor = half.part.design.factors[0]
    codes = plain.model_.part.design.factors[0].codes(guest["area"].to_numpy(object))
    theirs = half.part.scores(own, len(guest))
    theirs = theirs + half.across[0].table(factor.others)[codes, factor.codes(own["kind"])]
    missing = half.part.missing_score(own)
    assert absent == pytest.approx((score - theirs)[row] + missing, abs=1e-10)
