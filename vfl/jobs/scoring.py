"""The guest's batch job: score a file of rows part by part, and go on after whatever ended a run."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vfl.errors import ConfigError, DataError, ModelError, PeerStopped, VflError
from vfl.jobs.account import Account
from vfl.jobs.agreement import offer_to
from vfl.jobs.alignment import matching_of, means_of
from vfl.jobs.batch import Batch, KeptPart, batch_key, batch_name
from vfl.jobs.connect import Office, hosts_of
from vfl.jobs.halves import AnyGuestHalf, GuestHalf, load_half, resolve_model
from vfl.jobs.offer import Offer, new_run
from vfl.jobs.resume import persevere
from vfl.jobs.show import Show, drift_of_columns, say_drift, say_unseen
from vfl.jobs.storage import in_store
from vfl.learn.explain import check_covers, reasons
from vfl.learn.losses import Floats, Integers, LogisticLoss
from vfl.net.peer import Peer, together
from vfl.party.config import DataSection
from vfl.party.keys import TableIds, all_keys
from vfl.party.linear import own_scores
from vfl.party.output import check_writable, write_scores
from vfl.party.store import Store, remove_unfinished
from vfl.party.table import Table, read_table
from vfl.protocols.checkpoints import to_the_end
from vfl.protocols.glm_scoring import guest_glm_score
from vfl.protocols.grower import GuestModel
from vfl.protocols.join import KeyIds, guest_match
from vfl.protocols.scoring import ROWS, ScoredPart, guest_score

_PREDICTIONS = ("probability", "prediction", "expected")
_EXPLAINED = ("score", "base", "reasons")
_CONTRIBUTION = "contribution:"


@dataclass(frozen=True)
class Scored:
    """What scoring a batch came to."""

    rows: int
    unknown: dict[str, int]  # rows that each host does not know
    account: Account
    resumed_from: int  # rows that earlier runs of the command had done
    seconds: dict[str, float]  # of this run by phase: reading, alignment, scoring, writing
    drift: dict[str, float]  # PSI of the guest's own columns against the rows of training
    score_psi: float | None  # of the scores; None of a model of an earlier version

    @property
    def rows_per_second(self) -> float | None:
        """Of the phase of scoring; None if this run scored no row."""
        rows, seconds = self.rows - self.resumed_from, self.seconds["scoring"]
        return rows / seconds if rows and seconds else None


class _Clock:
    """Seconds by phase."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(("reading", "alignment", "scoring", "writing"), 0.0)
        self._since = time.monotonic()

    def add(self, phase: str | None) -> None:
        """What has passed since the last call was this phase, or none."""
        now = time.monotonic()
        if phase is not None:
            self.seconds[phase] += now - self._since
        self._since = now


@in_store
async def score(
    office: Office,
    model: str,
    data: Path,
    out: Path,
    *,
    explain: bool = False,
    top: int = 3,
    fresh: bool = False,
    wait: float,
    show: Show,
) -> Scored:
    """Score the rows of a file; `out` gets its ids, predictions and which hosts know no such row.

    A probability for a 0/1 label, else a prediction; with an exposure the prediction is per unit, and
    `expected` is that of the row's exposure. With `explain` also the score of that prediction on the
    scale of the model's link, what each column or party adds to it, and the `top` reasons in words.

    Parts that are done are kept in the store until the output is written: the same call after a kill
    goes on behind them, unless `fresh`, to the same output. A host that is lost is waited for as long as
    `[party] reconnect` says. Raises DataError, ConfigError (no offset named, an id that is called as a
    column of the output), ModelError, Refused when another process writes the output, and what sessions
    raise.
    """
    party, started, clock = office.party, time.monotonic(), _Clock()
    check_writable(out)
    store = Store(party.party.store)
    half = load_half(store, resolve_model(store, model), GuestHalf)
    _check_parties(office, half)
    if explain and isinstance(half.model, GuestModel):
        check_covers(half.model.trees)
    section = _as_trained(party.data, half)
    _check_names(section.id_columns, half, explain)
    with store.locked("batch", name := batch_name(out), f"another run of vfl that writes {out}"):
        remove_unfinished(out)
        rows = _read(section, half, data, show)
        key = batch_key(half, data, section, explain)
        table = rows.table
        drift = drift_of_columns(show, half.profiles, table.path.name, table.features)
        batch = Batch(store, name, key, table.rows)
        resumed_from = _opened(batch, fresh, show)
        job = _Job(office, half, table, section, rows.ids, batch, explain, show, clock)
        clock.add("reading")
        await job.run(wait)
        output = _Output(half, rows, top)
        clock.add(None)
        await asyncio.to_thread(write_scores, out, map(output.columns, batch.parts()))
        score_psi = output.say_drift(show)
        batch.remove()
        clock.add("writing")
    return Scored(
        table.rows,
        output.unknown,
        replace(job.account + Account.of(started, []), seconds=time.monotonic() - started),
        resumed_from,
        clock.seconds,
        drift,
        score_psi,
    )


