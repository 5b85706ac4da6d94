"""The connection to the scheduler of a Dask cluster, and which of its workers may work."""

import asyncio
import concurrent.futures
import contextlib
import hashlib
import importlib
import importlib.metadata
import logging
import math
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, cast

import numpy as np

from vfl.errors import ClusterError, ConfigError
from vfl.text import counted

_REACH = 10.0  # seconds for one try to reach the scheduler
_PATIENCE = 300.0  # seconds for which a scheduler, or workers, are waited for in a job
_FOR_TABLES = 0.25  # of workers' memory
_FULL, _FULL_FOR = "paused", 60.0  # what Dask calls a worker without memory; seconds until that is all
_TAKEN = 2.0  # seconds for a worker to take what it is sent
_PAUSE = 0.5  # seconds between two tries
_MOMENT = 0.2  # seconds
_CANCELLED = (asyncio.CancelledError, concurrent.futures.CancelledError)
_SAME = ("vfl", "numpy", "numba", "distributed")
_LEFT_OUT = 8  # workers that are named
_ASKED = 3  # times that one may not answer
_UNHEARD_FOR = 60.0  # seconds without a heartbeat until it is said, of one every second or so

R = TypeVar("R")


@dataclass(frozen=True)
class Access:
    """Where a scheduler is, and by which files this party and the cluster know each other."""

    address: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    security: object = None
    """Dask's own, in place of files."""


class Lost(Exception):
    """What a task was to come to, or what it was to come of, is gone with a worker or the scheduler."""


class Task(Protocol):
    """Dask's future: a result that lies with a worker."""

    @property
    def status(self) -> str: ...
    def exception(self) -> BaseException | None: ...


class Client(Protocol):
    """What is used of Dask's client."""

    status: str

    def submit(self, function: Callable[..., object], *arguments: object, **how: object) -> Task: ...
    def gather(self, tasks: Sequence[Task], **how: object) -> Awaitable[Sequence[object]]: ...
    def sync(self, function: Callable[[], Awaitable[R]]) -> R: ...
    def scatter(self, data: Sequence[object], **how: object) -> Sequence[Task]: ...
    def scheduler_info(self, n_workers: int) -> Mapping[str, Mapping[str, Mapping[str, object]]]: ...
    def get_versions(self, packages: Sequence[str]) -> Mapping[str, Mapping[str, object]]: ...
    def run(self, function: Callable[[], object], **how: object) -> Mapping[str, object]: ...
    def as_current(self) -> contextlib.AbstractContextManager[None]: ...
    def close(self, timeout: float) -> None: ...


