"""A guest or coordinator of a linear model that tells one party something else than the others, so that
what they hide behind masks would be one party's alone."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
from memory import over_memory
from msgspec.structs import replace
from paillier_key import KEY
from test_glm import Job, make_job
from test_hidden_glm import hidden_job
from test_hidden_glm import run as run_hidden

from vfl.errors import ConfigError, VflError
from vfl.net.peer import MemoryPeer
from vfl.net.wire import Message
from vfl.protocols.common.checkpoints import Checkpoints
from vfl.protocols.common.course import GuestCourse
from vfl.protocols.common.lattice_sums import Vectors
from vfl.protocols.linear import fitting, hidden
from vfl.protocols.linear.encrypted_product import Layout
from vfl.protocols.linear.fitting import FitLoop, guest_fit
from vfl.protocols.linear.fitting_messages import Combine, FitEnd, Step
from vfl.protocols.linear.hidden import NextDirection
from vfl.protocols.linear.hidden_residuals import HiddenResiduals
from vfl.protocols.linear.masked_numbers import WIDTH
from vfl.protocols.linear.masked_scores import HeldOutScores
from vfl.protocols.linear.products import OpenedProducts, Residuals
from vfl.protocols.linear.start import FitStart

pytestmark = pytest.mark.usefixtures("quick_key", "small_batches")

Change = Callable[[Any], Message]


def of_zeros(message: Any) -> Message:
    """The same message of as many encrypted zeros."""
    width = KEY.public.width
    zeros = KEY.public.unsafe_encrypt([0] * (len(message.ciphertexts) // width))
    return replace(message, ciphertexts=zeros.tobytes())


@contextlib.contextmanager
def telling(name: str, kind: type[Message], change: Change) -> Iterator[None]:
    """This party alone is sent such messages in another form."""
    send = MemoryPeer.send

    async def other(self: MemoryPeer, message: Message) -> None:
        wanted = self.name == name and type(message) is kind
        await send(self, change(message) if wanted else message)

    with mock.patch.object(MemoryPeer, "send", other):
        yield


# --- Scores in the guest's hands. -------------------------------------------------------------------


def job_of(**params: Any) -> Job:
    rng, rows = np.random.default_rng(2), 300
    tables = {
        "guest": {"a": rng.normal(size=rows)},
        "host1": {"x": rng.gamma(2, 5, rows)},
        "host2": {"u": rng.normal(size=rows), "w": rng.normal(size=rows)},
    }
    params = {"max_iterations": 1, "tolerance": 1e-12, **params}
    return make_job("logistic", tables, rows=rows, held_out=0.3, **params)


@contextlib.contextmanager
def totals() -> Iterator[list[np.ndarray]]:
    """What the guest adds up of rows' scores: of a direction, of rows held out. It goes on whatever sums
    come to."""
    seen: list[np.ndarray] = []
    total_of, sums_of = fitting.total_of, fitting.sums_of

    def told(*arguments: Any) -> np.ndarray:
        seen.append(total_of(*arguments))
        return seen[-1] if np.abs(seen[-1]).max() < 1e6 else np.zeros_like(seen[-1])

    def forgiving(parts: Any, unit: float, what: str) -> np.ndarray:
        with contextlib.suppress(ConfigError):
            return sums_of(parts, unit, what)
        return np.ones(len(parts[0]))

    with (
        mock.patch.object(fitting, "total_of", told),
        mock.patch.object(fitting, "sums_of", forgiving),
        mock.patch.object(FitLoop, "_settles", lambda self, moved: True),
        contextlib.suppress(VflError),
    ):
        yield seen


def likeness(job: Job, total: np.ndarray) -> float:
    """How like scores of rows that train, or of those held out, are to the column of host1."""
    column = job.matrices["host1"].numbers[0]
    train = job.rows.train
    rows = column[train] if len(total) == train.sum() else column[~train]
    return abs(float(np.corrcoef(total, rows)[0, 1]))


GUESSING = 0.35  # of noise over 90 rows at least: beyond it by chance in 1 of 1,400
CHEATS: dict[str, tuple[str, type[Message], Change, int]] = {  # and which of the totals is host1's alone
    "weights": ("paillier", Combine, lambda m: Combine([0.0] * len(m.weights), m.precision), 0),
    "residuals": ("paillier", Residuals, of_zeros, 0),
    "scale": ("paillier", OpenedProducts, lambda m: OpenedProducts(m.plaintexts, 1e300), 0),
    "step": ("paillier", Step, lambda m: Step(0.0), 1),
    "end": ("paillier", FitEnd, lambda m: FitEnd(not m.converged), 1),
    "start": ("paillier", FitStart, lambda m: FitStart(m.training, 1e300, m.deviance), 0),
    "weights, lattice": ("lattice", Combine, lambda m: Combine([0.0] * len(m.weights), m.precision), 0),
    "noise, lattice": ("lattice", Vectors, lambda m: Vectors(bytes([m.data[0] ^ 1]) + m.data[1:]), 0),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_guest_that_tells_hosts_different_things_is_left_with_noise(cheat: str) -> None:
    encryption, kind, change, which = CHEATS[cheat]
    job = job_of(encryption=encryption)
    with totals() as seen, telling("host2", kind, change):
        job.federated()
    assert max(likeness(job, total) for total in seen[which:]) < GUESSING
    assert np.abs(seen[which]).max() > 1e3  # of scores that are some units apart


def test_a_guest_that_tells_all_the_same_has_what_the_hosts_columns_come_to() -> None:
    """The control of the test above."""
    job = job_of()
    with totals() as seen:
        job.federated()
    assert [len(total) for total in seen] == [job.rows.train.sum(), (~job.rows.train).sum()]
    assert 0.4 < likeness(job, seen[0]) < 0.9


def test_what_a_host_kept_of_other_residuals_does_not_go_on_with_the_rest() -> None:
    """The guest breaks off once hosts have kept gradients that it told only one of them the truth for,
    and goes on as if nothing had been."""
    job = job_of()
    guest, *hosts = job.tables
    kept: dict[str, list[Any]] = {name: [] for name in job.tables}

    def attempt(last: dict[str, Any]) -> list[np.ndarray]:
        def checkpoints(name: str) -> Checkpoints[Any]:
            return Checkpoints(last.get(name), kept[name].append)

        def as_guest(peers: Any) -> Any:
            course = GuestCourse(checkpoints=checkpoints(guest))
            own = {guest: job.matrices[guest]}
            return guest_fit(peers, own, job.rows, job.params, key=KEY, course=course)

        with totals() as seen:
            over_memory(
                hosts, as_guest, lambda host, peer: job.host(peer, host, checkpoints=checkpoints(host))
            )
        return seen

    with telling("host2", Residuals, of_zeros):
        attempt({})
    cheated = attempt({name: states[0] for name, states in kept.items()})
    assert likeness(job, cheated[0]) < GUESSING
    # What was kept of the same residuals goes on.
    kept = {name: [] for name in job.tables}
    undisturbed = attempt({})
    again = attempt({name: states[0] for name, states in kept.items()})
    assert [total.tobytes() for total in again] == [total.tobytes() for total in undisturbed]


def test_a_guest_that_opens_other_products_for_one_host_has_its_column() -> None:
    """What is left: opened products are each host's own. All hosts get encrypted zeros, and one of them
    another gradient opened, so that the direction is made of its columns alone."""
    job, cut = job_of(), Layout.cut

    def shifted(self: Layout, plaintexts: Any) -> bytes:
        data = cut(self, plaintexts)
        if self.columns != 1:
            return data
        (length,) = self.lengths
        opened = (int.from_bytes(data, "big") + (1 << length - 4)) % (1 << length)
        return opened.to_bytes(len(data), "big")

    with (
        totals() as seen,
        mock.patch.object(Layout, "cut", shifted),
        telling("host1", Residuals, of_zeros),
        telling("host2", Residuals, of_zeros),
    ):
        job.federated()
    assert likeness(job, seen[0]) > 0.999


# --- Slopes in the coordinator's hands. -------------------------------------------------------------


@contextlib.contextmanager
def sums_seen() -> Iterator[dict[str, list[int]]]:
    """What the coordinator adds up, as integers with a sign, by what it is."""
    seen: dict[str, list[int]] = {}
    sums_of = hidden.sums_of

    def told(parts: Any, unit: float, what: str) -> np.ndarray:
        modulus = 1 << 8 * WIDTH
        for own in zip(*parts, strict=True):
            total = sum(own) % modulus
            seen.setdefault(what, []).append(total - (modulus if 2 * total >= modulus else 0))
        return sums_of(parts, unit, what)

    with mock.patch.object(hidden, "sums_of", told):
        yield seen


def test_a_coordinator_that_leads_parties_apart_is_left_with_noise() -> None:
    """It gives all but one no direction, so that the next slope would be one party's."""
    job = hidden_job("logistic", 3, rows=60, tolerance=1e-2, weights=False)

    def nowhere(message: Any) -> Message:
        return replace(message, weights=[0.0] * len(message.weights))

    with sums_seen() as honest:
        run_hidden(job)
    assert max(abs(slope) for slope in honest["slopes"]) < 1 << 180
    with (
        sums_seen() as seen,
        telling("guest", NextDirection, nowhere),
        telling("host2", NextDirection, nowhere),
        pytest.raises(ConfigError, match="diverges, with slopes"),
    ):
        run_hidden(job)
    assert abs(seen["slopes"][1]) > 1 << 200  # 2^-55 of noise is not


@pytest.mark.parametrize("family", ["logistic", "poisson"])
def test_residuals_of_zeros_for_one_host_end_a_fit_with_hidden_scores(family: str) -> None:
    """Its coefficients would be zero, and the scores of rows held out the others' alone."""
    job = hidden_job(family, 3, rows=60, tolerance=1e-2, weights=False)
    sent: list[type[Message]] = []
    send = hidden.send_scores

    async def told(guest: Any, kind: type[Message], *others: Any) -> None:
        sent.append(kind)
        await send(guest, kind, *others)

    with (
        mock.patch.object(hidden, "send_scores", told),
        telling("host2", HiddenResiduals, of_zeros),
        pytest.raises(ConfigError, match="diverges"),
    ):
        run_hidden(job)
    assert HeldOutScores not in sent
