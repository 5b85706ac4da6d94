"""MLflow servers that answer oddly, never or for others; models of MLflow that were changed."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import command
from federation import JOB, Federation, free_port, toml
from kept_parties import copy_parties
from mlflow_servers import SECRET, USER, Server

from vfl.errors import ConfigError, ModelError
from vfl.jobs.connect import store_of
from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half
from vfl.monitor import experiment
from vfl.monitor.experiment import ask, reach, without_account
from vfl.monitor.flavour import FILE, job_digest, load
from vfl.monitor.mlflow_process import Input, LogRun, ReachServer, RunToLog
from vfl.party import locks
from vfl.party.config import load_party

MODEL = "claims-20261128-234030-38f3b4"


# --- Servers. --------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.mark.slow
def test_no_answer_of_a_server_is_believed_that_is_none(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor followed elsewhere; files are written into no folder that it names. One client asks all."""
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed (vfl[mlflow])")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    at = f"127.0.0.1:{server.port}"
    made = reach(f"http://{USER}:{SECRET}@{at}/run", "claims")
    try:
        (_, account, _), *_ = server.asked
        assert account.startswith("Basic ")
        other = Server()
        server.elsewhere = f"http://127.0.0.1:{other.port}/run"
        for kind in (
            "page",
            "list",
            "null",
            "cut",
            "nothing",
            "words",
            "moved",
            "fault",
            "local",
            "odd",
        ):
            with pytest.raises(experiment._Gone) as gone:
                ask(made.client, ReachServer(f"http://{at}/{kind}", "claims"), 60)
            said = str(gone.value)
            assert said.replace("_", " ").replace(" ", "").isalpha() and SECRET not in said, (kind, said)
        other.close()
        assert other.asked == []
        assert str(gone.value) == "an answer that is none"
        ask(made.client, ReachServer(f"http://{at}/run", "claims"), 60)
        there = tmp_path / "chosen by the server"
        (tmp_path / "report").mkdir()
        (tmp_path / "report" / "report.html").write_text("report")
        (tmp_path / FILE).write_text("{}")
        run = RunToLog(
            name="claims-1",
            tags={},
            params={"job.name": "claims"},
            measures=[("loss/train", 0.5, 1)],
            report=str(tmp_path / "report"),
            model=str(tmp_path / FILE),
            inputs=[Input("plate", "string", True)],
            outputs=[Input("probability", "double", True)],
            requirement="vfl==0",
        )
        for server.elsewhere in (there.as_uri(), str(there), ""):
            server.asked.clear()
            with pytest.raises(experiment._Gone, match="LocalArtifacts"):
                ask(made.client, LogRun(run), 60)
            assert not there.exists()
            path, _, body = server.asked[-1]
            assert path.endswith("runs/update") and json.loads(body)["status"] == "FAILED"
            assert not [one for one in server.asked if "log-batch" in one[0]]
        # Nor where it is the model alone that is to be written elsewhere.
        ask(made.client, ReachServer(f"http://{at}/model", "claims"), 60)
        for server.elsewhere in (there.as_uri(), str(there)):
            server.asked.clear()
            with pytest.raises(experiment._Gone, match="LocalArtifacts"):
                ask(made.client, LogRun(run), 60)
            assert any("logged-models" in one[0] for one in server.asked) and not there.exists()
    finally:
        made.close()
    assert made.client.returncode is not None


def process(code: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("input(); import time; time.sleep(600)", "no answer in 0 s"),
        ("input(); print('{', end='', flush=True); import time; time.sleep(600)", "no answer in 0 s"),
        ("input()", "its client ended"),
        ("input(); print('x' * 200000)", "its client ended"),
        ("input(); print('{}')", "an answer that is none"),
        ("input(); print('[]')", "its client ended"),
        ('input(); print(\'{"fault": "a b: http://u:p@h"}\')', "a fault without a name"),
        ('input(); print(\'{"id": "../../etc"}\')', "an answer that is none"),
    ],
)
def test_a_client_that_hangs_or_babbles_is_ended(code: str, said: str) -> None:
    client = process(code)
    seconds = 0.2 if said.startswith("no answer") else 60
    with pytest.raises(experiment._Gone) as gone:
        ask(client, ReachServer("http://h", "claims"), seconds)
    assert str(gone.value) == said
    experiment.Experiment(client).close()
    assert client.returncode is not None


