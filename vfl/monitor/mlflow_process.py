"""MLflow's client in a process of its own: it is asked on stdin, and answers on what was its stdout.

A line of JSON each way. Who started it ends it when it takes too long; it ends itself when stdin does.
What MLflow and its libraries print goes nowhere.
"""

import contextlib
import os
import resource
import sys
import warnings
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import msgspec

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

_TOGETHER = 100  # parameters, or measures, in one request
_MEMORY = 8 << 30  # bytes of addresses: a server may send without end
_LOADER = "vfl.monitor.flavour"


class Input(msgspec.Struct, frozen=True, array_like=True):
    """A column of a model's signature."""

    name: str
    type: Literal["string", "double"]
    required: bool


class RunToLog(msgspec.Struct, frozen=True):
    """What is logged of a training."""

    name: str
    tags: dict[str, str]
    params: dict[str, str]
    measures: list[tuple[str, float, int]]  # with the step
    report: str  # the folder; empty where there is none
    model: str  # the file that a model consists of
    inputs: list[Input]
    outputs: list[Input]
    requirement: str


class ReachServer(msgspec.Struct, frozen=True, tag="reach"):
    """Find the experiment of this name, or make it."""

    uri: str
    experiment: str


class LogRun(msgspec.Struct, frozen=True, tag="log"):
    """Log a run there."""

    run: RunToLog


class Answer(msgspec.Struct, frozen=True):
    """The id of what was found or made, or the kind of error that came of it."""

    id: str = ""
    fault: str = ""


class LocalArtifacts(Exception):
    """A server that would have files written into a folder of this machine."""


class _Tracking:
    """The experiment that was reached."""

    def __init__(self, uri: str, name: str) -> None:
        import mlflow

        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        self._remote = urlsplit(uri).scheme in ("http", "https")
        if self._remote:
            _write_nothing_here()
        self._client: MlflowClient = mlflow.MlflowClient(uri)
        found = self._client.get_experiment_by_name(name)
        made = self._client.create_experiment(name) if found is None else found.experiment_id
        self.number = str(made)
        self._check(self._client.get_experiment(self.number).artifact_location)

    def log(self, run: RunToLog) -> str:
        """Log a run; its id. What fails half-way is marked as failed."""
        client = self._client
        made = client.create_run(self.number, run_name=run.name, tags=run.tags)
        number = str(made.info.run_id)
        try:
            self._check(made.info.artifact_uri)
            self._log_figures(number, run)
            if run.report:
                client.log_artifacts(number, run.report, "report")
            self._log_model(number, run)
            client.set_terminated(number)
        except BaseException:
            with contextlib.suppress(Exception):
                client.set_terminated(number, "FAILED")
            raise
        return number

    def _check(self, where: str) -> None:
        """Raises LocalArtifacts where a server elsewhere names a folder of this machine to write to."""
        if self._remote and urlsplit(where).scheme in ("", "file"):
            raise LocalArtifacts

    def _log_figures(self, number: str, run: RunToLog) -> None:
        import time

        from mlflow.entities import Metric, Param

        now = int(time.time() * 1000)
        params = [Param(key, value) for key, value in run.params.items()]
        measures = [Metric(key, value, now, step) for key, value, step in run.measures]
        for at in range(0, len(params), _TOGETHER):
            self._client.log_batch(number, params=params[at : at + _TOGETHER])
        for at in range(0, len(measures), _TOGETHER):
            self._client.log_batch(number, metrics=measures[at : at + _TOGETHER])

    def _log_model(self, number: str, run: RunToLog) -> None:
        """A pyfunc of no content but a file of names: no code, nothing pickled. It asks the party's
        `vfl score`, where it is loaded."""
        import mlflow
        from mlflow import pyfunc

        with mlflow.start_run(run_id=number, log_system_metrics=False):
            pyfunc.log_model(
                name="model",
                loader_module=_LOADER,
                data_path=run.model,
                signature=_signature(run),
                pip_requirements=[run.requirement],
            )


def _write_nothing_here() -> None:
    """Have MLflow's client refuse a folder of this machine as the place of any file, as of a model."""
    from mlflow.store.artifact import artifact_repository_registry as registry

    def refuse(*of: object, **named: object) -> None:
        raise LocalArtifacts

    for scheme in ("", "file"):
        registry._artifact_repository_registry.register(scheme, refuse)  # type: ignore[no-untyped-call]


def _signature(run: RunToLog) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    def columns(of: list[Input]) -> "Schema":
        return Schema([ColSpec(DataType[one.type], one.name, required=one.required) for one in of])

    return ModelSignature(columns(run.inputs), columns(run.outputs))


def main() -> None:
    """Answer until stdin ends."""
    with os.fdopen(os.dup(1), "wb") as answers:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        with contextlib.suppress(ValueError, OSError):  # a lower limit is there already
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        warnings.simplefilter("ignore")
        sys.argv = ["vfl"]  # which MLflow notes as a model's source, in place of a path of this machine
        tracking: _Tracking | None = None
        for line in sys.stdin.buffer:
            try:
                request = msgspec.json.decode(line, type=ReachServer | LogRun)
                if isinstance(request, ReachServer):
                    tracking = _Tracking(request.uri, request.experiment)
                    answer = Answer(tracking.number)
                elif tracking is not None:
                    answer = Answer(tracking.log(request.run))
                else:
                    answer = Answer(fault="NotReached")
            except Exception as error:  # whatever comes of what a server says: its kind alone is told
                answer = Answer(fault=type(error).__name__)
            answers.write(msgspec.json.encode(answer) + b"\n")
            answers.flush()


if __name__ == "__main__":
    main()
