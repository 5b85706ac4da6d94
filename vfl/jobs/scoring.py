"""A batch, the guest and a host side by side: scored in parts, and gone on with after a run ended."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from vfl.arrays import Floats, Integers, Mask
from vfl.errors import (
    ConfigError,
    DataError,
    ModelError,
    Refused,
    VflError,
)
from vfl.jobs.account import Account
from vfl.jobs.admission import (
    accept,
    check_request,
    id_counter,
    lone_participant,
    matching_of,
    psi_settings,
)
from vfl.jobs.agreement import offer_to
from vfl.jobs.batch import Batch, KeptPart, batch_key, batch_name
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.names import resolve_model
from vfl.jobs.offer import Offer, new_run
from vfl.jobs.own_table import table_of
from vfl.jobs.resume import persevere
from vfl.jobs.shared_table import as_trained
from vfl.jobs.show import Show, drift_of_columns, say_drift, say_unknown_levels, say_unseen
from vfl.jobs.storage import in_store
from vfl.learn.explain import reasons
from vfl.learn.levels import match_levels
from vfl.learn.losses import LogisticLoss
from vfl.models.halves import AnyGuestHalf, GuestHalf, HostHalf
from vfl.models.kind import GuestBatch, HostBatch
from vfl.models.kinds import kind_of_model, load_half
from vfl.net.peer import Peer, together
from vfl.party.config import Party
from vfl.party.keys import TableIds, all_keys
from vfl.party.output import (
    OutputPlace,
    ScoreCells,
    ScoreColumns,
    check_scores,
    columns_of,
    write_scores,
)
from vfl.party.policy import (
    Usage,
    check_batch,
    check_score,
    today,
)
from vfl.party.sections import DataSection
from vfl.party.table import Table, read_table
from vfl.party.unknown_levels import check_host_levels, check_own_levels, describe_host_levels
from vfl.protocols.align.join import KeyIds, guest_match, host_match
from vfl.protocols.common.batches import ROWS, ScoredPart, ScoringCourse, UnknownLevels
from vfl.protocols.common.checkpoints import to_the_end
from vfl.text import counted

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
    unknown_levels: dict[str, int]  # rows with a level that was not in training, by own column and host
    score_psi: float | None  # of the scores; None of a model of an earlier version
    replaced: bool  # whether earlier scores were there
    escaped: dict[str, int]  # rows whose text got an apostrophe before it, by column; in CSV alone

    @property
    def rows_per_second(self) -> float | None:
        """Rows a second in the phase of scoring; None if this run scored no row."""
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


@dataclass(frozen=True)
class ScoreOptions:
    """What a person asks for besides the scores."""

    explain: bool = False  # what adds up to each score
    top: int = 3  # reasons in words, with `explain`
    fresh: bool = False  # not to go on with an unfinished batch
    force: bool = False  # to replace any file


@in_store
async def score(
    site: Site,
    model: str,
    data: Path,
    out: Path,
    options: ScoreOptions = ScoreOptions(),
    *,
    wait: float,
    show: Show,
) -> Scored:
    """Score the rows of a file; `out` gets its ids, predictions and which hosts know no such row.

    A probability for a 0/1 label, else a prediction; with an exposure the prediction is per unit, and
    `expected` is that of the row's exposure. With `explain` also the score of that prediction on the
    scale of the model's link, what each column or party adds to it, and reasons in words.

    Parts that are done are kept in the store until the output is written: the same call after a kill
    goes on behind them, unless `fresh`, to the same output. Earlier scores there are replaced, any other
    file only with `force`. A host that is lost is waited for as long as `[party] reconnect` says. Raises
    DataError, ConfigError (no offset named, an id that is called as a column of the output), ModelError,
    Refused when another process writes the output, and what sessions raise.
    """
    party, started, clock = site.party, time.monotonic(), _Clock()
    explain = options.explain
    target = _target(party, data, out, options.force)
    store = site.store
    half = load_half(store, resolve_model(store, model), GuestHalf)
    _check_parties(site, half)
    if explain:
        kind_of_model(half.model).check_explains(half.model)
    section = _section_as_trained(party.data, half)
    _check_names(section.id_columns, explain)
    with store.locked("batch", name := batch_name(out), f"another run of vfl that writes {out}"):
        target.clean()
        rows = _read(section, half, data, show)
        key = batch_key(half, data, section, explain)
        table = rows.table
        _check_own_levels(rows, half, section, show)
        drift = drift_of_columns(show, half.profiles, table.path.name, table.features)
        batch = Batch(store, name, key, table.rows)
        resumed_from = _take_up(batch, options.fresh, show)
        job = _Job(
            site=site,
            half=half,
            table=table,
            section=section,
            ids=rows.ids,
            batch=batch,
            explain=explain,
            show=show,
            clock=clock,
        )
        clock.add("reading")
        await job.run(wait)
        output = _Output(half, rows, options.top)
        clock.add(None)
        replaced = target.check()
        escaped = await asyncio.to_thread(_write, target, out.suffix, map(output.columns, batch.parts()))
        score_psi = output.say_drift(show)
        batch.remove()
        clock.add("writing")
    seconds = time.monotonic() - started
    own_unknown = {name: int(which.sum()) for name, which in rows.unknown.items()}
    return Scored(
        rows=table.rows,
        unknown=output.unknown,
        account=replace(job.account + Account.of(started, []), seconds=seconds),
        resumed_from=resumed_from,
        seconds=clock.seconds,
        drift=drift,
        unknown_levels=own_unknown | job.unknown_levels,
        score_psi=score_psi,
        replaced=replaced,
        escaped=escaped,
    )


def _target(party: Party, data: Path, out: Path, force: bool) -> OutputPlace:
    """Where the scores go. Raises DataError where they cannot be written or must not."""

    def is_former(path: Path) -> bool:
        ids, columns = party.data.id_columns, columns_of(path, out.suffix)
        rest = columns[len(ids) :]
        return bool(columns) and rest[:1] in (["probability"], ["prediction"]) and "unknown_to" in rest

    check_scores(out)
    reads = {data: "the table of rows to score"}
    return OutputPlace.of(out, "score", party=party, reads=reads, is_former=is_former, force=force)


def _write(target: OutputPlace, kind: str, parts: Iterable[ScoreColumns]) -> dict[str, int]:
    with target.writing() as file:
        return write_scores(file, kind, parts)


def _take_up(batch: Batch, fresh: bool, show: Show) -> int:
    """How many rows are done already; says so, or why what was kept is of no use."""
    if fresh:
        batch.remove()
    elif batch.superseded:
        rows, verb = counted(batch.superseded, "row"), "is" if batch.superseded == 1 else "are"
        show.say(
            f"{rows} of an unfinished batch {verb} of another table, model or option: starting anew"
        )
    if batch.rows:
        show.say(f"going on after {batch.rows:,} of {counted(batch.of, 'row')}")
    return batch.rows


@dataclass(frozen=True)
class _Rows:
    """The rows of a batch. Arrow holds the ids as text: Python's would take most of the memory."""

    table: Table  # without ids
    named: dict[str, pa.LargeStringArray]  # ids as they are written, by column
    ids: TableIds
    unknown: dict[str, Mask]  # by column, which rows have a level that was not in training


