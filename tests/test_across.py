"""Pairs of levels of two parties: the optimum against glum, and what each side sees of the other."""

import asyncio
import dataclasses
import re
from dataclasses import dataclass
from typing import Any

import arguments
import glum
import numpy as np
import pytest
from dealt_transfers import dealt_transfers
from hypothesis import given
from hypothesis import strategies as st
from memory import over_memory
from paillier_key import KEY
from pydantic import ValidationError
from scipy.stats import binomtest, chisquare
from sklearn.linear_model import LogisticRegression
from test_glm import GLUM, labels

from vfl.errors import ConfigError, DataError
from vfl.estimators.linear import FederatedGLM
from vfl.leakage.disclosure import Circumstances
from vfl.leakage.of_linear import of_linear
from vfl.learn.across import FittedCells, GuestLevels, OwnFactor, PairOfParties, choose_cells
from vfl.learn.design import Design, Matrix, Rules
from vfl.learn.losses import loss_of
from vfl.learn.params import GlmParams
from vfl.learn.tree import Branch, Tree
from vfl.models.relativities import crossed_tables
from vfl.models.shapes import met_columns
from vfl.net.wire import decode
from vfl.protocols.common.chosen_words import ChosenWords, LevelWords, OfferedWords, _pads
from vfl.protocols.common.course import HostCourse
from vfl.protocols.common.rows import Training
from vfl.protocols.linear import products
from vfl.protocols.linear.across import CellsChosen
from vfl.protocols.linear.fit import Fit, HostFit
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.linear.host_fitting import host_fit
from vfl.protocols.linear.plain import PlainPairs, plain_fit
from vfl.protocols.trees.model import GuestModel

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
    settings = {"tolerance": 1e-8, "across_rows": LEAST, "alpha": 0.01} | params
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
    2: [("area", "host1:kind"), ("year", "host1:size"), ("area", "host2:size")],
}


@pytest.mark.parametrize(
    ("family", "hosts", "encryption"),
    [
        ("logistic", 1, "paillier"),
        pytest.param("logistic", 1, "lattice", marks=pytest.mark.slow),
        pytest.param("poisson", 2, "paillier", marks=pytest.mark.slow),
        pytest.param("poisson", 2, "lattice", marks=pytest.mark.slow),
    ],
)
def test_the_optimum_is_glums_with_the_cells_as_columns(family, hosts, encryption):
    """With weights, an exposure as an offset and rows held out. Both stop at a gradient of 1e-8 at most,
    which over the least curvature (alpha) leaves 1e-6 of a coefficient."""
    job = make_across(family, PAIRS[hosts], hosts, rows=200, encryption=encryption)
    fit, kept = job.federated()
    assert fit.converged and fit.iterations < 40
    beta, intercept = by_glum(job, kept, family)
    own = all_coefficients(job, fit, kept)
    assert own == pytest.approx(beta, abs=1e-5)
    assert fit.intercept == pytest.approx(intercept, abs=1e-5)
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
    job = make_across("poisson", PAIRS[2], 2, rows=160, encryption=encryption, tolerance=1e-3)
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


def test_several_fits_share_transfers_and_cells():
    """The parameter of a variance is found by further fits, which are the plain ones' as the last is."""
    settings = {"tolerance": 1e-3, "encryption": "lattice", "profile": True}
    job = make_across("tweedie", PAIRS[1], rows=160, **settings)
    fit, kept = job.federated()
    pairs = PlainPairs(job.guest_levels(), {"host1": job.pairs("host1")})
    given = {"guest": job.matrix("guest")}, {"host1": job.matrix("host1")}, job.rows, job.params
    plain, coefficients = asyncio.run(plain_fit(*given, across=pairs))
    assert fit.variance is not None and fit.variance == plain.variance
    assert coefficients["host1"].tolist() == kept["host1"].coefficients.tolist()


# --- What a curious party sees. ---------------------------------------------------------------------


@dataclass
class Opened:
    """Words that a host has offered several times of the same rows, and what each side has of them."""

    codes: np.ndarray  # the guest's level of each row
    parts: np.ndarray  # by time, level and row, what the level adds: 0 or 1
    words: list[list[np.ndarray]]  # as sent, by time and level from 1 on
    sums: list[np.ndarray]  # as sent of the rows themselves
    read: np.ndarray  # by the guest
    guest: ChosenWords
    chosen: Any
    host: OfferedWords
    rows: np.ndarray  # of the host's


