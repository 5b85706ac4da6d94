"""The pool of processes: same results as in one, errors that end the job, nothing left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from paillier_key import KEY

from vfl.crypto.packing import SumPacking
from vfl.crypto.paillier import InvalidCiphertext, PublicKey
from vfl.crypto.reserve import OwnReserve, Reserve
from vfl.crypto.sums import (
    check_rows,
    decrypt_sums,
    encrypt,
    pack_and_rerandomise,
    sum_by_cell,
    sum_rows,
)
from vfl.crypto.workers import Machine, SharedRows, WorkerDied, Workers, rows_of
from vfl.errors import VflError


def double(key, x):
    return 2 * x


def fail(key):
    raise InvalidCiphertext("a ciphertext out of range")


def busy(key, times):
    for _ in range(times):
        hash(str(range(times)))
    return os.getpid()


def rows_at(key, handle):
    return np.array(rows_of(handle))


def die(key):
    os._exit(9)


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_tasks_order_and_errors_as_they_are(count):
    async def run():
        async with Workers(KEY, Machine(count)) as workers:
            assert await workers.map(double, [(i,) for i in range(50)]) == [2 * i for i in range(50)]
            with pytest.raises(InvalidCiphertext, match="out of range"):
                await workers.run(fail)
            assert await workers.run(double, 4) == 8

    asyncio.run(run())


def test_processes_are_started_once_the_work_pays_for_them():
    async def run():
        async with Workers(KEY, Machine(2, alone=0.05)) as workers:
            reserve = OwnReserve(workers, 1, None)
            await reserve.fill()
            assert await workers.run(own_pid, 0) == os.getpid()
            assert not workers.beside and not len(reserve)  # a thread makes nothing ahead
            while not workers.beside:
                assert await workers.run(busy, 1000) == os.getpid()
            assert await workers.run(own_pid, 0) != os.getpid()
            await reserve.fill()
            assert len(reserve) == 64

    asyncio.run(run())


def test_none_is_started_for_work_that_is_done_before():
    async def run():
        async with Workers(KEY, Machine(2, alone=1e6)) as workers:
            encrypted = KEY.encrypt([1, 2, 3])
            store = workers.rows(3, KEY.public.width)  # shared memory, which this process reads as well
            store.array[:] = encrypted
            await workers.run(busy, 1000)
            assert await workers.run(own_pid, 0) == os.getpid()
            assert await workers.map(double, [(i,) for i in range(50)]) == [2 * i for i in range(50)]
            found = await workers.run(rows_at, store.handle)
            store.close()
            return np.array_equal(found, encrypted)

    assert asyncio.run(run())


def test_a_worker_that_dies_ends_the_job_with_one_line():
    async def run():
        async with Workers(KEY, Machine(2)) as workers:
            with pytest.raises(WorkerDied, match=r"a worker process died .* lower workers"):
                await workers.run(die)

    asyncio.run(run())


@pytest.mark.parametrize("count", [1, 2])
def test_encrypt_sum_pack_decrypt(count):
    """The whole way of a histogram, against NumPy."""
    rng = np.random.default_rng(0)
    rows, cells = 600, 40
    layout = SumPacking.for_rows(rows, 2048)
    g = rng.integers(-(2**layout.row_bits), 2**layout.row_bits, rows, endpoint=True)
    h = rng.integers(0, 2**layout.row_bits, rows, endpoint=True)
    cell = rng.integers(0, cells - 5, rows)  # the last five stay empty
    chosen = rng.permutation(rows)[:500]

    async def run():
        async with (
            Workers(KEY, Machine(count)) as private,
            Workers(PublicKey(int(KEY.public.n)), Machine(count)) as public,
        ):
            chunks = [(g[:500], h[:500]), (g[500:], h[500:])]
            parts = [
                part
                async for part in encrypt(private, layout.pair, chunks, OwnReserve(private, 0, None))
            ]
            encrypted = np.concatenate(parts)
            store = public.rows(rows, public.key.width)
            store.array[:] = encrypted
            await public.run(check_rows, store.handle, 0, rows)
            from_store = await sum_rows(public, store, chosen, cell[chosen][np.newaxis], cells)
            from_array = await sum_by_cell(public, encrypted, chosen, cell[chosen], cells)
            store.array[7] = 0
            with pytest.raises(InvalidCiphertext):
                await public.run(check_rows, store.handle, 0, rows)
            store.close()
            assert np.array_equal(from_store, from_array)
            packed = await pack_and_rerandomise(Reserve(public, 0, None), from_store, layout)
            assert len(packed) == layout.ciphertexts(cells)
            return await decrypt_sums(private, layout, packed, cells)

    sums = asyncio.run(run())
    for found, values in zip(sums, (g, h), strict=True):
        expected = np.zeros(cells, np.int64)
        np.add.at(expected, cell[chosen], values[chosen])
        assert np.array_equal(found, expected)


PARTY = """
import asyncio, os, sys
from tests.test_workers import own_pid
from vfl.crypto.paillier import PublicKey
from vfl.crypto.workers import Machine, Workers

