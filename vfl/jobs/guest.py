"""The guest's side of each job."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfl.crypto.workers import Operations
from vfl.errors import ConfigError, DataError, ModelError, PeerError
from vfl.jobs.account import Account
from vfl.jobs.connect import Office, hosts_of
from vfl.jobs.halves import (
    JOB_LENGTH,
    Alignment,
    AnyGuestHalf,
    GuestHalf,
    ids_digest,
    load_alignment,
    load_half,
    resolve_model,
    save_alignment,
    save_half,
)
from vfl.jobs.learners import Run, learner_of
from vfl.jobs.offer import Accept, Kept, Offer, bind, new_run, stamp
from vfl.jobs.record import Evaluation, Record, now, save_record
from vfl.jobs.relativities import save_relativities
from vfl.jobs.show import Show, say_unseen
from vfl.learn.losses import BadLabel, LogisticLoss, Loss
from vfl.net.peer import Peer, together
from vfl.party.config import DataSection, Job
from vfl.party.ids import NormalisedIds, normalise
from vfl.party.linear import own_scores
from vfl.party.store import Store
from vfl.party.table import Table, check_writable, read_table, write_scores
from vfl.protocols.boost import GuestModel, Training
from vfl.protocols.glm_scoring import GuestGlm, guest_glm_score
from vfl.protocols.psi import guest_align
from vfl.protocols.scoring import guest_score


@dataclass(frozen=True)
class Trained:
    """What training came to."""

    half: AnyGuestHalf
    path: Path
    rows: dict[str, int]  # trained on, kept to decide when to stop, held out
    account: Account
    phases: list[dict[str, float]]  # seconds of each tree or iteration by phase
    relativities: Path | None  # of a linear model, as CSV


@dataclass(frozen=True)
class Scored:
    """What scoring a batch came to."""

    rows: int
    unknown: dict[str, int]  # rows that each host does not know
    account: Account


async def align(office: Office, *, wait: float, show: Show) -> tuple[Alignment, Account]:
    """Find the rows that all parties know, and keep them.

    Raises DataError for ids that cannot be used or an empty intersection, and what sessions raise.
    """
    party, started = office.party, time.monotonic()
    table, ids = _read(party.data, show=show)
    async with hosts_of(office, wait, show) as hosts:
        offer = Offer(
            "align",
            run := new_run(),
            [host.name for host in hosts],
            list(party.data.normalise),
            alignment=stamp(run),
        )
        await _offer(hosts, offer)
        rows = await guest_align(hosts, ids.ids, context=offer.run, progress=show.progress)
        known = office.fingerprints
        alignment = Alignment(
            offer.alignment or "",
            office.identity.certificate.fingerprint,
            {name: known[name] for name in (party.name, *offer.hosts)},
            party.data.normalise,
            ids_digest(ids.ids),
            ids.rows[rows],
        )
        await together([host.send(Accept(len(rows))) for host in hosts])
        await together([host.recv(Kept) for host in hosts])
        save_alignment(Store(party.party.store), alignment)
        account = Account.of(started, hosts)
    show.say(f"{len(rows):,} of {table.rows:,} rows are known to all parties")
    return alignment, account


async def train(
    office: Office, job: Job, *, alignment: str | None = None, wait: float, show: Show
) -> Trained:
    """Train the job's model on aligned rows, evaluate it on held-out ones, keep the guest's half.

    Raises DataError, ConfigError (training that diverges, an exposure that has no meaning), ModelError
    (no alignment, or one of another table) and what sessions raise.
    """
    party, started, loss = office.party, time.monotonic(), job.loss
    if party.data.exposure is not None and loss.no_exposure is not None:
        raise ConfigError(f"[data] exposure in the party file {loss.no_exposure}")
    store = Store(party.party.store)
    table, ids = _read(party.data, show=show, loss=loss)
    aligned = _alignment(office, store, alignment, ids)
    rows, held_out = _split(table, aligned.rows, job, loss)
    learner = learner_of(job, party, table.take(aligned.rows), rows, show)
    # In the party file's order, which decides between equal gains.
    names = [name for name in party.partners if name in aligned.parties]
    async with hosts_of(office, wait, show, names) as hosts:
        offer = Offer(
            "train",
            run := new_run(),
            [host.name for host in hosts],
            list(aligned.normalise),
            alignment=aligned.name,
            model=f"{job.name[:JOB_LENGTH]}-{stamp(run)}",
            job=job.canonical,
        )
        for host, answer in zip(hosts, await _offer(hosts, offer), strict=True):
            if answer.rows != len(aligned.rows):
                raise PeerError(
                    f"{host.name} has {answer.rows or 0:,} rows in alignment {aligned.name}, this "
                    f"party {len(aligned.rows):,}: align again",
                    for_peer="the parties hold different alignments",
                )
        operations: Operations = Counter()
        model, score = await learner.learn(hosts, Run(office, offer, wait), operations)
        metrics: dict[str, dict[str, float]] = {}
        evaluation = None
        if held_out.any():
            scores = {f"{party.name} alone": await learner.alone(), "federation": score}
            metrics = {what: _metrics(rows, held_out, values) for what, values in scores.items()}
            exposure = None if table.exposure is None else table.exposure[aligned.rows]
            evaluation = Evaluation.of(
                held_out,
                aligned.rows,
                rows.label,
                rows.weight,
                exposure,
                {what: loss.predict(values) for what, values in scores.items()},
            )
        half: AnyGuestHalf = GuestHalf(
            offer.model or "",
            job.settings,
            tuple(table.features),
            aligned.normalise,
            office.fingerprints,
            model,
            metrics,
            job.job.objective or job.job.family or "binary",
            learner.params.tweedie_power,
            exposure=table.exposure is not None,
            offset=party.data.offset is not None,
        )
        save_half(store, half)
        relativities = save_relativities(store, half) if isinstance(model, GuestGlm) else None
        account = Account.of(started, [*hosts, *learner.others], operations)
        counts = {
            "train": int(rows.train.sum()),
            "validation": int(rows.validation.sum()),
            "held out": int(held_out.sum()),
        }
        record = Record(
            half.name,
            party.name,
            party.role,
            [party.name, *offer.hosts],
            job.settings,
            aligned.name,
            len(aligned.rows),
            now(),
            account,
            counts,
            metrics,
            loss.measure,
            learner.curve,
            learner.phases,
            model.ending if isinstance(model, GuestGlm) else {},
        )
        save_record(store, record, evaluation)
    path = store.path("model", half.name)
    return Trained(half, path, counts, account, learner.phases, relativities)


async def score(office: Office, model: str, data: Path, out: Path, *, wait: float, show: Show) -> Scored:
    """Score the rows of a file; `out` gets its ids, predictions and which hosts know no such row.

    A probability for a 0/1 label, else a prediction; with an exposure the prediction is per unit, and
    `expected` is that of the row's exposure. Raises DataError, ConfigError (no offset named),
    ModelError and what sessions raise.
    """
    party, started = office.party, time.monotonic()
    check_writable(out)
    store = Store(party.party.store)
    half = load_half(store, resolve_model(store, model), GuestHalf)
    _check_parties(office, half)
    table, ids = _read(_as_trained(party.data, half), show=show, path=data, expect=half.columns)
    if half.exposure and table.exposure is None:
        show.say(f"note: {table.path.name} has no column of exposure: scored per unit of exposure")
    ask = _scorer(half.model, table, show)
    hosts_names = list(half.model.parties[1:])
    async with hosts_of(office, wait, show, hosts_names) as hosts:
        offer = Offer("score", new_run(), hosts_names, list(half.normalise), model=half.name)
        await _offer(hosts, offer)
        found = await together(
            [
                guest_align(
                    [host],
                    ids.ids,
                    context=offer.run + host.name.encode(),
                    allow_empty=True,
                    progress=show.progress,
                )
                for host in hosts
            ]
        )
        places = [_places(common, ids) for common in found]
        scores = await ask(hosts, places)
        account = Account.of(started, hosts)
    unknown = {name: place < 0 for name, place in zip(hosts_names, places, strict=True)}
    columns: dict[str, Any] = dict(zip(party.data.id, table.ids, strict=True))
    columns |= _predictions(half, scores, table)
    columns["unknown_to"] = _unknown_to(unknown, table.rows)
    write_scores(out, columns)
    return Scored(table.rows, {name: int(mask.sum()) for name, mask in unknown.items()}, account)


_Ask = Callable[[Sequence[Peer], Sequence[NDArray[np.int64]]], Awaitable[NDArray[np.float64]]]


def _scorer(model: GuestModel | GuestGlm, table: Table, show: Show) -> _Ask:
    """How the rows of a table are scored, given hosts and the places of the rows with each.

    What the guest can do alone is done at once: raises DataError for columns that are not as they were
    in training.
    """

    def follow(done: int, of: int) -> None:
        show.progress("scoring", done, of)

    if isinstance(model, GuestModel):
        return lambda hosts, places: guest_score(
            hosts, model, table.features, places, table.rows, follow
        )
    own = own_scores(table.path.name, model.part, table.features, table.rows)
    say_unseen(show, own.unseen)
    return lambda hosts, places: guest_glm_score(hosts, model.intercept + own.rows, places, follow)


async def _offer(hosts: Sequence[Peer], offer: Offer) -> list[Accept]:
    await together([host.send(offer) for host in hosts])
    answers = await together([host.recv(Accept) for host in hosts])
    for host in hosts:
        bind(host, offer)
    return answers


def _read(
    data: DataSection,
    *,
    show: Show,
    loss: Loss | None = None,
    path: Path | None = None,
    expect: Sequence[str] | None = None,
) -> tuple[Table, NormalisedIds]:
    """The table, with its label if there is a `loss` to check it."""
    table = read_table(
        data, role="guest", need_label=loss is not None, path=path, expect=expect, loss=loss
    )
    for warning in table.warnings:
        show.say(f"note: {warning}")
    # A batch to score may ask about the same id twice.
    duplicates = data.duplicates if expect is None else "first"
    ids = normalise(table.ids, data.normalise, duplicates, table.path.name)
    return table, ids


def _as_trained(data: DataSection, half: AnyGuestHalf) -> DataSection:
    """The section with exposure and offset only where the model was trained with them."""
    if half.offset and data.offset is None:
        raise ConfigError(
            f"[data] offset is missing in the party file: model {half.name} was trained with one"
        )
    return data.model_copy(
        update={
            "exposure": data.exposure if half.exposure else None,
            "offset": data.offset if half.offset else None,
        }
    )


def _predictions(
    half: AnyGuestHalf, scores: NDArray[np.float64], table: Table
) -> dict[str, NDArray[np.float64]]:
    """The columns of a score file, from scores without offset."""
    expected = half.loss.predict(scores if table.offset is None else scores + table.offset)
    if isinstance(half.loss, LogisticLoss):
        return {"probability": expected}
    if table.exposure is None:
        return {"prediction": expected}
    return {"prediction": expected / table.exposure, "expected": expected}


def _metrics(
    rows: Training, held_out: NDArray[np.bool_], score: NDArray[np.float64]
) -> dict[str, float]:
    # scikit-learn takes a second to import, for which no other command should wait.
    from vfl.learn.metrics import binary_metrics, regression_metrics

    label, weight, loss = rows.label[held_out], rows.weight[held_out], rows.loss
    if isinstance(loss, LogisticLoss):
        return binary_metrics(label, loss.predict(score[held_out]), weight)
    offset = None if rows.offset is None else rows.offset[held_out]
    return regression_metrics(loss, label, score[held_out], weight, offset)


def _alignment(office: Office, store: Store, name: str | None, ids: NormalisedIds) -> Alignment:
    if name is None:
        if not store.names("alignment"):
            raise ModelError("there is no alignment yet: run `vfl align` first")
        name = store.latest("alignment")
    alignment = load_alignment(store, name)
    if alignment.ids != ids_digest(ids.ids):
        raise ModelError(
            f"{office.party.data.path.name} has other ids (or another order) than when alignment "
            f"{name} was made: run `vfl align` again"
        )
    changed = [n for n, print_ in alignment.parties.items() if office.fingerprints.get(n) != print_]
    if changed:
        raise ModelError(
            f"alignment {name} was made with another certificate of {' and '.join(changed)}: align again"
        )
    return alignment


def _check_parties(office: Office, half: AnyGuestHalf) -> None:
    for name in half.model.parties:
        if office.fingerprints.get(name) != half.fingerprints.get(name):
            raise ModelError(
                f"model {half.name} was trained with another {name} (its certificate differs from the "
                "one in the party file)"
            )


def _split(
    table: Table, aligned: NDArray[np.int64], job: Job, loss: Loss
) -> tuple[Training, NDArray[np.bool_]]:
    """The rows that train, that decide when to stop and that are held out, drawn by the job's seed."""
    if table.label is None:
        raise ValueError("training needs a label")
    linear = job.job.model == "glm"
    seed = job.glm.seed if linear else job.secureboost.seed
    share = 0.0 if linear else job.secureboost.validation_share
    draw = np.random.default_rng([seed, 1]).random(table.rows)[aligned]
    held_out = draw < job.job.holdout
    validation = ~held_out & (draw < job.job.holdout + (1 - job.job.holdout) * share)
    label = table.label[aligned]
    train = ~held_out & ~validation
    if not train.any():
        raise DataError(
            f"{table.path.name}: no aligned row is left to train on: lower holdout in [job]",
            for_peer="too few aligned rows",
        )
    for mask, what in ((train, "train on"), (validation, "stop by"), (held_out, "evaluate on")):
        if not mask.any():
            continue
        try:
            loss.check(label[mask])
        except BadLabel as error:
            raise DataError(
                f"{table.path.name}: in the {int(mask.sum()):,} aligned rows to {what}, the label "
                f"{error}",
                for_peer="too few aligned rows, or all with the same label",
            ) from None
    weight = np.ones(len(label)) if table.weight is None else table.weight[aligned]
    offset = None if table.offset is None else table.offset[aligned]
    return Training(label, weight, train, validation, loss, offset), held_out


def _places(common: NDArray[np.int64], ids: NormalisedIds) -> NDArray[np.int64]:
    """The place of each row of the table in the alignment, -1 where the host does not know its id."""
    place_of_id = np.full(len(ids.ids) + 1, -1, np.int64)  # the last one is for rows without an id
    place_of_id[common] = np.arange(len(common))
    return place_of_id[ids.id_of_row]


def _unknown_to(unknown: dict[str, NDArray[np.bool_]], rows: int) -> list[str]:
    """For each row the hosts that do not know it, joined by blanks."""
    flags = [""] * rows
    for name, mask in unknown.items():
        for row in np.flatnonzero(mask).tolist():
            flags[row] = f"{flags[row]} {name}".strip()
    return flags