class Connection:
    """A client of the scheduler, and the workers that run what this party runs."""

    def __init__(self, access: Access, say: Callable[[str], None] = lambda text: None) -> None:
        """Raises ConfigError where there is no such cluster, or a worker that does not fit."""
        self.access, self._say = access, say
        self._client: Client | None = None
        self.workers: dict[str, int] = {}
        """Threads of those that may work, by address."""
        self.direct = False
        """Whether data goes to and from workers without the scheduler."""
        self.stranded = 0
        """How often tasks may have been left to workers alone that are gone: none of them will end."""
        self._full: dict[str, float] = {}  # since when workers have no memory left, by address
        self._heard: dict[str, tuple[object, float]] = {}
        """When the scheduler heard of each worker last, and since when that is so here."""
        self._left_out: set[str] = set()
        self._silent: dict[str, int] = {}  # how often workers did not answer, by address
        self._told: set[str] = set()
        try:
            self._connect()
        except (OSError, Lost) as error:
            raise ConfigError(
                f"no scheduler answers at {access.address} ({_words(error)}): start it, or correct "
                "cluster in [party]; by tls:// both sides need certificates of the authority in "
                "cluster_ca"
            ) from None
        if self._left_out:
            raise ConfigError(f"[party] cluster: {'; '.join(sorted(self._told))}")

    @property
    def client(self) -> Client:
        """Dask's. Raises ClusterError after `close`."""
        if self._client is None:
            raise ClusterError("the connection to the cluster is closed")
        return self._client

    @property
    def running(self) -> bool:
        """Whether the scheduler is there, as far as is known."""
        return self._client is not None and self._client.status == "running"

    @contextlib.contextmanager
    def _losses(self) -> Iterator[None]:
        """Raises Lost for what Dask raises where a worker or the scheduler is gone."""
        try:
            yield
        except (OSError, *_CANCELLED):
            raise Lost from None
        except Exception:
            if self.running:
                raise
            raise Lost from None  # of a client that is not connected

    def need_workers(self) -> None:
        """Raises ConfigError where no worker is there."""
        if not self.workers:
            raise ConfigError(
                f"the cluster at {self.access.address} has no workers: start some (dask worker "
                f"{self.access.address}), with vfl installed"
            )

    def _there(self) -> Mapping[str, Mapping[str, object]]:
        """What the scheduler says of each worker, by address."""
        return self.client.scheduler_info(n_workers=-1)["workers"]  # some versions say of five

    @property
    def memory(self) -> dict[str, int]:
        """Bytes that each worker may take, by address; of those that have a limit."""
        with self._losses():
            found = self._there()
        return {a: int(str(i["memory_limit"])) for a, i in found.items() if a in self.workers}

    @property
    def room(self) -> float:
        """Bytes that workers may take for columns of a table that they hold: what is made of these, and
        of a whole column at one of them, needs more than they do."""
        limits: Collection[int] = ()
        with contextlib.suppress(Lost):  # whoever gives workers something to do waits for the scheduler
            limits = self.memory.values()
        return _FOR_TABLES * sum(limits) if limits and all(limits) else math.inf

    @property
    def in_words(self) -> str:
        """Who is there."""
        threads, least = sum(self.workers.values()), min(self.memory.values(), default=0)
        return (
            f"{counted(len(self.workers), 'worker')} ({counted(threads, 'thread')}, "
            f"{least / 1e9:.1f} GB each at least) of the cluster at {self.access.address}"
        )

    def ask_all(self, function: Callable[[], object]) -> Mapping[str, object]:
        """What a function comes to at each worker, or the error that it raises there, by address."""
        with self._losses():
            return self.client.run(function, workers=[*self.workers], on_error="return")

    def look(self) -> None:
        """See which workers are there. Raises Lost where the scheduler is not."""
        with self._losses():
            found = self._there()
        there = {address: int(str(about["nthreads"])) for address, about in found.items()}
        self._note_unheard(found)
        full = [address for address, about in found.items() if about["status"] == _FULL]
        self._full = {address: self._full.get(address, time.monotonic()) for address in full}
        new = [address for address in there if address not in self.workers]
        if new or len(there) < len(self.workers):
            if self._left_out and not there.keys() >= self.workers.keys():
                self.stranded += 1
            self.workers = {a: threads for a, threads in there.items() if a in self.workers}
            if fits := self._fitting([address for address in new if address not in self._left_out]):
                self.workers.update({address: there[address] for address in fits})

    def _note_unheard(self, found: Mapping[str, Mapping[str, object]]) -> None:
        """Say which workers give no sign though their connections stand: they may be stopped."""
        now, heard = time.monotonic(), dict[str, tuple[object, float]]()
        for address, about in found.items():
            last, since = self._heard.get(address, (None, now))
            heard[address] = last, since
            if about.get("last_seen") != last:
                heard[address] = about.get("last_seen"), now
            elif address in self.workers and now - since >= _UNHEARD_FOR:
                heard[address] = last, math.inf  # it is said once
                self._say(
                    f"note: worker {address} has not been heard of for {now - since:.0f} s: the job "
                    "goes on when it answers again, or without it when the scheduler gives it up "
                    "(Dask's worker-ttl, 5 minutes as a rule)"
                )
        self._heard = heard

    def check_room(self) -> None:
        """Raises ClusterError for a worker that has had too little memory to take up anything for long,
        as of the last `look`."""
        for address, since in self._full.items():
            if address in self.workers and time.monotonic() - since >= _FULL_FOR:
                raise ClusterError(
                    f"worker {address} has had too little memory to go on for {_FULL_FOR:.0f} s, and "
                    "no room on its disk to spill: start more workers, or larger ones (`vfl doctor` "
                    "says how much is needed); the same command goes on then"
                )

    def _reconnect(self) -> None:
        """Reach a scheduler that was lost, and wait until a worker is there. Raises ClusterError."""
        deadline = time.monotonic() + _PATIENCE
        where = f"the cluster at {self.access.address}"
        self._say(f"{where}: {self._gone}: waiting {_PATIENCE:.0f} s for it to come back")
        while True:
            with contextlib.suppress(OSError, Lost):
                if not self.running:
                    self.close()
                    self._connect()
                self.look()
                if self.workers:
                    self._say(f"rows lie with {self.in_words} again")
                    return
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"{where}: {self._gone}, and none came back within {_PATIENCE:.0f} s; once it is "
                    "there the same command goes on"
                )
            time.sleep(_PAUSE)

    @property
    def _gone(self) -> str:
        return "no worker of it is left" if self.running else "its scheduler is gone"

    def recover(self) -> bool:
        """See who is left after a loss, and wait for somebody where nobody is. Whether all that workers
        held is gone. Raises ClusterError."""
        if self.running:
            with contextlib.suppress(Lost):
                self.look()
                if self.workers:
                    time.sleep(_MOMENT)  # by then the scheduler has told what is lost
                    return False
        self._reconnect()
        return True

    def submit(self, function: Callable[..., object], *given: object, worker: str | None) -> Task:
        """Have a worker run a function, that one if it can."""
        # One that does not fit may be there: it must not be taken in place of another.
        which = [*self.workers] if self._left_out or worker is None else [worker]
        how = {"pure": False, "workers": which, "allow_other_workers": not self._left_out}
        with self._losses():
            return self.client.submit(function, *given, **how)

    def send(self, value: object, worker: str | None) -> Task:
        """Have a worker, any of them if None, hold an object."""
        which = [*self.workers] if worker is None else [worker]
        how = {"workers": which, "direct": self.direct, "hash": False, "timeout": _TAKEN}
        deadline = time.monotonic() + _PATIENCE
        while True:
            with self._losses(), contextlib.suppress(TimeoutError):
                (sent,) = self.client.scatter([value], **how)
                return sent
            # It is gone, or has so little memory left that it takes nothing until some is free.
            self.look()
            self.check_room()
            if not self.workers.keys() >= {*which} or time.monotonic() > deadline:
                raise Lost

    def wait(self, tasks: Sequence[Task], seconds: float) -> bool:
        """Whether tasks have ended, or will not any more, within so many seconds."""
        client = self.client
        with contextlib.suppress(*_CANCELLED), client.as_current():
            try:
                distributed().wait(tasks, timeout=seconds)
            except TimeoutError:
                return False
        return True

    def fetch(self, tasks: Sequence[Task]) -> Sequence[object]:
        """What tasks that are done came to. Raises Lost where a worker is gone that had some of it."""
        client, direct = self.client, self.direct

        async def gather() -> Sequence[object]:
            whole = asyncio.ensure_future(client.gather(tasks, direct=direct, asynchronous=True))
            # Dask would wait for as long as it takes some worker to come and make what is gone.
            while not (await asyncio.wait([whole], timeout=_PAUSE))[0]:
                if any(task.status != "finished" for task in tasks):
                    whole.cancel()
                    raise Lost
            return whole.result()

        with self._losses():
            return client.sync(gather) if tasks else []

    def close(self) -> None:
        """End the connection."""
        client, self._client = self._client, None
        self.workers = {}
        if client is not None:
            with contextlib.suppress(OSError):
                client.close(timeout=2)

    def _connect(self) -> None:
        dask, access = distributed(), self.access
        security = access.security
        if access.ca is not None:
            security = dask.Security(
                require_encryption=True,
                tls_ca_file=str(access.ca),
                tls_client_cert=str(access.certificate),
                tls_client_key=str(access.key),
            )
        self._client = dask.Client(
            access.address,
            security=security,
            timeout=_REACH,
            set_as_default=False,
            name="vfl",
            heartbeat_interval="2s",
        )
        self.look()
        self.direct = self._reaches_workers()

    def _reaches_workers(self) -> bool:
        """Whether this process has a way to workers of its own."""
        if not self.workers:
            return False
        try:
            (sent,) = self.client.scatter(
                [b""], workers=[*self.workers][:1], direct=True, hash=False, timeout=_REACH
            )
        except (OSError, ValueError):
            return False
        return sent.status == "finished"

    def _fitting(self, workers: Sequence[str]) -> list[str]:
        """Those of some workers that run what this party runs; what keeps others out is said once. One
        that does not answer, as it has just ended, may be looked at again."""
        if not workers:
            return []
        answers = self._versions(workers)
        wrong = {address: why for address, why in answers.items() if why}
        fits = [address for address in answers if address not in wrong]
        own, found = arithmetic(), self.client.run(arithmetic, workers=fits, on_error="return")
        fits = [address for address in fits if not isinstance(found.get(address), OSError)]
        for address in {*workers} - {*fits} - wrong.keys():
            self._silent[address] = self._silent.get(address, 0) + 1
            if self._silent[address] == _ASKED:
                wrong[address] = "does not answer the scheduler: end it, or open the way to it"
        for address in fits:
            if found.get(address) != own:
                wrong[address] = (
                    "computes exponentials and logarithms otherwise than this machine (another kind of "
                    "processor): use workers on machines like this one"
                )
        for address, why in wrong.items():
            self._left_out.add(address)
            if why not in self._told and len(self._told) < _LEFT_OUT:
                self._told.add(f"worker {address} {why}")
                self._say(f"note: worker {address} {why}")
        return [address for address in fits if address not in wrong]

    def _versions(self, workers: Sequence[str]) -> dict[str, str]:
        """By worker, of those that answer, what it runs of another version, in words; empty where all is
        the same."""
        found = self.client.get_versions(packages=["vfl", "numba"])
        own = versions()
        wrong = {}
        for address in (one for one in workers if one in found["workers"]):
            theirs = _packages(found["workers"][address])
            differing = [name for name, version in own.items() if theirs.get(name) != version]
            wrong[address] = "".join(
                f"runs {name} {theirs.get(name) or 'of no known version'}, this party {own[name]}: "
                "install the same there"
                for name in differing[:1]
            )
        return wrong