def opened(rows: int = 4000, levels: int = 3, times: int = 2) -> Opened:
    """Rows at random levels, whose own word is 0."""
    rng = np.random.default_rng(11)
    codes = rng.integers(0, levels + 1, rows).astype(np.uint16)
    parts = rng.integers(0, 2, (times, levels + 1, rows)).astype(np.uint64)
    parts[:, 0] = 0
    every, sums, sent = np.arange(rows), [], []

    async def guest(peers: Any) -> Any:
        (peer,) = peers
        peer.observers.append(lambda way, kind, payload: sent.append((way, kind, payload)))
        words = await ChosenWords.meet(peer, levels, b"bound", np.random.default_rng(1).bytes)
        chosen = await words.choose(codes)
        return words, chosen, [await words.receive(chosen, every) for _ in range(times)]

    async def host(_: str, peer: Any) -> Any:
        words = await OfferedWords.meet(peer, levels, b"bound", np.random.default_rng(2).bytes)
        own = await words.await_choice(rows)
        for time in range(times):
            cover = await words.cover(own, every)
            sums.append(cover)
            await words.send(own, every, cover, lambda level, time=time: parts[time, level])
        return words, own

    (words, chosen, read), (offered, own) = over_memory(["host"], guest, host)
    found = [
        np.frombuffer(decode(payload, [LevelWords]).words, "<u8")
        for way, kind, payload in sent
        if way == "received" and kind == "LevelWords"
    ]
    by_time = [found[time * levels : (time + 1) * levels] for time in range(times)]
    whole = np.array([one + more for one, more in zip(read, sums, strict=True)])
    return Opened(codes, parts, by_time, sums, whole, words, chosen, offered, own)


@pytest.fixture(scope="module")
def seen() -> Opened:
    with dealt_transfers():
        return opened()


def test_the_guest_reads_the_word_of_its_own_level(seen):
    every = np.arange(len(seen.codes))
    for time, read in enumerate(seen.read):
        assert (read == seen.parts[time, seen.codes, every]).all()


def test_a_curious_guest_guesses_words_of_other_levels(seen):
    """It takes its own pads off the words of other levels, in every way in which its own opens, and says
    0 or 1 by which is nearer: as often right as a coin, by a two-sided test at 1e-4 for each way."""
    own = [_pads(seen.chosen.rows, np.arange(len(seen.codes)), time, b"bound", None) for time in (0, 1)]
    tried = 0
    for level in (1, 2, 3):
        other = (seen.codes != level) & (seen.codes > 0)
        truth = seen.parts[0, level][other]
        word, cover = seen.words[0][level - 1][other], seen.sums[0][other]
        guesses = [word + cover - own[0][other], word - own[0][other], word + cover - own[1][other]]
        # By another time's word of the same level, as if pads were used twice.
        guesses.append(word - seen.words[1][level - 1][other] + seen.parts[1, level][other])
        for guess in guesses:
            said = np.abs(guess.view(np.int64)) > np.abs((guess - np.uint64(1)).view(np.int64))
            hits = int((said == (truth == 1)).sum())
            assert binomtest(hits, len(truth), 0.5).pvalue > 1e-4
            assert not np.isin(guess, [0, 1]).any()
            tried += 1
    assert tried == 12


def test_what_the_guest_cannot_open_looks_uniform(seen):
    for level in (1, 2, 3):
        other = seen.codes != level
        top = (seen.words[0][level - 1][other] >> np.uint64(56)).astype(np.int64)
        assert chisquare(np.bincount(top, minlength=256)).pvalue > 1e-4
    # Of rows at no base level the sum without the guest's word is uniform, too.
    top = (seen.sums[0][seen.codes > 0] >> np.uint64(56)).astype(np.int64)
    assert chisquare(np.bincount(top, minlength=256)).pvalue > 1e-4


