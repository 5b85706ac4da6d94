"""Kernels are compiled whether or not there is a folder for what was compiled."""

import dis
import gc
import importlib
import os
import pkgutil
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

import vfl
from vfl import kernels
from vfl.crypto.lattice import products


@pytest.mark.parametrize("decorator", [kernels.kernel, kernels.inlined])
def test_nothing_can_be_cached(monkeypatch, decorator):
    compiler, asked = numba.njit, []

    def nowhere(*functions, **options):
        if "nogil" not in options:  # numba's own
            return compiler(*functions, **options)
        asked.append(options.pop("cache", False))
        if asked[-1]:
            raise RuntimeError("no locator available")
        return compiler(**options)

    with monkeypatch.context() as patch:
        patch.setattr(numba, "njit", nowhere)
        double = decorator(lambda x: 2 * x)
        assert asked == []  # until it is called
        assert double(4) == 8
    assert asked[:2] == [True, False]


@kernels.inlined
def _half(x):
    return x / 2


@kernels.kernel
def _halves(x):
    return _half(x) + _quarter(x)


@kernels.kernel
def _quarter(x):
    return _half(_half(x))


def test_a_kernel_may_call_others_in_any_order_of_their_first_calls():
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(_halves, [4.0] * 8)) == {3.0}
    assert _quarter(8.0) == 2.0 and _half(8.0) == 4.0


def test_no_thread_gets_a_kernel_before_all_that_it_calls_is_made(monkeypatch):
    @kernels.inlined
    def called(x):
        return x + 1

    monkeypatch.setitem(globals(), "_called_late", called)
    calling = kernels.kernel(_calls_late)
    seen, make = [], kernels._compiled

    def look(function, **options):
        seen.append((calling.is_compiled, called.is_compiled, globals()["_called_late"] is called))
        return make(function, **options)

    monkeypatch.setattr(kernels, "_compiled", look)
    assert calling(3.0) == 4.0
    assert (False, False, True) in seen and set(seen) == {(False, False, True)}
    assert calling.is_compiled and called.is_compiled and globals()["_called_late"] is called


def _calls_late(x):
    return _called_late(x)  # noqa: F821 - set by the test


def test_kernels_call_each_other_by_name():
    """numba takes one that is had from a module or not, as that module's own came first or not."""
    through_modules, count = [], 0
    for module in pkgutil.walk_packages(vfl.__path__, "vfl."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, kernels._Kernel):
                count += 1
                through_modules += _called_through_modules(value._function)
    assert count > 50 and through_modules == []


def _called_through_modules(function):
    """Names of kernels that a function has from a module which is one of its globals."""
    module = None
    for step in dis.get_instructions(function):
        of_module = isinstance(module, types.ModuleType) and step.opname in ("LOAD_ATTR", "LOAD_METHOD")
        if of_module and isinstance(vars(module).get(step.argval), kernels._Kernel):
            yield f"{function.__module__}.{function.__name__}: {module.__name__}.{step.argval}"
        module = function.__globals__.get(step.argval) if step.opname == "LOAD_GLOBAL" else None


def test_what_compiles_nothing_does_not_wait_for_the_compiler():
    code = """if True:
        import importlib
        import sys

        for module in ("alignments", "relativities", "doctor", "diagnosis", "report"):
            importlib.import_module(f"vfl.jobs.{module}")
            for name in ("numba", "llvmlite", "scipy", "pandas", "sklearn"):
                if name in sys.modules:
                    print(module, "imports", name)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""


def test_who_waits_for_the_compiler_is_called_once_it_is_there():
    code = """if True:
        import sys
        from vfl.kernels import kernel, with_compiler

        called = []
        with with_compiler(lambda: called.append("too late")):
            pass
        with with_compiler(lambda: called.append("numba" in sys.modules)):
            assert not called and "numba" not in sys.modules
            assert kernel(lambda x: 2 * x)(4) == 8
        with with_compiler(lambda: called.append("at once")):
            print(called)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[True, 'at once']\n"


TWO = """if True:
    import sys
    import numba
    from vfl.crypto.lattice import products, randomness

    kernel, drawn = randomness._to_ternary, randomness.words(bytes(32), "", 4)
    sys.stdin.readline()
    print(randomness._ternary(drawn).shape, sum(kernel.compiled().stats.cache_misses.values()))
"""


def test_a_kernel_that_two_processes_need_at_once_is_compiled_by_one(tmp_path):
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TWO],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for one in both:
        one.stdin.write("\n")
        one.stdin.flush()
    said = sorted(one.communicate()[0] for one in both)
    assert said == ["(4,) 0\n", "(4,) 1\n"]


def test_a_kernel_is_compiled_where_its_lock_cannot_be_had(tmp_path, monkeypatch):
    """A folder in which nothing can be made, and a process that stands still with the lock."""
    with kernels._alone(tmp_path / "none" / "x.lock"):
        pass
    monkeypatch.setattr(kernels, "_PATIENCE", 0.05)
    with kernels._alone(tmp_path / "x.lock"), kernels._alone(tmp_path / "x.lock"):
        pass


def test_a_hint_in_a_file_needs_no_kernel_of_its_own():
    """It may not be written, as one that was received just now may."""
    rng, width, depth = np.random.default_rng(1), 16, products.TOGETHER
    small = products.side_by_side(rng.integers(-1, 2, (1, width * depth), np.int8), width, depth)
    powers = rng.normal(size=(1, width, 2))
    reals = products.aligned(depth * 2 * products.LIMBS).reshape(1, depth, -1)
    reals[:] = rng.normal(size=reals.shape)
    found = []
    for writeable in (True, False):
        reals.flags.writeable = writeable
        found.append(products.zeros(1, 1, 1))
        products.multiply(small, powers, reals, 0, found[-1])
        assert reals.flags.writeable == writeable
    assert found[0].any() and np.array_equal(*found)
    assert len(products._multiply.compiled().overloads) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system forks no processes")
def test_the_collector_is_on_again_after_compiling():
    """After an error, within what is compiled for something else, and in a process that was forked
    meanwhile."""
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), kernels._uncollected(), kernels._uncollected():
        assert not gc.isenabled()
        if not (pid := os.fork()):
            os._exit(gc.isenabled())
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        raise ZeroDivisionError
    assert gc.isenabled()
    gc.disable()
    try:
        with kernels._uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
