"""Runs of machines that compute real numbers otherwise, replayed on this one."""

import json
import platform
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from commands import command, environment
from room import Said

from vfl.errors import ModelError
from vfl.jobs import arithmetic
from vfl.jobs.arithmetic import TOLD, Arithmetic, Blas, computing_as, differing, present, variables_for
from vfl.jobs.evidence import find_evidence
from vfl.jobs.replaying import variables_of
from vfl.party.store import Store

NEWER = Arithmetic(
    "x86_64",
    "Linux",
    "glibc 2.36",
    True,
    "3.11.7",
    {"numpy": "2.4.6", "scipy": "1.17.1", "numba": "0.68.1"},
    ["X86_V3", "X86_V4"],
    Blas("openblas", "0.3.31", "SkylakeX", 2),
    {"exponentials": "a", "products": "a"},
)
OLDER = msgspec.structs.replace(
    NEWER,
    fused=False,
    vectors=[],
    blas=Blas("openblas", "0.3.31", "Nehalem", 2),
    made={"exponentials": "b", "products": "a"},
)
PROCESSOR = "sse4_2 avx avx2 fma"


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "_flags", lambda: frozenset(PROCESSOR.split()))


@pytest.mark.usefixtures("processor")
def test_variables_leave_out_what_the_other_machine_has_not() -> None:
    found = variables_for(OLDER, NEWER, {})
    assert found == {
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-FMA4",
        "OPENBLAS_CORETYPE": "Nehalem",
    }
    assert arithmetic.describe(found) == (
        "numpy without X86_V3 and X86_V4, OpenBLAS as for Nehalem and the C library without fused "
        "multiplication"
    )


@pytest.mark.usefixtures("processor")
def test_variables_keep_what_the_environment_has_said_before() -> None:
    tunables = "glibc.malloc.check=0:glibc.cpu.hwcaps=-ERMS"
    known = {"NPY_DISABLE_CPU_FEATURES": "AVX512_ICL", "GLIBC_TUNABLES": tunables}
    found = variables_for(OLDER, NEWER, known)
    assert found["NPY_DISABLE_CPU_FEATURES"] == "AVX512_ICL X86_V3 X86_V4"
    assert found["GLIBC_TUNABLES"] == "glibc.malloc.check=0:glibc.cpu.hwcaps=-ERMS,-FMA,-FMA4"


@pytest.mark.usefixtures("processor")
def test_there_are_no_variables_for_what_this_machine_cannot_do() -> None:
    assert variables_for(NEWER, OLDER, {}) == {}  # its kernels need AVX-512
    assert variables_for(OLDER, NEWER, {TOLD: "1"}) == {}  # they did not suffice
    assert variables_for(msgspec.structs.replace(OLDER, machine="aarch64"), NEWER, {}) == {}
    assert variables_for(msgspec.structs.replace(OLDER, made=NEWER.made), NEWER, {}) == {}


def test_what_differs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "present", lambda: OLDER)
    said = Said()
    with (
        pytest.raises(ModelError) as refused,
        computing_as(NEWER, "run 01", said, any_machine=False),
    ):
        pass
    assert str(refused.value) == (
        "run 01 was computed on a machine that computes otherwise than this one: not the same are "
        "exponentials (fused multiplication yes there, no here; vector instructions X86_V3 and X86_V4 "
        "there, none here; BLAS openblas 0.3.31 for SkylakeX, 2 threads there, openblas 0.3.31 for "
        "Nehalem, 2 threads here): replay it on a machine of that kind, or add --any-machine, where a "
        "message that differs may come from that alone"
    )
    assert not said.lines
    with computing_as(NEWER, "run 01", said, any_machine=True):
        assert said.has("note: run 01 was computed on a machine that computes otherwise")
    with computing_as(None, "run 01", Said(), any_machine=False):
        pass  # a run of a version that has not said


def test_each_thing_that_is_computed_shows_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    before = present()
    assert differing(before, present()) == []
    log = np.log
    arithmetic._made.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(np, "log", lambda x: np.nextafter(log(x), np.inf))
        other = present()
    arithmetic._made.cache_clear()
    assert differing(before, other) == ["functions of numpy"]


@dataclass
class Elsewhere:
    """Parties that have trained on a machine without fused multiplication, or wide vectors."""

    folder: Path

    def there(self, name: str) -> Path:
        return self.folder / name / f"{name}.toml"

    def store(self, name: str) -> Store:
        return Store(self.folder / name / "vfl-store")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Elsewhere:
    here = present()
    if not here.fused or platform.libc_ver()[0] != "glibc" or here.machine != "x86_64":
        pytest.skip("needs glibc and a processor that can be told to compute as an older one")
    folder = tmp_path_factory.mktemp("elsewhere") / "room"
    folder.mkdir()
    older = {
        "NPY_DISABLE_CPU_FEATURES": " ".join(here.vectors),
        "OPENBLAS_CORETYPE": "Nehalem",
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA",
    }
    script = Path(__file__).with_name("elsewhere.py")
    subprocess.run(
        [sys.executable, script, folder, keys], env={**environment(), **older}, check=True, timeout=240
    )
    return Elsewhere(folder)


@pytest.mark.slow
def test_a_run_of_an_older_processor_replays(elsewhere: Elsewhere) -> None:
    replay = ("audit", "replay", elsewhere.there("insurer"), "--run=linear", "--json")
    done = subprocess.run(
        [sys.executable, "-m", "vfl", *replay],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("note: computing as the machine of the run: ")
    assert "OpenBLAS as for Nehalem and the C library without fused multiplication\n" in done.stderr
    (found,) = json.loads(done.stdout)["runs"]
    assert found["complete"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["insurer", "bureau"])
def test_it_is_refused_or_differs_where_the_processor_is_taken_for_what_it_is(
    elsewhere: Elsewhere, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOLD, "1")
    replay = ("audit", "replay", str(elsewhere.there(name)), "--run", "linear")
    line = command(*replay).failed(5, "computes otherwise", "functions of the C library", "Nehalem")
    assert "fused multiplication no there, yes here" in line
    done = command(*replay, "--any-machine")
    assert done.code == 1
    assert "a message that differs may come from that alone" in done.err
    assert done.errors[0].startswith("error: message ")


def test_runs_of_several_kinds_are_replayed_one_by_one(elsewhere: Elsewhere) -> None:
    store = elsewhere.store("registry")
    aligned, trained = find_evidence(store)
    assert variables_of(store, [aligned]) == {}  # of no real numbers
    assert variables_of(store, [aligned, trained])["OPENBLAS_CORETYPE"] == "Nehalem"
    again = replace(trained, run="0" * 64, arithmetic=present())
    assert variables_of(store, [again]) == {}
    with pytest.raises(ModelError, match="machines of several kinds: replay them one by one"):
        variables_of(store, [trained, again])
