"""Kernels compiled before any job needs them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from vfl.cli import main
from vfl.estimators import beforehand

COUNT = """if True:
    from numba.core.event import install_recorder
    from vfl.estimators.beforehand import compile_beforehand

    with install_recorder("numba:compile") as compiled:
        assert compile_beforehand()
    print(len(compiled.buffer))
"""


def _doctor():
    return CliRunner().invoke(main, ["doctor", "insurer.toml", "--wait", "0", "--compile"])


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
    monkeypatch.setattr(beforehand, "compile_beforehand", lambda: kept)
    lines = _doctor().stdout.splitlines()
    said = [line for line in lines if "kernels: " in line]
    assert said == [
        "ok    kernels: compiled for this machine, and kept"
        if kept
        else "FAIL  kernels: no folder keeps them: set NUMBA_CACHE_DIR to one that this user may write"
    ]


@pytest.mark.usefixtures("drafted")
def test_peers_may_still_be_to_come(monkeypatch):
    """As right after an install."""
    monkeypatch.setattr(beforehand, "compile_beforehand", lambda: True)
    party = Path("insurer.toml")
    party.write_text(party.read_text().split("[peers.")[0])
    done = _doctor()
    assert "ok    kernels: compiled for this machine, and kept" in done.stdout
    assert done.exit_code == 2 and "[peers] is empty" in done.output


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
