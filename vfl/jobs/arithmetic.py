"""In which arithmetic a run was computed, and how a replay is computed in the same.

All that is encrypted, masked or hashed is integers, and sums over rows are the same in any order
(learn/exact.py). What differs between machines in the last place of real numbers, and reaches messages
of linear models, and with a rare gradient those of trees:

- exponentials, logarithms and powers: numpy's own with AVX-512, else the C library's, which has one kind
  for processors with fused multiplication and addition and one for those without;
- products of matrices and equations: OpenBLAS has kernels for families of processors, and adds up in
  another order with another number of threads.

A run writes down what its machine has of these, by name, and digests of what it makes of the same
numbers. Names say how to have it again: variables of the environment tell numpy, OpenBLAS and the C
library, before they are loaded, to leave newer instructions alone. Digests decide whether that has been
enough, also between machines of other names.
"""

import contextlib
import hashlib
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from threadpoolctl import ThreadpoolController, threadpool_limits

from vfl.arrays import Floats
from vfl.errors import ModelError
from vfl.jobs.show import Show
from vfl.text import counted, in_words

TOLD = "VFL_ARITHMETIC"
"""The variable of a process that was started to compute as another machine."""

_NO_VECTORS = "NPY_DISABLE_CPU_FEATURES"
_CORE = "OPENBLAS_CORETYPE"
_TUNABLES = "GLIBC_TUNABLES"
_HWCAPS = "glibc.cpu.hwcaps"
_VERSIONS = ("numpy", "scipy", "numba")
_AVX512 = frozenset(("avx512f", "avx512cd", "avx512dq", "avx512bw", "avx512vl"))
_CORES: Mapping[str, frozenset[str]] = {
    "Prescott": frozenset(("pni",)),
    "Core2": frozenset(("ssse3",)),
    "Nehalem": frozenset(("sse4_2",)),
    "Sandybridge": frozenset(("avx",)),
    "Haswell": frozenset(("avx2", "fma")),
    "Zen": frozenset(("avx2", "fma")),
    "SkylakeX": _AVX512,
    "Cooperlake": _AVX512 | {"avx512_bf16"},
}
"""What a processor needs, by Linux's names, to run OpenBLAS's kernels for a family: OpenBLAS does not
look when it is told."""


class Blas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The library of numpy's products of matrices."""

    library: str  # such as "openblas"
    version: str
    core: str  # the processors that its kernels are for
    threads: int


