"""Hints that are kept for later jobs, and what is said while kernels are compiled."""

import os
import re

import numba
import pytest

from vfl.jobs.compiling import announce_compiling
from vfl.jobs.hints import StoredGuestHints
from vfl.party.store import Store
from vfl.protocols.common.lattice_hints import KnownHint

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


def test_compiling_is_said_once():
    said = []

    def added(cell):
        return cell + 1

    with announce_compiling(said.append):
        for _ in range(2):
            assert numba.njit(added)(1) == 2
    (line,) = said
    assert re.match("compiling for this machine, .*, at every start: set NUMBA_CACHE_DIR", line)
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
    assert said == ["compiling for this machine what was not needed before, some 10 s"]


def doubled(cell):
    return cell * 2