@dataclass
class _Job:
    """The part of the job that needs hosts.

    Making one does what the guest can do alone: raises DataError for columns that are not as they were
    in training.
    """

    site: Site
    half: AnyGuestHalf
    table: Table
    section: DataSection
    ids: TableIds
    batch: Batch
    explain: bool
    show: Show
    clock: _Clock
    account: Account = field(default_factory=Account.nothing)  # of the sessions
    unknown_levels: dict[str, int] = field(default_factory=dict)  # by host, rows of unknown levels

    def __post_init__(self) -> None:
        model, table = self.half.model, self.table
        self._kind = kind_of_model(model)
        self._own = self._kind.own_scores(model, table.path.name, table.features, table.rows)
        say_unseen(self.show, self._own.unseen, self.half.levels)

    async def run(self, wait: float) -> None:
        """Score what is left, again and again while hosts are lost. Raises what sessions raise."""
        batch = self.batch
        if batch.rows == batch.of:
            return
        reconnect = self.site.party.party.reconnect
        try:
            await persevere(
                self._session, wait=wait, reconnect=reconnect, show=self.show, done=lambda: batch.rows
            )
        except (VflError, asyncio.CancelledError) as error:
            if batch.rows:
                day = isinstance(error, VflError) and error.until_tomorrow
                done, one = f"{batch.rows:,} of {counted(batch.of, 'row')}", batch.rows == 1
                self.show.say(
                    f"{done} {'is' if one else 'are'} done and kept: the same command goes on after "
                    f"{'it' if one else 'them'}{' when the day is over (00:00 UTC)' if day else ''}"
                )
            raise

    async def _session(self, wait: float) -> None:
        """One attempt: align what is left with each host, score it, keep it part by part."""
        names = list(self.half.model.parties[1:])
        started = time.monotonic()
        if not names:  # of a model over rows this party has all
            await self._score([], [], {})
            return
        async with hosts_of(self.site, wait, self.show, names) as hosts:
            try:
                await self._with(hosts, names)
            finally:
                self.account += Account.of(started, hosts)

    async def _with(self, hosts: Sequence[Peer], names: list[str]) -> None:
        party = self.site.party
        matching = matching_of(self.section, engine=party.align.engine, join="left", many=True)
        rule = list(self.half.normalise)
        offer = Offer("score", new_run(), names, rule, model=self.half.name, matching=matching)
        await offer_to(self.site, hosts, offer)
        self.clock.add(None)
        places, known = await self._align(hosts, offer)
        self.clock.add("alignment")
        await self._score(hosts, places, known)

    async def _score(
        self, hosts: Sequence[Peer], places: Sequence[Integers], known: dict[str, int]
    ) -> None:
        """Score what is left, and keep it part by part."""
        first = self.batch.rows

        def unknown_levels(host: Peer, rows: int) -> None:
            if rows > known[host.name]:
                raise host.breach("more rows with unknown levels than it has rows")
            self._check_levels(host, rows, known[host.name])

        async with aclosing(self._score_parts(hosts, places, unknown_levels)) as parts:
            async for part in parts:
                unknown = np.array([place[part.rows] < 0 for place in places], np.bool_)
                unknown = unknown.reshape(len(places), len(part.scores))
                rows = slice(first + part.rows.start, first + part.rows.stop)
                await to_the_end(self.batch.keep, replace(part, rows=rows), unknown)
                self.clock.add("scoring")

    def _check_levels(self, host: Peer, rows: int, known: int) -> None:
        """Raises DataError where too many rows have levels that were not in training."""
        if not rows:
            return
        self.unknown_levels[host.name] = max(rows, self.unknown_levels.get(host.name, 0))
        self.show.say(f"note: {describe_host_levels(host.name, rows, known)}, more than chance makes")
        advice = f"{host.name}'s log says in which columns; it may write its table in another way"
        check_host_levels(host.name, rows, known, self.section.unknown_levels, advice)

    async def _align(self, hosts: Sequence[Peer], offer: Offer) -> tuple[list[Integers], dict[str, int]]:
        """The place of each row that is left in the alignment with each host, -1 where it is unknown,
        and how many ids each host knows."""
        first, rows = self.batch.rows, self.table.rows
        # Never fewer than a part, if there are that many: a host whose policy refuses small batches
        # must not take the end of a large one for such a batch.
        asked = np.arange(rows) >= min(first, max(0, rows - ROWS))
        keys = [KeyIds(key.ids, np.where(asked, key.of_row, -1)) for key in self.ids.keys]
        matches = await together(
            [
                guest_match(
                    [host],
                    keys,
                    context=offer.run + host.name.encode(),
                    settings=psi_settings(self.site, offer, self.show),
                    many=True,
                )
                for host in hosts
            ]
        )
        known = {host.name: matched.ids for host, matched in zip(hosts, matches, strict=True)}
        return [matched.of_row[first:] for matched in matches], known

    def _score_parts(
        self, hosts: Sequence[Peer], places: Sequence[Integers], unknown_levels: UnknownLevels
    ) -> AsyncGenerator[ScoredPart, None]:
        """The parts of what is left; their rows, and those of `places`, are counted from its start."""
        model, first, of = self.half.model, self.batch.rows, self.batch.of
        features = self.table.take(slice(first, None))

        def follow(done: int, _: int) -> None:
            self.show.progress("scoring", first + done, of)

        batch = GuestBatch(
            features,
            of - first,
            self._own.after(first),
            places,
            follow,
            explain=self.explain,
            unknown_levels=unknown_levels,
        )
        return self._kind.guest_parts(hosts, model, batch)


