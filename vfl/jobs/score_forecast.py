"""What scoring a batch would cost and tell, before anything is sent: `vfl score --estimate`.

By this party's own ledger: what went to and from each host in the last batch that was scored by the
model, or by any, or else in the last alignment, carried on to the ids of the batch. What a host sends of
all its own ids does not grow with the batch. Of an alignment the answers about rows are missing, and
said to be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vfl.blocks.scratch import Scratch
from vfl.errors import ConfigError
from vfl.jobs.batch_rows import read_batch
from vfl.jobs.connect import store_of
from vfl.jobs.names import resolve_model
from vfl.jobs.queries import with_query_of
from vfl.jobs.score_places import place_of
from vfl.jobs.scoring import section_as_trained
from vfl.jobs.show import Show
from vfl.models.halves import GuestHalf
from vfl.models.kinds import load_half
from vfl.party.audit.tables import MessageRow, rows
from vfl.party.config import Party
from vfl.party.ledger import FOLDER

_OF_ALL_IDS = ("AlignStore", "BucketStores")  # of a host's own, however large the batch
_SLOTS = {"VoleSlots": 1.3}
"""Of messages that speak of more than ids, how many an id."""


@dataclass(frozen=True)
class HostForecast:
    """What would go to and from a host, and what that tells. basis: "batch" or "alignment", of which
    day."""

    sent: int
    received: int
    basis: str
    of: str  # ISO 8601, UTC
    told: tuple[str, ...]
    learnt: tuple[str, ...]


@dataclass(frozen=True)
class ScoreForecast:
    """What scoring a batch would come to, by host."""

    model: str
    rows: int
    hosts: Mapping[str, HostForecast]
    notes: tuple[str, ...]

    @property
    def document(self) -> dict[str, object]:
        """The same as JSON has it."""
        return asdict(self)


def forecast_scores(party: Party, model: str, data: Path | str, show: Show) -> ScoreForecast:
    """The batch is read, and nothing sent.

    Raises ConfigError where the ledger knows of no batch and no alignment with a host, and as scoring
    does for a model that is not there and a table that cannot be used.
    """
    store = store_of(party)
    half = load_half(store, resolve_model(store, model), GuestHalf)
    section = section_as_trained(with_query_of(party.data, half, show), half)
    place = place_of(data, party.data)
    batch = read_batch(section, half, place, Scratch(store.scratch_at_hand), show)
    many = batch.table.rows
    hosts = [name for name in half.fingerprints if name != party.name]
    sessions = _sessions(store.root / FOLDER)
    found, notes = {}, []
    for host in hosts:
        if party.lookup_at(host) == "sealed":
            notes.append(f"{host} is looked up in its directory: some 100 bytes a row each way")
            continue
        session = _latest(sessions, host, half.trained_name)
        if session is None:
            raise ConfigError(
                f"there is no estimate for {host}: the ledger knows of no alignment with it and no batch"
            )
        found[host] = _carried_on(session, many)
    if any(one.basis == "alignment" for one in found.values()):
        notes.append(
            "no batch was scored before: the answers about each row come on top, a few bytes a row"
        )
    return ScoreForecast(half.name, many, found, tuple(notes))


def _sessions(ledger: Path) -> list[list[MessageRow]]:
    """The messages of alignments and batches by session and run, the oldest first."""
    found: dict[tuple[int, str | None], list[MessageRow]] = {}
    for row in rows(ledger):
        if row.task in ("align", "score"):
            found.setdefault((row.session, row.run), []).append(row)
    return [*found.values()]


def _latest(sessions: Sequence[list[MessageRow]], host: str, model: str) -> list[MessageRow] | None:
    """The last batch with a host by this model, or by any, or the last alignment."""
    of_host = [one for one in sessions if one[0].peer == host and _asked(one)]
    wanted = (
        [one for one in of_host if one[0].task == "score" and one[0].model == model],
        [one for one in of_host if one[0].task == "score"],
        of_host,
    )
    return next((some[-1] for some in wanted if some), None)


def _asked(session: Sequence[MessageRow]) -> float:
    """How many ids this party asked about."""
    by_type: dict[str, int] = {}
    for row in session:
        if row.direction == "sent" and row.rows:
            by_type[row.type] = by_type.get(row.type, 0) + row.rows
    return max((count / _SLOTS.get(kind, 1.0) for kind, count in by_type.items()), default=0.0)


def _carried_on(session: Sequence[MessageRow], many: int) -> HostForecast:
    factor = many / _asked(session)
    size = {"sent": 0.0, "received": 0.0}
    told: dict[str, dict[str, None]] = {"sent": {}, "received": {}}
    for row in session:
        fixed = row.rows is None or row.type in _OF_ALL_IDS
        size[row.direction] += row.bytes * (1.0 if fixed else factor)
        told[row.direction][row.reveals] = None
    first = session[0]
    return HostForecast(
        round(size["sent"]),
        round(size["received"]),
        "batch" if first.task == "score" else "alignment",
        first.time,
        tuple(told["sent"]),
        tuple(told["received"]),
    )
