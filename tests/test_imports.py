"""What commands load: those that read no table start without the libraries of tables and models."""

import json
import subprocess
import sys
from pathlib import Path

SCENARIO = Path(__file__).resolve().parents[1] / "scenarios" / "car_insurance"

# In one process, command after command; what any of them loads stays loaded.
COMMANDS = """
import contextlib, json, sys
from vfl.cli import main
from vfl.errors import VflError
heavy = {"lightgbm", "matplotlib", "numba", "pandas", "polars", "pyarrow", "scipy", "sklearn"}
loaded = {}
for arguments in json.loads(sys.argv[1]):
    with contextlib.suppress(VflError):  # no ledger, no model
        main(arguments, standalone_mode=False)
    loaded[" ".join(arguments)] = sorted(heavy & {*sys.modules})
print(json.dumps({name: found for name, found in loaded.items() if found}), file=sys.stderr)
"""
WORK = """
import sys, vfl.cli
import vfl.jobs.coordinator, vfl.jobs.doctor, vfl.jobs.training, vfl.jobs.host, vfl.jobs.scoring
print({"lightgbm", "matplotlib", "pandas", "polars", "scipy.fft", "sklearn"} & {*sys.modules})
"""


def run(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )


def test_commands_without_a_table_load_no_library_of_tables(tmp_path: Path) -> None:
    party = str(SCENARIO / "insurer" / "insurer.toml")
    host, job = str(SCENARIO / "registry" / "registry.toml"), "claim-probability.toml"
    commands = [
        ["--help"],
        ["--version"],
        *([name, "--help"] for name in ("align", "train", "score", "serve", "doctor", "report")),
        ["keys", "new", "insurer", "--dir", str(tmp_path)],
        ["keys", "show", str(tmp_path / "insurer.pem")],
        ["config", "schema", "party"],
        ["config", "schema", "job"],
        ["policy", "check", str(SCENARIO / "insurer" / job), host],
        ["policy", "agreement", party, "--model", "claims"],
        ["ledger", "show", party],
        ["ledger", "verify", party],
        ["ledger", "compare", party, party],
    ]
    done = run(COMMANDS, json.dumps(commands))
    assert json.loads(done.stderr.splitlines()[-1]) == {}
    for shown in ("Usage: vfl", "vfl, version ", "fingerprint", '"$schema"', "registry allows "):
        assert shown in done.stdout or shown in done.stderr, shown


def test_jobs_begin_without_the_libraries_of_the_estimators() -> None:
    """pandas, for one, comes with the first array that a table is read into, not before."""
    assert run(WORK).stdout == "set()\n"
