"""Parties of a linear model that want more than they are told, and how much of it they get."""

import asyncio
import contextlib
import dataclasses
from typing import Any
from unittest import mock

import gmpy2
import numpy as np
import pytest
from test_glm import Features, Job, make_job

from vfl.crypto.lattice.matrix import CellMatrix, CodedColumn, Outputs
from vfl.errors import VflError
from vfl.leakage.readable_labels import labels_readable
from vfl.learn import design
from vfl.protocols.linear import fitting, lattice_products, products
from vfl.protocols.linear.encrypted_product import EncryptedProduct, Layout
from vfl.protocols.linear.fitting import FitLoop
from vfl.protocols.linear.fitting_messages import InnerProducts
from vfl.protocols.linear.lattice_products import BitMatrix, cut_words
from vfl.protocols.linear.masked_numbers import sums_of
from vfl.protocols.linear.plain import plain_fit

# --- A guest that wants one host's column. ----------------------------------------------------------


def told_of_single_rows(tables: dict[str, Features], most: int) -> tuple[Job, list[list[list[int]]]]:
    """What hosts tell a guest whose residual is 1 in one row and 0 in all others, row after row: the
    square of the gradient's length is then the square of the row. By row and host, in integers."""
    job = make_job("poisson", tables, rows=60, held_out=0.0, max_iterations=most, tolerance=1e-12)
    told: list[list[list[int]]] = []
    rounded, receive = FitLoop._rounded, fitting.receive_numbers

    def one_row(self: FitLoop, residuals: np.ndarray) -> Any:
        told.append([])
        return rounded(self, (np.arange(len(residuals)) == len(told) - 1).astype(float))

    async def listen(host: Any, kind: Any, count: int) -> list[int]:
        numbers = await receive(host, kind, count)
        if kind is InnerProducts:
            told[-1].append(numbers)
        return numbers

    with (
        mock.patch.object(FitLoop, "_rounded", one_row),
        mock.patch.object(fitting, "receive_numbers", listen),
        mock.patch.object(FitLoop, "_settles", lambda self, moved: True),
        contextlib.suppress(VflError),
    ):
        job.federated()
    return job, told


def likeness(job: Job, host: str, squares: np.ndarray) -> float:
    """The correlation of what was told with a one-column host's squares."""
    column = job.matrices[host].numbers[0, : len(squares)]
    return float(np.corrcoef(squares, column**2)[0, 1])


def test_a_guest_does_not_learn_one_hosts_column_from_inner_products() -> None:
    rng = np.random.default_rng(2)
    tables = {
        "guest": {"a": rng.normal(size=60)},
        "host1": {"x": rng.gamma(2, 5, 60)},
        "host2": {"u": rng.normal(size=60), "w": rng.normal(size=60)},
    }
    job, told = told_of_single_rows(tables, 30)
    assert len(told) >= 20
    # One host's number, signed: of 20 rows and more a correlation beyond 0.9 is not one of chance.
    own = np.array([float(rows[0][-1] - (rows[0][-1] >> 255 << 256)) for rows in told])
    assert abs(likeness(job, "host1", own)) < 0.9
    # The numbers are what both hosts' rows come to, and no unit of the last digit more.
    theirs = sum(np.square(job.matrices[host].numbers).sum(axis=0) for host in ("host1", "host2"))
    sums = [sums_of(rows, 1.0, "numbers")[-1] for rows in told]
    assert likeness(job, "host1", np.array(sums)) < 0.999
    assert np.corrcoef(sums, theirs[: len(sums)])[0, 1] > 1 - 1e-9


def test_a_guest_learns_the_column_of_a_single_host() -> None:
    """The control of the test above: who is alone has nobody to hide among."""
    rng = np.random.default_rng(2)
    tables = {"guest": {"a": rng.normal(size=60)}, "host1": {"x": rng.gamma(2, 5, 60)}}
    job, told = told_of_single_rows(tables, 30)
    sums = np.array([sums_of(rows, 1.0, "numbers")[-1] for rows in told])
    assert len(sums) >= 20 and likeness(job, "host1", sums) > 1 - 1e-9


