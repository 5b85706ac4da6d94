"""Kernels are compiled whether or not there is a folder for what was compiled."""

import numba
import pytest

from vfl import kernels


@pytest.mark.parametrize("decorator", [kernels.kernel, kernels.inlined])
def test_nothing_can_be_cached(monkeypatch, decorator):
    compiler, asked = numba.njit, []

    def nowhere(**options):
        asked.append(options.pop("cache", False))
        if asked[-1]:
            raise RuntimeError("no locator available")
        return compiler(**options)

    with monkeypatch.context() as patch:
        patch.setattr(kernels.numba, "njit", nowhere)
        double = decorator(lambda x: 2 * x)
    assert double(4) == 8
    assert asked == [True, False]
