"""A model of MLflow that scores through the federation: it has the names of a party and a model alone.

It runs where the party's folder and keys are, asks the hosts as `vfl score` does, and is bound by their
policies: each batch is a job, counted and written down at every party. VFL_PARTY names the party file
where it lies elsewhere than at the training.
"""

import asyncio
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from vfl.errors import ConfigError
from vfl.jobs.connect import Site, store_of
from vfl.jobs.scored_columns import names_of_scores
from vfl.jobs.scoring import ScoreOptions, score
from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half
from vfl.party.config import load_party

WAIT = 60.0  # seconds for hosts to be there


class _Silent:
    """Nobody watches."""

    def say(self, line: str) -> None:
        """A line for nobody."""

    def progress(self, what: str, done: int, of: int | None) -> None:
        """A step for nobody."""


class FederatedModel(PythonModel):
    """Scores rows by a model whose halves lie at several parties."""

    def load_context(self, context: PythonModelContext) -> None:
        """Find the party and its half. Raises ConfigError, ModelError where they are not here."""
        settings = context.model_config
        if settings is None:
            raise ConfigError("this model of MLflow has lost its configuration: log it again")
        self._party = Path(os.environ.get("VFL_PARTY") or settings["party"])
        self._model = str(settings["model"])
        store = store_of(load_party(self._party))
        self._names = names_of_scores(load_half(store, self._model, GuestHalf))

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, object] | None = None,
    ) -> pd.DataFrame:
        """The scores of rows, in their order. Raises what `vfl score` ends with."""
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


set_model(FederatedModel())