def test_a_curious_host_guesses_the_guests_levels(seen):
    """A classifier by all 468 bits that it has of half of the rows, whose levels it is told, is right
    about the others as often as chance has it; so is one by how far rows are from each level's words."""
    bits = np.unpackbits(seen.rows, axis=1)[:, :468].astype(float)
    half = len(bits) // 2
    model = LogisticRegression(C=1e-3, max_iter=200).fit(bits[:half], seen.codes[:half])
    hits = int((model.predict(bits[half:]) == seen.codes[half:]).sum())
    chance = np.bincount(seen.codes[half:]).max() / half
    assert binomtest(hits, half, chance, alternative="greater").pvalue > 1e-4
    weights = np.array(
        [np.unpackbits(seen.rows ^ mask, axis=1).sum(axis=1) for mask in seen.host._masks]
    )
    for nearest in (weights.argmin(axis=0), weights.argmax(axis=0)):
        hits = int((nearest == seen.codes).sum())
        assert binomtest(hits, len(nearest), 0.25).pvalue > 1e-4


def test_hosts_are_given_no_sums_but_of_their_cells():
    """As many numbers go back as the host has chosen cells, by each level of the guest's; small ones and
    other columns' are not among them."""
    job = make_across("logistic", PAIRS[1], rows=160, tolerance=1e-3, across_rows=12)
    opened_cells: list[int] = []
    chosen: list[CellsChosen] = []

    def watch(host: str, way: str, kind: str, payload: bytes) -> None:
        if kind == "OpenedByLevel":
            opened_cells.append(len(decode(payload, [products.OpenedByLevel]).plaintexts))
        elif kind == "CellsChosen":
            chosen.append(decode(payload, [CellsChosen]))

    fit, kept = job.federated(watch)
    (one,) = kept["host1"].across
    ((said),) = chosen
    assert [*zip(said.levels, said.columns, strict=True)] == [
        (level, one.cells.pair.factor.first + own - 1) for level, own in one.cells.cells
    ]
    counts = one.cells.counts[1:, 1:]
    assert (counts < 12).any() and one.cells.few == int(((counts > 0) & (counts < 12)).sum())
    by_level = np.bincount(said.levels, minlength=counts.shape[0] + 1)[1:]
    first = counts.shape[0]  # of counts, one message a level
    levels = [size for size in by_level.tolist() if size]
    assert len(opened_cells) == first + len(levels) * (fit.iterations + 1)
    # Bits of a sum differ by iteration; within one they are those of its cells.
    for at in range(first, len(opened_cells), len(levels)):
        sizes = opened_cells[at : at + len(levels)]
        assert (
            len({round(8 * size / count) // 8 for size, count in zip(sizes, levels, strict=True)}) <= 2
        )


@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(2, 5), st.integers(2, 5)),
    least=st.integers(1, 12),
)
def test_neither_cells_nor_what_is_left_of_levels_are_of_few_rows(seed, shape, least):
    """A host knows the sums of its levels: less those of cells they are sums of what is left."""
    counts = np.random.default_rng(seed).integers(0, 25, shape)
    pair = PairOfParties(0, OwnFactor(0, 0, shape[1] - 1), least)
    try:
        cells = choose_cells(pair, counts)
    except ValueError as error:
        assert "has no two levels" in str(error)
        return
    assert min(cells.rows) >= least and len({*cells.cells}) == len(cells.cells)
    for level in range(1, shape[1]):
        own = sum(int(counts[cell]) for cell in cells.cells if cell[1] == level)
        rest = int(counts[:, level].sum()) - own
        assert rest == 0 or rest >= least or not own
    # Columns of both factors, cells and the constant have full rank on the rows that there are.
    rows = [(i, j) for i in range(shape[0]) for j in range(shape[1]) if counts[i, j]]
    mains = [[i == a for i, _ in rows] for a in range(shape[0])][1:]
    mains += [[j == b for _, j in rows] for b in range(shape[1])][1:]
    before = np.array([[True] * len(rows), *mains], float)
    whole = np.vstack([before, [[row == cell for row in rows] for cell in cells.cells]])
    rank = np.linalg.matrix_rank
    assert rank(whole) == rank(before) + len(cells.cells)


def test_labels_that_could_be_read_count_cells():
    job = make_across("logistic", PAIRS[1], rows=160, tolerance=1e-3)
    fit, kept = job.federated()
    (one,) = kept["host1"].across
    without = dataclasses.replace(job, params=job.params.model_copy(update={"across": ()}))
    alone, _ = without.federated()
    assert fit.readable > alone.readable + len(one.cells.cells) * fit.iterations
    few = dataclasses.replace(job, params=job.params.model_copy(update={"max_labels": 0.01}))
    with pytest.raises(ConfigError, match=r"more than max_labels = 0\.01 of \[glm\] admits"):
        few.federated()


