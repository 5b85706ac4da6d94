"""All cores for big-integer work: a pool of processes, started once a job, that hold the job's key.

Where the engine of blocks has other processes than this one, these do the work. Else a small job is done
before the processes would be there: they are started after the first second of work. gmpy2 keeps the
interpreter's lock, so threads would not do. Ciphertexts travel as fixed-width bytes in one piece; those
that are read again and again (a tree's encrypted gradients) lie in shared memory. The
start method is spawn everywhere: a fork would copy the threads' locks of the event loop.
"""

import asyncio
import contextlib
import fcntl
import math
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from multiprocessing.connection import wait
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

import numpy as np

from vfl.blocks.disk import NO_ROOM, no_room, take_room
from vfl.blocks.engine import ENGINE, Shared
from vfl.crypto.paillier import Ciphertexts, PrivateKey, PublicKey
from vfl.errors import DataError, VflError

Operations = Counter[str]
Handle = Ciphertexts | tuple[str | Path, int, int]
"""Ciphertexts, or the name of the shared memory or file in which they lie, and their shape."""
T = TypeVar("T")
K = TypeVar("K", PublicKey, PrivateKey)


class WorkerDied(VflError):
    """A process of the pool is gone, most often killed by the system for want of memory."""

    exit_code = 1

    def __init__(self) -> None:
        super().__init__(
            "a worker process died (out of memory?): lower workers in [party] and start again",
            for_peer="one of its worker processes died",
        )


@dataclass(frozen=True)
class Machine:
    """What a party lends to encrypted arithmetic."""

    workers: int = 1  # processes
    memory: int = 2 << 30  # bytes of ciphertexts kept in memory; more than these lie in a file
    scratch: Path | None = None  # where that file is; None is the system's folder of temporary files
    alone: float = 0.0  # seconds of work that threads do before more processes are started


ONE_PROCESS = Machine()
PAYS = 1.0  # seconds of work after which it pays to start processes: as much as that takes


class SharedRows:
    """Ciphertexts of shape (rows, width) that the workers of a pool can read.

    They lie in shared memory, in the party's own without a pool, or in a file when they are larger
    than the machine lends memory: the system then keeps in memory what fits.
    """

    def __init__(self, rows: int, width: int, machine: Machine) -> None:
        self._shape = (rows, width)
        self._memory: SharedMemory | None = None
        self._file: Path | None = None
        if rows * width > machine.memory:
            self._file, self._held = _scratch_file(machine.scratch, rows * width)
            self.array: Ciphertexts = np.memmap(self._file, np.uint8, "r+", shape=self._shape)
        elif machine.workers > 1:
            self._memory = _shared_memory(max(1, rows * width))
            self.array = _rows_in(self._memory, rows, width)
            _own[self._memory.name] = self.array
        else:
            self.array = np.zeros(self._shape, np.uint8)

    @property
    def handle(self) -> Handle:
        """What a task carries: the name of a file or in shared memory, or the array itself."""
        if self._file is not None:
            return self._file, *self._shape
        return self.array if self._memory is None else (self._memory.name, *self._shape)

    def close(self) -> None:
        """Give the memory back."""
        self.array = np.empty((0, self._shape[1]), np.uint8)
        if self._file is not None:
            self._file.unlink(missing_ok=True)
            os.close(self._held)
            self._file = None
        if self._memory is not None:
            memory, self._memory = self._memory, None
            del _own[memory.name]
            memory.unlink()
            _unmap(memory)


_own: dict[str, Ciphertexts] = {}
"""What this process has in shared memory, by name: its threads need not map it again."""
_in_use: list[SharedMemory] = []
"""Given back while a thread of a job that was cancelled still read it."""


def _rows_in(memory: SharedMemory, rows: int, width: int) -> Ciphertexts:
    """Not np.ndarray(..., buffer): such an array does not keep the memory from being unmapped."""
    if memory.buf is None:
        raise ValueError("shared memory that was given back")
    return np.frombuffer(memory.buf, np.uint8)[: rows * width].reshape(rows, width)


