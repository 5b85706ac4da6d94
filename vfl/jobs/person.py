"""What this party keeps that says whether an id was in its jobs: for a request by the person.

Works on what is kept alone: alignments, by their keyed hashes of ids; the records of runs; the counts
of batches in the ledger. No table is read, no peer is asked, nothing is kept or logged. The id is
normalised as in an alignment.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from vfl.arrays import Integers
from vfl.blocks.scratch import Scratch, in_pieces
from vfl.errors import ConfigError, DataError, ModelError, VflError
from vfl.jobs.alignments import Alignment, load_alignment
from vfl.jobs.connect import store_of
from vfl.jobs.drawn_rows import StoredDraws
from vfl.jobs.kept_runs import list_runs
from vfl.jobs.record import Record, load_record
from vfl.jobs.score_places import place_of
from vfl.models.halves import GuestHalf, HostHalf
from vfl.models.kinds import kind_named, kind_of_model, load_half
from vfl.party.audit.lines import entries_of
from vfl.party.config import Party
from vfl.party.keys import TableIds, all_keys, identities
from vfl.party.ledger import FOLDER, JobEntry
from vfl.party.sections import DataSection
from vfl.party.store import Store
from vfl.party.table import Wanted, read_wanted
from vfl.protocols.align.join import number_values
from vfl.text import counted

TRAINED, HELD_OUT, UNKNOWN = "trained", "held out", "not known"


@dataclass(frozen=True)
class InAlignment:
    """An alignment that the id is in."""

    alignment: str
    made: str  # ISO 8601, UTC
    peers: list[str]
    rows: int  # of the alignment that are this id's
    known_to: list[str]  # the peers that know it; in an inner join all


@dataclass(frozen=True)
class InRun:
    """A training on an alignment that the id is in."""

    run: str
    purpose: str
    peers: list[str]
    ended: str  # ISO 8601, UTC; "" of an unfinished one
    part: str  # TRAINED, HELD_OUT or UNKNOWN
    why: str  # how that is known, or why it is not
    columns: list[str]  # this party's that entered the job
    used: list[str]  # those of them that the model uses


@dataclass(frozen=True)
class Scorings:
    """Batches that were scored with peers: whether the id was among them is not kept."""

    peers: list[str]
    purpose: str
    model: str
    jobs: int
    first: str  # ISO 8601, UTC
    last: str


@dataclass(frozen=True)
class InBatch:
    """A file of ids that this party has kept itself: a batch that was scored, or its scores."""

    file: str
    rows: int  # that are this id's


@dataclass
class PersonFound:
    """What this party keeps about an id."""

    party: str
    alignments: list[InAlignment] = field(default_factory=list)
    runs: list[InRun] = field(default_factory=list)
    scorings: list[Scorings] = field(default_factory=list)
    batches: list[InBatch] = field(default_factory=list)  # of those that were named
    looked_at: int = 0  # alignments
    not_known: list[str] = field(default_factory=list)  # a sentence each


def find_person(party: Party, values: Sequence[str], batches: Sequence[Path] = ()) -> PersonFound:
    """What this party keeps about an id.

    values: the texts of `id_columns` of [data], in that order; "" where there is none. batches: files
    with the id columns to look into, too. Raises ConfigError for a coordinator's file or another number
    of values, DataError for what is no id and for a batch that cannot be read.
    """
    if party.role == "coordinator":
        raise ConfigError("a coordinator has no ids: ask a party with a table")
    store, found = store_of(party), PersonFound(party.name)
    own = _ids_of(party.data, values)
    for name in store.names("alignment"):
        try:
            alignment = load_alignment(store, name)
        except ModelError:
            found.not_known.append(f"alignment {name} cannot be read: it may have had the id")
            continue
        places = _places(found, party, alignment, own)
        if places is None:
            continue
        found.looked_at += 1
        if len(places):
            found.alignments.append(_in_alignment(party, alignment, places))
            found.runs += _runs_on(store, party, alignment, places)
    found.runs.sort(key=lambda run: (run.ended, run.run))
    found.scorings = _scorings(party)
    found.batches = [_in_batch(party, store, path, own) for path in batches]
    found.not_known += _gaps(store, party, found)
    return found


def _ids_of(data: DataSection, values: Sequence[str]) -> TableIds:
    """The ids of a table of one row."""
    names = data.id_columns
    if len(values) != len(names):
        raise ConfigError(
            f"the id has {counted(len(names), 'part')} ({', '.join(names)}), and "
            f"{counted(len(values), 'part')} {'was' if len(values) == 1 else 'were'} given"
        )
    by_name: Mapping[str, list[str | None]] = {
        name: [value or None] for name, value in zip(names, values, strict=True)
    }
    columns = [[by_name[name] for name in key.id] for key in data.keys]
    rules = [key.normalise for key in data.keys]
    try:
        return all_keys(columns, rules, "keep", "refuse", "the id", data.id_readings)
    except DataError:
        raise DataError("what was given is no id by the rules of [data] normalise") from None


def _places(found: PersonFound, party: Party, alignment: Alignment, own: TableIds) -> Integers | None:
    """Which entries of an alignment are the id's; None where that cannot be known."""
    if not alignment.key or alignment.digests is None:
        found.not_known.append(
            f"alignment {alignment.name} is of an earlier version, which kept no hashes of ids"
        )
        return None
    if alignment.rules != [key.normalise for key in party.data.keys]:
        found.not_known.append(
            f"alignment {alignment.name} was made by other rules for ids than [data] has now"
        )
        return None
    secret, row = bytes.fromhex(alignment.key), np.zeros(1, np.int64)
    same = np.zeros(len(alignment.digests), np.bool_)
    for last in range(len(own.keys)):
        digest = identities(own, secret, row, np.full(1, last))[0]
        same |= (alignment.digests == digest).all(axis=1)
    places = np.flatnonzero(same)
    if alignment.matched is not None or not len(places):
        return places
    # A host's: a hash for each of its rows, in the order in which they come first.
    return np.flatnonzero(np.isin(number_values(alignment.rows)[0], places))