def _opened(batch: Batch, fresh: bool, show: Show) -> int:
    """How many rows are done already; says so, or why what was kept is of no use."""
    if fresh:
        batch.remove()
    elif batch.superseded:
        show.say(
            f"{batch.superseded:,} rows of an unfinished batch are of another table, model or option: "
            "starting anew"
        )
    if batch.rows:
        show.say(f"going on after {batch.rows:,} of {batch.of:,} rows")
    return batch.rows


@dataclass(frozen=True)
class _Rows:
    """The rows of a batch. Arrow holds the ids as text: Python's would take most of the memory."""

    table: Table  # without ids
    named: dict[str, pa.LargeStringArray]  # ids as they are written, by column
    ids: TableIds


@dataclass
class _Job:
    """The part of the job that needs hosts.

    Making one does what the guest can do alone: raises DataError for columns that are not as they were
    in training.
    """

    office: Office
    half: AnyGuestHalf
    table: Table
    section: DataSection
    ids: TableIds
    batch: Batch
    explain: bool
    show: Show
    clock: _Clock
    account: Account = field(default_factory=Account.nothing)  # of the sessions

    def __post_init__(self) -> None:
        model, table = self.half.model, self.table
        self._own = np.empty(0)  # what the guest's columns add to each row's score, of a linear model
        if not isinstance(model, GuestModel):
            own = own_scores(table.path.name, model.part, table.features, table.rows)
            say_unseen(self.show, own.unseen)
            self._own = own.rows

    async def run(self, wait: float) -> None:
        """Score what is left, again and again while hosts are lost. Raises what sessions raise."""
        batch = self.batch
        if batch.rows == batch.of:
            return
        reconnect = self.office.party.party.reconnect
        try:
            await persevere(
                self._session, wait=wait, reconnect=reconnect, show=self.show, done=lambda: batch.rows
            )
        except (VflError, asyncio.CancelledError) as error:
            if batch.rows:
                day = isinstance(error, PeerStopped) and "_a_day" in str(error)  # a rule of its policy
                self.show.say(
                    f"{batch.rows:,} of {batch.of:,} rows are done and kept: the same command goes on "
                    f"after them{' when the day is over (00:00 UTC)' if day else ''}"
                )
            raise

    async def _session(self, wait: float) -> None:
        """Align what is left with each host, score it, keep it part by part."""
        names = list(self.half.model.parties[1:])
        started = time.monotonic()
        async with hosts_of(self.office, wait, self.show, names) as hosts:
            try:
                await self._with(hosts, names)
            finally:
                self.account += Account.of(started, hosts)

    async def _with(self, hosts: Sequence[Peer], names: list[str]) -> None:
        party = self.office.party
        matching = matching_of(self.section, engine=party.align.engine, join="left", many=True)
        rule = list(self.half.normalise)
        offer = Offer("score", new_run(), names, rule, model=self.half.name, matching=matching)
        await offer_to(self.office, hosts, offer)
        self.clock.add(None)
        places = await self._align(hosts, offer)
        self.clock.add("alignment")
        first = self.batch.rows
        async with aclosing(self._scored(hosts, places)) as parts:
            async for part in parts:
                unknown = np.array([place[part.rows] < 0 for place in places])
                rows = slice(first + part.rows.start, first + part.rows.stop)
                await to_the_end(self.batch.keep, replace(part, rows=rows), unknown)
                self.clock.add("scoring")

    async def _align(self, hosts: Sequence[Peer], offer: Offer) -> list[Integers]:
        """The place of each row that is left in the alignment with each host, -1 where it is unknown."""
        first, rows = self.batch.rows, self.table.rows
        # Never fewer than a part, if there are that many: a host whose policy refuses small batches
        # must not take the end of a large one for such a batch.
        asked = np.arange(rows) >= min(first, max(0, rows - ROWS))
        keys = [KeyIds(key.ids, np.where(asked, key.of_row, -1)) for key in self.ids.keys]
        found = await together(
            [
                guest_match(
                    [host],
                    keys,
                    means_of(self.office, offer, host.name.encode(), self.show),
                    many=True,
                )
                for host in hosts
            ]
        )
        return [matched.of_row[first:] for matched in found]

    def _scored(
        self, hosts: Sequence[Peer], places: Sequence[Integers]
    ) -> AsyncGenerator[ScoredPart, None]:
        """The parts of what is left; their rows, and those of `places`, are counted from its start."""
        model, first, of = self.half.model, self.batch.rows, self.batch.of
        features = self.table.take(slice(first, None))

        def follow(done: int, _: int) -> None:
            self.show.progress("scoring", first + done, of)

        explain = self.explain
        if isinstance(model, GuestModel):
            return guest_score(hosts, model, features, places, of - first, follow, explain=explain)
        own = self._own[first:]
        return guest_glm_score(hosts, model, features, own, places, follow, explain=explain)


