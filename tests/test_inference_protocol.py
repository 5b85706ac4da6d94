"""Inference between parties: as with all columns in one place, and what each of them sees."""

import asyncio
import math
from types import SimpleNamespace

import arguments
import gmpy2
import numpy as np
import pytest
from memory import over_memory
from test_glm import KEY, Job, make_job

from vfl.crypto.randomness import Stream
from vfl.crypto.workers import ONE_PROCESS, Workers
from vfl.errors import PeerError
from vfl.learn.glm import Block
from vfl.learn.matrix import Matrix
from vfl.learn.params import GlmParams
from vfl.net.peer import MemoryPeer
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.participant import Participant, Resources
from vfl.protocols.linear import (
    inference,
    inference_host,
    inference_messages,
    rotation,
    shared_products,
)
from vfl.protocols.linear.fitting import guest_fit
from vfl.protocols.linear.host_fitting import host_fit
from vfl.protocols.linear.lattice_products import BitMatrix
from vfl.protocols.linear.level_pairs import OwnProductsFollow
from vfl.protocols.linear.plain import plain_fit
from vfl.protocols.linear.relayed import Relayed

# --- The whole protocol. --------------------------------------------------------------------------


def tables(rng: np.random.Generator, rows: int = 240):
    area = rng.choice(np.array(["a", "b", "c"], object), rows)
    return {
        "guest": {"power": rng.normal(size=rows)},
        "host1": {"age": rng.normal(size=rows), "area": area},
        "host2": {"weight": rng.gamma(2, 3, rows)},
        "host3": {
            "mileage": rng.normal(size=rows),
            "fuel": rng.choice(np.array(["p", "d"], object), rows),
        },
    }


def inferred(job: Job, seen=None, told=None):
    """By party what it comes to know, through messages and with all columns in one place. told: how much
    each is told to be done."""
    kept, done = {}, {name: [] for name in job.tables}

    def follow(name):
        return lambda *progress: done[name].append(progress)

    def guest(peers):
        course = GuestCourse(inference_progress=follow("guest"))
        return guest_fit(
            *(peers, {"guest": job.matrices["guest"]}, job.rows, job.params), key=KEY, course=course
        )

    def host(name, peer):
        options = {"context": b"job 7", "keep": lambda fit: kept.__setitem__(name, fit.inference)}
        options["inference_progress"] = follow(name)
        return host_fit(
            peer,
            job.count,
            lambda train: job.matrix(name, train),
            job.params,
            arguments.participant(name, list(job.tables)[1:], options),
            arguments.host_course(options),
        )

    def opened(to_host, _):
        if seen is not None:
            to_host.observers.append(lambda *message: seen.append((to_host.name, *message)))

    fit, *_ = over_memory([*job.tables][1:], guest, host, opened=opened)
    if told is not None:
        told.update(done)
    matrices = dict(job.matrices)
    own = {"guest": matrices.pop("guest")}
    plain, _ = asyncio.run(plain_fit(own, matrices, job.rows, job.params))
    assert fit.summary.deviance == pytest.approx(plain.summary.deviance)
    return {"guest": fit.inferences["guest"], **kept}, plain.inferences


@pytest.mark.parametrize(
    ("family", "alpha", "hosts"),
    [("gamma", 0.0, 2), ("logistic", 0.01, 1), pytest.param("poisson", 0.01, 3, marks=pytest.mark.slow)],
)
def test_each_party_knows_what_it_would_with_all_columns_in_one_place(family, alpha, hosts):
    chosen = dict([*tables(np.random.default_rng(5)).items()][: 1 + hosts])
    job = make_job(family, chosen, rows=240, tolerance=1e-9, alpha=alpha)
    job = job.with_params(inference=True, encryption="lattice")
    seen, told = [], {}
    found, expected = inferred(job, seen, told)
    for name, own in expected.items():
        np.testing.assert_allclose(found[name].errors, own.errors, rtol=1e-6)
        scale = np.outer(own.errors, own.errors)
        np.testing.assert_allclose(found[name].matrix / scale, own.matrix / scale, atol=1e-6)
        assert (found[name].freedom, found[name].constants) == (own.freedom, own.constants)
    # Each sees how much is done: from nothing to all, never back.
    for name, steps in told.items():
        assert (steps[0], steps[-1]) == ((0, 100), (100, 100))
        assert sorted(steps) == steps and len(steps) >= (3 * hosts if name == "guest" else 5)
    # What hosts say to each other is noise to the guest that passes it on.
    relayed = b"".join(
        data for _, way, kind, data in seen if kind == Relayed.__name__ and way == "received"
    )
    assert bool(relayed) == (hosts > 1)
    if relayed:
        counts = np.bincount(np.frombuffer(relayed, np.uint8), minlength=256)
        assert np.abs(counts / counts.mean() - 1).max() < 0.2


