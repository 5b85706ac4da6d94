"""Kernels compiled before any job needs them."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import pytest
from click.testing import CliRunner

from vfl.cli import main
from vfl.estimators import beforehand
from vfl.jobs.compiling import how_to_keep
from vfl.kernels import kernel

COUNT = """if True:
    from numba.core.event import install_recorder
    from vfl.estimators.beforehand import compile_beforehand

    with install_recorder("numba:compile") as compiled:
        assert compile_beforehand()
    print(len(compiled.buffer))
"""


def _doctor(*more):
    return CliRunner().invoke(main, ["doctor", "insurer.toml", "--wait", "0", "--compile", *more])


@pytest.fixture
def drafted(tmp_path, monkeypatch):
    """A party file without keys, which is enough for the doctor to begin."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "insurer.csv").write_text("id,age,claim\n" + "".join(f"p{i},{i},0\n" for i in range(40)))
    words = ["init", "insurer", "--role", "guest", "--host", "bureau=bureau:7001"]
    words += ["--data", "insurer.csv"]
    made = CliRunner().invoke(main, [*words, "--id", "id", "--label", "claim"])
    assert made.exit_code == 0, made.output


@pytest.mark.usefixtures("drafted")
@pytest.mark.parametrize("kept", [True, False])
def test_the_doctor_says_whether_it_is_kept(monkeypatch, kept):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(beforehand, "compile_beforehand", lambda: kept)
    lines = _doctor().stdout.splitlines()
    said = [line for line in lines if "kernels: " in line]
    assert said == [
        "ok    kernels: compiled for this machine, and kept"
        if kept
        else f"FAIL  kernels: no folder keeps them: {how_to_keep()}"
    ]


@pytest.mark.usefixtures("drafted")
def test_a_full_disk_keeps_nothing(tmp_path, monkeypatch):
    """Though there is a folder, and numba could write to it when it looked."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", os.fspath(tmp_path / "cache"))
    opened = open

    def full(file, mode="r", *rest, **options):
        if ".tmp." in str(file) and "w" in mode:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(file, mode, *rest, **options)

    monkeypatch.setattr("builtins.open", full)

    def compile_one():
        assert kernel(added)(1) == 2
        return True

    monkeypatch.setattr(beforehand, "compile_beforehand", compile_one)
    done = _doctor()
    before, after = done.stderr.splitlines()[:2]
    assert before == "compiling for this machine what was not needed before, some 25 s of a core"
    reason = r"/.*/cache/\S+: No space left on device: make room there, or set NUMBA_CACHE_DIR to .*"
    assert re.fullmatch(f"what is compiled cannot be kept for the next start: {reason}", after)
    (line,) = [line for line in done.stdout.splitlines() if "kernels: " in line]
    assert re.fullmatch(f"FAIL  kernels: they cannot be kept: {reason}", line)


def added(cell):
    return cell + 1


def test_a_variable_that_names_no_folder_to_write_is_told_from_none(monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert how_to_keep() == "set NUMBA_CACHE_DIR to a folder that this user may write"
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/none")
    assert how_to_keep().startswith("this user may not write the folder that NUMBA_CACHE_DIR names")


@pytest.mark.usefixtures("drafted")
def test_peers_may_still_be_to_come(monkeypatch):
    """As right after an install."""
    monkeypatch.setattr(beforehand, "compile_beforehand", lambda: True)
    party = Path("insurer.toml")
    party.write_text(party.read_text().split("[peers.")[0])
    done = _doctor()
    assert "ok    kernels: compiled for this machine, and kept" in done.stdout
    assert done.exit_code == 1 and re.search("FAIL  party: .*\\[peers\\] is empty", done.stdout)
    found = json.loads(_doctor("--json").stdout)
    assert not found["healthy"] and [one["level"] for one in found["findings"]] == ["ok", "FAIL"]


def test_nothing_is_played_where_no_folder_keeps_it(monkeypatch):
    monkeypatch.setattr(beforehand, "is_kept", lambda kernel: False)
    monkeypatch.setattr(beforehand, "SecureBoost", None)
    assert not beforehand.compile_beforehand()


@pytest.mark.slow
def test_another_process_compiles_nothing(tmp_path):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    counts = [
        int(subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True).stdout)
        for _ in range(2)
    ]
    assert counts[0] > 100 and counts[1] == 0