class _Output:
    """The columns of the output, part by part, and what there is to say about all of them."""

    def __init__(self, half: AnyGuestHalf, rows: _Rows, top: int) -> None:
        self._half, self._table, self._ids, self._top = half, rows.table, rows.named, top
        self._scores: list[Floats] = []
        self.unknown = dict.fromkeys(half.model.parties[1:], 0)

    def columns(self, part: KeptPart) -> dict[str, Sequence[Any] | NDArray[Any]]:
        """Those of a part's rows."""
        rows, scores = part.scored.rows, part.scored.scores
        self._scores.append(scores.copy())  # of a view, which would hold all contributions
        flags = [""] * len(scores)
        for host, unknown in zip(self.unknown, part.unknown, strict=True):
            self.unknown[host] += int(unknown.sum())
            for row in np.flatnonzero(unknown).tolist():
                flags[row] = f"{flags[row]} {host}".strip()
        columns = predictions(self._half, scores, self._table, rows) | {"unknown_to": flags}
        ids = {name: cells[rows].to_pylist() for name, cells in self._ids.items()}
        return ids | columns | self._explained(part.scored)

    def _explained(self, part: ScoredPart) -> dict[str, Any]:
        """The score of the prediction, what adds up to it, and reasons; none if that was not asked."""
        if part.contributions is None:
            return {}
        score, parts = part.scores, dict(part.contributions)
        if self._half.offset and self._table.offset is not None:
            offset = self._table.offset[part.rows]
            if self._table.exposure is not None:
                offset = offset - np.log(self._table.exposure[part.rows])
            parts["(offset)" if "offset" in parts else "offset"] = offset
            score = score + offset
        return {
            "score": score,
            "base": np.full(len(score), part.base),
            **{_CONTRIBUTION + name: values for name, values in parts.items()},
            # Nothing adds to the scores of a model that learnt nothing, as earlier versions kept them.
            "reasons": reasons(part.contributions, self._half.loss.link, self._top)
            if part.contributions
            else [""] * len(score),
        }

    def say_drift(self, show: Show) -> float | None:
        """Say it if the scores have shifted since training; their index if it is known."""
        profile = self._half.score_profile
        if profile is None:
            return None
        return say_drift(show, "the scores have", profile, np.concatenate(self._scores))