def test_a_column_of_two_hosts_is_named_to_both_and_to_nobody_else():
    made = tables(np.random.default_rng(6))
    made.pop("host3")
    made["host2"]["years"] = made["host1"]["age"].copy()
    job = make_job("poisson", made, rows=240, tolerance=1e-8)
    found, expected = inferred(job.with_params(inference=True, encryption="lattice"))
    assert all(own.errors is None for own in [*found.values(), *expected.values()])
    assert found["guest"].aliases == ()
    # area b, area c, age; weight, years.
    for name, place, other in (("host1", 2, "host2"), ("host2", 1, "host1")):
        (alias,) = found[name].aliases
        assert alias.places == (place,) and alias.parties == (other,)


# --- What a guest can make of the information in a basis that it does not know. ---------------------


def information(counts: list[int], rng: np.random.Generator) -> np.ndarray:
    """Of a host's levels with so many rows, whose weights are near one, in whole numbers."""
    sums = [int(sum(rng.uniform(0.9, 1.1, count)) * 2**25) for count in counts]
    whole = np.zeros((len(sums), len(sums)), object)
    np.fill_diagonal(whole, sums)
    return whole


def noise_of(size: int, bits: int) -> np.ndarray:
    return rotation.symmetric(
        [inference_messages.noise(bits, Stream()) for _ in range(size * (size + 1) // 2)], size
    )


def in_secret_basis(whole: np.ndarray, noise: bool = True) -> np.ndarray:
    finer, size = whole * (1 << inference_messages.FINER_BITS), len(whole)
    basis = rotation.secret_basis(size, Stream())
    if not noise:
        return basis.T @ finer @ basis
    finer = finer + noise_of(size, inference_messages.FINER_BITS - 1)
    return basis.T @ finer @ basis + noise_of(size, inference_messages.drowning_bits(size, 2))


def determinant(matrix: np.ndarray) -> int:
    """Exactly, by Bareiss's elimination."""
    left, before = matrix.copy(), 1
    for k in range(len(left) - 1):
        for i in range(k + 1, len(left)):
            for j in range(k + 1, len(left)):
                left[i, j] = (left[i, j] * left[k, k] - left[i, k] * left[k, j]) // before
        before = left[k, k]
    return int(left[-1, -1])


def test_how_many_rows_a_level_has_is_as_good_as_guessed():
    """One of two tables, in which a level has 30 rows or 60: by the size of what the guest sees, with
    the threshold that tells most of a first half apart."""
    rng, trials = np.random.default_rng(7), 400
    truth = rng.random(trials) < 0.5
    seen = [in_secret_basis(information([60 if large else 30, 100, 200, 400], rng)) for large in truth]
    attacks = {
        "determinant": [math.log(determinant(one)) for one in seen],
        "trace": [math.log(int(np.trace(one))) for one in seen],
        "smallest": [math.log(min(int(one[k, k]) for k in range(4))) for one in seen],
    }
    half = trials // 2
    for name, values in attacks.items():
        values = np.array(values)
        rates = [(((values[:half] > at) == truth[:half]).mean(), at) for at in values[:half]]
        _, best = max(rates)
        success = ((values[half:] > best) == truth[half:]).mean()
        assert success < 0.62, (name, success)
    # In the host's own columns each tells them apart.
    plain = [determinant(information([60 if large else 30, 100, 200, 400], rng)) for large in truth]
    cut = determinant(information([42, 100, 200, 400], rng))
    assert np.mean([(one > cut) == large for one, large in zip(plain, truth, strict=True)]) == 1.0


def test_nothing_exact_is_left_to_try_a_table_by():
    """Of whole numbers, the determinant in another basis is the table's own times a square: who guesses
    the table could tell whether it is right."""
    rng = np.random.default_rng(8)
    whole = information([30, 100, 200], rng)
    size = len(whole) * inference_messages.FINER_BITS

    def fits(seen: np.ndarray) -> bool:
        quotient, rest = divmod(determinant(seen), determinant(whole) << size)
        return rest == 0 and math.isqrt(quotient) ** 2 == quotient

    assert fits(in_secret_basis(whole, noise=False))
    assert not any(fits(in_secret_basis(whole)) for _ in range(50))


def basis_of_rows(rows: list[list[int]]) -> list[list[int]]:
    """A basis of all sums of whole multiples of rows of whole numbers, by Euclid's algorithm."""
    rows, found = [[*row] for row in rows], []
    for column in range(len(rows[0])):
        while len(having := sorted((r for r in rows if r[column]), key=lambda r: abs(r[column]))) > 1:
            least = having[0]
            for row in having[1:]:
                times = row[column] // least[column]
                row[:] = [a - times * b for a, b in zip(row, least, strict=True)]
        (least,) = having
        rows = [row for row in rows if row is not least]
        found.append(least)
    return found


@pytest.mark.parametrize("hosts", [1, 2])
def test_what_the_guest_sees_is_in_no_lattice_of_the_hosts_basis(hosts, monkeypatch):
    """In a basis of whole numbers, whole numbers are multiples of its rows: a guest that finds these has
    the hosts' sums by level to the last digit, by reducing them."""
    seen, inverse = [], inference.inverse

    def spy(whole, bits):
        seen.append(whole)
        return inverse(whole, bits)

    monkeypatch.setattr(inference, "inverse", spy)
    rng = np.random.default_rng(11)
    chosen = dict([*tables(rng).items()][: 1 + hosts])
    chosen["guest"] = {f"x{i}": rng.normal(size=240) for i in range(5)}
    job = make_job("gamma", chosen, rows=240, tolerance=1e-8)
    inferred(job.with_params(inference=True, encryption="lattice"))
    (whole,) = seen
    free, sizes = 6, len(whole) - 6
    rows = [[int(entry) for entry in row] for row in whole[:, free:]]
    volume = math.prod(abs(row[i]) for i, row in enumerate(basis_of_rows(rows)))
    # Rows at random have all whole numbers as their lattice, or nearly; those of a basis one of a
    # volume of some forty bits a column.
    assert volume < 1 << 8
    # What a host adds is drawn from far more than one step of its basis, on either side of a matrix.
    step = rotation.BASIS_BITS + sizes.bit_length()
    assert inference_messages.drowning_bits(sizes, 1) >= step + 10
    assert inference_messages.drowning_bits(sizes, 2) >= 2 * step + 10


def opened(table: np.ndarray) -> np.ndarray:
    """What the guest's key shows of encrypted numbers."""
    numbers = KEY.decrypt(KEY.public.array([*table.ravel()]))
    return np.array([*numbers, None], object)[:-1].reshape(table.shape)


def real(table: np.ndarray) -> np.ndarray:
    return np.array([[gmpy2.mpfr(int(x), 400) for x in row] for row in table], object)


def projected(across: np.ndarray, inverted: np.ndarray) -> np.ndarray:
    """How much of the information of some columns others leave out: B A^-1 B'."""
    with gmpy2.context(gmpy2.get_context(), precision=600):
        return (real(across) @ inverted @ real(across).T).astype(np.float64)


def test_a_guest_and_the_first_host_do_not_open_the_sums_of_another_host(monkeypatch):
    """The first host gathers all blocks under the guest's key. As they were, both opened the sums by
    level of any other host; in a basis of its own they are left with what a guest that had the first
    host's columns is to learn."""
    kept, gather = {}, inference_host._Host.gather

    async def spy(host):
        kept[host._place] = dict(host._blocks)
        await gather(host)
        if host._place == 0:
            kept["first"] = np.vstack([host._across, host._own])

    monkeypatch.setattr(inference_host._Host, "gather", spy)
    rng = np.random.default_rng(12)
    area = rng.choice(np.array(["a", "b", "c", "d"], object), 240, p=[0.4, 0.3, 0.2, 0.1])
    chosen = {
        "guest": {f"x{i}": rng.normal(size=240) for i in range(3)},
        "host1": {"age": rng.normal(size=240), "power": rng.normal(size=240)},
        "host2": {"area": area},
    }
    job = make_job("gamma", chosen, rows=240, tolerance=1e-8)
    inferred(job.with_params(inference=True, encryption="lattice"))
    sums = opened(kept[1][2, 2])  # by level, each with each: in truth
    size, unit = len(sums), 1 << inference_messages.FINER_BITS
    assert size == 3 and not any(sums[i, j] for i in range(size) for j in range(i))
    seen = opened(kept["first"][:, -size:])  # with the guest, the first host, its own
    # 1. Rounded, the block was these sums.
    with_noise = sums * unit + noise_of(size, inference_messages.FINER_BITS - 1)
    assert ((2 * with_noise + unit) // (2 * unit) == sums).all()
    rounded = (2 * seen[-size:] + unit) // (2 * unit)
    assert not {abs(int(x)) for x in rounded.ravel()} & {int(sums[i, i]) for i in range(size)}
    # 2. Nor are the rows in a lattice, by whose reduction the basis is found.
    rows = [[int(entry) for entry in row] for row in seen]
    assert math.prod(abs(row[i]) for i, row in enumerate(basis_of_rows(rows))) < 1 << 8
    # 3. What there is to learn is what these columns leave of those of both, as in any basis.
    true = np.vstack([opened(kept[1][0, 2]), opened(kept[1][1, 2])]) * unit
    expected = projected(true, rotation.inverse(sums * unit, 600))
    found = projected(seen[:-size], rotation.inverse(seen[-size:], 600))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


# --- Pieces. ----------------------------------------------------------------------------------------


def test_a_basis_is_changed_under_encryption_and_back():
    rng = np.random.default_rng(9)
    whole = rotation.symmetric([int(x) for x in rng.integers(-(10**9), 10**9, 6)], 3)
    basis = rotation.secret_basis(3, Stream())
    encrypted = np.empty((3, 3), object)
    for place, number in np.ndenumerate(whole):
        encrypted[place] = KEY.public.integers(KEY.encrypt([int(number)]))[0]

    async def changed():
        async with Workers(KEY.public, ONE_PROCESS) as workers:
            return await rotation.congruent(workers, encrypted, basis)

    found = asyncio.run(changed())
    opened = np.array(KEY.decrypt(KEY.public.array([*found.ravel()])), object).reshape(3, 3)
    assert (opened == basis.T @ whole @ basis).all()
    inverse = rotation.inverse(opened, 600)
    with gmpy2.context(gmpy2.get_context(), precision=600):
        fine = np.array([int(entry * 2**400) for entry in inverse.ravel()], object).reshape(3, 3)
    product = (whole @ (basis @ fine @ basis.T) / 2**400).astype(np.float64)
    np.testing.assert_allclose(product, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("rows", [2, 3, 7, 15, 31, 63, 127, 255, 10**5])
def test_weights_are_no_longer_than_a_column_of_so_many_rows_may_be(rows):
    information = np.full(rows, 1 - 2.0**-52)  # rounds up to a further bit
    given = inference.Curved(information, rows)
    weights = inference._Scale.of(given).weights(given)
    column = weights.astype(np.int32)[np.newaxis]
    cut = BitMatrix.of(Matrix(np.zeros((0, rows), np.uint16), (), column))
    assert cut.bits[0] >= 25


def test_a_weight_is_split_in_two_parts_that_add_up_to_it():
    weights = np.array([0, 1, (1 << 25) - 1, 12345])
    sent = []

    class Sink(MemoryPeer):
        async def send(self, message):
            sent.append(message)

    async def run():
        one, other = (Sink(name, asyncio.Queue()) for name in ("host1", "host2"))
        guest = inference._Guest([one, other], None, weights, None, Resources())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inference, "relay", lambda *_: asyncio.sleep(0))
            await guest.split_weights(one, other)

    asyncio.run(run())
    seed, rest = (message.data for message in sent)
    limbs = inference_messages.uniform_parts(seed, 4)
    left = np.frombuffer(rest, "<i4").reshape(3, 4)
    for row, weight in enumerate(weights.tolist()):
        both = [int(a[row]) + int(b[row]) for a, b in zip(limbs, left, strict=True)]
        assert sum(part << (25 * place) for place, part in enumerate(both)) == weight


@pytest.mark.parametrize(
    ("sizes", "what"), [([12, 0], "without any row"), ([24, 24], "of another number of rows")]
)
def test_parts_of_weights_of_other_rows_are_refused(sizes, what):
    """Also those that would never come to an end."""

    async def run():
        own, guest = MemoryPeer.pair("host2", "guest")
        for size in sizes:
            await own.send(inference_messages.WeightPart(bytes(size)))
        host = object.__new__(inference_host._Host)
        host._guest, host._matrix = guest, SimpleNamespace(rows=3)
        await host._share_second(0)

    with pytest.raises(PeerError, match=f"a WeightPart {what}"):
        asyncio.run(run())


START = inference_messages.InferenceStart(["host1"], [2, 1], 10.0, 0.0, 200)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"columns": [2, 2]}, "other columns than this host's"),
        ({"columns": [2]}, "other columns than this host's"),
        ({"hosts": ["host1", "stranger"], "columns": [2, 1, 1]}, "other hosts than the job's"),
        ({"columns": [1000, 1]}, "more columns than there may be"),
        ({"unit": 0.0}, "without a unit"),
        ({"penalty": math.inf}, "a penalty that is none"),
        ({"penalty": 2.0**150}, "a penalty that the job does not have"),
        ({"fraction": 5000}, "covariances that cannot be told"),
    ],
)
def test_a_start_that_cannot_be_is_refused(changes, what):
    matrix = Matrix(np.array([np.arange(50) % 2], np.uint16), (1,), np.zeros((0, 50)))
    values = {name: getattr(START, name) for name in START.__struct_fields__} | changes

    async def run():
        guest, host = MemoryPeer.pair("guest", "host1")
        await guest.send(inference_messages.InferenceStart(**values))
        begun = SimpleNamespace(block=Block(matrix, 0.0, True), fellows={})
        own = Participant("host1", ["host1"])
        await inference_host.host_inference(host, begun, GlmParams(inference=True), own, True)

    with pytest.raises(PeerError, match=what):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("lie", "what"),
    [
        (OwnProductsFollow(2, False), "OwnProductsFollow of more pairs than its columns have"),
        (OwnProductsFollow(1, False), "ColumnsFollow of other columns than it said"),
        (OwnProductsFollow(0, True), "VectorsFollow of other columns than it said"),
    ],
)
def test_a_host_has_no_more_products_than_pairs_of_its_columns(monkeypatch, lie, what):
    """Three columns make six pairs: no matrix of seven, and no seven vectors."""
    sent = {
        "OwnProductsFollow": lie,
        "ColumnsFollow": shared_products.ColumnsFollow(7, []),
        "VectorsFollow": shared_products.VectorsFollow([*range(7)], [0] * 7, 20),
    }
    across = SimpleNamespace(total=np.zeros((0, 0), object), low=np.zeros(0, bool), columns=(1, 3))

    async def run():
        own, host = MemoryPeer.pair("guest", "host1")
        await host.send(lie)
        await host.send(sent[what.partition(" ")[0]])
        matrix = Matrix(np.zeros((0, 9), np.uint16), (), np.zeros((0, 9), np.int32))
        guest = inference._Guest([own], matrix, np.arange(9), None, Resources())
        with monkeypatch.context() as patch:
            patch.setattr(guest, "_send_shares", lambda *_: asyncio.sleep(0))
            await guest.share_with(own, 3, across)

    with pytest.raises(PeerError, match=what):
        asyncio.run(run())


def test_hidden_scores_have_no_inference():
    with pytest.raises(ValueError, match='inference is for scores = "guest"'):
        GlmParams(inference=True, scores="hidden", coordinator="umpire")
