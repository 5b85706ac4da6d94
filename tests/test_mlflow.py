"""A training as a run of MLflow, and the model that scores by the federation."""

from pathlib import Path

import pandas as pd
import pytest
from commands import command
from federation import JOB, Federation, free_port, private_words, toml
from mlflow_servers import SECRET, USER, Server

import vfl

mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed (vfl[mlflow])")

LATTICE = {**JOB, "secureboost": {**JOB["secureboost"], "encryption": "lattice"}}


def test_an_address_that_cannot_be_is_refused_before_anything_else(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    federation = Federation(tmp_path, keys, hosts=("registry",), guest_listens=True)
    guest = federation.guest
    guest.write()
    (guest.folder / "job.toml").write_text(toml(LATTICE))
    at = f"http://name:secret@127.0.0.1:{free_port()}"
    line = command("train", str(guest.file), str(guest.folder / "job.toml"), "--mlflow", at).failed(
        2, "--mlflow: its server or folder cannot be used"
    )
    assert "secret" not in line


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_training_is_a_run_and_its_model_scores(
    tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    federation = Federation(tmp_path, keys, hosts=("registry",), kind="parquet")
    registry, guest = federation.parties["registry"], federation.guest
    registry.settings["policy"]["encryptions"] = ["lattice", "paillier"]
    at = (tmp_path / "mlruns").as_uri()
    try:
        federation.serve()
        guest.align().ok()
        (guest.folder / "job.toml").write_text(toml(LATTICE))
        done = guest.run("train", "job.toml", "--wait", "60", "--json", "--mlflow", at).ok()
        scored = guest.score().ok()
        found = done.json
        mlflow.set_tracking_uri(at)
        run = mlflow.MlflowClient(at).get_run(found["mlflow_run"])
        assert run.info.status == "FINISHED" and run.info.run_name == found["model"]
        assert run.data.params["secureboost.trees"] == "2"
        assert run.data.params["job.purpose"] == "a test"
        auc = run.data.metrics["federation/auc"]
        assert auc == pytest.approx(found["metrics"]["federation"]["auc"])
        assert run.data.metrics["rows/train"] == found["rows"]["train"]
        assert run.data.tags["vfl.parties"] == "insurer, registry"
        kept = {one.path for one in mlflow.MlflowClient(at).list_artifacts(run.info.run_id)}
        assert "report" in kept
        private = [*private_words(federation.tables), str(guest.folder), str(Path(vfl.__file__).parent)]
        for path in (tmp_path / "mlruns").rglob("*"):
            if path.is_file() and "report" not in path.parts:  # which names the guest's own levels
                text = path.read_bytes().decode(errors="replace")
                assert not [word for word in private if word in text], path
                assert path.name != "mlflow.user" or text == "vfl"
                assert path.suffix not in (".py", ".pkl")

        monkeypatch.setenv("VFL_PARTY", str(guest.file))
        model = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/model")
        names = [one.name for one in model.metadata.get_input_schema().inputs]
        assert names[0] == "plate" and set(names) == {"plate", "density", "area"}
        rows = pd.read_csv(guest.folder / "new.csv", dtype={"plate": str, "area": str})
        mine = model.predict(rows)
        assert scored.json["rows"] == len(rows)
        theirs = pd.read_csv(guest.folder / "scores.csv")["probability"]
        assert mine["probability"].to_numpy() == pytest.approx(theirs.to_numpy(), rel=1e-12)
        assert [*mine.columns] == [one.name for one in model.metadata.get_output_schema().inputs]

        server = Server()  # that would have files written into a folder of this machine
        server.elsewhere = (tmp_path / "chosen").as_uri()
        at = f"http://{USER}:{SECRET}@127.0.0.1:{server.port}/run"
        done = guest.run("train", "job.toml", "--wait", "60", "--json", "--mlflow", at)
        server.close()
        said = "is kept, but could not be logged with MLflow (LocalArtifacts): look at its server"
        assert SECRET not in done.failed(3, said)
        assert len([*(guest.store / "models").glob("*.json")]) == 2
        assert not (tmp_path / "chosen").exists() and all(
            SECRET.encode() not in one[2] for one in server.asked
        )
    finally:
        federation.close()
