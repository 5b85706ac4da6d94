"""Scoring with a generalised linear model: the hosts say what their columns add to each row's score.

The rows of a batch have been aligned with each host apart (protocols/align/psi.py), so that the guest
knows which rows each host knows. For each host:
 1. The guest starts a batch. The host answers with the score that its columns give a row it does not
    know: one of missing values alone.
 2. Chunk by chunk, the guest names rows by their place in the alignment with this host, and the host
    sends its columns' part of their scores. The guest asks for the next chunk before it adds these up.
The guest adds up intercept, its own part and those of the hosts. Where it asks for explained scores, and
the host's policy shows its columns' names, the host sends what each column adds as well.

Learned by the guest: each host's part of the score of each row of the batch, the host's own also where
there are several. Masks that cancel over all hosts, as in the fit, are no way out: each host knows other
rows. So the guest can read off much of what is linear in the host's columns: rows in the same levels
have the same part, the part of a row is a coefficient where all other columns are at their base levels
and means, and of a host with a single numeric column the parts are that column in another unit. With
explained scores every column that shows its name is such a single column: its levels can be told apart
and its numbers read off in another unit, row by row.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vfl.arrays import Floats, Integers, Mask
from vfl.crypto.randomness import Randomness
from vfl.learn.across import CrossedLevels
from vfl.learn.binning import Features
from vfl.learn.design import Design, Relativity
from vfl.learn.explain import own_name
from vfl.learn.inference import FitSummary, Inference
from vfl.learn.pairs import PairsOfJob
from vfl.net.peer import Peer, one_line, together
from vfl.net.wire import MIB, Message, Rows
from vfl.protocols.common.batches import (
    ROWS,
    AskingCourse,
    Places,
    ScoredPart,
    ScoreEnd,
    ScoreStart,
    ScoringCourse,
    missing_values,
    request,
    requests,
)
from vfl.protocols.linear.across_scoring import GuestCells, HostCells
from vfl.protocols.linear.fit import Fit, PenaltyChoice, VarianceProfile

_BYTES = 8 * MIB  # of a message of parts at most
_ROUNDING = 1e-9  # by which parts may miss their sum, relative to their size


class MissingScore(Message, frozen=True, omit_defaults=True):
    """host -> guest. Reveals: the part of the score that the host's columns give a row it does not know
    (one of missing values alone); where scores are explained and the host shows its columns' names,
    these names and the part of each column; how many of the aligned rows have a level that was not in
    training, if these are more than chance makes."""

    score: float
    columns: dict[str, float] = {}  # noqa: RUF012 - msgspec copies it
    unknown_levels: Rows = 0
    limit: ClassVar[int] = 1 * MIB


class PartialScores(Message, frozen=True):
    """host -> guest. Reveals: the part of each of these rows' scores that the host's columns make, a
    linear combination of them; each host's own also where there are several; where scores are explained
    and the host shows its columns' names, the part of each column."""

    scores: bytes  # float64 little-endian, one a row
    columns: bytes = b""  # the same for each column, in the order of MissingScore
    limit: ClassVar[int] = 9 * MIB
    per_row = ("scores", 64)