def predictions(
    half: AnyGuestHalf, scores: Floats, table: Table, rows: slice = slice(None)
) -> dict[str, Any]:
    """The predictions of some rows of a table, from their scores without offset."""
    offset, exposure = table.offset, table.exposure
    expected = half.loss.predict(scores if offset is None else scores + offset[rows])
    if isinstance(half.loss, LogisticLoss):
        return {"probability": expected}
    if exposure is None:
        return {"prediction": expected}
    return {"prediction": expected / exposure[rows], "expected": expected}


def _check_names(ids: Sequence[str], half: AnyGuestHalf, explain: bool) -> None:
    names = {"unknown_to", *_PREDICTIONS, *(_EXPLAINED if explain else ())}
    for name in ids:
        if name in names or (explain and name.startswith(_CONTRIBUTION)):
            raise ConfigError(f"[data] id '{name}' is the name of a column of the output: rename it")


def _read(section: DataSection, half: AnyGuestHalf, path: Path, show: Show) -> _Rows:
    """Read the file twice, ids first: what normalising them takes is gone before the columns come."""
    named, ids = _read_ids(section, path)
    columns = section.model_copy(update={"id": (), "fallback": ()})
    table = read_table(columns, role="guest", need_label=False, path=path, expect=half.columns)
    for warning in table.warnings:
        show.say(f"note: {warning}")
    if half.exposure and table.exposure is None:
        show.say(f"note: {table.path.name} has no column of exposure: scored per unit of exposure")
    if table.rows != len(ids.group):
        raise DataError(f"{table.path.name} has changed while it was read: start again")
    return _Rows(table, named, ids)


def _read_ids(section: DataSection, path: Path) -> tuple[dict[str, pa.LargeStringArray], TableIds]:
    alone = section.model_copy(update={"exposure": None, "offset": None})
    found = read_table(alone, role="guest", need_label=False, path=path, expect=())
    # A batch may ask about the same id twice.
    rules = [key.normalise for key in section.keys]
    ids = all_keys(found.by_key(section), rules, "keep", section.empty, found.path.name)
    named = zip(section.id_columns, found.ids, strict=True)
    return {name: pa.array(cells, pa.large_string()) for name, cells in named}, ids


def _as_trained(data: DataSection, half: AnyGuestHalf) -> DataSection:
    """The section with the model's rule for ids, and exposure and offset only where it had them."""
    if half.offset and data.offset is None:
        raise ConfigError(
            f"[data] offset is missing in the party file: model {half.name} was trained with one"
        )
    if len(half.fallback) != len(data.fallback):
        raise ConfigError(
            f"model {half.name} was trained with {1 + len(half.fallback)} keys, but [data] has "
            f"{1 + len(data.fallback)}: set fallback as it was"
        )
    keys = [
        key.model_copy(update={"normalise": rule})
        for key, rule in zip(data.fallback, half.fallback, strict=True)
    ]
    return data.model_copy(
        update={
            "normalise": half.normalise,
            "fallback": tuple(keys),
            "exposure": data.exposure if half.exposure else None,
            "offset": data.offset if half.offset else None,
        }
    )


def _check_parties(office: Office, half: AnyGuestHalf) -> None:
    for name in half.model.parties:
        if not office.same_party(name, half.fingerprints.get(name)):
            raise ModelError(
                f"model {half.name} was trained with another {name} (its certificate differs from the "
                "one in the party file)"
            )
