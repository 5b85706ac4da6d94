"""A training as a run of MLflow: settings, measures, report, and a model that scores by the federation.

MLflow gets what the guest's own people see anyway: no row, id or label, no other party's half, no key.
"""

import importlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vfl.errors import ConfigError, DataError, VflError
from vfl.jobs.record import load_record
from vfl.jobs.report import write_report
from vfl.jobs.scored_columns import LIKELIEST, names_of_scores
from vfl.jobs.show import Show
from vfl.jobs.training import Trained
from vfl.party.config import Party
from vfl.party.store import Store
from vfl.version import __version__

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

_LONGEST = 6000  # characters of a parameter that MLflow takes
_SCORING = Path(__file__).parent / "scripts" / "federated_model.py"  # which MLflow runs itself
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it would tell its makers what it is used for
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class Experiment:
    """Where a training is to be logged, which could be reached before the training began."""

    client: "MlflowClient"
    number: str

    def log(self, party: Party, party_file: Path, done: Trained, show: Show) -> str:
        """Log a training; the run's id. Raises DataError where that fails: the model is kept already."""
        name = done.half.name
        try:
            run = self.client.create_run(self.number, run_name=name, tags=_tags(party, done))
            number = str(run.info.run_id)
            for key, value in _flat(done.half.job):
                self.client.log_param(number, key, value)
            for key, measure in _measures(done):
                self.client.log_metric(number, key, measure)
            for step, key, loss in _curve(party, name):
                self.client.log_metric(number, key, loss, step=step)
            with tempfile.TemporaryDirectory(prefix="vfl-mlflow-") as folder:
                self._log_report(number, party, name, Path(folder) / "report", show)
            _log_model(number, party, party_file, done)
            self.client.set_terminated(number)
        except VflError:
            raise
        except Exception as error:
            # Of what it says nothing is shown: addresses may hold a password.
            raise DataError(
                f"model {name} is kept, but could not be logged with MLflow ({type(error).__name__}): "
                "look at its server"
            ) from None
        return number

    def _log_report(self, number: str, party: Party, name: str, folder: Path, show: Show) -> None:
        try:
            write_report(party, name, folder)
        except ModuleNotFoundError as error:
            show.say(f"note: MLflow gets no report: {error.name} is not installed (vfl[report])")
            return
        self.client.log_artifacts(number, str(folder), "report")


def reach(uri: str, job: str) -> Experiment:
    """The experiment of a job's name, made where there is none.

    Raises ConfigError for an address that cannot be used, ModuleNotFoundError without MLflow.
    """
    os.environ.update({key: value for key, value in _QUIET.items() if key not in os.environ})
    mlflow = importlib.import_module("mlflow")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        mlflow.set_tracking_uri(uri)
        client: MlflowClient = mlflow.MlflowClient(uri)
        found = client.get_experiment_by_name(job)
        number = client.create_experiment(job) if found is None else found.experiment_id
    except Exception as error:
        raise ConfigError(
            f"--mlflow: its server or folder cannot be used ({type(error).__name__}): check the "
            "address, and that it is up"
        ) from None
    return Experiment(client, str(number))


def _tags(party: Party, done: Trained) -> dict[str, str]:
    parties = [party.name, *(name for name in done.half.model.parties if name != party.name)]
    return {"vfl.version": __version__, "vfl.model": done.half.name, "vfl.parties": ", ".join(parties)}


def _flat(settings: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    """Settings as section.key, in text as MLflow takes it."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", str(value)[:_LONGEST]


def _measures(done: Trained) -> Iterator[tuple[str, float]]:
    """What the model is worth by who is in it, rows, seconds, bytes."""
    for model, measures in done.half.metrics.items():
        for name, value in measures.items():
            yield f"{model}/{name}", float(value)
    for name, rows in done.rows.items():
        yield f"rows/{name}", float(rows)
    yield "seconds", done.account.seconds
    yield "bytes/sent", float(sum(done.account.sent.values()))
    yield "bytes/received", float(sum(done.account.received.values()))


def _curve(party: Party, name: str) -> Iterator[tuple[int, str, float]]:
    """The losses of each tree or iteration."""
    record, _ = load_record(Store(party.party.store), name)
    for step, losses in enumerate(record.curve, 1):
        for key, loss in losses.items():
            if loss is not None:
                yield step, f"loss/{key}", float(loss)


def signature_of(party: Party, done: Trained) -> "ModelSignature":
    """What a batch to be scored has: the columns of the id, the model's own; and what comes back."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    ids = dict.fromkeys(column for key in party.data.keys for column in key.id)
    half, data = done.half, party.data
    needed = [data.exposure if half.exposure else None, data.offset if half.offset else None]
    texts = [*ids, *(column for column in half.columns if column in half.levels)]
    numbers = [column for column in half.columns if column not in half.levels]
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, name, required=name in ids) for name in texts
    ]
    inputs += [ColSpec(DataType.double, name, required=False) for name in numbers]
    inputs += [ColSpec(DataType.double, name) for name in needed if name is not None]
    outputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string if half.classes and name == LIKELIEST else DataType.double, name)
        for name in names_of_scores(half)
    ]
    return ModelSignature(Schema(inputs), Schema(outputs))


@contextmanager
def _run_of(number: str) -> Iterator[None]:
    mlflow = importlib.import_module("mlflow")
    with mlflow.start_run(run_id=number, log_system_metrics=False):
        yield


def _log_model(number: str, party: Party, party_file: Path, done: Trained) -> None:
    """A pyfunc of no content of its own: it asks the party's `vfl score`, where it is loaded."""
    pyfunc = importlib.import_module("mlflow.pyfunc")
    with _run_of(number), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no example of a row: rows stay here
        pyfunc.log_model(
            name="model",
            python_model=str(_SCORING),
            model_config={"party": str(party_file.resolve()), "model": done.half.name},
            signature=signature_of(party, done),
            pip_requirements=[f"vfl=={__version__}"],
        )