class Arithmetic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a process makes of real numbers."""

    machine: str  # such as "x86_64"
    system: str  # such as "Linux"
    libc: str  # such as "glibc 2.36"
    fused: bool  # whether the C library multiplies and adds in one rounding
    python: str
    versions: Mapping[str, str]  # of libraries
    vectors: list[str]  # instruction sets that numpy uses beyond those it needs
    blas: Blas | None  # None: of an unknown kind
    made: Mapping[str, str]
    """By what is computed, SHA-256 of results for the same numbers, 16 bytes in hex."""


def present() -> Arithmetic:
    """That of this process. Takes a tenth of a second at most, once."""
    return Arithmetic(
        platform.machine(),
        platform.system(),
        " ".join(platform.libc_ver()),
        _is_fused(),
        platform.python_version(),
        {name: version(name) for name in _VERSIONS},
        _vectors(),
        blas := _blas(),
        _made(0 if blas is None else blas.threads),
    )


def differing(one: Arithmetic, other: Arithmetic) -> list[str]:
    """What two machines compute differently, in words."""
    return [what for what in {**one.made, **other.made} if one.made.get(what) != other.made.get(what)]


def variables_for(there: Arithmetic, here: Arithmetic, known: Mapping[str, str]) -> dict[str, str]:
    """With which variables of the environment a process of this machine computes as `there`, as near as
    can be told; none where it does already, or cannot.

    known: the environment that `here` is of.
    """
    same = (there.machine, there.system) == (here.machine, here.system)
    if not same or TOLD in known or not differing(there, here):
        return {}
    found = {}
    if surplus := [one for one in here.vectors if one not in there.vectors]:
        found[_NO_VECTORS] = " ".join([*known.get(_NO_VECTORS, "").replace(",", " ").split(), *surplus])
    if here.fused and not there.fused:
        kept = [one for one in known.get(_TUNABLES, "").split(":") if one and _HWCAPS not in one]
        found[_TUNABLES] = ":".join([*kept, f"{_HWCAPS}={','.join([*_hwcaps(known), '-FMA', '-FMA4'])}"])
    if there.blas is not None and here.blas is not None and there.blas.core != here.blas.core:
        needed = _CORES.get(there.blas.core)
        if needed is not None and needed <= _flags():
            found[_CORE] = there.blas.core
    return found


@contextlib.contextmanager
def computing_as(there: Arithmetic | None, run: str, show: Show, *, any_machine: bool) -> Iterator[None]:
    """The block of a replay of a run that was computed so; None: of a run that has not said how.

    Products of matrices are spread over as many threads as in the run. Raises ModelError where this
    process computes otherwise, unless it is to play on any machine.
    """
    if there is None:
        yield
        return
    with threads_of(there):
        here = present()
        if what := differing(there, here):
            other = f"{run} was computed on a machine that computes otherwise than this one"
            other = f"{other}: not the same are {in_words(what)} ({_names(there, here)})"
            if not any_machine:
                raise ModelError(
                    f"{other}: replay it on a machine of that kind, or add --any-machine, where a "
                    "message that differs may come from that alone"
                )
            show.say(f"note: {other}: a message that differs may come from that alone")
        yield


def threads_of(there: Arithmetic) -> AbstractContextManager[object]:
    """The block in which products of matrices are spread over as many threads as there."""
    limits: AbstractContextManager[object] = threadpool_limits(
        None if there.blas is None else there.blas.threads, "blas"
    )
    return limits


def describe(variables: Mapping[str, str]) -> str:
    """What a process does that has these variables, in words."""
    said = []
    if _NO_VECTORS in variables:
        said.append(f"numpy without {in_words(variables[_NO_VECTORS].split())}")
    if _CORE in variables:
        said.append(f"OpenBLAS as for {variables[_CORE]}")
    if _TUNABLES in variables:
        said.append("the C library without fused multiplication")
    return in_words(said)


def _names(there: Arithmetic, here: Arithmetic) -> str:
    """By which names the machines differ."""
    found = [
        f"{what} {was or 'none'} there, {now or 'none'} here"
        for what, was, now in zip(_WHAT, _named(there), _named(here), strict=True)
        if was != now
    ]
    return "; ".join(found) or "by no name that is known"


_WHAT = ("machine", "libc", "fused multiplication", *_VERSIONS, "vector instructions", "BLAS")


def _named(one: Arithmetic) -> Sequence[str]:
    blas = one.blas
    named = "" if blas is None else f"{blas.library} {blas.version} for {blas.core}"
    return (
        f"{one.machine} {one.system}",
        one.libc,
        "yes" if one.fused else "no",
        *(one.versions.get(name, "") for name in _VERSIONS),
        in_words(one.vectors) if one.vectors else "",
        "" if blas is None else f"{named}, {counted(blas.threads, 'thread')}",
    )


def _vectors() -> list[str]:
    """Instruction sets that numpy has code for and uses, by its own names."""
    found: Any = np.show_config("dicts")
    return [str(one) for one in found["SIMD Extensions"].get("found", ())]


def _blas() -> Blas | None:
    found = [one for one in ThreadpoolController().info() if one["user_api"] == "blas"]
    # scipy has one of its own, which no message depends on.
    own = [one for one in found if "numpy" in str(one["filepath"])] or found
    if not own:
        return None
    first = own[0]
    return Blas(
        str(first["internal_api"]),
        str(first["version"]),
        str(first.get("architecture", "")),
        int(first["num_threads"]),
    )


def _is_fused() -> bool:
    """Whether glibc takes its functions for processors that have FMA (its `ifunc-fma4.h`)."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    off = {one[1:].lower() for one in _hwcaps(os.environ) if one.startswith("-")}
    flags = {one for one in ("avx2", "fma", "fma4") if one in _flags() and one not in off}
    return {"avx2", "fma"} <= flags or "fma4" in flags


def _hwcaps(environment: Mapping[str, str]) -> list[str]:
    """What glibc was told of instructions of the processor."""
    for one in environment.get(_TUNABLES, "").split(":"):
        name, _, value = one.partition("=")
        if name == _HWCAPS:
            return [word for word in value.split(",") if word]
    return []