def versions() -> dict[str, str]:
    """What a worker must have as this process has it."""
    named = {name: importlib.metadata.version(name) for name in _SAME}
    return {"python": "{}.{}".format(*sys.version_info), **named}


def arithmetic() -> str:
    """A digest of what this machine makes of numbers where processors may differ in the last place."""
    with np.errstate(all="ignore"):
        x = np.random.default_rng(0).normal(size=4099) * 20
        made = [
            np.exp(x),
            np.log(np.abs(x)),
            np.logaddexp(0.0, x),
            np.abs(x) ** 1.37,
            np.rint(x * 2**0.5),
        ]
    return hashlib.sha256(b"".join(values.tobytes() for values in made)).hexdigest()


def _packages(found: object) -> dict[str, str]:
    """The versions of a worker, that of Python without its last place."""
    if not isinstance(found, Mapping):
        return {}
    packages = {str(name): str(version) for name, version in found["packages"].items()}
    python = str(found["host"].get("python", ""))
    return {**packages, "python": ".".join(python.split(".")[:2])}


class _Security(Protocol):
    def __call__(self, **settings: object) -> object: ...
    def temporary(self) -> object: ...


class _Config(Protocol):
    def set(self, settings: Mapping[str, object]) -> contextlib.AbstractContextManager[object]: ...


class _System(Protocol):
    MEMORY_LIMIT: int


class LocalCluster(Protocol):
    """What is used of Dask's cluster of processes."""

    scheduler_address: str
    security: object

    def close(self, timeout: float) -> None: ...


class Distributed(Protocol):
    """What is used of Dask's package."""

    Client: Callable[..., Client]
    wait: Callable[..., object]
    system: "_System"
    Security: _Security
    LocalCluster: Callable[..., LocalCluster]


def distributed() -> Distributed:
    """Dask's package, whose own lines are not printed. Raises ConfigError where it is not installed."""
    try:
        found = importlib.import_module("distributed")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed, which a cluster needs: pip install 'vfl[cluster]'"
        ) from None
    for name in [*logging.root.manager.loggerDict]:
        if name.partition(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return cast(Distributed, found)


def with_settings(settings: Mapping[str, object]) -> contextlib.AbstractContextManager[object]:
    """Dask with other settings than its files have, for a while."""
    return cast(_Config, importlib.import_module("dask.config")).set(settings)


def _words(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
