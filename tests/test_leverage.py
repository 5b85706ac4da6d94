"""Rows that stand out: what columns that a party makes up tell it of others' rows, by inference and by
variance inflation, with the bound that programs keep to and without."""

import math
from dataclasses import replace
from secrets import token_bytes
from types import SimpleNamespace

import numpy as np
import pytest
from memory import over_memory
from paillier_key import quick_key
from test_glm import make_job
from test_inference_protocol import inferred

from vfl.errors import DataError, PeerStopped, Refused
from vfl.jobs.columns_given import ColumnsGiven
from vfl.learn import leverage
from vfl.learn.inflation import InflationDesign
from vfl.learn.leverage import leverages, standing_out
from vfl.learn.matrix import SCALE, Matrix
from vfl.learn.params import MAX_LEVERAGE, GlmParams
from vfl.learn.rotated import Rotated
from vfl.models.inference import said_errors
from vfl.models.linear_columns import prepare_columns
from vfl.party.linear_rules import GlmSection
from vfl.party.policy_section import PolicySection
from vfl.party.store import Store
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.linear.inference_messages import coarse, number_bits
from vfl.protocols.linear.inflation import NOISE, guest_inflation, host_inflation
from vfl.protocols.linear.turned_products import TurnedForm

RNG = np.random.default_rng(7)
ROWS = 4000


def matrix_of(numbers, factor=None, levels=0):
    numbers = np.reshape(numbers, (-1, np.shape(numbers)[-1]))
    rows = numbers.shape[1]
    codes = np.zeros((0, rows), np.uint16) if factor is None else factor[np.newaxis].astype(np.uint16)
    return Matrix(codes, (levels,) if levels else (), np.rint(numbers * SCALE).astype(np.int32))


def standard(x):
    return (x - x.mean()) / x.std()


# --- The number itself. -----------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_leverages_are_the_projections(monkeypatch, constant, weighted):
    monkeypatch.setattr(leverage, "_AT_ONCE", 97)
    rng = np.random.default_rng(1)
    matrix = matrix_of(rng.gamma(1, 1, (2, 1000)), rng.integers(0, 4, 1000), 3)
    weight = rng.random(1000) if weighted else np.ones(1000)
    dense = np.hstack([np.ones((1000, int(constant))), matrix.dense()]) * weight[:, np.newaxis]
    basis, _ = np.linalg.qr(dense)
    found = leverages(matrix, weight, constant=constant)
    np.testing.assert_allclose(found.rows, np.sum(basis**2, axis=1), atol=1e-12)


@pytest.mark.parametrize("constant", [True, False])
def test_rows_that_are_joined_to_one_are_looked_at_together(constant):
    rng = np.random.default_rng(4)
    who = rng.integers(0, 120, 1000)
    matrix, weight = matrix_of(rng.gamma(1, 1, (2, 1000)), rng.integers(0, 4, 1000), 3), rng.random(1000)
    dense = np.hstack([np.ones((1000, int(constant))), matrix.dense()]) * weight[:, np.newaxis]
    basis, _ = np.linalg.qr(np.array([dense[who == one].sum(axis=0) for one in np.unique(who)]))
    largest = float(np.sum(basis**2, axis=1).max())
    given = {"weight": weight, "constant": constant, "about": [who]}
    assert standing_out(matrix, largest + 1e-9, **given) is None
    found = standing_out(matrix, largest - 1e-9, **given)
    assert found.leverage == pytest.approx(largest)
    # One of ten rows, and by differences within each ten one alone of which something is left.
    ten, sign = np.repeat(np.arange(100), 10), np.where(np.arange(1000) % 2, 1.0, -1.0)
    one = (ten == 3).astype(float)
    assert standing_out(matrix_of(one), MAX_LEVERAGE) is None
    assert standing_out(matrix_of(one), MAX_LEVERAGE, about=[ten]).leverage == pytest.approx(1)
    assert standing_out(matrix_of(sign), 0.02, about=[ten]) is None
    sign[35] += 2.0**-20
    assert standing_out(matrix_of(sign), MAX_LEVERAGE, about=[ten]).leverage == pytest.approx(1)


