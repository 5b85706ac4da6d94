"""What a guest remembers of labels that hosts could have read, whatever became of the attempts."""

from pathlib import Path
from typing import Any
from unittest import mock

import gmpy2
import pytest
from federation import GLM_JOB
from memory import over_memory
from paillier_key import KEY
from test_glm_attacks import with_one_column

from vfl.errors import ConfigError, ModelError, PeerLost
from vfl.jobs.labels_given import LabelsGiven
from vfl.party.config import Job
from vfl.party.store import Store
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.label_count import LabelCount, OneAttempt
from vfl.protocols.linear.encrypted_product import EncryptedProduct, Layout
from vfl.protocols.linear.fitting import FitLoop, guest_fit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "vfl-store")


def test_labels_are_counted_by_alignment_job_and_host(store: Store) -> None:
    given = LabelsGiven(store, "aligned", "digest")
    assert not given.so_far()
    assert given.add({"a": 5, "b": 0}, 10) and given.add({"a": 5}, 10)
    # Another process, a rerun command, --fresh.
    again = LabelsGiven(Store(store.root), "aligned", "digest")
    assert again.so_far() == {"a": 10}
    assert not again.add({"a": 1, "b": 1}, 10)
    assert given.so_far() == {"a": 10}  # what was not opened does not count
    assert given.add({"b": 10}, 10)
    for alignment, job in (("other", "digest"), ("aligned", "another")):
        assert not LabelsGiven(store, alignment, job).so_far()
        assert LabelsGiven(store, alignment, job).add({"a": 10}, 10)
    assert again.so_far() == {"a": 10, "b": 10}


def test_a_raised_limit_is_no_other_job(store: Store) -> None:
    def given(**settings: Any) -> LabelsGiven:
        job = Job.model_validate({**GLM_JOB, "glm": settings})
        assert job.digest  # as has been asked for before
        return LabelsGiven.of(store, "aligned", job)

    assert given(max_labels=0.1).add({"a": 10}, 10)
    assert given(max_labels=0.2).so_far() == given().so_far() == {"a": 10}
    assert not given(alpha=0.5).so_far()


@pytest.mark.parametrize("content", ["{", '{"aligned": {"digest": {"a": "many"}}}', "\udcff"])
def test_a_damaged_count_is_no_count(store: Store, content: str) -> None:
    given = LabelsGiven(store, "aligned", "digest")
    assert given.add({"a": 1}, 10)
    (store.root / "labels.json").write_text(content, "utf-8", "surrogateescape")
    for use in (given.so_far, lambda: given.add({"a": 1}, 10)):
        with pytest.raises(ModelError, match=r"labels\.json is damaged: bring it back from a copy"):
            use()


class Reader:
    """A host that has as many rows packed into its one product as it can read of, other rows in each
    attempt, and breaks the attempt off once it has read them."""

    def __init__(self, rows: int) -> None:
        self.rows, self.first = rows, 0
        self.labels: dict[int, int] = {}
        self.values = (0, 0)
        self.of: list[int] = []

    async def packed(self, product: EncryptedProduct, mask: Any, layout: Layout) -> Any:
        _, masks = await mask(product, layout)
        (length,), key, ciphertexts = layout.lengths, product._workers.key, product.sums._store.array
        self.of = [(self.first + k) % self.rows for k in range(length - 14)]
        self.first += len(self.of)
        total = gmpy2.mpz(1)
        for row in reversed(key.integers(ciphertexts[self.of])):
            total = total * total * row % key.n_squared
        return key.add(key.array([total]), key.unsafe_encrypt(masks)), masks

    def read(self, layout: Layout, data: bytes, masks: list[int]) -> None:
        (length,), (one, zero), count = layout.lengths, self.values, len(self.of)
        shift = ((one - zero) & (zero - one)).bit_length() - 1
        sums = (int.from_bytes(data, "big") - masks[0]) % (1 << length)
        left = (sums - zero * ((1 << count) - 1)) % (1 << length) >> shift
        known = length - shift
        labels = left * pow((one - zero) >> shift, -1, 1 << known) % (1 << known)
        self.labels |= {row: labels >> k & 1 for k, row in enumerate(self.of[:known])}


def attempts(reader: Reader, job: Any, count: Any) -> ConfigError | None:
    """The guest's attempts at the job, each of which the host breaks off, until the guest ends or all
    labels are read."""
    mask, rounded = EncryptedProduct.mask, FitLoop._rounded

    async def packed(self: EncryptedProduct, layout: Layout, places: Any = None) -> Any:
        return await reader.packed(self, mask, layout)

    def opened(self: Layout, data: bytes, masks: list[int]) -> list[int]:
        reader.read(self, data, masks)
        raise PeerLost("the line broke")

    def seen(self: FitLoop, residuals: Any) -> Any:
        made = rounded(self, residuals)
        reader.values = int(made.integers.min()), int(made.integers.max())
        return made

    own = {"guest": job.matrices["guest"]}
    with (
        mock.patch.object(EncryptedProduct, "mask", packed),
        mock.patch.object(Layout, "whole", opened),
        mock.patch.object(FitLoop, "_rounded", seen),
    ):
        while len(reader.labels) < job.count:
            course: GuestCourse[Any, Any] = GuestCourse(labels=count())
            try:
                over_memory(
                    ["host1"],
                    lambda peers, course=course: guest_fit(
                        peers, own, job.rows, job.params, key=KEY, course=course
                    ),
                    lambda name, peer: job.host(peer, name),
                )
            except PeerLost:
                continue
            except ConfigError as error:
                return error
    return None


def test_a_host_that_breaks_attempts_off_reads_no_more_labels_than_max_labels(
    store: Store, quick_key: None
) -> None:
    job = with_one_column(200, max_labels=0.7)

    def right(reader: Reader) -> int:
        return sum(job.rows.label[row] == label for row, label in reader.labels.items())

    # Where each attempt counts for itself the host has all labels in the end.
    reader = Reader(200)
    assert attempts(reader, job, OneAttempt) is None
    assert right(reader) == 200
    reader = Reader(200)

    def kept() -> LabelCount:
        return LabelsGiven(store, "aligned", job.rows.loss.link)

    error = attempts(reader, job, kept)
    assert str(error).startswith("host1 could have read ")
    assert "in earlier attempts at this job on the alignment" in str(error)
    assert "more than max_labels = 0.7 of [glm] admits" in str(error)
    assert 60 < right(reader) == len(reader.labels) <= kept().so_far()["host1"] <= 0.7 * 200
    # Of the others it knows nothing: a guess is right as often as the more frequent label is.
    assert len(set(range(200)) - set(reader.labels)) >= 0.3 * 200