def test_a_server_that_takes_and_says_nothing_ends_the_command(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a peer is asked, with one line, and without the password in it."""
    monkeypatch.setattr(experiment, "_REACHED", 0.2)
    guest = Federation(tmp_path, keys, hosts=("registry",), guest_listens=True).guest
    guest.write()
    (guest.folder / "job.toml").write_text(toml(JOB))
    code = "import time; time.sleep(600)"
    monkeypatch.setattr(experiment.importlib.util, "find_spec", lambda name: object())
    hangs = process(code)
    monkeypatch.setattr(experiment.subprocess, "Popen", lambda *of, **how: hangs)
    at = f"http://{USER}:{SECRET}@127.0.0.1:{free_port()}"
    job = str(guest.folder / "job.toml")
    line = command("train", str(guest.file), job, "--mlflow", at).failed(2, "no answer in 0 s")
    assert SECRET not in line and USER not in line
    assert hangs.returncode is not None


@pytest.mark.parametrize(
    ("uri", "address", "account"),
    [
        ("https://h.example/a", "https://h.example/a", {}),
        ("file:runs", "file:runs", {}),
        ("sqlite:///runs.db", "sqlite:///runs.db", {}),
        ("http://ada:p%2Fw@h:5000", "http://h:5000", {"USERNAME": "ada", "PASSWORD": "p/w"}),
        ("https://ada@h", "https://h", {"USERNAME": "ada", "PASSWORD": ""}),
        ("https://a:b@c:d@h/x?y", "https://h/x?y", {"USERNAME": "a", "PASSWORD": "b@c:d"}),
    ],
)
def test_the_account_of_an_address_is_taken_out_of_it(
    uri: str, address: str, account: dict[str, str]
) -> None:
    named = {f"MLFLOW_TRACKING_{name}": value for name, value in account.items()}
    assert without_account(uri) == (address, named)


def test_an_address_that_cannot_be_read_is_not_quoted() -> None:
    with pytest.raises(ConfigError) as error:
        without_account(f"http://{USER}:{SECRET}@[::1")
    assert SECRET not in str(error.value) and error.value.__cause__ is None


def test_who_reads_what_runs_reads_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """`vfl status`, the console and the files of locks have the command."""
    for password in (SECRET, "a/b?c#d@e"):
        at = f"https://{USER}:{password}@mlflow.example/x"
        monkeypatch.setattr(sys, "argv", ["/bin/vfl", "train", "a.toml", "--mlflow", at])
        assert locks._command() == "vfl train a.toml --mlflow https://...@mlflow.example/x"


# --- Models. -------------------------------------------------------------------------------------------


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model as MLflow leaves it."""
    insurer = copy_parties("v1", tmp_path / "parties")["insurer"]
    monkeypatch.setenv("VFL_PARTY", str(insurer.file))
    half = load_half(store_of(load_party(insurer.file)), MODEL, GuestHalf)
    folder = tmp_path / "model"
    (folder / "data").mkdir(parents=True)
    for name in ("MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt"):
        (folder / name).write_text("")
    content = {"party_file": "insurer.toml", "model": MODEL, "job": job_digest(half.job), "version": 1}
    (folder / "data" / FILE).write_text(json.dumps(content))
    return folder


def test_a_model_is_found_by_its_folder_and_by_its_file(
    logged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(logged)._names == load(logged / "data" / FILE)._names == ["probability"]
    party = Path(str(load(logged)._party))
    monkeypatch.delenv("VFL_PARTY")
    with pytest.raises(ConfigError, match=r"the party file insurer.toml is not here: set VFL_PARTY"):
        load(logged)
    monkeypatch.chdir(party.parent)
    assert load(logged)._party == Path("insurer.toml")


@pytest.mark.parametrize(
    "changed",
    [
        {"party_file": "/etc/passwd"},
        {"party_file": "../other/insurer.toml"},
        {"party_file": "a\\b"},
        {"party_file": ""},
        {"party_file": "a\nb"},
        {"model": "../../x"},
        {"model": 7},
        {"job": "0"},
        {"version": 2},
        {"code": "import os"},
        {"party_file": "x" * 100_000},
    ],
)
def test_a_file_that_was_changed_into_none_is_refused(logged: Path, changed: dict[str, Any]) -> None:
    file = logged / "data" / FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **changed}))
    with pytest.raises(ModelError, match=r"federated_model.json is missing, damaged or was changed"):
        load(logged)


def test_a_model_of_another_job_is_refused(logged: Path) -> None:
    file = logged / "data" / FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "job": "0" * 64}))
    with pytest.raises(ModelError, match="is of another job than model"):
        load(logged)
    for content in (b"", b"\x80\x04cos\nsystem\n(S'true'\ntR.", b"[]", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(ModelError, match="missing, damaged or was changed"):
            load(logged)
    file.unlink()
    with pytest.raises(ModelError, match="missing, damaged or was changed"):
        load(logged)


@pytest.mark.parametrize("name", ["python_model.pkl", "code/vfl.py", "data/a.so", "x.pyc", "m.joblib"])
def test_a_folder_with_what_could_run_is_refused(logged: Path, name: str) -> None:
    (logged / name).parent.mkdir(exist_ok=True)
    (logged / name).write_bytes(b"")
    with pytest.raises(ModelError, match="has no code, no pickle and no link") as error:
        load(logged)
    assert "\n" not in str(error.value)


def test_a_link_in_a_folder_is_refused(logged: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.json").write_text((logged / "data" / FILE).read_text())
    (logged / "data" / FILE).unlink()
    (logged / "data" / FILE).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ModelError, match="has no code, no pickle and no link"):
        load(logged)
