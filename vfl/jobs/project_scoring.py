"""A batch scored by the models of a project: frequency x severity x load, row by row.

Each model scores the batch as by itself, so that hosts count its rows once for each.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from vfl.arrays import Floats, Mask
from vfl.blocks.scratch import Scratch, in_pieces
from vfl.errors import ConfigError
from vfl.jobs.account import Account
from vfl.jobs.batch import batch_name
from vfl.jobs.connect import Site
from vfl.jobs.project import site_of
from vfl.jobs.project_rows import read_segments
from vfl.jobs.projects import KeptProject, whole_project
from vfl.jobs.queries import with_query_of
from vfl.jobs.score_places import place_of, target_of
from vfl.jobs.scored_columns import predictions_of
from vfl.jobs.scoring import (
    BatchClock,
    BatchJob,
    Scored,
    ScoreOptions,
    check_parties,
    prepare_batch,
    section_as_trained,
)
from vfl.jobs.show import Show, say_drift
from vfl.jobs.storage import in_store
from vfl.learn.claims import Part
from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half
from vfl.party.output import ScoreColumns
from vfl.party.sources.places import Place

_COLUMNS = ("frequency", "severity", "load", "pure_premium", "expected_loss", "tweedie", "unknown_to")


@in_store
async def score_project(
    site: Site,
    project: str,
    data: Path | str,
    out: Path | str,
    options: ScoreOptions,
    *,
    wait: float,
    show: Show,
) -> Scored:
    """Score the rows of `data` as `vfl.jobs.scoring.score` does, by all models of a project.

    `out` gets the ids, `frequency` (claims for a unit of exposure), `severity` (the mean capped claim),
    `load`, their product `pure_premium`, with an exposure `expected_loss` of the row's own, and with a
    model of losses themselves its pure premium as `tweedie`. Raises as `score`, and ConfigError for
    explanations, which are of one model.
    """
    if options.explain:
        raise ConfigError(
            f"--explain is of one model: score with the one of frequency or of severity of {project}"
        )
    kept, _ = whole_project(site.store, project)
    site, started, clock = site_of(site, kept.project), time.monotonic(), BatchClock()
    party, store = site.party, site.store
    place = place_of(data, party.data)
    target = target_of(party, place, out, options.force)
    for name in party.data.id_columns:
        if name in _COLUMNS:
            raise ConfigError(f"[data] id '{name}' is the name of a column of the output: rename it")
    name = batch_name(target.name)
    with store.locked("batch", name, f"another run of vfl that writes {target.name}"):
        target.clean()
        jobs = _prepared(site, kept, place, name, options, clock, show)
        for part, job in jobs.items():
            show.say(f"scoring by the model of {part}")
            await job.run(wait)
        output = _Output(kept, jobs, _segments(site, kept, place))
        clock.add(None)
        replaced = target.check()
        escaped = await asyncio.to_thread(target.write, output.pieces())
        drifts = [output.say_drift(part, show) for part in jobs]
        for job in jobs.values():
            job.batch.remove()
        clock.add("writing")
    first = jobs["frequency"]
    own_unknown = {name: int(which.sum()) for name, which in first.rows.unknown.items()}
    account = sum((job.account for job in jobs.values()), Account.of(started, []))
    return Scored(
        rows=first.table.rows,
        unknown=output.unknown,
        lookup={name: party.lookup_at(name) for name in output.unknown},
        account=replace(account, seconds=time.monotonic() - started),
        resumed_from=min(job.resumed_from for job in jobs.values()),
        seconds=clock.seconds,
        drift=first.drift,
        unknown_levels=own_unknown | first.unknown_levels,
        score_psi=max((one for one in drifts if one is not None), default=None),
        replaced=replaced,
        left_out=first.table.left_out,
        escaped=escaped,
    )


def _prepared(
    site: Site,
    kept: KeptProject,
    place: Place,
    name: str,
    options: ScoreOptions,
    clock: BatchClock,
    show: Show,
) -> dict[Part, BatchJob]:
    """The batch as each model has it."""
    found: dict[Part, BatchJob] = {}
    for number, (part, model) in enumerate(kept.models.items()):
        half = load_half(site.store, model, GuestHalf)
        check_parties(site, half)
        hosts = [name for name in half.fingerprints if name != site.party.name]
        site.activity.tell(hosts, [half.name])
        section = section_as_trained(with_query_of(site.party.data, half, show), half)
        own = f"{name}{'abc'[number]}"
        found[part] = prepare_batch(site, (half, section), place, own, options, clock, show)
    return found


def _segments(
    site: Site, kept: KeptProject, place: Place
) -> np.ndarray[tuple[int], np.dtype[np.object_]] | None:
    by = kept.project.project.load_by
    if by is None:
        return None
    return read_segments(site.party.data, by, place, Scratch(site.store.scratch(make=False)))


class _Output:
    """What is written, from the scores of all models."""

    def __init__(
        self,
        kept: KeptProject,
        jobs: dict[Part, BatchJob],
        segments: np.ndarray[tuple[int], np.dtype[np.object_]] | None,
    ) -> None:
        self._jobs = jobs
        first = jobs["frequency"]
        self._rows, self._first = first.table.rows, first
        self._load = kept.large_losses.at(self._rows, segments)
        hosts = first.half.model.parties[1:]
        self._unknown = {host: np.zeros(self._rows, np.bool_) for host in hosts}
        self._scores: dict[Part, Floats] = {}
        for part, job in jobs.items():
            scores = job.rows.ids.scratch.of_rows(self._rows, np.float64, "scores")
            for kept_part in job.batch.parts():
                rows = kept_part.scored.rows
                scores[rows] = kept_part.scored.scores
                for host, unknown in zip(job.half.model.parties[1:], kept_part.unknown, strict=True):
                    self._unknown[host][rows] |= unknown
            self._scores[part] = scores

    @property
    def unknown(self) -> dict[str, int]:
        """How many rows each host does not know."""
        return {host: int(rows.sum()) for host, rows in self._unknown.items()}

    def say_drift(self, part: Part, show: Show) -> float | None:
        """Say it if a model's scores have shifted since training; their index if it is known."""
        profile = self._jobs[part].half.score_profile
        if profile is None:
            return None
        return say_drift(show, f"the scores of {part} have", profile, self._scores[part])

    def pieces(self) -> Iterator[ScoreColumns]:
        """The columns, some rows at a time."""
        return map(self._columns, in_pieces(self._rows, *self._scores.values()))

    def _predictions(self, part: Part, rows: slice) -> dict[str, Floats]:
        job = self._jobs[part]
        offset, exposure = job.table.offset, job.table.exposure
        return predictions_of(
            job.half,
            self._scores[part][rows],
            None if offset is None else offset[rows],
            None if exposure is None else exposure[rows],
        )

    def _columns(self, rows: slice) -> ScoreColumns:
        frequency, severity = (self._predictions(part, rows) for part in ("frequency", "severity"))
        load = self._load[rows]
        claim = severity["prediction"]
        found: dict[str, Floats] = {
            "frequency": frequency["prediction"],
            "severity": claim,
            "load": load,
            "pure_premium": frequency["prediction"] * claim * load,
        }
        if "expected" in frequency:
            found["expected_loss"] = frequency["expected"] * claim * load
        if "tweedie" in self._jobs:
            found["tweedie"] = self._predictions("tweedie", rows)["prediction"] * load
        ids = {name: cells[rows] for name, cells in self._first.rows.named.items()}
        return {**ids, **found, "unknown_to": _flags({h: m[rows] for h, m in self._unknown.items()})}


def _flags(unknown: dict[str, Mask]) -> list[str]:
    """The hosts that do not know each row."""
    flags = [""] * len(next(iter(unknown.values()), np.empty(0)))
    for host, rows in unknown.items():
        for row in np.flatnonzero(rows).tolist():
            flags[row] = f"{flags[row]} {host}".strip()
    return flags