def _unmap(memory: SharedMemory) -> None:
    """Unmap it, and what was in use before; now if nobody reads it, else later."""
    waiting = [*_in_use, memory]
    _in_use.clear()
    for one in waiting:
        try:
            one.close()
        except BufferError:
            _in_use.append(one)


def _shared_memory(size: int) -> SharedMemory:
    """Room in shared memory. A system that has too little would kill the process at its first use."""
    room = Path("/dev/shm")  # noqa: S108 - where Linux keeps it
    if room.exists() and (free := shutil.disk_usage(room).free) < size:
        raise DataError(
            f"shared memory has {free / 1e6:,.0f} MB free and this job needs {size / 1e6:,.0f} MB: "
            "enlarge /dev/shm (in a container: --shm-size), or set workers = 1 in [party]",
            for_peer="it has too little shared memory",
        )
    return SharedMemory(create=True, size=size)


_SCRATCH = "vfl-ciphertexts-"


def _scratch_file(folder: Path | None, size: int) -> tuple[Path, int]:
    """A file of that size whose room on the disk is taken at once, readable by its owner alone; it is
    locked as long as the descriptor is open."""
    room = folder or Path(tempfile.gettempdir())
    try:
        room.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_abandoned(room)
        handle, name = tempfile.mkstemp(prefix=_SCRATCH, dir=room)
    except OSError as error:
        raise DataError(
            f"no file for ciphertexts can be made in {room}: {error.strerror}",
            for_peer="it has no room for ciphertexts",
        ) from None
    try:
        with contextlib.suppress(
            OSError
        ):  # without locks here, nobody removes what is not locked either
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        take_room(handle, size)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        os.close(handle)
        text = no_room(room, size, "ciphertexts", error) + ", or raise memory in [party]"
        raise DataError(text, for_peer=NO_ROOM) from None
    return Path(name), handle


def _remove_abandoned(room: Path) -> None:
    """Delete files of processes that were killed: nobody has them locked, or has just made them."""
    for file in room.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError), file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if opened.seek(0, os.SEEK_END):  # one that is empty is about to be locked
                file.unlink()


def rows_of(handle: Handle) -> Ciphertexts:
    """The rows behind a handle, in whichever process."""
    if isinstance(handle, np.ndarray):
        return handle
    name, rows, width = handle
    own = _own.get(name) if isinstance(name, str) else None
    return _attach(name, rows, width)[1] if own is None else own


@lru_cache(maxsize=2)
def _attach(name: str | Path, rows: int, width: int) -> tuple[SharedMemory | None, Ciphertexts]:
    """In a worker, which does one thing at a time."""
    if isinstance(name, Path):
        return None, np.memmap(name, np.uint8, "r", shape=(rows, width))
    memory = SharedMemory(name)
    return memory, _rows_in(memory, rows, width)