# --- A host that wants labels. ----------------------------------------------------------------------


def with_one_column(rows: int, **params: Any) -> Job:
    """The worst case: the guest has no column, so that residuals have two values at first."""
    rng = np.random.default_rng(4)
    tables = {"guest": {}, "host1": {"x": rng.normal(size=rows)}}
    job = make_job("logistic", tables, rows=rows, held_out=0.0, max_iterations=1, **params)
    return dataclasses.replace(
        job, rows=dataclasses.replace(job.rows, weight=np.ones(rows), offset=None)
    )


def test_a_host_reads_no_more_labels_under_paillier_than_it_is_given_bits() -> None:
    """It sends, in place of its product, r_0 + 2 r_1 + 4 r_2 and so on of all rows, and knows the two
    values that residuals have."""
    job = with_one_column(400)
    read: dict[str, Any] = {}
    mask, whole, rounded = EncryptedProduct.mask, Layout.whole, FitLoop._rounded

    async def packed(self: EncryptedProduct, layout: Layout, places: Any = None) -> Any:
        ciphertexts, masks = await mask(self, layout)
        if "bits" not in read:
            read["bits"] = sum(layout.lengths)
            key = self._workers.key
            total = gmpy2.mpz(1)
            for row in reversed(key.integers(self.sums._store.array[: job.count])):
                total = total * total * row % key.n_squared
            ciphertexts = key.add(key.array([total]), key.unsafe_encrypt(masks))
        return ciphertexts, masks

    def opened(self: Layout, data: bytes, masks: list[int]) -> list[int]:
        if "labels" not in read:
            (length,), (one, zero) = self.lengths, read["values"]
            sums = (int.from_bytes(data, "big") - masks[0]) % (1 << length)
            # sums = zero (2^n - 1) + (one - zero) labels, modulo 2^length
            shift = ((one - zero) & (zero - one)).bit_length() - 1
            left = (sums - zero * ((1 << job.count) - 1)) % (1 << length) >> shift
            known = length - shift
            labels = left * pow((one - zero) >> shift, -1, 1 << known) % (1 << known)
            read["labels"] = [labels >> k & 1 for k in range(known)]
            raise ValueError("numbers that it has read")
        return whole(self, data, masks)

    def seen(self: FitLoop, residuals: np.ndarray) -> Any:
        made = rounded(self, residuals)
        # The label 1 has the lesser residual.
        read.setdefault("values", (int(made.integers.min()), int(made.integers.max())))
        assert len(set(made.integers.tolist())) == 2
        return made

    with (
        mock.patch.object(EncryptedProduct, "mask", packed),
        mock.patch.object(Layout, "whole", opened),
        mock.patch.object(FitLoop, "_rounded", seen),
        contextlib.suppress(VflError),
    ):
        job.federated()
    labels = job.rows.label[: len(read["labels"])].tolist()
    # It reads what fits into the bits, which is the point of the figure; of 400 rows it was all of them.
    assert read["labels"] == labels
    assert 30 < len(labels) <= read["bits"] < 60


@pytest.mark.parametrize("encryption", ["paillier", "lattice"])
def test_what_can_be_read_is_within_what_is_said_before(encryption: str) -> None:
    """Before a fit only the most that residuals can be is known: some twice what it comes to, of numbers
    alone; of levels the lattice engine gives far less than of numbers."""
    rows = 40_000
    numbers = {f"x{k}": np.random.default_rng(k).normal(size=rows) for k in range(3)}
    job = make_job("poisson", {"guest": {}, "host1": numbers}, rows, 1, 0.0, encryption=encryption)
    matrices = job.matrices
    fit, _ = asyncio.run(
        plain_fit({"guest": matrices["guest"]}, {"host1": matrices["host1"]}, job.rows, job.params)
    )
    engine = lattice_products if encryption == "lattice" else products
    said = engine.most_labels(3, rows) * (fit.iterations + 1)
    assert fit.readable < said < 5 * fit.readable
    limited = job.params.model_copy(update={"max_labels": 0.01})
    assert labels_readable(rows, 3, fit.iterations, job.params) == min(rows, said)
    assert labels_readable(rows, 3, fit.iterations, limited) == 400


