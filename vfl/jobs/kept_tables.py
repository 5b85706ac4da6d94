"""Tables by factors that a party keeps for the report of the model whose rows they are of.

Of a model and the same factors the last one is kept. A guest keeps its own, a host what a guest shares.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import msgspec

from vfl.errors import ModelError
from vfl.jobs.record import now
from vfl.party.store import Store
from vfl.report.evidence import KeptTable

Line = Sequence[str | int | float | None]


def keep_table(
    store: Store, model: str, by: Sequence[str], heads: Sequence[str], rows: Sequence[Line]
) -> None:
    """Keep a table of a model, the total last. Raises DataError when the store cannot be written."""
    name = hashlib.sha256("\n".join([model, *by]).encode()).hexdigest()[:32]
    table = KeptTable(model, list(by), list(heads), [list(row) for row in rows], now())
    store.write("table", name, asdict(table))


def kept_tables(store: Store, model: str) -> list[KeptTable]:
    """Those of a model, the oldest first; what is damaged is left out, as it can be made again."""
    tables = (table for _, table in _all(store))
    found = [table for table in tables if table.model == model and table.fits]
    return sorted(found, key=lambda table: (table.made, table.by))


def names_of_tables(store: Store, model: str) -> list[str]:
    """The names of the documents of a model's tables."""
    return [name for name, table in _all(store) if table.model == model]


def _all(store: Store) -> Iterator[tuple[str, KeptTable]]:
    for name in store.names("table"):
        with contextlib.suppress(ModelError, msgspec.ValidationError):
            yield name, msgspec.convert(store.read("table", name), KeptTable)