class Workers(Generic[K]):
    """Runs kernels `f(key, *arguments)` in the machine's processes, or in threads when that is one or as
    long as the work is little."""

    def __init__(
        self, key: K, machine: Machine, operations: Operations | None = None, here: bool = False
    ) -> None:
        """`operations` counts those on ciphertexts by kind. `here`: on this machine, whatever the engine
        of blocks is."""
        self.key: K = key
        self._elsewhere: Shared[Parts[K]] | None = None
        if ENGINE.apart and not here:
            self._elsewhere = ENGINE.share(Parts[K](type(key), key.parts()))
        self.machine = machine
        self.operations = Counter() if operations is None else operations
        self._alone = machine.alone
        self._pool: ProcessPoolExecutor | None = None
        self._aside: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "Workers[K]":
        self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._alone = math.inf
        for task in self._aside:
            task.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def beside(self) -> bool:
        """Whether the work is done by other processes than the party's own."""
        return self._elsewhere is not None or (self.machine.workers > 1 and self._alone <= 0)

    @property
    def width(self) -> int:
        """How many tasks are done side by side."""
        return self.machine.workers if self._elsewhere is None else ENGINE.width

    @property
    def elsewhere(self) -> "Shared[Parts[K]] | None":
        """Where the engine of blocks does the work: the key, for its kernels."""
        return self._elsewhere

    def _start(self) -> None:
        """Start the processes, all of them now, once they pay."""
        if self._pool is not None or not self.beside or self._elsewhere is not None:
            return
        self._pool = ProcessPoolExecutor(
            self.machine.workers,
            multiprocessing.get_context("spawn"),
            _adopt,
            (type(self.key), self.key.parts()),
        )
        for _ in range(self.machine.workers):
            self._pool.submit(_call, _warm, ())

    def aside(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Do it beside all else, at the longest until these workers end."""
        task = asyncio.create_task(work)
        self._aside.add(task)
        task.add_done_callback(self._end_aside)
        return task

    def _end_aside(self, task: asyncio.Task[None]) -> None:
        self._aside.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio writes it to stderr where nobody waits for the task

    def rows(self, rows: int, width: int) -> SharedRows:
        """Room for ciphertexts that all workers read."""
        alone = self._elsewhere is not None  # whoever works there cannot read them
        return SharedRows(rows, width, replace(self.machine, workers=1) if alone else self.machine)

    async def run(self, kernel: Callable[..., T], *arguments: object) -> T:
        """One task. Raises WorkerDied, and what the kernel raises."""
        if self._elsewhere is not None:
            begun = ENGINE.do(partial(_call_elsewhere, self._elsewhere.argument, kernel), *arguments)
            return await asyncio.to_thread(begun.result)
        if self._pool is None:
            result, seconds = await asyncio.to_thread(_timed, kernel, self.key, *arguments)
            self._alone -= seconds
            self._start()
            return result
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, _call, kernel, arguments)
        except BrokenProcessPool:
            raise WorkerDied from None

    async def map(self, kernel: Callable[..., T], tasks: Iterable[tuple[object, ...]]) -> list[T]:
        """All tasks, side by side; results in the tasks' order."""
        return [result async for result in self.stream(kernel, tasks)]

    async def stream(
        self, kernel: Callable[..., T], tasks: Iterable[tuple[object, ...]]
    ) -> AsyncIterator[T]:
        """Results in the tasks' order while later tasks run; only a few are under way at once."""
        under_way: deque[asyncio.Task[T]] = deque()
        try:
            for arguments in tasks:
                under_way.append(asyncio.create_task(self.run(kernel, *arguments)))
                if len(under_way) >= 2 * self.width:
                    yield await under_way.popleft()
            while under_way:
                yield await under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()

    def __repr__(self) -> str:
        return f"Workers({self.machine.workers})"


@dataclass(frozen=True)
class Parts(Generic[K]):
    """A key as it goes to where kernels run."""

    kind: type[K]
    parts: tuple[int, ...] = field(repr=False)


@lru_cache(maxsize=2)
def key_of(parts: "Parts[K]") -> K:
    """The key, made once in a process, with its tables."""
    return parts.kind.from_parts(*parts.parts)


def _call_elsewhere(parts: "Parts[K]", kernel: Callable[..., T], *arguments: object) -> T:
    return kernel(key_of(parts), *arguments)


def _timed(kernel: Callable[..., T], *arguments: object) -> tuple[T, float]:
    """The result, and the processor seconds of this thread."""
    began = time.thread_time()
    return kernel(*arguments), time.thread_time() - began


def _warm(key: PublicKey | PrivateKey) -> None:
    """Make the tables of an owner's fixed base."""
    if isinstance(key, PrivateKey):
        key.warm()


_key: PublicKey | PrivateKey


def _adopt(kind: type[PublicKey] | type[PrivateKey], parts: tuple[int, ...]) -> None:
    """Set a worker process up: its key; no death by Ctrl-C, which is the party's own to handle."""
    global _key
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _key = kind.from_parts(*parts)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End with the party: a worker must not stay behind when it was killed."""
    wait([sentinel])
    os._exit(1)


def _call(kernel: Callable[..., T], arguments: tuple[object, ...]) -> T:
    return kernel(_key, *arguments)