class _Output:
    """The columns of the output, part by part, and what there is to say about all of them."""

    def __init__(self, half: AnyGuestHalf, rows: _Rows, top: int) -> None:
        self._half, self._table, self._ids, self._top = half, rows.table, rows.named, top
        self._scores: list[Floats] = []
        self.unknown = dict.fromkeys(half.model.parties[1:], 0)

    def columns(self, part: KeptPart) -> dict[str, ScoreCells]:
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
        return ids | columns | self._explain(part.scored)

    def _explain(self, part: ScoredPart) -> dict[str, ScoreCells]:
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
) -> dict[str, Floats]:
    """The predictions of some rows of a table, from their scores without offset."""
    offset, exposure = table.offset, table.exposure
    expected = half.loss.predict(scores if offset is None else scores + offset[rows])
    if isinstance(half.loss, LogisticLoss):
        return {"probability": expected}
    if exposure is None:
        return {"prediction": expected}
    return {"prediction": expected / exposure[rows], "expected": expected}


def _check_names(ids: Sequence[str], explain: bool) -> None:
    names = {"unknown_to", *_PREDICTIONS, *(_EXPLAINED if explain else ())}
    for name in ids:
        if name in names or (explain and name.startswith(_CONTRIBUTION)):
            raise ConfigError(f"[data] id '{name}' is the name of a column of the output: rename it")


