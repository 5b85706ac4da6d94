"""A model of MLflow that scores through the federation: a file that names a party file and a model.

It runs where the party's folder and keys are, asks the hosts as `vfl score` does, and is bound by their
policies: each batch is a job, counted and written down at every party. VFL_PARTY names the party file
where it does not lie in the present folder. Nothing of the file is run or unpickled.
"""

import asyncio
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from vfl.errors import ConfigError, ModelError
from vfl.jobs.connect import Site, store_of
from vfl.jobs.scored_columns import names_of_scores
from vfl.jobs.scoring import ScoreOptions, score
from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half
from vfl.party.config import load_party
from vfl.party.config_values import to_the_end
from vfl.party.config_words import JOB_NAME
from vfl.party.documents import canonical_json
from vfl.text import shown

if TYPE_CHECKING:
    import pandas as pd

FILE = "federated_model.json"
PLAIN_NAME = re.compile(r"^[^/\\\x00-\x1f]{1,200}\Z")
"""A file's name that is no path."""
WAIT = 60.0  # seconds for hosts to be there
_MOST = 1 << 16  # bytes of the file
_PLAIN = frozenset(("", ".json", ".yaml", ".yml", ".txt", ".toml", ".lock"))
"""Endings of what MLflow writes beside it, and alone reads: none that could be run or unpickled."""


class Pointer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which model it is: the name of the party file, of the model, the digest of the model's job."""

    party_file: Annotated[str, msgspec.Meta(pattern=PLAIN_NAME.pattern)]
    model: Annotated[str, msgspec.Meta(pattern=to_the_end(JOB_NAME))]
    job: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    version: Literal[1]


def job_digest(settings: Mapping[str, object]) -> str:
    """SHA-256 of a job's settings, as all parties know it."""
    return hashlib.sha256(canonical_json(settings)).hexdigest()


class _Silent:
    """Nobody watches."""

    def say(self, line: str) -> None:
        """A line for nobody."""

    def progress(self, what: str, done: int, of: int | None) -> None:
        """A step for nobody."""


class FederatedModel:
    """Scores rows by a model whose halves lie at several parties."""

    def __init__(self, pointer: Pointer) -> None:
        """Find the party and its half. Raises ConfigError, ModelError where they are not here."""
        self._party = Path(os.environ.get("VFL_PARTY") or pointer.party_file)
        if not self._party.is_file():
            raise ConfigError(
                f"the party file {self._party.name} is not here: set VFL_PARTY to its path"
            )
        self._model = pointer.model
        half = load_half(store_of(load_party(self._party)), self._model, GuestHalf)
        if job_digest(half.job) != pointer.job:
            raise ModelError(
                f"{FILE} is of another job than model {self._model} of {self._party.name}: log it again"
            )
        self._names = names_of_scores(half)

    def predict(
        self, model_input: "pd.DataFrame", params: dict[str, object] | None = None
    ) -> "pd.DataFrame":
        """The scores of rows, in their order. Raises what `vfl score` ends with."""
        import pandas as pd

        with tempfile.TemporaryDirectory(prefix="vfl-batch-") as folder, ThreadPoolExecutor(1) as own:
            rows, scores = Path(folder) / "rows.parquet", Path(folder) / "scores.parquet"
            model_input.to_parquet(rows, index=False)
            own.submit(self._score, rows, scores).result()  # this thread may have a loop that runs
            found = pd.read_parquet(scores)
        return found[self._names]

    def _score(self, rows: Path, scores: Path) -> None:
        site = Site.open(load_party(self._party))
        work = score(
            site, self._model, rows, scores, ScoreOptions(fresh=True), wait=WAIT, show=_Silent()
        )
        asyncio.run(work)


def load(path: str | Path) -> FederatedModel:
    """The model of a folder that MLflow has logged or downloaded, or of the file in it.

    Of the folder no file but this one is read. Raises ModelError for a folder with files that could be
    run or unpickled, and for a file that is none; ConfigError and ModelError where party or model are
    not here.
    """
    file, folder = Path(path), Path(path).parent
    if file.is_dir():
        file, folder = file / "data" / FILE, file
    elif folder.name == "data":
        folder = folder.parent
    strange = [one.name for one in folder.rglob("*") if one.suffix not in _PLAIN or one.is_symlink()]
    if strange:
        raise ModelError(
            f"the model's folder was changed: it has {shown(min(strange), 60)}, and a federated model "
            "has no code, no pickle and no link"
        )
    try:
        if file.stat().st_size > _MOST:
            raise ValueError
        pointer = msgspec.json.decode(file.read_bytes(), type=Pointer)
    except (OSError, ValueError, msgspec.MsgspecError):
        raise ModelError(f"{FILE} is missing, damaged or was changed: log the model again") from None
    return FederatedModel(pointer)


_load_pyfunc = load  # as MLflow calls it