def test_the_bits_that_a_host_is_given_are_counted() -> None:
    """All that goes back, in all iterations, is what the fit says that could have been read."""
    job = make_job("poisson", 3, rows=300, tolerance=1e-4)
    sizes: dict[str, int] = {}

    def watch(host: str, way: str, kind: str, payload: bytes) -> None:
        if kind == "OpenedProducts":
            sizes[host] = sizes.get(host, 0) + 8 * len(payload)

    fit, _ = job.federated(watch=watch)
    # A message's envelope, its scale and the bits that fill up the last byte.
    assert fit.readable < max(sizes.values()) < fit.readable + 600 * (fit.iterations + 1)


def test_a_host_reads_no_more_labels_over_the_lattice_engine_than_it_has_sums() -> None:
    """It has a matrix made of single rows in place of its number's bits."""
    job = with_one_column(200).with_params(encryption="lattice")
    whole, read = BitMatrix.of, dict[str, Any]()

    def single(own: design.Matrix) -> BitMatrix:
        bits = whole(own)
        outputs = len(bits.matrix.outputs)
        column = CodedColumn(np.arange(own.rows).astype(np.uint16), own.rows)
        one_each = np.arange(outputs + 1)
        made = Outputs(one_each, one_each[:-1], np.ones(outputs, np.int64))
        return dataclasses.replace(bits, matrix=CellMatrix([column], made))

    def sums_told(self: BitMatrix, sums: list[int], scale: float, bits: int) -> Any:
        read.setdefault("sums", sums)
        raise ValueError("numbers that it has read")

    with (
        mock.patch.object(BitMatrix, "of", single),
        mock.patch.object(BitMatrix, "product", sums_told),
        contextlib.suppress(VflError),
    ):
        job.federated()
    # One label a sum, some thirty of a number, and none of another row.
    assert 25 <= len(read["sums"]) < 40
    assert [value < 0 for value in read["sums"]] == job.rows.label[: len(read["sums"])].astype(
        bool
    ).tolist()


@pytest.mark.parametrize("scale_bits", [20, 33])
def test_cut_words_say_nothing_of_the_noise(scale_bits: int) -> None:
    """A host that takes its masks off looks at the last bits, which the noise could have carried into:
    it knows the noise no better. Of whole words it would know all of it."""
    rng, count = np.random.default_rng(5), 1 << 16
    sums = rng.integers(-1000, 1001, count)
    flood = rng.integers(-(1 << scale_bits - 5), 1 << scale_bits - 5, count)
    noise = rng.integers(-(1 << scale_bits - 17), 1 << scale_bits - 17, count)
    masks = rng.integers(0, 1 << 64, count, np.uint64)
    words = ((4 * sums << scale_bits) + flood + noise).view(np.uint64) + masks
    cut = cut_words(words, scale_bits, 20, lambda size: rng.bytes(size))
    left = (cut - (masks >> np.uint64(scale_bits))).astype(np.int64) - 4 * sums & (1 << 22) - 1
    last = np.where(left >> 21, left - (1 << 22), left)
    assert set(last.tolist()) <= {-1, 0, 1, 2}
    # Of so many words a correlation of 0.025 comes by chance with less than 1e-9.
    assert abs(np.corrcoef(last, noise)[0, 1]) < 0.025
    assert lattice_products.uncovered(cut, masks, scale_bits, 20).tolist() == sums.tolist()
    bare = (words - masks).view(np.int64) - (4 * sums << scale_bits)
    assert np.array_equal(bare, flood + noise)