def _read(section: DataSection, half: AnyGuestHalf, path: Path, show: Show) -> _Rows:
    """Read the file twice, ids first: what normalising them takes is gone before the columns come."""
    named, ids = _read_ids(section, path)
    for note in ids.notes:
        show.say(f"note: {path.name}: {note}")
    columns = section.model_copy(update={"id": (), "fallback": ()})
    needed = kind_of_model(half.model).needed(half.model)
    table = read_table(
        columns, role="guest", need_label=False, path=path, expect=half.columns, needed=needed
    )
    for error in table.faults.values():
        show.say(f"note: {error} (model {half.name} does without it)")
    features, unknown = match_levels(table.features, half.levels)
    table = replace(table, features=features)
    if half.exposure and table.exposure is None:
        show.say(f"note: {table.path.name} has no column of exposure: scored per unit of exposure")
    if table.rows != len(ids.group):
        raise DataError(f"{table.path.name} has changed while it was read: start again")
    return _Rows(table, named, ids, unknown)


def _check_own_levels(rows: _Rows, half: AnyGuestHalf, section: DataSection, show: Show) -> None:
    """Raises DataError for too many rows with levels that were not in training."""
    if half.job["job"].get("partition") == "rows":
        for column, which in rows.unknown.items():
            some = f"{int(which.sum()):,} of {counted(len(which), 'row')}"
            show.say(
                f"note: column '{column}' has a level that the job did not name in {some}: these count "
                "as one level, as in training"
            )
        return
    say_unknown_levels(show, rows.unknown, half.levels)
    check_own_levels(rows.table.path.name, rows.unknown, half.levels, section.unknown_levels)