@pytest.mark.parametrize("difference", [1.0, 1e-4, 2.0**-24])
def test_columns_that_differ_in_one_row_make_it_stand_out(difference):
    """However little they differ, and whatever combinations of columns are beside them."""
    rng = np.random.default_rng(2)
    x = np.rint(rng.normal(size=ROWS) * SCALE) / SCALE
    factor = rng.integers(0, 4, ROWS)
    twice = np.vstack([factor, factor]).astype(np.uint16)
    other = x.copy()
    other[17] += difference
    for last in (x, 2 * x + (factor == 1)):  # exact combinations alone
        numbers = np.rint(np.array([x, last]) * SCALE) / SCALE
        assert standing_out(Matrix(twice, (3, 3), numbers), 0.02) is None
    found = standing_out(Matrix(twice, (3, 3), np.array([x, other])), MAX_LEVERAGE)
    assert found.leverage == pytest.approx(1, abs=1e-6) and found.place in (6, 7)


def test_the_owner_is_told_which_column_it_is():
    rng = np.random.default_rng(3)
    features = {
        "age": rng.normal(size=500),
        "area": rng.choice(np.array(["a", "b"], object), 500),
        "capital": np.where(np.arange(500) == 4, 1e6, rng.gamma(1, 1, 500)),
    }
    given = "cars.csv", features, np.ones(500, bool), GlmSection()
    prepare_columns(*given, GlmParams())
    prepare_columns(*given, GlmParams(inference=True, max_leverage=1.0))
    said = r"cars\.csv: .* column 'capital' makes single rows stand out, with a leverage of 1\.00"
    with pytest.raises(DataError, match=said) as told:
        prepare_columns(*given, GlmParams(inference=True))
    assert "capital" not in told.value.for_peer
    design, _ = InflationDesign.of(features, given[2], 20, MAX_LEVERAGE)
    assert {*design.places} == {"age", "area"} and "raise max_leverage" in design.left_out["capital"]
    rows = np.array([1.0, *np.zeros(499)])
    with pytest.raises(DataError, match=r"column 'one' .* leverage of 1"):
        prepare_columns("t", {"one": rows}, given[2], GlmSection(), GlmParams(inference=True))


def test_rows_joined_to_one_are_refused_where_columns_are_prepared():
    rng = np.random.default_rng(5)
    who, train = np.repeat(np.arange(60), 10), np.arange(600) % 10 < 8
    features = {"age": rng.normal(size=600), "one": (who == 7).astype(float)}
    given, params = ("t", features, train, GlmSection()), GlmParams(inference=True)
    prepare_columns(*given, params)
    with pytest.raises(DataError, match=r"column 'one' .* leverage of 1"):
        prepare_columns(*given, params, about=[who])
    design, _ = InflationDesign.of(features, train, 20, MAX_LEVERAGE, [who])
    assert {*design.places} == {"age"} and {*design.left_out} == {"one"}


def test_columns_are_looked_at_as_inference_rounds_them():
    """Two columns that differ a little in all rows, and rounded in a single one."""
    rng, unit = np.random.default_rng(8), 2.0 ** -number_bits(ROWS)
    one = np.rint(standard(rng.normal(size=ROWS)) / unit) * unit
    other = one + rng.uniform(-0.4, 0.4, ROWS) * unit
    other[17] = one[17] + 0.6 * unit
    matrix = matrix_of([one, other])
    assert standing_out(matrix, MAX_LEVERAGE) is None
    assert standing_out(coarse(matrix), MAX_LEVERAGE).leverage == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("joined", [False, True])
def test_weights_are_looked_at_as_they_are_sent(joined):
    """Of six rows about alike one is rounded up to a unit of the weights, and five to none; and of ten
    rows that are joined to one, each as any other."""
    rng = np.random.default_rng(6)
    rows = rng.permutation(240)[:100].reshape(10, 10)[:, : 10 if joined else 6]
    made = {f"g{place}": np.isin(np.arange(240), own).astype(float) for place, own in enumerate(rows)}
    tables = {"guest": made, "host1": {"age": rng.normal(size=240)}}
    job = make_job("gaussian", tables, rows=240, held_out=0.0)
    job = job.with_params(inference=True, encryption="lattice")
    weight, about = np.ones(240), np.arange(240)
    if joined:
        for own in rows:
            about[own] = own[0]
    else:
        weight[rows], weight[rows[:, 0]] = 0.95 * 2.0**-28, 1.05 * 2.0**-28
        assert standing_out(job.matrices["guest"], MAX_LEVERAGE, weight, share=0.25) is None
    found, _ = inferred(replace(job, rows=replace(job.rows, weight=weight, about=(about,))))
    own = found["guest"]
    assert own.covariance is None and found["host1"] is None and own.standing_out.leverage > 0.99


