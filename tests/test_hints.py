"""Hints that are kept for later jobs, and what is said while kernels are compiled."""

import asyncio
import os
import subprocess
import sys

import numba
import numpy as np
import pytest

from vfl.crypto.lattice.matrix import CellMatrix, CodedColumn, Outputs
from vfl.jobs.compiling import announce_compiling, noting_kernels
from vfl.jobs.hints import StoredGuestHints, StoredHostHints
from vfl.net.peer import MemoryPeer
from vfl.party.store import Store
from vfl.protocols.common import lattice_hints
from vfl.protocols.common.lattice_hints import (
    HintAgreed,
    HintKnown,
    HintOffered,
    HintSums,
    HostHint,
    KnownHint,
    host_meet,
)
from vfl.protocols.common.lattice_sums import Shape
from vfl.protocols.common.participant import Resources

HINT = KnownHint(b"n" * 32, b"s" * 32, b"header", 3)


@pytest.mark.parametrize("damage", [b"parts", b"", b"perts of", b"parts of a hint"])
def test_a_damaged_file_is_no_hint(tmp_path, damage):
    hints = StoredGuestHints(Store(tmp_path), "aligned-1", {"bureau": "print"})
    hints.clear("bureau", 8)
    hints.file("bureau").write_bytes(b"parts of")
    hints.keep("bureau", HINT)
    assert hints.known("bureau") == HINT
    hints.file("bureau").write_bytes(damage)
    assert hints.known("bureau") is None
    hints.file("bureau").unlink()
    assert hints.known("bureau") is None


def test_jobs_at_the_same_time_share_the_life_of_a_hint(tmp_path):
    """Sixteen of them ask for the hint at once, each for a third of its life."""
    shape, outputs = Shape(200, 12, 1 << 12, lifetime=3 << 12), 4
    codes = np.random.default_rng(1).integers(0, outputs + 1, shape.rows).astype(np.uint16)
    made = Outputs(np.arange(outputs + 1), np.arange(outputs), np.ones(outputs, np.int64))
    matrix = CellMatrix([CodedColumn(codes, outputs + 1)], made)
    parameters = shape.parameters(outputs)
    own = HostHint(b"n" * 32, b"s" * 32, b"d" * 32, lattice_hints._matter(matrix, parameters), 0)
    StoredHostHints(Store(tmp_path), "a1", "guest").keep(own)

    async def ask() -> bool:
        to_host, to_guest = MemoryPeer.pair("host", "guest")
        hints = StoredHostHints(Store(tmp_path), "a1", "guest")
        meeting = host_meet(
            to_guest, lambda _: matrix, outputs, shape, resources=Resources(), hints=hints
        )
        host = asyncio.create_task(meeting)
        assert (await to_host.recv(HintSums)).outputs == outputs
        await to_host.send(HintKnown(own.name, 64))
        offered = await to_host.recv(HintOffered)
        if offered.known:
            await to_host.send(HintAgreed([]))
            await host
        host.cancel()
        return offered.known

    async def all_at_once() -> list[bool]:
        return await asyncio.gather(*(ask() for _ in range(16)))

    used = sum(asyncio.run(all_at_once()))
    counted = StoredHostHints(Store(tmp_path), "a1", "guest").known().vectors
    assert used == parameters.queries // shape.served > 0
    assert counted == used * shape.served <= parameters.queries


def test_compiling_is_said_once():
    said = []

    def added(cell):
        return cell + 1

    with announce_compiling(said.append):
        for _ in range(2):
            assert numba.njit(added)(1) == 2
    (line,) = said
    assert line == (
        "compiling for this machine, some 5 s, at every start anew: "
        "set NUMBA_CACHE_DIR to a folder that this user may write"
    )
    numba.njit(added)(1.0)
    assert len(said) == 1


def test_compiling_into_a_cache_is_said_too(tmp_path, monkeypatch):
    """A kernel that lies in the cache already is not compiled, and nothing is said."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", os.fspath(tmp_path))
    said = []
    for lines in (1, 1):
        with announce_compiling(said.append):
            assert numba.njit(cache=True)(doubled)(2) == 4
        assert len(said) == lines
    assert said == ["compiling for this machine what was not needed before, some 5 s"]


def test_a_time_with_kernels_in_it_is_told(tmp_path, monkeypatch):
    """Compiled, loaded from the cache, and there already."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", os.fspath(tmp_path))
    told = []
    for made in (numba.njit(cache=True)(doubled), numba.njit(cache=True)(doubled)):
        for _ in range(2):
            with noting_kernels() as readied:
                assert made(2) == 4
            told.append(readied.any)
    assert told == [True, False, True, False]


def test_the_first_kernel_of_a_process_is_told_of():
    said = """
from vfl.jobs.compiling import noting_kernels
from vfl.kernels import kernel

@kernel
def doubled(cell):
    return cell * 2

for expected in (True, False):
    with noting_kernels() as readied:
        assert doubled(2) == 4
    assert readied.any == expected
with noting_kernels() as readied:
    pass
assert not readied.any
"""
    subprocess.run([sys.executable, "-c", said], check=True)


def doubled(cell):
    return cell * 2
