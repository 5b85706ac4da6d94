"""A training as a run of MLflow: settings, measures, report, and a model that scores by the federation.

MLflow gets what the guest's own people see anyway: no row, id or label, no other party's half, no key,
no path of this machine. Its client works in a process of its own (mlflow_process.py), which is ended
when it takes too long: neither a server that hangs nor one that answers oddly keeps the job.
"""

import contextlib
import importlib.util
import json
import math
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

import msgspec

from vfl.errors import ConfigError, DataError
from vfl.jobs.record import load_record
from vfl.jobs.report import write_report
from vfl.jobs.scored_columns import LIKELIEST, names_of_scores
from vfl.jobs.show import Show
from vfl.jobs.training import Trained
from vfl.monitor.flavour import FILE, PLAIN_NAME, Pointer, job_digest
from vfl.monitor.mlflow_process import Answer, Input, LogRun, ReachServer, RunToLog
from vfl.party.config import Party
from vfl.party.store import Store
from vfl.version import __version__

_REACHED, _LOGGED = 60.0, 180.0  # seconds for the address to answer, and for all of a run
_LONGEST = 6000  # characters of a parameter that MLflow takes
_NAME = 250  # and of a name
_MOST_ANSWER = 1 << 16  # bytes
_RUN = re.compile(r"[0-9A-Za-z_-]{1,64}")
_FAULT = re.compile(r"[A-Za-z_]{1,64}")
_PROCESS = "vfl.monitor.mlflow_process"
_USUAL = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it would tell its makers what it is used for
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",  # what is logged goes to the address that was named
    "GIT_PYTHON_REFRESH": "quiet",
}
"""What its client goes by where the environment does not say otherwise."""
_UNNAMED = {"LOGNAME": "vfl", "USER": "vfl"}  # it notes the account as a model's user


class _Gone(Exception):
    """The client does not answer: why, in a word or two."""


