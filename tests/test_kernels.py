"""Kernels are compiled whether or not there is a folder for what was compiled."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import pytest

from vfl import kernels


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


@pytest.mark.parametrize("module", ["alignments", "relativities", "doctor", "diagnosis", "report"])
def test_what_compiles_nothing_does_not_wait_for_the_compiler(module):
    names = "('numba', 'llvmlite', 'scipy', 'pandas', 'sklearn')"
    code = f"import sys, vfl.jobs.{module}; print([n for n in {names} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


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
