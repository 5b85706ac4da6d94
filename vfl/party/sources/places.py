"""The source of a party's table, or of a batch, by what [data] says of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from vfl.blocks.scratch import Scratch
from vfl.errors import DataError
from vfl.party.rows_from import RowsFrom
from vfl.party.sources.database import Database, TablePlace
from vfl.party.sources.opening import check_names, open_source
from vfl.party.sources.query import Query
from vfl.party.sources.source import Source

Place: TypeAlias = Path | TablePlace
"""Where a batch is: files, or a table of a database."""


def open_rows(
    data: RowsFrom,
    batch: Place | None = None,
    order: Sequence[str] = (),
    scratch: Scratch = Scratch(),
) -> Source:
    """The rows that [data] names, or those of a batch in their place, its names known, its columns not
    yet read.

    order: the columns by which rows are put in order that have none of their own. scratch: where rows
    go that are too many for memory. Raises DataError, also
    where a package is missing.
    """
    source = _source(data, batch, order, scratch)
    source.scratch = scratch
    check_names(source)
    return source


def _source(data: RowsFrom, batch: Place | None, order: Sequence[str], scratch: Scratch) -> Source:
    if data.source is not None:
        return _of_database(data, batch, order)
    own: Source | None = None
    if batch is not None and batch != data.path:
        own = Database(batch, data, order) if isinstance(batch, TablePlace) else open_source(batch, data)
    if data.query is not None:
        return Query(data, order, data.query, own, scratch)
    return open_source(data.named, data) if own is None else own


def _of_database(data: RowsFrom, batch: Place | None, order: Sequence[str]) -> Source:
    """The rows of [data], or of a batch, where the former are in a database."""
    place = TablePlace.of(data)
    if batch is None:
        return Database(place, data, order)
    if data.query is None:
        return (
            Database(batch, data, order) if isinstance(batch, TablePlace) else open_source(batch, data)
        )
    if data.table is None:
        raise DataError(
            "[data] query names its tables itself, so that it says nothing of a batch: write it over "
            "data and name the table that this stands for under table"
        )
    if not isinstance(batch, TablePlace):
        raise DataError(
            f"{batch.name}: [data] query is for tables of the database: put the batch there and name it "
            "as postgresql://user@host/name#table"
        )
    return Database(batch.with_query(data.query), data, order)