@dataclass
class Experiment:
    """Where a training is to be logged, which could be reached before the training began."""

    client: "subprocess.Popen[bytes]"

    def log(self, party: Party, party_file: Path, done: Trained, show: Show) -> str:
        """Log a training; the run's id. Raises DataError where that fails: the model is kept already."""
        name = done.half.name
        with tempfile.TemporaryDirectory(prefix="vfl-mlflow-") as made:
            folder = Path(made)
            run = RunToLog(
                name=name,
                tags=_tags(party, done),
                params=dict(_flat(done.half.job)),
                measures=[*_measures(done), *_curve(party, name)],
                report=_report(party, name, folder / "report", show),
                model=_pointer(party_file, done, folder),
                inputs=inputs_of(party, done),
                outputs=outputs_of(done),
                requirement=f"vfl=={__version__}",
            )
            try:
                number = ask(self.client, LogRun(run), _LOGGED)
            except _Gone as gone:
                # Of what MLflow says nothing is shown: addresses may hold a password.
                raise DataError(
                    f"model {name} is kept, but could not be logged with MLflow ({gone}): look at its "
                    "server"
                ) from None
        return number

    def close(self) -> None:
        """End the client, whatever it is at."""
        self.client.kill()
        self.client.wait()
        for pipe in (self.client.stdin, self.client.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what it was not told any more
                    pipe.close()


def reach(uri: str, job: str) -> Experiment:
    """The experiment of a job's name, made where there is none.

    Raises ConfigError for an address that cannot be used, ModuleNotFoundError without MLflow.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
    address, account = without_account(uri)
    client = subprocess.Popen(  # noqa: S603 - this interpreter, this package
        [sys.executable, "-P", "-m", _PROCESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libraries write addresses there
        env=_USUAL | os.environ | account | _UNNAMED,
    )
    experiment = Experiment(client)
    try:
        ask(client, ReachServer(address, job), _REACHED)
    except _Gone as gone:
        experiment.close()
        raise ConfigError(
            f"--mlflow: its server or folder cannot be used ({gone}): check the address, and that it is "
            "up"
        ) from None
    except BaseException:
        experiment.close()
        raise
    return experiment


def without_account(uri: str) -> tuple[str, dict[str, str]]:
    """An address without the name and password in it, and these as MLflow's client reads them from its
    environment: so no run, model or message can have them. Raises ConfigError, which quotes nothing."""
    if "://" not in uri or not uri.lower().startswith("http"):
        return uri, {}
    try:
        parts = urlsplit(uri)
        account, _, host = parts.netloc.rpartition("@")
        clean = parts._replace(netloc=host).geturl()
    except ValueError:
        raise ConfigError("--mlflow: this is no address: write it as https://mlflow.example") from None
    if not account:
        return clean, {}
    user, _, password = account.partition(":")
    names = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
    return clean, dict(zip(names, map(unquote, (user, password)), strict=True))


def ask(client: "subprocess.Popen[bytes]", request: ReachServer | LogRun, seconds: float) -> str:
    """What MLflow's client says to a request. Raises _Gone where it says nothing in time, or that it
    failed."""
    if client.stdin is None or client.stdout is None:
        raise AssertionError("a client without its pipes")
    try:
        client.stdin.write(msgspec.json.encode(request) + b"\n")
        client.stdin.flush()
        answer = msgspec.json.decode(_line(client.stdout, seconds), type=Answer)
    except (OSError, msgspec.MsgspecError):
        raise _Gone("its client ended") from None
    if answer.fault:
        raise _Gone(answer.fault if _FAULT.fullmatch(answer.fault) else "a fault without a name")
    if not _RUN.fullmatch(answer.id):
        raise _Gone("an answer that is none")
    return answer.id


def _line(pipe: IO[bytes], seconds: float) -> bytes:
    """A line, within so many seconds. Raises _Gone."""
    line, ends = b"", time.monotonic() + seconds
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], max(0.0, ends - time.monotonic()))
        if not ready:
            raise _Gone(f"no answer in {seconds:.0f} s")
        part = os.read(pipe.fileno(), _MOST_ANSWER)
        line += part
        if not part or len(line) > _MOST_ANSWER:
            raise _Gone("its client ended")
    return line


def _report(party: Party, name: str, folder: Path, show: Show) -> str:
    """The folder of the report; empty where it cannot be drawn."""
    try:
        write_report(party, name, folder)
    except ModuleNotFoundError as error:
        show.say(f"note: MLflow gets no report: {error.name} is not installed (vfl[report])")
        return ""
    return str(folder)


def _pointer(party_file: Path, done: Trained, folder: Path) -> str:
    """The file that the logged model consists of: which model of which party it is."""
    name = party_file.name if PLAIN_NAME.fullmatch(party_file.name) else "party.toml"
    pointer = Pointer(party_file=name, model=done.half.name, job=job_digest(done.half.job), version=1)
    path = folder / FILE
    path.write_bytes(msgspec.json.format(msgspec.json.encode(pointer)))
    return str(path)


def _tags(party: Party, done: Trained) -> dict[str, str]:
    parties = [party.name, *(name for name in done.half.model.parties if name != party.name)]
    return {"vfl.version": __version__, "vfl.model": done.half.name, "vfl.parties": ", ".join(parties)}


def _flat(settings: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    """Settings as section.key, in text as MLflow takes it."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield _plain(f"{before}{key}"), text[:_LONGEST]


def _plain(name: str) -> str:
    """A name of the characters that MLflow takes."""
    return re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)[:_NAME]


def _measures(done: Trained) -> Iterator[tuple[str, float, int]]:
    """What the model is worth by who is in it, rows, seconds, bytes."""
    found = {
        f"{model}/{name}": value
        for model, measures in done.half.metrics.items()
        for name, value in measures.items()
    }
    found |= {f"rows/{name}": rows for name, rows in done.rows.items()}
    found["seconds"] = done.account.seconds
    found["bytes/sent"] = sum(done.account.sent.values())
    found["bytes/received"] = sum(done.account.received.values())
    for name, value in found.items():
        if math.isfinite(value):
            yield _plain(name), float(value), 0


def _curve(party: Party, name: str) -> Iterator[tuple[str, float, int]]:
    """The losses of each tree or iteration."""
    record, _ = load_record(Store(party.party.store), name)
    for step, losses in enumerate(record.curve, 1):
        for key, loss in losses.items():
            if loss is not None and math.isfinite(loss):
                yield _plain(f"loss/{key}"), float(loss), step


def inputs_of(party: Party, done: Trained) -> list[Input]:
    """What a batch to be scored has: the columns of the id, the model's own."""
    half, data = done.half, party.data
    needed = [data.exposure if half.exposure else None, data.offset if half.offset else None]
    ids = data.id_columns
    texts = [*ids, *(column for column in half.columns if column in half.levels)]
    numbers = [column for column in half.columns if column not in half.levels]
    found = [Input(name, "string", name in ids) for name in dict.fromkeys(texts)]
    found += [Input(name, "double", False) for name in numbers]
    return found + [Input(name, "double", True) for name in needed if name is not None]


def outputs_of(done: Trained) -> list[Input]:
    """What comes back."""
    half = done.half
    return [
        Input(name, "string" if half.classes and name == LIKELIEST else "double", True)
        for name in names_of_scores(half)
    ]