async def run():
    async with Workers(PublicKey(int(sys.argv[1])), Machine(2)) as workers:
        print(*set(await workers.map(own_pid, [(0.2,)] * 6)), flush=True)
        await asyncio.sleep(60)

if __name__ == "__main__":
    asyncio.run(run())
"""


def own_pid(key, seconds):
    time.sleep(seconds)
    return os.getpid()


@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
def test_workers_of_a_killed_party_end(tmp_path):
    script = tmp_path / "party.py"
    script.write_text(PARTY)
    here = Path(__file__).parent
    party = subprocess.Popen(
        [sys.executable, script, str(int(KEY.public.n))],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here)])},
    )
    with party:
        pids = [int(pid) for pid in party.stdout.readline().split()]
        assert pids
        party.send_signal(signal.SIGKILL)
    while any(alive(pid) for pid in pids):
        time.sleep(0.1)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody reaps does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("count", [1, 2])
def test_more_ciphertexts_than_memory_lie_in_a_file(tmp_path, count):
    plaintexts = list(range(-20, 20))
    abandoned = tmp_path / "vfl-ciphertexts-999999999-x"
    abandoned.write_bytes(b"left by a process that was killed")

    async def run():
        async with Workers(KEY.public, Machine(count, memory=30 * 512, scratch=tmp_path)) as workers:
            store = workers.rows(40, 512)
            store.array[:] = KEY.encrypt(plaintexts)
            (file,) = tmp_path.iterdir()
            assert file.stat().st_size == 40 * 512 and file.stat().st_mode & 0o777 == 0o600
            cells = np.arange(40)[np.newaxis] % 3
            sums = await sum_rows(workers, store, np.arange(40), cells, 3)
            store.close()
            return sums

    assert KEY.decrypt(asyncio.run(run())) == [sum(plaintexts[i::3]) for i in range(3)]
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_for_ciphertexts_is_one_line(tmp_path):
    with pytest.raises(VflError, match=r"has no room for [0-9,]+ MB of ciphertexts .*raise memory in"):
        SharedRows(2**43, 512, Machine(1, memory=0, scratch=tmp_path))
    assert not list(tmp_path.iterdir())
    with pytest.raises(VflError, match="no file for ciphertexts can be made in"):
        SharedRows(1, 512, Machine(1, memory=0, scratch=Path("/proc/none")))


@pytest.mark.parametrize("given_back_first", [False, True])
def test_threads_read_what_is_shared_though_it_is_given_back(given_back_first):
    """Else the process would die without a word, where a thread reads what is not mapped any more."""
    for _ in range(30):
        store = SharedRows(500, 512, Machine(2))
        store.array[:] = 7
        handle, sums = store.handle, []
        begun = threading.Barrier(5)

        def read(handle=handle, sums=sums, begun=begun):
            rows = rows_of(handle)
            begun.wait()
            sums.append([int(rows.sum()) for _ in range(20)])

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        begun.wait()
        if given_back_first:
            store.close()
        for thread in threads:
            thread.join()
        if not given_back_first:
            store.close()
        assert sums == [[7 * 500 * 512] * 20] * 4
