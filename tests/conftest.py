"""Fixtures that several test modules share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import lattice_batches
import paillier_key
import pytest
from disks import wait_for_no_disk
from federation import Federation, Party, ended, make_keys, private_words
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

wait_for_no_disk()

# A shell that runs the tests in its background has them ignore Ctrl-C, and so every process they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup does the same with this one
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes by the name of the argument: those of a compressed file are others in every process."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="module")
def quick_key() -> Iterator[None]:
    """See `paillier_key.quick_key`."""
    with paillier_key.quick_key():
        yield


@pytest.fixture(scope="module")
def small_batches() -> Iterator[None]:
    """See `lattice_batches.small_batches`."""
    with lattice_batches.small_batches():
        yield


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and certificates of all parties."""
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[Federation]:
    """Two hosts that listen and serve all tests; the guest has aligned and trained with both.

    Tests leave the hosts' files as they were, and take `insurer` for a guest of their own.
    """
    with ended(Federation(tmp_path_factory.mktemp("federation"), keys)) as made:
        made.serve()
        made.guest.align().ok()
        made.guest.train().ok()
        yield made


@pytest.fixture
def insurer(federation: Federation, tmp_path: Path) -> Iterator[Party]:
    """A copy of the guest with its alignment and model, which a test may spoil."""
    party = federation.another_guest(tmp_path / "insurer")
    yield party
    party.close(private_words(federation.tables))