def test_names_of_levels_are_told_where_the_job_says_so():
    job = make_across("logistic", PAIRS[1], rows=160, tolerance=1e-3, across_names=True)
    _, kept = job.federated()
    assert set(kept["host1"].across[0].names) == {"a0", "a1", "a2"}


def test_a_pair_without_a_cell_is_refused():
    job = make_across("logistic", PAIRS[1], rows=160, across_rows=150)
    with pytest.raises(DataError, match="has no two levels with 150 rows together that tell more"):
        job.federated()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"inference": True}, "across does not go with inference"),
        ({"l1_ratio": 0.5, "alpha": 0.1}, "across does not go with l1_ratio"),
        ({"shrink_to": "mean"}, 'across does not go with shrink_to = "mean"'),
        ({"credibility": True}, "across does not go with credibility"),
        ({"scores": "hidden", "coordinator": "umpire"}, 'across does not go with scores = "hidden"'),
        ({"across": [["area", "kind"]]}, "a host's after the party's name"),
        ({"across": [["area", "host1:kind"]] * 2}, "across has a pair twice"),
        ({"alphas": [0.1, 0.01]}, "across does not go with alphas, whose folds may have few rows"),
        ({"across": [], "across_names": True}, "are for across: name pairs, or remove them"),
    ],
)
def test_settings_that_do_not_go_together(settings, said):
    with pytest.raises(ValidationError, match=re.escape(said)):
        GlmParams.model_validate({"across": [["area", "host1:kind"]]} | settings)


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

    # Relativities by the guest's levels: those of a level and of its pair together.
    (table,) = crossed_tables(half, "guest:area", "log")
    assert (table.column, table.by_levels) == ("kind", half.across[0].levels)
    beta = dict(zip(half.part.design.coefficients, half.part.coefficients, strict=True))
    both = half.across[0].table(factor.others)
    for place, level in enumerate(table.levels):
        own = beta.get(("kind", level), 0.0)
        assert np.log(table.values[place]) == pytest.approx(own + both[:, place])
        assert [rows is None for rows in table.rows[place]] == (both[:, place] == 0).tolist()
    assert crossed_tables(half, "guest:x", "log") == []


def test_pairs_that_meet_in_trees_are_listed_by_gain():
    """Of two trees, of which one splits by a host's column below one of the guest's, and one the other
    way round; a column of the same party, and of two hosts, is no pair that a job could name."""

    def tree(*branches: tuple[int, int, str, float]) -> Tree:
        nodes = {node: Branch(party, 0, column, gain) for node, party, column, gain in branches}
        ends = {2 * node + side for node in nodes for side in (1, 2)} - set(nodes)
        return Tree(nodes, dict.fromkeys(ends, 0.0))

    first = tree((0, 0, "area", 5.0), (1, 1, "kind", 2.0), (3, 1, "kind", 0.5), (2, 0, "x", 1.0))
    second = tree((0, 1, "kind", 4.0), (2, 0, "area", 3.0), (5, 2, "", 0.25), (6, 0, "area", 0.125))
    model = GuestModel(("insurer", "bureau", "garage"), 0.0, (first, second), ())
    assert [(one.own, one.theirs, one.splits, one.gain) for one in met_columns(model)] == [
        ("area", "bureau:kind", 4, 2.0 + 0.5 + 3.0 + 0.125),
        ("area", "garage:", 1, 0.25),
    ]
    # A host that shows no names has its own in its columns' places already.
    third = tree((0, 0, "area", 5.0), (1, 1, "bureau:1", 2.0))
    model = GuestModel(("insurer", "bureau", "garage"), 0.0, (third,), ())
    assert [one.theirs for one in met_columns(model)] == ["bureau:1"]


def test_what_pairs_give_away_is_said_before_a_job():
    params = GlmParams(across=(("area", "bureau:kind"),), across_rows=60)
    told = of_linear(Circumstances("insurer", ["bureau", "garage"], 1000), params, True)
    found = {one.name: one for one in told if one.name in ("guest_levels", "cells")}
    assert (found["guest_levels"].who, found["guest_levels"].about) == ("bureau", "insurer")
    assert (found["cells"].who, found["cells"].about) == ("insurer", "bureau")
    assert "area × kind, also of few rows" in found["guest_levels"].how
    assert "by number, not by name" in found["guest_levels"].what
    assert "60 rows at least" in found["cells"].how
