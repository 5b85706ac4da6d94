"""A folder of compiled kernels with which something is wrong."""

import contextlib
import errno
import fcntl
import importlib
import math
import os
import pickle
import sys
import tempfile
import threading

import numba
import pytest

from vfl import kernel_cache, kernels

SOURCE = """
from vfl.kernels import kernel


@kernel
def twice(x):
    return {factor} * x


@kernel
def _inner(x):
    return x + 1


@kernel
def outer(x):
    return _inner(x)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Imports a module of kernels anew, as another process would, with a folder for its cache."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = "kernels_for_tests"

    def load(factor=2):
        (tmp_path / f"{name}.py").write_text(SOURCE.format(factor=factor))
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield load
    sys.modules.pop(name, None)


def _files(folder, ending):
    return sorted(folder.rglob(f"*{ending}"))


def _compiled(kernel):
    """How many kinds of arguments this process has compiled it for."""
    return sum(kernel.compiled().stats.cache_misses.values())


def _cut(file):
    file.write_bytes(file.read_bytes()[:-40])


def _emptied(file):
    file.write_bytes(b"")


def _zeros(file):
    file.write_bytes(bytes(file.stat().st_size))


def _flipped(file):
    """A bit of machine code, or of an index's last words."""
    data = bytearray(file.read_bytes())
    data[-len(data) // 3] ^= 1
    file.write_bytes(data)


def _other_version(file):
    file.write_bytes(pickle.dumps("0.1") + b"what no version reads")


def _a_folder(file):
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("spoil", [_cut, _emptied, _zeros, _flipped, _other_version, _a_folder])
@pytest.mark.parametrize("ending", [".nbi", ".nbc"])
def test_a_spoilt_file_is_compiled_anew_and_written_again(module, tmp_path, spoil, ending):
    assert module().twice(4) == 8
    (file,) = _files(tmp_path / "cache", ending)
    spoil(file)
    again = module()
    assert again.twice(4) == 8 and _compiled(again.twice) == 1
    last = module()
    assert last.twice(4) == 8
    assert _compiled(last.twice) == (spoil is _a_folder)  # which nothing can be written over


def test_what_is_in_order_is_taken(module):
    assert module().twice(4) == 8
    again = module()
    assert again.twice(4) == 8 and _compiled(again.twice) == 0


def test_what_a_process_has_kept_is_at_hand(module, monkeypatch):
    first = module()
    assert not kernels.is_at_hand(first.twice) and not kernels.is_at_hand(first.twice)
    assert first.twice(4) == 8
    assert kernels.is_at_hand(first.twice) and not kernels.is_at_hand(first.outer)
    again = module()
    assert kernels.is_at_hand(again.twice) and not kernels.is_at_hand(again.outer)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "/proc/none")  # where nothing can be kept
    alone = module()
    assert not kernels.is_at_hand(alone.twice)
    assert alone.twice(4) == 8 and kernels.is_at_hand(alone.twice)


def test_what_is_kept_of_another_source_is_not_at_hand(module):
    assert module(2).twice(4) == 8
    changed = module(3)
    assert not kernels.is_at_hand(changed.twice)
    assert changed.twice(4) == 12 and kernels.is_at_hand(changed.twice)
    assert kernels.is_at_hand(module(3).twice)


@pytest.mark.parametrize("spoil", [_cut, _emptied, _zeros, _other_version, _a_folder])
def test_what_a_spoilt_index_names_is_not_at_hand(module, tmp_path, spoil):
    assert module().twice(4) == 8
    (file,) = _files(tmp_path / "cache", ".nbi")
    spoil(file)
    again = module()
    assert not kernels.is_at_hand(again.twice)
    assert again.twice(4) == 8 and kernels.is_at_hand(again.twice)