def test_rows_that_the_fit_weighs_more_are_not_inferred_by():
    """Groups of six, in each of which one row counts for all: weights at the optimum are known at the
    end, and nothing is told then. Real fits have few such rows."""
    rng = np.random.default_rng(6)
    rows = rng.permutation(240)[:60].reshape(10, 6)
    made = {f"g{place}": np.isin(np.arange(240), own).astype(float) for place, own in enumerate(rows)}
    tables = {"guest": made, "host1": {"age": rng.normal(size=240)}}
    job = make_job("gaussian", tables, rows=240, held_out=0.0)
    job = job.with_params(inference=True, encryption="lattice")
    assert standing_out(job.matrices["guest"], MAX_LEVERAGE) is None
    weight = np.ones(240)
    for some, refused in ((1, False), (10, True)):
        weight[rows[:some, 0]] = 200.0
        found, _ = inferred(replace(job, rows=replace(job.rows, weight=weight)))
        own = found["guest"]
        assert (own.covariance is None) == (found["host1"] is None) == refused
    assert own.standing_out.leverage > 0.9
    design = SimpleNamespace(coefficients=[(name, "") for name in made])
    half = SimpleNamespace(inference=own, summary=object(), part=SimpleNamespace(design=design))
    assert "no standard errors: as the fit weighs them, too many rows stand out" in said_errors(half)


# --- What a guest reads that makes its columns up. --------------------------------------------------


def seen(columns, host, noise=0.0):
    """By column of the guest's what it makes of the products of variance inflation: the sums over its
    rows of the host's columns, turned by the host's secret basis. Without noise they are as exact as
    those of inference, or more."""
    guest = matrix_of(columns)
    sizes = [guest.columns, host.columns]
    form = TurnedForm(guest.rows, sizes)
    own, theirs = Rotated.of(guest, token_bytes), Rotated.of(host, token_bytes)
    one, two = (of.numbers(form.bits).astype(np.int64) for of in (own, theirs))
    total = (one @ two.T) / (guest.rows * 4.0**form.bits)
    if noise:
        total += noise / math.sqrt(guest.rows) * RNG.normal(size=total.shape)
    return np.linalg.solve(own.change.T, total) * guest.rows


def groups(count, size):
    """Columns of so many rows each, no row in two, and their rows."""
    rows = RNG.permutation(ROWS)[: count * size].reshape(count, size)
    columns = np.zeros((count, ROWS))
    np.put_along_axis(columns, rows, 1.0, axis=1)
    return columns, rows


def estimates(count, size, host):
    """The best linear estimate of single rows, and which they are."""
    columns, rows = groups(count, size)
    return np.repeat(seen(columns, host) / size, size, axis=0), rows.ravel()


def unmixed(mixed):
    """Independent components (FastICA with tanh, Hyvarinen 1999)."""
    rng, centred = np.random.default_rng(0), mixed - mixed.mean(axis=0)
    basis, _, _ = np.linalg.svd(centred, full_matrices=False)
    basis = basis * np.sqrt(len(basis))
    change = np.linalg.qr(rng.normal(size=(basis.shape[1],) * 2))[0]
    for _ in range(300):
        bent = np.tanh(basis @ change.T)
        change = bent.T @ basis / len(basis) - np.diag((1 - bent**2).mean(axis=0)) @ change
        left, _, right = np.linalg.svd(change)
        change = left @ right
    return basis @ change.T


def correlations(one, other):
    return np.abs(np.corrcoef(one.T, other.T)[: one.shape[1], one.shape[1] :])


SIZE = 6  # rows: fewer are refused by the default bound


def test_the_program_takes_groups_of_six_rows_and_none_of_less():
    """Nor such as differ by a row."""
    of_five, rows = groups(40, 5)
    assert standing_out(matrix_of(groups(40, SIZE)[0]), MAX_LEVERAGE) is None
    of_four = of_five.copy()
    of_four[np.arange(40), rows[:, 0]] = 0
    for columns in (of_four, np.vstack([groups(1, 50)[0], groups(1, 1)[0]])):
        assert standing_out(matrix_of(columns), MAX_LEVERAGE).leverage > MAX_LEVERAGE
    wide, rows = groups(1, 60)
    less = wide.copy()
    less[0, rows[0, 0]] = 0
    assert standing_out(matrix_of(np.vstack([wide, less])), MAX_LEVERAGE).leverage == pytest.approx(1)