def _in_alignment(party: Party, alignment: Alignment, places: Integers) -> InAlignment:
    peers = [name for name in alignment.parties if name != party.name]
    known = peers
    if party.role == "host" and alignment.join == "left":  # of other hosts it is not told
        known = [name for name in peers if alignment.parties[name] == alignment.guest]
    elif alignment.join == "left" and alignment.matched is not None:
        channels = alignment.matched[:, places]
        known = [name for name, of in zip(alignment.by_key, channels, strict=False) if (of >= 0).any()]
    return InAlignment(alignment.name, alignment.made, peers, len(places), known)


def _runs_on(store: Store, party: Party, alignment: Alignment, places: Integers) -> Iterator[InRun]:
    """The trainings on an alignment, finished and not."""
    for name in store.names("run"):
        try:
            record, evaluation = load_record(store, name)
        except ModelError:
            continue  # counted among what is not known
        if record.alignment != alignment.name:
            continue
        held = None if evaluation is None else evaluation.rows
        part, why = _part(party, record, alignment, places, held)
        columns, used = _columns(store, party, record)
        peers = [one for one in record.parties if one != party.name]
        purpose = str(record.job["job"].get("purpose", ""))
        yield InRun(name, purpose, peers, record.ended, part, why, columns, used)
    for run in list_runs(store):
        if run.alignment == alignment.name:
            why = "the training is unfinished"
            yield InRun(run.name, "", run.hosts, "", UNKNOWN, why, [], [])


def _part(
    party: Party, record: Record, alignment: Alignment, places: Integers, held: Integers | None
) -> tuple[str, str]:
    """Whether the id's rows trained, and how that is known."""
    if party.role == "host":
        return _drawn(store_of(party), record, alignment, places)
    if held is None:
        if not record.rows.get("held out", 0):
            return TRAINED, "no row was held out"
        return UNKNOWN, "the record has no list of the rows held out"
    if not record.ids:
        return UNKNOWN, "the run is of an earlier version, which did not note of which table it was"
    if record.ids != alignment.ids:
        return UNKNOWN, "the table had changed between the alignment and the training"
    out = np.isin(alignment.rows[places], held)
    if out.all():
        return HELD_OUT, "the record lists the rows held out"
    others = [
        f"{n:,} {name}" for name, n in record.rows.items() if name not in ("train", "held out") and n
    ]
    rest = f"; of the others {', '.join(others)} did not train, which ones is not kept" if others else ""
    some = "some of its rows are" if out.any() else "it is not"
    return TRAINED, f"the record lists the rows held out, and {some} among them{rest}"