def test_a_kernel_that_it_calls_has_changed_in_another_module(tmp_path, monkeypatch):
    """numba itself looks at the caller's file alone, whose machine code has the other's in it."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    folder = tmp_path / "package_for_tests"
    folder.mkdir()
    head = "from vfl.kernels import kernel\n"
    sources = {
        "__init__": "",
        "figures": "FACTOR = {factor}\n",
        "called": head + "from package_for_tests.figures import FACTOR\n\n\n"
        "@kernel\ndef times(x):\n    return x * FACTOR\n",
        "caller": head + "from package_for_tests.called import (\n    times,\n)\n\n\n"
        "@kernel\ndef plus(x):\n    return times(x) + 1\n",
    }

    def load(factor):
        for name, text in sources.items():
            (folder / f"{name}.py").write_text(text.format(factor=factor))
            sys.modules.pop(f"package_for_tests.{name}", None)
        sys.modules.pop("package_for_tests", None)
        importlib.invalidate_caches()
        kernel_cache._of_imports.cache_clear()
        return importlib.import_module("package_for_tests.caller")

    assert load(2).plus(3) == 7
    again = load(2)
    assert again.plus(3) == 7 and _compiled(again.plus) == 0
    changed = load(5)
    assert changed.plus(3) == 16 and _compiled(changed.plus) == 1


def test_machine_code_of_another_source_is_not_run(module, tmp_path):
    """Named in the index of a newer source, whose writer ended before it wrote its own."""
    assert module(2).twice(4) == 8
    (file,) = _files(tmp_path / "cache", ".nbc")
    older = file.read_bytes()
    assert module(3).twice(4) == 12
    file.write_bytes(older)
    again = module(3)
    assert again.twice(4) == 12 and _compiled(again.twice) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_nothing_can_be_written(module, monkeypatch, code):
    """A disk that is full, a folder that became read-only, after numba looked at it."""
    written, opened = [], open

    def full(file, mode="r", *rest, **options):
        if ".tmp." in str(file) and "w" in mode:
            written.append(file)
            raise OSError(code, os.strerror(code))
        return opened(file, mode, *rest, **options)

    monkeypatch.setattr("builtins.open", full)
    loaded = module()
    assert loaded.twice(4) == 8 and loaded.twice(0.5) == 1.0
    assert len(written) == 1  # it does not try again


def test_a_folder_that_goes_away(module, tmp_path, monkeypatch):
    loaded = module()
    loaded.twice.compiled()

    def nowhere(*arguments, **options):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(tempfile, "TemporaryFile", nowhere)
    assert loaded.twice(4) == 8
    assert _files(tmp_path / "cache", ".nbc") == []


def test_a_process_that_was_stopped_while_it_compiled_is_waited_for_once(module, tmp_path, monkeypatch):
    """By Ctrl-Z, with the locks of two kernels."""
    monkeypatch.setattr(kernels, "_IMPATIENT", threading.Event())
    monkeypatch.setattr(kernels, "_PATIENCE", 0.0)
    loaded = module()
    assert loaded.twice(4) == 8 and loaded._inner(4) == 5
    locks = _files(tmp_path / "cache", ".lock")
    for file in _files(tmp_path / "cache", ".nb?"):
        file.unlink()
    assert len(locks) == 2 and not kernels._IMPATIENT.is_set()
    with contextlib.ExitStack() as stopped:
        for lock in locks:
            fcntl.flock(stopped.enter_context(lock.open()), fcntl.LOCK_EX)
        loaded = module()
        assert loaded.twice(4) == 8 and kernels._IMPATIENT.is_set()
        monkeypatch.setattr(kernels, "_PATIENCE", math.inf)
        assert loaded._inner(4) == 5


def test_threads_that_compile_what_calls_each_other(module, monkeypatch):
    """Neither waits for the lock of a file that the other has, which waits for numba's."""
    loaded, alone = module(), kernels._alone
    loaded.outer.compiled()
    found, asked, done = [], threading.Event(), threading.Event()

    def call_outer():
        found.append(loaded.outer(1))
        done.set()

    second = threading.Thread(target=call_outer, daemon=True)

    @contextlib.contextmanager
    def in_turn(path):
        if path.name.endswith("_inner.lock"):
            if threading.current_thread() is second:
                asked.set()
            else:
                with alone(path):
                    second.start()
                    asked.wait(0.5)  # where it can get as far as this it waits for the file now
                    yield
                return
        with alone(path):
            yield

    monkeypatch.setattr(kernels, "_alone", in_turn)
    monkeypatch.setattr(kernels, "_PATIENCE", 3600.0)
    first = threading.Thread(target=lambda: found.append(loaded._inner(1)), daemon=True)
    first.start()
    assert done.wait(300)
    first.join(300)
    assert found == [2, 2]