@dataclass(frozen=True)
class LinearPart:
    """One party's columns with their coefficients. Raises ValueError for another number of them."""

    design: Design
    coefficients: tuple[float, ...]  # in the order of the design's

    def __post_init__(self) -> None:
        if len(self.coefficients) != len(self.design.coefficients):
            raise ValueError("another number of coefficients than the design has")

    def scores(self, features: Features, rows: int) -> Floats:
        """What the columns add to each row's score, shape (rows,). Raises ValueError as the design."""
        return self.design.matrix(features, rows).times(np.array(self.coefficients, np.float64))

    def missing_score(self, features: Features) -> float:
        """What a row adds in which every one of these columns is missing: a number is filled as in
        training, a factor without a level of missing values is at its base level."""
        return float(self.scores(missing_values(features), 1)[0])

    @property
    def by_column(self) -> dict[str, "LinearPart"]:
        """Each column, and each interaction of two, with its coefficients."""
        design = self.design
        factors = {factor.name: factor for factor in design.factors}
        alone = [
            *((name, Design((factor,), ())) for name, factor in factors.items()),
            *(
                (one.name, Design(tuple(factors[name] for name in one.columns), (), (), (one,)))
                for one in design.crossings
            ),
            *((covariate.name, Design((), (covariate,))) for covariate in design.covariates),
            *((curve.name, Design((), (), (curve,))) for curve in design.curves),
        ]
        of = dict(zip(design.coefficients, self.coefficients, strict=True))
        return {
            name: LinearPart(
                single, tuple(of[key] if key[0] == name else 0.0 for key in single.coefficients)
            )
            for name, single in alone
        }

    def taken_from(self, features: Features, rows: slice | Integers | Places = slice(None)) -> Features:
        """Of these columns' rows what this part needs."""
        return {name: features[name][rows] for name in self.design.inputs}

    def relativities(self) -> list[Relativity]:
        """The coefficients for their owner to read."""
        return self.design.relativities(np.array(self.coefficients, np.float64))


@dataclass(frozen=True)
class GuestGlm:
    """The guest's half of a linear model."""

    parties: tuple[str, ...]  # guest first
    intercept: float
    part: LinearPart
    iterations: int
    converged: bool
    deviance: float | None  # mean, weighted, of the rows that trained; None after hidden scores
    explained: float | None  # D-squared: the share of the null model's deviance that is gone
    gradient: float  # its length at the end
    readable: int = 0  # labels that a host could have read at most, had it cheated; not stored
    # Of a model over rows: standard errors, in the order of the coefficients, and Pearson's dispersion.
    errors: tuple[float, ...] | None = None
    intercept_error: float | None = None
    dispersion: float | None = None
    # Of a model over columns, where the job asks for it.
    inference: Inference | None = None
    summary: FitSummary | None = None
    choice: PenaltyChoice | None = None  # of a job with several penalties
    variance: VarianceProfile | None = None  # of a job that asks for it
    across: tuple[tuple[str, str], ...] = ()  # the job's pairs with hosts' columns

    @classmethod
    def of(cls, parties: tuple[str, ...], design: Design, coefficients: Floats, fit: Fit) -> "GuestGlm":
        """The half that a fit came to."""
        return cls(
            parties,
            fit.intercept,
            LinearPart(design, tuple(coefficients.tolist())),
            fit.iterations,
            fit.converged,
            fit.deviance,
            fit.explained,
            fit.gradient,
            fit.readable,
            dispersion=None if fit.summary is None else fit.summary.dispersion,
            inference=fit.inferences.get(parties[0]),
            summary=fit.summary,
            choice=fit.choice,
            variance=fit.variance,
        )

    @property
    def ending(self) -> dict[str, float | None]:
        """How the fit ended, for a document."""
        names = ("iterations", "converged", "deviance", "explained", "gradient")
        ending = {name: getattr(self, name) for name in names}
        return ending if self.choice is None else {**ending, "alpha": self.choice.alpha}


@dataclass(frozen=True)
class HostGlm:
    """A host's half of a linear model."""

    part: LinearPart
    converged: bool
    inference: Inference | None = None
    across: tuple[CrossedLevels, ...] = ()  # cells of pairs with the guest's columns


