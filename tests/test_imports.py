"""What commands load, and who knows which kind a model is.

Commands that read no table start without the libraries of tables and models.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import vfl
from vfl.models.kinds import KINDS

PACKAGE = Path(vfl.__file__).parent
MODELS = {"GuestModel", "HostModel", "GuestGlm", "HostGlm"}
SCENARIO = Path(__file__).resolve().parents[1] / "scenarios" / "car_insurance"

# In one process, command after command; what any of them loads stays loaded.
COMMANDS = """
import contextlib, json, sys
from vfl.cli import main
from vfl.errors import VflError
heavy = {"lightgbm", "matplotlib", "numba", "pandas", "polars", "pyarrow", "scipy", "sklearn"}
heavy |= {"fastapi", "prometheus_client", "starlette", "uvicorn"}
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
print({"lightgbm", "matplotlib", "pandas", "polars", "scipy.fft", "sklearn", "fastapi"} & {*sys.modules})
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
        ["online", "--help"],
        ["online", "token", "quotes", "--file", str(tmp_path / "tokens.toml")],
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


def test_nobody_but_the_kinds_of_models_asks_which_one_it_is() -> None:
    """A further kind is a file of vfl/models: jobs, reports and commands ask the kind itself."""
    own = {"vfl.models.trees", "vfl.models.linear"}
    rooms = [PACKAGE / room for room in ("jobs", "report", "terminal", "cli", "frames")]
    files = [PACKAGE / "simulate.py", *(file for room in rooms for file in room.glob("*.py"))]
    for file in files:
        if file.name == "coordinator.py":  # plays a role of its own, of one kind
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in own, f"{file} imports {node.module}"
                assert not {name.name for name in node.names} & MODELS, f"{file}:{node.lineno}"
            if isinstance(node, ast.Compare):
                words = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant)}
                assert not words & KINDS.keys(), f"{file}:{node.lineno} asks for a kind"