def _flags() -> frozenset[str]:
    """What Linux says that the processor can; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.splitlines())
    return next(
        (frozenset(value.split()) for name, _, value in lines if name.strip() == "flags"), frozenset()
    )


@lru_cache(maxsize=4)
def _made(threads: int) -> Mapping[str, str]:
    """With products spread over so many threads, as they are now."""
    x = _numbers(40_000)
    with np.errstate(all="ignore"):
        return {what: _digest(make(x)) for what, make in _MAKERS.items()}


def _numbers(count: int) -> Floats:
    """Between -8 and 8, the same wherever IEEE 754 holds: multiples of 2^-28, mixed as in Murmur3."""
    drawn = np.arange(1, count + 1, dtype=np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        drawn = (drawn ^ (drawn >> np.uint32(shift))) * np.uint32(factor)
    drawn ^= drawn >> np.uint32(16)
    return np.asarray((drawn.astype(np.float64) - 2.0**31) * 2.0**-28)


def _digest(results: Sequence[object]) -> str:
    parts = (np.ascontiguousarray(one, np.float64).tobytes() for one in results)
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]


def _functions(x: Floats) -> Sequence[object]:
    x, y = x[:4096], np.abs(x[:4096]) + 2.0**-20
    functions = (np.exp, np.expm1, np.tanh, np.cos)
    of_positive = (np.log, np.log1p, np.log2, np.log10, np.sqrt)
    found = [*(one(x) for one in functions), *(one(y) for one in of_positive)]
    return [*found, np.logaddexp(0.0, x), y**1.37, y**-0.5, np.exp(x[0]), np.log(y[0])]


def _of_c(x: Floats) -> Sequence[object]:
    values = [abs(one) + 2.0**-20 for one in x[:4096].tolist()]
    functions = (math.exp, math.log, math.log1p, math.expm1, math.log2, math.log10, math.cos)
    return [*([one(value) for value in values] for one in functions), [value**1.37 for value in values]]


def _sums(x: Floats) -> Sequence[object]:
    table = x.reshape(400, 100)
    by_place = np.bincount(np.arange(len(x)) % 37, weights=x)
    pieces = np.add.reduceat(x, np.arange(0, len(x), 97))
    products = np.einsum("ij,ij->i", table, table)
    sums = [x.sum(), table.sum(axis=0), table.sum(axis=1), table.std(axis=0), np.cumsum(x)]
    return [*sums, by_place, pieces, products]


def _products(x: Floats) -> Sequence[object]:
    table = x.reshape(1000, 40)
    left, right = table[:, :17], table[:, 17:]
    small = [table[:7, :n] @ table[:n, :3] for n in (1, 2, 3, 5, 8, 13)]
    # Vectors with tables too small for several threads, which here would wait for each other.
    by_vectors = [table[:200] @ x[:40], x[:200] @ table[:200]]
    return [x @ x, table.T @ table, left.T @ right, *by_vectors, *small]


def _equations(x: Floats) -> Sequence[object]:
    found: list[object] = [np.linalg.norm(x)]
    for size in (3, 6, 24):
        # Of whole numbers, so that only what is solved differs.
        whole = np.rint(x[: size * 60].reshape(60, size) * 4)
        gram = np.add.reduce(whole[:, :, np.newaxis] * whole[:, np.newaxis], axis=0)
        found += [np.linalg.inv(gram), np.linalg.cholesky(gram), np.linalg.solve(gram, x[:size])]
        found += [*np.linalg.eigh(gram), np.linalg.qr(whole)[0]]
    return found


def _random(x: Floats) -> Sequence[object]:
    generator = np.random.default_rng([5, len(x)])
    drawn = [generator.random(64), generator.permutation(64), generator.integers(1000, size=64)]
    return [*drawn, generator.choice(500, 64, replace=False)]


_MAKERS: Mapping[str, Callable[[Floats], Sequence[object]]] = {
    "functions of numpy": _functions,
    "functions of the C library": _of_c,
    "sums of numpy": _sums,
    "products of matrices": _products,
    "equations of matrices": _equations,
    "random numbers of numpy": _random,
}