def test_values_of_a_single_column_are_estimated_by_the_root_of_the_leverage():
    x = standard(RNG.gamma(2, 1, ROWS))
    single, rows = estimates(300, 1, matrix_of(x))
    assert correlations(single, x[rows, np.newaxis])[0, 0] > 0.999
    within, rows = estimates(300, SIZE, matrix_of(x))
    found = correlations(within, x[rows, np.newaxis])[0, 0]
    assert (
        found == pytest.approx(math.sqrt(1 / SIZE), abs=0.06) and found < math.sqrt(MAX_LEVERAGE) + 0.06
    )


def test_independent_columns_are_not_unmixed_any_more():
    table = np.array(
        [standard(RNG.gamma(1, 1, ROWS)), standard(RNG.random(ROWS) < 0.3), standard(RNG.random(ROWS))]
    )
    right, best = {}, {}
    for size in (1, SIZE):
        mixed, rows = estimates(300, size, matrix_of(table))
        found, truth = unmixed(mixed), table[:, rows].T
        across = correlations(truth, found)
        best[size] = across.max(axis=1)
        own, ones = found[:, across[1].argmax()], truth[:, 1] > 0
        cut = (own.max() + own.min()) / 2
        right[size] = max(np.mean((own > cut) == ones), np.mean((own > cut) != ones))
    guessing = 0.7
    assert best[1].min() > 0.98 and right[1] > 0.99
    assert best[SIZE].max() < math.sqrt(MAX_LEVERAGE) + 0.06 and right[SIZE] < guessing + 0.06


def test_levels_are_not_told_by_the_length_of_rows_any_more():
    shares = [0.4, 0.25, 0.15, 0.12, 0.08]
    level = RNG.choice(5, ROWS, p=shares)
    counts = np.bincount(level)
    host = Matrix(level[np.newaxis].astype(np.uint16), (4,), np.zeros((0, ROWS), np.int32))

    def right(size):
        found, rows = estimates(300, size, host)
        # Of a row n / (rows of its level) - 1, and of a sum of a few rows about as many times.
        length = size * np.sum(found**2, axis=1)
        guess = np.abs(length[:, np.newaxis] - (ROWS / counts - 1)).argmin(axis=1)
        return np.mean(guess == level[rows])

    assert right(1) > 0.99 and right(SIZE) < 0.45


@pytest.mark.parametrize(("rows", "bound", "named"), [(8, MAX_LEVERAGE, True), (25, 0.06, False)])
def test_exact_sums_name_values_of_a_column_of_two_unless_of_many_rows(rows, bound, named):
    """The bound is one on estimates. Of a host's only column, of two values, a sum of 8 rows, each times
    another number, is another one for each of the 2^8 ways to make it up; of 25 rows, which a bound of
    0.06 asks for here, thousands of ways come to the same, as it is told to some 13 bits."""
    x = (RNG.random(ROWS) < 0.5).astype(float)
    host, some = matrix_of(standard(x)), RNG.choice(ROWS, rows, replace=False)
    column = np.zeros(ROWS)
    column[some] = RNG.uniform(0.8, 1.2, rows)
    assert standing_out(matrix_of(column), bound) is None
    ((told,),) = seen(column, host)
    # The standard units of both values; their sign is the host's secret.
    both, form = np.array([-x.mean(), 1 - x.mean()]) / x.std(), TurnedForm(ROWS, [1, 1])
    off = 4 * form.error * ROWS * column.std()  # by which the sum is rounded
    spread = np.sqrt(np.sum(column**2) * x.var()) / x.std()
    ways = 2.0**rows * 2 * off / (spread * math.sqrt(2 * math.pi))
    assert (ways < 0.1) == named and (ways > 1000) != named
    if named:
        ways = (np.arange(1 << rows)[:, np.newaxis] >> np.arange(rows)) & 1
        sums = both[ways] @ column[some]
        fits = ways[np.minimum(abs(sums - told), abs(sums + told)).argmin()]
        assert (fits == x[some]).all()


POWERS = 2.0 ** np.arange(8)


def named_of_eight(jobs, noise, weights=None):
    """The share of eight rows whose value of two a guest names, that is told the sum of these rows, each
    times another number, in so many jobs; by the likeliest values, as if it knew a host's sign."""
    right = []
    ways = (np.arange(1 << 8)[:, np.newaxis] >> np.arange(8)) & 1
    for _ in range(120):
        x = (RNG.random(ROWS) < 0.5).astype(float)
        some = RNG.choice(ROWS, 8, replace=False)
        chance = np.zeros(len(ways))
        for _ in range(jobs):
            times = POWERS if weights is None else weights(8)
            column = np.zeros(ROWS)
            column[some] = times
            told = standard(column) @ standard(x) / ROWS + noise / math.sqrt(ROWS) * RNG.normal()
            sums = ((ways - x.mean()) / x.std()) @ times / column.std() / ROWS
            chance -= ((sums - told) * math.sqrt(ROWS) / max(noise, 1e-3)) ** 2 / 2
        likely = np.exp(chance - chance.max())
        right.append(np.mean((likely @ ways / likely.sum() > 0.5) == x[some]))
    return np.mean(right)


