"""Fixtures that several test modules share."""

import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# One thread for the numeric libraries, here and in what is started: where processes are more than cores,
# threads that wait for each other spend most of the time on it. Before anything loads them.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import lattice_batches
import paillier_key
import postgresql as postgresql_server
import pytest
from disks import wait_for_no_disk
from federation import Federation, Party, ended, make_keys, private_words
from hypothesis import HealthCheck, settings
from loops import tell_no_result
from pauses import pause_little

# How long an example takes depends on what else the machine does. The same examples in every run, so
# that what fails is found again; `--hypothesis-profile "other examples"` looks further.
settings.register_profile("other examples", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("any machine", settings.get_profile("other examples"), derandomize=True)
settings.load_profile("any machine")

wait_for_no_disk()
pause_little()
tell_no_result()

# Bytecode takes seconds to make, in every process that the tests start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A shell that runs the tests in its background has them ignore Ctrl-C, and so every process they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup does the same with this one
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """Thousands of tests, and what they import, are no garbage that has to be looked through again."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture
def hints_made_once() -> Iterator[None]:
    """See `lattice_batches.hints_made_once`."""
    with lattice_batches.hints_made_once():
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


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgresql_server.Server]:
    """A PostgreSQL server; tests that want it are skipped where it is not installed."""
    pytest.importorskip("adbc_driver_postgresql")
    try:
        with postgresql_server.serving() as server:
            password = postgresql_server.PASSWORD.replace("'", "''")
            server.sql(f"create role reader login password '{password}'")
            yield server
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def few_draws() -> Iterator[None]:
    """Intervals of few draws, where a page is looked at and not they."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vfl.learn.bootstrap._DRAWS", 40)
        yield


@pytest.fixture
def insurer(federation: Federation, tmp_path: Path) -> Iterator[Party]:
    """A copy of the guest with its alignment and model, which a test may spoil."""
    party = federation.another_guest(tmp_path / "insurer")
    yield party
    party.close(private_words(federation.tables))
