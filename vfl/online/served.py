"""A model that is served: rows of a request become an answer."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import numpy as np

from vfl.arrays import Floats
from vfl.errors import ModelError, VflError
from vfl.jobs.host_lookups import Looked
from vfl.jobs.scored_columns import predictions_of, with_offset
from vfl.learn.explain import reasons
from vfl.learn.losses import LogisticLoss
from vfl.models.halves import AnyGuestHalf
from vfl.models.kinds import kind_of_model
from vfl.models.parts import OwnColumns, Parts, PartsScorer
from vfl.online.cells import Cell
from vfl.online.lookups import HostAway, HostDirectory, SharedLookups
from vfl.online.rows import ReadRows, RowReader
from vfl.party.online_section import OnlineHostSection
from vfl.protocols.common.batches import ScoredPart
from vfl.protocols.lookup.layout import PartLayout

QUOTES = "the request"
"""What errors call the rows of a request."""

_FEW = 200  # rows that are read and scored at once; more of them in a thread
_DAY = 86_400
_LAYOUTS = 4  # sets of directories for which a model is kept ready

T = TypeVar("T")


class HostMissing(VflError):
    """A host that a request cannot do without, by [online.hosts.NAME]."""


def age_of(made: datetime) -> float:
    """Seconds since then."""
    return max(0.0, (datetime.now(UTC) - made).total_seconds())


@dataclass(frozen=True)
class ServedHost:
    """A host of a model: its directory, and what stands in for it."""

    lookups: SharedLookups
    rules: OnlineHostSection

    @property
    def age(self) -> float:
        """Seconds since the host made the directory."""
        return age_of(self.lookups.directory.made)

    @property
    def is_stale(self) -> bool:
        return self.age > self.rules.max_age * _DAY

    @property
    def state(self) -> str:
        """In one word: "here", "stale" or "away"."""
        return "away" if self.lookups.away is not None else "stale" if self.is_stale else "here"

    def check_age(self) -> None:
        """Raises HostMissing for a directory that is too old to be used."""
        if self.rules.stale == "error" and self.is_stale:
            raise HostMissing(
                f"the directory of {self.lookups.host} is stale: it is {self.age / _DAY:.0f} days old"
            )

    async def find(self, ids: Sequence[Sequence[bytes]]) -> Looked | None:
        """What the host knows of rows; None where it is away, and they are scored without it.

        Raises HostMissing where they must not be.
        """
        try:
            return await self.lookups.find(ids)
        except HostAway as away:
            if self.rules.away == "error":
                raise HostMissing(f"{self.lookups.host} is away: {away}") from None
            return None


@dataclass(frozen=True)
class Asked:
    """What a request asks for besides scores."""

    explain: bool = False
    top: int = 3


@dataclass(frozen=True)
class _Ready:
    """A model ready for directories of these layouts, by host."""

    layouts: Mapping[str, PartLayout]
    scorer: PartsScorer
    explainer: PartsScorer | None

    def fits(self, layouts: Mapping[str, PartLayout]) -> bool:
        return all(one is layouts[host] or one == layouts[host] for host, one in self.layouts.items())


@dataclass(frozen=True)
class Outcome:
    """What a request came to: for its answer, and to be counted.

    away: hosts that did not answer. unknown: by host, rows that it does not know. strange: rows with a
    level that was not in training. without: rows that have no prediction.
    """

    answer: dict[str, object]
    rows: int
    away: Sequence[str]
    unknown: Mapping[str, int]
    strange: int
    without: int


class ServedModel:
    """A model with its directories, ready for rows."""

    def __init__(
        self,
        half: AnyGuestHalf,
        reader: RowReader,
        hosts: Mapping[str, ServedHost],
        threads: Executor,
        explains: bool,
    ) -> None:
        """explains: whether anybody may ask for explained scores, for which tables are made beforehand.

        Raises PeerError for a directory that is not of the model.
        """
        self.half, self.reader, self.hosts = half, reader, hosts
        self._threads, self._explains = threads, explains
        self.not_explained = "no token allows explained scores (scope explain)"
        self._ready = [self._make(self._layouts)]

    @property
    def _layouts(self) -> dict[str, PartLayout]:
        """Of the directories that there are now."""
        return {name: host.lookups.directory.layout for name, host in self.hosts.items()}

    def _make(self, layouts: Mapping[str, PartLayout]) -> _Ready:
        kind, explainer = kind_of_model(self.half.model), None
        if self._explains:
            try:
                explainer = kind.scorer(self.half.model, layouts, True)
            except ModelError as error:
                self.not_explained = str(error)
        return _Ready(layouts, kind.scorer(self.half.model, layouts, False), explainer)

    async def _ready_for(self, layouts: Mapping[str, PartLayout]) -> _Ready:
        """The model ready for directories that may have changed since."""
        for ready in self._ready:
            if ready.fits(layouts):
                return ready
        made = await asyncio.to_thread(self._make, layouts)
        self._ready = [made, *self._ready][:_LAYOUTS]
        return made

    @property
    def name(self) -> str:
        return self.half.name

    @property
    def explains_at_all(self) -> bool:
        """Whether anybody may ask for explained scores."""
        return self._explains

    @property
    def explains(self) -> bool:
        """Whether scores can be explained."""
        return self._ready[0].explainer is not None

    def warm_up(self) -> None:
        """Score a row without any value, so that whatever is compiled is compiled before any request."""
        for explain in (False, *([True] if self.explains else [])):
            self._outcome(self.reader.blank(), dict.fromkeys(self.hosts), self._ready[0], Asked(explain))

    @property
    def unit(self) -> str:
        """What a prediction is of."""
        if isinstance(self.half.loss, LogisticLoss):
            return "probability"
        return "per unit of exposure" if self.half.exposure else "unit of the label"

    @property
    def directories(self) -> dict[str, object]:
        """The directories as they are now, by host."""
        return self._directories({})

    def _directories(self, found: Mapping[str, Looked | None]) -> dict[str, object]:
        """The directories in which rows were found; of hosts that were away those that there are."""
        said: dict[str, object] = {}
        for name, host in self.hosts.items():
            looked = found.get(name)
            of: Looked | HostDirectory = host.lookups.directory if looked is None else looked
            age = age_of(of.made)
            stale = "stale" if age > host.rules.max_age * _DAY else "here"
            said[name] = {
                "state": ("away" if name in found else host.state) if looked is None else stale,
                "directory": of.version,
                "made": of.made.astimezone(UTC).isoformat(timespec="seconds"),
                "age_seconds": round(age),
            }
        return said

    async def score(self, rows: Sequence[Cell], asked: Asked) -> Outcome:
        """Score rows. Raises RowsRefused, HostMissing, and ModelError for what cannot be explained."""
        if asked.explain and not self.explains:
            raise ModelError(f"model {self.name} cannot explain scores: {self.not_explained}")
        for host in self.hosts.values():
            host.check_age()
        read = await self._run(len(rows), lambda: self.reader.read(rows))
        answers = await asyncio.gather(*(host.find(read.ids) for host in self.hosts.values()))
        found = dict(zip(self.hosts, answers, strict=True))
        layouts = self._layouts | {n: one.layout for n, one in found.items() if one is not None}
        ready = await self._ready_for(layouts)
        return await self._run(len(rows), lambda: self._outcome(read, found, ready, asked))

    async def _run(self, rows: int, work: Callable[[], T]) -> T:
        if rows <= _FEW:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _outcome(
        self, read: ReadRows, found: Mapping[str, Looked | None], ready: _Ready, asked: Asked
    ) -> Outcome:
        away = [name for name, looked in found.items() if looked is None]
        known: dict[str, Parts] = {
            name: [None] * read.rows if looked is None else looked.parts
            for name, looked in found.items()
        }
        scorer = ready.explainer if asked.explain and ready.explainer is not None else ready.scorer
        scored = scorer.score(OwnColumns(QUOTES, read.features, read.rows), known)
        results: list[dict[str, object]] = [{} for _ in range(read.rows)]
        unknown_to: list[list[str]] = [[] for _ in range(read.rows)]
        unknown = {}
        refused: dict[int, str] = {}
        for name, of_host in known.items():
            rows = [row for row, part in enumerate(of_host) if part is None]
            unknown[name] = 0 if name in away else len(rows)
            for row in rows:
                unknown_to[row].append(name)
                if name not in away and self.hosts[name].rules.unknown == "error":
                    refused.setdefault(row, f"{name} does not know the row")
        for row in self._put_predictions(results, scored.scores, read):
            refused[row] = "the prediction is too large to be a number"
        if scored.contributions is not None:
            self._put_explanations(results, scored, scored.contributions, read, asked.top)
        for row, (result, hosts) in enumerate(zip(results, unknown_to, strict=True)):
            result["unknown_to"] = hosts
            if row in read.unknown_levels:
                result["unknown_levels"] = read.unknown_levels[row]
            if row in refused:
                results[row] = {"prediction": None, "error": refused[row], "unknown_to": hosts}
        answer: dict[str, object] = {
            "model": self.name,
            "unit": self.unit,
            "hosts": self._directories(found),
            "away": away,
            "results": results,
        }
        return Outcome(answer, read.rows, away, unknown, len(read.unknown_levels), len(refused))

    def _put_predictions(
        self, results: Sequence[dict[str, object]], scores: Floats, read: ReadRows
    ) -> list[int]:
        """Which rows have none that is a number: an offset may make it too large."""
        found = predictions_of(self.half, scores, read.offset, read.exposure)
        predicted = found["probability"] if "probability" in found else found["prediction"]
        for result, value in zip(results, predicted.tolist(), strict=True):
            result["prediction"] = value
        if "expected" in found and read.has_exposure is not None:
            pairs = zip(found["expected"].tolist(), read.has_exposure.tolist(), strict=True)
            for result, (value, has_exposure) in zip(results, pairs, strict=True):
                if has_exposure:
                    result["expected"] = value
        fine = np.isfinite(predicted) & np.isfinite(found.get("expected", predicted))
        return [] if fine.all() else np.flatnonzero(~fine).tolist()

    def _put_explanations(
        self,
        results: Sequence[dict[str, object]],
        scored: ScoredPart,
        contributions: Mapping[str, Floats],
        read: ReadRows,
        top: int,
    ) -> None:
        """The score of the prediction, what adds up to it, and reasons."""
        score, parts = scored.scores, dict(contributions)
        if self.half.offset and read.offset is not None:
            score, parts = with_offset(score, parts, read.offset, read.exposure)
        texts = reasons(contributions, self.half.loss.link, top) if contributions else [""] * len(score)
        by_row = np.array([*parts.values()]).T.tolist() if parts else [[]] * len(score)
        for result, value, text, own in zip(results, score.tolist(), texts, by_row, strict=True):
            result["score"], result["base"] = value, scored.base
            result["contributions"] = dict(zip(parts, own, strict=True))
            result["reasons"] = text