async def guest_glm_score(
    hosts: Sequence[Peer],
    model: GuestGlm,
    features: Features,
    own: Floats,
    places: Sequence[Integers],
    course: AskingCourse = AskingCourse(),
    *,
    explain: bool = False,
) -> AsyncGenerator[ScoredPart, None]:
    """The scores of a batch, without any offset, part by part in their order; with `explain` linear
    terms as well, whose base is the intercept.

    `own` is what the guest's columns add to each row, shape (rows,), and `features` these columns;
    `hosts` and `places` as in `guest_score`. Raises PeerError when a host breaks the
    protocol.
    """
    # 1. What a row adds that a host does not know.
    await together([host.send(ScoreStart(explain=explain)) for host in hosts])
    missing = await together([_receive_missing(host, explain) for host in hosts])
    for host, default in zip(hosts, missing, strict=True):
        course.unknown_levels(host, default.unknown_levels)
    cells = await _meet_cells(hosts, model, features, course.randomness)
    mine = model.part.by_column if explain else {}
    theirs_by_name = [
        host_players(host.name, default.columns) for host, default in zip(hosts, missing, strict=True)
    ]

    def terms(part: slice, theirs: Sequence[Floats]) -> dict[str, Floats]:
        """Each column's or host's part of the scores."""
        rows = part.stop - part.start
        own_terms = {
            name: column.scores(column.taken_from(features, part), rows) for name, column in mine.items()
        }
        return linear_terms(model, own_terms, theirs_by_name, theirs)

    # 2. What each row adds, chunk by chunk.
    rows = len(own)
    chunk = min([ROWS, *(max(1, _BYTES // (8 * (1 + len(default.columns)))) for default in missing)])

    async def asked(number: int, known: Mask, part: slice) -> None:
        if (own_cells := cells.get(hosts[number].name)) is not None:
            await own_cells.ask(known, part)

    async with aclosing(request(hosts, places, rows, chunk, asked)) as parts:
        async for part in parts:
            theirs = await together(
                [
                    _receive(host, default, place[part])
                    if (own_cells := cells.get(host.name)) is None
                    else _receive_cells(own_cells, default, place[part], part)
                    for host, default, place in zip(hosts, missing, places, strict=True)
                ]
            )
            scores = add_up(model.intercept, own[part], theirs)
            contributions = await asyncio.to_thread(terms, part, theirs) if explain else None
            course.progress(part.stop, rows)
            yield ScoredPart(part, scores, contributions, model.intercept if explain else 0.0)
    await together([host.send(ScoreEnd()) for host in hosts])


async def _meet_cells(
    hosts: Sequence[Peer], model: GuestGlm, features: Features, randomness: Randomness
) -> dict[str, GuestCells]:
    """The guest's side of pairs with each host that has any."""
    pairs = PairsOfJob(model.across)
    of = {host.name: dict(pairs.with_host(host.name)) for host in hosts}
    found = await together(
        [
            GuestCells.meet(
                host,
                {place: pairs.columns[place] for place in of[host.name]},
                model.part.design,
                features,
                randomness,
            )
            for host in hosts
            if of[host.name]
        ]
    )
    return {one.host.name: one for one in found}


async def _receive_cells(
    cells: GuestCells, default: MissingScore, places: Integers, part: slice
) -> Floats:
    """As `_receive`, of a host with pairs; shape (1, rows)."""
    scores, known = default.score + cells.missing(part), places >= 0
    if count := int(known.sum()):
        scores[known] = await cells.receive(count)
    return scores[np.newaxis]


async def _cells_of(guest: Peer, half: HostGlm, features: Features, randomness: Randomness) -> HostCells:
    """A host's side of its pairs."""
    part = half.part
    return await HostCells.meet(guest, half.across, part.design, features, part.coefficients, randomness)


async def host_glm_score(
    guest: Peer,
    half: HostGlm,
    features: Features,
    own: Floats,
    missing: float,
    course: ScoringCourse = ScoringCourse(),
    *,
    show_columns: bool = False,
    unknown_levels: int = 0,
) -> int:
    """Serve one batch: `own` is what this host's columns, `features`, add to the score of each aligned
    row, in the common order, shape (rows,), `missing` what they add to that of a row it does not know.

    `unknown_levels` of these rows have a level that was not in training. With `show_columns` a guest
    that asks for explained scores gets what each column adds, by its name. Returns how many rows were
    scored. Raises PeerError when the guest breaks the protocol, and what the course raises.
    """
    # 1. What a row adds that this host does not know.
    start, part = await guest.recv(ScoreStart), half.part
    columns = part.by_column if start.explain and show_columns and not half.across else {}
    absent = {
        name: column.missing_score(column.taken_from(features)) for name, column in columns.items()
    }
    await guest.send(MissingScore(missing, absent, unknown_levels))
    cells = None
    if half.across:
        cells = await _cells_of(guest, half, features, course.randomness)

    def terms_of(places: Places) -> bytes:
        parts = [
            column.scores(column.taken_from(features, places), len(places)).astype("<f8").tobytes()
            for column in columns.values()
        ]
        return b"".join(parts)

    # 2. What each row adds.
    done, width = 0, 8 * (1 + len(columns))
    async for places in requests(guest, len(own), course):
        if width * len(places) > max(_BYTES, width):
            raise guest.breach("ScoreRows of too many rows at once")
        if cells is not None:
            await cells.answer(places, own[places])
            done += len(places)
            continue
        terms = await asyncio.to_thread(terms_of, places)
        await guest.send(PartialScores(own[places].astype("<f8").tobytes(), terms))
        done += len(places)
    return done


def add_up(intercept: float, own: Floats, theirs: Sequence[Floats]) -> Floats:
    """The scores of rows, shape (rows,), of the guest's part and what each host sent, shape (1 +
    columns, rows): added up in the same order wherever it is done."""
    scores: Floats = intercept + own
    for whole, *_ in theirs:
        scores += whole
    return scores


def host_players(host: str, columns: Collection[str]) -> list[str]:
    """What a host's parts are called: by its columns where it shows them, else by its name."""
    return [one_line(f"{host}:{column}", 140) for column in columns] or [host]


def linear_terms(
    model: GuestGlm,
    mine: Mapping[str, Floats],
    theirs_by_name: Sequence[Sequence[str]],
    theirs: Sequence[Floats],
) -> dict[str, Floats]:
    """What each of the guest's columns, `mine`, and each host or column of it adds to rows' scores,
    shape (rows,) each; `theirs` as `add_up`, called `theirs_by_name`."""
    taken = {*model.parties, *(name for names in theirs_by_name for name in names)}
    term_of = {own_name(name, model.parties[0], taken): term for name, term in mine.items()}
    for names, parts in zip(theirs_by_name, theirs, strict=True):
        term_of |= dict(zip(names, parts[1:] if len(parts) > 1 else parts, strict=True))
    return term_of


def fault_of_parts(parts: Floats) -> str | None:
    """Why `parts`, shape (1 + columns, rows), are not a whole and, where there are any, the columns'
    parts of it; None if they are."""
    if not np.isfinite(parts).all():
        return "with what is no number"
    whole, columns = parts[0], parts[1:]
    off = np.abs(columns.sum(axis=0) - whole)
    if len(columns) and (off > _ROUNDING * (1 + np.abs(columns).sum(axis=0))).any():
        return "whose columns do not add up"
    return None


async def _receive_missing(host: Peer, explain: bool) -> MissingScore:
    message = await host.recv(MissingScore)
    if message.columns and not explain:
        raise host.breach("MissingScore with columns that were not asked for")
    parts = np.array([[message.score], *([part] for part in message.columns.values())])
    _check_parts(host, message, parts)
    return message


async def _receive(host: Peer, default: MissingScore, places: Integers) -> Floats:
    """A host's part of the scores of a chunk that it was asked for, and below it that of each column,
    shape (1 + columns, rows)."""
    absent = np.array([default.score, *default.columns.values()])
    parts = np.repeat(absent[:, np.newaxis], len(places), axis=1)
    known = places >= 0
    count = int(known.sum())
    if count:
        message = await host.recv(PartialScores)
        if (len(message.scores), len(message.columns)) != (8 * count, 8 * count * len(default.columns)):
            raise host.breach("PartialScores of another number of rows than asked for")
        sent = np.frombuffer(message.scores + message.columns, "<f8").reshape(-1, count)
        _check_parts(host, message, sent)
        parts[:, known] = sent
    return parts


def _check_parts(host: Peer, message: Message, parts: Floats) -> None:
    """Raises PeerError for parts that are none."""
    if (why := fault_of_parts(parts)) is not None:
        raise host.breach(f"{type(message).__name__} {why}")