def _read_ids(section: DataSection, path: Path) -> tuple[dict[str, pa.LargeStringArray], TableIds]:
    ids_only = section.model_copy(update={"exposure": None, "offset": None})
    table = read_table(ids_only, role="guest", need_label=False, path=path, expect=())
    # A batch may ask about the same id twice.
    rules = [key.normalise for key in section.keys]
    ids = all_keys(
        table.by_key(section),
        rules,
        "keep",
        section.empty,
        table.path.name,
        section.id_readings,
        table.row_numbers,
    )
    named = zip(section.id_columns, table.ids, strict=True)
    return {name: pa.array(cells, pa.large_string()) for name, cells in named}, ids


def _section_as_trained(data: DataSection, half: AnyGuestHalf) -> DataSection:
    """The section with the model's rule for ids, and exposure and offset only where it had them."""
    if half.offset and data.offset is None:
        raise ConfigError(
            f"[data] offset is missing in the party file: model {half.name} was trained with one"
        )
    if len(half.fallback) != len(data.fallback):
        raise ConfigError(
            f"model {half.name} was trained with {counted(1 + len(half.fallback), 'key')}, but [data] "
            f"has {1 + len(data.fallback)}: set fallback as it was"
        )
    keys = [
        key.model_copy(update={"normalise": rule})
        for key, rule in zip(data.fallback, half.fallback, strict=True)
    ]
    return as_trained(data, half).model_copy(
        update={
            "normalise": half.normalise,
            "fallback": tuple(keys),
            "exposure": data.exposure if half.exposure else None,
            "offset": data.offset if half.offset else None,
        }
    )


def _check_parties(site: Site, half: AnyGuestHalf) -> None:
    for name in half.model.parties:
        if not site.same_party(name, half.fingerprints.get(name)):
            raise ModelError(
                f"model {half.name} was trained with another {name} (its certificate differs from the "
                "one in the party file)"
            )


_NOT_AS_IN_TRAINING = "one of its columns is not as it was in training (its log has the details)"


async def serve_score(site: Site, peer: Peer, offer: Offer, show: Show) -> str:
    """A host's part; what it came to, in words."""
    policy, usage = site.party.policy, Usage(site.store)
    check_request(site, peer, offer, show, f"score a batch with {offer.model}")
    check_score(policy, peer.name, today(), offer.matching.engine)
    half = load_half(site.store, offer.model or "", HostHalf)
    kind = kind_of_model(half.model)
    if not site.same_party(peer.name, half.guest):
        raise Refused(f"model {half.name} was not trained with this {peer.name}")
    if policy.columns is not None and not set(half.columns) <= set(policy.columns):
        raise Refused(
            f"model {half.name} has columns that rule columns of [policy] leaves out: train again, or "
            "the host adds them there"
        )
    try:
        table, ids = await table_of(site, offer, half.columns, kind.needed(half.model))
    except DataError as error:
        raise DataError(f"{error} (for model {half.name})", for_peer=_NOT_AS_IN_TRAINING) from None
    for column in table.faults:
        show.say(f"note: {table.path.name}: column '{column}' cannot be used; {half.name} needs it not")
    await accept(site, peer, offer)
    settings = psi_settings(site, offer, show, id_counter(policy, usage))
    rows = (await host_match(peer, ids.keys, lone_participant(site, offer), settings=settings)).rows
    check_batch(policy, len(rows))
    # These are the rows that it will be asked for.
    features, unknown = await asyncio.to_thread(match_levels, table.take(rows), half.levels)
    strange = say_unknown_levels(show, unknown, half.levels)
    await asyncio.to_thread(drift_of_columns, show, half.profiles, table.path.name, features)

    def follow(done: int, of: int) -> None:
        show.progress("scoring", done, of)

    def admit(many: int) -> None:
        usage.count(policy, peer.name, "scored_rows", many, today())

    own_scores = await asyncio.to_thread(
        kind.own_scores, half.model, table.path.name, features, len(rows)
    )
    say_unseen(show, own_scores.unseen, half.levels)
    batch = HostBatch(
        features,
        len(rows),
        own_scores,
        ScoringCourse(follow, admit),
        shows_columns=policy.show_names and policy.explain,
        unknown_levels=strange,
    )
    scored = await kind.host_parts(peer, half.model, batch)
    return f"scored {counted(scored, 'row')} for {peer.name}"
