"""A batch at the guest: scored in parts, and gone on with after a run ended. A host's side is in
scoring_host.py."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
from msgspec import UNSET

from vfl.arrays import Integers, Mask
from vfl.blocks.scratch import Scratch
from vfl.crypto.randomness import OF_SYSTEM, Randomness
from vfl.errors import (
    ConfigError,
    ModelError,
    PeerError,
    VflError,
)
from vfl.jobs.account import Account
from vfl.jobs.admission import (
    matching_of,
    psi_settings,
)
from vfl.jobs.agreement import offer_to
from vfl.jobs.answers_of_ids import AnswersAbout, with_answers
from vfl.jobs.batch import Batch, KeptPart, batch_key, batch_name
from vfl.jobs.batch_rows import check_batch_levels, read_batch
from vfl.jobs.commitments import TableDigests, digest_of_half, digest_table
from vfl.jobs.connect import Site, hosts_of
from vfl.jobs.evidence import HALF, Answers, PassedOn, keeping
from vfl.jobs.names import resolve_model
from vfl.jobs.offer import Offer, new_run
from vfl.jobs.presenting import present
from vfl.jobs.queries import with_query_of
from vfl.jobs.resume import persevere
from vfl.jobs.score_places import place_of, target_of, text_of
from vfl.jobs.scored_columns import BatchRows, ScoredColumns, check_names
from vfl.jobs.sealed_host import fault_of, unknown_rows
from vfl.jobs.sealed_scores import SealedBatch
from vfl.jobs.shared_table import as_trained
from vfl.jobs.show import Show, drift_of_columns, say_unseen
from vfl.jobs.storage import in_store
from vfl.models.across import not_by_parts
from vfl.models.halves import AnyGuestHalf, GuestHalf
from vfl.models.kind import GuestBatch
from vfl.models.kinds import kind_of_model, load_half
from vfl.net.peer import Peer, together
from vfl.party.keys import TableIds
from vfl.party.sections import DataSection, Lookup
from vfl.party.sources.places import Place
from vfl.party.table import Table
from vfl.party.unknown_levels import check_host_levels, describe_host_levels
from vfl.protocols.align.join import KeyIds, Matched, guest_match
from vfl.protocols.common.batches import ROWS, ScoredPart, UnknownLevels
from vfl.protocols.common.checkpoints import to_the_end
from vfl.text import counted


@dataclass(frozen=True)
class Scored:
    """What scoring a batch came to."""

    rows: int
    unknown: dict[str, int]  # rows that each host does not know
    lookup: dict[str, Lookup]  # by host, whether rows were looked up in its directory or aligned
    account: Account
    resumed_from: int  # rows that earlier runs of the command had done
    seconds: dict[str, float]  # of this run by phase: reading, alignment, scoring, writing
    drift: dict[str, float]  # PSI of the guest's own columns against the rows of training
    unknown_levels: dict[str, int]  # rows with a level that was not in training, by own column and host
    score_psi: float | None  # of the scores; None of several classes, or of an earlier version's model
    replaced: bool  # whether earlier scores were there
    left_out: int  # rows of the batch that the query of [data] left out, which have no score
    escaped: dict[str, int]  # rows whose text got an apostrophe before it, by column; in CSV alone

    @property
    def rows_per_second(self) -> float | None:
        """Rows a second in the phase of scoring; None if this run scored no row."""
        rows, seconds = self.rows - self.resumed_from, self.seconds["scoring"]
        return rows / seconds if rows and seconds else None


class BatchClock:
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
    data: Path | str,
    out: Path | str,
    options: ScoreOptions = ScoreOptions(),
    *,
    wait: float,
    show: Show,
) -> Scored:
    """Score the rows of `data`; `out` gets their ids, predictions and which hosts know no such row.

    Each is a file, a folder (as text that ends in a slash, `out` gets parts of Parquet) or a table of a
    database (postgresql://user@host/name#table); `data` may be a pattern.

    A probability for a 0/1 label, of each class for several, else a prediction; with an exposure that is
    per unit, and `expected` is that of the row's exposure. With `explain` also the score of that
    prediction on the link's scale, what each column or party adds to it, and reasons in words.

    Parts that are done are kept in the store until the output is written: the same call after a kill
    goes on behind them, unless `fresh`, to the same output. Earlier scores there are replaced, any other
    file only with `force`. A host that is lost is waited for as long as `[party] reconnect` says. Raises
    DataError, ConfigError (no offset named, an id that is called as a column of the output), ModelError,
    Refused when another process writes the output, and what sessions raise.
    """
    party, store, started, clock = site.party, site.store, time.monotonic(), BatchClock()
    explain = options.explain
    place = place_of(data, party.data)
    target = target_of(party, place, out, options.force)
    half = load_half(store, resolve_model(store, model), GuestHalf)
    check_parties(site, half)
    site.activity.tell([name for name in half.fingerprints if name != party.name], [half.name])
    if explain:
        kind_of_model(half.model).check_explains(half.model)
    section = section_as_trained(with_query_of(party.data, half, show), half)
    check_names(section.id_columns, explain, half.classes)
    name = batch_name(target.name)
    with store.locked("batch", name, f"another run of vfl that writes {target.name}"):
        target.clean()
        job = prepare_batch(site, (half, section), place, name, options, clock, show)
        rows, batch = job.rows, job.batch
        await job.run(wait)
        output = ScoredColumns(half, rows, options.top)
        clock.add(None)
        replaced = target.check()
        escaped = await asyncio.to_thread(target.write, map(output.columns, batch.parts()))
        score_psi = output.say_drift(show)
        batch.remove()
        clock.add("writing")
    table = rows.table
    own_unknown = {name: int(which.sum()) for name, which in rows.unknown.items()}
    return Scored(
        rows=table.rows,
        unknown=output.unknown,
        lookup={name: party.lookup_at(name) for name in output.unknown},
        account=replace(job.account + Account.of(started, []), seconds=time.monotonic() - started),
        resumed_from=job.resumed_from,
        seconds=clock.seconds,
        drift=job.drift,
        unknown_levels=own_unknown | job.unknown_levels,
        score_psi=score_psi,
        replaced=replaced,
        left_out=table.left_out,
        escaped=escaped,
    )


def prepare_batch(
    site: Site,
    model: tuple[AnyGuestHalf, DataSection],
    place: Place,
    name: str,
    options: ScoreOptions,
    clock: BatchClock,
    show: Show,
) -> "BatchJob":
    """Read a batch for a model, and what is kept of it already under `name`; the data section is as the
    model was trained. Raises DataError."""
    half, section = model
    rows = read_batch(section, half, place, Scratch(site.store.scratch(make=False)), show)
    table = rows.table
    key = batch_key(half, place, table, section, options.explain)
    check_batch_levels(rows, half, section, show)
    drift = drift_of_columns(show, half.profiles, table.path.name, table.features)
    batch = Batch(site.store, name, key, table.rows)
    resumed_from = _take_up(batch, options.fresh, show)
    job = BatchJob(
        site=site,
        half=half,
        rows=rows,
        section=section,
        place=place,
        batch=batch,
        explain=options.explain,
        show=show,
        clock=clock,
        drift=drift,
        resumed_from=resumed_from,
    )
    clock.add("reading")
    return job


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


class AskedBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person asks for, for the commitment of a batch and its replay."""

    model: str
    place: str
    explain: bool
    first: int  # rows that were done before


def commits_to(site: Site, model: str, rows: BatchRows) -> TableDigests:
    """What a batch has of the guest's rows and of its half of the model, for its commitment."""
    half = digest_of_half(site.store, model)
    return digest_table(rows.table.features, ids=rows.ids.digest, **{HALF: half})


@dataclass
class PlayedBatch:
    """Of a replay, of which nothing is kept: the place of a `Batch`."""

    rows: int
    of: int

    def keep(self, part: ScoredPart, unknown: Mask) -> None:
        self.rows = part.rows.stop

    def parts(self) -> Iterator[KeptPart]:
        """None."""
        return iter(())

    def remove(self) -> None:
        """Nothing is there."""


@dataclass
class BatchJob:
    """The part of the job that needs hosts.

    Making one does what the guest can do alone: raises DataError for columns that are not as they were
    in training.
    """

    site: Site
    half: AnyGuestHalf
    rows: BatchRows
    section: DataSection
    place: Place
    batch: Batch | PlayedBatch
    explain: bool
    show: Show
    clock: BatchClock
    drift: dict[str, float]
    resumed_from: int
    account: Account = field(default_factory=Account.nothing)  # of the sessions
    unknown_levels: dict[str, int] = field(default_factory=dict)  # by host, rows of unknown levels
    fault: PeerError | None = None  # in a host's directory

    def __post_init__(self) -> None:
        model, table = self.half.model, self.table
        self._kind = kind_of_model(model)
        self._own = self._kind.own_scores(model, table.path.name, table.features, table.rows)
        say_unseen(self.show, self._own.unseen, self.half.levels)

    @property
    def table(self) -> Table:
        return self.rows.table

    @property
    def ids(self) -> TableIds:
        return self.rows.ids

    async def run(self, wait: float) -> None:
        """Score what is left, again and again while hosts are lost. Raises what sessions raise."""
        batch = self.batch
        if batch.rows == batch.of:
            return
        sealed = [
            name for name in self.half.model.parties[1:] if self.site.party.lookup_at(name) == "sealed"
        ]
        if sealed and (why := not_by_parts(self.half.model)):
            raise ConfigError(f"model {self.half.name} {why}")
        reconnect = self.site.party.party.reconnect
        await present(self.site, self.half.trained_name, wait=wait, show=self.show)
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
            await self._score([], [], {}, OF_SYSTEM)
            return
        async with hosts_of(self.site, wait, self.show, names) as hosts:
            self.fault = None
            try:
                await self._with(hosts, names)
            finally:
                self.account += Account.of(started, hosts)
                if self.fault is not None:
                    # The next attempt asks for all rows: how many are left would tell where it is.
                    self.batch.remove()
        if self.fault is not None:
            raise self.fault

    async def _with(self, hosts: Sequence[Peer], names: list[str]) -> None:
        party = self.site.party
        matching = matching_of(self.section, engine=party.align.engine, join="left", many=True)
        rule = list(self.half.normalise)
        ways = {name: party.lookup_at(name) for name in names}
        sealed = [name for name in names if ways[name] == "sealed"]
        aligned = [name for name in names if ways[name] == "aligned"]
        lookup = Offer("lookup", new_run(), sealed, rule, model=self.half.trained_name)
        offer = Offer("score", new_run(), aligned, rule, model=self.half.trained_name, matching=matching)
        if not aligned:
            await self._by_lookups(hosts, lookup)
            return
        asked = [host for host in hosts if host.name in aligned]
        if sealed:
            for name in aligned:
                self.show.say(f"{name} sees which of its rows are in the batch")
            looked_up = [host for host in hosts if host.name in sealed]
            await self._by_both(hosts, (looked_up, lookup), (asked, offer))
            return
        half, rows = self.half, self.rows
        wanted = AskedBatch(half.name, text_of(self.place), self.explain, self.batch.rows)
        with keeping(
            *(self.site, self.show, lambda: commits_to(self.site, half.name, rows)),
            msgspec.to_builtins(wanted),
        ) as kept:
            offer = msgspec.structs.replace(offer, commitment=kept.commitment or UNSET)
            _, agreement = await offer_to(self.site, hosts, offer, self.show)
            kept.agreed(agreement, offer.job, hosts)
            self.clock.add(None)
            await self.by_alignment(hosts, offer, kept.randomness_of(offer.run), kept.answers)

    async def by_alignment(
        self,
        hosts: Sequence[Peer],
        offer: Offer,
        randomness: Randomness,
        answers: Answers,
        *,
        replayed: bool = False,
    ) -> None:
        """The part after the agreement, in a job and in its replay: align what is left with each host
        and score it. `replayed`: whether nothing is asked of the store."""
        places, known = await self._align(hosts, offer, randomness, answers, replayed=replayed)
        self.clock.add("alignment")
        await self._score(hosts, places, known, randomness)

    async def _by_both(
        self,
        hosts: Sequence[Peer],
        looked_up: tuple[Sequence[Peer], Offer],
        asked: tuple[Sequence[Peer], Offer],
    ) -> None:
        """Score what is left by lookups in some hosts' directories and an alignment with each of the
        others, who are named no row before all have agreed."""
        for some, offer in (looked_up, asked):
            _, agreement = await offer_to(self.site, some, offer, self.show)
            with keeping(self.site, self.show, None) as kept:
                kept.agreed(agreement, offer.job, some)
        self.clock.add(None)
        batch, first = self._sealed_batch(looked_up[1]), self.batch.rows
        randomness = self.site.randomness_of(asked[1].run)
        async with batch.stand_ins(looked_up[0], first) as stand_ins:
            aligned, known = await self._align(*asked, randomness, PassedOn())
            self.clock.add("alignment")
            every = np.arange(self.table.rows - first)
            peers: dict[str, Peer] = {host.name: host for host in (*asked[0], *stand_ins)}
            places = {host.name: place for host, place in zip(asked[0], aligned, strict=True)}
            await self._score(
                [peers[host.name] for host in hosts],
                [places.get(host.name, every) for host in hosts],
                {host.name: 0 for host in stand_ins} | known,
                randomness,
            )

    async def _score(
        self,
        hosts: Sequence[Peer],
        places: Sequence[Integers],
        known: dict[str, int],
        randomness: Randomness,
    ) -> None:
        """Score what is left, and keep it part by part."""
        first = self.batch.rows

        def unknown_levels(host: Peer, rows: int) -> None:
            if rows > known[host.name]:
                raise host.breach("more rows with unknown levels than it has rows")
            self._check_levels(host, rows, known[host.name])

        scored = self._score_parts(hosts, places, unknown_levels, randomness.part("batch"))
        async with aclosing(scored) as parts:
            async for part in parts:
                unknown = np.empty((len(hosts), len(part.scores)), np.bool_)
                for which, host, place in zip(unknown, hosts, places, strict=True):
                    which[:] = await unknown_rows(host, place, part.rows)
                    self.fault = self.fault or fault_of(host)
                if self.fault is not None:  # the rest is asked for nevertheless, as in SealedBatch
                    continue
                rows = slice(first + part.rows.start, first + part.rows.stop)
                await to_the_end(self.batch.keep, replace(part, rows=rows), unknown)
                self.clock.add("scoring")

    async def _by_lookups(self, hosts: Sequence[Peer], offer: Offer) -> None:
        """Score what is left by lookups in the hosts' directories, and keep it part by part."""
        await offer_to(self.site, hosts, offer, self.show)
        self.clock.add(None)
        batch, first = self._sealed_batch(offer), self.batch.rows
        try:
            async with aclosing(batch.parts(hosts, first)) as parts:
                async for part, unknown in parts:
                    rows = slice(first, first + len(part.scores))
                    await to_the_end(self.batch.keep, replace(part, rows=rows), unknown)
                    first = rows.stop
                    self.clock.add("scoring")
        finally:
            self.fault = batch.fault

    def _sealed_batch(self, offer: Offer) -> SealedBatch:
        return SealedBatch(
            self.site,
            self.half,
            self.table,
            self.ids,
            self.explain,
            self.show,
            self._check_levels,
            self.site.randomness_of(offer.run),
        )

    def _check_levels(self, host: Peer, rows: int, known: int) -> None:
        """Raises DataError where too many rows have levels that were not in training."""
        if not rows:
            return
        self.unknown_levels[host.name] = max(rows, self.unknown_levels.get(host.name, 0))
        self.show.say(f"note: {describe_host_levels(host.name, rows, known)}, more than chance makes")
        advice = f"{host.name}'s log says in which columns; it may write its table in another way"
        check_host_levels(host.name, rows, known, self.section.unknown_levels, advice)

    async def _align(
        self,
        hosts: Sequence[Peer],
        offer: Offer,
        randomness: Randomness,
        answers: Answers,
        *,
        replayed: bool = False,
    ) -> tuple[list[Integers], dict[str, int]]:
        """The place of each row that is left in the alignment with each host, -1 where it is unknown,
        and how many ids each host knows."""
        first, rows = self.batch.rows, self.table.rows
        # Never fewer than a part, if there are that many: a host whose policy refuses small batches
        # must not take the end of a large one for such a batch.
        keys = [_from_row(key, min(first, max(0, rows - ROWS))) for key in self.ids.keys]

        def match(host: Peer) -> Awaitable[Matched]:
            part = randomness.part("matched ids", host.name)
            settings = psi_settings(self.site, offer, self.show, [host], part)
            about = AnswersAbout(answers, host.name)
            settings = with_answers(settings, about, replayed=replayed)
            context = offer.run + host.name.encode()
            return guest_match([host], keys, context=context, settings=settings, many=True)

        matches = await together([match(host) for host in hosts])
        known = {host.name: matched.ids for host, matched in zip(hosts, matches, strict=True)}
        places = (matched.of_row[first:] for matched in matches)
        return [self.ids.scratch.cast(own, np.int64, "rows of a host") for own in places], known

    def _score_parts(
        self,
        hosts: Sequence[Peer],
        places: Sequence[Integers],
        unknown_levels: UnknownLevels,
        randomness: Randomness,
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
            randomness=randomness,
        )
        return self._kind.guest_parts(hosts, model, batch)


def _from_row(key: KeyIds, first: int) -> KeyIds:
    """A key as if no row before the first had an id."""
    if not first:
        return key
    of_row = key.of_row.copy()
    of_row[:first] = -1
    return KeyIds(key.ids, of_row)


def section_as_trained(data: DataSection, half: AnyGuestHalf) -> DataSection:
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


def check_parties(site: Site, half: AnyGuestHalf) -> None:
    """Raises ModelError for a model that was trained with another party than the one of its name now."""
    for name in half.model.parties:
        if not site.same_party(name, half.fingerprints.get(name)):
            raise ModelError(
                f"model {half.name} was trained with another {name} (its certificate differs from the "
                "one in the party file)"
            )