def _drawn(store: Store, record: Record, alignment: Alignment, places: Integers) -> tuple[str, str]:
    """The same at a host, which keeps the draws that it is told of over all jobs on an alignment."""
    kind = kind_named(record.job["job"]["model"], record.model)
    settings = record.job.get(kind.name, {})
    told = settings.get("encryption") != "lattice" and settings.get("sums", "open") == "open"
    if kind.has_relativities or not told or alignment.join != "inner":
        return UNKNOWN, "which rows train the guest draws, and of such a job this party keeps no list"
    try:
        draws = [np.frombuffer(one, np.uint8) for one in StoredDraws(store, alignment.name).news()]
    except ModelError:
        return UNKNOWN, "the draws of rows that were kept are damaged"
    if not draws or any(8 * len(draw) < len(alignment.rows) for draw in draws):
        return UNKNOWN, "no draws of rows are kept for this alignment"
    if any(np.unpackbits(draw)[places].any() for draw in draws):
        return TRAINED, "drawn for a tree of this training, or of another one on the same alignment"
    return HELD_OUT, "not drawn for any tree of any training on this alignment that is kept"


def _columns(store: Store, party: Party, record: Record) -> tuple[list[str], list[str]]:
    """This party's columns in a run, and those that the model uses; none where its half is gone."""
    try:
        half = load_half(store, record.model, HostHalf if party.role == "host" else GuestHalf)
    except VflError:
        return [], []
    return [*half.columns], sorted(kind_of_model(half.model).needed(half.model))


def _in_batch(party: Party, store: Store, path: Path, own: TableIds) -> InBatch:
    """How many rows of a file are the id's: all of its keys that both have are equal."""
    data, scratch = party.data, Scratch(store.scratch_at_hand)
    ids_only = data.model_copy(update=dict.fromkeys(("label", "weight", "exposure", "offset")))
    role: Literal["guest", "host"] = "guest" if party.role == "guest" else "host"
    place = place_of(path, data)
    table = read_wanted(ids_only, Wanted(role, False, path=place, expect=(), scratch=scratch))
    rules = [key.normalise for key in data.keys]
    columns, name = table.by_key(data), table.path.name
    ids = all_keys(columns, rules, "keep", "drop", name, data.id_readings, table.row_numbers, scratch)
    secret, rows = secrets.token_bytes(32), 0
    last = np.full(1, len(own.keys) - 1)
    (wanted,) = identities(own, secret, np.zeros(1, np.int64), last)
    for some in in_pieces(len(ids.rows), ids.rows):
        those = ids.rows[some]
        made = identities(ids, secret, those, np.full(len(those), len(own.keys) - 1))
        rows += int((made == wanted).all(axis=1).sum())
    return InBatch(str(path), rows)


def _scorings(party: Party) -> list[Scorings]:
    """The batches that the ledger has, by model and peers."""
    folder = party.party.store / FOLDER
    if not folder.is_dir():
        return []
    found: dict[tuple[str, str, str], list[str]] = {}
    for _, written in entries_of(folder):
        entry = written.entry
        if isinstance(entry, JobEntry) and entry.task in ("score", "lookup"):
            key = entry.peer, entry.purpose or "", entry.model or ""
            found.setdefault(key, []).append(entry.time)
    return [
        Scorings([peer], purpose, model, len(times), min(times), max(times))
        for (peer, purpose, model), times in found.items()
    ]


def _gaps(store: Store, party: Party, found: PersonFound) -> Iterator[str]:
    """What cannot be known, for honesty's sake."""
    yield (
        "alignments and runs that were removed, and jobs that ended early, leave no list of rows: the "
        "ledger says whether there were any"
    )
    over_rows = lost = 0
    for name in store.names("run"):
        try:
            record, _ = load_record(store, name)
        except ModelError:
            lost += 1
            continue
        over_rows += record.over_rows
    if lost:
        yield f"the records of {counted(lost, 'run')} cannot be read"
    if over_rows:
        yield (
            f"{counted(over_rows, 'run')} over rows took all rows of this party's table as it was then; "
            "which ids these were is not kept"
        )
    if found.scorings and not found.batches:
        yield "which ids were in batches that were scored is not kept: name their files with --batch"
    if store.names("directory") and party.role == "host":
        yield (
            "sealed directories are made of every row of the table as it was then; lookups of single "
            "ids are hidden from this party"
        )
    yield "the table as it is now was not looked at"
