"""What a guest keeps of a batch while it scores it, so that a run that was killed goes on where it was.

Every part of the rows is a document of its own, written when all hosts have answered for it, under a
name made of the output's path. All parts of a batch hold its key, which stands for everything that the
scores depend on; parts of another key are of no use and are removed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vfl.arrays import Mask
from vfl.errors import DataError, ModelError
from vfl.models.halves import AnyGuestHalf
from vfl.party.reading import Reading
from vfl.party.rows_from import RowsFrom, is_url
from vfl.party.sections import FOR_REPORTS, DataSection
from vfl.party.sources.database import TablePlace
from vfl.party.sources.parts import files_of
from vfl.party.sources.places import Place
from vfl.party.store import Store
from vfl.party.table import Table
from vfl.protocols.common.batches import ScoredPart
from vfl.version import __version__


@dataclass(frozen=True)
class KeptPart:
    """A part of a batch, and which of its rows each host does not know, shape (hosts, rows)."""

    scored: ScoredPart
    unknown: Mask


def batch_name(out: str) -> str:
    """What the parts of the batch that is written to `out` are called."""
    place = out if is_url(out) else str(Path(out).resolve())
    return hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:40]


def batch_key(half: AnyGuestHalf, place: Place, table: Table, data: DataSection, explain: bool) -> str:
    """A digest of what the scores of the rows at `place` depend on; `table` has what was read of them.

    Raises DataError when a file cannot be read.
    """
    content: object
    if isinstance(place, TablePlace):
        content = _digest_of_rows(table)
    else:
        try:
            places = [place, *data.tables.values()]
            digests = [_digest_of(file) for one in places for file in files_of(one)]
            content = digests[0] if len(digests) == 1 else digests
        except OSError as error:
            raise DataError(f"{place} cannot be read: {error.strerror}") from None
    left_out = set(RowsFrom.model_fields) - set(Reading.model_fields)
    if data.query is not None:
        left_out.remove("query")
    left_out |= FOR_REPORTS
    matter = {
        "version": __version__,
        "model": msgspec.to_builtins(half, str_keys=True),
        "table": content,
        "data": data.model_dump(mode="json", exclude=left_out),
        "explain": explain,
    }
    return hashlib.sha256(json.dumps(matter, sort_keys=True).encode()).hexdigest()


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of_rows(table: Table) -> str:
    """Of ids and columns of a table that is in no file."""
    digest = hashlib.sha256(table.order)
    for name, values in (*table.features.items(), ("\0", table.offset), ("\0\0", table.exposure)):
        if values is not None:
            content = msgspec.msgpack.encode(values.tolist())
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


class Batch:
    """The parts kept of one batch, to be opened by one process at a time (`Store.locked`).

    `rows` of `of` are done. Parts that are damaged, and all after them, are removed and scored again.
    """

    def __init__(self, store: Store, name: str, key: str, of: int) -> None:
        self._store, self._name, self._key, self.of = store, name, key, of
        self._documents: list[str] = []
        self._players: list[str] | None = None  # of the part read or written last
        self.rows = 0
        self.superseded = 0
        """Rows of parts that were kept of another table, model or option, and are gone now."""
        for document in sorted(n for n in store.names("batch") if n.startswith(f"{name}-")):
            part = self._read(document)
            if part is not None and part.scored.rows.start == self.rows:
                self._add(document, part.scored)
        store.prune("batch", f"{name}-", self._documents)

    def keep(self, part: ScoredPart, unknown: Mask) -> None:
        """Keep the next part; its rows are those of the batch.

        Raises DataError when it cannot be written, ModelError when its contributions are not those of
        the parts before.
        """
        document = f"{self._name}-{len(self._documents):09}"
        contributions = part.contributions
        if self._documents and _players(part) != self._players:
            raise ModelError(
                "a host shows other columns now than when the batch began: say --fresh to begin anew",
                for_peer="the columns that are shown have changed since the batch began",
            )
        # Of several classes the scores of each, which are not explained.
        values = np.array([*np.atleast_2d(part.scores.T), *(contributions or {}).values()])
        body = {
            "key": self._key,
            "rows": [part.rows.start, part.rows.stop],
            "base": part.base,
            "players": _players(part),
            "values": dict(self._store.write_array("batch", document, values)),
            "unknown": dict(self._store.write_array("batch", document, unknown)),
        }
        self._store.write("batch", document, body)
        self._add(document, part)

    def parts(self) -> Iterator[KeptPart]:
        """All parts in the order of the rows. Raises ModelError for one that was damaged meanwhile."""
        for document in self._documents:
            part = self._read(document)
            if part is None:
                raise ModelError(f"part {document} of the batch is damaged: run the command again")
            yield part

    def remove(self) -> None:
        """Remove all parts."""
        self._documents, self.rows = [], 0
        self._store.prune("batch", f"{self._name}-")

    def _add(self, document: str, part: ScoredPart) -> None:
        self._documents.append(document)
        self.rows, self._players = part.rows.stop, _players(part)

    def _read(self, document: str) -> KeptPart | None:
        """A part of this batch; None for one that is damaged or of another batch."""
        try:
            body = self._store.read("batch", document)
            if body["key"] != self._key:
                self.superseded += body["rows"][1] - body["rows"][0]
                return None
            return self._part(body)
        except (ModelError, KeyError, TypeError, ValueError):
            return None

    def _part(self, body: Mapping[str, Any]) -> KeptPart:
        values = self._store.read_array("batch", body["values"])
        unknown = self._store.read_array("batch", body["unknown"])
        first, stop = body["rows"]
        players = body["players"]
        if values.shape[1:] != (stop - first,) or unknown.shape[1:] != (stop - first,):
            raise ValueError("arrays of another number of rows")
        if players is None:
            scores, contributions = values[0] if len(values) == 1 else values.T, None
        else:
            scores, contributions = values[0], dict(zip(players, values[1:], strict=True))
        return KeptPart(ScoredPart(slice(first, stop), scores, contributions, body["base"]), unknown)


def _players(part: ScoredPart) -> list[str] | None:
    """Whose contributions a part has, in their order."""
    return None if part.contributions is None else list(part.contributions)