def test_noise_hides_which_of_two_values_eight_rows_have_from_a_sum_of_them():
    """What noise adds to a sum of length 1 is a quarter of its standard deviation: so it tells at most
    log2(17) / 2 bits, whatever it is of, and the same again little more. Others tell as much anew."""
    assert named_of_eight(1, 0.0) == 1
    assert named_of_eight(1, NOISE) < 0.68
    assert named_of_eight(16, NOISE) < 0.79
    assert named_of_eight(8, NOISE, lambda rows: RNG.normal(size=rows)) > 0.9
    x = standard(RNG.gamma(2, 1, ROWS))
    single, rows = groups(300, 1)
    found = correlations(seen(single, matrix_of(x), NOISE), x[rows])[0, 0]
    assert found == pytest.approx(1 / math.sqrt(1 + NOISE**2), abs=0.02)


# --- The other way round. ---------------------------------------------------------------------------


def test_a_host_reads_no_rows_of_the_guests_by_columns_of_single_rows():
    income = standard(RNG.gamma(2, 1, ROWS))
    single, rows = groups(20, 1)

    def of_own_block(columns):
        """What a host makes of its block of the inverse: the part that the guest's column explains."""
        whole = np.vstack([income, columns])
        inverse = np.linalg.inv(np.cov(whole, bias=True) * ROWS)[1:, 1:]
        explained = np.cov(columns, bias=True) * ROWS - np.linalg.inv(inverse)
        values, vectors = np.linalg.eigh(explained)
        return vectors[:, -1] * np.sqrt(values[-1])

    assert correlations(of_own_block(single)[:, None], income[rows[:, :1]])[0, 0] > 0.999
    features = {f"h{place}": column for place, column in enumerate(single)}
    design, whole = InflationDesign.of(features, np.ones(ROWS, bool), 1, MAX_LEVERAGE)
    assert not design.places and not whole.columns and len(design.left_out) == 20
    six, rows = groups(60, SIZE)
    found = np.repeat(of_own_block(six), SIZE)[:, np.newaxis]
    assert (
        correlations(found, income[rows.ravel()][:, np.newaxis])[0, 0] < math.sqrt(MAX_LEVERAGE) + 0.06
    )


# --- What a guest is told over all jobs. ------------------------------------------------------------


def test_columns_are_counted_over_jobs_before_anything_is_told(tmp_path):
    """So of a guest that keeps to no bound, too: it has a row of a host's a column, over all jobs."""
    policy, rows = PolicySection(told_columns=7), 60
    given = ColumnsGiven(Store(tmp_path))
    tables = {"guest": RNG.normal(size=(4, rows)), "a": RNG.normal(size=(2, rows))}

    def job(columns):
        designs = {
            name: InflationDesign.of({f"{i}": x for i, x in enumerate(own)}, np.ones(rows, bool), 1)
            for name, own in (tables | {"guest": tables["guest"][:columns]}).items()
        }
        kinds = []

        def opened(to_host, _):
            to_host.observers.append(lambda way, kind, *_: kinds.append(kind))

        async def guest(peers):
            matrix = designs["guest"][1].take(np.ones(rows, bool))
            return await guest_inflation(peers, np.ones(rows, bool), matrix, Resources())

        async def host(name, peer):
            def count(who, many):
                given.count(policy, who, many)

            own = Participant(name, ["a"], b"screen", count_columns=count)
            return await host_inflation(peer, rows, lambda training: designs["a"][1], own)

        with quick_key():
            return over_memory(["a"], guest, host, opened=opened), kinds

    first, _ = job(4)
    assert all(found is not None for found in first) and given.of("guest") == 4
    with pytest.raises(
        (Refused, PeerStopped), match="4 columns of the guest's, after 4 of earlier jobs,"
    ):
        job(4)
    assert given.of("guest") == 4
    job(3)
    assert given.of("guest") == 7
    with pytest.raises(Refused, match="rule told_columns = 7"):
        given.check_room(policy, "guest")
    given.check_room(policy, "another")
